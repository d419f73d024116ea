"""EM on a fitting problem: where it starts, its steps, and reseeding.

Three compiled programs do the work (where EM starts, EM, merging); the host carries results from one to the next.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import safe_log
from .._base.buckets import cut, pad, pad_zero
from .._base.progress import progress_bar
from .._base.xla import program
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily, joint_table
from .._family.template import Template
from .em import chunk_data, EMState, initial_state, run, start_from_responsibilities
from .leap import SPAN
from .problem import FitProblem, MovedStart
from .row_steps import steps_over_rows
from .start import merged_start, seed_from_kmeans, seed_from_means, seeding_of

# EM steps of the overfitted mixture before merging.
_OVERFIT_STEPS = 12
_RESEEDS = 3
# The least regularization of a start that is sought in another family.
_LEAST_RIDGE = 1e-6
# Room, at least, where a given mixture is moved to the units of the problem.
_LEAST_MOVED = 16


class StartKey(NamedTuple):
    """The random key of a fit and which of its starts is meant.

    Starts draw few numbers, which are drawn on the host: nothing is compiled for them.
    """

    key: Key[Array, ""]
    index: int

    def generator(self, turn: int) -> np.random.Generator:
        """A generator of its own for each turn."""
        words = np.ravel(np.asarray(jax.random.key_data(self.key)))
        return np.random.default_rng([*words.tolist(), self.index, turn])


class Overfitted(NamedTuple):
    """More components than are wanted, and the points that they were fitted to."""

    state: EMState
    x: Float[Array, "m d"]
    weight: Float[Array, " m"]


class SharedStart:
    """Where fits of several sizes to the same points start: one overfitted mixture, which each of them merges.

    The first fit seeks it, for each of its starts.

    Args:
        largest: The largest number of components; twice as many are fitted.
        room: Where another start of more components is sought as well, their number: both share programs then.
    """

    def __init__(self, largest: int, room: int = 0):
        self.largest, self.room = largest, max(largest, room)
        self._found: dict[int, Overfitted] = {}

    def of(self, problem: FitProblem, key: "StartKey", max_steps: int) -> Overfitted:
        """The overfitted mixture of one of several starts."""
        if key.index not in self._found:
            self._found[key.index] = _overfitted(problem, key, self.largest, self.room, max_steps)
        return self._found[key.index]


def solve_once(
    problem: FitProblem, key: StartKey, start: Any, tolerance: float, max_steps: int, progress: bool | None
) -> tuple[EMState, Mixture]:
    """Run EM from one of several starts.

    Returns:
        The last state, evaluated, and its mixture in the units of the data; on the host, without padding.
    """
    state = first_state(problem, key, start, max_steps)
    turn = 0
    while True:
        state, mixture = _climb(problem, state, tolerance, max_steps, progress)
        counts = np.asarray(state.counts)[: problem.num_components]
        empty = counts <= 1e-6 * counts.sum() / problem.num_components
        if not empty.any() or turn == _RESEEDS or int(state.num_steps) >= max_steps:
            return without_padding(problem, state, mixture)
        turn += 1
        x, weight = problem.subset(key.generator(turn), problem.num_components)
        marked = jax.device_put(pad_zero(empty, problem.slots))
        state = _reseed(problem.template, state, x, weight, marked, problem.ridge)


def first_state(problem: FitProblem, key: StartKey, start: Any, max_steps: int) -> EMState:
    """The state that EM starts from."""
    if isinstance(start, MovedStart):
        return moved_state(problem, start, max_steps)
    num, room = problem.num_components, problem.slots
    if isinstance(start, str):
        start = SharedStart(num if start == "merge" else 0)
    if isinstance(start, SharedStart) and 1 < num <= start.largest and 2 * start.largest <= problem.num_points:
        many = start.of(problem, key, max_steps)
        two, one = jax.device_put((np.asarray(2 * start.largest), np.asarray(num)))
        found = many.state.counts, many.state.components, many.x, many.weight
        # With room for the largest of them, all sizes are merged by one program.
        most = max(room, start.room)
        state = _merged_state(problem.template, *found, most, two, one, problem.ridge, max_steps)
        return _with_components(state, room)
    random = key.generator(0)
    x, weight = problem.subset(random, num)
    places = pad(start.astype(x.dtype), room) if isinstance(start, np.ndarray) else _levels(random, room, x.dtype)
    places, one = jax.device_put((places, np.asarray(num)))
    return _seeded_state(problem.template, places, x, weight, room, False, one, problem.ridge, max_steps)


def _overfitted(problem: FitProblem, key: StartKey, num_components: int, most: int, max_steps: int) -> Overfitted:
    """A few EM steps, without prior, of twice as many components as a number of them."""
    random = key.generator(0)
    x, weight = problem.subset(random, num_components)
    room = problem.start_slots(most)
    places, two = jax.device_put((_levels(random, room, x.dtype), np.asarray(2 * num_components)))
    other_family, ridge = not problem.facts.keeps_family, problem.ridge
    if other_family:
        # Gaussians, whose variances end at zero where counts are all the same.
        ridge = jax.device_put(np.maximum(np.asarray(ridge), np.asarray(_LEAST_RIDGE, x.dtype)))
    state = _seeded_state(problem.template, places, x, weight, room, other_family, two, ridge, max_steps)
    zero, stop = jax.device_put((np.zeros((), x.dtype), np.asarray(_OVERFIT_STEPS)))
    dim = state.components.dim
    no_units = jax.device_put((np.zeros(dim, x.dtype), np.ones(dim, x.dtype)))
    return Overfitted(_em(state, x, weight, x.shape[0], zero, ridge, zero, stop, no_units)[0], x, weight)


def _levels(random: np.random.Generator, num: int, dtype: Any) -> np.ndarray:
    """Random numbers below one, also after rounding."""
    return np.minimum(random.random(num), 1 - 2 * np.finfo(dtype).eps).astype(dtype)


def moved_state(problem: FitProblem, start: MovedStart, max_steps: int) -> EMState:
    """The state before the first step from a given mixture; few components share one program, whatever their number."""
    room = max(_LEAST_MOVED, problem.slots)
    weights, components = pad_zero(start.mixture.weights, room), pad(start.mixture.components, room)
    weights, components, shift, scale = jax.device_put((weights, components, start.shift, start.scale))
    state = _moved_state(weights, components, shift, scale, problem.x.dtype.name, max_steps)
    return _with_components(state, problem.slots)


@program
def _moved_state(
    weights: Array, components: AbstractEMFamily, shift: Array, scale: Array, dtype: str, max_steps: int
) -> EMState:
    weights, components, shift, scale = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (weights, components, shift, scale)
    )
    return initial_state(safe_log(weights), components._affine(-shift / scale, 1 / scale), max_steps)


@program
def _seeded_state(
    template: Template,
    place: Array,
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    slots: int,
    overfit: bool,
    num_components: Int[Array, ""],
    ridge: Float[Array, ""],
    max_steps: int,
) -> EMState:
    """The state before the first step from k-means with its random numbers, or from given means."""
    blank = template.blank(slots, x.shape[1], x.dtype)
    blank = seeding_of(blank, slots) if overfit else blank
    seed = seed_from_kmeans if place.ndim == 1 else seed_from_means
    return initial_state(*seed(place, x, weight, blank, num_components, ridge), max_steps)


@program
def _merged_state(
    template: Template,
    counts: Float[Array, " J"],
    components: AbstractEMFamily,
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    slots: int,
    num_fitted: Int[Array, ""],
    num_components: Int[Array, ""],
    ridge: Float[Array, ""],
    max_steps: int,
) -> EMState:
    """The state before the first step from an overfitted mixture."""
    assert isinstance(components, AbstractRegularEMFamily)
    blank = template.blank(slots, x.shape[1], x.dtype)
    start = merged_start(counts, components, x, weight, blank, num_fitted, num_components, ridge)
    return initial_state(*start, max_steps)


@program
def _em(
    state: EMState,
    x: Float[Array, "n w"],
    weight: Float[Array, " n"],
    chunk: int,
    strength: Float[Array, ""],
    ridge: Float[Array, ""],
    tolerance: Float[Array, ""],
    stop_at: Int[Array, ""],
    units: tuple[Float[Array, " d"], Float[Array, " d"]],
) -> tuple[EMState, Mixture]:
    """EM, and the mixture in the units of the data; compiled, so that a failed one is returned and not refused."""
    data = chunk_data(state.components, x, weight, chunk)
    state = run(state, data, strength, ridge, tolerance, stop_at)
    return state, Mixture(jnp.exp(state.log_weights), state.components._affine(*units))


def steps_of(problem: FitProblem, state: EMState, tolerance: float, stop_at: int) -> tuple[EMState, Mixture]:
    """EM on all data up to a number of steps; with 0 an evaluation."""
    limit, stop = jax.device_put((np.asarray(tolerance, problem.x.dtype), np.asarray(stop_at)))
    if problem.rows is not None:
        return steps_over_rows(problem, *problem.rows, state, limit, stop)
    settings = problem.chunk, problem.strength, problem.ridge, limit, stop
    return _em(state, problem.x, problem.weight, *settings, (problem.shift, problem.scale))


def _climb(
    problem: FitProblem, state: EMState, tolerance: float, max_steps: int, progress: bool | None
) -> tuple[EMState, Mixture]:
    """EM to convergence; where a progress bar is wanted, in blocks of steps."""
    with progress_bar(max_steps, "EM", progress) as bar:
        while True:
            before = int(state.num_steps)
            stop = max_steps if bar.disable else min(before + SPAN, max_steps)
            state, mixture = steps_of(problem, state, tolerance, stop)
            after = int(state.num_steps)
            bar.update(after - before)
            bar.set_postfix_str(f"objective {float(state.objective):.6g}", refresh=False)
            if after < stop or after >= max_steps or after == before:
                return state, mixture


@program
def _reseed(template: Template, state: EMState, x: Array, weight: Array, empty: Array, ridge: Array) -> EMState:
    """Move components that no point supports to the points that the mixture explains worst."""
    num = state.log_weights.shape[0]
    blank = template.blank(num, x.shape[1], x.dtype)
    ready = state.components._prepare(x.T)
    joint = joint_table(state.log_weights, state.components, ready)
    table = jax.nn.softmax(joint, axis=0) * weight[None]
    log_likelihood = jnp.where(weight > 0, jax.nn.logsumexp(joint, axis=0), jnp.inf)
    worst = jnp.argsort(log_likelihood)[:num]
    # The empty components first, in order; each gets a point of its own, which the others lose.
    order = jnp.argsort(~empty, stable=True)[: worst.shape[0]]
    moves = empty[order]
    table = table.at[:, worst].multiply(jnp.where(moves, 0.0, 1.0)[None].astype(table.dtype))
    table = table.at[order, worst].add(jnp.where(moves, weight[worst], 0.0))
    log_weights, components = start_from_responsibilities(blank, x, table, ridge)
    infinite = jnp.asarray(jnp.inf, x.dtype)
    return eqx.tree_at(
        lambda s: (s.log_weights, s.components, s.objective, s.change),
        state,
        (log_weights, components, -infinite, infinite),
    )


def without_padding(problem: FitProblem, state: EMState, mixture: Mixture) -> tuple[EMState, Mixture]:
    """The state and the mixture on the host, with the components that are in use."""
    state, mixture = jax.tree.map(np.asarray, (state, mixture))
    return _with_components(state, problem.num_components), cut(mixture, problem.num_components)


def _with_components(state: EMState, num: int) -> EMState:
    """The state of the first components alone."""
    parts = cut((state.log_weights, state.components, state.counts), num)
    return eqx.tree_at(lambda s: (s.log_weights, s.components, s.counts), state, parts)
