"""Covariance structures: what closed-form couplings, Gaussian densities and fits from second moments need of them."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, Key

from .._base.arrays import to_jax


class AbstractCovariance(eqx.Module):
    """K covariance matrices of one structure; methods are written for one of them."""

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension d."""

    @abc.abstractmethod
    def matrix(self) -> Float[Array, "d d"]:
        """The dense matrix."""

    @abc.abstractmethod
    def scale_tril(self) -> Float[Array, "d d"]:
        """The lower Cholesky factor of the dense matrix."""

    @abc.abstractmethod
    def trace(self) -> Float[Array, ""]:
        """The trace."""


class AbstractInvertibleCovariance(AbstractCovariance):
    """A structure whose inverse is cheap: what a Gaussian density needs."""

    @abc.abstractmethod
    def whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        """A vector whose squared length is the squared Mahalanobis length of ``x``."""

    @abc.abstractmethod
    def noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """A draw with mean zero."""

    @abc.abstractmethod
    def log_det(self) -> Float[Array, ""]:
        """The log-determinant."""

    @abc.abstractmethod
    def relative_trace(self, other: Any) -> Float[Array, ""]:
        """tr(other^-1 self)."""

    @abc.abstractmethod
    def scaled(self, scale: Float[Array, " d"]) -> "AbstractInvertibleCovariance":
        """The covariance of ``scale * x``."""


class AbstractLinearCovariance(AbstractInvertibleCovariance):
    """A structure that is a linear space of matrices, so that Gaussians of that structure are a regular family.

    Matrices are written in coordinates: those of x x^T, or its part in the space, are the quadratic statistics.
    """

    @staticmethod
    @abc.abstractmethod
    def coordinates(x: Float[Array, " d"]) -> Float[Array, " q"]:
        """The coordinates of x x^T."""

    @abc.abstractmethod
    def own_coordinates(self) -> Float[Array, " q"]:
        """The coordinates of the matrix."""

    @staticmethod
    @abc.abstractmethod
    def identity(num_components: int, dim: int, dtype: Any) -> "AbstractLinearCovariance":
        """K identity matrices."""

    @staticmethod
    @abc.abstractmethod
    def from_coordinates(coordinates: Float[Array, " q"], dim: int) -> "AbstractLinearCovariance":
        """The matrix with given coordinates."""

    @abc.abstractmethod
    def inverse_trace(self, coordinates: Float[Array, " q"]) -> Float[Array, ""]:
        """tr(self^-1 S) of the matrix S with given coordinates, singular or not."""

    @abc.abstractmethod
    def natural(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " q"]]:
        """self^-1 x, and what multiplies the coordinates of y y^T so that their sum is -y^T self^-1 y / 2."""

    @staticmethod
    @abc.abstractmethod
    def from_natural(
        linear: Float[Array, " d"], quadratic: Float[Array, " q"]
    ) -> tuple[Float[Array, " d"], "AbstractLinearCovariance"]:
        """The inverse of `natural`: x and the matrix."""

    @staticmethod
    @abc.abstractmethod
    def log_integral(linear: Float[Array, " d"], quadratic: Float[Array, " q"]) -> Float[Array, ""]:
        """Log of the integral of exp(linear . x + quadratic . coordinates(x)), less d log(2 pi) / 2."""


class DenseCovariance(AbstractLinearCovariance):
    """Covariances given by lower Cholesky factors."""

    tril: Float[Array, "*K d d"]

    @property
    def dim(self) -> int:
        return self.tril.shape[-1]

    def matrix(self) -> Float[Array, "d d"]:
        return self.tril @ self.tril.T

    def scale_tril(self) -> Float[Array, "d d"]:
        return self.tril

    def trace(self) -> Float[Array, ""]:
        return jnp.sum(self.tril**2)

    def root_inverse(self) -> Float[Array, "d d"]:
        """The inverse Cholesky factor: solved once per component, then applied to points by a product."""
        return inverse_tril(self.tril)

    def whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return self.root_inverse() @ x

    def noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.tril @ jax.random.normal(key, (self.dim,), self.tril.dtype)

    def log_det(self) -> Float[Array, ""]:
        return 2 * jnp.sum(jnp.log(jnp.diagonal(self.tril)))

    def relative_trace(self, other: "DenseCovariance") -> Float[Array, ""]:
        return jnp.sum((other.root_inverse() @ self.tril) ** 2)

    def scaled(self, scale: Float[Array, " d"]) -> "DenseCovariance":
        return DenseCovariance(scale[:, None] * self.tril)

    @staticmethod
    def coordinates(x: Float[Array, " d"]) -> Float[Array, " q"]:
        """The products x_i x_j for i <= j, a minimal statistic."""
        row, column = np.triu_indices(x.shape[0])
        return x[row] * x[column]

    def own_coordinates(self) -> Float[Array, " q"]:
        row, column = np.triu_indices(self.dim)
        return self.matrix()[row, column]

    @staticmethod
    def identity(num_components: int, dim: int, dtype: Any) -> "DenseCovariance":
        return DenseCovariance(to_jax(np.broadcast_to(np.eye(dim, dtype=dtype), (num_components, dim, dim))))

    @staticmethod
    def from_coordinates(coordinates: Float[Array, " q"], dim: int) -> "DenseCovariance":
        return DenseCovariance(jnp.linalg.cholesky(symmetric(coordinates, dim)))

    def inverse_trace(self, coordinates: Float[Array, " q"]) -> Float[Array, ""]:
        root = self.root_inverse()
        return jnp.sum((root @ symmetric(coordinates, self.dim)) * root)

    def natural(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " q"]]:
        root = self.root_inverse()
        precision = root.T @ root
        row, column = np.triu_indices(self.dim)
        # Each off-diagonal product stands once among the coordinates, so its factor counts both symmetric entries.
        return precision @ x, jnp.asarray(np.where(row == column, -0.5, -1.0), x.dtype) * precision[row, column]

    @staticmethod
    def from_natural(
        linear: Float[Array, " d"], quadratic: Float[Array, " q"]
    ) -> tuple[Float[Array, " d"], "DenseCovariance"]:
        root = inverse_tril(_precision_tril(quadratic, linear.shape[0]))
        return root.T @ (root @ linear), DenseCovariance(jnp.linalg.cholesky(root.T @ root))

    @staticmethod
    def log_integral(linear: Float[Array, " d"], quadratic: Float[Array, " q"]) -> Float[Array, ""]:
        tril = _precision_tril(quadratic, linear.shape[0])
        z = solve_triangular(tril, linear, lower=True)
        return 0.5 * jnp.sum(z * z) - jnp.sum(jnp.log(jnp.diagonal(tril)))


class DiagonalCovariance(AbstractLinearCovariance):
    """Diagonal covariances, given by the variances of the coordinates."""

    variance: Float[Array, "*K d"]

    @property
    def dim(self) -> int:
        return self.variance.shape[-1]

    def matrix(self) -> Float[Array, "d d"]:
        return jnp.diag(self.variance)

    def scale_tril(self) -> Float[Array, "d d"]:
        return jnp.diag(jnp.sqrt(self.variance))

    def trace(self) -> Float[Array, ""]:
        return jnp.sum(self.variance)

    def whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return x / jnp.sqrt(self.variance)

    def noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jnp.sqrt(self.variance) * jax.random.normal(key, (self.dim,), self.variance.dtype)

    def log_det(self) -> Float[Array, ""]:
        return jnp.sum(jnp.log(self.variance))

    def relative_trace(self, other: "DiagonalCovariance") -> Float[Array, ""]:
        return jnp.sum(self.variance / other.variance)

    def scaled(self, scale: Float[Array, " d"]) -> "DiagonalCovariance":
        return DiagonalCovariance(scale**2 * self.variance)

    @staticmethod
    def coordinates(x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The squares."""
        return x * x

    def own_coordinates(self) -> Float[Array, " d"]:
        return self.variance

    @staticmethod
    def identity(num_components: int, dim: int, dtype: Any) -> "DiagonalCovariance":
        return DiagonalCovariance(to_jax(np.ones((num_components, dim), dtype)))

    @staticmethod
    def from_coordinates(coordinates: Float[Array, " d"], dim: int) -> "DiagonalCovariance":
        return DiagonalCovariance(coordinates)

    def inverse_trace(self, coordinates: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(coordinates / self.variance)

    def natural(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        return x / self.variance, -0.5 / self.variance

    @staticmethod
    def from_natural(
        linear: Float[Array, " d"], quadratic: Float[Array, " d"]
    ) -> tuple[Float[Array, " d"], "DiagonalCovariance"]:
        variance = -0.5 / quadratic
        return variance * linear, DiagonalCovariance(variance)

    @staticmethod
    def log_integral(linear: Float[Array, " d"], quadratic: Float[Array, " d"]) -> Float[Array, ""]:
        precision = -2 * quadratic
        return 0.5 * (jnp.sum(linear**2 / precision) - jnp.sum(jnp.log(precision)))


class ScalarCovariance(AbstractLinearCovariance):
    """Multiples of the identity."""

    variance: Float[Array, "*K"]
    size: int = eqx.field(static=True)

    @property
    def dim(self) -> int:
        return self.size

    def diagonal(self) -> Float[Array, " d"]:
        """The variance of every coordinate."""
        return jnp.broadcast_to(self.variance, (self.size,))

    def matrix(self) -> Float[Array, "d d"]:
        return jnp.diag(self.diagonal())

    def scale_tril(self) -> Float[Array, "d d"]:
        return jnp.diag(jnp.sqrt(self.diagonal()))

    def trace(self) -> Float[Array, ""]:
        return self.size * self.variance

    def whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        return x / jnp.sqrt(self.variance)

    def noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jnp.sqrt(self.variance) * jax.random.normal(key, (self.size,), self.variance.dtype)

    def log_det(self) -> Float[Array, ""]:
        return self.size * jnp.log(self.variance)

    def relative_trace(self, other: "ScalarCovariance") -> Float[Array, ""]:
        return self.size * self.variance / other.variance

    def scaled(self, scale: Float[Array, " d"]) -> "ScalarCovariance":
        """All coordinates have the scale of the first."""
        return ScalarCovariance(scale[0] ** 2 * self.variance, self.size)

    @staticmethod
    def coordinates(x: Float[Array, " d"]) -> Float[Array, " 1"]:
        """The squared length."""
        return jnp.sum(x * x)[None]

    def own_coordinates(self) -> Float[Array, " 1"]:
        return (self.size * self.variance)[None]

    @staticmethod
    def identity(num_components: int, dim: int, dtype: Any) -> "ScalarCovariance":
        return ScalarCovariance(to_jax(np.ones(num_components, dtype)), dim)

    @staticmethod
    def from_coordinates(coordinates: Float[Array, " 1"], dim: int) -> "ScalarCovariance":
        return ScalarCovariance(coordinates[0] / dim, dim)

    def inverse_trace(self, coordinates: Float[Array, " 1"]) -> Float[Array, ""]:
        return coordinates[0] / self.variance

    def natural(self, x: Float[Array, " d"]) -> tuple[Float[Array, " d"], Float[Array, " 1"]]:
        return x / self.variance, (-0.5 / self.variance)[None]

    @staticmethod
    def from_natural(
        linear: Float[Array, " d"], quadratic: Float[Array, " 1"]
    ) -> tuple[Float[Array, " d"], "ScalarCovariance"]:
        variance = -0.5 / quadratic[0]
        return variance * linear, ScalarCovariance(variance, linear.shape[0])

    @staticmethod
    def log_integral(linear: Float[Array, " d"], quadratic: Float[Array, " 1"]) -> Float[Array, ""]:
        precision = -2 * quadratic[0]
        return 0.5 * (jnp.sum(linear**2) / precision - linear.shape[0] * jnp.log(precision))


class LowRankCovariance(AbstractCovariance):
    """A low-rank part plus a multiple of the identity: ``factor @ factor.T + variance * I``."""

    factor: Float[Array, "*K d r"]
    variance: Float[Array, "*K"]

    @property
    def dim(self) -> int:
        return self.factor.shape[-2]

    def matrix(self) -> Float[Array, "d d"]:
        return self.factor @ self.factor.T + jnp.diag(jnp.broadcast_to(self.variance, (self.dim,)))

    def scale_tril(self) -> Float[Array, "d d"]:
        return jnp.linalg.cholesky(self.matrix())

    def trace(self) -> Float[Array, ""]:
        return jnp.sum(self.factor**2) + self.dim * self.variance


def traces(covariance: AbstractCovariance) -> Float[Array, " K"]:
    """The trace of each of K covariances."""
    return jax.vmap(lambda c: c.trace())(covariance)


def to_dense(covariance: AbstractCovariance) -> DenseCovariance:
    """The same K covariances, dense."""
    if isinstance(covariance, DenseCovariance):
        return covariance
    return DenseCovariance(jax.vmap(lambda c: c.scale_tril())(covariance))


def to_diagonal(covariance: DiagonalCovariance | ScalarCovariance) -> DiagonalCovariance:
    """The same K covariances, as variances of the coordinates."""
    if isinstance(covariance, DiagonalCovariance):
        return covariance
    return DiagonalCovariance(jax.vmap(lambda c: c.diagonal())(covariance))


def to_low_rank(covariance: LowRankCovariance | ScalarCovariance) -> LowRankCovariance:
    """The same K covariances, as a low-rank part (possibly of rank zero) plus a multiple of the identity."""
    if isinstance(covariance, LowRankCovariance):
        return covariance
    num = covariance.variance.shape[0]
    empty = jnp.zeros((num, covariance.size, 0), covariance.variance.dtype)
    return LowRankCovariance(empty, covariance.variance)


def symmetric(half: Float[Array, "*K q"], dim: int) -> Float[Array, "*K d d"]:
    """Symmetric matrices from their upper triangles."""
    position = np.zeros((dim, dim), int)
    row, column = np.triu_indices(dim)
    position[row, column] = position[column, row] = np.arange(len(row))
    return half[..., position]


def _precision_tril(quadratic: Float[Array, " q"], dim: int) -> Float[Array, "d d"]:
    """The Cholesky factor of the precision matrix in natural parameters."""
    row, column = np.triu_indices(dim)
    entries = -quadratic * jnp.asarray(np.where(row == column, 2.0, 1.0), quadratic.dtype)
    return jnp.linalg.cholesky(symmetric(entries, dim))


def inverse_tril(tril: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The inverse of a lower triangular matrix."""
    return solve_triangular(tril, jnp.eye(tril.shape[0], dtype=tril.dtype), lower=True)
