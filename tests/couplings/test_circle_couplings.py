"""Couplings of angles, against shifted quantiles, linear programs and dense solves in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.sparse
import scipy.stats as st
from numpyro.distributions import constraints
from scipy.optimize import linprog, minimize_scalar
from scipy.special import i0e, i1e, rel_entr

import omt_expfam as omt
from omt_expfam._base.precision import relaxed
from omt_expfam._couplings.circle import solve
from omt_expfam._couplings.circle.couplings import solve_circle_couplings
from omt_expfam._couplings.interface import independent_costs, select_pairs
from omt_expfam.families import Gaussian, VonMises

# Two components in two dimensions on either side: wide, narrow, and across the cut.
LOC = np.array([[0.0, 2.0], [1.0, -3.0]])
CONCENTRATION = np.array([[2.0, 6.0], [20.0, 1.0]])
OTHER_LOC = np.array([[1.1, -2.0], [3.0, 0.5]])
OTHER_CONCENTRATION = np.array([[2.0, 6.0], [5.0, 10.0]])


def _sides():
    return VonMises(LOC, CONCENTRATION), VonMises(OTHER_LOC, OTHER_CONCENTRATION)


def _arc(x, y):
    gap = x - y
    return gap - 2 * np.pi * np.round(gap / (2 * np.pi))


def _grid(loc, concentration, num):
    """Angles and their probabilities."""
    x = -np.pi + 2 * np.pi * np.arange(num) / num
    mass = np.exp(concentration * (np.cos(x - loc) - 1))
    return x, mass / mass.sum()


def _shifted_quantiles(one, other, num=100_000):
    """The least mean squared displacement over shifts of quantiles that go round, by brute force."""
    ends = -np.pi + 2 * np.pi * np.arange(num + 1) / num
    level = [np.concatenate([[0], np.cumsum(_grid(m, k, num)[1])]) for m, k in (one, other)]
    level = [0.5 * (v[1:] + v[:-1]) for v in level]
    u = (np.arange(num) + 0.5) / num

    def quantile(levels, at):
        turns = np.floor(at)
        return 2 * np.pi * turns + np.interp(at - turns, levels, ends[:-1])

    first = quantile(level[0], u)
    return minimize_scalar(
        lambda shift: np.mean((first - quantile(level[1], u + shift)) ** 2), bounds=(-1, 1), options={"xatol": 1e-10}
    ).fun


def _linear_program(one, other, num):
    (x, a), (y, b) = _grid(*one, num), _grid(*other, num)
    cost = _arc(x[:, None], y[None]) ** 2
    ones, eye = np.ones((1, num)), scipy.sparse.eye(num)
    equal = scipy.sparse.vstack([scipy.sparse.kron(eye, ones), scipy.sparse.kron(ones, eye)]).tocsr()
    return linprog(cost.ravel(), A_eq=equal[:-1], b_eq=np.concatenate([a, b])[:-1]).fun


def test_without_regularization_quantiles_are_shifted(x64):
    source, target = _sides()
    couplings = solve_circle_couplings(source, target, jnp.asarray(0.0))
    for i, j in ((0, 0), (1, 0)):
        pairs = [((LOC[i, c], CONCENTRATION[i, c]), (OTHER_LOC[j, c], OTHER_CONCENTRATION[j, c])) for c in (0, 1)]
        expected = sum(_shifted_quantiles(*pair) for pair in pairs)
        # The oracle's tails are good to a millionth.
        assert abs(float(couplings.costs[i, j]) - expected) < 1e-6 * expected
    assert float(couplings.errors.max()) < 1e-6
    one, other = ((LOC[0, 0], CONCENTRATION[0, 0]), (OTHER_LOC[0, 0], OTHER_CONCENTRATION[0, 0]))
    # The rotation by 1.1 is not the best coupling of a wide law with itself turned; of a narrow one it is.
    assert abs(_linear_program(one, other, 60) - _shifted_quantiles(one, other)) < 3e-3
    narrow = solve_circle_couplings(VonMises([[2.5]], [[400.0]]), VonMises([[3.6]], [[400.0]]), jnp.asarray(0.0))
    np.testing.assert_allclose(narrow.costs, 1.21, rtol=1e-6)
    x = jnp.asarray([[2.4], [2.5 - 4 * np.pi], [2.7]])
    index = jnp.zeros(3, int)
    images = narrow.conditional_mean(x, index, index)
    np.testing.assert_allclose(_arc(np.asarray(images), np.array([[3.5], [3.6], [3.8]])), 0, atol=1e-6)
    np.testing.assert_array_equal(narrow.sample_conditional(jax.random.key(0), x, index, index), images)
    back = narrow.transpose().conditional_mean(images, index, index)
    np.testing.assert_allclose(_arc(np.asarray(back), np.asarray(x)), 0, atol=1e-6)


def _sinkhorn(x, a, y, b, epsilon, num_steps=4000):
    """The plan of the discrete problem, by scaling."""
    kernel = np.exp(-(_arc(x[:, None], y[None]) ** 2) / epsilon)
    v = np.ones(len(y))
    for _ in range(num_steps):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return u[:, None] * kernel * v[None]


@pytest.mark.parametrize("epsilon", [0.5, 0.1])
def test_regularized_plans_agree_with_a_dense_solve(epsilon, x64):
    """Costs, divergences, directions and dispersions, on a grid of the oracle's own; errors cover what differs."""
    source, target = _sides()
    couplings = solve_circle_couplings(source, target, jnp.asarray(epsilon))
    assert bool(couplings.result == omt.RESULTS.successful)
    i, j, num = 1, 0, 480
    value, places = 0.0, np.array([40, 200, 300])
    index = jnp.full(3, i), jnp.full(3, j)
    for c in range(2):
        x, a = _grid(LOC[i, c], CONCENTRATION[i, c], num)
        y, b = _grid(OTHER_LOC[j, c], OTHER_CONCENTRATION[j, c], num)
        plan = _sinkhorn(x, a, y, b, epsilon)
        used = plan > 0
        value += (plan * _arc(x[:, None], y[None]) ** 2).sum()
        value += epsilon * (plan[used] * np.log(plan[used] / (a[:, None] * b[None])[used])).sum()
        rows = plan[places] / plan[places].sum(axis=1, keepdims=True)
        mean = np.angle(rows @ np.exp(1j * y))
        points = jnp.zeros((3, 2)).at[:, c].set(x[places])
        ours = np.asarray(couplings.conditional_mean(points, *index))
        np.testing.assert_allclose(_arc(ours[:, c], mean), 0, atol=5e-5)
        pairs = select_pairs(jnp.asarray([[0.0, 0.0], [1.0, 0.0]]), 0.0)
        spread = couplings.conditional_covariance(points, jnp.asarray(ours), jnp.ones((3, 2)), pairs)
        expected = (rows * _arc(y[None], mean[:, None]) ** 2).sum(axis=1)
        np.testing.assert_allclose(spread[:, c, c], expected, rtol=2e-3)
    error = float(couplings.errors[i, j])
    assert abs(float(couplings.objectives()[i, j]) - value) < error + 1e-6
    assert error < 1e-4 * value
    if epsilon == 0.5:
        _check_densities(couplings, i, j)


def test_the_slower_path_ends_at_the_same_plan(monkeypatch, x64):
    """Where Newton's method is not trusted at all."""
    monkeypatch.setattr(solve, "_GOOD", -1.0)
    (x, a), (y, b) = _grid(0.3, 2.0, 24), _grid(-2.0, 5.0, 24)
    distances = _arc(x[:, None], y[None]) ** 2
    nodes = solve.CircleNodes(x, np.log(a), y, np.log(b))
    found = jax.jit(solve._semi_dual, static_argnums=4)(nodes, distances, 0.3, np.zeros(24), True)
    g = np.asarray(found[0])
    kernel = b * np.exp((g - distances) / 0.3)
    plan = a[:, None] * kernel / kernel.sum(1, keepdims=True)
    np.testing.assert_allclose(plan, _sinkhorn(x, a, y, b, 0.3), atol=1e-9)


def _check_densities(couplings, i, j):
    """Conditional densities integrate to one, and their marginal is the target's."""
    num = 64
    x, y = (v.ravel() for v in np.meshgrid(*2 * [_grid(0, 1, num)[0]], indexing="ij"))
    pairs = select_pairs(jnp.zeros((2, 2)).at[i, j].set(1.0), 0.0)
    weight = jnp.asarray(np.tile(np.where(np.arange(2) == i, 0.0, -np.inf), (num**2, 1)))
    fixed = jnp.full(num**2, 0.4)
    points, images = (jnp.stack([jnp.asarray(v), fixed], axis=1) for v in (x, y))
    log_law = np.asarray(couplings.log_conditional(points, images, weight, pairs)).reshape(num, num)
    # Up to the density of the second coordinate, which is the same everywhere.
    law = np.exp(log_law) / np.exp(log_law).sum(axis=1).mean()
    np.testing.assert_allclose(law.sum(axis=1), 1, atol=1e-3)
    a, b = (_grid(m[0], k[0], num)[1] for m, k in ((LOC[i], CONCENTRATION[i]), (OTHER_LOC[j], OTHER_CONCENTRATION[j])))
    np.testing.assert_allclose(a @ law, b, atol=2e-5)


def test_reported_errors_cover_what_finer_nodes_change(x64):
    """A wide law on a narrow one, little regularization: the hardest that the nodes resolve."""
    source, target = VonMises([[0.3], [2.0]], [[1e-6], [1.0]]), VonMises([[-1.0]], [[50.0]])
    couplings = solve_circle_couplings(source, target, jnp.asarray(0.02))
    for i, (m, k) in enumerate([(0.3, 1e-6), (2.0, 1.0)]):
        x, a = _grid(m, k, 720)
        y, b = _grid(-1.0, 50.0, 720)
        near = b > 1e-14
        plan = _sinkhorn(x, a, y[near], b[near], 0.02, 500)
        used = plan > 0
        value = (plan * _arc(x[:, None], y[None, near]) ** 2).sum()
        value += 0.02 * (plan[used] * np.log(plan[used] / (a[:, None] * b[None, near])[used])).sum()
        # The oracle is good to a few millionths.
        assert abs(float(couplings.objectives()[i, 0]) - value) < float(couplings.errors[i, 0]) + 5e-6
        assert float(couplings.errors[i, 0]) < 2e-3 * value


def test_draws_follow_the_conditional_law():
    source, target = (
        VonMises(*(v.astype(np.float32) for v in side))
        for side in ((LOC, CONCENTRATION), (OTHER_LOC, OTHER_CONCENTRATION))
    )
    couplings = solve_circle_couplings(source, target, jnp.asarray(0.5, jnp.float32))
    num = 4000
    x = jnp.asarray(np.tile(np.float32([[3.0, 1.0]]), (num, 1)))
    index = jnp.zeros(num, int), jnp.ones(num, int)
    y = np.asarray(couplings.sample_conditional(jax.random.key(0), x, *index), float)
    assert np.abs(y).max() <= np.pi + 1e-6
    mean = np.asarray(couplings.conditional_mean(x, *index), float)
    gaps = _arc(y, mean)
    assert (np.abs(np.sin(gaps).mean(0)) < 4 * np.sin(gaps).std(0) / np.sqrt(num)).all()
    pairs = select_pairs(jnp.asarray([[0.0, 1.0], [0.0, 0.0]], jnp.float32), 0.0)
    weight = jnp.ones((num, 2), jnp.float32)
    spread = np.asarray(couplings.conditional_covariance(x, jnp.asarray(mean, jnp.float32), weight, pairs))[0]
    np.testing.assert_allclose((gaps**2).mean(0), np.diag(spread), rtol=0.15)
    with jax.enable_x64(True):
        double = solve_circle_couplings(*_sides(), jnp.asarray(0.5))
    gap = np.abs(np.asarray(couplings.objectives(), float) - np.asarray(double.objectives()))
    assert (gap <= np.asarray(couplings.objective_errors)).all()


@pytest.mark.parametrize("epsilon", [0.3, 0.0])
def test_tracing_gives_the_same_numbers_and_derivatives(epsilon, x64):
    """Derivatives of objectives against finite differences of the concrete solve."""
    target = VonMises(OTHER_LOC[:1, :1], OTHER_CONCENTRATION[:1, :1])
    strength = jnp.asarray(epsilon)

    def objective(concentration, loc):
        return solve_circle_couplings(VonMises(loc, concentration), target, strength).objectives()[0, 0]

    at = jnp.asarray([[3.0]]), jnp.asarray([[0.4]])
    value, slope = jax.jit(jax.value_and_grad(objective, (0, 1)))(*at)
    np.testing.assert_allclose(value, objective(*at), rtol=1e-6)
    for k in range(2):
        up, down = (tuple(v + s * 1e-3 * (n == k) for n, v in enumerate(at)) for s in (1, -1))
        difference = (objective(*up) - objective(*down)) / 2e-3
        np.testing.assert_allclose(slope[k][0, 0], difference, rtol=1e-4)


class OwnVonMises(omt.extend.AbstractFactorizedFamily):
    """A family of angles in a few lines: its normalizer, moments and draws are integrated on the circle."""

    support, start = constraints.circular, (1.0, 0.0)

    def _statistics(self, x):
        return jnp.cos(x), jnp.sin(x)


class OnSphere(Gaussian):
    """Says that its points lie on a sphere."""

    support = constraints.sphere


def test_own_families_and_numpyros_go_the_same_way(x64):
    known = VonMises(LOC, CONCENTRATION)
    own = OwnVonMises(CONCENTRATION[..., None] * np.stack([np.cos(LOC), np.sin(LOC)], axis=-1))
    x = np.array([[0.0, 3.0], [-8.0, 2.0]])
    np.testing.assert_allclose(own.log_prob(x), known.log_prob(x), rtol=1e-11)
    np.testing.assert_allclose(_arc(np.asarray(own.mean()), LOC), 0, atol=1e-12)
    np.testing.assert_allclose(own.covariance(), known.covariance(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own.entropy(), [st.vonmises(k).entropy().sum() for k in CONCENTRATION], rtol=1e-9)
    draws = np.asarray(own.sample(jax.random.key(0), 2000))
    resultant = np.abs(np.exp(1j * draws).mean(0))
    np.testing.assert_allclose(resultant, i1e(CONCENTRATION) / i0e(CONCENTRATION), atol=5 / np.sqrt(2000))
    with relaxed():
        law = omt.NumPyroComponents(dist.VonMises(jnp.asarray(LOC), jnp.asarray(CONCENTRATION)).to_event(1))
    target = _sides()[1]
    costs = [solve_circle_couplings(side, target, jnp.asarray(0.0)).costs for side in (known, own, law)]
    np.testing.assert_allclose(costs[1], costs[0], rtol=1e-9)
    np.testing.assert_allclose(costs[2], costs[0], rtol=1e-9)
    # Independent costs, against draws in all pairs.
    left, right = (np.asarray(side.sample(jax.random.key(k), 1000)) for k, side in enumerate((known, target)))
    drawn = (_arc(left[:, None, :, None], right[None, :, None]) ** 2).sum(-1).mean((0, 1))
    np.testing.assert_allclose(independent_costs(known, target), drawn, rtol=0.05)


def test_what_is_no_circle_is_refused():
    angles = omt.Mixture([0.5, 0.5], _sides()[0])
    lines = omt.Mixture([1.0], Gaussian(np.zeros((1, 2)), np.eye(2)[None]))
    with pytest.raises(
        TypeError,
        match="`source` and `target` must both have angles in the same columns, or neither; got VonMises",
    ):
        omt.transport(angles, lines)
    sphere = omt.Mixture([1.0], OnSphere(np.zeros((1, 2)), np.eye(2)[None]))
    with pytest.raises(TypeError, match=r"on the line, an interval, whole numbers or a circle.*got Sphere"):
        omt.transport(sphere, sphere)
    with relaxed():
        dependent = omt.NumPyroComponents(
            dist.SineBivariateVonMises(
                *(jnp.asarray([v]) for v in (0.0, 1.0, 3.0, 4.0)), correlation=jnp.asarray([0.5])
            )
        )
    with pytest.raises(TypeError, match="angles that are not known to be independent"):
        omt.transport(omt.Mixture([1.0], dependent), angles)
    with pytest.raises(TypeError, match="`law` must not be one of angles.*got VonMises. Use `omt.families.VonMises`"):
        omt.family(dist.VonMises)
    with pytest.raises(ValueError, match="all have angles, or none"):
        omt.Blocks([angles.components, lines.components])
    with pytest.raises(ValueError, match=r"`source` must have densities of angles that are wider .* component 0"):
        omt.transport(omt.Mixture([1.0], VonMises([[0.0, 0.0]], [[1e9, 1.0]])), angles)


def test_one_update_of_each_block_reaches_the_minimum(x64):
    """For squared arcs as for any other cost: from different starts, and against both blocks by Sinkhorn on a grid."""
    a, b, epsilons = np.array([0.3, 0.7]), np.array([0.6, 0.4]), (0.5, 0.4)
    source, target = (omt.Mixture(w, side) for w, side in zip((a, b), _sides(), strict=True))
    costs = np.zeros((2, 2))
    for i, j, c in np.ndindex(2, 2, 2):
        x, p = _grid(LOC[i, c], CONCENTRATION[i, c], 240)
        y, q = _grid(OTHER_LOC[j, c], OTHER_CONCENTRATION[j, c], 240)
        plan = _sinkhorn(x, p, y, q, epsilons[0], 500)
        costs[i, j] += (plan * _arc(x[:, None], y[None]) ** 2).sum() + epsilons[0] * rel_entr(
            plan, np.outer(p, q)
        ).sum()
    scale = np.ones(2)
    for _ in range(1000):
        rows = a / ((kernel := np.outer(a, b) * np.exp(-costs / epsilons[1])) @ scale)
        scale = b / (kernel.T @ rows)
    omega = rows[:, None] * kernel * scale[None]
    least = (omega * costs).sum() + epsilons[1] * rel_entr(omega, np.outer(a, b)).sum()
    for corner in (0.05, 0.28):
        start = omt.BlockStart(weights=np.array([[corner, 0.3 - corner], [0.6 - corner, 0.1 + corner]]))
        named = {"epsilon_components": epsilons[0], "epsilon_weights": epsilons[1], "start": start, "num_sweeps": 2}
        found = omt.transport(source, target, **named)
        np.testing.assert_allclose(found.weights, omega, atol=1e-5)
        trace = np.asarray(found.trace.objective)
        np.testing.assert_allclose(trace[2:], least, rtol=1e-5)
        assert trace[0] > trace[1] > trace[2]
        np.testing.assert_allclose(trace[3:], trace[2], rtol=1e-12)
