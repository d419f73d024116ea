"""Which features a sparse map moves, as a table."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

# Rows that are printed.
_MOST_ROWS = 20


class MovedFeatures(eqx.Module):
    """What a sparse map does with each feature.

    Attributes:
        names: Of the features; their numbers where none were given.
        selected: Whether the map may move it.
        share: The share of source points that move.
        mean: The mean displacement.
        low: The lower end of the 95 % confidence interval of the mean displacement, from the spread of both samples.
        high: The upper end.
        p: The p-value that selected the feature, adjusted for the number of tests; NaN where features were given.
        advice: What to think of before the table is believed; empty if nothing.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    selected: Bool[Array, " d"]
    share: Float[Array, " d"]
    mean: Float[Array, " d"]
    low: Float[Array, " d"]
    high: Float[Array, " d"]
    p: Float[Array, " d"]
    advice: str = eqx.field(static=True)

    @property
    def order(self) -> Any:
        """The selected features, those that move furthest first."""
        selected = np.flatnonzero(np.asarray(self.selected))
        return selected[np.argsort(-np.abs(np.asarray(self.mean)[selected]), kind="stable")]

    def __repr__(self) -> str:
        host = {name: np.asarray(getattr(self, name)) for name in ("share", "mean", "low", "high", "p")}
        order = self.order
        lines = [f"{len(order)} of {len(self.names)} features may move"]
        width = max([7, *(len(self.names[j]) for j in order[:_MOST_ROWS])])
        if len(order):
            lines.append(f"{'feature':<{width}}  moved   mean displacement     95 % interval        adjusted p")
        for j in order[:_MOST_ROWS]:
            share, mean, low, high, p = (float(host[name][j]) for name in ("share", "mean", "low", "high", "p"))
            line = f"{self.names[j]:<{width}}  {share:>5.0%}   {mean:>+17.4g}     [{low:>+8.4g}, {high:>+8.4g}]"
            lines.append(f"{line}  {'given' if np.isnan(p) else f'{p:.2g}':>10}")
        if len(order) > _MOST_ROWS:
            lines.append(f"and {len(order) - _MOST_ROWS} more")
        return "\n".join(lines + [self.advice] * bool(self.advice))
