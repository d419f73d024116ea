"""What held-out points say about trained members, in the units of the data."""

from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.xla import program
from .conjugate import conjugate_point
from .held_out import stacked
from .interface import AbstractPotential
from .line import StraightLine
from .tasks import Task


class Evidence(NamedTuple):
    """The dual value on held-out points, averaged over members; see `BrenierFit`.

    Attributes:
        value: The dual value.
        standard_error: Its standard error.
        trace: The dual value at each look.
        residual: Root mean square of y - grad phi(x*).
        converged: Whether all conjugate points were found.
        moved: The share of held-out points, of potentials, that their images are further from than a threshold, for
            each coordinate.
    """

    value: float
    standard_error: float
    trace: np.ndarray
    residual: float
    converged: bool
    moved: np.ndarray


def evidence(
    potential: AbstractPotential,
    tasks: list[Task],
    lines: list[StraightLine],
    on_target: list[bool],
    values: np.ndarray | None,
    size: int,
    threshold: float,
) -> Evidence:
    """Judge members.

    Args:
        potential: The members, stacked.
        tasks: What each learned from.
        lines: The coordinates of each.
        on_target: Whether each is a potential of target points.
        values: J of each look and member, in its own coordinates; ``None`` where nothing was trained.
        size: Number of rows for held-out points.
        threshold: What counts as moved, in units of the points.
    """
    x, _ = stacked([task.source for task in tasks], size)
    y, _ = stacked([task.target for task in tasks], size)
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _terms(potential, x, y))
    results, moved = [], []
    for number, (task, line) in enumerate(zip(tasks, lines, strict=True)):
        of_x, of_y, rest, converged, slopes = (part[number] for part in found)
        square, means = float(line.scale) ** 2, (np.asarray(line.source_mean), np.asarray(line.target_mean))
        difference = means[0].astype(np.float64) - means[1]
        total, variance, known = float(difference @ difference), 0.0, float(difference @ difference)
        sides = (
            (task.source, of_x, difference, line.target_matrix),
            (task.target, of_y, -difference, line.source_matrix),
        )
        for side, terms, slope, matrix in sides:
            share = side.held_out_share
            centered = square * side.points[side.held_out].astype(np.float64) @ np.asarray(matrix, np.float64)
            fixed = np.sum(centered**2, axis=1) + 2 * centered @ slope
            each = fixed - 2 * square * terms[: len(share)]
            total, known = total + share @ each, known + share @ fixed
            variance += np.sum(share**2 * (each - share @ each) ** 2)
        num = len(task.target.held_out)
        rest = square * rest[:num] @ np.asarray(line.source_matrix, np.float64)
        residual = np.mean(np.sum(rest**2, axis=1))
        looks = [total] if values is None else known - 2 * square * values[:, number]
        results.append([total, variance, residual, converged[:num].all(), *looks])
        num = len(task.source.held_out)
        images = square * slopes[:num] @ np.asarray(line.source_matrix, np.float64)
        points = square * task.source.points[task.source.held_out] @ np.asarray(line.target_matrix, np.float64)
        moved.append(task.source.held_out_share @ (np.abs(images - points - difference) > threshold))
    numbers = np.array(results)
    value, _, residual, converged = numbers[:, :4].mean(axis=0)
    # Members of one side are judged by different points; those of the two sides by the same ones.
    sides = [numbers[np.array(on_target) == side, 1] for side in (False, True)]
    error = sum(np.sqrt(side.sum()) for side in sides if len(side)) / len(numbers)
    trace = numbers[:, 4:].mean(axis=0)
    return Evidence(value, error, trace, float(np.sqrt(residual)), converged == 1, np.mean(moved, axis=0))


def improves(start: AbstractPotential, potential: AbstractPotential, tasks: list[Task], size: int) -> bool:
    """Whether members are better than where they started: J of held-out points is less by two standard errors.

    Args:
        start: The members before training, stacked.
        potential: The members.
        tasks: What each learned from.
        size: Number of rows for held-out points.
    """
    x, _ = stacked([task.source for task in tasks], size)
    y, _ = stacked([task.target for task in tasks], size)
    before, after = ([np.asarray(part, np.float64) for part in _terms(p, x, y)[:2]] for p in (start, potential))
    gain = variance = 0.0
    for number, task in enumerate(tasks):
        for side, old, new in zip((task.source, task.target), before, after, strict=True):
            share = side.held_out_share
            each = (old - new)[number, : len(share)]
            gain += share @ each
            variance += np.sum(share**2 * (each - share @ each) ** 2)
    return bool(gain > 2 * np.sqrt(variance))


@program
def _terms(potential: AbstractPotential, x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    """phi(x), phi*(y), the residual of its conjugate point, whether it was found, and grad phi(x), of all members."""

    def one(potential: AbstractPotential, x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
        def conjugate(y: Any) -> tuple[Any, Any, Any]:
            found = conjugate_point(potential.gradient, y, potential.near_conjugate(y))
            return found.point @ y - potential.value(found.point), found.rest, found.converged

        values = jax.vmap(potential.value)(x)
        return values, *jax.vmap(conjugate)(y), jax.vmap(potential.gradient)(x)

    return jax.vmap(one)(potential, x, y)
