"""Gaussian components with diagonal covariance matrices."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractPriors,
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

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, Moments
from .gaussian import Gaussian


class _Priors(AbstractPriors):
    """Normal means and inverse gamma variances."""

    def default(self, components: "DiagonalGaussian", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        variance = variance_prior(within_scale(scale, components.num_components))
        return {"loc": location_prior(center, scale), "variance": variance}

    def hyperparameters(
        self, components: "DiagonalGaussian", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        return read_moments(priors, components.loc, components.variance, origin)

    def draw(
        self, key: Key[Array, ""], components: "DiagonalGaussian", counts: Float[Array, " K"], sums: Moments, hyper: Any
    ) -> "DiagonalGaussian":
        """The mean given the variances, then the variances given the mean."""
        loc_key, variance_key = jax.random.split(key)
        mean, scatter = components._center(counts, sums)
        loc = draw_location(loc_key, hyper["loc"], 1 / components.variance, counts, mean)
        squares = counts[:, None] * (scatter + components._square(mean - loc))
        return DiagonalGaussian(loc, draw_variance(variance_key, hyper["variance"], counts[:, None], squares))


class DiagonalGaussian(AbstractMomentGaussian):
    """K Gaussian components with independent coordinates.

    An exponential family in mean and variances: T(x) = (x, x^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances of the coordinates, shape ``[K, d]``.
    """

    variance: Float[Array, "K d"]
    priors: ClassVar = _Priors()
    _structure: ClassVar = DiagonalCovariance

    def __init__(self, mean: ArrayLike, variance: ArrayLike):
        """Build components from means and variances, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a variance is not positive.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.variance = as_floating("variance", variance, "K d", self.loc.dtype)
        check_shape("variance", self.variance, self.loc.shape, "`mean`")
        check_positive("variance", self.variance)

    def _form(self) -> DiagonalCovariance:
        return DiagonalCovariance(self.variance)

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        if isinstance(covariance, DiagonalCovariance):
            return DiagonalGaussian(mean, covariance.variance)
        return Gaussian._from_form(mean, covariance)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, jnp.sqrt(self.variance), NormalShape())

    def to_numpyro(self) -> dist.Distribution:
        return dist.Normal(self.loc, jnp.sqrt(self.variance)).to_event(1)
