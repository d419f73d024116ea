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
# How far slopes may be drawn towards those that all functions have on average; and of how many functions at least.
_ALIKE, _FEWEST_ALIKE = (0.0, 0.25, 0.5, 0.75, 1.0), 8


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

    Where held-out points say so, slopes are drawn towards those that all functions have on average, at the same
    quantiles (Efron and Morris, 1975): a slope of one function is known less well than its mean over many.

    What lies outside of all that was seen of a variable moves as far as what was seen last: a few cells that express a
    gene tell nothing of a slope there.

    Args:
        x: Source points.
        y: Target points.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
        curvature: The least slope.
        choose: Whether held-out points say how firmly slopes are held together, one firmness for all variables, but
            for those that gain by another one by more than two standard errors; and how alike slopes of all are.
        beyond: Slopes outside of all values of x: one where x and y are in the same units.
    """
    weights, ends = (x_weight, y_weight), np.broadcast_to(np.maximum(beyond, curvature), x.shape[1:])
    firmness, alike = np.full(x.shape[1], USUAL), 0.0
    if choose and x.shape[1] and min(len(x), len(y)) >= _FEWEST:
        firmness, alike = _chosen(x, y, weights, curvature, ends)
    return _drawn(_fit(x, y, weights, firmness, curvature, ends), alike, x, y, weights, curvature)


def _drawn(fitted: Fitted, alike: float, x: Any, y: Any, weights: Any, curvature: float) -> Fitted:
    """The same with slopes that are drawn towards their mean over all functions, in the points' own units."""
    if not alike:
        return fitted
    units = fitted.slopes[:, :1]
    inner = fitted.slopes[:, 1:-1] / units
    inner = np.maximum(units * ((1 - alike) * inner + alike * inner.mean(axis=0)), curvature)
    drawn = fitted._replace(slopes=np.concatenate([fitted.slopes[:, :1], inner, fitted.slopes[:, -1:]], axis=1))
    first, second = (
        np.average(points, axis=0, weights=w) for points, w in zip((drawn.lines.images(x), y), weights, strict=True)
    )
    return drawn._replace(levels=drawn.levels + second - first)


def _chosen(
    x: np.ndarray, y: np.ndarray, weights: Any, curvature: float, beyond: np.ndarray
) -> tuple[np.ndarray, float]:
    """How firmly slopes are held together, for each variable, and how alike they are, by points that are held out."""
    kept: list[Any] = []
    folds = [np.random.default_rng(0).permutation(len(side)) % _FOLDS for side in (x, y)]
    for fold in range(_FOLDS):
        parts = [side[own != fold] for side, own in zip((x, y), folds, strict=True)]
        known = [None if w is None else w[own != fold] for w, own in zip(weights, folds, strict=True)]
        held = [side[own == fold].astype(np.float64) for side, own in zip((x, y), folds, strict=True)]
        shares = [
            np.ones(own.sum()) if w is None else np.asarray(w, np.float64)[own]
            for w, own in zip(weights, (own == fold for own in folds), strict=True)
        ]
        fits = [_fit(parts[0], parts[1], known, np.full(x.shape[1], one), curvature, beyond) for one in _FIRMNESS]
        kept.append((parts, known, held, [share / share.sum() / _FOLDS for share in shares], fits))
    usual, alike = _FIRMNESS.index(USUAL), 0.0
    if x.shape[1] >= _FEWEST_ALIKE:
        drawn = [
            [_drawn(fits[usual], one, parts[0], parts[1], known, curvature).lines for one in _ALIKE]
            for parts, known, *_, fits in kept
        ]
        sums, squares = _compared(drawn, kept)
        # In units of the largest step: differences of small steps are known well, and are small.
        alike = _ALIKE[_voted(sums, np.broadcast_to(squares[:, -1:], squares.shape), 0)]
        # With all points, slopes are known better than with those of two folds.
        alike *= (_FOLDS - 1) / (_FOLDS - alike)
    lines = [
        [_drawn(fit, alike, parts[0], parts[1], known, curvature).lines for fit in fits]
        for parts, known, *_, fits in kept
    ]
    sums, squares = _compared(lines, kept)
    common = _voted(sums, squares, usual)
    best, columns = sums.argmax(axis=0), np.arange(x.shape[1])
    gain, error = sums[best, columns] - sums[common], np.sqrt(squares[common, best, columns])
    return np.array(_FIRMNESS)[np.where(gain > _GAIN * error, best, common)], alike


def _compared(lines: list[list[Lines]], kept: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Dual values of held-out points, and squared standard errors of their differences, for each of some functions."""
    num, dim = len(lines[0]), lines[0][0].knots.shape[0]
    sums, squares = np.zeros((num, dim)), np.zeros((num, num, dim))
    for some, (_, _, held, shares, _) in zip(lines, kept, strict=True):
        found = [one.terms(*held) for one in some]
        for side, share in enumerate(shares):
            terms = np.array([values[side] for values in found])
            sums += np.einsum("n,fnd->fd", share, terms)
            for k in range(num):
                each = terms - terms[k]
                squares[k] += np.einsum("n,fnd->fd", share**2, (each - each.mean(axis=1, keepdims=True)) ** 2)
    return sums, squares


def _voted(sums: np.ndarray, squares: np.ndarray, usual: int) -> int:
    """What all variables gain most by, in standard errors beside the usual, of which none brings more than some."""
    scores = (sums - sums[usual]) / np.sqrt(np.maximum(squares[usual], 1e-300))
    return int(np.argmax(np.clip(scores, -_GAIN, _GAIN).sum(axis=1)))


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
