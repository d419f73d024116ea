"""All problems of two sets of laws on the circle: which are equal, how they are solved, and what they cost."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._base.arrays import map_first, power_of_two, take, to_jax
from ..._base.progress import progress_bar
from ..._base.xla import brief_program, program
from ..._components.circle_form import AbstractCircle
from ..._numerics.circle import SIZE
from .solve import CircleNodes, CirclePlan, extended, solve_hard, solve_soft
from .table import circle_law, CircleLaw, nodes

# Nodes of either law: without regularization; with it, at first and where the error is larger than that share.
_HARD, _SIZES, _GOOD = 1024, (256, 512), 1e-5
# How many laws are tabulated, and problems solved, by one call, or fewer: one program serves them all.
_LAWS, _AT_ONCE = 4, 16
# The most that the sum of a density over the grid may be off one, and what that is worth in squared arcs.
_RESOLVED, _FARTHEST = 1e-3, float(np.pi**2)


class CircleSide(eqx.Module):
    """The laws of one side of all problems, and the solutions seen from it.

    Attributes:
        laws: The law of each component and coordinate, a row of ``nodes``, shape ``[K, d]``.
        nodes: Nodes of each law, increasing from -pi on, shape ``[laws, m]``.
        log_masses: Their log-probabilities.
        values: For each problem, potentials at the nodes of its law; displacements without regularization.
    """

    laws: Int[Array, "K d"]
    nodes: Float[Array, "laws m"]
    log_masses: Float[Array, "laws m"]
    values: Float[Array, "problems m"]


class CircleSolution(NamedTuple):
    """The solved problems, one for each pair of components and coordinate.

    Attributes:
        sides: The laws and solutions of the source and of the target.
        rows: Which of the problems each is, shape ``[K0, K1, d]``.
        costs: Mean squared arcs.
        kl: KL divergences.
        errors: Cautious estimates of the errors of cost + epsilon KL.
        marginal_error: The largest marginal error.
    """

    sides: tuple[CircleSide, CircleSide]
    rows: Int[Array, "K0 K1 d"]
    costs: Float[Array, "K0 K1 d"]
    kl: Float[Array, "K0 K1 d"]
    errors: Float[Array, "K0 K1 d"]
    marginal_error: Float[Array, ""]


class _Tables(NamedTuple):
    """What is computed of laws, one after the other."""

    law: Any
    table: CircleLaw
    nodes: Float[Array, "*b m"]
    log_masses: Float[Array, "*b m"]
    missed: Float[Array, "*b"]


def _tabulate(law: AbstractCircle, size: int) -> _Tables:
    table, missed = circle_law(law)
    return _Tables(law, table, *nodes(table, law, size), missed)


@brief_program
def _tables(laws: AbstractCircle, count: Any, size: int) -> _Tables:
    return map_first(lambda law: _tabulate(law, size), laws, count)


def _solve(left: _Tables, right: _Tables, epsilon: Array | None, rescue: bool = True) -> CirclePlan:
    between = CircleNodes(left.nodes, left.log_masses, right.nodes, right.log_masses)
    plan = solve_hard(left.table, right.table, between) if epsilon is None else solve_soft(between, epsilon, rescue)
    missed = jax.lax.stop_gradient(left.missed + right.missed)
    return plan._replace(error=plan.error + _FARTHEST * missed)


@brief_program
def _plans(
    left: _Tables, right: _Tables, pairs: tuple[Any, Any], count: Any, epsilon: Array | None, rescue: bool
) -> CirclePlan:
    def one(pair: tuple[Array, Array]) -> CirclePlan:
        return _solve(take(left, pair[0]), take(right, pair[1]), epsilon, rescue)

    return map_first(one, pairs, count)


def solve_circles(
    forms: tuple[AbstractCircle, AbstractCircle], shapes: Any, epsilon: float, progress: bool | None
) -> CircleSolution:
    """Solve every distinct problem once, in float64 (concrete forms only).

    Args:
        forms: Laws of source and target.
        shapes: Components and coordinates of both.
        epsilon: Regularization.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a law is too narrow for the grid.
    """
    distinct = [_distinct(form, shape) for form, shape in zip(forms, shapes, strict=True)]
    which = [index.reshape(shape) for (_, index), shape in zip(distinct, shapes, strict=True)]
    nums = [np.asarray(index.max() + 1) for index in which]
    shape = (len(which[0]), *which[1].shape)
    left = np.broadcast_to(which[0][:, None, :], shape).reshape(-1)
    right = np.broadcast_to(which[1][None, :, :], shape).reshape(-1)
    pairs, rows = np.unique(np.stack([left, right]), axis=1, return_inverse=True)
    strength = to_jax(np.float64(epsilon)) if epsilon > 0 else None

    def tabulated(size: int) -> list[_Tables]:
        return [_tables(laws, num, size) for (laws, _), num in zip(distinct, nums, strict=True)]

    with progress_bar(pairs.shape[1], "problems of angles", progress) as bar:
        tables = tabulated(_HARD if strength is None else _SIZES[0])
        for name, own, index in zip(("source", "target"), tables, which, strict=True):
            _check_resolved(name, np.asarray(own.missed), index)
        plans = _solve_all(tables, pairs, np.arange(pairs.shape[1]), strength, bar)
        poor = [] if strength is None else [k for k, plan in plans.items() if not _is_good(plan, epsilon)]
        if poor:
            coarse, tables = tables, tabulated(_SIZES[1])
            better = _solve_all(tables, pairs, np.array(poor), strength, bar)
            for k in set(plans) - set(poor):
                better[k] = plans[k]._replace(values=_refined(coarse, tables, pairs[:, k], plans[k].values, strength))
            plans = better
    return _assembled(tables, which, pairs, rows.reshape(shape), [plans[k] for k in range(pairs.shape[1])], epsilon)


def _is_good(plan: CirclePlan, epsilon: float) -> bool:
    return bool(plan.error <= _GOOD * (plan.cost + epsilon * (1 + plan.kl)))


def _distinct(form: AbstractCircle, shape: tuple[int, int]) -> tuple[AbstractCircle, np.ndarray]:
    """The distinct laws among all coordinates, the last repeated up to a number of a ladder, and which is which."""
    size = shape[0] * shape[1]
    host = [np.asarray(leaf) for leaf in jax.tree.leaves(form)]
    keys = np.concatenate([leaf.reshape(size, -1).astype(np.float64) for leaf in host], axis=1)
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    padded = max(_LAWS, power_of_two(len(first)))
    first = np.concatenate([first, np.repeat(first[-1:], padded - len(first))])
    return jax.tree.map(lambda leaf: to_jax(np.asarray(leaf).reshape(size, *leaf.shape[2:])[first]), form), which


def _check_resolved(name: str, missed: np.ndarray, which: np.ndarray) -> None:
    bad = np.flatnonzero(missed > _RESOLVED)
    bad = bad[bad <= which.max()]
    if bad.size:
        k, c = (int(v) for v in np.argwhere(which == bad[0])[0])
        raise ValueError(
            f"`{name}` must have densities of angles that are wider than a tenth of a degree and integrate to one; in "
            f"component {k} and column {c} {SIZE} equally spaced angles give {1 + missed[bad[0]]:.4g} or its opposite."
        )


def _solve_all(
    tables: list[_Tables], pairs: np.ndarray, members: np.ndarray, epsilon: Array | None, bar: Any
) -> dict[int, CirclePlan]:
    """Solve some of the problems, several by one call; those where Newton's method stalls by a slower path."""
    plans = _solve_some(tables, pairs, members, epsilon, False, bar)
    stalled = np.array([k for k, plan in plans.items() if not plan.solved], int)
    if stalled.size:
        plans |= _solve_some(tables, pairs, stalled, epsilon, True, None)
    return plans


def _solve_some(
    tables: list[_Tables], pairs: np.ndarray, members: np.ndarray, epsilon: Array | None, rescue: bool, bar: Any
) -> dict[int, CirclePlan]:
    plans = {}
    for start in range(0, len(members), _AT_ONCE):
        some = members[start : start + _AT_ONCE]
        filled = some[np.minimum(np.arange(_AT_ONCE), len(some) - 1)]
        index = pairs[0][filled], pairs[1][filled]
        solved = jax.tree.map(np.asarray, _plans(tables[0], tables[1], index, np.asarray(len(some)), epsilon, rescue))
        plans |= {int(k): take(solved, position) for position, k in enumerate(some)}
        if bar is not None:
            bar.update(len(some))
    return plans


def _refined(coarse: list[_Tables], fine: list[_Tables], pair: np.ndarray, values: Any, epsilon: Any) -> Any:
    """Potentials of a problem at finer nodes of either side, from those at the coarse nodes of the other."""
    sides = []
    for own in range(2):
        other, law = 1 - own, pair[1 - own]
        nodes, masses = coarse[other].nodes[law], coarse[other].log_masses[law]
        sides.append(np.asarray(_extended(values[other], masses, nodes, fine[own].nodes[pair[own]], epsilon)))
    return tuple(sides)


@program
def _extended(values: Array, log_mass: Array, nodes: Array, x: Array, epsilon: Array) -> Array:
    return jax.vmap(lambda own: extended(values, log_mass, nodes, own, epsilon))(x)


def _assembled(
    tables: list[_Tables], which: Any, pairs: np.ndarray, rows: np.ndarray, plans: list[CirclePlan], epsilon: float
) -> CircleSolution:
    """What every problem costs, and the plans seen from both sides."""
    cost, kl, errors, residual = (
        np.array([float(value) for value in values])
        for values in zip(*((p.cost, p.kl, p.error, p.marginal_error) for p in plans), strict=True)
    )
    # As many rows as some other number of problems has, so that programs that read them off serve both.
    filled = plans + plans[-1:] * (-len(plans) % _AT_ONCE)
    sides = tuple(
        CircleSide(to_jax(index), own.nodes, own.log_masses, to_jax(np.stack([plan.values[k] for plan in filled])))
        for k, (own, index) in enumerate(zip(tables, which, strict=True))
    )
    errors = errors + 1e-12 * (cost + (epsilon * kl if epsilon > 0 else 0.0))
    cost, kl, errors = (to_jax(value[rows]) for value in (cost, kl, errors))
    return CircleSolution((sides[0], sides[1]), to_jax(rows), cost, kl, errors, to_jax(residual.max()))


def solve_traced(
    source: AbstractCircle, target: AbstractCircle, shape: tuple[int, int, int], epsilon: Float[Array, ""] | None
) -> CircleSolution:
    """Solve every problem by itself; can be traced and differentiated. ``None`` stands for no regularization."""
    num, other, dim = shape
    size = _HARD if epsilon is None else _SIZES[0]

    def tabulated(form: AbstractCircle, num: int) -> _Tables:
        flat = jax.tree.map(lambda leaf: leaf.reshape(num * dim, *leaf.shape[2:]), form)
        return jax.lax.map(lambda law: _tabulate(law, size), flat)

    left, right = tabulated(source, num), tabulated(target, other)
    rows = jnp.arange(num * other * dim).reshape(shape)
    laws = jnp.arange(num * dim).reshape(num, dim), jnp.arange(other * dim).reshape(other, dim)

    def one(index: Array) -> CirclePlan:
        i, j, c = index // (other * dim), (index // dim) % other, index % dim
        return _solve(take(left, laws[0][i, c]), take(right, laws[1][j, c]), epsilon)

    plans = jax.lax.map(jax.checkpoint(one), rows.reshape(-1))
    sides = tuple(
        CircleSide(own, table.nodes, table.log_masses, values)
        for own, table, values in zip(laws, (left, right), plans.values, strict=True)
    )
    cost, kl, errors = (value.reshape(shape) for value in (plans.cost, plans.kl, plans.error))
    return CircleSolution((sides[0], sides[1]), rows, cost, kl, errors, jnp.max(plans.marginal_error))
