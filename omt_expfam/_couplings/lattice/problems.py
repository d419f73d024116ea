"""All problems of two sets of laws on whole numbers: which are equal, how they are solved, and what they cost."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._base.arrays import power_of_two, take, to_jax
from ..._base.progress import progress_bar
from ..._components.lattice_form import AbstractLattice
from .solve import LatticeNodes, LatticePlan, monotone_plans, sharp_plans, smooth_plans, solve_sharp, steps
from .table import Groups, LatticeTable
from .windows import Windows

# Regularizations below which problems are all but linear programs; the marginal error that Newton's method must reach.
_SHARP, _GOOD = 0.25, 1e-10
# The smallest size of a window in compiled programs, how many of them are solved at once, and numbers in a batch.
_LEAST, _AT_ONCE, _BATCH = 16, 64, 2**18
# Log-probability, less the largest, of numbers that pad a window.
_FLOOR = 92.0
# How much larger than what lies beyond the windows the error that it makes may be.
_LOST = 4.0
# The window of every problem when nothing can be looked at, and how many standard deviations lie below the mean.
_TRACED, _BELOW = 128, 10.0

_Method = Callable[[LatticeNodes], LatticePlan]


class LatticeSolution(NamedTuple):
    """The solved problems, one for each pair of components and coordinate.

    Attributes:
        tables: Plans seen from the source and from the target.
        rows: Which row of the tables each problem is, shape ``[K0, K1, d]``.
        costs: Mean squared distances.
        kl: KL divergences.
        errors: Bounds of the errors of cost + epsilon KL.
        marginal_error: The largest marginal error.
    """

    tables: tuple[LatticeTable, LatticeTable]
    rows: Int[Array, "K0 K1 d"]
    costs: Float[Array, "K0 K1 d"]
    kl: Float[Array, "K0 K1 d"]
    errors: Float[Array, "K0 K1 d"]
    marginal_error: Float[Array, ""]


def solve_windows(source: Windows, target: Windows, epsilon: float, progress: bool | None) -> LatticeSolution:
    """Solve every distinct problem once, in float64 and grouped by size."""
    shape = (len(source.which), *target.which.shape)
    left = np.broadcast_to(source.which[:, None, :], shape).reshape(-1)
    right = np.broadcast_to(target.which[None, :, :], shape).reshape(-1)
    pairs, rows = np.unique(np.stack([left, right]), axis=1, return_inverse=True)
    sides = source, target
    sizes = np.stack([side.sizes[laws] for side, laws in zip(sides, pairs, strict=True)])
    plans: list[Any] = [None] * pairs.shape[1]
    with progress_bar(pairs.shape[1], "problems of counts", progress) as bar:

        def solve(method: _Method, members: np.ndarray, sizes: np.ndarray, padding: float) -> None:
            for size, chunk, some in _chunks(_buckets(sizes[:, members])):
                nodes = _nodes(sides, pairs[:, members[some]], size, padding, epsilon, chunk)
                solved = jax.tree.map(np.asarray, method(nodes))
                for position, k in enumerate(members[some]):
                    plans[k] = take(solved, position)
                bar.update(len(some))

        every = np.arange(pairs.shape[1])
        if epsilon == 0:
            solve(monotone_plans, every, sizes, -_FLOOR)
        elif epsilon >= _SHARP:
            # Newton's method takes both sides of one size.
            solve(smooth_plans, every, np.broadcast_to(sizes.max(axis=0), sizes.shape), -_FLOOR)
        failed = [k for k, plan in enumerate(plans) if plan is None or not plan.marginal_error <= _GOOD]
        if failed and epsilon > 0:
            solve(sharp_plans, np.array(failed), sizes, -np.inf)
    return _assembled(sides, pairs, rows.reshape(shape), plans, epsilon)


def _buckets(sizes: np.ndarray) -> np.ndarray:
    """Sizes of windows rounded up to 16, 64, 256 or 1,024, so that few programs are compiled."""
    return _LEAST * 4 ** np.ceil(np.log2(np.maximum(sizes, _LEAST) / _LEAST) / 2).astype(int)


def _chunks(sizes: np.ndarray) -> Iterator[tuple[tuple[int, int], int, np.ndarray]]:
    """Both sizes, how many problems go at once, and which, for all problems."""
    for size in sorted(set(zip(*sizes.tolist(), strict=True))):
        members = np.flatnonzero((sizes == np.array(size)[:, None]).all(axis=0))
        chunk = min(max(1, min(_AT_ONCE, _BATCH // (size[0] * size[1]))), power_of_two(len(members)))
        for start in range(0, len(members), chunk):
            yield size, chunk, members[start : start + chunk]


def _nodes(
    sides: tuple[Windows, Windows],
    pairs: np.ndarray,
    sizes: tuple[int, int],
    padding: float,
    epsilon: float,
    num: int,
) -> LatticeNodes:
    """Numbers and normalized log-probabilities of some problems, the last one repeated up to a number of them."""
    pairs = pairs[:, np.minimum(np.arange(num), pairs.shape[1] - 1)]
    values: list[Any] = []
    for side, laws, size in zip(sides, pairs, sizes, strict=True):
        inside = np.arange(size)[None, :] < side.sizes[laws][:, None]
        log_mass = np.stack([np.pad(side.log_masses[k], (0, size - len(side.log_masses[k]))) for k in laws])
        top = np.max(np.where(inside, log_mass, -np.inf), axis=1, keepdims=True)
        log_mass = np.maximum(np.where(inside, log_mass, -np.inf), top + padding)
        numbers = np.stack([_extended(side.numbers[k], size, int(side.stride[k])) for k in laws])
        values += [numbers, log_mass - np.log(np.exp(log_mass).sum(axis=1, keepdims=True))]
    values.append(np.full(num, epsilon))
    x, log_a, y, log_b, epsilons = values
    return LatticeNodes(x, log_a, y, log_b, epsilons)


def _extended(numbers: np.ndarray, size: int, stride: int) -> np.ndarray:
    """Numbers, and as many that follow them as are missing."""
    return np.concatenate([numbers, numbers[-1] + stride * np.arange(1.0, size - len(numbers) + 1)])


def _assembled(
    sides: tuple[Windows, Windows], pairs: np.ndarray, rows: np.ndarray, plans: list[LatticePlan], epsilon: float
) -> LatticeSolution:
    """Tables of all plans, and what every problem costs."""
    source, target = sides
    cost, kl, residual, spread = (
        np.array([float(value) for value in values])
        for values in zip(*((p.cost, p.kl, p.marginal_error, p.spread) for p in plans), strict=True)
    )
    left, right = (take(side, laws) for side, laws in zip((_numbers(s) for s in sides), pairs, strict=True))
    # What a wrong marginal may change, what lies beyond the windows, and rounding.
    gap = (left[0] - right[0]) ** 2
    errors = residual * (spread + gap) + _beyond(left, right) + 1e-11 * (cost + epsilon * kl)
    within = source.within[pairs[0]], target.within[pairs[1]]
    if any(side.stride.max() > 1 for side in sides):
        shared = _shared_in_groups(sides, pairs, plans, within, epsilon)
        apart = within[0] + within[1]
        # Where a group goes to few, all but in order, groups of both sides need not end together.
        cost, errors = cost + apart - shared, errors + shared + np.where(epsilon < 12 * apart, apart, 0.0)
    tables = tuple(
        _table(
            side, laws, [(p.potentials[k], p.means[k], p.variances[k] + within[1 - k][i]) for i, p in enumerate(plans)]
        )
        for k, (side, laws) in enumerate(zip(sides, pairs, strict=True))
    )
    cost, kl, errors = (to_jax(value[rows]) for value in (cost, kl, errors))
    return LatticeSolution((tables[0], tables[1]), to_jax(rows), cost, kl, errors, to_jax(residual.max()))


def _shared_in_groups(
    sides: tuple[Windows, Windows],
    pairs: np.ndarray,
    plans: list[LatticePlan],
    within: tuple[np.ndarray, np.ndarray],
    epsilon: float,
) -> np.ndarray:
    """By how much a plan is better than one that couples all numbers of a group alike.

    A potential f has f'' = 2 - 2 m', with m' = 2 Var(y | x) / epsilon the slope of the map; the law of x has a variance
    within groups, which adds half of f'' times that. Without regularization numbers are coupled in order. A slope that
    groups are too wide for is that of the scales.
    """
    scales = [np.sqrt(side.variance[laws]) for side, laws in zip(sides, pairs, strict=True)]
    total = np.zeros(pairs.shape[1])
    for k, (side, laws) in enumerate(zip(sides, pairs, strict=True)):
        slope = scales[1 - k] / np.where(scales[k] > 0, scales[k], 1.0)
        if epsilon > 0:
            mass = [np.exp(side.log_masses[law]) for law in laws]
            spread = [m @ p.variances[k][: len(m)] / m.sum() for m, p in zip(mass, plans, strict=True)]
            slope = np.minimum(slope, 2 / epsilon * np.array(spread))
        total += slope * within[k]
    return total


def _numbers(side: Windows) -> tuple[np.ndarray, ...]:
    return side.mean, side.variance, side.lost, side.lost_mass


def _beyond(left: Any, right: Any) -> Any:
    """What may be missing for what lies beyond two windows, from means, variances, second moments and masses there."""
    gap = (left[0] - right[0]) ** 2
    return _LOST * (left[2] + right[2] + left[3] * (gap + right[1]) + right[3] * (gap + left[1]))


def _table(side: Windows, laws: np.ndarray, values: list[Any]) -> LatticeTable:
    """One side of all plans, without padding."""
    sizes = side.sizes[laws]
    normalized = [v - np.log(np.exp(v).sum()) for v in side.log_masses]
    own = [steps(np.exp(v), np) for v in normalized]
    potentials, means, variances = (
        to_jax(np.concatenate([value[k][:size] for value, size in zip(values, sizes, strict=True)])) for k in range(3)
    )
    return LatticeTable(
        to_jax(side.first[laws]),
        to_jax(np.concatenate([[0], np.cumsum(sizes)[:-1]])),
        to_jax(sizes),
        to_jax(np.concatenate([normalized[k] for k in laws])),
        jax.tree.map(lambda *parts: to_jax(np.concatenate(parts)), *(own[k] for k in laws)),
        potentials,
        means,
        variances,
        power_of_two(int(sizes.max())),
        _groups(side, laws),
    )


def _groups(side: Windows, laws: np.ndarray) -> Groups | None:
    """Groups of neighboring numbers, where a law of one side has some."""
    if (side.stride == 1).all():
        return None
    return Groups(to_jax(side.stride[laws]), to_jax(np.concatenate([side.numbers[k] for k in laws])))


def solve_traced(source: AbstractLattice, target: AbstractLattice, shape: Any, epsilon: Float[Array, ""]) -> Any:
    """Solve every problem by itself, in windows of a fixed size; can be traced and differentiated."""
    num, other, dim = shape
    dtype = epsilon.dtype

    def side(law: AbstractLattice) -> tuple[Array, Array, Array, tuple[Array, ...]]:
        mean, variance = law._mean(), law._variance()
        first = jax.lax.stop_gradient(jnp.floor(jnp.maximum(mean - _BELOW * jnp.sqrt(variance), 0.0)))
        numbers = first + jnp.arange(_TRACED, dtype=dtype)
        log_mass = jax.vmap(law._log_mass)(numbers)
        floor = jax.lax.stop_gradient(jnp.max(log_mass)) - (_FLOOR if dtype == jnp.float64 else 60.0)
        mass = jnp.exp(log_mass)
        lost = jnp.maximum(variance - jnp.sum(mass * (numbers - mean) ** 2), 0.0), jnp.maximum(1 - jnp.sum(mass), 0.0)
        log_mass = jnp.where(log_mass > floor, log_mass, floor)
        return first, numbers, log_mass - jax.nn.logsumexp(log_mass), (mean, variance, *lost)

    def one(index: Array) -> Any:
        i, j, c = index // (other * dim), (index // dim) % other, index % dim
        left, right = side(take(source, (i, c))), side(take(target, (j, c)))
        plan = solve_sharp(LatticeNodes(*left[1:3], *right[1:3], epsilon))
        gap = (left[3][0] - right[3][0]) ** 2
        errors = jax.lax.stop_gradient(plan.marginal_error * (plan.spread + gap) + _beyond(left[3], right[3]))
        return plan, (left[0], right[0]), (left[2], right[2]), errors

    total = num * other * dim
    plans, first, log_weights, errors = jax.lax.map(jax.checkpoint(one), jnp.arange(total))
    start, size = _TRACED * jnp.arange(total), jnp.full((total,), _TRACED)

    def table(k: int) -> LatticeTable:
        own = jax.tree.map(jnp.ravel, jax.vmap(lambda v: steps(jnp.exp(v)))(log_weights[k]))
        potentials, means, variances = (v[k].ravel() for v in (plans.potentials, plans.means, plans.variances))
        place = first[k].astype(start.dtype)
        return LatticeTable(place, start, size, log_weights[k].ravel(), own, potentials, means, variances, _TRACED)

    rows = jnp.arange(total).reshape(shape)
    cost, kl, errors = (v.reshape(shape) for v in (plans.cost, plans.kl, errors))
    return LatticeSolution((table(0), table(1)), rows, cost, kl, errors, jnp.max(plans.marginal_error))
