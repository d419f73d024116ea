"""Which features a sparse map may move: settings, and what screening finds."""

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arguments import as_scalar
from .._base.arrays import to_jax
from .composition import adjusted_p
from .marginal import holm, marginal_p
from .pairs import pair_p

COMPOSITION = "composition"
# Where a larger share of the features is found, the answer given what points are like is told too.
_MANY = 0.1


@final
class Screen(eqx.Module):
    """Select the features whose laws differ between two samples, and move no others.

    Each feature is tested by Welch's test and by that of Kolmogorov and Smirnov, and features whose own laws agree by
    their correlations with each other. p-values are adjusted for how many tests there are (Holm, 1979): with
    probability 1 - ``level`` no feature is selected whose law, or law with others, is the same.

    Attributes:
        level: The probability of selecting any feature by chance.
        adjust: ``"composition"`` tests features given what points are like otherwise, by the leading principal
            components of unselected features: where only the shares of groups change, nothing is selected. A response
            that these components carry is then not seen either, or seen in other features: look at both answers.
    """

    level: float = 0.01
    adjust: str | None = None

    def __check_init__(self) -> None:
        if not 0 < float(as_scalar("level", self.level)) < 1:
            raise ValueError(f"`level` must lie between 0 and 1; got {self.level:g}.")
        if self.adjust not in (None, COMPOSITION):
            raise ValueError(f'`adjust` must be None or "composition"; got {self.adjust!r}.')


@final
class Features(eqx.Module):
    """Features that a sparse map may move, as you say.

    Attributes:
        selected: Names, or numbers from 0, or one truth value for each feature.
    """

    selected: Any

    def index(self, names: tuple[str, ...] | None, dim: int) -> Int[np.ndarray, " s"]:
        """The numbers of the features.

        Raises:
            ValueError: If there is no such feature, or one is named twice.
        """
        listed = isinstance(self.selected, Sequence) and not isinstance(self.selected, str)
        chosen: Any = list(self.selected) if listed else np.asarray(self.selected).tolist()
        if not isinstance(chosen, list):
            raise TypeError(f"`selected` must be a list of names, numbers or truth values; got {self.selected!r}.")
        if chosen and all(isinstance(one, bool | np.bool_) for one in chosen):
            if len(chosen) != dim:
                raise ValueError(f"`selected` must have one truth value for each of {dim} features; got {len(chosen)}.")
            return np.flatnonzero(chosen)
        found = [self._number(one, names, dim) for one in chosen]
        if len(set(found)) != len(found):
            raise ValueError(f"`selected` must name features once; got {chosen}.")
        return np.sort(np.array(found, int))

    def _number(self, one: Any, names: tuple[str, ...] | None, dim: int) -> int:
        if isinstance(one, str):
            if names is None or one not in names:
                raise ValueError(f"`selected` must hold names of features; got {one!r}, which is none of them.")
            return names.index(one)
        if isinstance(one, bool | np.bool_) or not isinstance(one, int | np.integer):
            raise TypeError(f"`selected` must be a list of names, numbers or truth values; it holds {one!r}.")
        if not 0 <= one < dim:
            raise ValueError(f"`selected` must hold numbers from 0 to {dim - 1}; got {one}.")
        return int(one)


class Screening(eqx.Module):
    """What screening finds.

    Attributes:
        selected: The numbers of the selected features, ascending.
        p: Adjusted p-values of all features.
        own_p: The same by their own laws alone, without those of pairs.
        num_other: How many features the other choice of ``adjust`` selects by their own laws; ``None`` where it was not
            tried, because few are selected.
        adjust: What p-values are adjusted for besides the number of tests.
    """

    selected: Int[Array, " s"]
    p: Float[Array, " d"]
    own_p: Float[Array, " d"]
    num_other: int | None = eqx.field(static=True)
    adjust: str | None = eqx.field(static=True)

    @property
    def advice(self) -> str:
        """What to think of when both choices of ``adjust`` differ; empty where they do not."""
        index = np.asarray(self.selected)
        # Those that pairs alone select are left out of the comparison.
        num = int(np.sum(np.asarray(self.own_p)[index] <= np.asarray(self.p)[index]))
        if self.num_other is None or self.num_other == num:
            return ""
        counts = [num, self.num_other]
        plain, given = counts if self.adjust is None else counts[::-1]
        why = "shares of groups may have changed" if given < plain else "what they are like may itself respond"
        return (
            f"{plain} of {len(self.p)} features differ by themselves, {given} given what points are like: {why}. "
            'Compare `Screen(adjust="composition")` with `Screen()`, or let masses change '
            "(`transport(..., source_relaxation=)`)."
        )


def screen(settings: Screen, x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Screening:
    """Select features.

    Args:
        settings: How.
        x: Source points.
        y: Target points.
    """
    level, adjust = float(settings.level), settings.adjust
    x, y = (_centered(side, x) for side in (x, y))
    own = holm(marginal_p(x, y))
    others, num_other = (x, y), None
    if adjust is not None or np.mean(own <= level / 2) > _MANY:
        given, rest = adjusted_p(x, y, level / 2)
        num_other = int(np.sum((given if adjust is None else own) <= level / 2))
        if adjust is not None:
            own, others = given, (rest[: len(x)], rest[len(x) :])
    # Half of the level is for features by themselves, half for pairs of the rest.
    p = np.minimum(2 * own, 1.0)
    left = np.flatnonzero(p > level)
    p[left] = np.minimum(p[left], np.minimum(2 * pair_p(*(side[:, left] for side in others)), 1.0))
    return Screening(to_jax(np.flatnonzero(p <= level)), to_jax(p), to_jax(np.minimum(2 * own, 1.0)), num_other, adjust)


def _centered(side: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Points about the middle of the source, so that squares of a large offset do not hide what differs."""
    return side - x.mean(axis=0, dtype=np.float64) if side.dtype == np.float64 else side - x.mean(axis=0)
