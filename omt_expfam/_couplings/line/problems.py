"""All one-dimensional problems of two product forms: which are equal, which can be interpolated, and their solution."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._base.arrays import map_first, power_of_two, take, to_jax
from ..._base.buckets import pad
from ..._base.progress import progress_bar
from ..._base.xla import brief_program, program, unfused
from ..._components.product_form import ProductForm
from .placement import AT_ONCE, place
from .profile import Profile, tabulate, widened
from .schedule import Bundle, counts_of, lagrange, schedule
from .solve import limit_nodes, LineNodes, LinePlan, NO_WEIGHT, place_nodes, solve_nodes
from .table import LineProblem, LineTable

# Panels of every problem when nothing can be looked at.
_TRACED_COUNT = 16
# Problems of at most so many panels are solved several at once, larger ones alone.
_SMALL = 16
# Distinct laws are padded to at least so many.
_LEAST_LAWS = 4
# Relative accuracy of quadrature and interpolation, on the cautious side.
_QUADRATURE, _INTERPOLATION = 3e-7, 3e-7
# How much larger than the second moments beyond the nodes the error that they make may be.
_LOST = 2.0
# Accuracy of distances by the monotone map, which is read off tabulated distribution functions.
_MAP = 3e-6
# How much larger the error of interpolating towards zero may be than what its last member changes.
_BRIDGE = 20.0


class Standardized(NamedTuple):
    """Means and standard deviations of all coordinates, and their distinct standardized laws.

    Attributes:
        mean: Means, shape ``[K, d]``.
        scale: Standard deviations, shape ``[K, d]``.
        shapes: The distinct laws, with one leading axis.
        which: For each component and coordinate, its law.
    """

    mean: np.ndarray
    scale: np.ndarray
    shapes: Any
    which: np.ndarray


class Solution(NamedTuple):
    """The solved problems, one for each pair of components and coordinate.

    Attributes:
        tables: Solved plans, seen from the source and from the target.
        problems: How each problem is made up of them, shape ``[K0, K1, d]``.
        costs: Mean squared distances of the standardized laws.
        kl: KL divergences, infinite at zero regularization.
        errors: Cautious estimates of the error of cost + epsilon KL.
        marginal_error: The largest marginal error among the solved problems.
    """

    tables: tuple[LineTable, LineTable]
    problems: LineProblem
    costs: Array
    kl: Array
    errors: Array
    marginal_error: Array


def moments(form: ProductForm) -> tuple[Float[Array, "K d"], Float[Array, "K d"]]:
    """Means and standard deviations of all coordinates."""
    center = _per_coordinate(lambda shape: shape._mean(), form)
    variance = _per_coordinate(lambda shape: shape._variance(), form)
    dtype = form.loc.dtype
    return form.loc + form.scale * center.astype(dtype), form.scale * jnp.sqrt(variance.astype(dtype))


def _per_coordinate(function: Any, form: ProductForm) -> Array:
    """Apply a function of one law to all; a shape may have no array to map over."""
    return jax.vmap(jax.vmap(lambda shape, _: function(shape)))(form.shape, form.loc)


_moments = program(moments)


def standardize(form: ProductForm) -> Standardized:
    """Find the distinct laws among all coordinates, up to location and scale (concrete forms only)."""
    mean, scale = jax.tree.map(np.asarray, _moments(form))
    size = mean.size
    leaves = [np.asarray(leaf, np.float64).reshape(size, -1) for leaf in jax.tree.leaves(form.shape)]
    if not leaves:
        return Standardized(mean, scale, form.shape, np.zeros(mean.shape, int))
    keys = np.concatenate(leaves, axis=1)
    # Equal up to rounding, which is what a computed ratio of scales may be off by.
    digits = np.where(keys == 0, 0, 11 - np.floor(np.log10(np.abs(np.where(keys == 0, 1, keys)))))
    _, index, which = np.unique(_round(keys, digits), axis=0, return_index=True, return_inverse=True)
    # Padded to a power of two, so that few programs are compiled.
    index = np.pad(index, (0, max(_LEAST_LAWS, power_of_two(len(index))) - len(index)), mode="edge")
    shapes = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(size, *leaf.shape[2:])[index], form.shape)
    return Standardized(mean, scale, shapes, which.reshape(mean.shape))


def _round(values: np.ndarray, digits: np.ndarray) -> np.ndarray:
    power = 10.0**digits
    return np.round(values * power) / power


# -- concrete problems -----------------------------------------------------------------------------------------------


def solve_problems(source: Standardized, target: Standardized, epsilon: float, progress: bool | None) -> Solution:
    """Solve every distinct problem once, in float64 and on the host's schedule."""
    shape = (*source.mean.shape[:1], *target.mean.shape)
    scales = source.scale[:, None, :] * target.scale[None, :, :]
    epsilons = np.broadcast_to(epsilon / scales, shape).reshape(-1)
    left = np.broadcast_to(source.which[:, None, :], shape).reshape(-1)
    right = np.broadcast_to(target.which[None, :, :], shape).reshape(-1)
    # Regularizations that agree to ten digits are one problem.
    logs = np.round(np.log(np.where(epsilons > 0, epsilons, 1.0)), 10)
    keys, index, which = np.unique(
        np.stack([left, right, np.where(epsilons > 0, logs, -np.inf)]), axis=1, return_index=True, return_inverse=True
    )
    shapes = (_stacked(source), _stacked(target))
    profiles = (_tabulated(shapes[0]), _tabulated(shapes[1]))
    distinct = [(int(keys[0, k]), int(keys[1, k]), float(epsilons[index[k]])) for k in range(keys.shape[1])]
    plan = schedule(distinct, profiles)
    bundles = list(dict.fromkeys(bundle for bundle, _, _ in plan))
    counts = counts_of(bundles, profiles)
    plans = _solve_bundles(bundles, counts, shapes, profiles, progress)
    defects = np.array([profiles[0].defect[s] + profiles[1].defect[t] for s, t, _ in distinct])
    return _assemble(distinct, plan, bundles, plans, defects, which.reshape(shape))


def _stacked(side: Standardized) -> Any:
    """The distinct laws with a leading axis, which also a law without arrays gets by counting."""
    leaves = jax.tree.leaves(side.shapes)
    return (side.shapes, np.arange(len(leaves[0]) if leaves else _LEAST_LAWS))


def _tabulated(shapes: Any) -> Profile:
    return widened(jax.tree.map(np.asarray, _tabulate_all(*shapes)))


@brief_program
def _tabulate_all(shapes: Any, count: Array) -> Profile:
    return jax.lax.map(lambda item: tabulate(item[0], np.dtype(float)), (shapes, count), batch_size=16)


@program
def _solve(nodes: LineNodes, which: Any, epsilons: Any, num: Any) -> LinePlan:
    """Several problems, each of some nodes and a regularization."""
    return map_first(lambda item: _resolved(take(nodes, item[0]), item[1]), (which, epsilons), num)


@program
def _limit(nodes: LineNodes, num: Any) -> LinePlan:
    """The unregularized plans of several problems."""
    return map_first(limit_nodes, nodes, num)


def _resolved(nodes: LineNodes, epsilon: Float[Array, ""]) -> LinePlan:
    """The plan of one problem, with its logarithms of eps taken out."""
    plan = solve_nodes(nodes, epsilon)
    potentials = tuple(f + epsilon * jnp.log(epsilon) / 4 for f in plan.potentials)
    return eqx.tree_at(lambda p: (p.potentials, p.kl), plan, (potentials, plan.kl + 0.5 * jnp.log(epsilon)))


def _solve_bundles(
    bundles: list[Bundle], counts: np.ndarray, shapes: Any, profiles: tuple[Profile, Profile], progress: bool | None
) -> list[LinePlan]:
    """Solve all bundles, grouped by size; results as NumPy arrays in the order of the bundles."""
    results: dict[int, LinePlan] = {}
    with progress_bar(sum(len(b.epsilons) for b in bundles), "coordinate problems", progress) as bar:
        for count in sorted(set(counts.tolist())):
            members = np.flatnonzero(counts == count)
            # Few sizes of a chunk, so that few programs are compiled.
            chunk = AT_ONCE if count <= _SMALL else 1
            for start in range(0, len(members), chunk):
                chosen = members[start : start + chunk]
                some = [bundles[k] for k in chosen]
                results.update(zip(chosen.tolist(), _solve_chunk(some, chunk, count, shapes, profiles), strict=True))
                bar.update(sum(len(b.epsilons) for b in some))
    return [results[k] for k in range(len(bundles))]


def _solve_chunk(
    bundles: list[Bundle], size: int, count: int, shapes: Any, profiles: tuple[Profile, Profile]
) -> list[LinePlan]:
    """Solve a chunk of bundles with the same number of nodes; the plans of each as NumPy arrays."""
    which = (np.array([b.source for b in bundles]), np.array([b.target for b in bundles]))
    limit = any(bundle.epsilons[0] == 0 for bundle in bundles)
    nodes = place(shapes, profiles, which, np.array([b.smallest for b in bundles]), count, limit)
    nodes = jax.device_put(pad(nodes, size))
    members = [(k, e) for k, bundle in enumerate(bundles) for e in bundle.epsilons if e > 0]
    plans: list[list[LinePlan]] = [[] for _ in bundles]
    if limit:
        limits = jax.tree.map(np.asarray, _limit(nodes, np.asarray(len(bundles))))
        for k, bundle in enumerate(bundles):
            plans[k] += [take(limits, k)] * (bundle.epsilons[0] == 0)
    for start in range(0, len(members), size):
        some = members[start : start + size]
        index, epsilons = (pad(np.array(column), size) for column in zip(*some, strict=True))
        solved = jax.tree.map(np.asarray, _solve(nodes, index, epsilons, np.asarray(len(some))))
        for position, (k, _) in enumerate(some):
            plans[k].append(take(solved, position))
    return [jax.tree.map(lambda *leaves: np.stack(leaves), *own) for own in plans]


def _assemble(
    distinct: list[tuple[int, int, float]],
    plan: list[tuple[Bundle, np.ndarray, bool]],
    bundles: list[Bundle],
    plans: list[LinePlan],
    defects: np.ndarray,
    which: np.ndarray,
) -> Solution:
    """Tables of all solved plans, and every problem's share in them."""
    starts = np.concatenate([[0], np.cumsum([len(b.epsilons) for b in bundles])])
    place = {bundle: k for k, bundle in enumerate(bundles)}
    width = max(len(b.epsilons) for b in bundles)
    first = np.array([starts[place[bundle]] for bundle, _, _ in plan])
    weights = np.stack([np.pad(w, (0, width - len(w))) for _, w, _ in plan])
    epsilon = np.array([e for _, _, e in distinct])
    resolved = np.array([float(r) for _, _, r in plan])
    columns = [(p.cost, p.kl, p.marginal_error, p.lost_moment) for p in plans]
    flat = [np.concatenate([np.atleast_1d(value) for value in values]) for values in zip(*columns, strict=True)]
    rows = np.minimum(first[:, None] + np.arange(width), starts[-1] - 1)
    cost, kl, residual = ((weights * f[rows]).sum(1) for f in (flat[0], flat[1], np.abs(flat[2])))
    positive = epsilon > 0
    safe = np.where(positive, epsilon, 1.0)
    kl = np.maximum(kl - 0.5 * np.log(safe), 0.0)
    objective = np.maximum(cost, 0) + np.where(positive, epsilon * kl, 0.0)
    errors = _QUADRATURE * (objective + epsilon) + 2 * defects + 4 * np.abs(residual)
    # The potentials there are of the order of the squares of the points.
    errors = errors + _LOST * np.where(positive, np.max(np.where(weights != 0, flat[3][rows], 0.0), axis=1), 0.0)
    errors = errors + np.where(resolved > 0, _INTERPOLATION * (objective + epsilon), 0.0)
    # The monotone map is read off tabulated distribution functions.
    errors = errors + np.where(resolved > 0, 0.0, _MAP * (objective + 1)) + _bridge_error(plan, flat, rows, epsilon)
    problems = LineProblem(
        to_jax(first[which]),
        to_jax(weights[which]),
        to_jax(epsilon[which]),
        to_jax(resolved[which]),
    )
    tables = tuple(_table(plans, side) for side in (0, 1))
    return Solution(
        (tables[0], tables[1]),
        problems,
        to_jax(np.maximum(cost, 0.0)[which]),
        to_jax(np.where(positive, kl, np.inf)[which]),
        to_jax(errors[which]),
        to_jax(flat[2].max()),
    )


def _bridge_error(
    plan: list[tuple[Bundle, np.ndarray, bool]], flat: list[np.ndarray], rows: np.ndarray, epsilon: np.ndarray
) -> np.ndarray:
    """What the last member of an interpolation towards zero changes: an estimate of the interpolation's error."""
    errors = np.zeros(len(plan))
    for k, (bundle, weights, resolved) in enumerate(plan):
        if resolved or epsilon[k] == 0:
            continue
        fewer = np.append(lagrange(np.sqrt(bundle.epsilons[:-1]), np.sqrt(epsilon[k])), 0.0)
        members = rows[k, : len(weights)]
        values = flat[0][members] + epsilon[k] * flat[1][members]
        errors[k] = _BRIDGE * abs((weights - fewer) @ values)
    return errors


def _table(plans: list[LinePlan], side: int) -> LineTable:
    """One side of all plans, nodes padded to a common number by repeating the last."""
    size = max(p.x.shape[-1] for p in plans)

    def stack(read: Any, pad: float | None = None) -> Array:
        rows = []
        for plan in plans:
            value = np.atleast_2d(read(plan))
            extra = ((0, 0), (0, size - value.shape[1]))
            filled = np.pad(value, extra, mode="edge") if pad is None else np.pad(value, extra, constant_values=pad)
            rows.append(filled)
        return to_jax(np.concatenate(rows))

    return LineTable(
        stack(lambda p: (p.x, p.y)[side]),
        stack(lambda p: p.means[side]),
        stack(lambda p: p.slopes[side]),
        stack(lambda p: p.bends[side]),
        stack(lambda p: p.potentials[side]),
        stack(lambda p: p.log_weights[side], NO_WEIGHT),
    )


# -- traced problems -------------------------------------------------------------------------------------------------


def solve_traced(source: ProductForm, target: ProductForm, epsilon: Float[Array, ""]) -> Solution:
    """Solve every problem by itself, on a fixed number of nodes; can be traced and differentiated."""
    dtype = source.loc.dtype
    sides = (moments(source), moments(target))
    num, other, dim = source.loc.shape[0], target.loc.shape[0], source.loc.shape[1]
    profiles = tuple(
        jax.vmap(jax.vmap(lambda shape, _: tabulate(shape, np.dtype(dtype))))(*jax.lax.stop_gradient((f.shape, f.loc)))
        for f in (source, target)
    )

    def one(index: Array) -> tuple[LinePlan, Array, Array]:
        i, j, c = index // (other * dim), (index // dim) % other, index % dim
        laws = (take(source.shape, (i, c)), take(target.shape, (j, c)))
        pair = tuple(take(profile, (k, c)) for profile, k in zip(profiles, (i, j), strict=True))
        reduced = _reduced(epsilon, sides[0][1][i, c], sides[1][1][j, c])
        nodes = place_nodes(laws, pair, reduced, _TRACED_COUNT)
        return _resolved(nodes, reduced), reduced, pair[0].defect + pair[1].defect

    total = num * other * dim
    plans, reduced, defects = jax.lax.map(jax.checkpoint(one), jnp.arange(total))
    shape = (num, other, dim)
    kl = jnp.maximum(plans.kl - 0.5 * jnp.log(reduced), 0.0)
    errors = _QUADRATURE * (plans.cost + reduced * (kl + 1)) + 2 * defects + 4 * plans.marginal_error
    errors = errors + _LOST * plans.lost_moment
    problems = LineProblem(
        jnp.arange(total).reshape(shape), jnp.ones((*shape, 1), dtype), reduced.reshape(shape), jnp.ones(shape, dtype)
    )
    tables = tuple(
        LineTable(nodes, plans.means[k], plans.slopes[k], plans.bends[k], plans.potentials[k], plans.log_weights[k])
        for k, nodes in enumerate((plans.x, plans.y))
    )
    return Solution(
        (tables[0], tables[1]),
        problems,
        plans.cost.reshape(shape),
        kl.reshape(shape),
        errors.reshape(shape),
        jnp.max(plans.marginal_error),
    )


@jax.custom_jvp
def _reduced(epsilon: Float[Array, ""], scale: Float[Array, ""], other: Float[Array, ""]) -> Float[Array, ""]:
    """The regularization in units of both scales, of which no derivative forms squares or products."""
    # Nor does the compiler: a quotient by this quotient would become a product with both scales.
    return unfused(epsilon / scale / other)


@_reduced.defjvp
def _reduced_jvp(primals: tuple, tangents: tuple) -> tuple:
    epsilon, scale, other = primals
    value = _reduced(epsilon, scale, other)
    return value, tangents[0] / scale / other - value * (tangents[1] / scale + tangents[2] / other)
