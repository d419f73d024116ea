"""Gaussian components with full covariance matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
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
    to_dense,
    to_jax,
    within_scale,
)

from ._gaussian_base import AbstractGaussian, AbstractMomentGaussian, LOG_2PI, Moments


class Gaussian(AbstractMomentGaussian):
    """K Gaussian components with full covariances.

    An exponential family in mean and covariance: T(x) = (x, x_i x_j for i <= j), a minimal statistic.

    Attributes:
        loc: Means, shape ``[K, d]``.
        scale_tril: Lower Cholesky factors of the covariances, shape ``[K, d, d]``.
    """

    scale_tril: Float[Array, "K d d"]

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

    # -- the structure of the covariance --------------------------------------------------------------------------

    def _precision_factor(self) -> Float[Array, "d d"]:
        """The inverse Cholesky factor: solved once per component, then applied to points by a product."""
        return solve_triangular(self.scale_tril, jnp.eye(self.dim, dtype=self.loc.dtype), lower=True)

    def _whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return self._precision_factor() @ x

    def _noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.scale_tril @ jax.random.normal(key, self.loc.shape, self.loc.dtype)

    def _log_det(self) -> Float[Array, ""]:
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.scale_tril)))

    def _covariance(self) -> Float[Array, "d d"]:
        return self.scale_tril @ self.scale_tril.T

    def _second_moments(self, x: Float[Array, " d"]) -> Float[Array, " q"]:
        row, column = np.triu_indices(x.shape[0])
        return x[row] * x[column]

    def _relative_trace(self, other: "Gaussian") -> Float[Array, ""]:
        return jnp.sum((other._precision_factor() @ self.scale_tril) ** 2)

    def _with_moments(self, mean: Float[Array, "K d"], scatter: Float[Array, "K q"]) -> "Gaussian":
        return Gaussian(mean, scale_tril=jnp.linalg.cholesky(_from_half(scatter, mean.shape[1])))

    def _square(self, mean: Float[Array, "K d"]) -> Float[Array, "K q"]:
        return jax.vmap(self._second_moments)(mean)

    def _ridge(self, ridge: Float[Array, ""]) -> Float[Array, " q"]:
        row, column = np.triu_indices(self.dim)
        return ridge * jnp.asarray(row == column, self.loc.dtype)

    def _whitened_trace(self, scatter: Float[Array, " q"]) -> Float[Array, ""]:
        root = self._precision_factor()
        return jnp.sum((root @ _from_half(scatter[None], self.dim)[0]) * root)

    def _scatter(self) -> Float[Array, "K q"]:
        row, column = np.triu_indices(self.dim)
        return jax.vmap(lambda c: c._covariance())(self)[:, row, column]

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _natural_parameters(self) -> Float[Array, " m"]:
        factor = self._precision_factor()
        precision = factor.T @ factor
        row, column = np.triu_indices(self.dim)
        # Each off-diagonal product stands once in T(x), so its coefficient counts both symmetric entries.
        coefficient = jnp.asarray(np.where(row == column, -0.5, -1.0), self.loc.dtype)
        return jnp.concatenate([precision @ self.loc, coefficient * precision[row, column]])

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        factor = jnp.linalg.cholesky(_precision_of(eta, self.dim))
        z = solve_triangular(factor, eta[: self.dim], lower=True)
        return 0.5 * jnp.sum(z * z) - jnp.sum(jnp.log(jnp.diagonal(factor))) + 0.5 * self.dim * LOG_2PI

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "Gaussian":
        dim = self.dim

        def one(eta: Float[Array, " m"]) -> tuple[Array, Array]:
            factor = jnp.linalg.cholesky(_precision_of(eta, dim))
            root = solve_triangular(factor, jnp.eye(dim, dtype=eta.dtype), lower=True)
            return root.T @ (root @ eta[:dim]), root.T @ root

        mean, covariance = jax.vmap(one)(natural_parameters)
        return Gaussian(mean, covariance)

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        return Gaussian(mean, scale_tril=to_dense(covariance).tril)

    def gaussian_form(self) -> DenseCovariance:
        return DenseCovariance(self.scale_tril)

    def to_numpyro(self) -> dist.Distribution:
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Gaussian":
        eye = np.broadcast_to(np.eye(dim, dtype=dtype), (num_components, dim, dim))
        return Gaussian(np.zeros((num_components, dim), dtype), scale_tril=eye)

    def _num_parameters(self) -> int:
        return self.dim + self.dim * (self.dim + 1) // 2

    def _prior_strength(self) -> float:
        return self.dim + 2.0

    def _priors(self, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        covariance = covariance_prior(within_scale(scale, self.num_components))
        return {"loc": location_prior(center, scale), "scale_tril": covariance}

    def _conjugate(self, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]) -> dict[str, Any]:
        check_names(priors, "loc", "scale_tril")
        loc = read_normal("loc", priors["loc"], self.loc, dense=True)
        covariance = read_inverse_wishart("scale_tril", priors["scale_tril"], self.scale_tril)
        return {"loc": loc.less(origin), "covariance": covariance}

    def _conjugate_step(
        self, key: Key[Array, ""], counts: Float[Array, " K"], sums: Moments, hyper: dict[str, Any]
    ) -> "Gaussian":
        """The mean given the covariance, then the covariance given the mean."""
        loc_key, tril_key = jax.random.split(key)
        mean, scatter = self._center(counts, sums)
        root = jax.vmap(lambda c: c._precision_factor())(self)
        loc = draw_dense_location(loc_key, hyper["loc"], jnp.swapaxes(root, 1, 2) @ root, counts, mean)
        about = _from_half(scatter + self._square(mean - loc), self.dim)
        tril = draw_scale_tril(tril_key, hyper["covariance"], counts, counts[:, None, None] * about)
        return Gaussian(loc, scale_tril=tril)

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "Gaussian":
        return Gaussian(shift[None] + scale[None] * self.loc, scale_tril=scale[None, :, None] * self.scale_tril)


def _from_half(half: Float[Array, "K q"], dim: int) -> Float[Array, "K d d"]:
    """Symmetric matrices from their upper triangles."""
    position = np.zeros((dim, dim), int)
    row, column = np.triu_indices(dim)
    position[row, column] = position[column, row] = np.arange(len(row))
    return half[:, position]


def _precision_of(eta: Float[Array, " m"], dim: int) -> Float[Array, "d d"]:
    """The precision matrix in natural parameters."""
    row, column = np.triu_indices(dim)
    entries = -eta[dim:] * jnp.asarray(np.where(row == column, 2.0, 1.0), eta.dtype)
    return _from_half(entries[None], dim)[0]


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
