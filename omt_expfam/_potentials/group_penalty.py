"""Features selected by a penalty on all that a potential knows of each: proximal steps, from strong to weak."""

from typing import final, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from .._base.arguments import as_count, as_scalar
from .._base.arrays import power_of_two, to_jax
from .._base.buckets import pad, pad_zero, point_bucket
from .annealing import StrengthPath
from .proximal import at_rest, descend, lengths, slopes_at_rest
from .samples import Sample

# Points of either side that are looked at, and coordinates that a program sees at least.
_MOST_POINTS, _FEWEST = 4096, 8
# From one strength of the path to the next, the least share; and strengths tried between the last two.
_RATIO, _BETWEEN = 0.75, 8
# Units of a network start so small beside where they are at rest, from where their squares would not move.
_QUIET = 1e-2
# Rounds in which coordinates join whose conditions do not hold, and by how much these may be missed.
_ROUNDS, _SLACK = 10, 1.02
# Directions of the sliced distance.
_DIRECTIONS = 64


@final
class GroupPenalty(eqx.Module):
    """Select the features that a potential needs, where every feature that it sees costs, and move no others.

    The potential is a diagonal quadratic form, a linear term and a small convex network, of features in units of
    their standard deviations. All of its numbers that touch one feature are a group; the semi-dual plus ``strength``
    times the sum of the groups' lengths is minimized by proximal steps, which leave groups exactly zero. Strengths
    fall from the largest, at which nothing is selected, to the one that is wanted, each fit from the one before; then
    the selected features have a map of their own, without the penalty, as with `Features`.

    A feature is selected about where its mean differs by more than ``strength`` standard deviations, or its variance by
    more than that share, or both together as much. Nothing is tested: which strength chance does not reach depends on
    the number of points. What differs in nothing but how features depend on each other is not found; `Screen` finds it.

    Attributes:
        strength: What the length of a group costs, a pure number; 0 selects everything. ``None`` where ``max_moved`` is
            given: the largest that selects so many features or, if none does, about the least that selects fewer.
        num_resamples: Select again from so many random halves of the points, to say how often a feature is selected
            (Meinshausen and Bühlmann, 2010).
    """

    strength: float | None = None
    num_resamples: int = 0

    def __check_init__(self) -> None:
        if self.strength is not None:
            as_scalar("strength", self.strength)
        as_count("num_resamples", self.num_resamples, minimum=0)


class Chosen(NamedTuple):
    """What the penalty selects.

    Attributes:
        index: The numbers of the features, ascending.
        strength: The strength.
        path: Strengths that were tried, in order; those that select too many are not accepted; ``None``
            where nothing had to be tried.
        frequency: The share of halves of the points that select each feature.
    """

    index: Int[np.ndarray, " s"]
    strength: float
    path: StrengthPath | None
    frequency: Float[np.ndarray, " d"] | None


class _Round(NamedTuple):
    strength: float
    index: np.ndarray
    spa: float
    err: float
    error: float


def choose_features(
    rng: np.random.Generator, source: Sample, target: Sample, settings: GroupPenalty, most: float | None
) -> Chosen:
    """Select features by proximal steps.

    Args:
        rng: Which points are looked at, directions, and where the network starts.
        source: Source points.
        target: Target points.
        settings: The strength, if it is given.
        most: How many features may be selected; ``None`` where the strength alone decides.
    """
    least = 0.0 if settings.strength is None else float(settings.strength)
    if least == 0 and most is None:
        dim = source.points.shape[1]
        return Chosen(np.arange(dim), 0.0, None, np.ones(dim) if settings.num_resamples else None)
    descent = _Descent(rng, source, target)
    rounds = [descent.at(max(descent.largest, least))]
    limit = np.inf if most is None else most
    while rounds[-1].strength > least and len(rounds[-1].index) < limit:
        rounds.append(descent.at(max(_RATIO * rounds[-1].strength, least)))
    below = rounds[-1].strength
    for _ in range(_BETWEEN if len(rounds[-1].index) > limit else 0):
        best = _best(rounds, limit)
        if len(best.index) == limit:
            break
        tried = descent.at(float(np.sqrt(below * best.strength)))
        rounds.append(tried)
        if len(tried.index) > limit:
            below = tried.strength
    best = _best(rounds, limit)
    frequency = None
    if settings.num_resamples:
        halves = [descent.half(rng).at(best.strength) for _ in range(settings.num_resamples)]
        count = np.bincount(np.concatenate([one.index for one in halves]), minlength=source.points.shape[1])
        frequency = count / settings.num_resamples
    accepted = np.array([len(one.index) <= limit for one in rounds])
    columns = [[one.strength, one.spa, one.err, len(one.index), one.error] for one in rounds]
    strength, spa, err, moved, error = (to_jax(np.array(column, np.float32)) for column in zip(*columns, strict=True))
    path = StrengthPath(strength, spa, err, moved, to_jax(accepted), error)
    return Chosen(best.index, best.strength, path, frequency)


def _best(rounds: list[_Round], limit: float) -> _Round:
    """The least strength that selects no more features than may be."""
    return min((one for one in rounds if len(one.index) <= limit), key=lambda one: one.strength)


class _Descent:
    """The potential, as it is at the strength that was last asked for, and the points that it learns from."""

    def __init__(self, rng: np.random.Generator, source: Sample, target: Sample) -> None:
        self._given = source, target
        sides = []
        for side in (source, target):
            some = np.sort(rng.permutation(len(side.points))[:_MOST_POINTS])
            weight = np.ones(len(some)) if side.weight is None else side.weight[some]
            sides.append((side.points[some].astype(np.float64), weight / weight.sum()))
        (x, x_share), (y, y_share) = sides
        means = x_share @ x, y_share @ y
        self._change = means[1] - means[0]
        spreads = x_share @ (x - means[0]) ** 2, y_share @ (y - means[1]) ** 2
        size = np.sqrt((spreads[0] + spreads[1]) / 2)
        # A feature of one value on each side differs by one unit, if it does.
        size = np.where(size > 0, size, np.where(self._change != 0, np.abs(self._change), 1.0))
        middle = (means[0] + means[1]) / 2
        self._x, self._y = (((side - middle) / size).astype(np.float32) for side in (x, y))
        self._shares = x_share.astype(np.float32), y_share.astype(np.float32)
        self._conjugates = self._y.copy()
        dim = x.shape[1]
        self._numbers = at_rest(rng, dim)
        self._seeds = _QUIET * rng.standard_normal(self._numbers.rows.shape).astype(np.float32)
        self._seeds[:, :2] = 0
        self._directions = rng.standard_normal((dim, _DIRECTIONS)).astype(np.float32)
        self._directions /= np.sqrt(dim)
        self._projected = self._x @ self._directions, self._y @ self._directions
        self._scores = np.zeros(dim)
        self._descend(np.zeros(0, int), 1.0)
        self._units = float(np.abs(self._change / size).sum()), self._sliced(self._projected[0])

    @property
    def largest(self) -> float:
        """A strength at which nothing is selected, about the least."""
        return 1.001 * float(self._scores.max(initial=0.0)) or 1.0

    def half(self, rng: np.random.Generator) -> "_Descent":
        """The same of half of the points of either side."""
        parts = [rng.permutation(len(side.points))[: len(side.points) // 2] for side in self._given]
        return _Descent(
            rng,
            *(
                Sample(side.points[part], None if side.weight is None else side.weight[part])
                for side, part in zip(self._given, parts, strict=True)
            ),
        )

    def at(self, strength: float) -> _Round:
        """Proximal steps from where the last ones ended, of the features whose conditions ask for it."""
        seen = np.flatnonzero((lengths(self._numbers.rows) > 0) | (self._scores > strength))
        images, error = self._descend(seen, strength)
        for _ in range(_ROUNDS):
            more = np.flatnonzero(self._scores > _SLACK * strength)
            if not len(np.setdiff1d(more, seen)):
                break
            seen = np.union1d(seen, more)
            images, error = self._descend(seen, strength)
        moved = images - self._x[:, seen]
        spa = float(np.sum(self._shares[0] @ np.abs(moved))) / (self._units[0] or 1.0)
        err = self._sliced(self._projected[0] + moved @ self._directions[seen]) / (self._units[1] or 1.0)
        return _Round(strength, np.flatnonzero(lengths(self._numbers.rows) > 0), spa, err, error / strength)

    def _descend(self, seen: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
        """Steps of some features; the images of source points, and by how much conditions are missed."""
        num, size = len(seen), max(_FEWEST, power_of_two(len(seen)))
        rows = self._numbers.rows[seen]
        rows = np.where(np.any(rows != 0, axis=1, keepdims=True), rows, self._seeds[seen])

        def wide(points: np.ndarray) -> np.ndarray:
            """With zeros for coordinates that are none, and points that are none, which count for nothing."""
            return pad(np.pad(points[:, seen], [(0, 0), (0, size - num)]), point_bucket(len(points)))

        start = self._numbers._replace(rows=pad_zero(rows, size))
        x_share, y_share = (pad_zero(share, point_bucket(len(share))) for share in self._shares)
        points = wide(self._x), wide(self._y)
        found = descend(start, *points, x_share, y_share, wide(self._conjugates), np.float32(strength))
        self._numbers.rows[seen] = np.asarray(found.numbers.rows)[:num]
        self._numbers = self._numbers._replace(shifts=np.asarray(found.numbers.shifts))
        self._conjugates[:, seen] = np.asarray(found.conjugates)[: len(self._y), :num]
        of_x, of_y = np.asarray(found.of_x)[: len(self._x)], np.asarray(found.of_y)[: len(self._y)]
        self._scores = slopes_at_rest(self._x, self._y, *self._shares, of_x, of_y)
        return np.asarray(found.images)[: len(self._x), :num], float(found.error)

    def _sliced(self, images: np.ndarray) -> float:
        """The sliced Wasserstein-2 distance to the target, of projected points."""
        levels = (np.arange(500) + 0.5) / 500
        sides = []
        for side, share in zip((images, self._projected[1]), self._shares, strict=True):
            order = np.argsort(side, axis=0)
            below = np.cumsum(share[order], axis=0)
            values = np.take_along_axis(side, order, axis=0)
            at = [
                np.interp(levels, level - level[0] / 2, value) for level, value in zip(below.T, values.T, strict=True)
            ]
            sides.append(np.array(at))
        return float(np.sqrt(np.mean((sides[0] - sides[1]) ** 2)))
