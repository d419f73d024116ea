"""Components drawn for points: where they come from and where they go."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import at_top, safe_log
from .._base.buckets import component_bucket, cut, pad, pad_zero, point_bucket
from .._base.xla import jit, program
from .._components.interface import log_prob_table
from .._components.mixture import Mixture


def draw_pairs(
    key: Key[Array, ""], member: Float[Array, "n K0"], shares: Float[Array, "K0 K1"]
) -> tuple[Int[Array, " n"], Int[Array, " n"], Key[Array, ""]]:
    """A source component for each point, a target component for it, and a key for what follows."""
    if not at_top(key, member, shares):
        return _draw_labels(key, member, shares)
    num, rows, columns = len(member), *(component_bucket(size) for size in shares.shape)
    member = pad_zero(np.asarray(pad(member, point_bucket(num))).T, rows).T
    table = pad_zero(np.asarray(pad_zero(shares, rows)).T, columns).T
    source, target, key = _draw_labels(key, member, table)
    return cut(source, num), cut(target, num), key


@jit
def _draw_labels(
    key: Key[Array, ""], member: Float[Array, "n K0"], shares: Float[Array, "K0 K1"]
) -> tuple[Array, Array, Key[Array, ""]]:
    source_key, target_key, draw_key = jax.random.split(key, 3)
    source = _draw_index(source_key, member)
    return source, _draw_index(target_key, shares[source]), draw_key


def _draw_index(key: Key[Array, ""], rows: Float[Array, "n K"]) -> Int[Array, " n"]:
    """An index drawn from each row of weights, one uniform number each: columns of zeros change nothing."""
    total = jnp.cumsum(rows, axis=1)
    # Between 0, excluded, and the sum, included: an index of weight zero is never drawn.
    level = (1 - jax.random.uniform(key, rows.shape[:1], rows.dtype)) * total[:, -1]
    return jnp.sum(total < level[:, None], axis=1)


def blend(member: Float[Array, "n K0"], shares: Float[Array, "K0 K1"]) -> Float[Array, "n K1"]:
    """The probabilities of the target components, from those of the source components of points."""
    if not at_top(member, shares):
        return member @ shares
    rows, columns = (component_bucket(num) for num in shares.shape)
    member, num = pad(pad(member, point_bucket(len(member))), rows, axis=1), len(member)
    return cut(cut(_product(member, pad(pad_zero(shares, rows), columns, axis=1)), num), shares.shape[1], axis=1)


@jit
def _product(member: Float[Array, "n K0"], shares: Float[Array, "K0 K1"]) -> Float[Array, "n K1"]:
    return member @ shares


def log_joint(source: Mixture, points: Float[Array, "n d"]) -> Float[Array, "n K0"]:
    """Log of weight times density of every component of a mixture at points."""
    if not at_top(source, points):
        return _log_joint(source, points)
    num, size = points.shape[0], point_bucket(points.shape[0])
    table = _log_joint(source.padded(size * source.dim), pad(points, size))
    return cut(cut(table, num), source.num_components, axis=1)


@program
def _log_joint(source: Mixture, x: Float[Array, "n d"]) -> Float[Array, "n K0"]:
    return log_prob_table(source.components, x).T + safe_log(source.weights)[None, :]
