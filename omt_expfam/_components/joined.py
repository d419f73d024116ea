"""Components of several families in one mixture."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Complex, Float, Int, Key

from .._base.arguments import as_count, as_key, KeyLike
from .._base.arrays import is_traced
from .._numerics.support import Constraint
from .columns import has_angles, has_categories
from .interface import AbstractComponents, log_prob_table


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
            if len(self.blocks) > 1 and (len(block.column_parts()) > 1 or has_categories(block)):
                raise TypeError(
                    f"`blocks` must not hold categories or columns of several kinds; got {type(block).__name__}."
                )
        for what in ("dim", "dtype"):
            values = [getattr(block, what) for block in self.blocks]
            if len(set(values)) > 1:
                raise ValueError(f"`blocks` must agree in {what}; got {', '.join(map(str, values))}.")
        if len({has_angles(block) for block in self.blocks}) > 1:
            raise ValueError("`blocks` must all have angles, or none of them.")
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

    @property
    def support(self) -> Constraint:
        """That of the first block: all have angles, or none."""
        return self.blocks[0].support

    def characteristics(self) -> Complex[Array, "K d k"]:
        return self._gather([block.characteristics() for block in self.blocks])

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


def as_blocks(components: AbstractComponents) -> Blocks:
    """The same components as blocks, of which there may be one."""
    return components if isinstance(components, Blocks) else Blocks((components,))
