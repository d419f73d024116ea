"""Fitting a mixture to data by expectation-maximization."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from families import REGISTRY

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.precision import narrow
from .._base.results import raise_if_failed, RESULTS, succeeded
from .._base.samples import refuse_constant
from .._base.tables import column_names
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily, verify
from .._family.template import as_template, in_order_of, Template
from .climb import solve_once, StartKey
from .data import as_start, Data, read_data
from .em import EMState
from .problem import FitProblem, working_precision
from .rows import blocks_of

# By how much the mean objective per point may still change, in nats, when EM stops.
TOLERANCE = 1e-5
# By how much a step may lower it, in a family of one's own.
_FALL = 0.01


class Fit(eqx.Module):
    """A fitted mixture and the evidence for it.

    Attributes:
        mixture: The fitted mixture, in the units of the data.
        log_likelihood: Mean log-likelihood per unit of sample weight at the fitted parameters, in nats.
        log_likelihoods: The same before each step, shape ``[num_steps]``.
        objectives: What EM increased before each step: the log-likelihood plus the log-prior per point, up to a
            constant; shape ``[num_steps]``.
        num_steps: Steps taken.
        effective_sizes: Points behind each component, shape ``[K]``: the sum of responsibilities times weights, in
            units of what an observation weighs, see `fit`.
        total_weight: Number of points, or the sum of their weights: the n of ``bic`` and ``aic``.
        num_parameters: Number of free parameters.
        result: Why the fit stopped.
        names: Names of the components, where they are known groups (see `mixture_from_labels`).
        feature_names: Names of the columns, where the points came in a data frame.
    """

    mixture: Mixture
    log_likelihood: Float[Array, ""]
    log_likelihoods: Float[Array, " num_steps"]
    objectives: Float[Array, " num_steps"]
    num_steps: Int[Array, ""]
    effective_sizes: Float[Array, " K"]
    total_weight: Float[Array, ""]
    num_parameters: int = eqx.field(static=True)
    result: Any
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    @property
    def converged(self) -> bool:
        """Whether the objective settled within the tolerance."""
        return succeeded(self.result)

    @property
    def undetermined(self) -> Bool[np.ndarray, " K"]:
        """Components with fewer points behind them than free parameters: there the prior speaks, not the data."""
        each = (self.num_parameters + 1) / self.mixture.num_components - 1
        return np.asarray(self.effective_sizes) < each

    @property
    def bic(self) -> Float[Array, ""]:
        """Bayesian information criterion, -2 log L + p log n; smaller is better."""
        return self._penalized(self.num_parameters * np.log(self.total_weight))

    @property
    def aic(self) -> Float[Array, ""]:
        """Akaike information criterion, -2 log L + 2 p; smaller is better."""
        return self._penalized(2 * self.num_parameters)

    def _penalized(self, penalty: Any) -> Float[Array, ""]:
        total, mean = np.asarray(self.total_weight), np.asarray(self.log_likelihood)
        return jax.device_put((-2 * total * mean + penalty).astype(mean.dtype))

    def __repr__(self) -> str:
        few = int(np.sum(self.undetermined))
        warning = f"; components with fewer points than parameters: {few}" if few else ""
        return (
            f"Fit({self.mixture}, log-likelihood {float(self.log_likelihood):.6g} per point, {int(self.num_steps)} "
            f"steps, smallest component {np.asarray(self.effective_sizes).min():.4g} points{warning})"
        )


def fit(
    key: KeyLike,
    x: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily,
    num_components: int,
    *,
    start: Any = "merge",
    sample_weight: ArrayLike | None = None,
    size_factors: ArrayLike | None = None,
    covariance_prior: float | None = None,
    regularization: float = 1e-6,
    standardize: bool = True,
    tolerance: float = TOLERANCE,
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
        x: Points, shape ``[n, d]``; missing values are refused. Those of data sets of h5py, zarr or dask, and of large
            files mapped into memory, are read where they are, ``chunk_size`` at a time.
        family: A component family, such as ``Gaussian``; a `template` with fixed parameters; or components, of which
            only the fixed parameters (a rank, say) are used.
        num_components: Number of components K, at most n.
        start: ``"merge"`` fits 2K components and merges them; ``"k-means++"``; a `Mixture` of the family; or means,
            shape ``[K, d]``.
        sample_weight: Nonnegative weights of the points, shape ``[n]``. A common factor changes the evidence alone
            (``total_weight``, ``bic``, ``aic``), where weights are numbers of observations. For the prior, whole
            multiples of the smallest weight are counts of repeated points; others weigh like (sum w)^2 / sum w^2
            observations. Points of weight zero are left out.
        size_factors: Positive size factors of points that are counts, shape ``[n]``: what a point has of a component's
            mean counts, such as a cell's share of the mean number of reads. The mixture is that of points of size
            factor one; ``mixture.responsibilities(x, size_factors)`` tells of others. The data are read into memory.
        covariance_prior: Number of pseudo-observations behind each covariance; 0 for none. Default: d + 2 for full
            covariances, 3 for diagonal and spherical ones, r + 3 for low rank. Families that are not Gaussian have them
            behind all their parameters, by default a small fraction of one.
        regularization: Added to the variances, in units of the (standardized) data; for families that are not Gaussian,
            the share of the mean statistics of all data that is mixed into those of each component.
        standardize: Center and scale the data inside, as far as the family allows. The scale is per coordinate, or
            common for spherical components; data on a half-line are scaled only.
        tolerance: EM stops when a step changes the mean objective per point by less, in nats. Where changes are small,
            steps are lengthened by what the one before tells (Anderson, 1965); one that lowers the objective is taken
            back, and the last is a plain one. With 0 all are plain, and ``max_steps`` of them are taken.
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
    x = in_order_of(chosen, "x", x)
    data = read_data(
        x,
        chosen,
        num_components,
        sample_weight=sample_weight,
        covariance_prior=covariance_prior,
        regularization=regularization,
        standardize=standardize,
        tolerance=tolerance,
        dtype=dtype,
        chunk_size=chunk_size,
        by_rows=True,
        size_factors=size_factors,
    )
    max_steps, num_starts = as_count("max_steps", max_steps), as_count("num_starts", num_starts)
    given = as_start(start, chosen, num_components, data.points.shape[1], data.shift, data.scale)
    with working_precision(dtype):
        problem = data.problem()
        fits = [
            solve_once(problem, StartKey(key, index), given, tolerance, max_steps, progress)
            for index in range(num_starts)
        ]
        state, mixture = max(fits, key=lambda f: float(f[0].objective))
        result = _result(state, tolerance)
        if succeeded(result):
            verify(mixture.components)
            if _is_own(mixture.components):
                _check_agreement(mixture, data, float(state.log_likelihood) - np.log(data.scale).sum())
    fitted = dataclasses.replace(package(problem, state, mixture, result, data), feature_names=column_names(x))
    if fitted.converged and not all(np.isfinite(np.asarray(v)).all() for v in jax.tree.leaves(fitted.mixture)):
        raise ValueError(f"`x` has values whose squares overflow {data.precision}. Rescale the data, or enable x64.")
    if throw and not np.isfinite(fitted.log_likelihood) and isinstance(data.points, np.ndarray):
        refuse_constant("x", data.points)
    return raise_if_failed(fitted, fitted.result) if throw else fitted


def _result(state: EMState, tolerance: float) -> Any:
    """Why EM stopped."""
    if not np.isfinite(state.log_likelihood):
        return RESULTS.fit_not_finite
    # The ridge is no part of the objective, and lowers it where variances are as small: rounding may as well.
    if state.fall > _FALL and _is_own(state.components):
        return RESULTS.fit_fell
    return RESULTS.successful if abs(state.change) < tolerance else RESULTS.fit_not_converged


def _is_own(components: Any) -> bool:
    """Whether a family is none of the library's."""
    return type(components) not in REGISTRY.values()


def _check_agreement(mixture: Mixture, data: Data, log_likelihood: float) -> None:
    """Raise where EM's log-likelihood is not that of the mixture: a family of one's own contradicts itself."""
    sizes = data.sizes
    found = sum(
        float(
            data.weight[place]
            @ np.asarray(mixture.log_prob(block, None if sizes is None else sizes[place]), np.float64)
        )
        for place, block in blocks_of(data.points)
    ) / float(data.weight.sum())
    tolerance = 1e-6 if data.dtype == "float64" else 1e-3
    if not abs(found - log_likelihood) <= tolerance * (1 + abs(found)):
        name = type(mixture.components).__name__
        raise ValueError(
            f"EM has a log-likelihood of {log_likelihood:.6g} per point and the fitted mixture has {found:.6g}: "
            f"`_table`, `_prepare` or `_affine` of {name} contradicts `_log_prob`; omt.check_family({name}, x) says "
            "which."
        )


def package(problem: FitProblem, state: EMState, mixture: Mixture, result: Any, data: Data) -> Fit:
    """The fit in the units of the data, from numbers on the host."""
    stretch = np.log(np.asarray(problem.scale)).sum()
    num = problem.num_components
    state, mixture = jax.tree.map(np.asarray, (state, mixture))
    steps = int(state.num_steps)
    numbers = {
        "log_likelihood": state.log_likelihood - stretch,
        "log_likelihoods": state.log_likelihoods[:steps] - stretch,
        "objectives": state.objectives[:steps] - stretch,
        "num_steps": state.num_steps,
        "effective_sizes": state.counts,
        "total_weight": data.weight.sum() * data.point_weight,
    }
    numbers = narrow(jax.tree.map(np.asarray, numbers), data.precision)
    parameters = num * problem.facts.num_parameters + num - 1
    return Fit(narrow(mixture, data.precision), **numbers, num_parameters=parameters, result=result)
