"""Prices per unit of mass and shares of it, against clipped Sinkhorn iterations, POT, linear programs, differences."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.optimize

from omt_expfam._weights.clipped import clipped_coupling
from omt_expfam._weights.solve import solve_relaxed, solve_weights
from tests.weights.test_relaxed import hard, problem, SHAPE


def solved(cost, a, b, epsilon, rho0=np.inf, rho1=np.inf, mass=None, divergences=(np.inf, np.inf)):
    """Prices of total variation, of divergences, or a mass."""
    rigidity = tuple(jnp.asarray(1 / rho) for rho in divergences)
    bounds = jnp.asarray(rho0), jnp.asarray(rho1)
    if mass is not None:
        whole = [np.isclose(mass, side.sum(), rtol=1e-12) for side in (a, b)]
        bounds = jnp.asarray(np.inf if whole[0] else -np.inf), jnp.asarray(np.inf if whole[1] else 0.0)
        mass = jnp.asarray(mass)
    arrays = map(jnp.asarray, (cost, a, b, epsilon))
    return solve_relaxed(*arrays, rigidity, 1e-12, jnp.zeros(len(b)), 1000, (bounds, mass))


def total(found):
    return np.asarray(found.mass * found.coupling.weights)


def sinkhorn(cost, a, b, epsilon, rho0, rho1, divergences=(np.inf, np.inf)):
    """Alternating maximization of the dual within its bounds, thousands of times."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(20_000):
        f = np.clip(
            -epsilon / (1 + epsilon / divergences[0]) * np.log(np.exp((g[None] - cost) / epsilon) @ b), -rho0, rho0
        )
        g = -epsilon / (1 + epsilon / divergences[1]) * np.log(np.exp((f[:, None] - cost) / epsilon).T @ a)
        g = np.clip(g, -rho1, rho1)
    return np.outer(a, b) * np.exp((f[:, None] + g[None] - cost) / epsilon)


PRICES = [((1.0, 1.0), (np.inf, np.inf)), ((np.inf, 3.0), (np.inf, np.inf)), ((2.0, np.inf), (np.inf, 0.7))]


@pytest.mark.parametrize(("prices", "divergences"), PRICES)
def test_it_is_the_limit_of_clipped_sinkhorn(prices, divergences, x64):
    cost, a, b = problem()
    found = solved(cost, a, b, 0.5, *prices, divergences=divergences)
    expected = sinkhorn(cost, a, b, 0.5, *prices, divergences)
    np.testing.assert_allclose(total(found), expected, rtol=1e-8, atol=1e-13)
    np.testing.assert_allclose(np.exp(found.log_source_growth), expected.sum(1) / a, rtol=1e-8)
    np.testing.assert_allclose(np.exp(found.log_target_growth), b / expected.sum(0), rtol=1e-8)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_pot_moves_the_same_share(share, x64):
    cost, a, b = problem(1)
    mass = share * a.sum()
    # POT's divergence is from the counting measure.
    theirs = ot.partial.entropic_partial_wasserstein(
        a, b, cost - 0.4 * np.log(np.outer(a, b)), reg=0.4, m=mass, numItermax=20_000, stopThr=1e-14
    )
    found = solved(cost, a, b, 0.4, mass=mass)
    np.testing.assert_allclose(total(found), theirs, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.mass, mass, rtol=1e-11)


def program(cost, a, b, rho0, rho1, mass=None):
    """The same without regularization, by HiGHS: a coupling, what either side lacks, and what it has beside."""
    k0, k1 = cost.shape
    rows, columns = np.kron(np.eye(k0), np.ones((1, k1))), np.kron(np.ones((1, k0)), np.eye(k1))
    one, other = np.eye(k0), np.eye(k1)
    left = np.hstack([rows, one, -one, np.zeros((k0, 2 * k1))])
    right = np.hstack([columns, np.zeros((k1, 2 * k0)), other, -other])
    prices = np.concatenate([cost.ravel(), np.full(2 * k0, rho0), np.full(2 * k1, rho1)])
    matrix, limits = np.vstack([left, right]), np.concatenate([a, b])
    bounds = [(0, None)] * len(prices)
    if mass is not None:
        matrix = np.vstack([matrix, np.concatenate([np.ones(k0 * k1), np.zeros(2 * (k0 + k1))])])
        limits = np.append(limits, mass)
        bounds = [
            (0, 0) if k0 * k1 + k0 <= n < k0 * k1 + 2 * k0 or n >= len(prices) - k1 else (0, None)
            for n in range(len(prices))
        ]
    answer = scipy.optimize.linprog(prices, A_eq=matrix, b_eq=limits, bounds=bounds)
    return answer.x[: k0 * k1].reshape(cost.shape), answer.fun


@pytest.mark.parametrize(("price", "share"), [(2.0, None), (8.0, None), (0.0, 0.4)])
def test_the_limit_is_a_linear_program(price, share, x64):
    cost, a, b = problem(2)
    mass = None if share is None else share * a.sum()
    expected, value = program(cost, a, b, price, price, mass)
    found = total(solved(cost, a, b, 1e-3, *((price, price) if mass is None else ()), mass=mass))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    ours = np.sum(found * cost) + price * (np.abs(found.sum(1) - a).sum() + np.abs(found.sum(0) - b).sum())
    np.testing.assert_allclose(ours, value, rtol=1e-9)


def test_the_balanced_problem_is_the_limit(x64):
    cost, a, b = problem(3)
    b = b / b.sum()
    balanced, _ = solve_weights(*map(jnp.asarray, (cost, a, b, 0.2)), 1e-12, jnp.zeros(len(b)), 1000)
    for options in ({"rho0": 1e3, "rho1": 1e3}, {"rho0": 1e6}, {"mass": a.sum()}):
        found = solved(cost, a, b, 0.2, **options)
        np.testing.assert_allclose(total(found), balanced.weights, rtol=0, atol=1e-10)
    almost = solved(cost, a, b, 0.2, mass=(1 - 1e-7) * a.sum())
    np.testing.assert_allclose(total(almost), balanced.weights, rtol=0, atol=2e-6)


def test_masses_that_differ_by_orders_of_magnitude(x64):
    cost, a, b = problem(4)
    found = solved(cost, a, 1e3 * b, 0.3, 50.0, 40.0)
    assert float(found.coupling.marginal_error) < 1e-10
    np.testing.assert_allclose(found.mass, a.sum(), rtol=1e-9)
    np.testing.assert_allclose(solved(cost, a, 1e3 * b, 0.3, 40.0, 150.0).mass, 1e3 * b.sum(), rtol=1e-9)


def hard_prices(num, seed=0):
    """Prices of every size of one side or both, with a divergence on the other, or a share down to a hundredth."""
    rng = np.random.default_rng(seed)
    for n, (cost, a, b, epsilon, rigidity) in enumerate(hard(num, 12, seed)):
        prices = 10 ** rng.uniform(-3, 4, 2)
        if n % 3 == 0:
            prices[n % 2] = np.inf
        rigid = np.where(np.isinf(prices), rigidity if n % 2 else 0 * rigidity, 0.0)
        yield cost, a, b, epsilon, rigid, prices


def hard_shares(num, seed=0):
    rng = np.random.default_rng(seed)
    for cost, a, b, epsilon, _ in hard(num, 12, seed):
        mass = min(a.sum(), b.sum()) * rng.choice([0.01, 0.3, 0.9, 1.0])
        whole = [mass >= (1 - 1e-12) * side.sum() for side in (a, b)]
        yield cost, a, b, epsilon, np.zeros(2), np.where(whole, np.inf, [-np.inf, 0.0]), mass


@pytest.mark.parametrize(
    ("problems", "num"), [(hard_prices, 60), (hard_shares, 60), pytest.param(hard_prices, 300, marks=pytest.mark.slow)]
)
def test_hard_problems(problems, num, x64):
    cases = list(problems(num, num))
    if problems is hard_shares:
        # One whose columns push one of theirs against its bound, which it would leave alone.
        cases.append(list(hard_shares(207, 300))[206])
    arrays = [jnp.asarray(np.stack(v)) for v in zip(*cases, strict=True)]

    def one(cost, a, b, epsilon, rigidity, bounds, mass=None):
        limits = jnp.asarray(1e-10), jnp.zeros(12), jnp.asarray(1000)
        return clipped_coupling(cost, a, b, epsilon, tuple(rigidity), tuple(bounds), mass, *limits)

    # One after the other: together, all take as many steps as the hardest.
    found = jax.jit(lambda *args: jax.lax.map(lambda item: one(*item), args))(*arrays)
    coupling = found.coupling
    assert np.asarray(coupling.marginal_error).max() < 1e-9
    assert np.asarray(coupling.num_steps).max() <= 150
    # The optimality conditions, from the coupling and its potentials alone, in units of the mass.
    a, b, _, rigidity, bounds = map(np.asarray, arrays[1:6])
    lam, tau = np.asarray(coupling.source_potential), np.asarray(coupling.target_potential)
    weights, scale = np.asarray(coupling.weights), np.asarray(found.mass)[:, None]
    highs = [np.broadcast_to(bounds[:, :1], a.shape), np.broadcast_to(bounds[:, 1:], b.shape)]
    lows = [-high for high in highs]
    if problems is hard_shares:
        np.testing.assert_allclose(found.mass, arrays[6], rtol=1e-9)
        top = lam.max(1, keepdims=True, where=a > 0, initial=-np.inf)
        highs[0] = np.broadcast_to(np.where(bounds[:, :1] > 0, np.inf, top), a.shape)
        lows = [np.full_like(a, -np.inf)] * 2
    sides = (2, a, lam), (1, b, tau)
    for n, ((axis, given, u), low, high) in enumerate(zip(sides, lows, highs, strict=True)):
        used = given > 0
        assert (u <= high)[used].all()
        assert (u >= low)[used].all()
        with np.errstate(all="ignore"):
            surplus = np.where(used, weights.sum(axis) - given * np.exp(-rigidity[:, n : n + 1] * u) / scale, 0.0)
        # What is missing or too much, as far as the bounds let a potential change it.
        there, scaled = weights.sum(axis), np.asarray(arrays[3])[:, None]
        with np.errstate(all="ignore"):
            reach = [np.nan_to_num(there * -np.expm1((end - u) / scaled), nan=0.0) for end in (high, low)]
        off = np.clip(surplus, reach[0], reach[1])
        # Masses beyond the range of numbers have no sums to compare.
        settled = scale[:, 0] > 1e-250
        assert settled.mean() > 0.5
        assert np.abs(off).sum(1)[settled].max() < 2e-9


@pytest.mark.parametrize("mass", [None, 0.5])
def test_derivatives_agree_with_finite_differences(mass, x64):
    cost, a, b = problem(6)
    direction = np.random.default_rng(0)
    tilt = direction.normal(size=SHAPE)

    def value(cost, a, b, epsilon, prices, mass):
        limits = jnp.asarray(1e-13), jnp.zeros(len(b)), jnp.asarray(1000)
        zeros = jnp.zeros(()), jnp.zeros(())
        bounds = prices if mass is None else (jnp.asarray(-jnp.inf), jnp.asarray(0.0))
        found = clipped_coupling(cost, a, b, epsilon, zeros, bounds, mass, *limits)
        return jnp.sum(found.mass * found.coupling.weights * tilt) + found.log_source_growth @ a

    prices = np.asarray(1.2), np.asarray(2.3)
    point = jax.tree.map(jnp.asarray, (cost, a, b, np.asarray(0.4), prices, None if mass is None else np.asarray(mass)))
    step = jax.tree.map(lambda leaf: jnp.asarray(0.1 * direction.normal(size=leaf.shape)) * leaf, point)
    arguments = (0, 1, 2, 3, 4 if mass is None else 5)
    both = jax.jit(lambda p, s: (jax.jvp(value, p, s)[1], jax.grad(value, argnums=arguments)(*p)))
    if mass is not None:
        step = (*step[:4], jax.tree.map(jnp.zeros_like, step[4]), step[5])
    forward, gradient = both(point, step)
    h = 1e-5
    moved = [jax.jit(value)(*jax.tree.map(lambda p, s, t=t: p + t * s, point, step)) for t in (-h, h)]
    np.testing.assert_allclose(forward, (moved[1] - moved[0]) / (2 * h), rtol=1e-6)
    products = jax.tree.map(lambda g, s: jnp.sum(g * s), gradient, tuple(step[n] for n in arguments))
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), forward, rtol=1e-8)
