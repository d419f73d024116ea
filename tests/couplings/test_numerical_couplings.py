"""Couplings of families known by draws and moments, against closed forms, a dense one-dimensional solve and ott-jax."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam._couplings.interface import PairSelection, select_pairs
from omt_expfam._couplings.numerical_pair import calibrated_weights, careful, extrapolated, features
from omt_expfam._couplings.numerical_sinkhorn import sinkhorn
from omt_expfam._couplings.numerical_solve import solve_numerical_couplings
from omt_expfam._couplings.solve import solve_couplings
from omt_expfam.families import Gaussian, StudentT
from tests.lines import log_mean

EPSILON = 1.0


class Hidden(Gaussian):
    """Gaussian components that do not say so."""

    def gaussian_form(self):
        return None


def gaussians(family, seed, num, dim=2):
    rng = np.random.default_rng(seed)
    factor = 0.3 * rng.standard_normal((num, dim, dim)) + np.eye(dim)
    arguments = 2 * rng.standard_normal((num, dim)), factor @ factor.transpose(0, 2, 1)
    return family(*(a.astype("float32") for a in arguments))


ROOT_3, ROOT_2 = 3**0.5, 2**0.5

# Laws of mean zero and variance one.
LAWS = {
    "normal": scipy.stats.norm(),
    "exponential": scipy.stats.expon(loc=-1),
    "laplace": scipy.stats.laplace(scale=1 / ROOT_2),
    "uniform": scipy.stats.uniform(-ROOT_3, 2 * ROOT_3),
}
# Smooth ones, which are represented by grids: skewed, and with heavier tails than normal.
SMOOTH = {
    "gumbel": scipy.stats.gumbel_r(-np.euler_gamma * 6**0.5 / np.pi, 6**0.5 / np.pi),
    "logistic": scipy.stats.logistic(scale=ROOT_3 / np.pi),
}


class Rotated(omt.AbstractComponents):
    """x = matrix @ z with independent coordinates z of one of the laws; one class for all, to compile once."""

    matrix: jax.Array
    law: jax.Array

    @property
    def dim(self):
        return self.matrix.shape[-1]

    def _log_prob(self, x):
        z = jnp.linalg.solve(self.matrix, x)
        tables = [
            -0.5 * z**2 - 0.5 * jnp.log(2 * jnp.pi),
            jnp.where(z > -1, -z - 1, -jnp.inf),
            -ROOT_2 * jnp.abs(z) - jnp.log(ROOT_2),
            jnp.where(jnp.abs(z) < ROOT_3, -jnp.log(2 * ROOT_3), -jnp.inf),
        ]
        return jnp.stack(tables)[self.law[0].astype(int)].sum() - jnp.linalg.slogdet(self.matrix)[1]

    def _sample(self, key):
        normal, exponential, laplace, uniform = jax.random.split(key, 4)
        shape = (self.dim,)
        draws = [
            jax.random.normal(normal, shape),
            jax.random.exponential(exponential, shape) - 1,
            jax.random.laplace(laplace, shape) / ROOT_2,
            jax.random.uniform(uniform, shape, minval=-ROOT_3, maxval=ROOT_3),
        ]
        return self.matrix @ jnp.stack(draws)[self.law[0].astype(int)]

    def _mean(self):
        return jnp.zeros(self.dim)

    def _covariance(self):
        return self.matrix @ self.matrix.T

    def to_numpyro(self):
        raise NotImplementedError


def line_value(left, left_scale, right, right_scale, epsilon, size=120, tolerance=1e-12):
    """The value in one dimension, by Sinkhorn on quadrature nodes that crowd in the tails, in scalings now and then.

    Twice as many nodes change it by 2e-8.
    """
    t, w = np.polynomial.legendre.leggauss(size)
    p = (t + 1) / 2
    weight = 15 * w * p**2 * (1 - p) ** 2
    level = p**3 * (10 - 15 * p + 6 * p * p)
    laws = LAWS | SMOOTH
    x, y = laws[left].ppf(level) * left_scale, laws[right].ppf(level) * right_scale
    kernel, g, error = -((x[:, None] - y[None]) ** 2) / epsilon, np.zeros(size), np.inf
    while error > tolerance:
        f = -log_mean(kernel + g[None], weight, 1)
        g = -log_mean(kernel + f[:, None], weight, 0)
        density, u = np.exp(kernel + f[:, None] + g[None]), np.ones(size)
        for _ in range(40):
            v = 1 / ((weight * u) @ density)
            u = 1 / (density @ (weight * v))
        f, g = f + np.log(u), g + np.log(v)
        error = weight @ np.abs(v * ((weight * u) @ density) - 1)
    return epsilon * weight @ (f + g)


@pytest.fixture(scope="module")
def couplings():
    """Numerical couplings of Gaussians and the closed form of the same pairs."""
    numerical = solve_numerical_couplings(gaussians(Hidden, 0, 2), gaussians(Hidden, 1, 3), jnp.asarray(EPSILON))
    return numerical, solve_couplings(gaussians(Gaussian, 0, 2), gaussians(Gaussian, 1, 3), jnp.asarray(EPSILON))


@pytest.fixture
def points():
    """Draws of the source components, with their labels and random targets."""
    source = gaussians(Gaussian, 0, 2)
    x = source.sample(jax.random.key(3), 128).reshape(-1, 2)
    targets = np.random.default_rng(0).integers(0, 3, 256)
    return x, jnp.tile(jnp.arange(2), 128), jnp.asarray(targets)


def test_values_are_the_closed_forms(couplings):
    numerical, exact = couplings
    off = np.abs(np.asarray(numerical.objectives() - exact.objectives()))
    spread = 2 * (2 + 2)  # the order of both total variances: values after centering are a part of it
    assert off.max() < 0.01 * spread
    assert (off <= np.asarray(numerical.objective_errors)).all()
    assert (np.asarray(numerical.objective_errors) < 0.02 * spread).all()
    np.testing.assert_allclose(numerical.costs, exact.costs, atol=0.02 * spread)
    np.testing.assert_allclose(numerical.costs + EPSILON * numerical.kl, numerical.objectives(), rtol=1e-6)
    assert numerical.result == omt.RESULTS.successful


def test_conditional_laws_are_the_closed_forms(couplings, points):
    """Root mean squared deviations: single points in the tails are worse."""
    numerical, exact = couplings
    x, source, target = points

    def deviation(left, right):
        return float(np.sqrt(np.mean((np.asarray(left) - np.asarray(right)) ** 2)))

    assert deviation(numerical.conditional_mean(x, source, target), exact.conditional_mean(x, source, target)) < 0.06
    shares = jnp.asarray([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]])
    weight, pairs = jax.nn.one_hot(source, 2), select_pairs(shares, 0.0)
    image = exact.component_maps(shares)(x, weight)
    assert deviation(numerical.component_maps(shares)(x, weight), image) < 0.06
    covariances = [c.conditional_covariance(x, image, weight, pairs) for c in couplings]
    assert deviation(*covariances) < 0.1
    y = exact.sample_conditional(jax.random.key(5), x, source, target)
    log_weight = jnp.log(weight + 1e-30)
    assert deviation(*(c.log_conditional(x, y, log_weight, pairs) for c in couplings)) < 0.15
    np.testing.assert_allclose(numerical.cross_covariances(pairs), exact.cross_covariances(pairs), atol=0.04)
    assert numerical.interpolate(jnp.asarray(0.5), pairs) is None


def test_traced_maps_are_the_same(couplings, points):
    numerical, _ = couplings
    x, source, _ = points
    shares, weight = jnp.asarray([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]), jax.nn.one_hot(source, 2)
    traced = jax.jit(lambda s: numerical.component_maps(s)(x, weight))(shares)
    np.testing.assert_allclose(traced, numerical.component_maps(shares)(x, weight), rtol=1e-4, atol=1e-5)


def test_transpose_swaps_sides(couplings):
    numerical, _ = couplings
    pairs = select_pairs(jnp.ones((2, 3)), 0.0)
    back = numerical.transpose().cross_covariances(PairSelection(pairs.target, pairs.source, pairs.weight))
    np.testing.assert_allclose(back, np.swapaxes(numerical.cross_covariances(pairs), 1, 2), atol=1e-3)
    np.testing.assert_array_equal(numerical.transpose().transpose().objectives(), numerical.objectives())


def test_draws_have_the_marginal_law(couplings):
    """Push draws of one source component to one target component: the target's moments, and no repeated points."""
    numerical, _ = couplings
    x = numerical.source.sample(jax.random.key(8), 2000)[:, 0]
    zeros = jnp.zeros(2000, int)
    y = np.asarray(numerical.sample_conditional(jax.random.key(9), x, zeros, zeros + 1))
    target = numerical.target.select([1])
    covariance = np.asarray(target.covariance()[0])
    error = np.sqrt(np.diag(covariance) / 2000)
    assert (np.abs(y.mean(0) - np.asarray(target.mean()[0])) < 4 * error).all()
    np.testing.assert_allclose(np.cov(y.T), covariance, atol=0.15 * np.diag(covariance).max())
    assert len(np.unique(y[:, 0])) > 1900


def random_case(seed, dim, epsilon=EPSILON):
    rng = np.random.default_rng(seed)
    names = rng.choice(list(LAWS), 2)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    scales = np.exp(rng.uniform(-0.3, 0.3, (2, dim)))
    tolerance = 1e-12 if epsilon == EPSILON else 1e-7
    truth = sum(line_value(names[0], a, names[1], b, epsilon, tolerance=tolerance) for a, b in scales.T)
    matrices = [jnp.asarray((rotation * scale)[None], jnp.float32) for scale in scales]
    laws = [jnp.full((1, 1), float(list(LAWS).index(name))) for name in names]
    return *(Rotated(matrix, law) for matrix, law in zip(matrices, laws, strict=True)), truth


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize(("dim", "num"), [(2, 10), (5, 6)])
def test_rotated_products(dim, num):
    """Within one percent of the sum of the one-dimensional values, and within the reported error."""
    for seed in range(num):
        source, target, truth = random_case(seed, dim)
        solved = solve_numerical_couplings(source, target, jnp.asarray(EPSILON))
        off = abs(float(solved.objectives()[0, 0]) - truth)
        assert off < 0.01 * truth, seed
        assert off <= float(solved.objective_errors[0, 0]), seed
        assert float(solved.objective_errors[0, 0]) < 0.04 * truth, seed


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("dim", [5, 10])
def test_errors_are_honest_where_nodes_are_far_apart(dim):
    """Conditional laws far narrower than the distance between nodes; the value is between its bounds all the same."""
    epsilon, off, reported = 0.1, [], []
    for seed in range(6):
        source, target, truth = random_case(seed, dim, epsilon)
        solved = solve_numerical_couplings(source, target, jnp.asarray(epsilon))
        off.append(float(solved.objectives()[0, 0]) / truth - 1)
        reported.append(float(solved.objective_errors[0, 0]) / truth)
    assert (np.abs(off) <= reported).all()
    assert np.median(np.abs(off)) < 0.1
    assert max(reported) < 0.7


@pytest.mark.slow
def test_values_are_between_their_bounds():
    """The nearest nodes are all that a plan sees: no less than Gelbrich's bound, no more than an independent plan."""
    source, target, _ = random_case(3, 10)
    small = omt.NumericalSettings(num_nodes=128, num_draws=2048)
    solved = solve_numerical_couplings(source, target, jnp.asarray(1e-3), small)
    first, second = (np.asarray(side.matrix[0], float) for side in (source, target))
    total = np.sum(first**2) + np.sum(second**2)
    least = total - 2 * np.linalg.svd(second.T @ first)[1].sum()
    value, cost = float(solved.objectives()[0, 0]), float(solved.costs[0, 0])
    assert least * (1 - 1e-5) <= cost <= value * (1 + 1e-5) <= total * (1 + 2e-5)
    assert value - float(solved.objective_errors[0, 0]) < 1.1 * least


@pytest.mark.slow
@pytest.mark.optimized
def test_reported_errors_are_honest():
    """At least the true error in 99 percent of 100 cases, here with fewer nodes and draws than by default.

    Were one error in twenty too small, 96 of 100 such runs would show it.
    """
    missed, settings = 0, omt.NumericalSettings(num_nodes=1024, num_draws=16384)
    for seed in range(100):
        source, target, truth = random_case(1000 + seed, 2)
        solved = solve_numerical_couplings(source, target, jnp.asarray(EPSILON), settings)
        missed += abs(float(solved.objectives()[0, 0]) - truth) > float(solved.objective_errors[0, 0])
    assert missed <= 1


@pytest.mark.loose
def test_the_iteration_is_ott_jaxs():
    """The same plan between the same points."""
    from ott.geometry import pointcloud
    from ott.solvers import linear

    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((100, 2)).astype("float32") for _ in range(2))
    uniform = jnp.full(100, -np.log(100.0))
    kernel = jnp.asarray(2 * x @ y.T / 0.5)
    own, _ = sinkhorn(kernel, uniform, uniform, jnp.zeros(100), jnp.asarray(1e-6), jnp.asarray(2000))
    theirs = linear.solve(pointcloud.PointCloud(x, y, epsilon=0.5), threshold=1e-6)
    plan = jnp.exp(kernel + own.u[:, None] + own.v[None]) / 1e4
    np.testing.assert_allclose(plan, theirs.matrix, atol=1e-7)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 10])
def test_extrapolation_is_right_for_the_fastest_and_the_slowest_bias(dim):
    """Biases of order 1/N, and of order N^(-2/d) of nodes that are far apart; the slower is never excluded."""
    slowest = min(1.0, 2 / dim)
    for order in {1.0, slowest}:
        half, quarter = 2**order - 1, 4**order - 1
        bias, error = extrapolated(jnp.full((2, 2), half), jnp.full((4, 2), quarter), dim)
        np.testing.assert_allclose(bias, 1, rtol=1e-5)
        assert half / (2**slowest - 1) - 1 <= float(error) * (1 + 1e-5)
        assert half <= float(error) * (1 + 1e-5)


def test_extrapolation_covers_noise_in_what_parts_say():
    """Biases of several orders in ten dimensions, seen by two halves and four quarters with noise: 95 percent."""
    rng = np.random.default_rng(0)
    orders = rng.uniform(0.2, 1.0, (500, 1, 1))
    halves, quarters = (
        (2**order - 1) * np.ones((1, count, 2)) + 0.06 * (2**orders - 1) * rng.standard_normal((500, count, 1))
        for order, count in ((orders, 2), (2 * orders, 4))
    )
    bias, error = jax.jit(jax.vmap(lambda *parts: extrapolated(*parts, 10)))(*map(jnp.asarray, (halves, quarters)))
    assert np.mean(np.abs(np.asarray(bias)[:, 0] - 1) > np.asarray(error)) < 0.05


def test_surrogates_change_no_more_than_noise_explains():
    value, deviation = careful(jnp.asarray([[1.0, 2.0], [1.2, 2.4]]), jnp.asarray([0.1, 0.01]))
    np.testing.assert_allclose(value, [1.2, 2.4], rtol=1e-6)
    assert float(deviation) == np.float32(0.01)
    value, deviation = careful(jnp.asarray([[1.0, 2.0], [601.0, 2.4]]), jnp.asarray([0.1, 0.01]))
    np.testing.assert_allclose(value[0], 1.3, rtol=1e-6)
    assert float(deviation) == np.float32(0.1)


def test_node_weights_have_exact_moments():
    z = jnp.asarray(np.random.default_rng(0).exponential(size=(512, 2)) - 1, jnp.float32)
    weight = np.exp(np.asarray(calibrated_weights(features(z, 512))))
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(weight @ np.asarray(z), 0, atol=1e-4)
    np.testing.assert_allclose(np.asarray(z).T @ (np.asarray(z) * weight[:, None]), np.eye(2), atol=1e-3)


def on_grid(nodes):
    """Draws keep more than half of their effective number, grids do not."""
    weight = np.exp(np.asarray(nodes.log_weight))
    return (1 / (weight**2).sum(-1) < 0.5 * weight.shape[-1]).all()


class Smooth(Rotated):
    """The same with the first coordinate Gumbel's and the second logistic, or both Gumbel's."""

    def _laws(self):
        rest = dist.Logistic(0.0, ROOT_3 / np.pi)
        gumbel = dist.Gumbel(*(float(v) for v in SMOOTH["gumbel"].args))
        return gumbel, rest

    def _log_prob(self, x):
        z = jnp.linalg.solve(self.matrix, x)
        first, second = self._laws()
        both = first.log_prob(z[0]) + jnp.where(self.law[0] > 0, first.log_prob(z[1]), second.log_prob(z[1]))
        return both - jnp.linalg.slogdet(self.matrix)[1]

    def _sample(self, key):
        keys = jax.random.split(key, 3)
        first, second = self._laws()
        rest = jnp.where(self.law[0] > 0, first.sample(keys[1]), second.sample(keys[2]))
        return self.matrix @ jnp.stack([first.sample(keys[0]), rest])


@pytest.mark.loose
@pytest.mark.optimized
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_smooth_laws_in_the_plane_are_coupled_on_grids(epsilon):
    """A twentieth of a percent from the sum of one-dimensional values, and the reported error says as much."""
    rng = np.random.default_rng(int(10 * epsilon))
    rotation = np.linalg.qr(rng.standard_normal((2, 2)))[0]
    scales = np.exp(rng.uniform(-0.3, 0.3, (2, 2)))
    parts = [
        Smooth(jnp.asarray((rotation * scale)[None], jnp.float32), jnp.full((1, 1), kind))
        for scale, kind in zip(scales, (0.0, 1.0), strict=True)
    ]
    solved = solve_numerical_couplings(*parts, jnp.asarray(epsilon))
    truth = line_value("gumbel", scales[0, 0], "gumbel", scales[1, 0], epsilon)
    truth += line_value("logistic", scales[0, 1], "gumbel", scales[1, 1], epsilon)
    off = abs(float(solved.objectives()[0, 0]) - truth)
    assert off <= float(solved.objective_errors[0, 0]) < 0.005 * truth
    assert off < 5e-4 * truth
    # A density that jumps at an oblique edge has no good grid, and is drawn from.
    assert on_grid(solved.source_nodes)
    if epsilon == 1:
        edge = Rotated(parts[0].matrix, jnp.full((1, 1), 1.0))
        drawn = solve_numerical_couplings(edge, edge, jnp.asarray(epsilon), omt.NumericalSettings(1024, 2048))
        assert not on_grid(drawn.source_nodes)


@pytest.mark.slow
@pytest.mark.optimized
def test_heavy_tails_are_coupled_on_grids(x64):
    """More nodes change the value by less than the reported error."""
    rng = np.random.default_rng(3)
    factor = np.eye(2) + 0.4 * rng.standard_normal((2, 2, 2))
    sides = [StudentT(np.zeros((1, 2)), (f @ f.T)[None], df) for f, df in zip(factor, (5.0, 6.0), strict=True)]
    few, many = (
        solve_numerical_couplings(*sides, jnp.asarray(0.5), omt.NumericalSettings(num, 16384)) for num in (1600, 3600)
    )
    gap = abs(float(few.objectives()[0, 0] - many.objectives()[0, 0]))
    assert gap < float(few.objective_errors[0, 0]) < 0.02 * float(many.objectives()[0, 0])
    assert on_grid(few.source_nodes)


SMALL = omt.NumericalSettings(num_nodes=128, num_draws=2048)


def student(df):
    return omt.NumPyroComponents(dist.MultivariateStudentT(df, jnp.zeros((2, 2)), jnp.eye(2)))


@pytest.mark.parametrize("df", [2.0, 1.0])
def test_infinite_variance_is_refused(df):
    with pytest.raises(ValueError, match=r"`target` must have a finite covariance.*component 0 \(NumPyroComponents\)"):
        solve_numerical_couplings(gaussians(Gaussian, 0, 2), student(df), jnp.asarray(1.0), SMALL)


def test_zero_regularization_is_refused():
    with pytest.raises(ValueError, match=r"`epsilon_components` must be positive for numerical couplings; got 0"):
        solve_numerical_couplings(gaussians(Gaussian, 0, 2), student(5.0), jnp.asarray(0.0), SMALL)


def test_stopping_early_is_told():
    settings = omt.NumericalSettings(num_nodes=128, num_draws=2048, tolerance=1e-9, max_steps=1)
    solved = solve_numerical_couplings(gaussians(Hidden, 0, 1), gaussians(Hidden, 1, 1), jnp.asarray(0.01), settings)
    assert solved.result == omt.RESULTS.potentials_not_converged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_nodes": 30}, "`num_nodes` must be at least 64; got 30"),
        ({"num_nodes": 130}, "`num_nodes` must be a multiple of 4; got 130"),
        ({"tolerance": 0.0}, "`tolerance` must be a finite number greater than 0; got 0"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        omt.NumericalSettings(**arguments)


@pytest.mark.slow
def test_equal_settings_give_equal_results_also_traced():
    left, right = gaussians(Hidden, 0, 2), gaussians(Hidden, 1, 3)
    first = solve_numerical_couplings(left, right, jnp.asarray(1.0), SMALL)
    traced = jax.jit(lambda m: solve_numerical_couplings(m, right, jnp.asarray(1.0), SMALL).objectives())(left)
    np.testing.assert_allclose(traced, first.objectives(), rtol=1e-4)
