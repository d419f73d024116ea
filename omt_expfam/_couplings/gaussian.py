"""The P-block in closed form: couplings of Gaussian components, streamed over pairs."""

import abc
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import at_top, batch_size, on_host, to_jax
from .._base.buckets import cut, pad, pad_zero, point_bucket
from .._base.results import RESULTS
from .._components.interface import AbstractComponents
from .gaussian_blocks import (
    _NUM_SLICES,
    AffineMaps,
    collapse,
    components_like,
    conditional_covariance,
    couple,
    couple_slices,
    cross_covariances,
    displace_block,
    displace_each,
    GaussianSides,
    interpolate,
    log_conditional,
    LONG,
    normal,
    num_displaced,
    sides_of,
)
from .interface import (
    AbstractCouplings,
    independent_costs,
    PairSelection,
    select_pairs,
)


class AbstractGaussianCouplings(AbstractCouplings):
    """Couplings of Gaussians: the laws of each pair, from the laws of its two sides.

    Holds the parameters of these; matrices of pairs are recomputed where they are needed, a block at a time.
    """

    @property
    def result(self) -> Any:
        return RESULTS.successful

    @abc.abstractmethod
    def _ends(self) -> tuple[AbstractComponents, AbstractComponents]:
        """The laws of both sides, of which pairs are made."""

    def _targets(self, source: Int[Array, " p"], target: Int[Array, " p"]) -> Int[Array, " p"]:
        """The target law of each pair, for pairs given by row and target component."""
        return target

    def _selection(self, pairs: PairSelection) -> PairSelection:
        return PairSelection(pairs.source, self._targets(pairs.source, pairs.target), pairs.weight)

    def _sides(self) -> "GaussianSides":
        """What all pairs are made of, padded where it is little."""
        sides = sides_of(*self._ends(), self.epsilon)
        return sides.padded() if at_top(sides) else sides

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        if not at_top(self, x, y, weight, shares):
            return conditional_covariance(self._sides(), x, y, weight, self._selection(shares))
        num, sides = x.shape[0], self._sides()
        x, y, weight = pad((x, y, weight), point_bucket(num))
        weight = pad(weight, sides.source.num_components, axis=1)
        return cut(conditional_covariance(sides, x, y, weight, self._selection(shares)), num)

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return self._displace(x, None, source, target)

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        num = x.shape[0]
        size = point_bucket(num) if at_top(self, key, x, source, target) else num
        return self._displace(x, normal(key, (size, x.shape[1]), x.dtype), source, target)

    def _displace(self, x: Array, noise: Array | None, source: Array, target: Array) -> Array:
        """Conditional means, plus noise of the conditional covariances, each point under its own pair."""
        sides, target = sides_of(*self._ends(), self.epsilon), self._targets(source, target)
        if not at_top(sides, x, noise, source, target):
            return displace_each(sides, x, jnp.zeros_like(x) if noise is None else noise, source, target)
        # Points sorted by pair: each block of points meets few pairs, whose matrices it can hold.
        left, right = np.asarray(source), np.asarray(target)
        order = np.lexsort((right, left))
        block = batch_size(2 * x.shape[1] ** 2)
        points = np.asarray(x)
        noises = np.zeros_like(points) if noise is None else np.asarray(noise)
        moved = np.empty_like(points)
        for start in range(0, len(order), block):
            chosen = order[start : start + block]
            pair = left[chosen].astype(np.int64) * sides.target.num_components + right[chosen]
            unique, which = np.unique(pair, return_inverse=True)
            unique = np.divmod(pad(unique, num_displaced(len(unique), x.shape[1])), sides.target.num_components)
            size = min(point_bucket(len(chosen)), block)
            own, z, which = pad((points[chosen], noises[chosen], which), size)
            moved[chosen] = np.asarray(displace_block(sides.of_pairs(*unique), own, z, which))[: len(chosen)]
        return to_jax(moved)

    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        if not at_top(self, x, y, log_weight, shares):
            return log_conditional(self._sides(), x, y, log_weight, self._selection(shares))
        num, sides = x.shape[0], self._sides()
        x, y, log_weight = pad((x, y, log_weight), point_bucket(num))
        log_weight = pad(log_weight, sides.source.num_components, axis=1)
        return cut(log_conditional(sides, x, y, log_weight, self._selection(shares)), num)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        return cross_covariances(self._sides(), self._selection(pairs))


class GaussianCouplings(AbstractGaussianCouplings):
    """Closed-form couplings of Gaussian components."""

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        """Rounding: a few units in the last place of the numbers that the closed form adds up."""
        unit = 16 * float(jnp.finfo(self.costs.dtype).eps) * self.source.dim
        costs = independent_costs(self.source, self.target), self.objectives()
        return on_host(lambda xp, alone, coupled: unit * (alone + xp.abs(coupled)), *costs)

    def _ends(self) -> tuple[AbstractComponents, AbstractComponents]:
        return self.source, self.target

    def transpose(self) -> "GaussianCouplings":
        costs, kl = on_host(lambda _, *tables: tuple(table.T for table in tables), self.costs, self.kl)
        return GaussianCouplings(costs, kl, self.epsilon, self.target, self.source)

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> AffineMaps:
        # Shares below a rounding error of the map do not change it.
        threshold = float(jnp.finfo(row_shares.dtype).eps) * 1e-3
        sides = self._sides()
        shares = select_pairs(row_shares, threshold, self.source.dim**3)
        if not at_top(self, row_shares):
            return collapse(sides, shares, row_shares)
        num, size = row_shares.shape[0], (sides.source.num_components, sides.target.num_components)
        table = pad_zero(np.asarray(pad_zero(row_shares, size[0])).T, size[1]).T
        return cut(collapse(sides, shares, table), num)

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents:
        return components_like((self.source, self.target), *interpolate(self._sides(), t, pairs))


def solve_gaussian_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""], progress: bool | None = None
) -> GaussianCouplings:
    """Costs and divergences of all pairs; no matrix of a pair outlives its block."""
    sides = sides_of(source, target, epsilon)
    num, other = source.num_components, target.num_components
    if not at_top(sides):
        costs, kl = couple(sides)
    elif sides.item_size * min(num, other) < LONG:
        costs, kl = cut(cut(couple(sides.padded()), num), other, axis=1)
    else:
        costs, kl = couple_slices(sides, -(-num // _NUM_SLICES), progress)
    return GaussianCouplings(costs, kl, epsilon, source, target)
