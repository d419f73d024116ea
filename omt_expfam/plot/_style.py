"""Colors, axes and limits that all pictures share."""

from typing import Any

import numpy as np

from .._base.arguments import ArrayLike, as_host_or_traced

# From the palette of Okabe and Ito, which color-blind readers can tell apart.
SOURCE_COLOR, TARGET_COLOR, NEUTRAL_COLOR = "#0072B2", "#D55E00", "#4D4D4D"

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


def axis_name(dim: int) -> str:
    return f"$x_{{{dim}}}$"


def name_axes(ax: Any, pair: tuple[int, ...]) -> None:
    ax.set_xlabel(axis_name(pair[0]))
    ax.set_ylabel(axis_name(pair[1]))


def equal_aspect(ax: Any) -> None:
    """One scale for both axes, unless their ranges differ too much for that."""
    width, height = abs(np.diff(ax.get_xlim())[0]), abs(np.diff(ax.get_ylim())[0])
    if max(width, height) <= 5 * min(width, height):
        shared = len(ax.get_shared_x_axes().get_siblings(ax)) > 1
        ax.set_aspect("equal", adjustable="box" if shared else "datalim")


def color_map(color: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(f"white to {color}", ["white", color])


def blend(t: float) -> str:
    from matplotlib.colors import to_hex, to_rgb

    mixed = (1 - t) * np.array(to_rgb(SOURCE_COLOR)) + t * np.array(to_rgb(TARGET_COLOR))
    return to_hex(mixed.tolist())


def counted(num: int, noun: str) -> str:
    return f"{num} {noun}{'' if num == 1 else 's'}"
