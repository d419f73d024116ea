"""Fits of Student-t components: SciPy's maximum, monotone objectives, and far points that Gaussians follow."""

import jax
import numpy as np
import pytest
import scipy.stats
from scipy.optimize import minimize

import omt_expfam as omt
from omt_expfam.families import DiagonalStudentT, Gaussian, StudentT

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0, "tolerance": 1e-10}
CENTERS = np.array([[0.0, 0.0], [6.0, 1.0], [1.0, 7.0]])
FITTED = {"full": StudentT, "diagonal": DiagonalStudentT, "fixed": omt.template(StudentT, df=3.0)}


@pytest.fixture(scope="module")
def heavy():
    """Points of one law with weights."""
    law = scipy.stats.multivariate_t([1.0, -2.0], [[2.0, 0.7], [0.7, 1.0]], 3.5)
    rng = np.random.default_rng(0)
    return law.rvs(400, random_state=rng), rng.uniform(0.5, 1.5, 400)


def contaminated(num=900):
    """Three round groups, and one point in twenty anywhere."""
    rng = np.random.default_rng(1)
    x = CENTERS[rng.integers(0, 3, num)] + rng.standard_normal((num, 2))
    return np.where(rng.random(num)[:, None] < 0.05, rng.uniform(-60, 60, (num, 2)), x)


@pytest.mark.parametrize("name", list(FITTED))
def test_one_component_is_the_maximum_that_scipy_finds(name, heavy, x64):
    x, weight = heavy

    def law(p):
        tril = np.array([[np.exp(p[2]), 0.0], [p[4] if name != "diagonal" else 0.0, np.exp(p[3])]])
        return scipy.stats.multivariate_t(p[:2], tril @ tril.T, 3.0 if name == "fixed" else np.exp(p[5]))

    def loss(p):
        return -np.average(law(p).logpdf(x), weights=weight)

    best = minimize(loss, [0.0, 0.0, 0.0, 0.0, 0.0, 1.0], method="BFGS", options={"gtol": 1e-7})
    found = omt.fit(jax.random.key(0), x, FITTED[name], 1, sample_weight=weight, **PLAIN)
    parts = found.mixture.components
    assert abs(float(found.log_likelihood) + best.fun) < 1e-9
    np.testing.assert_allclose(parts.loc[0], law(best.x).loc, atol=2e-4)
    np.testing.assert_allclose(parts.df[0], law(best.x).df, rtol=2e-3)
    assert (np.diff(found.objectives[: int(found.num_steps)]) > -1e-13).all()


@pytest.mark.parametrize("name", list(FITTED))
def test_far_points_do_not_move_the_means(name, x64):
    """One in twenty anywhere in a square of width 120: a Gaussian fit gives them a component of their own."""
    x = contaminated()
    robust = omt.fit(jax.random.key(0), x, FITTED[name], 3)
    objectives = np.asarray(robust.objectives)[: int(robust.num_steps)]
    assert (np.diff(objectives) > -1e-9).all()

    def distance(fitted):
        means = np.asarray(fitted.mixture.components.loc)
        return np.linalg.norm(means[None] - CENTERS[:, None], axis=2).min(1).max()

    assert distance(robust) < 0.25
    if name == "fixed":
        assert distance(omt.fit(jax.random.key(0), x, Gaussian, 3)) > 2
        again = omt.fit(jax.random.key(0), x, robust.mixture.components, 3)
        np.testing.assert_array_equal(again.mixture.components.df, 3.0)
        assert robust.mixture.components._num_parameters() == 5


def test_normal_points_have_many_degrees_and_other_parameters_are_refused(x64):
    x = np.random.default_rng(0).standard_normal((900, 2))
    assert float(omt.fit(jax.random.key(0), x, StudentT, 1).mixture.components.df[0]) > 30
    with pytest.raises(TypeError, match="StudentT takes `df` alone to be held fixed; got scale"):
        omt.fit(jax.random.key(0), x, omt.template(StudentT, scale=1.0), 1)
    with pytest.raises(ValueError, match="`df` must be positive; got 0"):
        StudentT(np.zeros((1, 2)), np.eye(2)[None], 0.0)
    with pytest.raises(ValueError, match=r"`df` must be a number or have shape \(1,\)"):
        DiagonalStudentT(np.zeros((1, 2)), np.ones((1, 2)), [3.0, 4.0])
    with pytest.raises(TypeError, match="`df` must be given"):
        StudentT(np.zeros((1, 2)), np.eye(2)[None])
    with pytest.raises(ValueError, match="`scatter` must be symmetric"):
        StudentT(np.zeros((1, 2)), np.array([[[1.0, 0.5], [0.0, 1.0]]]), 3.0)
