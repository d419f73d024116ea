"""Results do not depend on how many points are asked for at once.

Compilers choose other code for other sizes: jaxlib 0.10.2 fuses products and sums wrongly at some of these.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._fitting.em import chunk_data, initial_state, run
from tests.cases import GAUSSIANS, mixture

SIZES = [17_000, 40_366]


@pytest.mark.parametrize("name", GAUSSIANS)
@pytest.mark.parametrize(
    ("num", "dim"), [(4, 3), pytest.param(1, 3, marks=pytest.mark.slow), pytest.param(3, 5, marks=pytest.mark.slow)]
)
def test_large_batches_equal_small_ones(name, num, dim, dtype):
    source, target = (mixture(name, seed, dtype, num, dim) for seed in (0, 1))
    x = (3 * np.random.default_rng(0).standard_normal((max(SIZES), dim))).astype(dtype)
    blocks = [slice(i, i + 7000) for i in range(0, len(x), 7000)]
    plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=1.0)
    functions = {
        "log_prob": source.components.log_prob,
        "responsibilities": source.responsibilities,
        "push_forward": plan.push_forward,
        "joint": lambda v: plan.log_prob(v, v + 1),
    }
    tolerance = 1e-3 if dtype == "float32" else 1e-9
    for function in functions.values():
        expected = np.concatenate([np.asarray(function(x[b])) for b in blocks])
        for size in SIZES:
            np.testing.assert_allclose(function(x[:size]), expected[:size], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", GAUSSIANS)
def test_an_e_step_is_the_density(name, dtype):
    law = mixture(name, 0, dtype)
    x = (3 * np.random.default_rng(0).standard_normal((30_000, 3))).astype(dtype)
    expected = np.asarray(law.log_prob(x[:7000])).sum() + np.asarray(law.log_prob(x[7000:14_000])).sum()
    expected += np.asarray(law.log_prob(x[14_000:21_000])).sum() + np.asarray(law.log_prob(x[21_000:])).sum()
    weight = np.ones(len(x), dtype)
    for chunk in (30_000, 4096):
        state = evaluate(law, x, weight, chunk)
        value = float(state.log_likelihood)
        assert value == pytest.approx(expected / len(x), rel=1e-5 if dtype == "float32" else 1e-10)
        assert float(state.counts.sum()) == pytest.approx(len(x), rel=1e-5)


@eqx.filter_jit
def evaluate(law, x, weight, chunk):
    """EM without a step."""
    data = chunk_data(law.components, x, weight, chunk)
    zero = jnp.zeros((), x.dtype)
    return run(initial_state(jnp.log(law.weights), law.components, 1), data, zero, zero, zero, jnp.asarray(0))
