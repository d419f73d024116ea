"""Pictures of stability studies: how far the map moves, what bounds it, and what it hangs on."""

from typing import Any, Optional, TYPE_CHECKING

import numpy as np

from .._base.arguments import check_probability
from ..diagnostics._envelope import Envelope, running_maximum
from ..diagnostics._stability import Stability
from ..diagnostics._sweep import Sweep
from ._style import axes_or_new, NEUTRAL_COLOR, TARGET_COLOR

if TYPE_CHECKING:
    import matplotlib.axes

# The palette of Okabe and Ito, after the colors of source and target.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_LABELS = {
    "w2_lower": "lower bound of $W_2$",
    "w2": "estimate of $W_2$",
    "w2_upper": "upper bound of $W_2$",
    "displacement": "mean displacement of the map",
    "weights_change": r"$L_1$ change of $\Omega$",
    "mse": "mean squared error of the map",
    "mse_change": "relative change of the map's error",
    "cost": "transport cost",
    "cost_change": "relative change of the cost",
    "seconds": "seconds",
}


def stability_curves(
    study: Stability,
    quantity: str = "displacement",
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    against: str = "size",
    probability: float = 0.8,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw how a quantity grows with the disturbance: the mean over repeats, in a band of their quantiles.

    One curve for each kind of perturbation. A kind with a single size is a horizontal line across the picture.

    Args:
        study: The study.
        quantity: A column of the study, such as ``"displacement"``, ``"mse_change"`` or ``"weights_change"``.
        ax: Axes to draw into.
        against: ``"size"``, each perturbation's own measure; or ``"w2"``, the mean distance between the fits, on which
            kinds can be compared.
        probability: The share of the repeats that the band holds.
        **style: Options passed on to ``plot``, such as a ``color`` and a ``label`` for one of several studies.

    Returns:
        The axes.

    Raises:
        ValueError: If ``quantity`` or ``against`` is none of these, or the study does not have it.
    """
    if quantity not in _LABELS:
        raise ValueError(f"`quantity` must be one of {', '.join(_LABELS)}; got {quantity!r}.")
    if against not in ("size", "w2"):
        raise ValueError(f'`against` must be "size" or "w2"; got {against!r}.')
    check_probability(probability)
    values = getattr(study, quantity)
    if np.isnan(values).all():
        raise ValueError(f"`quantity` {quantity!r} was not recorded in this study.")
    levels = (1 - probability) / 2, (1 + probability) / 2
    panel = axes_or_new(ax)
    flat = []
    for index, kind in enumerate(dict.fromkeys(study.kinds)):
        rows = np.flatnonzero([name == kind and ok for name, ok in zip(study.kinds, _any(values), strict=True)])
        if not rows.size:
            continue
        color, marker = style.get("color", _COLORS[index % len(_COLORS)]), _MARKERS[index % len(_MARKERS)]
        center = np.array([np.nanmean(values[row]) for row in rows])
        low, high = (np.array([np.nanquantile(values[row], q) for row in rows]) for q in levels)
        if against == "size":
            place = study.sizes[rows]
        else:
            place = np.array([np.nanmean(study.w2[row]) for row in rows])
        if len(rows) == 1 and against == "size":
            flat.append((center[0], low[0], high[0], kind, color))
            continue
        order = np.argsort(place, kind="stable")
        place, center, low, high = (table[order] for table in (place, center, low, high))
        panel.fill_between(place, low, high, color=color, alpha=0.18, linewidth=0)
        options = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.8, "label": kind}
        panel.plot(place, center, **options | style)
    for center, low, high, kind, color in flat:
        panel.axhspan(low, high, color=color, alpha=0.12, linewidth=0)
        panel.axhline(center, **{"color": color, "linestyle": "--", "linewidth": 1.5, "label": kind} | style)
    panel.set_xlabel("size of the disturbance" if against == "size" else "estimate of $W_2$ between the fits")
    panel.set_ylabel(_LABELS[quantity])
    if not quantity.endswith("_change") or quantity == "weights_change":
        # Further studies may be drawn into the same axes.
        panel.set_ylim(bottom=0, auto=True)
    else:
        panel.axhline(0, color="0.8", linewidth=1, zorder=0.5)
    panel.spines[["top", "right"]].set_visible(False)
    if len(panel.get_legend_handles_labels()[0]) > 1:
        panel.legend(frameon=False, fontsize="small")
    return panel


def modulus(
    study: Stability | Envelope,
    envelope: Envelope | None = None,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    column: str = "w2_lower",
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw displacements of the map against distances of the fits: every run, the largest so far, and the envelope.

    Args:
        study: The study, or its envelope alone.
        envelope: The envelope; by default none is drawn.
        ax: Axes to draw into.
        column: The distances to use where there is no envelope to say it.
        **style: Options passed on to ``scatter``.

    Returns:
        The axes.

    Raises:
        ValueError: If ``column`` names no distances, or the envelope belongs to other runs.
    """
    if isinstance(study, Envelope):
        envelope, kinds = study, study.perturbations
    else:
        kinds = study.kinds
        if envelope is not None and envelope.displacement.shape != study.displacement.shape:
            raise ValueError(
                f"`envelope` must be that of `study`, over runs of shape {study.displacement.shape}; "
                f"got {envelope.displacement.shape}."
            )
    if envelope is not None:
        column, w2, displacement = envelope.column, envelope.w2, envelope.displacement
    elif column in ("w2_lower", "w2", "w2_upper"):
        w2, displacement = getattr(study, column), study.displacement
    else:
        raise ValueError(f'`column` must be "w2_lower", "w2" or "w2_upper"; got {column!r}.')
    panel = axes_or_new(ax)
    for index, kind in enumerate(dict.fromkeys(kinds)):
        rows = [row for row, name in enumerate(kinds) if name == kind]
        color, marker = _COLORS[index % len(_COLORS)], _MARKERS[index % len(_MARKERS)]
        options = {"color": color, "marker": marker, "s": 22, "alpha": 0.65, "linewidths": 0, "label": kind}
        panel.scatter(w2[rows].ravel(), displacement[rows].ravel(), zorder=2.5, **options | style)
    steps = (np.append(0.0, values) for values in running_maximum(w2, displacement))
    panel.step(*steps, where="post", color=NEUTRAL_COLOR, linewidth=1, label="largest up to here")
    if envelope is not None:
        r = np.linspace(0, 1.03, 400) ** 2 * np.nanmax(w2)
        label = f"{envelope.a0:.2g} $W_2$ + {envelope.b0:.2g} $\\sqrt{{W_2}}$"
        panel.plot(r, envelope.bound(r), color="black", linewidth=1.8, linestyle="--", label=label)
    panel.set_xlim(left=0)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(_LABELS.get(column, "$W_2$"))
    panel.set_ylabel(_LABELS["displacement"])
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
    return panel


def sweep_chart(
    result: Sweep,
    *,
    ax: Optional["matplotlib.axes.Axes"] = None,
    limit: float = 0.1,
    tolerance: float = 0.05,
    **style: Any,
) -> "matplotlib.axes.Axes":
    """Draw how far each choice moves the map, in percent of the spread of its images, and what the data say about it.

    Bars are orange where held-out points cannot tell a choice from the base, green where they prefer it, gray where
    they are against it, and light where there is no likelihood. Orange beyond the dotted line is what
    `Sweep.find_warnings` warns of.

    Args:
        result: The sweep.
        ax: Axes to draw into.
        limit: Where the dotted line is drawn, as a share of the spread.
        tolerance: As in `Sweep.as_likely`.
        **style: Options passed on to ``barh``.

    Returns:
        The axes.
    """
    from matplotlib.patches import Patch

    rows = np.arange(1, len(result.choices))
    alike, change = result.as_likely(tolerance), result.held_out_change
    meanings = {
        "cannot be told from the base": TARGET_COLOR,
        "likelier than the base": _COLORS[2],
        "less likely than the base": "0.55",
        "no likelihood": "0.82",
    }
    names = list(meanings)
    kinds = [names[3] if np.isnan(change[i]) else names[0] if alike[i] else names[1 + (change[i] < 0)] for i in rows]
    moved = 100 * result.relative_displacement[rows]
    panel = axes_or_new(ax)
    # A gap between the knobs.
    steps = [float(a != b) * 0.5 for a, b in zip(result.knobs[1:], result.knobs[2:], strict=False)]
    places = np.arange(len(rows)) + np.append(0.0, np.cumsum(steps))
    colors = [meanings[kind] for kind in kinds]
    panel.barh(places, np.nan_to_num(moved), **{"color": colors, "height": 0.72} | style)
    largest = max(np.nanmax(moved, initial=0.0), 100 * limit)
    for place, share, row in zip(places, moved, rows, strict=True):
        text = "failed" if np.isnan(share) else f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %"
        if not np.isnan(change[row]) and change[row] != 0:
            text += f"   ({change[row]:+.2g} nats)"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        start = np.nan_to_num(share) + 0.012 * largest
        panel.text(start, place, text, va="center", fontsize=8, color=NEUTRAL_COLOR, bbox=box)
    panel.axvline(100 * limit, color=NEUTRAL_COLOR, linestyle=":", linewidth=1.2, zorder=1.5)
    panel.set_yticks(places, [result.choices[row] for row in rows])
    panel.tick_params(axis="y", length=0)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.28 * largest)
    panel.set_xlabel("mean displacement against the base,\nin percent of the images' spread")
    panel.spines[["top", "right", "left"]].set_visible(False)
    used = [name for name in names if name in kinds]
    handles = [Patch(color=meanings[name], label=name) for name in used]
    panel.legend(handles=handles, frameon=False, fontsize="small", loc="best")
    return panel


def _any(values: np.ndarray) -> np.ndarray:
    """Rows with at least one number."""
    return np.asarray(~np.isnan(values).all(axis=1))
