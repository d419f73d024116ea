r"""Entropic transport between two components in one or two dimensions, on grids in place of draws.

In whitened coordinates both are represented by the nodes of a trapezoidal rule in t, with z = c sinh(t / c): close
together in the middle and far apart in the tails. For smooth densities its error falls exponentially with the number of
nodes, where that of draws falls like a root. A second, coarser grid says how large it still is.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._components.interface import AbstractComponents
from .numerical_pair import closest_weights, features, Nodes, PairSolution, solve_nodes, whiten, with_value
from .numerical_sinkhorn import extend

# Where the spacing of nodes starts to grow, in standard deviations.
_WIDTH = 1.5
# How far beyond the farthest draws grids reach, in multiples of their distance: the first that suffices.
_REACHES = (1.25, 4.0, 16.0, 64.0)
# Nodes per coordinate that are worth a grid, and those of the coarser one, per node of the finer.
_LEAST, _COARSER = 24, 0.75
# By how much mass and second moments of a usable grid may be off.
_TOLERANCE = 3e-3
# Nodes lighter than this, in units of the heaviest, are left out.
_NEGLIGIBLE = 1e-12
# Marginals are met this many times better than asked: in heavy tails a little mass holds much of the value.
_STRICTER = 10.0
# The error is at most this multiple of what the finer grid changes.
_CAUTION = 1.5


class GridSide(eqx.Module):
    """One component as grids.

    Attributes:
        mean: The exact mean.
        fine: The nodes of the finer grid.
        coarse: Those of the coarser one.
        defect: By how much their masses, and second moments in whitened coordinates, were off before they were made
            exact.
    """

    mean: Float[Array, "*K d"]
    fine: Nodes
    coarse: Nodes
    defect: Float[Array, "*K"]


def grid_size(num_nodes: int, dim: int) -> int | None:
    """Nodes per coordinate of a grid of at most so many nodes; ``None`` where draws serve better."""
    if dim > 2:
        return None
    size = num_nodes if dim == 1 else math.isqrt(num_nodes)
    return size if size >= _LEAST else None


def grid_side(
    component: AbstractComponents, tril: Float[Array, "d d"], draws: Float[Array, "b m d"], size: int
) -> tuple[GridSide, Bool[Array, ""]]:
    """Grids of one component, and whether they represent it well.

    Args:
        component: One component.
        tril: The Cholesky factor of its covariance.
        draws: Centered draws in blocks, which say where it is.
        size: Nodes per coordinate of the finer grid.
    """
    mean, z = component._mean(), whiten(tril, draws.reshape(-1, tril.shape[0]))
    low, high = jnp.min(z, axis=0), jnp.max(z, axis=0)

    def nodes(reach: Array, size: int) -> tuple[Nodes, Array]:
        return _nodes(component, mean, tril, reach * low, reach * high, size)

    reaches = jnp.asarray(_REACHES, z.dtype)
    defects = jax.lax.map(lambda reach: nodes(reach, size)[1], reaches)
    enough = defects < 0.1 * _TOLERANCE
    reach = reaches[jnp.where(jnp.any(enough), jnp.argmax(enough), jnp.argmin(defects))]
    fine, coarse = nodes(reach, size), nodes(reach, round(_COARSER * size))
    defect = jnp.maximum(fine[1], coarse[1])
    return GridSide(mean, fine[0], coarse[0], defect), defect < _TOLERANCE


def _nodes(
    component: AbstractComponents,
    mean: Float[Array, " d"],
    tril: Float[Array, "d d"],
    low: Float[Array, " d"],
    high: Float[Array, " d"],
    size: int,
) -> tuple[Nodes, Float[Array, ""]]:
    """One grid between two corners in whitened coordinates, and how far its mass and moments are off."""
    ends = jnp.arcsinh(low / _WIDTH), jnp.arcsinh(high / _WIDTH)
    step = (ends[1] - ends[0]) / (size - 1)
    t = ends[0][None] + step[None] * jnp.arange(size, dtype=low.dtype)[:, None]
    dim = low.shape[0]
    axes = np.stack(np.meshgrid(*[np.arange(size)] * dim, indexing="ij"), axis=-1).reshape(-1, dim)
    place = jnp.take_along_axis(t, jnp.asarray(axes), axis=0)
    z = _WIDTH * jnp.sinh(place)
    log_volume = jnp.sum(jnp.log(step * _WIDTH)[None] + jnp.log(jnp.cosh(place)), axis=1)
    points = z @ tril.T
    log_prob = jax.vmap(component._log_prob)(points + mean[None])
    log_weight = log_prob + log_volume + jnp.sum(jnp.log(jnp.diagonal(tril)))
    light = ~(log_weight > jnp.max(log_weight) + math.log(_NEGLIGIBLE))
    # Without weight and in the middle, where their kernel is harmless.
    log_weight, points, z = (
        jnp.where(light, -jnp.inf, log_weight),
        *(jnp.where(light[:, None], 0.0, p) for p in (points, z)),
    )
    weight = jnp.exp(log_weight)
    feature = features(z, z.shape[0])
    defect = jnp.maximum(jnp.abs(jnp.sum(weight) - 1), jnp.max(jnp.abs(weight @ feature)))
    exact = closest_weights(feature, jax.nn.log_softmax(log_weight))
    return Nodes(points, exact, tril), jnp.where(jnp.isnan(defect), jnp.inf, defect)


def solve_grids(
    source: GridSide,
    target: GridSide,
    backward_gain: Float[Array, "d d"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> PairSolution:
    """The plan of one pair, its value and the value's error; arguments as those of `solve_pair`."""
    limits = epsilon, tolerance / _STRICTER, max_steps
    left, right = source.coarse, target.coarse
    start = -jnp.sum((right.points @ backward_gain) * right.points, axis=1) / epsilon
    rough, potentials = _integrals(left, right, jnp.stack([start, -start], axis=1), *limits)
    start = extend(target.fine.points, left.points, left.log_weight, potentials.u, epsilon)
    gauss = jnp.sum((target.fine.points @ backward_gain) * target.fine.points, axis=1) / epsilon
    integrals, potentials = _integrals(source.fine, target.fine, jnp.stack([start, gauss], axis=1), *limits)
    # What was missing of the moments was put where the grid is: of its cost at most a half is in the wrong place.
    missing = sum(0.5 * side.defect * side.fine.total_variance() for side in (source, target)) / epsilon
    error = _CAUTION * jnp.abs(integrals[0] - rough[0]) + missing + _STRICTER * potentials.residual
    return with_value(source.mean, target.mean, source.fine, target.fine, integrals, error, potentials, epsilon)


def _integrals(source: Nodes, target: Nodes, start: Float[Array, "n 2"], *limits: Array) -> tuple[Any, Any]:
    """The integrals of the sum of both potentials and of its derivative, and the potentials."""
    points, log_weight = (
        jnp.stack([getattr(side, name) for side in (source, target)]) for name in ("points", "log_weight")
    )
    sides, potentials = solve_nodes(points, log_weight, start, *limits)
    weight = jnp.exp(log_weight)[..., None]
    return jnp.sum(jnp.where(weight > 0, weight * sides, 0.0), axis=(0, 1)), potentials
