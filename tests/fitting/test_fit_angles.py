"""Fits, plans and posteriors of angles, across the cut at -pi."""

import jax
import numpy as np
import pytest
import scipy.stats as st

import omt_expfam as omt
from omt_expfam.families import VonMises

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}


def _data(seed, turn=0.0, num=600):
    """Two clusters, one of them on the cut."""
    rng = np.random.default_rng(seed)
    first = rng.random(num) < 0.4
    loc = np.where(first[:, None], [3.1, -1.0], [0.5, 1.0])
    return np.angle(np.exp(1j * (rng.vonmises(loc, np.where(first, 20.0, 6.0)[:, None]) + turn))), first


def _arc(x, y):
    return np.angle(np.exp(1j * (np.asarray(x, float) - np.asarray(y, float))))


def test_one_component_is_scipys(x64):
    x = np.stack([st.vonmises(k, m).rvs(600, random_state=i) for i, (k, m) in enumerate([(3.0, 3.0), (0.3, 1.0)])], 1)
    x = np.concatenate([x, np.full((600, 1), 0.25), np.linspace(-np.pi, np.pi, 601)[:-1, None]], axis=1)
    fitted = omt.fit(jax.random.key(0), x, VonMises, 1, **PLAIN).mixture.components
    for c in range(2):
        concentration, loc, _ = st.vonmises.fit(x[:, c], fscale=1)
        np.testing.assert_allclose(fitted.concentration[0, c], concentration, rtol=1e-6)
        np.testing.assert_allclose(_arc(fitted.loc[0, c], loc), 0, atol=1e-6)
    # One angle throughout, and all angles alike: the limits.
    np.testing.assert_allclose(fitted.loc[0, 2], 0.25, atol=1e-7)
    np.testing.assert_allclose(fitted.concentration[0, 2:], [1e5, 1e-6], rtol=1e-6)
    assert np.isfinite(np.asarray(fitted.log_prob(x))).all()


@pytest.fixture(scope="module")
def fits():
    """The same clusters, and all turned by 0.8; points of the source on other turns."""
    (x, first), (y, _) = _data(0), _data(1, 0.8)
    with pytest.warns(UserWarning, match=r"`x` has \d+ angles beyond -pi and pi, up to .*; they are wrapped.$"):
        source = omt.fit(jax.random.key(0), x % (2 * np.pi), VonMises, 2)
    return x, first, y, source, omt.fit(jax.random.key(1), y, VonMises, 2)


def test_clusters_across_the_cut_are_found(fits):
    x, first, _, source, _ = fits
    member = np.asarray(source.mixture.responsibilities(x + 2 * np.pi))
    right = (member.argmax(axis=1) == member[first].sum(axis=0).argmax()) == first
    assert right.mean() > 0.99
    mean = np.asarray(source.mixture.mean())
    np.testing.assert_allclose(_arc(mean, np.angle(np.exp(1j * x).mean(axis=0))), 0, atol=0.02)
    arcs = _arc(x, mean)
    np.testing.assert_allclose(source.mixture.covariance(), arcs.T @ arcs / len(x), atol=0.15)
    with pytest.warns(UserWarning, match="Are they degrees"):
        omt.fit(jax.random.key(0), np.rad2deg(x), VonMises, 1)


def test_a_plan_between_angles(fits):
    x, first, y, source, target = fits
    plan = omt.transport(source, target, epsilon_components=0.02)
    images = np.asarray(plan.push_forward(x))
    # Clusters are turned by 0.8, through the cut where it lies there.
    assert np.abs(_arc(images, x + 0.8)).mean() < 0.15
    assert (np.abs(images) <= np.pi + 1e-6).all()
    # Turning costs 1.28; shares of the two samples differ, and mass goes from cluster to cluster for that.
    assert 1.1 < float(plan.cost) < 2
    back = np.asarray(plan.pull_back(images))
    assert np.abs(_arc(back, x)).mean() < 0.15
    drawn = np.asarray(plan.sample(jax.random.key(0), x))
    for k in (1, 2):
        np.testing.assert_allclose(np.exp(1j * k * drawn).mean(0), np.exp(1j * k * y).mean(0), atol=0.1)
    half = plan.interpolate(0.5)
    middle = np.asarray(half.sample(jax.random.key(1), 600))
    np.testing.assert_allclose(np.exp(1j * middle).mean(0), np.exp(1j * (x + 0.4)).mean(0), atol=0.1)
    with pytest.raises(TypeError, match="A mean on the way takes points for numbers on the line; VonMises"):
        half.mean()
    with pytest.raises(TypeError, match="`sensitivity` takes points for numbers on the line"):
        omt.diagnostics.sensitivity(plan)
    with pytest.raises(TypeError, match="A convex potential takes points"):
        omt.fit_brenier(jax.random.key(0), None, None, start=plan)


@pytest.mark.slow
def test_posteriors_of_angles(fits):
    """Draws, what does not jump at the cut, and intervals of images about their mean direction."""
    x, _, y, source, target = fits
    method = omt.LaplaceApproximation(num_samples=8)
    posteriors = [
        omt.fit_posterior(jax.random.key(2), points, VonMises, 2, method=method, start=own.mixture, throw=False)
        for points, own in ((x, source), (y, target))
    ]
    assert "cosine[0]" in posteriors[0].label_free.names
    means = np.asarray(posteriors[0].reference.components.mean())
    draws = np.asarray(posteriors[0].mixtures.components.loc)
    assert np.abs(_arc(draws, means)).max() < 0.3
    plans = omt.transport_posterior(*posteriors, epsilon_components=0.0, epsilon_weights=0.1)
    # Images of the first lie on either side of the cut.
    points = np.array([[2.3416, -1.0], [0.5, 1.0]], np.float32)
    found = plans.push_forward_interval(points)
    assert (np.asarray(found.upper) - np.asarray(found.lower) < 0.6).all()
    inside = np.asarray(found.lower) - 0.3 < np.asarray(found.mean)
    assert inside.all()
    np.testing.assert_allclose(_arc(found.mean, points + 0.8), 0, atol=0.25)
    spread = np.asarray(plans.predictive_covariance(points))
    assert (np.einsum("nii->ni", spread) < 1).all()
