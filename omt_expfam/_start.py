"""Where EM starts: k-means++, and overfitting followed by merging."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ._arrays import after, batch_size, safe_log, unfused
from ._em import (
    AbstractEMFamily,
    AbstractRegularEMFamily,
    chunk_data,
    EMData,
    evaluate,
    initial_state,
    log_share,
    run,
    start_from_responsibilities,
)

# EM steps of the overfitted mixture before merging, and Lloyd steps of k-means.
_OVERFIT_STEPS = 12
_LLOYD_STEPS = 10


@eqx.filter_jit
def kmeans(
    key: Key[Array, ""], x: Float[Array, "n d"], weight: Float[Array, " n"], num_clusters: int
) -> Float[Array, "K n"]:
    """Hard assignments by k-means++ seeding (Arthur and Vassilvitskii, 2007) and a few Lloyd steps."""
    square = jnp.sum(x * x, axis=1)

    def distance(center: Float[Array, " d"]) -> Float[Array, " n"]:
        return jnp.maximum(square - 2 * (x @ center) + jnp.sum(center * center), 0.0)

    def seed(carry: tuple[Array, Array], own_key: Array) -> tuple[tuple[Array, Array], Array]:
        nearest, first = carry
        mass = weight * jnp.where(first, jnp.ones_like(nearest), nearest)
        # When every point is a center already, any point will do.
        mass = jnp.where(jnp.any(mass > 0), mass, weight)
        center = x[jax.random.categorical(own_key, safe_log(mass))]
        closer = jnp.where(first, distance(center), jnp.minimum(nearest, distance(center)))
        return (closer, jnp.zeros_like(first)), center

    keys = jax.random.split(key, num_clusters)
    _, centers = jax.lax.scan(seed, (jnp.zeros_like(square), jnp.asarray(True)), keys)

    def assign(centers: Float[Array, "K d"]) -> Int[Array, " n"]:
        return jnp.argmin(jnp.sum(centers * centers, axis=1)[:, None] - 2 * unfused(centers @ x.T), axis=0)

    def lloyd(_: Array, centers: Float[Array, "K d"]) -> Float[Array, "K d"]:
        member = jax.nn.one_hot(assign(centers), num_clusters, axis=0, dtype=x.dtype) * weight[None]
        size = jnp.sum(member, axis=1)[:, None]
        return jnp.where(size > 0, (member @ x) / jnp.where(size > 0, size, jnp.ones_like(size)), centers)

    centers = jax.lax.fori_loop(0, _LLOYD_STEPS, lloyd, centers)
    return jax.nn.one_hot(assign(centers), num_clusters, axis=0, dtype=x.dtype)


def seed_from_kmeans(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    blank: AbstractEMFamily,
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of the first M-step from a k-means partition."""
    places = _standardized(x, weight) if blank.standardization in ("scale", "none") else x
    partition = kmeans(key, places, weight, blank.num_components) * weight[None]
    return start_from_responsibilities(blank, x, partition, ridge)


def _standardized(x: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, "n d"]:
    """Centered and scaled points, for families whose data are not: distances must not depend on units."""
    share = weight / jnp.sum(weight)
    centered = x - (share @ x)[None]
    variance = share @ centered**2
    return centered / jnp.sqrt(jnp.where(variance > 0, variance, jnp.ones_like(variance)))[None]


def merge_start(
    key: Key[Array, ""],
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    blank: AbstractEMFamily,
    seeding: AbstractRegularEMFamily,
    ridge: Float[Array, ""],
    natural: bool,
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Fit twice the components, then merge the pairs that lose the least likelihood.

    Args:
        key: Random key of the seeding.
        x: Points.
        weight: Their weights.
        blank: Components of the wanted family and number.
        seeding: Components of a regular family, twice as many, in which the merging is done.
        ridge: Added to the variances.
        natural: Whether the E-step may use the natural form.
    """
    log_weights, components = seed_from_kmeans(key, x, weight, seeding, ridge)
    data = chunk_data(components, x, weight, x.shape[0], natural)
    state = initial_state(log_weights, components, _OVERFIT_STEPS)
    zero = jnp.zeros((), x.dtype)
    target = components._pooled(*_even_sums(components, x, weight))
    state = run(state, data, target, zero, ridge, zero, jnp.asarray(_OVERFIT_STEPS))
    _, counts = evaluate(state.log_weights, state.components, data)
    overfitted: Any = state.components
    weights, merged = merge(counts / jnp.sum(counts), overfitted, blank.num_components)
    if type(merged) is type(blank):
        return log_share(weights), merged
    table = _responsibilities(log_share(weights), merged, data)
    return start_from_responsibilities(blank, x, table, ridge)


def _even_sums(components: AbstractEMFamily, x: Float[Array, "n d"], weight: Float[Array, " n"]) -> tuple[Array, Any]:
    """Counts and sums that give every component all the data."""
    table = jnp.broadcast_to(weight[None], (components.num_components, x.shape[0]))
    return jnp.sum(table, axis=1), components._accumulate(components._prepare(x.T, natural=True), table, natural=True)


@eqx.filter_jit
def _responsibilities(log_weights: Array, components: AbstractEMFamily, data: EMData) -> Float[Array, "K n"]:
    ready = jax.tree.map(lambda chunk: chunk[0], data.chunks)
    joint = components._table(ready, data.natural) + log_weights[:, None]
    return jax.nn.softmax(joint, axis=0) * data.weight[0][None]


@eqx.filter_jit
def merge(
    weights: Float[Array, " J"], components: AbstractRegularEMFamily, num_components: int
) -> tuple[Float[Array, " K"], Any]:
    r"""Merge components greedily until ``num_components`` are left, keeping all mean parameters.

    Merging i and j costs $(w_i + w_j) H(ij) - w_i H(i) - w_j H(j)$ with H the entropy, up to the expected log base
    measure: the Jensen-Bregman divergence of the dual of the log-partition, for Gaussians the bound of Runnalls (2007).
    The expected statistics of the mixture do not change.
    """
    means = components.mean_parameters()
    num = weights.shape[0]
    index = jnp.arange(num)

    def costs_of(
        i: Array, weights: Array, means: Array, entropies: Array, alive: Array
    ) -> tuple[Float[Array, " J"], Float[Array, " J"]]:
        """The costs of merging component i with every other, and the entropies of what results."""
        total = weights[i] + weights
        safe = jnp.where(total > 0, total, jnp.ones_like(total))[:, None]
        joint = (weights[i] * means[i][None] + weights[:, None] * means) / safe
        merged = jax.vmap(lambda c: c._negative_dual())(components.with_mean_parameters(joint))
        cost = total * merged - weights[i] * entropies[i] - weights * entropies
        usable = alive & alive[i] & (index != i) & jnp.isfinite(cost)
        # Components without mass merge for free.
        free = (weights[i] <= 0) | (weights <= 0)
        return jnp.where(alive & alive[i] & (index != i) & free, -1.0, jnp.where(usable, cost, jnp.inf)), merged

    entropies = jax.vmap(lambda c: c._negative_dual())(components)
    # Not beside the factorizations of the table, see `after`.
    means = after(means, jnp.sum(jnp.where(jnp.isfinite(entropies), entropies, jnp.zeros_like(entropies))))
    alive = jnp.ones((num,), bool)
    size = min(batch_size(num * means.shape[1] * 4), num)
    table, joint = jax.lax.map(lambda i: costs_of(i, weights, means, entropies, alive), index, batch_size=size)

    def step(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        weights, means, entropies, alive, table, joint = state
        i, j = jnp.divmod(jnp.argmin(table), num)
        total = weights[i] + weights[j]
        share = jnp.where(total > 0, weights[i] / jnp.where(total > 0, total, jnp.ones_like(total)), 1.0)
        mean = share * means[i] + (1 - share) * means[j]
        entropies = entropies.at[i].set(jnp.where(total > 0, joint[i, j], entropies[i]))
        weights = weights.at[i].set(total).at[j].set(0.0)
        means, alive = means.at[i].set(mean), alive.at[j].set(False)
        row, merged = costs_of(i, weights, means, entropies, alive)
        table, joint = table.at[i].set(row).at[:, i].set(row), joint.at[i].set(merged).at[:, i].set(merged)
        return weights, means, entropies, alive, table.at[j].set(jnp.inf).at[:, j].set(jnp.inf), joint

    state = (weights, means, entropies, alive, table, joint)
    weights, means, _, alive, *_ = jax.lax.fori_loop(0, num - num_components, step, state)
    kept = jnp.argsort(~alive, stable=True)[:num_components]
    return weights[kept], components.select(kept).with_mean_parameters(means[kept])
