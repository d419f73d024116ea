"""Weakly informative priors for component parameters, on the scale of the data.

Their numbers are computed on the host: few and small, they are not worth a compiled program each. Nor is NumPyro's
validation of what is valid by construction.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints, transforms

from .._base.arguments import ArrayLike
from .._base.buckets import pad, pad_zero, point_bucket
from .._base.xla import jit, program

# The prior standard deviation of a location, in those of the data; and of the logarithm of a positive parameter.
_LOCATION_SPREAD, _LOG_SPREAD = 2.0, 1.0


def spread_of(x: ArrayLike) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
    """Means and standard deviations of the coordinates of points ``x[n, d]``.

    A constant coordinate gets the unit of its size.
    """
    points = np.asarray(x)
    wide = points.astype(np.float64)
    center, scale = wide.mean(axis=0), wide.std(axis=0)
    constant = np.where(center != 0, np.abs(center), 1.0)
    return center.astype(points.dtype), np.where(scale > 0, scale, constant).astype(points.dtype)


def within_scale(scale: Float[np.ndarray, " d"], num_components: int) -> Float[np.ndarray, " d"]:
    """The scale of one of K components that share the volume of the data evenly (Fraley and Raftery, 2007)."""
    return scale * num_components ** (-1 / scale.shape[0])


def location_prior(center: ArrayLike, scale: ArrayLike) -> dist.Distribution:
    """A normal prior about the center of the data, twice as wide as they are; both of shape ``[d]``."""
    scale = jax.device_put(_LOCATION_SPREAD * np.asarray(scale))
    return dist.Normal(jax.device_put(center), scale, validate_args=False).to_event(1)


def positive_prior(center: ArrayLike, spread: float = _LOG_SPREAD) -> dist.Distribution:
    """A log-normal prior with the given medians, a number or shape ``[d]``."""
    center = np.asarray(center)
    location, scale = jax.device_put(np.log(center)), jax.device_put(np.full_like(center, spread))
    prior = dist.LogNormal(location, scale, validate_args=False)
    return prior.to_event(1) if center.ndim else prior


def covariance_prior(scale: ArrayLike) -> dist.Distribution:
    """An inverse Wishart prior on the Cholesky factor of a covariance, which has the mean ``diag(scale**2)``."""
    scale = np.asarray(scale)
    return _inverse_wishart(np.asarray(len(scale) + 2, scale.dtype), np.diag(scale))


@jit
def _inverse_wishart(degrees: Float[Array, ""], tril: Float[Array, "d d"]) -> dist.Distribution:
    """NumPyro makes it by several operations."""
    return dist.InverseWishartCholesky(degrees, scale_tril=tril, validate_args=False)


def variance_prior(scale: ArrayLike) -> dist.Distribution:
    """An inverse gamma prior on variances with the mean ``scale**2``: the inverse Wishart prior in one dimension."""
    prior = _inverse_gamma(scale)
    return prior.to_event(1) if np.ndim(scale) else prior


def scale_prior(scale: ArrayLike) -> dist.Distribution:
    """The prior on standard deviations that `variance_prior` is on variances; shape ``[d]``."""
    root = transforms.PowerTransform(0.5)
    return dist.TransformedDistribution(_inverse_gamma(scale), root, validate_args=False).to_event(1)


def _inverse_gamma(scale: ArrayLike) -> dist.InverseGamma:
    scale = np.asarray(scale)
    shape, rate = jax.device_put(np.full_like(scale, 1.5)), jax.device_put(0.5 * scale**2)
    return dist.InverseGamma(shape, rate, validate_args=False)


def mean_statistics(components: Any, x: Float[Array, "n d"]) -> Float[Array, " m"]:
    """The mean sufficient statistics of points; one program for all numbers of points in a bucket."""
    num = point_bucket(len(x))
    weight = pad_zero(np.ones(len(x), x.dtype), num)
    return _mean_statistics(components, *jax.device_put((pad(x, num), weight)))


@program
def _mean_statistics(components: Any, x: Float[Array, "n d"], weight: Float[Array, " n"]) -> Float[Array, " m"]:
    return weight @ jax.vmap(components._sufficient_statistics)(x) / jnp.sum(weight)


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
