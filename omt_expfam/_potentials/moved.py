"""Which features a sparse map moves, as a table."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.arrays import to_jax

# Rows that are printed.
_MOST_ROWS, _MOST_OF_COMPONENTS = 20, 8
# Standard errors of a mean in its confidence interval.
INTERVAL = 1.96


class MovedFeatures(eqx.Module):
    """What a sparse map does with each feature.

    Attributes:
        names: Of the features; their numbers where none were given.
        selected: Whether the map may move it.
        share: The share of source points that move.
        mean: The mean displacement.
        low: The lower end of the 95 % confidence interval of the mean displacement, from the spread of both samples.
        high: The upper end.
        p: The p-value that selected the feature, adjusted for the number of tests; NaN where none was tested.
        advice: What to think of before the table is believed; empty if nothing.
        frequency: The share of random halves of the points that select the feature; ``None`` where none were tried.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    selected: Bool[Array, " d"]
    share: Float[Array, " d"]
    mean: Float[Array, " d"]
    low: Float[Array, " d"]
    high: Float[Array, " d"]
    p: Float[Array, " d"]
    advice: str = eqx.field(static=True)
    frequency: Float[Array, " d"] | None = None

    @property
    def order(self) -> Any:
        """The selected features, those that move furthest first."""
        selected = np.flatnonzero(np.asarray(self.selected))
        return selected[np.argsort(-np.abs(np.asarray(self.mean)[selected]), kind="stable")]

    def __repr__(self) -> str:
        order = self.order
        lines = [f"{len(order)} of {len(self.names)} features may move", *_rows(self, order, self.frequency)]
        return "\n".join(lines + [self.advice] * bool(self.advice))


class ComponentFeatures(eqx.Module):
    """Which features move in which component of the source.

    Attributes:
        names: Of the features; their numbers where none were given.
        component_names: Of the components; their numbers where they have none.
        weight: The share of source points of each component.
        selected: Whether the component's map may move the feature.
        share: The share of the component's points that move.
        mean: The mean displacement of these points.
        low: The lower end of the 95 % confidence interval of the mean displacement, from the spread of both samples.
        high: The upper end.
        p: The p-value that selected the feature, adjusted for the numbers of tests and of components.
        frequency: The share of random halves of the points that select the feature; ``None`` where none were tried.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    component_names: tuple[str, ...] = eqx.field(static=True)
    weight: Float[Array, " K"]
    selected: Bool[Array, "K d"]
    share: Float[Array, "K d"]
    mean: Float[Array, "K d"]
    low: Float[Array, "K d"]
    high: Float[Array, "K d"]
    p: Float[Array, "K d"]
    frequency: Float[Array, "K d"] | None = None

    def __getitem__(self, component: int | str) -> MovedFeatures:
        """The table of one component, by number or name."""
        index = self.component_names.index(component) if isinstance(component, str) else component
        names = ("selected", "share", "mean", "low", "high", "p")
        columns: Any = [to_jax(np.asarray(getattr(self, name))[index]) for name in names]
        frequency = None if self.frequency is None else to_jax(np.asarray(self.frequency)[index])
        return MovedFeatures(self.names, *columns, advice="", frequency=frequency)

    def __repr__(self) -> str:
        lines, weight = [], np.asarray(self.weight)
        for index, name in enumerate(self.component_names):
            one = self[index]
            count = f"{len(one.order)} of {len(self.names)} features may move"
            lines.append(f"component {name} ({weight[index]:.1%} of the points): {count}")
            lines += [f"  {line}" for line in _rows(one, one.order, one.frequency, _MOST_OF_COMPONENTS)]
        return "\n".join(lines)


def _rows(table: MovedFeatures, order: Any, frequency: Any, most: int = _MOST_ROWS) -> list[str]:
    """A line for each of the first features, below a line of headings."""
    host = {name: np.asarray(getattr(table, name)) for name in ("share", "mean", "low", "high", "p")}
    width = max([7, *(len(table.names[j]) for j in order[:most])])
    lines = []
    if len(order):
        lines.append(f"{'feature':<{width}}  moved   mean displacement     95 % interval        adjusted p")
        lines[0] += "" if frequency is None else "  selected"
    for j in order[:most]:
        share, mean, low, high, p = (float(host[name][j]) for name in ("share", "mean", "low", "high", "p"))
        line = f"{table.names[j]:<{width}}  {share:>5.0%}   {mean:>+17.4g}     [{low:>+8.4g}, {high:>+8.4g}]"
        line = f"{line}  {'no test' if np.isnan(p) else f'{p:.2g}':>10}"
        lines.append(line if frequency is None else f"{line}  {float(np.asarray(frequency)[j]):>8.0%}")
    if len(order) > most:
        lines.append(f"and {len(order) - most} more")
    return lines
