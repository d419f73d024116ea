"""The two samples of a fit, checked, and the tasks that its members get."""

from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.arguments import ArrayLike, as_host_or_traced, check_finite
from .._base.arrays import default_dtype, is_traced, split_key
from .._base.tables import column_names
from .._plans.plan import TransportPlan
from .line import axes_line, straight_line, StraightLine
from .tasks import Side, Task

# Points of either side that a plan alone is asked for.
_DRAWS = 16_384
# Numbers of one sample that training looks at; of what is longer, some points drawn at random.
_MOST_NUMBERS, _MOST_POINTS = 2**25, 2**18
_LEAST_POINTS = 8
# At most a fifth of the points is held out from a member, and so many suffice.
_LEAST_FOLDS, _MOST_HELD_OUT = 5, 1000


class Sample(NamedTuple):
    """Points of one side and their weights, on the host; of targets, first conjugate points where they are known."""

    points: np.ndarray
    weight: np.ndarray | None
    starts: np.ndarray | None = None

    def some(self, rng: np.random.Generator) -> "Sample":
        """The sample itself, or as much of it as training looks at."""
        num, dim = self.points.shape
        most = min(_MOST_POINTS, _MOST_NUMBERS // dim)
        if num <= most:
            return self
        index = np.sort(rng.choice(num, most, replace=False))
        weight, starts = (None if part is None else part[index] for part in (self.weight, self.starts))
        return Sample(self.points[index], weight, starts)

    def folds(self, rng: np.random.Generator, num: int) -> list[np.ndarray]:
        """Disjoint sets of points, one to be held out from each member."""
        order = rng.permutation(len(self.points))
        if self.weight is not None:
            order = order[self.weight[order] > 0]
        size = min(round(len(order) / max(num, _LEAST_FOLDS)), _MOST_HELD_OUT)
        return [order[i * size : (i + 1) * size] for i in range(num)]


def read_samples(
    key: jax.Array, x: Any, y: Any, start: TransportPlan | None, source_weight: Any, target_weight: Any
) -> tuple[Sample, Sample, str]:
    """The samples that `fit_brenier` is given, or draws of the plan's mixtures; and the precision of results."""
    if start is not None and not isinstance(start, TransportPlan):
        raise TypeError(f"`start` must be a TransportPlan or None; got {type(start).__name__}.")
    if (x is None) != (y is None):
        missing = "x" if x is None else "y"
        raise ValueError(f"`x` and `y` must both be given, or both be None with a `start`; got `{missing}` None.")
    if x is None:
        if start is None:
            raise ValueError("`x` and `y` must be given where there is no `start` to draw from; got None.")
        if source_weight is not None or target_weight is not None:
            raise ValueError("`source_weight` and `target_weight` belong to `x` and `y`, which are None.")
        keys = split_key(key, 2)
        drawn = [mix.sample(k, _DRAWS) for mix, k in zip((start.source, start.target), keys, strict=True)]
        x, y = (np.asarray(points) for points in drawn)
    samples = [_sample("x", x, "source_weight", source_weight), _sample("y", y, "target_weight", target_weight)]
    dims = [sample.points.shape[1] for sample in samples]
    if dims[0] != dims[1]:
        raise ValueError(f"`y` must have as many columns as `x`, {dims[0]}; got {dims[1]}.")
    if start is not None and start.source.dim != dims[0]:
        raise ValueError(f"`start` must be a plan in {dims[0]} dimensions, as `x`; got {start.source.dim}.")
    single = all(sample.points.dtype == np.float32 for sample in samples)
    return samples[0], samples[1], "float32" if single else str(default_dtype())


def read_names(names: Any, x: Any, dim: int) -> tuple[str, ...] | None:
    """Names of the columns: as given, or those of a table; ``None`` where there are none.

    Raises:
        TypeError: If they are not a list.
        ValueError: If they are not one for each column, or not all different.
    """
    if names is None:
        columns = column_names(x)
        return columns if columns is not None and len(columns) == dim else None
    if isinstance(names, str) or not hasattr(names, "__iter__"):
        raise TypeError(f"`feature_names` must be a list of names; got {names!r}.")
    found = tuple(str(name) for name in names)
    if len(found) != dim:
        raise ValueError(f"`feature_names` must name the {dim} columns of `x`; got {len(found)} names.")
    if len(set(found)) != dim:
        twice = next(name for name in found if found.count(name) > 1)
        raise ValueError(f"`feature_names` must all be different; got {twice!r} twice.")
    return found


def _sample(name: str, value: ArrayLike, weight_name: str, weight: Any) -> Sample:
    if is_traced(value, weight):
        raise TypeError(f"`{name}` must be concrete data: training runs on the host and cannot be traced.")
    points = np.asarray(as_host_or_traced(name, value))
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"`{name}` must have shape [n, d]; got shape {points.shape}.")
    if points.dtype != np.float32:
        points = points.astype(np.float64)
    check_finite(name, points)
    used = len(points)
    if weight is not None:
        weight = np.asarray(as_host_or_traced(weight_name, weight), np.float64)
        if weight.shape != points.shape[:1]:
            raise ValueError(f"`{weight_name}` must have shape {points.shape[:1]}; got {weight.shape}.")
        if not np.isfinite(weight).all() or (weight < 0).any():
            raise ValueError(f"`{weight_name}` must be finite and nonnegative.")
        used = int((weight > 0).sum())
    if used < _LEAST_POINTS:
        raise ValueError(f"`{name}` must have at least {_LEAST_POINTS} points of positive weight; got {used}.")
    spread = points.max(axis=0) - points.min(axis=0)
    if not (spread > 0).any():
        raise ValueError(f"`{name}` must have points that differ; got {len(points)} equal ones.")
    return Sample(points, weight)


def make_task(
    source: Sample,
    target: Sample,
    held_out: tuple[np.ndarray, np.ndarray],
    starts: np.ndarray | None,
    dtype: str,
    along_axes: bool = False,
) -> tuple[Task, StraightLine]:
    """What one member learns from, in the coordinates of the straight line of its own training points.

    Args:
        source: The side that its potential is of.
        target: The other side.
        held_out: Points of both that are kept from it.
        starts: First conjugate points of the target points, in source units.
        dtype: The precision of the coordinates.
        along_axes: Keep coordinates apart.
    """
    both = source, target
    training = [np.setdiff1d(np.arange(len(side.points)), out) for side, out in zip(both, held_out, strict=True)]
    parts = [side.points[index] for side, index in zip(both, training, strict=True)]
    weights = [None if s.weight is None else s.weight[index] for s, index in zip(both, training, strict=True)]
    line = (axes_line if along_axes else straight_line)(*parts, *weights, dtype=dtype)
    white = [
        _whitened(source.points, line.source_mean, line.source_matrix),
        _whitened(target.points, line.target_mean, line.target_matrix),
    ]
    sides = [
        Side(points, index, out, s.weight)
        for points, index, out, s in zip(white, training, held_out, both, strict=True)
    ]
    shift = None if starts is None else _whitened(starts, line.source_mean, line.source_matrix) - white[1]
    return Task(sides[0], sides[1], shift), line


def _whitened(points: np.ndarray, mean: Any, matrix: Any) -> np.ndarray:
    centered = points.astype(np.float64) - np.asarray(mean, np.float64)
    return (centered @ np.asarray(matrix, np.float64).T).astype(np.float32)
