"""Features whose laws differ among points that are alike otherwise: shares of groups that change do not count."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float

from .marginal import as_share, effective, either, holm, kolmogorov_p

# Leading components of unflagged features that say what a point is like; power iterations; rounds of flagging.
_MOST_SCORES, _ITERATIONS, _ROUNDS = 10, 6, 4


class Adjusted(NamedTuple):
    """What differs given what points are like.

    Attributes:
        p: p-values.
        rest: Residuals that keep the group's effect, of source and target points.
        scores: What points are like, of both.
    """

    p: Float[np.ndarray, " d"]
    rest: tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]
    scores: tuple[Float[np.ndarray, "n s"], Float[np.ndarray, "m s"]]


def adjusted_p(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    level: float,
    x_weight: Any = None,
    y_weight: Any = None,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
) -> Adjusted:
    """p-values of equal laws of each feature given what points are like.

    Each feature is regressed on the leading principal components of the features that are not flagged, and on the
    group. The p-value is from the test of the group's slope, with errors that hold for any variances (HC3), and that
    of Kolmogorov and Smirnov for residuals.

    Args:
        x: Source points.
        y: Target points.
        level: Features below it are flagged, and left out of the components in the next round.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
        scores: What points are like, where that is known.
    """
    both = np.concatenate([x, y]).astype(np.float64)
    shares = as_share(x, x_weight), as_share(y, y_weight)
    weight = np.concatenate([share * effective(share) for share in shares])
    share = weight / weight.sum()
    both -= share @ both
    size = np.sqrt(share @ both**2)
    both /= np.where(size > 0, size, 1.0)
    num = len(x)
    group = np.repeat([0.0, 1.0], [num, len(y)])
    if scores is not None:
        p, rest = _conditional(both, group, np.concatenate(scores), weight)
        return Adjusted(p, (rest[:num], rest[num:]), scores)
    flagged = np.zeros(both.shape[1], bool)
    p, rest, like = np.ones(both.shape[1]), both, np.zeros((len(both), 0))
    for _ in range(_ROUNDS):
        like = principal_scores(both[:, ~flagged], weight)
        p, rest = _conditional(both, group, like, weight)
        before, flagged = flagged, holm(p) <= level
        if (flagged == before).all() or flagged.all():
            break
    return Adjusted(p, (rest[:num], rest[num:]), (like[:num], like[num:]))


def principal_scores(points: Float[np.ndarray, "n c"], weight: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n s"]:
    """Leading principal components, by power iterations from a start that does not depend on anything random."""
    root = np.sqrt(weight)[:, None]
    weighted = points * root
    num = min(_MOST_SCORES, max(points.shape[1] // 5, 1))
    basis = np.random.default_rng(0).standard_normal((points.shape[1], num + 5))
    for _ in range(_ITERATIONS):
        basis, _ = np.linalg.qr(weighted.T @ (weighted @ basis))
    _, values, right = np.linalg.svd(weighted @ basis, full_matrices=False)
    used = values[:num] > 1e-9 * max(values[0], 1e-300)
    return points @ basis @ right[:num].T / np.where(used, values[:num], np.inf)


def _conditional(
    points: Float[np.ndarray, "n d"],
    group: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, "n s"],
    weight: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "n d"]]:
    """p-values of each feature given scores, and residuals that keep the group's effect."""
    scores = scores[:, np.any(scores != 0, axis=0)]
    known = np.column_stack([np.ones(len(points)), scores, group])
    root = np.sqrt(weight)[:, None]
    base, triangle = np.linalg.qr(root * known)
    slopes = np.linalg.solve(triangle, base.T @ (root * points))
    rest = points - known @ slopes
    leverage = np.minimum(np.sum(base**2, axis=1), 1 - 1e-9)
    # The row of the pseudoinverse that gives the group's slope.
    row = np.linalg.solve(triangle, base.T)[-1]
    error = np.sqrt((row**2) @ (root * rest / (1 - leverage)[:, None]) ** 2)
    score = np.where(error > 0, np.abs(slopes[-1]) / np.where(error > 0, error, 1.0), 0.0)
    slope_p = 2 * scipy.special.ndtr(-score)
    rest = rest + np.outer(group, slopes[-1])
    first = group == 0
    gap_p = kolmogorov_p(rest[first], rest[~first], weight[first], weight[~first])
    return either(slope_p, gap_p), rest
