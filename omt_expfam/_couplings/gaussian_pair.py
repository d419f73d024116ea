r"""Entropic transport between two Gaussians in closed form, for one pair.

With $s = \varepsilon_1 / 2$, covariances $\Sigma_0 = L_0 L_0^T$, $\Sigma_1 = L_1 L_1^T$ and the singular value
decomposition $L_1^T L_0 = U \sigma V^T$, put $w = \sqrt{\sigma^2 + s^2/4}$ and $r = w - s/2$. Then

- tr C = sum r, for the cross-covariance C of the plan;
- KL = 1/2 sum log(1 + r/s), of the plan against the product of its marginals;
- E[y | x] = m1 + A (x - m0) with A = G G^T, G = L1 U (w + s/2)^(-1/2), and Cov[y | x] = s A.

Singular values of a product of factors keep twice the digits that eigenvalues of a product of covariances keep, and G
needs no inverse. Formulas after Janati et al. (2020), with s = eps1/2 because the objective here is
cost + eps1 KL.

Derivatives are our own: those of a decomposition are infinite at repeated singular values. A solves the Riccati
equation ``s A + A Sigma0 A = Sigma1``; differentiating it gives a Lyapunov equation whose solution is regular.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from .._components.covariance import (
    AbstractCovariance,
    DenseCovariance,
    DiagonalCovariance,
    LowRankCovariance,
    ScalarCovariance,
    to_dense,
    to_diagonal,
    to_low_rank,
)


def promote(source: AbstractCovariance, target: AbstractCovariance) -> tuple[AbstractCovariance, AbstractCovariance]:
    """Bring two sets of covariances to the cheapest pair of structures that the closed form knows."""
    if isinstance(source, ScalarCovariance | DiagonalCovariance) and isinstance(
        target, ScalarCovariance | DiagonalCovariance
    ):
        return to_diagonal(source), to_diagonal(target)
    if isinstance(source, ScalarCovariance | LowRankCovariance) and isinstance(
        target, ScalarCovariance | LowRankCovariance
    ):
        source, target = to_low_rank(source), to_low_rank(target)
        if source.factor.shape[-1] + target.factor.shape[-1] < source.dim:
            return source, target
    if isinstance(source, ScalarCovariance) or isinstance(target, ScalarCovariance):
        return (
            source if isinstance(source, ScalarCovariance) else to_dense(source),
            target if isinstance(target, ScalarCovariance) else to_dense(target),
        )
    return to_dense(source), to_dense(target)


# -- values ------------------------------------------------------------------------------------------------------


class _Roots(NamedTuple):
    """Quantities of the module's formulas in units of their own.

    Squares of variances leave the range of float32 long before variances do, and so do derivatives of their quotients.

    Attributes:
        unit: The larger of sigma and s, a constant: derivatives do not see it.
        sigma: Singular values.
        s: Regularization.
        sum: w + s/2.
    """

    unit: Float[Array, "*d"]
    sigma: Float[Array, "*d"]
    s: Float[Array, "*d"]
    sum: Float[Array, "*d"]


def _roots(sigma: Float[Array, "*d"], s: Float[Array, ""]) -> _Roots:
    unit = jax.lax.stop_gradient(jnp.maximum(sigma, s))
    unit = jnp.where(unit > 0, unit, jnp.ones_like(unit))
    sigma, s = sigma / unit, s / unit
    return _Roots(unit, sigma, s, jnp.sqrt(sigma * sigma + s * s / 4) + s / 2)


def _spectral_terms(sigma: Float[Array, " d"], s: Float[Array, ""]) -> tuple[Array, Array]:
    """Tr C and KL from the singular values of L1' L0; KL is infinite at s = 0."""
    roots = _roots(sigma, s)
    r = roots.sigma**2 / jnp.where(roots.sum > 0, roots.sum, jnp.ones_like(sigma))
    safe = jnp.where(roots.s > 0, roots.s, jnp.ones_like(sigma))
    kl = jnp.where(roots.s > 0, 0.5 * jnp.log1p(r / safe), jnp.inf)
    return jnp.sum(roots.unit * r), jnp.sum(kl)


def _singular_values(source: AbstractCovariance, target: AbstractCovariance) -> Float[Array, " d"]:
    """Singular values of L1' L0, by the cheapest way that the structures allow."""
    match source, target:
        case DiagonalCovariance(), DiagonalCovariance():
            return _geometric_mean(source.variance, target.variance)
        case ScalarCovariance(), DenseCovariance():
            return jnp.sqrt(source.variance) * jnp.linalg.svd(target.tril, compute_uv=False)
        case DenseCovariance(), ScalarCovariance():
            return jnp.sqrt(target.variance) * jnp.linalg.svd(source.tril, compute_uv=False)
        case LowRankCovariance(), LowRankCovariance():
            # Outside the span of both factors each covariance is a multiple of the identity.
            small_source, small_target, basis = _reduce(source, target)
            rest = _geometric_mean(source.variance, target.variance)
            rest = jnp.broadcast_to(rest, (source.dim - basis.shape[1],))
            return jnp.concatenate([_singular_values(small_source, small_target), rest])
        case _:
            return jnp.linalg.svd(target.scale_tril().T @ source.scale_tril(), compute_uv=False)


def _geometric_mean(first: Array, second: Array) -> Array:
    return jnp.sqrt(first) * jnp.sqrt(second)


def _reduce(
    source: LowRankCovariance, target: LowRankCovariance
) -> tuple[DenseCovariance, DenseCovariance, Float[Array, "d q"]]:
    """Both covariances in a basis of the span of their factors."""
    basis, _ = jnp.linalg.qr(jnp.concatenate([source.factor, target.factor], axis=1))

    def small(covariance: LowRankCovariance) -> DenseCovariance:
        factor = basis.T @ covariance.factor
        eye = jnp.eye(basis.shape[1], dtype=factor.dtype)
        return DenseCovariance(jnp.linalg.cholesky(factor @ factor.T + covariance.variance * eye))

    return small(source), small(target), basis


def trace_and_kl(
    source: AbstractCovariance, target: AbstractCovariance, s: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Tr C and KL of one pair of covariances (structures from `promote`)."""
    if isinstance(source, DiagonalCovariance):
        return _spectral_terms(_singular_values(source, target), s)
    return _dense_terms(source, target, s)


@jax.custom_jvp
def _dense_terms(source: AbstractCovariance, target: AbstractCovariance, s: Float[Array, ""]) -> tuple[Array, Array]:
    return _spectral_terms(_singular_values(source, target), s)


@_dense_terms.defjvp
def _dense_terms_jvp(primals: tuple, tangents: tuple) -> tuple:
    """D tr C = 1/2 <A + s J, dSigma0> + ..., dKL = 1/2 <J, dSigma0> + ..., with J from `_lyapunov`."""
    source, target, s = primals
    d_source, d_target, ds = tangents

    def matrix(covariance: AbstractCovariance) -> Array:
        return covariance.matrix()

    sigma0, d_sigma0 = jax.jvp(matrix, (source,), (d_source,))
    _, d_sigma1 = jax.jvp(matrix, (target,), (d_target,))
    root0, root1 = source.scale_tril(), target.scale_tril()
    a, a_back = regression(root0, root1, s), regression(root1, root0, s)
    j, j_back = _lyapunov(root0, root1, s, a), _lyapunov(root1, root0, s, a_back)
    d_kl = 0.5 * (jnp.sum(j * d_sigma0) + jnp.sum(j_back * d_sigma1))
    d_trace = 0.5 * (jnp.sum(a * d_sigma0) + jnp.sum(a_back * d_sigma1)) + s * d_kl
    slope = jnp.sum(sigma0 * j)
    safe = jnp.where(s > 0, s, jnp.ones_like(s))
    return _dense_terms(source, target, s), (d_trace - slope * ds, d_kl - slope / safe * ds)


# -- the conditional law -------------------------------------------------------------------------------------------


def _decompose(root0: Array, root1: Array, s: Array) -> tuple[Array, Array, Array]:
    """U, w and G of the module's formulas."""
    u, sigma, _ = jnp.linalg.svd(root1.T @ root0)
    roots = _roots(sigma, s)
    total = roots.unit * roots.sum
    return u, total - s / 2, (root1 @ u) / jnp.sqrt(total)[None, :]


@jax.custom_jvp
def regression(root0: Float[Array, "d d"], root1: Float[Array, "d d"], s: Float[Array, ""]) -> Float[Array, "d d"]:
    """The matrix A of E[y | x] = m1 + A (x - m0), from Cholesky factors; symmetric, positive definite."""
    _, _, g = _decompose(root0, root1, s)
    return g @ g.T


@regression.defjvp
def _regression_jvp(primals: tuple, tangents: tuple) -> tuple:
    root0, root1, s = primals
    d_root0, d_root1, ds = tangents
    a = regression(root0, root1, s)
    d_sigma0, d_sigma1 = _d_square(root0, d_root0), _d_square(root1, d_root1)
    return a, _lyapunov(root0, root1, s, d_sigma1 - a @ d_sigma0 @ a - ds * a)


@jax.custom_jvp
def _lyapunov(root0: Array, root1: Array, s: Array, rhs: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric X with X N + N^T X = rhs, where N = Sigma0 A + (s/2) I."""
    u, w, g = _decompose(root0, root1, s)
    # G^-1 = (w + s/2)^(1/2) U^T L1^-1.
    half = jnp.sqrt(w + s / 2)[:, None] * (u.T @ solve_triangular(root1, rhs, lower=True))
    inner = jnp.sqrt(w + s / 2)[:, None] * (u.T @ solve_triangular(root1, half.T, lower=True))
    return g @ (inner / (w[:, None] + w[None, :])) @ g.T


@_lyapunov.defjvp
def _lyapunov_jvp(primals: tuple, tangents: tuple) -> tuple:
    root0, root1, s, rhs = primals
    d_root0, d_root1, ds, d_rhs = tangents
    x = _lyapunov(root0, root1, s, rhs)
    a, d_a = jax.jvp(regression, (root0, root1, s), (d_root0, d_root1, ds))
    d_n = _d_square(root0, d_root0) @ a + root0 @ root0.T @ d_a + 0.5 * ds * jnp.eye(a.shape[0], dtype=a.dtype)
    return x, _lyapunov(root0, root1, s, d_rhs - x @ d_n - d_n.T @ x)


def _d_square(root: Array, d_root: Array) -> Array:
    half = d_root @ root.T
    return half + half.T


def conditional_gain(source: AbstractCovariance, target: AbstractCovariance, s: Float[Array, ""]) -> Array:
    """The matrix A of one pair: its diagonal, shape ``[d]``, for diagonal structures, else ``[d, d]``."""
    match source, target:
        case DiagonalCovariance(), DiagonalCovariance():
            return _scalar_gain(source.variance, target.variance, s)
        case LowRankCovariance(), LowRankCovariance():
            small_source, small_target, basis = _reduce(source, target)
            small = regression(small_source.tril, small_target.tril, s)
            rest = _scalar_gain(source.variance, target.variance, s)
            eye = jnp.eye(basis.shape[1], dtype=small.dtype)
            outer = jnp.diag(jnp.broadcast_to(rest, (source.dim,)))
            return outer + basis @ (small - rest * eye) @ basis.T
        case _:
            return regression(source.scale_tril(), target.scale_tril(), s)


def _scalar_gain(source: Array, target: Array, s: Float[Array, ""]) -> Array:
    """The gain in one dimension, or in each of several, from variances."""
    roots = _roots(_geometric_mean(source, target), s)
    return (target / roots.unit) / roots.sum
