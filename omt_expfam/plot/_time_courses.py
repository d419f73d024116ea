"""Pictures of time courses: flows between components or groups, and the graph of components in the plane."""

import textwrap
from collections.abc import Sequence
from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_points, as_scalar
from .._base.arrays import spread_indices
from .._plans.groups import GroupFlows
from .._time_courses.trajectory import Trajectory
from ._embedding import as_places, coordinates
from ._style import as_text, axes_or_new, category_color, ink_on, lineage_colors, name_axes

if TYPE_CHECKING:
    import matplotlib.axes

# Between the bars of one time, and how wide a bar is, of the distance between two times.
_GAP, _WIDTH = 0.03, 0.08
_MAX_POINTS, _FONT = 2000, 7


def flows(
    course: Trajectory | GroupFlows,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    min_weight: float = 2e-3,
    names: Sequence[Sequence[str]] | None = None,
    colors: Any = None,
    growth: bool = True,
) -> "matplotlib.axes.Axes":
    """Draw how mass flows: a bar for each component or group at each time, and bands between them.

    Heights are shares of the mass; times stand to scale. Bands have the color of where they come from, and bars with
    names that of their name. Components without names have no identity from one time to the next: each of the first
    time has a color of its own, later ones the mean of the colors that they come from, by mass. Beside a group stands
    its share at the time before and now.

    Args:
        course: A trajectory, or the flows of its groups.
        ax: Axes to draw into.
        min_weight: Bands and bars of less mass are left out.
        names: For each time, the names of the bars; by default the groups' names or the components' numbers.
        colors: For each time, a color per bar; by default one color per name, else by descent.
        growth: Write the changes of groups' shares.

    Returns:
        The axes.

    Raises:
        ValueError: If ``names`` or ``colors`` do not fit the course.
    """
    from matplotlib.patheffects import withStroke

    as_scalar("min_weight", min_weight)
    if isinstance(course, GroupFlows):
        weights, tables = list(course.weights), list(course.couplings)
        default = [list(course.names)] * len(weights)
        named = True
    else:
        weights = [np.asarray(m.weights, np.float64) for m in course.mixtures]
        tables = [np.asarray(plan.weights, np.float64) for plan in course.plans]
        known = [course.plans[0].component_names[0], *(plan.component_names[1] for plan in course.plans)]
        pairs = zip(weights, known, strict=True)
        default = [list(map(str, range(len(w)))) if own is None else list(own) for w, own in pairs]
        named = names is not None or all(own is not None for own in known)
    labels = _per_bar("names", names, default, weights)
    if named:
        order = list(dict.fromkeys(name for entry in labels for name in entry))
        painted: Any = [[category_color(order.index(name)) for name in entry] for entry in labels]
    else:
        painted = [list(colors) for colors in lineage_colors(len(weights[0]), tables)]
    painted = _per_bar("colors", colors, painted, weights)
    panel = axes_or_new(ax)
    tops = [_stack(w, min_weight) for w in weights]
    # To scale, one step being one unit on average.
    moments = np.asarray(course.times, np.float64)
    places = (moments - moments[0]) * ((len(moments) - 1) / (moments[-1] - moments[0]))
    width = min(_WIDTH, 0.4 * float(np.diff(places).min()))
    # Characters that fit between two times; beside the last one there is room.
    inches = panel.get_window_extent().width / panel.figure.dpi * np.diff(places) / (places[-1] + 5 * _WIDTH)
    room = [*np.maximum(inches / (0.6 * _FONT / 72) - 3, 6).astype(int), 24]
    for step, table in enumerate(tables):
        span = places[step] + width / 2, places[step + 1] - width / 2
        _draw_bands(panel, span, table, tops[step], tops[step + 1], weights[step], painted[step], min_weight)
    for time, (mass, top) in enumerate(zip(weights, tops, strict=True)):
        for k in np.flatnonzero(mass >= min_weight):
            panel.bar(places[time], mass[k], width, top[k] - mass[k], color=painted[time][k], zorder=3)
            text = labels[time][k]
            if growth and time and isinstance(course, GroupFlows):
                text += f" {weights[time - 1][k]:.0%} → {mass[k]:.0%}"
            if mass[k] >= 0.02:
                place = places[time] + 0.7 * width, top[k] - mass[k] / 2
                text = as_text("\n".join(textwrap.wrap(text, room[time], break_long_words=False)))
                label = panel.annotate(text, place, va="center", fontsize=_FONT, linespacing=1.0, zorder=4)
                label.set_path_effects([withStroke(linewidth=2, foreground="white")])
    panel.set_xlim(-_WIDTH, places[-1] + 4 * _WIDTH)
    panel.set_xticks(places, [f"{t:.4g}" for t in course.times])
    panel.set_xlabel("time")
    panel.set_yticks([])
    panel.spines[["top", "left", "right"]].set_visible(False)
    return panel


def _per_bar(name: str, given: Any, default: list[Any], weights: list[np.ndarray]) -> list[Any]:
    found = default if given is None else list(given)
    if [len(entry) for entry in found] != [len(w) for w in weights]:
        sizes = ", ".join(str(len(w)) for w in weights)
        raise ValueError(f"`{name}` must hold one entry per bar at each time: {sizes} of them.")
    return found


def _stack(weights: np.ndarray, min_weight: float) -> np.ndarray:
    """Upper ends of bars that stand on each other with gaps, the first on top."""
    drawn = weights >= min_weight
    heights = np.where(drawn, weights, 0.0)
    gaps = _GAP * np.cumsum(drawn)
    return 1 - np.concatenate([[0.0], np.cumsum(heights)[:-1]]) - gaps


def _draw_bands(
    ax: Any,
    span: tuple[float, float],
    table: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    weights: np.ndarray,
    colors: list[Any],
    min_weight: float,
) -> None:
    """Bands from the bars of one time to those of the next, each beginning where the one above it ends."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    # Where a component grows, more arrives than its bar holds: its bands begin narrower than they end.
    total = table.sum(axis=1)
    start = table * np.divide(weights, total, out=np.zeros_like(total), where=total > 0)[:, None]
    leave = left[:, None] - np.cumsum(start, axis=1)
    arrive = right[None, :] - np.cumsum(table, axis=0)
    begin, end = span
    middle = (begin + end) / 2
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    for i, j in zip(*np.nonzero(table >= min_weight), strict=True):
        low, high = (leave[i, j], arrive[i, j]), (leave[i, j] + start[i, j], arrive[i, j] + table[i, j])
        across = [begin, middle, middle, end, end, middle, middle, begin, begin]
        up = [low[0], low[0], low[1], low[1], high[1], high[1], high[0], high[0], low[0]]
        corners = np.stack([across, up], axis=1)
        ax.add_patch(PathPatch(Path(corners, codes), color=colors[i], alpha=0.35, lw=0, zorder=2))


def trajectory(
    course: Trajectory,
    points: Sequence[ArrayLike] | None = None,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike | None = None,
    embedding: Any = None,
    min_share: float = 0.15,
    cmap: str = "viridis",
    labels: bool = True,
) -> "matplotlib.axes.Axes":
    """Draw the graph of components in two of their dimensions: means as dots, arrows to their descendants.

    Dots are as large as the component's weight, and colored by time. An arrow is as wide as the mass that takes it.

    Args:
        course: The trajectory, in two dimensions or more.
        points: For each time, points to draw with it, shapes ``[n, d]``; at most 2000 of them are shown.
        ax: Axes to draw into.
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: For each time, coordinates of its points, shapes ``[n, 2]``, or one function from points to such;
            components are then drawn at the mean of their points' places.
        min_share: An arrow stands for at least this part of its source component, or of its target.
        cmap: Name of a color map.
        labels: Write the components' numbers.

    Returns:
        The axes.

    Raises:
        ValueError: If ``dims`` are not two dimensions of the trajectory, or ``points`` or ``embedding`` do not fit it.
    """
    import matplotlib

    if course.dim < 2 and embedding is None:
        raise ValueError("`course` must have two dimensions or more to be drawn in the plane; `flows` needs none.")
    clouds = [None] * course.num_times if points is None else _as_clouds(points, course)
    sides = [(f"points[{time}]", cloud) for time, cloud in enumerate(clouds)]
    known = as_places(embedding, dims, sides, course.mixtures)
    as_scalar("min_share", min_share)
    panel = axes_or_new(ax)
    # To scale, like the times themselves.
    moments = np.asarray(course.times, np.float64)
    shades = 0.9 * (moments - moments[0]) / (moments[-1] - moments[0])
    colors = [matplotlib.colormaps[cmap](shade) for shade in shades]
    if points is None and embedding is not None:
        raise ValueError("`points` must be given with an `embedding`.")
    if points is not None:
        for time, cloud in enumerate(clouds):
            spots = coordinates(embedding, time, cloud, known)
            spots = spots[spread_indices(len(spots), _MAX_POINTS)]
            panel.scatter(*spots.T, s=4, color=colors[time], alpha=0.3, lw=0, zorder=1)
    places = [known.moments(*side)[0] for side in zip(course.mixtures, clouds, strict=True)]
    sizes = [800 * np.asarray(m.weights, np.float64) for m in course.mixtures]
    for step, plan in enumerate(course.plans):
        coupling = plan.weight_coupling
        mass, rows, columns = (
            np.asarray(v, np.float64) for v in (coupling.weights, coupling.row_shares, coupling.column_shares)
        )
        for i, j in zip(*np.nonzero((rows >= min_share) | (columns >= min_share)), strict=True):
            ends = places[step][i], places[step + 1][j]
            shrink = [np.sqrt(max(s, 1.0)) / 2 for s in (sizes[step][i], sizes[step + 1][j])]
            style = {"arrowstyle": "-|>", "color": colors[step + 1], "lw": 0.5 + 12 * mass[i, j], "alpha": 0.7}
            style |= {"shrinkA": shrink[0], "shrinkB": shrink[1], "mutation_scale": 9}
            panel.annotate("", ends[1], ends[0], arrowprops=style, zorder=3)
    for time, (place, size) in enumerate(zip(places, sizes, strict=True)):
        label = f"time {course.times[time]:.4g}"
        panel.scatter(*place.T, s=size, color=colors[time], edgecolor="white", lw=0.6, zorder=4, label=label)
        for k, (spot, area) in enumerate(zip(place, size, strict=True)):
            if labels and area >= 16:
                panel.annotate(str(k), spot, ha="center", va="center", fontsize=6, color=ink_on(colors[time]), zorder=5)
    legend = panel.legend(frameon=False, fontsize=8)
    for handle in legend.legend_handles:
        handle.set_sizes([40])  # type: ignore[union-attr]
    name_axes(panel, known.names)
    return panel


def _as_clouds(points: Sequence[ArrayLike], course: Trajectory) -> list[Any]:
    if len(points) != course.num_times:
        raise ValueError(f"`points` must have one entry per time, {course.num_times}; got {len(points)}.")
    return [as_points(f"points[{time}]", cloud, course.dim) for time, cloud in enumerate(points)]
