"""Ranks of truths among draws: against counting, and for a posterior that is right and one that is not."""

import dataclasses

import jax
import numpy as np
import numpyro.distributions as dist
import pytest

import omt_expfam as omt
from omt_expfam._base.precision import relaxed
from omt_expfam.diagnostics import Calibration, calibration
from omt_expfam.families import DiagonalGaussian
from tests.posteriors.test_fit_posterior import data, METHODS


def of_ranks(ranks, num_draws=99):
    return Calibration(("a",), np.asarray(ranks)[:, None], num_draws, np.ones(len(ranks), bool))


def test_histograms_and_p_values_of_known_ranks():
    even = of_ranks(np.arange(100))
    np.testing.assert_array_equal(even.histogram()[:, 0], np.full(10, 10))
    np.testing.assert_allclose(even.p_values, 1)
    # All ranks low: nothing of this kind happens to a posterior that is right.
    assert of_ranks(np.arange(100) // 2).p_values[0] < 1e-6
    # Bins that hold unequally many ranks: 11 values in four bins.
    np.testing.assert_allclose(of_ranks(np.arange(22) % 11, 10).p_values, 1)
    lines = str(even).splitlines()
    assert lines[1].split()[:3] == ["a", "1.000", "0.500"]
    assert lines[-1] == "100 truths, 0 not converged; spread 1 is uniform"


def test_ranks_are_counted_among_the_draws():
    """Of a largest weight above all others and below; by the programs of other posteriors of this size."""
    with relaxed():
        priors = {
            "loc": dist.Normal(np.zeros(2), 3.0).to_event(1),
            "variance": dist.InverseGamma(np.full(2, 4.0), 3.0).to_event(1),
        }
    model = omt.mixture_model(data(), DiagonalGaussian, 2, priors=priors)
    found = calibration(jax.random.key(0), model, 90, method=METHODS["Gibbs"], num_truths=4, num_draws=50)
    assert found.names == ("mean[0]", "mean[1]", "variance[0]", "variance[1]", "largest_weight")
    assert found.ranks.shape == (4, 5)
    assert ((found.ranks >= 0) & (found.ranks <= 50)).all()
    # Each of the 20 would be at one end with probability 2 / 51.
    assert ((found.ranks > 0) & (found.ranks < 50)).mean() > 0.6
    with pytest.raises(ValueError, match="`num_draws` must be at most the number of draws, 800; got 900"):
        calibration(jax.random.key(0), model, 90, method=METHODS["Gibbs"], num_truths=1, num_draws=900)
    with pytest.raises(TypeError, match="`model` must be a mixture_model of a family"):
        calibration(jax.random.key(0), dataclasses.replace(model, components=None), 90)
