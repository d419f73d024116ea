"""Couplings of columns of several kinds, against their blocks, linear programs on all columns and draws."""

import jax
import numpy as np
import pytest
import scipy.stats as st
from scipy.optimize import linprog

import omt_expfam as omt
from omt_expfam._components.columns import point_costs
from omt_expfam.families import Categorical, Gaussian, Poisson, VonMises

KINDS = omt.template(Categorical, num_categories=3)
# Counts take four seconds to compile, and angles twenty.
FAMILIES = {
    "numbers": omt.mixed(size=(Gaussian, [0, 3]), visits=(Gaussian, 1), kind=(KINDS, 2)).family,
    "angles": omt.mixed(size=(Gaussian, [0, 3]), visits=(Poisson, 1), kind=(KINDS, 2), hour=(VonMises, 4)).family,
}
EPSILON = 0.5


def _side(family, seed, turn):
    rng = np.random.default_rng(seed)
    roots = np.tril(rng.normal(size=(2, 2, 2))) + 2 * np.eye(2)
    rate = rng.uniform(1, 4, (2, 1))
    counts = family.blocks[1].family is Poisson
    parts = [
        Gaussian(3 * rng.normal(size=(2, 2)), scale_tril=roots),
        Poisson(rate) if counts else Gaussian(rate, np.ones((2, 1, 1))),
        Categorical(rng.dirichlet(np.ones(3), (2, 1))),
        VonMises(turn + np.array([[2.8], [0.0]]), [[2.0], [3.0]]),
    ]
    return omt.Mixture([0.4, 0.6], family(*parts[: len(family.blocks)]))


@pytest.fixture(scope="module", params=["numbers", pytest.param("angles", marks=pytest.mark.slow)])
def plan(request):
    family = FAMILIES[request.param]
    with jax.enable_x64(True):
        sides = _side(family, 0, 0.0), _side(family, 1, 1.0)
        return omt.transport(*sides, epsilon_components=EPSILON, epsilon_weights=1.0)


def _alone(plan, name):
    """The plan of one block, with its components, from the same mixtures."""
    sides = (omt.Mixture(side.weights, side.components[name]) for side in (plan.source, plan.target))
    return omt.transport(*sides, epsilon_components=EPSILON, epsilon_weights=1.0)


def _point(plan):
    return np.asarray(plan.source.sample(jax.random.key(5), 64))[7:8]


def test_costs_and_divergences_add(plan, x64):
    parts = [_alone(plan, block.name) for block in plan.source.components.blocks]
    for what in ("component_costs", "component_kl", "component_errors"):
        np.testing.assert_allclose(getattr(plan, what), sum(np.asarray(getattr(p, what)) for p in parts), rtol=1e-12)


def test_blocks_alone_reach_the_least_cost_of_all_columns(x64):
    """Against a linear program over pairs of counts and categories, which knows nothing of blocks."""
    family = omt.mixed(visits=(Poisson, 0), kind=(omt.template(Categorical, num_categories=2), 1, 3.0)).family
    rates, shares = (1.0, 1.8), ([0.3, 0.7], [0.6, 0.4])
    sides = [omt.Mixture([1.0], family(Poisson([[r]]), Categorical([[p]]))) for r, p in zip(rates, shares, strict=True)]
    found = omt.transport(*sides, epsilon_components=0.0)
    counts = np.arange(17)
    masses = [np.outer(st.poisson(r).pmf(counts), p).ravel() for r, p in zip(rates, shares, strict=True)]
    masses = [mass / mass.sum() for mass in masses]
    number, kind = (v.ravel() for v in np.meshgrid(counts, [0, 1], indexing="ij"))
    cost = (number[:, None] - number) ** 2 + 3.0 * (kind[:, None] != kind)
    ones, eye = np.ones((1, len(kind))), np.eye(len(kind))
    equal = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
    least = linprog(cost.ravel(), A_eq=equal[:-1], b_eq=np.concatenate(masses)[:-1]).fun
    # What HiGHS leaves of the constraints.
    assert abs(float(found.cost) - least) < 1e-5
    x = np.array([[2.0, 1.0]])
    alone = [
        omt.transport(*[omt.Mixture([1.0], s.components[name]) for s in sides], epsilon_components=0.0)
        for name in ("visits", "kind")
    ]
    expected = [np.asarray(p.push_forward(x[:, [c]]))[0, 0] for c, p in enumerate(alone)]
    np.testing.assert_allclose(found.push_forward(x)[0], expected)
    # With regularization the probabilities of all pairs of points sum to one, and give the cost.
    blurred = omt.transport(*sides, epsilon_components=0.5)
    every = np.column_stack([number, kind]).astype(float)
    left, right = np.repeat(every, len(every), axis=0), np.tile(every, (len(every), 1))
    table = np.exp(np.asarray(blurred.log_prob(left, right))).reshape(cost.shape)
    np.testing.assert_allclose(table.sum(1), masses[0], atol=1e-9)
    np.testing.assert_allclose(table.sum(0), masses[1], atol=1e-9)
    assert abs((table * cost).sum() - float(blurred.cost)) < 1e-6


def test_draws_have_the_cost_and_the_densities_of_the_plan(plan, x64):
    x, y = plan.sample_joint(jax.random.key(0), 4000)
    each = np.asarray(point_costs(plan.source.components, x, y))
    assert abs(each.mean() - float(plan.cost)) < 5 * each.std() / np.sqrt(len(each))
    backward = plan.reverse()
    np.testing.assert_allclose(plan.log_prob(x[:50], y[:50]), backward.log_prob(y[:50], x[:50]), atol=1e-6)


def test_maps_and_dispersions_are_those_of_draws(plan, x64):
    x = _point(plan)
    draws = np.asarray(plan.sample(jax.random.key(1), np.repeat(x, 4000, axis=0)))
    image, spread = np.asarray(plan.push_forward(x))[0], np.asarray(plan.conditional_covariance(x))[0]
    center = draws.mean(0)
    center[2] = np.bincount(draws[:, 2].astype(int)).argmax()
    center[4:] = np.arctan2(np.sin(draws[:, 4:]).mean(0), np.cos(draws[:, 4:]).mean(0))
    np.testing.assert_array_less(np.abs(image - center), 5 * draws.std(0) / np.sqrt(4000) + 1e-9)
    offset = draws - image
    offset[:, 4:] = (offset[:, 4:] + np.pi) % (2 * np.pi) - np.pi
    found = offset.T @ offset / 4000
    found[2], found[:, 2] = 0.0, 0.0
    found[2, 2] = (draws[:, 2] != image[2]).mean()
    error = np.sqrt(np.outer(np.diag(found), np.diag(found)) / 4000)
    assert (np.abs(found - spread) < 8 * error + 1e-9).all()


def test_on_the_way(plan, x64):
    half = plan.interpolate(0.5)
    draws = np.asarray(half.sample(jax.random.key(0), 500))
    assert set(draws[:, 2]) <= {0.0, 1.0, 2.0}
    assert np.abs(draws[:, 4:]).max(initial=0) <= np.pi
    with pytest.raises(TypeError, match="numbers on the line"):
        half.mean()


def test_gaussian_blocks_stay_mixed_components(x64):
    family = omt.mixed(a=(Gaussian, [1]), b=(Gaussian, [0], 4.0)).family
    sides = [
        omt.Mixture([1.0], family(Gaussian([[m]], [[[1.0]]]), Gaussian([[0.0]], [[[v]]])))
        for m, v in ((0.0, 1.0), (2.0, 4.0))
    ]
    found = omt.transport(*sides, epsilon_components=0.0)
    # (2 - 0)^2, and four times (2 - 1)^2.
    assert abs(float(found.cost) - 8) < 1e-9
    half = found.interpolate(0.5)
    np.testing.assert_allclose(half.components["b"].covariance(), [[[2.25]]], rtol=1e-9)
    np.testing.assert_allclose(half.mean(), [0.0, 1.0], atol=1e-9)
    # A weight of the cost divides the regularization of its block.
    blurred = omt.transport(*sides, epsilon_components=0.8)
    alone = omt.transport(*[omt.Mixture([1.0], s.components["b"]) for s in sides], epsilon_components=0.2)
    first = omt.transport(*[omt.Mixture([1.0], s.components["a"]) for s in sides], epsilon_components=0.8)
    assert abs(float(blurred.cost) - float(first.cost) - 4 * float(alone.cost)) < 1e-9


def test_files(plan, tmp_path, x64):
    omt.save(tmp_path / "plan.omt", plan)
    loaded = omt.load(tmp_path / "plan.omt")
    assert type(loaded.source.components) is type(plan.source.components)
    np.testing.assert_array_equal(loaded.component_costs, plan.component_costs)
    x = _point(plan)
    np.testing.assert_array_equal(loaded.push_forward(x), plan.push_forward(x))


def test_what_does_not_fit_is_refused(x64):
    families = [omt.mixed(a=(Gaussian, [0]), b=(VonMises, c), c=(Gaussian, d)).family for c, d in ((1, 2), (2, 1))]
    normal, angle = Gaussian([[0.0]], [[[1.0]]]), VonMises([[0.0]], [[1.0]])
    sides = [omt.Mixture([1.0], family(normal, angle, normal)) for family in families]
    with pytest.raises(TypeError, match="both have angles in the same columns"):
        omt.transport(*sides)
    pair = omt.mixed(a=(Gaussian, [0]), b=(Gaussian, [1])).family
    one = omt.Mixture([1.0], pair(normal, normal))
    with pytest.raises(TypeError, match="the same blocks of columns"):
        omt.transport(one, omt.Mixture([1.0], Gaussian([[0.0, 0.0]], [np.eye(2)])))
    weighted = omt.mixed(a=(Gaussian, [0]), b=(Gaussian, [1], 2.0)).family(normal, normal)
    with pytest.raises(ValueError, match="the same weights of costs"):
        omt.transport(one, omt.Mixture([1.0], weighted))
    with pytest.raises(TypeError, match="must not hold categories or columns of several kinds"):
        omt.Blocks([one.components, one.components])
    with pytest.raises(ValueError, match="`component_relaxation` must be infinite"):
        omt.transport(one, one, component_relaxation=1.0)
