"""Regularizations that follow the data: shares of variances and of squared distances, in whatever unit."""

import functools
from typing import Any, NamedTuple, TYPE_CHECKING

import jax
import numpy as np

from .._base.arguments import as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host
from .._components.columns import Columns, columns_of
from .._components.mixture import Mixture
from .._couplings.interface import Moments, moments_of
from .._numerics.circle import wrap

# The shares that "auto" stands for: within components the correlation of a typical pair is then 0.9975.
COMPONENTS_SHARE, WEIGHTS_SHARE = 0.01, 0.05

GIVEN = "given"
# Pairs of components that are looked at together.
_BLOCK = 2**22

if TYPE_CHECKING:
    EpsilonLike = ScalarLike | str
else:
    # Checked by `choose_epsilons`, with better messages than a run-time type checker's.
    EpsilonLike = Any


class Epsilons(NamedTuple):
    """Both regularizations as numbers, units of squared distance.

    Attributes:
        components: Of the component couplings.
        weights: Of the weight coupling.
        rules: How each was chosen: ``"given"``, ``"auto"`` or a multiple of it, such as ``"0.5 x auto"``.
    """

    components: Any
    weights: Any
    rules: tuple[str, str]


def choose_epsilons(
    source: Mixture,
    target: Mixture,
    components: EpsilonLike = "auto",
    weights: EpsilonLike = "auto",
    scale: ScalarLike = 1.0,
    moments: Moments | None = None,
) -> Epsilons:
    r"""Both regularizations, those that are given and those that are ``"auto"``.

    With means over components in logarithms, by weight and over both sides, ``"auto"`` is

    - for the components: 0.01 times the mean of their variances per coordinate;
    - for the weights: 0.05 times the mean, over components, of the mean squared distance between its points and those
      of the nearest component on the other side, once the means of both mixtures are brought together.

    Both follow the unit of the data, and neither depends on where the two data sets lie. The coupling of the weights
    does not depend on that either: a common shift costs every coupling the same.

    Args:
        source: Source mixture.
        target: Target mixture.
        components: A number, in units of squared distance, or ``"auto"``.
        weights: Likewise.
        scale: Multiplies ``"auto"``.
        moments: Those of the components, if they are known.

    Raises:
        TypeError: If a regularization is neither a number nor ``"auto"``.
        ValueError: If one is negative, the scale is not positive or multiplies nothing, or ``"auto"`` has no finite,
            positive value.
    """
    check_epsilons(components, weights, scale)
    given = {"epsilon_components": components, "epsilon_weights": weights}
    auto = [name for name, value in given.items() if isinstance(value, str)]
    if not auto:
        return Epsilons(components, weights, (GIVEN, GIVEN))
    unscaled = not is_traced(scale) and float(scale) == 1
    moments = moments_of(source.components, target.components) if moments is None else moments
    rule = functools.partial(_rule, columns=columns_of(source.components))
    found = dict(zip(given, on_host(rule, source.weights, target.weights, moments, scale), strict=True))
    for name in auto:
        if not is_traced(found[name]) and not 0 < float(found[name]) < np.inf:
            raise ValueError(
                f'`{name}` = "auto" needs components with finite, positive variances, within the range of their type; '
                f"theirs give {float(found[name]):g}. Give a number."
            )
    rule = "auto" if unscaled else "a multiple of auto" if is_traced(scale) else f"{float(scale):g} x auto"
    first, second = (found[name] if name in auto else value for name, value in given.items())
    rules = (rule if name in auto else GIVEN for name in given)
    return Epsilons(first, second, (next(rules), next(rules)))


def check_epsilons(components: Any, weights: Any, scale: Any) -> None:
    """Raise unless regularizations are numbers that are not negative, or ``"auto"``, and the scale has one to scale."""
    given = {"epsilon_components": components, "epsilon_weights": weights}
    for name, value in given.items():
        if not isinstance(value, str):
            as_scalar(name, value)
        elif value != "auto":
            raise ValueError(f'`{name}` must be a number, in units of squared distance, or "auto"; got {value!r}.')
    as_scalar("epsilon_scale", scale, strict=True)
    numbers = not any(isinstance(value, str) for value in given.values())
    if numbers and (is_traced(scale) or float(scale) != 1):
        raise ValueError('`epsilon_scale` multiplies "auto" and must be left out where both epsilons are numbers.')


def _rule(xp: Any, a: Any, b: Any, moments: Moments, scale: Any, columns: Columns) -> tuple[Any, Any]:
    if xp is np:
        a, b, moments, scale = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (a, b, moments, scale))
    variance, other = moments.variances
    left, right = _centered(xp, moments.means, (a, b), columns)
    rows, nearest_row = [], xp.full_like(b, xp.inf)
    for part in _parts(xp, len(a), len(b)):
        squares = _squares(xp, left[part], right, columns)
        if moments.categories is not None:
            squares = squares + moments.categories[part]
        costs = xp.maximum(squares, xp.zeros_like(squares)) + variance[part, None] + other[None, :]
        far = xp.full_like(costs, xp.inf)
        rows.append(xp.min(xp.where((b > 0)[None, :], costs, far), axis=1))
        nearest_row = xp.minimum(nearest_row, xp.min(xp.where((a[part] > 0)[:, None], costs, far), axis=0))
    nearest = xp.concatenate(rows), nearest_row
    within = _typical(xp, (a, b), (variance, other)) / moments.means[0].shape[1]
    scale = xp.asarray(scale, variance.dtype)
    return scale * COMPONENTS_SHARE * within, scale * WEIGHTS_SHARE * _typical(xp, (a, b), nearest)


def _parts(xp: Any, num: int, other: int) -> list[slice]:
    """Rows of the table of all pairs: some at a time on the host, where there are many."""
    size = max(1, _BLOCK // other) if xp is np else num
    return [slice(start, start + size) for start in range(0, num, size)]


def _centered(xp: Any, means: Any, weights: Any, columns: Columns) -> list[Any]:
    """Means of components less that of their mixture, on either side."""
    found = []
    for mean, weight in zip(means, weights, strict=True):
        offset = mean - (weight @ mean / xp.sum(weight))[None, :]
        if columns.angles.any():
            arcs = wrap(mean - xp.arctan2(weight @ xp.sin(mean), weight @ xp.cos(mean))[None, :], xp)
            offset = xp.where(columns.angles[None, :], arcs, offset)
        found.append(offset)
    return found


def _squares(xp: Any, left: Any, right: Any, columns: Columns) -> Any:
    """Squared distances, in the columns that have some."""
    if columns.are_numbers:
        return xp.sum(left**2, axis=1)[:, None] + xp.sum(right**2, axis=1)[None, :] - 2 * left @ right.T
    gaps = left[:, None, :] - right[None, :, :]
    gaps = xp.where(columns.angles[None, None, :], wrap(gaps, xp), gaps)
    weights = np.where(columns.categories, 0.0, columns.cost_weights).astype(gaps.dtype)
    return xp.sum(weights[None, None, :] * gaps**2, axis=2)


def _typical(xp: Any, weights: tuple[Any, Any], values: tuple[Any, Any]) -> Any:
    """The mean in logarithms over both sides, which count alike; that of a few far components is not far."""
    means = []
    for weight, value in zip(weights, values, strict=True):
        used = weight > 0
        logs = xp.where(used, xp.log(xp.where(used, value, xp.ones_like(value))), xp.zeros_like(value))
        means.append(weight @ logs / xp.sum(weight))
    return xp.exp((means[0] + means[1]) / 2)
