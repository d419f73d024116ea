"""Pictures of mixtures."""

import textwrap
from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_count, as_points
from .._base.arrays import spread_indices
from .._components.mixture import Mixture
from ._embedding import as_places, coordinates, Places
from ._style import (
    as_text,
    axes_or_new,
    axis_name,
    color_map,
    equal_aspect,
    MAX_LABELS,
    MAX_POINTS,
    name_axes,
    SOURCE_COLOR,
)

if TYPE_CHECKING:
    import matplotlib.axes

# Shares of the mass that the density contours enclose.
_MASSES = (0.95, 0.8, 0.6, 0.4, 0.2)
# Characters in a line of a component's name, and what marks such labels.
_LINE, _LABEL = 14, "component"


def mixture(
    mixture: Mixture,
    points: ArrayLike | None = None,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    dims: ArrayLike | None = None,
    embedding: Any = None,
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
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates of the points to draw them at, such as a UMAP, shape ``[n, 2]``; or a function from
            points to such. Components are then drawn at the moments of the points' places, without a density.
        color: Color of everything.
        contours: Draw the density. Left out for components that are not Gaussian in more than two dimensions.
        ellipses: Draw the components.
        labels: Write the components' indices at their means; by default for up to 30 components.
        resolution: Points of the density's grid per axis.
        **style: Options of the points, passed on to ``scatter`` (``hist`` in one dimension).

    Returns:
        The axes.

    Raises:
        ValueError: If ``dims`` are not two dimensions of the mixture, or ``points`` or ``embedding`` do not fit it.
    """
    places = as_places(embedding, dims, [("points", points)], [mixture])
    resolution = as_count("resolution", resolution, minimum=2)
    shown = None if points is None else np.asarray(as_points("points", points, mixture.dim), np.float64)
    panel = axes_or_new(ax)
    if labels is None:
        labels = mixture.num_components <= MAX_LABELS
    if mixture.dim == 1 and embedding is None:
        _draw_line(panel, mixture, shown, color, contours, ellipses, labels, resolution, style)
    else:
        if shown is None and embedding is not None:
            raise ValueError("`points` must be given with an `embedding`.")
        spots = None if shown is None else coordinates(embedding, 0, shown, places)
        draw_plane(panel, mixture, shown, spots, places, color, contours, ellipses, labels, resolution, style)
    return panel


def draw_plane(
    ax: Any,
    mixture: Mixture,
    points: Any,
    spots: np.ndarray | None,
    places: Places,
    color: str,
    contours: bool = True,
    ellipses: bool = True,
    labels: bool = True,
    resolution: int = 150,
    style: Any = None,
    names: Any = None,
) -> None:
    """Density, points at their spots, and components."""
    weights = np.asarray(mixture.weights, np.float64)
    mean, covariance = places.moments(mixture, points)
    if contours and places.dims is not None:
        _draw_contours(ax, mixture, places.dims, color, resolution)
    if spots is not None:
        draw_points(ax, spots, color, style or {})
    if ellipses:
        for k, strength in enumerate(_strength(weights)):
            _draw_ellipses(ax, mean[k], covariance[k], color, strength)
        # Ellipses alone make themselves no room.
        ax.autoscale_view()
    name_axes(ax, places.names)
    equal_aspect(ax)
    if labels:
        draw_labels(ax, mean, color, names)


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
        draw_labels(ax, peaks.T, color)
    # Room for every curve, also in other panels that share the axis.
    ax.autoscale(axis="y")
    ax.set_ylim(bottom=0)
    ax.set_xlabel(axis_name(0))
    ax.set_ylabel("density")


def draw_points(ax: Any, points: np.ndarray, color: str, style: dict[str, Any]) -> None:
    """Dots, of many points only some."""
    shown = points[spread_indices(len(points), MAX_POINTS)]
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


def draw_labels(ax: Any, places: np.ndarray, color: str, names: Any = None) -> None:
    """The names or numbers of components where they are."""
    from matplotlib.patheffects import withStroke

    for k, (x, y) in enumerate(places):
        if not np.isfinite([x, y]).all():
            continue
        label = str(k) if names is None else as_text("\n".join(textwrap.wrap(str(names[k]), _LINE)))
        style = {
            "fontsize": 9 if len(label) < 4 else 8,
            "fontweight": "bold",
            "linespacing": 0.95,
            "gid": _LABEL,
            "clip_on": True,
        }
        text = ax.text(x, y, label, color=color, ha="center", va="center", **style)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        text.set_zorder(4)
    keep_inside(ax)


def keep_inside(ax: Any) -> None:
    """Let labels of components begin or end where they are, if they would reach beyond the frame; limits are final."""
    (left, right), width = ax.get_xlim(), ax.get_window_extent().width / ax.figure.dpi
    for text in ax.texts:
        if text.get_gid() == _LABEL:
            half = 0.36 * text.get_fontsize() / 72 * max(map(len, text.get_text().split("\n"))) / width
            place = (text.get_position()[0] - left) / (right - left)
            text.set_horizontalalignment("left" if place < half else "right" if place > 1 - half else "center")


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
        shades = color_map(color)(np.linspace(0.12, 0.6, len(levels) - 1))
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
