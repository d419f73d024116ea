"""Colors, axes and limits that all pictures share."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._base.arguments import ArrayLike, as_host_or_traced

# From the palette of Okabe and Ito, which color-blind readers can tell apart.
SOURCE_COLOR, TARGET_COLOR, NEUTRAL_COLOR = "#0072B2", "#D55E00", "#4D4D4D"

# Characters in a line of a component's name beside an axis.
_LINE = 20

MAX_POINTS, MAX_LABELS, MAX_TICKS, MAX_CELLS = 5000, 30, 13, 12


def axes_or_new(ax: Any) -> Any:
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(layout="constrained")[1]


def check_dims(dims: ArrayLike, dim: int) -> tuple[int, ...]:
    if dim == 1:
        return (0,)
    chosen: tuple[Any, ...] = tuple(as_host_or_traced("dims", dims).tolist()) if np.ndim(dims) == 1 else ()
    if len(set(chosen)) != 2 or len(chosen) != 2 or not all(type(i) is int and 0 <= i < dim for i in chosen):
        raise ValueError(f"`dims` must be two different dimensions from 0 to {dim - 1}; got {dims}.")
    return chosen


# A dimension tells little with less than this share of the largest variance, and nothing new beside one that it is
# correlated with beyond the other number.
_LEAST_VARIANCE, _MOST_CORRELATION = 1e-4, 0.95
# Of a frame, the shorter side over the longer one.
_LEAST_RATIO = 0.75


def informative_dims(dim: int, mixtures: Sequence[Any], sides: Sequence[tuple[str, Any]] = ()) -> tuple[int, ...]:
    """The first two dimensions that vary and are not nearly the same, among points, or by mixtures without any."""
    if dim < 3:
        return (0, 1)[:dim]
    points = [np.asarray(values, np.float64) for _, values in sides]
    moments = [(p.mean(axis=0), np.cov(p, rowvar=False, bias=True)) for p in points if len(p) > 1]
    if not moments:
        moments = [(np.asarray(m.mean(), np.float64), np.asarray(m.covariance(), np.float64)) for m in mixtures]
    if not moments:
        return (0, 1)
    means, covariances = (np.stack(part) for part in zip(*moments, strict=True))
    # That of both sides together: within them and between them.
    between = means - means.mean(axis=0)
    covariance = covariances.mean(axis=0) + between.T @ between / len(means)
    variance = np.diag(covariance)
    if not np.isfinite(variance).all() or variance.max() <= 0:
        return (0, 1)
    deviation = np.sqrt(np.where(variance > 0, variance, np.inf))
    correlation = np.abs(covariance / deviation[:, None] / deviation)
    varying = variance > _LEAST_VARIANCE * variance.max()
    first = int(np.argmax(varying))
    new = correlation[first] < _MOST_CORRELATION
    new[first] = False
    # Without a second one that varies as much, the most telling of what is left.
    good = np.flatnonzero(varying & new)
    if good.size:
        return first, int(good[0])
    rest = np.flatnonzero(new & (variance > 0))
    return (first, int(rest[variance[rest].argmax()])) if rest.size else ((0, 1) if first == 0 else (0, first))


def same_limits(axes: Sequence[Any]) -> None:
    """One frame for panels that are to be compared."""
    for ax in axes:
        # Limits that are set cannot give way to equal scales.
        ax.set_aspect(ax.get_aspect(), adjustable="box")
    limits = np.array([[ax.get_xlim(), ax.get_ylim()] for ax in axes])
    low, high = limits[..., 0].min(axis=0), limits[..., 1].max(axis=0)
    if all(ax.get_aspect() == 1 for ax in axes):
        # Neither much flatter nor much narrower than the panels that it is to fill.
        missing = np.maximum(_LEAST_RATIO * (high - low).max() - (high - low), 0)
        low, high = low - missing / 2, high + missing / 2
    for ax in axes:
        ax.set_xlim(low[0], high[0])
        ax.set_ylim(low[1], high[1])


# Categories keep clear of the blue and the orange of source and target; after them come their pale shades.
_CATEGORIES = (
    "#44AA99",
    "#CC6677",
    "#999933",
    "#AA4499",
    "#DDBB55",
    "#6E5BC7",
    "#3C8D4F",
    "#A0623D",
    "#E58FC0",
    "#7F7F7F",
)


def category_color(index: int) -> tuple[float, float, float]:
    """Colors of categories: strong ones first, then the pale ones, then from the beginning."""
    from matplotlib.colors import to_rgb

    color = np.array(to_rgb(_CATEGORIES[index % len(_CATEGORIES)]))
    red, green, blue = (color + (1 - color) * 0.5 if index // len(_CATEGORIES) % 2 else color).tolist()
    return red, green, blue


def lineage_colors(num: int, tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Colors of components of snapshots that follow each other, shapes ``[K_t, 3]``.

    Each of the first snapshot has one of its own; later ones have the mean of those that they come from, by mass.
    Components of the same number in two snapshots have nothing in common, and so no common color for their number.
    """
    colors = [np.array([category_color(k) for k in range(num)])]
    for table in tables:
        shares = np.asarray(table, np.float64)
        total = shares.sum(axis=0)
        mixed = (shares / np.where(total > 0, total, 1)).T @ colors[-1]
        # Nothing arrives there: gray.
        mixed[total <= 0] = 0.6
        colors.append(np.clip(mixed, 0, 1))
    return colors


def axis_name(dim: int) -> str:
    return f"$x_{{{dim}}}$"


def as_text(name: object) -> str:
    """A name as it is: a dollar sign of a user's is no mathematics."""
    return str(name).replace("$", r"\$")


def name_components(axis: Any, numbers: np.ndarray, names: tuple[str, ...] | None) -> None:
    """Ticks of an axis along which components stand, by name where they have one; long names below are slanted."""
    num = len(numbers)
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, num) if num <= MAX_TICKS * s)
    known = [str(k) if names is None else names[k] for k in numbers]
    slanted = names is not None and axis.axis_name == "x" and max(map(len, known)) > 3
    turned: Any = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axis.set_ticks(range(0, num, step), [as_text(textwrap.fill(name, _LINE)) for name in known[::step]], **turned)


def name_axes(ax: Any, names: Sequence[str]) -> None:
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def equal_aspect(ax: Any) -> None:
    """One scale for both axes, unless their ranges differ too much for that."""
    width, height = abs(np.diff(ax.get_xlim())[0]), abs(np.diff(ax.get_ylim())[0])
    if max(width, height) <= 5 * min(width, height):
        shared = len(ax.get_shared_x_axes().get_siblings(ax)) > 1
        ax.set_aspect("equal", adjustable="box" if shared else "datalim")


def color_map(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(f"white to {color}", ["white", color])


def ink_on(color: Any) -> str:
    """What can be read on a color: black where it is light (by its luma), white where it is dark."""
    from matplotlib.colors import to_rgb

    return "white" if np.dot(to_rgb(color), (0.299, 0.587, 0.114)) < 0.55 else "black"


def blend(t: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    mixed = (1 - t) * np.array(to_rgb(SOURCE_COLOR)) + t * np.array(to_rgb(TARGET_COLOR))
    return to_hex(mixed.tolist())


def counted(num: int, noun: str) -> str:
    return f"{num} {noun}{'' if num == 1 else 's'}"
