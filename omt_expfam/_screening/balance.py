"""Weights under which two samples agree in what stays: what moves is then known more exactly.

Features that are not selected have one law on both sides. How their principal components differ between two samples is
chance, and by correlation it makes the features that move differ by chance too. Weights nearest to equal ones, by
entropy, that make first and second moments of the components agree take that part away (Hainmueller, 2012).
"""

from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

from .composition import principal_scores
from .marginal import as_share, effective

# Fewer features say too little about points. Second moments are balanced where there are so many points for each.
_FEWEST, _POINTS = 20, 40
# Moments that differ more than chance allows, at this level, are left as they are, unless they are adjusted for.
_LEVEL = 0.01
# Newton steps; the largest difference that is left; and the least part of the points that weights may amount to.
_STEPS, _TOLERANCE, _LEAST = 50, 1e-6, 0.5


def balancing_weights(
    x: Float[np.ndarray, "n c"],
    y: Float[np.ndarray, "m c"],
    adjusted: bool,
    x_weight: Any = None,
    y_weight: Any = None,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None:
    """Weights that sum to one on each side; ``None`` where nothing can be balanced, or shares have changed.

    Args:
        x: Features of source points that stay.
        y: The same of target points.
        adjusted: Whether shares that change are to be adjusted for.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
    """
    if x.shape[1] < _FEWEST:
        return None
    shares = as_share(x, x_weight), as_share(y, y_weight)
    few = min(effective(share) for share in shares)
    both = np.concatenate([x, y]).astype(np.float64)
    weight = np.concatenate([share * effective(share) for share in shares])
    weight /= weight.sum()
    both -= weight @ both
    size = np.sqrt(weight @ both**2)
    both /= np.where(size > 0, size, 1.0)
    scores = principal_scores(both, weight)
    scores = scores[:, np.any(scores != 0, axis=0)]
    rows, columns = np.triu_indices(scores.shape[1])
    moments = np.column_stack([scores, scores[:, rows] * scores[:, columns]])
    if moments.shape[1] * _POINTS > few:
        moments = scores
    if moments.shape[1] * _POINTS > few:
        return None
    middle = weight @ moments
    moments = (moments - middle) / np.sqrt(weight @ (moments - middle) ** 2)
    sides = moments[: len(x)], moments[len(x) :]
    if not adjusted and _differ(sides, shares):
        return None
    found = [_tilted(side, share) for side, share in zip(sides, shares, strict=True)]
    first, second = found
    return None if first is None or second is None else (first, second)


def _differ(sides: tuple[np.ndarray, np.ndarray], shares: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether means differ by more than chance allows (Hotelling)."""
    means = [share @ side for side, share in zip(sides, shares, strict=True)]
    error = sum(
        ((side - mean).T * share**2) @ (side - mean) for side, share, mean in zip(sides, shares, means, strict=True)
    )
    difference = means[1] - means[0]
    square = difference @ np.linalg.lstsq(error, difference, rcond=1e-9)[0]
    return bool(scipy.special.chdtrc(len(difference), square) < _LEVEL)


def _tilted(moments: np.ndarray, share: np.ndarray) -> np.ndarray | None:
    """The weights nearest to given ones under which moments are zero, by Newton's method for the dual."""
    slope = np.zeros(moments.shape[1])

    def tilted(slope: np.ndarray) -> tuple[float, np.ndarray]:
        height = moments @ slope
        top = height.max()
        weight = share * np.exp(height - top)
        return top + np.log(weight.sum()), weight / weight.sum()

    value, weight = tilted(slope)
    for _ in range(_STEPS):
        mean = weight @ moments
        if np.abs(mean).max() < _TOLERANCE:
            return weight if effective(weight) >= _LEAST * effective(share) else None
        curvature = (moments.T * weight) @ moments - np.outer(mean, mean)
        step = np.linalg.lstsq(curvature, mean, rcond=1e-12)[0]
        length = 1.0
        while length > 1e-4:
            trial, trial_weight = tilted(slope - length * step)
            if trial <= value - 1e-4 * length * (mean @ step):
                break
            length /= 2
        else:
            return None
        slope, value, weight = slope - length * step, trial, trial_weight
    return None
