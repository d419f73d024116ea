"""Random numbers for data of any size: what JAX draws, by programs that neighboring sizes share, on the host.

JAX computes the i-th number of a draw from i alone, so that the first rows of a longer draw are those of a shorter one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from .._base.arrays import is_traced
from .._base.buckets import pad, point_bucket
from .._base.xla import program


def normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Any:
    """`jax.random.normal` of rows."""
    if is_traced(key):
        return jax.random.normal(key, shape, dtype)
    return np.asarray(_normal(key, (point_bucket(shape[0]), shape[1]), np.dtype(dtype)))[: shape[0]]


def bernoulli(key: Key[Array, ""], probability: float, shape: tuple[int, ...]) -> Any:
    """`jax.random.bernoulli` of rows."""
    if is_traced(key):
        return jax.random.bernoulli(key, probability, shape)
    size = point_bucket(shape[0]), shape[1]
    return np.asarray(_bernoulli(key, jnp.asarray(probability, float), size))[: shape[0]]


def uniform(key: Key[Array, ""], num: int) -> np.ndarray:
    """`jax.random.uniform`."""
    return np.asarray(_uniform(key, point_bucket(num)))[:num]


def categorical(key: Key[Array, ""], probabilities: np.ndarray) -> np.ndarray:
    """`jax.random.categorical` of rows of probabilities."""
    num = len(probabilities)
    return np.asarray(_categorical(key, jax.device_put(pad(probabilities, point_bucket(num)))))[:num]


def permutation(key: Key[Array, ""], num: int) -> Any:
    """`jax.random.permutation` of the numbers below ``num``: sorted by random bits, as often as ties may matter."""
    if is_traced(key):
        return jax.random.permutation(key, num)
    rounds = int(np.ceil(3 * np.log(max(1, num)) / np.log(np.iinfo(np.uint32).max)))
    order = np.arange(num)
    for bits in np.asarray(_bits(key, max(rounds, 1), point_bucket(num)))[:rounds, :num]:
        order = order[np.argsort(bits, kind="stable")]
    return order


@program
def _normal(key: Key[Array, ""], shape: tuple[int, int], dtype: Any) -> Array:
    return jax.random.normal(key, shape, dtype)


@program
def _bernoulli(key: Key[Array, ""], probability: Array, shape: tuple[int, int]) -> Array:
    return jax.random.bernoulli(key, probability, shape)


@program
def _uniform(key: Key[Array, ""], num: int) -> Array:
    return jax.random.uniform(key, (num,))


@program
def _categorical(key: Key[Array, ""], probabilities: Array) -> Array:
    return jax.random.categorical(key, jnp.log(probabilities))


@program
def _bits(key: Key[Array, ""], rounds: int, num: int) -> Array:
    rows = []
    for _ in range(rounds):
        key, own_key = jax.random.split(key)
        rows.append(jax.random.bits(own_key, (num,), jnp.uint32))
    return jnp.stack(rows)
