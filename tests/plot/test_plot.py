import dataclasses
import subprocess
import sys
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
from jaxtyping import Array, Float
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgba
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from matplotlib.quiver import Quiver

import omt_expfam as omt
from omt_expfam import plot as typed_plot
from omt_expfam.families import DiagonalGaussian, Gaussian
from tests.pictures import cut

# Matplotlib's types know little of what a picture holds.
plot: Any = typed_plot


@pytest.fixture(autouse=True)
def close_figures():
    """Every picture must also survive being laid out and drawn, without a warning, and without text that is cut."""
    yield
    found = [cut(plt.figure(number)) for number in plt.get_fignums()]
    plt.close("all")
    assert not any(found), found


class Square(omt.AbstractComponents):
    """Uniform laws on cubes: components without a Gaussian form."""

    center: Float[Array, "K d"]

    @property
    def dim(self) -> int:
        return self.center.shape[-1]

    def _log_prob(self, x):
        return jnp.where(jnp.max(jnp.abs(x - self.center)) <= 1, -self.dim * jnp.log(2.0), -jnp.inf)

    def _sample(self, key):
        return self.center + jax.random.uniform(key, self.center.shape, minval=-1.0, maxval=1.0)

    def _mean(self):
        return self.center

    def _covariance(self):
        return jnp.eye(self.dim) / 3

    def to_numpyro(self) -> Any:
        return dist.Uniform(self.center - 1, self.center + 1).to_event(1)


def gaussians(num, dim, seed=0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(num, dim, dim))
    weights = rng.dirichlet(np.full(num, 3.0))
    return omt.Mixture(weights, Gaussian(4 * rng.normal(size=(num, dim)), root @ root.transpose(0, 2, 1) + np.eye(dim)))


def transport(num_source, num_target, dim):
    source, target = gaussians(num_source, dim, 1), gaussians(num_target, dim, 2)
    return omt.transport(source, target, epsilon_components=0.1, epsilon_weights=1.0)


@pytest.fixture(scope="module")
def plans():
    sizes = [(3, 4, 1), (3, 4, 2), (3, 4, 5), (1, 1, 2), (1, 1, 1)]
    return {size: transport(*size) for size in sizes}


def draw(mixture, num, seed=0):
    return mixture.sample(jax.random.key(seed), num)


def only(items, kind) -> Any:
    return [item for item in items if type(item) is kind]


def labels(ax):
    return [text.get_text() for text in ax.texts]


# -- mixtures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num", "dim", "dims"), [(3, 2, (0, 1)), (1, 2, (1, 0)), (3, 5, (4, 2))])
def test_mixture_draws_two_ellipses_per_component_at_its_moments(num, dim, dims):
    mixture = gaussians(num, dim)
    ax = plot.mixture(mixture, draw(mixture, 100), dims=dims)
    ellipses = only(ax.patches, Ellipse)
    assert len(ellipses) == 2 * num
    covariance = np.asarray(mixture.components.covariance())[:, dims][:, :, dims]
    for k in range(num):
        for deviations in (1, 2):
            ellipse = ellipses[2 * k + deviations - 1]
            np.testing.assert_allclose(ellipse.center, np.asarray(mixture.components.mean())[k, dims], rtol=1e-5)
            outline = ellipse.get_patch_transform().transform(_circle())
            offset = outline - ellipse.center
            distance = np.einsum("ni,ij,nj->n", offset, np.linalg.inv(covariance[k]), offset)
            np.testing.assert_allclose(distance, deviations**2, rtol=1e-4)
    assert labels(ax) == [str(k) for k in range(num)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == tuple(f"$x_{{{i}}}$" for i in dims)


def _circle():
    angle = np.linspace(0, 2 * np.pi, 20)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_mixture_draws_heavier_components_stronger():
    mixture = omt.Mixture([0.1, 0.9], Gaussian(np.zeros((2, 2)), np.tile(np.eye(2), (2, 1, 1))))
    light, _, heavy, _ = only(plot.mixture(mixture).patches, Ellipse)
    assert light.get_linewidth() < heavy.get_linewidth()
    assert light.get_alpha() < heavy.get_alpha()


def test_mixture_shows_the_points_in_the_chosen_dimensions():
    mixture = gaussians(2, 4)
    points = np.asarray(draw(mixture, 50))
    ax = plot.mixture(mixture, points, dims=(3, 1), contours=False, ellipses=False, labels=False, s=7, color="black")
    (scatter,) = only(ax.collections, PathCollection)
    np.testing.assert_allclose(scatter.get_offsets(), points[:, [3, 1]], rtol=1e-6)
    assert scatter.get_sizes() == [7]
    assert not ax.patches
    assert not labels(ax)


def test_mixture_shows_at_most_5000_points():
    mixture = gaussians(2, 2)
    ax = plot.mixture(mixture, np.asarray(draw(mixture, 6000)), contours=False)
    assert len(only(ax.collections, PathCollection)[0].get_offsets()) == 5000


@pytest.mark.parametrize("dims", [(0, 1), (1, 0)])
def test_contours_hold_the_stated_shares_of_the_mass(dims):
    """The region inside the contours holds its share of fresh draws of the marginal."""
    mixture = gaussians(3, 2)
    ax = plot.mixture(mixture, dims=dims, ellipses=False)
    (contours,) = ax.collections
    levels = np.asarray(contours.levels)
    density = np.exp(np.asarray(mixture.log_prob(draw(mixture, 20000))))
    for level, share in zip(levels, (0.95, 0.8, 0.6, 0.4, 0.2), strict=False):
        assert np.mean(density > level) == pytest.approx(share, abs=0.02)


def test_contours_of_a_marginal_match_the_joint_where_the_rest_is_independent():
    plane = gaussians(3, 2)
    covariance = np.zeros((3, 3, 3))
    covariance[:, :2, :2] = plane.components.covariance()
    covariance[:, 2, 2] = 7
    mean = np.concatenate([plane.components.mean(), np.ones((3, 1))], axis=1)
    space = omt.Mixture(plane.weights, Gaussian(mean, covariance))
    ours, theirs = (plot.mixture(m, ellipses=False).collections[0].levels for m in (space, plane))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_components_that_are_not_gaussian():
    plane, space = (omt.Mixture([0.4, 0.6], Square(jnp.asarray([[0.0] * d, [4.0] * d]))) for d in (2, 4))
    ax = plot.mixture(plane, draw(plane, 30))
    assert len(ax.collections) == 2
    ax = plot.mixture(space, draw(space, 30), dims=(1, 3))
    assert len(only(ax.patches, Ellipse)) == 4
    assert len(ax.collections) == 1, "no contours without a formula for the marginal"
    line = omt.Mixture([0.4, 0.6], Square(jnp.asarray([[0.0], [4.0]])))
    curve = plot.mixture(line).lines[-1]
    np.testing.assert_allclose(np.trapezoid(curve.get_ydata(), curve.get_xdata()), 1, rtol=0.02)


def test_a_component_without_width_is_drawn():
    covariance = np.array([np.diag([1.0, 1e-14]), np.eye(2)], np.float32)
    mixture = omt.Mixture([0.5, 0.5], Gaussian(np.zeros((2, 2), np.float32), scale_tril=np.sqrt(covariance)))
    assert len(only(plot.mixture(mixture).patches, Ellipse)) == 4


@pytest.mark.parametrize("num", [1, 3])
def test_mixture_in_one_dimension_draws_density_histogram_and_components(num):
    mixture = gaussians(num, 1)
    points = np.asarray(draw(mixture, 200))
    ax = plot.mixture(mixture, points, bins=11)
    assert len(ax.patches) == 11
    np.testing.assert_allclose(sum(p.get_height() * p.get_width() for p in ax.patches), 1, rtol=1e-6)
    *parts, whole = ax.lines
    assert len(parts) == num
    x = whole.get_xdata()
    np.testing.assert_allclose(whole.get_ydata(), np.exp(mixture.log_prob(x[:, None])), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(sum(part.get_ydata() for part in parts), whole.get_ydata())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_{0}$", "density")
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] >= whole.get_ydata().max()


def test_many_components_get_no_labels_unless_asked():
    mixture = gaussians(31, 2)
    assert not labels(plot.mixture(mixture, contours=False))
    assert len(labels(plot.mixture(mixture, contours=False, labels=True))) == 31


def test_mixture_draws_into_the_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    assert plot.mixture(gaussians(2, 2), ax=right) is right
    assert not left.has_data()
    assert plt.get_fignums() == [figure.number]


# -- couplings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(3, 4, 2), (1, 1, 1)])
@pytest.mark.parametrize("scale", ["sqrt", "linear"])
def test_coupling_shows_the_weights_and_both_marginals(plans, size, scale):
    plan = plans[size]
    ax = plot.coupling(plan, scale=scale)
    (image,) = only(ax.images, AxesImage)
    np.testing.assert_allclose(image.get_array(), plan.weights, rtol=1e-6)
    half = image.norm(0.25 * float(plan.weights.max()))
    assert half == pytest.approx(0.5 if scale == "sqrt" else 0.25)
    above, beside, bar = ax.child_axes
    np.testing.assert_allclose([p.get_height() for p in above.patches], plan.target.weights, rtol=1e-6)
    np.testing.assert_allclose([p.get_width() for p in beside.patches], plan.source.weights, rtol=1e-6)
    assert [p.get_facecolor() for p in above.patches] == [to_rgba(plot.TARGET_COLOR)] * size[1]
    assert bar.get_ylabel() == ("weight" if scale == "linear" else "weight (square-root scale)")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("target component", "source component")
    assert ax.get_ylim() == (size[0] - 0.5, -0.5), "the first source component is on top, like in the matrix"
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == [str(j) for j in range(size[1])]


def test_coupling_writes_the_weights_into_few_cells_only(plans):
    plan = plans[3, 4, 2]
    heavy = np.asarray(plan.weights) >= 0.005
    assert labels(plot.coupling(plan)) == [f"{w:.2f}".removeprefix("0") for w in np.asarray(plan.weights)[heavy]]
    assert not labels(plot.coupling(plan, annotate=False))
    assert not labels(plot.coupling(resized(plan, 2, 13)))


def test_coupling_of_many_components_thins_out_its_ticks(plans):
    plan = resized(plans[3, 4, 2], 50, 30)
    ax = plot.coupling(plan)
    ax.figure.canvas.draw()
    assert [text.get_text() for text in ax.get_yticklabels()] == [str(i) for i in range(0, 50, 5)]
    assert not labels(ax)


def resized(plan, num_source, num_target):
    """A plan of other sizes, without the cost of solving for it."""
    parts = lambda p: (p.source, p.target, p.weight_coupling.weights)
    source, target = gaussians(num_source, 2), gaussians(num_target, 2)
    return eqx.tree_at(parts, plan, (source, target, source.weights[:, None] * target.weights[None, :]))


def test_coupling_stays_within_its_place(plans):
    """Bars, color bar and labels keep clear of the neighboring panels and of the figure's edge."""
    figure, axes = plt.subplots(1, 2, layout="constrained", figsize=(10, 4))
    ax = plot.coupling(plans[3, 4, 2], ax=axes[0])
    ax.set_title("title")
    figure.canvas.draw()
    box, neighbor = ax.get_tightbbox(), axes[1].get_tightbbox()
    assert box is not None
    assert neighbor is not None
    assert box.x1 < neighbor.x0
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.height
    assert ax.title.get_window_extent().y0 >= ax.child_axes[0].get_window_extent().y1 - 1


def test_coupling_takes_style_options_and_refuses_other_scales(plans):
    assert plot.coupling(plans[3, 4, 2], cmap="cividis").images[0].get_cmap().name == "cividis"
    with pytest.raises(ValueError, match="`scale` must be"):
        plot.coupling(plans[3, 4, 2], scale="log")


# -- maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dims"), [((3, 4, 2), (0, 1)), ((3, 4, 5), (4, 0)), ((1, 1, 2), (1, 0))])
def test_arrows_go_from_points_to_their_images(plans, size, dims):
    plan = plans[size]
    x = draw(plan.source, 20)
    ax = plot.arrows(plan, x, dims=dims)
    (quiver,) = only(ax.collections, Quiver)
    start, end = np.asarray(x)[:, dims], np.asarray(plan.push_forward(x))[:, dims]
    np.testing.assert_allclose(quiver.XY, start, rtol=1e-6)
    np.testing.assert_allclose(np.stack([quiver.U, quiver.V], axis=1), end - start, rtol=1e-4, atol=1e-5)
    assert (quiver.scale, quiver.angles, quiver.scale_units) == (1.0, "xy", "xy")
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    assert ((end >= [x0, y0]) & (end <= [x1, y1])).all(), "the tips are in view"
    assert ax.get_xlabel() == f"$x_{{{dims[0]}}}$"


def test_arrows_of_a_function_and_of_images_agree():
    x = np.random.default_rng(0).normal(size=(500, 2))
    by_function, by_images = (plot.arrows(m, x, max_arrows=30).collections[0] for m in (lambda p: 2 * p, 2 * x))
    assert (type(by_function), type(by_images)) == (Quiver, Quiver)
    assert by_function.N == by_images.N == 30
    np.testing.assert_allclose(by_function.U, by_images.U)
    np.testing.assert_allclose(by_images.XY, x[np.linspace(0, 499, 30).astype(int)], rtol=1e-6)


def test_arrows_in_one_dimension_draw_the_graph(plans):
    plan = plans[3, 4, 1]
    x = draw(plan.source, 20)
    ax = plot.arrows(plan, x)
    graph = ax.lines[-1]
    np.testing.assert_allclose(graph.get_xdata(), np.sort(np.asarray(x)[:, 0]))
    np.testing.assert_allclose(graph.get_ydata(), plan.push_forward(graph.get_xdata()[:, None])[:, 0], rtol=1e-4)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$x_{0}$ (source)", "image")


def test_arrows_refuse_what_is_no_map():
    x = np.zeros((5, 2))
    with pytest.raises(ValueError, match=r"`plan_or_map` must hold one image per point of `x`, shape \(5, 2\)"):
        plot.arrows(np.zeros((4, 2)), x)
    with pytest.raises(ValueError, match="`plan_or_map` must send points of shape"):
        plot.arrows(lambda p: p[:, :1], x)
    with pytest.raises(TypeError, match="`plan_or_map` must be an array"):
        plot.arrows("map", x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`max_arrows`"):
        plot.arrows(x, x, max_arrows=0)
    with pytest.raises(ValueError, match="`x` must have at least one point"):
        plot.arrows(x[:0], x[:0])


def test_maps_side_by_side(plans):
    """The displacements of each map, the images of all points below, in one frame for all."""
    plan = plans[3, 4, 2]
    x, y = draw(plan.source, 50), draw(plan.target, 40)
    double = omt.BrenierMap.from_potential(Double())
    figure = plot.maps({"plan": plan, "map": double, "images": 2 * np.asarray(x)}, x, y, max_arrows=20)
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["plan", "map", "images"]
    quivers = [only(ax.collections, Quiver)[0] for ax in axes[0]]
    np.testing.assert_allclose(quivers[1].U, quivers[2].U, rtol=1e-5)
    np.testing.assert_allclose(quivers[1].U, quivers[1].XY[:, 0], rtol=1e-5)
    np.testing.assert_allclose(axes[1, 0].collections[-1].get_offsets(), plan.push_forward(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(axes[1, 1].collections[-1].get_offsets(), 2 * np.asarray(x), rtol=1e-5)
    np.testing.assert_allclose(axes[1, 1].collections[0].get_offsets(), y, rtol=1e-6)
    assert len({ax.get_xlim() for ax in axes[1]}) == 1
    line = plot.maps({"plan": plans[3, 4, 1]}, draw(plans[3, 4, 1].source, 20))
    assert len(line.axes) == 1
    with pytest.raises(ValueError, match="`maps` must hold at least one map"):
        plot.maps({}, x)


class Double(omt.AbstractPotential):
    """|x|^2, whose gradient doubles every point, in the plane."""

    @property
    def num_dimensions(self):
        return 2

    @property
    def strong_convexity(self):
        return 2.0

    def value(self, x):
        return x @ x


# -- figures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "source_of_points"),
    [((3, 4, 2), "given"), ((3, 4, 2), "drawn"), ((3, 4, 5), "none"), ((1, 1, 2), "none")],
)
def test_overview_shows_both_mixtures_the_coupling_and_the_map(plans, size, source_of_points):
    plan = plans[size]
    options: dict[str, Any] = {
        "given": {"x": draw(plan.source, 90), "y": draw(plan.target, 80)},
        "drawn": {"key": jax.random.key(0)},
        "none": {},
    }[source_of_points]
    figure = plot.overview(plan, **options)
    source, target, heat, arrows = figure.axes[:4]
    assert [len(only(ax.patches, Ellipse)) for ax in (source, target)] == [2 * size[0], 2 * size[1]]
    assert source.get_title() == f"Source: {size[0]} component{'s' * (size[0] > 1)}"
    np.testing.assert_allclose(heat.images[0].get_array(), plan.weights, rtol=1e-6)
    (quiver,) = only(arrows.collections, Quiver)
    assert quiver.N == (60 if options else size[0])
    (lines,) = only(arrows.collections, LineCollection)
    heavy = np.asarray(plan.weights) > 0.01 * float(plan.weights.max())
    assert len(lines.get_segments()) == heavy.sum()
    assert max(lines.get_linewidths()) == 6
    points = [len(c.get_offsets()) for ax in (source, target) for c in only(ax.collections, PathCollection)]
    assert points == {"given": [90, 80], "drawn": [1000, 1000], "none": []}[source_of_points]
    assert "Transport cost" in figure.get_suptitle()


@pytest.mark.parametrize("size", [(3, 4, 1), (1, 1, 1)])
def test_overview_in_one_dimension(plans, size):
    plan = plans[size]
    discs = only(plot.overview(plan, key=jax.random.key(0)).axes[3].collections, PathCollection)[0]
    heavy = np.argwhere(np.asarray(plan.weights) > 0.01 * float(plan.weights.max()))
    source, target = (np.asarray(m.components.mean())[:, 0] for m in (plan.source, plan.target))
    expected = {(float(source[i]), float(target[j])) for i, j in heavy}
    assert {tuple(map(float, place)) for place in discs.get_offsets()} == expected


def test_overview_of_light_pairs_only(plans):
    """Among 40 x 40 components no pair may reach a weight of 1e-3; the heaviest ones are drawn all the same."""
    plan = eqx.tree_at(lambda p: p.weight_coupling.weights, plans[3, 4, 2], jnp.full((3, 4), 5e-4))
    (lines,) = only(plot.overview(plan).axes[3].collections, LineCollection)
    assert len(lines.get_segments()) == 12


@pytest.mark.parametrize("size", [(3, 4, 1), (3, 4, 2), (3, 4, 5), (1, 1, 2)])
def test_interpolation_draws_one_panel_per_time(plans, size):
    plan = plans[size]
    figure = plot.interpolation(plan, (0, 0.5, 1), resolution=30)
    assert [ax.get_title() for ax in figure.axes] == ["t = 0", "t = 0.5", "t = 1"]
    assert len({ax.get_xlim() for ax in figure.axes} | {ax.get_ylim() for ax in figure.axes}) == 2
    if size[2] == 1:
        curve = figure.axes[1].lines[0]
        x = curve.get_xdata()
        density = np.exp(plan.interpolate(0.5).log_prob(x[:, None]))
        np.testing.assert_allclose(curve.get_ydata(), density, rtol=1e-4, atol=1e-8)
        assert all(ax.get_ylim()[1] >= ax.lines[0].get_ydata().max() for ax in figure.axes)
    else:
        assert all(len(ax.collections) == 1 for ax in figure.axes)


@pytest.mark.parametrize("size", [(3, 4, 1), (3, 4, 5)])
def test_interpolation_without_a_density_draws_samples(plans, size, monkeypatch):
    class Law:
        def sample(self, key, num_samples):
            return jax.random.normal(key, (num_samples, size[2]))

    monkeypatch.setattr(omt.TransportPlan, "interpolate", lambda plan, t: Law())
    figure = plot.interpolation(plans[size], (0, 1), key=jax.random.key(0), num_samples=70)
    for ax in figure.axes:
        drawn = ax.patches if size[2] == 1 else ax.collections[0].get_offsets()
        assert len(drawn) == (60 if size[2] == 1 else 70)
    with pytest.raises(ValueError, match="`key` must be given"):
        plot.interpolation(plans[size], (0, 1))


def test_interpolation_checks_its_times(plans):
    with pytest.raises(ValueError, match="`times` must hold at least one time"):
        plot.interpolation(plans[3, 4, 2], ())
    with pytest.raises(ValueError, match="`t` must lie between 0 and 1"):
        plot.interpolation(plans[3, 4, 2], (0, 2))


# -- fits -------------------------------------------------------------------------------------------------------------


def test_trace_shows_the_log_likelihood_of_every_step():
    fit = omt.fit(jax.random.key(0), np.asarray(draw(gaussians(3, 2), 300)), Gaussian, 3)
    ax = plot.trace(fit)
    steps = int(fit.num_steps)
    likelihood, objective = ax.lines
    expected = [*np.asarray(fit.log_likelihoods)[:steps], float(fit.log_likelihood)]
    np.testing.assert_allclose(likelihood.get_ydata(), expected)
    assert list(likelihood.get_xdata()) == list(range(steps + 1))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("EM step", "mean log-likelihood (nats per point)")
    # With the default prior EM increases the posterior, which is drawn up to a constant.
    np.testing.assert_allclose(
        np.diff(objective.get_ydata()), np.diff(np.asarray(fit.objectives)[:steps]), rtol=1e-3, atol=1e-6
    )
    without_prior = eqx.tree_at(lambda f: f.objectives, fit, fit.log_likelihoods)
    assert len(plot.trace(without_prior).lines) == 1


# -- what they share --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(0, 3), (-1, 0), (1, 1), (0,), (0, 1, 2), (0.0, 1.0), 1])
def test_dims_that_do_not_exist_are_named(plans, dims):
    plan = plans[3, 4, 2]
    drawings = [
        lambda: plot.mixture(plan.source, dims=dims),
        lambda: plot.arrows(plan, draw(plan.source, 5), dims=dims),
        lambda: plot.overview(plan, dims=dims),
        lambda: plot.interpolation(plan, dims=dims),
    ]
    for drawing in drawings:
        with pytest.raises(ValueError, match="`dims` must be two different dimensions from 0 to 1"):
            drawing()
    assert not plt.get_fignums(), "refused before a figure was opened"


def test_points_that_do_not_fit_are_named(plans):
    plan = plans[3, 4, 2]
    with pytest.raises(ValueError, match="`points` must have shape"):
        plot.mixture(plan.source, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="`y` must have shape"):
        plot.overview(plan, y=np.zeros((5, 3)))


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys, omt_expfam.plot, omt_expfam.metrics; sys.exit(bool({'matplotlib', 'ott'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.loose
def test_posterior_trace():
    """Chains are drawn draw by draw, with their diagnostics; a variational bound step by step."""
    x = np.random.default_rng(0).standard_normal((60, 2)).astype("float32")
    gibbs = omt.Gibbs(num_warmup=5, num_samples=8)
    posterior = omt.fit_posterior(jax.random.key(0), x, DiagonalGaussian, 2, method=gibbs, throw=False)
    panel = omt.plot.posterior_trace(posterior)
    drawn = np.stack([line.get_ydata() for line in panel.lines])
    np.testing.assert_allclose(drawn.ravel(), posterior.label_free.draws[0], rtol=1e-6)
    assert "r-hat" in panel.get_title()
    bound = jnp.sin(jnp.arange(100.0))
    variational = dataclasses.replace(posterior, traces={"elbo": bound})
    panel = omt.plot.posterior_trace(variational)
    np.testing.assert_allclose(panel.lines[0].get_ydata(), bound, rtol=1e-6)
    np.testing.assert_allclose(panel.lines[1].get_ydata()[0], np.mean(bound[:2]), rtol=1e-5)
