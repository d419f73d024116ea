"""Pictures of what the diagnostics find: one minimizer, what the map hangs on, and its worst case."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from ..diagnostics._relaxations import RelaxationPath
from ..diagnostics._sensitivity import Sensitivity
from ..diagnostics._uniqueness import Uniqueness
from ..diagnostics._worst_case import WorstCase
from ._style import axes_or_new, NEUTRAL_COLOR, SOURCE_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    import matplotlib.axes

# Distances from the minimum below this share of the largest are drawn there: rounding.
_FLOOR = 1e-16
_MAX_CELLS = 60


def uniqueness_histogram(
    found: Uniqueness, *, ax: Optional["matplotlib.axes.Axes"] = None, bins: int = 40
) -> "matplotlib.axes.Axes":
    """Draw how far above the minimum the objective is: at random starts, and after one update of each block.

    Distances are shares of the minimum, on a logarithmic axis that ends at rounding. The ends of joint descents, which
    know nothing of the blocks, stand below the axis where there are any.

    Args:
        found: The study.
        ax: Axes to draw into.
        bins: Number of bars of the histograms.

    Returns:
        The axes.
    """
    panel = axes_or_new(ax)
    least = found.objectives[:, -1].min()
    scale = max(abs(least), np.finfo(float).tiny)

    def excess(values: np.ndarray) -> np.ndarray:
        return np.log10(np.maximum((values - least) / scale, _FLOOR))

    columns = [excess(found.objectives[:, i]) for i in range(3)]
    edges = np.linspace(-16.5, max(1.0, float(np.ceil(columns[0].max() + 0.5))), bins + 1)
    names = "random starts", "component couplings updated", "weights updated"
    for values, name, color in zip(columns, names, (NEUTRAL_COLOR, SOURCE_COLOR, TARGET_COLOR), strict=True):
        panel.hist(values, edges, color=color, alpha=0.75, label=name)
    ends = ((found.descent_objectives, "joint descents", "^"), (found.mirror_objectives, "mirror descents", "v"))
    for values, name, marker in ends:
        if len(values):
            own = least if marker == "^" else float(found.sample_objective)
            place = np.log10(np.maximum((values - own) / max(abs(own), np.finfo(float).tiny), _FLOOR))
            height = np.full(len(place), 0.03 * len(found.objectives))
            panel.plot(place, height, marker, color="black", markersize=7, markerfacecolor="white", label=name)
    panel.set_xlabel("objective above the minimum, as a share of it")
    panel.set_ylabel("starts")
    ticks = np.arange(-16, edges[-1] + 0.1, 4)
    panel.set_xticks(ticks, [f"$10^{{{int(t)}}}$" for t in ticks])
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    return panel


def sensitivity_map(
    found: Sensitivity,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    side: str = "source",
    quantity: str = "map",
) -> "matplotlib.axes.Axes":
    """Draw a heat map of what the plan hangs on: the effect of each parameter of each component.

    Colors compare within a column: effects of component parameters are per unit of distance that the mixture moves,
    those of weights per unit of mass.

    Args:
        found: The derivatives.
        ax: Axes to draw into.
        side: ``"source"`` or ``"target"``.
        quantity: ``"map"`` (root-mean-square displacement), ``"cost"`` or ``"weights"`` (norm of the change of Omega).

    Returns:
        The axes.

    Raises:
        ValueError: If ``side`` or ``quantity`` is none of these.
    """
    if side not in ("source", "target"):
        raise ValueError(f'`side` must be "source" or "target"; got {side!r}.')
    quantities = ("map", "cost", "weights")
    if quantity not in quantities:
        raise ValueError(f"`quantity` must be one of {', '.join(quantities)}; got {quantity!r}.")
    panel = axes_or_new(ax)
    rates = getattr(found, side)
    table = rates.table[:, :, quantities.index(quantity)]
    largest = np.where(np.isfinite(table), table, 0).max(axis=0)
    panel.imshow(table / np.where(largest > 0, largest, 1), cmap="Blues", vmin=0, vmax=1.25, aspect="auto")
    units = {"weights": "per unit of mass"}
    labels = [f"{name}\n{units.get(name, 'per unit of distance')}" for name in rates.names]
    panel.set_xticks(range(len(rates.names)), labels, fontsize="small")
    panel.set_yticks(range(len(table)))
    panel.set_ylabel(f"{side} component")
    if table.size <= _MAX_CELLS:
        for (k, p), value in np.ndenumerate(table):
            shade = "white" if value > 0.7 * largest[p] else "black"
            panel.text(p, k, f"{value:.3g}", ha="center", va="center", color=shade, fontsize="small")
    panel.set_title({"map": "effect on T", "cost": "effect on the cost", "weights": r"effect on $\Omega$"}[quantity])
    return panel


def worst_case_curve(
    found: WorstCase, *, ax: Optional["matplotlib.axes.Axes"] = None, **style: Any
) -> "matplotlib.axes.Axes":
    """Draw the largest displacements that were found against the size of the disturbance, over the random ones.

    Args:
        found: The search.
        ax: Axes to draw into.
        **style: Options of the curve, passed on to ``plot``.

    Returns:
        The axes.
    """
    panel = axes_or_new(ax)
    random = found.random_displacements
    if len(found.radii) > 1:
        panel.fill_between(
            found.radii, random.min(axis=1), random.max(axis=1), color=NEUTRAL_COLOR, alpha=0.2, linewidth=0
        )
    panel.plot(
        found.radii, random.mean(axis=1), "o--", color=NEUTRAL_COLOR, markersize=4, label="random, mean and range"
    )
    options = {"color": TARGET_COLOR, "marker": "s", "markersize": 5, "label": "worst found"}
    panel.plot(found.radii, found.displacements, **options | style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("size of the disturbance of the source, units of the data")
    panel.set_ylabel("mean displacement of the map")
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    return panel


def relaxation_path(path: RelaxationPath, *, ax: Optional["matplotlib.axes.Axes"] = None) -> "matplotlib.axes.Axes":
    """Draw the mass that stays, the part of it on far pairs, and the growth of components, against the price.

    The suggested price is a dashed line. Growth has the axis on the right, one thin line for each component.

    Args:
        path: The path.
        ax: Axes to draw into.

    Returns:
        The axes.
    """
    panel = axes_or_new(ax)
    share = path.kind == "partial"
    panel.plot(path.relaxation, path.mass, "o-", color=SOURCE_COLOR, markersize=4, label="mass that stays")
    panel.plot(path.relaxation, path.far_share, "s-", color=TARGET_COLOR, markersize=4, label="of it, over far pairs")
    if not share:
        panel.set_xscale("log")
        if np.isfinite(path.suggested):
            panel.axvline(path.suggested, color="black", linestyle="--", linewidth=1, label="suggested price")
    panel.set_xlabel("share that is moved" if share else f"price of changing masses ({path.kind}), squared distance")
    panel.set_ylabel("share of the mass")
    # Room for the legend.
    panel.set_ylim(0, 1.4 * max(1.0, float(path.mass.max())))
    right = panel.twinx()
    right.plot(path.relaxation, path.growth, color=NEUTRAL_COLOR, linewidth=0.8, alpha=0.7)
    right.set_ylabel("growth of source components", color=NEUTRAL_COLOR)
    right.set_ylim(0, 1.4 * max(1.0, float(path.growth.max())))
    for one in (panel, right):
        one.spines["top"].set_visible(False)
    panel.plot([], [], color=NEUTRAL_COLOR, linewidth=0.8, label="growth of components")
    panel.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)
    return panel
