"""Weakly informative priors for component parameters, on the scale of the data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints, transforms

# The prior standard deviation of a location, in those of the data; and of the logarithm of a positive parameter.
_LOCATION_SPREAD, _LOG_SPREAD = 2.0, 1.0


def spread_of(x: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Means and standard deviations of the coordinates; a constant coordinate gets the unit of its size."""
    center, scale = jnp.mean(x, axis=0), jnp.std(x, axis=0)
    constant = jnp.where(center != 0, jnp.abs(center), jnp.ones_like(center))
    return center, jnp.where(scale > 0, scale, constant)


def within_scale(scale: Float[Array, " d"], num_components: int) -> Float[Array, " d"]:
    """The scale of one of K components that share the volume of the data evenly (Fraley and Raftery, 2007)."""
    return scale * num_components ** (-1 / scale.shape[0])


def location_prior(center: Float[Array, " d"], scale: Float[Array, " d"]) -> dist.Distribution:
    """A normal prior about the center of the data, twice as wide as they are."""
    return dist.Normal(center, _LOCATION_SPREAD * scale).to_event(1)


def positive_prior(center: Float[Array, "*d"], spread: float = _LOG_SPREAD) -> dist.Distribution:
    """A log-normal prior with the given medians."""
    prior = dist.LogNormal(jnp.log(center), jnp.full_like(center, spread))
    return prior.to_event(1) if center.ndim else prior


def covariance_prior(scale: Float[Array, " d"]) -> dist.Distribution:
    """An inverse Wishart prior on the Cholesky factor of a covariance, which has the mean ``diag(scale**2)``."""
    dim = scale.shape[0]
    return dist.InverseWishartCholesky(jnp.asarray(dim + 2.0, scale.dtype), scale_tril=jnp.diag(scale))


def variance_prior(scale: Float[Array, "*d"]) -> dist.Distribution:
    """An inverse gamma prior on variances with the mean ``scale**2``: the inverse Wishart prior in one dimension."""
    prior = dist.InverseGamma(jnp.full_like(scale, 1.5), 0.5 * scale**2)
    return prior.to_event(1) if scale.ndim else prior


def scale_prior(scale: Float[Array, " d"]) -> dist.Distribution:
    """The prior on standard deviations that `variance_prior` is on variances."""
    variance = dist.InverseGamma(jnp.full_like(scale, 1.5), 0.5 * scale**2)
    return dist.TransformedDistribution(variance, transforms.PowerTransform(0.5)).to_event(1)


class ConjugatePrior(dist.Distribution):
    r"""The conjugate prior of a regular exponential family, on its natural parameters.

    Its density is proportional to $\exp(\theta (\eta \cdot \bar T - A(\eta)))$, the likelihood of $\theta$
    pseudo-observations whose mean statistics are $\bar T$ (Diaconis and Ylvisaker, 1979). It is not normalized and
    cannot be sampled; it is zero where the log-partition is not finite.

    Attributes:
        component: One component of the family, whose fixed parameters are used.
        mean_statistics: The mean statistics, shape ``[m]``.
        strength: The number of pseudo-observations.
    """

    arg_constraints = {"strength": constraints.positive}
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    pytree_data_fields = ("component", "mean_statistics", "strength")

    def __init__(self, component: Any, mean_statistics: Array, strength: Any = 1.0, *, validate_args: Any = None):
        """Take one component (fields without their leading axis), mean statistics, and their strength."""
        self.component, self.mean_statistics = component, mean_statistics
        self.strength = jnp.asarray(strength, mean_statistics.dtype)
        super().__init__((), mean_statistics.shape, validate_args=validate_args)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        def one(eta: Float[Array, " m"]) -> Float[Array, ""]:
            log_prob = self.strength * (jnp.sum(eta * self.mean_statistics) - self.component._log_partition(eta))
            return jnp.where(jnp.isfinite(log_prob), log_prob, -jnp.inf)

        rows = jnp.reshape(value, (-1, *self.event_shape))
        return jax.vmap(one)(rows).reshape(jnp.shape(value)[:-1])

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        raise NotImplementedError(
            f"The default prior of {type(self.component).__name__} cannot be sampled; give `priors` that can."
        )
