"""Training: stochastic descent of the semi-dual, all members of an ensemble side by side."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._base.precision import relaxed
from .._base.progress import progress_bar
from .._base.results import RESULTS, succeeded
from .._base.xla import jit_in_order, program
from .displacements import DisplacementCost
from .dual import ascend, dual_terms
from .held_out import Judge
from .interface import AbstractPotential
from .tasks import Side, Task

# Adam, and the longest gradient.
_MOMENTUM, _SQUARES, _CLIP, _WARM_UP = 0.9, 0.99, 1.0, 100
# Steps of one call at most, and numbers in their batches; looks at held-out points, at most.
_BLOCK, _LARGEST, _MOST_LOOKS = 100, 2**23, 25


class Schedule(eqx.Module):
    """How long and how fast.

    Attributes:
        num_steps: Steps of Adam.
        batch_size: Points of either sample per step.
        learning_rate: Of Adam; it warms up, and falls to zero along a cosine.
        noise: Standard deviation of the Gaussian noise that smooths both samples, in whitened units.
        ascent_steps: Steps of the search for conjugate points, at each step.
    """

    num_steps: int = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    learning_rate: float = eqx.field(static=True)
    noise: float = eqx.field(static=True)
    ascent_steps: int = eqx.field(static=True)

    def rates(self) -> Float[np.ndarray, " steps"]:
        """The learning rate of each step."""
        step = np.arange(self.num_steps)
        warm = np.minimum((step + 1) / min(_WARM_UP, max(self.num_steps // 10, 1)), 1.0)
        return (self.learning_rate * warm * (1 + np.cos(np.pi * step / self.num_steps)) / 2).astype(np.float32)

    @property
    def memory(self) -> float:
        """How much of the average of the weights a step keeps."""
        return 1 - 1 / min(max(self.num_steps / 30, 10.0), 300.0)


class Trained(NamedTuple):
    """What training gives.

    Attributes:
        potential: The members at their best looks, stacked.
        values: The held-out J of each look and member, whitened; the first look is before the first step. ``None``
            where nothing was trained.
        steps: The number of steps before each look.
        num_steps: Steps taken.
        result: Why training stopped.
        strength: That of the penalty, where it was searched for.
        path: How it was found.
    """

    potential: AbstractPotential
    values: Float[np.ndarray, "looks M"] | None
    steps: Int[np.ndarray, " looks"]
    num_steps: int
    result: Any
    strength: float | None = None
    path: Any = None


class _State(NamedTuple):
    """All members in training; leading axes are members."""

    potential: AbstractPotential
    average: AbstractPotential
    optimizer: Any
    shift: Any
    pace: Any


class Sparsity(NamedTuple):
    """What displacements cost in training.

    Attributes:
        cost: The penalty of all members.
        weight: What it is multiplied by for each, in whitened units; where there is a search, at its end.
        search: Finds the weight in training: from a trainer, to the weight, the strength and the path to it.
        num_steps: Steps that the search takes, more or less.
    """

    cost: DisplacementCost
    weight: Float[np.ndarray, " M"]
    search: Callable[["Trainer"], tuple[Float[np.ndarray, " M"], float, Any]] | None = None
    num_steps: int = 0


class Trainer:
    """All members in training, some steps at a time.

    Attributes:
        state: The members as they are.
        num_steps: Steps taken.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        potential: AbstractPotential,
        tasks: list[Task],
        schedule: Schedule,
        num_rows: int,
        cost: DisplacementCost | None,
        bar: Any,
    ) -> None:
        """Members before the first step; see `train`."""
        size, dim = schedule.batch_size, tasks[0].source.points.shape[1]
        self.block = max(1, min(_BLOCK, _LARGEST // (2 * len(tasks) * size * dim)))
        self.schedule = schedule
        self.state = _start(potential, _first_shift(tasks, num_rows))
        self.num_steps = 0
        self._cost, self._bar = cost, bar
        self._batches = zip(*(_batches(rng, task, schedule, self.block) for task in tasks), strict=True)

    def advance(self, rates: Float[np.ndarray, " steps"], weight: Float[np.ndarray, " M"] | None) -> None:
        """As many steps as there are learning rates."""
        memory, ascent_steps = np.float32(self.schedule.memory), self.schedule.ascent_steps
        for start in range(0, len(rates), self.block):
            some = rates[start : start + self.block].astype(np.float32)
            batch = tuple(np.stack(parts) for parts in zip(*next(self._batches), strict=True))
            rate = np.pad(some, (0, self.block - len(some)))
            price = None if self._cost is None else (self._cost, weight)
            self.state = _advance(self.state, batch, rate, memory, np.int32(len(some)), ascent_steps, price)
            self.num_steps += len(some)
            self._bar.update(len(some))


def train(
    rng: np.random.Generator,
    potential: AbstractPotential,
    tasks: list[Task],
    schedule: Schedule,
    num_rows: int,
    num_held_out: int,
    progress: bool | None,
    sparsity: Sparsity | None = None,
) -> Trained:
    """Train all members; the best held-out look of each is kept.

    Args:
        rng: Order of points, and noise.
        potential: Where training starts, stacked, in float32.
        tasks: What each member learns from.
        schedule: How long and how fast.
        num_rows: Number of rows to keep conjugate points for, at least the points of every target side.
        num_held_out: Number of rows for held-out points, at least those of every side.
        progress: As in `fit_brenier`.
        sparsity: What displacements cost, if they do.
    """
    rates, done, looked, result = schedule.rates(), 0, 0, RESULTS.successful
    strength = path = None
    pause = max(_BLOCK, schedule.num_steps // _MOST_LOOKS)
    cost, weight = (None, None) if sparsity is None else (sparsity.cost, sparsity.weight)
    total = schedule.num_steps + (0 if sparsity is None else sparsity.num_steps)
    with relaxed(), progress_bar(total, "potential", progress) as bar:
        trainer = Trainer(rng, potential, tasks, schedule, num_rows, cost, bar)
        judge = Judge(trainer.state.average, tasks, num_held_out, cost, weight)
        try:
            if sparsity is not None and sparsity.search is not None:
                weight, strength, path = sparsity.search(trainer)
                judge = Judge(trainer.state.average, tasks, num_held_out, cost, weight)
            while done < schedule.num_steps and succeeded(result):
                num = min(trainer.block, schedule.num_steps - done)
                trainer.advance(rates[done : done + num], weight)
                done += num
                if done - looked >= pause or done == schedule.num_steps:
                    looked = done
                    if not judge.look(trainer.state.average, done):
                        result = RESULTS.potential_not_finite
                    bar.set_postfix_str(f"held-out {judge.values[-1].mean():.6g}", refresh=False)
        except KeyboardInterrupt:
            result = RESULTS.potential_interrupted
    steps = np.asarray(judge.steps)
    return Trained(judge.best, np.stack(judge.values), steps, trainer.num_steps, result, strength, path)


def _batches(rng: np.random.Generator, task: Task, schedule: Schedule, block: int) -> Iterator[tuple[Any, Any, Any]]:
    """Blocks of batches: x and y, with noise, and which y they are."""
    shape = block, schedule.batch_size
    orders = [_order(rng, side, math.prod(shape)) for side in (task.source, task.target)]
    while True:
        picked = [next(order) for order in orders]
        points = [side.points[index] for side, index in zip((task.source, task.target), picked, strict=True)]
        if schedule.noise:
            points = [p + np.float32(schedule.noise) * rng.standard_normal(p.shape, np.float32) for p in points]
        x, y = (p.reshape(*shape, -1) for p in points)
        yield x, y, picked[1].reshape(shape).astype(np.int32)


def _order(rng: np.random.Generator, side: Side, size: int) -> Iterator[np.ndarray]:
    """Indices of training points, ``size`` at a time, so that all are seen equally often, or as often as they weigh."""
    waiting = np.empty(0, np.int64)
    share = None if side.weight is None else side.weight[side.training] / side.weight[side.training].sum()
    while True:
        while len(waiting) < size:
            if share is None:
                more = rng.permutation(side.training)
            else:
                more = rng.choice(side.training, size, p=share)
            waiting = np.concatenate([waiting, more])
        yield waiting[:size]
        waiting = waiting[size:]


def _first_shift(tasks: list[Task], num_rows: int) -> Float[np.ndarray, "M n d"]:
    """First conjugate points less their y, with zeros where none are given."""
    shift = np.zeros((len(tasks), num_rows, tasks[0].source.points.shape[1]), np.float32)
    for row, task in zip(shift, tasks, strict=True):
        if task.shift is not None:
            row[: len(task.shift)] = task.shift
    return shift


def _adam() -> Any:
    import optax

    return optax.chain(optax.clip_by_global_norm(_CLIP), optax.scale_by_adam(_MOMENTUM, _SQUARES))


@program
def _start(potential: AbstractPotential, shift: Any) -> _State:
    optimizer = jax.vmap(_adam().init)(eqx.filter(potential, eqx.is_inexact_array))
    return _State(potential, potential, optimizer, shift, jnp.ones(shift.shape[:2], shift.dtype))


@jit_in_order
def _advance(
    state: _State, batches: Any, rates: Any, memory: Any, num_steps: Any, ascent_steps: int, price: Any = None
) -> _State:
    """Some steps of every member, at most as many as there are batches."""

    def one(state: _State, batches: Any, price: Any) -> _State:
        return _advance_one(state, batches, rates, memory, num_steps, ascent_steps, price)

    return jax.vmap(one)(state, batches, price)


def _advance_one(
    state: _State, batches: Any, rates: Any, memory: Any, num_steps: Any, ascent_steps: int, price: Any
) -> _State:
    fixed = eqx.filter(state.potential, eqx.is_inexact_array, inverse=True)

    def step(i: Any, state: _State) -> _State:
        x, y, index = (part[i] for part in batches)
        found = ascend(state.potential, y, y + state.shift[index], state.pace[index], ascent_steps)

        def loss(free: Any) -> Any:
            potential = eqx.combine(free, fixed)
            of_x, of_y = dual_terms(potential, x, y, found.point)
            value = jnp.mean(of_x) + jnp.mean(of_y)
            if price is None:
                return value
            cost, weight = price
            return value + weight * jnp.mean(cost.values(potential, x))

        free = eqx.filter(state.potential, eqx.is_inexact_array)
        change, optimizer = _adam().update(jax.grad(loss)(free), state.optimizer)
        free = jax.tree.map(lambda p, c: p - rates[i] * c, free, change)
        average = eqx.filter(state.average, eqx.is_inexact_array)
        average = jax.tree.map(lambda a, p: memory * a + (1 - memory) * p, average, free)
        return _State(
            eqx.combine(free, fixed),
            eqx.combine(average, fixed),
            optimizer,
            state.shift.at[index].set(found.point - y),
            state.pace.at[index].set(found.pace),
        )

    return jax.lax.fori_loop(0, num_steps, step, state)
