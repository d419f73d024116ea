"""Mean parameters to natural parameters, against closed forms, near and far from the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import digamma, gammaln

from omt_expfam._numerics.newton import solve_dual


@pytest.mark.parametrize("start", [(1.0, -1.0), (50.0, -1e-3), (-0.9, -1e4)])
def test_gamma_from_anywhere(start, x64):
    """Concentrations over eight decades, rates over twenty: no step leaves the domain, where gammaln is finite too."""

    def log_partition(eta):
        return gammaln(eta[0] + 1) - (eta[0] + 1) * jnp.log(-eta[1])

    a, b = (v.ravel() for v in np.meshgrid([1e-2, 1.0, 30.0, 1e6], [1e-10, 1.0, 1e10]))
    means = jnp.stack([digamma(a) - jnp.log(b), jnp.asarray(a / b)], axis=1)
    eta, converged = jax.vmap(lambda mu: solve_dual(log_partition, mu, jnp.asarray(start)))(means)
    assert converged.all()
    # The mean parameters determine a concentration of 1e6 to ten digits only.
    np.testing.assert_allclose(eta[:, 0] + 1, a, rtol=1e-8)
    np.testing.assert_allclose(-eta[:, 1], b, rtol=1e-8)


def test_three_statistics(x64):
    """A categorical law: log of the probabilities."""
    eta, converged = solve_dual(lambda e: jnp.log1p(jnp.sum(jnp.exp(e))), jnp.asarray([0.1, 1e-6, 0.8]), jnp.zeros(3))
    assert converged
    np.testing.assert_allclose(eta, np.log(np.array([0.1, 1e-6, 0.8]) / (1 - 0.900001)), rtol=1e-9)


def test_impossible_means_are_reported(x64):
    """An exponential law has no negative mean."""
    eta, converged = solve_dual(lambda e: -jnp.log(-e[0]), jnp.asarray([-1.0]), jnp.asarray([-1.0]))
    assert not converged
    assert np.isnan(eta).all()
