r"""The semi-dual of optimal transport, $J(\phi) = E \phi(X) + E \phi^*(Y)$, on batches of points.

Its minimizer over convex functions is the potential of the optimal map (Brenier, 1991; Makkuva et al., 2020). The
conjugate $\phi^*(y) = \max_x \langle x, y \rangle - \phi(x)$ is found by ascent from a point kept for every y; by the
envelope theorem the derivative of J needs no derivative of that ascent.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .interface import AbstractPotential

# Longest step beside that of a unit curvature, for curvatures that vanish on the way.
_LONGEST = 20.0


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
    """Improve conjugate points by steps of Barzilai and Borwein (1988), taken only where the residual falls."""
    gradients = jax.vmap(potential.gradient)

    def step(_: Array, now: Ascent) -> Ascent:
        move = now.pace[:, None] * now.rest
        point = now.point + move
        rest = y - gradients(point)
        before, after = jnp.sum(now.rest**2, axis=1), jnp.sum(rest**2, axis=1)
        falls = after < before
        # The curvature along the step, of a convex function.
        curvature = jnp.sum(now.rest * (now.rest - rest), axis=1) / jnp.maximum(now.pace * before, 1e-30)
        pace = 1 / jnp.maximum(curvature, 1 / _LONGEST)
        pace = jnp.where(falls, pace, jnp.minimum(pace, now.pace / 2))
        # Numbers that are not finite do not fall, and leave a shorter step.
        pace = jnp.where(jnp.isfinite(pace), pace, now.pace / 4)
        chosen = falls[:, None]
        return Ascent(jnp.where(chosen, point, now.point), pace, jnp.where(chosen, rest, now.rest))

    return jax.lax.fori_loop(0, num_steps, step, Ascent(start, pace, y - gradients(start)))


def dual_terms(
    potential: AbstractPotential, x: Float[Array, "B d"], y: Float[Array, "B d"], conjugates: Float[Array, "B d"]
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """phi(x) and <x*, y> - phi(x*), whose means add to J where ``conjugates`` are the conjugate points x* of y."""
    values = jax.vmap(potential.value)
    return values(x), jnp.sum(conjugates * y, axis=1) - values(conjugates)
