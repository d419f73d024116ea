"""The law between source and target under a plan whose pairs have no closed form in between."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_count, as_key, as_scalar, KeyLike
from .._base.arrays import is_traced, on_host, safe_log
from .._base.buckets import cut
from .._base.xla import full_precision
from .._components.columns import columns_of, require_numbers
from .._components.interface import AbstractComponents
from .._components.mixture import Mixture
from .._couplings.interface import AbstractCouplings, PairSelection, select_pairs
from .._numerics.circle import wrap


class Displacement(eqx.Module):
    """The law of (1 - t) x + t y for (x, y) drawn from a plan: it samples and has moments, but no density.

    Angles go along the shorter arc from x to y, and categories turn at a random time; moments on the way are not known
    then.

    Attributes:
        source: Source components.
        target: Target components.
        couplings: Their couplings.
        pairs: The pairs of components that take part, with weights that sum to one.
        t: Time from 0 (source) to 1 (target).
    """

    source: AbstractComponents
    target: AbstractComponents
    couplings: AbstractCouplings
    pairs: PairSelection
    t: Float[Array, ""]

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.source.dim

    @property
    def weights(self) -> Float[Array, " p"]:
        """The weights of the pairs."""
        return self.pairs.weight

    def means(self) -> Float[Array, "p d"]:
        """The mean under each pair."""
        require_numbers("A mean on the way", self.source)
        return (1 - self.t) * self.source.mean()[self.pairs.source] + self.t * self.target.mean()[self.pairs.target]

    @full_precision
    def mean(self) -> Float[Array, " d"]:
        """The mean."""
        return self.weights @ self.means()

    def covariances(self) -> Float[Array, "p d d"]:
        """The covariance under each pair."""
        require_numbers("A covariance on the way", self.source)
        left, right = self.source.covariance()[self.pairs.source], self.target.covariance()[self.pairs.target]
        cross = self.couplings.cross_covariances(self.pairs)
        both = cross + jnp.swapaxes(cross, 1, 2)
        return (1 - self.t) ** 2 * left + self.t**2 * right + self.t * (1 - self.t) * both

    @full_precision
    def covariance(self) -> Float[Array, "d d"]:
        """The covariance: within pairs plus between them."""
        offset = self.means() - self.mean()[None]
        between = jnp.einsum("p,pd,pe->de", self.weights, offset, offset)
        return jnp.einsum("p,pde->de", self.weights, self.covariances()) + between

    def sample(self, key: KeyLike, num_samples: int) -> Float[Array, "n d"]:
        """Draw points."""
        return self.sample_path(key, num_samples, self.t[None])[0]

    def sample_path(self, key: KeyLike, num_samples: int, times: Float[Array, " m"]) -> Float[Array, "m n d"]:
        """Draw pairs (x, y) and follow each along the straight line, or arc, between them, at the given times."""
        columns = columns_of(self.source)
        turns = bool(columns.categories.any())
        pair_key, x_key, y_key, *turn_key = jax.random.split(as_key(key), 3 + turns)
        count = as_count("num_samples", num_samples)
        pair = jax.random.categorical(pair_key, safe_log(self.weights), shape=(count,))
        left, right = self.pairs.source[pair], self.pairs.target[pair]
        x = self.source.sample_labeled(x_key, left)
        y = self.couplings.sample_conditional(y_key, x, left, right)
        turn = jax.random.uniform(turn_key[0], x.shape, x.dtype) if turns else None

        def at(t: Float[Array, ""]) -> Float[Array, "n d"]:
            moved = (1 - t) * x + t * y
            if columns.angles.any():
                moved = jnp.where(columns.angles[None, :], wrap(x + t * wrap(y - x)), moved)
            return moved if turn is None else jnp.where(columns.categories[None, :], jnp.where(turn < t, y, x), moved)

        return jax.vmap(at)(jnp.asarray(times, x.dtype))

    def __repr__(self) -> str:
        return f"Displacement at t = {float(self.t):g} over {self.weights.shape[0]} pairs in {self.dim} dimensions"


def interpolated(
    source: AbstractComponents,
    target: AbstractComponents,
    couplings: AbstractCouplings,
    table: Float[Array, "K0 K1"],
    time: Float[Array, ""],
    min_weight: float,
) -> Mixture | Displacement:
    """The law at a time in between, from the share that every pair has then; see `TransportPlan.interpolate`."""
    as_scalar("min_weight", min_weight)
    pairs = select_pairs(table, float(min_weight), source.dim**3)
    weight = on_host(lambda xp, values: values / xp.sum(values), pairs.weight)
    num = weight.shape[0]
    if not is_traced(table):
        num = int((np.asarray(table) > min_weight).sum())
        if not num:
            largest = float(np.max(table))
            raise ValueError(f"`min_weight` must leave some pairs; the largest weight is {largest:.3g}.")
    pairs = PairSelection(pairs.source, pairs.target, weight)
    components = couplings.interpolate(time, pairs)
    if components is not None:
        return Mixture(weight[:num] if is_traced(weight) else np.asarray(weight)[:num], components.select(slice(num)))
    pairs = jax.tree.map(lambda leaf: leaf[:num], pairs) if is_traced(pairs) else cut(pairs, num)
    return Displacement(source, target, couplings, pairs, time)
