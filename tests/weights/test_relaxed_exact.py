"""Masses that change without regularization, against linear programs, POT, SciPy's minimizer, and the limit."""

import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize

from omt_expfam._weights.relaxed_exact import exact_relaxed_coupling, Side, solve_exact_relaxed
from tests.weights.test_clipped import program
from tests.weights.test_relaxed import divergence, hard, problem, solved


def by_divergence(weights, rho):
    return Side(weights, rho, np.inf, False)


def at_a_price(weights, price):
    return Side(weights, np.inf, price, True)


def in_part(weights):
    return Side(weights, np.inf, 0.0, False)


@pytest.mark.parametrize("price", [0.5, 2.0, 8.0])
def test_prices_are_a_linear_program(price):
    cost, a, b = problem(2)
    found = solve_exact_relaxed(cost, (at_a_price(a, price), at_a_price(b, price)), None, 200)
    expected, _ = program(cost, a, b, price, price)
    np.testing.assert_allclose(found.weights, expected, atol=1e-9)
    assert found.gap < 1e-12
    # The potentials show it: feasible, and of the same value.
    assert (found.source[:, None] + found.target[None] <= cost + 1e-12).all()
    assert max(np.abs(found.source).max(), np.abs(found.target).max()) <= price + 1e-12
    lost = np.abs(expected.sum(1) - a).sum() + np.abs(expected.sum(0) - b).sum()
    np.testing.assert_allclose(found.source @ a + found.target @ b, np.sum(expected * cost) + price * lost, rtol=1e-9)


@pytest.mark.parametrize("share", [0.2, 0.7, 0.99])
def test_pot_moves_the_same_share(share):
    cost, a, b = problem(3)
    mass = share * a.sum()
    found = solve_exact_relaxed(cost, (in_part(a), in_part(b)), mass, 200)
    np.testing.assert_allclose(found.weights, ot.partial.partial_wasserstein(a, b, cost, m=mass), atol=1e-9)


@pytest.mark.parametrize(("rho0", "rho1"), [(1.0, 2.0), (0.1, 5.0), (np.inf, 1.0), (3.0, np.inf)])
def test_divergences(rho0, rho1, x64):
    """SciPy's minimizer finds no lower value, and the regularized solution tends to it."""
    cost, a, b = problem(4, (3, 4))
    sides = tuple(
        by_divergence(w, rho) if np.isfinite(rho) else Side(w, np.inf, np.inf, False)
        for w, rho in ((a, rho0), (b, rho1))
    )
    found = solve_exact_relaxed(cost, sides, None, 200)
    assert max(found.gap, found.error) < 1e-12

    def value(weights, slope=False):
        table = weights.reshape(cost.shape)
        sums = ((table.sum(1), a, rho0), (table.sum(0), b, rho1))
        return np.sum(table * cost) + sum(rho * divergence(p, q) for p, q, rho in sums if np.isfinite(rho))

    constraints = [
        {"type": "eq", "fun": lambda z, axis=axis, w=w: z.reshape(cost.shape).sum(axis) - w}
        for axis, w, rho in ((1, a, rho0), (0, b, rho1))
        if np.isinf(rho)
    ]
    start = (np.outer(a, b) / max(a.sum(), b.sum())).ravel()
    options = {"maxiter": 1000, "ftol": 1e-14}
    best = scipy.optimize.minimize(
        value, start, bounds=[(1e-12, None)] * 12, constraints=constraints, method="SLSQP", options=options
    )
    ours = value(found.weights.ravel())
    assert ours <= best.fun + 1e-7
    np.testing.assert_allclose(ours, best.fun, rtol=1e-4)
    near = solved(cost, a, b, 1e-3, rho0, rho1)
    np.testing.assert_allclose(near.rows, found.weights.sum(1), rtol=5e-3, atol=1e-6)
    np.testing.assert_allclose(near.columns, found.weights.sum(0), rtol=5e-3, atol=1e-6)


def test_hard_problems():
    """Prices of every size beside the costs, of both kinds, and shares."""
    rng = np.random.default_rng(0)
    for n, (cost, a, b, _, rigidity) in enumerate(hard(80, 12, seed=1)):
        prices = 1 / np.maximum(rigidity, 1e-6)
        sides = [(by_divergence, at_a_price)[(n >> k) & 1](w, prices[k]) for k, w in enumerate((a, b))]
        mass = None
        if n % 5 == 0:
            sides, mass = [in_part(a), in_part(b)], min(a.sum(), b.sum()) * rng.choice([0.01, 0.3, 0.9])
        found = solve_exact_relaxed(cost, (sides[0], sides[1]), mass, 200)
        assert max(found.gap, found.error) < 1e-9, n


def test_the_coupling_and_its_evidence(x64):
    cost, a, b = problem(2)
    a, b = np.append(a, 0.0), np.append(b, 0.0)
    cost = np.pad(cost, ((0, 1), (0, 1)), constant_values=3.0)
    found = exact_relaxed_coupling(jnp.asarray(cost), (at_a_price(a, 2.0), at_a_price(b, 2.0)), None, 200)
    table = np.asarray(found.mass * found.coupling.weights)
    expected, _ = program(cost[:-1, :-1], a[:-1], b[:-1], 2.0, 2.0)
    np.testing.assert_allclose(table[:-1, :-1], expected, atol=1e-9)
    # Pairs that are not used have no mass at all, and every component has shares.
    assert np.count_nonzero(table) <= len(a) + len(b) - 1
    np.testing.assert_allclose(found.coupling.row_shares.sum(1), 1)
    np.testing.assert_allclose(found.coupling.column_shares.sum(0), 1)
    np.testing.assert_allclose(np.exp(found.log_source_growth[:-1]), table.sum(1)[:-1] / a[:-1], atol=1e-12)
    stopped = exact_relaxed_coupling(jnp.asarray(cost), (at_a_price(a, 2.0), at_a_price(b, 2.0)), None, 2)
    assert float(stopped.coupling.marginal_error) > 1e-6
