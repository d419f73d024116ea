"""Arrays on the host and on the device: what is traced, copies, entries, and small arithmetic that compiles nothing."""

import functools
from collections.abc import Callable
from typing import Any

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .xla import full_precision, traces_nothing


def is_traced(*trees: Any) -> bool:
    """Whether any array in the given pytrees is a JAX tracer, whose values cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def at_top(*trees: Any) -> bool:
    """Whether nothing is being traced, so that arrays may be looked at and padded, and what they give may be too."""
    return not is_traced(trees) and traces_nothing()


def default_dtype() -> np.dtype:
    """The floating-point type JAX uses by default: float32, or float64 where x64 is enabled."""
    return np.dtype(jnp.result_type(float))


def to_jax(host: Any, dtype: Any = None) -> jax.Array:
    """A JAX array with a copy of NumPy's numbers; `jnp.asarray`, for tracers only, compiles a program."""
    if is_traced(host):
        return jnp.asarray(host, dtype)
    array = np.array(host, dtype)
    return jax.device_put(array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False))


def spread_indices(num: int, limit: int) -> np.ndarray:
    """Indices of at most ``limit`` of ``num`` items, evenly spaced."""
    return np.arange(num) if num <= limit else np.linspace(0, num - 1, limit).astype(int)


def batch_size(item_size: int, limit: int = 2**22) -> int:
    """How many items of ``item_size`` numbers fit in a working block of ``limit`` numbers."""
    return max(1, limit // max(item_size, 1))


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least ``size``: arrays padded to it compile few programs."""
    return 1 << max(size - 1, 0).bit_length()


@full_precision
def on_host(function: Callable[..., Any], *arrays: Any) -> Any:
    """Arithmetic of few numbers, ``function(numpy, *arrays)``, which compiles nothing; by JAX where it is traced."""
    if not at_top(*arrays):
        return function(jnp, *arrays)
    with np.errstate(all="ignore"):
        result = function(np, *jax.tree.map(np.asarray, arrays))
    return jax.tree.map(to_jax, result)


def take(tree: Any, index: Any) -> Any:
    """One entry, or some, of everything that is stacked in a pytree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def map_first(function: Callable[[Any], Any], items: Any, count: Any) -> Any:
    """`jax.lax.map` over the first ``count`` items, which one program serves for all counts; zeros for the others."""
    num = jax.tree.leaves(items)[0].shape[0]
    out = jax.eval_shape(function, jax.eval_shape(lambda tree: take(tree, 0), items))

    def step(k: Array, rows: Any) -> Any:
        return jax.tree.map(lambda row, value: row.at[k].set(value), rows, function(take(items, k)))

    rows = jax.tree.map(lambda leaf: jnp.zeros((num, *leaf.shape), leaf.dtype), out)
    return jax.lax.fori_loop(0, count, step, rows)


def stacked(trees: list[Any]) -> Any:
    """Pytrees of one structure, stacked along a leading axis; on the host where nothing is traced."""
    if is_traced(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *trees))


def kept(owner: Any, name: str, compute: Callable[[], Any]) -> Any:
    """Compute once and keep beside the fields of a module; nothing traced is ever kept."""
    if is_traced(owner):
        return compute()
    if name not in owner.__dict__:
        if at_top():
            object.__setattr__(owner, name, compute())
        else:
            with jax.ensure_compile_time_eval():
                object.__setattr__(owner, name, compute())
    return owner.__dict__[name]


def split_key(key: jax.Array, num: int) -> tuple[jax.Array, ...]:
    """Independent keys, by one small program."""
    return _split_key(key, num)


@functools.partial(jax.jit, static_argnums=1)
def _split_key(key: jax.Array, num: int) -> tuple[jax.Array, ...]:
    return tuple(jax.random.split(key, num))


def host_generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator of a key, for orders and choices on the host: there no number of points needs a program."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def safe_log(weights: jax.Array) -> jax.Array:
    """The logarithm of nonnegative weights: ``-inf``, with derivative zero, at zero."""
    used = weights > 0
    return jnp.where(used, jnp.log(jnp.where(used, weights, jnp.ones_like(weights))), -jnp.inf)


def log_share(counts: Array) -> Array:
    """Log of counts divided by their total; ``-inf`` at zero."""
    share = counts / jnp.sum(counts)
    return safe_log(share)
