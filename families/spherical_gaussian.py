"""Gaussian components with spherical covariance matrices."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractPriors,
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

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, Moments
from .diagonal_gaussian import DiagonalGaussian


class _Priors(AbstractPriors):
    """Normal means and inverse gamma variances."""

    def default(self, components: "SphericalGaussian", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        within = within_scale(scale, components.num_components)
        return {"loc": location_prior(center, scale), "variance": variance_prior(np.sqrt(np.mean(within**2)))}

    def hyperparameters(
        self, components: "SphericalGaussian", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        return read_moments(priors, components.loc, components.variance, origin)

    def draw(
        self,
        key: Key[Array, ""],
        components: "SphericalGaussian",
        counts: Float[Array, " K"],
        sums: Moments,
        hyper: Any,
    ) -> "SphericalGaussian":
        """The mean given the variance, then the variance given the mean."""
        loc_key, variance_key = jax.random.split(key)
        mean, scatter = components._center(counts, sums)
        loc = draw_location(loc_key, hyper["loc"], 1 / components.variance[:, None], counts, mean)
        squares = counts * (scatter + components._square(mean - loc))[:, 0]
        return SphericalGaussian(loc, draw_variance(variance_key, hyper["variance"], components.dim * counts, squares))


class SphericalGaussian(AbstractMomentGaussian):
    """K Gaussian components, each with one variance for all coordinates.

    An exponential family in mean and variance: T(x) = (x, |x|^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances, shape ``[K]``.
    """

    variance: Float[Array, " K"]
    priors: ClassVar = _Priors()
    standardization: ClassVar = "scalar"
    _structure: ClassVar = ScalarCovariance

    def __init__(self, mean: ArrayLike, variance: ArrayLike):
        """Build components from means, shape ``[K, d]``, and variances, shape ``[K]``.

        Raises:
            ValueError: If a shape does not fit, or a variance is not positive.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.variance = as_floating("variance", variance, "K", self.loc.dtype)
        check_shape("variance", self.variance, self.loc.shape[:1], "`mean`")
        check_positive("variance", self.variance)

    def _form(self) -> ScalarCovariance:
        return ScalarCovariance(self.variance, self.dim)

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        if isinstance(covariance, ScalarCovariance):
            return SphericalGaussian(mean, covariance.variance)
        return DiagonalGaussian._from_form(mean, covariance)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, jnp.broadcast_to(jnp.sqrt(self.variance)[:, None], self.loc.shape), NormalShape())

    def to_numpyro(self) -> dist.Distribution:
        scale = jnp.broadcast_to(jnp.sqrt(self.variance)[:, None], self.loc.shape)
        return dist.Normal(self.loc, scale).to_event(1)
