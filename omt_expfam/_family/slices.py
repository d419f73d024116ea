"""Slice sampling of one number per component, for what has no conjugate prior."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key
from numpyro.distributions import biject_to

from .._base.precision import relaxed

# Unconstrained values are sought between these: in logarithms, as good as everywhere.
_LOW, _HIGH = -9.0, 9.0
_MOST_TRIALS = 200


def slice_draw(
    key: Key[Array, ""], prior: Any, value: Float[Array, " K"], log_likelihood: Callable[[Array], Array]
) -> Float[Array, " K"]:
    """One draw of each of K numbers from prior times likelihood, by shrinking intervals (Neal, 2003).

    Args:
        key: A random key.
        prior: A NumPyro law of batch shape ``(K,)``; its support says what values there may be. In unconstrained form,
            such as the logarithm of the distance to a bound, values are between -9 and 9.
        value: The current numbers.
        log_likelihood: Log-likelihoods of all of them.
    """
    transform = biject_to(prior.support)

    def log_density(place: Float[Array, " K"]) -> Float[Array, " K"]:
        with relaxed():
            moved = transform(place)
            return prior.log_prob(moved) + transform.log_abs_det_jacobian(place, moved) + log_likelihood(moved)

    with relaxed():
        place = jnp.clip(transform.inv(value), _LOW, _HIGH)
    level_key, key = jax.random.split(key)
    level = log_density(place) - jax.random.exponential(level_key, place.shape, place.dtype)

    def unmet(state: tuple[Array, ...]) -> Array:
        return ~jnp.all(state[4]) & (state[5] < _MOST_TRIALS)

    def shrink(state: tuple[Array, ...]) -> tuple[Array, ...]:
        key, low, high, found, done, turn = state
        key, own = jax.random.split(key)
        trial = low + (high - low) * jax.random.uniform(own, place.shape, place.dtype)
        good = log_density(trial) >= level
        found = jnp.where(good & ~done, trial, found)
        below = trial < place
        low, high = jnp.where(below, trial, low), jnp.where(below, high, trial)
        return key, low, high, found, done | good, turn + 1

    ends = jnp.full_like(place, _LOW), jnp.full_like(place, _HIGH)
    begin = (key, *ends, place, jnp.zeros(place.shape, bool), jnp.zeros((), int))
    found = jax.lax.while_loop(unmet, shrink, begin)[3]
    with relaxed():
        return jnp.asarray(transform(found), value.dtype)
