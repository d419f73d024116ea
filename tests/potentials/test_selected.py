"""Maps of selected features: the others stay as they are, exactly; what moves, and what the table says."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._potentials.separable import on_lines, start_separable
from omt_expfam.families import Gaussian

NUM, DIM = 700, 12
MOVED = np.array([2, 5, 9])
NAMES = [f"gene {j}" for j in range(DIM)]


def response(x):
    """Increasing in each of the features that move."""
    image = x.copy()
    image[:, 2] += 1.5 + 0.3 * np.tanh(x[:, 2])
    image[:, 5] -= 1.0
    image[:, 9] = 2 * x[:, 9] + 0.5
    return image


def samples(num=NUM, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, num, DIM))
    x[:, 0], y[:, 0] = x[:, 0] > 0.5, y[:, 0] > 0.5
    return x.astype(np.float32), response(y).astype(np.float32)


@pytest.fixture(scope="module")
def fit() -> Any:
    return omt.fit_brenier(jax.random.key(0), *samples(), sparsity=omt.Screen(), feature_names=NAMES)


@pytest.fixture(scope="module")
def images(fit):
    return np.asarray(fit.map.push_forward(samples()[0]))


def test_other_features_stay_exactly(fit, images):
    x, _ = samples()
    np.testing.assert_array_equal(np.flatnonzero(np.any(images != x, axis=0)), MOVED)
    back, others = np.asarray(fit.map.pull_back(images)), np.setdiff1d(np.arange(DIM), MOVED)
    np.testing.assert_array_equal(back[:, others], x[:, others])
    np.testing.assert_allclose(back, x, atol=1e-4)


def test_the_map_is_the_response(images):
    x, _ = samples()
    truth = response(x)
    assert np.sum((images - truth) ** 2) < 0.01 * np.sum((truth - x) ** 2)


def test_the_potential_is_of_all_features(fit, images):
    x, _ = (jnp.asarray(side[:NUM]) for side in samples())
    slopes = jax.jit(jax.grad(lambda points: jnp.sum(fit.map.potential(points))))(x)
    np.testing.assert_allclose(slopes, images, atol=1e-4)
    # Fenchel and Young: equality where y is the image of x.
    both = np.asarray(fit.map.potential(x)) + np.asarray(fit.map.conjugate(images))
    np.testing.assert_allclose(both, np.sum(np.asarray(x) * images, axis=1), atol=1e-2)
    matrix = np.asarray(fit.map.jacobian(x))[0]
    expected = np.eye(DIM)
    expected[MOVED, MOVED] = np.diag(matrix)[MOVED]
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_allclose(np.asarray(fit.map.log_det_jacobian(x))[0], np.log(np.diag(matrix)).sum(), rtol=1e-4)


def test_all_ways_to_ask_agree(fit, images):
    x, _ = samples()
    np.testing.assert_allclose(jax.jit(fit.map.push_forward)(x), images, atol=1e-6)
    np.testing.assert_array_equal(fit.map.reverse().pull_back(x), images)
    np.testing.assert_allclose(fit.map.push_forward_members(x)[:, 0], images, atol=1e-5)
    found = fit.map.solve_pull_back(images)
    np.testing.assert_allclose(found.points, x, atol=1e-4)
    assert np.asarray(found.converged).all()
    np.testing.assert_allclose(fit.map.interpolate(0.5, x), (x + images) / 2, atol=1e-6)


def test_the_table_says_what_moves(fit, images):
    x, y = samples()
    table = fit.features
    np.testing.assert_array_equal(np.flatnonzero(table.selected), MOVED)
    np.testing.assert_allclose(table.mean, (images - x).mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(table.share, np.mean(np.abs(images - x) > 0.01, axis=0), atol=1e-6)
    np.testing.assert_array_equal(fit.moved, table.share)
    error = np.sqrt(x.var(axis=0, ddof=1) / NUM + y.var(axis=0, ddof=1) / NUM)
    half = (np.asarray(table.high) - np.asarray(table.low)) / 2
    np.testing.assert_allclose(half[MOVED], 1.96 * error[MOVED], rtol=1e-3)
    text = repr(table)
    assert text.splitlines()[0] == "3 of 12 features may move"
    assert all(f"gene {j}" in text for j in MOVED)
    assert "gene 3" not in text
    assert "3 of 12 dimensions" in repr(fit)
    assert len(repr(fit).splitlines()) == 1


def test_the_value_bounds_the_distance(fit):
    """The features that move are independent: the distance is the sum of theirs, by sorting."""
    x, y = samples(20_000, seed=1)
    exact = sum(np.mean((np.sort(x[:, j]) - np.sort(y[:, j])) ** 2) for j in MOVED)
    assert abs(float(fit.held_out_value) - exact) < 4 * float(fit.held_out_error)


def test_nothing_moves_where_nothing_differs(tmp_path):
    x, _ = samples()
    found = omt.fit_brenier(jax.random.key(0), x, samples(seed=5)[0], sparsity=omt.Screen())
    assert found.features is not None
    assert not np.asarray(found.features.selected).any()
    for ask in (found.map.push_forward, found.map.pull_back, jax.jit(found.map.push_forward)):
        np.testing.assert_array_equal(ask(x), x)
    np.testing.assert_allclose(found.map.potential(x), np.sum(x**2, axis=1) / 2, rtol=1e-5)
    assert np.asarray(found.map.solve_pull_back(x).converged).all()
    np.testing.assert_array_equal(found.moved, np.zeros(DIM))
    omt.save(tmp_path / "fit.omt", found)
    np.testing.assert_array_equal(omt.load(tmp_path / "fit.omt").map.push_forward(x), x)


def test_files_keep_selections(tmp_path, fit, images):
    omt.save(tmp_path / "fit.omt", fit)
    again = omt.load(tmp_path / "fit.omt")
    np.testing.assert_array_equal(again.map.push_forward(samples()[0]), images)
    assert repr(again.features) == repr(fit.features)


@pytest.mark.parametrize("with_plan", [False, True])
def test_features_that_turn_together_need_the_network(with_plan):
    """A rotation of two features changes nothing of their own laws; the best map follows the Bures map."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 2000, 4)).astype(np.float32)
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    y[:, 1] = -0.8 * y[:, 0] + 0.6 * y[:, 1]
    settings = {"num_members": 1, "num_steps": 300, "width": 8, "learning_rate": 0.02, "progress": False}
    start = None
    if with_plan:
        start = omt.transport(*(omt.fit(jax.random.key(0), side, Gaussian, 1) for side in (x, y)))
    found = omt.fit_brenier(jax.random.key(0), x, y, start=start, sparsity=omt.Screen(), **settings)
    assert found.features is not None
    np.testing.assert_array_equal(np.flatnonzero(found.features.selected), [0, 1])
    image = np.asarray(found.map.push_forward(x))
    assert np.corrcoef(image[:, 0], image[:, 1])[0, 1] < -0.5
    np.testing.assert_array_equal(image[:, 2:], x[:, 2:])


# -- one-dimensional maps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [64, 600, 2000])
def test_potentials_are_what_their_numbers_say(num):
    """Sums over segments, whose fusion by XLA gave wrong numbers from 512 points on."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((num, 30)).astype(np.float32)
    y = np.exp(rng.standard_normal((num, 30))).astype(np.float32)
    potential = start_separable(x, y)
    expected = on_lines(potential).images(x)
    for function in (potential.gradient, jax.grad(potential.value)):
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(x), expected, atol=1e-4)
    back = jax.jit(jax.vmap(potential.near_conjugate))(expected.astype(np.float32))
    np.testing.assert_allclose(back, x, atol=1e-3)
    assert (np.diff(np.sort(expected, axis=0), axis=0) >= 0).all()


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_target_members": 1}, "`num_target_members` must be 0 with a `sparsity`; got 1"),
        ({"potential": start_separable(*samples())}, "`potential` must be None where `sparsity` selects"),
        ({"source_weight": np.ones(NUM)}, "`source_weight` must be None with a Screen"),
        ({"sparsity": omt.Features(["a"])}, "`selected` must hold names of features; got 'a'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(change, message):
    x, y = samples()
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        omt.fit_brenier(**{"key": jax.random.key(0), "x": x, "y": y, "sparsity": omt.Screen()} | change)
    assert len(str(caught.value).splitlines()) == 1


def test_a_feature_of_one_value_moves_by_a_shift():
    """A gene that no source cell expresses: a new cell that does is moved as far as the others, not stretched."""
    x, y = samples()
    x[:, 2] = 0
    found = omt.fit_brenier(jax.random.key(0), x, y, sparsity=omt.Features([2, 5, 9]))
    points = np.repeat(x[:1], 2, axis=0)
    points[1, 2] = 3
    images = np.asarray(found.map.push_forward(points))[:, 2]
    np.testing.assert_allclose(images, [y[:, 2].mean(), y[:, 2].mean() + 3], atol=0.1)


def test_features_that_few_points_have_are_not_stretched():
    """Rare genes: one to four source cells express them, many target cells do, and fresh cells express them more."""
    rng = np.random.default_rng(0)
    x, y = (np.maximum(rng.standard_normal((400, 16)) - 0.8, 0).astype(np.float32) for _ in range(2))
    rare = np.array([0, 3, 6, 9])
    for j, num in zip(rare, (1, 2, 3, 4), strict=True):
        x[:, j] = 0
        x[:num, j] = 0.4 + 0.1 * np.arange(num)
        y[:, j] = np.where(rng.random(400) < 0.4, rng.uniform(1, 6, 400), 0)
    fresh = x.copy()
    fresh[:50, rare] = rng.uniform(0, 3, (50, 4))
    found = omt.fit_brenier(jax.random.key(0), x, y, sparsity=omt.Features(rare.tolist()), progress=False)
    images = np.asarray(found.map.push_forward(fresh))
    # Beyond all that was seen, a point moves as far as what was seen last.
    beyond = np.maximum(fresh - x.max(axis=0), 0)
    excess = images - y.max(axis=0) - beyond
    assert excess[:, rare].max() < 0.25 * y[:, rare].max()
    assert images[:, rare].min() > -0.5
    matrix = np.asarray(found.map.jacobian(np.full((1, 16), 50, np.float32)))[0]
    np.testing.assert_allclose(matrix, np.eye(16), atol=1e-4)


@pytest.mark.parametrize("feature", [2, 9])
def test_a_feature_alone_has_a_way_back(feature):
    """Points whose one coordinate is nearly zero, where it is the difference of terms that are not."""
    x, y = samples()
    found = omt.fit_brenier(jax.random.key(0), x, y, sparsity=omt.Features([feature]), progress=False)
    back = np.asarray(found.map.pull_back(y))
    np.testing.assert_allclose(found.map.push_forward(back), y, atol=1e-4)
    np.testing.assert_array_equal(np.delete(back, feature, axis=1), np.delete(y, feature, axis=1))
