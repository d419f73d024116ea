"""Data without a density in all directions: constant and dependent columns, few points, repeated points."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gamma, Gaussian, SphericalGaussian

# Few points, short loops: compiling costs more than running.


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


def _fit_gamma(x):
    return omt.fit(jax.random.key(0), np.abs(x) + 0.1, Gamma, 2)


def _fit_coupled(x):
    settings = {"strength": 1.0, "epsilon_components": 0.1, "epsilon_weights": 0.1}
    return omt.fit_coupled(jax.random.key(0), x, np.abs(x + 0.5), Gaussian, 2, **settings)


@pytest.mark.parametrize("run", [_fit_gamma, pytest.param(_fit_coupled, marks=pytest.mark.slow)])
def test_a_constant_column_without_a_maximum_is_named_and_leaving_it_out_helps(run):
    random = np.random.default_rng(0)
    x = np.concatenate([random.normal(size=(60, 3)), random.normal(size=(60, 3)) + 4])
    x[:, 1] = 7.0
    with pytest.raises(ValueError, match="has the value 7.* in column 1 everywhere: .* Leave that column out"):
        run(x)
    assert bool(run(x[:, [0, 2]]).converged)


def test_components_are_numbered_alike_for_all_orders_in_memory():
    x = np.random.default_rng(3).normal(size=(300, 5)) * [1, 2, 3, 4, 5] + 7
    one, other = (omt.fit(jax.random.key(0), order(x), Gaussian, 3) for order in (np.asfortranarray, np.array))
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("offset", "scale", "message"), [(5e6, 1, "Subtract an offset"), (0, 1e-30, "Rescale it")])
def test_float64_data_that_float32_results_cannot_resolve_are_refused(offset, scale, message):
    x = np.random.default_rng(0).normal(size=(50, 2)) * scale + offset
    for run in (omt.fit, omt.fit_posterior):
        with pytest.raises(ValueError, match=message):
            run(jax.random.key(0), x, Gaussian, 2)
    # As they are they can be had in float64; constant columns have nothing to lose.
    omt.fit(jax.random.key(0), np.c_[x / scale - offset, np.full(50, 5e6)], Gaussian, 2)
