r"""The semi-dual of optimal transport, $J(\phi) = E \phi(X) + E \phi^*(Y)$, on batches of points.

Its minimizer over convex functions is the potential of the optimal map (Brenier, 1991; Makkuva et al., 2020). The
conjugate $\phi^*(y) = \max_x \langle x, y \rangle - \phi(x)$ is found by ascent from a point kept for every y; by the
envelope theorem the derivative of J needs no derivative of that ascent.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .interface import AbstractPotential

# Longest step beside that of a unit curvature, for curvatures that vanish on the way; and how far above the least so
# far a squared residual may rise: steps of this kind are fast because not all of them descend.
_LONGEST, _RISE = 20.0, 10.0


class Ascent(NamedTuple):
    """Where the search for conjugate points stands.

    Attributes:
        point: x, nearly the maximizer of <x, y> - phi(x).
        pace: The length of the next step, in units of the residual.
        rest: The residual y - grad phi(x).
    """

    point: Float[Array, "B d"]
    pace: Float[Array, " B"]
    rest: Float[Array, "B d"]


def ascend(
    potential: AbstractPotential,
    y: Float[Array, "B d"],
    start: Float[Array, "B d"],
    pace: Float[Array, " B"],
    num_steps: int,
) -> Ascent:
    """Improve conjugate points by steps of Barzilai and Borwein (1988), long ones and short ones in turn.

    A step is taken unless its residual is far above the least so far; the best point of each is returned.
    """
    gradients = jax.vmap(potential.gradient)

    def step(i: Array, state: tuple[Ascent, Ascent, Array]) -> tuple[Ascent, Ascent, Array]:
        now, best, least = state
        point = now.point + now.pace[:, None] * now.rest
        rest = y - gradients(point)
        size, change = jnp.sum(rest**2, axis=1), now.rest - rest
        # Two estimates of the curvature along the step, of a convex function.
        before, along = jnp.sum(now.rest**2, axis=1), jnp.sum(now.rest * change, axis=1)
        low = along / jnp.maximum(now.pace * before, 1e-30)
        high = jnp.sum(change**2, axis=1) / jnp.maximum(now.pace * along, 1e-30)
        # Numbers that are not finite are not taken.
        taken = size < _RISE * least
        pace = 1 / jnp.maximum(jnp.where(i % 2 == 0, low, high), 1 / _LONGEST)
        pace = jnp.where(taken, pace, jnp.minimum(1 / jnp.maximum(low, 1 / _LONGEST), now.pace / 2))
        pace = jnp.where(jnp.isfinite(pace), pace, now.pace / 4)
        now = choose(taken, Ascent(point, pace, rest), now._replace(pace=pace))
        better = taken & (size < least)
        return now, choose(better, now, best), jnp.where(better, size, least)

    first = Ascent(start, pace, y - gradients(start))
    last, best, _ = jax.lax.fori_loop(0, num_steps, step, (first, first, jnp.sum(first.rest**2, axis=1)))
    return best._replace(pace=last.pace)


def choose(which: Any, one: Any, other: Any) -> Any:
    """One or the other of two pytrees, for each entry along their leading axis."""

    def pick(one: Array, other: Array) -> Array:
        return jnp.where(jnp.reshape(which, which.shape + (1,) * (one.ndim - 1)), one, other)

    return jax.tree.map(pick, one, other)


def dual_terms(
    potential: AbstractPotential, x: Float[Array, "B d"], y: Float[Array, "B d"], conjugates: Float[Array, "B d"]
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """phi(x) and <x*, y> - phi(x*), whose means add to J where ``conjugates`` are the conjugate points x* of y."""
    values = jax.vmap(potential.value)
    return values(x), jnp.sum(conjugates * y, axis=1) - values(conjugates)
