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
from .blend import BlendedPotential
from .displacements import displacement_cost, in_whitened_units
from .evidence import evidence, improves
from .fitted import BrenierFit
from .interface import AbstractPotential
from .line import StraightLine
from .map import BrenierMap
from .members import Members
from .network import start_network
from .penalties import AbstractPenalty
from .recipe import Recipe
from .samples import make_task, Sample
from .separable import SeparablePotential, start_separable, with_network
from .tasks import Task
from .train import Schedule, Sparsity, train, Trained

# Source points whose images say how many coordinates move.
_LOOKED_AT = 2000


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
    """

    potential: AbstractPotential | type | None
    start: TransportPlan | None
    penalty: AbstractPenalty | None
    threshold: float
    names: tuple[str, ...] | None
    dtype: str
    progress: bool | None


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
    sparsity = None if wanted.penalty is None else _sparsity(jobs, wanted.penalty)
    alone = eqx.tree_at(lambda one: one.network, begin, None) if wanted.potential is SeparablePotential else None
    trained = train(rng, begin, tasks, schedule, rows, held_out, wanted.progress, sparsity)
    if alone is not None and not improves(begin, trained.potential, tasks, held_out):
        # What the network has learned about coordinates together is noise.
        trained = trained._replace(potential=alone)
    return _package(jobs, trained, source, target, held_out, wanted)


def fit_separable(rng: np.random.Generator, source: Sample, target: Sample, wanted: Wanted) -> BrenierFit:
    """One-dimensional maps of all points; the evidence is that of the maps without a fifth of them."""
    source, target = source.some(rng), target.some(rng)
    wanted = wanted._replace(potential=SeparablePotential, start=None)
    job = _jobs(rng, source, target, wanted, (1, 0))[0]
    held_out = point_bucket(max(len(job.task.source.held_out), len(job.task.target.held_out)))
    potential = stacked([_alone(job.task)])
    trained = Trained(potential, None, np.zeros(1, np.int32), 0, RESULTS.successful)
    found = _package([job], trained, source, target, held_out, wanted)
    everything = [np.zeros(0, int)] * 2
    task, line = make_task(source, target, (everything[0], everything[1]), None, wanted.dtype, along_axes=True)
    members = stacked([Members(narrow(_alone(task), wanted.dtype), line)])
    return dataclasses.replace(found, map=BrenierMap(members))


def _alone(task: Task) -> SeparablePotential:
    """One-dimensional maps of what a member learns from."""
    sides = task.source, task.target
    weights = [None if side.weight is None else side.weight[side.training] for side in sides]
    points = [side.points[side.training] for side in sides]
    return start_separable(points[0], points[1], weights[0], weights[1])


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
        starts = None
        if start is not None:
            plan = start.reverse() if on_target else start
            starts = np.asarray(plan.pull_back(sides[1].points), np.float64)
        for held_out in zip(*(side.folds(rng, num) for side in sides), strict=True):
            jobs.append(Job(*make_task(*sides, held_out, starts, wanted.dtype, along_axes), on_target))
    return jobs


def _begin(rng: np.random.Generator, wanted: Wanted, job: Job, chosen: Recipe) -> AbstractPotential:
    """Where one member starts, in its coordinates."""
    potential, variances = wanted.potential, np.asarray(job.line.variances)
    if potential is None:
        return start_network(rng, variances, chosen.num_layers, chosen.width)
    if potential is SeparablePotential:
        return with_network(rng, _alone(job.task), variances, chosen.num_layers, chosen.width)
    if isinstance(potential, AbstractPotential):
        return narrow(potential, np.float32)
    assert wanted.start is not None  # fit_brenier has asked.
    return narrow(BlendedPotential.from_plan(wanted.start, job.line, on_target=job.on_target), np.float32)


def _sparsity(jobs: list[Job], penalty: AbstractPenalty) -> Sparsity:
    """What displacements cost all members."""
    lines = [job.line for job in jobs]
    cost = displacement_cost(penalty, lines, [job.on_target for job in jobs])
    return Sparsity(cost, in_whitened_units(float(penalty.strength), lines))


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
    if wanted.penalty is not None:
        moved, _ = share_moved(whole, source, wanted.threshold)
    numbers = found.value, found.standard_error, found.trace, trained.steps, found.residual, moved
    value, error, trace, steps, residual, moved = (
        to_jax(number, dtype if np.asarray(number).dtype.kind == "f" else None) for number in numbers
    )
    num_rows = len(source.points), len(target.points)
    strength = None if wanted.penalty is None else float(wanted.penalty.strength)
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
    )


def share_moved(whole: BrenierMap, source: Sample, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The share of points that move, and the mean displacement, for each coordinate; some points of many are seen."""
    index = spread_indices(len(source.points), _LOOKED_AT)
    points = source.points[index]
    weight = np.ones(len(index)) if source.weight is None else source.weight[index]
    share = weight / weight.sum()
    moved = np.asarray(whole.push_forward(points), np.float64) - points
    return share @ (np.abs(moved) > threshold), share @ moved
