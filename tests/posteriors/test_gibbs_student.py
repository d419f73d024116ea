"""Gibbs sampling of Student-t components: a posterior by quadrature, and the draws that it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from scipy.special import digamma, polygamma

from omt_expfam import Mixture
from omt_expfam._base.precision import relaxed
from omt_expfam._posteriors.methods.gibbs_sweeps import gibbs_draws
from omt_expfam._posteriors.model import mixture_model
from omt_expfam.extend import slice_draw
from omt_expfam.families import DiagonalStudentT, StudentT

X = scipy.stats.t(3, 1, 0.8).rvs((50, 1), random_state=np.random.default_rng(4))


def quadrature():
    """Means and standard deviations of location, log scatter and log(df - 2), under the documented default priors."""
    loc, log_scatter, log_rest = np.linspace(0.2, 1.8, 49), np.linspace(-2.8, 1.6, 57), np.linspace(-5, 5.5, 64)
    grid = np.meshgrid(loc, log_scatter, log_rest, indexing="ij")
    scale, df = np.exp(0.5 * grid[1]), 2 + np.exp(grid[2])
    center, spread = X.mean(), X.std()
    log_prob = scipy.stats.norm(center, 2 * spread).logpdf(grid[0])
    log_prob += scipy.stats.invgamma(1.5, scale=0.5 * spread**2).logpdf(scale**2) + grid[1]
    log_prob += scipy.stats.gamma(2, scale=10).logpdf(df - 2) + grid[2]
    for x in X[:, 0]:
        log_prob += scipy.stats.t.logpdf(x, df, grid[0], scale)
    weight = np.exp(log_prob - log_prob.max())
    weight /= weight.sum()
    means = [(weight * g).sum() for g in grid]
    return [(m, np.sqrt((weight * (g - m) ** 2).sum())) for m, g in zip(means, grid, strict=True)]


@pytest.mark.parametrize("family", [StudentT, DiagonalStudentT])
def test_a_single_component_has_the_posterior_of_quadrature(family, x64):
    spread = np.ones((1, 1, 1)) if family is StudentT else np.ones((1, 1))
    start = Mixture(np.ones(1), family(np.zeros((1, 1)), spread, 5.0))
    options = {"num_warmup": 100, "num_samples": 4000, "num_chains": 2, "progress": False}
    drawn = gibbs_draws(jax.random.key(5), X, start, mixture_model(X, family, 1).priors, 1.0, **options)
    parts = jax.tree.map(np.asarray, drawn.mixture.components)
    scatter = parts.scale_tril[..., 0] ** 2 if family is StudentT else parts.scatter
    found = parts.loc[..., 0, 0], np.log(scatter[..., 0, 0]), np.log(parts.df[..., 0] - 2)
    # About a half, a fifth and a tenth of the draws are effective.
    for draws, (mean, sd), share in zip(found, quadrature(), (0.5, 0.2, 0.1), strict=True):
        assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(share * draws.size)
        np.testing.assert_allclose(draws.std(), sd, rtol=3 / np.sqrt(share * draws.size))


def test_latent_precisions_are_gamma_given_labels(x64):
    """The sum of many is near its mean, (df + d) / (df + distance^2) over points; padding counts for nothing."""
    parts = StudentT([[0.0, 0.0], [2.0, 1.0]], np.stack([np.eye(2), np.diag([4.0, 1.0])]), [3.0, 8.0])
    rng = np.random.default_rng(0)
    x, label = 3 * rng.standard_normal((6000, 2)), rng.integers(0, 3, 6000)
    labels = jnp.asarray(np.eye(3)[label].T[:2])
    sums = jax.jit(lambda key: parts.priors.sums(key, parts, jnp.asarray(x.T), labels))(jax.random.key(0))
    for k in range(2):
        own = x[label == k] - np.asarray(parts.loc)[k]
        distance = own**2 @ (1 / np.array([[1.0, 1.0], [4.0, 1.0]])[k])
        law = scipy.stats.gamma((parts.df[k] + 2) / 2, scale=2 / (np.asarray(parts.df)[k] + distance))
        assert abs(sums.moments.mass[k] - law.mean().sum()) < 4 * np.sqrt(law.var().sum())
        expected, noise = own.T @ law.mean(), np.sqrt((own**2).T @ law.var())
        assert (abs(np.asarray(sums.moments.first)[k] - expected) < 4 * noise).all()
        shape, rate = (float(parts.df[k]) + 2) / 2, (float(parts.df[k]) + distance) / 2
        mean, variance = digamma(shape) - np.log(rate) - shape / rate, polygamma(1, shape) + shape / rate**2 - 2 / rate
        assert abs(sums.balance[k] - mean.sum()) < 4 * np.sqrt(variance.sum())


def test_slices_follow_prior_times_likelihood(x64):
    """One thousand chains of six steps from one place, by Kolmogorov and Smirnov."""
    with relaxed():
        prior = dist.Gamma(jnp.full(1000, 3.0), 2.0)

    def likelihood(value):
        return 2 * jnp.log(value) - value

    @jax.jit
    def chains(key):
        def step(value, key):
            return slice_draw(key, prior, value, likelihood), None

        return jax.lax.scan(step, jnp.full(1000, 5.0), jax.random.split(key, 6))[0]

    draws = np.asarray(chains(jax.random.key(3)))
    assert scipy.stats.kstest(draws, scipy.stats.gamma(5, scale=1 / 3).cdf).pvalue > 1e-3
