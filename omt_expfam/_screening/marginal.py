"""Features one by one: p-values of equal laws, and their adjustment for how many there are."""

from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

# Numbers sorted at a time.
_BLOCK = 2**22
# The part of a level that tests of means get; the rest is for the shape of laws, which differs plainly or not at all.
_OF_MEANS = 0.8


def marginal_p(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], x_weight: Any = None, y_weight: Any = None
) -> Float[np.ndarray, " d"]:
    """p-values of equal laws, for each feature, from Welch's test and that of Kolmogorov and Smirnov.

    Args:
        x: Source points.
        y: Target points.
        x_weight: Weights of the source points, by default equal. Weighted points count as fewer (Kish, 1965).
        y_weight: Weights of the target points.
    """
    given = x, y, x_weight, y_weight
    return either(welch_p(*given), kolmogorov_p(*given))


def either(mean_p: np.ndarray, shape_p: np.ndarray) -> np.ndarray:
    """p-values that either of two tests is passed, four fifths of the level for means (weighted Bonferroni)."""
    return np.minimum(np.minimum(mean_p / _OF_MEANS, shape_p / (1 - _OF_MEANS)), 1.0)


def welch_p(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], x_weight: Any = None, y_weight: Any = None
) -> Float[np.ndarray, " d"]:
    """p-values of equal means (Welch, 1947); one for features that are constant."""
    shares = as_share(x, x_weight), as_share(y, y_weight)
    means, errors = zip(*(_mean_and_error(*side) for side in zip((x, y), shares, strict=True)), strict=True)
    num, other = (effective(share) for share in shares)
    total = errors[0] + errors[1]
    below = errors[0] ** 2 / (num - 1) + errors[1] ** 2 / (other - 1)
    difference = means[1] - means[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(below > 0, total**2 / below, 1.0)
        score = np.where(total > 0, np.abs(difference) / np.sqrt(total), np.where(difference == 0, 0.0, np.inf))
    return 2 * scipy.special.stdtr(freedom, -score)


def mean_difference(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], x_weight: Any = None, y_weight: Any = None
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """The difference of means, y's less x's, and its standard error."""
    mean0, error0 = _mean_and_error(x, as_share(x, x_weight))
    mean1, error1 = _mean_and_error(y, as_share(y, y_weight))
    return mean1 - mean0, np.sqrt(error0 + error1)


def as_share(points: Any, weight: Any) -> Float[np.ndarray, " n"]:
    """Weights that sum to one; equal ones by default."""
    if weight is None:
        return np.full(len(points), 1 / len(points))
    share = np.asarray(weight, np.float64)
    return share / share.sum()


def effective(share: Float[np.ndarray, " n"]) -> float:
    """How many equally weighted points have a mean of the same variance."""
    return float(1 / np.sum(share**2))


def _mean_and_error(points: Any, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and its squared standard error."""
    mean = share @ points
    variance: Any = share**2 @ (points - mean) ** 2
    num = effective(share)
    return mean, variance * num / (num - 1)


def kolmogorov_p(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], x_weight: Any = None, y_weight: Any = None
) -> Float[np.ndarray, " d"]:
    """p-values of equal distribution functions, by their largest gap; too large, if anything, where values are tied."""
    shares = as_share(x, x_weight), as_share(y, y_weight)
    num, other = (effective(share) for share in shares)
    step = np.concatenate([shares[0], -shares[1]])
    width = max(1, _BLOCK // len(step))
    gaps = []
    for start in range(0, x.shape[1], width):
        both = np.concatenate([x[:, start : start + width], y[:, start : start + width]])
        order = np.argsort(both, axis=0)
        values = np.take_along_axis(both, order, axis=0)
        gap = np.abs(np.cumsum(step[order], axis=0))
        # Distribution functions have jumped only after the last of equal values.
        last = np.ones(values.shape, bool)
        last[:-1] = values[1:] > values[:-1]
        gaps.append(np.max(np.where(last, gap, 0.0), axis=0))
    gap = np.concatenate(gaps) if gaps else np.zeros(0)
    return scipy.special.kolmogorov(np.sqrt(num * other / (num + other)) * gap)


def holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """p-values adjusted so that any of them is below a level by chance with at most its probability (Holm, 1979)."""
    order = np.argsort(p)
    raised = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return adjusted


def benjamini_hochberg(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """p-values adjusted so that of those below a level the expected share that chance put there is at most the level.

    That holds for independent and for positively dependent tests (Benjamini and Yekutieli, 2001).
    """
    order, num = np.argsort(p)[::-1], len(p)
    lowered = np.minimum.accumulate(p[order] * num / np.arange(num, 0, -1))
    adjusted = np.empty(num)
    adjusted[order] = np.minimum(lowered, 1.0)
    return adjusted
