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

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        if np.issubdtype(leaf.dtype, np.floating):
            with np.errstate(over="ignore"):
                return to_jax(np.asarray(leaf).astype(dtype))
        if np.issubdtype(leaf.dtype, np.integer):
            return to_jax(leaf)
        return leaf

    return jax.tree.map(convert, tree)


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """NumPyro does not satisfy JAX's strict modes, which a caller may have enabled."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.debug_key_reuse(False):
        yield
