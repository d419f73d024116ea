"""Couplings of components with independent coordinates, against dense solves and the Gaussian closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats as st
from scipy.integrate import quad

import omt_expfam as omt
from omt_expfam._couplings.gaussian import solve_gaussian_couplings
from omt_expfam._couplings.interface import select_pairs
from omt_expfam._couplings.line.problems import solve_problems, standardize
from omt_expfam._couplings.line.table import evaluate
from omt_expfam._couplings.product import solve_product_couplings
from omt_expfam.families import (
    AsymmetricLaplace,
    Beta,
    DiagonalGaussian,
    Exponential,
    ExponentialPower,
    Gamma,
    Laplace,
    LogNormal,
    SphericalGaussian,
)
from tests import lines


def _row(*values):
    """One component with three equal coordinates."""
    return [np.full((1, 3), v) for v in values]


def _students(df):
    """NumPyro's law, with polynomial tails."""
    return omt.NumPyroComponents(dist.StudentT(df, np.zeros((1, 3)), 1.0).to_event(1))


# A family, its arguments, the same law by SciPy, and where its density has kinks.
LAWS = {
    "normal": (DiagonalGaussian, _row(0.5, 4.0), st.norm(0.5, 2.0), ()),
    "laplace": (Laplace, _row(-1.0, 0.7), st.laplace(-1.0, 0.7), (-1.0,)),
    "asymmetric": (
        AsymmetricLaplace,
        _row(0.0, 0.5, 1.5),
        st.laplace_asymmetric(np.sqrt(0.5 / 1.5), scale=np.sqrt(0.5 * 1.5)),
        (0.0,),
    ),
    "power": (lambda *a: ExponentialPower(*a, 1.5, 1.5), _row(0.0, 1.0, 1.0), st.gennorm(1.5), (0.0,)),
    "exponential": (Exponential, _row(1.0, 2.0), st.expon(1.0, 0.5), ()),
    "gamma": (Gamma, _row(2.0, 3.0), st.gamma(2.0, scale=1 / 3.0), ()),
    "gamma-1": (Gamma, _row(1.0, 1.0), st.gamma(1.0), ()),
    "lognormal": (LogNormal, _row(0.3, 0.5), st.lognorm(0.5, scale=np.exp(0.3)), ()),
    "beta": (Beta, _row(2.0, 5.0), st.beta(2.0, 5.0), ()),
    "uniform": (Beta, _row(1.0, 1.0), st.uniform(), ()),
    "student": (
        lambda df: omt.NumPyroComponents(dist.StudentT(df, np.zeros((1, 3)), 1.0).to_event(1)),
        (6,),
        st.t(6),
        (),
    ),
}


def solved(source, target, reduced, rescale=True):
    """Our solution of three problems at once: the coordinates of the target are scaled to give each its epsilon."""
    left, right = (standardize(LAWS[name][0](*LAWS[name][1]).product_form()) for name in (source, target))
    widths = np.asarray(left.scale[0] * right.scale[0])
    right = right._replace(scale=right.scale * jnp.asarray(1 / (np.asarray(reduced) * widths))[None])
    return solve_problems(left, right, 1.0, False)


def dense(source, target, epsilon):
    """The same standardized problem by the dense solver: nodes, weights, report."""
    sides = []
    for name in (source, target):
        _, _, law, knots = LAWS[name]
        # Twice as many take four times as long and change objectives by 1e-14, and by 1e-11 at small epsilon.
        x, a = lines.nodes(law, knots, *((35, 60) if epsilon > 0.05 else (40, 110)))
        mean, scale = law.mean(), law.std()
        sides += [(x - mean) / scale, a]
    return sides, lines.report(*sides, epsilon)


def check_pair(source, target, reduced):
    solution = solved(source, target, reduced)
    for k, epsilon in enumerate(reduced):
        (x, a, _, _), (objective, cost, kl, mean, variance) = dense(source, target, epsilon)
        ours = float(solution.costs[0, 0, k]), float(solution.kl[0, 0, k])
        np.testing.assert_allclose(ours[0], cost, rtol=1e-5)
        np.testing.assert_allclose(ours[1], kl, rtol=1e-5)
        value = ours[0] + epsilon * ours[1]
        np.testing.assert_allclose(value, objective, rtol=1e-5)
        # The reported error is never below the true one (the dense solve itself has about 1e-10).
        assert abs(value - objective) <= float(solution.errors[0, 0, k]) + 1e-9
        problem = solution.problems[0, 0, k]
        ours_mean, slope, _ = _conditional(solution, problem, x)
        np.testing.assert_allclose(np.sqrt(a @ (ours_mean - mean) ** 2), 0, atol=1e-5)
        np.testing.assert_allclose(np.sqrt(a @ (epsilon / 2 * slope - variance) ** 2), 0, atol=5e-4 * epsilon)


def _conditional(solution, problem, x):
    """Means and slopes at points, by one program for all numbers of nodes."""
    found = _evaluated(solution.tables[0], problem, np.pad(x, (0, 2048 - len(x)), mode="edge"))
    return [np.asarray(v)[: len(x)] for v in found]


@jax.jit
def _evaluated(table, problem, x):
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(x), *leaf.shape)), problem)
    return evaluate(table, each, x)


@pytest.mark.parametrize(("source", "target"), [("normal", "laplace"), ("gamma", "exponential")])
def test_pairs_on_the_line(source, target, x64):
    check_pair(source, target, [1.0, 0.3, 0.1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("laplace", "laplace"),
        ("normal", "lognormal"),
        ("asymmetric", "gamma"),
        ("exponential", "normal"),
        ("gamma-1", "power"),
        ("beta", "laplace"),
        ("uniform", "exponential"),
        ("lognormal", "beta"),
    ],
)
def test_more_pairs_on_the_line(source, target, x64):
    check_pair(source, target, [1.0, 0.1, 0.01])


@pytest.mark.slow
def test_polynomial_tails_are_cut(x64):
    """What is cut off is reported as an error, and leaves few nodes."""
    solution = solved("student", "student", [1.0, 2.0, 3.0])
    assert solution.tables[0].nodes.shape[1] <= 32 * 16 + 2
    assert float(solution.marginal_error) < 1e-9
    _, (objective, cost, *_) = dense("student", "student", 1.0)
    ours = float(solution.costs[0, 0, 0]), float(solution.kl[0, 0, 0])
    np.testing.assert_allclose(ours[0], cost, rtol=1e-5)
    assert abs(sum(ours) - objective) <= float(solution.errors[0, 0, 0]) < 1e-5
    assert float(solution.errors[0, 0].max()) < 1e-5


# -- against the Gaussian closed form ---------------------------------------------------------------------------------


def gaussians(dtype="float64", dim=2):
    rng = np.random.default_rng(0)
    source = DiagonalGaussian(*(a.astype(dtype) for a in (rng.normal(size=(3, dim)), rng.uniform(0.5, 2, (3, dim)))))
    target = SphericalGaussian(*(a.astype(dtype) for a in (rng.normal(size=(4, dim)), rng.uniform(0.5, 2, 4))))
    return source, target


@pytest.fixture(scope="module")
def both():
    """Couplings of the same Gaussians by both routes, for several regularizations."""
    with jax.enable_x64(True):
        source, target = gaussians()
        return {
            e: (
                solve_product_couplings(source, target, jnp.asarray(e)),
                solve_gaussian_couplings(source, target, jnp.asarray(e)),
            )
            for e in (0.5, 0.001, 0.0)
        }


@pytest.mark.parametrize("epsilon", [0.5, 0.001, 0.0])
def test_gaussians_have_their_closed_form(both, epsilon, x64):
    """To 1e-8 where problems are solved and for the costs everywhere; what is read off maps near zero, to 1e-5."""
    ours, closed = both[epsilon]
    np.testing.assert_allclose(ours.costs, closed.costs, rtol=1e-8)
    np.testing.assert_allclose(ours.kl, closed.kl, rtol=1e-8)
    assert (np.abs(ours.objectives() - closed.objectives()) <= ours.objective_errors + 1e-12).all()
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(40, 2)))
    tolerance = 1e-8 if epsilon > 0.01 else 1e-5
    source, target = jnp.asarray(rng.integers(0, 3, 40)), jnp.asarray(rng.integers(0, 4, 40))
    expected = closed.conditional_mean(x, source, target)
    np.testing.assert_allclose(ours.conditional_mean(x, source, target), expected, atol=tolerance)
    shares = jnp.asarray(rng.dirichlet(np.ones(4), 3))
    weight = jnp.asarray(rng.dirichlet(np.ones(3), 40))
    expected = closed.component_maps(shares)(x, weight)
    np.testing.assert_allclose(ours.component_maps(shares)(x, weight), expected, atol=tolerance)
    pairs = select_pairs(shares, 0.0)
    center = jnp.zeros_like(x)
    expected = closed.conditional_covariance(x, center, weight, pairs)
    np.testing.assert_allclose(ours.conditional_covariance(x, center, weight, pairs), expected, atol=10 * tolerance)
    np.testing.assert_allclose(ours.cross_covariances(pairs), closed.cross_covariances(pairs), atol=1e-8)
    if epsilon > 0:
        log_weight = jnp.log(weight)
        y = expected = closed.component_maps(shares)(x, weight) + 0.05
        result = ours.log_conditional(x, y, log_weight, pairs)
        expected = closed.log_conditional(x, y, log_weight, pairs)
        np.testing.assert_allclose(result, expected, rtol=1e-6 if epsilon > 0.01 else 1e-3)


def test_transposition_reads_the_same_plan(both, x64):
    ours, _ = both[0.5]
    back = ours.transpose()
    np.testing.assert_array_equal(back.costs, ours.costs.T)
    _, closed = both[0.5]
    x = jnp.asarray(0.5 * np.random.default_rng(2).normal(size=(20, 2)))
    index = jnp.zeros(20, int)
    expected = closed.transpose().conditional_mean(x, index, index)
    np.testing.assert_allclose(back.conditional_mean(x, index, index), expected, atol=1e-8)


def test_single_precision(both):
    source, target = gaussians("float32")
    ours = solve_product_couplings(source, target, jnp.asarray(0.5))
    assert ours.costs.dtype == jnp.float32
    np.testing.assert_allclose(ours.costs, both[0.5][1].costs, rtol=1e-6)
    assert (np.abs(ours.objectives() - np.asarray(both[0.5][1].objectives())) <= ours.objective_errors).all()


# -- draws ------------------------------------------------------------------------------------------------------------


def test_draws_follow_the_conditional_law(x64):
    """Draws of y given one x, against the conditional distribution function of the dense solve (Kolmogorov-Smirnov)."""
    source, target, epsilon = "laplace", "gamma", 0.3
    law_x, law_y = LAWS[source][2], LAWS[target][2]
    raw = epsilon * law_x.std() * law_y.std()
    mixtures = [omt.Mixture([1.0], LAWS[n][0](*(a[:, :1] for a in LAWS[n][1]))) for n in (source, target)]
    plan = omt.transport(*mixtures, epsilon_components=raw, epsilon_weights=1.0)
    sides, _ = dense(source, target, epsilon)
    f, g = lines.solve(*sides, epsilon)
    at = 0.4
    z = (at - law_x.mean()) / law_x.std()
    mass = np.exp((g - (z - sides[2]) ** 2) / epsilon) * sides[3]
    cdf = np.cumsum(mass) / mass.sum()
    draws = np.asarray(plan.sample(jax.random.key(0), np.full((20_000, 1), at)))[:, 0]
    empirical = np.searchsorted(np.sort((draws - law_y.mean()) / law_y.std()), sides[2]) / len(draws)
    # 1.95 / sqrt(n) is the 0.1 % point; a node's own mass is at most 1e-2.
    assert np.abs(empirical - (cdf - mass / mass.sum() / 2)).max() < 1.95 / np.sqrt(len(draws)) + 6e-3


def test_paths_have_the_moments_they_report(x64):
    rng = np.random.default_rng(3)
    source = omt.Mixture([0.4, 0.6], Laplace(rng.normal(size=(2, 2)), rng.uniform(0.5, 1, (2, 2))))
    target = omt.Mixture([0.3, 0.7], Gamma(rng.uniform(1, 3, (2, 2)), rng.uniform(1, 2, (2, 2))))
    plan = omt.transport(source, target, epsilon_components=0.5, epsilon_weights=0.1)
    assert plan.converged
    law = plan.interpolate(0.3)
    draws = np.asarray(law.sample(jax.random.key(0), 20_000))
    scale = np.sqrt(np.diag(law.covariance()))
    np.testing.assert_allclose(draws.mean(0), law.mean(), atol=5 * scale.max() / np.sqrt(len(draws)))
    np.testing.assert_allclose(np.cov(draws.T), law.covariance(), atol=0.06 * scale.max() ** 2)
    ends = plan.interpolate(0.0), plan.interpolate(1.0)
    for end, mixture in zip(ends, (source, target), strict=True):
        np.testing.assert_allclose(end.mean(), mixture.mean(), atol=1e-8)
        np.testing.assert_allclose(end.covariance(), mixture.covariance(), atol=1e-8)
    # Without a pair of weight 0.1, the others share its weight.
    weights = np.asarray(plan.weights)
    left = weights > 0.2
    assert 0.05 < weights[~left].sum() < 0.5
    start, end = (np.asarray(m.components.mean()) for m in (source, target))
    expected = weights[left] @ (0.7 * start[:, None] + 0.3 * end[None])[left] / weights[left].sum()
    fewer = plan.interpolate(0.3, min_weight=0.2)
    np.testing.assert_allclose(fewer.mean(), expected, rtol=1e-10)
    # The joint density integrates to the source density: importance weights of draws from the plan average to one.
    x, y = plan.sample_joint(jax.random.key(1), 4_000)
    independent = target.sample(jax.random.key(2), 4_000)
    ratio = np.exp(np.asarray(plan.log_prob(x, independent) - source.log_prob(x) - target.log_prob(independent)))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))
    divergence = np.asarray(plan.log_prob(x, y) - source.log_prob(x) - target.log_prob(y))
    total = float((plan.objective - plan.cost) / 0.5)
    # KL(plan | product) <= (objective - cost) / eps1 when eps2 < eps1: mixing can only lose information.
    assert divergence.mean() < total + 5 * divergence.std() / np.sqrt(len(divergence))


# -- towards zero -----------------------------------------------------------------------------------------------------


def quantile_cost(law_x, law_y):
    """The squared Wasserstein distance of standardized laws, by adaptive quadrature of quantiles."""

    def integrand(t):
        u = 1 / (1 + np.exp(-t))
        gap = (law_x.ppf(u) - law_x.mean()) / law_x.std() - (law_y.ppf(u) - law_y.mean()) / law_y.std()
        return gap**2 * u * (1 - u)

    return quad(integrand, -34, 34, limit=500, epsabs=1e-10)[0]


def test_the_way_to_zero(x64):
    """From 0.02 to 0: costs decrease to the quantile coupling's, KL grows, errors are honest, draws become maps."""
    reduced = [0.02, 0.003, 0.0004]
    solution = solved("laplace", "gamma", reduced)
    left, right = (standardize(LAWS[n][0](*LAWS[n][1]).product_form()) for n in ("laplace", "gamma"))
    limit = solve_problems(left, right, 0.0, False)
    exact = quantile_cost(LAWS["laplace"][2], LAWS["gamma"][2])
    np.testing.assert_allclose(limit.costs[0, 0, 0], exact, rtol=1e-6)
    assert abs(float(limit.costs[0, 0, 0]) - exact) <= float(limit.errors[0, 0, 0]) + 1e-9
    assert np.isinf(limit.kl[0, 0, 0])
    costs = [*np.asarray(solution.costs[0, 0]), exact]
    assert (np.diff(costs) < 0).all()
    assert (np.diff(np.asarray(solution.kl[0, 0])) > 0).all()
    # To leading order the cost exceeds the unregularized one by eps / 2.
    np.testing.assert_allclose(costs[2] - exact, reduced[2] / 2, rtol=0.02)


@pytest.mark.parametrize(
    ("source", "target"), [("exponential", "laplace"), ("laplace", "exponential"), ("uniform", "lognormal")]
)
def test_the_limit_is_the_quantile_coupling(source, target, x64):
    """Also where the monotone map is infinite, at the end of a support."""
    left, right = (standardize(LAWS[n][0](*LAWS[n][1]).product_form()) for n in (source, target))
    limit = solve_problems(left, right, 0.0, False)
    exact = quantile_cost(LAWS[source][2], LAWS[target][2])
    assert abs(float(limit.costs[0, 0, 0]) - exact) <= float(limit.errors[0, 0, 0]) + 1e-9
    np.testing.assert_allclose(limit.costs[0, 0, 0], exact, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [("laplace", "gamma"), ("exponential", "laplace")])
def test_small_regularizations_against_a_fine_solve(source, target, x64):
    """Below the smallest problem that is solved, interpolation towards zero keeps its reported error."""
    from omt_expfam._couplings.line.problems import _stacked
    from omt_expfam._couplings.line.profile import tabulate
    from omt_expfam._couplings.line.solve import place_nodes, solve_nodes

    solution = solved(source, target, [0.002, 0.001, 0.0005])
    forms = [LAWS[n][0](*LAWS[n][1]).product_form() for n in (source, target)]
    shapes = tuple(jax.tree.map(lambda leaf: leaf[0], _stacked(standardize(form)))[0] for form in forms)
    profiles = tuple(jax.jit(tabulate, static_argnums=1)(shape, np.dtype(float)) for shape in shapes)
    place = jax.jit(place_nodes, static_argnums=3)
    for k, epsilon in enumerate([0.002, 0.001]):
        fine = jax.jit(solve_nodes)(place(shapes, profiles, jnp.asarray(epsilon), 160), jnp.asarray(epsilon))
        objective = float(fine.cost + epsilon * fine.kl)
        ours = float(solution.costs[0, 0, k] + epsilon * solution.kl[0, 0, k])
        assert abs(ours - objective) <= float(solution.errors[0, 0, k])
        np.testing.assert_allclose(ours, objective, rtol=1e-3)


# -- work ---------------------------------------------------------------------------------------------------------


def test_equal_problems_are_solved_once(x64):
    """Rows of the table, not pairs of components, are what is solved."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.5, 2, (6, 3))
    scales[:] = scales[0]
    few = Laplace(rng.normal(size=(6, 3)), scales)
    couplings = solve_product_couplings(few, few, jnp.asarray(0.3))
    assert couplings.tables[0].nodes.shape[0] == 3
    many = Laplace(rng.normal(size=(6, 3)), rng.uniform(0.9, 1.1, (6, 3)))
    couplings = solve_product_couplings(many, many, jnp.asarray(0.3))
    # 108 problems, one shape: a table of at most two intervals of the regularization.
    assert couplings.tables[0].nodes.shape[0] <= 24
    alone = solve_product_couplings(many.select([0]), many.select([3]), jnp.asarray(0.3))
    np.testing.assert_allclose(couplings.costs[0, 3], alone.costs[0, 0], rtol=1e-7)
    np.testing.assert_allclose(couplings.kl[0, 3], alone.kl[0, 0], rtol=1e-7)


# -- tracing and derivatives --------------------------------------------------------------------------------------


def test_tracing_gives_the_same_numbers(x64):
    source, target = (Laplace(np.zeros((1, 1)), np.full((1, 1), s)) for s in (0.8, 1.1))

    def objective(left, right, epsilon):
        return solve_product_couplings(left, right, epsilon).objectives()[0, 0]

    traced = jax.jit(objective)(source, target, jnp.asarray(0.4))
    np.testing.assert_allclose(traced, objective(source, target, jnp.asarray(0.4)), rtol=1e-6)


@pytest.mark.slow
def test_derivatives_agree_with_finite_differences(x64):
    """Through nodes, weights and the implicit solve, for a moving end of the support too."""

    def objective(parameters):
        source = omt.Mixture([1.0], Gamma(parameters[:1, None], parameters[1:2, None]))
        target = omt.Mixture([1.0], Laplace(parameters[2:3, None], parameters[3:4, None]))
        plan = omt.transport(source, target, epsilon_components=parameters[4], epsilon_weights=1.0)
        return plan.objective + 0.3 * plan.cost + plan.push_forward(jnp.array([[0.7]]))[0, 0]

    at = jnp.array([2.5, 1.3, 0.2, 0.9, 0.4])
    evaluate = jax.jit(objective)
    gradient = jax.jit(jax.grad(objective))(at)
    step = 1e-4
    numeric = [(evaluate(at.at[k].add(step)) - evaluate(at.at[k].add(-step))) / (2 * step) for k in range(5)]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6)


# -- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_between_families(x64):
    """Diagonal Gaussians to Laplace: the map moves the mean right, costs add up, the reverse plan is the same plan."""
    rng = np.random.default_rng(5)
    source = omt.Mixture([0.5, 0.5], DiagonalGaussian(rng.normal(size=(2, 2)), rng.uniform(0.5, 1, (2, 2))))
    target = omt.Mixture([0.2, 0.8], Laplace(rng.normal(size=(2, 2)), rng.uniform(0.5, 1, (2, 2))))
    plan = omt.transport(source, target, epsilon_components=0.3, epsilon_weights=0.1)
    x = source.sample(jax.random.key(0), 20_000)
    image = np.asarray(plan.push_forward(x))
    error = 5 * image.std(0) / np.sqrt(len(image))
    assert (np.abs(image.mean(0) - np.asarray(target.mean())) < error).all()
    # E |x - y|^2 = E |x - T(x)|^2 + E tr Cov(y | x).
    inner = np.trace(np.asarray(plan.conditional_covariance(x[:4000])), axis1=1, axis2=2)
    direct = (np.asarray(x - plan.push_forward(x)) ** 2).sum(1)[:4000] + inner
    assert abs(direct.mean() - float(plan.cost)) < 5 * direct.std() / np.sqrt(4000)
    back = plan.reverse()
    np.testing.assert_allclose(back.cost, plan.cost, rtol=1e-12)
    y = target.sample(jax.random.key(1), 100)
    np.testing.assert_allclose(back.push_forward(y), plan.pull_back(y), rtol=1e-12)
    assert plan.component_errors.shape == (2, 2)
    far = plan.push_forward(np.array([[1e6, -1e6]]))
    assert np.isfinite(far).all()
