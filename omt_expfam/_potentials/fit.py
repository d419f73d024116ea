"""Fitting the optimal map between two samples: convex potentials, trained by the semi-dual of optimal transport."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arguments import ArrayLike, as_key, KeyLike
from .._base.arrays import stacked, to_jax
from .._base.buckets import point_bucket
from .._base.precision import narrow
from .._base.results import raise_if_failed, RESULTS, succeeded
from .._plans.plan import TransportPlan
from .blend import BlendedPotential
from .certificates import Certificate
from .evidence import evidence
from .interface import AbstractPotential
from .line import StraightLine
from .map import BrenierMap
from .members import Members
from .network import start_network
from .recipe import Recipe, recipe
from .samples import make_task, read_samples, Sample
from .tasks import Task
from .train import Schedule, train, Trained


class BrenierFit(eqx.Module):
    """A fitted optimal map and the evidence for it.

    The dual value of a potential phi is the mean of |x|^2 - 2 phi(x) over the source plus that of |y|^2 - 2 phi*(y)
    over the target. For any convex phi it is at most the squared Wasserstein-2 distance, which it reaches for the
    potential of the optimal map.

    Attributes:
        map: The map.
        held_out_value: The dual value on points that the members were not trained with, in units of squared distance:
            the mean over members, each on its own points. They also chose when to stop, so that it is slightly too
            large where they are few.
        held_out_error: Its standard error, from the spread of its terms.
        trace: The same for each look during training, shape ``[looks]``; the first one is before the first step.
        trace_steps: The number of steps before each look.
        inner_residual: Root mean square of y - grad phi(x*) over held-out points, in units of the points: how exactly
            their conjugate points are known.
        num_steps: Steps taken.
        num_rows: Points of source and target that training used.
        result: Why training stopped.
    """

    map: BrenierMap
    held_out_value: Float[Array, ""]
    held_out_error: Float[Array, ""]
    trace: Float[Array, " looks"]
    trace_steps: Int[Array, " looks"]
    inner_residual: Float[Array, ""]
    num_steps: int = eqx.field(static=True)
    num_rows: tuple[int, int] = eqx.field(static=True)
    result: Any

    @property
    def converged(self) -> bool:
        """Whether training ran to its end, and the held-out value is exact."""
        return succeeded(self.result)

    def certificate(self, key: KeyLike, x: ArrayLike, y: ArrayLike, plan: TransportPlan | None = None) -> Certificate:
        """Bounds of the squared distance of the two laws, from points that the fit has not seen.

        See `BrenierMap.certificate`.
        """
        return self.map.certificate(key, x, y, plan)

    def __repr__(self) -> str:
        note = "" if self.converged else f"; {RESULTS[self.result].split(';')[0].split('.')[0]}"
        return (
            f"BrenierFit({self.map}, {self.num_steps} steps, held-out dual value {float(self.held_out_value):.6g} "
            f"± {float(self.held_out_error):.2g} after {float(self.trace[0]):.6g}, "
            f"inner residual {float(self.inner_residual):.1g}{note})"
        )


class _Job(NamedTuple):
    """One member, its coordinates and what it learns from."""

    task: Task
    line: StraightLine
    on_target: bool


def fit_brenier(
    key: KeyLike,
    x: ArrayLike | None,
    y: ArrayLike | None,
    *,
    start: TransportPlan | None = None,
    potential: AbstractPotential | type | None = None,
    source_weight: ArrayLike | None = None,
    target_weight: ArrayLike | None = None,
    num_members: int | None = None,
    num_target_members: int | None = None,
    num_layers: int | None = None,
    width: int | None = None,
    noise: float | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> BrenierFit:
    """Fit the optimal map between two samples, the gradient of a convex potential.

    Several potentials are trained, each by stochastic descent of the semi-dual (Makkuva et al., 2020) in the
    coordinates of a straight line of its own (`StraightLine`), each with some points held out that say when it was
    best; the map is the average of theirs. All that is not given follows from the numbers of points and dimensions.
    Ctrl-C stops training and returns what it has.

    Args:
        key: Random key of the starts, the order of points and the noise.
        x: Source points, shape ``[n0, d]``; or ``None`` with a ``start``.
        y: Target points, shape ``[n1, d]``; or ``None`` with a ``start``.
        start: A plan, whose `pull_back` gives first conjugate points; where ``x`` and ``y`` are ``None``, the points
            are drawn from its mixtures.
        potential: Where every member starts, in whitened coordinates, in which the identity is the best linear map;
            by default a `ConvexNetwork` near the half square. Or the class `BlendedPotential`, made from
            ``start``: a readable blend of affine maps, which suits few dimensions.
        source_weight: Nonnegative weights of the source points, shape ``[n0]``.
        target_weight: Nonnegative weights of the target points, shape ``[n1]``.
        num_members: Potentials of source points.
        num_target_members: Potentials of target points, whose conjugates are part of the map; none where a
            ``potential`` is given.
        num_layers: Layers of each network.
        width: Units of each layer.
        noise: Standard deviation of the Gaussian noise that smooths both samples, in whitened units, in which
            variances are one on average.
        num_steps: Steps of Adam.
        batch_size: Points of either sample per step.
        learning_rate: The largest learning rate; it warms up and falls to zero along a cosine.
        progress: Show a progress bar; by default on a terminal, after two seconds.
        throw: Raise when training fails; otherwise the fit's ``result`` tells. An interrupted fit is always returned.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If samples are not finite, too few, all equal or of different dimensions, or an argument is out of
            range.
        ConvergenceError: If training met values that are not finite, or held-out points have no conjugate points, and
            ``throw`` is true.
    """
    key = as_key(key)
    source, target, dtype = read_samples(key, x, y, start, source_weight, target_weight)
    dim, fewest = source.points.shape[1], min(len(source.points), len(target.points))
    if potential is BlendedPotential and start is None:
        raise ValueError("`start` must be a plan where `potential` is BlendedPotential; got None.")
    if not (potential is None or potential is BlendedPotential or isinstance(potential, AbstractPotential)):
        raise TypeError(
            "`potential` must be an AbstractPotential, the class BlendedPotential, or None; got "
            f"{getattr(potential, '__name__', type(potential).__name__)}."
        )
    if isinstance(potential, AbstractPotential) and potential.num_dimensions != dim:
        raise ValueError(f"`potential` must be of {dim} dimensions, as `x`; got {potential.num_dimensions}.")
    if potential is not None and num_target_members is None:
        num_target_members = 0
    chosen = recipe(
        fewest,
        dim,
        num_members=num_members,
        num_target_members=num_target_members,
        num_layers=num_layers,
        width=width,
        noise=noise,
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
    )
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    source, target = source.some(rng), target.some(rng)
    jobs = _jobs(rng, source, target, start, (chosen.num_members, chosen.num_target_members), dtype)
    begin = [_begin(rng, potential, start, job, chosen) for job in jobs]
    schedule = Schedule(chosen.num_steps, chosen.batch_size, chosen.learning_rate, chosen.noise, chosen.ascent_steps)
    tasks = [job.task for job in jobs]
    rows = point_bucket(max(len(source.points), len(target.points)))
    held_out = point_bucket(max(len(side.held_out) for task in tasks for side in (task.source, task.target)))
    trained = train(rng, stacked(begin), tasks, schedule, rows, held_out, progress)
    fitted = _package(jobs, trained, (len(source.points), len(target.points)), held_out, dtype)
    return fitted if not throw or _may_return(fitted.result) else raise_if_failed(fitted, fitted.result)


def _jobs(
    rng: np.random.Generator,
    source: Sample,
    target: Sample,
    start: TransportPlan | None,
    nums: tuple[int, int],
    dtype: str,
) -> list[_Job]:
    """All members, those on the source side first."""
    jobs = []
    for num, on_target in zip(nums, (False, True), strict=True):
        if num == 0:
            continue
        sides = (target, source) if on_target else (source, target)
        starts = None
        if start is not None:
            plan = start.reverse() if on_target else start
            starts = np.asarray(plan.pull_back(sides[1].points), np.float64)
        for held_out in zip(*(side.folds(rng, num) for side in sides), strict=True):
            jobs.append(_Job(*make_task(*sides, held_out, starts, dtype), on_target))
    return jobs


def _begin(
    rng: np.random.Generator,
    potential: AbstractPotential | type | None,
    start: TransportPlan | None,
    job: _Job,
    chosen: Recipe,
) -> AbstractPotential:
    """Where one member starts, in its coordinates."""
    if potential is None:
        return start_network(rng, np.asarray(job.line.variances), chosen.num_layers, chosen.width)
    if isinstance(potential, AbstractPotential):
        return narrow(potential, np.float32)
    assert start is not None  # fit_brenier has asked.
    return narrow(BlendedPotential.from_plan(start, job.line, on_target=job.on_target), np.float32)


def _package(jobs: list[_Job], trained: Trained, num_rows: tuple[int, int], size: int, dtype: str) -> BrenierFit:
    """The fit in the units and the precision of the data."""
    tasks, lines, on_target = (list(parts) for parts in zip(*jobs, strict=True))
    found = evidence(trained.potential, tasks, lines, on_target, trained.values, size)
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
    numbers = found.value, found.standard_error, found.trace, trained.steps, found.residual
    value, error, trace, steps, residual = (
        to_jax(number, dtype if np.asarray(number).dtype.kind == "f" else None) for number in numbers
    )
    return BrenierFit(BrenierMap(*sides), value, error, trace, steps, residual, trained.num_steps, num_rows, result)


def _may_return(result: Any) -> bool:
    return succeeded(result) or bool(result == RESULTS.potential_interrupted)
