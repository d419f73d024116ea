"""Fitting a mixture to data by expectation-maximization."""

import contextlib
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ._arrays import (
    ArrayLike,
    as_count,
    as_host_or_traced,
    as_key,
    as_scalar,
    default_dtype,
    is_traced,
    KeyLike,
    safe_log,
    unfused,
)
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
    verify,
)
from ._mixture import Mixture
from ._precision import narrow
from ._progress import progress_bar
from ._result import raise_if_failed, RESULTS
from ._start import merge_start, seed_from_kmeans
from ._support import check_support
from ._template import as_template, num_parameters, Template

# Numbers held at once by an E-step before the data are cut into chunks, and the size of a chunk then.
_WHOLE, _CHUNK = 2**25, 2**21
# Points used to find a start, per fit and per component.
_START_POINTS, _START_POINTS_PER_COMPONENT = 5_000, 500
_RESEEDS = 3


class Fit(eqx.Module):
    """A fitted mixture and the evidence for it.

    Attributes:
        mixture: The fitted mixture, in the units of the data.
        log_likelihood: Mean log-likelihood per unit of sample weight at the fitted parameters, in nats.
        log_likelihoods: The same before each step; NaN beyond ``num_steps``.
        objectives: What EM increased before each step: the log-likelihood plus the log-prior per point, up to a
            constant; NaN beyond ``num_steps``.
        num_steps: Steps taken.
        effective_sizes: Sum of responsibilities of each component, shape ``[K]``.
        total_weight: Number of points, or the sum of their weights.
        num_parameters: Number of free parameters.
        result: Why the fit stopped.
    """

    mixture: Mixture
    log_likelihood: Float[Array, ""]
    log_likelihoods: Float[Array, " steps"]
    objectives: Float[Array, " steps"]
    num_steps: Int[Array, ""]
    effective_sizes: Float[Array, " K"]
    total_weight: Float[Array, ""]
    num_parameters: int = eqx.field(static=True)
    result: Any

    @property
    def converged(self) -> bool:
        """Whether the objective settled within the tolerance."""
        return bool(self.result == RESULTS.successful)

    @property
    def bic(self) -> Float[Array, ""]:
        """Bayesian information criterion, -2 log L + p log n; smaller is better."""
        fit_term = -2 * self.total_weight * self.log_likelihood
        return fit_term + self.num_parameters * jnp.log(self.total_weight)

    @property
    def aic(self) -> Float[Array, ""]:
        """Akaike information criterion, -2 log L + 2 p; smaller is better."""
        return -2 * self.total_weight * self.log_likelihood + 2 * self.num_parameters

    def __repr__(self) -> str:
        return (
            f"Fit({self.mixture}, log-likelihood {float(self.log_likelihood):.6g} per point, "
            f"{int(self.num_steps)} steps, smallest component {float(self.effective_sizes.min()):.4g} points)"
        )


def fit(
    key: KeyLike,
    x: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily,
    num_components: int,
    *,
    start: Any = "merge",
    sample_weight: ArrayLike | None = None,
    covariance_prior: float | None = None,
    regularization: float = 1e-6,
    standardize: bool = True,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
    num_starts: int = 1,
    dtype: str = "float64",
    chunk_size: int | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> Fit:
    """Fit a mixture by EM.

    By default a few pseudo-observations with the pooled within-component spread steady each covariance: the answer is
    a posterior mode in natural parameters (`numpyro`'s ``AutoDelta`` finds a mode in other coordinates), and the
    maximum-likelihood estimate when ``covariance_prior`` and ``regularization`` are 0.

    Args:
        key: Random key of the start.
        x: Points, shape ``[n, d]``; missing values are refused.
        family: A component family, such as ``Gaussian``; a `template` with fixed parameters; or components, of which
            only the fixed parameters (a rank, say) are used.
        num_components: Number of components K, at most n.
        start: ``"merge"`` fits 2K components and merges them; ``"k-means++"``; a `Mixture` of the family; or means,
            shape ``[K, d]``.
        sample_weight: Nonnegative weights of the points, shape ``[n]``, in units of observations.
        covariance_prior: Number of pseudo-observations behind each covariance; 0 for none. Default: d + 2 for full
            covariances, 3 for diagonal and spherical ones, r + 3 for low rank. Families that are not Gaussian have them
            behind all their parameters, by default a small fraction of one.
        regularization: Added to the variances, in units of the (standardized) data; for families that are not Gaussian,
            the share of the mean statistics of all data that is mixed into those of each component.
        standardize: Center and scale the data inside, as far as the family allows. The scale is per coordinate, or
            common for spherical components; data on a half-line are scaled only.
        tolerance: EM stops when the mean objective per point changes by less, in nats.
        max_steps: Limit on the steps.
        num_starts: Number of starts; the best objective wins.
        dtype: ``"float64"`` (inside; the result has the precision of the data or JAX's default) or ``"float32"``,
            which uses a form of the densities that is stable for tight components.
        chunk_size: Points per E-step; by default all of them where memory allows, and always for families whose M-step
            needs them at once (weighted medians).
        progress: Show a progress bar; by default on a terminal, after two seconds.
        throw: Raise when EM does not converge; otherwise the fit's ``result`` tells.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the data are empty, not finite, outside the family's support, or fewer than the components, or an
            argument is out of range.
        ConvergenceError: If EM does not converge within ``max_steps`` and ``throw`` is true.
    """
    chosen = as_template(family)
    key = as_key(key)
    num_components = as_count("num_components", num_components)
    points = _as_data(x, num_components)
    weight = _as_weight(sample_weight, points)
    if dtype not in ("float64", "float32"):
        raise ValueError(f'`dtype` must be "float64" or "float32"; got {dtype!r}.')
    for name, value in (("regularization", regularization), ("tolerance", tolerance)):
        as_scalar(name, value)
    if covariance_prior is not None:
        as_scalar("covariance_prior", covariance_prior)
    max_steps, num_starts = as_count("max_steps", max_steps), as_count("num_starts", num_starts)
    check_support("x", points, chosen.family)
    if chunk_size is not None:
        chunk_size = _as_chunk_size(chunk_size, chosen.family, len(points))
    shift, scale = _standardization(chosen.family, points, weight, standardize)
    given = _as_start(start, chosen, num_components, points.shape[1], shift, scale)

    precision = "float32" if points.dtype == np.float32 else str(default_dtype())
    inside = jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()
    with inside:
        problem = _Problem(
            chosen,
            jnp.asarray((points - shift) / scale, dtype),
            jnp.asarray(weight, dtype),
            num_components,
            covariance_prior,
            jnp.asarray(regularization, dtype),
            chunk_size,
            dtype == "float64",
        )
        fits = [
            _fit_once(problem, own_key, given, jnp.asarray(tolerance, dtype), max_steps, progress)
            for own_key in jax.random.split(key, num_starts)
        ]
        best = max(fits, key=lambda f: float(f[0].objective))
        fitted = _package(problem, *best, shift, scale, tolerance)
        if fitted.converged:
            verify(fitted.mixture.components)
    fitted = narrow(fitted, precision)
    if fitted.converged and not all(bool(jnp.isfinite(v).all()) for v in jax.tree.leaves(fitted.mixture)):
        raise ValueError(f"`x` has values whose squares overflow {precision}. Rescale the data, or enable x64.")
    return raise_if_failed(fitted, fitted.result) if throw else fitted


def _as_data(x: ArrayLike, num_components: int) -> np.ndarray:
    if is_traced(x):
        raise TypeError("`x` must be concrete data: fit runs on the host and cannot be traced by jit, vmap or grad.")
    host = np.asarray(as_host_or_traced("x", x))
    if host.ndim != 2:
        raise ValueError(f"`x` must have shape [n, d]; got shape {host.shape}.")
    if host.shape[0] < num_components or host.shape[1] < 1:
        raise ValueError(
            f"`x` must have at least one column and as many points as components, {num_components}; "
            f"got shape {host.shape}."
        )
    if host.dtype != np.float32:
        host = host.astype(np.float64)
    if not np.isfinite(host).all():
        row, column = np.argwhere(~np.isfinite(host))[0]
        raise ValueError(
            f"`x` must be finite; got {host[row, column]} at index [{row}, {column}]. Drop or impute missing values."
        )
    return host


def _as_chunk_size(chunk_size: Any, family: type[AbstractEMFamily], num_points: int) -> int:
    chunk_size = as_count("chunk_size", chunk_size)
    if not family.streams and chunk_size < num_points:
        raise ValueError(
            f"`chunk_size` must be at least the number of points, {num_points}, for {family.__name__}: its M-step "
            f"needs all points at once; got {chunk_size}. Leave it out."
        )
    return chunk_size


def _as_weight(sample_weight: ArrayLike | None, points: np.ndarray) -> np.ndarray:
    if sample_weight is None:
        return np.ones(len(points))
    weight = np.asarray(as_host_or_traced("sample_weight", sample_weight), np.float64)
    if weight.shape != points.shape[:1]:
        raise ValueError(f"`sample_weight` must have shape {points.shape[:1]}; got {weight.shape}.")
    if not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() <= 0:
        raise ValueError("`sample_weight` must be finite and nonnegative, with a positive sum.")
    return weight


def _standardization(
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


def _as_start(start: Any, chosen: Template, num_components: int, dim: int, shift: np.ndarray, scale: np.ndarray) -> Any:
    """A checked start: a word, a mixture in standardized units, or means in standardized units."""
    if isinstance(start, str):
        if start not in ("merge", "k-means++"):
            raise ValueError(f'`start` must be "merge", "k-means++", a Mixture or means; got {start!r}.')
        return start
    if isinstance(start, Mixture):
        if not isinstance(start.components, chosen.family):
            raise TypeError(
                f"`start` must be a mixture of {chosen.family.__name__} components; "
                f"got {type(start.components).__name__}."
            )
        if (start.num_components, start.dim) != (num_components, dim):
            raise ValueError(
                f"`start` must have {num_components} components in {dim} dimensions; "
                f"got {start.num_components} in {start.dim}."
            )
        return _Moved(start, shift, scale)
    means = np.asarray(as_host_or_traced("start", start), np.float64)
    if means.shape != (num_components, dim) or not np.isfinite(means).all():
        raise ValueError(f"`start` must hold finite means of shape {(num_components, dim)}; got shape {means.shape}.")
    check_support("start", means, chosen.family)
    return (means - shift) / scale


class _Moved(NamedTuple):
    """A start in the units of the data, and how to standardize it."""

    mixture: Mixture
    shift: np.ndarray
    scale: np.ndarray


class _Problem(eqx.Module):
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
        return self.template.blank(self.num_components, self.x.shape[1], self.x.dtype)

    def chunk(self) -> int:
        """Points per E-step."""
        num, dim = self.x.shape
        if not self.template.family.streams:
            return num
        if self.chunk_size is not None:
            return min(self.chunk_size, num)
        point = jax.ShapeDtypeStruct((dim, 1), self.x.dtype)
        ready = jax.eval_shape(lambda p: self.blank()._prepare(p, self.natural), point)
        per_point = sum(leaf.size for leaf in jax.tree.leaves(ready)) + 3 * self.num_components
        return num if num * per_point <= _WHOLE else min(num, max(256, _CHUNK // per_point))

    def subset(self, key: Key[Array, ""]) -> tuple[Array, Array]:
        """Enough points to find a start."""
        num = max(_START_POINTS, _START_POINTS_PER_COMPONENT * self.num_components)
        if self.x.shape[0] <= num:
            return self.x, self.weight
        chosen = jax.random.choice(key, self.x.shape[0], (num,), replace=False)
        return self.x[chosen], self.weight[chosen]


def _fit_once(
    problem: _Problem,
    key: Key[Array, ""],
    start: Any,
    tolerance: Array,
    max_steps: int,
    progress: bool | None,
) -> tuple[EMState, Array, Array]:
    """Run EM from one start; returns the state, the final log-likelihood and the effective sizes."""
    subset_key, start_key, reseed_key = jax.random.split(key, 3)
    log_weights, components = _first(problem, subset_key, start_key, start)
    data = chunk_data(components, problem.x, problem.weight, problem.chunk(), problem.natural)
    target = pooled_spread(log_weights, components, data)
    strength = components._prior_strength() if problem.covariance_prior is None else problem.covariance_prior
    strength = jnp.asarray(strength, problem.x.dtype)
    state = initial_state(log_weights, components, max_steps)
    rounds = iter(jax.random.split(reseed_key, _RESEEDS))
    while True:
        state = _run(state, data, target, strength, problem.ridge, tolerance, max_steps, progress)
        log_likelihood, counts = evaluate(state.log_weights, state.components, data)
        empty = np.asarray(counts) <= 1e-6 * float(jnp.sum(counts)) / problem.num_components
        round_key = next(rounds, None)
        if not empty.any() or round_key is None or int(state.num_steps) >= max_steps:
            return state, log_likelihood, counts
        state = _reseed(problem, round_key, state, empty)


def _first(problem: _Problem, subset_key: Any, start_key: Any, start: Any) -> tuple[Array, AbstractEMFamily]:
    """Log-weights and components that EM starts from."""
    if isinstance(start, _Moved):
        mixture = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), problem.x.dtype), start.mixture)
        shift, scale = (jnp.asarray(v, problem.x.dtype) for v in (-start.shift / start.scale, 1 / start.scale))
        return safe_log(mixture.weights), mixture.components._affine(shift, scale)
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


def _run(
    state: EMState,
    data: EMData,
    target: Any,
    strength: Array,
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
            state = run(state, data, target, strength, ridge, tolerance, stop)
            after = int(state.num_steps)
            bar.update(after - before)
            bar.set_postfix_str(f"objective {float(state.objective):.6g}", refresh=False)
            if after < int(stop) or after >= max_steps or after == before:
                return state


def _reseed(problem: _Problem, key: Key[Array, ""], state: EMState, empty: np.ndarray) -> EMState:
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


def _package(
    problem: _Problem,
    state: EMState,
    log_likelihood: Array,
    counts: Array,
    shift: np.ndarray,
    scale: np.ndarray,
    tolerance: float,
) -> Fit:
    """The fit in the units of the data."""
    dtype = problem.x.dtype
    stretch = jnp.asarray(np.log(scale).sum(), dtype)
    mixture = _to_data_units(state, jnp.asarray(shift, dtype), jnp.asarray(scale, dtype))
    settled = jnp.abs(state.change) < tolerance if tolerance > 0 else jnp.asarray(False)
    result = RESULTS.where(settled, RESULTS.successful, RESULTS.fit_not_converged)
    result = RESULTS.where(jnp.isfinite(log_likelihood), result, RESULTS.fit_not_finite)
    return Fit(
        mixture,
        log_likelihood - stretch,
        state.log_likelihoods - stretch,
        state.objectives - stretch,
        state.num_steps,
        counts,
        jnp.sum(problem.weight),
        num_parameters(state.components),
        result,
    )


@eqx.filter_jit
def _to_data_units(state: EMState, shift: Array, scale: Array) -> Mixture:
    """The mixture in the units of the data; compiled, so that a failed fit is returned and not refused."""
    return Mixture(jnp.exp(state.log_weights), state.components._affine(shift, scale))
