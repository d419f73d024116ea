"""What makes a picture readable: nothing cut, one frame, times to scale, honest colors, embeddings of one's own."""

from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Ellipse, PathPatch, Rectangle
from matplotlib.quiver import Quiver

import omt_expfam as omt
from omt_expfam import plot as typed_plot
from omt_expfam.families import Gaussian
from omt_expfam.plot._embedding import as_places
from tests.pictures import cut

from .test_plot import draw, gaussians, only

plot: Any = typed_plot
NAMES = ("alpha cells of a rather long name", "beta $ cells", "gamma cells", "delta")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def named():
    """A plan between groups whose names are long, with points."""
    source, target = gaussians(3, 2, 1), gaussians(4, 2, 2)
    x, y = (np.asarray(draw(side, 200)) for side in (source, target))
    labels = [np.asarray(side.responsibilities(p)).argmax(1) for side, p in ((source, x), (target, y))]
    fits = [omt.mixture_from_labels(p, np.array(NAMES)[own], Gaussian) for p, own in zip((x, y), labels, strict=True)]
    return omt.transport(*fits, epsilon_components=0.1, epsilon_weights=1.0), x, y


def course(times, sizes=(3, 4, 3)):
    """A trajectory without names, of the sizes that plans elsewhere have."""
    mixtures = [gaussians(size, 2, seed) for seed, size in enumerate(sizes, 1)]
    return omt.trajectory(mixtures, times=times, epsilon_components=0.1, epsilon_weights=1.0)


@pytest.fixture(scope="module")
def steps():
    return course([0.0, 1.0, 5.0])


def test_no_label_is_cut(named, steps):
    plan, x, y = named
    pictures = {
        "coupling": lambda: plot.coupling(plan).figure,
        "overview": lambda: plot.overview(plan, x, y),
        "arrows": lambda: plot.arrows(plan, x).figure,
        "maps": lambda: plot.maps({"Barycentric": plan}, x, y),
        "interpolation": lambda: plot.interpolation(plan),
        "flows of groups": lambda: plot.flows(plan.group_flows()).figure,
        "flows": lambda: plot.flows(steps).figure,
        "trajectory": lambda: plot.trajectory(steps).figure,
    }
    found = {name: cut(picture()) for name, picture in pictures.items()}
    assert found == dict.fromkeys(pictures, [])


def test_both_sides_have_one_frame(named):
    plan, x, y = named
    figure = plot.overview(plan, x, y)
    source, target, _, arrows = figure.axes[:4]
    figure.canvas.draw()
    for ax in (target, arrows):
        assert (ax.get_xlim(), ax.get_ylim()) == (source.get_xlim(), source.get_ylim())
    names = [text.get_text().replace("\n", " ").replace(r"\$", "$") for ax in (source, target) for text in ax.texts]
    assert names == [*NAMES[:3], *sorted(NAMES)]
    # Labels of components, which end with their panel, are within it.
    for ax in (source, target, arrows):
        for text in ax.texts:
            box, frame = text.get_window_extent(), ax.get_window_extent()
            assert frame.x0 - 1 <= box.x0 <= box.x1 <= frame.x1 + 1, text.get_text()


def test_times_stand_to_scale(steps):
    ax = plot.flows(steps)
    ticks = ax.get_xticks()
    np.testing.assert_allclose(np.diff(ticks) / (ticks[-1] - ticks[0]), [0.2, 0.8])
    bars = sorted({round(bar.get_x() + bar.get_width() / 2, 9) for bar in only(ax.patches, Rectangle)})
    np.testing.assert_allclose(bars, ticks)
    # Colors of the graph of components as well.
    graph = plot.trajectory(steps, cmap="viridis")
    first, second, last = (
        np.argmin([np.abs(matplotlib.colormaps["viridis"](t)[:3] - c.get_facecolor()[0, :3]).sum() for t in GRID])
        for c in only(graph.collections, PathCollection)[:3]
    )
    assert GRID[first] == 0
    assert (GRID[second] - GRID[first]) / (GRID[last] - GRID[first]) == pytest.approx(0.2, abs=0.02)


GRID = np.linspace(0, 1, 201)


def test_colors_do_not_say_that_numbers_mean_the_same(steps):
    """Later components have the mean color of those that they come from; the first ones have one each."""
    ax = plot.flows(steps, min_weight=0.0)
    bars = only(ax.patches, Rectangle)
    colors = [np.array([b.get_facecolor()[:3] for b in bars if abs(b.get_x() - t) < 0.1]) for t in ax.get_xticks()]
    shares = np.asarray(steps.plans[0].weight_coupling.column_shares, np.float64)
    np.testing.assert_allclose(colors[1], shares.T @ colors[0], atol=1e-5)
    assert len({tuple(c) for c in colors[0].round(6)}) == 3
    # Neither is any of them the blue of the source or the orange of the target.
    for color in (plot.SOURCE_COLOR, plot.TARGET_COLOR):
        assert np.abs(colors[0] - to_rgb(color)).max(axis=1).min() > 0.2
    bands = only(ax.patches, PathPatch)
    np.testing.assert_allclose(bands[0].get_facecolor()[:3], colors[0][0])


def test_names_keep_their_color(named):
    plan, *_ = named
    ax = plot.flows(plan.group_flows(), growth=False)
    bars = only(ax.patches, Rectangle)
    by_name = {}
    for label, bar in zip(ax.texts, bars, strict=True):
        by_name.setdefault(label.get_text().replace("\n", " "), set()).add(bar.get_facecolor())
    assert all(len(colors) == 1 for colors in by_name.values())
    assert len({next(iter(colors)) for colors in by_name.values()}) == len(by_name) == 4


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("a c b", (0, 1)),
        ("a aa b", (0, 2)),
        ("0 a b", (1, 2)),
        ("a -a aa", (0, 1)),
        ("0 a aa b", (1, 3)),
        ("0 a aa", (1, 0)),
    ],
)
def test_default_axes_are_not_collinear(columns, expected):
    """Neither a constant, nor a multiple of the other; what is left where there is nothing else."""
    rng = np.random.default_rng(0)
    a, b, c, noise = rng.normal(size=(4, 500))
    known = {"a": a, "b": b, "c": c, "aa": 3 * a + 0.01 * noise, "-a": -a + 0.01 * noise, "0": 1e-3 * noise}
    x = np.stack([known[name] for name in columns.split()], axis=1)
    found = as_places(None, None, [("x", x)]).dims
    assert found == expected
    ax = plot.arrows(x + 1.0, x)
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(f"$x_{{{i}}}$" for i in expected)
    assert plot.arrows(x + 1.0, x, dims=(0, 1)).get_xlabel() == "$x_{0}$"


def swirl(points):
    """An embedding that is no projection."""
    p = np.asarray(points, np.float64)
    return np.stack([np.sin(p[:, 0]) + p[:, 1], p[:, 0] * p[:, 1] / 10], axis=1)


def test_points_and_maps_are_drawn_in_an_embedding(named, steps):
    plan, x, y = named
    places = swirl(x), swirl(y)
    images = np.asarray(plan.push_forward(x))
    by_function = only(plot.arrows(plan, x, embedding=swirl, max_arrows=50).collections, Quiver)[0]
    chosen = np.linspace(0, 199, 50).astype(int)
    np.testing.assert_allclose(by_function.XY, places[0][chosen], rtol=1e-6)
    np.testing.assert_allclose(by_function.XY + np.c_[by_function.U, by_function.V], swirl(images[chosen]), atol=1e-4)
    ax = plot.arrows(plan, x, y=y, embedding=places, max_arrows=50)
    (by_points,) = only(ax.collections, Quiver)
    np.testing.assert_allclose(by_points.XY, places[0][chosen], rtol=1e-6)
    assert ax.get_xlabel() == "embedding 1"

    def dots(axes):
        return [c.get_offsets() for ax in axes for c in only(ax.collections, PathCollection)]

    source, target = plot.overview(plan, x, y, embedding=places).axes[:2]
    np.testing.assert_allclose(dots([source])[0], places[0])
    np.testing.assert_allclose(dots([target])[0], places[1])
    mean = np.asarray(plan.source.responsibilities(x)).T @ places[0]
    mean /= np.asarray(plan.source.responsibilities(x)).sum(0)[:, None]
    np.testing.assert_allclose([e.center for e in only(source.patches, Ellipse)][::2], mean, rtol=1e-4)
    alone = plot.mixture(plan.source, x, embedding=places[0])
    np.testing.assert_allclose(dots([alone])[0], places[0])
    maps = plot.maps({"plan": plan}, x, y, embedding=places)
    np.testing.assert_allclose(dots(maps.axes)[1], places[1])
    with jax.numpy_rank_promotion("allow"):
        between = plot.interpolation(plan, (0, 1), embedding=swirl, key=jax.random.key(0), num_samples=64)
    assert [ax.get_xlabel() for ax in between.axes] == ["embedding 1"] * 2
    clouds = [np.asarray(draw(m, 40)) for m in steps.mixtures]
    graph = plot.trajectory(steps, clouds, embedding=[swirl(c) for c in clouds])
    np.testing.assert_allclose(dots([graph])[0], swirl(clouds[0]))


def test_images_stand_among_their_neighbors():
    """A known point at its own place, others between those of their nearest ones."""
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    places = as_places([grid + 10.0], None, [("x", grid)])
    np.testing.assert_allclose(places.of(grid), grid + 10.0, atol=1e-9)
    np.testing.assert_allclose(places.of(np.array([[2.5, 2.5], [2.0, 2.5]])), [[12.5, 12.5], [12.0, 12.5]], atol=0.15)


def test_embeddings_that_do_not_fit_are_named(named):
    plan, x, y = named
    with pytest.raises(ValueError, match=r"`embedding of x` must hold two finite numbers for each of 200 points; got"):
        plot.arrows(plan, x, y=y, embedding=(x[:5], y))
    with pytest.raises(ValueError, match="`embedding` must hold coordinates of x and y, 2 arrays; got 1"):
        plot.arrows(plan, x, y=y, embedding=(x,))
    with pytest.raises(ValueError, match="`y` must be given with an `embedding`"):
        plot.overview(plan, x, embedding=(x, y))
    with pytest.raises(ValueError, match="`dims` choose two dimensions of the data"):
        plot.arrows(plan, x, dims=(0, 1), embedding=x)
    with pytest.raises(ValueError, match="`points` must be given with an `embedding`"):
        plot.mixture(plan.source, embedding=swirl)
