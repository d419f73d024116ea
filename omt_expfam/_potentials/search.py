"""The search for the strength of a penalty: rounds of training, each judged by what the map does."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax
from .._base.xla import program
from .annealing import Annealing, StrengthPath
from .displacements import DisplacementCost, in_whitened_units
from .interface import AbstractPotential
from .line import StraightLine
from .tasks import Side, Task
from .train import Sparsity, Trainer

# Points of each side that maps are judged by, and directions of the sliced distance.
_NUM_POINTS, _DIRECTIONS = 512, 64
# Learning rates in the search, as a share of the largest: what they would be in the middle of a fit.
_PACE = 0.5


class _Look(NamedTuple):
    """What a map does at some point of the search; numbers as those of `StrengthPath`."""

    spa: float
    err: float
    moved: float


class _Round(NamedTuple):
    strength: float
    look: _Look
    accepted: bool


def searched(
    rng: np.random.Generator,
    cost: DisplacementCost,
    lines: list[StraightLine],
    tasks: list[Task],
    settings: Annealing,
    max_moved: float | None,
    threshold: float,
    learning_rate: float,
) -> Sparsity:
    """A penalty whose strength is searched for while the members train.

    Args:
        rng: Which points and directions judge, and which strengths are tried.
        cost: The penalty of all members.
        lines: Their coordinates.
        tasks: What they learn from.
        settings: The search, with all its steps given.
        max_moved: How many coordinates may move, if that is what is searched for.
        threshold: What counts as moved, in units of the points.
        learning_rate: The largest of a fit.
    """
    seen = _Seen(rng, cost, tasks, threshold, settings.every_point)

    def search(trainer: Trainer) -> tuple[Float[np.ndarray, " M"], float, StrengthPath]:
        strength = settings.initial_strength or 0.1 * seen.balance(trainer.state.average)
        seen.set_units(trainer.state.average)

        def go(num_steps: int | None, strength: float) -> _Look:
            assert num_steps is not None  # Filled by `with_steps`.
            rates = np.full(num_steps, _PACE * learning_rate)
            trainer.advance(rates, in_whitened_units(strength, lines))
            return seen.look(trainer.state.average)

        rounds = [_Round(strength, go(settings.initial_steps, strength), True)]
        if max_moved is None:
            strength = _anneal(rng, settings, rounds, go)
        else:
            strength = _constrain(rng, settings, rounds, go, max_moved)
        return in_whitened_units(strength, lines), strength, _path(rounds)

    rounds = len(settings.temperatures()) + (0 if max_moved is None else settings.max_rounds)
    num_steps = (settings.initial_steps or 0) + rounds * (settings.steps or 0)
    return Sparsity(cost, np.zeros(len(lines), np.float32), search, num_steps)


def _anneal(rng: np.random.Generator, settings: Annealing, rounds: list[_Round], go: Callable[..., _Look]) -> float:
    """Algorithm 1; the strength whose Eval was least."""

    def evaluation(look: _Look) -> float:
        return settings.tradeoff * look.spa + (1 - settings.tradeoff) * look.err

    strength, value = rounds[0].strength, evaluation(rounds[0].look)
    for temperature in settings.temperatures():
        tried = strength * settings.range ** (temperature * rng.uniform(-1, 1))
        look = go(settings.steps, tried)
        change = evaluation(look) - value
        accepted = bool(np.log(rng.uniform()) < -change / (settings.tolerance * temperature))
        rounds.append(_Round(tried, look, accepted))
        if accepted:
            strength, value = tried, evaluation(look)
        else:
            value = evaluation(go(settings.reverting_steps, strength))
    return min(rounds, key=lambda one: evaluation(one.look)).strength


def _constrain(
    rng: np.random.Generator, settings: Annealing, rounds: list[_Round], go: Callable[..., _Look], most: float
) -> float:
    """Algorithm 2; the last strength, which met the constraint unless none did."""
    strength = rounds[0].strength
    for _ in range(settings.max_rounds):
        if rounds[-1].look.moved <= most:
            break
        strength *= 1 + settings.growth
        rounds.append(_Round(strength, go(settings.steps, strength), True))
    else:
        return strength
    for temperature in settings.temperatures():
        tried = strength * settings.range ** (temperature * rng.uniform(-1, 0))
        look = go(settings.steps, tried)
        accepted = look.moved <= most
        rounds.append(_Round(tried, look, accepted))
        if accepted:
            strength = tried
            continue
        look = go(settings.reverting_steps, strength)
        if look.moved > most:
            # Training had not come to rest when the strength met the constraint.
            strength *= 1 + settings.growth
            rounds.append(_Round(strength, look, True))
    return strength


def _path(rounds: list[_Round]) -> StrengthPath:
    looks = [one.look for one in rounds]
    columns: Any = [[one.strength for one in rounds], *zip(*looks, strict=True)]
    accepted = to_jax(np.array([one.accepted for one in rounds]))
    strength, spa, err, moved = (to_jax(np.array(column, np.float32)) for column in columns)
    return StrengthPath(strength, spa, err, moved, accepted)


class _Seen:
    """Looks at what members do with some of their points, in the points' own units."""

    def __init__(
        self, rng: np.random.Generator, cost: DisplacementCost, tasks: list[Task], threshold: float, every_point: bool
    ) -> None:
        self._cost, self._threshold, self._every_point = cost, threshold, every_point
        self._sides = [
            to_jax(np.stack([_some(rng, side) for side in sides]))
            for sides in zip(*((task.source, task.target) for task in tasks), strict=True)
        ]
        directions = rng.standard_normal((tasks[0].source.points.shape[1], _DIRECTIONS))
        self._directions = directions / np.linalg.norm(directions, axis=0)
        self._spa = self._err = 1.0

    def _numbers(self, potential: AbstractPotential) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(part, np.float64) for part in _moves(potential, self._cost, *self._sides))

    def balance(self, potential: AbstractPotential) -> float:
        """The strength at which the penalty of the members' displacements equals half their mean square."""
        points, images, _, values = self._numbers(potential)
        half = 0.5 * np.mean(np.sum((images - points) ** 2, axis=2))
        return float(half / max(values.mean(), 1e-300)) if half > 0 else 1.0

    def set_units(self, potential: AbstractPotential) -> None:
        """Take what the members do, before they train, as the straight line."""
        points, _, targets, values = self._numbers(potential)
        self._spa = max(float(values.mean()), 1e-300)
        self._err = max(self._sliced(points, targets), 1e-300)

    def look(self, potential: AbstractPotential) -> _Look:
        """What the members do now."""
        points, images, targets, values = self._numbers(potential)
        moved = np.sum(np.abs(images - points) > self._threshold, axis=2)
        return _Look(
            float(values.mean()) / self._spa,
            self._sliced(images, targets) / self._err,
            float(moved.max() if self._every_point else moved.mean()),
        )

    def _sliced(self, one: np.ndarray, other: np.ndarray) -> float:
        """The sliced Wasserstein-2 distance of as many points (Bonneel et al., 2015), of all members together."""
        left, right = (np.sort(points @ self._directions, axis=1) for points in (one, other))
        return float(np.sqrt(np.mean((left - right) ** 2)))


def _some(rng: np.random.Generator, side: Side) -> Float[np.ndarray, "s d"]:
    """Points that a member learns from, by their weights, in its coordinates; some twice where there are few."""
    weight = None if side.weight is None else side.weight[side.training] / side.weight[side.training].sum()
    again = weight is not None or len(side.training) < _NUM_POINTS
    return side.points[rng.choice(side.training, _NUM_POINTS, replace=again, p=weight)]


@program
def _moves(potential: AbstractPotential, cost: DisplacementCost, x: Any, y: Any) -> tuple[Array, Array, Array, Array]:
    """Points, their images, targets and penalties, about the source mean and in the points' own units."""

    def member(potential: Any, cost: Any, x: Any, y: Any) -> tuple[Array, Array, Array, Array]:
        points = jax.vmap(cost.line.source_point)(x)
        images = points + cost.sign * cost.displacements(potential, x)
        return points, images, jax.vmap(cost.line.target_point)(y), cost.values(potential, x)

    return jax.vmap(member)(potential, cost, x, y)
