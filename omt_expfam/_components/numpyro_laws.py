"""NumPyro distributions with a batch axis, taken apart into one law per component."""

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from .._base.arrays import default_dtype, is_traced
from .._base.precision import relaxed
from .._base.xla import jit

# How an array of the distribution relates to the batch axis: it has that axis, has one of length one, or has none.
_BATCHED, _SINGLE, _SHARED = "batched", "single", "shared"
_MAX_TRIES = 256


class Laws(eqx.Module):
    """K laws of one kind: the arrays of a NumPyro distribution with a leading axis K, and how to put them together.

    Attributes:
        arrays: The arrays, each with a leading axis of length K.
        structure: The distribution of one law, without arrays.
        kinds: How each array relates to the batch axis in the distribution that was given.
    """

    arrays: tuple[Array, ...]
    structure: Any = eqx.field(static=True)
    kinds: tuple[str, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, distribution: Any) -> "Laws":
        """Take a distribution apart along its first batch axis, and check it at draws where values can be seen.

        Raises:
            TypeError: If no way of taking it apart gives back its log-densities.
        """
        num = distribution.batch_shape[0]
        leaves, _ = jax.tree.flatten(distribution)
        dtype = _common_dtype(leaves)
        leaves = [_as_array(leaf, dtype) for leaf in leaves]
        structure = jax.tree.structure(_with_batch(distribution, lambda shape: shape[1:] if shape else shape))
        check = _Check(distribution)
        choices = itertools.product(*(_possible_kinds(leaf.shape, num) for leaf in leaves))
        for kinds in itertools.islice(choices, _MAX_TRIES):
            arrays = (jax.device_put(leading(leaf, k, num)) for leaf, k in zip(leaves, kinds, strict=True))
            laws = cls(tuple(arrays), structure, kinds)
            if check.passed(laws):
                return laws
        raise TypeError(
            f"`distribution` could not be taken apart into components; got {type(distribution).__name__}. "
            "Give every parameter the full batch shape, or write a component family."
        )

    def law(self) -> Any:
        """One law, from arrays without their leading axis."""
        return jax.tree.unflatten(self.structure, list(self.arrays))

    def together(self) -> Any:
        """All laws as one distribution with batch shape ``(K, ...)``."""
        num = self.arrays[0].shape[0]
        take = {_BATCHED: lambda a: a, _SINGLE: lambda a: a[:1], _SHARED: lambda a: a[0]}
        leaves = [take[kind](array) for array, kind in zip(self.arrays, self.kinds, strict=True)]
        one = jax.tree.unflatten(self.structure, leaves)
        return _with_batch(one, lambda shape: (num, *shape))


class _Check:
    """The log-densities of a distribution at draws from it."""

    def __init__(self, distribution: Any):
        self.distribution = distribution
        self.traced = is_traced(distribution)

    def passed(self, laws: Laws) -> bool:
        """Whether the laws give draws of the right shape and the same log-densities."""
        try:
            with relaxed():
                shape = jax.eval_shape(lambda m: m.law().sample(jax.random.key(0)), _first(laws)).shape
                if shape != self.distribution.event_shape:
                    return False
                if self.traced:
                    return True
                own, expected = _both_log_probs(laws, self.distribution)
        except (TypeError, ValueError, IndexError, AttributeError):
            return False
        return own.shape == expected.shape and np.allclose(own, expected, 1e-4, 1e-4, equal_nan=True)


# Used once for a distribution: quickly compiled is better than fast.
@functools.partial(jit, compiler_options={"xla_backend_optimization_level": 0})
def _both_log_probs(laws: Laws, distribution: Any) -> tuple[Array, Array]:
    """Log-densities at the same draws, by the laws and by the distribution that they were taken from."""
    x = distribution.sample(jax.random.key(0), (3,))
    own = jax.vmap(lambda m, v: m.law().log_prob(v), in_axes=(0, 1), out_axes=1)(laws, x)
    return own, distribution.log_prob(x)


def _as_array(leaf: Any, dtype: Any) -> Any:
    """A leaf in the common type, on the host unless it is traced."""
    return jnp.asarray(leaf, dtype) if is_traced(leaf) else np.asarray(leaf, dtype)


def _first(laws: Laws) -> Laws:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), laws)


def _common_dtype(leaves: list[Any]) -> Any:
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    floating = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    return np.result_type(*floating) if floating else default_dtype()


def _possible_kinds(shape: tuple[int, ...], num: int) -> tuple[str, ...]:
    """The likeliest first."""
    if shape and shape[0] == num:
        return (_BATCHED, _SHARED)
    if shape and shape[0] == 1:
        return (_SINGLE, _SHARED)
    return (_SHARED,)


def leading(leaf: Any, kind: str, num: int) -> Any:
    """An array with the batch axis that it may lack."""
    if kind == _BATCHED:
        return leaf
    shape = (num, *leaf.shape[kind == _SINGLE :])
    numpy = jnp if is_traced(leaf) else np
    return numpy.broadcast_to(leaf if kind == _SINGLE else leaf[None], shape)


def _with_batch(value: Any, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Any:
    """A copy of a distribution in which it and every distribution inside it have another batch shape."""
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(_with_batch(item, change) for item in value)
    if not isinstance(value, dist.Distribution):
        return value
    if isinstance(value, dist.ExpandedDistribution):
        aligned = len(value.base_dist.batch_shape) == len(value.batch_shape)
        base = _with_batch(value.base_dist, change if aligned else tuple)
        shape = change(tuple(value.batch_shape))
        return base if base.batch_shape == shape else dist.ExpandedDistribution(base, shape)
    fresh = copy.copy(value)
    for name, item in vars(value).items():
        if isinstance(item, dist.Distribution | list | tuple) and name not in ("_batch_shape", "_event_shape"):
            setattr(fresh, name, _with_batch(item, change))
    fresh._batch_shape = change(tuple(value.batch_shape))
    fresh._validate_args = False
    return fresh
