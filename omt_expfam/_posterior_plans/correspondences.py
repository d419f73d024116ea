"""A readable table of which component goes where, and how certain that is."""

import dataclasses
from typing import Any

import numpy as np

from .._posteriors.credible import CredibleInterval


@dataclasses.dataclass(frozen=True)
class PosteriorCorrespondences:
    """Pairs of components that draws of a plan couple, by decreasing mean weight.

    Attributes:
        source: Source component of each pair.
        target: Target component of each pair.
        weight: Posterior mean of the pair's mass.
        share: Posterior mean of the part of the source component that goes to this target component.
        share_lower: Lower end of that share's credible interval.
        share_upper: Upper end of that share's credible interval.
        sends: Posterior probability that more than half of the source component goes to this target component.
        cost: Posterior mean of the mean squared distance under the pair's coupling.
        cost_lower: Lower end of that cost's credible interval.
        cost_upper: Upper end of that cost's credible interval.
        dropped_weight: Mean mass of the pairs that are not listed.
        probability: Posterior probability of the intervals.
        names: Names of the components of the source and of the target, ``None`` for a side without.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    share_lower: np.ndarray
    share_upper: np.ndarray
    sends: np.ndarray
    cost: np.ndarray
    cost_lower: np.ndarray
    cost_upper: np.ndarray
    dropped_weight: float
    probability: float
    names: Any = (None, None)

    @classmethod
    def of(
        cls,
        weights: object,
        shares: CredibleInterval,
        sends: object,
        costs: CredibleInterval,
        min_share: float,
        names: Any = (None, None),
    ) -> "PosteriorCorrespondences":
        """List the pairs whose mean share exceeds ``min_share``."""
        mean = np.asarray(weights, np.float64).mean(axis=0)
        source, target = np.nonzero(np.asarray(shares.mean) > min_share)
        order = np.argsort(-mean[source, target], kind="stable")
        pair = source[order], target[order]

        def column(table: object) -> np.ndarray:
            return np.asarray(table, np.float64)[pair]

        return cls(
            source=pair[0],
            target=pair[1],
            weight=mean[pair],
            share=column(shares.mean),
            share_lower=column(shares.lower),
            share_upper=column(shares.upper),
            sends=column(sends),
            cost=column(costs.mean),
            cost_lower=column(costs.lower),
            cost_upper=column(costs.upper),
            dropped_weight=max(0.0, float(mean.sum() - mean[pair].sum())),
            probability=shares.probability,
            names=names,
        )

    def to_dict(self) -> dict[str, np.ndarray]:
        """The columns of the table, ready for a data frame; components by name where they have one."""
        single = ("dropped_weight", "probability", "names")
        table = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in single}
        for side, known in zip(("source", "target"), self.names, strict=True):
            if known is not None:
                table[side] = np.asarray(known)[table[side]]
        return table

    def __len__(self) -> int:
        return len(self.weight)

    def __str__(self) -> str:
        interval = f"{100 * self.probability:g} % interval"
        wide = [max(6, *map(len, known or ("",))) for known in self.names]
        lines = [
            f"{'source':>{wide[0]}}  {'target':>{wide[1]}}   weight  of source  {interval:>16}  P(sends)       cost  "
            f"{interval:>20}"
        ]
        for i, j, w, share, low, high, sends, cost, below, above in zip(*self.to_dict().values(), strict=True):
            ends, costs = f"{low:.1%} .. {high:.1%}", f"{below:.4g} .. {above:.4g}"
            lines.append(
                f"{i!s:>{wide[0]}}  {j!s:>{wide[1]}}  {w:>7.4f}  {share:>9.1%}  {ends:>16}  {sends:>8.3f}  "
                f"{cost:>9.4g}  {costs:>20}"
            )
        lines.append("P(sends): posterior probability that more than half of the source component goes there.")
        if self.dropped_weight > 5e-5:
            lines.append(f"other pairs: {self.dropped_weight:.4f} of the mass")
        return "\n".join(lines)
