"""Components of several families at once, and their couplings, block by block."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key

from .._base.arguments import as_count, as_key, KeyLike
from .._base.arrays import is_traced
from .._base.results import RESULTS
from .._components.interface import AbstractComponents, log_prob_table
from .interface import AbstractComponentMaps, AbstractCouplings, PairSelection, select_pairs


class Blocks(AbstractComponents):
    """Components of several families in one set: K is the sum of the families' numbers of components.

    Each pair of families is transported by its own best route. `to_numpyro` and methods for one component do not exist,
    because the components have no common type.

    Attributes:
        blocks: The families, each with its own components.
        order: For each component its position among the blocks' components, one block after the other.
    """

    blocks: tuple[AbstractComponents, ...]
    order: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, blocks: Any, order: tuple[int, ...] | None = None):
        """Join sets of components; their order is kept unless another is given.

        Raises:
            TypeError: If an entry is not a set of components.
            ValueError: If there is none, or dimensions or floating-point types differ.
        """
        self.blocks = tuple(blocks)
        if not self.blocks:
            raise ValueError("`blocks` must hold at least one set of components; got none.")
        for block in self.blocks:
            if not isinstance(block, AbstractComponents) or isinstance(block, Blocks):
                raise TypeError(f"`blocks` must hold sets of components of one family; got {type(block).__name__}.")
        for what in ("dim", "dtype"):
            values = [getattr(block, what) for block in self.blocks]
            if len(set(values)) > 1:
                raise ValueError(f"`blocks` must agree in {what}; got {', '.join(map(str, values))}.")
        total = sum(block.num_components for block in self.blocks)
        self.order = tuple(range(total)) if order is None else tuple(order)

    # -- where a component is ------------------------------------------------------------------------------------

    @property
    def starts(self) -> tuple[int, ...]:
        """The position of the first component of each block, and the total."""
        sizes = [block.num_components for block in self.blocks]
        return tuple(int(start) for start in np.concatenate([[0], np.cumsum(sizes)]))

    def members(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The components of one block: their places in this set, and their indices in the block."""
        start, stop = self.starts[index : index + 2]
        order = np.asarray(self.order, int)
        places = np.flatnonzero((order >= start) & (order < stop))
        return places, order[places] - start

    def _gather(self, parts: list[Array]) -> Array:
        return jnp.concatenate(parts)[np.asarray(self.order, int)]

    # -- what components do ----------------------------------------------------------------------------------------

    @property
    def num_components(self) -> int:
        return len(self.order)

    @property
    def dim(self) -> int:
        return self.blocks[0].dim

    @property
    def dtype(self) -> Any:
        return self.blocks[0].dtype

    def padded(self, item_size: int) -> "Blocks":
        """Themselves: components without a common type are not repeated."""
        return self

    def log_prob_rows(self, x: Float[Array, "n d"]) -> Float[Array, "K n"]:
        return self._gather([log_prob_table(block, x) for block in self.blocks])

    def sample_labeled(self, key: KeyLike, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        position = jnp.asarray(self.order)[labels]
        draws = jnp.zeros((labels.shape[0], self.dim), self.dtype)
        keys = jax.random.split(as_key(key), len(self.blocks))
        for own_key, start, block in zip(keys, self.starts, self.blocks, strict=False):
            own = (position >= start) & (position < start + block.num_components)
            drawn = block.sample_labeled(own_key, jnp.where(own, position - start, 0))
            draws = jnp.where(own[:, None], drawn, draws)
        return draws

    def sample(self, key: KeyLike, num_samples: int) -> Float[Array, "n K d"]:
        keys = jax.random.split(as_key(key), len(self.blocks))
        num = as_count("num_samples", num_samples)
        parts = [jnp.swapaxes(b.sample(k, num), 0, 1) for b, k in zip(self.blocks, keys, strict=True)]
        return jnp.swapaxes(self._gather(parts), 0, 1)

    def mean(self) -> Float[Array, "K d"]:
        return self._gather([block.mean() for block in self.blocks])

    def covariance(self) -> Float[Array, "K d d"]:
        return self._gather([block.covariance() for block in self.blocks])

    def select(self, index: Any) -> "Blocks":
        """The components at the given indices, in that order; indices must be concrete."""
        if is_traced(index):
            raise TypeError("Components of several families cannot be selected by traced indices.")
        chosen = np.asarray(self.order, int)[index if isinstance(index, slice) else np.asarray(index)]
        if chosen.ndim != 1:
            raise TypeError(f"`index` must select a list of components; got shape {chosen.shape}.")
        blocks, order, offset = [], np.zeros(len(chosen), int), 0
        for start, block in zip(self.starts, self.blocks, strict=False):
            places = np.flatnonzero((chosen >= start) & (chosen < start + block.num_components))
            if places.size:
                blocks.append(block.select(chosen[places] - start))
                order[places] = offset + np.arange(places.size)
                offset += places.size
        return Blocks(blocks, tuple(int(i) for i in order))

    def to_numpyro(self) -> dist.Distribution:
        raise NotImplementedError(
            "Components of several families are no NumPyro distribution of one kind; convert each block by itself."
        )

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        raise _no_single()

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        raise _no_single()

    def _mean(self) -> Float[Array, " d"]:
        raise _no_single()

    def _covariance(self) -> Float[Array, "d d"]:
        raise _no_single()


def _no_single() -> TypeError:
    return TypeError("Components of several families have no common type; work on one of the `blocks`.")


# -- couplings ---------------------------------------------------------------------------------------------------


def as_blocks(components: AbstractComponents) -> Blocks:
    """The same components as blocks, of which there may be one."""
    return components if isinstance(components, Blocks) else Blocks((components,))


class BlockMaps(AbstractComponentMaps):
    """The sum of the maps of all pairs of blocks.

    Attributes:
        parts: For each source block, the maps into each target block.
        rows: For each source block, the places of its components.
    """

    parts: tuple[tuple[AbstractComponentMaps, ...], ...]
    rows: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        image = jnp.zeros_like(x)
        for row, places in zip(self.parts, self.rows, strict=True):
            own = responsibilities[:, np.asarray(places, int)]
            for maps in row:
                image = image + maps(x, own)
        return image


class BlockCouplings(AbstractCouplings):
    """Couplings of components of several families, each pair of families by its own route.

    Attributes:
        source: Source components.
        target: Target components.
        parts: For each source block, the couplings with each target block.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    source: Blocks
    target: Blocks
    parts: tuple[tuple[AbstractCouplings, ...], ...]

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        return _table(self.source, self.target, [[part.objective_errors for part in row] for row in self.parts])

    @property
    def result(self) -> Any:
        """The first outcome that is no success."""
        result = RESULTS.successful
        for part in (part for row in self.parts for part in row):
            result = RESULTS.where(jnp.asarray(result == RESULTS.successful), part.result, result)
        return result

    def transpose(self) -> "BlockCouplings":
        parts = tuple(tuple(part.transpose() for part in column) for column in zip(*self.parts, strict=True))
        return BlockCouplings(self.costs.T, self.kl.T, self.epsilon, self.target, self.source, parts)

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> BlockMaps:
        rows = [self.source.members(a) for a in range(len(self.parts))]
        columns = [self.target.members(b) for b in range(len(self.parts[0]))]

        def part(a: int, b: int) -> AbstractComponentMaps:
            # A block in its own order, of which the set may use each component more than once or not at all.
            shares = row_shares[rows[a][0]][:, columns[b][0]]
            return self.parts[a][b].component_maps(shares)

        parts = tuple(tuple(part(a, b) for b in range(len(columns))) for a in range(len(rows)))
        return BlockMaps(parts, tuple(tuple(int(i) for i in places) for places, _ in rows))

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        total = jnp.zeros((*x.shape, x.shape[1]), x.dtype)
        for part, places, pairs in self._restricted(shares):
            total = total + part.conditional_covariance(x, y, weight[:, places], pairs)
        return total

    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        total = jnp.full((x.shape[0],), -jnp.inf, x.dtype)
        for part, places, pairs in self._restricted(shares):
            total = jnp.logaddexp(total, part.log_conditional(x, y, log_weight[:, places], pairs))
        return total

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        image = x
        for part, inside, i, j in self._split(source, target):
            image = jnp.where(inside[:, None], part.conditional_mean(x, i, j), image)
        return image

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        image, pieces = x, self._split(source, target)
        for own_key, (part, inside, i, j) in zip(jax.random.split(key, len(pieces)), pieces, strict=True):
            image = jnp.where(inside[:, None], part.sample_conditional(own_key, x, i, j), image)
        return image

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        dim = self.source.dim
        total = jnp.zeros((pairs.weight.shape[0], dim, dim), self.costs.dtype)
        for part, inside, i, j in self._split(pairs.source, pairs.target):
            cross = part.cross_covariances(PairSelection(i, j, pairs.weight))
            total = jnp.where(inside[:, None, None], cross, total)
        return total

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents | None:
        """As blocks, where every pair of families has a closed form."""
        if is_traced(pairs):
            return None
        blocks, places = [], []
        for part, inside, i, j in self._split(pairs.source, pairs.target):
            own = np.flatnonzero(np.asarray(inside))
            if own.size:
                moved = part.interpolate(t, PairSelection(i[own], j[own], pairs.weight[own]))
                if moved is None:
                    return None
                blocks.append(moved)
                places.append(own)
        return Blocks(blocks, tuple(int(i) for i in np.argsort(np.concatenate(places))))

    def _split(self, source: Array, target: Array) -> list[tuple[AbstractCouplings, Array, Array, Array]]:
        """For each pair of blocks: which items belong to it, and their places in the two blocks (0 for others)."""
        pieces = []
        for a, row in enumerate(self.parts):
            left, i = _local(self.source, a, source)
            for b, part in enumerate(row):
                right, j = _local(self.target, b, target)
                pieces.append((part, left & right, i, j))
        return pieces

    def _restricted(self, shares: PairSelection) -> list[tuple[AbstractCouplings, np.ndarray, PairSelection]]:
        """For each pair of blocks that carries mass: the places of its source components, and its pairs."""
        pieces = []
        for index, (part, inside, i, j) in enumerate(self._split(shares.source, shares.target)):
            places = self.source.members(index // len(self.parts[0]))[0]
            pairs = PairSelection(i, j, jnp.where(inside, shares.weight, jnp.zeros_like(shares.weight)))
            if not is_traced(pairs):
                table = np.zeros(part.costs.shape, shares.weight.dtype)
                np.add.at(table, (np.asarray(i), np.asarray(j)), np.asarray(pairs.weight))
                if not table.any():
                    continue
                pairs = select_pairs(jnp.asarray(table), 0.0)
            pieces.append((part, places, pairs))
        return pieces


def _local(components: Blocks, index: int, labels: Array) -> tuple[Array, Array]:
    """Which labels belong to a block, and their ranks among its components in this set (0 for others)."""
    places, _ = components.members(index)
    rank = np.zeros(components.num_components, int)
    rank[places] = np.arange(len(places))
    inside = np.zeros(components.num_components, bool)
    inside[places] = True
    return jnp.asarray(inside)[labels], jnp.asarray(rank)[labels]


def _table(source: Blocks, target: Blocks, parts: list[list[Array]]) -> Float[Array, "K0 K1"]:
    """Put tables of pairs of blocks together, in the order of the two sets."""
    rows = np.argsort(np.concatenate([source.members(a)[0] for a in range(len(parts))]))
    columns = np.argsort(np.concatenate([target.members(b)[0] for b in range(len(parts[0]))]))
    return jnp.block(parts)[rows][:, columns]


def solve_block_couplings(
    source: AbstractComponents, target: AbstractComponents, epsilon: Any, *options: Any
) -> BlockCouplings:
    """Couple every pair of blocks by its own best route.

    Args:
        source: Source components, at least one side being `Blocks`.
        target: Target components.
        epsilon: Regularization, units of squared distance.
        options: Passed on to `solve_couplings`.
    """
    from .interface import solve_couplings

    # Blocks in the order of the set, each component once per place: indices of couplings are then ranks.
    source, target = (_unrolled(as_blocks(components)) for components in (source, target))
    parts = tuple(tuple(solve_couplings(a, b, epsilon, *options) for b in target.blocks) for a in source.blocks)
    costs = _table(source, target, [[part.costs for part in row] for row in parts])
    kl = _table(source, target, [[part.kl for part in row] for row in parts])
    return BlockCouplings(costs, kl, epsilon, source, target, parts)


def _unrolled(components: Blocks) -> Blocks:
    """The same set with blocks that hold its components in the set's order."""
    return components.select(slice(None))
