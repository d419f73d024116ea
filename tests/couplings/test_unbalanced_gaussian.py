"""Gaussian measures whose masses change, against unbalanced Sinkhorn on fine grids, the balanced form, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omt_expfam._couplings.unbalanced_gaussian import unbalanced_pair

MEANS = np.array([0.3, -0.2]), np.array([1.0, 0.6])
COVARIANCES = np.array([[1.0, 0.4], [0.4, 0.7]]), np.array([[0.5, -0.2], [-0.2, 1.2]])


@jax.jit
def both_sizes(means, covariances, masses, epsilon, relaxations):
    small = [mean[:1] for mean in means], [covariance[:1, :1] for covariance in covariances]
    return [
        unbalanced_pair(tuple(mean), tuple(covariance), masses, epsilon, relaxations)
        for mean, covariance in (small, (means, covariances))
    ]


def solved(masses, epsilon, relaxations):
    return both_sizes(*jax.tree.map(jnp.asarray, (MEANS, COVARIANCES, masses, epsilon, relaxations)))


def grid_oracle(dim, masses, epsilon, relaxations, num):
    """Mass, both means, the joint covariance, and the objective, by Sinkhorn's iteration; kernels are products."""
    axis = np.linspace(-7, 8, num)
    kernel = np.exp(-((axis[:, None] - axis[None]) ** 2) / epsilon)
    points = np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)

    def measure(mean, covariance, mass):
        z = points - mean[:dim]
        density = np.exp(-0.5 * np.einsum("ni,ij,nj->n", z, np.linalg.inv(covariance[:dim, :dim]), z))
        return mass * density / density.sum()

    def apply(values, powers=()):
        """The kernel, times a power of a coordinate of the points that it comes from."""
        table = values.reshape((num,) * dim)
        for way in range(dim):
            table = np.moveaxis(np.tensordot(kernel, table, (1, way)), 0, way)
        return table.ravel()

    a, b = (measure(*side) for side in zip(MEANS, COVARIANCES, masses, strict=True))
    left, right = (rho / (rho + epsilon) if np.isfinite(rho) else 1.0 for rho in relaxations)
    f, g = np.ones_like(a), np.ones_like(b)
    for _ in range(3000):
        f = apply(b * g) ** -left
        new = apply(a * f) ** -right
        if np.abs(np.log(new / g)).max() < 1e-13:
            break
        g = new
    rows, columns = a * f * apply(b * g), b * g * apply(a * f)
    mass = rows.sum()
    mean_x, mean_y = rows @ points / mass, columns @ points / mass
    cross = np.stack([(a * f * apply(b * g * (points[:, j] - mean_y[j]))) @ (points - mean_x) for j in range(dim)], 1)
    covariance = [(w[:, None] * (points - m)).T @ (points - m) / mass for w, m in ((rows, mean_x), (columns, mean_y))]
    # The dual's value.
    value = epsilon * (masses[0] * masses[1] - mass)
    for given, potential, total, rho in zip((a, b), (f, g), masses, relaxations, strict=True):
        value += rho * (total - mass) if np.isfinite(rho) else epsilon * np.sum(given * np.log(potential))
    return mass, mean_x, mean_y, covariance[0], covariance[1], cross / mass, value


CASES = [((1.0, 1.5), 0.6, (2.0, 2.0)), ((0.7, 2.0), 0.6, (0.4, 5.0)), ((1.0, 1.5), 0.6, (np.inf, 1.0))]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dim", "num"), [(1, 240), (2, 70)])
def test_grids_agree(dim, num, case, x64):
    found = solved(*case)[dim - 1]
    expected = grid_oracle(dim, *case, num)
    ours = found.mass, found.source_mean, found.target_mean, found.source_covariance, found.target_covariance
    for value, other in zip((*ours, found.cross_covariance, found.objective), expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-7)


def test_the_balanced_form_is_the_limit(x64):
    masses, epsilon = (1.0, 1.0), 0.6
    s = epsilon / 2
    (m0, m1), (sigma0, sigma1) = MEANS, COVARIANCES
    for rhos in ((np.inf, np.inf), (1e8, 1e8)):
        found = solved(masses, epsilon, rhos)[1]
        # Of one pair, by eigenvalues of the product of covariances.
        values = np.linalg.eigvals(sigma0 @ sigma1).real
        r = np.sqrt(values + s**2 / 4) - s / 2
        value = np.sum((m0 - m1) ** 2) + np.trace(sigma0 + sigma1) - 2 * r.sum() + epsilon * 0.5 * np.log1p(r / s).sum()
        np.testing.assert_allclose(found.objective, value, rtol=1e-6)
        np.testing.assert_allclose(found.source_covariance, sigma0, rtol=1e-6)
        np.testing.assert_allclose(found.target_covariance, sigma1, rtol=1e-6)
        np.testing.assert_allclose(found.target_mean, m1, rtol=1e-6)
        np.testing.assert_allclose(found.mass, 1, rtol=1e-6)
        np.testing.assert_allclose(np.trace(found.cross_covariance), r.sum(), rtol=1e-6)


def test_small_regularization_and_derivatives(x64):
    """The marginals stay those of the definition at small regularization; derivatives are those of the numbers."""
    found = solved((1.0, 1.5), 1e-3, (2.0, 3.0))[1]
    joint = np.block(
        [[found.source_covariance, found.cross_covariance], [found.cross_covariance.T, found.target_covariance]]
    )
    precision = np.linalg.inv(joint)
    np.testing.assert_allclose(precision[:2, 2:], -2 / 1e-3 * np.eye(2), rtol=1e-6, atol=1e-3)
    assert 0 < float(found.mass) < 1.5
    objective = jax.jit(jax.value_and_grad(lambda rho: both_sizes(*map_all((1.0, 1.5), 0.6, (rho, 3.0)))[1].objective))
    _, slope = objective(2.0)
    ends = [float(objective(2.0 + h)[0]) for h in (-1e-5, 1e-5)]
    np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-5, rtol=1e-6)
    # The envelope: its derivative is the divergence that it prices.
    found = solved((1.0, 1.5), 0.6, (2.0, 3.0))[1]
    mass = float(found.mass)
    np.testing.assert_allclose(slope, mass * (float(found.source_kl) + np.log(mass)) - mass + 1, rtol=1e-6)


def map_all(*numbers):
    return jax.tree.map(jnp.asarray, (MEANS, COVARIANCES, *numbers))
