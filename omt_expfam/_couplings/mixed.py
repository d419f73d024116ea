"""Couplings of components whose columns are of several kinds: products of couplings of the blocks."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from .._base.arrays import on_host, safe_log
from .._base.results import RESULTS, succeeded
from .._base.xla import program
from .._components.columns import ColumnPart, join, join_matrices, split
from .._components.interface import AbstractComponents
from .interface import AbstractComponentMaps, AbstractCouplings, PairSelection, weighted_sum


class MixedMaps(AbstractComponentMaps):
    """Maps that act on each block of columns by itself.

    Attributes:
        parts: The maps of the blocks.
        columns: The columns of each.
    """

    parts: tuple[AbstractComponentMaps, ...]
    columns: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        parts = [ColumnPart(maps, np.asarray(own), 1.0) for maps, own in zip(self.parts, self.columns, strict=True)]
        each = zip(self.parts, split(x, parts), strict=True)
        return join([maps(own, responsibilities) for maps, own in each], parts)


class MixedCouplings(AbstractCouplings):
    """Couplings of components whose blocks of columns are independent.

    The entropic plan between products is the product of the plans of the blocks; costs and KL divergences add. A block
    whose cost has a weight w is coupled at the regularization over w.

    Attributes:
        costs: Weighted sums of the blocks' costs.
        kl: Sums of their KL divergences, in nats.
        epsilon: Regularization, units of the cost.
        source: Source components.
        target: Target components.
        parts: The couplings of the blocks, in the order of the source.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents
    parts: tuple[AbstractCouplings, ...]

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        weights = [part.cost_weight for part in self._columns()]
        return weighted_sum(weights, [part.objective_errors for part in self.parts])

    @property
    def result(self) -> Any:
        """The first outcome that is no success."""
        result = RESULTS.successful
        for part in self.parts:
            fine = succeeded(result)
            if isinstance(fine, bool):
                result = part.result if fine else result
            else:
                result = RESULTS.where(fine, part.result, result)
        return result

    def transpose(self) -> "MixedCouplings":
        costs, kl = on_host(lambda _, *tables: tuple(table.T for table in tables), self.costs, self.kl)
        order = [_places(self.source).index(columns) for columns in _places(self.target)]
        parts = tuple(self.parts[place].transpose() for place in order)
        return MixedCouplings(costs, kl, self.epsilon, self.target, self.source, parts)

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> MixedMaps:
        maps = tuple(part.component_maps(row_shares) for part in self.parts)
        return MixedMaps(maps, tuple(_places(self.source)))

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        return _conditional_covariance(self, x, y, weight, shares)

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        each = zip(self.parts, self._split(x), strict=True)
        return self._join([part.conditional_mean(own, source, target) for part, own in each])

    def conditional_offset(
        self, x: Float[Array, "n d"], y: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        each = zip(self.parts, self._split(x), self._split(y), strict=True)
        return self._join([part.conditional_offset(own, about, source, target) for part, own, about in each])

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        keys = jax.random.split(key, len(self.parts))
        each = zip(keys, self.parts, self._split(x), strict=True)
        return self._join([part.sample_conditional(own, columns, source, target) for own, part, columns in each])

    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        return _log_conditional(self, x, y, log_weight, shares)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        return join_matrices([part.cross_covariances(pairs) for part in self.parts], self._columns())

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents | None:
        """Mixed components, where every block has a closed form."""
        moved = []
        for part in self.parts:
            own = part.interpolate(t, pairs)
            if own is None:
                return None
            moved.append(own)
        return self.source.with_column_parts(moved)

    def _columns(self) -> tuple[ColumnPart, ...]:
        return self.source.column_parts()

    def _split(self, x: Array) -> list[Array]:
        return split(x, self._columns())

    def _join(self, values: list[Array]) -> Array:
        return join(values, self._columns())


def _places(components: AbstractComponents) -> list[tuple[int, ...]]:
    """The columns of every part."""
    return [tuple(part.columns.tolist()) for part in components.column_parts()]


def _one(pair: PairSelection) -> PairSelection:
    """A pair alone, whole."""
    return PairSelection(pair.source[None], pair.target[None], jnp.ones_like(pair.weight)[None])


@program
def _log_conditional(
    couplings: MixedCouplings, x: Array, y: Array, log_weight: Array, shares: PairSelection
) -> Float[Array, " n"]:
    pieces = list(zip(couplings.parts, couplings._split(x), couplings._split(y), strict=True))
    even = jnp.zeros_like(log_weight)

    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        term = log_weight[:, pair.source] + safe_log(pair.weight)
        for part, own, image in pieces:
            term = term + part.log_conditional(own, image, even, _one(pair))
        return jnp.logaddexp(total, term), None

    return jax.lax.scan(add, jnp.full(x.shape[:1], -jnp.inf, x.dtype), shares)[0]


@program
def _conditional_covariance(
    couplings: MixedCouplings, x: Array, y: Array, weight: Array, shares: PairSelection
) -> Float[Array, "n d d"]:
    pieces = list(zip(couplings.parts, couplings._split(x), couplings._split(y), strict=True))
    columns, even = couplings._columns(), jnp.ones_like(weight)
    within = _within(columns)

    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        whole = [jnp.broadcast_to(k, x.shape[:1]) for k in (pair.source, pair.target)]
        second = join_matrices([p.conditional_covariance(own, at, even, _one(pair)) for p, own, at in pieces], columns)
        offset = couplings.conditional_offset(x, y, whole[0], whole[1])
        # Blocks are independent given the pair.
        across = jnp.where(within[None], jnp.zeros_like(second), offset[:, :, None] * offset[:, None, :])
        return total + (weight[:, pair.source] * pair.weight)[:, None, None] * (second + across), None

    return jax.lax.scan(add, jnp.zeros((*x.shape, x.shape[1]), x.dtype), shares)[0]


def _within(columns: tuple[ColumnPart, ...]) -> Bool[np.ndarray, "d d"]:
    """Which two columns are of one block."""
    block = np.zeros(sum(len(part.columns) for part in columns), int)
    for index, part in enumerate(columns):
        block[part.columns] = index
    return block[:, None] == block[None, :]
