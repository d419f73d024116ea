"""What the benchmark of time courses is measured with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from benchmarks.experiments import time_courses
from omt_expfam.families import Gaussian


def test_fates_are_shares_of_descendants():
    law = time_courses.Branching()
    rng = np.random.default_rng(0)
    x, branch = law.snapshot(rng, 2.0, 200_000)
    # Cells in a small ball, each leaving exp(rate) descendants per unit of time.
    near = np.linalg.norm(x - x[0], axis=1) < 0.5
    mass = np.bincount(branch[near], minlength=3) * np.exp(2 * law.rates)
    mean = law.fates(x[near], 2.0) * (law.branches(x[near], 2.0) @ np.exp(2 * law.rates))[:, None]
    np.testing.assert_allclose(mean.sum(0) / mean.sum(), mass / mass.sum(), atol=0.02)
    np.testing.assert_allclose(law.fates(x[:5], 4.0), law.branches(x[:5], 4.0))
    assert law.growth(x[:5], 2.0) == pytest.approx(law.branches(x[:5], 2.0) @ np.exp(law.rates))


@pytest.mark.loose
def test_couplings_of_samples_have_their_marginals():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 2)).astype(np.float32), rng.standard_normal((50, 2)).astype(np.float32)
    growth = rng.uniform(0.5, 2, 40)
    for couple in (time_courses.entropic_coupling, time_courses.exact_coupling):
        found = couple(x, y, growth)
        np.testing.assert_allclose(found.sum(1), growth / growth.sum(), atol=1e-4)
        np.testing.assert_allclose(found.sum(0), 1 / 50, atol=1e-4)
    # On the line the optimal coupling sorts.
    line = time_courses.exact_coupling(np.sort(x[:, :1], 0), np.sort(y[:40, :1], 0))
    np.testing.assert_allclose(line, np.eye(40) / 40)


def test_distances_between_samples_are_exact():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 1)), 1 + rng.standard_normal((60, 1))
    found = time_courses.distances(x, y)
    assert found["W1"] == pytest.approx(scipy.stats.wasserstein_distance(x[:, 0], y[:, 0]))
    assert found["W2"] == pytest.approx(np.sqrt(((np.sort(x, 0) - np.sort(y, 0)) ** 2).mean()))


def test_a_projected_mixture_is_the_marginal():
    mixture = omt.Mixture([0.3, 0.7], Gaussian(jnp.arange(6.0).reshape(2, 3), jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])))
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 2)))[0]
    flat = time_courses.project(mixture, np.ones(3), basis)
    draws = (np.asarray(mixture.sample(jax.random.key(0), 50_000)) - 1) @ basis
    np.testing.assert_allclose(flat.mean(), draws.mean(0), atol=0.05)
    np.testing.assert_allclose(flat.covariance(), np.cov(draws.T), atol=0.15)


def test_summaries_are_means_and_deviations():
    rows = [{"a": "x", "v": 1.0}, {"a": "y", "v": 5.0}, {"a": "x", "v": 3.0}]
    assert time_courses.summary(rows, ("a",), ("v",), 1) == [["x", "2.0 ± 1.4"], ["y", "5.0"]]
