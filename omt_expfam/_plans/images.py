"""The barycentric map of a plan, applied to points a block at a time."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import at_top, to_jax
from .._base.buckets import cut, pad, point_bucket
from .._components.mixture import check_inside, Mixture, responsibilities
from .._couplings.interface import AbstractComponentMaps

# Points per block: bounds the table of responsibilities.
_BLOCK = 2**25


def images_of(rows: Mixture, maps: AbstractComponentMaps, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Images of points under the maps of the components of a mixture, weighted by responsibilities."""
    size = max(1, _BLOCK // (rows.num_components + rows.dim))
    num = points.shape[0]
    if num <= size:
        return _block(rows, maps, points)
    if not at_top(rows, maps, points):
        return jnp.concatenate([_block(rows, maps, points[i : i + size]) for i in range(0, num, size)])
    host = np.asarray(points)
    return to_jax(np.concatenate([_block(rows, maps, host[i : i + size]) for i in range(0, num, size)]))


def _block(rows: Mixture, maps: AbstractComponentMaps, points: Any) -> Float[Array, "n d"]:
    """Images of points that fit in memory together with their responsibilities."""
    if not at_top(rows, maps, points):
        return maps(points, rows.responsibilities(points))
    num, filled = points.shape[0], jax.device_put(pad(points, point_bucket(points.shape[0])))
    source = rows.padded(filled.size)
    wide = maps.padded(source.num_components)
    if wide is None:
        return maps(to_jax(points), rows.responsibilities(points))
    member = responsibilities(source, filled)
    check_inside("x", member, num)
    return cut(wide(filled, member), num)
