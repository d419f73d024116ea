"""Pictures of mixtures, plans, maps and fits, with matplotlib.

Functions draw into the given axes, or into a new figure, and return them; none of them calls ``plt.show``. Blue is the
source and orange the target throughout. Components and dimensions are numbered from 0.
"""

from collections.abc import Callable
from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_count, as_floating, as_host_or_traced, as_key, as_points, KeyLike
from .._base.arrays import spread_indices
from .._components.mixture import Mixture
from .._fitting.fit import Fit
from .._plans.plan import TransportPlan
from ._diagnostics import (
    sensitivity_map as sensitivity_map,
    uniqueness_histogram as uniqueness_histogram,
    worst_case_curve as worst_case_curve,
)
from ._posteriors import (
    posterior_trace as posterior_trace,
    uncertain_map as uncertain_map,
    weights_posterior as weights_posterior,
)
from ._stability import modulus as modulus, stability_curves as stability_curves, sweep_chart as sweep_chart
from ._time_courses import flows as flows, trajectory as trajectory

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# From the palette of Okabe and Ito, which color-blind readers can tell apart.
SOURCE_COLOR, TARGET_COLOR, NEUTRAL_COLOR = "#0072B2", "#D55E00", "#4D4D4D"

# Shares of the mass that the density contours enclose.
_MASSES = (0.95, 0.8, 0.6, 0.4, 0.2)
_MAX_POINTS, _MAX_LABELS, _MAX_TICKS, _MAX_CELLS = 5000, 30, 13, 12


# -- mixtures ---------------------------------------------------------------------------------------------------------


def mixture(
    mixture: Mixture,
    points: ArrayLike | None = None,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike = (0, 1),
    color: str = SOURCE_COLOR,
    contours: bool = True,
    ellipses: bool = True,
    labels: bool | None = None,
    resolution: int = 150,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw a mixture: density, points, and the components.

    In two dimensions or more this is the marginal of two of them: filled contours that enclose 20, 40, 60, 80 and 95
    percent of the mass, and for each component the ellipses of one and two standard deviations, stronger for larger
    weights. In one dimension it is the density, a histogram of the points, and the components times their weights.

    Args:
        mixture: The mixture.
        points: Points to draw with it, shape ``[n, d]``; at most 5000 of them, evenly spaced, are shown.
        ax: Axes to draw into.
        dims: The two dimensions to show; ignored in one dimension.
        color: Color of everything.
        contours: Draw the density. Left out for components that are not Gaussian in more than two dimensions.
        ellipses: Draw the components.
        labels: Write the components' indices at their means; by default for up to 30 components.
        resolution: Points of the density's grid per axis.
        **style: Options of the points, passed on to ``scatter`` (``hist`` in one dimension).

    Returns:
        The axes.

    Raises:
        ValueError: If ``dims`` are not two dimensions of the mixture, or ``points`` do not fit it.
    """
    pair = _check_dims(dims, mixture.dim)
    resolution = as_count("resolution", resolution, minimum=2)
    shown = None if points is None else np.asarray(as_points("points", points, mixture.dim), np.float64)
    panel = _axes(ax)
    if labels is None:
        labels = mixture.num_components <= _MAX_LABELS
    if mixture.dim == 1:
        _draw_line(panel, mixture, shown, color, contours, ellipses, labels, resolution, style)
    else:
        _draw_plane(panel, mixture, shown, pair, color, contours, ellipses, labels, resolution, style)
    return panel


def _draw_plane(
    ax: Any,
    mixture: Mixture,
    points: np.ndarray | None,
    pair: tuple[int, ...],
    color: str,
    contours: bool,
    ellipses: bool,
    labels: bool,
    resolution: int,
    style: dict[str, Any],
) -> None:
    weights, mean, covariance = _marginal(mixture, pair)
    if contours:
        _draw_contours(ax, mixture, pair, color, resolution)
    if points is not None:
        _draw_points(ax, points[:, pair], color, style)
    if ellipses:
        for k, strength in enumerate(_strength(weights)):
            _draw_ellipses(ax, mean[k], covariance[k], color, strength)
    if labels:
        _draw_labels(ax, mean, color)
    _name_axes(ax, pair)
    _equal_aspect(ax)


def _draw_line(
    ax: Any,
    mixture: Mixture,
    points: np.ndarray | None,
    color: str,
    contours: bool,
    components: bool,
    labels: bool,
    resolution: int,
    style: dict[str, Any],
) -> None:
    weights, mean, covariance = _marginal(mixture, (0,))
    low, high = _limits(mean, covariance, weights)
    if points is not None and len(points):
        low, high = np.minimum(low, points.min(0)), np.maximum(high, points.max(0))
        edges = np.histogram_bin_edges(points, "auto")
        if len(edges) > 101:
            edges = np.linspace(edges[0], edges[-1], 101)
        ax.hist(points[:, 0], **{"bins": edges, "density": True, "color": color, "alpha": 0.25} | style)
    grid = np.linspace(low[0], high[0], 4 * resolution)
    with np.errstate(over="ignore"):
        parts = weights * np.exp(np.asarray(mixture.components.log_prob(grid[:, None]), np.float64))
    if components:
        for part, strength in zip(parts.T, _strength(weights), strict=True):
            ax.plot(grid, part, color=color, linewidth=1, alpha=0.3 + 0.5 * strength, linestyle="--")
    if contours:
        ax.plot(grid, parts.sum(1), color=color, linewidth=2)
    if labels:
        peaks = np.stack([mean[:, 0], [np.interp(m, grid, part) for m, part in zip(mean[:, 0], parts.T, strict=True)]])
        _draw_labels(ax, peaks.T, color)
    # Room for every curve, also in other panels that share the axis.
    ax.autoscale(axis="y")
    ax.set_ylim(bottom=0)
    ax.set_xlabel(_name(0))
    ax.set_ylabel("density")


def _draw_points(ax: Any, points: np.ndarray, color: str, style: dict[str, Any]) -> None:
    shown = points[spread_indices(len(points), _MAX_POINTS)]
    size = float(np.clip(4000 / max(len(shown), 1), 3, 14))
    defaults = {
        "s": size,
        "color": color,
        "alpha": 0.35,
        "linewidths": 0,
        "zorder": 1.5,
        "rasterized": len(shown) > 2000,
    }
    ax.scatter(shown[:, 0], shown[:, 1], **defaults | style)


def _draw_ellipses(ax: Any, mean: np.ndarray, covariance: np.ndarray, color: str, strength: float) -> None:
    from matplotlib.patches import Ellipse

    if not np.isfinite(covariance).all():
        return
    values, vectors = np.linalg.eigh(covariance)
    height, width = 2 * np.sqrt(np.maximum(values, 0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    for deviations in (1, 2):
        ax.add_patch(
            Ellipse(
                (mean[0], mean[1]),
                deviations * width,
                deviations * height,
                angle=angle,
                fill=False,
                edgecolor=color,
                linewidth=(0.6 + 1.4 * strength) / deviations**0.5,
                alpha=(0.35 + 0.65 * strength) / deviations**0.5,
                zorder=2.5,
            )
        )


def _draw_labels(ax: Any, places: np.ndarray, color: str) -> None:
    from matplotlib.patheffects import withStroke

    for k, (x, y) in enumerate(places):
        text = ax.text(x, y, str(k), color=color, ha="center", va="center", fontsize=9, fontweight="bold", clip_on=True)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        text.set_zorder(4)


def _draw_contours(ax: Any, mixture: Mixture, pair: tuple[int, ...], color: str, resolution: int) -> None:
    weights, mean, covariance = _marginal(mixture, pair)
    low, high = _limits(mean, covariance, weights)
    axes = [np.linspace(low[i], high[i], resolution) for i in range(2)]
    grid = np.stack(np.meshgrid(*axes), axis=-1)
    density = _density(mixture, pair, grid.reshape(-1, 2))
    if density is None:
        return
    levels = _mass_levels(density)
    if len(levels) > 1:
        shades = _color_map(color)(np.linspace(0.12, 0.6, len(levels) - 1))
        ax.contourf(*axes, density.reshape(resolution, resolution), levels=levels, colors=shades, zorder=0.5)


def _density(mixture: Mixture, pair: tuple[int, ...], grid: np.ndarray) -> np.ndarray | None:
    """Marginal density at the grid's points, or None where it has no formula."""
    if mixture.components.gaussian_form() is None:
        if mixture.dim > 2:
            return None
        with np.errstate(over="ignore"):
            density = np.exp(np.asarray(mixture.log_prob(grid[:, np.argsort(pair)]), np.float64))
        return np.nan_to_num(density, posinf=np.finfo(np.float64).max)
    weights, mean, covariance = _marginal(mixture, pair)
    density = np.zeros(len(grid))
    for k in np.flatnonzero(weights > 1e-6):
        values, vectors = np.linalg.eigh(covariance[k])
        # A component without width still has a place to be drawn.
        scale = np.sqrt(np.maximum(values, 1e-12 * values.max()))
        z = (grid - mean[k]) @ vectors / scale
        density += weights[k] / (2 * np.pi * scale.prod()) * np.exp(-0.5 * (z**2).sum(1))
    return density


def _mass_levels(density: np.ndarray) -> np.ndarray:
    """Increasing density levels whose upper sets hold the shares _MASSES of the mass on the grid, and the peak."""
    falling = np.sort(density)[::-1]
    mass = np.cumsum(falling / falling.max())
    index = np.searchsorted(mass, np.array(_MASSES) * mass[-1])
    return np.unique([*falling[index], falling[0] * (1 + 1e-9)])


# -- plans ------------------------------------------------------------------------------------------------------------


def coupling(
    plan: TransportPlan,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    scale: str = "sqrt",
    annotate: bool | None = None,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw the coupling of the weights as a heat map, target weights above it and source weights beside it.

    Args:
        plan: The plan.
        ax: Axes to draw into; they shrink to make room for the bars and the color bar.
        scale: ``"sqrt"`` for a color scale that shows small weights, or ``"linear"``.
        annotate: Write the weights into the cells; by default for up to 12 components on either side.
        **style: Options passed on to ``imshow``, such as ``cmap``.

    Returns:
        The axes of the heat map.

    Raises:
        ValueError: If ``scale`` is neither of the two.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    if scale not in ("sqrt", "linear"):
        raise ValueError(f'`scale` must be "sqrt" or "linear"; got {scale!r}.')
    panel = _axes(ax)
    weights = np.asarray(plan.weights, np.float64)
    rows, columns = weights.shape
    norm = PowerNorm(0.5 if scale == "sqrt" else 1.0, vmin=0, vmax=max(weights.max(), np.finfo(np.float64).tiny))
    aspect = "equal" if max(rows, columns) <= 2 * min(rows, columns) else "auto"
    image = panel.imshow(weights, **{"cmap": _color_map("#54278F"), "norm": norm, "aspect": aspect} | style)
    if annotate if annotate is not None else max(rows, columns) <= _MAX_CELLS:
        _draw_cells(panel, image, weights)
    for axis, num in ((panel.xaxis, columns), (panel.yaxis, rows)):
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, num) if num <= _MAX_TICKS * s)
        axis.set_ticks(range(0, num, step))
    panel.set_axes_locator(_lower_left)
    panel.tick_params(length=0)
    panel.set_xlabel("target component")
    panel.set_ylabel("source component")
    panel.spines[:].set_color("0.7")

    above = panel.inset_axes((0.0, 1.03, 1.0, 0.17), sharex=panel)
    above.bar(range(columns), np.asarray(plan.target.weights), width=0.8, color=TARGET_COLOR)
    beside = panel.inset_axes((1.03, 0.0, 0.17, 1.0), sharey=panel)
    beside.barh(range(rows), np.asarray(plan.source.weights), height=0.8, color=SOURCE_COLOR)
    for bars in (above, beside):
        bars.spines[:].set_visible(False)
        bars.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
    panel.set_xlim(-0.5, columns - 0.5)
    panel.set_ylim(rows - 0.5, -0.5)
    bar = panel.figure.colorbar(image, cax=panel.inset_axes((1.24, 0.0, 0.045, 1.0)), ticks=MaxNLocator(5))
    bar.set_label("weight" if scale == "linear" else "weight (square-root scale)")
    bar.outline.set_visible(False)
    return panel


def _lower_left(ax: Any, renderer: Any) -> Any:
    """Where axes go that share their part of the figure with bars above and beside them."""
    from matplotlib.transforms import Bbox

    box = ax.get_position(original=True)
    return Bbox.from_bounds(box.x0, box.y0, 0.7 * box.width, 0.82 * box.height)


def _draw_cells(ax: Any, image: Any, weights: np.ndarray) -> None:
    for (i, j), weight in np.ndenumerate(weights):
        if weight >= 0.005:
            dark = np.dot(image.cmap(image.norm(weight))[:3], (0.299, 0.587, 0.114)) < 0.55
            text = f"{weight:.2f}".removeprefix("0")
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def arrows(
    plan_or_map: TransportPlan | Callable[[Any], Any] | ArrayLike,
    x: ArrayLike,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike = (0, 1),
    max_arrows: int = 200,
    color: str = NEUTRAL_COLOR,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw a map as arrows from points to their images; in one dimension, images against points.

    Args:
        plan_or_map: A plan, whose barycentric map is drawn; a function of points; or the images, shape ``[n, d]``.
        x: Points, shape ``[n, d]``.
        ax: Axes to draw into.
        dims: The two dimensions to show; ignored in one dimension.
        max_arrows: Of more points than this, as many are shown, evenly spaced.
        color: Color of the arrows.
        **style: Options passed on to ``quiver`` (``plot`` in one dimension).

    Returns:
        The axes.

    Raises:
        TypeError: If ``plan_or_map`` is none of the three.
        ValueError: If the images do not have the shape of ``x``, or ``dims`` are not two of its dimensions.
    """
    points = as_floating("x", x, "n d")
    pair = _check_dims(dims, points.shape[1])
    if not len(points):
        raise ValueError(f"`x` must have at least one point; got shape {tuple(points.shape)}.")
    chosen = spread_indices(len(points), as_count("max_arrows", max_arrows))
    if isinstance(plan_or_map, TransportPlan):
        points, images = points[chosen], plan_or_map.push_forward(points[chosen])
    elif callable(plan_or_map):
        points, images = points[chosen], plan_or_map(points[chosen])
    else:
        images = as_host_or_traced("plan_or_map", plan_or_map)
        if images.shape != points.shape:
            raise ValueError(
                f"`plan_or_map` must hold one image per point of `x`, shape {tuple(points.shape)}; "
                f"got shape {tuple(images.shape)}."
            )
        points, images = points[chosen], images[chosen]
    images = as_floating("plan_or_map", images, "n d")
    if images.shape != points.shape:
        raise ValueError(
            f"`plan_or_map` must send points of shape {tuple(points.shape)} to that shape; got {tuple(images.shape)}."
        )
    panel = _axes(ax)
    start, end = np.asarray(points, np.float64), np.asarray(images, np.float64)
    if start.shape[1] == 1:
        _draw_graph(panel, start[:, 0], end[:, 0], color, style)
        return panel
    start, end = start[:, pair], end[:, pair]
    options = {"color": color, "alpha": 0.55, "width": 0.0018, "headwidth": 6, "headlength": 7, "zorder": 2.2}
    fixed = {"angles": "xy", "scale_units": "xy", "scale": 1.0}
    panel.quiver(*start.T, *(end - start).T, **options | style | fixed)
    panel.scatter(*start.T, s=7, color=SOURCE_COLOR, linewidths=0, zorder=2.3)
    # Quiver itself makes no room for the arrows' tips.
    panel.update_datalim(end)
    panel.autoscale_view()
    _name_axes(panel, pair)
    _equal_aspect(panel)
    return panel


def _draw_graph(ax: Any, x: np.ndarray, images: np.ndarray, color: str, style: dict[str, Any]) -> None:
    order = np.argsort(x, kind="stable")
    low, high = min(x.min(), images.min()), max(x.max(), images.max())
    ax.plot([low, high], [low, high], color="0.8", linewidth=1, zorder=0.5)
    ax.plot(x[order], images[order], **{"color": color, "linewidth": 1.5, "marker": ".", "markersize": 4} | style)
    ax.set_xlabel(f"{_name(0)} (source)")
    ax.set_ylabel("image")


def overview(
    plan: TransportPlan,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    key: KeyLike | None = None,
    dims: ArrayLike = (0, 1),
) -> "matplotlib.figure.Figure":
    """Draw a plan on one page: both mixtures, the coupling of their components, and the map.

    The last panel shows the barycentric map on some source points (or on the source means when there are none), the
    target points behind it, and lines between the means of coupled components, wider for heavier pairs. In one
    dimension these are discs at (source mean, target mean).

    Args:
        plan: The plan.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``.
        key: A random key; with it, points that are not given are drawn from the mixtures.
        dims: The two dimensions to show; ignored in one dimension.

    Returns:
        The figure.

    Raises:
        ValueError: If ``dims`` are not two dimensions of the plan, or the points do not fit it.
    """
    import jax
    from matplotlib import pyplot as plt

    pair = _check_dims(dims, plan.source.dim)
    x = None if x is None else as_points("x", x, plan.source.dim)
    y = None if y is None else as_points("y", y, plan.source.dim)
    if key is not None:
        x_key, y_key = jax.random.split(as_key(key))
        x = plan.source.sample(x_key, 1000) if x is None else x
        y = plan.target.sample(y_key, 1000) if y is None else y
    figure, axes = plt.subplots(2, 2, figsize=(11, 9.5), layout="constrained")
    for ax, side, points, color, name in (
        (axes[0, 0], plan.source, x, SOURCE_COLOR, "Source"),
        (axes[0, 1], plan.target, y, TARGET_COLOR, "Target"),
    ):
        mixture(side, points, ax=ax, dims=pair, color=color)
        ax.set_title(f"{name}: {_count(side.num_components, 'component')}")
    coupling(plan, ax=axes[1, 0])
    axes[1, 0].set_title("Coupling of the components")
    ax = axes[1, 1]
    if plan.source.dim > 1 and y is not None:
        _draw_points(ax, np.asarray(y, np.float64)[:, pair], TARGET_COLOR, {"alpha": 0.2})
    _draw_pairs(ax, plan, pair)
    arrows(plan, plan.source.components.mean() if x is None else x, ax=ax, dims=pair, max_arrows=60)
    ax.set_title("Barycentric map and coupled components")
    figure.suptitle(f"Transport cost {float(plan.cost):.4g} (squared distance)")
    return figure


def _draw_pairs(ax: Any, plan: TransportPlan, pair: tuple[int, ...]) -> None:
    """Lines between coupled components' means, or discs in one dimension, by weight."""
    from matplotlib.collections import LineCollection

    table = plan.correspondences(0.01 * float(plan.weights.max()))
    source, target = (np.asarray(m.components.mean(), np.float64)[:, pair] for m in (plan.source, plan.target))
    share = table.weight / table.weight.max()
    if plan.source.dim == 1:
        ax.scatter(
            source[table.source], target[table.target], s=300 * share, color=TARGET_COLOR, alpha=0.3, linewidths=0
        )
        return
    lines = np.stack([source[table.source], target[table.target]], axis=1)
    ax.add_collection(
        LineCollection(list(lines), linewidths=6 * share**0.5, colors="#CC79A7", alpha=0.45, capstyle="round", zorder=2)
    )
    ax.autoscale_view()
    if len(source) + len(target) <= _MAX_LABELS:
        _draw_labels(ax, source, SOURCE_COLOR)
        _draw_labels(ax, target, TARGET_COLOR)


def interpolation(
    plan: TransportPlan,
    times: ArrayLike = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    dims: ArrayLike = (0, 1),
    key: KeyLike | None = None,
    num_samples: int = 2000,
    **style: Any,
) -> "matplotlib.figure.Figure":
    """Draw the displacement interpolation between the two mixtures, one panel per time.

    Args:
        plan: The plan.
        times: Times between 0 (source) and 1 (target).
        dims: The two dimensions to show; ignored in one dimension.
        key: A random key; needed where the interpolation has no density, and samples of it are drawn.
        num_samples: Number of those samples.
        **style: Options passed on to `mixture`, or to ``scatter`` (``hist`` in one dimension) for samples.

    Returns:
        The figure; its axes share their limits.

    Raises:
        ValueError: If ``times`` is empty or leaves [0, 1], ``dims`` are not two dimensions of the plan, or ``key`` is
            needed.
    """
    import jax
    from matplotlib import pyplot as plt

    pair = _check_dims(dims, plan.source.dim)
    moments = np.asarray(as_host_or_traced("times", times), np.float64).ravel().tolist()
    if not moments:
        raise ValueError("`times` must hold at least one time; got none.")
    laws = [plan.interpolate(t) for t in moments]
    figure, axes = plt.subplots(
        1,
        len(moments),
        figsize=(2.6 * len(moments) + 0.4, 3.0),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for ax, t, law in zip(axes[0], moments, laws, strict=True):
        color = _blend(t)
        if isinstance(law, Mixture):
            mixture(
                law, ax=ax, dims=pair, color=color, **{"ellipses": False, "labels": False, "resolution": 120} | style
            )
        else:
            if key is None:
                raise ValueError("`key` must be given: this interpolation has no density, and samples are drawn.")
            # The same key at every time: where the law draws pairs, the points can be followed from panel to panel.
            samples = law.sample(jax.random.clone(key), as_count("num_samples", num_samples))
            samples = np.asarray(samples, np.float64)
            _draw_samples(ax, samples, pair, color, style)
        ax.set_title(f"t = {t:g}")
        ax.label_outer()
    return figure


def _draw_samples(ax: Any, samples: np.ndarray, pair: tuple[int, ...], color: str, style: dict[str, Any]) -> None:
    if samples.shape[1] == 1:
        ax.hist(samples[:, 0], **{"bins": 60, "density": True, "color": color, "alpha": 0.6} | style)
        ax.set_xlabel(_name(0))
        ax.set_ylabel("density")
        return
    _draw_points(ax, samples[:, pair], color, style)
    _name_axes(ax, pair)
    _equal_aspect(ax)


# -- fits -------------------------------------------------------------------------------------------------------------


def trace(fit: Fit, *, ax: Optional["matplotlib.axes.Axes"] = None, **style: Any) -> "matplotlib.axes.Axes":
    """Draw the log-likelihood along the steps of EM, from the start to the fitted mixture.

    With a prior on the covariances EM need not increase it; what EM does increase, the log-likelihood plus the
    log-prior, is drawn beside it as a dashed line, shifted to end at the same height.

    Args:
        fit: The fit.
        ax: Axes to draw into.
        **style: Options passed on to ``plot``.

    Returns:
        The axes.
    """
    panel = _axes(ax)
    steps = int(fit.num_steps)
    values = np.append(np.asarray(fit.log_likelihoods, np.float64)[:steps], float(fit.log_likelihood))
    panel.plot(range(steps + 1), values, **{"color": SOURCE_COLOR, "linewidth": 1.5, "label": "log-likelihood"} | style)
    objectives = np.asarray(fit.objectives, np.float64)[:steps]
    if steps and not np.allclose(objectives, values[:-1], rtol=1e-5, atol=1e-6):
        shifted = objectives + (values[-2] - objectives[-1])
        panel.plot(
            range(steps), shifted, color=NEUTRAL_COLOR, linestyle="--", linewidth=1.2, label="with the prior, shifted"
        )
        panel.legend(frameon=False)
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.set_xlabel("EM step")
    panel.set_ylabel("mean log-likelihood (nats per point)")
    return panel


# -- what they share --------------------------------------------------------------------------------------------------


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(layout="constrained")[1]


def _check_dims(dims: ArrayLike, dim: int) -> tuple[int, ...]:
    if dim == 1:
        return (0,)
    chosen: tuple[Any, ...] = tuple(as_host_or_traced("dims", dims).tolist()) if np.ndim(dims) == 1 else ()
    if len(set(chosen)) != 2 or len(chosen) != 2 or not all(type(i) is int and 0 <= i < dim for i in chosen):
        raise ValueError(f"`dims` must be two different dimensions from 0 to {dim - 1}; got {dims}.")
    return chosen


def _marginal(mixture: Mixture, pair: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, and the components' means and covariances in some dimensions."""
    chosen = list(pair)
    mean = np.asarray(mixture.components.mean(), np.float64)[:, chosen]
    covariance = np.asarray(mixture.components.covariance(), np.float64)[:, chosen][:, :, chosen]
    return np.asarray(mixture.weights, np.float64), mean, covariance


def _limits(mean: np.ndarray, covariance: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of a box around the components that matter."""
    matter = weights >= 1e-3 * weights.max()
    spread = 3 * np.sqrt(np.nan_to_num(np.diagonal(covariance, axis1=1, axis2=2), posinf=0.0))
    return (mean - spread)[matter].min(0), (mean + spread)[matter].max(0)


def _strength(weights: np.ndarray) -> np.ndarray:
    return np.sqrt(weights / weights.max())


def _name(dim: int) -> str:
    return f"$x_{{{dim}}}$"


def _name_axes(ax: Any, pair: tuple[int, ...]) -> None:
    ax.set_xlabel(_name(pair[0]))
    ax.set_ylabel(_name(pair[1]))


def _equal_aspect(ax: Any) -> None:
    """One scale for both axes, unless their ranges differ too much for that."""
    width, height = abs(np.diff(ax.get_xlim())[0]), abs(np.diff(ax.get_ylim())[0])
    if max(width, height) <= 5 * min(width, height):
        shared = len(ax.get_shared_x_axes().get_siblings(ax)) > 1
        ax.set_aspect("equal", adjustable="box" if shared else "datalim")


def _color_map(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(f"white to {color}", ["white", color])


def _blend(t: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    mixed = (1 - t) * np.array(to_rgb(SOURCE_COLOR)) + t * np.array(to_rgb(TARGET_COLOR))
    return to_hex(mixed.tolist())


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}{'' if num == 1 else 's'}"
