"""Pictures of fits."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import as_count
from .._fitting.fit import Fit
from .._potentials.fitted import BrenierFit
from .._potentials.moved import MovedFeatures
from ._style import axes_or_new, NEUTRAL_COLOR, SOURCE_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    import matplotlib.axes


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
    panel = axes_or_new(ax)
    steps = int(fit.num_steps)
    values = np.append(np.asarray(fit.log_likelihoods, np.float64), float(fit.log_likelihood))
    panel.plot(range(steps + 1), values, **{"color": SOURCE_COLOR, "linewidth": 1.5, "label": "log-likelihood"} | style)
    objectives = np.asarray(fit.objectives, np.float64)
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


def strengths(fit: BrenierFit, *, ax: Optional["matplotlib.axes.Axes"] = None, **style: Any) -> "matplotlib.axes.Axes":
    """Draw what was found at each strength that was tried for a penalty on displacements.

    What displacements cost, and how far images are from the target, both relative to where the search began; strengths
    that training went on with are filled, and the one that was taken is marked.

    Args:
        fit: A fit whose strength was searched for.
        ax: Axes to draw into.
        **style: Options passed on to ``scatter``.

    Returns:
        The axes.

    Raises:
        ValueError: If the strength was given, so that there is no path.
    """
    if fit.path is None or fit.strength is None:
        raise ValueError('`fit` has no path: its strength was given, not "annealed" nor searched for by `max_moved`.')
    panel, path = axes_or_new(ax), fit.path
    accepted = np.asarray(path.accepted)
    rows = (path.spa, SOURCE_COLOR, "penalty of displacements"), (path.err, TARGET_COLOR, "distance to the target")
    for values, color, label in rows:
        colors = np.where(accepted, color, "none")
        options = {"s": 18, "linewidths": 1, "edgecolors": color} | style
        panel.scatter(path.strength, values, facecolors=colors.tolist(), label=label, **options)
    panel.axvline(fit.strength, color=NEUTRAL_COLOR, linestyle="--", linewidth=1.2, label="taken")
    panel.set_xscale("log")
    panel.set_xlabel("strength")
    panel.set_ylabel("relative to the straight line")
    panel.legend(frameon=False)
    return panel


def features(
    fit: BrenierFit | MovedFeatures,
    *,
    most: int = 20,
    ax: Optional["matplotlib.axes.Axes"] = None,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw the mean displacement of the features that a sparse map moves, with 95 % intervals.

    Beside each: the adjusted p-value, and how often the feature is selected from halves of the points, if that was
    asked for. Features that move furthest are on top.

    Args:
        fit: A fit whose features were selected, or its table, such as that of one component
            (``fit.component_features[0]``).
        most: Features that are drawn.
        ax: Axes to draw into.
        **style: Options passed on to ``errorbar``.

    Returns:
        The axes.

    Raises:
        ValueError: If features were not selected, or none was.
    """
    table = fit.features if isinstance(fit, BrenierFit) else fit
    if table is None or not len(table.order):
        what = "no table of features: `sparsity` selected none" if table is None else "no such feature"
        raise ValueError(f"`fit` must have selected features; it has {what}.")
    order = table.order[: as_count("most", most)]
    panel, rows = axes_or_new(ax), np.arange(len(order))
    mean, low, high, p = (
        np.asarray(values, np.float64)[order] for values in (table.mean, table.low, table.high, table.p)
    )
    options = {"fmt": "o", "color": SOURCE_COLOR, "markersize": 4, "elinewidth": 1.2, "capsize": 2} | style
    panel.errorbar(mean, rows, xerr=[mean - low, high - mean], **options)
    panel.axvline(0, color=NEUTRAL_COLOR, linewidth=0.8)
    often = None if table.frequency is None else np.asarray(table.frequency)[order]
    for row in rows:
        words = [] if np.isnan(p[row]) else ["p < 1e-16" if p[row] < 1e-16 else f"p = {p[row]:.1g}"]
        words += [] if often is None else [f"in {often[row]:.0%} of halves"]
        panel.text(1.02, row, ", ".join(words), transform=panel.get_yaxis_transform(), va="center", fontsize="small")
    panel.set_yticks(rows, [table.names[j] for j in order])
    panel.set_ylim(len(order) - 0.5, -0.5)
    panel.set_xlabel("mean displacement")
    rest = len(table.order) - len(order)
    panel.set_title(f"{len(table.order)} of {len(table.names)} features move" + (f", {rest} not shown" if rest else ""))
    return panel
