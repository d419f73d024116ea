"""Where EM starts: k-means++, and the merging of components.

Arrays have room for more components than there are: the number in use is itself an argument, so that one program
serves them all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from families import DiagonalGaussian

from .._base.arrays import log_share
from .._base.xla import after, unfused
from .._components.columns import split
from .._components.sizes import without_sizes
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily, joint_table
from .._family.mixed_family import MixedFamily
from .._numerics.circle import is_circle
from .em import start_from_responsibilities

_LLOYD_STEPS = 10


def kmeans(
    uniform: Float[Array, " K"],
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    num_clusters: Int[Array, ""],
) -> Float[Array, "K n"]:
    """Hard assignments by k-means++ seeding (Arthur and Vassilvitskii, 2007) and a few Lloyd steps.

    Args:
        uniform: Random numbers from [0, 1), one per row of the result: each chooses a seed.
        x: Points.
        weight: Their weights.
        num_clusters: Number of clusters; the rows beyond it are zero.
    """
    square, num_slots = jnp.sum(x * x, axis=1), uniform.shape[0]

    def distance(center: Float[Array, " d"]) -> Float[Array, " n"]:
        return jnp.maximum(square - 2 * (x @ center) + jnp.sum(center * center), 0.0)

    def seed(carry: tuple[Array, Array], level: Array) -> tuple[tuple[Array, Array], Array]:
        nearest, first = carry
        mass = weight * jnp.where(first, jnp.ones_like(nearest), nearest)
        # When every point is a center already, any point will do.
        mass = jnp.where(jnp.any(mass > 0), mass, weight)
        below = jnp.cumsum(mass)
        center = x[jnp.sum(below <= level * below[-1])]
        new = distance(center)
        closer = jnp.where(first, new, jnp.minimum(nearest, new))
        return (closer, jnp.zeros_like(first)), center

    _, centers = jax.lax.scan(seed, (jnp.zeros_like(square), jnp.asarray(True)), uniform)

    def lloyd(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        centers, table = state
        weighted = table * weight[None]
        size = jnp.sum(weighted, axis=1)[:, None]
        centers = jnp.where(size > 0, (weighted @ x) / jnp.where(size > 0, size, jnp.ones_like(size)), centers)
        return centers, _nearest(centers, x, num_clusters)

    # The assignment before the first step is done by the first turn of the loop, which leaves the centers alone.
    nobody = jnp.zeros((num_slots, x.shape[0]), x.dtype)
    return jax.lax.fori_loop(0, _LLOYD_STEPS + 1, lloyd, (centers, nobody))[1]


def _nearest(centers: Float[Array, "K d"], x: Float[Array, "n d"], num_clusters: Int[Array, ""]) -> Float[Array, "K n"]:
    """One for the nearest of the first ``num_clusters`` centers of each point, zero for all others."""
    distances = jnp.sum(centers * centers, axis=1)[:, None] - 2 * unfused(centers @ x.T)
    unused = (jnp.arange(centers.shape[0]) >= num_clusters)[:, None]
    nearest = jnp.argmin(jnp.where(unused, jnp.inf, distances), axis=0)
    return jax.nn.one_hot(nearest, centers.shape[0], axis=0, dtype=x.dtype)


def seed_from_kmeans(
    uniform: Float[Array, " K"],
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    blank: AbstractEMFamily,
    num_components: Int[Array, ""],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of the first M-step from a k-means partition."""
    parts, points = blank.column_parts(), x[:, : blank.dim]
    places = [_places(part.components, own, weight) for part, own in zip(parts, split(points, parts), strict=True)]
    partition = kmeans(uniform, _beside(places), weight, num_components) * weight[None]
    return start_from_responsibilities(blank, x, partition, ridge)


def seed_from_means(
    means: Float[Array, "K d"],
    x: Float[Array, "n w"],
    weight: Float[Array, " n"],
    blank: AbstractEMFamily,
    num_components: Int[Array, ""],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of the first M-step from the nearest of given means."""
    parts = blank.column_parts()
    centers, points = (
        _beside([_embedded(part.components, own) for part, own in zip(parts, split(values, parts), strict=True)])
        for values in (means, x[:, : blank.dim])
    )
    partition = _nearest(centers, points, num_components)
    return start_from_responsibilities(blank, x, partition * weight[None], ridge)


def seeding_of(blank: AbstractEMFamily, num_components: int) -> AbstractRegularEMFamily:
    """Blank components of the regular family in which a start is sought by merging."""
    if isinstance(blank, MixedFamily):
        return blank.with_column_parts([seeding_of(part, num_components) for part in blank.parts])
    own = blank._seeding(num_components)
    return own if own is not None else DiagonalGaussian._blank(num_components, blank.dim, blank.dtype)


def _embedded(components: AbstractEMFamily, x: Float[Array, "n d"]) -> Float[Array, "n e"]:
    """Places whose straight distances say what is near: cosines and sines of angles, indicators of categories."""
    if is_circle(components.support):
        return jnp.concatenate([jnp.cos(x), jnp.sin(x)], axis=1)
    form = components.category_form()
    if form is None:
        return x
    return jax.nn.one_hot(jnp.round(x).astype(int), len(form.cost), dtype=x.dtype).reshape(x.shape[0], -1)


def _places(components: AbstractEMFamily, x: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, "n e"]:
    """The same, in units that do not depend on those of the data."""
    places = _embedded(components, x)
    if places is not x or components.standardization in ("coordinate", "scalar"):
        return places
    return _standardized(x, weight)


def _beside(places: list[Array]) -> Float[Array, "n e"]:
    return places[0] if len(places) == 1 else jnp.concatenate(places, axis=1)


def _standardized(x: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, "n d"]:
    """Centered and scaled points, for families whose data are not: distances must not depend on units."""
    share = weight / jnp.sum(weight)
    centered = x - (share @ x)[None]
    variance = share @ centered**2
    return centered / jnp.sqrt(jnp.where(variance > 0, variance, jnp.ones_like(variance)))[None]


def merged_start(
    counts: Float[Array, " J"],
    components: AbstractRegularEMFamily,
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    blank: AbstractEMFamily,
    num_fitted: Int[Array, ""],
    num_components: Int[Array, ""],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of the first M-step after merging an overfitted mixture.

    Args:
        counts: Sums of responsibilities of the overfitted components.
        components: Components of a regular family, in which the merging is done.
        x: Points.
        weight: Their weights.
        blank: Components of the wanted family, at most as many as ``components``.
        num_fitted: Number of overfitted components in use.
        num_components: Number that is wanted.
        ridge: Added to the variances.
    """
    weights, merged = merge(counts / jnp.sum(counts), components, num_fitted, num_components)
    weights, merged = jax.tree.map(lambda leaf: leaf[: blank.num_components], (weights, merged))
    if type(merged) is type(blank):
        return log_share(weights), merged
    joint = joint_table(log_share(weights), merged, merged._prepare(without_sizes(merged, x).T))
    return start_from_responsibilities(blank, x, jax.nn.softmax(joint, axis=0) * weight[None], ridge)


def merge(
    weights: Float[Array, " J"],
    components: AbstractRegularEMFamily,
    num_fitted: Int[Array, ""],
    num_components: Int[Array, ""],
) -> tuple[Float[Array, " J"], Any]:
    r"""Merge components greedily until ``num_components`` are left, keeping all mean parameters.

    Merging i and j costs $(w_i + w_j) H(ij) - w_i H(i) - w_j H(j)$ with H the entropy, up to the expected log base
    measure: the Jensen-Bregman divergence of the dual of the log-partition, for Gaussians the bound of Runnalls (2007).
    The expected statistics of the mixture do not change. Those that are left come first; the weights of all others,
    and of those that are not among the first ``num_fitted``, are zero.

    Each component knows its cheapest partner among those that are heavier. One that loses its partner keeps the cost as
    a lower bound, and looks for another only when that bound is the least of all (Müllner, 2011).
    """
    means = components.mean_parameters()
    index = jnp.arange(weights.shape[0])
    entropies = jax.vmap(lambda c: c._negative_dual())(components)
    # Not beside the factorizations of the table, see `after`.
    means = after(means, jnp.sum(jnp.where(jnp.isfinite(entropies), entropies, jnp.zeros_like(entropies))))
    alive = index < num_fitted
    start = _Merging(
        jnp.where(alive, weights, jnp.zeros_like(weights)),
        means,
        entropies,
        alive,
        partner=jnp.full_like(index, -1),
        cost=jnp.where(alive, -jnp.inf, jnp.inf).astype(weights.dtype),
        joint=entropies,
        left=jnp.maximum(num_fitted - num_components, 0),
    )

    def costs_of(i: Array, state: _Merging) -> tuple[Float[Array, " J"], Float[Array, " J"]]:
        """The costs of merging component i with every other, and the entropies of what results."""
        weights, means, entropies, alive = state[:4]
        total = weights[i] + weights
        safe = jnp.where(total > 0, total, jnp.ones_like(total))[:, None]
        joint = (weights[i] * means[i][None] + weights[:, None] * means) / safe
        merged = jax.vmap(lambda c: c._negative_dual())(components.with_mean_parameters(joint))
        cost = total * merged - weights[i] * entropies[i] - weights * entropies
        both = alive & alive[i] & (index != i)
        # Components without mass merge for free.
        free = (weights[i] <= 0) | (weights <= 0)
        return jnp.where(both & free, -1.0, jnp.where(both & jnp.isfinite(cost), cost, jnp.inf)), merged

    def step(state: _Merging) -> _Merging:
        """Merge the cheapest pair, or take the component that may have it; then compare that one with all others."""
        i = jnp.argmin(state.cost)
        i, state = _joined(state, i, state.partner[i])
        costs, joint = costs_of(i, state)
        # Of a pair, the lighter component keeps account, and the first of two equal ones.
        size = state.weights
        heavier = (size > size[i]) | ((size == size[i]) & (index > i))
        own = jnp.where(heavier, costs, jnp.inf)
        cheaper = (costs < state.cost) | ((costs == state.cost) & (i < state.partner))
        closer = ~heavier & cheaper
        j = jnp.argmin(own)
        return state._replace(
            partner=jnp.where(closer, i, state.partner).at[i].set(j),
            cost=jnp.where(closer, costs, state.cost).at[i].set(own[j]),
            joint=jnp.where(closer, joint, state.joint).at[i].set(joint[j]),
        )

    done = jax.lax.while_loop(lambda state: state.left > 0, step, start)
    kept = jnp.argsort(~done.alive, stable=True)
    return done.weights[kept], components.select(kept).with_mean_parameters(done.means[kept])


class _Merging(NamedTuple):
    """Components while they are merged.

    Attributes:
        weights: Their weights; zero for those that are gone.
        means: Their mean parameters.
        entropies: Their entropies.
        alive: Which are left.
        partner: The cheapest heavier partner of each; -1 where it is to be sought.
        cost: What merging with it costs, or a lower bound.
        joint: The entropy of what results.
        left: How many are to go.
    """

    weights: Float[Array, " J"]
    means: Float[Array, "J p"]
    entropies: Float[Array, " J"]
    alive: Bool[Array, " J"]
    partner: Int[Array, " J"]
    cost: Float[Array, " J"]
    joint: Float[Array, " J"]
    left: Int[Array, ""]


def _joined(state: _Merging, lighter: Array, other: Array) -> tuple[Array, _Merging]:
    """Two components as one, in the place of the first, and that place; the same state where one is negative."""
    weights, means, entropies, alive, partner, cost, joint, left = state
    merge, entropy = other >= 0, joint[lighter]
    i, j = jnp.where(merge, jnp.minimum(lighter, other), lighter), jnp.maximum(lighter, other)
    total = weights[i] + jnp.where(merge, weights[j], 0.0)
    share = jnp.where(total > 0, weights[i] / jnp.where(total > 0, total, jnp.ones_like(total)), 1.0)
    mean = share * means[i] + (1 - share) * means[j]
    lost = merge & ((partner == i) | (partner == j))
    gone = jnp.where(merge, j, weights.shape[0])
    return i, _Merging(
        weights.at[i].set(total).at[gone].set(0.0, mode="drop"),
        means.at[i].set(jnp.where(merge, mean, means[i])),
        entropies.at[i].set(jnp.where(merge & (total > 0), entropy, entropies[i])),
        alive.at[gone].set(False, mode="drop"),
        jnp.where(lost, -1, partner),
        cost.at[gone].set(jnp.inf, mode="drop"),
        joint,
        left - merge.astype(left.dtype),
    )
