"""Labels of one side, read through every draw of a plan: proportions on the other side with intervals."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._base.arguments import check_probability
from .._plans.transfer import Transfer
from .._posteriors.credible import credible_interval, CredibleInterval, IntervalKind


class PosteriorTransfer(eqx.Module):
    """Draws of the labels of the source, as they are found in the target.

    The draws carry what is uncertain about both mixtures; the given labels and points count as they are.

    Attributes:
        names: The labels, L of them, in increasing order.
        weights: Weights of the target components, shape ``[S, K1]``.
        component_probabilities: Part of each target component that has each label, shape ``[S, K1, L]``.
        probabilities: The probability of each label at the points that were given, shape ``[S, n1, L]``; without
            points, those of the components.
    """

    names: tuple[Any, ...] = eqx.field(static=True)
    weights: Float[np.ndarray, "S K1"]
    component_probabilities: Float[np.ndarray, "S K1 L"]
    probabilities: Float[np.ndarray, "S n L"]

    @classmethod
    def of(cls, draws: list[Transfer]) -> "PosteriorTransfer":
        """Those of every draw, stacked."""
        weights = np.stack([one.weights for one in draws])
        components = np.stack([one.component_probabilities for one in draws])
        return cls(draws[0].names, weights, components, np.stack([one.probabilities for one in draws]))

    @property
    def labels(self) -> np.ndarray:
        """The labels, shape ``[L]``."""
        return np.asarray(self.names)

    @property
    def proportions(self) -> Float[np.ndarray, "S L"]:
        """Draws of the share of each label in the target."""
        return np.einsum("sk,skl->sl", self.weights, self.component_probabilities)

    def proportions_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """Credible intervals of the proportions, entries of shape ``[L]``; see `credible_interval`."""
        return credible_interval(self.proportions, probability, kind)

    def probabilities_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """Credible intervals of the probabilities of labels at points, entries of shape ``[n1, L]``."""
        return credible_interval(self.probabilities, probability, kind)

    def table(self, probability: float = 0.9) -> str:
        """A line for each label: the mean of its proportion, and the interval."""
        check_probability(probability)
        width = max(5, *(len(str(name)) for name in self.names))
        found = self.proportions_interval(probability)
        lines = [f"{'label':<{width}}  proportion  {probability:.0%} between"]
        for name, *numbers in zip(self.names, *map(np.asarray, (found.mean, found.lower, found.upper)), strict=True):
            mean, lower, upper = (f"{value:.1%}" for value in numbers)
            lines.append(f"{name!s:<{width}}  {mean:>10}  {lower} and {upper}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()
