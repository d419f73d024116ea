r"""Entropic transport between two Gaussians whose marginals have a price instead of being kept, for one pair.

Minimize $\int \|x - y\|^2 dp + \varepsilon KL(p \| \mu \otimes \nu) + \tau_0 KL(p_0 \| \mu) + \tau_1 KL(p_1 \| \nu)$
over laws $p$ with marginals $p_0, p_1$, where $\mu = N(a, A)$ and $\nu = N(b, B)$. Among measures of any mass the
minimizer is the same up to its mass, so that this is theorem 3 of Janati et al. (2020), for two prices: a Gaussian.
With $k_i = 2 / (\tau_i + \varepsilon)$, $c_i = 4 \tau_i / (\varepsilon^2 (\tau_i + \varepsilon))$ and
$\hat A = (A^{-1} + k_0 I)^{-1}$, its precision has the off-diagonal block $-(2 / \varepsilon) I$ and the diagonal
blocks

$$P = \hat A^{-1} + c_0 Q^{-1}, \qquad Q = \hat B^{-1} + c_1 P^{-1},$$

so that $y = \hat A P$ is a function of $w = \hat A \hat B$: $y^2 - (1 + (c_0 - c_1) w) y - c_1 w = 0$. With
$v = (I + k_0 A + k_1 B)^{-1} (a - b)$ its means are $a - k_0 A v$ and $b + k_1 B v$.

In between, at a time $t$, $p$ gives way to the law of density proportional to $(p / h_0)^{1 - t} (p / h_1)^t$, where
$h_0 = dp_0 / d\mu$ and $h_1 = dp_1 / d\nu$ say how mass changed at each point: it grows or decays at a constant rate
on its way. The first factor has the marginal $\mu$ at 0, the second one $\nu$ at 1; the mass in between is at most 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class UnbalancedPair(NamedTuple):
    """The plan between two Gaussians with priced marginals, a Gaussian.

    Attributes:
        means: Means of what leaves and of what arrives, shape ``[d]`` each.
        covariances: Their covariances, shape ``[d, d]`` each.
        slope: Matrix of E[y | x] - target mean, applied to x - source mean.
        conditionals: Covariances of x given y and of y given x.
        apart: The vector v of the module's formulas.
        cost: Mean squared distance under the plan, units of squared distance.
        kl: KL of the plan from the product of both Gaussians, in nats.
        changes: KL of what leaves from the source, and of what arrives from the target.
    """

    means: tuple[Float[Array, " d"], Float[Array, " d"]]
    covariances: tuple[Float[Array, "d d"], Float[Array, "d d"]]
    slope: Float[Array, "d d"]
    conditionals: tuple[Float[Array, "d d"], Float[Array, "d d"]]
    apart: Float[Array, " d"]
    cost: Float[Array, ""]
    kl: Float[Array, ""]
    changes: tuple[Float[Array, ""], Float[Array, ""]]


def _rates(epsilon: Array, prices: tuple[Array, Array]) -> tuple[Array, Array]:
    """K of the module's formulas."""
    return 2 / (prices[0] + epsilon), 2 / (prices[1] + epsilon)


def unbalanced_pair(
    means: tuple[Float[Array, " d"], Float[Array, " d"]],
    covariances: tuple[Float[Array, "d d"], Float[Array, "d d"]],
    epsilon: Float[Array, ""],
    prices: tuple[Float[Array, ""], Float[Array, ""]],
) -> UnbalancedPair:
    """The closed form; differentiable once, also where eigenvalues are equal.

    Args:
        means: Means of source and target.
        covariances: Their covariances, positive definite.
        epsilon: Regularization, units of squared distance; positive.
        prices: Prices tau of changing the marginals, same units; infinite keeps one.
    """
    (a, b), (cov_a, cov_b) = means, covariances
    k = _rates(epsilon, prices)
    # What c falls short of 4 / eps^2 by, and c of the target.
    lost = 2 * k[0] / epsilon, 2 * k[1] / epsilon
    c = 4 / epsilon**2 - lost[1]
    eye = jnp.eye(a.shape[0], dtype=a.dtype)
    narrow_a, narrow_b = _narrowed(cov_a, k[0]), _narrowed(cov_b, k[1])
    root = jnp.linalg.cholesky(narrow_a)
    inner = _inverse_root(_symmetric(root.T @ narrow_b @ root), 0.5 * (lost[1] - lost[0]), c)
    inverse_p = _symmetric(root @ inner @ root.T)
    inverse_q = _symmetric(jnp.linalg.inv(jnp.linalg.inv(narrow_b) + c * inverse_p))
    slope = 2 / epsilon * inverse_q
    # How much more precise the marginals are than what was given.
    excess_x, excess_y = k[0] * (eye - slope), k[1] * (eye - 2 / epsilon * inverse_p)
    covariance_x, covariance_y = _narrowed(cov_a, excess_x), _narrowed(cov_b, excess_y)
    apart = jnp.linalg.solve(eye + k[0] * cov_a + k[1] * cov_b, a - b)
    mean_x, mean_y = a - k[0] * cov_a @ apart, b + k[1] * cov_b @ apart

    cross = jnp.trace(covariance_x @ slope)
    cost = apart @ apart + jnp.trace(covariance_x) + jnp.trace(covariance_y) - 2 * cross
    changes = _change(cov_a, excess_x, k[0] * apart), _change(cov_b, excess_y, k[1] * apart)
    kl = 0.5 * (_log_det(covariance_y) - _log_det(inverse_q)) + changes[0] + changes[1]
    sides = (mean_x, mean_y), (covariance_x, covariance_y)
    return UnbalancedPair(*sides, slope, (inverse_p, inverse_q), apart, cost, kl, changes)


def between(
    pair: UnbalancedPair,
    covariances: tuple[Float[Array, "d d"], Float[Array, "d d"]],
    epsilon: Float[Array, ""],
    prices: tuple[Float[Array, ""], Float[Array, ""]],
    t: Float[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, " d"], Float[Array, "d d"]]:
    """The law of (1 - t) x + t y at a time on the way: its mass, mean and covariance.

    Args:
        pair: The plan.
        covariances: Covariances of source and target.
        epsilon: Regularization.
        prices: Prices of changing the marginals.
        t: Time from 0 to 1.
    """
    k = _rates(epsilon, prices)
    (inverse_p, inverse_q), apart = pair.conditionals, pair.apart
    eye = jnp.eye(apart.shape[0], dtype=apart.dtype)
    shares = 1 - t, t
    # Diagonal blocks of the precision: those of the plan less a part of its marginals' excess.
    block_x, block_y = (
        jnp.linalg.inv(own) - share * rate * (eye - 2 / epsilon * other)
        for own, other, share, rate in zip((inverse_p, inverse_q), (inverse_q, inverse_p), shares, k, strict=True)
    )
    within = _symmetric(jnp.linalg.inv(block_x))
    covariance_y = _symmetric(jnp.linalg.inv(block_y - 4 / epsilon**2 * within))
    cross = 2 / epsilon * within @ covariance_y
    covariance_x = _symmetric(within + cross @ (2 / epsilon * within))
    # Coordinates from the plan's means: the natural parameters are multiples of what lies between the means.
    push = shares[0] * k[0] * apart, -shares[1] * k[1] * apart
    shift_x = covariance_x @ push[0] + cross @ push[1]
    shift_y = cross.T @ push[0] + covariance_y @ push[1]
    log_mass = 0.5 * (_log_det(within) + _log_det(covariance_y) + push[0] @ shift_x + push[1] @ shift_y)
    for share, rate, cov, conditional in zip(shares, k, covariances, (inverse_q, inverse_p), strict=True):
        log_mass = log_mass - 0.5 * share * (_log_det(cov) + _log_det(conditional) + rate**2 * apart @ cov @ apart)
    mean = (1 - t) * (pair.means[0] + shift_x) + t * (pair.means[1] + shift_y)
    covariance = (1 - t) ** 2 * covariance_x + t**2 * covariance_y + t * (1 - t) * (cross + cross.T)
    return jnp.exp(jnp.minimum(log_mass, 0.0)), mean, _symmetric(covariance)


@jax.custom_jvp
def _inverse_root(matrix: Float[Array, "d d"], skew: Float[Array, ""], c: Float[Array, ""]) -> Float[Array, "d d"]:
    """1 / y for the positive root y of y^2 - (1 + 2 skew w) y - c w = 0, as a function of a symmetric matrix w."""
    values, vectors = jnp.linalg.eigh(matrix)
    y, _ = _root_of(values, skew, c)
    return (vectors / y[None, :]) @ vectors.T


def _root_of(w: Array, skew: Array, c: Array) -> tuple[Array, Array]:
    """The root y, and half the slope of its equation there."""
    half = 0.5 + skew * w
    slope = jnp.sqrt(half**2 + c * w)
    # Without cancellation on either side of zero.
    return jnp.where(half >= 0, half + slope, c * w / jnp.where(half >= 0, jnp.ones_like(slope), slope - half)), slope


@_inverse_root.defjvp
def _inverse_root_jvp(primals: tuple, tangents: tuple) -> tuple:
    """Divided differences of 1 / y, which stay finite where eigenvalues are equal (Daleckii and Krein)."""
    matrix, skew, c = primals
    d_matrix, d_skew, d_c = tangents
    values, vectors = jnp.linalg.eigh(matrix)
    y, slope = _root_of(values, skew, c)
    differences = (c + skew * (y[:, None] + y[None, :])) / (slope[:, None] + slope[None, :])
    inner = -differences / (y[:, None] * y[None, :]) * (vectors.T @ d_matrix @ vectors)
    inner = inner - jnp.diag((values * y * d_skew + 0.5 * values * d_c) / (slope * y**2))
    return (vectors / y[None, :]) @ vectors.T, vectors @ inner @ vectors.T


def _narrowed(covariance: Float[Array, "d d"], excess: Float[Array, "*d"]) -> Float[Array, "d d"]:
    """(covariance^-1 + excess)^-1, for a matrix or a multiple of the identity."""
    eye = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    product = excess * covariance if excess.ndim == 0 else covariance @ excess
    return _symmetric(jnp.linalg.solve(eye + product, covariance))


def _symmetric(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return 0.5 * (matrix + matrix.T)


def _log_det(covariance: Float[Array, "d d"]) -> Float[Array, ""]:
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(covariance))))


def _change(covariance: Array, excess: Array, shift: Array) -> Float[Array, ""]:
    """KL of N(m - covariance shift, (covariance^-1 + excess)^-1) from N(m, covariance).

    From the differences of both rather than from both: it is multiplied by a price that may be large.
    """
    root = jnp.linalg.cholesky(covariance)
    return 0.5 * (_spread(_symmetric(root.T @ excess @ root)) + shift @ covariance @ shift)


@jax.custom_jvp
def _spread(matrix: Float[Array, "d d"]) -> Float[Array, ""]:
    """Sum of log(1 + e) - e / (1 + e) over eigenvalues e."""
    e = jnp.linalg.eigvalsh(matrix)
    return jnp.sum(jnp.log1p(e) - e / (1 + e))


@_spread.defjvp
def _spread_jvp(primals: tuple, tangents: tuple) -> tuple:
    e, vectors = jnp.linalg.eigh(primals[0])
    slopes = (vectors * (e / (1 + e) ** 2)[None, :]) @ vectors.T
    return jnp.sum(jnp.log1p(e) - e / (1 + e)), jnp.sum(slopes * tangents[0])
