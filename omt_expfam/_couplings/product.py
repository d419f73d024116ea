"""The P-block for components with independent coordinates: one-dimensional problems, each distinct one solved once."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import batch_size, is_traced
from .._base.xla import program
from .._components.interface import AbstractComponents
from .._components.product_form import ProductForm
from .coordinates import AbstractCoordinateCouplings, solve_wide
from .interface import AbstractComponentMaps, PairSelection, squared_distances
from .line.problems import moments, Solution, solve_problems, solve_traced, standardize
from .line.profile import standard_log_density
from .line.table import draw, evaluate, LineProblem, LineTable, locate, potential, quintic

# Shares that a map may leave out.
_NEGLIGIBLE = 1e-12


class LineMaps(AbstractComponentMaps):
    """Barycentric maps that act on each coordinate by itself, tabulated for each source component.

    Attributes:
        center: Source means, shape ``[K0, d]``.
        scale: Source standard deviations, shape ``[K0, d]``.
        nodes: Standardized source coordinates, increasing, shape ``[K0, d, n]``.
        values: Images of the nodes, shape ``[K0, d, n]``.
        slopes: Derivatives of the images with respect to the standardized coordinates.
        bends: Second derivatives.
    """

    center: Float[Array, "K0 d"]
    scale: Float[Array, "K0 d"]
    nodes: Float[Array, "K0 d n"]
    values: Float[Array, "K0 d n"]
    slopes: Float[Array, "K0 d n"]
    bends: Float[Array, "K0 d n"]

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        return _apply_maps(self, x, responsibilities)


class ProductCouplings(AbstractCoordinateCouplings):
    """Couplings of components with independent coordinates.

    The entropic plan between product laws is the product of the plans between their coordinates, and a plan on the
    line depends, after centering, on the two shapes and on eps / (s0 s1) only, s the standard deviations.

    Attributes:
        costs: Mean squared distance of each pair, units of squared distance.
        kl: KL divergence of each pair from independence, in nats.
        errors: Cautious estimates of the absolute errors of costs plus epsilon KL.
        epsilon: Regularization, units of squared distance.
        source: Source components.
        target: Target components.
        moments: Means and standard deviations of the source coordinates and of the target coordinates.
        tables: Solved plans on the line, seen from the source and from the target.
        problems: How each pair's coordinates are made up of them, shape ``[K0, K1, d]``.
        marginal_error: Largest marginal error (L1) of the solved plans.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    errors: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents
    moments: tuple[Float[Array, "2 K0 d"], Float[Array, "2 K1 d"]]
    tables: tuple[LineTable, LineTable]
    problems: LineProblem
    line_costs: Float[Array, "K0 K1 d"]
    marginal_error: Float[Array, ""]

    def transpose(self) -> "ProductCouplings":
        return self._transposed(
            moments=(self.moments[1], self.moments[0]),
            tables=(self.tables[1], self.tables[0]),
            problems=jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), self.problems),
            line_costs=jnp.swapaxes(self.line_costs, 0, 1),
        )

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> LineMaps:
        center, scale = self.moments[0]
        return LineMaps(center, scale, *_collapse(self, row_shares))

    def _moments_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Array, Array]:
        (mean_0, scale_0), (mean_1, scale_1) = self.moments
        problem = self.problems[i, j]
        value, slope, _ = evaluate(self.tables[0], problem, (x - mean_0[i]) / scale_0[i])
        variance = scale_1[j] ** 2 * 0.5 * problem.epsilon * jnp.maximum(slope, 0.0)
        return mean_1[j] + scale_1[j] * value, variance

    def _log_density_at(self, x: Float[Array, " d"], y: Float[Array, " d"], i: Array, j: Array) -> Array:
        (mean_0, scale_0), (mean_1, scale_1) = self.moments
        problem = self.problems[i, j]
        laws = (jax.tree.map(lambda leaf: leaf[j], _form(self.target).shape), jnp.arange(x.shape[0]))
        z, w = (x - mean_0[i]) / scale_0[i], (y - mean_1[j]) / scale_1[j]
        # The law of the target coordinate, times the density of the plan against independence.
        own = jax.vmap(lambda law, value: standard_log_density(law[0], value[None])[0])(laws, w)
        f = potential(self.tables[0], problem, z)
        g = potential(self.tables[1], problem, w)
        exact = own + (f + g - (z - w) ** 2) / problem.epsilon
        center, slope, _ = evaluate(self.tables[0], problem, z)
        variance = 0.5 * problem.epsilon * jnp.maximum(slope, jnp.finfo(z.dtype).tiny)
        narrow_law = -0.5 * ((w - center) ** 2 / variance + jnp.log(2 * jnp.pi * variance))
        return jnp.sum(jnp.where(problem.resolved > 0, exact, narrow_law) - jnp.log(scale_1[j]))

    def _work(self) -> int:
        return 4 * self.source.dim * self.problems.weights.shape[-1]

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _sample(self, key, x, source, target)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        left, right = self.moments[0][1][pairs.source], self.moments[1][1][pairs.target]
        correlation = 1 - self.line_costs[pairs.source, pairs.target] / 2
        return jax.vmap(jnp.diag)(left * right * correlation)


def solve_product_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], progress: bool | None = None
) -> ProductCouplings:
    """Solve all coordinates of all pairs.

    On concrete input the work is done in float64, each distinct problem once; traced, every problem is solved by
    itself on a fixed number of nodes, and can be differentiated.
    """
    if is_traced(source, target, epsilon):
        return _couple(source, target, epsilon, solve_traced(_form(source), _form(target), epsilon))

    def solve(wide_source: Any, wide_target: Any, wide_epsilon: Any) -> ProductCouplings:
        sides = standardize(_shaped(wide_source)), standardize(_shaped(wide_target))
        solution = solve_problems(*sides, float(wide_epsilon), progress)
        return _couple(wide_source, wide_target, wide_epsilon, solution)

    return solve_wide(solve, source, target, epsilon)


def _form(components: AbstractComponents) -> ProductForm:
    form = components.product_form()
    assert form is not None  # solve_couplings has asked.
    return form


_shaped = program(_form)


@program
def _couple(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], solution: Solution
) -> ProductCouplings:
    """Put the coordinates of each pair together."""
    (mean_0, scale_0), (mean_1, scale_1) = moments(_form(source)), moments(_form(target))
    product = scale_0[:, None, :] * scale_1[None, :, :]
    spread = (scale_0[:, None, :] - scale_1[None, :, :]) ** 2 + product * solution.costs
    rounding = 16 * jnp.finfo(product.dtype).eps * (jnp.sum(spread, axis=2) + squared_distances(mean_0, mean_1))
    return ProductCouplings(
        costs=squared_distances(mean_0, mean_1) + jnp.sum(spread, axis=2),
        kl=jnp.sum(solution.kl, axis=2),
        errors=jnp.sum(product * solution.errors, axis=2) + rounding,
        epsilon=epsilon,
        source=source,
        target=target,
        moments=(jnp.stack([mean_0, scale_0]), jnp.stack([mean_1, scale_1])),
        tables=solution.tables,
        problems=solution.problems,
        line_costs=solution.costs,
        marginal_error=solution.marginal_error,
    )


@program
def _apply_maps(maps: LineMaps, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Array:
    dim = x.shape[1]
    column = jnp.arange(dim)[None, :]

    def add(total: Array, item: tuple[Array, ...]) -> tuple[Array, None]:
        center, scale, nodes, values, slopes, bends, weight = item
        z = (x - center[None]) / scale[None]
        index = locate(nodes, jnp.broadcast_to(column, z.shape), z)

        def ends(field: Array) -> tuple[Array, Array]:
            return field[column, index], field[column, index + 1]

        image = quintic(z, ends(nodes), ends(values), ends(slopes), ends(bends))[0]
        return total + weight[:, None] * image, None

    items = (maps.center, maps.scale, maps.nodes, maps.values, maps.slopes, maps.bends, responsibilities.T)
    return jax.lax.scan(add, jnp.zeros_like(x), items)[0]


@program
def _collapse(couplings: ProductCouplings, row_shares: Float[Array, "K0 K1"]) -> tuple[Array, Array, Array, Array]:
    """For each source component and coordinate, the share-weighted image on the finest grid among its pairs."""
    table = couplings.tables[0]
    (_, _), (mean, scale) = couplings.moments[0], couplings.moments[1]

    def component(item: tuple[Array, LineProblem]) -> tuple[Array, Array, Array, Array]:
        shares, problems = item
        used = (shares > _NEGLIGIBLE * jnp.max(shares))[:, None]
        finest = jnp.argmin(jnp.where(used, problems.epsilon, jnp.inf), axis=0)
        nodes = table.nodes[problems.first[finest, jnp.arange(finest.shape[0])]]

        def add(total: tuple[Array, Array, Array], pair: tuple[Array, LineProblem, Array, Array]) -> Any:
            share, problem, center, width = pair
            grid = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], (*nodes.shape, *leaf.shape[1:])), problem)
            value, slope, bend = evaluate(table, grid, nodes)
            stretch = share * width[:, None]
            image = share * center[:, None] + stretch * value
            return (total[0] + image, total[1] + stretch * slope, total[2] + stretch * bend), None

        zero = jnp.zeros_like(nodes)
        (values, slopes, bends), _ = jax.lax.scan(add, (zero, zero, zero), (shares, problems, mean, scale))
        return nodes, values, slopes, bends

    return jax.lax.map(component, (row_shares, couplings.problems))


def _sample(couplings: ProductCouplings, key: Array, x: Array, source: Array, target: Array) -> Array:
    """Draws of y given x, in blocks of points that meet few pairs."""
    uniform_key, normal_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, x.shape, x.dtype)
    normal = jax.random.normal(normal_key, x.shape, x.dtype)
    return _draw_all(couplings, x, uniform, normal, source, target)


@program
def _draw_all(couplings: ProductCouplings, x: Array, uniform: Array, normal: Array, *pair: Array) -> Array:
    (mean_0, scale_0), (mean_1, scale_1) = couplings.moments
    table = couplings.tables[1]
    last = table.nodes.shape[0] - 1

    def coordinate(problem: LineProblem, z: Array, u: Array) -> Array:
        rows = jnp.minimum(problem.rows, last)
        potentials = problem.weights @ table.potentials[rows]
        safe = jnp.where(problem.resolved > 0, problem.epsilon, jnp.ones_like(problem.epsilon))
        nodes, log_weights = table.nodes[problem.first], table.log_weights[problem.first]
        # The ends of the panels are no quadrature nodes.
        return draw(u, nodes[1:-1], log_weights[1:-1], potentials[1:-1], safe, z)

    def one(item: tuple[Array, ...]) -> Array:
        point, u, noise, i, j = item
        problem = couplings.problems[i, j]
        z = (point - mean_0[i]) / scale_0[i]
        exact = jax.vmap(coordinate)(problem, z, u)
        # Conditional laws too narrow for the nodes are normal to leading order.
        center, slope, _ = evaluate(couplings.tables[0], problem, z)
        narrow_draw = center + jnp.sqrt(0.5 * problem.epsilon * jnp.maximum(slope, 0.0)) * noise
        return mean_1[j] + scale_1[j] * jnp.where(problem.resolved > 0, exact, narrow_draw)

    item_size = x.shape[1] * table.nodes.shape[1] * couplings.problems.weights.shape[-1]
    size = min(batch_size(item_size), max(x.shape[0], 1))
    return jax.lax.map(one, (x, uniform, normal, *pair), batch_size=size)
