r"""What a convex potential proves about the distance of two laws, from points that it was not trained with.

For any convex $\phi$, $\langle x, y \rangle \le \phi(x) + \phi^*(y)$, so that under every coupling
$E|X - Y|^2 \ge E[|X|^2 - 2\phi(X)] + E[|Y|^2 - 2\phi^*(Y)]$: the right side bounds $W_2^2$ from below. A solve for
$\phi^*$ that stops early makes it too large, by at most twice the gap that strong convexity allows.

From above: every coupling of two samples costs at least their distance, whose expectation is at least that of the laws
(the squared distance is jointly convex). The cheapest coupling of samples of equal size is an assignment.
"""

from typing import Any

import equinox as eqx
import numpy as np

from .._base.arguments import ArrayLike, as_key, as_points, KeyLike
from .._base.arrays import host_generator, is_traced
from .._base.precision import in_float64
from ..metrics import mmd

# Points of either side that are looked at, of more; the size of samples that are matched, and how many of them.
_MOST_POINTS, _MATCHED, _BATCHES = 10_000, 1000, 4
_LEAST_POINTS = 16
# Projections of sliced distances.
_DIRECTIONS = 200
# Relative residual of conjugate points in float64: their gaps are below rounding.
_TOLERANCE = 1e-9


class Certificate(eqx.Module):
    """Bounds of the squared Wasserstein-2 distance, and how far images are from targets; see `BrenierMap.certificate`.

    Attributes:
        lower: A lower bound of W2^2: the dual value of the potential, less ``inner_error``. Squared distance, as all.
        lower_standard_error: Its standard error.
        inner_error: A bound on what conjugate points that are not exact may have added.
        upper: An upper bound of W2^2, in expectation: the mean cost of matching samples of the two sides. It is loose
            in many dimensions, where few points lie far apart.
        upper_standard_error: Its standard error.
        map_cost: The mean squared distance that points move: W2^2 between the source and its image, as the map is the
            gradient of a convex function.
        map_cost_standard_error: Its standard error.
        plan_cost: The cost of the plan, if one was given: an upper bound of W2^2 between its two mixtures.
        sliced: Squared sliced W2 between images and targets.
        sliced_floor: The same between two samples of targets of that size.
        mmd: Unbiased squared maximum mean discrepancy between images and targets.
        mmd_floor: The same between two samples of targets.
        num_points: Points of source and target that were looked at.
    """

    lower: float
    lower_standard_error: float
    inner_error: float
    upper: float
    upper_standard_error: float
    map_cost: float
    map_cost_standard_error: float
    plan_cost: float | None
    sliced: float
    sliced_floor: float
    mmd: float
    mmd_floor: float
    num_points: tuple[int, int]

    def __repr__(self) -> str:
        plan = "" if self.plan_cost is None else f"; the plan moves its mixtures by {self.plan_cost:.5g}"
        return (
            f"Certificate from {self.num_points[0]} + {self.num_points[1]} points, in units of squared distance\n"
            f"  W2^2 at least  {self.lower:.5g} ± {self.lower_standard_error:.2g}  (dual value; conjugate points may "
            f"have added {self.inner_error:.1g}, taken off)\n"
            f"  W2^2 at most   {self.upper:.5g} ± {self.upper_standard_error:.2g}  (matched samples, in expectation)\n"
            f"  the map moves  {self.map_cost:.5g} ± {self.map_cost_standard_error:.2g}{plan}\n"
            f"  images to targets: sliced W2^2 {self.sliced:.3g} (two samples of targets {self.sliced_floor:.3g}), "
            f"MMD^2 {self.mmd:.2g} ({self.mmd_floor:.2g})"
        )


def certificate(key: KeyLike, map: Any, x: ArrayLike, y: ArrayLike, plan: Any = None) -> Certificate:
    """What the potential of a map proves; see `BrenierMap.certificate`."""
    if is_traced(x, y, map):
        raise TypeError("A certificate needs concrete points and a concrete map: it is computed on the host.")
    rng = host_generator(as_key(key))
    sides = []
    for name, value in (("x", x), ("y", y)):
        points = np.asarray(as_points(name, value, map.num_dimensions), np.float64)
        if len(points) < _LEAST_POINTS:
            raise ValueError(f"`{name}` must have at least {_LEAST_POINTS} points; got {len(points)}.")
        sides.append(points[rng.permutation(len(points))[:_MOST_POINTS]])
    source, target = sides
    images, terms, inner_error = in_float64(_dual_terms, map, source, target)
    moved = np.sum((images - source) ** 2, axis=1)
    lower, upper = sum(term.mean() for term in terms), _matched(source, target)
    half = min(len(source), len(target)) // 2
    one, other = target[:half], target[half : 2 * half]
    pairs = (images[:half], other), (images[half : 2 * half], one)
    fits, floor = [_distances(rng, *pair) for pair in pairs], _distances(rng, one, other)
    return Certificate(
        lower - inner_error,
        float(np.sqrt(sum(term.var(ddof=1) / len(term) for term in terms))),
        inner_error,
        float(upper.mean()),
        float(upper.std(ddof=1) / np.sqrt(len(upper))),
        float(moved.mean()),
        float(moved.std(ddof=1) / np.sqrt(len(moved))),
        None if plan is None else float(plan.cost),
        float(np.mean([fit[0] for fit in fits])),
        floor[0],
        float(np.mean([fit[1] for fit in fits])),
        floor[1],
        (len(source), len(target)),
    )


def _dual_terms(map: Any, x: Any, y: Any) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], float]:
    """Images, the terms whose means add to the dual value, and what inexact solves may have added to it."""
    forward = map.solve_push_forward(x, tolerance=_TOLERANCE)
    backward = map.solve_pull_back(y, tolerance=_TOLERANCE)
    terms = tuple(
        np.sum(np.asarray(points) ** 2, axis=1) - 2 * np.asarray(found.values)
        for points, found in ((x, forward), (y, backward))
    )
    gap = sum(2 * float(np.mean(np.asarray(found.value_errors))) for found in (forward, backward))
    return np.asarray(forward.points), (terms[0], terms[1]), gap


def _matched(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean costs of the best assignments between some disjoint samples of both sides."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    size = min(_MATCHED, min(len(x), len(y)) // _BATCHES)
    costs = []
    for i in range(_BATCHES):
        table = cdist(x[i * size : (i + 1) * size], y[i * size : (i + 1) * size], "sqeuclidean")
        costs.append(table[linear_sum_assignment(table)].mean())
    return np.array(costs)


def _distances(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Squared sliced W2, and unbiased squared MMD, of two samples."""
    return _sliced(rng, x, y), float(mmd(x, y))


def _sliced(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> float:
    """The mean of squared W2 over projections to random lines, where sorting matches samples of equal size."""
    ways = rng.standard_normal((x.shape[1], _DIRECTIONS))
    ways /= np.linalg.norm(ways, axis=0)
    return float(np.mean((np.sort(x @ ways, axis=0) - np.sort(y @ ways, axis=0)) ** 2))
