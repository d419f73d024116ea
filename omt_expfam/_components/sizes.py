"""Size factors: points whose means are a known multiple of their component's.

A fit sees them as one more column, after those of the points. Columns of counts are divided by it there, so that what
knows nothing of size factors, such as the search for a start, sees rates.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_host_or_traced


class SizedPoints(NamedTuple):
    """Counts and their size factors."""

    x: Float[Array, "d n"]
    sizes: Float[Array, " n"]


def as_size_factors(size_factors: ArrayLike, num_points: int, components: Any) -> np.ndarray:
    """Checked size factors of points, for a family or components.

    Raises:
        ValueError: If they are not one positive, finite number for each point, or mean nothing to the family.
    """
    if not components.sized:
        name = components.__name__ if isinstance(components, type) else type(components).__name__
        raise ValueError(
            f"`size_factors` are for counts, such as NegativeBinomial or Poisson components; got {name}. Divide the "
            "points by them."
        )
    sizes = np.asarray(as_host_or_traced("size_factors", size_factors), np.float64)
    if sizes.shape != (num_points,):
        raise ValueError(f"`size_factors` must have shape {(num_points,)}, one for each point; got {sizes.shape}.")
    bad = np.flatnonzero(~((sizes > 0) & (sizes < np.inf)))
    if bad.size:
        raise ValueError(f"`size_factors` must be positive and finite; got {sizes[bad[0]]:g} at index {bad[0]}.")
    return sizes


def with_size_column(x: np.ndarray, sizes: np.ndarray, family: Any) -> np.ndarray:
    """Points with their size factors as the last column, by which columns of counts are divided."""
    x = x.astype(np.float64)
    for own, columns in family.column_families(x.shape[1]):
        if own.sized:
            x[:, columns] /= sizes[:, None]
    return np.concatenate([x, sizes[:, None]], axis=1)


def without_sizes(components: Any, x: Float[Array, "n w"]) -> Float[Array, "n d"]:
    """The columns that components know: all, unless size factors mean nothing to them."""
    return x if components.sized else x[:, : components.dim]


def counts_of(components: Any, x: Float[Array, "w n"]) -> Any:
    """Counts ``x[d, n]`` as they are, or those of rates and, in one more row, size factors, with these."""
    if x.shape[0] == components.dim:
        return x
    rates, sizes = x[:-1], x[-1]
    return SizedPoints(jnp.round(rates * sizes[None]), sizes)


def exposure_of(counts: Float[Array, " K"], sums: Float[Array, "K w"], dim: int) -> tuple[Array, Float[Array, "K d"]]:
    """What totals of counts are divided by: numbers of points, or the sums of their size factors beside the totals."""
    return (counts, sums) if sums.shape[1] == dim else (sums[:, dim], sums[:, :dim])
