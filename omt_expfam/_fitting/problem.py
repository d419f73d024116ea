"""A fitting problem in standardized units: its data, its prior, its starts, and EM with reseeding.

Three compiled programs do the work (where EM starts, EM, merging); the host carries results from one to the next.
Points and components are padded to sizes that many problems share: points of weight zero, and components of weight zero
that stay at zero.
"""

import contextlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import power_of_two, safe_log
from .._base.buckets import component_bucket, cut, pad, pad_zero, point_bucket
from .._base.progress import progress_bar
from .._base.xla import program
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily, joint_table
from .._family.template import Template
from .em import chunk_data, EMState, initial_state, run, start_from_responsibilities
from .start import merged_start, seed_from_kmeans, seed_from_means, seeding_of

# Numbers held at once by an E-step before the data are cut into chunks, and the size of a chunk then.
_WHOLE, _CHUNK = 2**25, 2**21
# Points used to find a start, per fit and per component.
_START_POINTS, _START_POINTS_PER_COMPONENT = 5_000, 500
# EM steps of the overfitted mixture before merging.
_OVERFIT_STEPS = 12
# Room for overfitted components, at least.
_LEAST_START = 16
_RESEEDS = 3
# Numbers in the sums of an E-step (points times components times parameters) up to which room for the overfitted
# mixture is kept to the end, and up to which components are padded at all: less work than a compilation.
_SMALL, _MEDIUM = 2**17, 1_500_000
# Steps between two updates of a progress bar.
_STEPS_SHOWN = 25


def working_precision(dtype: str) -> contextlib.AbstractContextManager:
    """The context in which problems of this dtype are made and solved, whatever JAX's global flags."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


class MovedStart(NamedTuple):
    """A start in the units of the data, and how to standardize it."""

    mixture: Mixture
    shift: np.ndarray
    scale: np.ndarray


class Facts(NamedTuple):
    """What a family says of itself for a given number of components and dimensions.

    Attributes:
        num_parameters: Free parameters of one component.
        prior_strength: Its default number of pseudo-observations.
        numbers_per_point: How many numbers the E-step holds of each point, besides the responsibilities.
        keeps_family: Whether merging is done in the family itself.
    """

    num_parameters: int
    prior_strength: float
    numbers_per_point: int
    keeps_family: bool


class FitProblem(NamedTuple):
    """The standardized data, padded, and everything that stays fixed during a fit.

    Attributes:
        template: The family with its fixed parameters.
        facts: What it says of itself.
        x: Points, shape ``[m, d]``.
        weight: Their weights, shape ``[m]``; zero beyond the first ``num_points``.
        num_points: Number of points n.
        num_components: Number of components K.
        slots: Room for components in the main iteration, at least K.
        start_slots: Room for components where the start is sought.
        strength: Number of pseudo-observations.
        ridge: What is added to variances.
        chunk: Points per E-step.
        shift: What standardization subtracted, shape ``[d]``.
        scale: What it divided by, shape ``[d]``.
    """

    template: Template
    facts: Facts
    x: Float[Array, "m d"]
    weight: Float[Array, " m"]
    num_points: int
    num_components: int
    slots: int
    start_slots: int
    strength: Float[Array, ""]
    ridge: Float[Array, ""]
    chunk: int
    shift: Float[Array, " d"]
    scale: Float[Array, " d"]

    def subset(self, random: np.random.Generator) -> tuple[Float[Array, "m d"], Float[Array, " m"]]:
        """Enough points to find a start, padded."""
        num = max(_START_POINTS, _START_POINTS_PER_COMPONENT * self.num_components)
        if self.num_points <= num:
            return self.x, self.weight
        chosen = random.choice(self.num_points, num, replace=False, shuffle=False)
        size = point_bucket(num)
        x, weight = np.asarray(self.x)[chosen], np.asarray(self.weight)[chosen]
        return jax.device_put((pad(x, size), pad_zero(weight, size)))


def fit_problem(
    template: Template,
    points: np.ndarray,
    weight: np.ndarray,
    num_components: int,
    covariance_prior: float | None,
    regularization: float,
    chunk_size: int | None,
    dtype: str,
    shift: np.ndarray,
    scale: np.ndarray,
) -> FitProblem:
    """The problem in standardized units, padded; to be called where arrays have the precision of the computation."""
    num, dim = points.shape
    facts = facts_of(template, num_components, dim, dtype)
    size = point_bucket(num)
    # The corner of the data is in the support of any family and the last in every order.
    x = (points - shift) / scale
    x = np.concatenate([x, np.broadcast_to(x.max(axis=0), (size - num, dim))])
    strength = facts.prior_strength if covariance_prior is None else covariance_prior
    slots, start_slots = _slots(template, facts, size, num_components)

    def on_device(value: Any) -> Array:
        return jax.device_put(np.asarray(value, dtype))

    return FitProblem(
        template,
        facts,
        on_device(x),
        on_device(pad_zero(weight, size)),
        num,
        num_components,
        slots,
        start_slots,
        on_device(strength),
        on_device(regularization),
        _chunk(template, facts, size, slots, chunk_size),
        on_device(shift),
        on_device(scale),
    )


def facts_of(template: Template, num_components: int, dim: int, dtype: str) -> Facts:
    """What a family says of itself, found without computing anything."""
    found = {}

    def look(point: Array) -> Any:
        blank = template.blank(num_components, dim, dtype)
        seeding = seeding_of(blank, num_components)
        found["facts"] = blank._num_parameters(), float(blank._prior_strength()), type(seeding) is type(blank)
        return blank._prepare(point)

    ready = jax.eval_shape(look, jax.ShapeDtypeStruct((dim, 1), dtype))
    parameters, strength, keeps_family = found["facts"]
    return Facts(parameters, strength, sum(leaf.size for leaf in jax.tree.leaves(ready)), keeps_family)


def _slots(template: Template, facts: Facts, num_points: int, num: int) -> tuple[int, int]:
    """Room for components in the main iteration and where the start is sought."""
    if template.per_component:
        return num, 2 * num
    work = num_points * facts.num_parameters
    start = max(_LEAST_START, power_of_two(2 * num))
    if facts.keeps_family and work * start <= _SMALL:
        return start, start
    return component_bucket(num) if work * component_bucket(num) <= _MEDIUM else num, start


def _chunk(template: Template, facts: Facts, num_points: int, slots: int, chunk_size: int | None) -> int:
    """Points per E-step."""
    if not template.family.streams:
        return num_points
    if chunk_size is not None:
        return min(chunk_size, num_points)
    per_point = facts.numbers_per_point + 3 * slots
    return num_points if num_points * per_point <= _WHOLE else min(num_points, max(256, _CHUNK // per_point))


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
        x, weight = problem.subset(key.generator(turn))
        marked = jax.device_put(pad_zero(empty, problem.slots))
        state = _reseed(problem.template, state, x, weight, marked, problem.ridge)


def first_state(problem: FitProblem, key: StartKey, start: Any, max_steps: int) -> EMState:
    """The state that EM starts from."""
    template, num = problem.template, problem.num_components
    if isinstance(start, MovedStart):
        return moved_state(problem, start, max_steps)
    random = key.generator(0)
    x, weight = problem.subset(random)
    # Below one also after rounding.
    uniform = np.minimum(random.random(problem.start_slots), 1 - 2 * np.finfo(x.dtype).eps).astype(x.dtype)
    one, two = jax.device_put((np.asarray(num), np.asarray(2 * num)))
    ridge, room = problem.ridge, problem.slots
    settings = ridge, max_steps
    if isinstance(start, np.ndarray):
        means = jax.device_put(pad(start.astype(x.dtype), room))
        return _seeded_state(template, means, x, weight, room, False, one, *settings)
    if start == "merge" and 2 * num <= problem.num_points and num > 1:
        places = jax.device_put(uniform)
        state = _seeded_state(
            template, places, x, weight, problem.start_slots, not problem.facts.keeps_family, two, *settings
        )
        zero, stop = jax.device_put((np.zeros((), x.dtype), np.asarray(_OVERFIT_STEPS)))
        no_units = jax.device_put((np.zeros(x.shape[1], x.dtype), np.ones(x.shape[1], x.dtype)))
        state, _ = _em(state, x, weight, x.shape[0], zero, ridge, zero, stop, no_units)
        return _merged_state(template, state.counts, state.components, x, weight, room, two, one, *settings)
    return _seeded_state(template, jax.device_put(uniform[:room]), x, weight, room, False, one, *settings)


def moved_state(problem: FitProblem, start: MovedStart, max_steps: int) -> EMState:
    """The state before the first step from a given mixture."""
    weights = pad_zero(start.mixture.weights, problem.slots)
    components = pad(start.mixture.components, problem.slots)
    weights, components, shift, scale = jax.device_put((weights, components, start.shift, start.scale))
    return _moved_state(weights, components, shift, scale, problem.x.dtype.name, max_steps)


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
    x: Float[Array, "n d"],
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
    settings = problem.chunk, problem.strength, problem.ridge, limit, stop
    return _em(state, problem.x, problem.weight, *settings, (problem.shift, problem.scale))


def _climb(
    problem: FitProblem, state: EMState, tolerance: float, max_steps: int, progress: bool | None
) -> tuple[EMState, Mixture]:
    """EM to convergence; where a progress bar is wanted, in blocks of steps."""
    with progress_bar(max_steps, "EM", progress) as bar:
        while True:
            before = int(state.num_steps)
            stop = max_steps if bar.disable else min(before + _STEPS_SHOWN, max_steps)
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
    num = problem.num_components
    parts = (state.log_weights, state.components, state.counts)
    state = eqx.tree_at(lambda s: (s.log_weights, s.components, s.counts), state, cut(parts, num))
    return state, cut(mixture, num)
