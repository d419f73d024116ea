"""The P-block in closed form where marginals have a price: couplings of Gaussian pairs, each with its own marginals."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arrays import at_top, batch_size, is_traced, on_host, to_jax
from .._base.buckets import cut
from .._base.precision import in_float64, narrow
from .._base.xla import program
from .._components.covariance import DiagonalCovariance, ScalarCovariance, to_diagonal
from .._components.interface import AbstractComponents
from .._components.mixture import Mixture
from .gaussian import AbstractGaussianCouplings
from .gaussian_blocks import AffineMaps, collapse, components_like, GaussianSides, sides_of
from .interface import PairSelection
from .unbalanced_gaussian import between, unbalanced_pair, UnbalancedPair


class UnbalancedGaussianCouplings(AbstractGaussianCouplings):
    """Closed-form couplings of Gaussian components whose marginals have a price.

    What leaves a component differs from pair to pair, so that the laws at a point are those of the pairs: the rows of
    these couplings are all pairs, those of the first source component first.

    Attributes:
        changes: KL of what leaves each source component from it, and of what arrives from the target component.
        prices: Prices of these changes, units of squared distance; infinite keeps that side's marginals.
        given: The source and the target components.
        leaving: What leaves, a component for each pair.
        arriving: What arrives, a component for each pair.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    changes: tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]
    prices: tuple[Float[Array, ""], Float[Array, ""]]
    given: tuple[AbstractComponents, AbstractComponents]
    leaving: AbstractComponents
    arriving: AbstractComponents

    def _ends(self) -> tuple[AbstractComponents, AbstractComponents]:
        return self.leaving, self.arriving

    @property
    def keeps_marginals(self) -> bool:
        return False

    def objectives(self) -> Float[Array, "K0 K1"]:
        def add(xp: Any, costs: Any, kl: Any, changes: Any, epsilon: Any, prices: Any) -> Any:
            total = costs + epsilon * kl
            for change, price in zip(changes, prices, strict=True):
                total = total + xp.where(xp.isinf(price), xp.zeros_like(price), price) * change
            return total

        return on_host(add, self.costs, self.kl, self.changes, self.epsilon, self.prices)

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        """Rounding, which grows where prices are small beside the variances of components."""
        unit = 16 * float(jnp.finfo(self.costs.dtype).eps) * self.leaving.dim
        spread = jnp.trace if is_traced(self) else np.trace
        variances = [spread(side.covariance(), axis1=1, axis2=2) for side in self.given]

        def bound(xp: Any, costs: Any, variances: Any, epsilon: Any, prices: Any) -> Any:
            alone = costs + variances[0][:, None] + variances[1][None, :]
            largest = xp.maximum(*(xp.max(variance) for variance in variances))
            return unit * alone * (1 + largest / (epsilon + xp.minimum(*prices)))

        return on_host(bound, self.objectives(), variances, self.epsilon, self.prices)

    def transpose(self) -> "UnbalancedGaussianCouplings":
        num, other = self.costs.shape
        order = np.arange(num * other).reshape(num, other).T.ravel()
        costs, kl, *changes = on_host(lambda _, *tables: tuple(t.T for t in tables), self.costs, self.kl, *self.changes)
        prices, given = (self.prices[1], self.prices[0]), (self.given[1], self.given[0])
        sides = self.arriving.select(order), self.leaving.select(order)
        return UnbalancedGaussianCouplings(costs, kl, self.epsilon, (changes[1], changes[0]), prices, given, *sides)

    # -- laws, by pairs -----------------------------------------------------------------------------------------------

    def rows(
        self, source: Mixture, weights: Float[Array, "K0 K1"], row_shares: Float[Array, "K0 K1"]
    ) -> tuple[Mixture, Float[Array, "r K1"]]:
        def by_pairs(xp: Any, weights: Any) -> tuple[Any, Any]:
            num, other = weights.shape
            flat = weights.reshape(-1)
            return flat / xp.sum(flat), xp.tile(xp.eye(other, dtype=weights.dtype), (num, 1))

        flat, shares = on_host(by_pairs, weights)
        return Mixture(flat, self.leaving), shares

    def component_maps(self, row_shares: Float[Array, "r K1"]) -> AffineMaps:
        sides, num = self._sides(), row_shares.shape[0]
        index = to_jax(np.arange(sides.source.num_components))
        every = PairSelection(index, index, to_jax(np.ones(len(index)), row_shares.dtype))
        return cut(collapse(sides, every, None), num)

    def _targets(self, source: Int[Array, " p"], target: Int[Array, " p"]) -> Int[Array, " p"]:
        """The row itself: what arrives is that of the same pair."""
        return source

    # -- on the way ---------------------------------------------------------------------------------------------------

    def masses_between(self, t: Float[Array, ""]) -> Float[Array, "K0 K1"]:
        return self._between(t).mass

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents:
        travel = self._between(t)

        def chosen(_: Any, tables: Any, source: Any, target: Any) -> Any:
            return tuple(table[source, target] for table in tables)

        mean, table = on_host(chosen, (travel.mean, travel.table), pairs.source, pairs.target)
        return components_like(self.given, mean, table)

    def _between(self, t: Float[Array, ""]) -> "_Travel":
        sides = sides_of(*self.given, self.epsilon)
        numbers = in_precision(_travel, sides, self.prices, t)
        num, other = self.costs.shape
        return cut(cut(numbers, num), other, axis=1)


class _Travel(NamedTuple):
    """Mass, mean, and variances or root of the covariance, of every pair on the way."""

    mass: Float[Array, "K0 K1"]
    mean: Float[Array, "K0 K1 d"]
    table: Float[Array, "K0 K1 d *e"]


class _Solved(NamedTuple):
    """What the couplings hold, of every pair."""

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    changes: tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]
    means: tuple[Float[Array, "K0 K1 d"], Float[Array, "K0 K1 d"]]
    tables: tuple[Float[Array, "K0 K1 d *e"], Float[Array, "K0 K1 d *e"]]


def solve_unbalanced_couplings(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Float[Array, ""],
    prices: tuple[Float[Array, ""], Float[Array, ""]],
) -> UnbalancedGaussianCouplings:
    """Solve the P-block of Gaussian components whose marginals have a price.

    Args:
        source: Source components, Gaussian.
        target: Target components, Gaussian.
        epsilon: Regularization, units of squared distance; positive.
        prices: Prices of changing the marginals of the source and of the target components, same units.
    """
    num, other = source.num_components, target.num_components
    solved = in_precision(_solve, sides_of(source, target, epsilon), prices)
    solved = cut(cut(solved, num), other, axis=1)
    flat = on_host(lambda _, tree: jax.tree.map(lambda v: v.reshape(num * other, *v.shape[2:]), tree), solved[3:])
    leaving, arriving = (components_like((source, target), *side) for side in zip(*flat, strict=True))
    return UnbalancedGaussianCouplings(
        solved.costs, solved.kl, epsilon, solved.changes, prices, (source, target), leaving, arriving
    )


def in_precision(function: Any, sides: GaussianSides, *numbers: Any) -> Any:
    """A program's result, in float64 inside where nothing is traced: small prices and regularizations cancel digits."""
    if not at_top(sides, *numbers):
        return function(sides, *numbers)
    return narrow(in_float64(function, sides.padded(), *numbers), sides.source.dtype)


@program
def _solve(sides: GaussianSides, prices: tuple[Array, Array]) -> _Solved:
    def one(pair: UnbalancedPair, covariances: Any) -> _Solved:
        tables = _numbers(sides, pair.covariances[0]), _numbers(sides, pair.covariances[1])
        return _Solved(pair.cost, pair.kl, pair.changes, pair.means, tables)

    found = _each(sides, prices, one)
    if _diagonal(sides) is not None:
        # Sums over coordinates, each of which is a problem of its own.
        costs, kl, *changes = (jnp.sum(table, axis=-1) for table in (found.costs, found.kl, *found.changes))
        found = found._replace(costs=costs, kl=kl, changes=(changes[0], changes[1]))
    return found


@program
def _travel(sides: GaussianSides, prices: tuple[Array, Array], t: Float[Array, ""]) -> _Travel:
    def one(pair: UnbalancedPair, covariances: Any) -> _Travel:
        mass, mean, covariance = between(pair, covariances, sides.epsilon, prices, t)
        return _Travel(mass, mean, _numbers(sides, covariance))

    found = _each(sides, prices, one)
    return found._replace(mass=jnp.prod(found.mass, axis=-1)) if _diagonal(sides) is not None else found


def _numbers(sides: GaussianSides, covariance: Float[Array, "d d"]) -> Array:
    """What a structure is made of: the variance of a coordinate alone, or a Cholesky factor."""
    return covariance if _diagonal(sides) is not None else jnp.linalg.cholesky(covariance)


def _diagonal(sides: GaussianSides) -> list[Array] | None:
    """Variances of the coordinates on either side, where these are independent."""
    simple = [form for form in sides.forms if isinstance(form, DiagonalCovariance | ScalarCovariance)]
    return [to_diagonal(form).variance for form in simple] if len(simple) == 2 else None


def _each(sides: GaussianSides, prices: tuple[Array, Array], function: Any) -> Any:
    """A function of every pair's closed form; of every coordinate where these are independent, along the last axis."""
    means, forms = (sides.source.mean(), sides.target.mean()), sides.forms

    def solved(first: Any, second: Any) -> Any:
        covariances = first[1], second[1]
        return function(unbalanced_pair((first[0], second[0]), covariances, sides.epsilon, prices), covariances)

    variances = _diagonal(sides)
    if variances is None:
        matrices = [jax.vmap(lambda c: c.matrix())(form) for form in forms]
        return _table(solved, (means[0], matrices[0]), (means[1], matrices[1]), sides.source.dim**2)
    first, second = ((m[..., None], v[..., None, None]) for m, v in zip(means, variances, strict=True))
    found = _table(jax.vmap(solved), first, second, sides.source.dim)
    shape = (*found[0].shape[:2], sides.source.dim)
    return jax.tree.map(lambda leaf: leaf.reshape(shape), found)


def _table(function: Any, first: Any, second: Any, item_size: int) -> Any:
    """A function of every pair, some rows at a time."""
    other = jax.tree.leaves(second)[0].shape[0]
    rows = batch_size(8 * item_size * other)

    def row(left: Any) -> Any:
        return jax.vmap(lambda right: function(left, right))(second)

    return jax.lax.map(row, first, batch_size=min(rows, jax.tree.leaves(first)[0].shape[0]))
