"""Approximate posteriors are corrected by importance weights where these can be trusted, and flagged elsewhere."""

import jax
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam._base.results import RESULTS
from omt_expfam._posteriors import fit as fitting
from omt_expfam._posteriors.arviz import pareto_k_of, pareto_smoothed
from omt_expfam._posteriors.methods.drift import Allowance, measure, OF_REFITS
from omt_expfam._posteriors.methods.importance import corrected
from omt_expfam._posteriors.methods.method import PosteriorProblem, sites_at
from omt_expfam._posteriors.methods.mode import find_mode
from omt_expfam.families import DiagonalGaussian, Gaussian, Laplace


def weighed(target, proposal, num=3000):
    u = proposal.rvs(size=8192, random_state=1)
    ok = RESULTS.successful
    return u, corrected(jax.random.key(0), {"u": u}, target.logpdf(u), proposal.logpdf(u), num, {"elbo": u[:3]}, ok)


@pytest.mark.parametrize("shift", [0.0, 1e7])
def test_draws_are_those_of_the_posterior(shift):
    """Of a skewed law, approximated by a normal one; log densities are known up to a constant."""
    target = scipy.stats.skewnorm(4.0, loc=-0.8)
    u = scipy.stats.norm(scale=1.2).rvs(size=8192, random_state=1)
    draws = corrected(
        jax.random.key(0), {"u": u}, target.logpdf(u) - shift, -0.5 * (u / 1.2) ** 2, 3000, {}, RESULTS.successful
    )
    found = draws.sites["u"]
    assert found.shape == draws.statistics["lp"].shape == (1, 3000)
    assert draws.result == RESULTS.successful
    assert scipy.stats.ks_1samp(u, target.cdf).statistic > 0.15
    assert scipy.stats.ks_1samp(found[0], target.cdf).statistic < 0.03
    np.testing.assert_allclose([found.mean(), found.std()], [target.mean(), target.std()], atol=0.03)
    # In random order: chains are cut in halves.
    assert scipy.stats.ks_2samp(found[0, :1500], found[0, 1500:]).pvalue > 1e-3
    weights = np.asarray(draws.traces["log_weight"], np.float32)
    assert weights.max() == 0
    assert pareto_k_of(weights.astype(float)) < 0.7


def test_draws_too_far_off_are_flagged_and_left():
    u, draws = weighed(scipy.stats.norm(), scipy.stats.norm(scale=0.4))
    assert draws.result == RESULTS.approximation_poor
    np.testing.assert_array_equal(draws.sites["u"][0], u[:3000])
    np.testing.assert_array_equal(draws.traces["elbo"], u[:3])
    _, few = weighed(scipy.stats.norm(), scipy.stats.norm(scale=0.4), num=10_000)
    np.testing.assert_array_equal(few.sites["u"][0], np.resize(u, 10_000))


def test_pareto_k_is_that_of_the_weights():
    """Densities of a tail index: with ratios u^-k, u uniform, the k is k. Weights that are not finite have none."""
    u = np.random.default_rng(0).uniform(size=20_000)
    for k in (0.3, 0.8):
        assert pareto_smoothed(-k * np.log(u))[1] == pytest.approx(k, abs=0.1)
    assert pareto_smoothed(np.array([0.0, np.nan, 1.0]))[1] == np.inf


def five_overlapping(num):
    """The largest of five weights, by NUTS, is .53 +- .08 for some such data where approximations say .33 +- .03."""
    rng = np.random.default_rng(0)
    means = np.array([(0, 0), (2.5, 0), (0, 2.5), (2.2, 2.2), (-2, -1.5)])
    labels = rng.choice(5, p=[0.3, 0.25, 0.2, 0.15, 0.1], size=num)
    spread = np.array([0.9, 0.8, 1.0, 0.7, 1.1])[labels, None]
    return means[labels] + spread * (rng.standard_normal((num, 2)) @ np.array([[1, 0.4], [0, 0.9]]))


@pytest.fixture(scope="module")
def overlapping():
    method = omt.LaplaceApproximation(num_samples=100)
    return omt.fit_posterior(jax.random.key(0), five_overlapping(150), Gaussian, 5, method=method, throw=False)


def test_overlapping_components_are_flagged(overlapping):
    assert overlapping.pareto_k > 0.7
    assert not overlapping.converged
    assert overlapping.num_draws == 100
    printed = str(overlapping)
    assert f"Pareto k {overlapping.pareto_k:.2f}" in printed
    assert "r-hat" not in printed.split("NOT TO BE TRUSTED")[0]
    assert "Use Gibbs() or NUTS()" in printed


def test_refits_that_are_no_posterior_are_flagged():
    """Of overlapping components; without the comparison nobody is told."""
    x = five_overlapping(150)
    found = omt.fit_posterior(jax.random.key(0), x, Gaussian, 5, method=omt.Bootstrap(num_samples=60), throw=False)
    assert not found.converged
    assert found.drift > 0.1
    assert np.isnan(found.pareto_k)
    assert "spread of refits, drift" in str(found)
    method = omt.Bootstrap(num_samples=60, compare=False)
    found = omt.fit_posterior(jax.random.key(0), x, Gaussian, 5, method=method)
    assert np.isnan(found.drift)
    assert "spread of refits, not compared with the posterior" in str(found)


def test_drift_of_draws_that_are_too_near_or_off():
    """Draws of a nearly normal posterior shrunk to half their distance, which then doubles."""
    x = np.random.default_rng(0).standard_normal((1000, 1))
    with jax.enable_x64(True):
        model = omt.mixture_model(x, DiagonalGaussian, 1)
        problem = PosteriorProblem(x, model, None, None, None, None)
        target = problem.target()
        mode = find_mode(target, jax.numpy.zeros(target.dim))
        z = np.random.default_rng(2).standard_normal((128, target.dim))

        def drift(z):
            u = np.asarray(mode.center) + z @ np.asarray(mode.factor).T
            sites = jax.tree.map(np.asarray, sites_at(target, jax.device_put(u)))
            return measure(jax.random.key(2), target, mode.center, mode.factor, sites, 128)

        right, near, off = drift(z), drift(0.5 * z), drift(z + 1.0)
    assert right.within(Allowance())
    assert near.outward == pytest.approx((1 - 0.5) / 0.75, abs=4 * near.outward_error)
    assert not near.within(OF_REFITS)
    assert off.shift > 0.6
    assert not off.within(OF_REFITS)


def test_separated_components_are_not():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 2)) + rng.choice([-20, -10, 0, 10, 20], size=400)[:, None]
    method = omt.LaplaceApproximation(num_samples=100)
    found = omt.fit_posterior(jax.random.key(0), x, Gaussian, 5, method=method)
    assert found.pareto_k < 0.7
    assert abs(found.drift) < 0.1
    assert found.converged
    assert found.labelling.identified


def test_the_default_gives_way_to_nuts(monkeypatch):
    """Where the approximation is poor; of a family without a Gibbs sampler."""

    class Poor(omt.LaplaceApproximation):
        def _draw(self, key, problem):
            draws = super()._draw(key, problem)
            return draws._replace(result=RESULTS.approximation_poor, traces={"log_weight": np.linspace(-3, 0, 100)})

    class Exact(omt.LaplaceApproximation):
        @property
        def name(self):
            return "NUTS"

    monkeypatch.setattr(fitting, "LaplaceApproximation", Poor)
    monkeypatch.setattr(fitting, "NUTS", Exact)
    x = np.random.default_rng(0).laplace(size=(60, 1))
    found = omt.fit_posterior(jax.random.key(0), x, Laplace, 1)
    assert found.converged
    assert found.method.startswith("NUTS (the Laplace approximation's Pareto k is ")
    given = omt.fit_posterior(jax.random.key(0), x, Laplace, 1, method=Poor(), throw=False)
    assert not given.converged
    assert given.method == "Laplace approximation"
    with pytest.raises(omt.ConvergenceError, match="Pareto k above 0.7"):
        omt.fit_posterior(jax.random.key(0), x, Laplace, 1, method=Poor())
