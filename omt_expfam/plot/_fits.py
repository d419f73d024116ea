"""Pictures of fits."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._fitting.fit import Fit
from .._potentials.fitted import BrenierFit
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
