"""Features whose own laws agree, but not those of pairs of them: correlations that change."""

import numpy as np
import scipy.special
from jaxtyping import Float

# Pairs that are looked at closely, of all.
_CLOSELY = 20_000
# Deviations beyond so many standard deviations count as so many.
_LARGEST = 5.0


def pair_p(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " d"]:
    """Adjusted p-values of each feature: the least of its pairs', times the number of all pairs (Bonferroni).

    The test of a pair is Welch's for the mean of the product of both deviations, which needs no normal law. Of many
    pairs, those are tested whose correlations differ most by Fisher's z.

    Args:
        x: Source points.
        y: Target points.
    """
    dim = x.shape[1]
    adjusted = np.ones(dim)
    if dim < 2:
        return adjusted
    spread = np.sqrt((x.var(axis=0, dtype=np.float64) + y.var(axis=0, dtype=np.float64)) / 2)
    sides = [_deviations(side, spread) for side in (x, y)]
    angles = []
    for side in sides:
        size = np.sqrt(np.mean(side**2, axis=0, dtype=np.float64)).astype(np.float32)
        scaled = side / np.where(size > 0, size, 1)
        angles.append(np.arctanh(np.clip(scaled.T @ scaled / len(side), -0.999999, 0.999999)))
    gap = np.abs(angles[1] - angles[0])
    rows, columns = np.triu_indices(dim, 1)
    gap = gap[rows, columns]
    num = len(gap)
    if num > _CLOSELY:
        some = np.argpartition(gap, num - _CLOSELY)[num - _CLOSELY :]
        rows, columns = rows[some], columns[some]
    p = _product_p(sides, rows, columns)
    for end in (rows, columns):
        np.minimum.at(adjusted, end, num * p)
    return np.minimum(adjusted, 1.0)


def _deviations(points: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Deviations from the mean, without long tails, in float32."""
    scaled = (points - points.mean(axis=0, dtype=np.float64)) / np.where(spread > 0, spread, 1.0)
    cut = np.clip(scaled, -_LARGEST, _LARGEST)
    return (cut - cut.mean(axis=0)).astype(np.float32)


def _product_p(sides: list[np.ndarray], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """p-values of equal means of products; a block of pairs at a time."""
    found = []
    for start in range(0, len(rows), 1000):
        index = slice(start, start + 1000)
        moments = []
        for side in sides:
            product = (side[:, rows[index]] * side[:, columns[index]]).astype(np.float64)
            moments.append((product.mean(axis=0), product.var(axis=0) / (len(side) - 1)))
        (mean0, error0), (mean1, error1) = moments
        error = np.sqrt(error0 + error1)
        found.append(2 * scipy.special.ndtr(-np.abs(mean1 - mean0) / np.where(error > 0, error, np.inf)))
    return np.concatenate(found)
