"""Unbalanced couplings of weights, against plain Sinkhorn iterations, SciPy, POT and the balanced solver."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize

from omt_expfam import RESULTS
from omt_expfam._weights.relaxed import relaxed_coupling
from omt_expfam._weights.solve import solve_relaxed, solve_weights

SHAPE = 4, 5


def problem(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(shape[0], 2)), rng.normal(size=(shape[1], 2))
    cost = 4 * ((x[:, None] - y[None]) ** 2).sum(axis=2)
    return cost, rng.dirichlet(np.ones(shape[0])), 2 * rng.dirichlet(np.ones(shape[1]))


def solved(cost, a, b, epsilon, rho0, rho1, tolerance=1e-12):
    rigidity = jnp.asarray(1 / rho0), jnp.asarray(1 / rho1)
    start, steps = jnp.zeros(len(b)), 1000
    return solve_relaxed(*map(jnp.asarray, (cost, a, b, epsilon)), rigidity, tolerance, start, steps)


def divergence(p, q):
    return np.sum(p * np.log(p / q) - p + q)


def objective(weights, cost, a, b, epsilon, rho0, rho1):
    value = np.sum(weights * cost) + epsilon * divergence(weights, np.outer(a, b))
    value += 0 if np.isinf(rho0) else rho0 * divergence(weights.sum(1), a)
    return value + (0 if np.isinf(rho1) else rho1 * divergence(weights.sum(0), b))


def sinkhorn(cost, a, b, epsilon, rho0, rho1):
    """Alternating maximization of the dual, thousands of times."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(20_000):
        f = -epsilon / (1 + epsilon / rho0) * np.log(np.exp((g[None] - cost) / epsilon) @ b)
        g = -epsilon / (1 + epsilon / rho1) * np.log(np.exp((f[:, None] - cost) / epsilon).T @ a)
    return np.outer(a, b) * np.exp((f[:, None] + g[None] - cost) / epsilon)


@pytest.mark.parametrize(("rho0", "rho1"), [(1.0, 1.0), (0.2, 5.0), (np.inf, 0.7), (0.7, np.inf), (1e-2, 1e-2)])
def test_it_is_the_limit_of_sinkhorn(rho0, rho1, x64):
    cost, a, b = problem()
    found = solved(cost, a, b, 0.5, rho0, rho1)
    expected = sinkhorn(cost, a, b, 0.5, rho0, rho1)
    np.testing.assert_allclose(found.mass * found.coupling.weights, expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.rows, expected.sum(1), rtol=1e-9)
    np.testing.assert_allclose(found.columns, expected.sum(0), rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.log_source_growth), expected.sum(1) / a, rtol=1e-9)
    np.testing.assert_allclose(np.exp(found.log_target_growth), b / expected.sum(0), rtol=1e-9)
    shares = found.coupling.row_shares, found.coupling.column_shares
    np.testing.assert_allclose(shares[0], expected / expected.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(shares[1], expected / expected.sum(0), rtol=1e-9)


def test_nothing_is_lower(x64):
    """SciPy's minimizer of the primal, from several starts, finds no lower value; ours is unique."""
    cost, a, b = problem(1, (3, 3))
    settings = cost, a, b, 0.3, 0.8, 2.0
    found = solved(*settings)
    ours = objective(np.asarray(found.mass * found.coupling.weights), *settings)

    def value(z):
        weights = np.exp(z).reshape(3, 3)
        slope = cost + 0.3 * np.log(weights / np.outer(a, b))
        slope = slope + 0.8 * np.log(weights.sum(1) / a)[:, None] + 2.0 * np.log(weights.sum(0) / b)[None]
        return objective(weights, *settings), (weights * slope).ravel()

    for seed in range(3):
        start = np.random.default_rng(seed).normal(size=9) - 3
        best = scipy.optimize.minimize(value, start, jac=True, method="BFGS", options={"gtol": 1e-9})
        assert ours <= best.fun + 1e-12
        np.testing.assert_allclose(best.fun, ours, rtol=1e-6)


def test_pot_agrees(x64):
    cost, a, b = problem(2)
    expected = ot.unbalanced.sinkhorn_unbalanced(
        a, b, cost, reg=0.4, reg_m=(0.9, 3.0), reg_type="kl", numItermax=100_000, stopThr=1e-14
    )
    found = solved(cost, a, b, 0.4, 0.9, 3.0)
    np.testing.assert_allclose(found.mass * found.coupling.weights, expected, rtol=1e-6)


def test_the_balanced_problem_is_the_limit(x64):
    cost, a, b = problem(3)
    b = b / b.sum()
    balanced, _ = solve_weights(*map(jnp.asarray, (cost, a, b, 0.2)), 1e-12, jnp.zeros(len(b)), 1000)
    for rhos in ((1e11, 1e11), (np.inf, 1e11), (1e11, np.inf)):
        found = solved(cost, a, b, 0.2, *rhos)
        np.testing.assert_allclose(found.coupling.weights, balanced.weights, rtol=0, atol=1e-8)
        np.testing.assert_allclose(found.mass, 1, atol=1e-8)
    # The first order in one over rho is right too.
    gaps = [abs(float(solved(cost, a, b, 0.2, rho, rho).mass) - 1) for rho in (1e5, 1e6)]
    np.testing.assert_allclose(gaps[0] / gaps[1], 10, rtol=1e-3)


def test_masses_scale_both_sides(x64):
    """Total masses that differ by orders of magnitude, which potentials of the size of the relaxation make up for."""
    cost, a, b = problem(4)
    found = solved(cost, a, 1e3 * b, 0.3, 1e6, 1e6)
    assert float(found.coupling.marginal_error) < 1e-10
    # Prices of changing masses alone: the mass is the geometric mean.
    np.testing.assert_allclose(found.mass, np.sqrt(1e3 * b.sum()), rtol=1e-3)


def test_components_without_weight(x64):
    cost, a, b = problem(5)
    a, b = np.append(a, 0.0), np.append(b, 0.0)
    wide = solved(np.pad(cost, ((0, 1), (0, 1)), mode="edge"), a, b, 0.3, 1.0, 2.0)
    found = solved(cost, a[:-1], b[:-1], 0.3, 1.0, 2.0)
    np.testing.assert_allclose(wide.coupling.weights[:-1, :-1], found.coupling.weights, rtol=1e-9)
    assert np.all(np.asarray(wide.coupling.weights)[-1] == 0)
    np.testing.assert_allclose(np.sum(wide.coupling.row_shares, axis=1), 1, rtol=1e-12)


def hard(num, size, seed=0):
    """Ties, clusters, permutations and heavy tails, with tiny weights and every size of regularization and price."""
    rng = np.random.default_rng(seed)
    for n in range(num):
        x, y = 10 * rng.normal(size=(size, 2)), 10 * rng.normal(size=(size, 2))
        if n % 5 == 1:
            y = x[rng.permutation(size)]
        if n % 5 == 2:
            x, y = np.round(x / 8) * 8, np.round(y / 8) * 8
        if n % 5 == 3:
            y = np.resize(x[:3], x.shape) + 0.01 * rng.normal(size=x.shape)
        cost = ((x[:, None] - y[None]) ** 2).sum(axis=2)
        if n % 5 == 4:
            cost = 100 * rng.exponential(size=(size, size)) ** 4
        a = rng.dirichlet(np.full(size, rng.choice([0.05, 1, 10])))
        b = rng.dirichlet(np.full(size, rng.choice([0.05, 1, 10]))) * rng.choice([0.1, 1, 5])
        rigidity = 10 ** rng.uniform(-6, 3, 2) * [n % 7 != 0, n % 7 != 1]
        yield cost, a, b, 10 ** rng.uniform(-2, 1), rigidity


@pytest.mark.parametrize("num", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_hard_problems(num, x64):
    cost, a, b, epsilon, rigidity = (jnp.asarray(np.stack(v)) for v in zip(*hard(num, 12, seed=num), strict=True))

    def one(cost, a, b, epsilon, rigidity):
        tolerance, steps = jnp.asarray(1e-10), jnp.asarray(1000)
        found = relaxed_coupling(cost, a, b, epsilon, tuple(rigidity), tolerance, jnp.zeros(12), steps)
        return found.coupling, found.mass

    # One after the other: together, all take as many steps as the hardest.
    coupling, mass = jax.jit(lambda *args: jax.lax.map(lambda item: one(*item), args))(cost, a, b, epsilon, rigidity)
    assert np.asarray(coupling.marginal_error).max() < 1e-9
    assert np.asarray(coupling.num_steps).max() <= 150
    # The reported error is not below the one that is measured, in units of the mass.
    total = np.log(mass)[:, None]
    with np.errstate(divide="ignore"):
        wanted = np.exp(np.log(a) - rigidity[:, :1] * coupling.source_potential - total)
        asked = np.exp(np.log(b) - rigidity[:, 1:] * coupling.target_potential - total)
    weights = np.asarray(coupling.weights)
    measured = np.abs(weights.sum(2) - wanted).sum(1) + np.abs(weights.sum(1) - asked).sum(1)
    assert (measured <= np.asarray(coupling.marginal_error) + 1e-9)[np.isfinite(total[:, 0])].all()


def test_derivatives_agree_with_finite_differences(x64):
    cost, a, b = problem(6)
    direction = np.random.default_rng(0)
    tilt = direction.normal(size=SHAPE)

    def value(cost, a, b, epsilon, rigidity):
        start = jnp.zeros(len(b))
        found = relaxed_coupling(cost, a, b, epsilon, rigidity, jnp.asarray(1e-13), start, jnp.asarray(1000))
        read = jnp.sum(found.mass * found.coupling.weights * tilt) + found.log_source_growth @ a
        return read + found.coupling.target_potential @ b

    point = cost, a, b, np.asarray(0.4), (np.asarray(0.7), np.asarray(0.3))
    point = jax.tree.map(jnp.asarray, point)
    step = jax.tree.map(lambda leaf: jnp.asarray(0.1 * direction.normal(size=leaf.shape)) * leaf, point)
    both = jax.jit(lambda p, s: (jax.jvp(value, p, s)[1], jax.grad(value, argnums=(0, 1, 2, 3, 4))(*p)))
    forward, gradient = both(point, step)
    h = 1e-5
    moved = [jax.jit(value)(*jax.tree.map(lambda p, s, t=t: p + t * s, point, step)) for t in (-h, h)]
    np.testing.assert_allclose(forward, (moved[1] - moved[0]) / (2 * h), rtol=1e-6)
    products = jax.tree.map(lambda g, s: jnp.sum(g * s), gradient, step)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), forward, rtol=1e-8)


def test_a_solve_that_stops_early_says_so(x64):
    cost, a, b = problem(7)
    arrays = map(jnp.asarray, (cost, a, b, 0.01))
    found = solve_relaxed(*arrays, (jnp.asarray(1e-3), jnp.asarray(1e-3)), 1e-12, jnp.zeros(len(b)), 1)
    assert float(found.coupling.marginal_error) > 1e-3
    assert "max_steps" in RESULTS[found.coupling.result]
