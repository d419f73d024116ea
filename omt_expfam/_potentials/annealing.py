"""How the strength of a penalty on displacements is searched for in training."""

from typing import Any, final

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.arguments import as_count, as_scalar

# The least number of steps of any part of the search.
_FEWEST_STEPS = 10


@final
class Annealing(eqx.Module):
    r"""Simulated annealing of a penalty's strength in training (Chen et al., 2025, algorithms 1 and 2).

    Training warms up with a first strength. Then, round after round, another one is tried for some steps, and kept if
    $\text{Eval} = a\,\text{Spa} + (1 - a)\,\text{Err}$ falls, or by chance if it rises, the less so the colder; if not,
    training goes back smoothly, by steps with the old one. Spa is the mean penalty of displacements over that of the
    straight line between the samples; Err the sliced Wasserstein-2 distance from images to targets over that from
    points to targets. Training then goes on with the strength whose Eval was least, for all steps of a fit.

    With ``max_moved`` the strength grows instead until so few coordinates move, and is then lowered at random for as
    long as that stays so; no chances are taken. Should more of them move later, it grows again.

    Attributes:
        tradeoff: a, from 0 (be like the target) to 1 (move little).
        initial_strength: Where the search starts; by default where moving all points along the straight line costs a
            tenth as much in penalty as in half squared distance.
        initial_steps: Steps of the warm-up; by default half of a fit's.
        steps: Steps of a round; by default a twentieth of a fit's.
        reverting_steps: Steps after a strength that is not kept; by default as many as a round's.
        initial_temperature: Of the first round.
        min_temperature: The search ends below it.
        decay: What the temperature is multiplied by after each round.
        range: p: at temperature T, a new strength is at most $p^T$ times larger or smaller.
        tolerance: By how much more Eval may be at temperature one to be accepted with probability 1/e.
        growth: With ``max_moved``, by what share the strength grows in a round.
        max_rounds: With ``max_moved``, rounds of growth after which the constraint is said not to be met.
        every_point: With ``max_moved``, whether each point may move so few coordinates, or points on average.
    """

    tradeoff: float = 0.5
    initial_strength: float | None = None
    initial_steps: int | None = None
    steps: int | None = None
    reverting_steps: int | None = None
    initial_temperature: float = 1.0
    min_temperature: float = 0.15
    decay: float = 0.95
    range: float = 3.0
    tolerance: float = 0.005
    growth: float = 0.5
    max_rounds: int = 40
    every_point: bool = False

    def __check_init__(self) -> None:
        as_scalar("tradeoff", self.tradeoff)
        for name in ("initial_temperature", "min_temperature", "decay", "tolerance", "growth"):
            as_scalar(name, getattr(self, name), strict=True)
        as_scalar("range", self.range, minimum=1.0, strict=True)
        if self.tradeoff > 1:
            raise ValueError(f"`tradeoff` must be at most 1; got {self.tradeoff:g}.")
        if self.decay >= 1:
            raise ValueError(f"`decay` must be below 1; got {self.decay:g}.")
        if self.initial_strength is not None:
            as_scalar("initial_strength", self.initial_strength, strict=True)
        for name in ("initial_steps", "steps", "reverting_steps", "max_rounds"):
            if getattr(self, name) is not None:
                as_count(name, getattr(self, name))

    def temperatures(self) -> list[float]:
        """The temperature of each round."""
        found, temperature = [], self.initial_temperature
        while temperature > self.min_temperature:
            found.append(temperature)
            temperature *= self.decay
        return found

    def with_steps(self, num_steps: int) -> "Annealing":
        """The same for fits of some steps, nothing left to default."""
        share = {"initial_steps": 2, "steps": 20, "reverting_steps": 20}
        missing = [name for name in share if getattr(self, name) is None]
        values = [max(num_steps // share[name], _FEWEST_STEPS) for name in missing]
        if not missing:
            return self
        return eqx.tree_at(
            lambda one: [getattr(one, name) for name in missing], self, values, is_leaf=lambda leaf: leaf is None
        )


class StrengthPath(eqx.Module):
    """The search for a strength: one entry for each round, the warm-up first.

    Attributes:
        strength: What was tried, shape ``[rounds]``.
        spa: Spa after the round: what displacements cost, relative to the straight line's.
        err: Err: how far images are from targets, relative to the points themselves.
        moved: How many coordinates move: of a point on average, or of the point that moves most where each counts.
        accepted: Whether training went on with it.
        error: With a `GroupPenalty`, by how much derivatives miss the conditions of a minimum, over the strength, the
            most of all features; ``None`` with other penalties.
    """

    strength: Float[Array, " rounds"]
    spa: Float[Array, " rounds"]
    err: Float[Array, " rounds"]
    moved: Float[Array, " rounds"]
    accepted: Bool[Array, " rounds"]
    error: Float[Array, " rounds"] | None = None

    def evaluation(self, tradeoff: float = 0.5) -> Float[np.ndarray, " rounds"]:
        """Eval, which is a Spa + (1 - a) Err, of each round."""
        return tradeoff * np.asarray(self.spa) + (1 - tradeoff) * np.asarray(self.err)


def as_annealing(strength: Any) -> Annealing | None:
    """The search that a strength asks for, if it does."""
    if isinstance(strength, str):
        if strength != "annealed":
            raise ValueError(f'`strength` must be a number, "annealed" or an Annealing; got {strength!r}.')
        return Annealing()
    return strength if isinstance(strength, Annealing) else None
