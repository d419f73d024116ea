"""The charts of the page, as figures of plotly: flows between components or groups, and points in the plane."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._base.arrays import spread_indices
from ..plot._style import category_color, lineage_colors, NEUTRAL_COLOR, SOURCE_COLOR, TARGET_COLOR

# Points and arrows that are drawn; heights are in pixels.
MAX_POINTS, MAX_ARROWS = 2000, 150
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif", "size": 14}
_CLEAR = "rgba(0,0,0,0)"
# Those of plotly that work without a network.
_BUTTONS = ("toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d")


class Side(NamedTuple):
    """Points of one side in the plane.

    Attributes:
        title: What the side is called.
        places: Places of the points, shape ``[n, 2]``.
        component: The likeliest component of each point, shape ``[n]``.
        names: Names of the components.
        labels: The label of each point, or ``None``.
    """

    title: str
    places: np.ndarray
    component: np.ndarray
    names: Sequence[str]
    labels: Any = None


def safe(name: object) -> str:
    """A name as it is: plotly reads HTML in texts, and mathematics between dollar signs."""
    return html.escape(str(name), quote=False).replace("$", "&#36;")


def side_colors(names: Sequence[Sequence[str] | None], table: np.ndarray) -> list[list[str]]:
    """Colors of the bars of both sides: by name where all have names, else by descent."""
    if names[0] is not None and names[1] is not None:
        order = list(dict.fromkeys([*names[0], *names[1]]))
        return [[_rgba(category_color(order.index(name))) for name in side or ()] for side in names]
    return [[_rgba(color) for color in side] for side in lineage_colors(len(table), [table])]


def sankey(table: np.ndarray, names: Sequence[Sequence[str]], colors: Sequence[Sequence[str]], least: float) -> Any:
    """Flows from the source's components or groups, on the left, to the target's.

    Args:
        table: Mass of each pair, shape ``[K0, K1]``.
        names: Names of both sides.
        colors: Their colors.
        least: Lighter flows are left out.
    """
    from plotly import graph_objects as go

    num = len(table)
    rows, columns = np.nonzero(table > least)
    weights = table[rows, columns]
    shares = [table.sum(axis=1), table.sum(axis=0)]
    safe_names = [[safe(name) for name in side] for side in names]
    labels = [
        f"{name}  {share:.1%}"
        for side, mass in zip(safe_names, shares, strict=True)
        for name, share in zip(side, mass, strict=True)
    ]
    out = weights / shares[0][rows]
    into = weights / shares[1][columns]
    texts = [
        f"{safe_names[0][i]} → {safe_names[1][j]}<br>{w:.1%} of the mass<br>{a:.1%} of the source<br>{b:.1%} of the "
        "target"
        for i, j, w, a, b in zip(rows, columns, weights, out, into, strict=True)
    ]
    links = {
        "source": rows.tolist(),
        "target": (num + columns).tolist(),
        "value": weights.round(6).tolist(),
        "color": [colors[0][i].replace("1)", "0.45)") for i in rows.tolist()],
        "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    nodes = {
        "label": labels,
        "color": [*colors[0], *colors[1]],
        "pad": 14,
        "thickness": 18,
        "line": {"width": 0},
        "hovertemplate": "%{label}<extra></extra>",
    }
    chart = go.Figure(go.Sankey(node=nodes, link=links, arrangement="snap", valueformat=".3f"))
    height = int(np.clip(120 + 46 * max(table.shape), 260, 900))
    return chart.update_layout(_layout(height, {"l": 8, "r": 8, "t": 16, "b": 24}, ["toImage"]))


def clouds(sides: Sequence[Side], colors: Sequence[Sequence[str]], axes: Sequence[str]) -> Any:
    """The points of both sides next to each other, colored by component, in one frame."""
    from plotly import graph_objects as go

    chart = go.Figure()
    for number, side in enumerate(sides):
        shown = spread_indices(len(side.places), MAX_POINTS)
        for k, name in enumerate(side.names):
            index = shown[side.component[shown] == k]
            if not len(index):
                continue
            chart.add_scatter(
                x=_rounded(side.places[index, 0]),
                y=_rounded(side.places[index, 1]),
                mode="markers",
                name=safe(name),
                legendgroup=f"side{number}",
                legendgrouptitle={"text": safe(side.title)},
                marker={"size": _size(len(shown)), "color": colors[number][k], "opacity": 0.75},
                text=_hover(side, index),
                hovertemplate="%{text}<extra></extra>",
                xaxis=("x", "x2")[number],
                yaxis=("y", "y2")[number],
            )
    chart.update_layout(_layout(520, {"l": 60, "r": 10, "t": 40, "b": 50}))
    frame = _frame([side.places for side in sides])
    for number, side in enumerate(sides):
        end = ("", "2")[number]
        part = (0.0, 0.48) if number == 0 else (0.52, 1.0)
        across = {"domain": part, "anchor": f"y{end}", "range": frame[0], "title": {"text": axes[0]}}
        up = {"anchor": f"x{end}", "range": frame[1], "showticklabels": number == 0}
        up |= {"title": {"text": axes[1]}} if number == 0 else {}
        if number:
            across["matches"], up["matches"] = "x", "y"
        chart.update_layout({f"xaxis{end}": _axis(across), f"yaxis{end}": _axis(up)})
        where = {"x": sum(part) / 2, "y": 1.0, "xref": "paper", "yref": "paper", "yanchor": "bottom"}
        chart.add_annotation(text=safe(side.title), showarrow=False, font={"size": 15}, **where)
    return chart


def arrows(sides: Sequence[Side], index: np.ndarray, images: np.ndarray, axes: Sequence[str]) -> Any:
    """Both sides over each other, and lines from some source points to their images.

    Args:
        sides: Source and target.
        index: The source points whose images are shown.
        images: Places of these, shape ``[len(index), 2]``.
        axes: What to write at the axes.
    """
    from plotly import graph_objects as go

    chart = go.Figure()
    for side, color in zip(sides[::-1], (TARGET_COLOR, SOURCE_COLOR), strict=True):
        shown = spread_indices(len(side.places), MAX_POINTS)
        chart.add_scatter(
            x=_rounded(side.places[shown, 0]),
            y=_rounded(side.places[shown, 1]),
            mode="markers",
            name=safe(side.title),
            legendrank=1 if side is sides[0] else 2,
            marker={"size": _size(len(shown)), "color": color, "opacity": 0.4},
            text=_hover(side, shown),
            hovertemplate="%{text}<extra></extra>",
        )
    ends = np.stack([sides[0].places[index], images, np.full_like(images, np.nan)], axis=1).reshape(-1, 2)
    sizes, turns = np.tile([0.0, 9.0, 0.0], len(index)).tolist(), "previous"
    chart.add_scatter(
        x=_rounded(ends[:, 0]),
        y=_rounded(ends[:, 1]),
        mode="lines+markers",
        name="from a point to its image",
        legendrank=3,
        line={"color": NEUTRAL_COLOR, "width": 1.2},
        marker={"symbol": "arrow", "size": sizes, "angleref": turns, "color": "#7A7A7A", "opacity": 1},
        opacity=0.8,
        hoverinfo="skip",
    )
    frame = _frame([*(side.places for side in sides), images])
    chart.update_layout(_layout(560, {"l": 60, "r": 10, "t": 30, "b": 50}))
    across, up = ({"range": frame[i], "title": {"text": axes[i]}} for i in (0, 1))
    chart.update_layout(
        xaxis=_axis(across), yaxis=_axis(up), legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"}
    )
    return chart


def _hover(side: Side, index: np.ndarray) -> list[str]:
    names = [safe(name) for name in side.names]
    texts = [f"{safe(side.title)}, point {i}<br>component {names[side.component[i]]}" for i in index]
    if side.labels is not None:
        texts = [f"{line}<br>label {safe(side.labels[i])}" for line, i in zip(texts, index, strict=True)]
    return texts


def _layout(height: int, margin: dict[str, int], buttons: Sequence[str] = _BUTTONS) -> dict[str, Any]:
    """What all charts share; the page's script reads their buttons from ``meta``."""
    clear = {"paper_bgcolor": _CLEAR, "plot_bgcolor": _CLEAR}
    return {
        "height": height,
        "margin": margin,
        "font": _FONT,
        "hovermode": "closest",
        "template": None,
        "meta": list(buttons),
        **clear,
    } | {"modebar": {"bgcolor": _CLEAR}, "legend": {"itemsizing": "constant"}}


def _axis(own: dict[str, Any]) -> dict[str, Any]:
    return {"showgrid": True, "gridcolor": "#d9dde3", "zeroline": False, "automargin": True, **own}


def _frame(parts: Sequence[np.ndarray]) -> list[list[float]]:
    """Ranges of both axes that hold all points, with a margin."""
    whole = np.concatenate(parts)
    low, high = whole.min(axis=0), whole.max(axis=0)
    margin = 0.05 * np.where(high > low, high - low, 1.0)
    return np.stack([low - margin, high + margin], axis=1).tolist()


def _rounded(values: np.ndarray) -> list[float | None]:
    """Numbers of six digits, which is more than a screen shows; gaps are ``None``."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]


def _size(num: int) -> float:
    return float(np.clip(160 / max(num, 1) ** 0.5, 4, 9))


def _rgba(color: Any) -> str:
    red, green, blue = (round(255 * float(part)) for part in color)
    return f"rgba({red},{green},{blue},1)"
