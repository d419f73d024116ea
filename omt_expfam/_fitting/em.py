"""Expectation-maximization: the steps a family implements, and the one loop that runs them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._base.arrays import log_share
from .._base.xla import after
from .._components.sizes import without_sizes
from .._family.em_family import AbstractEMFamily, joint_table
from .leap import leap, Memory, NEAR, no_memory, take_back


class EMData(eqx.Module):
    """Data in chunks, padded with points of weight zero."""

    chunks: PyTree
    weight: Float[Array, "c b"]
    prepared: bool = eqx.field(static=True)


class EMState(eqx.Module):
    """One iterate of EM and its evidence.

    Attributes:
        log_weights: Log-weights; a component with ``-inf`` has no part in anything and stays as it is.
        components: The components.
        target: The target of the prior, the same for all steps.
        unstarted: Whether the target is still to be taken from the first sweep over the data.
        objective: The objective at the parameters before the last step.
        change: By how much that step's objective exceeded the one before it.
        fall: The most by which a step's objective fell short of the one before it, at least zero.
        num_steps: Steps taken.
        log_likelihoods: Mean log-likelihood before each step; NaN beyond ``num_steps``.
        objectives: The objective before each step.
        log_likelihood: Mean log-likelihood at the parameters.
        counts: Sums of responsibilities at the parameters.
        evaluated: Whether the last two have been computed.
    """

    log_weights: Float[Array, " K"]
    components: AbstractEMFamily
    target: PyTree
    unstarted: Array
    objective: Float[Array, ""]
    change: Float[Array, ""]
    fall: Float[Array, ""]
    num_steps: Array
    log_likelihoods: Float[Array, " steps"]
    objectives: Float[Array, " steps"]
    log_likelihood: Float[Array, ""]
    counts: Float[Array, " K"]
    evaluated: Array


def chunk_data(
    components: AbstractEMFamily,
    x: Float[Array, "n d"],
    weight: Float[Array, " n"],
    chunk: int,
) -> EMData:
    """Cut the data into equal chunks; a single chunk is prepared once and for all."""
    x = without_sizes(components, x)
    num = -(-x.shape[0] // chunk)
    pad = num * chunk - x.shape[0]
    padded = jnp.pad(x, ((0, pad), (0, 0)), mode="edge")
    chunks = jnp.swapaxes(padded.reshape(num, chunk, x.shape[1]), 1, 2)
    prepared = num == 1
    if prepared:
        ready = components._prepare(chunks[0])
        chunks = jax.tree.map(lambda leaf: leaf[None], ready)
    return EMData(chunks, jnp.pad(weight, (0, pad)).reshape(num, chunk), prepared)


def _expect(log_weights: Array, components: AbstractEMFamily, data: Any, weight: Array) -> Any:
    """The E-step of one chunk: weighted responsibilities and the sum of log-likelihoods."""
    joint = joint_table(log_weights, components, data)
    peak = jnp.max(joint, axis=0)
    peak = jnp.where(jnp.isfinite(peak), peak, jnp.zeros_like(peak))
    ratio = jnp.exp(joint - peak[None])
    total = jnp.sum(ratio, axis=0)
    used = weight > 0
    log_likelihood = jnp.sum(jnp.where(used, weight * (peak + jnp.log(total)), jnp.zeros_like(peak)))
    return ratio * (weight / total)[None], log_likelihood


def sweep(log_weights: Array, components: AbstractEMFamily, data: EMData) -> Any:
    """One pass over the data: effective sizes, sums, and the sum of log-likelihoods."""

    def one(chunk: tuple[PyTree, Array]) -> Any:
        raw, weight = chunk
        ready = raw if data.prepared else components._prepare(raw)
        responsibilities, log_likelihood = _expect(log_weights, components, ready, weight)
        sums = components._accumulate(ready, responsibilities)
        return jnp.sum(responsibilities, axis=1), sums, log_likelihood

    if data.weight.shape[0] == 1:
        counts, sums, log_likelihood = one((jax.tree.map(lambda c: c[0], data.chunks), data.weight[0]))
    else:
        first = jax.eval_shape(one, jax.tree.map(lambda c: c[0], (data.chunks, data.weight)))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)

        def add(total: Any, chunk: Any) -> Any:
            return jax.tree.map(jnp.add, total, one(chunk)), None

        (counts, sums, log_likelihood), _ = jax.lax.scan(add, zero, (data.chunks, data.weight))
    return counts, sums, log_likelihood


def start_from_responsibilities(
    blank: AbstractEMFamily,
    x: Float[Array, "n d"],
    responsibilities: Float[Array, "K n"],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of a first M-step from given (weighted) responsibilities."""
    own = without_sizes(blank, x)
    return log_share(jnp.sum(responsibilities, axis=1)), blank._start(own.T, responsibilities, ridge)


def initial_state(
    log_weights: Float[Array, " K"], components: AbstractEMFamily, max_steps: int, target: PyTree | None = None
) -> EMState:
    """The state before the first step; a ``target`` that is not given is taken from the first sweep."""
    dtype = log_weights.dtype
    blank = jnp.full((max_steps,), jnp.nan, dtype)
    infinite = jnp.asarray(jnp.inf, dtype)
    return EMState(
        log_weights,
        components,
        _no_target(components) if target is None else target,
        jnp.asarray(target is None),
        -infinite,
        infinite,
        jnp.zeros_like(infinite),
        jnp.asarray(0),
        blank,
        blank,
        jnp.asarray(jnp.nan, dtype),
        jnp.zeros_like(log_weights),
        jnp.asarray(False),
    )


def _no_target(components: AbstractEMFamily) -> PyTree:
    """Zeros of the shape of a target."""

    def pooled(point: Array, table: Array) -> PyTree:
        sums = components._accumulate(components._prepare(point), table)
        return components._pooled(jnp.sum(table, axis=1), sums)

    num, dtype = components.num_components, components.dtype
    shapes = [jax.ShapeDtypeStruct((size, 1), dtype) for size in (components.dim, num)]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(pooled, *shapes))


def run(
    state: EMState,
    data: EMData,
    strength: Float[Array, ""],
    ridge: Float[Array, ""],
    tolerance: Float[Array, ""],
    stop_at: Array,
) -> EMState:
    """EM steps until the objective changes by less than ``tolerance``, or ``stop_at`` steps have been taken.

    The objective of a step is the mean log-likelihood plus the log-prior per point, at the parameters that the step
    starts from, so that a step that no longer improves it is the last. One more sweep over the data evaluates the
    parameters. (One loop does it all, so that a sweep is compiled once.) Where the objective changes little,
    steps are made longer, see `leap`, unless the tolerance is zero; those that fail are no steps, and only a plain one
    is the last.
    """
    total = jnp.sum(data.weight)

    def step(carry: tuple[EMState, Memory]) -> tuple[EMState, Memory]:
        swept = sweep(carry[0].log_weights, carry[0].components, data)
        return advance(carry, swept, total, strength, ridge, tolerance, stop_at)

    return jax.lax.while_loop(lambda carry: ~carry[0].evaluated, step, begun(state))[0]


def begun(state: EMState) -> tuple[EMState, Memory]:
    """A state that is not evaluated, and nothing known of the step before."""
    return eqx.tree_at(lambda s: s.evaluated, state, jnp.asarray(False)), no_memory(state.log_weights, state.components)


def advance(
    carry: tuple[EMState, Memory],
    swept: Any,
    total: Float[Array, ""],
    strength: Float[Array, ""],
    ridge: Float[Array, ""],
    tolerance: Float[Array, ""],
    stop_at: Array,
) -> tuple[EMState, Memory]:
    """One step of `run`, from what a `sweep` over all data at its parameters gives; the last one only evaluates."""
    s, memory = carry
    counts, sums, log_likelihood = swept
    log_likelihood = log_likelihood / total
    going = (s.num_steps < stop_at) & (jnp.abs(s.change) >= tolerance) & ~jnp.isnan(s.objective)
    target = jax.lax.cond(s.unstarted, lambda: s.components._pooled(counts, sums), lambda: s.target)
    # Each part factors a batch of matrices; two at once can wait for each other for ever, see `after`.
    penalties = after(s.components, log_likelihood)._log_prior(target, strength)
    penalty = jnp.sum(jnp.where(counts > 0, penalties, 0.0)) / total
    objective = log_likelihood + jnp.where(strength > 0, penalty, jnp.zeros_like(penalty))
    failed = memory.leapt & ~(objective >= s.objective)

    def improved() -> tuple[EMState, Memory]:
        # The penalty of a component that has lost its last point is gone, which is no fall.
        same = jnp.all((counts > 0) == ~jnp.isneginf(s.log_weights))
        components = s.components._maximize(after(counts, objective), sums, target, strength, ridge)
        # A component that no point supports keeps its shape; the caller re-seeds it.
        empty = counts <= jnp.finfo(counts.dtype).eps * total
        components = jax.tree.map(
            lambda old, new: jnp.where(empty.reshape((-1,) + (1,) * (new.ndim - 1)), old, new),
            s.components,
            components,
        )
        change = objective - s.objective
        close = (
            (jnp.abs(change) < NEAR) & (tolerance > 0) & (jnp.abs(change) >= tolerance) & (s.num_steps + 1 < stop_at)
        )
        here = s.log_weights, s.components
        (log_weights, components), new = leap(memory, here, (log_share(counts), components), close, s.num_steps)
        return EMState(
            log_weights,
            components,
            target,
            jnp.asarray(False),
            objective,
            jnp.where(memory.leapt, jnp.maximum(change, tolerance), change),
            jnp.where(same, jnp.maximum(s.fall, s.objective - objective), s.fall),
            s.num_steps + 1,
            s.log_likelihoods.at[s.num_steps].set(log_likelihood),
            s.objectives.at[s.num_steps].set(objective),
            s.log_likelihood,
            s.counts,
            s.evaluated,
        ), new

    def back() -> tuple[EMState, Memory]:
        (log_weights, components), new = take_back(memory)
        return eqx.tree_at(lambda s: (s.log_weights, s.components), s, (log_weights, components)), new

    def evaluated() -> tuple[EMState, Memory]:
        done = eqx.tree_at(
            lambda s: (s.target, s.unstarted, s.log_likelihood, s.counts, s.evaluated),
            s,
            (target, jnp.asarray(False), log_likelihood, counts, jnp.asarray(True)),
        )
        return done, memory

    return jax.lax.switch(jnp.where(going, jnp.where(failed, 1, 0), 2), [improved, back, evaluated])
