"""Data in any unit: what is computed at one scale in float64 comes out, in float32, at all others."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose

import omt_expfam as omt
from omt_expfam import families

X = np.random.default_rng(5).normal(size=(7, 2))


def _mixture(name, scale, seed, dtype):
    random = np.random.default_rng(seed)
    weights, mean = random.dirichlet(np.ones(3)), random.normal(size=(3, 2)) * scale
    tril = np.tril(random.normal(size=(3, 2, 2)) * 0.3)
    tril[:, range(2), range(2)] = np.exp(0.3 * random.normal(size=(3, 2)))
    width = np.exp(0.3 * random.normal(size=(3, 2)))
    mean, tril, width = ((value * unit).astype(dtype) for value, unit in ((mean, 1), (tril, scale), (width, scale)))
    components = {
        "full": lambda: families.Gaussian(mean, scale_tril=tril),
        "diagonal": lambda: families.DiagonalGaussian(mean, width**2),
        "laplace": lambda: families.Laplace(mean, width),
        "student": lambda: omt.NumPyroComponents(dist.MultivariateStudentT(np.full(3, 9, dtype), mean, tril)),
    }
    return omt.Mixture(weights.astype(dtype), components[name]())


@jax.jit
def _slopes(mixtures, target, epsilon_weights):
    def objective(both):
        return omt.transport(both[0], target, epsilon_components=both[1], epsilon_weights=epsilon_weights).objective

    return jax.grad(objective)(mixtures)


def _numbers(name, scale, dtype):
    """Costs, maps and derivatives, in units of the scale."""
    source, target = (_mixture(name, scale, seed, dtype) for seed in (1, 2))
    numerical = omt.NumericalSettings(num_nodes=64, num_draws=2048) if name == "student" else None
    options = {"epsilon_components": 0.3 * scale**2, "epsilon_weights": 0.1 * scale**2, "numerical": numerical}
    plan = omt.transport(source, target, **options)
    x = (X * scale).astype(dtype)
    found = {
        "cost": (plan.cost, 2),
        "objective": (plan.objective, 2),
        "weights": (plan.weights, 0),
        "map": (plan.push_forward(x), 1),
        "back": (plan.pull_back(x), 1),
        "likely": (plan.push_forward_most_likely(x), 1),
        "covariance": (plan.conditional_covariance(x), 2),
    }
    if name != "student":
        mixtures = source, np.asarray(options["epsilon_components"], dtype)
        slopes = _slopes(mixtures, target, options["epsilon_weights"])
        pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(mixtures), strict=True)
        # Derivatives by logarithms: all in the unit of the objective. Those by weights have their own unit already.
        for index, (slope, leaf) in enumerate(pairs):
            factor = np.asarray(leaf, np.float64) if index else 1.0
            found[f"slope {index}"] = (np.asarray(slope, np.float64) * factor, 2)
    return {key: np.asarray(value, np.float64) / scale**power for key, (value, power) in found.items()}


@pytest.fixture(scope="module")
def expected():
    kept = {}

    def at_one(name):
        if name not in kept:
            with jax.enable_x64(name != "student"):
                kept[name] = _numbers(name, 1.0, np.float32 if name == "student" else np.float64)
        return kept[name]

    return at_one


@pytest.mark.parametrize("scale", [1e-14, 1e14])
@pytest.mark.parametrize("name", ["full", "diagonal", pytest.param("laplace", marks=pytest.mark.slow), "student"])
def test_transport_knows_no_unit(name, scale, expected):
    found = _numbers(name, scale, np.float32)
    for key, value in expected(name).items():
        # Derivatives by weights see the tolerance of the weights.
        loose = 2e-2 if name == "student" or key == "slope 0" else 2e-3
        assert_allclose(found[key], value, rtol=2e-3, atol=loose * np.abs(value).max(), err_msg=key)


def test_components_of_very_different_size_are_coupled_each_in_its_own_unit():
    sizes = np.array([1e-12, 1e-3, 1e6], np.float32)
    zero = np.zeros((3, 2), np.float32)
    components = families.DiagonalGaussian(zero, np.tile((sizes**2)[:, None], 2))
    plan = omt.transport(
        omt.Mixture(np.full(3, 1 / 3), components),
        omt.Mixture(np.ones(1), components.select([0])),
        epsilon_components=0.0,
        epsilon_weights=1.0,
    )
    # Between Gaussians with one mean the cost is the squared difference of the standard deviations, per coordinate.
    assert_allclose(plan.component_costs[1:, 0], 2 * (sizes[1:] - sizes[0]) ** 2, rtol=1e-5)
    gains = (plan.couplings.component_maps(plan.weight_coupling.row_shares)).gain
    assert_allclose(gains[:, 0], sizes[0] / sizes, rtol=1e-5)


def test_points_far_away_in_units_of_the_mixture_get_their_limit():
    mixture = _mixture("full", 1e12, 1, np.float32)
    small = _mixture("full", 1.0, 1, np.float32)
    points = np.array([[50.0, 0], [0, -50]], np.float32)
    assert_allclose(mixture.responsibilities(points * 1e12), small.responsibilities(points), atol=1e-5)


def test_costs_of_a_mixture_with_itself_are_not_negative():
    random = np.random.default_rng(0)
    tril = np.tril(random.normal(size=(8, 16, 16)), -1) + np.eye(16)
    mixture = omt.Mixture(
        np.full(8, 1 / 8), families.Gaussian(np.float32(random.normal(size=(8, 16))), scale_tril=np.float32(tril))
    )
    plan = omt.transport(mixture, mixture, epsilon_components=0.0, epsilon_weights=0.0)
    assert np.min(plan.component_costs) >= 0
    assert_allclose(np.diagonal(plan.component_costs), 0, atol=1e-3)


def test_points_at_a_component_without_weight_belong_to_the_others():
    components = families.DiagonalGaussian(np.float32([[0.0], [100.0], [300.0]]), np.ones((3, 1), np.float32))
    mixture = omt.Mixture(np.array([0.5, 0.0, 0.5]), components)
    assert_allclose(mixture.responsibilities(np.float32([[100.0], [250.0]])), [[1, 0, 0], [0, 0, 1]])
