"""Fitting the posterior of a mixture."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.arrays import default_dtype, split_key
from .._base.precision import narrow
from .._base.results import ConvergenceError, RESULTS
from .._base.samples import refuse_constant
from .._base.tables import column_names
from .._components.mixture import Mixture
from .._components.relabel import labelled
from .._family.em_family import AbstractEMFamily
from .._family.template import as_template, in_order_of, Template
from .._fitting.data import _as_data, as_start
from .._fitting.fit import Fit, fit
from .arviz import pareto_k_of
from .label_free import LabelFree, LARGEST_R_HAT
from .methods.bootstrap import Bootstrap
from .methods.gibbs import Gibbs
from .methods.gibbs_sweeps import conditional_law
from .methods.laplace import LaplaceApproximation
from .methods.method import AbstractMethod, PosteriorProblem, SiteDraws
from .methods.numpyro_start import numpyro_start
from .methods.nuts import NUTS
from .model import flat_priors, mixture_model, MixtureModel, stacked_mixtures
from .posterior import PosteriorFit, stack_chains


def fit_posterior(
    key: KeyLike,
    x: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily | Callable[..., dist.Distribution],
    num_components: int,
    *,
    method: AbstractMethod | None = None,
    priors: Mapping[str, dist.Distribution] | None = None,
    weight_concentration: ArrayLike = 1.0,
    start: Mixture | Fit | None = None,
    num_starts: int = 1,
    progress: bool | None = None,
    throw: bool = True,
) -> PosteriorFit:
    """Draw from the posterior of a mixture, with labels summed over.

    All methods start at the EM optimum and work in float64; the draws have the precision of the data. Posteriors of
    mixtures have many modes: this is the posterior about that optimum, which chains show if they leave it.

    Args:
        key: Random key.
        x: Points, shape ``[n, d]``.
        family: A component family or a `template`; or a function of named parameters, each with a leading axis K, that
            returns a NumPyro distribution, which needs ``priors``.
        num_components: Number of components K.
        method: ``Gibbs()`` (default where the family and priors allow it), ``LaplaceApproximation()`` (the default
            elsewhere; ``NUTS()`` takes its place where its Pareto k exceeds 0.7 or exact chains leave its draws),
            ``NUTS()``, ``SVI()`` or ``Bootstrap()`` (the default where densities jump and no gradient can be followed:
            `Exponential`), with their settings.
        priors: NumPyro distributions that replace default priors, by parameter name; see `mixture_model`.
        weight_concentration: Concentration of the Dirichlet prior on the weights, a number or shape ``[K]``.
        start: A mixture or fit to start from instead of fitting by EM. The draws follow its labels, and the posterior
            keeps the names of its components: those of a fit by `mixture_from_labels` are the groups.
        num_starts: Number of EM fits; the best is where the method starts. Chains that leave a poor optimum do not mix.
        progress: Show progress bars; by default on a terminal, after two seconds.
        throw: Raise when a method fails or chains do not mix; otherwise the ``result`` tells.

    Raises:
        TypeError: If an argument is not of the stated type, or the method cannot work with the family.
        ValueError: If the data are refused by `fit`, or a prior has the wrong shape or support.
        ConvergenceError: If the method fails or chains do not mix, and ``throw`` is true; its ``value`` is the
            posterior.
    """
    key, num_components = as_key(key), as_count("num_components", num_components)
    if method is not None and not isinstance(method, AbstractMethod):
        raise TypeError(
            "`method` must be Gibbs(), LaplaceApproximation(), NUTS(), SVI() or Bootstrap(); "
            f"got {getattr(method, '__name__', type(method).__name__)}."
        )
    x = in_order_of(family, "x", x)
    points = _as_data(x, num_components)
    precision = "float32" if points.dtype == np.float32 else str(default_dtype())
    fit_key, draw_key, second_key = split_key(key, 3)
    with jax.enable_x64(True):
        wide = points.astype(np.float64)
        priors = _widened(priors)
        if isinstance(method, Bootstrap) and not priors and (flat := flat_priors(family, wide.shape[1])) is not None:
            # Refits use no priors; without any there is no posterior to compare them with.
            priors, method = flat, dataclasses.replace(method, compare=False)
        model = mixture_model(wide, family, num_components, priors=priors, weight_concentration=weight_concentration)
        problem = _problem(fit_key, wide, model, start, as_count("num_starts", num_starts), progress)
        chosen = _default_method(problem) if method is None else method
        draws, name = chosen._draw(draw_key, problem), chosen.name
        if method is None and draws.result in (RESULTS.approximation_poor, RESULTS.approximation_left):
            chosen, reason = NUTS(), f"the {name}'s {_flaw(draws)}"
            draws, name = chosen._draw(second_key, problem), f"{chosen.name} ({reason})"
        posterior = _assemble(problem.model, draws, problem.start, wide, name, chosen.is_chain)
    known = {"names": getattr(start, "names", None), "feature_names": column_names(x)}
    posterior = dataclasses.replace(narrow(posterior, precision), **known)
    if throw and posterior.result == RESULTS.mode_not_found:
        refuse_constant("x", points)
    return raise_with(posterior, posterior.result) if throw else posterior


def _widened(priors: Any) -> Any:
    """Priors with float64 arrays."""
    if not isinstance(priors, Mapping):
        return priors

    def widen(leaf: Any) -> Any:
        array = np.asarray(leaf)
        return jax.device_put(array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array)

    return {n: jax.tree.map(widen, p) if isinstance(p, dist.Distribution) else p for n, p in priors.items()}


def _problem(
    key: Any, x: Any, model: MixtureModel, start: Any, num_starts: int, progress: bool | None
) -> PosteriorProblem:
    """The model with its start."""
    if model.components is None:
        if start is not None:
            raise ValueError(
                "`start` must be left out for a function that makes NumPyro distributions: a mixture does not tell the "
                "parameters that it was made of."
            )
        sites, mixture = numpyro_start(key, x, model)
        return PosteriorProblem(x, model, mixture, None, sites, progress)
    optimum = start
    if isinstance(start, Fit):
        # The checks of `fit`.
        place = np.zeros(x.shape[1]), np.ones(x.shape[1])
        as_start(start.mixture, as_template(model.components), model.num_components, x.shape[1], *place)
    if not isinstance(optimum, Fit):
        optimum = fit(
            key,
            x,
            model.components,
            model.num_components,
            start="merge" if start is None else start,
            num_starts=num_starts,
            progress=progress,
        )
    mixture = narrow(optimum.mixture, np.float64)
    # A weight of zero has no unconstrained coordinate.
    weights = np.maximum(np.asarray(mixture.weights), 1e-3 / x.shape[0])
    mixture = eqx.tree_at(lambda m: m.weights, mixture, jax.device_put(weights / weights.sum()))
    return PosteriorProblem(x, model, mixture, optimum, None, progress)


def _flaw(draws: SiteDraws) -> str:
    """Why an approximation is not to be trusted."""
    if draws.result == RESULTS.approximation_left:
        return "draws are left by exact chains"
    return f"Pareto k is {pareto_k_of(draws.traces['log_weight']):.2f}"


def _default_method(problem: PosteriorProblem) -> AbstractMethod:
    try:
        conditional_law(problem.start.components, problem.model.priors, jax.device_put(0 * problem.x[0]))
    except TypeError:
        return Bootstrap() if problem.smoothness == 0 and problem.fit is not None else LaplaceApproximation()
    return Gibbs()


def _assemble(
    model: MixtureModel, draws: SiteDraws, reference: Mixture, x: Any, method: str, is_chain: bool
) -> PosteriorFit:
    """Relabel the draws and diagnose them."""
    sites = stack_chains(draws.sites)
    finite = all(np.isfinite(values).all() for values in sites.values())
    if draws.result != RESULTS.successful and not finite:
        refuse_constant("x", x)
        raise ConvergenceError(RESULTS[draws.result])
    num_chains = next(iter(draws.sites.values())).shape[0]
    return assemble(
        stacked_mixtures(model.mixture, sites),
        sites,
        reference,
        x,
        stack_chains(draws.statistics),
        draws.traces,
        num_chains,
        method,
        draws.result,
        is_chain,
        component_sites=("weights", *model.parameter_names),
    )


def assemble(
    mixtures: Mixture,
    parameters: dict[str, Any],
    reference: Mixture,
    x: Any,
    statistics: dict[str, Any],
    traces: dict[str, Any],
    num_chains: int,
    method: str,
    result: Any,
    is_chain: bool,
    component_sites: tuple[str, ...],
) -> PosteriorFit:
    """A posterior from draws: relabelled to the reference and diagnosed."""
    mixtures, permutations, labelling = labelled(mixtures, reference)
    rows = np.arange(len(permutations))[:, None]
    parameters = {n: np.asarray(v)[rows, permutations] if n in component_sites else v for n, v in parameters.items()}
    log_likelihoods = None
    if x is not None and "total_log_likelihood" in statistics:
        log_likelihoods = np.asarray(statistics["total_log_likelihood"]) / len(x)
    label_free = LabelFree.of(mixtures, x, num_chains, log_likelihoods)
    mixed = not is_chain or label_free.worst_r_hat <= LARGEST_R_HAT
    if result == RESULTS.successful and not mixed:
        result = RESULTS.chains_not_mixed
    parameters, x, statistics, traces = jax.device_put((parameters, x, statistics, traces))
    return PosteriorFit(
        mixtures,
        reference,
        parameters,
        x,
        label_free,
        statistics,
        traces,
        labelling.num_relabelled,
        num_chains,
        method,
        result,
        labelling=labelling,
    )


def raise_with(posterior: PosteriorFit, result: Any) -> PosteriorFit:
    """The posterior, or a `ConvergenceError` that carries it: draws that took long are not lost."""
    if result == RESULTS.successful:
        return posterior
    error = ConvergenceError(f"{RESULTS[result]} ({posterior.in_words()}; `throw=False` returns the draws.)")
    error.value = posterior
    raise error
