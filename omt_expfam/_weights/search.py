"""A line search for a concave function, by its derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Trial steps at most.
_TRIES = 13


def ascend(
    derivative: Callable[[Array], Array], slope: Float[Array, ""], first: Float[Array, ""], quick: Bool[Array, ""]
) -> Float[Array, ""]:
    """Bracket the zero of the derivative along a direction until it has dropped to half.

    Args:
        derivative: The derivative at a step along the direction.
        slope: The derivative at zero, positive.
        first: The first step that is tried.
        quick: Whether a step of length one is already known to do.
    """

    def searching(state: tuple[Array, ...]) -> Array:
        value, tries = state[4:]
        return ~quick & (tries < _TRIES) & (jnp.abs(value) > 0.5 * slope)

    def search(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, _, t, _, tries = state
        value = derivative(t)
        low, high = jnp.where(value > 0, t, low), jnp.where(value > 0, high, t)
        inside = jnp.where(low > 0, 0.5 * (low + high), 0.3 * high)
        return low, high, t, jnp.where(jnp.isinf(high), 2 * t, inside), value, tries + 1

    start, inf = jnp.where(quick, jnp.ones_like(first), first), jnp.full_like(first, jnp.inf)
    state = (jnp.zeros_like(start), inf, start, start, inf, jnp.asarray(0))
    return jax.lax.while_loop(searching, search, state)[2]
