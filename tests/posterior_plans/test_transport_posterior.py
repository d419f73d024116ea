"""Posteriors carried through the transport, against loops over draws, NumPy, ArviZ and Monte Carlo."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import numpyro.distributions as dist
import pytest
from matplotlib.patches import Ellipse

import omt_expfam as omt
from omt_expfam import plot as typed_plot
from omt_expfam._base.arrays import take
from omt_expfam._components.relabel import permuted, relabel
from omt_expfam._posterior_plans.transport import transport_posterior
from omt_expfam._posteriors.credible import credible_interval
from omt_expfam.families import Exponential, Gaussian, Laplace
from tests.cases import covariances
from tests.pictures import cut

plot: Any = typed_plot

NUM, DRAWS = 3, 6
EPSILONS = {"epsilon_components": 0.4, "epsilon_weights": 1.0}
X = np.random.default_rng(5).standard_normal((4, 2))


def arrays(seed, num=DRAWS, dtype="float64", spread=0.1):
    """Draws of weights, locations, covariances and scales around one mixture of three well separated components."""
    rng = np.random.default_rng(seed)
    weights = np.stack([rng.dirichlet([60.0, 40.0, 20.0]) for _ in range(num)])
    loc = 4 * np.array([[0.0, 0.0], [1.0, 0.2], [-0.3, 1.0]]) + seed + spread * rng.standard_normal((num, NUM, 2))
    scale = rng.uniform(0.5, 1.0, (NUM, 2)) * np.exp(spread * rng.standard_normal((num, NUM, 2)))
    covariance = covariances(rng, NUM, 2, 5.0) * np.exp(spread * rng.standard_normal((num, NUM, 1, 1)))
    return tuple(jnp.asarray(value, dtype) for value in (weights, loc, covariance, scale))


@functools.cache
def stacked(make):
    """Mixtures of many draws, by one program: ``make`` makes the components of one."""

    def one(weights, *arguments):
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return omt.Mixture(weights, make(*arguments))

    return jax.jit(jax.vmap(one))


def gaussians(seed, num=DRAWS, dtype="float64", spread=0.1):
    weights, loc, covariance, _ = arrays(seed, num, dtype, spread)
    return stacked(Gaussian)(weights, loc, covariance)


def pairs_of_gaussians(seed, num=DRAWS):
    """Two of the three components, which leave out a third of the pairs."""
    weights, loc, covariance = (np.asarray(value)[:, :2] for value in arrays(seed, num)[:3])
    return stacked(Gaussian)(weights / weights.sum(axis=1, keepdims=True), loc, covariance)


def laplaces(seed, num=DRAWS):
    weights, loc, _, scale = arrays(seed, num)
    return stacked(Laplace)(weights, loc, scale)


def exponentials(seed, num=DRAWS):
    weights, loc, _, scale = arrays(seed, num)
    return stacked(Exponential)(weights, loc, scale)


def student(loc, scale):
    return omt.NumPyroComponents(dist.MultivariateStudentT(5.0 * jnp.ones(NUM), loc, jax.vmap(jnp.diag)(scale)))


def students(seed, num=DRAWS):
    weights, loc, _, scale = arrays(seed, num)
    return stacked(student)(weights, loc, scale)


def two_blocks(loc, covariance):
    return omt.Blocks([Gaussian(loc[:2], covariance[:2]), Gaussian(loc[2:], covariance[2:])])


def blocks(seed, num=DRAWS):
    weights, loc, covariance, _ = arrays(seed, num)
    return stacked(two_blocks)(weights, loc, covariance)


@dataclasses.dataclass
class Fitted:
    """What a fitted posterior has."""

    mixtures: omt.Mixture
    reference: omt.Mixture


def fitted(draws):
    return Fitted(draws, take(draws, 0))


def shuffled(draws, seed=0):
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(NUM) for _ in range(draws.weights.shape[0])])
    return permuted(draws, order), order


@pytest.fixture(scope="module")
def posterior():
    """One plan that tests read from; the strict modes are set within each test."""
    with jax.enable_x64(True):
        yield transport_posterior(fitted(gaussians(0)), fitted(gaussians(1)), **EPSILONS)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()
    plt.close("all")


# -- the solve --------------------------------------------------------------------------------------------------------


def test_all_at_once_is_one_by_one(posterior, x64):
    source, target = gaussians(0), gaussians(1)
    plans = [omt.transport(take(source, s), take(target, s), **EPSILONS) for s in range(DRAWS)]
    key = jax.random.key(3)

    def same(value, function, tolerance=1e-8):
        expected = np.stack([np.asarray(function(plan)) for plan in plans])
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)

    for name in ("weights", "component_costs", "cost", "objective"):
        same(getattr(posterior, name), lambda plan, name=name: getattr(plan, name))
    same(posterior.distance**2, lambda plan: plan.cost)
    same(posterior.row_shares, lambda plan: plan.weight_coupling.row_shares)
    for name in ("push_forward", "pull_back", "target_probabilities", "conditional_covariance"):
        same(getattr(posterior, name)(X), lambda plan, name=name: getattr(plan, name)(X))
    same(posterior.log_prob(X, X + 0.3), lambda plan: plan.log_prob(X, X + 0.3))
    same(posterior.reverse().push_forward(X), lambda plan: plan.reverse().push_forward(X))
    np.testing.assert_allclose(posterior.plan(2).objective, plans[2].objective, rtol=1e-10)
    np.testing.assert_allclose(posterior.plan(2).sample(key, X), plans[2].sample(jax.random.clone(key), X), rtol=1e-8)
    assert np.asarray(posterior.converged).all()
    assert float(posterior.marginal_errors.max()) < 1e-9


def test_float32_draws_are_solved_in_float64():
    source, target = gaussians(0, dtype="float32"), gaussians(1, dtype="float32")
    plan = transport_posterior(fitted(source), fitted(target), **EPSILONS)
    assert plan.weights.dtype == plan.push_forward(X).dtype == jnp.float32
    weights, a = (np.asarray(v, np.float64) for v in (plan.weights, source.weights))
    errors = np.abs(weights.sum(2) - a).sum(1)
    errors += np.abs(weights.sum(1) - np.asarray(target.weights, np.float64)).sum(1)
    # The reported errors are those of the stored numbers, never less.
    assert (errors <= np.asarray(plan.marginal_errors, np.float64)).all()
    assert (np.asarray(plan.marginal_errors) < 1e-6).all()
    single = omt.transport(take(source, 1), take(target, 1), **EPSILONS)
    np.testing.assert_allclose(plan.plan(1).cost, single.cost, rtol=1e-4)
    with jax.enable_x64(True):
        mixed = transport_posterior(fitted(source), fitted(gaussians(1)), **EPSILONS)
        assert mixed.weights.dtype == jnp.float64
        assert float(mixed.marginal_errors.max()) < 1e-9


def test_chunks_pairings_and_fixed_sides(posterior, x64):
    source, target = gaussians(0), gaussians(1)
    chunked = transport_posterior(fitted(source), fitted(target), chunk_size=4, **EPSILONS)
    np.testing.assert_allclose(chunked.weights, posterior.weights, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(chunked.push_forward(X), posterior.push_forward(X), rtol=1e-12)
    few = take(source, slice(2))
    product = transport_posterior(fitted(few), fitted(target), pairing="product", chunk_size=6, **EPSILONS)
    assert product.num_draws == 2 * DRAWS
    for i, j in ((0, 0), (1, 1)):
        np.testing.assert_allclose(product.weights[i * DRAWS + j], posterior.weights[i], rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(product.source.weights[DRAWS:], np.asarray(few.weights)[[1] * DRAWS])
    fixed = transport_posterior(take(source, 1), fitted(target), **EPSILONS)
    assert fixed.num_draws == DRAWS
    np.testing.assert_allclose(fixed.weights, product.weights[DRAWS:], rtol=1e-10, atol=1e-14)
    thinned = transport_posterior(fitted(source), fitted(target), num_draws=4, **EPSILONS)
    np.testing.assert_allclose(thinned.cost, posterior.cost[np.array([0, 2, 3, 5])], rtol=1e-10)
    # `jax.vmap` may leave NumPy arrays in place.
    plain = jax.tree.map(np.asarray, source)
    np.testing.assert_array_equal(transport_posterior(fitted(plain), fitted(target), **EPSILONS).cost, posterior.cost)
    listed = transport_posterior([take(source, s) for s in range(DRAWS)], fitted(target), relabel=False, **EPSILONS)
    np.testing.assert_allclose(listed.cost, posterior.cost, rtol=1e-12)


def test_the_limit_of_no_regularization_is_solved_draw_by_draw(x64):
    source, target = gaussians(0, 4), gaussians(1, 4)
    plan = transport_posterior(fitted(source), fitted(target), epsilon_components=0.0, epsilon_weights=0.0)
    near = transport_posterior(fitted(source), fitted(target), epsilon_components=0.0, epsilon_weights=1e-3)
    np.testing.assert_allclose(plan.cost, near.cost, rtol=1e-6)
    np.testing.assert_allclose(plan.push_forward(X), near.push_forward(X), rtol=1e-6)
    np.testing.assert_allclose(plan.predictive_covariance(X), near.predictive_covariance(X), rtol=1e-4, atol=1e-6)
    for each in (plan, near):
        with pytest.raises(ValueError, match="no joint density"):
            each.log_prob(X, X)


@pytest.mark.parametrize("draw", [blocks, pytest.param(laplaces, marks=[pytest.mark.slow, pytest.mark.optimized])])
def test_other_families_go_draw_by_draw(draw, x64):
    source, target = draw(0, 2), pairs_of_gaussians(1, 2)
    plan = transport_posterior(fitted(source), fitted(target), progress=False, **EPSILONS)
    single = omt.transport(take(source, 1), take(target, 1), **EPSILONS)
    np.testing.assert_allclose(plan.weights[1], single.weights, rtol=1e-10)
    np.testing.assert_allclose(plan.push_forward(X)[1], single.push_forward(X), rtol=1e-10)
    np.testing.assert_allclose(plan.reverse().pull_back(X), plan.push_forward(X), rtol=1e-10)
    assert plan.source.weights.shape == (2, NUM)
    assert plan.sample_draws(jax.random.key(0), X).shape == (2, 4, 2)
    assert np.isfinite(np.asarray(plan.sample(jax.random.key(0), X))).all()
    assert "2 draws, 3 -> 2 components in 2 dimensions" in repr(plan)


@pytest.mark.parametrize("together", [True, False])
def test_failed_draws_raise_or_are_marked(together, x64):
    source, target = gaussians(0, 4), gaussians(1, 4)
    if not together:
        source = blocks(0, 4)
    options = {"epsilon_components": 0.4, "epsilon_weights": 0.01, "max_steps": 2}
    with pytest.raises(
        omt.ConvergenceError, match=r"^4 of 4 draws failed, the first is 0: The weight coupling stopped"
    ):
        transport_posterior(fitted(source), fitted(target), **options)
    plan = transport_posterior(fitted(source), fitted(target), throw=False, **options)
    assert not np.asarray(plan.converged).any()
    assert "4 failed" in repr(plan)
    assert plan.plan(0).result == omt.RESULTS.weights_not_converged


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [gaussians, laplaces, students])
def test_relabel_undoes_permutations(draw, x64):
    draws = draw(0)
    mixed, order = shuffled(draws)
    back, found = relabel(mixed, take(draws, 0))
    np.testing.assert_array_equal(np.take_along_axis(order, found, axis=1), np.tile(np.arange(NUM), (DRAWS, 1)))
    for restored, original in zip(jax.tree.leaves(back), jax.tree.leaves(draws), strict=True):
        np.testing.assert_array_equal(restored, original)


def test_relabel_does_not_see_the_order(x64):
    """Also where components are nothing like the reference's, coincide, or have bounded supports."""
    for draws in (gaussians(0, spread=3.0), exponentials(0)):
        coinciding = jax.tree.map(lambda leaf: leaf.at[0, 1].set(leaf[0, 0]), draws)
        weights = coinciding.weights / jnp.sum(coinciding.weights, axis=1, keepdims=True)
        coinciding = eqx.tree_at(lambda m: m.weights, coinciding, weights)
        first, _ = relabel(coinciding, take(draws, 2))
        again, _ = relabel(shuffled(coinciding, 7)[0], take(draws, 2))
        for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
            np.testing.assert_array_equal(one, other)


def test_several_families_exchange_labels_within_each(x64):
    draws = blocks(0)
    order = np.tile([1, 0, 2], (DRAWS, 1))
    mixed = permuted(draws, order)
    moved, kept = (m.components.blocks[0].scale_tril for m in (mixed, draws))
    np.testing.assert_array_equal(moved, kept[:, ::-1])
    back, found = relabel(mixed, take(draws, 0))
    np.testing.assert_array_equal(found, order)
    for restored, original in zip(jax.tree.leaves(back), jax.tree.leaves(draws), strict=True):
        np.testing.assert_array_equal(restored, original)


def test_what_has_no_labels_does_not_depend_on_them(posterior, x64):
    source, target = gaussians(0), gaussians(1)
    mixed = [shuffled(source, 1)[0], shuffled(target, 2)[0]]
    plan = transport_posterior(*mixed, relabel=False, **EPSILONS)
    assert np.abs(np.asarray(plan.weights - posterior.weights)).max() > 0.1
    readings = {
        "cost": lambda p: p.cost,
        "objective": lambda p: p.objective,
        "map": lambda p: p.push_forward(X),
        "covariance": lambda p: p.conditional_covariance(X),
        "density": lambda p: p.log_prob(X, X + 0.3),
        "target": lambda p: jnp.stack([take(p.target, s).log_prob(X) for s in range(DRAWS)]),
        "predictive": lambda p: p.predictive_covariance(X),
    }
    for reading in readings.values():
        np.testing.assert_allclose(reading(plan), reading(posterior), rtol=1e-9, atol=1e-11)
    # Relabelled, Omega is the same too, up to the labels of the first draw.
    first = [transport_posterior(*pair, **EPSILONS) for pair in (mixed, [source, target])]
    sides = zip(mixed, (source, target), strict=True)
    rows, columns = (relabel(take(draws, slice(1)), take(original, 0))[1][0] for draws, original in sides)
    np.testing.assert_allclose(first[0].weights[:, rows][:, :, columns], first[1].weights, rtol=1e-9, atol=1e-11)


# -- summaries --------------------------------------------------------------------------------------------------------


def arviz_hdi(values, probability):
    import arviz

    try:
        return np.asarray(arviz.hdi(values, hdi_prob=probability))
    except TypeError:
        return np.asarray(arviz.hdi(values, prob=probability))


@pytest.mark.loose
def test_intervals_are_numpys_and_arvizs(x64):
    draws = np.random.default_rng(0).gamma(2.0, size=(500, 2, 3))
    interval = credible_interval(draws, 0.8)
    np.testing.assert_allclose(interval.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(interval.median, np.median(draws, 0), rtol=1e-12)
    np.testing.assert_allclose([interval.lower, interval.upper], np.quantile(draws, [0.1, 0.9], axis=0), rtol=1e-12)
    shortest = credible_interval(draws, 0.8, "highest-density")
    for index in np.ndindex(2, 3):
        expected = arviz_hdi(draws[(slice(None), *index)], 0.8)
        np.testing.assert_allclose([shortest.lower[index], shortest.upper[index]], expected, rtol=1e-12)
    single = credible_interval(draws[:, 0, 0])
    assert single.mean.shape == ()
    assert "probability 0.9" in repr(single)
    assert "shape (2, 3)" in repr(interval)
    assert f"({float(interval.mean[0, 0]):.4g} [{float(interval.lower[0, 0]):.4g}, " in repr(interval)
    assert "2 more" in repr(interval)


def test_summaries_count_draws(posterior, x64):
    cost, shares = np.asarray(posterior.cost), np.asarray(posterior.row_shares)
    np.testing.assert_allclose(posterior.cost_interval(0.5).lower, np.quantile(cost, 0.25), rtol=1e-12)
    np.testing.assert_allclose(posterior.distance_interval().median, np.sqrt(np.median(cost)), rtol=1e-2)
    np.testing.assert_allclose(posterior.weights_interval().mean, np.asarray(posterior.weights).mean(0), rtol=1e-12)
    images = np.asarray(posterior.push_forward(X))
    np.testing.assert_allclose(posterior.push_forward_interval(X, 0.8).upper, np.quantile(images, 0.9, 0), rtol=1e-12)
    threshold = np.sort(cost)[1]
    assert posterior.probability_cost_exceeds(threshold) == pytest.approx((DRAWS - 2) / DRAWS)
    np.testing.assert_allclose(posterior.probability_of_sending(0.3), (shares > 0.3).mean(0), rtol=1e-12)
    table = posterior.correspondences()
    text = str(table).splitlines()
    assert text[0].split()[:2] == ["source", "target"]
    assert len(table) == len(table.to_dict()["share"]) <= NUM * NUM
    i, j = table.source[0], table.target[0]
    assert table.share[0] == pytest.approx(shares[:, i, j].mean())
    assert table.share_upper[0] == pytest.approx(np.quantile(shares[:, i, j], 0.95))
    assert table.weight.sum() + table.dropped_weight == pytest.approx(1)
    assert "6 draws, 3 -> 3 components in 2 dimensions, cost " in repr(posterior)


def test_total_variance(posterior, x64):
    """The predictive covariance is the mean conditional covariance plus the covariance of the map."""
    within = np.asarray(posterior.conditional_covariance(X)).mean(0)
    images = np.asarray(posterior.push_forward(X))
    offset = images - images.mean(0)
    between = np.einsum("snd,sne->nde", offset, offset) / DRAWS
    np.testing.assert_allclose(posterior.predictive_covariance(X), within + between, rtol=1e-8)


def test_samples_have_the_predictive_moments(posterior, x64):
    num = 2000
    point = X[:1]
    y = np.asarray(posterior.sample(jax.random.key(0), np.repeat(point, num, axis=0)))
    mean = np.asarray(posterior.push_forward(point)).mean(0)[0]
    covariance = np.asarray(posterior.predictive_covariance(point))[0]
    z = (y.mean(0) - mean) / np.sqrt(np.diag(covariance) / num)
    assert np.abs(z).max() < 4
    squares = np.einsum("nd,ne->nde", y - mean, y - mean)
    z = (squares.mean(0) - covariance) / (squares.std(0) / np.sqrt(num))
    assert np.abs(z).max() < 4
    # Of every draw by itself: standardized by its own conditional law.
    draws = np.asarray(posterior.sample_draws(jax.random.key(1), np.repeat(point, 200, axis=0)))
    centers = np.asarray(posterior.push_forward(point))
    spreads = np.asarray(posterior.conditional_covariance(point))[:, 0]
    z = (draws.mean(1) - centers[:, 0]) / np.sqrt(np.diagonal(spreads, axis1=1, axis2=2) / 200)
    assert np.abs(z).max() < 4


# -- bad input --------------------------------------------------------------------------------------------------------


def broken(draws, value):
    return jax.tree.map(lambda leaf: leaf.at[(2,) + (0,) * (leaf.ndim - 1)].set(value), draws)


def five(seed, dim):
    rng = np.random.default_rng(seed)
    return omt.Mixture(np.full(4, 0.25), Gaussian(rng.standard_normal((4, dim)), np.tile(np.eye(dim), (4, 1, 1))))


BAD = {
    "nothing": (lambda s, t: (1.0, t), {}, TypeError, "`source` must be a fitted posterior, draws of a Mixture"),
    "single": (lambda s, t: (take(s, 0), take(t, 0)), {}, ValueError, "must have draws; use `transport`"),
    "numbers": (lambda s, t: (take(s, slice(4)), t), {}, ValueError, "got 4 and 6. Thin both by `num_draws`"),
    "thinned": (lambda s, t: (s, t), {"num_draws": 7}, ValueError, "at most the number of draws of `source`, 6; got 7"),
    "dim": (lambda s, t: (s, five(0, 3)), {}, ValueError, "`target` must have the dimension of `source`, 2; got 3"),
    "K": (
        lambda s, t: ([take(s, 0), five(0, 2)], t),
        {},
        ValueError,
        "same num_components in every draw; draw 0 has 3",
    ),
    "NaN": (lambda s, t: (s, broken(t, np.nan)), {}, ValueError, "`target` must be finite; draw 2 is not. Drop"),
    "infinite": (lambda s, t: (broken(s, np.inf), t), {}, ValueError, "`source` must be finite; draw 2 is not"),
    "weights": (lambda s, t: (broken(s, 0.9), t), {}, ValueError, "weights that sum to one; draw 2 has not"),
    "pairing": (lambda s, t: (s, t), {"pairing": "all"}, ValueError, '`pairing` must be "paired" or "product"'),
    "chunk": (lambda s, t: (s, t), {"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1"),
    "epsilon": (lambda s, t: (s, t), {"epsilon_weights": -1.0}, ValueError, "`epsilon_weights` must be a finite"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_input_is_named(name):
    arguments, options, kind, message = BAD[name]
    source, target = gaussians(0, dtype="float32"), gaussians(1, dtype="float32")
    with pytest.raises(kind, match=message):
        transport_posterior(*arguments(source, target), **{**EPSILONS, **options})


def test_bad_readings_are_named(posterior, x64):
    draws = gaussians(0)
    for call, message in (
        (lambda: relabel(draws, five(0, 2)), "`reference` must have the num_components of `draws`, 3; got 4"),
        (lambda: relabel(draws, take(laplaces(0), 0)), "the family of `draws`, Gaussian; got Laplace"),
        (lambda: relabel(take(draws, 0), take(draws, 0)), r"`draws` must hold draws, with weights of shape \[S, K\]"),
        (lambda: relabel(draws, draws), "`reference` must be one mixture"),
        (lambda: credible_interval(np.zeros((3, 2)), 1.5), "`probability` must lie between 0 and 1; got 1.5"),
        (lambda: credible_interval(np.zeros((3, 2)), kind="both"), '`kind` must be "equal-tailed"'),
        (lambda: credible_interval(np.zeros((1, 2))), "at least two draws"),
        (lambda: credible_interval(np.array([0.0, np.nan])), "`draws` must be finite"),
        (lambda: posterior.plan(9), "below the number of draws, 6; got 9"),
        (lambda: posterior.push_forward(np.zeros((2, 3))), r"`x` must have shape \[n, 2\]"),
        (lambda: posterior.log_prob(X, X[:2]), "`y` must have the shape of `x`"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="under `jax.jit`, map `transport`"):
        jax.jit(lambda d: transport_posterior(d, draws, **EPSILONS).cost)(draws)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_the_map_is_drawn_with_its_ellipses(posterior, x64):
    panel = plot.uncertain_map(posterior, X, probability=0.8)
    ellipses = [patch for patch in panel.patches if isinstance(patch, Ellipse) and not patch.get_fill()]
    images = np.asarray(posterior.push_forward(X))
    np.testing.assert_allclose([e.center for e in ellipses], images.mean(0), rtol=1e-10)
    # Area of an ellipse that holds 80 %: pi r^2 sqrt(det), r^2 = -2 log 0.2.
    area = -2 * np.log(0.2) * np.sqrt(np.linalg.det(np.cov(images[:, 0].T, bias=True)))
    assert ellipses[0].width * ellipses[0].height / 4 == pytest.approx(area)
    assert not cut(panel.figure)
    turned = plot.uncertain_map(posterior, X, probability=0.8, embedding=lambda points: np.asarray(points)[:, ::-1])
    other = [patch for patch in turned.patches if isinstance(patch, Ellipse) and not patch.get_fill()]
    np.testing.assert_allclose([e.center for e in other], images.mean(0)[:, ::-1], rtol=1e-10)
    assert other[0].width * other[0].height / 4 == pytest.approx(area)
    assert turned.get_xlabel() == "embedding 1"
    with pytest.raises(ValueError, match="`dims` must be two"):
        plot.uncertain_map(posterior, X, dims=(0, 2))
    with pytest.raises(ValueError, match="`probability` must lie"):
        plot.uncertain_map(posterior, X, probability=2.0)
    weights, loc, _, scale = arrays(0)
    line = jax.vmap(lambda w, m, s: omt.Mixture(w, Gaussian(m[:, :1], s[:, :1, None])))(weights, loc, scale)
    flat = transport_posterior(line, take(line, 0), **EPSILONS)
    assert plot.uncertain_map(flat, np.linspace(-2, 5, 30)[:, None]).collections


def test_shares_are_drawn_with_their_intervals(posterior, x64):
    panel = plot.weights_posterior(posterior)
    mean = np.asarray(posterior.row_shares).mean(0)
    np.testing.assert_allclose(panel.images[0].get_array(), mean, rtol=1e-12)
    texts = [t.get_text() for t in panel.texts]
    i, j = np.unravel_index(mean.argmax(), mean.shape)
    assert any(t.startswith(f"{mean[i, j]:.2f}\n") for t in texts)
    assert not cut(panel.figure)
    axes = plt.subplots()[1]
    assert plot.weights_posterior(posterior, ax=axes, annotate=False) is axes
    assert not axes.texts
    part = plot.weights_posterior(posterior, source_order=[2, 0], target_order=np.array([1, 2, 0]))
    np.testing.assert_allclose(part.images[0].get_array(), mean[[2, 0]][:, [1, 2, 0]], rtol=1e-12)
    assert [label.get_text() for label in part.get_yticklabels()] == ["2", "0"]
    assert [label.get_text() for label in part.get_xticklabels()] == ["1", "2", "0"]
    for wrong in ([0, 0], [0, 3], [-1], [0.0], []):
        with pytest.raises(ValueError, match="`target_order` must list different components from 0 to 2"):
            plot.weights_posterior(posterior, target_order=wrong)


def test_masses_of_every_draw_change_as_those_of_its_plan(x64):
    source, target = gaussians(0), gaussians(1)
    free = {"source_relaxation": 2.0, "target_relaxation": 3.0}
    plans = transport_posterior(source, target, **EPSILONS, **free, relabel=False)
    for s in (0, DRAWS - 1):
        alone = omt.transport(take(source, s), take(target, s), **EPSILONS, **free)
        np.testing.assert_allclose(plans.mass[s], alone.mass, rtol=1e-9)
        np.testing.assert_allclose(plans.growth[s], alone.growth, rtol=1e-7)
        np.testing.assert_allclose(plans.push_forward(X)[s], alone.push_forward(X), rtol=1e-9)
    assert plans.plan(0).masses is not None
    interval = credible_interval(plans.growth, 0.9)
    assert (np.asarray(interval.lower) <= np.asarray(interval.upper)).all()
    kept = transport_posterior(source, target, **EPSILONS, relabel=False)
    np.testing.assert_allclose(kept.mass, np.ones(DRAWS))
    np.testing.assert_allclose(kept.growth, np.ones((DRAWS, NUM)), rtol=1e-9)
    with pytest.raises(ValueError, match="`target_relaxation` must be a finite number greater than 0; got -1"):
        transport_posterior(source, target, **EPSILONS, target_relaxation=-1.0)


def test_names_of_components_reach_what_is_read_from_a_posterior_plan(tmp_path):
    """A fit by labels names the components; draws that follow it, and the plan, keep them, either way."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(["bud", "root", "very long leaf"], 40)
    x = 6 * np.array([[0.0, 0.0], [1.0, 0.2], [-0.3, 1.0]]).repeat(40, axis=0) + rng.standard_normal((120, 2))
    known = omt.mixture_from_labels(x, kinds, Gaussian)
    posterior = omt.fit_posterior(
        jax.random.key(0),
        x,
        Gaussian,
        NUM,
        start=known,
        method=omt.Gibbs(num_chains=2, num_samples=20, num_warmup=10),
        throw=False,
    )
    assert posterior.names == known.names
    # The draws follow the groups, whatever the sampler called them.
    np.testing.assert_allclose(
        np.asarray(posterior.mixtures.components.loc).mean(axis=0), np.asarray(known.mixture.components.loc), atol=0.5
    )
    plans = transport_posterior(posterior, gaussians(1, num=1, dtype="float32"), pairing="product", **EPSILONS)
    table = plans.correspondences().to_dict()
    assert set(table["source"]) == set(known.names)
    assert set(table["target"]) <= {0, 1, 2}
    assert "very long leaf" in str(plans.correspondences())
    assert plans.plan(0).component_names == (known.names, None)
    back = plans.reverse().row_shares_interval()
    assert back.names == (None, known.names)
    assert set(back.to_dict()["axis 1"]) == set(known.names)
    axes = plot.weights_posterior(plans, source_order=[2, 0, 1])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["very long leaf", "bud", "root"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2"]
    plt.close("all")
    given = plans.correspondences(names=(None, "xyz")).to_dict()
    assert set(given["target"]) <= set("xyz")
    with pytest.raises(ValueError, match="one name per target component, 3; got 2"):
        plans.correspondences(names=(None, "xy"))
    omt.save(tmp_path / "plans.omt", plans)
    assert omt.load(tmp_path / "plans.omt").component_names == (known.names, None)
    # A fit stands for one mixture without uncertainty, under its names.
    fixed = transport_posterior(known, gaussians(1, dtype="float32"), **EPSILONS)
    assert fixed.component_names == (known.names, None)
