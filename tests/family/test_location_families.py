"""EM for the location-scale families, against SciPy's estimators, brute force and the laws that EM obeys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import omt_expfam as omt
from families._side_scales import common_scale, expected_log_density, separate_scales
from families._two_sided import TwoSided
from omt_expfam.families import AsymmetricLaplace, DiagonalGaussian, Exponential, ExponentialPower, Laplace
from tests.cases import CASES, components

TEMPLATES = {
    "Laplace": Laplace,
    "AsymmetricLaplace": AsymmetricLaplace,
    "Exponential": Exponential,
    "ExponentialPower": omt.template(ExponentialPower, power_left=1.5, power_right=2.5),
    "SymmetricPower": omt.template(ExponentialPower, power_left=1.5, power_right=1.5, symmetric=True),
}
FAMILIES = list(TEMPLATES)
PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}
LOC = np.array([[0.0, 0.0], [9.0, 1.0], [2.0, 10.0]])
LEFT, RIGHT = np.array([[[1.0, 0.6], [0.8, 1.2], [1.1, 0.7]], [[0.5, 1.4], [1.5, 1.0], [0.9, 1.2]]])


def truth(name):
    """Three components in the plane that overlap little."""
    parts = {
        "Laplace": lambda: Laplace(LOC, LEFT),
        "AsymmetricLaplace": lambda: AsymmetricLaplace(LOC, LEFT, RIGHT),
        "Exponential": lambda: Exponential(LOC, 1 / RIGHT),
        "ExponentialPower": lambda: ExponentialPower(LOC, LEFT, RIGHT, 1.5, 2.5),
        "SymmetricPower": lambda: ExponentialPower(LOC, LEFT, LEFT, 1.5, 1.5, symmetric=True),
    }[name]()
    return omt.Mixture(np.array([0.25, 0.35, 0.4]), parts)


@functools.cache
def drawn(name):
    """A thousand points in the plane. Fits to 513 to 1024 of them, of up to eight components, share their programs."""
    with jax.enable_x64(True):
        return np.asarray(truth(name).sample(jax.random.key(0), 1000))


def scales(parts):
    """Scales on the left and right, shape ``[2, K, d]``."""
    law = parts._law()
    return np.stack([np.asarray(law.right if law.left is None else law.left), np.asarray(law.right)])


@pytest.mark.parametrize("prior", [{}, PLAIN])
@pytest.mark.parametrize("name", FAMILIES)
def test_objective_rises_and_the_law_is_recovered(name, prior, x64):
    law, x = truth(name), drawn(name)
    fitted = omt.fit(jax.random.key(1), x, TEMPLATES[name], 3, tolerance=1e-8, **prior)
    trace = np.asarray(fitted.objectives)[: int(fitted.num_steps)]
    assert (np.diff(trace) > -1e-9).all()
    np.testing.assert_allclose(fitted.log_likelihood, fitted.mixture.log_prob(x).mean(), rtol=1e-9)
    # The truth may lose, but the optimum exceeds it by no more than chi-squared fluctuations.
    gain = 1000 * float(fitted.log_likelihood - law.log_prob(x).mean())
    assert -1 < gain < 2 * fitted.num_parameters
    order = np.argsort(np.asarray(fitted.mixture.components.loc) @ [1.0, 10.0])
    parts = fitted.mixture.components.select(order)
    np.testing.assert_allclose(np.asarray(fitted.mixture.weights)[order], law.weights, atol=0.06)
    np.testing.assert_allclose(parts.mean(), law.components.mean(), atol=0.35)
    np.testing.assert_allclose(np.log(scales(parts) / scales(law.components)), 0, atol=0.5)


def fit_one(name, x, **settings):
    """One component by maximum likelihood; returns its components."""
    settings = {**PLAIN, "tolerance": 1e-13, "standardize": False, **settings}
    family = settings.pop("family", TEMPLATES.get(name))
    return omt.fit(jax.random.key(0), x, family, 1, **settings)


def test_one_laplace_is_scipys(x64):
    for num in (999, 1000):
        x = drawn("AsymmetricLaplace")[:num]
        fitted = fit_one("Laplace", x).mixture.components
        for j in range(2):
            loc, scale = scipy.stats.laplace.fit(x[:, j])
            np.testing.assert_allclose(fitted.loc[0, j], loc, rtol=1e-10)
            np.testing.assert_allclose(fitted.scale[0, j], scale, rtol=1e-10)


def test_one_exponential_is_scipys(x64):
    x = drawn("Exponential")
    fitted = fit_one("Exponential", x).mixture.components
    for j in range(2):
        loc, scale = scipy.stats.expon.fit(x[:, j])
        np.testing.assert_allclose(fitted.loc[0, j], loc, atol=1e-12)
        np.testing.assert_allclose(1 / fitted.rate[0, j], scale, rtol=1e-10)


def test_one_asymmetric_laplace_is_the_best_of_all_data_points(x64):
    x = drawn("AsymmetricLaplace")
    fitted = fit_one("AsymmetricLaplace", x)
    total = 0.0
    for j in range(2):
        gap = x[:, j][None] - x[:, j][:, None]
        below, above = np.maximum(-gap, 0).mean(1), np.maximum(gap, 0).mean(1)
        values = -2 * np.log(np.sqrt(below) + np.sqrt(above)) - 1
        best = values.argmax()
        total += values[best]
        parts = fitted.mixture.components
        np.testing.assert_allclose(parts.loc[0, j], x[best, j], rtol=1e-12)
        root = np.sqrt(below[best] * above[best])
        np.testing.assert_allclose(parts.scale_left[0, j], below[best] + root, rtol=1e-9)
        np.testing.assert_allclose(parts.scale_right[0, j], above[best] + root, rtol=1e-9)
        ratio, loc, scale = scipy.stats.laplace_asymmetric.fit(x[:, j])
        theirs = scipy.stats.laplace_asymmetric(ratio, loc, scale).logpdf(x[:, j]).mean()
        assert values[best] >= theirs - 1e-9
    np.testing.assert_allclose(fitted.log_likelihood, total, rtol=1e-10)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
def test_one_symmetric_power_is_scipys(power, x64):
    x = drawn("AsymmetricLaplace")
    family = omt.template(ExponentialPower, power_left=power, power_right=power, symmetric=True)
    fitted = fit_one(None, x, family=family)
    theirs = 0.0
    for j in range(2):
        _, loc, scale = scipy.stats.gennorm.fit(x[:, j], fbeta=power)
        theirs += scipy.stats.gennorm(power, loc, scale).logpdf(x[:, j]).mean()
    assert float(fitted.log_likelihood) == pytest.approx(theirs, abs=1e-7)
    if power == 2:
        np.testing.assert_allclose(fitted.mixture.mean(), x.mean(0), atol=1e-5)
        np.testing.assert_allclose(np.diag(fitted.mixture.covariance()), x.var(0), rtol=1e-5)


@pytest.mark.parametrize(("left", "right", "symmetric"), [(1.5, 2.5, False), (3.0, 1.2, False), (1.5, 2.5, True)])
def test_one_power_law_is_the_optimizers(left, right, symmetric, x64):
    x = drawn("ExponentialPower")[:520]
    family = omt.template(ExponentialPower, power_left=left, power_right=right, symmetric=symmetric)
    fitted = fit_one(None, x, family=family)

    def loss(parameters, sample):
        loc, log_left, log_right = parameters[0], parameters[1], parameters[1 if symmetric else 2]
        law = CASES["ExponentialPower"].marginals((loc, np.exp(log_left), np.exp(log_right), left, right))
        return -law.logpdf(sample).mean()

    options = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 4000}
    best = 0.0
    for sample in x.T:
        starts = [np.append(np.quantile(sample, q), np.log([sample.std()] * 2)) for q in (0.2, 0.5, 0.8)]
        solves = [scipy.optimize.minimize(loss, s, (sample,), "Nelder-Mead", options=options) for s in starts]
        best += min(solve.fun for solve in solves)
    # EM stops where no step of its line search helps, an optimizer's digits short of the optimum.
    assert float(fitted.log_likelihood) == pytest.approx(-best, abs=1e-6)


@jax.jit
def _value(powers, sides, scales):
    return expected_log_density(TwoSided(*scales, *powers), *sides)


@jax.jit
def _best_scales(powers, sides, floor):
    arguments = TwoSided(jnp.ones(()), jnp.ones(()), *powers), *sides, floor
    return separate_scales(*arguments), common_scale(*arguments)


def test_scales_are_the_best(x64):
    """Against a bounded optimizer, with free scales and with scales at their floor."""
    rng = np.random.default_rng(0)
    for floor in (1e-3, 0.7):
        for _ in range(6):
            powers, sides = rng.uniform(0.6, 4, 2), rng.uniform(0.01, 2, 2)

            def value(scales, powers=powers, sides=sides):
                return float(_value(powers, sides, np.asarray(scales)))

            separate, common = _best_scales(powers, sides, np.asarray(floor))
            bounds = [(np.log(floor), 5.0)] * 2
            best = scipy.optimize.minimize(
                lambda s, value=value: -value(np.exp(s)), np.zeros(2), method="Nelder-Mead", bounds=bounds, tol=1e-12
            )
            assert value(separate) == pytest.approx(-best.fun, abs=1e-9)
            line = scipy.optimize.minimize_scalar(
                lambda s, value=value: -value(np.exp([s, s])), bounds=bounds[0], method="bounded"
            )
            assert value(common) == pytest.approx(-line.fun, abs=1e-7)


@pytest.mark.parametrize("name", FAMILIES)
def test_sample_weights_are_repetitions(name, x64):
    x, rng = drawn(name)[:600], np.random.default_rng(1)
    counts = rng.integers(0, 4, len(x))
    assert 600 < counts.sum() <= 1024
    settings = {"tolerance": 1e-10, "start": truth(name)}
    weighted = omt.fit(jax.random.key(0), x, TEMPLATES[name], 3, sample_weight=counts, **settings)
    repeated = omt.fit(jax.random.key(0), np.repeat(x, counts, axis=0), TEMPLATES[name], 3, **settings)
    np.testing.assert_allclose(weighted.log_likelihood, repeated.log_likelihood, rtol=1e-9)
    np.testing.assert_allclose(weighted.mixture.components.mean(), repeated.mixture.components.mean(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_ties_constants_and_float32(name):
    """Rounded data far from zero, a heap of equal points, and a constant coordinate, in both precisions."""
    x = np.round(drawn(name)[:600, :1], 1) + 1000
    x[:150] = 1100.0
    x = np.c_[x, np.full(len(x), 7.0)].astype(np.float32)
    for inside in ("float64", "float32"):
        fitted = omt.fit(jax.random.key(0), x, TEMPLATES[name], 4, dtype=inside, tolerance=1e-4)
        assert fitted.mixture.weights.dtype == jnp.float32
        trace = np.asarray(fitted.objectives)[: int(fitted.num_steps)]
        assert (np.diff(trace) > (-1e-6 if inside == "float64" else -1e-3)).all()
        assert np.isfinite(np.asarray(fitted.mixture.log_prob(x))).all()
        heap = np.abs(np.asarray(fitted.mixture.components.loc)[:, 0] - 1100).argmin()
        np.testing.assert_allclose(np.asarray(fitted.mixture.components.loc)[heap], [1100, 7], rtol=1e-3)
        # The ridge keeps scales away from zero: 1e-3 standard deviations of the data, or more with the prior.
        spread = np.sqrt(np.asarray(fitted.mixture.components.covariance())[heap, 0, 0])
        assert 5e-4 * x[:, 0].std() < spread < 0.2 * x[:, 0].std()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fit_without_finite_likelihood_is_reported(name, x64):
    """Three components on two distinct points, with both safeguards off."""
    x = np.repeat([[0.0, 0.0], [1.0, 1.0]], 500, axis=0)
    failed = omt.fit(jax.random.key(0), x, TEMPLATES[name], 3, throw=False, **PLAIN)
    assert failed.result == omt.RESULTS.fit_not_finite


def test_heavy_tails_are_better_described(x64):
    """Held-out likelihood on data from a Laplace mixture, and on the sides of an asymmetric one."""
    for name, others in (("Laplace", [DiagonalGaussian]), ("AsymmetricLaplace", [DiagonalGaussian, Laplace])):
        x, held_out = drawn(name), np.asarray(truth(name).sample(jax.random.key(9), 1000))
        score = {
            family: float(omt.fit(jax.random.key(0), x, family, 3).mixture.log_prob(held_out).mean())
            for family in (TEMPLATES[name], *others)
        }
        assert all(score[TEMPLATES[name]] > score[other] + 0.02 for other in others)


def test_exponential_locations_move_both_ways(x64):
    """From locations far too low, and from one that leaves out most points, to the same likelihood."""
    x = drawn("Exponential")
    rate, weights = np.ones((3, 2)), np.full(3, 1 / 3)
    low = omt.Mixture(weights, Exponential(np.array([[-3.0, -3], [5, -3], [-3, 6]]), rate))
    high = omt.Mixture(weights, Exponential(LOC + 0.4, rate))
    near, up, down = (
        omt.fit(jax.random.key(0), x, Exponential, 3, start=start, tolerance=1e-8)
        for start in (truth("Exponential"), low, high)
    )
    assert float(up.log_likelihood) == pytest.approx(float(near.log_likelihood), abs=2e-3)
    assert float(down.log_likelihood) == pytest.approx(float(near.log_likelihood), abs=2e-3)
    parts = near.mixture.components
    assert (np.abs(np.asarray(parts.loc) - LOC) < 0.05).all()
    assert all(np.abs(x[:, j] - parts.loc[k, j]).min() < 1e-9 for k in range(3) for j in range(2))


# -- product and Gaussian forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Laplace", "AsymmetricLaplace", "Exponential", "ExponentialPower"])
def test_product_form_is_the_same_law(name, dtype):
    parts, _ = components(name, 0, dtype)
    form = parts.product_form()
    x = np.random.default_rng(1).standard_normal((7, 3)).astype(dtype)

    @jax.jit
    def one(k, j):
        shape = jax.tree.map(lambda leaf: leaf[k, j], form.shape)
        z = (jnp.asarray(x)[:, j] - form.loc[k, j]) / form.scale[k, j]
        moments = form.loc[k, j] + form.scale[k, j] * shape._mean(), form.scale[k, j] ** 2 * shape._variance()
        return jax.vmap(shape._log_density)(z) - jnp.log(form.scale[k, j]), moments, shape._knots()

    tolerance = 1e-4 if dtype == "float32" else 1e-12
    knots = [0, np.inf] if name == "Exponential" else [-np.inf, 0, np.inf]
    log_prob, mean, covariance = (np.asarray(v) for v in (parts.log_prob(x), parts.mean(), parts.covariance()))
    for k in range(4):
        sides = [one(k, j) for j in range(3)]
        np.testing.assert_allclose(sum(np.asarray(s[0]) for s in sides), log_prob[:, k], rtol=tolerance)
        np.testing.assert_allclose([s[1][0] for s in sides], mean[k], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose([s[1][1] for s in sides], np.diag(covariance[k]), rtol=tolerance)
        np.testing.assert_array_equal(sides[0][2], knots)


def test_equal_families_have_equal_shapes(x64):
    rng = np.random.default_rng(0)
    loc, scale = rng.standard_normal((4, 2)), rng.uniform(0.1, 9, (4, 2))
    assert not jax.tree.leaves(Laplace(loc, scale).product_form().shape)
    assert not jax.tree.leaves(Exponential(loc, scale).product_form().shape)
    for parts in (ExponentialPower(loc, scale, scale, 1.5, 3.0), AsymmetricLaplace(loc, scale, scale)):
        form = parts.product_form()
        np.testing.assert_array_equal(form.scale, scale)
        for leaf in jax.tree.leaves(form.shape):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1, :1], leaf.shape))


def test_power_two_is_gaussian(x64):
    """Transported in closed form, like the diagonal Gaussians that they are."""
    source, target = truth("Laplace"), truth("SymmetricPower")
    weights = source.weights
    pairs = [(source.components.loc, LEFT), (target.components.loc[::-1], RIGHT)]
    squares = [omt.Mixture(weights, ExponentialPower(loc, scale, scale, 2.0, 2.0)) for loc, scale in pairs]
    normal = [omt.Mixture(weights, DiagonalGaussian(loc, scale**2 / 2)) for loc, scale in pairs]
    x = drawn("Laplace")[:20]
    for epsilon in (0.0, 0.5):
        plan, expected = (
            omt.transport(*sides, epsilon_components=epsilon, epsilon_weights=0.5) for sides in (squares, normal)
        )
        np.testing.assert_allclose(plan.cost, expected.cost, rtol=1e-12)
        np.testing.assert_allclose(plan.push_forward(x), expected.push_forward(x), rtol=1e-9)
    np.testing.assert_allclose(squares[0].log_prob(x), normal[0].log_prob(x), rtol=1e-12)
    assert squares[0].components.gaussian_form() is not None
    assert truth("SymmetricPower").components.gaussian_form() is None
    assert truth("ExponentialPower").components.gaussian_form() is None


# -- the interface -----------------------------------------------------------------------------------------------


def test_components_of_a_power_law_serve_as_a_template(x64):
    x = drawn("ExponentialPower")
    parts = truth("ExponentialPower").components.select([0])
    fitted = omt.fit(jax.random.key(0), x, parts, 3, tolerance=1e-4).mixture.components
    np.testing.assert_array_equal(fitted.power_left, np.full((3, 2), 1.5))
    np.testing.assert_array_equal(fitted.power_right, np.full((3, 2), 2.5))
    each = ExponentialPower(LOC, LEFT, LEFT, LEFT + 1, 2.0)
    np.testing.assert_array_equal(each._fixed()["power_left"], LEFT + 1)
    np.testing.assert_array_equal(each._fixed()["power_right"], np.full(2, 2.0))


def test_numpyro_cdf_is_scipys(x64):
    parts, arguments = components("ExponentialPower", 0)
    x = np.linspace(-3, 3, 5)[:, None, None]
    law = parts.to_numpyro().base_dist
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(law.cdf(x), CASES["ExponentialPower"].marginals(arguments).cdf(x), rtol=1e-9)
        np.testing.assert_allclose(law.mean, parts.mean(), rtol=1e-12)
        np.testing.assert_allclose(law.variance, np.einsum("kdd->kd", parts.covariance()), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Laplace([[0.0]], [[-1.0]]), ValueError, "`scale` must be positive; got -1 at index"),
        (lambda: Laplace([[0.0]], [[1.0, 2.0]]), ValueError, "`scale` must have shape"),
        (lambda: Exponential([[0.0]], [[0.0]]), ValueError, "`rate` must be positive"),
        (lambda: AsymmetricLaplace([[0.0]], [[1.0]], [[0.0]]), ValueError, "`scale_right` must be positive"),
        (lambda: ExponentialPower([[0.0]], [[1.0]], [[1.0]], 0.0, 1.0), ValueError, "`power_left` must be positive"),
        (
            lambda: ExponentialPower([[0.0]], [[1.0]], [[1.0]], [[1.0, 2.0]], 1.0),
            ValueError,
            r"`power_left` must be a number or have shape \(1, 1\) to match `loc`; got \(1, 2\)",
        ),
        (lambda: ExponentialPower([[0.0]], [[1.0]], [[2.0]], 2, 2, True), ValueError, "`scale_left` and `scale_right`"),
        (
            lambda: omt.fit(jax.random.key(0), np.eye(3), ExponentialPower, 1),
            TypeError,
            r"ExponentialPower needs its powers.*omt\.template\(ExponentialPower, power_left",
        ),
        (
            lambda: omt.fit(jax.random.key(0), np.eye(3), Laplace, 1, chunk_size=2),
            ValueError,
            "`chunk_size` must be at least the number of points",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
