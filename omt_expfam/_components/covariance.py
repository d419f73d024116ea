"""Covariance structures: what the closed-form couplings need to know of a Gaussian component."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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


class DenseCovariance(AbstractCovariance):
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


class DiagonalCovariance(AbstractCovariance):
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


class ScalarCovariance(AbstractCovariance):
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
