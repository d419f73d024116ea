"""How clear the labels of draws are: whether components keep their roles from draw to draw."""

import equinox as eqx
import numpy as np

# Labels are not identified where components change their roles in more than this share of the draws.
_MOST_UNCLEAR = 0.05


class Labelling(eqx.Module):
    """How draws came to the labels of their reference, and whether these mean the same in all of them.

    A label is clear in a draw if the component that got it is, of all components of the draw, most like the component
    of the reference that has it, and the other way round. Likeness is the cosine of responsibilities. Where components
    overlap they exchange roles, and no labelling is right: draws are relabelled all the same, but numbers of single
    components compare what has little in common.

    Attributes:
        num_draws: The number of draws S.
        num_relabelled: How many of them had other labels before.
        unclear: The share of draws in which each label is not clear, shape ``[K]``.
        unclear_share: The share of draws in which some label is not.
    """

    num_draws: int = eqx.field(static=True)
    num_relabelled: int = eqx.field(static=True)
    unclear: tuple[float, ...] = eqx.field(static=True)
    unclear_share: float = eqx.field(static=True)

    @classmethod
    def of(cls, num_relabelled: int, likeness: np.ndarray, groups: list[np.ndarray]) -> "Labelling":
        """From the likeness ``[S, K, K]`` of the reference's components (rows) and those of draws under their labels.

        Labels are compared within groups.
        """
        num = likeness.shape[1]
        same = np.zeros((num, num), bool)
        for group in groups:
            same[np.ix_(group, group)] = True
        own = np.einsum("skk->sk", likeness)
        # What is exactly as like is no rival.
        rivals = np.where(same & ~np.eye(num, dtype=bool), likeness, -np.inf) - 1e-9
        unclear = (rivals.max(axis=1) > own) | (rivals.max(axis=2) > own)
        share = float(unclear.any(axis=1).mean())
        return cls(len(likeness), num_relabelled, tuple(map(float, unclear.mean(axis=0))), share)

    @property
    def identified(self) -> bool:
        """Whether labels mean the same in at least 95 % of the draws."""
        return self.unclear_share <= _MOST_UNCLEAR

    @property
    def caution(self) -> str:
        """What to keep in mind of numbers of single components; nothing where labels are identified."""
        if self.identified:
            return ""
        worst = [str(k) for k in np.argsort(self.unclear)[::-1] if self.unclear[k] > _MOST_UNCLEAR]
        return (
            f"labels are not identified: components exchange their roles in {self.unclear_share:.0%} of the draws "
            f"(component {', '.join(worst[:4])}{', ...' * (len(worst) > 4)})"
        )

    def __str__(self) -> str:
        text = f"{self.num_relabelled} of {self.num_draws} draws relabelled"
        return f"{text}; {self.caution}" if self.caution else f"{text}, labels clear in {1 - self.unclear_share:.1%}"
