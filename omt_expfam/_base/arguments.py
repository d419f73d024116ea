"""Conversion and checks of array arguments: one-line errors that name the argument."""

import functools
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .xla import traces_nothing

if TYPE_CHECKING:
    import numpy.typing
    from jaxtyping import Array, Key

    ArrayLike = numpy.typing.ArrayLike | jax.Array
    ScalarLike = float | jax.Array
    KeyLike = Key[Array, ""] | jax.Array
else:
    # Public functions check their arguments themselves, with better messages than a run-time type checker's.
    ArrayLike = ScalarLike = KeyLike = Any


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


def _shape_text(shape: str) -> str:
    return f"[{', '.join(shape.split())}]"


def _check_values(name: str, value: Any) -> None:
    if isinstance(value, jax.core.Tracer):
        return
    finite = np.isfinite(np.asarray(value))
    if not finite.all():
        index = ", ".join(str(int(i)) for i in np.argwhere(~np.atleast_1d(finite))[0])
        bad = np.atleast_1d(np.asarray(value))[tuple(np.argwhere(~np.atleast_1d(finite))[0])]
        raise ValueError(
            f"`{name}` must be finite; got {bad} at index [{index}]. Drop or impute missing and infinite values."
        )


def as_floating(name: str, value: ArrayLike, shape: str, dtype: Any = None) -> jax.Array:
    """Convert ``value`` to a floating-point JAX array and check its number of axes and its values.

    Args:
        name: The argument's name, for error messages.
        value: Any array-like of real numbers.
        shape: The expected axes, such as ``"K d"``; an empty string is a scalar.
        dtype: The wanted type; by default the value's own, or JAX's default for integers.

    Raises:
        TypeError: If the value is not an array of real numbers.
        ValueError: If it has another number of axes, or holds NaN or infinity.
    """
    host = as_host_or_traced(name, value)
    if host.ndim != len(shape.split()):
        raise ValueError(f"`{name}` must have shape {_shape_text(shape)}; got shape {tuple(host.shape)}.")
    if dtype is None:
        wide_enough = jnp.issubdtype(host.dtype, jnp.floating) and jnp.finfo(host.dtype).bits >= 32
        dtype = host.dtype if wide_enough else default_dtype()
    _check_values(name, host)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if isinstance(host, jax.Array) and (host.dtype == dtype or is_traced(host)):
        return jnp.asarray(host, dtype=dtype)
    if host.dtype == dtype:
        return to_jax(host)
    # Numbers too large for the type become infinite, which the check below names.
    with np.errstate(over="ignore"):
        narrowed = np.asarray(host).astype(dtype)
    _check_values(name, narrowed)
    return to_jax(narrowed)


def as_host_or_traced(name: str, value: Any) -> Any:
    """Return a NumPy array, or the JAX array or tracer itself, of real numbers."""
    if isinstance(value, jax.Array):
        array = value
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            raise TypeError(f"`{name}` must be an array of real numbers; got {type(value).__name__}.") from error
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == np.bool_
    ):
        raise TypeError(f"`{name}` must be an array of real numbers; got dtype {array.dtype}.")
    return array


def as_points(name: str, value: ArrayLike, dim: int, dtype: Any = None) -> jax.Array:
    """Convert to points of shape ``[n, d]`` and check that they are ``dim`` wide and finite."""
    array = as_floating(name, value, "n d", dtype)
    if array.shape[1] != dim:
        raise ValueError(f"`{name}` must have shape [n, {dim}], one column per dimension; got {tuple(array.shape)}.")
    return array


def spread_indices(num: int, limit: int) -> np.ndarray:
    """Indices of at most ``limit`` of ``num`` items, evenly spaced."""
    return np.arange(num) if num <= limit else np.linspace(0, num - 1, limit).astype(int)


def check_shape(name: str, array: jax.Array, expected: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless ``array`` has the expected shape."""
    if array.shape != expected:
        raise ValueError(f"`{name}` must have shape {expected} to match {why}; got shape {tuple(array.shape)}.")


def check_positive(name: str, array: jax.Array) -> None:
    """Raise ValueError unless every (concrete) entry is positive."""
    if is_traced(array):
        return
    values = np.asarray(array)
    if values.size and not (values > 0).all():
        index = np.argwhere(np.atleast_1d(values) <= 0)[0]
        where = f" at index [{', '.join(map(str, index))}]" if values.ndim else ""
        raise ValueError(f"`{name}` must be positive; got {values.min():.6g}{where}.")


def as_scalar(name: str, value: Any, *, minimum: float = 0.0, strict: bool = False) -> Any:
    """Check a real scalar (a number, or a traced scalar) against a lower bound and return it unchanged."""
    array = as_host_or_traced(name, value)
    if array.ndim != 0:
        raise TypeError(f"`{name}` must be a single number; got an array of shape {tuple(array.shape)}.")
    if is_traced(array):
        return array
    number = float(array)
    if not np.isfinite(number) or number < minimum or (strict and number == minimum):
        bound = "greater than" if strict else "at least"
        raise ValueError(f"`{name}` must be a finite number {bound} {minimum:g}; got {number:g}.")
    return value


def as_count(name: str, value: Any, *, minimum: int = 1) -> int:
    """Check a whole number against a lower bound and return it as an int."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"`{name}` must be a whole number; got {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {value}.")
    return int(value)


def as_key(key: Any) -> jax.Array:
    """Check that ``key`` is a JAX random key; old-style uint32 keys are wrapped."""
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
            return key
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(key)
    raise TypeError(f"`key` must be a random key such as jax.random.key(0); got {type(key).__name__}.")


def batch_size(item_size: int, limit: int = 2**22) -> int:
    """How many items of ``item_size`` numbers fit in a working block of ``limit`` numbers."""
    return max(1, limit // max(item_size, 1))


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least ``size``: arrays padded to it compile few programs."""
    return 1 << max(size - 1, 0).bit_length()


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


def unfused(array: Any) -> Any:
    """The same array, kept apart from a reduction that follows.

    XLA's CPU compiler fuses a matrix product with a reduction of it; in jaxlib 0.10.2 some of these fusions return
    wrong numbers (products with three rows at 16,385 to 49,152 points, for one). Products that are reduced pass
    through here: a reduction to the array's own precision changes nothing and cannot be fused.
    """
    finfo = jnp.finfo(array.dtype)
    return jax.lax.reduce_precision(array, finfo.nexp, finfo.nmant)


def after(tree: Any, value: jax.Array) -> Any:
    """The same floating-point arrays, but not used before a scalar is known (NaN if it is NaN).

    jaxlib 0.10.2 shares the work of a batch of factorizations or triangular solves between its threads and waits for
    them. Two such operations that run side by side on a machine with two cores can wait for each other for ever; a
    dependence between them makes them take turns. (A compiler's barrier does not: it is gone before parts are run.)
    """
    return jax.tree.map(lambda leaf: jnp.where(jnp.isnan(value), jnp.asarray(jnp.nan, leaf.dtype), leaf), tree)


def safe_log(weights: jax.Array) -> jax.Array:
    """The logarithm of nonnegative weights: ``-inf``, with derivative zero, at zero."""
    used = weights > 0
    return jnp.where(used, jnp.log(jnp.where(used, weights, jnp.ones_like(weights))), -jnp.inf)
