"""Maps by component: types that move different features, what each is told to move, and what is not defined."""

from typing import Any

import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam import plot
from omt_expfam._cli.main import main
from omt_expfam._potentials.separable import on_lines, start_separable
from omt_expfam.families import DiagonalGaussian
from tests.pictures import cut

NUM, DIM = 700, 12
MOVED = ([1, 4], [4, 7])
NAMES = [f"gene {j}" for j in range(DIM)]
KINDS = np.where(np.arange(DIM) < 6, 4.0, 0.0)


def samples(num=NUM, seed=0):
    """Points of both sides, the types of the first, and where these go: two types that lie far apart."""
    rng = np.random.default_rng(seed)
    sides = []
    for _ in range(2):
        kind = (rng.random(num) < 0.4).astype(int)
        points = rng.standard_normal((num, DIM)) + np.where(kind[:, None] == 1, KINDS, 0)
        image = points.copy()
        image[kind == 0, 1] += 1.5
        image[kind == 0, 4] -= 1.0
        image[kind == 1, 4] = 2 * image[kind == 1, 4] - 3
        image[kind == 1, 7] += 1.2
        sides.append((points.astype(np.float32), kind, image.astype(np.float32)))
    return sides[0][0], sides[1][2], sides[0][1], sides[0][2]


@pytest.fixture(scope="module")
def plan() -> Any:
    x, y, _, _ = samples()
    fits = [omt.fit(jax.random.key(0), points, DiagonalGaussian, 2) for points in (x, y)]
    return omt.transport(*fits, epsilon_weights=0.0)


@pytest.fixture(scope="module")
def fit(plan) -> Any:
    settings = omt.Screen(per_component=True, num_resamples=6)
    return omt.fit_brenier(
        jax.random.key(0), *samples()[:2], start=plan, sparsity=settings, feature_names=NAMES, progress=False
    )


@pytest.fixture(scope="module")
def order(fit):
    """The component that is each type."""
    x, _, kind, _ = samples()
    own = np.asarray(fit.map.component_of(x))
    order = [int(np.median(own[kind == k])) for k in (0, 1)]
    np.testing.assert_array_equal(own, np.array(order)[kind])
    return order


def test_each_type_moves_its_own_features(fit, order):
    x, _, kind, truth = samples()
    images = np.asarray(fit.map.push_forward(x))
    for k in (0, 1):
        changed = np.any(images[kind == k] != x[kind == k], axis=0)
        np.testing.assert_array_equal(np.flatnonzero(changed), MOVED[k])
        np.testing.assert_array_equal(np.flatnonzero(fit.component_features.selected[order[k]]), MOVED[k])
    assert np.sum((images - truth) ** 2) < 0.015 * np.sum((truth - x) ** 2)


def test_a_type_moves_as_without_the_other(fit, plan):
    """Responsibilities are all but zero or one here: the quantiles of its own points make its map."""
    x, y, kind, _ = samples()
    images, back = np.asarray(fit.map.push_forward(x)), np.asarray(plan.reverse().target_probabilities(y))
    for k in (0, 1):
        component = int(np.asarray(fit.map.component_of(x[kind == k][:1]))[0])
        arrived = back[:, component] > 0.5
        alone = start_separable(x[kind == k][:, MOVED[k]], y[arrived][:, MOVED[k]])
        expected = on_lines(alone).images(x[kind == k][:, MOVED[k]])
        error = np.abs(images[kind == k][:, MOVED[k]] - expected)
        assert np.median(error) < 0.03


def test_the_tables_say_what_moves(fit, order):
    x, _, kind, _ = samples()
    moved = np.asarray(fit.map.push_forward(x)) - x
    table = fit.component_features
    for k in (0, 1):
        np.testing.assert_allclose(table.mean[order[k]], moved[kind == k].mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(table.weight[order[k]], np.mean(kind == k), atol=1e-6)
    np.testing.assert_allclose(fit.features.mean, moved.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(fit.moved, np.mean(np.abs(moved) > 0.01, axis=0), atol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(fit.features.selected), [1, 4, 7])
    one = table[order[1]]
    assert {one.names[j] for j in one.order} == {"gene 4", "gene 7"}
    text = repr(table)
    assert f"component {order[0]} (" in text
    assert text.count("2 of 12 features may move") == 2
    assert "gene 3" not in text
    assert "GatedMap(2 SeparablePotential by component, moving 2, 2 of 12 dimensions)" in repr(fit)


def test_halves_of_the_points_say_how_certain_features_are(fit):
    frequency = np.asarray(fit.features.frequency)
    np.testing.assert_array_equal(frequency[[1, 4, 7]], 1)
    assert np.sum(frequency) < 3.5
    assert "selected" in repr(fit.features).splitlines()[1]
    assert "100%" in repr(fit.features).splitlines()[2]


def test_the_picture_shows_the_table(fit):
    ax = plot.features(fit)
    assert [label.get_text() for label in ax.get_yticklabels()] == [NAMES[j] for j in fit.features.order]
    points: Any = ax.lines[0]
    np.testing.assert_allclose(points.get_xdata(), np.asarray(fit.features.mean)[fit.features.order], rtol=1e-5)
    assert ax.texts[0].get_text().endswith("in 100% of halves")
    assert ax.get_title() == "3 of 12 features move"
    assert not cut(ax.figure)
    one = plot.features(fit.component_features[0], most=1)
    assert one.get_title() == "2 of 12 features move, 1 not shown"


def test_the_value_is_that_of_the_types(fit):
    """Both types' squared distances, by sorting their coordinates; fitted maps have less."""
    x, _, _, truth = samples(20_000, seed=1)
    exact = np.mean(np.sum((truth - x) ** 2, axis=1))
    assert abs(float(fit.held_out_value) - exact) < 4 * float(fit.held_out_error)


def test_all_ways_to_ask_agree(fit):
    x = samples()[0]
    images = np.asarray(fit.map.push_forward(x))
    np.testing.assert_allclose(jax.jit(fit.map.push_forward)(x), images, atol=1e-5)
    np.testing.assert_allclose(fit.map.interpolate(0.25, x), 0.75 * x + 0.25 * images, atol=1e-5)
    with pytest.raises(ValueError, match="`t` must lie between 0 and 1; got 2"):
        fit.map.interpolate(2.0, x)
    matrices = np.asarray(fit.map.jacobian(x[:40]))
    step = np.zeros(DIM, np.float32)
    step[4] = 1 / 64
    slopes = (np.asarray(fit.map.push_forward(x[:40] + step)) - np.asarray(fit.map.push_forward(x[:40] - step))) * 32
    # Points whose segment ends within the step are few.
    assert np.mean(np.abs(matrices[:, :, 4] - slopes).max(axis=1) < 1e-3) > 0.8
    off = matrices - np.einsum("nii->ni", matrices)[:, :, None] * np.eye(DIM)
    np.testing.assert_array_equal(off, 0)


def test_files_keep_gated_maps(tmp_path, fit):
    x = samples()[0]
    omt.save(tmp_path / "fit.omt", fit)
    again = omt.load(tmp_path / "fit.omt")
    np.testing.assert_array_equal(again.map.push_forward(x), fit.map.push_forward(x))
    assert repr(again.component_features) == repr(fit.component_features)


def test_the_command_line_pushes_points_by_gated_maps(tmp_path, monkeypatch, capsys, fit):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omt_expfam.use_compilation_cache", lambda: None)
    x = samples()[0]
    omt.save("fit.omt", fit)
    np.save("x.npy", x)
    assert main(["push", "fit.omt", "x.npy", "--out", "images.npy"]) == 0
    np.testing.assert_allclose(np.load("images.npy"), fit.map.push_forward(x), atol=1e-5)
    assert main(["push", "fit.omt", "x.npy", "--backward"]) == 1
    assert "holds a map gated by components, which has no way back" in capsys.readouterr().err


def test_what_needs_one_potential_is_refused_in_one_line(fit):
    x = samples()[0]
    asks = (lambda: fit.map.pull_back(x), lambda: fit.map.potential(x), lambda: fit.map.reverse())
    for ask in (*asks, lambda: fit.certificate(jax.random.key(0), x, x)):
        with pytest.raises(AttributeError, match="is not defined for a GatedMap") as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(AttributeError, match="has no attribute 'pushforward'"):
        _ = fit.map.pushforward


def test_equal_types_are_left_alone(plan):
    x, other = samples()[0], samples(seed=3)[0]
    again = omt.transport(plan.source, plan.source, epsilon_weights=0.0)
    found: Any = omt.fit_brenier(jax.random.key(0), x, other, start=again, sparsity=omt.Screen(per_component=True))
    np.testing.assert_array_equal(found.map.push_forward(x), x)
    np.testing.assert_array_equal(np.asarray(found.map.jacobian(x[:3])), np.tile(np.eye(DIM), (3, 1, 1)))
    assert float(found.held_out_value) == 0
    assert not np.asarray(found.features.selected).any()


def test_the_mixture_has_an_answer_too(plan, order):
    """Means of components, as their labels have them."""
    x, y, kind, _ = samples()
    table = omt.pair_features(plan, names=NAMES, min_weight=0.1)
    assert len(table) == 2
    row = list(table.source).index(order[1])
    arrived = np.asarray(plan.target.responsibilities(y)).argmax(axis=1) == table.target[row]
    difference = y[arrived].mean(axis=0) - x[kind == 1].mean(axis=0)
    np.testing.assert_allclose(table.mean[row], difference, atol=0.02)
    spread = np.sqrt((y[arrived].var(axis=0) + x[kind == 1].var(axis=0)) / 2)
    np.testing.assert_allclose(table.size[row], difference / spread, atol=0.05)
    np.testing.assert_array_equal(np.flatnonzero(table.moves[row]), MOVED[1])
    text = str(table)
    assert text.count("2 of 12 features move") == 2
    assert "gene 1  +1." in text
    rows = table.to_dict()
    assert len(rows["feature"]) == 4
    assert set(rows["feature"]) == {"gene 1", "gene 4", "gene 7"}
    with pytest.raises(ValueError, match="`names` must name the 12 features; got 1 names"):
        omt.pair_features(plan, names=["a"])


def test_plans_that_draw_points_may_be_asked_alone(plan):
    found: Any = omt.fit_brenier(jax.random.key(0), None, None, start=plan, sparsity=omt.Features([4]))
    mean = np.asarray(plan.target.mean() - plan.source.mean())
    assert abs(float(np.asarray(found.features.mean)[4]) - mean[4]) < 0.1
    assert np.flatnonzero(found.moved).tolist() == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": None}, r"`start` must be a TransportPlan with `Screen\(per_component=True\)`; got None"),
        ({"num_steps": 10}, "`num_steps` must be None with"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(plan, change, message):
    x, y, _, _ = samples()
    given = {"start": plan, "sparsity": omt.Screen(per_component=True)} | change
    with pytest.raises(ValueError, match=message) as caught:
        omt.fit_brenier(jax.random.key(0), x, y, **given)
    assert len(str(caught.value).splitlines()) == 1
