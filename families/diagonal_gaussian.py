"""Gaussian components with diagonal covariance matrices."""

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
    DiagonalCovariance,
    NormalShape,
    ProductForm,
)

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, VariancePriors
from .gaussian import Gaussian


class DiagonalGaussian(AbstractMomentGaussian):
    """K Gaussian components with independent coordinates.

    An exponential family in mean and variances: T(x) = (x, x^2).

    Attributes:
        loc: Means, shape ``[K, d]``.
        variance: Variances of the coordinates, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    variance: Float[Array, "K d"]
    priors: ClassVar = VariancePriors()
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
