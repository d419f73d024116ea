"""Which features a sparse map may move: settings, and what screening finds."""

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arguments import as_count, as_scalar
from .._base.arrays import to_jax
from .composition import adjusted_p
from .marginal import benjamini_hochberg, holm, marginal_p
from .pairs import pair_p

COMPOSITION = "composition"
# Where a larger share of the features is found, the answer given what points are like is told too: if so many are left
# to say what points are like.
_MANY, _LEFT = 0.1, 8
FAMILY, DISCOVERIES = "family", "discoveries"
# The part of a level that features by themselves get; the rest is for pairs of the others.
_OWN = 0.9


@final
class Screen(eqx.Module):
    """Select the features whose laws differ between two samples, and move no others.

    Each feature is tested by Welch's test and by that of Kolmogorov and Smirnov, and features whose own laws agree by
    their correlations with each other. p-values are adjusted for how many tests there are (Holm, 1979): with
    probability 1 - ``level`` no feature is selected whose law, or law with others, is the same. Four fifths of nine
    tenths of the level are for means, whose effects can be weak; a tenth is for correlations.

    Attributes:
        level: The probability of selecting any feature by chance; or the expected share of those that are, see
            ``control``.
        adjust: ``"composition"`` tests features given what points are like otherwise, by the leading principal
            components of unselected features: where only the shares of groups change, nothing is selected. A response
            that these components carry is then not seen either, or seen in other features: look at both answers.
        per_component: Select features within each component of the source of a plan (``start``), each at ``level`` / K,
            and move a point as its own component's map does.
        control: ``"family"`` bounds the probability of any false selection, ``"discoveries"`` the expected share of
            false ones among the selected (Benjamini and Hochberg, 1995), for tests that are independent or positively
            dependent: more weak effects are found.
        num_resamples: Select again from so many random halves of the points, to say how often a feature is selected
            (Meinshausen and Bühlmann, 2010). Half of the points find less: what is always found is certain.
    """

    level: float = 0.01
    adjust: str | None = None
    per_component: bool = False
    num_resamples: int = 0
    control: str = FAMILY

    def __check_init__(self) -> None:
        if not 0 < float(as_scalar("level", self.level)) < 1:
            raise ValueError(f"`level` must lie between 0 and 1; got {self.level:g}.")
        if self.adjust not in (None, COMPOSITION):
            raise ValueError(f'`adjust` must be None or "composition"; got {self.adjust!r}.')
        if self.control not in (FAMILY, DISCOVERIES):
            raise ValueError(f'`control` must be "family" or "discoveries"; got {self.control!r}.')
        as_count("num_resamples", self.num_resamples, minimum=0)


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
        frequency: The share of halves of the points that select each feature; ``None`` if none were tried.
    """

    selected: Int[Array, " s"]
    p: Float[Array, " d"]
    own_p: Float[Array, " d"]
    num_other: int | None = eqx.field(static=True)
    adjust: str | None = eqx.field(static=True)
    frequency: Float[Array, " d"] | None = None

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
        if len(self.p) - min(counts) < _LEFT:
            return ""
        why = "shares of groups may have changed" if given < plain else "what they are like may itself respond"
        return (
            f"{plain} of {len(self.p)} features differ by themselves, {given} given what points are like: {why}. "
            'Compare `Screen(adjust="composition")` with `Screen()`, or let masses change '
            "(`transport(..., source_relaxation=)`)."
        )


def screen(
    settings: Screen,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    rng: np.random.Generator | None = None,
    x_weight: Any = None,
    y_weight: Any = None,
) -> Screening:
    """Select features.

    Args:
        settings: How.
        x: Source points.
        y: Target points.
        rng: What halves of the points are drawn by.
        x_weight: Weights of the source points, by default equal.
        y_weight: Weights of the target points.
    """
    x, y = (_centered(side, x) for side in (x, y))
    found, like = _select(settings, x, y, x_weight, y_weight)
    if not settings.num_resamples or rng is None:
        return found
    # Correlations are tested again only where they alone select something.
    pairs = bool(np.any(np.asarray(found.own_p)[np.asarray(found.selected)] > settings.level))
    count = np.zeros(x.shape[1])
    for _ in range(settings.num_resamples):
        first, second = (rng.permutation(len(side))[: len(side) // 2] for side in (x, y))
        weights = [None if w is None else w[i] for w, i in zip((x_weight, y_weight), (first, second), strict=True)]
        scores = None if like is None else (like[0][first], like[1][second])
        again, _ = _select(settings, x[first], y[second], *weights, pairs=pairs, scores=scores, compare=False)
        count[np.asarray(again.selected)] += 1
    return dataclasses.replace(found, frequency=to_jax(count / settings.num_resamples))


def _select(
    settings: Screen,
    x: np.ndarray,
    y: np.ndarray,
    x_weight: Any,
    y_weight: Any,
    pairs: bool = True,
    scores: tuple[np.ndarray, np.ndarray] | None = None,
    compare: bool = True,
) -> tuple[Screening, tuple[np.ndarray, np.ndarray] | None]:
    """The features that one pair of samples selects; and what points are like, where that is adjusted for.

    Args:
        settings: How.
        x: Source points about zero.
        y: Target points.
        x_weight: Weights of the source points.
        y_weight: Weights of the target points.
        pairs: Whether features are tested by their correlations too.
        scores: What points are like, where it is known.
        compare: Whether the other choice of ``adjust`` is tried where many are selected.
    """
    level, adjust, weights = float(settings.level), settings.adjust, (x_weight, y_weight)
    own, others, like, num_other = np.ones(x.shape[1]), (x, y), None, None
    adjusted = holm if settings.control == FAMILY else benjamini_hochberg
    if adjust is None or compare:
        own = adjusted(marginal_p(x, y, *weights))
    if adjust is not None or (compare and np.mean(own <= _OWN * level) > _MANY):
        given = adjusted_p(x, y, _OWN * level, *weights, scores=scores)
        given_p = adjusted(given.p)
        num_other = int(np.sum((given_p if adjust is None else own) <= _OWN * level)) if compare else None
        if adjust is not None:
            own, others, like = given_p, given.rest, given.scores
    own = np.minimum(own / _OWN, 1.0)
    p = own.copy()
    left = np.flatnonzero(p > level)
    if pairs:
        parts = (side[:, left] for side in others)
        p[left] = np.minimum(p[left], pair_p(*parts, x_weight=x_weight, y_weight=y_weight) / (1 - _OWN))
    selected = to_jax(np.flatnonzero(p <= level))
    return Screening(selected, to_jax(p), to_jax(own), num_other, adjust), like


def _centered(side: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Points about the middle of the source, so that squares of a large offset do not hide what differs."""
    return side - x.mean(axis=0, dtype=np.float64) if side.dtype == np.float64 else side - x.mean(axis=0)
