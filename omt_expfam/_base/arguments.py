"""Conversion and checks of array arguments: one-line errors that name the argument."""

from typing import Any, TYPE_CHECKING

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from .arrays import default_dtype, is_traced, to_jax

if TYPE_CHECKING:
    import numpy.typing
    from jaxtyping import Array, Key

    ArrayLike = numpy.typing.ArrayLike | jax.Array
    ScalarLike = float | jax.Array
    KeyLike = Key[Array, ""] | jax.Array
else:
    # Public functions check their arguments themselves, with better messages than a run-time type checker's.
    ArrayLike = ScalarLike = KeyLike = Any


# Entries of a sparse matrix that is made dense: a GiB of float64.
_DENSE = 2**27


def _shape_text(shape: str) -> str:
    return f"[{', '.join(shape.split())}]"


def check_finite(name: str, value: Any) -> None:
    """Raise ValueError unless every (concrete) entry is finite."""
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
    check_finite(name, host)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if isinstance(host, jax.Array) and (host.dtype == dtype or is_traced(host)):
        return jnp.asarray(host, dtype=dtype)
    if host.dtype == dtype:
        return to_jax(host)
    # Numbers too large for the type become infinite, which the check below names.
    with np.errstate(over="ignore"):
        narrowed = np.asarray(host).astype(dtype)
    check_finite(name, narrowed)
    return to_jax(narrowed)


def as_host_or_traced(name: str, value: Any) -> Any:
    """Return a NumPy array, or the JAX array or tracer itself, of real numbers."""
    array = value if isinstance(value, jax.Array) else _host_array(name, value)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or not (
        jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == np.bool_
    ):
        raise TypeError(f"`{name}` must be an array of real numbers; got dtype {array.dtype}.")
    return array


def densified(name: str, value: Any) -> Any:
    """A sparse matrix as an array of NumPy's; anything else as it is.

    Raises:
        ValueError: If it is too large to be one.
    """
    if not hasattr(value, "toarray"):
        return value
    if (size := np.prod(value.shape, dtype=np.float64)) > _DENSE:
        raise ValueError(
            f"`{name}` is sparse, of shape {tuple(value.shape)}: as an array it would take {8 * size / 2**30:.3g} GiB. "
            "Reduce it first, such as by sklearn.decomposition.TruncatedSVD, or choose columns."
        )
    return value.toarray()


def _host_array(name: str, value: Any) -> np.ndarray:
    """NumPy's view of what is not JAX's; nothing is dropped on the way."""
    value = densified(name, value)
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"`{name}` must not have masked values; got {np.ma.count_masked(value)}. Drop or impute them.")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TypeError(f"`{name}` must be an array of real numbers; got {type(value).__name__}.") from error
    if array.dtype != object:
        return array
    # Tables of columns of several types, and of nullable ones.
    for entry in array.flat:
        if not isinstance(entry, int | float | np.number | np.bool_):
            raise TypeError(f"`{name}` must be an array of real numbers; one of its entries is {entry!r}.")
    return array.astype(np.float64)


def as_points(name: str, value: ArrayLike, dim: int, dtype: Any = None) -> jax.Array:
    """Convert to points of shape ``[n, d]`` and check that they are ``dim`` wide and finite."""
    array = as_floating(name, value, "n d", dtype)
    if array.shape[1] != dim:
        raise ValueError(f"`{name}` must have shape [n, {dim}], one column per dimension; got {tuple(array.shape)}.")
    return array


def check_shape(name: str, array: jax.Array, expected: tuple[int, ...], why: str) -> None:
    """Raise ValueError unless ``array`` has the expected shape."""
    if array.shape != expected:
        raise ValueError(f"`{name}` must have shape {expected} to match {why}; got shape {tuple(array.shape)}.")


def check_positive(name: str, array: jax.Array | np.ndarray) -> None:
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


def check_probability(probability: float) -> None:
    """Raise unless a probability lies strictly between 0 and 1."""
    if not 0 < float(as_scalar("probability", probability)) < 1:
        raise ValueError(f"`probability` must lie between 0 and 1; got {probability:g}.")
