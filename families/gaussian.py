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
    check_positive,
    check_shape,
    covariance_prior,
    DenseCovariance,
    draw_dense_location,
    draw_scale_tril,
    is_traced,
    location_prior,
    read_inverse_wishart,
    read_normal,
    spread_of,
    symmetric,
    to_dense,
    to_jax,
    within_scale,
)

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
        if (covariance is None) == (scale_tril is None):
            raise TypeError("Gaussian takes exactly one of `covariance` and `scale_tril`.")
        self.loc = as_floating("mean", mean, "K d")
        shape = (*self.loc.shape, self.loc.shape[1])
        if covariance is None:
            assert scale_tril is not None
            self.scale_tril = as_floating("scale_tril", scale_tril, "K d d", self.loc.dtype)
            check_shape("scale_tril", self.scale_tril, shape, "`mean`")
            _check_triangular(self.scale_tril)
            return
        matrix = as_floating("covariance", covariance, "K d d", self.loc.dtype)
        check_shape("covariance", matrix, shape, "`mean`")
        _check_symmetric(matrix)
        self.scale_tril = _cholesky(matrix)

    def _form(self) -> DenseCovariance:
        return DenseCovariance(self.scale_tril)

    def turned(self, order: Sequence[int]) -> "Gaussian":
        """The rows of the factors in that order, made triangular again."""
        loc, factor = (np.asarray(leaf)[:, order] for leaf in (self.loc, self.scale_tril))
        triangle = np.swapaxes(np.linalg.qr(np.swapaxes(factor, 1, 2), mode="r"), 1, 2)
        sign = np.sign(np.einsum("kii->ki", triangle))
        return eqx.tree_at(lambda c: (c.loc, c.scale_tril), self, jax.device_put((loc, triangle * sign[:, None, :])))

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        return Gaussian(mean, scale_tril=to_dense(covariance).tril)

    def to_numpyro(self) -> dist.Distribution:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def _prior_strength(self) -> float:
        return self.dim + 2.0


def _check_symmetric(matrix: Array) -> None:
    if is_traced(matrix):
        return
    host = np.asarray(matrix)
    gap = np.abs(host - np.swapaxes(host, 1, 2)).max(axis=(1, 2), initial=0.0)
    size = np.abs(host).max(axis=(1, 2), initial=0.0)
    bad = np.flatnonzero(gap > 1e-4 * size)
    if bad.size:
        raise ValueError(f"`covariance` must be symmetric; component {bad[0]} differs by {gap[bad[0]]:.3g}.")


def _check_triangular(factor: Array) -> None:
    if is_traced(factor):
        return
    host = np.asarray(factor)
    if np.triu(host, 1).any():
        raise ValueError("`scale_tril` must be lower triangular: zero above the diagonal.")
    check_positive("the diagonal of scale_tril", np.diagonal(host, axis1=1, axis2=2))


def _cholesky(matrix: Array) -> Array:
    """Lower Cholesky factors; on the host, in float64, where the matrices are concrete."""
    if is_traced(matrix):
        return jnp.linalg.cholesky(0.5 * (matrix + jnp.swapaxes(matrix, 1, 2)))
    host = np.asarray(matrix, np.float64)
    host = 0.5 * (host + np.swapaxes(host, 1, 2))
    try:
        return to_jax(np.linalg.cholesky(host), matrix.dtype)
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(host)[:, 0]
        raise ValueError(
            f"`covariance` must be positive definite; component {least.argmin()} has smallest eigenvalue "
            f"{least.min():.3g}."
        ) from None
