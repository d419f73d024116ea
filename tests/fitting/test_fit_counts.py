"""Fits of counts, against SciPy's maximizers, and what cannot be fitted."""

import jax
import numpy as np
import pytest
import scipy.stats as st
from scipy.optimize import minimize
from scipy.special import expit

import omt_expfam as omt
from omt_expfam.families import Binomial, NegativeBinomial, Poisson

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}
TRIALS = 12


def _data(name, num=600):
    """Two populations in three columns, and their labels."""
    rng = np.random.default_rng(3)
    z = rng.random(num) < 0.4
    first, second = np.array([2.0, 9.0, 0.5]), np.array([7.0, 1.0, 3.0])
    rates = np.where(z[:, None], first, second)
    if name == "Poisson":
        return rng.poisson(rates).astype(float), z
    if name == "Binomial":
        return rng.binomial(TRIALS, rates / 12).astype(float), z
    return rng.poisson(rng.gamma(2.5, rates / 2.5)).astype(float), z


FAMILIES = {
    "Poisson": Poisson,
    "Binomial": omt.template(Binomial, total_count=TRIALS),
    "NegativeBinomial": NegativeBinomial,
}


@pytest.mark.parametrize("name", list(FAMILIES))
def test_one_component_is_the_maximum_that_scipy_finds(name, x64):
    x, _ = _data(name)
    fitted = omt.fit(jax.random.key(0), x, FAMILIES[name], 1, **PLAIN)

    def loss(parameters, column):
        first = np.exp(parameters[0])
        if name == "Poisson":
            return -st.poisson(first).logpmf(column).mean()
        if name == "Binomial":
            return -st.binom(TRIALS, expit(parameters[0])).logpmf(column).mean()
        second = np.exp(parameters[1])
        return -st.nbinom(second, second / (first + second)).logpmf(column).mean()

    best = [
        minimize(loss, [0.0, 0.0], column, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
        for column in x.T
    ]
    np.testing.assert_allclose(fitted.log_likelihood, -sum(b.fun for b in best), rtol=1e-9)
    np.testing.assert_allclose(fitted.mixture.components.mean()[0], x.mean(0), rtol=1e-6)
    if name == "NegativeBinomial":
        parts = fitted.mixture.components
        np.testing.assert_allclose(np.log(parts.concentration[0]), [b.x[1] for b in best], atol=1e-3)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_likelihood_rises_and_populations_are_recovered(name, x64):
    x, z = _data(name)
    fitted = omt.fit(jax.random.key(0), x, FAMILIES[name], 2)
    objectives = np.asarray(fitted.objectives)
    objectives = objectives[np.isfinite(objectives)]
    assert (np.diff(objectives) > -1e-9 * np.abs(objectives[1:])).all()
    means = np.asarray(fitted.mixture.components.mean())
    order = np.argsort(means[:, 0])
    truth = np.array([[2.0, 9.0, 0.5], [7.0, 1.0, 3.0]])
    np.testing.assert_allclose(means[order], truth, rtol=0.2, atol=0.1)
    np.testing.assert_allclose(np.asarray(fitted.mixture.weights)[order], [z.mean(), 1 - z.mean()], atol=0.05)


def test_counts_without_overdispersion_come_near_poisson(x64):
    x = np.random.default_rng(0).poisson(4.0, (2000, 1)).astype(float)
    ours, poisson = (omt.fit(jax.random.key(0), x, family, 1, **PLAIN) for family in (NegativeBinomial, Poisson))
    assert float(ours.mixture.components.concentration[0, 0]) > 100
    assert float(ours.log_likelihood) >= float(poisson.log_likelihood) - 1e-6


def test_bad_counts_and_parameters_are_refused():
    x = _data("Poisson", 40)[0]
    cases = {
        "whole numbers from 0": x - 10,
        "got 3.5": x * 0 + 3.5,
        "only zeros in column 1 and in 1 more": x * [1, 0, 0],
    }
    for words, bad in cases.items():
        with pytest.raises(ValueError, match=words):
            omt.fit(jax.random.key(0), bad, NegativeBinomial, 2)
    with pytest.raises(ValueError, match=r"at most `total_count`, 1; got .* template\(Binomial, total_count="):
        omt.fit(jax.random.key(0), x, Binomial, 2)
    with pytest.raises(ValueError, match="`probability` must lie between 0 and 1; got 1 at index"):
        Binomial([[0.5, 1.0]])
    with pytest.raises(ValueError, match="`total_count` must be a whole number of at least 1; got 0"):
        Binomial([[0.5]], 0)
    with pytest.raises(ValueError, match="`concentration` must be positive"):
        NegativeBinomial([[1.0]], [[0.0]])


@pytest.mark.parametrize("name", ["Poisson", "Binomial"])
def test_gibbs_draws_from_the_conjugate_posterior(name, x64):
    """Of one component the posterior is known: gamma or beta laws of the sums."""
    x = _data(name, 60)[0][:, :2]
    posterior = omt.fit_posterior(
        jax.random.key(0), x, FAMILIES[name], 1, method=omt.Gibbs(num_warmup=20, num_samples=500)
    )
    site = "rate" if name == "Poisson" else "probability"
    draws = np.asarray(posterior.parameters[site]).reshape(-1, 2)
    total, num = x.sum(0), len(x)
    law = st.gamma(1 + total, scale=1 / (num + 1 / x.mean(0)))
    if name == "Binomial":
        law = st.beta(1 + total, 1 + TRIALS * num - total)
    np.testing.assert_allclose(draws.mean(0), law.mean(), atol=5 * (law.std() / np.sqrt(len(draws))).max())
    np.testing.assert_allclose(draws.std(0), law.std(), rtol=0.15)
