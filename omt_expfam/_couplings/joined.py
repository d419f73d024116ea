"""Components of several families at once, and their couplings, block by block."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import is_traced
from .._base.results import RESULTS
from .._components.interface import AbstractComponents
from .._components.joined import Blocks
from .circle.couplings import AbstractCircleMaps, directions
from .interface import AbstractComponentMaps, AbstractCouplings, PairSelection, select_pairs

# -- couplings ---------------------------------------------------------------------------------------------------


class BlockMaps(AbstractComponentMaps):
    """The sum of the maps of all pairs of blocks.

    Attributes:
        parts: For each source block, the maps into each target block.
        rows: For each source block, the places of its components.
    """

    parts: tuple[tuple[AbstractComponentMaps, ...], ...]
    rows: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        image, sines = jnp.zeros_like(x), jnp.zeros_like(x)
        for row, places in zip(self.parts, self.rows, strict=True):
            own = responsibilities[:, np.asarray(places, int)]
            for maps in row:
                if isinstance(maps, AbstractCircleMaps):
                    cosine, sine = maps.sums(x, own)
                    image, sines = image + cosine, sines + sine
                else:
                    image = image + maps(x, own)
        return directions(image, sines) if isinstance(self.parts[0][0], AbstractCircleMaps) else image


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
        return pair_table(self.source, self.target, [[part.objective_errors for part in row] for row in self.parts])

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


def pair_table(source: Blocks, target: Blocks, parts: list[list[Array]]) -> Float[Array, "K0 K1"]:
    """Put tables of pairs of blocks together, in the order of the two sets."""
    rows = np.argsort(np.concatenate([source.members(a)[0] for a in range(len(parts))]))
    columns = np.argsort(np.concatenate([target.members(b)[0] for b in range(len(parts[0]))]))
    return jnp.block(parts)[rows][:, columns]
