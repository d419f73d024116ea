"""Newton's method for one number of a likelihood, guarded so that no step makes it smaller."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# The longest step, what the second derivative is differenced over, and the number of steps.
_LONGEST, _DIFFERENCE, _ROUNDS = 2.0, 0.02, 2


def climb(
    value: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    place: Float[Array, ""],
    bounds: tuple[float, float],
) -> Float[Array, ""]:
    """A few guarded Newton steps towards the maximum of a function of one number, from where it is known to be.

    Args:
        value: The function.
        slope: Its derivative.
        place: Where to start; the value there is never undercut.
        bounds: The least and the largest place.
    """

    def step(_: Array, place: Array) -> Array:
        first = slope(place)
        second = (slope(place + _DIFFERENCE) - first) / _DIFFERENCE
        newton = jnp.where(second < 0, -first / jnp.where(second < 0, second, -1.0), jnp.sign(first) * _LONGEST)
        newton = jnp.clip(newton, -_LONGEST, _LONGEST)
        trials = jnp.clip(place + newton * jnp.asarray([0.0, 0.1, 0.5, 1.0], newton.dtype), *bounds)
        values = jax.vmap(value)(trials)
        return trials[jnp.argmax(jnp.where(jnp.isnan(values), -jnp.inf, values))]

    return jax.lax.fori_loop(0, _ROUNDS, step, place)
