"""A readable table of which component goes where."""

import dataclasses

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
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share_of_source: np.ndarray
    share_of_target: np.ndarray
    cost: np.ndarray
    dropped_weight: float

    @classmethod
    def of(cls, weights: object, rows: object, columns: object, costs: object, min_weight: float) -> "Correspondences":
        """List the pairs heavier than ``min_weight``."""
        omega, row_shares, column_shares, cost = (np.asarray(v, np.float64) for v in (weights, rows, columns, costs))
        source, target = np.nonzero(omega > min_weight)
        order = np.argsort(-omega[source, target], kind="stable")
        pair = source[order], target[order]
        weight = omega[pair]
        dropped = max(0.0, float(omega.sum() - weight.sum()))
        return cls(*pair, weight, row_shares[pair], column_shares[pair], cost[pair], dropped)

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns of the table, ready for a data frame."""
        names = ("source", "target", "weight", "share_of_source", "share_of_target", "cost")
        return {name: getattr(self, name) for name in names}

    def __len__(self) -> int:
        return len(self.weight)

    def __str__(self) -> str:
        lines = ["source  target   weight  of source  of target       cost"]
        lines += [
            f"{i:>6}  {j:>6}  {w:>7.4f}  {rows:>8.1%}  {columns:>9.1%}  {cost:>9.4g}"
            for i, j, w, rows, columns, cost in zip(*self.to_dict().values(), strict=True)
        ]
        if self.dropped_weight > 5e-5:
            lines.append(f"lighter pairs: {self.dropped_weight:.4f} of the mass")
        return "\n".join(lines)
