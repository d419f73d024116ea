"""Plans with a tolerance for pairs: against those of all pairs, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._couplings.gaussian import solve_gaussian_couplings
from omt_expfam._couplings.gaussian_blocks import sides_of
from omt_expfam._couplings.listed import listed_terms, objective_bounds
from omt_expfam.families import DiagonalGaussian, Gamma, Gaussian, LowRankGaussian, SphericalGaussian
from omt_expfam.results import SparsePlan

DIM = 3
TOLERANCE = 1e-3


def components(family, num, seed):
    rng = np.random.default_rng(seed)
    mean = 4 * rng.normal(size=(8, DIM))[rng.integers(8, size=num)] + rng.normal(size=(num, DIM))
    variance = rng.gamma(2.0, 0.5, size=(num, DIM))
    if family is Gaussian:
        turn = np.linalg.qr(rng.normal(size=(num, DIM, DIM)))[0]
        covariance = turn * variance[:, None, :] @ np.swapaxes(turn, 1, 2)
        return Gaussian(mean, (covariance + np.swapaxes(covariance, 1, 2)) / 2)
    if family is LowRankGaussian:
        return LowRankGaussian(mean, rng.normal(size=(num, DIM, 1)), variance)
    return family(mean, variance[:, 0] if family is SphericalGaussian else variance)


def mixture(family, num, seed):
    weights = np.random.default_rng(seed + 100).uniform(0.2, 1, num)
    return omt.Mixture(weights / weights.sum(), components(family, num, seed))


@pytest.fixture(scope="module")
def sides():
    return mixture(DiagonalGaussian, 40, 0), mixture(DiagonalGaussian, 30, 1)


@pytest.fixture(scope="module")
def dense(sides):
    return omt.transport(*sides)


@pytest.fixture(scope="module")
def plan(sides):
    return omt.transport(*sides, pair_tolerance=TOLERANCE)


@pytest.fixture(scope="module")
def points(sides):
    return np.asarray(sides[0].sample(jax.random.key(0), 200))


def test_numbers_are_those_of_all_pairs(plan, dense):
    assert isinstance(plan, SparsePlan)
    assert plan.converged
    table, missing = plan.weights.toarray(), plan.weights.toarray() == 0
    assert 0 < plan.num_pairs < 0.5 * table.size
    assert plan.num_pairs <= int(plan.num_computed)
    assert np.asarray(dense.weights)[missing].sum() <= float(plan.left_out) <= TOLERANCE
    assert np.abs(table - np.asarray(dense.weights)).sum() <= np.sqrt(2 * float(plan.left_out))
    for name in ("component_costs", "component_kl", "component_objectives"):
        ours, theirs = getattr(plan, name).toarray()[~missing], np.asarray(getattr(dense, name))[~missing]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(plan.cost, dense.cost, rtol=5e-3)
    # Rounding in float32 beside the bound.
    assert float(plan.objective) - float(dense.objective) <= float(plan.left_out * plan.epsilon_weights) + 1e-4
    assert plan.epsilon_rules == dense.epsilon_rules == ("auto", "auto")
    np.testing.assert_allclose(plan.epsilon_weights, dense.epsilon_weights, rtol=1e-5)
    text = str(plan)
    assert f"{plan.num_pairs} of 1200 pairs" in text
    assert "others carry at most" in text


def test_maps_are_nearly_those_of_all_pairs(plan, dense, points):
    """A share of 1e-3 of the mass is missing, in a typical point too."""
    for name in ("push_forward", "pull_back", "push_forward_most_likely", "target_probabilities"):
        ours, theirs = (np.asarray(getattr(one, name)(points)) for one in (plan, dense))
        assert np.median(np.abs(ours - theirs).max(axis=1)) < 0.02, name
    ours, theirs = (np.asarray(one.conditional_covariance(points)) for one in (plan, dense))
    assert np.median(np.abs(ours - theirs).max(axis=(1, 2))) < 0.1
    images = dense.push_forward(points)
    ours, theirs = (np.asarray(one.log_prob(points, images)) for one in (plan, dense))
    assert np.median(np.abs(ours - theirs)) < 0.02
    np.testing.assert_allclose(jax.jit(plan.push_forward)(points), plan.push_forward(points), rtol=1e-4, atol=1e-4)


def test_draws_follow_the_conditional_law(plan, sides):
    """Of 20,000 draws, shares of components and moments within four standard errors."""
    x, y = (np.asarray(values, np.float64) for values in plan.sample_joint(jax.random.key(1), 20_000))
    mean, covariance = np.asarray(sides[1].mean()), np.asarray(sides[1].covariance())
    assert (np.abs(y.mean(axis=0) - mean) < 4 * np.sqrt(np.diag(covariance) / len(y))).all()
    residual = y - np.asarray(plan.push_forward(x))
    assert (np.abs(residual.mean(axis=0)) < 4 * residual.std(axis=0) / np.sqrt(len(y))).all()


def test_reverse_reads_the_same_plan(plan, points):
    back = plan.reverse()
    assert abs(back.weights.T - plan.weights).max() == 0
    assert abs(back.component_costs.T - plan.component_costs).max() == 0
    np.testing.assert_allclose(back.push_forward(points), plan.pull_back(points), rtol=1e-6)
    assert repr(back.reverse()) == repr(plan)


def test_paths_and_correspondences(plan, dense):
    middle, expected = plan.interpolate(0.5), dense.interpolate(0.5)
    np.testing.assert_allclose(middle.mean(), expected.mean(), atol=5e-3)
    np.testing.assert_allclose(middle.covariance(), expected.covariance(), atol=0.05)
    found, wanted = plan.correspondences(0.02), dense.correspondences(0.02)
    np.testing.assert_array_equal(found.source, wanted.source)
    np.testing.assert_array_equal(found.target, wanted.target)
    np.testing.assert_allclose(found.share_of_source, wanted.share_of_source, atol=5e-3)
    assert "lighter pairs" in str(found)


def test_labels_and_groups_go_where_those_of_all_pairs_go(plan, dense, points):
    labels = np.where(points[:, 0] > 0, "right", "left")
    ours, theirs = (one.transfer(labels, points).proportions for one in (plan, dense))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    groups = [np.arange(num) % 2 for num in (40, 30)]
    ours, theirs = (one.group_flows(*groups).couplings for one in (plan, dense))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_file_keeps_it(plan, tmp_path, points):
    omt.save(tmp_path / "plan.omt", plan)
    loaded = omt.load(tmp_path / "plan.omt")
    assert repr(loaded) == repr(plan)
    np.testing.assert_array_equal(loaded.push_forward(points), plan.push_forward(points))


def test_what_it_lacks_says_so(plan):
    with pytest.raises(AttributeError, match=r"`pair_tolerance` has no `independence`. Leave `pair_tolerance` out"):
        _ = plan.independence
    with pytest.raises(TypeError, match="`sample` of a plan with `pair_tolerance` looks at its points"):
        jax.jit(lambda x: plan.sample(jax.random.key(0), x))(jnp.ones((2, DIM)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pair_tolerance": 0.0},
            "`pair_tolerance` must be a finite number greater than 0; got 0|between 0 and 1; got 0",
        ),
        ({"pair_tolerance": 1.0}, "`pair_tolerance` must be a share of the mass between 0 and 1; got 1"),
        ({"epsilon_weights": 0.0}, "`epsilon_weights` must be positive with `pair_tolerance`; got 0"),
        ({"source_relaxation": 1.0}, "`source_relaxation` must be left at inf with `pair_tolerance`; got 1.0"),
        ({"start": omt.BlockStart()}, "`start` must be left at None with `pair_tolerance`; got BlockStart"),
        ({"num_sweeps": 2}, "`num_sweeps` must be left at 1 with `pair_tolerance`; got 2"),
    ],
)
def test_bad_input_is_refused_in_one_line(sides, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        omt.transport(*sides, **({"pair_tolerance": TOLERANCE} | options))
    assert "\n" not in str(caught.value)


def test_other_families_and_traces_are_refused(sides):
    gamma = omt.Mixture(np.full(2, 0.5), Gamma(np.ones((2, DIM)), np.ones((2, DIM))))
    with pytest.raises(ValueError, match="must be None unless all components are Gaussian; got Gamma and Gamma"):
        omt.transport(gamma, gamma, pair_tolerance=TOLERANCE)
    with pytest.raises(TypeError, match="`pair_tolerance` must be None where `transport` is traced"):
        jax.jit(lambda side: omt.transport(side, sides[1], pair_tolerance=TOLERANCE).cost)(sides[0])


def test_a_solve_that_fails_says_so(sides):
    with pytest.raises(omt.ConvergenceError, match="`max_steps`"):
        omt.transport(*sides, pair_tolerance=TOLERANCE, max_steps=1)
    assert not omt.transport(*sides, pair_tolerance=TOLERANCE, max_steps=1, throw=False).converged


@pytest.mark.parametrize("family", [DiagonalGaussian, SphericalGaussian, LowRankGaussian, Gaussian])
def test_bounds_are_below_the_objectives(family, x64):
    """And equal to them where covariances have common axes; terms of listed pairs are those of all pairs.

    They are above the bound by means and traces, which holds for any coupling.
    """
    source, target = components(family, 12, 0), components(family, 9, 1)
    gap = np.asarray(source.mean())[:, None] - np.asarray(target.mean())[None]
    left, right = (np.sqrt(np.trace(np.asarray(side.covariance()), axis1=1, axis2=2)) for side in (source, target))
    plain = (gap**2).sum(-1) + (left[:, None] - right[None]) ** 2
    for epsilon in (0.0, 0.1, 10.0):
        strength = jnp.asarray(epsilon)
        sides = sides_of(source, target, strength)
        couplings = solve_gaussian_couplings(source, target, strength)
        objectives, bounds = np.asarray(couplings.objectives()), objective_bounds(sides)
        assert (bounds <= objectives).all()
        assert (bounds > plain - 1e-5 * (1 + plain)).all()
        if family in (DiagonalGaussian, SphericalGaussian):
            np.testing.assert_allclose(bounds, objectives, rtol=1e-5, atol=1e-5)
        costs, kl = listed_terms(sides, *np.divmod(np.arange(108), 9))
        np.testing.assert_allclose(costs, np.asarray(couplings.costs).ravel(), rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(kl, np.asarray(couplings.kl).ravel(), rtol=1e-10)


@pytest.mark.slow
def test_full_covariances_in_many_components():
    """Hundreds of components on either side: a plan of few pairs, which is that of all of them."""
    sides = mixture(Gaussian, 250, 0), mixture(Gaussian, 300, 1)
    dense, plan = omt.transport(*sides), omt.transport(*sides, pair_tolerance=1e-3)
    missing = plan.weights.toarray() == 0
    assert np.asarray(dense.weights, np.float64)[missing].sum() <= float(plan.left_out) + 1e-6
    assert int(plan.num_computed) < 0.3 * missing.size
    np.testing.assert_allclose(plan.cost, dense.cost, rtol=5e-3)
