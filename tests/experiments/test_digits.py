import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import omt_expfam as omt
from benchmarks.experiments import _images, digits
from omt_expfam.families import SphericalGaussian

pytestmark = pytest.mark.loose


@pytest.fixture
def networks():
    pytest.importorskip("flax", reason="the networks need flax")
    from benchmarks.harness import networks as _networks

    return _networks


def bars(num, seed=0):
    """Images of one bright row, and which of four rows it is."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, num)
    images = 0.1 * rng.random((num, 28, 28), np.float32)
    images[np.arange(num), 4 + 6 * labels] = 0.9
    return images, labels


def test_batches_leave_no_trace(networks):
    points = np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32)
    sizes = []

    def function(part):
        sizes.append(len(part))
        return part @ np.ones((3, 2), np.float32)

    np.testing.assert_array_equal(networks.in_batches(function, points, size=10), function(points))
    assert sizes[:3] == [10, 10, 10]


def test_loss_of_the_autoencoder_is_the_weighted_bound(networks):
    images = bars(3)[0]
    network, key = networks.Autoencoder(dim=2, divergence_weight=0.3), jax.random.key(1)
    parameters = network.init(jax.random.key(0), images, key)
    mean, log_variance = network.apply(parameters, images, method="encode")
    noise = jax.random.normal(key, mean.shape)
    logits = network.apply(parameters, mean + jnp.exp(log_variance / 2) * noise, method="decode")
    odds = np.asarray(logits, np.float64)
    likelihood = scipy.stats.bernoulli.logpmf(1, scipy.special.expit(odds)) * images
    likelihood += scipy.stats.bernoulli.logpmf(0, scipy.special.expit(odds)) * (1 - images)

    def divergence(m, v):
        law, prior = scipy.stats.norm(m, np.sqrt(v)), scipy.stats.norm()
        return scipy.integrate.quad(lambda z: law.pdf(z) * (law.logpdf(z) - prior.logpdf(z)), -12, 12)[0]

    divergences = [divergence(m, v) for m, v in zip(np.ravel(mean), np.exp(np.ravel(log_variance)), strict=True)]
    expected = (-likelihood.sum() + 0.3 * sum(divergences)) / len(images)
    np.testing.assert_allclose(network.apply(parameters, images, key), expected, rtol=1e-5)


def test_networks_learn(networks):
    images, labels = bars(640)
    others, other_labels = bars(100, seed=1)
    judge = networks.train_classifier(jax.random.key(0), images, labels, 4)
    assert np.mean(judge.logits(others).argmax(axis=1) == other_labels) > 0.95
    first = others[other_labels == 0]
    assert judge.share(first, 0) > 0.95
    assert judge.share(first, 1) < 0.05
    assert judge.features(others).shape == (100, 64)
    latents = networks.train_autoencoder(jax.random.key(1), images, 40)
    rebuilt = latents.decode(latents.encode(others))
    assert np.mean(judge.logits(rebuilt).argmax(axis=1) == other_labels) > 0.9
    assert ((rebuilt - others) ** 2).mean() < 0.3 * others.var(axis=0).mean()


def test_both_uses_of_a_plan_both_ways():
    weights, means = jnp.array([0.4, 0.6]), jnp.array([[0.0, 0.0], [3.0, 0.0]])
    laws = [omt.Mixture(weights, SphericalGaussian(means + shift, jnp.array([1.0, 0.5]))) for shift in (0.0, 50.0)]
    x, y = (np.asarray(law.sample(jax.random.key(i), 400)) for i, law in enumerate(laws))
    plan = omt.transport(*laws, epsilon_components=0.01, epsilon_weights=0.01, progress=False)
    found = dict(_images.uses("ours", plan, jax.random.key(2)))
    assert list(found) == ["ours, map", "ours, draw"]
    draws, back = found["ours, draw"].push_forward(jnp.asarray(x)), found["ours, draw"].pull_back(jnp.asarray(y))
    for points, law in ((draws, y), (back, x)):
        np.testing.assert_allclose(np.mean(points, axis=0), law.mean(axis=0), atol=0.4)
        np.testing.assert_allclose(np.std(points, axis=0), law.std(axis=0), rtol=0.2)
    others = _images._peers.Maps(np.asarray, np.asarray)
    assert dict(_images.uses("peer", others, jax.random.key(2))) == {"peer": others}


def test_text_of_the_table_averages_directions_first():
    values = {(0, 1): 1.0, (0, 7): 3.0, (1, 1): 4.0, (1, 7): 8.0}
    scores = [digits.Score(seed, source, 0, "m", value, 0.0, None, True) for (seed, source), value in values.items()]
    assert _images.over_seeds(scores, "frechet") == f"4.0 ± {np.std([2, 6], ddof=1):.1f}"
    assert _images.over_seeds(scores, "moved") == ""
    assert _images.over_seeds(scores[:2], "frechet") == "2.0"
