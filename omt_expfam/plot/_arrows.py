"""Pictures of maps: arrows from points to their images."""

from collections.abc import Callable
from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_count, as_floating, as_host_or_traced, as_points
from .._base.arrays import spread_indices
from .._components.columns import columns_of
from .._numerics.circle import wrap
from .._plans.plan import TransportPlan
from .._potentials.fitted import BrenierFit
from .._potentials.gated import GatedMap
from .._potentials.map import BrenierMap
from ._embedding import as_places, Places
from ._style import axes_or_new, axis_name, equal_aspect, name_axes, NEUTRAL_COLOR, SOURCE_COLOR

if TYPE_CHECKING:
    import matplotlib.axes

    MapLike = TransportPlan | BrenierMap | GatedMap | BrenierFit | Callable[[Any], Any] | ArrayLike
else:
    MapLike = Any


def arrows(
    plan_or_map: MapLike,
    x: ArrayLike,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike | None = None,
    embedding: Any = None,
    y: ArrayLike | None = None,
    max_arrows: int = 200,
    color: str = NEUTRAL_COLOR,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw a map as arrows from points to their images; in one dimension, images against points.

    Args:
        plan_or_map: A plan, whose barycentric map is drawn; a `BrenierMap` or its fit; a function of points; or the
            images, shape ``[n, d]``.
        x: Points, shape ``[n, d]``.
        ax: Axes to draw into.
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates to draw the points at, such as a UMAP: a pair, for ``x`` and for ``y``, of shapes
            ``[n, 2]`` and ``[m, 2]``, or without ``y`` an array. An image has no coordinates of its own: it stands
            among the points that are nearest to it in the data's space, at their mean by inverse squared distance. Or
            a function from points to coordinates, which serves images too.
        y: Points of the target, shape ``[m, d]``, among which images stand in an embedding.
        max_arrows: Of more points than this, as many are shown, evenly spaced.
        color: Color of the arrows.
        **style: Options passed on to ``quiver`` (``plot`` in one dimension).

    Returns:
        The axes.

    Raises:
        TypeError: If ``plan_or_map`` is none of these.
        ValueError: If the images do not have the shape of ``x``, ``dims`` are not two of its dimensions, or
            ``embedding`` does not fit the points.
    """
    points = as_floating("x", x, "n d")
    if not len(points):
        raise ValueError(f"`x` must have at least one point; got shape {tuple(points.shape)}.")
    sides = [("x", points), *([] if y is None else [("y", as_points("y", y, points.shape[1]))])]
    places = as_places(embedding, dims, sides)
    return draw_arrows(ax, plan_or_map, points, places, max_arrows, color, style)


def draw_arrows(
    ax: Any,
    plan_or_map: Any,
    points: Any,
    places: Places,
    max_arrows: int,
    color: str = NEUTRAL_COLOR,
    style: Any = None,
) -> Any:
    """Arrows from points to their images, wherever these have their places."""
    chosen = spread_indices(len(points), as_count("max_arrows", max_arrows))
    plan_or_map = plan_or_map.map if isinstance(plan_or_map, BrenierFit) else plan_or_map
    if isinstance(plan_or_map, TransportPlan | BrenierMap | GatedMap):
        points, images = points[chosen], plan_or_map.push_forward(points[chosen])
        if isinstance(plan_or_map, TransportPlan):
            # Along the shorter arc, if need be beyond -pi or pi.
            around = np.asarray(points) + wrap(np.asarray(images) - np.asarray(points), np)
            images = np.where(columns_of(plan_or_map.source.components).angles, around, images)
    elif callable(plan_or_map):
        function: Any = plan_or_map
        points, images = points[chosen], function(points[chosen])
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
    panel, style = axes_or_new(ax), style or {}
    start, end = places.of(points), places.of(images)
    if start.shape[1] == 1:
        _draw_graph(panel, start[:, 0], end[:, 0], color, style)
        return panel
    options = {"color": color, "alpha": 0.55, "width": 0.0018, "headwidth": 6, "headlength": 7, "zorder": 2.2}
    fixed = {"angles": "xy", "scale_units": "xy", "scale": 1.0}
    panel.quiver(*start.T, *(end - start).T, **options | style | fixed)
    panel.scatter(*start.T, s=7, color=SOURCE_COLOR, linewidths=0, zorder=2.3)
    # Quiver itself makes no room for the arrows' tips.
    panel.update_datalim(end)
    panel.autoscale_view()
    name_axes(panel, places.names)
    equal_aspect(panel)
    return panel


def _draw_graph(ax: Any, x: np.ndarray, images: np.ndarray, color: str, style: dict[str, Any]) -> None:
    order = np.argsort(x, kind="stable")
    low, high = min(x.min(), images.min()), max(x.max(), images.max())
    ax.plot([low, high], [low, high], color="0.8", linewidth=1, zorder=0.5)
    ax.plot(x[order], images[order], **{"color": color, "linewidth": 1.5, "marker": ".", "markersize": 4} | style)
    ax.set_xlabel(f"{axis_name(0)} (source)")
    ax.set_ylabel("image")
