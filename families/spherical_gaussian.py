"""Gaussian components with spherical covariance matrices."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    draw_location,
    draw_variance,
    location_prior,
    NormalShape,
    ProductForm,
    read_moments,
    ScalarCovariance,
    spread_of,
    variance_prior,
    within_scale,
)

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, LOG_2PI, Moments
from .diagonal_gaussian import DiagonalGaussian


class SphericalGaussian(AbstractMomentGaussian):
    """K Gaussian components, each with one variance for all coordinates.

    An exponential family in mean and variance: T(x) = (x, |x|^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances, shape ``[K]``.
    """

    variance: Float[Array, " K"]
    standardization: ClassVar = "scalar"

    def __init__(self, mean: ArrayLike, variance: ArrayLike):
        """Build components from means, shape ``[K, d]``, and variances, shape ``[K]``.

        Raises:
            ValueError: If a shape does not fit, or a variance is not positive.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.variance = as_floating("variance", variance, "K", self.loc.dtype)
        check_shape("variance", self.variance, self.loc.shape[:1], "`mean`")
        check_positive("variance", self.variance)

    # -- the structure of the covariance --------------------------------------------------------------------------

    def _whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return x / jnp.sqrt(self.variance)

    def _noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jnp.sqrt(self.variance) * jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def _log_det(self) -> Float[Array, ""]:
        return self.dim * jnp.log(self.variance)

    def _covariance(self) -> Float[Array, "d d"]:
        return self.variance * jnp.eye(self.dim, dtype=self.loc.dtype)

    def _second_moments(self, x: Float[Array, " d"]) -> Float[Array, " 1"]:
        return jnp.sum(x * x)[None]

    def _relative_trace(self, other: "SphericalGaussian") -> Float[Array, ""]:
        return self.dim * self.variance / other.variance

    def _with_moments(self, mean: Float[Array, "K d"], scatter: Float[Array, "K 1"]) -> "SphericalGaussian":
        return SphericalGaussian(mean, scatter[:, 0] / mean.shape[1])

    def _square(self, mean: Float[Array, "K d"]) -> Float[Array, "K 1"]:
        return jnp.sum(mean * mean, axis=1, keepdims=True)

    def _ridge(self, ridge: Float[Array, ""]) -> Float[Array, " 1"]:
        return (self.dim * ridge)[None]

    def _whitened_trace(self, scatter: Float[Array, " 1"]) -> Float[Array, ""]:
        return scatter[0] / self.variance

    def _scatter(self) -> Float[Array, "K 1"]:
        return self.dim * self.variance[:, None]

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _natural_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate([self.loc / self.variance, (-0.5 / self.variance)[None]])

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        linear, precision = eta[:-1], -2 * eta[-1]
        return 0.5 * (jnp.sum(linear**2) / precision - self.dim * (jnp.log(precision) - LOG_2PI))

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "SphericalGaussian":
        variance = -0.5 / natural_parameters[:, -1]
        return SphericalGaussian(variance[:, None] * natural_parameters[:, :-1], variance)

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        if isinstance(covariance, ScalarCovariance):
            return SphericalGaussian(mean, covariance.variance)
        return DiagonalGaussian._from_form(mean, covariance)

    def gaussian_form(self) -> ScalarCovariance:
        return ScalarCovariance(self.variance, self.dim)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, jnp.broadcast_to(jnp.sqrt(self.variance)[:, None], self.loc.shape), NormalShape())

    def to_numpyro(self) -> dist.Distribution:
        scale = jnp.broadcast_to(jnp.sqrt(self.variance)[:, None], self.loc.shape)
        return dist.Normal(self.loc, scale).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "SphericalGaussian":
        return SphericalGaussian(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components,), dtype))

    def _num_parameters(self) -> int:
        return self.dim + 1

    def _prior_strength(self) -> float:
        return 3.0

    def _priors(self, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        within = within_scale(scale, self.num_components)
        return {"loc": location_prior(center, scale), "variance": variance_prior(np.sqrt(np.mean(within**2)))}

    def _conjugate(self, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]) -> dict[str, Any]:
        return read_moments(priors, self.loc, self.variance, origin)

    def _conjugate_step(
        self, key: Key[Array, ""], counts: Float[Array, " K"], sums: Moments, hyper: dict[str, Any]
    ) -> "SphericalGaussian":
        """The mean given the variance, then the variance given the mean."""
        loc_key, variance_key = jax.random.split(key)
        mean, scatter = self._center(counts, sums)
        loc = draw_location(loc_key, hyper["loc"], 1 / self.variance[:, None], counts, mean)
        squares = counts * (scatter + self._square(mean - loc))[:, 0]
        return SphericalGaussian(loc, draw_variance(variance_key, hyper["variance"], self.dim * counts, squares))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "SphericalGaussian":
        return SphericalGaussian(shift[None] + scale[None] * self.loc, scale[0] ** 2 * self.variance)
