"""Posteriors from NumPyro runs of one's own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.infer import MCMC

from .._base.arguments import ArrayLike, as_count, as_key, as_points, KeyLike
from .._base.arrays import take
from .._base.precision import relaxed
from .._base.results import RESULTS
from .._components.draws import check_draws
from .._components.mixture import Mixture
from .fit import assemble, raise_with
from .model import stacked_mixtures
from .posterior import PosteriorFit, stack_chains


def posterior_from_numpyro(
    run: Any,
    mixture: Callable[[dict[str, Array]], Mixture],
    *,
    x: ArrayLike | None = None,
    reference: Mixture | None = None,
    num_chains: int = 1,
    group_by_chain: bool = False,
    key: KeyLike | None = None,
    num_samples: int = 1000,
    throw: bool = True,
) -> PosteriorFit:
    """A posterior from the draws of your own NumPyro program.

    Args:
        run: An ``MCMC`` that has run; draws of sites by name, shape ``[S, ...]``; an ``InferenceData`` or ``DataTree``
            of ArviZ with a posterior; or a pair ``(guide, result)`` of an autoguide and what ``SVI.run`` returned.
        mixture: Makes the mixture of one draw of the sites: ``model.mixture`` for a `mixture_model`, or for instance
            ``lambda s: omt.Mixture(s["w"], Gaussian(s["mu"], scale_tril=s["tril"]))``.
        x: The points, shape ``[n, d]``: for the log-likelihood in diagnostics, `PosteriorFit.loo` and ArviZ.
        reference: The mixture whose labels the draws shall follow; by default the first draw.
        num_chains: For draws by name: how many chains of equal length stand one after the other. Of draws in one piece
            (the default) r-hat is shown but not judged: they may be independent, and few.
        group_by_chain: Draws by name have the shape ``[C, S, ...]`` of ``mcmc.get_samples(group_by_chain=True)``.
        key: Random key, to draw from a guide.
        num_samples: How many draws to take from a guide.
        throw: Raise when chains do not mix or diverge; otherwise the ``result`` tells.

    Raises:
        TypeError: If ``run`` is none of these.
        ValueError: If draws differ in length, are not finite, or do not divide into the chains.
        ConvergenceError: If chains did not mix or diverged, and ``throw`` is true; its ``value`` is the posterior.
    """
    if not callable(mixture):
        raise TypeError(f"`mixture` must be a function of the sites of one draw; got {type(mixture).__name__}.")
    if reference is not None and not isinstance(reference, Mixture):
        raise TypeError(f"`reference` must be a Mixture; got {type(reference).__name__}.")
    num_chains = as_count("num_chains", num_chains)
    if isinstance(run, Mapping) and group_by_chain:
        sites, statistics, method, is_chain = _read_chains(run, num_chains)
    else:
        sites, statistics, method, is_chain = _read(run, num_chains, key, num_samples)
    num_chains = next(iter(sites.values())).shape[0]
    flat = jax.device_put(stack_chains(sites))
    with relaxed():
        _check_function(mixture, flat)
        mixtures = check_draws("run", stacked_mixtures(mixture, flat))
    first = take(mixtures, 0) if reference is None else reference
    points = None if x is None else as_points("x", x, first.dim, first.components.dtype)
    diverged = np.mean(np.asarray(statistics.get("diverging", False))) > 0.01
    posterior = assemble(
        mixtures,
        {},
        first,
        points,
        {name: jnp.asarray(values).reshape(-1) for name, values in statistics.items()},
        {},
        num_chains,
        method,
        RESULTS.chains_diverged if diverged else RESULTS.successful,
        is_chain,
        (),
    )
    posterior = dataclasses.replace(posterior, parameters=_parameters(posterior.mixtures))
    return raise_with(posterior, posterior.result) if throw else posterior


def _read(run: Any, num_chains: int, key: Any, num_samples: int) -> tuple[dict[str, Any], dict[str, Any], str, bool]:
    """Sites ``[C, S, ...]``, statistics ``[C, S]``, the method's name, and whether draws form chains."""
    if isinstance(run, MCMC):
        if run.last_state is None:
            raise ValueError("`run` must have run; call its `run` first.")
        extra = run.get_extra_fields(group_by_chain=True)
        statistics = {"diverging": extra["diverging"]} if "diverging" in extra else {}
        samples = run.get_samples(group_by_chain=True)
        if not isinstance(samples, dict):
            raise TypeError("`run` must have sampled a model with named sites; sample a model, not a potential.")
        return samples, statistics, type(run.sampler).__name__, True
    if hasattr(run, "posterior"):
        return _read_arviz(run)
    if isinstance(run, Mapping):
        arrays = {name: jnp.asarray(values) for name, values in run.items()}
        lengths = {values.shape[0] if values.ndim else 0 for values in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"`run` must hold equally many draws of every site; got lengths {sorted(lengths)}.")
        num = lengths.pop()
        if num % num_chains:
            raise ValueError(f"`num_chains` must divide the number of draws, {num}; got {num_chains}.")
        split = {name: v.reshape(num_chains, num // num_chains, *v.shape[1:]) for name, v in arrays.items()}
        return split, {}, "given draws", num_chains > 1
    if isinstance(run, tuple) and len(run) == 2 and hasattr(run[0], "sample_posterior") and hasattr(run[1], "params"):
        guide, result = run
        if key is None:
            raise ValueError("`key` must be given to draw from a guide.")
        shape = (as_count("num_samples", num_samples),)
        with relaxed():
            samples = guide.sample_posterior(as_key(key), result.params, sample_shape=shape)
        return {name: values[None] for name, values in samples.items()}, {}, "SVI", False
    raise TypeError(
        "`run` must be an MCMC, a dictionary of draws, an ArviZ object with a posterior, or a pair (guide, SVI "
        f"result); got {type(run).__name__}."
    )


def _read_arviz(run: Any) -> tuple[dict[str, Any], dict[str, Any], str, bool]:
    """What `_read` says, of an object of ArviZ."""

    def grouped(values: Any) -> np.ndarray:
        return np.asarray(values.transpose("chain", "draw", ...).values)

    sites = {str(name): jax.device_put(grouped(values)) for name, values in run.posterior.data_vars.items()}
    if not sites:
        raise ValueError("`run` must have a posterior with draws; its posterior is empty.")
    found = getattr(run, "sample_stats", None)
    statistics = {} if found is None or "diverging" not in found else {"diverging": grouped(found["diverging"])}
    return sites, statistics, "given draws", next(iter(sites.values())).shape[0] > 1


def _read_chains(run: Mapping, num_chains: int) -> tuple[dict[str, Any], dict[str, Any], str, bool]:
    """What `_read` says, of draws by name that are grouped by chain."""
    arrays = {name: np.asarray(values) for name, values in run.items()}
    leading = {values.shape[:2] for values in arrays.values()}
    if len(leading) != 1 or len(next(iter(leading))) != 2:
        shapes = ", ".join(map(str, sorted(leading)))
        raise ValueError(f"`run` must hold chains and draws of every site, [C, S, ...]; leading axes are {shapes}.")
    ((chains, _),) = leading
    if num_chains not in (1, chains):
        raise ValueError(f"`num_chains` must be left out, or {chains} as in `run`; got {num_chains}.")
    return jax.device_put(arrays), {}, "given draws", chains > 1


def _check_function(mixture: Callable, sites: dict[str, Array]) -> None:
    """Raise unless a function makes a mixture of the sites of one draw."""
    try:
        # Not traced: so the values of the first draw are checked too.
        made = mixture(take(sites, 0))
    except KeyError as error:
        raise ValueError(
            f"`mixture` asks for a site {error} that `run` does not have; it has {', '.join(sorted(sites))}."
        ) from error
    if not isinstance(made, Mixture):
        raise TypeError(f"`mixture` must return a Mixture; got {type(made).__name__}.")


def _parameters(mixtures: Mixture) -> dict[str, Array]:
    """The weights and the arrays of the components, by field."""
    named = {"weights": mixtures.weights}
    for path, leaf in jax.tree_util.tree_flatten_with_path(mixtures.components)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="_")
        named[name] = leaf
    return named
