"""Mixtures: weights and components."""

from typing import Any, Protocol, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from .._base.arguments import ArrayLike, as_count, as_floating, as_key, as_points, KeyLike
from .._base.arrays import at_top, batch_size, is_traced, on_host, safe_log, to_jax
from .._base.buckets import cut, pad, pad_zero, point_bucket
from .._base.methods import jittable
from .._base.xla import full_precision, program
from .centers import center_of, covariance_of
from .contract import check_contract
from .interface import AbstractComponents, call, log_prob_table, map_components
from .joined import as_blocks, Blocks
from .sizes import as_size_factors

# Weights may be off one by this much (rounding in float32, in files) and are then renormalized.
WEIGHT_TOLERANCE = 1e-5


class Mixture(eqx.Module):
    """A mixture distribution on R^d.

    Attributes:
        weights: Nonnegative weights that sum to one, shape ``[K]``.
        components: K components of one family.
    """

    weights: Float[Array, " K"]
    components: AbstractComponents

    def __init__(self, weights: ArrayLike, components: AbstractComponents):
        """Build a mixture; weights that miss one by rounding (1e-5) are renormalized.

        Raises:
            TypeError: If ``components`` is not a set of components.
            ValueError: If the weights are negative, do not sum to one, or do not match the components.
        """
        if not isinstance(components, AbstractComponents):
            raise TypeError(f"`components` must be a set of components; got {type(components).__name__}.")
        if not is_traced(components):
            for block in components.blocks if isinstance(components, Blocks) else (components,):
                check_contract(block)
        self.components = components
        weights = as_floating("weights", weights, "K", components.dtype)
        if weights.shape[0] != components.num_components:
            raise ValueError(
                f"`weights` must have one entry per component, {components.num_components}; got {weights.shape[0]}."
            )
        if is_traced(weights):
            self.weights = weights / jnp.sum(weights)
            return
        host = np.asarray(weights, np.float64)
        if (host < 0).any():
            raise ValueError(f"`weights` must not be negative; got {host.min():.6g} at index {host.argmin()}.")
        if abs(host.sum() - 1) > WEIGHT_TOLERANCE:
            raise ValueError(f"`weights` must sum to one; got a sum of {host.sum():.8g}. Divide by their sum.")
        self.weights = to_jax(host / host.sum(), weights.dtype)

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return self.weights.shape[-1]

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.components.dim

    @jittable
    def log_prob(self, x: ArrayLike, size_factors: ArrayLike | None = None) -> Float[Array, " n"]:
        """Log-density at points ``x[n, d]``, in nats; of counts with their size factors ``[n]``, where they have some.

        Raises:
            ValueError: If points or size factors do not fit, or size factors mean nothing to the family.
        """
        points = self._points(x, size_factors)
        if not at_top(self, points):
            return _log_prob(self, *points)
        num, size = len(points[0]), point_bucket(len(points[0]))
        return cut(_log_prob(self.padded(size * self.dim), *pad(points, size)), num)

    @jittable
    def responsibilities(self, x: ArrayLike, size_factors: ArrayLike | None = None) -> Float[Array, "n K"]:
        r"""Posterior component probabilities $w_k p_k(x) / \sum_l w_l p_l(x)$ at points ``x[n, d]``.

        Points far from every component get their limit along the ray from the mixture's mean. Counts may have size
        factors ``[n]``, which multiply the means of all components.

        Raises:
            ValueError: If a point lies outside the support of every component, or size factors do not fit, or mean
                nothing to the family.
        """
        points = self._points(x, size_factors)
        if not at_top(self, points):
            return responsibilities(self, *points)
        num, size = len(points[0]), point_bucket(len(points[0]))
        result = responsibilities(self.padded(size * self.dim), *pad(points, size))
        check_inside("x", result, num)
        return cut(cut(result, num), self.num_components, axis=1)

    @jittable
    def to_size_one(self, key: KeyLike, x: ArrayLike, size_factors: ArrayLike) -> Float[Array, "n d"]:
        """Draw what counts would have been at a size factor of one, as a plan takes them.

        At larger size factors every count is kept with the same probability; at smaller ones counts are added, by the
        law of what is missing given what is there, in a component drawn by responsibility. Points with the laws that
        the mixture has at their size factors so get its own.

        Args:
            key: Random key.
            x: Counts, shape ``[n, d]``.
            size_factors: Their size factors, shape ``[n]``.

        Raises:
            ValueError: If points or size factors do not fit, or size factors mean nothing to the family.
        """
        points = self._points(x, size_factors)
        if not at_top(self, points):
            return _to_size_one(self, as_key(key), *points)
        num, size = len(points[0]), point_bucket(len(points[0]))
        return cut(_to_size_one(self.padded(size * self.dim), as_key(key), *pad(points, size)), num)

    def _points(self, x: ArrayLike, size_factors: ArrayLike | None) -> tuple[Array, ...]:
        """Checked points, and their size factors if they have some."""
        points = as_points("x", x, self.dim, self.components.dtype)
        if size_factors is None:
            return (points,)
        if is_traced(size_factors):
            return points, jnp.asarray(size_factors, points.dtype)
        return points, to_jax(as_size_factors(size_factors, points.shape[0], self.components), points.dtype)

    def sample(self, key: KeyLike, num_samples: int) -> Float[Array, "n d"]:
        """Draw points from the mixture."""
        return self.sample_with_labels(key, num_samples)[0]

    def sample_with_labels(self, key: KeyLike, num_samples: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """Draw points and the components they come from."""
        num = as_count("num_samples", num_samples)
        if not at_top(self, key):
            return _sample(self, as_key(key), num)
        return cut(_sample(self, as_key(key), point_bucket(num)), num)

    @full_precision
    def mean(self) -> Float[Array, " d"]:
        """The mean of the mixture; of angles the mean direction, of categories the one of least mean cost."""
        if at_top(self):
            return call("mean", self.padded(self.dim))
        return center_of(self.weights, self.components)

    @full_precision
    def covariance(self) -> Float[Array, "d d"]:
        """The covariance: within components plus between them; of angles, of arcs from `mean`; of categories, costs."""
        if at_top(self):
            return call("covariance", self.padded(self.dim**3))
        return covariance_of(self.weights, self.components)

    def to_numpyro(self) -> dist.MixtureSameFamily:
        """The mixture as a NumPyro distribution."""
        return dist.MixtureSameFamily(dist.Categorical(probs=self.weights), self.components.to_numpyro())

    def select(self, index: Any) -> "Mixture":
        """The mixture of some of the components, in the given order, with weights rescaled to sum to one."""
        if at_top(self, index):
            index = np.asarray(index)
            weights = np.asarray(self.weights)[index].astype(np.float64)
            return type(self)(weights / weights.sum(), self.components.select(index))
        index = jnp.asarray(index)
        weights = self.weights[index]
        return type(self)(weights / jnp.sum(weights), self.components.select(index))

    def sort(self) -> "Mixture":
        """The same mixture with its components in order of decreasing weight."""
        return self.select(on_host(lambda xp, weights: xp.argsort(-weights, stable=True), self.weights))

    def _misfit(self) -> str | None:
        """Why weights and components, one mixture's or stacked ones', do not belong together."""
        axis, num = self.weights.ndim - 1, self.weights.shape[-1]
        held = self.components.num_components if axis == 0 else jax.tree.leaves(self.components)[0].shape[axis]
        return None if held == num else f"{num} weights, {held} components"

    def padded(self, item_size: int) -> "Mixture":
        """The mixture with components of weight zero, as many as `AbstractComponents.padded` repeats."""
        components = self.components.padded(item_size)
        weights = pad_zero(self.weights, components.num_components)
        return jax.tree.unflatten(jax.tree.structure(self), [weights, *jax.tree.leaves(components)])

    def __repr__(self) -> str:
        family = type(self.components).__name__
        return f"Mixture of {self.num_components} {family} components in {self.dim} dimensions"


def check_inside(name: str, table: Float[Array, "n K"], num: int) -> None:
    """Raise ValueError where one of the first ``num`` points has no responsibilities, outside every support."""
    outside = np.flatnonzero(np.isnan(np.asarray(table)[:num, 0]))
    if outside.size:
        raise ValueError(f"`{name}` must lie in the support of some component; point {outside[0]} does not.")


if TYPE_CHECKING:

    class _HoldsMixture(Protocol):
        @property
        def mixture(self) -> Mixture: ...

    MixtureLike = Mixture | _HoldsMixture
else:
    # Checked by `as_mixture`, with better messages than a run-time type checker's.
    MixtureLike = Any


def as_mixture(name: str, value: Any) -> Mixture:
    """A mixture, or that of a fit.

    Raises:
        TypeError: If the value is neither.
    """
    mixture = value if isinstance(value, Mixture) else getattr(value, "mixture", None)
    if not isinstance(mixture, Mixture):
        raise TypeError(f"`{name}` must be a Mixture or a Fit; got {type(value).__name__}.")
    return mixture


def as_pair(source: Any, target: Any) -> tuple[Mixture, Mixture]:
    """Two mixtures of one dimension, given as such or as fits."""
    pair = as_mixture("source", source), as_mixture("target", target)
    if pair[0].dim != pair[1].dim:
        raise ValueError(f"`target` must have the dimension of `source`, {pair[0].dim}; got {pair[1].dim}.")
    return pair


@program
def _log_prob(mixture: Mixture, x: Float[Array, "n d"], sizes: Float[Array, " n"] | None = None) -> Float[Array, " n"]:
    table = log_prob_table(mixture.components, x, sizes)
    return logsumexp(table, axis=0, b=mixture.weights[:, None])


@program
def responsibilities(
    mixture: Mixture, x: Float[Array, "n d"], sizes: Float[Array, " n"] | None = None
) -> Float[Array, "n K"]:
    """Posterior component probabilities; NaN for a point outside every support."""
    # So far out that squares would overflow, only the direction matters: pull such points in along their ray.
    center = mixture.mean()
    reach = jnp.sqrt(jnp.sqrt(jnp.finfo(x.dtype).max)) * _size(mixture.components, center)
    offset = x - center[None]
    size = jnp.max(jnp.abs(offset), axis=1, keepdims=True)
    near = center[None] + offset * jnp.where(size > reach, reach / size, jnp.ones_like(size))
    table = log_prob_table(mixture.components, near, sizes)
    peak = jnp.max(jnp.where(mixture.weights[:, None] > 0, table, -jnp.inf), axis=0, keepdims=True)
    # A peak of -inf (outside every support) turns into NaN here. Above it lies what has no weight: it may overflow.
    above, most = table - peak, jnp.log(jnp.finfo(x.dtype).max) / 2
    joint = mixture.weights[:, None] * jnp.exp(jnp.where(above > most, most, above))
    return (joint / jnp.sum(joint, axis=0, keepdims=True)).T


@program
def _to_size_one(
    mixture: Mixture, key: Key[Array, ""], x: Float[Array, "n d"], sizes: Float[Array, " n"]
) -> Float[Array, "n d"]:
    label_key, draw_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, safe_log(responsibilities(mixture, x, sizes)), axis=1)

    def one(item: tuple[Array, ...]) -> Float[Array, " d"]:
        label, key, point, size = item
        return mixture.components.select(label)._to_size_one(key, point, size)

    items = labels, jax.random.split(draw_key, x.shape[0]), x, sizes
    return jax.lax.map(one, items, batch_size=min(batch_size(x.shape[1]), x.shape[0]))


def _size(components: AbstractComponents, center: Float[Array, " d"]) -> Float[Array, ""]:
    """The length unit of the components: how far from the center their means lie, and how wide their densities are."""

    def one(component: AbstractComponents) -> Float[Array, ""]:
        mean = component._mean()
        width = jnp.exp(-component._log_prob(mean) / components.dim)
        return width + jnp.max(jnp.abs(mean - center))

    size = jnp.max(jnp.concatenate([map_components(one, block) for block in as_blocks(components).blocks]))
    return jax.lax.stop_gradient(jnp.where((size > 0) & jnp.isfinite(size), size, jnp.ones_like(size)))


@program
def _sample(mixture: Mixture, key: Key[Array, ""], num_samples: int) -> tuple[Array, Array]:
    label_key, draw_key = jax.random.split(key)
    labels = jax.random.categorical(label_key, safe_log(mixture.weights), shape=(num_samples,))
    return mixture.components.sample_labeled(draw_key, labels), labels


def cast_mixture(mixture: Mixture, dtype: Any) -> Mixture:
    """A mixture, or stacked mixtures, in another precision."""
    if all(leaf.dtype == dtype for leaf in jax.tree.leaves(mixture)):
        return mixture

    def cast(_: Any, *leaves: Any) -> tuple[Any, ...]:
        # Weights that summed to one in float32 miss it by 1e-8 in float64: balance them again.
        weights, *rest = (leaf.astype(dtype) for leaf in leaves)
        return weights / weights.sum(axis=-1, keepdims=True), *rest

    leaves, structure = jax.tree.flatten(mixture)
    return jax.tree.unflatten(structure, on_host(cast, *leaves))
