"""A readable table of which component goes where."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Correspondences:
    """Pairs of components that a plan couples, by decreasing weight.

    Attributes:
        source: Source component of each pair.
        target: Target component of each pair.
        weight: Mass of each pair; the listed pairs and ``dropped_weight`` add up to one.
        share_of_source: Part of the source component that goes to this target component.
        share_of_target: Part of the target component that comes from this source component.
        cost: Mean squared distance under the pair's coupling.
        dropped_weight: Mass of the pairs that are too light to be listed.
        source_growth: Mass that each source component sends over the mass it has, shape ``[K0]``; ``None`` for a plan
            that keeps all masses.
        target_growth: Mass that each target component has over the mass it receives, shape ``[K1]``.
        advice: Where much of the mass goes over far pairs, a line that says so.
        names: Names of the components of the source and of the target, ``None`` for a side without.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share_of_source: np.ndarray
    share_of_target: np.ndarray
    cost: np.ndarray
    dropped_weight: float
    source_growth: np.ndarray | None = None
    target_growth: np.ndarray | None = None
    advice: tuple[str, ...] = ()
    names: Any = (None, None)

    @classmethod
    def of(
        cls,
        weights: object,
        rows: object,
        columns: object,
        costs: object,
        min_weight: float,
        growth: tuple[object, object] | None = None,
        advice: Sequence[str] = (),
        names: Any = (None, None),
    ) -> "Correspondences":
        """List the pairs heavier than ``min_weight``."""
        omega, row_shares, column_shares, cost = (np.asarray(v, np.float64) for v in (weights, rows, columns, costs))
        source, target = np.nonzero(omega > min_weight)
        order = np.argsort(-omega[source, target], kind="stable")
        pair = source[order], target[order]
        weight = omega[pair]
        dropped = max(0.0, float(omega.sum() - weight.sum()))
        changes = [None if growth is None else np.asarray(growth[side], np.float64) for side in (0, 1)]
        shares = row_shares[pair], column_shares[pair]
        return cls(*pair, weight, *shares, cost[pair], dropped, changes[0], changes[1], tuple(advice), names)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns of the table, ready for a data frame; components by name where they have one."""
        names = ("source", "target", "weight", "share_of_source", "share_of_target", "cost")
        table = {name: getattr(self, name) for name in names}
        for side, known in zip(("source", "target"), self.names, strict=True):
            if known is not None:
                table[side] = np.asarray(known)[table[side]]
        return table

    def __len__(self) -> int:
        return len(self.weight)

    def __str__(self) -> str:
        wide = [max(6, *map(len, map(str, known or ("",)))) for known in self.names]
        lines = [f"{'source':>{wide[0]}}  {'target':>{wide[1]}}   weight  of source  of target       cost"]
        lines += [
            f"{i!s:>{wide[0]}}  {j!s:>{wide[1]}}  {w:>7.4f}  {rows:>8.1%}  {columns:>9.1%}  {cost:>9.4g}"
            for i, j, w, rows, columns, cost in zip(*self.to_dict().values(), strict=True)
        ]
        if self.dropped_weight > 5e-5:
            lines.append(f"lighter pairs: {self.dropped_weight:.4f} of the mass")
        lines += self.advice
        lines += _changes("source", "sends", "its mass", self.source_growth, self.names[0])
        lines += _changes("target", "has", "what it receives", self.target_growth, self.names[1])
        return "\n".join(lines)


def as_names(names: Any, sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """Names of the components of both sides, checked; ``None`` for a side without."""
    if not isinstance(names, tuple | list) or len(names) != 2:
        raise ValueError("`names` must be a pair: names of the source's components and of the target's, or None.")
    found = tuple(None if side is None else tuple(map(str, side)) for side in names)
    for which, side, size in zip(("source", "target"), found, sizes, strict=True):
        if side is not None and len(side) != size:
            raise ValueError(f"`names` must have one name per {which} component, {size}; got {len(side)}.")
    return found[0], found[1]


def as_texts(names: Any, num: int) -> tuple[str, ...]:
    """Names of components as they head columns: their numbers where they have none."""
    return tuple(map(str, range(num))) if names is None else tuple(map(str, names))


def _changes(side: str, verb: str, of: str, growth: np.ndarray | None, names: Any) -> list[str]:
    """One line for each component whose mass changes by more than a percent."""
    if growth is None:
        return []
    pairs = zip(range(len(growth)) if names is None else names, growth, strict=True)
    return [f"{side} {k} {verb} {factor:.1%} of {of}" for k, factor in pairs if abs(factor - 1) > 0.01]
