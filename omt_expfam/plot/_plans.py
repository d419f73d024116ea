"""Pictures of transport plans."""

from typing import Any, Optional, TYPE_CHECKING

import jax
import numpy as np

from .._base.arguments import ArrayLike, as_count, as_host_or_traced, as_key, as_points, KeyLike
from .._components.mixture import Mixture
from .._plans.plan import TransportPlan
from ._arrows import draw_arrows
from ._embedding import as_places, coordinates, Places
from ._mixtures import draw_labels, draw_plane, draw_points, keep_inside, mixture
from ._style import (
    axes_or_new,
    axis_name,
    blend,
    color_map,
    counted,
    equal_aspect,
    ink_on,
    MAX_CELLS,
    MAX_LABELS,
    name_axes,
    name_components,
    same_limits,
    SOURCE_COLOR,
    TARGET_COLOR,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure


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
    panel = axes_or_new(ax)
    weights = np.asarray(plan.weights, np.float64)
    rows, columns = weights.shape
    norm = PowerNorm(0.5 if scale == "sqrt" else 1.0, vmin=0, vmax=max(weights.max(), np.finfo(np.float64).tiny))
    aspect = "equal" if max(rows, columns) <= 2 * min(rows, columns) else "auto"
    image = panel.imshow(weights, **{"cmap": color_map("#54278F"), "norm": norm, "aspect": aspect} | style)
    if annotate if annotate is not None else max(rows, columns) <= MAX_CELLS:
        _draw_cells(panel, image, weights)
    for axis, num, names in zip((panel.yaxis, panel.xaxis), (rows, columns), plan.component_names, strict=True):
        name_components(axis, np.arange(num), names)
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
            text, ink = f"{weight:.2f}".removeprefix("0"), ink_on(image.cmap(image.norm(weight)))
            ax.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)


def overview(
    plan: TransportPlan,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    key: KeyLike | None = None,
    dims: ArrayLike | None = None,
    embedding: Any = None,
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
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates of ``x`` and of ``y`` to draw them at, such as a UMAP, a pair of shapes ``[n, 2]`` and
            ``[m, 2]``, or a function from points to such; see `arrows`.

    Returns:
        The figure.

    Raises:
        ValueError: If ``dims`` are not two dimensions of the plan, or the points or ``embedding`` do not fit it.
    """
    from matplotlib import pyplot as plt

    x = None if x is None else as_points("x", x, plan.source.dim)
    y = None if y is None else as_points("y", y, plan.source.dim)
    if key is not None:
        x_key, y_key = jax.random.split(as_key(key))
        x = plan.source.sample(x_key, 1000) if x is None else x
        y = plan.target.sample(y_key, 1000) if y is None else y
    sides = (plan.source, x, SOURCE_COLOR, "Source"), (plan.target, y, TARGET_COLOR, "Target")
    places = as_places(embedding, dims, [("x", x), ("y", y)], [plan.source, plan.target], names=plan.feature_names)
    spots = [
        None if points is None else coordinates(embedding, number, points, places)
        for number, (_, points, *_) in enumerate(sides)
    ]
    figure, axes = plt.subplots(2, 2, figsize=(11, 9.5), layout="constrained")
    panels = zip(axes[0], sides, spots, plan.component_names, strict=True)
    for ax, (side, points, color, name), own, called in panels:
        if places.on_line:
            mixture(side, points, ax=ax, color=color)
        else:
            labels = side.num_components <= MAX_LABELS
            draw_plane(ax, side, points, own, places, color, labels=labels, names=called)
        ax.set_title(f"{name}: {counted(side.num_components, 'component')}")
    coupling(plan, ax=axes[1, 0])
    axes[1, 0].set_title("Coupling of the components")
    ax = axes[1, 1]
    if plan.source.dim > 1 and spots[1] is not None:
        draw_points(ax, spots[1], TARGET_COLOR, {"alpha": 0.2})
    _draw_pairs(ax, plan, places, x, y)
    draw_arrows(ax, plan, plan.source.components.mean() if x is None else x, places, max_arrows=60)
    ax.set_title("Barycentric map and coupled components")
    # On the line, the map has axes of its own.
    same_limits([*axes[0], *([] if places.on_line else [ax])])
    for one in figure.axes:
        keep_inside(one)
    figure.suptitle(f"Transport cost {float(plan.cost):.4g} (squared distance)")
    return figure


def _draw_pairs(ax: Any, plan: TransportPlan, places: Places, x: Any, y: Any) -> None:
    """Lines between coupled components' means, or discs in one dimension, by weight."""
    from matplotlib.collections import LineCollection

    table = plan.correspondences(0.01 * float(plan.weights.max()))
    source, target = (places.moments(*side)[0] for side in ((plan.source, x), (plan.target, y)))
    share = table.weight / table.weight.max()
    if source.shape[1] == 1:
        ax.scatter(
            source[table.source], target[table.target], s=300 * share, color=TARGET_COLOR, alpha=0.3, linewidths=0
        )
        return
    lines = np.stack([source[table.source], target[table.target]], axis=1)
    ax.add_collection(
        LineCollection(list(lines), linewidths=6 * share**0.5, colors="#CC79A7", alpha=0.45, capstyle="round", zorder=2)
    )
    ax.autoscale_view()
    if len(source) + len(target) <= MAX_LABELS:
        names = plan.component_names
        # A name that both sides have is written once.
        alone = [names[0] is None or names[1] is None or name not in names[1] for name in names[0] or source]
        draw_labels(ax, np.where(np.array(alone)[:, None], source, np.nan), SOURCE_COLOR, names[0])
        draw_labels(ax, target, TARGET_COLOR, names[1])


def interpolation(
    plan: TransportPlan,
    times: ArrayLike = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    dims: ArrayLike | None = None,
    embedding: Any = None,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    key: KeyLike | None = None,
    num_samples: int = 2000,
    **style: Any,
) -> "matplotlib.figure.Figure":
    """Draw the displacement interpolation between the two mixtures, one panel per time.

    Args:
        plan: The plan.
        times: Times between 0 (source) and 1 (target).
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates of ``x`` and of ``y``, a pair of shapes ``[n, 2]`` and ``[m, 2]``, or a function from
            points to such: samples of the interpolation stand there among their nearest points, see `arrows`.
        x: Source points, shape ``[n, d]``, for an embedding.
        y: Target points, shape ``[m, d]``, likewise.
        key: A random key; needed for an embedding and where the interpolation has no density: samples are drawn.
        num_samples: Number of those samples.
        **style: Options passed on to `mixture`, or to ``scatter`` (``hist`` in one dimension) for samples.

    Returns:
        The figure; its axes share their limits.

    Raises:
        ValueError: If ``times`` is empty or leaves [0, 1], ``dims`` are not two dimensions of the plan, or ``key`` or
            points are needed.
    """
    from matplotlib import pyplot as plt

    sides = [
        (name, None if points is None else as_points(name, points, plan.source.dim))
        for name, points in (("x", x), ("y", y))
    ]
    places = as_places(embedding, dims, sides, [plan.source, plan.target], names=plan.feature_names)
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
        color = blend(t)
        if isinstance(law, Mixture) and places.dims is not None:
            options = {"ellipses": False, "labels": False, "resolution": 120} | style
            mixture(law, ax=ax, dims=places.dims if law.dim > 1 else None, color=color, **options)
            if law.dim > 1:
                name_axes(ax, places.names)
        else:
            if key is None:
                raise ValueError(
                    "`key` must be given: this interpolation has no density, or none in an embedding, and samples are "
                    "drawn."
                )
            # The same key at every time: where the law draws pairs, the points can be followed from panel to panel.
            samples = law.sample(jax.random.clone(key), as_count("num_samples", num_samples))
            samples = np.asarray(samples, np.float64)
            _draw_samples(ax, samples, places, color, style)
        ax.set_title(f"t = {t:g}")
        ax.label_outer()
    return figure


def _draw_samples(ax: Any, samples: np.ndarray, places: Places, color: str, style: dict[str, Any]) -> None:
    if places.on_line:
        ax.hist(samples[:, 0], **{"bins": 60, "density": True, "color": color, "alpha": 0.6} | style)
        ax.set_xlabel(axis_name(0))
        ax.set_ylabel("density")
        return
    draw_points(ax, places.of(samples), color, style)
    name_axes(ax, places.names)
    equal_aspect(ax)
