"""Regularizations that follow the data, against loops in NumPy; independence, against SciPy's entropies."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import entropy

import omt_expfam as omt
from omt_expfam._plans.epsilons import choose_epsilons
from omt_expfam.diagnostics._problem import as_problem
from omt_expfam.families import Exponential, Gaussian, Laplace, SphericalGaussian, StudentT
from tests.cases import covariances

RNG = np.random.default_rng(0)
MEANS = [3 * RNG.standard_normal((num, 2)) for num in (4, 3)]
COVARIANCES = [covariances(RNG, num, 2, 5.0) for num in (4, 3)]
WEIGHTS = [np.array([0.4, 0.3, 0.3, 0.0]), np.array([0.5, 0.25, 0.25])]


def pair(scale=1.0, shift=0.0, dtype="float32"):
    """Two mixtures in another unit, the second one elsewhere."""
    moved = MEANS[0], MEANS[1] + shift
    return [
        omt.Mixture(w.astype(dtype), Gaussian((scale * m).astype(dtype), (scale**2 * s).astype(dtype)))
        for w, m, s in zip(WEIGHTS, moved, COVARIANCES, strict=True)
    ]


def by_loops():
    """The rule as it is written in the documentation."""
    centered = [m - w @ m for w, m in zip(WEIGHTS, MEANS, strict=True)]
    variances = [[np.trace(s) for s in side] for side in COVARIANCES]
    within, near = [], []
    for side in (0, 1):
        other = 1 - side
        for i, weight in enumerate(WEIGHTS[side]):
            if not weight:
                continue
            within.append(weight / 2 * np.log(variances[side][i] / 2))
            squares = [
                ((centered[side][i] - centered[other][j]) ** 2).sum() + variances[side][i] + variances[other][j]
                for j in range(len(WEIGHTS[other]))
                if WEIGHTS[other][j]
            ]
            near.append(weight / 2 * np.log(min(squares)))
    return 0.01 * np.exp(sum(within)), 0.05 * np.exp(sum(near))


@pytest.fixture(scope="module")
def plan():
    return omt.transport(*pair())


def test_auto_is_the_rule(plan):
    np.testing.assert_allclose([plan.epsilon_components, plan.epsilon_weights], by_loops(), rtol=1e-5)
    assert plan.epsilon_rules == plan.reverse().epsilon_rules == ("auto", "auto")
    twice = omt.transport(*pair(), epsilon_weights=0.3, epsilon_scale=2.0)
    np.testing.assert_allclose(twice.epsilon_components, 2 * np.asarray(plan.epsilon_components), rtol=1e-6)
    assert twice.epsilon_rules == ("2 x auto", "given")
    assert "epsilon_weights 0.3, " in str(twice)
    assert f"epsilon_components {float(twice.epsilon_components):.3g} (2 x auto), " in str(twice)


@pytest.mark.parametrize("change", [{"scale": 1e-3}, {"scale": 1e3}, {"scale": 1e-14}, {"shift": 1000.0}])
def test_the_coupling_has_no_unit_and_no_origin(plan, change):
    moved = omt.transport(*pair(**change))
    np.testing.assert_allclose(moved.weights, plan.weights, atol=2e-4)
    ratio = np.asarray(moved.epsilon_weights, np.float64) / np.asarray(plan.epsilon_weights)
    np.testing.assert_allclose(ratio, change.get("scale", 1.0) ** 2, rtol=1e-3)


def test_data_in_another_unit_have_the_same_coupling():
    x = np.concatenate([RNG.standard_normal((40, 2)) + center for center in ([0, 0], [9, 0], [0, 9])])
    found = []
    for scale in (1.0, 1e-3, 1e3):
        fits = [omt.fit(jax.random.key(0), scale * y, SphericalGaussian, 3) for y in (x, 1.2 * x + 50)]
        found.append(np.asarray(omt.transport(*fits).weights))
    np.testing.assert_allclose(found, np.broadcast_to(found[0], (3, 3, 3)), atol=1e-5)


def test_auto_under_jit_and_its_derivative(plan, x64):
    source, target = pair(dtype="float64")

    @jax.jit
    @jax.value_and_grad
    def objective(scale):
        moved = omt.Mixture(target.weights, Gaussian(scale * target.components.mean(), target.components.covariance()))
        return omt.transport(source, moved).objective

    value, slope = objective(1.0)
    np.testing.assert_allclose(value, plan.objective, rtol=1e-5)
    steps = [float(objective(1.0 + step)[0]) for step in (-1e-4, 1e-4)]
    np.testing.assert_allclose(slope, (steps[1] - steps[0]) / 2e-4, rtol=1e-5)


def test_other_families_have_auto():
    """Independent coordinates and an edge."""
    loc, scale = np.array([[0.0, 0.0], [9.0, 1.0]]), np.array([[1.0, 2.0], [0.5, 0.5]])
    source, target = (omt.Mixture([0.5, 0.5], f) for f in (Laplace(loc, scale), Exponential(loc, 1 / scale)))
    variances = np.concatenate([(2 * scale**2).mean(1), (scale**2).mean(1)])
    np.testing.assert_allclose(
        choose_epsilons(source, target).components, 0.01 * np.exp(np.log(variances).mean()), rtol=1e-5
    )


def test_all_draws_and_steps_have_auto():
    draws = [pair(scale=scale)[0] for scale in (1.0, 2.0, 3.0)]
    target = pair()[1]
    plans = omt.transport_posterior(draws, target, epsilon_scale=0.5)
    each = [omt.transport(draw, target, epsilon_scale=0.5) for draw in draws]
    for name in ("epsilon_components", "epsilon_weights"):
        expected = np.exp(np.mean([np.log(float(getattr(one, name))) for one in each]))
        np.testing.assert_allclose([getattr(plans.plan(s), name) for s in range(3)], expected, rtol=1e-5)
    assert plans.plan(0).epsilon_rules == plans.reverse().plan(2).epsilon_rules == ("0.5 x auto", "0.5 x auto")
    course = omt.trajectory([*draws[:2], target], epsilon_scale=0.5)
    np.testing.assert_allclose(course.plans[1].weights, each[1].weights, atol=1e-6)
    one_by_one = omt.transport_posterior(draws[:2], target, epsilon_weights=0.0)
    assert one_by_one.plan(1).epsilon_rules == ("auto", "given")
    assert float(one_by_one.plan(1).epsilon_weights) == 0


def test_diagnostics_and_methods_have_auto(plan):
    found = as_problem(*pair(), None, None)
    np.testing.assert_allclose(found[2:], [plan.epsilon_components, plan.epsilon_weights], rtol=1e-5)
    method = omt.diagnostics.MixtureTransport(Gaussian, 3, epsilon_scale=2.0)
    assert method.couple(*pair()).epsilon_rules == ("2 x auto", "2 x auto")


def test_rules_are_saved(plan, tmp_path):
    omt.save(tmp_path / "plan.omt", plan)
    assert str(omt.load(tmp_path / "plan.omt")) == str(plan)


@pytest.mark.parametrize("epsilon", [0.02, 0.5, 3.0, 1e4])
def test_independence_is_what_information_leaves(epsilon):
    plan = omt.transport(*pair(), epsilon_weights=epsilon)
    weights = np.asarray(plan.weights, np.float64)
    information = entropy(weights.ravel(), np.outer(plan.source.weights, plan.target.weights).ravel())
    most = min(entropy(side.weights) for side in (plan.source, plan.target))
    np.testing.assert_allclose(plan.independence, 1 - information / most, atol=2e-6)


def test_independence_has_two_ends():
    apart = omt.Mixture([0.6, 0.4], SphericalGaussian([[0.0, 0.0], [9.0, 0.0]], [1.0, 1.0]))
    assert float(omt.transport(apart, apart).independence) == pytest.approx(0, abs=1e-6)
    one = omt.Mixture([1.0], SphericalGaussian([[0.0, 0.0]], [1.0]))
    assert float(omt.transport(apart, one).independence) == 1
    assert "independent" not in str(omt.transport(apart, one))
    assert float(jax.jit(lambda a, b: omt.transport(a, b, epsilon_weights=1e5).independence)(apart, apart)) > 0.999


def test_costs_that_are_not_known_well_are_told():
    """Where few nodes are far apart beside the regularization, and not beside costs of distant components."""
    rng = np.random.default_rng(0)
    settings = omt.NumericalSettings(num_nodes=128, num_draws=2048)

    def printed(distance, epsilon):
        sides = [
            omt.Mixture(
                np.ones(1, "float32"),
                StudentT(np.full((1, 3), at, "float32"), (0.5 + rng.random()) * np.eye(3, dtype="float32")[None], 5.0),
            )
            for at in (0.0, distance)
        ]
        plan = omt.transport(*sides, epsilon_components=epsilon, epsilon_weights=1.0, numerical=settings)
        return [line for line in str(plan).splitlines() if "known to within" in line]

    (line,) = printed(0.0, 0.02)
    assert "epsilon_components (here 0.02) is the remedy" in line
    assert printed(0.0, 20.0) == printed(100.0, 0.02) == []


def test_a_plan_that_says_little_says_so():
    """Each in one line, with the remedy."""
    far = omt.transport(*pair(scale=1e-2), epsilon_components=0.1, epsilon_weights=0.1)
    first, pairs, points = str(far).splitlines()
    assert "100% independent" in first
    auto = omt.transport(*pair(scale=1e-2))
    assert pairs.endswith(f'Leave epsilon_weights at "auto", which is {float(auto.epsilon_weights):.3g} here.')
    assert points.endswith(f'Leave epsilon_components at "auto", which is {float(auto.epsilon_components):.3g} here.')
    assert "within 1% of independence" in pairs
    assert "within 1% of independence" in points
    assert str(auto).count("\n") == 0
    scaled = str(omt.transport(*pair(), epsilon_scale=1e4)).splitlines()
    assert [line.split(";")[0].split(". ")[1] for line in scaled[1:]] == [
        "Lower epsilon_scale, or give epsilon_weights a smaller number",
        "Lower epsilon_scale, or give epsilon_components a smaller number",
    ]


def test_mass_that_is_forced_far_is_told():
    components = SphericalGaussian(np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]]), np.ones(3))
    shares = omt.Mixture([0.8, 0.1, 0.1], components), omt.Mixture([0.1, 0.1, 0.8], components)
    plan = omt.transport(*shares)
    line = str(plan).splitlines()[1]
    assert line.startswith("70% of the mass goes over 10 times the typical cost")
    assert line in str(plan.correspondences())
    price = float(line.rstrip(".").rsplit(" ", 1)[1])
    relaxed = omt.transport(*shares, source_relaxation=price, target_relaxation=price)
    assert np.trace(np.asarray(relaxed.weights)) > 0.99
    assert "\n" not in str(relaxed)


def test_a_coordinate_that_decides_alone_is_told():
    side = omt.Mixture([0.5, 0.5], SphericalGaussian(np.array([[0.0, 0.0], [100.0, 0.0]]), np.ones(2)))
    assert "Coordinate 0 has 100.0% of the variance" in str(omt.transport(side, side))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon_weights": "small"}, '`epsilon_weights` must be a number, in units of squared distance, or "auto"'),
        ({"epsilon_scale": 0.0}, "`epsilon_scale` must be a finite number greater than 0; got 0"),
        (
            {"epsilon_components": 1.0, "epsilon_weights": 1.0, "epsilon_scale": 2.0},
            '`epsilon_scale` multiplies "auto"',
        ),
    ],
)
def test_bad_rules_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        omt.transport(*pair(), **options)
    with pytest.raises(ValueError, match=message):
        omt.diagnostics.MixtureTransport(Gaussian, 3, **options)


def test_what_has_no_rule_is_named():
    heavy = omt.NumPyroComponents(dist.StudentT(jnp.full((2, 1), 1.5), jnp.ones((2, 1))).to_event(1))
    side = omt.Mixture([0.5, 0.5], heavy)
    with pytest.raises(ValueError, match="needs components with finite, positive variances.*give inf"):
        omt.transport(side, side)
    with pytest.raises(TypeError, match="`epsilon_weights` must be a number, not 'auto'"):
        omt.transport_factor("t", *pair(), epsilon_components=0.1, epsilon_weights="auto", strength=1.0)
