"""The P-block for components whose coordinates are independent angles."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ..._base.arrays import batch_size, is_traced
from ..._base.xla import program
from ..._components.interface import AbstractComponents, angles_of
from ..._numerics.circle import direction, PERIOD, wrap
from ..coordinates import AbstractCoordinateCouplings, solve_wide
from ..interface import AbstractComponentMaps, PairSelection
from .problems import CircleSide, CircleSolution, solve_circles, solve_traced
from .solve import extended, squared_arc
from .table import lagrange, locate

_Sums = tuple[Float[Array, "n d"], Float[Array, "n d"]]


class AbstractCircleMaps(AbstractComponentMaps):
    """Maps of angles: mean directions, the angles of summed cosines and sines."""

    def sums(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> _Sums:
        """The responsibility-weighted mean cosines and sines of y given points."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        return directions(*self.sums(x, responsibilities))


class CircleMaps(AbstractCircleMaps):
    """Mean cosines and sines, tabulated for each source component.

    Attributes:
        nodes: Nodes of the source laws, shape ``[K0, d, m]``.
        cosines: Mean cosines of y at the nodes.
        sines: Mean sines.
    """

    nodes: Float[Array, "K0 d m"]
    cosines: Float[Array, "K0 d m"]
    sines: Float[Array, "K0 d m"]

    def sums(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> _Sums:
        return _blended(self, x, responsibilities)


class ShiftedMaps(AbstractCircleMaps):
    """Displacements, tabulated for each pair of components.

    Attributes:
        nodes: Nodes of the source laws, shape ``[K0, d, m]``.
        rows: The displacements that belong to each pair and coordinate, shape ``[K0, K1, d]``.
        values: Displacements at the nodes.
        shares: The share of each target component.
    """

    nodes: Float[Array, "K0 d m"]
    rows: Int[Array, "K0 K1 d"]
    values: Float[Array, "problems m"]
    shares: Float[Array, "K0 K1"]

    def sums(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> _Sums:
        return _moved(self, x, responsibilities)


class CircleCouplings(AbstractCoordinateCouplings):
    """Couplings of components whose coordinates are independent angles, with squared arcs as the cost.

    What is a mean elsewhere is a mean direction here, the angle of the mean cosine and sine; dispersions are mean
    squared arcs.

    Attributes:
        costs: Mean squared arc of each pair, summed over coordinates.
        kl: KL divergence of each pair from independence, in nats.
        errors: Cautious estimates of the absolute errors of costs plus epsilon KL.
        epsilon: Regularization, units of squared angles.
        source: Source components.
        target: Target components.
        sides: The laws of both sides, and the solved problems seen from them.
        problems: Which of them each pair's coordinates are, shape ``[K0, K1, d]``.
        marginal_error: Largest marginal error (L1) of the solved plans.
        is_map: Whether there was no regularization, and values are displacements.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    errors: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents
    sides: tuple[CircleSide, CircleSide]
    problems: Int[Array, "K0 K1 d"]
    marginal_error: Float[Array, ""]
    is_map: bool = eqx.field(static=True)

    def transpose(self) -> "CircleCouplings":
        return self._transposed(
            sides=(self.sides[1], self.sides[0]),
            problems=jnp.swapaxes(self.problems, 0, 1),
        )

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> AbstractCircleMaps:
        side = self.sides[0]
        if self.is_map:
            return ShiftedMaps(side.nodes[side.laws], self.problems, side.values, row_shares)
        return CircleMaps(side.nodes[side.laws], *_collapse(self, row_shares))

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _conditional_directions(self, x, source, target)

    def conditional_offset(
        self, x: Float[Array, "n d"], y: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _mean_arcs(self, x, y, source, target)

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        """Second moments of the arcs from ``y``."""
        return _arc_moments(self, x, y, weight, shares)

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _draw_all(self, jax.random.uniform(key, x.shape, x.dtype), x, source, target)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        raise TypeError("Angles have no covariance of x with y. Draw pairs by `sample_joint`.")

    # -- one point -------------------------------------------------------------------------------------------------

    def _laws_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Array, Array]:
        """Angles y and their probabilities given each coordinate of a point, under a pair; shape ``[d, m]``."""
        source, target = self.sides
        rows, laws = self.problems[i, j], target.laws[j]
        if self.is_map:
            y = jax.vmap(_image)(source.nodes[source.laws[i]], source.values[rows], x)
            return y[:, None], jnp.ones_like(y)[:, None]

        def coordinate(own: Array, y: Array, log_mass: Array, g: Array) -> Array:
            return jax.nn.softmax(log_mass + (g - squared_arc(own, y)) / self.epsilon)

        y = target.nodes[laws]
        return y, jax.vmap(coordinate)(x, y, target.log_masses[laws], target.values[rows])

    def _moments_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Array, Array]:
        y, masses = self._laws_at(x, i, j)
        mean = directions(jnp.sum(masses * jnp.cos(y), axis=1), jnp.sum(masses * jnp.sin(y), axis=1))
        return mean, jnp.sum(masses * squared_arc(y, mean[:, None]), axis=1)

    def _log_density_at(self, x: Float[Array, " d"], y: Float[Array, " d"], i: Array, j: Array) -> Array:
        laws = jax.tree.map(lambda leaf: leaf[j], angles_of(self.target))
        own = jax.vmap(lambda law, value: law._log_density(value))(laws, y)
        rows, (source, target) = self.problems[i, j], self.sides

        def across(side: CircleSide, law: Array, row: Array, point: Array) -> Array:
            return extended(side.values[row], side.log_masses[law], side.nodes[law], point, self.epsilon)

        f = jax.vmap(lambda *args: across(target, *args))(target.laws[j], rows, x)
        g = jax.vmap(lambda *args: across(source, *args))(source.laws[i], rows, y)
        return jnp.sum(own + (f + g - squared_arc(x, y)) / self.epsilon)

    def _work(self) -> int:
        return self.source.dim * (8 if self.is_map else 4 * self.sides[1].nodes.shape[1])


def solve_circle_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], progress: bool | None = None
) -> CircleCouplings:
    """Solve all coordinates of all pairs.

    On concrete input the work is done in float64, each distinct problem once; traced, every problem is solved by
    itself, and can be differentiated, but not at ``epsilon`` zero unless that is concrete.

    Raises:
        ValueError: If a law is too narrow for the grid of angles.
    """
    if is_traced(source, target, epsilon):
        shape = (source.num_components, target.num_components, source.dim)
        is_map = not is_traced(epsilon) and float(epsilon) == 0
        solution = solve_traced(angles_of(source), angles_of(target), shape, None if is_map else epsilon)
        return _couple(source, target, epsilon, solution, is_map)

    def solve(wide_source: Any, wide_target: Any, wide_epsilon: Any) -> CircleCouplings:
        forms = _shaped(wide_source), _shaped(wide_target)
        shapes = [(wide.num_components, wide.dim) for wide in (wide_source, wide_target)]
        strength = float(np.asarray(wide_epsilon))
        solution = solve_circles(forms, shapes, strength, progress)
        return _couple(wide_source, wide_target, wide_epsilon, solution, strength == 0)

    return solve_wide(solve, source, target, epsilon)


_shaped = program(angles_of)


@program
def _couple(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Float[Array, ""],
    solution: CircleSolution,
    is_map: bool,
) -> CircleCouplings:
    """Put the coordinates of each pair together."""
    costs, kl, errors = (jnp.sum(value, axis=2) for value in (solution.costs, solution.kl, solution.errors))
    errors = errors + 16 * jnp.finfo(costs.dtype).eps * costs
    return CircleCouplings(
        costs=costs,
        kl=kl,
        errors=errors,
        epsilon=epsilon,
        source=source,
        target=target,
        sides=solution.sides,
        problems=solution.rows,
        marginal_error=solution.marginal_error,
        is_map=is_map,
    )


@program
def directions(cosines: Array, sines: Array) -> Array:
    """The angles of mean cosines and sines."""
    return direction(cosines, sines)


def _image(nodes: Float[Array, " m"], values: Float[Array, " m"], x: Float[Array, ""]) -> Float[Array, ""]:
    """The image of an angle under displacements at nodes; it moves in one direction with the angle."""
    index, points, x = locate(nodes, x)
    images = points + values[index]
    image = lagrange(points, x) @ images
    return wrap(jnp.clip(image, images[1], images[2]))


@program
def _blended(maps: CircleMaps, x: Array, responsibilities: Array) -> _Sums:
    def coordinate(nodes: Array, cosines: Array, sines: Array, point: Array) -> tuple[Array, Array]:
        index, points, point = locate(nodes, point)
        weights = lagrange(points, point)
        return weights @ cosines[index], weights @ sines[index]

    def add(total: _Sums, item: tuple[Array, ...]) -> tuple[_Sums, None]:
        *tables, weight = item
        nodes, cosines, sines = tables
        own = jax.vmap(lambda point: jax.vmap(coordinate)(nodes, cosines, sines, point))(x)
        return (total[0] + weight[:, None] * own[0], total[1] + weight[:, None] * own[1]), None

    zero = jnp.zeros_like(x)
    return jax.lax.scan(add, (zero, zero), (maps.nodes, maps.cosines, maps.sines, responsibilities.T))[0]


@program
def _moved(maps: ShiftedMaps, x: Array, responsibilities: Array) -> _Sums:
    def target(nodes: Array, total: _Sums, item: tuple[Array, Array, Array]) -> tuple[_Sums, None]:
        rows, share, weight = item
        own = jax.vmap(lambda point: jax.vmap(_image)(nodes, maps.values[rows], point))(x)
        part = (share * weight)[:, None]
        return (total[0] + part * jnp.cos(own), total[1] + part * jnp.sin(own)), None

    def add(total: _Sums, item: tuple[Array, ...]) -> tuple[_Sums, None]:
        nodes, rows, shares, weight = item
        weights = jnp.broadcast_to(weight[None], (shares.shape[0], weight.shape[0]))
        return jax.lax.scan(lambda t, own: target(nodes, t, own), total, (rows, shares, weights))[0], None

    zero = jnp.zeros_like(x)
    items = (maps.nodes, maps.rows, maps.shares, responsibilities.T)
    return jax.lax.scan(add, (zero, zero), items)[0]


@program
def _collapse(couplings: CircleCouplings, row_shares: Float[Array, "K0 K1"]) -> tuple[Array, Array]:
    """The share-weighted mean cosines and sines at the nodes of each source law."""
    source = couplings.sides[0]
    others = jnp.arange(row_shares.shape[1])

    def component(i: Array) -> tuple[Array, Array]:
        nodes = source.nodes[source.laws[i]]

        def pair(total: tuple[Array, Array], item: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            j, share = item

            def at(x: Array) -> tuple[Array, Array]:
                y, masses = couplings._laws_at(x, i, j)
                return jnp.sum(masses * jnp.cos(y), axis=1), jnp.sum(masses * jnp.sin(y), axis=1)

            cosines, sines = jax.lax.map(at, nodes.T, batch_size=32)
            return (total[0] + share * cosines.T, total[1] + share * sines.T), None

        zero = jnp.zeros_like(nodes)
        return jax.lax.scan(pair, (zero, zero), (others, row_shares[i]))[0]

    return jax.lax.map(component, jnp.arange(row_shares.shape[0]))


def _batch(couplings: CircleCouplings, num: int) -> int:
    return min(batch_size(couplings._work()), max(num, 1))


@program
def _conditional_directions(couplings: CircleCouplings, x: Array, source: Array, target: Array) -> Array:
    size = _batch(couplings, x.shape[0])
    return jax.lax.map(lambda item: couplings._moments_at(*item)[0], (x, source, target), batch_size=size)


@program
def _mean_arcs(couplings: CircleCouplings, x: Array, y: Array, source: Array, target: Array) -> Array:
    def one(item: tuple[Array, ...]) -> Array:
        point, center, i, j = item
        values, masses = couplings._laws_at(point, i, j)
        return jnp.sum(masses * wrap(values - center[:, None]), axis=1)

    return jax.lax.map(one, (x, y, source, target), batch_size=_batch(couplings, x.shape[0]))


@program
def _arc_moments(couplings: CircleCouplings, x: Array, y: Array, weight: Array, shares: PairSelection) -> Array:
    size = _batch(couplings, x.shape[0])

    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        def at(item: tuple[Array, Array]) -> Array:
            point, center = item
            values, masses = couplings._laws_at(point, pair.source, pair.target)
            arcs = wrap(values - center[:, None])
            mean, square = jnp.sum(masses * arcs, axis=1), jnp.sum(masses * arcs**2, axis=1)
            return mean[:, None] * mean[None, :] + jnp.diag(square - mean**2)

        moments = jax.lax.map(at, (x, y), batch_size=size)
        return total + (weight[:, pair.source] * pair.weight)[:, None, None] * moments, None

    return jax.lax.scan(add, jnp.zeros((*x.shape, x.shape[1]), x.dtype), shares)[0]


@program
def _draw_all(couplings: CircleCouplings, uniform: Array, x: Array, source: Array, target: Array) -> Array:
    def coordinate(y: Array, masses: Array, u: Array) -> Array:
        if couplings.is_map:
            return y[0]
        # Each node stands for half of the way to its neighbors.
        size = y.shape[0]
        total = jnp.concatenate([jnp.zeros((1,), y.dtype), jnp.cumsum(masses)])
        place = jnp.interp(u * total[-1], total, jnp.arange(size + 1, dtype=y.dtype) - 0.5)
        nodes = jnp.concatenate([y[-1:] - PERIOD, y, y[:1] + PERIOD])
        return wrap(jnp.interp(place, jnp.arange(-1, size + 1, dtype=y.dtype), nodes))

    def one(item: tuple[Array, ...]) -> Array:
        u, point, i, j = item
        return jax.vmap(coordinate)(*couplings._laws_at(point, i, j), u)

    return jax.lax.map(one, (uniform, x, source, target), batch_size=_batch(couplings, x.shape[0]))
