"""Gaussian components with diagonal covariance matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    DiagonalCovariance,
    draw_location,
    draw_variance,
    location_prior,
    NormalShape,
    ProductForm,
    read_moments,
    spread_of,
    variance_prior,
    within_scale,
)

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, LOG_2PI, Moments
from .gaussian import Gaussian


class DiagonalGaussian(AbstractMomentGaussian):
    """K Gaussian components with independent coordinates.

    An exponential family in mean and variances: T(x) = (x, x^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances of the coordinates, shape ``[K, d]``.
    """

    variance: Float[Array, "K d"]

    def __init__(self, mean: ArrayLike, variance: ArrayLike):
        """Build components from means and variances, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a variance is not positive.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.variance = as_floating("variance", variance, "K d", self.loc.dtype)
        check_shape("variance", self.variance, self.loc.shape, "`mean`")
        check_positive("variance", self.variance)

    # -- the structure of the covariance --------------------------------------------------------------------------

    def _whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return x / jnp.sqrt(self.variance)

    def _noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jnp.sqrt(self.variance) * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def _log_det(self) -> Float[Array, ""]:
        return jnp.sum(jnp.log(self.variance))

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(self.variance)

    def _second_moments(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        return x * x

    def _relative_trace(self, other: "DiagonalGaussian") -> Float[Array, ""]:
        return jnp.sum(self.variance / other.variance)

    def _with_moments(self, mean: Float[Array, "K d"], scatter: Float[Array, "K d"]) -> "DiagonalGaussian":
        return DiagonalGaussian(mean, scatter)

    def _square(self, mean: Float[Array, "K d"]) -> Float[Array, "K d"]:
        return mean * mean

    def _ridge(self, ridge: Float[Array, ""]) -> Float[Array, " d"]:
        return jnp.broadcast_to(ridge, (self.dim,))

    def _whitened_trace(self, scatter: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(scatter / self.variance)

    def _scatter(self) -> Float[Array, "K d"]:
        return self.variance

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _natural_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate([self.loc / self.variance, -0.5 / self.variance])

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        linear, precision = eta[: self.dim], -2 * eta[self.dim :]
        return 0.5 * (jnp.sum(linear**2 / precision) - jnp.sum(jnp.log(precision)) + self.dim * LOG_2PI)

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "DiagonalGaussian":
        variance = -0.5 / natural_parameters[:, self.dim :]
        return DiagonalGaussian(variance * natural_parameters[:, : self.dim], variance)

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        if isinstance(covariance, DiagonalCovariance):
            return DiagonalGaussian(mean, covariance.variance)
        return Gaussian._from_form(mean, covariance)

    def gaussian_form(self) -> DiagonalCovariance:
        return DiagonalCovariance(self.variance)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, jnp.sqrt(self.variance), NormalShape())

    def to_numpyro(self) -> dist.Distribution:
        return dist.Normal(self.loc, jnp.sqrt(self.variance)).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "DiagonalGaussian":
        return DiagonalGaussian(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    def _num_parameters(self) -> int:
        return 2 * self.dim

    def _prior_strength(self) -> float:
        return 3.0

    def _priors(self, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        variance = variance_prior(within_scale(scale, self.num_components))
        return {"loc": location_prior(center, scale), "variance": variance}

    def _conjugate(self, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]) -> dict[str, Any]:
        return read_moments(priors, self.loc, self.variance, origin)

    def _conjugate_step(
        self, key: Key[Array, ""], counts: Float[Array, " K"], sums: Moments, hyper: dict[str, Any]
    ) -> "DiagonalGaussian":
        """The mean given the variances, then the variances given the mean."""
        loc_key, variance_key = jax.random.split(key)
        mean, scatter = self._center(counts, sums)
        loc = draw_location(loc_key, hyper["loc"], 1 / self.variance, counts, mean)
        squares = counts[:, None] * (scatter + self._square(mean - loc))
        return DiagonalGaussian(loc, draw_variance(variance_key, hyper["variance"], counts[:, None], squares))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "DiagonalGaussian":
        return DiagonalGaussian(shift[None] + scale[None] * self.loc, (scale**2)[None] * self.variance)
