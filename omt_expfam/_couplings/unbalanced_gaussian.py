r"""Entropic transport between two Gaussian measures whose masses may change, in closed form, for one pair.

Minimize $\int \|x - y\|^2 dp + \varepsilon KL(p \| \alpha \otimes \beta) + \rho_0 KL(p_0 \| \alpha)
+ \rho_1 KL(p_1 \| \beta)$ over measures $p$ with marginals $p_0, p_1$, where $\alpha$ and $\beta$ are masses times
$N(a, A)$ and $N(b, B)$ and $KL(p \| q) = \int \log (dp / dq) dp - p(1) + q(1)$ (Janati et al., 2020, theorem 3, for
$\rho_0 = \rho_1$). The minimizer is a mass times a Gaussian. With $k_i = 2 / (\rho_i + \varepsilon)$,
$c_i = 4 \rho_i / (\varepsilon^2 (\rho_i + \varepsilon))$ and $\hat A = (A^{-1} + k_0 I)^{-1}$, its precision has the
off-diagonal block $-(2 / \varepsilon) I$ and the diagonal blocks

$$P = \hat A^{-1} + c_0 Q^{-1}, \qquad Q = \hat B^{-1} + c_1 P^{-1},$$

so that $y = \hat A P$ is a function of $w = \hat A \hat B$: $y^2 - (1 + (c_0 - c_1) w) y - c_1 w = 0$. The difference
of its means is $(I + k_0 A + k_1 B)^{-1} (a - b)$, and its mass makes the objective's derivative along itself vanish.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class UnbalancedPair(NamedTuple):
    """The plan between two Gaussian measures, a mass times a Gaussian, and its objective.

    Attributes:
        mass: Mass of the plan.
        source_mean: Mean of what leaves, shape ``[d]``.
        target_mean: Mean of what arrives.
        source_covariance: Covariance of what leaves, shape ``[d, d]``.
        target_covariance: Covariance of what arrives.
        cross_covariance: Their cross-covariance, rows for the source.
        slope: Matrix of E[y | x] - target mean, applied to x - source mean.
        conditional_covariance: Covariance of y given x.
        cost: Mean squared distance under the plan over its mass, units of squared distance.
        kl: KL of the plan over its mass from the product of both laws, in nats.
        source_kl: KL of what leaves over its mass from the source's law.
        target_kl: The same of what arrives.
        objective: The minimized objective.
    """

    mass: Float[Array, ""]
    source_mean: Float[Array, " d"]
    target_mean: Float[Array, " d"]
    source_covariance: Float[Array, "d d"]
    target_covariance: Float[Array, "d d"]
    cross_covariance: Float[Array, "d d"]
    slope: Float[Array, "d d"]
    conditional_covariance: Float[Array, "d d"]
    cost: Float[Array, ""]
    kl: Float[Array, ""]
    source_kl: Float[Array, ""]
    target_kl: Float[Array, ""]
    objective: Float[Array, ""]


def unbalanced_pair(
    means: tuple[Float[Array, " d"], Float[Array, " d"]],
    covariances: tuple[Float[Array, "d d"], Float[Array, "d d"]],
    masses: tuple[Float[Array, ""], Float[Array, ""]],
    epsilon: Float[Array, ""],
    relaxations: tuple[Float[Array, ""], Float[Array, ""]],
) -> UnbalancedPair:
    """The closed form.

    It is differentiated through a decomposition: derivatives are NaN where eigenvalues are equal, as for spheres.

    Args:
        means: Means of source and target.
        covariances: Their covariances, positive definite.
        masses: Their masses.
        epsilon: Regularization, units of squared distance; positive.
        relaxations: Prices of changing the masses, same units; infinite keeps a marginal. With both infinite, masses
            must be equal, which is not checked.
    """
    (a, b), (cov_a, cov_b) = means, covariances
    eye = jnp.eye(a.shape[0], dtype=a.dtype)
    k = [2 / (rho + epsilon) for rho in relaxations]
    # The part of 4 / eps^2 that c falls short by, and c.
    lost = [2 * one / epsilon for one in k]
    c = [4 / epsilon**2 - one for one in lost]
    narrow_a, narrow_b = (_narrowed(cov, one) for cov, one in ((cov_a, k[0]), (cov_b, k[1])))
    root = jnp.linalg.cholesky(narrow_a)
    values, vectors = jnp.linalg.eigh(_symmetric(root.T @ narrow_b @ root))
    half = 0.5 * (1 + (lost[1] - lost[0]) * values)
    y = half + jnp.sqrt(half**2 + c[1] * values)
    basis = root @ vectors
    inverse_p = (basis / y[None, :]) @ basis.T
    inverse_q = _symmetric(jnp.linalg.inv(jnp.linalg.inv(narrow_b) + c[1] * inverse_p))
    slope = 2 / epsilon * inverse_q
    covariance_x = _symmetric(jnp.linalg.inv(jnp.linalg.inv(narrow_a) - lost[0] * inverse_q))
    cross = covariance_x @ slope
    covariance_y = _symmetric(inverse_q + slope @ covariance_x @ slope)
    apart = jnp.linalg.solve(eye + k[0] * cov_a + k[1] * cov_b, a - b)
    mean_x, mean_y = a - k[0] * cov_a @ apart, b + k[1] * cov_b @ apart

    cost = apart @ apart + jnp.trace(covariance_x) + jnp.trace(covariance_y) - 2 * jnp.trace(cross)
    changes = _gaussian_kl(mean_x, covariance_x, a, cov_a), _gaussian_kl(mean_y, covariance_y, b, cov_b)
    information = 0.5 * (_log_det(covariance_y) - _log_det(inverse_q))
    kl = information + changes[0] + changes[1]
    mass = _mass(cost + epsilon * kl, changes, masses, epsilon, relaxations)
    objective = mass * cost + epsilon * _measure_kl(mass, kl, masses[0] * masses[1])
    for change, given, rho in zip(changes, masses, relaxations, strict=True):
        finite = jnp.where(jnp.isinf(rho), 0.0, rho)
        objective = objective + finite * _measure_kl(mass, change, given)
    return UnbalancedPair(
        mass, mean_x, mean_y, covariance_x, covariance_y, cross, slope, inverse_q, cost, kl, *changes, objective
    )


def _mass(
    moved: Array, changes: tuple[Array, Array], masses: tuple[Array, Array], epsilon: Array, relaxations: tuple
) -> Float[Array, ""]:
    """The best mass for the plan's law; that of a side that is kept."""
    kept = [jnp.isinf(rho) for rho in relaxations]
    prices = [jnp.where(one, 0.0, rho) for one, rho in zip(kept, relaxations, strict=True)]
    logs = [jnp.log(mass) for mass in masses]
    value = epsilon * (logs[0] + logs[1]) - moved
    value = value + sum(rho * (log - kl) for rho, log, kl in zip(prices, logs, changes, strict=True))
    free = jnp.exp(value / (epsilon + prices[0] + prices[1]))
    return jnp.where(kept[0], masses[0], jnp.where(kept[1], masses[1], free))


def _narrowed(covariance: Float[Array, "d d"], k: Float[Array, ""]) -> Float[Array, "d d"]:
    """(covariance^-1 + k I)^-1."""
    return _symmetric(jnp.linalg.solve(jnp.eye(covariance.shape[0], dtype=k.dtype) + k * covariance, covariance))


def _symmetric(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return 0.5 * (matrix + matrix.T)


def _log_det(covariance: Float[Array, "d d"]) -> Float[Array, ""]:
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(covariance))))


def _gaussian_kl(mean: Array, covariance: Array, mean_1: Array, covariance_1: Array) -> Float[Array, ""]:
    root = jnp.linalg.cholesky(covariance_1)
    ratio = solve_triangular(root, jnp.linalg.cholesky(covariance), lower=True)
    shift = solve_triangular(root, mean - mean_1, lower=True)
    log_ratio = 2 * jnp.sum(jnp.log(jnp.diagonal(ratio)))
    return 0.5 * (jnp.sum(ratio**2) + shift @ shift - mean.shape[0] - log_ratio)


def _measure_kl(mass: Array, kl: Array, given: Array) -> Float[Array, ""]:
    """KL of a mass times a law from another mass times another law."""
    return mass * (kl + jnp.log(mass / given)) - mass + given
