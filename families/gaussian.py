"""Gaussian components with full covariance matrices."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
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
    check_names,
    covariance_prior,
    DenseCovariance,
    draw_dense_location,
    draw_scale_tril,
    location_prior,
    read_inverse_wishart,
    read_normal,
    spread_of,
    symmetric,
    to_dense,
    within_scale,
)

from ._factors import as_factor, turned_factors
from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, Moments


class _Priors(AbstractPriors):
    """Normal means and inverse Wishart covariances."""

    def default(self, components: "Gaussian", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        covariance = covariance_prior(within_scale(scale, components.num_components))
        return {"loc": location_prior(center, scale), "scale_tril": covariance}

    def hyperparameters(
        self, components: "Gaussian", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        check_names(priors, "loc", "scale_tril")
        loc = read_normal("loc", priors["loc"], components.loc, dense=True)
        covariance = read_inverse_wishart("scale_tril", priors["scale_tril"], components.scale_tril)
        return {"loc": loc.less(origin), "covariance": covariance}

    def draw(
        self, key: Key[Array, ""], components: "Gaussian", counts: Float[Array, " K"], sums: Moments, hyper: Any
    ) -> "Gaussian":
        """The mean given the covariance, then the covariance given the mean."""
        loc_key, tril_key = jax.random.split(key)
        mean, scatter = components._center(counts, sums)
        root = jax.vmap(lambda form: form.root_inverse())(components._form())
        loc = draw_dense_location(loc_key, hyper["loc"], jnp.swapaxes(root, 1, 2) @ root, counts, mean)
        about = symmetric(scatter + components._square(mean - loc), components.dim)
        tril = draw_scale_tril(tril_key, hyper["covariance"], counts, counts[:, None, None] * about)
        return Gaussian(loc, scale_tril=tril)


class Gaussian(AbstractMomentGaussian):
    """K Gaussian components with full covariances.

    An exponential family in mean and covariance: T(x) = (x, x_i x_j for i <= j), a minimal statistic.

    Attributes:
        loc: Means, shape ``[K, d]``.
        scale_tril: Lower Cholesky factors of the covariances, shape ``[K, d, d]``.
    """

    exchangeable: ClassVar = True
    scale_tril: Float[Array, "K d d"]
    priors: ClassVar = _Priors()
    _structure: ClassVar = DenseCovariance

    def __init__(self, mean: ArrayLike, covariance: ArrayLike | None = None, *, scale_tril: ArrayLike | None = None):
        """Build components from means and covariances, or Cholesky factors.

        Args:
            mean: Means, shape ``[K, d]``.
            covariance: Symmetric positive definite matrices, shape ``[K, d, d]``.
            scale_tril: Lower Cholesky factors instead of ``covariance``, shape ``[K, d, d]``.

        Raises:
            TypeError: If not exactly one of ``covariance`` and ``scale_tril`` is given.
            ValueError: If a shape does not fit, or a covariance is not symmetric positive definite.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.scale_tril = as_factor("Gaussian", "mean", self.loc, "covariance", covariance, scale_tril)

    def _form(self) -> DenseCovariance:
        return DenseCovariance(self.scale_tril)

    def turned(self, order: Sequence[int]) -> "Gaussian":
        """The rows of the factors in that order, made triangular again."""
        loc, factor = np.asarray(self.loc), np.asarray(self.scale_tril)
        moved = jax.device_put(loc[:, order]), turned_factors(factor, order)
        return eqx.tree_at(lambda c: (c.loc, c.scale_tril), self, moved)

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        return Gaussian(mean, scale_tril=to_dense(covariance).tril)

    def to_numpyro(self) -> dist.Distribution:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def _prior_strength(self) -> float:
        return self.dim + 2.0
