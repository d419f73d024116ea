"""Gaussian components with spherical covariance matrices."""

from typing import ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from omt_expfam.extend import (
    AbstractCovariance,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    NormalShape,
    ProductForm,
    ScalarCovariance,
)

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, VariancePriors
from .diagonal_gaussian import DiagonalGaussian


class SphericalGaussian(AbstractMomentGaussian):
    """K Gaussian components, each with one variance for all coordinates.

    An exponential family in mean and variance: T(x) = (x, |x|^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances, shape ``[K]``.
    """

    exchangeable: ClassVar = True
    variance: Float[Array, " K"]
    priors: ClassVar = VariancePriors()
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
