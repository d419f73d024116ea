"""A fitting problem in standardized units: its data in chunks, its prior, its starts, and EM with reseeding."""

import contextlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ._arrays import safe_log, unfused
from ._em import (
    AbstractEMFamily,
    chunk_data,
    EMData,
    EMState,
    evaluate,
    initial_state,
    pooled_spread,
    run,
    start_from_responsibilities,
)
from ._mixture import Mixture
from ._progress import progress_bar
from ._start import merge_start, seed_from_kmeans
from ._template import Template

# Numbers held at once by an E-step before the data are cut into chunks, and the size of a chunk then.
_WHOLE, _CHUNK = 2**25, 2**21
# Points used to find a start, per fit and per component.
_START_POINTS, _START_POINTS_PER_COMPONENT = 5_000, 500
_RESEEDS = 3


def working_precision(dtype: str) -> contextlib.AbstractContextManager:
    """The context in which problems of this dtype are made and solved, whatever JAX's global flags."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def standardization(
    family: type[AbstractEMFamily], points: np.ndarray, weight: np.ndarray, standardize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale such that (x - shift) / scale is standardized, as far as the family allows."""
    dim = points.shape[1]
    if not standardize or family.standardization == "none":
        return np.zeros(dim), np.ones(dim)
    share = weight / weight.sum()
    if family.standardization == "scale":
        size = share @ np.abs(points.astype(np.float64))
        return np.zeros(dim), np.where(size > 0, size, 1.0)
    shift = share @ points.astype(np.float64)
    variance = share @ (points - shift) ** 2
    if family.standardization == "scalar":
        variance = np.full(dim, variance.mean())
    # A constant coordinate cannot be scaled; rounding alone must not be blown up to unit variance either.
    constant = variance <= (1e-12 * np.maximum(np.abs(shift), 1e-150)) ** 2
    return shift, np.where(constant, 1.0, np.sqrt(variance))


class MovedStart(NamedTuple):
    """A start in the units of the data, and how to standardize it."""

    mixture: Mixture
    shift: np.ndarray
    scale: np.ndarray


class Prior(NamedTuple):
    """The pseudo-observations of the M-step: their spread (per family) and their number."""

    target: Any
    strength: Float[Array, ""]


class FitProblem(eqx.Module):
    """The standardized data and everything that stays fixed during a fit."""

    template: Template = eqx.field(static=True)
    x: Float[Array, "n d"]
    weight: Float[Array, " n"]
    num_components: int = eqx.field(static=True)
    covariance_prior: float | None = eqx.field(static=True)
    ridge: Float[Array, ""]
    chunk_size: int | None = eqx.field(static=True)
    natural: bool = eqx.field(static=True)

    def blank(self) -> AbstractEMFamily:
        """Valid components of the template, as many as wanted."""
        return self.template.blank(self.num_components, self.x.shape[1], self.x.dtype)

    def numbers_per_point(self) -> int:
        """How many numbers an E-step holds for each point."""
        point = jax.ShapeDtypeStruct((self.x.shape[1], 1), self.x.dtype)
        ready = jax.eval_shape(lambda p: self.blank()._prepare(p, self.natural), point)
        return sum(leaf.size for leaf in jax.tree.leaves(ready)) + 3 * self.num_components

    def chunk(self) -> int:
        """Points per E-step."""
        num = self.x.shape[0]
        if not self.template.family.streams:
            return num
        if self.chunk_size is not None:
            return min(self.chunk_size, num)
        per_point = self.numbers_per_point()
        return num if num * per_point <= _WHOLE else min(num, max(256, _CHUNK // per_point))

    def data(self, components: AbstractEMFamily) -> EMData:
        """The data as EM takes them."""
        return chunk_data(components, self.x, self.weight, self.chunk(), self.natural)

    def prior(self, log_weights: Array, components: AbstractEMFamily, data: EMData) -> Prior:
        """The prior whose target is the pooled spread under a mixture."""
        target = pooled_spread(log_weights, components, data)
        strength = components._prior_strength() if self.covariance_prior is None else self.covariance_prior
        return Prior(target, jnp.asarray(strength, self.x.dtype))

    def subset(self, key: Key[Array, ""]) -> tuple[Array, Array]:
        """Enough points to find a start."""
        num = max(_START_POINTS, _START_POINTS_PER_COMPONENT * self.num_components)
        if self.x.shape[0] <= num:
            return self.x, self.weight
        chosen = jax.random.choice(key, self.x.shape[0], (num,), replace=False)
        return self.x[chosen], self.weight[chosen]


def solve_once(
    problem: FitProblem,
    key: Key[Array, ""],
    start: Any,
    tolerance: Array,
    max_steps: int,
    progress: bool | None,
) -> tuple[EMState, Array, Array]:
    """Run EM from one start; returns the state, the final log-likelihood and the effective sizes."""
    subset_key, start_key, reseed_key = jax.random.split(key, 3)
    log_weights, components = first_mixture(problem, subset_key, start_key, start)
    data = problem.data(components)
    prior = problem.prior(log_weights, components, data)
    state = initial_state(log_weights, components, max_steps)
    rounds = iter(jax.random.split(reseed_key, _RESEEDS))
    while True:
        state = _run(state, data, prior, problem.ridge, tolerance, max_steps, progress)
        log_likelihood, counts = evaluate(state.log_weights, state.components, data)
        empty = np.asarray(counts) <= 1e-6 * float(jnp.sum(counts)) / problem.num_components
        round_key = next(rounds, None)
        if not empty.any() or round_key is None or int(state.num_steps) >= max_steps:
            return state, log_likelihood, counts
        state = _reseed(problem, round_key, state, empty)


def first_mixture(
    problem: FitProblem, subset_key: Any, start_key: Any, start: Any
) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components that EM starts from."""
    if isinstance(start, MovedStart):
        return moved_start(start, problem.x.dtype)
    x, weight = problem.subset(subset_key)
    blank = problem.blank()
    if isinstance(start, np.ndarray):
        means = jnp.asarray(start, x.dtype)
        nearest = jnp.argmin(jnp.sum(means**2, axis=1)[:, None] - 2 * unfused(means @ x.T), axis=0)
        partition = jax.nn.one_hot(nearest, problem.num_components, axis=0, dtype=x.dtype)
        return start_from_responsibilities(blank, x, partition * weight[None], problem.ridge)
    if start == "merge" and 2 * problem.num_components <= x.shape[0] and problem.num_components > 1:
        seeding = blank._seeding(2 * problem.num_components)
        return merge_start(start_key, x, weight, blank, seeding, problem.ridge, problem.natural)
    return seed_from_kmeans(start_key, x, weight, blank, problem.ridge)


def moved_start(start: MovedStart, dtype: Any) -> tuple[Float[Array, " K"], AbstractEMFamily]:
    """Log-weights and components of a given mixture, in standardized units."""
    mixture = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), dtype), start.mixture)
    shift, scale = (jnp.asarray(v, dtype) for v in (-start.shift / start.scale, 1 / start.scale))
    return safe_log(mixture.weights), mixture.components._affine(shift, scale)


@eqx.filter_jit
def to_data_units(
    log_weights: Float[Array, " K"], components: AbstractEMFamily, shift: Float[Array, " d"], scale: Float[Array, " d"]
) -> Mixture:
    """The mixture in the units of the data; compiled, so that a failed one is returned and not refused."""
    return Mixture(jnp.exp(log_weights), components._affine(shift, scale))


def _run(
    state: EMState,
    data: EMData,
    prior: Prior,
    ridge: Array,
    tolerance: Array,
    max_steps: int,
    progress: bool | None,
) -> EMState:
    """EM to convergence, in blocks of steps so that progress can be shown."""
    with progress_bar(max_steps, "EM", progress) as bar:
        while True:
            before = int(state.num_steps)
            stop = jnp.asarray(min(before + 25, max_steps))
            state = run(state, data, prior.target, prior.strength, ridge, tolerance, stop)
            after = int(state.num_steps)
            bar.update(after - before)
            bar.set_postfix_str(f"objective {float(state.objective):.6g}", refresh=False)
            if after < int(stop) or after >= max_steps or after == before:
                return state


def _reseed(problem: FitProblem, key: Key[Array, ""], state: EMState, empty: np.ndarray) -> EMState:
    """Move components that no point supports to the points that the mixture explains worst."""
    x, weight = problem.subset(key)
    data = chunk_data(state.components, x, weight, x.shape[0], problem.natural)
    ready = jax.tree.map(lambda chunk: chunk[0], data.chunks)
    joint = state.components._table(ready, problem.natural) + state.log_weights[:, None]
    table = jax.nn.softmax(joint, axis=0) * weight[None]
    log_likelihood = jnp.where(weight > 0, jax.nn.logsumexp(joint, axis=0), jnp.inf)
    worst = jnp.argsort(log_likelihood)[: int(empty.sum())]
    table = table.at[:, worst].set(0.0).at[jnp.asarray(np.flatnonzero(empty)), worst].set(weight[worst])
    log_weights, components = start_from_responsibilities(problem.blank(), x, table, problem.ridge)
    infinite = jnp.asarray(jnp.inf, x.dtype)
    return eqx.tree_at(
        lambda s: (s.log_weights, s.components, s.objective, s.change),
        state,
        (log_weights, components, -infinite, infinite),
    )
