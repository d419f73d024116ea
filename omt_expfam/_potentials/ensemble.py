"""The members of an ensemble: what each learns from, where it starts, and all of them trained and packed as a fit."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np

from .._base.arrays import spread_indices, stacked, to_jax
from .._base.buckets import point_bucket
from .._base.precision import narrow
from .._base.results import RESULTS, succeeded
from .._plans.plan import TransportPlan
from .annealing import Annealing, as_annealing
from .blend import BlendedPotential
from .displacements import displacement_cost, in_whitened_units
from .evidence import evidence, improves
from .fitted import BrenierFit
from .gated import GatedMap
from .interface import AbstractPotential
from .line import StraightLine, unit_slopes
from .low_rank import MOST_DENSE, start_low_rank
from .map import BrenierMap
from .members import Members
from .network import start_network
from .penalties import AbstractPenalty
from .recipe import Recipe
from .samples import make_task, Sample
from .search import searched
from .separable import SeparablePotential, start_separable, with_network
from .tasks import Task
from .train import Schedule, Sparsity, train, Trained

# Source points whose images say how many coordinates move.
_LOOKED_AT = 2000
# Fits more with a larger strength each, where more coordinates move at the end than in the search.
_MORE_FITS = 5


class Job(NamedTuple):
    """One member, its coordinates and what it learns from."""

    task: Task
    line: StraightLine
    on_target: bool


class Wanted(NamedTuple):
    """What a fit is asked for besides its recipe.

    Attributes:
        potential: Where members start, or the class `BlendedPotential`, or ``None`` for networks.
        start: A plan.
        penalty: Of displacements.
        threshold: What counts as moved.
        names: Of coordinates.
        dtype: The precision of results.
        progress: As in `fit_brenier`.
        max_moved: How many coordinates may move.
    """

    potential: AbstractPotential | type | None
    start: TransportPlan | None
    penalty: AbstractPenalty | None
    threshold: float
    names: tuple[str, ...] | None
    dtype: str
    progress: bool | None
    max_moved: float | None = None


def fit_ensemble(
    rng: np.random.Generator, source: Sample, target: Sample, chosen: Recipe, wanted: Wanted
) -> BrenierFit:
    """Train all members and put them together."""
    source, target = source.some(rng), target.some(rng)
    jobs = _jobs(rng, source, target, wanted, (chosen.num_members, chosen.num_target_members))
    begin = stacked([_begin(rng, wanted, job, chosen) for job in jobs])
    schedule = Schedule(chosen.num_steps, chosen.batch_size, chosen.learning_rate, chosen.noise, chosen.ascent_steps)
    tasks = [job.task for job in jobs]
    rows = point_bucket(max(len(source.points), len(target.points)))
    held_out = point_bucket(max(len(side.held_out) for task in tasks for side in (task.source, task.target)))
    sparsity = None if wanted.penalty is None else _sparsity(rng, jobs, wanted, schedule)
    alone = eqx.tree_at(lambda one: one.network, begin, None) if wanted.potential is SeparablePotential else None
    trained = train(rng, begin, tasks, schedule, rows, held_out, wanted.progress, sparsity)
    if alone is not None and not improves(begin, trained.potential, tasks, held_out):
        # What the network has learned about coordinates together is noise.
        trained = trained._replace(potential=alone)
    found = _package(jobs, trained, source, target, held_out, wanted)
    for _ in range(_MORE_FITS):
        if found.result != RESULTS.too_many_moved or sparsity is None or not _was_met(found, wanted):
            break
        # In the search, learning rates are larger and maps less exact.
        strength = (found.strength or 0.0) * (1 + _annealing(wanted).growth)
        again = Sparsity(sparsity.cost, in_whitened_units(strength, [job.line for job in jobs]))
        path, steps = trained.path, trained.num_steps
        trained = train(rng, trained.potential, tasks, schedule, rows, held_out, wanted.progress, again)
        trained = trained._replace(strength=strength, path=path, num_steps=steps + trained.num_steps)
        found = _package(jobs, trained, source, target, held_out, wanted)
    return found


def _was_met(found: BrenierFit, wanted: Wanted) -> bool:
    """Whether few enough coordinates moved at some point of the search."""
    return found.path is not None and float(np.min(found.path.moved)) <= (wanted.max_moved or 0.0)


def _annealing(wanted: Wanted) -> Annealing:
    """The search that is wanted; of a strength that is given, where it starts."""
    assert wanted.penalty is not None  # The caller has looked.
    strength = wanted.penalty.strength
    return as_annealing(strength) or Annealing(initial_strength=float(strength) or None)


def fit_separable(rng: np.random.Generator, source: Sample, target: Sample, wanted: Wanted) -> BrenierFit:
    """One-dimensional maps of all points; the evidence is that of the maps without a fifth of them."""
    source, target = source.some(rng), target.some(rng)
    wanted = wanted._replace(potential=SeparablePotential, start=None)
    job = _jobs(rng, source, target, wanted, (1, 0))[0]
    held_out = point_bucket(max(len(job.task.source.held_out), len(job.task.target.held_out)))
    potential = stacked([_alone(job.task, job.line)])
    trained = Trained(potential, None, np.zeros(1, np.int32), 0, RESULTS.successful)
    found = _package([job], trained, source, target, held_out, wanted)
    everything = [np.zeros(0, int)] * 2
    task, line = make_task(source, target, (everything[0], everything[1]), None, wanted.dtype, along_axes=True)
    members = stacked([Members(narrow(_alone(task, line), wanted.dtype), line)])
    return dataclasses.replace(found, map=BrenierMap(members))


def _alone(task: Task, line: StraightLine) -> SeparablePotential:
    """One-dimensional maps of what a member learns from."""
    sides = task.source, task.target
    weights = [None if side.weight is None else side.weight[side.training] for side in sides]
    points = [side.points[side.training] for side in sides]
    return start_separable(points[0], points[1], weights[0], weights[1], beyond=unit_slopes(line))


def _jobs(
    rng: np.random.Generator,
    source: Sample,
    target: Sample,
    wanted: Wanted,
    nums: tuple[int, int],
) -> list[Job]:
    """All members, those on the source side first."""
    jobs, start, along_axes = [], wanted.start, wanted.potential is SeparablePotential
    for num, on_target in zip(nums, (False, True), strict=True):
        if num == 0:
            continue
        sides = (target, source) if on_target else (source, target)
        starts = sides[1].starts
        if starts is None and start is not None:
            plan = start.reverse() if on_target else start
            starts = np.asarray(plan.pull_back(sides[1].points), np.float64)
        for held_out in zip(*(side.folds(rng, num) for side in sides), strict=True):
            jobs.append(Job(*make_task(*sides, held_out, starts, wanted.dtype, along_axes), on_target))
    return jobs


def _begin(rng: np.random.Generator, wanted: Wanted, job: Job, chosen: Recipe) -> AbstractPotential:
    """Where one member starts, in its coordinates."""
    potential, variances = wanted.potential, np.asarray(job.line.variances)
    if potential is None:
        start = start_network if len(variances) <= MOST_DENSE else start_low_rank
        return start(rng, variances, chosen.num_layers, chosen.width)
    if potential is SeparablePotential:
        return with_network(rng, _alone(job.task, job.line), variances, chosen.num_layers, chosen.width)
    if isinstance(potential, AbstractPotential):
        return narrow(potential, np.float32)
    assert wanted.start is not None  # fit_brenier has asked.
    return narrow(BlendedPotential.from_plan(wanted.start, job.line, on_target=job.on_target), np.float32)


def _sparsity(rng: np.random.Generator, jobs: list[Job], wanted: Wanted, schedule: Schedule) -> Sparsity:
    """What displacements cost all members."""
    assert wanted.penalty is not None  # The caller has looked.
    lines, strength = [job.line for job in jobs], wanted.penalty.strength
    cost = displacement_cost(wanted.penalty, lines, [job.on_target for job in jobs])
    if as_annealing(strength) is None and wanted.max_moved is None:
        return Sparsity(cost, in_whitened_units(float(strength), lines))
    settings = _annealing(wanted).with_steps(schedule.num_steps)
    tasks, rate = [job.task for job in jobs], schedule.learning_rate
    return searched(rng, cost, lines, tasks, settings, wanted.max_moved, wanted.threshold, rate)


def _package(
    jobs: list[Job], trained: Trained, source: Sample, target: Sample, size: int, wanted: Wanted
) -> BrenierFit:
    """The fit in the units and the precision of the data."""
    dtype = wanted.dtype
    tasks, lines, on_target = (list(parts) for parts in zip(*jobs, strict=True))
    found = evidence(trained.potential, tasks, lines, on_target, trained.values, size, wanted.threshold)
    result = trained.result
    if succeeded(result) and not found.converged:
        result = RESULTS.conjugate_not_converged
    host = jax.tree.map(np.asarray, trained.potential)
    sides = []
    for side in (False, True):
        index = np.flatnonzero(np.array(on_target) == side)
        if not len(index):
            sides.append(None)
            continue
        potential = narrow(jax.tree.map(lambda leaf, i=index: leaf[i], host), dtype)
        sides.append(Members(potential, stacked([lines[i] for i in index])))
    whole, moved = BrenierMap(*sides), found.moved
    strength = trained.strength
    if wanted.penalty is not None:
        moved, _ = share_moved(whole, source, wanted.threshold)
        if strength is None and as_annealing(wanted.penalty.strength) is None:
            strength = float(wanted.penalty.strength)
    if wanted.max_moved is not None and succeeded(result):
        every_point = _annealing(wanted).every_point
        most = _most_moved(whole, source, wanted.threshold) if every_point else float(np.sum(moved))
        if most > wanted.max_moved:
            result = RESULTS.too_many_moved
    numbers = found.value, found.standard_error, found.trace, trained.steps, found.residual, moved
    value, error, trace, steps, residual, moved = (
        to_jax(number, dtype if np.asarray(number).dtype.kind == "f" else None) for number in numbers
    )
    num_rows = len(source.points), len(target.points)
    return BrenierFit(
        whole,
        value,
        error,
        trace,
        steps,
        residual,
        trained.num_steps,
        num_rows,
        result,
        moved,
        wanted.threshold,
        wanted.names,
        strength,
        path=trained.path,
    )


def share_moved(whole: BrenierMap | GatedMap, source: Sample, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of points that move, and the mean displacement, for each coordinate; some points of many are seen."""
    index, moved = _displacements(whole, source)
    weight = np.ones(len(index)) if source.weight is None else source.weight[index]
    share = weight / weight.sum()
    return share @ (np.abs(moved) > threshold), share @ moved


def _most_moved(whole: BrenierMap, source: Sample, threshold: float) -> float:
    """How many coordinates move of the point of which most do."""
    return float(np.max(np.sum(np.abs(_displacements(whole, source)[1]) > threshold, axis=1)))


def _displacements(whole: BrenierMap | GatedMap, source: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Some of the source points, and their displacements."""
    index = spread_indices(len(source.points), _LOOKED_AT)
    points = source.points[index]
    return index, np.asarray(whole.push_forward(points), np.float64) - points
