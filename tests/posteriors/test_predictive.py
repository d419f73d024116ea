"""Predictive checks: statistics against SciPy, p-values against counting, and what a wrong model shows."""

import jax
import numpy as np
import scipy.stats

from omt_expfam._posteriors.predictive import PredictiveCheck, statistics
from tests.posteriors.test_fit_posterior import data, posterior


def test_statistics_are_scipys():
    x = np.random.default_rng(0).gamma(2.0, size=(50, 2))
    found = dict(zip(*statistics(x), strict=True))
    assert len(found) == 2 * 8 + 1
    np.testing.assert_allclose([found[f"skewness[{i}]"] for i in range(2)], scipy.stats.skew(x))
    np.testing.assert_allclose(found["correlation[1,0]"], scipy.stats.pearsonr(*x.T).statistic)
    np.testing.assert_allclose(found["q90[1]"], np.quantile(x[:, 1], 0.9))


def test_p_values_count_replicates():
    check = PredictiveCheck(
        ("a", "b"), np.array([0.0, 2.0]), np.array([[1.0, 2.0], [2.0, 2.0], [-1.0, 2.0], [3.0, 1.0]])
    )
    np.testing.assert_allclose(check.p_values, [2 * 0.25, 2 * (0.75 / 2)])
    assert [line.split()[0] for line in str(check).splitlines()] == ["statistic", "a", "b"]


def test_a_posterior_looks_like_its_data_and_not_like_others():
    found = posterior("Laplace")
    check = found.predictive_check(jax.random.key(1), num_draws=100)
    assert check.replicated.shape == (100, 17)
    np.testing.assert_allclose(check.observed[:2], data().mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(check.replicated.mean(axis=0)[:2], check.observed[:2], atol=0.1)
    assert check.p_values.min() > 0.01
    stretched = PredictiveCheck.of(1.5 * np.asarray(found.x), np.zeros((1, 90, 2)))
    wrong = PredictiveCheck(check.names, stretched.observed, check.replicated)
    assert dict(zip(wrong.names, wrong.p_values, strict=True))["sd[0]"] < 0.05
