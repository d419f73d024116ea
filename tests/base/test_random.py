"""Random numbers by programs that neighboring sizes share are those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness.programs import counted
from omt_expfam.diagnostics import _random, Dropout, GaussianNoise, Outliers, Subsampling


def key():
    return jax.random.key(3)


@pytest.mark.parametrize("num", [1, 2, 63, 65, 3000, 5000])
def test_the_numbers_are_those_of_jax(num, dtype):
    """5000 points are sorted twice."""
    assert np.array_equal(_random.permutation(key(), num), jax.random.permutation(key(), num))
    expected = jax.random.normal(key(), (num, 3), dtype)
    assert np.array_equal(_random.normal(key(), (num, 3), dtype), expected)
    assert np.array_equal(_random.bernoulli(key(), 0.3, (num, 3)), jax.random.bernoulli(key(), 0.3, (num, 3)))
    assert np.array_equal(_random.uniform(key(), num), jax.random.uniform(key(), (num,)))
    shares = np.abs(np.asarray(expected)) + np.asarray(0.01, dtype)
    expected = jax.random.categorical(key(), jnp.log(jnp.asarray(shares)))
    assert np.array_equal(_random.categorical(key(), shares), expected)


@pytest.mark.parametrize("disturb", [GaussianNoise(0.1), Dropout(0.3), Subsampling(0.25), Outliers(0.1), Outliers(0.0)])
def test_disturbances_may_be_traced(disturb, dtype):
    """And compile nothing for neighboring sizes otherwise."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((100, 2)), dtype)
    disturbed = disturb(key(), x, None)
    traced = jax.jit(lambda k, points: disturb(k, points, None))(key(), x)
    np.testing.assert_allclose(disturbed, traced, rtol=1e-5, atol=1e-6)
    other = jnp.asarray(np.asarray(x)[:90])
    own = jax.random.key(4)
    with counted() as programs:
        disturb(own, other, None)
    assert programs.count == 0, str(programs)
