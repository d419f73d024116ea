"""Plans that change masses: their numbers against the definition, their ends in time, and known growth."""

import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian

MEAN = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [16.0, 4.0]])
SETTINGS = {"epsilon_components": 0.1, "epsilon_weights": 0.1}


def pair(dtype=np.float64):
    """Five components, of which the first doubles and the last vanishes."""
    components = DiagonalGaussian(MEAN.astype(dtype), np.ones((5, 2), dtype))
    moved = DiagonalGaussian((MEAN + 0.5).astype(dtype), np.full((5, 2), 0.8, dtype))
    after = np.array([0.4, 0.2, 0.2, 0.2, 1e-9], dtype)
    return omt.Mixture(np.full(5, 0.2, dtype), components), omt.Mixture(after / after.sum(), moved)


@pytest.fixture(scope="module")
def plan():
    with jax.enable_x64(True):
        return omt.transport(*pair(), **SETTINGS, source_relaxation=5.0, target_relaxation=4.0)


def test_known_growth_is_found(plan, x64):
    np.testing.assert_allclose(plan.growth, [2, 1, 1, 1, 0], atol=0.02)
    wrong = plan.weights.sum() - np.trace(plan.weights)
    assert wrong < 0.01
    balanced = omt.transport(*pair(), **SETTINGS)
    assert 1 - np.trace(balanced.weights) > 0.19
    np.testing.assert_allclose(balanced.growth, np.ones(5))
    assert float(balanced.mass) == 1


def test_masses_are_those_of_the_definition(plan, x64):
    source, target = pair()
    masses, table = plan.masses, np.asarray(plan.mass * plan.weights)
    np.testing.assert_allclose(table.sum(1), source.weights * plan.source_growth, rtol=1e-9)
    np.testing.assert_allclose(target.weights, table.sum(0) * plan.target_growth, rtol=1e-9)
    np.testing.assert_allclose(plan.source.weights, table.sum(1) / table.sum(), rtol=1e-9)
    # The optimality conditions tie growth to the potentials.
    coupling = plan.weight_coupling
    np.testing.assert_allclose(plan.source_growth, np.exp(-coupling.source_potential / 5.0), rtol=1e-8)
    np.testing.assert_allclose(plan.target_growth, np.exp(coupling.target_potential / 4.0), rtol=1e-8)
    kernel = np.add.outer(coupling.source_potential, coupling.target_potential) - plan.component_objectives
    expected = np.outer(source.weights, target.weights) * np.exp(kernel / 0.1)
    np.testing.assert_allclose(table, expected, rtol=1e-7, atol=1e-12)
    assert float(masses.source_mass) == float(masses.target_mass) == 1
    np.testing.assert_allclose(plan.trace.objective[-1], plan.objective)
    assert np.all(np.diff(plan.trace.objective) <= 0)


def test_survival_is_a_blend_of_growth(plan, x64):
    source, _ = pair()
    x = MEAN + 0.3
    np.testing.assert_allclose(plan.survival(x), source.responsibilities(x) @ plan.source_growth, rtol=1e-12)
    near = np.asarray(plan.survival(MEAN))
    np.testing.assert_allclose(near, plan.source_growth, atol=0.02)


def test_time_leads_from_the_source_to_the_target(plan, x64):
    source, target = pair()
    for t, side in ((0.0, source), (1.0, target)):
        np.testing.assert_allclose(plan.mass_at(t), 1, rtol=1e-9)
        law = plan.interpolate(t, min_weight=1e-12)
        np.testing.assert_allclose(law.mean(), side.mean(), atol=1e-6)
        np.testing.assert_allclose(law.log_prob(MEAN), side.log_prob(MEAN), atol=1e-5)
    logs = [np.log(float(plan.mass_at(t))) for t in (0.25, 0.5, 0.75)]
    assert logs[1] < 0
    # A sum of exponentials in time is convex in its logarithm.
    assert logs[1] <= 0.5 * (logs[0] + logs[2])


def test_maps_are_those_of_what_stays(plan, x64):
    """The plan's law given x is the balanced one between the mixtures of what is transported."""
    again = omt.transport(plan.source, plan.target, **SETTINGS)
    np.testing.assert_allclose(again.weights, plan.weights, atol=1e-9)
    np.testing.assert_allclose(plan.push_forward(MEAN), again.push_forward(MEAN), rtol=1e-6)
    np.testing.assert_allclose(plan.log_prob(MEAN, MEAN + 0.4), again.log_prob(MEAN, MEAN + 0.4), rtol=1e-6)


def test_the_other_way(plan, x64):
    back = plan.reverse()
    np.testing.assert_allclose(back.weights, plan.weights.T)
    np.testing.assert_allclose(back.source_growth, 1 / plan.target_growth, rtol=1e-12)
    np.testing.assert_allclose(back.mass_at(0.25), plan.mass_at(0.75), rtol=1e-12)
    solved = omt.transport(*pair()[::-1], **SETTINGS, source_relaxation=4.0, target_relaxation=5.0)
    np.testing.assert_allclose(solved.weights, back.weights, atol=1e-9)
    np.testing.assert_allclose(solved.source_growth, back.source_growth, rtol=1e-6)


def test_the_print_says_what_changed(plan, x64):
    text = str(plan.correspondences())
    assert "source 4 sends 0.0% of its mass" in text
    assert "target 0 has" in text
    assert "mass 0." in repr(plan)
    assert "sends" not in str(omt.transport(*pair(), **SETTINGS).correspondences())


def test_files_hold_masses(plan, x64, tmp_path):
    omt.save(tmp_path / "plan.omt", plan)
    same = omt.load(tmp_path / "plan.omt")
    np.testing.assert_array_equal(same.source_growth, plan.source_growth)
    np.testing.assert_array_equal(same.mass_at(0.5), plan.mass_at(0.5))


def test_numbers_of_cells(x64):
    """With the target kept, all of its mass arrives, whatever the source has."""
    source, target = pair()
    found = omt.transport(source, target, **SETTINGS, source_relaxation=2.0, source_mass=1000, target_mass=3000)
    np.testing.assert_allclose(found.mass, 3000, rtol=1e-9)
    np.testing.assert_allclose(found.target_growth, 1, rtol=1e-8)
    np.testing.assert_allclose(1000 * (source.weights @ found.source_growth), 3000, rtol=1e-8)


def test_single_precision_and_tracing(plan):
    source, target = pair(np.float32)
    found = omt.transport(source, target, **SETTINGS, source_relaxation=5.0, target_relaxation=4.0)
    np.testing.assert_allclose(found.growth, plan.growth, atol=1e-4)
    assert found.weights.dtype == np.float32
    # The reported error is that of the stored numbers.
    stored, mass = np.asarray(found.weights, np.float64), float(found.mass)
    potentials = found.weight_coupling.source_potential / 5.0, found.weight_coupling.target_potential / 4.0
    wanted = [
        np.asarray(side.weights, np.float64) * np.exp(-np.asarray(potential, np.float64)) / mass
        for side, potential in zip((source, target), potentials, strict=True)
    ]
    measured = np.abs(stored.sum(1) - wanted[0]).sum() + np.abs(stored.sum(0) - wanted[1]).sum()
    # Potentials and the mass are rounded, too.
    assert measured <= float(found.marginal_error) + 8 * np.finfo(np.float32).eps
    sums = [np.asarray(side.weights, np.float64) for side in (plan.source, plan.target)]
    lost = np.abs(stored.sum(1) - sums[0]).sum() + np.abs(stored.sum(0) - sums[1]).sum()
    assert 1e-9 < lost <= 2 * float(found.marginal_error)

    def lost(rho):
        return omt.transport(source, target, **SETTINGS, source_relaxation=rho, target_relaxation=rho).mass

    value, slope = jax.jit(jax.value_and_grad(lost))(5.0)
    steps = [float(lost(rho)) for rho in (4.9, 5.1)]
    np.testing.assert_allclose(slope, (steps[1] - steps[0]) / 0.2, rtol=1e-2)
    assert 0 < float(value) < 1


def test_a_balanced_plan_that_sends_mass_far_says_so(plan, x64):
    text = str(omt.transport(*pair(), **SETTINGS).correspondences())
    assert "40% of the mass goes over 10 times the typical cost" in text
    assert "typical cost" not in str(plan.correspondences())
    source, _ = pair()
    assert "typical cost" not in str(omt.transport(source, source, **SETTINGS).correspondences())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_relaxation": -1.0}, "`source_relaxation` must be a finite number greater than 0; got -1."),
        ({"target_relaxation": 0.0}, "`target_relaxation` must be a finite number greater than 0; got 0."),
        ({"target_relaxation": np.nan}, "`target_relaxation` must be a finite number greater than 0; got nan."),
        (
            {"source_relaxation": 1.0, "source_mass": 0.0},
            "`source_mass` must be a finite number greater than 0; got 0.",
        ),
        ({"source_relaxation": 1.0, "target_mass": np.nan}, "`target_mass` must be a finite number greater than 0"),
        ({"source_mass": 2.0}, "`source_mass` and `target_mass` must be equal where both are kept; got 2.0 and 1.0."),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match="^" + message.replace("`", "`").replace(".", r"\.")):
        omt.transport(*pair(np.float32), **(SETTINGS | options))
