"""Features whose laws differ among points that are alike otherwise: shares of groups that change do not count."""

import numpy as np
import scipy.special
from jaxtyping import Float

from .marginal import holm, kolmogorov_p

# Leading components of unflagged features that say what a point is like; power iterations; rounds of flagging.
_MOST_SCORES, _ITERATIONS, _ROUNDS = 10, 6, 4


def adjusted_p(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], level: float
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "both d"]]:
    """p-values of equal laws given what points are like, adjusted by Holm; and the residuals that they are of.

    Each feature is regressed on the leading principal components of the features that are not flagged, and on the
    group. The p-value is twice the smaller of that of the group's slope, with errors that hold for any variances
    (HC3), and that of Kolmogorov and Smirnov for residuals.

    Args:
        x: Source points.
        y: Target points.
        level: Features below it are flagged, and left out of the components in the next round.
    """
    both = np.concatenate([x, y]).astype(np.float64)
    both -= both.mean(axis=0)
    size = both.std(axis=0)
    both /= np.where(size > 0, size, 1.0)
    group = np.repeat([0.0, 1.0], [len(x), len(y)])
    flagged = np.zeros(both.shape[1], bool)
    adjusted, rest = np.ones(both.shape[1]), both
    for _ in range(_ROUNDS):
        p, rest = _conditional(both, group, _scores(both[:, ~flagged]))
        adjusted = holm(p)
        before, flagged = flagged, adjusted <= level
        if (flagged == before).all() or flagged.all():
            break
    return adjusted, rest


def _scores(points: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n s"]:
    """Leading principal components, by power iterations from a start that does not depend on anything random."""
    num = min(_MOST_SCORES, max(points.shape[1] // 5, 1))
    basis = np.random.default_rng(0).standard_normal((points.shape[1], num + 5))
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(points.T @ (points @ basis))
    left, values, _ = np.linalg.svd(points @ basis, full_matrices=False)
    return left[:, :num] * (values[:num] > 1e-9 * max(values[0], 1e-300))


def _conditional(
    points: Float[np.ndarray, "n d"], group: Float[np.ndarray, " n"], scores: Float[np.ndarray, "n s"]
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "n d"]]:
    """p-values of each feature given scores, and residuals that keep the group's effect."""
    scores = scores[:, np.any(scores != 0, axis=0)]
    known = np.column_stack([np.ones(len(points)), scores, group])
    base, triangle = np.linalg.qr(known)
    slopes = np.linalg.solve(triangle, base.T @ points)
    rest = points - known @ slopes
    leverage = np.minimum(np.sum(base**2, axis=1), 1 - 1e-9)
    # The row of the pseudoinverse that gives the group's slope.
    row = np.linalg.solve(triangle, base.T)[-1]
    error = np.sqrt((row**2) @ (rest / (1 - leverage)[:, None]) ** 2)
    score = np.where(error > 0, np.abs(slopes[-1]) / np.where(error > 0, error, 1.0), 0.0)
    slope_p = 2 * scipy.special.ndtr(-score)
    rest = rest + np.outer(group, slopes[-1])
    first = group == 0
    return np.minimum(2 * np.minimum(slope_p, kolmogorov_p(rest[first], rest[~first])), 1.0), rest
