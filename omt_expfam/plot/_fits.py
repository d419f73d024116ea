"""Pictures of fits."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._fitting.fit import Fit
from ._style import axes_or_new, NEUTRAL_COLOR, SOURCE_COLOR

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
