"""The weighted-likelihood bootstrap, against closed forms and a weighted EM in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpyro.distributions import constraints

import omt_expfam as omt
from omt_expfam._fitting.bootstrap import _random_weight, bootstrap_mixtures
from omt_expfam.families import Gaussian, Laplace, LowRankGaussian

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}
NUM = 400


def points(seed=0, offset=8.0):
    """Two clusters in two dimensions."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((NUM, 2)) @ np.array([[1.0, 0.5], [0.0, 0.7]])
    x[: NUM // 3] += offset
    return x


def weights_of(key, number, sample_weight=None):
    """The weights of a draw, as the module states them."""
    factor = np.asarray(jax.random.exponential(jax.random.fold_in(key, number), (NUM,), "float64"))
    weight = factor if sample_weight is None else factor * sample_weight
    total = NUM if sample_weight is None else sample_weight.sum()
    return weight * total / weight.sum()


def pooled(law, x):
    """The covariance within the components of a mixture, pooled over them."""
    table = np.asarray(law.responsibilities(x))
    mean = table.T @ x / table.sum(axis=0)[:, None]
    offset = x[:, None] - mean[None]
    return np.einsum("nk,nkd,nke->de", table, offset, offset) / len(x)


def weighted_em(x, weight, share, mean, covariance, num_steps=200):
    """Maximum likelihood of a Gaussian mixture on weighted points."""
    for _ in range(num_steps):
        laws = [scipy.stats.multivariate_normal(m, c) for m, c in zip(mean, covariance, strict=True)]
        joint = np.array([law.logpdf(x) for law in laws]) + np.log(share)[:, None]
        log_prob = np.logaddexp.reduce(joint, axis=0)
        table = np.exp(joint - log_prob) * weight
        size = table.sum(axis=1)
        share, mean = size / size.sum(), table @ x / size[:, None]
        offset = x[None] - mean[:, None]
        covariance = np.einsum("kn,knd,kne->kde", table, offset, offset) / size[:, None, None]
    return share, mean, covariance, weight @ log_prob / weight.sum(), log_prob.mean()


def test_weights_are_dirichlet_times_the_sample_weights(x64):
    given = jnp.asarray(np.r_[np.full(NUM // 2, 2.0), np.zeros(NUM // 4), np.ones(NUM // 4)])
    padded = jnp.pad(given, (0, 8)).reshape(2, -1)
    drawn = np.asarray(_random_weight(jax.random.fold_in(jax.random.key(5), 3), padded)).ravel()
    np.testing.assert_allclose(drawn[:NUM], weights_of(jax.random.key(5), 3, np.asarray(given)), rtol=1e-12)
    assert (drawn[NUM:] == 0).all()
    plain = weights_of(jax.random.key(5), 3)
    # The marginals of a Dirichlet(1, ..., 1) law.
    assert scipy.stats.kstest(plain / NUM, scipy.stats.beta(1, NUM - 1).cdf).pvalue > 0.01


def test_one_gaussian_has_the_weighted_moments(x64):
    """And its mean has standard deviation s / sqrt(n + 1) over draws, given the data."""
    x, key = points(), jax.random.key(1)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 1, **PLAIN)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=300, **PLAIN)
    assert bool(draws.converged.all())
    mean, covariance = draws.mixtures.components.loc, jax.vmap(lambda m: m.covariance())(draws.mixtures)
    for number in (0, 1, 57, 299):
        weight = weights_of(key, number)
        np.testing.assert_allclose(mean[number, 0], np.average(x, axis=0, weights=weight), rtol=1e-9)
        expected = np.cov(x.T, aweights=weight, ddof=0)
        np.testing.assert_allclose(covariance[number], expected, rtol=1e-9)
        law = scipy.stats.multivariate_normal(np.average(x, axis=0, weights=weight), expected)
        assert float(draws.log_likelihoods[number]) == pytest.approx(law.logpdf(x).mean(), rel=1e-9)
        weighted = np.average(law.logpdf(x), weights=weight)
        assert float(draws.weighted_log_likelihoods[number]) == pytest.approx(weighted, rel=1e-9)
    spread = x.std(axis=0) / np.sqrt(NUM + 1)
    # The standard error of a standard deviation is 1 / sqrt(2 S) of it: 4 %; within 4 of them.
    np.testing.assert_allclose(np.std(mean[:, 0], axis=0), spread, rtol=0.16)
    assert (np.abs(np.mean(mean[:, 0], axis=0) - x.mean(axis=0)) < 4 * spread / np.sqrt(300)).all()


@pytest.mark.parametrize("offset", [8.0, 2.5])
def test_two_gaussians_are_those_of_a_weighted_em(offset, x64):
    """Well separated, and overlapping: the refits go all the way to the optimum of their weights."""
    x, key, given = points(2, offset), jax.random.key(2), np.random.default_rng(0).integers(1, 4, NUM)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 2, sample_weight=given, **PLAIN)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=20, sample_weight=given, **PLAIN)
    assert bool(draws.converged.all())
    parts = fitted.mixture.components
    start = [np.asarray(v) for v in (fitted.mixture.weights, parts.mean(), parts.covariance())]
    covariance = jax.vmap(lambda m: m.components.covariance())(draws.mixtures)
    # What is left of EM's linear convergence at the default tolerance, in units of the draws' deviations.
    slack = {8.0: 1e-4, 2.5: 0.05}[offset]
    deviations = [np.std(v, axis=0) for v in (draws.mixtures.weights, draws.mixtures.components.loc, covariance)]
    for number in (0, 7, 19):
        weight = weights_of(key, number, given)
        expected = weighted_em(x, weight, *start, num_steps=50 if offset > 5 else 1000)
        ours = draws.mixtures.weights[number], draws.mixtures.components.loc[number], covariance[number]
        for value, right, deviation in zip(ours, expected, deviations, strict=False):
            assert (np.abs(value - right) < slack * deviation).all()
        assert float(draws.weighted_log_likelihoods[number]) == pytest.approx(expected[3], abs=1e-6)


def test_one_laplace_has_weighted_medians(x64):
    """A family whose M-step needs all points at once."""
    x, key = points(3), jax.random.key(3)
    fitted = omt.fit(jax.random.key(0), x, Laplace, 1, **PLAIN)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=6, **PLAIN)
    assert bool(draws.converged.all())
    for number in range(6):
        weight = weights_of(key, number)
        for column in range(2):
            order = np.argsort(x[:, column])
            mass = np.cumsum(weight[order])
            median = x[order[np.searchsorted(mass, 0.5 * mass[-1])], column]
            assert float(draws.mixtures.components.loc[number, 0, column]) == pytest.approx(median, rel=1e-9)
            scale = np.average(np.abs(x[:, column] - median), weights=weight)
            assert float(draws.mixtures.components.scale[number, 0, column]) == pytest.approx(scale, rel=1e-9)


def test_draws_depend_on_the_key_and_their_number_only(x64):
    x, key = points(4), jax.random.key(4)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 2)
    draws = bootstrap_mixtures(key, x, fitted.mixture, num_draws=10)
    blocks = bootstrap_mixtures(key, x, fitted, num_draws=10, block_size=4)
    fewer = bootstrap_mixtures(key, x, fitted, num_draws=5)
    jax.tree.map(np.testing.assert_array_equal, draws, blocks)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:5], b), draws, fewer)
    chunks = bootstrap_mixtures(key, x, fitted, num_draws=10, chunk_size=130)
    np.testing.assert_allclose(chunks.mixtures.components.loc, draws.mixtures.components.loc, rtol=1e-9)
    other = bootstrap_mixtures(jax.random.key(5), x, fitted, num_draws=10)
    assert (np.asarray(other.log_likelihoods) != np.asarray(draws.log_likelihoods)).all()


def test_several_draws_at_once_are_the_same_draws(x64, monkeypatch):
    x, key = points(4), jax.random.key(4)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 2)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=10)
    monkeypatch.setattr("omt_expfam._fitting.bootstrap._BATCH_TABLE", 0)
    batched = bootstrap_mixtures(key, x, fitted, num_draws=10)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), draws, batched)


def test_the_prior_is_that_of_the_fit(x64):
    """A billion pseudo-observations pin the covariances to the target: the spread pooled where the fit started."""
    x, strong = points(6, 2.5), {"covariance_prior": 1e9, "regularization": 0.0}
    first = omt.fit(jax.random.key(0), x, Gaussian, 2)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 2, start=first.mixture, throw=False, max_steps=50, **strong)
    draws = bootstrap_mixtures(jax.random.key(6), x, fitted, num_draws=4, prior_from=first.mixture, **strong)
    covariance = jax.vmap(lambda m: m.components.covariance())(draws.mixtures)
    target = np.broadcast_to(pooled(first.mixture, x), (4, 2, 2, 2))
    np.testing.assert_allclose(covariance, target, rtol=1e-5)
    np.testing.assert_allclose(fitted.mixture.components.covariance(), target[0], rtol=1e-5)


def test_fixed_parameters_and_ones_own_families():
    """A template's rank is kept; a family of one's own needs no more than `fit` does."""

    class Rayleigh(omt.extend.AbstractFactorizedFamily):
        support, start = constraints.positive, (-1.0,)

        def _statistics(self, x):
            return (x**2,)

        def _log_base(self, x):
            return jnp.log(x)

        def _log_normalizer(self, eta):
            return -jnp.log(-2 * eta[0])

    key, x = jax.random.key(7), np.abs(points(7)) + 0.01
    fitted = omt.fit(jax.random.key(0), x, Rayleigh, 1, **PLAIN)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=4, **PLAIN)
    with jax.enable_x64(True):
        expected = [-1 / np.average(x**2, axis=0, weights=weights_of(key, i)) for i in range(4)]
    np.testing.assert_allclose(draws.mixtures.components.natural[:, 0, :, 0], expected, rtol=1e-5)
    low = omt.fit(jax.random.key(0), points(), omt.template(LowRankGaussian, rank=1), 1)
    assert bootstrap_mixtures(key, points(), low, num_draws=4).mixtures.components.factor.shape == (4, 1, 2, 1)


@pytest.mark.parametrize("inside", ["float64", "float32"])
def test_float32_data_give_float32_draws(inside):
    x, key = points().astype("float32"), jax.random.key(8)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 1, **PLAIN)
    draws = bootstrap_mixtures(key, x, fitted, num_draws=4, dtype=inside, **PLAIN)
    assert not jax.config.jax_enable_x64
    assert {leaf.dtype.name for leaf in jax.tree.leaves(draws)} == {"float32", "int32", "bool"}
    assert bool(draws.converged.all())
    if inside == "float64":
        with jax.enable_x64(True):
            expected = np.average(x, axis=0, weights=weights_of(key, 2))
        np.testing.assert_allclose(draws.mixtures.components.loc[2, 0], expected, rtol=1e-5)


def test_draws_that_do_not_converge_are_marked():
    x = points(2, 2.5)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 2)
    draws = bootstrap_mixtures(jax.random.key(9), x, fitted, num_draws=4, max_steps=3)
    assert not draws.converged.any()
    assert (draws.num_steps == 3).all()
    assert np.isfinite(np.asarray(draws.log_likelihoods)).all()


def test_a_lost_component_keeps_its_shape():
    """One far from all points has weight zero in every draw."""
    x = points()
    parts = Gaussian(np.array([[4.0, 4.0], [1e4, 1e4]]), np.stack([20 * np.eye(2), 2 * np.eye(2)]))
    start = omt.Mixture(np.array([0.5, 0.5]), parts)
    draws = bootstrap_mixtures(jax.random.key(10), x, start, num_draws=4)
    assert bool(draws.converged.all())
    assert (draws.mixtures.weights[:, 1] == 0).all()
    assert (draws.effective_sizes[:, 1] == 0).all()
    np.testing.assert_allclose(draws.mixtures.components.loc[:, 1], 1e4, rtol=1e-5)
    np.testing.assert_allclose(draws.effective_sizes[:, 0], NUM, rtol=1e-5)


def test_bad_arguments_are_refused():
    x, key = points(), jax.random.key(0)
    start = omt.fit(key, x, Gaussian, 1).mixture
    with pytest.raises(TypeError, match="^`start` must be a Fit or a Mixture; got str"):
        bootstrap_mixtures(key, x, "merge")
    with pytest.raises(ValueError, match="^`start` must have 1 components in 1 dimensions; got 1 in 2"):
        bootstrap_mixtures(key, x[:, :1], start)
    with pytest.raises(TypeError, match="^`start` must be a mixture of Laplace components; got Gaussian"):
        bootstrap_mixtures(key, x, start, Laplace)
    with pytest.raises(ValueError, match="^`num_draws` must be at least 1"):
        bootstrap_mixtures(key, x, start, num_draws=0)
    with pytest.raises(ValueError, match="^`block_size` must be at least 1"):
        bootstrap_mixtures(key, x, start, block_size=0)
    with pytest.raises(ValueError, match="^`sample_weight` must have shape"):
        bootstrap_mixtures(key, x, start, sample_weight=np.ones(3))
