"""The weighted-likelihood bootstrap (Newton and Raftery, 1994): EM refitted to randomly weighted points."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.arrays import power_of_two
from .._base.buckets import cut
from .._base.precision import narrow
from .._base.progress import progress_bar
from .._base.xla import program
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily
from .._family.template import as_template, in_order_of, Template
from .climb import moved_state, steps_of
from .data import as_start, read_data
from .em import chunk_data, EMState, run
from .fit import Fit
from .problem import FitProblem, MovedStart, working_precision

# A draw is settled when a step changes its whole objective (not that per point) by less than this, in nats.
_TOLERANCE = 1e-5
# Draws between two updates of the progress bar: at most so many, and so many responsibilities.
_BLOCK, _BLOCK_NUMBERS = 32, 2**25
# On CPU one draw at a time is fastest, but for regular families with large tables, whose matrix products gain from
# a few at once: how many, from how large a table on, and how many numbers they may hold.
_BATCH, _BATCH_TABLE, _BATCH_NUMBERS = 4, 2**15, 2**25


class BootstrapDraws(eqx.Module):
    """Mixtures refitted to randomly weighted points.

    Attributes:
        mixtures: S mixtures in the units of the data, stacked: every array has a leading axis S.
        weighted_log_likelihoods: Mean log-likelihood per unit of weight under each draw's own weights, shape ``[S]``.
        log_likelihoods: The same under the weights of the data, shape ``[S]``.
        effective_sizes: Sum of responsibilities of each component under each draw's own weights, shape ``[S, K]``. A
            component with none has weight zero and keeps the shape that it had when it lost its last point.
        num_steps: EM steps of each draw, shape ``[S]``.
        converged: Whether each draw settled, at a finite likelihood, shape ``[S]``.
    """

    mixtures: Mixture
    weighted_log_likelihoods: Float[Array, " S"]
    log_likelihoods: Float[Array, " S"]
    effective_sizes: Float[Array, "S K"]
    num_steps: Int[Array, " S"]
    converged: Bool[Array, " S"]


def bootstrap_mixtures(
    key: KeyLike,
    x: ArrayLike,
    start: Any,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily | None = None,
    *,
    num_draws: int = 200,
    sample_weight: ArrayLike | None = None,
    prior_from: Mixture | None = None,
    covariance_prior: float | None = None,
    regularization: float = 1e-6,
    standardize: bool = True,
    tolerance: float | None = None,
    max_steps: int = 5000,
    dtype: str = "float64",
    chunk_size: int | None = None,
    block_size: int | None = None,
    progress: bool | None = None,
) -> BootstrapDraws:
    """Refit a mixture by EM to randomly weighted points, from its optimum.

    The weights of a draw are n times a Dirichlet(1, ..., 1) vector, times the sample weights, scaled to the total of
    the latter. All refits share the prior of `fit`: it is not reweighted, so that a strong prior narrows the draws.
    Components that lose all their points are not seeded anew. Draw number i depends on the key and i only.

    Refits start at the optimum and must go all the way: at the tolerance of a fit they stop early and vary too little.

    Args:
        key: Random key of the weights.
        x: Points that the mixture was fitted to, shape ``[n, d]``.
        start: The `Fit`, or its `Mixture`.
        family: The family or `template` that was fitted; by default that of the mixture, fixed parameters included.
        num_draws: Number of draws S.
        sample_weight: Nonnegative weights of the points, shape ``[n]``, as in `fit`.
        prior_from: The mixture whose pooled spread is the target of the prior; by default ``start``. A fit takes that
            of the mixture that it started from: to center the draws on a fit, start it from a mixture given here.
        covariance_prior: Number of pseudo-observations, as in `fit`.
        regularization: As in `fit`.
        standardize: As in `fit`.
        tolerance: A refit stops when the mean objective per point changes by less, in nats; by default 1e-5 divided by
            the total weight, so that the objective of all points has settled, but not less than rounding.
        max_steps: Limit on the steps of a refit; those that meet it are marked as not converged.
        dtype: As in `fit`.
        chunk_size: Points per E-step, as in `fit`.
        block_size: Draws between two updates of the progress bar.
        progress: Show a progress bar; by default on a terminal, after two seconds.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the data are refused by `fit`, do not match the mixture, or an argument is out of range.
    """
    mixture = start.mixture if isinstance(start, Fit) else start
    if not isinstance(mixture, Mixture):
        raise TypeError(f"`start` must be a Fit or a Mixture; got {type(start).__name__}.")
    key, num_draws, max_steps = as_key(key), as_count("num_draws", num_draws), as_count("max_steps", max_steps)
    chosen = as_template(mixture.components if family is None else family)
    data = read_data(
        in_order_of(chosen, "x", x),
        chosen,
        mixture.num_components,
        sample_weight=sample_weight,
        covariance_prior=covariance_prior,
        regularization=regularization,
        standardize=standardize,
        tolerance=tolerance,
        dtype=dtype,
        chunk_size=chunk_size,
    )
    limit = tolerance
    if limit is None:
        limit = max(_TOLERANCE / data.weight.sum(), 128 * float(np.finfo(dtype).eps))
    block = _block_size(block_size, len(data.points) * mixture.num_components, num_draws)
    moved, reference = (
        as_start(given, chosen, mixture.num_components, data.points.shape[1], data.shift, data.scale)
        for given in (mixture, mixture if prior_from is None else prior_from)
    )

    with working_precision(dtype):
        problem = data.problem()
        task = _task(key, problem, moved, reference, limit)
        draws = _refit_all(task, num_draws, max_steps, block, progress)
    num = mixture.num_components
    draws = draws._replace(mixtures=cut(draws.mixtures, num, 1), effective_sizes=draws.effective_sizes[:, :num])
    return _checked(BootstrapDraws(*jax.device_put(narrow(draws, data.precision))), data.precision)


def _block_size(block_size: int | None, num_responsibilities: int, num_draws: int) -> int:
    """Draws per call of the compiled program, a multiple of those done at once; few programs for all S."""
    wanted = max(1, min(_BLOCK, _BLOCK_NUMBERS // num_responsibilities))
    wanted = as_count("block_size", wanted if block_size is None else block_size)
    return -(-min(wanted, power_of_two(num_draws)) // _BATCH) * _BATCH


def _batch(problem: FitProblem) -> int:
    """Draws done at once, on data of a given shape."""
    table = problem.slots * problem.chunk
    large = _BATCH_TABLE <= table <= _BATCH_NUMBERS // (3 * _BATCH)
    return _BATCH if large and issubclass(problem.template.family, AbstractRegularEMFamily) else 1


class _Task(eqx.Module):
    """What all refits share."""

    key: Key[Array, ""]
    start: EMState
    target: PyTree
    x: Float[Array, "n d"]
    weight: Float[Array, " n"]
    strength: Float[Array, ""]
    ridge: Float[Array, ""]
    tolerance: Float[Array, ""]
    shift: Float[Array, " d"]
    scale: Float[Array, " d"]
    chunk: int = eqx.field(static=True)
    batch: int = eqx.field(static=True)


class _Draws(NamedTuple):
    """The fields of `BootstrapDraws`, with room for components."""

    mixtures: Any
    weighted_log_likelihoods: Any
    log_likelihoods: Any
    effective_sizes: Any
    num_steps: Any
    converged: Any


def _task(key: Any, problem: FitProblem, start: MovedStart, reference: MovedStart, tolerance: float) -> _Task:
    # The histories of a run are not wanted: what does not fit into one entry is dropped.
    first = moved_state(problem, start, 1)
    target = first if reference is start else moved_state(problem, reference, 1)
    settings = problem.strength, problem.ridge, jax.device_put(np.asarray(tolerance, problem.x.dtype))
    return _Task(
        key,
        first,
        steps_of(problem, target, 0.0, 0)[0].target,
        problem.x,
        problem.weight,
        *settings,
        problem.shift,
        problem.scale,
        problem.chunk,
        _batch(problem),
    )


def _refit_all(task: _Task, num_draws: int, max_steps: int, block: int, progress: bool | None) -> _Draws:
    """All draws on the host, block by block; draws beyond the last are given no steps."""
    blocks = []
    with progress_bar(num_draws, "bootstrap", progress) as bar:
        for first in range(0, num_draws, block):
            index = np.arange(first, first + block)
            numbers, limits = jax.device_put((index, np.where(index < num_draws, max_steps, 0)))
            blocks.append(jax.tree.map(np.asarray, _refit_block(task, numbers, limits)))
            bar.update(min(block, num_draws - first))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num_draws], *blocks)


@program
def _refit_block(task: _Task, index: Int[Array, " b"], limits: Int[Array, " b"]) -> _Draws:
    """Some of the draws."""
    data = chunk_data(task.start.components, task.x, task.weight, task.chunk)
    settings = task.strength, task.ridge, task.tolerance
    first = eqx.tree_at(lambda s: (s.target, s.unstarted), task.start, (task.target, jnp.asarray(False)))

    def refit(item: tuple[Array, Array]) -> _Draws:
        number, limit = item
        weight = _random_weight(jax.random.fold_in(task.key, number), data.weight)

        def phase(turn: Array, carry: tuple[EMState, Array]) -> tuple[EMState, Array]:
            """The refit, and then what it is worth under the weights of the data."""
            state, weighted = carry
            own = eqx.tree_at(lambda d: d.weight, data, jnp.where(turn == 0, weight, data.weight))
            new = run(state, own, *settings, jnp.where(turn == 0, limit, jnp.zeros_like(limit)))
            counts = jnp.where(turn == 0, new.counts, state.counts)
            return eqx.tree_at(lambda s: s.counts, new, counts), jnp.where(turn == 0, new.log_likelihood, weighted)

        state, weighted = jax.lax.fori_loop(0, 2, phase, (first, first.log_likelihood))
        settled = (jnp.abs(state.change) < task.tolerance) & jnp.isfinite(weighted)
        mixture = Mixture(jnp.exp(state.log_weights), state.components._affine(task.shift, task.scale))
        stretch = jnp.sum(jnp.log(task.scale))
        likelihoods = weighted - stretch, state.log_likelihood - stretch
        return _Draws(mixture, *likelihoods, state.counts, state.num_steps, settled)

    return jax.lax.map(refit, (index, limits), batch_size=task.batch if task.batch > 1 else None)


def _random_weight(key: Key[Array, ""], weight: Float[Array, "c b"]) -> Float[Array, "c b"]:
    """Weights in chunks, times exponential variables, with the same total; the first n do not depend on the rest."""
    drawn = weight * jax.random.exponential(key, (weight.size,), weight.dtype).reshape(weight.shape)
    return drawn * (jnp.sum(weight) / jnp.sum(drawn))


def _checked(draws: BootstrapDraws, precision: str) -> BootstrapDraws:
    """The draws, unless narrowing has made a good one overflow."""
    converged = np.asarray(draws.converged)
    for leaf in jax.tree.leaves(draws.mixtures):
        if not np.isfinite(np.asarray(leaf)[converged]).all():
            raise ValueError(f"`x` has values whose squares overflow {precision}. Rescale the data, or enable x64.")
    return draws
