"""Shift and scale of the data, by passes over them."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._base.arrays import spread_indices
from .._base.samples import CONSTANT
from .._family.em_family import AbstractEMFamily
from .rows import blocks_of, Rows

# What lies so many interquartile ranges from the median is far, where no larger share of the points does.
_QUARTILES, _FAR, _FEW = (0.25, 0.5, 0.75), 100.0, 0.02
# Quartiles of data that are not in memory are those of so many rows.
_SEEN = 100_000

# Points, some at a time, with their shares of the weight.
_Parts = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def standardization(
    family: type[AbstractEMFamily], points: np.ndarray | Rows, weight: np.ndarray, standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale such that (x - shift) / scale is standardized, as far as the family allows.

    Few points that are far from all others are left out of both: the ridge is relative to the scale.
    """
    shift, scale = np.zeros(points.shape[1]), np.ones(points.shape[1])
    share = weight / weight.sum()
    for own, columns in family.column_families(points.shape[1]):
        if standardize and own.standardization != "none":
            parts = functools.partial(_parts, points, share, columns)
            shift[columns], scale[columns] = _standardization(own, parts, columns)
    return shift, scale


def _parts(points: np.ndarray | Rows, share: np.ndarray, columns: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Some columns of all points, in one part or several."""
    return ((block[:, columns], share[place]) for place, block in blocks_of(points))


def _total(values: Iterator[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.add, values)


def _standardization(
    family: type[AbstractEMFamily], parts: _Parts, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of the columns of one family, which have these numbers."""
    dim = len(numbers)
    if family.standardization == "scale":
        size = _total(share @ np.abs(points.astype(np.float64)) for points, share in parts())
        return np.zeros(dim), np.where(size > 0, size, 1.0)
    shift = _total(share @ points.astype(np.float64) for points, share in parts())
    variance, largest = np.zeros(dim), np.zeros(dim)
    for points, share in parts():
        squares = (points - shift) ** 2
        variance += share @ squares
        largest = np.maximum(largest, squares.max(axis=0))
    # Few far points stand out by more than six standard deviations; only then are they looked for.
    columns = np.flatnonzero(largest > 36 * variance)
    if columns.size:
        shift[columns], variance[columns] = _without_far(parts, columns, numbers)
    if family.standardization == "scalar":
        variance = np.full(dim, variance.mean())
    # A constant coordinate cannot be scaled; rounding alone must not be blown up to unit variance either.
    constant = variance <= (CONSTANT * np.maximum(np.abs(shift), 1e-150)) ** 2
    return shift, np.where(constant, 1.0, np.sqrt(variance))


def _without_far(parts: _Parts, columns: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of columns without values that are far from all others, where they are few; warns."""

    def some() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((points[:, columns].astype(np.float64), share) for points, share in parts())

    middle, reach = _quartiles(some)
    share_far = _total(share @ _beyond(points, middle, reach) for points, share in some())
    reach = np.where((reach > 0) & (share_far <= _FEW), reach, np.inf)
    _warn_of_far(some, middle, reach, numbers[columns])

    def kept(points: np.ndarray, share: np.ndarray) -> np.ndarray:
        return np.where(_beyond(points, middle, reach), 0.0, share[:, None])

    total = _total(kept(*part).sum(axis=0) for part in some())
    mean = _total(np.sum(kept(*part) / total * part[0], axis=0) for part in some())
    return mean, _total(np.sum(kept(*part) / total * (part[0] - mean) ** 2, axis=0) for part in some())


def _beyond(points: np.ndarray, middle: np.ndarray, reach: np.ndarray) -> np.ndarray:
    return np.abs(points - middle) > reach


def _quartiles(parts: _Parts) -> tuple[np.ndarray, np.ndarray]:
    """Medians, and a hundred interquartile ranges."""
    blocks = list(parts()) if _is_one(parts) else _thinned(parts)
    points, share = (np.concatenate(values) for values in zip(*blocks, strict=True))
    share = share / share.sum()
    order = np.argsort(points, axis=0)
    below = np.cumsum(share[order], axis=0)
    rows = [np.take_along_axis(order, np.argmax(below >= level, axis=0)[None], axis=0)[0] for level in _QUARTILES]
    low, middle, high = (points[row, np.arange(points.shape[1])] for row in rows)
    return middle, _FAR * (high - low)


def _is_one(parts: _Parts) -> bool:
    """Whether all points are in one part."""
    return bool(abs(next(parts())[1].sum() - 1) < 1e-9)


def _thinned(parts: _Parts) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of all parts, evenly spaced, about `_SEEN` in all."""
    found = []
    for points, share in parts():
        chosen = spread_indices(len(points), max(1, round(_SEEN * share.sum())))
        found.append((points[chosen], share[chosen]))
    return found


def _warn_of_far(parts: _Parts, middle: np.ndarray, reach: np.ndarray, numbers: np.ndarray) -> None:
    """Name the first column with far points, how many there are, and one of them."""
    count, found = np.zeros(len(numbers), int), {}
    for points, _ in parts():
        far = _beyond(points, middle, reach)
        count += far.sum(axis=0)
        for column in np.flatnonzero(far.any(axis=0)):
            found.setdefault(int(column), points[far[:, column], column][0])
    if not found:
        return
    first = min(found)
    warnings.warn(
        f"`x` has {count[first]} points far from all others in column {numbers[first]}, such as {found[first]:.6g}: "
        "sentinels or outliers? They are fitted like the others; leave out what is none.",
        UserWarning,
        stacklevel=7,
    )
