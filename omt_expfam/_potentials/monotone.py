"""Increasing functions of one variable that send one sample to another, on the host: piecewise linear, and smooth.

Quantiles of a few thousand points are known to a few hundredths of a standard deviation: a function that follows them
closely follows chance. So neighboring slopes are held together, as firmly as held-out points suggest.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

# Segments between knots, parts of equal mass whose means are fitted, and the levels between which inner knots lie.
SEGMENTS, _PARTS, _TAIL = 14, 400, 0.01
# How firmly slopes may be held together, over the number of points; the largest is all but a straight line. And how
# firmly they are where nothing is chosen.
_FIRMNESS = (1.0, 10.0, 40.0, 160.0, 4000.0)
USUAL = 40.0
# Parts of the points, each held out in turn; with fewer points nothing is chosen.
_FOLDS, _FEWEST = 3, 60
# A function has a firmness of its own where held-out points gain by so many standard errors; it votes by no more.
_GAIN = 2.0


class Lines(NamedTuple):
    """Increasing piecewise linear functions of d variables, one of each, with a slope for each end.

    The first and the last knot of a fitted function are the least and the largest value that was seen.

    Attributes:
        knots: Where they bend, ascending.
        values: Their values there.
        ends: Slopes before the first knot and after the last one.
    """

    knots: Float[np.ndarray, "d knots"]
    values: Float[np.ndarray, "d knots"]
    ends: Float[np.ndarray, "d 2"]

    def images(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Values at points."""
        found = np.empty(x.shape)
        for j, column in enumerate(x.T):
            inside = np.interp(column, self.knots[j], self.values[j])
            below = np.minimum(column - self.knots[j, 0], 0)
            above = np.maximum(column - self.knots[j, -1], 0)
            found[:, j] = inside + self.ends[j, 0] * below + self.ends[j, 1] * above
        return found

    def inverse(self) -> "Lines":
        """The inverse functions."""
        return Lines(self.values, self.knots, 1 / self.ends)

    def integrals(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        """Integrals from the first knot to points."""
        images, found = self.images(x), np.empty(x.shape)
        steps = np.cumsum((self.values[:, 1:] + self.values[:, :-1]) / 2 * np.diff(self.knots, axis=1), axis=1)
        before = np.column_stack([np.zeros(len(self.knots)), steps])
        for j, column in enumerate(x.T):
            at = np.clip(np.searchsorted(self.knots[j], column) - 1, 0, self.knots.shape[1] - 1)
            mean = (self.values[j, at] + images[:, j]) / 2
            found[:, j] = before[j, at] + mean * (column - self.knots[j, at])
        return found

    def terms(
        self, x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
        """Terms whose means, of x and of y, add up to the dual value of each variable, at most its squared W2.

        They are x^2 - 2 h(x) and y^2 - 2 h*(y), where h is the integral of the function.
        """
        back = self.inverse().images(y)
        return x**2 - 2 * self.integrals(x), y**2 - 2 * (back * y - self.integrals(back))


class Fitted(NamedTuple):
    """The parameters of such functions: knots, the value at the first one, and slopes of all segments and ends."""

    knots: Float[np.ndarray, "d knots"]
    levels: Float[np.ndarray, " d"]
    slopes: Float[np.ndarray, "d segments"]

    @property
    def lines(self) -> Lines:
        """The functions."""
        steps = np.cumsum(self.slopes[:, 1:-1] * np.diff(self.knots, axis=1), axis=1)
        values = self.levels[:, None] + np.column_stack([np.zeros(len(self.levels)), steps])
        return Lines(self.knots, values, self.slopes[:, [0, -1]])


def fit_monotone(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    x_weight: Any = None,
    y_weight: Any = None,
    curvature: float = 0.02,
    choose: bool = True,
    beyond: Float[np.ndarray, " d"] | float = 1.0,
) -> Fitted:
    """Functions whose values at the quantiles of x are nearly those of y.

    What lies outside of all that was seen of a variable moves as far as what was seen last: a few cells that express a
    gene tell nothing of a slope there.

    Args:
        x: Source points.
        y: Target points.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
        curvature: The least slope.
        choose: Whether held-out points say how firmly slopes are held together: one firmness for all variables, but
            for those that gain by another one by more than two standard errors.
        beyond: Slopes outside of all values of x: one where x and y are in the same units.
    """
    weights, ends = (x_weight, y_weight), np.broadcast_to(np.maximum(beyond, curvature), x.shape[1:])
    firmness = np.full(x.shape[1], USUAL)
    if choose and x.shape[1] and min(len(x), len(y)) >= _FEWEST:
        firmness = _chosen(x, y, weights, curvature, ends)
    return _fit(x, y, weights, firmness, curvature, ends)


def _chosen(x: np.ndarray, y: np.ndarray, weights: Any, curvature: float, beyond: np.ndarray) -> np.ndarray:
    """How firmly the slopes of each variable are held together, by the dual value of points that are held out."""
    num, dim = len(_FIRMNESS), x.shape[1]
    sums = np.zeros((num, dim))
    squares = np.zeros((num, num, dim))
    folds = [np.random.default_rng(0).permutation(len(side)) % _FOLDS for side in (x, y)]
    for fold in range(_FOLDS):
        parts = [side[own != fold] for side, own in zip((x, y), folds, strict=True)]
        known = [None if w is None else w[own != fold] for w, own in zip(weights, folds, strict=True)]
        held = [side[own == fold].astype(np.float64) for side, own in zip((x, y), folds, strict=True)]
        fits = [
            _fit(parts[0], parts[1], known, np.full(dim, one), curvature, beyond).lines.terms(*held)
            for one in _FIRMNESS
        ]
        for side in (0, 1):
            weight = weights[side]
            share = np.ones(len(held[side])) if weight is None else weight[folds[side] == fold]
            share = share / share.sum() / _FOLDS
            terms = np.array([fit[side] for fit in fits])
            means = np.einsum("n,fnd->fd", share, terms)
            sums += means
            for k in range(num):
                each = terms - terms[k]
                squares[k] += np.einsum("n,fnd->fd", share**2, (each - each.mean(axis=1, keepdims=True)) ** 2)
    # Gains over the usual firmness in standard errors, of which no variable brings more than some.
    usual = _FIRMNESS.index(USUAL)
    scores = (sums - sums[usual]) / np.sqrt(np.maximum(squares[usual], 1e-300))
    common = int(np.argmax(np.clip(scores, -_GAIN, _GAIN).sum(axis=1)))
    best = sums.argmax(axis=0)
    columns = np.arange(dim)
    gain, error = sums[best, columns] - sums[common], np.sqrt(squares[common, best, columns])
    return np.array(_FIRMNESS)[np.where(gain > _GAIN * error, best, common)]


def _fit(
    x: np.ndarray, y: np.ndarray, weights: Any, firmness: np.ndarray, curvature: float, beyond: np.ndarray
) -> Fitted:
    num, other = len(x), len(y)
    firm = firmness * (num + other) / (2 * num * other)
    knots, levels, slopes = [], [], []
    for j in range(x.shape[1]):
        source, target = (_ordered(side[:, j], weight) for side, weight in zip((x, y), weights, strict=True))
        at = _knots(*source)
        level, slope = _nearest(at, _means(*source), _means(*target), firm[j], curvature)
        knots.append(at)
        levels.append(level)
        slopes.append(np.concatenate([beyond[j : j + 1], slope, beyond[j : j + 1]]))
    shapes = (-1, SEGMENTS + 1), (-1,), (-1, SEGMENTS + 2)
    return Fitted(*(np.reshape(np.array(a), shape) for a, shape in zip((knots, levels, slopes), shapes, strict=True)))


def _ordered(values: np.ndarray, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values of positive weight, ascending, and which share of all is at most as far."""
    share = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
    order = np.argsort(values, kind="stable")
    order = order[share[order] > 0]
    below = np.cumsum(share[order])
    return values[order].astype(np.float64), below / below[-1]


def _means(values: np.ndarray, below: np.ndarray) -> Float[np.ndarray, " parts"]:
    """Means of the values within each of some parts of equal mass, in order."""
    grid = np.arange(_PARTS + 1) / _PARTS
    so_far = np.concatenate([[0.0], np.cumsum(values * np.diff(below, prepend=0.0))])
    return _PARTS * np.diff(np.interp(grid, np.concatenate([[0.0], below]), so_far))


def _knots(values: np.ndarray, below: np.ndarray) -> Float[np.ndarray, " knots"]:
    """The least value, some quantiles, and the largest value; where they are tied, other values in their place."""
    levels = np.linspace(_TAIL, 1 - _TAIL, SEGMENTS - 1)
    inner = np.interp(levels, below - np.diff(below, prepend=0.0) / 2, values)
    at = np.concatenate([values[:1], inner, values[-1:]])
    different = np.unique(at)
    spare = len(at) - len(different)
    others = np.setdiff1d(values, different) if spare else values
    if spare and len(others):
        some = others[np.round(np.linspace(0, len(others) - 1, spare + 2)[1:-1]).astype(int)]
        at = np.sort(np.concatenate([different, some]))
    return at


def _nearest(
    knots: np.ndarray, source: np.ndarray, target: np.ndarray, firm: float, curvature: float
) -> tuple[float, Float[np.ndarray, " segments"]]:
    """Level at the first knot and slopes between knots of the increasing function nearest to pairs of quantiles."""
    import scipy.optimize

    left, right = knots[:-1], knots[1:]
    table = np.minimum(np.maximum(source[:, None] - left, 0), right - left)
    num = table.shape[1]
    # The level has either sign; slopes start at the least one. Of segments without points the slope is one.
    rest = target - table @ np.full(num, curvature)
    prior = 1e-3 * np.eye(num)
    together = np.sqrt(firm * len(source)) * source.std() * np.diff(np.eye(num), axis=0)
    below = np.concatenate([prior, together])
    wide = np.block(
        [[np.ones((len(source), 1)), -np.ones((len(source), 1)), table], [np.zeros((len(below), 2)), below]]
    )
    goal = np.concatenate([rest, np.diag(prior) * (1 - curvature), np.zeros(num - 1)])
    found, _ = scipy.optimize.nnls(wide, goal)
    return found[0] - found[1], found[2:] + curvature
