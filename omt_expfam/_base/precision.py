"""Working in float64 for one computation, without touching JAX's global flags."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np

from .arrays import to_jax

_Out = TypeVar("_Out")


def in_float64(function: Callable[..., _Out], *args: Any) -> _Out:
    """Call ``function`` with x64 enabled and every floating array of ``args`` widened to float64.

    Arguments must be concrete. The result keeps its float64 arrays; `narrow` brings them back.
    """

    def widen(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array | np.ndarray) and np.issubdtype(leaf.dtype, np.floating):
            return to_jax(leaf, np.float64)
        return leaf

    with jax.enable_x64(True):
        return function(*jax.tree.map(widen, args))


def narrow(tree: Any, dtype: Any) -> Any:
    """Convert every floating array of a pytree to ``dtype`` and every integer array to JAX's default.

    Numbers too large for ``dtype`` become infinite.
    """
    leaves, structure = jax.tree.flatten(tree)
    converted = {}
    for index, leaf in enumerate(leaves):
        if isinstance(leaf, jax.Array | np.ndarray):
            if np.issubdtype(leaf.dtype, np.floating):
                with np.errstate(over="ignore"):
                    converted[index] = np.array(leaf, dtype)
            elif np.issubdtype(leaf.dtype, np.integer):
                converted[index] = np.array(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    moved = jax.device_put(converted)
    return jax.tree.unflatten(structure, [moved.get(index, leaf) for index, leaf in enumerate(leaves)])


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """NumPyro does not satisfy JAX's strict modes, which a caller may have enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        yield
