"""Sizes that arrays are padded to, so that a program compiled for one size serves its neighbors.

Padding repeats the last entry, which is valid wherever the others are; its weight is zero, or its result is cut off.
It is done on the host: a padding of its own size would be one more program.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.core
import numpy as np

# Up to this size powers of two; beyond it preferred numbers at most a quarter apart, so that round sizes waste nothing.
_COARSE = 4096
_PREFERRED = (100, 125, 150, 175, 200, 250, 300, 350, 400, 500, 600, 700, 800)
_LEAST_POINTS = 64
_LEAST_COMPONENTS = 4
_least: contextvars.ContextVar[int] = contextvars.ContextVar("least", default=1)
_all_points: contextvars.ContextVar[int] = contextvars.ContextVar("all_points", default=0)


def data_bucket(num: int) -> int:
    """The number of points that ``num`` points of a fit are padded to."""
    return point_bucket(max(num, _all_points.get()))


def point_bucket(num: int) -> int:
    """The number of points that ``num`` points are padded to."""
    if num <= _COARSE:
        return max(_LEAST_POINTS, 1 << max(num - 1, 0).bit_length())
    unit = 10 ** (len(str(num)) - 3)
    sizes = [unit * p for p in _PREFERRED] + [1000 * unit]
    return next(size for size in sizes if size >= num)


def component_bucket(num: int) -> int:
    """The number of components that ``num`` components are padded to, where the work is small beside compilation."""
    size = _LEAST_COMPONENTS
    while size < max(num, _least.get()):
        # 4, 6, 8, 12, 16, 24, 32, ...
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


# What padding may add: work on so many numbers is little beside compiling a program.
LITTLE = 2**18


def sharing_components(num: int) -> contextlib.AbstractContextManager[None]:
    """Pad components, within, as ``num`` of them are padded: calls with several numbers share programs."""
    return _within(_least, num)


def sharing_points(num: int) -> contextlib.AbstractContextManager[None]:
    """Pad the data of fits, within, as ``num`` points are padded: fits to parts share programs with one to all."""
    return _within(_all_points, num)


@contextlib.contextmanager
def _within(variable: contextvars.ContextVar[int], value: int) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def small_component_bucket(num: int, item_size: int) -> int:
    """`component_bucket` where work on ``item_size`` numbers for each component stays small, else ``num`` itself."""
    size = component_bucket(num)
    return size if size * item_size <= LITTLE else num


def pad(tree: Any, size: int, axis: int = 0) -> Any:
    """Every array of a pytree with its last entry along an axis repeated up to ``size``; on the host."""

    def one(leaf: Any) -> Any:
        missing = size - leaf.shape[axis]
        if missing == 0:
            return leaf
        host = np.asarray(leaf)
        if not host.shape[axis]:
            return np.zeros((*host.shape[:axis], size, *host.shape[axis + 1 :]), host.dtype)
        last = host[(slice(None),) * axis + (slice(-1, None),)]
        return np.concatenate([host, np.repeat(last, missing, axis)], axis)

    return jax.tree.map(one, tree)


def pad_zero(array: Any, size: int) -> Any:
    """An array with zeros up to ``size`` along its first axis (weights of what was padded); on the host."""
    missing = size - array.shape[0]
    if missing == 0:
        return array
    host = np.asarray(array)
    return np.concatenate([host, np.zeros((missing, *host.shape[1:]), host.dtype)])


def cut(tree: Any, size: int, axis: int = 0) -> Any:
    """The first ``size`` entries of every array of a pytree along an axis, taken on the host."""

    def one(leaf: Any) -> Any:
        if leaf.shape[axis] == size:
            return leaf
        index = (slice(None),) * axis + (slice(size),)
        if isinstance(leaf, jax.core.Tracer):
            return leaf[index]
        host = np.asarray(leaf)[index]
        return host if isinstance(leaf, np.ndarray) else jax.device_put(host)

    return jax.tree.map(one, tree)
