"""The quick divergences of a selection against OTT-JAX's, through `metrics.sinkhorn_divergence`."""

import jax
import numpy as np
import pytest

from benchmarks.harness.programs import counted
from omt_expfam import metrics
from omt_expfam._pipelines import judge as module
from omt_expfam._pipelines.judge import Judge

RNG = np.random.default_rng(0)
Y = np.where(RNG.random((240, 1)) < 0.6, 0.0, 6.0) + RNG.standard_normal((240, 3))
SAMPLES = [Y[RNG.permutation(240)[:200]] * scale + shift for scale, shift in ((1.0, 0.0), (0.5, 1.0), (1.1, -3.0))]


def epsilon(y):
    return 0.1 * float(np.var(y, axis=0).sum())


@pytest.mark.loose
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unit", [1.0, 1e-12, 1e12])
def test_it_agrees_with_the_general_solver(dtype, unit):
    """For samples of several sizes, one after the other, in any unit and far from the origin."""
    with jax.enable_x64(dtype == "float64"):
        y = (unit * (Y + 50.0)).astype(dtype)
        judge = Judge(y, epsilon(y.astype(np.float64)))
        for x in SAMPLES:
            x = (unit * (x + 50.0)).astype(dtype)
            expected = float(metrics.sinkhorn_divergence(x, y, epsilon(y.astype(np.float64))))
            np.testing.assert_allclose(judge(x), expected, rtol=2e-3, atol=1e-4 * epsilon(y.astype(np.float64)))


@pytest.mark.loose
def test_what_leaves_the_range_is_left_to_the_general_solver(monkeypatch):
    """A point so far away that no kernel holds it; and a solve that does not settle."""
    y = Y.astype(np.float32)
    x = np.concatenate([SAMPLES[0][:199], [[100.0, 0.0, 0.0]]]).astype(np.float32)
    expected = float(metrics.sinkhorn_divergence(x, y, 5.0))
    np.testing.assert_allclose(Judge(y, 5.0)(x), expected, rtol=2e-3)
    calls = []
    monkeypatch.setattr(module.metrics, "sinkhorn_divergence", lambda *args: calls.append(args) or 3.0)
    monkeypatch.setattr(module, "_between", lambda *args: (np.float32(np.nan), np.float32(0), args[-1]))
    assert Judge(y, 5.0)(x) == 3.0
    assert len(calls) == 1


@pytest.mark.loose
def test_nothing_is_compiled():
    y = Y.astype(np.float32)
    with counted() as programs:
        Judge(y, 5.0)(y[:190])
    assert programs.count == 0
