"""Draws of an approximation to a posterior, judged and corrected by their importance weights."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from ..._base.buckets import point_bucket
from ..._base.results import RESULTS
from ..arviz import JUDGED, pareto_k_of, pareto_smoothed
from .method import SiteDraws

# Weights with a larger Pareto k have no reliable mean (Vehtari et al., 2024).
LARGEST_PARETO_K = 0.7


def num_proposals(num_samples: int) -> int:
    """How many draws of an approximation are weighted: those that the Pareto k is measured on, or more.

    From there on the bound for S draws of Vehtari et al., 1 - 1 / log10(S), is `LARGEST_PARETO_K`.
    """
    return point_bucket(max(num_samples, JUDGED))


def corrected(
    key: Key[Array, ""],
    sites: dict[str, Any],
    log_density: Float[np.ndarray, " N"],
    log_proposal: Float[np.ndarray, " N"],
    num: int,
    traces: dict[str, np.ndarray],
    result: Any,
) -> SiteDraws:
    """``num`` draws of the posterior out of N of an approximation, where their smoothed weights are to be trusted.

    Elsewhere the first ``num`` draws of the approximation (again and again, where there are fewer), with a result that
    says so.

    Args:
        key: The random key of the draws.
        sites: The draws of each site, shape ``[N, ...]``.
        log_density: Their log densities under the posterior, up to a constant.
        log_proposal: Under the approximation, likewise.
        num: Number of draws wanted.
        traces: What else the method has to show.
        result: Its own verdict.
    """
    # On the host, by other numbers than the draws.
    rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel(), 1])
    log_weight = log_density - log_proposal
    # Relative to the largest, which float32 keeps where densities are large.
    log_weight = log_weight - np.nanmax(log_weight, initial=-np.inf)
    chosen = np.arange(num) % len(log_weight)
    if pareto_k_of(log_weight) <= LARGEST_PARETO_K:
        smooth, _ = pareto_smoothed(log_weight)
        chosen = _systematic(rng, np.exp(smooth - smooth.max()), num)
    elif result == RESULTS.successful:
        result = RESULTS.approximation_poor
    draws = {name: np.asarray(value)[chosen][None] for name, value in sites.items()}
    return SiteDraws(draws, {"lp": log_density[chosen][None]}, traces | {"log_weight": log_weight}, result)


def _systematic(rng: np.random.Generator, weights: Float[np.ndarray, " N"], num: int) -> np.ndarray:
    """Indices drawn at equal distances on the cumulated weights: each as often as it should, give or take one."""
    ends = np.cumsum(weights)
    places = (rng.uniform() + np.arange(num)) * (ends[-1] / num)
    return rng.permutation(np.minimum(np.searchsorted(ends, places), len(weights) - 1))
