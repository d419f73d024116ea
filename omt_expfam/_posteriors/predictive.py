"""Predictive checks: whether data drawn from a posterior look like the data."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._numerics.circle import wrap

# What is compared, coordinate by coordinate: simple, and free of labels.
_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


class PredictiveCheck(eqx.Module):
    """Statistics of data beside those of replicated data, one replicate for each draw; print it to read it.

    Attributes:
        names: The statistics: of each coordinate the mean, the standard deviation (sd), the skewness and quantiles (q);
            and correlations.
        observed: Their values for the data, shape ``[q]``.
        replicated: Their values for each replicate, shape ``[S, q]``.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    observed: Float[np.ndarray, " q"]
    replicated: Float[np.ndarray, "S q"]

    @classmethod
    def of(
        cls, data: Float[np.ndarray, "n d"], replicates: Float[np.ndarray, "S n d"], angles: Any = None
    ) -> "PredictiveCheck":
        """Compare data with replicates; columns of angles, where some are, as arcs from mean directions of the data."""
        if angles is not None and np.any(angles):
            center = np.arctan2(np.sin(data).mean(axis=0), np.cos(data).mean(axis=0))
            data, replicates = (np.where(angles, wrap(own - center, np), own) for own in (data, replicates))
        names, observed = statistics(np.asarray(data, np.float64))
        replicated = np.stack([statistics(np.asarray(one, np.float64))[1] for one in replicates])
        return cls(names, observed, replicated)

    @property
    def p_values(self) -> Float[np.ndarray, " q"]:
        """Posterior predictive p-values, twice the smaller tail, ties by half (Gelman, Meng and Stern, 1996).

        Small ones show in what the model does not look like the data. They are cautious: the data were used twice.
        """
        above = (self.replicated > self.observed).mean(axis=0)
        below = (self.replicated < self.observed).mean(axis=0)
        tie = 1 - above - below
        return 2 * np.minimum(above + tie / 2, below + tie / 2)

    def __str__(self) -> str:
        lower, upper = np.quantile(self.replicated, [0.05, 0.95], axis=0)
        width = max(9, *map(len, self.names))
        lines = [f"{'statistic':<{width}}{'data':>12}{'90 % of replicates':>26}{'p':>8}"]
        for name, value, low, high, p in zip(self.names, self.observed, lower, upper, self.p_values, strict=True):
            lines.append(f"{name:<{width}}{value:>12.4g}{f'{low:.4g} .. {high:.4g}':>26}{p:>8.3f}")
        return "\n".join(lines)


def statistics(x: Float[np.ndarray, "n d"]) -> tuple[tuple[str, ...], Float[np.ndarray, " q"]]:
    """Names and values of the statistics of points."""
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    scaled = (x - mean) / np.where(deviation > 0, deviation, 1.0)
    table = {"mean": mean, "sd": deviation, "skewness": (scaled**3).mean(axis=0)}
    table |= {f"q{100 * q:g}": row for q, row in zip(_QUANTILES, np.quantile(x, _QUANTILES, axis=0), strict=True)}
    found = {f"{name}[{i}]": value for name, row in table.items() for i, value in enumerate(row)}
    products = scaled.T @ scaled / len(x)
    found |= {f"correlation[{i},{j}]": products[i, j] for i in range(x.shape[1]) for j in range(i)}
    return tuple(found), np.array(list(found.values()))
