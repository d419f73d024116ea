"""Plans that change masses at a price per unit, or move a share: known growth, definition, derivatives, refusals."""

import jax
import numpy as np
import pytest
import scipy.optimize

import omt_expfam as omt
from tests.plans.test_masses import pair, SETTINGS

VARIATION = {"source_relaxation": omt.TotalVariation(5.0), "target_relaxation": omt.TotalVariation(5.0)}
SHARE = {"source_relaxation": omt.Partial(0.8), "target_relaxation": omt.Partial(0.8)}


@pytest.fixture(scope="module")
def plans():
    with jax.enable_x64(True):
        return [omt.transport(*pair(), **SETTINGS, **options) for options in (VARIATION, SHARE)]


def test_known_growth_is_found_exactly(plans, x64):
    """Where only some masses change, a divergence blurs them all; a price per unit does not."""
    for plan in plans:
        np.testing.assert_allclose(plan.growth, [2, 1, 1, 1, 0], atol=1e-7)
        assert plan.weights.sum() - np.trace(plan.weights) < 1e-6
        np.testing.assert_allclose(plan.mass, 0.8, rtol=1e-6)
        np.testing.assert_allclose(plan.mass_at(1.0), 1, rtol=1e-9)


def test_the_objective_is_that_of_the_definition(plans, x64):
    source, target = pair()
    for plan, price in zip(plans, (5.0, 0.0), strict=True):
        table, product = np.asarray(plan.mass * plan.weights), np.outer(source.weights, target.weights)
        value = np.sum(table * plan.component_objectives)
        value += 0.1 * np.sum(table * np.log(np.maximum(table, 1e-300) / product) - table + product)
        value += (
            price * np.abs(table.sum(1) - source.weights).sum() + price * np.abs(table.sum(0) - target.weights).sum()
        )
        np.testing.assert_allclose(plan.objective, value, rtol=1e-9)
        assert plan.masses.kinds == (("total variation",) * 2 if price else ("partial",) * 2)
    # What another unit of mass would cost, as a price, moves the same share.
    price = omt.TotalVariation(plans[1].masses.source_relaxation)
    again = omt.transport(*pair(), **SETTINGS, source_relaxation=price, target_relaxation=price)
    np.testing.assert_allclose(again.mass * again.weights, plans[1].mass * plans[1].weights, atol=1e-8)


def test_files_and_the_other_way(plans, x64, tmp_path):
    back = plans[0].reverse()
    np.testing.assert_allclose(back.source_growth, 1 / plans[0].target_growth, rtol=1e-12)
    omt.save(tmp_path / "plan.omt", back)
    assert omt.load(tmp_path / "plan.omt").masses.kinds == ("total variation", "total variation")
    # One side's price, and the other side kept.
    one = omt.transport(*pair(), **SETTINGS, source_relaxation=omt.TotalVariation(3.0), target_mass=3.0)
    np.testing.assert_allclose(one.mass, 3, rtol=1e-9)
    np.testing.assert_allclose(one.target_growth, 1, rtol=1e-9)


def test_a_share_of_one_side_is_all_of_the_other(x64):
    source, target = pair()
    found = omt.transport(source, target, **SETTINGS, source_relaxation=omt.Partial(0.5), source_mass=2.0)
    np.testing.assert_allclose(found.target_growth, 1, rtol=1e-9)
    costs = np.asarray(found.component_objectives)
    # The cheapest half, by a linear program: every source component may give up to 0.4.
    rows, columns = np.kron(np.eye(5), np.ones((1, 5))), np.kron(np.ones((1, 5)), np.eye(5))
    best = scipy.optimize.linprog(costs.ravel(), rows, np.full(5, 0.4), columns, np.asarray(target.weights))
    np.testing.assert_allclose(found.weights, best.x.reshape(5, 5), atol=1e-6)


def test_compiled_derivatives(x64):
    def numbers(price, share):
        free = {"source_relaxation": omt.TotalVariation(price), "target_relaxation": 2.0}
        part = {"source_relaxation": omt.Partial(share), "target_relaxation": omt.Partial(share)}
        return sum(omt.transport(*pair(), **SETTINGS, **options).objective for options in (free, part))

    value, slopes = jax.jit(jax.value_and_grad(numbers, argnums=(0, 1)))(1.3, 0.9)
    h = 1e-5
    for n in (0, 1):
        ends = [float(numbers(*(x + s * h * (n == k) for k, x in enumerate((1.3, 0.9))))) for s in (-1, 1)]
        np.testing.assert_allclose(slopes[n], (ends[1] - ends[0]) / (2 * h), rtol=1e-5)
        np.testing.assert_allclose(value, np.mean(ends), rtol=1e-6)


def test_draws_and_time_courses_take_them(x64):
    source, target = pair()
    plans = omt.transport_posterior([source, source], target, **SETTINGS, **SHARE)
    np.testing.assert_allclose(plans.mass, 0.8, rtol=1e-6)
    course = omt.trajectory([source, target], **SETTINGS, source_relaxation=omt.TotalVariation(5.0))
    np.testing.assert_allclose(course.growth[0], [2, 1, 1, 1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_relaxation": omt.TotalVariation(-1.0)}, "`source_relaxation.price` must be a finite number greater"),
        ({"source_relaxation": omt.Partial(1.5)}, "`source_relaxation.share` must be at most 1; got 1.5"),
        ({"target_relaxation": omt.Partial(0.0)}, "`target_relaxation.share` must be a finite number greater than 0"),
        ({"target_relaxation": omt.Partial(0.5)}, "must move the same mass; got 1 and 0.5"),
        ({**SHARE, "source_relaxation": 2.0}, "must both be Partial or infinite where one is Partial; got divergence"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        omt.transport(*pair(np.float32), **(SETTINGS | options))


@pytest.mark.parametrize("options", [{"source_relaxation": 5.0, "target_relaxation": 5.0}, VARIATION, SHARE])
def test_without_regularization(options, x64):
    """The limit of small regularization: the same masses, and a plan with everything that is read from it."""
    free = {"epsilon_components": 0.1, **options}
    plan = omt.transport(*pair(), epsilon_weights=0.0, **free)
    near = omt.transport(*pair(), epsilon_weights=1e-3, **free)
    np.testing.assert_allclose(plan.mass * plan.weights, near.mass * near.weights, atol=1e-3)
    np.testing.assert_allclose(plan.objective, near.objective, atol=1e-2)
    np.testing.assert_allclose(plan.growth, [2, 1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(plan.mass_at(0.0), 1, rtol=1e-6)
    assert plan.converged
    assert np.isfinite(plan.push_forward(np.zeros((1, 2)))).all()
    with pytest.raises(TypeError, match="cannot be traced where masses change"):
        jax.jit(lambda mass: omt.transport(*pair(), epsilon_weights=0.0, **free, source_mass=mass, target_mass=mass))(
            1.0
        )
