"""EM for families that are not Gaussian, against SciPy's estimates, and the laws that EM obeys."""

import dataclasses

import jax
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam._fitting import problem
from omt_expfam.families import Beta, Exponential, Gamma, Laplace, LogNormal
from tests.family.test_factorized import InverseGaussian, NATURAL, VonMises, Weibull

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0, "tolerance": 1e-10}

# Two components in two dimensions that overlap a little, and SciPy's estimator.
LAWS = {
    "Gamma": (Gamma, ([[3.0, 20.0], [10.0, 2.0]], [[1.0, 10.0], [1.0, 0.2]]), scipy.stats.gamma, {"floc": 0}),
    "LogNormal": (LogNormal, ([[0.0, 1.0], [2.0, 0.0]], [[0.5, 0.3], [0.3, 0.8]]), scipy.stats.lognorm, {"floc": 0}),
    "Beta": (Beta, ([[2.0, 8.0], [8.0, 2.0]], [[5.0, 3.0], [0.8, 6.0]]), scipy.stats.beta, {"floc": 0, "fscale": 1}),
    "Weibull": (Weibull, (NATURAL[Weibull],), scipy.stats.weibull_min, {"floc": 0, "fc": 3}),
}


def law_of(name, dtype="float64"):
    family, arguments = LAWS[name][:2]
    return omt.Mixture(np.array([0.4, 0.6], dtype), family(*(np.asarray(a, dtype) for a in arguments)))


def drawn(name, num=1500):
    return np.asarray(law_of(name, "float32").sample(jax.random.key(0), num), np.float64)


@pytest.mark.parametrize("name", list(LAWS))
def test_one_component_is_scipys_estimate(name, x64):
    """Without a prior: SciPy's maximum likelihood, at least as high."""
    family, _, law, options = LAWS[name]
    x = drawn(name, 800)
    fitted = omt.fit(jax.random.key(0), x, family, 1, **PLAIN)
    assert fitted.converged
    assert int(fitted.num_steps) <= 3
    theirs = [law(*law.fit(column, **options)) for column in x.T]
    best = sum(t.logpdf(column).mean() for t, column in zip(theirs, x.T, strict=True))
    assert -1e-10 < float(fitted.log_likelihood) - best < 1e-5
    np.testing.assert_allclose(fitted.mixture.mean(), [t.mean() for t in theirs], rtol=2e-3)
    np.testing.assert_allclose(fitted.log_likelihood, fitted.mixture.log_prob(x).mean(), rtol=1e-9)


@pytest.mark.parametrize("name", ["Gamma", "LogNormal", pytest.param("Beta", marks=pytest.mark.slow), "Weibull"])
@pytest.mark.parametrize("inside", ["float64", pytest.param("float32", marks=pytest.mark.slow)])
def test_objective_rises_and_the_law_is_recovered(name, inside):
    law, x = law_of(name, "float32"), drawn(name)
    fitted = omt.fit(jax.random.key(1), x.astype("float32"), LAWS[name][0], 2, dtype=inside)
    assert fitted.converged
    rise = np.diff(np.asarray(fitted.objectives)[: int(fitted.num_steps)])
    assert (rise > (-1e-6 if inside == "float64" else -2e-5)).all()
    # Within the n^-1 p of chi-squared fluctuations.
    assert float(fitted.log_likelihood) > float(law.log_prob(x).mean()) - 2e-3
    order = np.argsort(np.asarray(fitted.mixture.weights))
    np.testing.assert_allclose(np.asarray(fitted.mixture.weights)[order], law.weights, atol=0.05)
    spread = np.sqrt(np.diagonal(np.asarray(law.components.covariance()), axis1=1, axis2=2))
    gap = np.asarray(fitted.mixture.components.mean())[order] - np.asarray(law.components.mean())
    assert (np.abs(gap) < 6 * spread / np.sqrt(0.4 * len(x))).all()


@pytest.mark.parametrize("name", ["Gamma", "Beta"])
def test_sample_weights_are_repetitions_and_chunks_change_nothing(name, x64):
    family, x = LAWS[name][0], drawn(name, 300)
    counts = np.random.default_rng(1).integers(0, 4, len(x))
    settings = {"start": x[:2], "tolerance": 1e-7, "standardize": False}
    weighted = omt.fit(jax.random.key(0), x, family, 2, sample_weight=counts, **settings)
    repeated = omt.fit(jax.random.key(0), np.repeat(x, counts, axis=0), family, 2, **settings)
    np.testing.assert_allclose(weighted.mixture.components.mean(), repeated.mixture.components.mean(), rtol=1e-6)
    np.testing.assert_allclose(weighted.log_likelihood, repeated.log_likelihood, rtol=1e-9)
    parts = omt.fit(jax.random.key(0), x, family, 2, sample_weight=counts, chunk_size=130, **settings)
    np.testing.assert_allclose(parts.mixture.components.mean(), weighted.mixture.components.mean(), rtol=1e-7)


@pytest.mark.parametrize("name", ["Gamma", "LogNormal", "Weibull"])
def test_units_are_irrelevant(name, x64):
    x, unit = drawn(name, 500), np.array([1e-6, 1e7])
    plain, scaled = (omt.fit(jax.random.key(0), data, LAWS[name][0], 2, start="k-means++") for data in (x, x * unit))
    expected = np.asarray(plain.mixture.components.mean()) * unit
    np.testing.assert_allclose(scaled.mixture.components.mean(), expected, rtol=1e-6)
    np.testing.assert_allclose(scaled.log_likelihood, plain.log_likelihood - np.log(unit).sum(), rtol=1e-9)


def test_a_mixture_as_a_start_is_left_where_it_is_best(x64):
    x = drawn("Gamma", 500)
    fitted = omt.fit(jax.random.key(0), x, Gamma, 2, tolerance=1e-9)
    again = omt.fit(jax.random.key(0), x, Gamma, 2, start=fitted.mixture, tolerance=1e-7)
    assert int(again.num_steps) <= 3
    np.testing.assert_allclose(again.mixture.components.mean(), fitted.mixture.components.mean(), rtol=1e-3)


@pytest.mark.parametrize("name", list(LAWS))
def test_without_prior_the_likelihood_itself_rises(name, x64):
    """EM from a poor start, and the sums that a step needs are those of the data."""
    x = drawn(name, 300)
    fitted = omt.fit(jax.random.key(0), x, LAWS[name][0], 2, start=x[:2], throw=False, max_steps=30, **PLAIN)
    trace = np.asarray(fitted.log_likelihoods)[: int(fitted.num_steps)]
    assert len(trace) > 3
    assert (np.diff(trace) > -1e-10).all()
    np.testing.assert_allclose(fitted.log_likelihoods, fitted.objectives, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("family", [InverseGaussian, VonMises])
def test_families_of_ones_own(family, x64):
    """One with a statistic that is not a power, one whose log-partition is integrated."""
    law = omt.Mixture(np.array([0.4, 0.6]), family(NATURAL[family]))
    x = np.asarray(law.sample(jax.random.key(0), 3000))
    fitted = omt.fit(jax.random.key(0), x, family, 2, start=law)
    rise = np.diff(np.asarray(fitted.objectives)[: int(fitted.num_steps)])
    assert (rise > -1e-9).all()
    assert 0 < float(fitted.log_likelihood) - float(law.log_prob(x).mean()) < 5e-3
    np.testing.assert_allclose(fitted.mixture.weights, law.weights, atol=0.05)


def test_few_points_and_the_prior():
    """Fewer points than a component has parameters: the pseudo-observation keeps it proper."""
    x = np.array([[0.5], [0.5], [0.5], [2.0], [2.1]])
    fitted = omt.fit(jax.random.key(0), x, Gamma, 2)
    assert np.isfinite(np.asarray(fitted.mixture.log_prob(x))).all()
    failed = omt.fit(jax.random.key(0), x, Gamma, 2, throw=False, **PLAIN)
    assert failed.result == omt.RESULTS.fit_not_finite


@pytest.mark.parametrize(
    ("family", "bad", "words"),
    [(Gamma, 0.0, "positive numbers"), (LogNormal, -1.0, "positive numbers"), (Beta, 1.0, "numbers between 0 and 1")],
)
def test_data_outside_the_support_are_refused(family, bad, words):
    x = np.full((5, 2), 0.5)
    x[3, 1] = bad
    message = rf"^`x` must lie in the support of {family.__name__} \({words}\); got {bad:g} at index \[3, 1\]"
    with pytest.raises(ValueError, match=message):
        omt.fit(jax.random.key(0), x, family, 1)
    with pytest.raises(ValueError, match=f"^`start` must lie in the support of {family.__name__}"):
        omt.fit(jax.random.key(0), np.full((5, 2), 0.5), family, 2, start=x[2:4])


def test_medians_need_all_points_at_once():
    x = np.random.default_rng(0).laplace(size=(50, 1))
    with pytest.raises(ValueError, match="^`chunk_size` must be at least the number of points, 50, for Laplace"):
        omt.fit(jax.random.key(0), x, Laplace, 1, chunk_size=20)


@pytest.mark.parametrize("family", [Gamma, LogNormal, Beta])
def test_bad_parameters_are_refused(family):
    names = [field.name for field in dataclasses.fields(family)]
    with pytest.raises(ValueError, match=rf"`{names[1]}` must be positive; got -1 at index \[0, 1\]"):
        family(np.ones((1, 2)), [[1.0, -1.0]])
    with pytest.raises(ValueError, match=f"`{names[1]}` must have shape"):
        family(np.ones((1, 2)), np.ones((1, 3)))


@pytest.mark.parametrize(
    ("family", "prior"),
    [
        (Gamma, {}),
        (Exponential, {"covariance_prior": 0.0, "regularization": 0.0}),
        *(pytest.param(f, {}, marks=pytest.mark.slow) for f in (Exponential, Laplace, LogNormal)),
    ],
)
def test_padding_changes_nothing(family, prior, monkeypatch, x64):
    """Without room for more points and components: the same steps, the same evidence, the same mixture."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.exponential(1.0, (400, 2)) + 0.1, 3 + rng.exponential(0.5, (300, 2))])
    weight = rng.uniform(0.5, 2, len(x))
    padded = omt.fit(jax.random.key(0), x, family, 3, sample_weight=weight, **prior)
    monkeypatch.setattr(problem, "point_bucket", lambda count: count)
    monkeypatch.setattr(problem, "_slots", lambda *arguments: arguments[3])
    monkeypatch.setattr(problem, "_start_slots", lambda template, count: 2 * count)
    plain = omt.fit(jax.random.key(0), x, family, 3, sample_weight=weight, **prior)
    for ours, theirs in zip(jax.tree.leaves(padded), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)
