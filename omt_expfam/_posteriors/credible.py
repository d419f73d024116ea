"""Credible intervals of posterior draws."""

import dataclasses
from typing import Any, Literal, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_floating, as_host_or_traced, check_probability
from .._base.arrays import is_traced

# Checked by hand, with a better message than a run-time type checker's.
if TYPE_CHECKING:
    IntervalKind = Literal["equal-tailed", "highest-density"]
else:
    IntervalKind = Any


# Entries that are printed.
_SHOWN = 4


class CredibleInterval(eqx.Module):
    """A summary of posterior draws: one number of each kind per entry of the quantity.

    Attributes:
        mean: Mean of the draws, in the units of the quantity.
        median: Median of the draws.
        lower: Lower end of the interval.
        upper: Upper end of the interval.
        probability: Posterior probability of the interval.
        caution: Why it may not hold what it says; nothing where no reason is known.
        names: Names along the axes of the quantity, ``None`` for an axis without; of the last axes, where there are
            fewer.
    """

    mean: Float[Array, "..."]
    median: Float[Array, "..."]
    lower: Float[Array, "..."]
    upper: Float[Array, "..."]
    probability: float = eqx.field(static=True)
    caution: str = eqx.field(static=True, default="")
    names: tuple[tuple[str, ...] | None, ...] = eqx.field(static=True, default=())

    def to_dict(self) -> dict[str, np.ndarray]:
        """A row for each entry, ready for a data frame: where it stands, by name where there are names, and numbers."""
        shape = self.mean.shape
        known = (None,) * (len(shape) - len(self.names)) + self.names
        labels = [np.arange(size) if own is None else np.asarray(own) for own, size in zip(known, shape, strict=True)]
        places = {f"axis {axis}": values.ravel() for axis, values in enumerate(np.meshgrid(*labels, indexing="ij"))}
        numbers = {name: np.ravel(np.asarray(getattr(self, name))) for name in ("mean", "median", "lower", "upper")}
        return places | numbers

    def __repr__(self) -> str:
        if is_traced(self):
            return f"CredibleInterval(traced, shape {tuple(self.mean.shape)}, probability {self.probability:g})"
        entries = zip(*(np.asarray(v).ravel()[:_SHOWN] for v in (self.mean, self.lower, self.upper)), strict=True)
        known = (None,) * (self.mean.ndim - len(self.names)) + self.names
        places = [np.unravel_index(entry, self.mean.shape) for entry in range(min(self.mean.size, _SHOWN))]
        heads = [" ".join(own[k] for own, k in zip(known, place, strict=True) if own is not None) for place in places]
        numbers = ", ".join(
            f"{head + ' ' if head else ''}{mean:.4g} [{lower:.4g}, {upper:.4g}]"
            for head, (mean, lower, upper) in zip(heads, entries, strict=True)
        )
        more = self.mean.size - _SHOWN
        shape = f", {more} more" * (more > 0) + f", shape {tuple(self.mean.shape)}" * (self.mean.ndim > 0)
        caution = f", CAUTION: {self.caution}" * bool(self.caution)
        return f"CredibleInterval({numbers}{shape}, probability {self.probability:g}{caution})"


def credible_interval(
    draws: ArrayLike, probability: float = 0.9, kind: IntervalKind = "equal-tailed"
) -> CredibleInterval:
    """Summarize posterior draws of a quantity by mean, median and an interval, entry by entry.

    Args:
        draws: Draws along the leading axis, shape ``[S, ...]``.
        probability: Posterior probability of the interval, between 0 and 1.
        kind: ``"equal-tailed"`` leaves the same probability on both sides (interpolated quantiles);
            ``"highest-density"`` is the shortest interval between two draws with that share of the draws between
            them (Hyndman, 1996), right for laws with one mode.

    Raises:
        TypeError: If ``draws`` are not real numbers.
        ValueError: If there are fewer than two draws, some are not finite, or an option is none of the stated.
    """
    check_probability(probability)
    if kind not in ("equal-tailed", "highest-density"):
        raise ValueError(f'`kind` must be "equal-tailed" or "highest-density"; got {kind!r}.')
    array: Any = as_host_or_traced("draws", draws)
    if array.ndim < 1 or array.shape[0] < 2:
        raise ValueError(f"`draws` must hold at least two draws along its leading axis; got shape {array.shape}.")
    traced = is_traced(array)
    if not traced:
        # Reshaped on the host.
        array = np.asarray(array)
    table = as_floating("draws", array.reshape(array.shape[0], -1), "S m")
    # On the host where the draws can be seen: a sort is no reason to compile a program.
    names, values = (jnp, table) if traced else (np, np.asarray(table))
    if kind == "equal-tailed":
        tail = (1 - probability) / 2
        lower, upper = names.quantile(values, names.asarray([tail, 1 - tail], dtype=table.dtype), axis=0)
    else:
        lower, upper = _shortest(names, values, probability)
    summaries = [names.mean(values, axis=0), names.median(values, axis=0), lower, upper]
    summaries = [summary.reshape(array.shape[1:]).astype(table.dtype) for summary in summaries]
    mean, median, lower, upper = summaries if traced else jax.device_put(summaries)
    return CredibleInterval(mean, median, lower, upper, float(probability))


def with_caution(interval: CredibleInterval, *cautions: str) -> CredibleInterval:
    """The interval with reasons why it may not hold what it says, those that are not empty."""
    return dataclasses.replace(interval, caution="; ".join(filter(None, cautions)))


def _shortest(names: Any, table: Float[Any, "S m"], probability: float) -> tuple[Float[Any, " m"], Float[Any, " m"]]:
    """The shortest interval between two draws with a share ``probability`` of the draws between them.

    By the functions of `numpy` or `jax.numpy`.
    """
    ordered = names.sort(table, axis=0)
    step = max(1, int(probability * table.shape[0]))
    widths = ordered[step:] - ordered[: table.shape[0] - step]
    start = names.argmin(widths, axis=0)[None, :]
    lower, upper = (names.take_along_axis(ordered, index, axis=0)[0] for index in (start, start + step))
    return lower, upper
