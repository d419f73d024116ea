"""A line search for a concave function, by its derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Trial steps at most.
_TRIES = 13


def ascend(
    residual: Callable[[Array], Array],
    here: Float[Array, " K"],
    direction: Float[Array, " K"],
    unit: Float[Array, ""],
    quick: Bool[Array, ""],
) -> Float[Array, ""]:
    """Bracket the zero of the derivative along a direction until it has dropped to half.

    Args:
        residual: The gradient after a step, given that step.
        here: The gradient before it.
        direction: The direction, along which the objective ascends.
        unit: The unit of the potentials: the first step that is tried is at most 30 of them.
        quick: Whether a step of length one is already known to do.
    """
    slope = jnp.dot(here, direction)
    first = jnp.minimum(1.0, 30 * unit / jnp.maximum(jnp.max(jnp.abs(direction)), unit))

    def searching(state: tuple[Array, ...]) -> Array:
        value, tries = state[4:]
        return ~quick & (tries < _TRIES) & (jnp.abs(value) > 0.5 * slope)

    def search(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, _, t, _, tries = state
        value = jnp.dot(residual(t * direction), direction)
        low, high = jnp.where(value > 0, t, low), jnp.where(value > 0, high, t)
        inside = jnp.where(low > 0, 0.5 * (low + high), 0.3 * high)
        return low, high, t, jnp.where(jnp.isinf(high), 2 * t, inside), value, tries + 1

    start, inf = jnp.where(quick, jnp.ones_like(first), first), jnp.full_like(first, jnp.inf)
    state = (jnp.zeros_like(start), inf, start, start, inf, jnp.asarray(0))
    return jax.lax.while_loop(searching, search, state)[2]
