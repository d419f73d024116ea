"""How far apart two mixtures or two clouds of points are (bounds and an estimate of W2), and two plans."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._base.arrays import spread_indices
from .._base.xla import program
from .._components.columns import require_numbers
from .._components.mixture import cast_mixture, Mixture
from .._components.relabel import relabel
from .._plans.plan import TransportPlan
from .._plans.transport import transport

# Pairs of points that are matched anew for the estimate of W2: the matching takes a tenth of a second.
_NUM_PAIRS = 1000


class Distances(NamedTuple):
    """What is known of the Wasserstein-2 distance of two laws, in units of distance.

    Attributes:
        lower: A lower bound: W2 of the normal laws with the same means and covariances (Gelbrich, 1990).
        estimate: An estimate, within the bounds.
        upper: An upper bound, the distance of one particular coupling; NaN where none is at hand.
    """

    lower: float
    estimate: float
    upper: float


def mixture_distances(key: Any, first: Mixture, second: Mixture) -> Distances:
    r"""Distances of two mixtures.

    The upper bound is $D_M^{1/2}$, from their transport without regularization (Delon and Desolneux, 2020). For the
    estimate, 1000 pairs are drawn from that optimal coupling and matched anew. Its square is in expectation never above
    $D_M$, since matching only lowers the cost of the pairs, and never below $W_2^2$, which is convex in the two laws;
    its bias is the smaller the closer the mixture coupling is to the best one.
    """
    require_numbers("A distance between mixtures", first.components, second.components)
    if same_arrays(first, second):
        return Distances(0.0, 0.0, 0.0)
    with jax.enable_x64(True):
        first, second = (cast_mixture(mixture, jnp.dtype("float64")) for mixture in (first, second))
        moments = [np.asarray(value) for m in (first, second) for value in _moments_of(m)]
        lower = float(gelbrich_distance(*moments))
        try:
            plan = transport(first, second, epsilon_components=0.0, epsilon_weights=0.0, progress=False)
        except ValueError:
            # Components that are coupled numerically have no unregularized coupling.
            plan = None
        if plan is None:
            return _within(lower, _matched_squares(key, first, second), np.inf)
        pairs = [np.asarray(side) for side in plan.sample_joint(key, _NUM_PAIRS)]
        upper = max(float(plan.cost), 0.0)
    return _within(lower, _matched_cost(*pairs), upper)


def cloud_distances(first: np.ndarray, second: np.ndarray, paired: bool) -> Distances:
    """Distances of the empirical laws of two clouds of points; row i of one belongs to row i of the other if paired.

    Paired, the upper bound is that of the pairs, and the estimate is made as for mixtures; else there is no upper
    bound, and matching evenly many points of each overestimates.
    """
    if paired and np.array_equal(first, second):
        return Distances(0.0, 0.0, 0.0)
    moments = [value for points in (first, second) for value in _moments(points)]
    lower = float(gelbrich_distance(*moments))
    if paired:
        upper = float(np.mean(np.sum((first - second) ** 2, axis=1)))
        chosen = spread_indices(len(first), _NUM_PAIRS)
        return _within(lower, _matched_cost(first[chosen], second[chosen]), upper)
    num = min(len(first), len(second), _NUM_PAIRS)
    pairs = [points[spread_indices(len(points), num)] for points in (first, second)]
    return _within(lower, _matched_cost(*pairs), np.inf)


def gelbrich_distance(
    mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> np.ndarray:
    r"""W2 of normal laws, one pair or a batch; at most the W2 of any laws with these moments.

    $\|m - m'\|^2 + \min_U \|A - U B\|_F^2$ over orthogonal $U$, with factors $A^T A$ and $B^T B$ of the covariances:
    unlike differences of traces this loses no digits where the laws are close.
    """
    a, b = (_factor(c) for c in (covariance, other_covariance))
    left, _, right = np.linalg.svd(a @ np.swapaxes(b, -1, -2))
    squares = np.sum((a - left @ right @ b) ** 2, axis=(-2, -1)) + np.sum((mean - other_mean) ** 2, axis=-1)
    return np.asarray(np.sqrt(squares))


def weights_change(reference: TransportPlan, plan: TransportPlan) -> float:
    """L1 distance of two couplings of the weights, from 0 to 2, under the best labels for the components of the second.

    NaN where the plans differ in family or in number of components, which leaves no labels in common.
    """
    try:
        orders = [_order(*sides) for sides in ((plan.source, reference.source), (plan.target, reference.target))]
    except ValueError:
        return float("nan")
    moved = np.asarray(plan.weights, np.float64)[np.ix_(*orders)]
    return float(np.abs(moved - np.asarray(reference.weights, np.float64)).sum())


def same_arrays(first: Any, second: Any) -> bool:
    """Whether two pytrees hold the same numbers."""
    if jax.tree.structure(first) != jax.tree.structure(second):
        return False
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in leaves)


def _order(mixture: Mixture, reference: Mixture) -> np.ndarray:
    """The component of the mixture that corresponds to each one of the reference."""
    if same_arrays(mixture, reference):
        return np.arange(reference.num_components)
    return relabel(jax.tree.map(lambda leaf: leaf[None], mixture), reference)[1][0]


def _within(lower: float, estimated_squares: float, upper_squares: float) -> Distances:
    upper = float(np.sqrt(upper_squares))
    # Both bounds are exact, so where they cross it is by rounding.
    lower = min(lower, upper)
    estimate = float(np.clip(np.sqrt(max(estimated_squares, 0.0)), lower, upper))
    return Distances(lower, estimate, upper if np.isfinite(upper) else float("nan"))


def _matched_squares(key: Any, first: Mixture, second: Mixture) -> float:
    """Mean squared distance of matched draws, made with common random numbers."""
    draws = [np.asarray(m.sample(jax.random.clone(key), _NUM_PAIRS)) for m in (first, second)]
    return _matched_cost(*draws)


def _matched_cost(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    costs = cdist(first, second, "sqeuclidean")
    return float(costs[linear_sum_assignment(costs)].mean())


@program
def _moments_of(mixture: Mixture) -> tuple[Array, Array]:
    return mixture.mean(), mixture.covariance()


def _moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = points.mean(axis=0)
    offset = points - mean
    return mean, offset.T @ offset / len(points)


def _factor(covariance: np.ndarray) -> np.ndarray:
    """Matrices A with A^T A the covariances."""
    values, vectors = np.linalg.eigh(covariance)
    return np.sqrt(np.maximum(values, 0.0))[..., :, None] * np.swapaxes(vectors, -1, -2)
