r"""The Omega-block on listed pairs of components, where all others are left out.

The semi-dual of `entropic`, whose variables are the potentials of the target, on the host: patterns change from call to
call, and SciPy's sparse products need no program for each. Every step is one of Sinkhorn's and one of Newton's, whose
linear system, a graph Laplacian, is solved by conjugate gradients, or directly; the regularization falls to the one
wanted where the start is far.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._base.results import RESULTS

# How far a start may miss the marginals, and a stop on the path; how the regularization falls, and steps at one value.
_GUARD, _STAGE, _FACTOR, _LEAST_FACTOR, _PATIENCE = 0.3, 0.1, 4.0, 1.4, 60
_CG_STEPS, _TRIES = 300, 13
# Target components up to which systems are solved directly, and what is added to their diagonals.
_DIRECT, _GROUND = 500, 1e-13
# The largest exponent: times a weight of zero, an infinite power would be no number.
_LARGEST = 600.0


class Pairs(NamedTuple):
    """Pairs of components, sorted by source; every component is in one.

    Attributes:
        source: Source component of each pair.
        target: Target component of each pair.
        shape: Numbers of components of both sides.
    """

    source: np.ndarray
    target: np.ndarray
    shape: tuple[int, int]

    def table(self, values: np.ndarray) -> Any:
        """Values of the pairs as a sparse matrix of SciPy."""
        import scipy.sparse

        starts = np.searchsorted(self.source, np.arange(self.shape[0] + 1))
        return scipy.sparse.csr_array((values, self.target, starts), self.shape)


class ListedCoupling(NamedTuple):
    """A coupling of the weights on listed pairs, with its evidence.

    Attributes:
        density: Omega over the product of the weights, for each pair.
        source_potential: The dual variable lambda, shape ``[K0]``.
        target_potential: The dual variable tau, shape ``[K1]``.
        marginal_error: L1 error of the rows plus that of the columns.
        num_steps: Steps taken.
        result: Why the solve stopped.
    """

    density: np.ndarray
    source_potential: np.ndarray
    target_potential: np.ndarray
    marginal_error: float
    num_steps: int
    result: Any


def density_of(gain: np.ndarray, epsilon: float) -> np.ndarray:
    """Omega over the product of the weights, for what potentials exceed the costs by; finite."""
    return np.exp(np.minimum(gain / epsilon, _LARGEST))


class _Point(NamedTuple):
    """A coupling whose rows are exact, at a potential of the target."""

    potential: np.ndarray
    shares: np.ndarray
    columns: np.ndarray
    residual: np.ndarray
    error: float


def listed_coupling(
    pairs: Pairs,
    costs: np.ndarray,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    tolerance: float,
    start: np.ndarray,
    max_steps: int,
) -> ListedCoupling:
    """Couple the weights on listed pairs, for a positive regularization; all in float64.

    Args:
        pairs: The pairs.
        costs: Their costs, units of squared distance.
        a: Source weights.
        b: Target weights.
        epsilon: Regularization, units of squared distance.
        tolerance: Largest accepted marginal error.
        start: Potential of the target to start from.
        max_steps: Limit on the number of steps.
    """
    problem = _Problem(pairs, costs, a, b)
    point, level = problem.evaluate(start, epsilon), epsilon
    top, factor = max(epsilon, float(np.ptp(costs)) / 2), _FACTOR**2
    steps, here = 0, 0 if point.error < _GUARD else _PATIENCE
    while steps < max_steps and not (level == epsilon and point.error <= 0.5 * tolerance):
        if level == epsilon and here >= _PATIENCE:
            # A start that is far, or that deceives: the regularization comes down from where all is easy, and slower
            # where that has failed.
            factor **= 0.5
            if factor < _LEAST_FACTOR:
                break
            point, level, here = problem.evaluate(np.zeros_like(b), top), top, 0
        elif level > epsilon and (here >= _PATIENCE or point.error <= _STAGE):
            level, here = (epsilon if level <= 1.5 * factor * epsilon else level / factor), 0
            point = problem.evaluate(point.potential, level)
        else:
            point, here = problem.step(point, level), here + 1
        steps += 1
    return problem.coupling(point.potential, epsilon, tolerance, steps)


class _Problem:
    """The semi-dual of one list of pairs."""

    def __init__(self, pairs: Pairs, costs: np.ndarray, a: np.ndarray, b: np.ndarray):
        self.pairs, self.costs, self.a, self.b = pairs, costs, a, b
        self.starts = np.searchsorted(pairs.source, np.arange(pairs.shape[0]))
        with np.errstate(divide="ignore"):
            self.log_a, self.log_b = np.log(a), np.log(b)

    def evaluate(self, potential: np.ndarray, epsilon: float) -> _Point:
        """The coupling with exact rows."""
        source, target, (_, num) = self.pairs
        scaled = self.log_b[target] + (potential[target] - self.costs) / epsilon
        shares = np.exp(scaled - np.maximum.reduceat(scaled, self.starts)[source])
        shares /= np.add.reduceat(shares, self.starts)[source]
        columns = np.bincount(target, self.a[source] * shares, num)
        residual = self.b - columns
        return _Point(potential, shares, columns, residual, float(np.abs(residual).sum()))

    def step(self, point: _Point, epsilon: float) -> _Point:
        """Sinkhorn's step, which no column withstands, and Newton's from there."""
        used = self.b > 0
        ratio = np.where(used, self.log_b - np.log(np.maximum(point.columns, np.finfo(float).tiny)), 0.0)
        point = self.evaluate(point.potential + epsilon * np.where(used, ratio, 0.0), epsilon)
        direction = self.direction(point)
        slope = float(point.residual @ direction)
        if not slope > 0:
            return point

        def moved(size: float) -> _Point:
            return self.evaluate(point.potential + epsilon * size * direction, epsilon)

        found = moved(1.0)
        if found.error < 0.5 * point.error:
            return found
        return _ascend(moved, direction, slope)

    def direction(self, point: _Point) -> np.ndarray:
        """Newton's direction for the column sums, from a Laplacian that is lightly grounded."""
        table = self.pairs.table(point.shares)
        ground = _GROUND * point.columns + np.finfo(float).tiny
        found = self._iterated(table, ground, point) if self.b.size > _DIRECT else None
        # Where little holds the graph together, conjugate gradients do not arrive.
        found = self._eliminated(table, ground, point) if found is None else found
        return np.where(np.isfinite(found) & (self.b > 0), found, 0.0)

    def _iterated(self, table: Any, ground: np.ndarray, point: _Point) -> np.ndarray | None:
        """The solution by conjugate gradients, ``None`` where it takes many."""
        import scipy.sparse.linalg as linear

        back, num = table.T, self.b.size

        def apply(x: np.ndarray) -> np.ndarray:
            return (point.columns + ground) * x - back @ (self.a * (table @ x))

        own = np.bincount(self.pairs.target, self.a[self.pairs.source] * point.shares**2, num)
        diagonal = np.maximum(point.columns - own, 0) + ground
        system = linear.LinearOperator((num, num), apply)
        scale = linear.LinearOperator((num, num), lambda x: x / diagonal)
        accuracy = min(1e-2, point.error)
        found, missed = linear.cg(system, point.residual, rtol=accuracy, maxiter=_CG_STEPS, M=scale)
        return None if missed else found

    def _eliminated(self, table: Any, ground: np.ndarray, point: _Point) -> np.ndarray:
        """The solution by a factorization; the diagonal is summed, not subtracted."""
        import scipy.linalg

        system = (table.T @ (table * self.a[:, None])).toarray()
        np.negative(system, out=system)
        np.fill_diagonal(system, 0.0)
        np.fill_diagonal(system, ground - system.sum(axis=1))
        try:
            factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            return point.residual / np.maximum(point.columns, np.finfo(float).tiny)
        return scipy.linalg.cho_solve(factor, point.residual, check_finite=False)

    def coupling(self, potential: np.ndarray, epsilon: float, tolerance: float, num_steps: int) -> ListedCoupling:
        """The coupling with exact rows, with potentials of components without weight too."""
        source, target, (_, num) = self.pairs
        rows = _soft_minimum(self.costs - potential[target], self.log_b[target], self.starts, epsilon)
        order = np.argsort(target, kind="stable")
        behind = (self.costs - rows[source])[order]
        columns_start = np.searchsorted(target[order], np.arange(num))
        columns = _soft_minimum(behind, self.log_a[source][order], columns_start, epsilon)
        potential = np.where(self.b > 0, potential, columns)
        density = density_of(rows[source] + potential[target] - self.costs, epsilon)
        weights = self.a[source] * self.b[target] * density
        error = np.abs(np.bincount(source, weights, self.a.size) - self.a).sum()
        error = float(error + np.abs(np.bincount(target, weights, num) - self.b).sum())
        result = RESULTS.successful if error <= tolerance else RESULTS.weights_not_converged
        # Both sides carry the same mean under the weights.
        shift = (self.a @ rows - self.b @ potential) / 2
        return ListedCoupling(density, rows - shift, potential + shift, error, num_steps, result)


def _soft_minimum(costs: np.ndarray, log_weights: np.ndarray, starts: np.ndarray, epsilon: float) -> np.ndarray:
    """The soft minimum of each row of costs, which stand one after another."""
    scaled = log_weights - costs / epsilon
    peak = np.maximum.reduceat(scaled, starts)
    sizes = np.diff(np.append(starts, scaled.size))
    with np.errstate(invalid="ignore"):
        sums = np.add.reduceat(np.exp(scaled - np.repeat(peak, sizes)), starts)
    return -epsilon * (peak + np.log(sums))


def _ascend(moved: Callable[[float], _Point], direction: np.ndarray, slope: float) -> _Point:
    """The point along a direction where the derivative has dropped to half, by bracketing its zero."""
    low, high, size = 0.0, np.inf, min(1.0, 30 / max(float(np.abs(direction).max()), 1e-300))
    found = moved(size)
    for _ in range(_TRIES):
        value = float(found.residual @ direction)
        if abs(value) <= 0.5 * slope:
            break
        low, high = (size, high) if value > 0 else (low, size)
        size = 2 * size if np.isinf(high) else 0.5 * (low + high) if low > 0 else 0.3 * high
        found = moved(size)
    return found
