"""What calls take and give beyond arrays: fits for mixtures, and methods for functions."""

import equinox as eqx
import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian


@pytest.fixture(scope="module")
def fits():
    x = np.random.default_rng(0).standard_normal((60, 2)).astype("float32")
    return [omt.fit(jax.random.key(0), x + shift, DiagonalGaussian, 2) for shift in (0, 3)]


@pytest.fixture(scope="module")
def plan(fits):
    return omt.transport(*fits, epsilon_components=0.3, epsilon_weights=0.2)


def test_fits_are_taken_for_their_mixtures(fits, plan):
    mixtures = [fit.mixture for fit in fits]
    np.testing.assert_array_equal(
        plan.weights, omt.transport(*mixtures, epsilon_components=0.3, epsilon_weights=0.2).weights
    )
    course = omt.trajectory(fits, epsilon_components=0.3, epsilon_weights=0.2)
    np.testing.assert_array_equal(course.plans[0].weights, plan.weights)
    with pytest.raises(TypeError, match="`target` must be a Mixture or a Fit; got int"):
        omt.transport(fits[0], 3, epsilon_components=0.3, epsilon_weights=0.2)


@pytest.mark.parametrize(
    "name", ["push_forward", "pull_back", "push_forward_most_likely", "target_probabilities", "conditional_covariance"]
)
def test_methods_may_be_compiled(plan, name):
    x = np.random.default_rng(1).standard_normal((5, 2)).astype("float32")
    method = getattr(plan, name)
    np.testing.assert_allclose(jax.jit(method)(x), method(x), rtol=1e-5, atol=1e-5)


def test_methods_are_those_of_their_owner(fits, plan):
    """Equal where `jax.jit` may take one for the other; pytrees, as Equinox's are."""
    other = plan.reverse()
    assert plan.push_forward == plan.push_forward
    assert hash(plan.push_forward) == hash(plan.push_forward)
    assert plan.push_forward != other.push_forward
    assert plan.push_forward != plan.pull_back
    x = np.zeros((3, 2), np.float32)
    twice = eqx.filter_jit(lambda method, x: method(x))
    np.testing.assert_allclose(twice(plan.push_forward, x), plan.push_forward(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jax.jit(fits[0].mixture.log_prob)(x), fits[0].mixture.log_prob(x), rtol=1e-5)
    assert "barycentric map" in omt.TransportPlan.push_forward.__doc__


def test_diagnostics_take_a_plan(fits, plan):
    """It holds the mixtures and the regularizations."""
    epsilons = {"epsilon_components": 0.3, "epsilon_weights": 0.2}
    few = {"num_starts": 3, "num_descents": 0}
    ours = omt.diagnostics.uniqueness(jax.random.key(0), plan, **few)
    theirs = omt.diagnostics.uniqueness(jax.random.key(0), *fits, **epsilons, **few)
    np.testing.assert_allclose(ours.objectives, theirs.objectives, rtol=1e-6)
    ours, theirs = (
        omt.diagnostics.sensitivity(*pair, **known, num_points=5) for pair, known in (((plan,), {}), (fits, epsilons))
    )
    np.testing.assert_allclose(ours.source.cost["weights"], theirs.source.cost["weights"], rtol=1e-5)
    with pytest.raises(TypeError, match="`target`, `epsilon_weights` must be left out: the plan"):
        omt.diagnostics.biconvexity(jax.random.key(0), plan, fits[1], epsilon_weights=0.2)
    with pytest.raises(TypeError, match="`target` must be given, unless `source` is a plan"):
        omt.diagnostics.worst_case(jax.random.key(0), fits[0], radii=[0.1])
