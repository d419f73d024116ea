"""Judging potentials in training by points that are held out from it."""

from typing import Any

import jax
import numpy as np

from .._base.arrays import to_jax
from .._base.xla import jit_in_order, program
from .displacements import DisplacementCost
from .dual import ascend, choose, dual_terms
from .interface import AbstractPotential
from .tasks import Side, Task

# Steps of the search for the conjugate points, at each look; they go on where the last look's ended.
_ASCENT_STEPS = 40


class Judge:
    """Looks at members through the points held out from each, and keeps the best of each.

    Attributes:
        values: The held-out J of each member, in its own coordinates, at each look.
        steps: Steps before each look.
        best: The members, stacked, each as it was when its value, and what its displacements cost, was least.
    """

    def __init__(
        self,
        potential: AbstractPotential,
        tasks: list[Task],
        size: int,
        cost: DisplacementCost | None = None,
        weight: np.ndarray | None = None,
    ):
        """The first look, before any step.

        Args:
            potential: The members, stacked.
            tasks: What they learn from.
            size: Number of rows for held-out points, at least those of every side.
            cost: The penalty of displacements.
            weight: What it is multiplied by, for each member.
        """
        self._cost, self._weight = cost, weight
        self.values: list[np.ndarray] = []
        self.steps: list[int] = []
        self.best = potential
        self._x, self._x_share = stacked([task.source for task in tasks], size)
        self._y, self._y_share = stacked([task.target for task in tasks], size)
        self._conjugates, self._pace = self._y, to_jax(np.ones(self._y.shape[:2], np.float32))
        self._least = np.full(len(tasks), np.inf)
        self.look(potential, 0)

    def look(self, potential: AbstractPotential, step: int) -> bool:
        """Value all members; returns whether the values are finite."""
        given = self._x, self._y, self._x_share, self._y_share, self._conjugates, self._pace
        values, self._conjugates, self._pace, moving = _look(potential, *given, self._cost)
        host = np.asarray(values)
        total = host if self._cost is None else host + self._weight * np.asarray(moving)
        # What is not finite is not less.
        better = total < self._least
        self._least = np.where(better, total, self._least)
        self.best = _choose(better, potential, self.best)
        self.values.append(host)
        self.steps.append(step)
        return bool(np.isfinite(host).all())


def stacked(sides: list[Side], size: int) -> tuple[Any, Any]:
    """Held-out points of all members, ``[M, size, d]``, and their shares, zero for rows that hold none."""
    points = np.zeros((len(sides), size, sides[0].points.shape[1]), np.float32)
    share = np.zeros((len(sides), size), np.float32)
    for row, part, side in zip(points, share, sides, strict=True):
        num = len(side.held_out)
        row[:num], part[:num] = side.points[side.held_out], side.held_out_share
    return to_jax(points), to_jax(share)


@jit_in_order
def _look(
    potential: AbstractPotential, x: Any, y: Any, x_share: Any, y_share: Any, start: Any, pace: Any, cost: Any
) -> tuple[Any, Any, Any, Any]:
    def one(*member: Any) -> tuple[Any, Any, Any, Any]:
        potential, x, y, x_share, y_share, start, pace, cost = member
        found = ascend(potential, y, start, pace, _ASCENT_STEPS)
        of_x, of_y = dual_terms(potential, x, y, found.point)
        moving = None if cost is None else cost.values(potential, x) @ x_share
        return of_x @ x_share + of_y @ y_share, found.point, found.pace, moving

    return jax.vmap(one)(potential, x, y, x_share, y_share, start, pace, cost)


_choose = program(choose)
