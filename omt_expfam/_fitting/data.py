"""The data of a fit, checked."""

import dataclasses
import warnings
from typing import Any, NamedTuple

import numpy as np

from .._base.arguments import ArrayLike, as_count, as_host_or_traced, as_scalar
from .._base.arrays import default_dtype, is_traced
from .._base.samples import CONSTANT, offset_of
from .._components.mixture import Mixture
from .._components.sizes import as_size_factors, with_size_column
from .._family.em_family import AbstractEMFamily
from .._family.template import Template
from .._numerics.circle import is_circle, wrap
from .._numerics.support import check_support
from .climb import SharedStart
from .problem import fit_problem, FitProblem, MovedStart
from .rows import is_out_of_memory, Rows
from .standardize import standardization

# What rounding may take of the half range of a column.
_LOST = 1e-3


class Data(NamedTuple):
    """Checked points and settings of a fit.

    Attributes:
        template: The family with its fixed parameters.
        num_components: Number of components K.
        points: Points in their own units, shape ``[n, d]``, or their rows where they are not in memory.
        weight: Their weights, shape ``[n]``, in units of ``point_weight``.
        point_weight: What one observation weighs.
        shift: What standardization subtracts, shape ``[d]``.
        scale: What it divides by, shape ``[d]``.
        covariance_prior: As in `fit`.
        regularization: As in `fit`.
        chunk_size: As in `fit`.
        dtype: The precision of the computation.
        sizes: Size factors of the points, shape ``[n]``, where they have some.
    """

    template: Template
    num_components: int
    points: Any
    weight: np.ndarray
    point_weight: float
    shift: np.ndarray
    scale: np.ndarray
    covariance_prior: float | None
    regularization: float
    chunk_size: int | None
    dtype: str
    sizes: np.ndarray | None = None

    @property
    def precision(self) -> str:
        """The precision of results: that of the points, or JAX's default."""
        return "float32" if self.points.dtype == np.float32 else str(default_dtype())

    def problem(self) -> FitProblem:
        """The standardized problem; to be called where arrays have the precision of the computation."""
        template, points, shift, scale = self.template, self.points, self.shift, self.scale
        if self.sizes is not None:
            template = dataclasses.replace(template, sized=True)
            points = with_size_column(points, self.sizes, template.family)
            shift, scale = np.append(shift, 0.0), np.append(scale, 1.0)
        return fit_problem(
            template,
            points,
            self.weight,
            self.num_components,
            self.covariance_prior,
            self.regularization,
            self.chunk_size,
            self.dtype,
            shift,
            scale,
        )


def read_data(
    x: ArrayLike,
    chosen: Template,
    num_components: int,
    *,
    sample_weight: ArrayLike | None,
    covariance_prior: float | None,
    regularization: float,
    standardize: bool,
    tolerance: float | None,
    dtype: str,
    chunk_size: int | None,
    by_rows: bool = False,
    size_factors: ArrayLike | None = None,
) -> Data:
    """Check what `fit` and the bootstrap are given, all but where they start.

    What is not in memory is brought there, unless its rows may be read where they are.
    """
    by_rows = by_rows and size_factors is None and is_out_of_memory(x)
    if by_rows:
        points: Any = _read_rows(x, num_components, chosen)
    else:
        points = on_one_turn("x", _as_data(x, num_components), chosen.family)
    sizes = used_size_factors(size_factors, sample_weight, len(points), chosen.family)
    points, weight = weighted_points(points, sample_weight, num_components)
    # In units of what a point weighs: priors are pseudo-observations, and thresholds are points.
    point_weight = _point_weight(weight[weight > 0])
    weight = weight / point_weight
    if dtype not in ("float64", "float32"):
        raise ValueError(f'`dtype` must be "float64" or "float32"; got {dtype!r}.')
    for name, value in (
        ("regularization", regularization),
        ("tolerance", tolerance),
        ("covariance_prior", covariance_prior),
    ):
        if value is not None:
            as_scalar(name, value)
    if not by_rows:
        check_support("x", points, chosen.family)
        chosen.family._check_points(points, **chosen.fixed)
    if chunk_size is not None:
        chunk_size = _as_chunk_size(chunk_size, chosen.family, len(points))
    shift, scale = standardization(chosen.family, points, weight, standardize)
    settings = covariance_prior, regularization, chunk_size, dtype
    return Data(chosen, num_components, points, weight, point_weight, shift, scale, *settings, sizes)


def _as_data(x: ArrayLike, num_components: int) -> np.ndarray:
    if is_traced(x):
        raise TypeError("`x` must be concrete data: fit runs on the host and cannot be traced by jit, vmap or grad.")
    host = np.asarray(as_host_or_traced("x", x))
    if host.ndim != 2:
        raise ValueError(f"`x` must have shape [n, d]; got shape {host.shape}.")
    _check_size(host.shape, num_components)
    # In one order in memory: sums that differ by rounding would number the components differently.
    host = np.ascontiguousarray(host, None if host.dtype == np.float32 else np.float64)
    _check_finite(host)
    if host.dtype != default_dtype():
        _check_range(host.dtype, *offset_of(host))
    return host


def _read_rows(x: Any, num_components: int, chosen: Template) -> Rows:
    """Rows that are read where they are, checked by one pass over them."""
    rows = x if isinstance(x, Rows) else Rows(x)
    _check_size(rows.shape, num_components)
    if not chosen.family.streams:
        raise ValueError(
            f"`x` must be in memory for {chosen.family.__name__}, whose M-step needs all points at once. Pass "
            "numpy.asarray(x), or a part of the rows."
        )
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for place, block in rows.blocks():
        _check_finite(block, place.start)
        check_support("x", block, chosen.family, place.start)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    for own, columns in chosen.family.column_families(rows.shape[1]):
        if is_circle(own.support) and max(-low[columns].min(), high[columns].max()) > np.pi * (1 + 1e-6):
            raise ValueError("`x` must have angles between -pi and pi where it is not in memory; wrap them before.")
    chosen.family._check_points(np.stack([low, high]), **chosen.fixed)
    if rows.dtype != default_dtype():
        _check_range(rows.dtype, low / 2 + high / 2, high / 2 - low / 2)
    return rows


def _check_size(shape: tuple[int, ...], num_components: int) -> None:
    if shape[0] < num_components or shape[1] < 1:
        raise ValueError(
            f"`x` must have at least one column and as many points as components, {num_components}; got shape {shape}."
        )


def _check_finite(points: np.ndarray, first: int = 0) -> None:
    """Raise where a number is missing; ``first`` is the number of the first row."""
    if not np.isfinite(points).all():
        row, column = np.argwhere(~np.isfinite(points))[0]
        raise ValueError(
            f"`x` must be finite; got {points[row, column]} at index [{first + row}, {column}]. "
            "Drop or impute missing values."
        )


def on_one_turn(name: str, values: np.ndarray, family: Any) -> np.ndarray:
    """Values, for families of angles between -pi and pi; warns where others are brought there."""
    if values.ndim != 2 or not np.isfinite(values).all():
        return values
    angles = np.zeros(values.shape[1], bool)
    for own, columns in family.column_families(values.shape[1]):
        angles[columns] = is_circle(own.support)
    outside = (np.abs(values) > np.pi * (1 + 1e-6)) & angles
    if not outside.any():
        return values
    most = np.abs(values[:, angles]).max()
    degrees = " Are they degrees? Radians are expected: numpy.deg2rad." if most > 4 * np.pi else ""
    warnings.warn(
        f"`{name}` has {outside.sum()} angles beyond -pi and pi, up to {most:.6g}; they are wrapped.{degrees}",
        UserWarning,
        stacklevel=4,
    )
    return np.where(angles, wrap(values, np), values).astype(values.dtype)


def _check_range(dtype: np.dtype, middle: np.ndarray, reach: np.ndarray) -> None:
    """Raise where the results, in float32, could not tell points apart or hold the squares of their distances."""
    if dtype == np.float32:
        return
    lost = np.abs(middle) * 2.0**-24
    # What is constant up to rounding has no differences to lose.
    bad = np.flatnonzero((lost > _LOST * reach) & (reach > CONSTANT * np.abs(middle)))
    if bad.size:
        column = bad[0]
        raise ValueError(
            f"`x` lies around {middle[column]:.6g} in column {column}, within {reach[column]:.3g}: float32 results "
            f"round that by {lost[column]:.1g}. Subtract an offset, such as x.mean(axis=0), or enable x64."
        )
    if 0 < reach.max() < float(np.finfo(np.float32).tiny) ** 0.5:
        raise ValueError(
            f"`x` has differences of {reach.max():.3g}, whose squares are zero in float32. Rescale it, or enable x64."
        )


def _as_chunk_size(chunk_size: Any, family: type[AbstractEMFamily], num_points: int) -> int:
    chunk_size = as_count("chunk_size", chunk_size)
    if not family.streams and chunk_size < num_points:
        raise ValueError(
            f"`chunk_size` must be at least the number of points, {num_points}, for {family.__name__}: its M-step "
            f"needs all points at once; got {chunk_size}. Leave it out."
        )
    return chunk_size


def weighted_points(points: Any, sample_weight: Any, num_components: int) -> tuple[Any, np.ndarray]:
    """The points that have a weight, and their weights: ones by default; all points that are not in memory."""
    if sample_weight is None:
        return points, np.ones(len(points))
    weight = np.asarray(as_host_or_traced("sample_weight", sample_weight), np.float64)
    if weight.shape != points.shape[:1]:
        raise ValueError(f"`sample_weight` must have shape {points.shape[:1]}; got {weight.shape}.")
    if not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
        raise ValueError("`sample_weight` must be finite and nonnegative, with a positive sum.")
    used = weight > 0
    if used.all():
        return points, weight
    if used.sum() < num_components:
        raise ValueError(
            f"`sample_weight` must be positive for as many points as there are components, {num_components}; "
            f"got {used.sum()}."
        )
    return (points, weight) if isinstance(points, Rows) else (points[used], weight[used])


def used_size_factors(size_factors: Any, sample_weight: Any, num_points: int, family: Any) -> np.ndarray | None:
    """Checked size factors, where there are any, of the points that have a weight."""
    if size_factors is None:
        return None
    sizes = as_size_factors(size_factors, num_points, family)
    if sample_weight is None:
        return sizes
    weight = np.asarray(as_host_or_traced("sample_weight", sample_weight))
    # Weights of another shape are refused with the points.
    return sizes[weight > 0] if weight.shape == sizes.shape else sizes


def _point_weight(weight: np.ndarray) -> float:
    """What one observation weighs: whatever the unit of the weights is.

    Multiples of the smallest weight are counts of repeated points, each an observation. Others are as good as a number
    of observations of equal weight, of which there are (sum w)^2 / sum w^2 (Kish, 1965).
    """
    ratio = weight / weight.min()
    if (np.abs(ratio - np.round(ratio)) <= 1e-9 * ratio).all():
        return float(weight.min())
    share = weight / weight.max()
    return float(weight.max() * (share @ share) / share.sum())


def as_start(start: Any, chosen: Template, num_components: int, dim: int, shift: np.ndarray, scale: np.ndarray) -> Any:
    """A checked start: a word, a mixture in standardized units, or means in standardized units."""
    if isinstance(start, SharedStart):
        return start
    if isinstance(start, str):
        if start not in ("merge", "k-means++"):
            raise ValueError(f'`start` must be "merge", "k-means++", a Mixture or means; got {start!r}.')
        return start
    if isinstance(start, Mixture):
        if not isinstance(start.components, chosen.family):
            raise TypeError(
                f"`start` must be a mixture of {chosen.family.__name__} components; "
                f"got {type(start.components).__name__}."
            )
        if (start.num_components, start.dim) != (num_components, dim):
            raise ValueError(
                f"`start` must have {num_components} components in {dim} dimensions; "
                f"got {start.num_components} in {start.dim}."
            )
        return MovedStart(start, shift, scale)
    means = on_one_turn("start", np.asarray(as_host_or_traced("start", start), np.float64), chosen.family)
    if means.shape != (num_components, dim) or not np.isfinite(means).all():
        raise ValueError(f"`start` must hold finite means of shape {(num_components, dim)}; got shape {means.shape}.")
    check_support("start", means, chosen.family)
    return (means - shift) / scale
