"""Posteriors are calibrated: ranks of truths from the prior are uniform, intervals cover as often as they say."""

import jax
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from benchmarks.experiments import calibration
from benchmarks.experiments.calibration import Study

P_VALUE = 1e-3


def conjugate_study(num, scale=1.0, shift=0.0, num_draws=99):
    """Normal points of unit variance, a normal prior on their mean; the posterior scaled and shifted."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(num)
    total = truth * 4 + 2 * rng.standard_normal(num)
    deviation = np.sqrt(1 / 5)
    draws = total[:, None] / 5 + deviation * (shift + scale * rng.standard_normal((num, num_draws)))
    return Study(("mean",), truth[:, None], draws[:, None, :], np.ones(num, bool), np.zeros(num))


def p_values(study):
    return np.array([calibration.uniformity(rank, study.draws.shape[2]) for rank in calibration.ranks(study).T])


def test_an_exact_posterior_has_uniform_ranks_and_covers():
    # Quantiles of L draws cover 0.9 (L - 1) / (L + 1), so many are drawn.
    study = conjugate_study(2000, num_draws=999)
    assert (p_values(study) > P_VALUE).all()
    low, high = calibration.binomial_limits(2000, 1 - P_VALUE)
    inside, width = calibration.intervals(study)
    assert low <= inside.mean() <= high
    np.testing.assert_allclose(width.mean(), 2 * scipy.stats.norm.ppf(0.95) / np.sqrt(5), rtol=0.01)


@pytest.mark.parametrize("wrong", [{"scale": 0.7}, {"scale": 1.4}, {"shift": 0.4}])
@pytest.mark.parametrize("num", [200, 500])
def test_a_wrong_posterior_is_detected(wrong, num):
    assert p_values(conjugate_study(num, **wrong)).min() < P_VALUE


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_a_wrong_width_is_seen_in_the_coverage(scale):
    low, high = calibration.binomial_limits(300, 1 - P_VALUE)
    assert not low <= calibration.intervals(conjugate_study(300, scale, num_draws=999))[0].mean() <= high


@pytest.mark.parametrize("num", [100, 300])
def test_evenly_spread_ranks_have_p_values_of_one(num):
    rank = np.arange(num) % 100
    np.testing.assert_allclose(calibration.uniformity(rank, 99), 1, atol=1e-3)


def test_ranks_and_intervals_of_known_draws():
    draws = np.stack([np.arange(99.0), 100 + np.arange(99.0)])[None]
    study = Study(("a", "b"), np.array([[-1.0, 149.5]]), draws, np.ones(1, bool), np.zeros(1))
    np.testing.assert_array_equal(calibration.ranks(study), [[0, 50]])
    inside, width = calibration.intervals(study)
    np.testing.assert_array_equal(inside, [[False, True]])
    np.testing.assert_allclose(width, 0.9 * 98, rtol=1e-6)


def test_binomial_limits_hold_the_stated_probability():
    low, high = calibration.binomial_limits(300, 0.99)
    law = scipy.stats.binom(300, 0.9)
    assert law.cdf(round(300 * high)) - law.cdf(round(300 * low) - 1) >= 0.99
    assert 0.85 < low < 0.9 < high < 0.95


@pytest.fixture(scope="module")
def ranked():
    """Truths from the model's own prior and what Gibbs sampling says of them: labels, maps and costs included."""
    with jax.enable_x64(True):
        return calibration.ranked(60, "Gibbs", seed=1)


@pytest.mark.slow
@pytest.mark.optimized
def test_gibbs_ranks_are_uniform(ranked):
    study = ranked
    assert study.converged.mean() > 0.9
    smallest = dict(zip(study.names, p_values(study).min(axis=1), strict=True))
    assert min(smallest.values()) > P_VALUE, smallest


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.loose
@pytest.mark.parametrize("method", list(calibration.METHODS))
def test_intervals_cover(method, x64, monkeypatch):
    """Costs and maps between two samples of fixed mixtures."""
    # Quantiles of 200 draws cover a hundredth less.
    monkeypatch.setitem(calibration.METHODS, "bootstrap", omt.Bootstrap(num_samples=200, compare=False))
    # Draws that are spread by 0.7, or 1 deviation off, are seen in 40 data sets as in 60; in 30 some are not.
    study = calibration.repeated(40, method, first_seed=1000)
    assert study.converged.all()
    low, high = calibration.binomial_limits(40, 1 - P_VALUE)
    share = calibration.intervals(study)[0].mean(axis=0)
    assert ((low <= share) & (share <= high)).all(), dict(zip(study.names, share.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.optimized
def test_a_posterior_under_another_prior_is_detected(ranked):
    """The same check refuses ranks of truths that the prior did not draw."""
    shifted = ranked._replace(truth=ranked.truth + 0.7 * ranked.draws.std(axis=2))
    assert (p_values(shifted).min(axis=1) < P_VALUE).all()
