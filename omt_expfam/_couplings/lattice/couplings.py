"""The P-block for components whose coordinates are independent counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ..._base.arrays import batch_size, is_traced
from ..._base.xla import program
from ..._components.interface import AbstractComponents
from ..._components.lattice_form import AbstractLattice
from ..coordinates import AbstractCoordinateCouplings, solve_wide
from ..interface import AbstractComponentMaps, PairSelection
from .problems import LatticeSolution, solve_traced, solve_windows
from .table import conditional, LatticeTable
from .windows import windows


class LatticeMaps(AbstractComponentMaps):
    """Barycentric maps of counts, coordinate by coordinate, tabulated for each source component.

    Attributes:
        rows: A row of the table for each component and coordinate, shape ``[K0, d]``.
        table: Windows of the source laws.
        values: Images of the numbers in each window.
    """

    rows: Int[Array, "K0 d"]
    table: LatticeTable
    values: Float[Array, "K0 d width"]

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        return _apply_maps(self, x, responsibilities)


class LatticeCouplings(AbstractCoordinateCouplings):
    """Couplings of components whose coordinates are independent counts.

    Without regularization a coupling of two laws on whole numbers is no map: its steps share what they have in common,
    and its KL divergence is finite.

    Attributes:
        costs: Mean squared distance of each pair.
        kl: KL divergence of each pair from independence, in nats.
        errors: Bounds of the absolute errors of costs plus epsilon KL.
        epsilon: Regularization, units of squared distance.
        source: Source components.
        target: Target components.
        tables: Solved plans between coordinates, seen from the source and from the target.
        problems: Which row of the tables each pair's coordinates are, shape ``[K0, K1, d]``.
        covariances: Covariances of x with y, coordinate by coordinate, shape ``[K0, K1, d]``.
        marginal_error: Largest marginal error (L1) of the solved plans.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    errors: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents
    tables: tuple[LatticeTable, LatticeTable]
    problems: Int[Array, "K0 K1 d"]
    covariances: Float[Array, "K0 K1 d"]
    marginal_error: Float[Array, ""]

    def transpose(self) -> "LatticeCouplings":
        return self._transposed(
            tables=(self.tables[1], self.tables[0]),
            problems=jnp.swapaxes(self.problems, 0, 1),
            covariances=jnp.swapaxes(self.covariances, 0, 1),
        )

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> LatticeMaps:
        return LatticeMaps(self.problems[:, 0, :], self.tables[0], _collapse(self, row_shares))

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _draw_all(self, jax.random.uniform(key, x.shape, x.dtype), x, source, target)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        return jax.vmap(jnp.diag)(self.covariances[pairs.source, pairs.target])

    def _moments_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Array, Array]:
        table = self.tables[0]
        place, other, share = table.between(self.problems[i, j], x)
        mean, variance = ((1 - share) * v[place] + share * v[other] for v in (table.means, table.variances))
        return mean, variance

    def _log_density_at(self, x: Float[Array, " d"], y: Float[Array, " d"], i: Array, j: Array) -> Array:
        rows, target = self.problems[i, j], self.tables[1]
        _, log_law = jax.vmap(lambda row, number: conditional(self.tables, row, self.epsilon, number))(rows, x)
        index = target.place(rows, y) - target.start[rows]
        # Numbers of one group share its probability.
        values = jnp.take_along_axis(log_law, index[:, None], axis=1)[:, 0] - jnp.log(target.stride(rows, y.dtype))
        return jnp.sum(jnp.where(target.nearest(rows, y) == y, values, -jnp.inf))

    def _work(self) -> int:
        return self.source.dim * self.tables[1].width


def solve_lattice_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], progress: bool | None = None
) -> LatticeCouplings:
    """Solve all coordinates of all pairs.

    On concrete input the work is done in float64, each distinct problem once in a window that holds all but 1e-11 of
    its second moment; traced, every problem is solved by itself in a window of fixed size, and can be differentiated.

    Raises:
        ValueError: If a law is spread over too many numbers.
    """
    if is_traced(source, target, epsilon):
        shape = (source.num_components, target.num_components, source.dim)
        return _couple(source, target, epsilon, solve_traced(_form(source), _form(target), shape, epsilon))

    def solve(wide_source: Any, wide_target: Any, wide_epsilon: Any) -> LatticeCouplings:
        left, right = (
            windows(_shaped(wide), (wide.num_components, wide.dim), name)
            for wide, name in ((wide_source, "source"), (wide_target, "target"))
        )
        solution = solve_windows(left, right, float(np.asarray(wide_epsilon)), progress)
        return _couple(wide_source, wide_target, wide_epsilon, solution)

    return solve_wide(solve, source, target, epsilon)


def _form(components: AbstractComponents) -> AbstractLattice:
    form = components.lattice_form()
    assert form is not None  # solve_couplings has asked.
    return form


_shaped = program(_form)


@program
def _couple(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], solution: LatticeSolution
) -> LatticeCouplings:
    """Put the coordinates of each pair together."""
    (mean, variance), (other_mean, other_variance) = (
        (side.mean(), jnp.diagonal(side.covariance(), axis1=1, axis2=2)) for side in (source, target)
    )
    gap = (mean[:, None] - other_mean[None]) ** 2
    covariances = 0.5 * (gap + variance[:, None] + other_variance[None] - solution.costs)
    costs = jnp.sum(solution.costs, axis=2)
    errors = jnp.sum(solution.errors, axis=2) + 16 * jnp.finfo(costs.dtype).eps * costs
    return LatticeCouplings(
        costs=costs,
        kl=jnp.sum(solution.kl, axis=2),
        errors=errors,
        epsilon=epsilon,
        source=source,
        target=target,
        tables=solution.tables,
        problems=solution.rows,
        covariances=covariances,
        marginal_error=solution.marginal_error,
    )


@program
def _collapse(couplings: LatticeCouplings, row_shares: Float[Array, "K0 K1"]) -> Float[Array, "K0 d width"]:
    """The share-weighted image of every number: windows of a source law are the same in all its pairs."""
    table = couplings.tables[0]
    offset = jnp.arange(table.width)[None, :]

    def component(item: tuple[Array, Array]) -> Array:
        shares, rows = item

        def coordinate(its: Array) -> Array:
            place = table.start[its][:, None] + jnp.minimum(offset, table.size[its][:, None] - 1)
            return shares @ table.means[place]

        return jax.vmap(coordinate, in_axes=1)(rows)

    return jax.lax.map(component, (row_shares, couplings.problems))


@program
def _apply_maps(maps: LatticeMaps, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Array:
    column = jnp.arange(x.shape[1])[None, :]

    def add(total: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
        rows, values, weight = item
        rows = jnp.broadcast_to(rows[None], x.shape)
        place, other, share = maps.table.between(rows, x)
        first, second = (values[column, at - maps.table.start[rows]] for at in (place, other))
        return total + weight[:, None] * ((1 - share) * first + share * second), None

    return jax.lax.scan(add, jnp.zeros_like(x), (maps.rows, maps.values, responsibilities.T))[0]


@program
def _draw_all(couplings: LatticeCouplings, uniform: Array, x: Array, source: Array, target: Array) -> Array:
    def coordinate(row: Array, number: Array, u: Array) -> Array:
        _, log_law = conditional(couplings.tables, row, couplings.epsilon, number)
        mass = jnp.exp(log_law)
        total = jnp.cumsum(mass)
        index = jnp.clip(jnp.searchsorted(total, u * total[-1], side="right"), 0, mass.shape[0] - 1)
        # Where in its own share of the law the random number falls says which number of a group it is.
        rest = u * total[-1] - (total[index] - mass[index])
        return couplings.tables[1].spread(row, index, rest / jnp.where(mass[index] > 0, mass[index], 1.0))

    def one(item: tuple[Array, ...]) -> Array:
        u, point, i, j = item
        return jax.vmap(coordinate)(couplings.problems[i, j], point, u)

    size = min(batch_size(couplings._work()), max(x.shape[0], 1))
    return jax.lax.map(one, (uniform, x, source, target), batch_size=size)
