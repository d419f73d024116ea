"""Data without a density in all directions: constant and dependent columns, few points, repeated points."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, SphericalGaussian

# Few points, short loops: compiling costs more than running.
pytestmark = pytest.mark.optimize(False)


def _cases():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((60, 3))
    return {
        "simplex": (rng.dirichlet(np.ones(3), 60), 2),
        "fewer points than dimensions": (rng.standard_normal((8, 12)), 2),
        "constant column": (np.c_[points[:, :2], np.full(60, 3.0)], 2),
        "duplicated column": (points[:, [0, 1, 0]], 2),
        "one point": (points[:1], 1),
        "equal points": (np.repeat(points[:1], 60, 0), 2),
        "repeated rows": (np.repeat(points[:5], 12, 0), 4),
    }


@pytest.mark.parametrize("family", [Gaussian, DiagonalGaussian, SphericalGaussian])
@pytest.mark.parametrize("name", _cases())
def test_singular_data_are_fitted(name, family):
    """The mean of the mixture is that of the points, and the likelihood that of its parameters in SciPy."""
    points, num_components = _cases()[name]
    fit = omt.fit(jax.random.key(0), points.astype("float32"), family, num_components)
    assert bool(fit.converged)
    np.testing.assert_allclose(fit.mixture.mean(), points.mean(0), atol=1e-4)
    parts = [np.asarray(v, np.float64) for v in (fit.mixture.components.mean(), fit.mixture.components.covariance())]
    densities = [scipy.stats.multivariate_normal(m, c, allow_singular=True) for m, c in zip(*parts, strict=True)]
    rounded = points.astype("float32").astype(np.float64)
    table = (
        np.stack([density.logpdf(rounded).reshape(-1) for density in densities])
        + np.log(np.asarray(fit.mixture.weights, np.float64))[:, None]
    )
    if all(density.cov_object.rank == points.shape[1] for density in densities):
        expected = scipy.special.logsumexp(table, axis=0).mean()
        np.testing.assert_allclose(np.asarray(fit.log_likelihood), expected, rtol=0.02, atol=0.1)


def test_undetermined_components_are_named():
    """Two points in two dimensions cannot tell the five parameters of a component."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.standard_normal((50, 2)), [[20.0, 20.0], [20.5, 20.0]]]).astype("float32")
    fit = omt.fit(jax.random.key(0), x, Gaussian, 2)
    assert sorted(fit.undetermined.tolist()) == [False, True]
    assert fit.undetermined[np.argmin(fit.effective_sizes)]
    assert "components with fewer points than parameters: 1" in repr(fit)
    assert "fewer points" not in repr(omt.fit(jax.random.key(0), x, Gaussian, 1))


def test_one_far_point_does_not_blind_the_fit():
    """The others are fitted as without it, and it is named."""
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.standard_normal((300, 2)), rng.standard_normal((200, 2)) + 6])
    with pytest.warns(UserWarning, match=r"`x` has 1 points far from all others in column 0, such as 100000"):
        fit = omt.fit(jax.random.key(0), np.concatenate([x, [[1e5, 1e5]]]), Gaussian, 3)
    means = np.sort(np.asarray(fit.mixture.components.mean())[:, 0])
    np.testing.assert_allclose(means, [x[:300, 0].mean(), x[300:, 0].mean(), 1e5], atol=0.1)


def test_sentinels_are_named_and_stand_alone():
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.standard_normal((300, 1)), np.full((3, 1), -9999.0)])
    with pytest.warns(UserWarning, match=r"`x` has 3 points far .* such as -9999: sentinels"):
        fit = omt.fit(jax.random.key(0), x, Gaussian, 2)
    variance = np.asarray(fit.mixture.components.covariance())[np.argmax(fit.mixture.weights), 0, 0]
    np.testing.assert_allclose(variance, x[:300].var(), rtol=0.05)


def test_the_prior_is_that_of_a_full_target(x64):
    """-strength / 2 (log det + tr(Sigma^-1 S)), also for an S without an inverse."""
    rng = np.random.default_rng(1)
    root = np.tril(rng.standard_normal((2, 3, 3))) + 3 * np.eye(3)
    components = Gaussian(np.zeros((2, 3)), scale_tril=root)
    direction = rng.standard_normal(3)
    target = np.outer(direction, direction)
    found = components._log_prior(jax.numpy.asarray(target[np.triu_indices(3)]), jax.numpy.asarray(5.0))
    covariances = root @ root.transpose(0, 2, 1)
    expected = [-2.5 * (np.linalg.slogdet(c)[1] + np.trace(np.linalg.solve(c, target))) for c in covariances]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
