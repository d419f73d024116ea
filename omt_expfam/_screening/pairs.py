"""Features whose own laws agree, but not those of pairs of them: correlations that change."""

from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float

from .marginal import as_share, effective

# Pairs that are looked at closely, of all.
_CLOSELY = 20_000
# Deviations beyond so many standard deviations count as so many.
_LARGEST = 5.0


def pair_p(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], x_weight: Any = None, y_weight: Any = None
) -> Float[np.ndarray, " d"]:
    """Adjusted p-values of each feature: the least of its pairs', times the number of all pairs (Bonferroni).

    The test of a pair is Welch's for the mean of the product of both deviations, which needs no normal law. Of many
    pairs, those are tested whose correlations differ most by Fisher's z.

    Args:
        x: Source points.
        y: Target points.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
    """
    dim = x.shape[1]
    adjusted = np.ones(dim)
    if dim < 2:
        return adjusted
    shares = as_share(x, x_weight), as_share(y, y_weight)
    variances = [share @ (side - share @ side) ** 2 for side, share in zip((x, y), shares, strict=True)]
    spread = np.sqrt((variances[0] + variances[1]) / 2)
    sides = [_deviations(side, spread, share) for side, share in zip((x, y), shares, strict=True)]
    angles = []
    for side, share in zip(sides, shares, strict=True):
        size = np.sqrt(share @ side**2).astype(np.float32)
        scaled = side / np.where(size > 0, size, 1)
        weighted = scaled * share.astype(np.float32)[:, None]
        angles.append(np.arctanh(np.clip(scaled.T @ weighted, -0.999999, 0.999999)))
    gap = np.abs(angles[1] - angles[0])
    rows, columns = np.triu_indices(dim, 1)
    gap = gap[rows, columns]
    num = len(gap)
    if num > _CLOSELY:
        some = np.argpartition(gap, num - _CLOSELY)[num - _CLOSELY :]
        rows, columns = rows[some], columns[some]
    p = _product_p(sides, shares, rows, columns)
    for end in (rows, columns):
        np.minimum.at(adjusted, end, num * p)
    return np.minimum(adjusted, 1.0)


def _deviations(points: np.ndarray, spread: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Deviations from the mean, without long tails, in float32."""
    scaled = (points - share @ points) / np.where(spread > 0, spread, 1.0)
    cut = np.clip(scaled, -_LARGEST, _LARGEST)
    return (cut - share @ cut).astype(np.float32)


def _product_p(
    sides: list[np.ndarray], shares: tuple[np.ndarray, np.ndarray], rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """p-values of equal means of products; a block of pairs at a time."""
    found = []
    for start in range(0, len(rows), 1000):
        index = slice(start, start + 1000)
        moments = []
        for side, share in zip(sides, shares, strict=True):
            product = (side[:, rows[index]] * side[:, columns[index]]).astype(np.float64)
            mean, num = share @ product, effective(share)
            moments.append((mean, share**2 @ (product - mean) ** 2 * num / (num - 1)))
        (mean0, error0), (mean1, error1) = moments
        error = np.sqrt(error0 + error1)
        found.append(2 * scipy.special.ndtr(-np.abs(mean1 - mean0) / np.where(error > 0, error, np.inf)))
    return np.concatenate(found)
