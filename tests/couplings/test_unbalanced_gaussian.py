"""Gaussian measures whose masses change, against unbalanced Sinkhorn on fine grids, the balanced form, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

import omt_expfam as omt
from families import Gaussian
from omt_expfam._couplings.interface import PairSelection
from omt_expfam._couplings.unbalanced_gaussian import between, unbalanced_pair

MEANS = np.array([0.3, -0.2]), np.array([1.0, 0.6])
COVARIANCES = np.array([[1.0, 0.4], [0.4, 0.7]]), np.array([[0.5, -0.2], [-0.2, 1.2]])


def measures(dim, epsilon, prices, *, masses=(1.0, 1.0), **settings):
    """The plan between the two measures in so many dimensions, with one price for shapes and masses."""
    sides = [
        omt.Mixture(jnp.ones(1), Gaussian(jnp.asarray(mean[None, :dim]), jnp.asarray(covariance[None, :dim, :dim])))
        for mean, covariance in zip(MEANS, COVARIANCES, strict=True)
    ]
    return omt.transport(
        *sides,
        epsilon_components=epsilon,
        epsilon_weights=epsilon,
        component_relaxation=prices,
        source_relaxation=prices[0],
        target_relaxation=prices[1],
        source_mass=masses[0],
        target_mass=masses[1],
        **settings,
    )


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
    masses, epsilon, prices = case
    plan = measures(dim, epsilon, prices, masses=masses)
    left, right = plan.marginals()
    cross = plan.couplings.cross_covariances(PairSelection(*(jnp.zeros(1, int),) * 2, jnp.ones(1)))[0]
    ours = plan.mass, left.mean(), right.mean(), left.covariance(), right.covariance(), cross, plan.objective
    for value, other in zip(ours, grid_oracle(dim, masses, epsilon, prices, num), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-7)


def pair(covariances=COVARIANCES, epsilon=0.6, prices=(2.0, 3.0), dtype=float):
    """The closed form of one pair."""
    numbers = jax.tree.map(lambda v: jnp.asarray(v, dtype), (MEANS, tuple(covariances), epsilon, prices))
    return solved(*numbers)


@jax.jit
def solved(means, covariances, epsilon, prices):
    found = unbalanced_pair(means, covariances, epsilon, prices)
    finite = [jnp.where(jnp.isinf(price), 0.0, price) for price in prices]
    objective = found.cost + epsilon * found.kl + finite[0] * found.changes[0] + finite[1] * found.changes[1]
    return found, objective


def test_the_balanced_form_is_the_limit(x64):
    epsilon = 0.6
    s = epsilon / 2
    (m0, m1), (sigma0, sigma1) = MEANS, COVARIANCES
    for prices in ((np.inf, np.inf), (1e8, 1e8)):
        found, objective = pair(epsilon=epsilon, prices=prices)
        # Of one pair, by eigenvalues of the product of covariances.
        values = np.linalg.eigvals(sigma0 @ sigma1).real
        r = np.sqrt(values + s**2 / 4) - s / 2
        value = np.sum((m0 - m1) ** 2) + np.trace(sigma0 + sigma1) - 2 * r.sum() + epsilon * 0.5 * np.log1p(r / s).sum()
        np.testing.assert_allclose(objective, value, rtol=1e-6)
        np.testing.assert_allclose(found.covariances[0], sigma0, rtol=1e-6)
        np.testing.assert_allclose(found.covariances[1], sigma1, rtol=1e-6)
        np.testing.assert_allclose(found.means[1], m1, rtol=1e-6)
        np.testing.assert_allclose(np.trace(found.covariances[0] @ found.slope), r.sum(), rtol=1e-6)


@pytest.mark.parametrize("prices", [(2.0, 3.0), (0.05, 4.0), (np.inf, 0.3)])
def test_the_precision_is_that_of_the_definition(prices, x64):
    """Off its diagonal it is that of the squared distance, whatever the marginals are."""
    found, _ = pair(epsilon=1e-2, prices=prices)
    cross = found.covariances[0] @ found.slope
    precision = np.linalg.inv(np.block([[found.covariances[0], cross], [cross.T, found.covariances[1]]]))
    np.testing.assert_allclose(precision[:2, 2:], -2 / 1e-2 * np.eye(2), rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("covariances", [COVARIANCES, (np.eye(2), 2 * np.eye(2))])
def test_derivatives_are_those_of_differences(covariances, x64):
    """Also where eigenvalues are equal; and that by a price is the divergence that it prices."""

    def objective(tangent, epsilon, left, right):
        return solved(
            jax.tree.map(jnp.asarray, MEANS), (covariances[0] + tangent, covariances[1]), epsilon, (left, right)
        )

    at = jnp.zeros((2, 2)), jnp.asarray(0.6), jnp.asarray(2.0), jnp.asarray(3.0)
    slopes = jax.grad(lambda *args: objective(*args)[1], (0, 1, 2, 3))(*at)
    for way, number in (
        (0, jnp.array([[0, 0.5], [0.5, 0]])),
        (0, jnp.diag(jnp.array([1.0, 0]))),
        *((i, 1.0) for i in (1, 2, 3)),
    ):
        ends = [objective(*at[:way], at[way] + h * number, *at[way + 1 :])[1] for h in (-1e-5, 1e-5)]
        np.testing.assert_allclose(jnp.sum(slopes[way] * number), (ends[1] - ends[0]) / 2e-5, rtol=1e-6, atol=1e-8)
    changes = objective(*at)[0].changes
    np.testing.assert_allclose(slopes[2:], changes, rtol=1e-8)


@pytest.mark.parametrize("prices", [(2.0, 3.0), (0.05, 4.0), (np.inf, 0.3)])
def test_the_way_between(prices, x64):
    """Mass, mean and variance in one dimension, by quadrature of the density that the module states."""
    line = jax.tree.map(jnp.asarray, ([m[:1] for m in MEANS], [c[:1, :1] for c in COVARIANCES], 0.6, prices))
    found = unbalanced_pair(*map(tuple, line[:2]), *line[2:])
    x = np.linspace(-8, 9, 700)
    (m0, m1), (v0, v1) = ([float(v.ravel()[0]) for v in pair] for pair in (found.means, found.covariances))
    slope, rest = float(found.slope[0, 0]), float(found.conditionals[1][0, 0])
    density = norm.pdf(x, m0, v0**0.5)[:, None] * norm.pdf(x[None], m1 + slope * (x - m0)[:, None], rest**0.5)
    changes = [
        norm.pdf(x, m, v**0.5) / norm.pdf(x, mean[0], covariance[0, 0] ** 0.5)
        for m, v, mean, covariance in zip((m0, m1), (v0, v1), MEANS, COVARIANCES, strict=True)
    ]
    for t in (0.0, 0.3, 1.0):
        weights = density * changes[0][:, None] ** (t - 1) * changes[1][None] ** -t
        place, mass = (1 - t) * x[:, None] + t * x[None], weights.sum()
        mean = (weights * place).sum() / mass
        expected = mass * (x[1] - x[0]) ** 2, mean, (weights * (place - mean) ** 2).sum() / mass
        ours = between(found, tuple(line[1]), *line[2:], jnp.asarray(t))
        for value, other in zip(ours, expected, strict=True):
            np.testing.assert_allclose(np.ravel(value)[0], other, rtol=1e-7)
