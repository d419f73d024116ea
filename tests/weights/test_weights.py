"""The weight coupling, against linear programs, plain Sinkhorn in high precision, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from omt_expfam import RESULTS
from omt_expfam._base.xla import jit_in_order
from omt_expfam._weights.entropic import entropic_coupling
from omt_expfam._weights.exact import exact_coupling
from omt_expfam._weights.laplacian import solve_laplacian
from tests.lines import log_mean

K = 12


def solve(cost, a, b, epsilon, tolerance=1e-10, start=None, max_steps=500):
    cost = jnp.asarray(cost)
    dtype = cost.dtype
    start = jnp.zeros(len(b), dtype) if start is None else jnp.asarray(start, dtype)
    scalars = jnp.asarray(epsilon, dtype), jnp.asarray(tolerance, dtype)
    return entropic_coupling(
        cost, jnp.asarray(a, dtype), jnp.asarray(b, dtype), *scalars, start, jnp.asarray(max_steps)
    )


def sinkhorn(cost, a, b, epsilon, steps=20_000):
    """The textbook iteration in log-domain NumPy; converges where the regularization is mild."""
    g = np.zeros(len(b))
    for _ in range(steps):
        f = -epsilon * log_mean((g[None] - cost) / epsilon, b, axis=1)
        g = -epsilon * log_mean((f[:, None] - cost) / epsilon, a, axis=0)
    return np.outer(a, b) * np.exp((f[:, None] + g[None] - cost) / epsilon)


def linear_program(cost, a, b):
    k0, k1 = cost.shape
    rows = np.kron(np.eye(k0), np.ones((1, k1)))
    columns = np.kron(np.ones((1, k0)), np.eye(k1))
    # One constraint is redundant; with it, rounding in the weights can make the program infeasible.
    return scipy.optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns[1:]]), b_eq=np.concatenate([a, b[1:]])
    ).fun


def hard_problem(seed, size=K):
    """Costs in the hundreds with ties, clusters or orders, and weights with tiny, zero or equal entries."""
    rng = np.random.default_rng(seed)

    def cloud(scale, dim=3):
        x, y = (scale * rng.standard_normal((size, dim)) for _ in range(2))
        return ((x[:, None] - y[None]) ** 2).sum(-1)

    x = 8 * rng.standard_normal((size, 3))
    label = rng.integers(0, 3, (2, size))
    cost = [
        lambda: cloud(8.0),
        lambda: ((x[:, None] - x[None]) ** 2).sum(-1),
        lambda: 100.0 * rng.integers(0, 4, (size, size)),
        lambda: 400.0 * (label[0][:, None] != label[1][None]) + rng.uniform(0, 1, (size, size)),
        lambda: cloud(100.0),
        lambda: -100 * np.outer(*np.sort(rng.standard_normal((2, size)))),
    ][seed % 6]()
    weights = [
        lambda: np.ones(size),
        lambda: rng.dirichlet(np.ones(size)),
        lambda: rng.dirichlet(np.full(size, 0.1)) + 1e-12,
        lambda: np.where(np.arange(size) % 3 == rng.integers(3), 0, rng.dirichlet(np.ones(size))),
    ]
    a, b = (weights[rng.integers(4)]() for _ in range(2))
    return cost, a / a.sum(), b / b.sum()


@pytest.mark.parametrize("seed", range(24))
def test_marginals_are_exact_at_tiny_regularization(seed, x64):
    cost, a, b = hard_problem(seed)
    out = solve(cost, a, b, 0.01)
    assert out.result == RESULTS.successful
    weights = np.asarray(out.weights)
    error = np.abs(weights.sum(0) - b).sum() + np.abs(weights.sum(1) - a).sum()
    assert error <= 1e-10
    assert float(out.marginal_error) == pytest.approx(error, abs=1e-15)
    # Optimality, independently of the path: the coupling has the Gibbs form for the returned potentials.
    reduced = cost - np.asarray(out.source_potential)[:, None] - np.asarray(out.target_potential)[None]
    heavy = (weights > 1e-6) & (a[:, None] > 0) & (b[None] > 0)
    gibbs = -0.01 * np.log(weights[heavy] / np.outer(a, b)[heavy])
    np.testing.assert_allclose(reduced[heavy], gibbs, atol=1e-9 * np.abs(cost).max())
    assert (weights * cost).sum() - linear_program(cost, a, b) < 0.01 * np.log(K) * 2 + 1e-9 * np.abs(cost).max()


@pytest.mark.parametrize("seed", range(4))
def test_is_sinkhorns_where_sinkhorn_converges(seed, x64):
    cost, a, b = hard_problem(seed)
    epsilon = 0.1 * cost.std()
    np.testing.assert_allclose(solve(cost, a, b, epsilon).weights, sinkhorn(cost, a, b, epsilon), atol=1e-10)


def test_the_hard_case_of_one_hundred_components(x64):
    """Costs in the hundreds at 0.01: plain Sinkhorn is far from convergence after ten thousand steps."""
    rng = np.random.default_rng(0)
    x, y = (4 * rng.standard_normal((100, 10)) for _ in range(2))
    cost = ((x[:, None] - y[None]) ** 2).sum(-1)
    a, b = (rng.dirichlet(np.ones(100)) for _ in range(2))
    out = solve(cost, a, b, 0.01)
    assert float(out.marginal_error) < 1e-10
    assert int(out.num_steps) < 150
    plain = sinkhorn(cost, a, b, 0.01, steps=300)
    assert np.abs(plain.sum(1) - a).sum() > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 9), (9, 3)])
def test_shapes(shape, dtype):
    rng = np.random.default_rng(1)
    cost = rng.uniform(0, 3, shape).astype(dtype)
    a, b = (rng.dirichlet(np.ones(k)).astype(dtype) for k in shape)
    out = solve(cost, a, b, 0.2, tolerance=1e-10 if dtype == "float64" else 5e-6)
    assert out.result == RESULTS.successful
    assert out.weights.dtype == dtype
    expected = sinkhorn(cost.astype(float), a.astype(float), b.astype(float), 0.2, 3000)
    np.testing.assert_allclose(out.weights, expected, atol=1e-10 if dtype == "float64" else 1e-5)
    swapped = solve(cost.T, b, a, 0.2, tolerance=1e-10 if dtype == "float64" else 5e-6)
    np.testing.assert_allclose(out.weights, swapped.weights.T, atol=1e-10 if dtype == "float64" else 1e-5)


def test_shares_are_right_at_zero_weight(x64):
    cost, _, b = hard_problem(0)
    cost = cost / 50
    a = np.r_[0.0, np.full(K - 1, 1 / (K - 1))]
    tiny = np.r_[1e-13, np.full(K - 1, (1 - 1e-13) / (K - 1))]
    exact, limit = solve(cost, a, b, 0.5), solve(cost, tiny, b, 0.5)
    np.testing.assert_allclose(exact.row_shares.sum(1), np.ones(K), rtol=1e-9)
    np.testing.assert_allclose(exact.row_shares[0], limit.row_shares[0], rtol=1e-6)
    assert (exact.weights[0] == 0).all()


def test_a_warm_start_saves_the_path(x64):
    cost, a, b = hard_problem(1)
    first = solve(cost, a, b, 0.01)
    again = solve(cost, a, b, 0.01, start=first.target_potential)
    assert int(again.num_steps) <= 3
    np.testing.assert_allclose(again.weights, first.weights, atol=1e-10)


def test_giving_up_is_reported(x64):
    cost, a, b = hard_problem(0)
    out = solve(cost, a, b, 0.01, max_steps=3)
    assert out.result == RESULTS.weights_not_converged
    assert float(out.marginal_error) > 1e-10
    bad = solve(np.where(np.eye(K) > 0, np.nan, cost), a, b, 0.01)
    assert bad.result == RESULTS.weights_not_finite


@pytest.mark.parametrize("epsilon", [0.02, 0.5])
def test_derivatives_are_finite_differences(epsilon, x64):
    rng = np.random.default_rng(3)
    cost, a, b = rng.uniform(0, 1, (4, 6)), rng.dirichlet(np.full(4, 5.0)), rng.dirichlet(np.full(6, 5.0))
    probe = [rng.standard_normal(s) for s in ((4, 6), (4, 6), (4,), (6,))]

    def value(cost, a, b, epsilon):
        out = solve(cost, a / a.sum(), b / b.sum(), epsilon, tolerance=1e-13)
        parts = (out.weights, out.row_shares, out.source_potential, out.target_potential)
        return sum(jnp.sum(p * v) for p, v in zip(probe, parts, strict=True))

    arguments = tuple(jnp.asarray(v) for v in (cost, a, b, epsilon))
    evaluate = jit_in_order(value)
    gradient = jit_in_order(jax.grad(value, (0, 1, 2, 3)))(*arguments)
    for position, argument in enumerate(arguments):
        direction = rng.standard_normal(argument.shape)
        step = 1e-5 * float(np.abs(argument).min())

        def moved(t, position=position, direction=direction):
            return evaluate(*(np.asarray(v) + t * direction if i == position else v for i, v in enumerate(arguments)))

        finite = (float(moved(step)) - float(moved(-step))) / (2 * step)
        expected = (np.asarray(gradient[position]) * direction).sum()
        assert finite == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_linear_program_is_scipys_and_pots(x64):
    ot = pytest.importorskip("ot")
    for seed in range(8):
        cost, a, b = hard_problem(seed)
        out, value = exact_coupling(jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b))
        assert out.result == RESULTS.successful
        scale = np.abs(cost).max()
        assert float(value) == pytest.approx(linear_program(cost, a, b), abs=1e-9 * scale)
        assert float(value) == pytest.approx(float(ot.emd2(a, b, cost)), abs=1e-9 * scale)
        dual = float(out.source_potential @ a + out.target_potential @ b)
        assert dual == pytest.approx(float(value), abs=1e-8 * scale)
        np.testing.assert_allclose(out.row_shares.sum(1), np.ones(K), rtol=1e-6)


def test_small_regularization_approaches_the_linear_program(x64):
    cost, a, b = hard_problem(0)
    value = exact_coupling(jnp.asarray(cost), jnp.asarray(a), jnp.asarray(b))[1]
    gaps = [float((solve(cost, a, b, e).weights * cost).sum() - value) for e in (10.0, 1.0, 0.1)]
    assert gaps[0] > gaps[1] > gaps[2] - 1e-9
    assert gaps[2] < 0.1


def test_linear_program_refuses_tracing():
    cost, a, b = (jnp.asarray(v, jnp.float32) for v in hard_problem(0))
    with pytest.raises(TypeError, match="cannot be traced by jit or vmap"):
        jax.jit(exact_coupling)(cost, a, b)


def test_laplacian_of_wildly_different_edges(x64):
    """Edges from 1 to 1e-120: the solution keeps relative accuracy that a Cholesky factorization loses."""
    from fractions import Fraction

    edges = np.zeros((4, 4))
    for i, j, w in ((0, 1, 1.0), (1, 2, 1e-60), (2, 3, 1.0), (0, 3, 1e-120)):
        edges[i, j] = edges[j, i] = w
    ground = np.array([1e-130, 0.0, 0.0, 0.0]) + 1e-200
    rhs = np.array([1.0, -1.0, 1e-70, -1e-70])
    result = np.asarray(solve_laplacian(jnp.asarray(edges), jnp.asarray(ground), jnp.asarray(rhs)))
    exact = [[Fraction(0)] * 4 for _ in range(4)]
    for i in range(4):
        for j in range(4):
            if i != j:
                exact[i][j] -= Fraction(edges[i, j])
                exact[i][i] += Fraction(edges[i, j])
        exact[i][i] += Fraction(float(ground[i]))
    right = [Fraction(float(v)) for v in rhs]
    for k in range(4):
        for i in range(k + 1, 4):
            factor = exact[i][k] / exact[k][k]
            exact[i] = [u - factor * v for u, v in zip(exact[i], exact[k], strict=True)]
            right[i] -= factor * right[k]
    solution = [Fraction(0)] * 4
    for k in reversed(range(4)):
        solution[k] = (right[k] - sum(exact[k][j] * solution[j] for j in range(k + 1, 4))) / exact[k][k]
    difference = result - result[0]
    expected = np.array([float(v - solution[0]) for v in solution])
    np.testing.assert_allclose(difference[1:], expected[1:], rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.299, 0.3, 0.301, 0.31])
def test_a_slow_last_stage_is_not_given_up(epsilon, x64):
    """A problem whose last hop needs many Newton steps: retreating from it and hopping again would cycle for ever."""
    cost = np.array(
        [
            [2.456731532120402, 44.590404942716, 32.50296423510573, 13.369812981412338],
            [3.7090942807280496, 12.965388129623735, 12.035609734526481, 4.787408156832411],
            [10.890673138630447, 71.57473235722186, 41.008273479893845, 19.42457664009785],
            [4.940354179496405, 24.25231207827364, 6.448563402087974, 0.7473336813697375],
        ]
    )
    a = np.array([0.36764656553670727, 0.15846869526100194, 0.06320801340179599, 0.4106767258004949])
    b = np.array([0.43084792379529224, 0.04962633946725858, 0.22038995447658405, 0.299135782260865])
    coupling = solve(cost, a, b, epsilon)
    assert coupling.result == RESULTS.successful
    assert coupling.num_steps < 60
    # Optimal: the right marginals, and log(Omega) + L / epsilon a sum of a function of i and one of j.
    weights = np.asarray(coupling.weights)
    np.testing.assert_allclose(weights.sum(1), a, atol=1e-10)
    np.testing.assert_allclose(weights.sum(0), b, atol=1e-10)
    total = np.log(weights) + cost / epsilon
    np.testing.assert_allclose(total - total[:1] - total[:, :1] + total[0, 0], 0, atol=1e-9)


# Without optimizations products and sums round twice, and one in 400 problems stops short of what float32 resolves.
@pytest.mark.optimized
@pytest.mark.parametrize("shape", [(4, 4), (3, 8)])
def test_weights_of_any_size_converge(shape, dtype):
    """Nearly all weight on one component makes any start look good; it must not be trusted for that."""
    rng = np.random.default_rng(5)
    k0, k1 = shape
    size = 400
    points = rng.normal(size=(size, k0, 1, 3)), rng.normal(size=(size, 1, k1, 3))
    cost = ((points[0] - points[1]) ** 2).sum(-1)
    concentration = 10 ** rng.uniform(-1, 1.5, size)
    a = np.stack([rng.dirichlet(np.full(k0, c)) for c in concentration])
    b = np.stack([rng.dirichlet(np.full(k1, c)) for c in concentration])
    epsilon = np.ptp(cost, axis=(1, 2)) * 10 ** rng.uniform(-5, 0, size)
    tolerance = 1e-9 if dtype == "float64" else 1e-5
    couplings = jax.jit(jax.vmap(lambda *args: solve(*args, tolerance=tolerance)))(
        *(jnp.asarray(value, dtype) for value in (cost, a, b, epsilon))
    )
    met = np.asarray(couplings.marginal_error) <= tolerance
    assert met.all(), np.nonzero(~met)
    assert np.max(couplings.num_steps) < 250
