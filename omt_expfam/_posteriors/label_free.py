"""Convergence of chains, judged by quantities that do not depend on how components are labelled."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.buckets import pad, pad_zero, point_bucket
from .._base.xla import program
from .._components.centers import center_of, covariance_of
from .._components.columns import has_angles, has_categories
from .._components.mixture import Mixture
from .arviz import effective_size, r_hat
from .distribution import log_density

# Points at which the log-likelihood is followed, at most.
_NUM_POINTS = 2000
# Chains with a larger r-hat have not mixed (Vehtari et al., 2021, are stricter; they ask for 1.01 before publication).
LARGEST_R_HAT = 1.05
# Shorter (half) chains cannot be judged.
LEAST_DRAWS = 4


class LabelFree(eqx.Module):
    """Draws of quantities that do not depend on labels, and their diagnostics.

    Attributes:
        names: The quantities: the mean log-likelihood of the points (of 2,000 of them where there are more and the
            method has not computed that of all), the means and variances of the mixture, and its largest weight.
        draws: Their draws, shape ``[q, S]``.
        mean: Posterior means, shape ``[q]``.
        standard_deviation: Posterior standard deviations, shape ``[q]``.
        effective_size: Bulk effective sample sizes, shape ``[q]``.
        r_hat: Rank-normalized split r-hat (Vehtari et al., 2021), shape ``[q]``.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    draws: Float[Array, "q S"]
    mean: Float[Array, " q"]
    standard_deviation: Float[Array, " q"]
    effective_size: Float[Array, " q"]
    r_hat: Float[Array, " q"]

    @classmethod
    def of(
        cls,
        mixtures: Mixture,
        x: Float[Any, "n d"] | None,
        num_chains: int,
        log_likelihoods: Float[np.ndarray, " S"] | None = None,
    ) -> "LabelFree":
        """Compute the quantities of all draws and their diagnostics.

        Args:
            mixtures: S draws.
            x: The points, if they are known.
            num_chains: Number of chains.
            log_likelihoods: Mean log-likelihoods of the points under every draw, where they are known already.
        """
        total = mixtures.weights.shape[0]
        padded = pad(jax.tree.map(np.asarray, mixtures), point_bucket(total))
        points = None
        if x is not None and log_likelihoods is None:
            few = np.asarray(x)[:: -(-x.shape[0] // _NUM_POINTS)]
            size = point_bucket(len(few))
            points = pad(few, size), pad_zero(np.full(len(few), 1 / len(few), few.dtype), size)
        values, found = jax.tree.map(lambda v: np.asarray(v)[:total], _quantities(padded, points))
        known = found if log_likelihoods is None else log_likelihoods
        named = {} if known is None else {"log_likelihood": known}
        named |= dict(zip(moment_names(mixtures.components), values.T, strict=True))
        draws = np.stack(list(named.values())).astype(np.float64)
        diagnostics = _diagnose(draws, num_chains)
        return cls(tuple(named), *jax.device_put((draws, draws.mean(axis=1), draws.std(axis=1), *diagnostics)))

    @property
    def worst_r_hat(self) -> float:
        """The largest r-hat; NaN where there is none."""
        return _extreme(np.max, self.r_hat)

    def in_words(self) -> str:
        """One phrase for people."""
        size = _extreme(np.min, self.effective_size)
        if math.isnan(size):
            return "too few draws for r-hat"
        return f"r-hat up to {self.worst_r_hat:.3f}, effective size from {size:.0f}"

    def __str__(self) -> str:
        lines = [f"{'quantity':<16}{'mean':>12}{'sd':>11}{'ess':>8}{'r-hat':>8}"]
        columns = (self.names, self.mean, self.standard_deviation, self.effective_size, self.r_hat)
        for name, mean, deviation, size, ratio in zip(*columns, strict=True):
            lines.append(f"{name:<16}{mean:>12.5g}{deviation:>11.3g}{size:>8.0f}{ratio:>8.3f}")
        return "\n".join(lines)


def _diagnose(draws: np.ndarray, num_chains: int) -> tuple[np.ndarray, np.ndarray]:
    """Effective sizes and r-hats; a single chain is compared with itself, first half against second."""
    chains = draws.reshape(len(draws), num_chains, -1)
    if num_chains == 1:
        half = chains.shape[2] // 2
        chains = chains[:, :, : 2 * half].reshape(len(draws), 2, half)
    if chains.shape[2] < LEAST_DRAWS:
        return np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    # A quantity that never changes carries no information about mixing.
    constant = np.ptp(draws, axis=1) <= 1e-12 * np.abs(draws).max(axis=1)
    sizes = [draws.shape[1] if c else effective_size(q) for c, q in zip(constant, chains, strict=True)]
    ratios = [1.0 if c else r_hat(q) for c, q in zip(constant, chains, strict=True)]
    return np.asarray(sizes, np.float64), np.asarray(ratios, np.float64)


def _extreme(function: Callable[[np.ndarray], Any], values: Array) -> float:
    """The extreme of what is a number."""
    known = np.asarray(values)
    known = known[~np.isnan(known)]
    return float(function(known)) if known.size else math.nan


def moments(mixture: Mixture) -> Float[Array, " q"]:
    """The means and variances of a mixture and its largest weight, which no labels change.

    Of angles, mean cosines and sines take the place of means and variances: they do not jump; and of categories, their
    probabilities.
    """
    found = []
    for part in mixture.components.column_parts():
        own = part.components
        form = own.category_form()
        if has_angles(own):
            values = own.characteristics()[:, :, 1]
            first = mixture.weights.astype(values.dtype) @ values
            found += [first.real, first.imag]
        elif form is not None:
            found.append(jnp.einsum("k,kdc->dc", mixture.weights, form.probability).ravel())
        else:
            found += [center_of(mixture.weights, own), jnp.diagonal(covariance_of(mixture.weights, own))]
    return jnp.concatenate([*found, jnp.max(mixture.weights)[None]])


def moment_names(components: Any) -> tuple[str, ...]:
    """The names of the `moments`."""
    names: list[str] = []
    for part in components.column_parts():
        own, columns = part.components, part.columns
        if has_categories(own):
            names += [f"probability[{i},{c}]" for i in columns for c in range(own.num_categories)]
        else:
            for word in ("cosine", "sine") if has_angles(own) else ("mean", "variance"):
                names += [f"{word}[{i}]" for i in columns]
    return *names, "largest_weight"


@program
def _quantities(mixtures: Mixture, points: tuple[Array, Array] | None) -> tuple[Float[Array, "S q"], Array | None]:
    """The moments of draws, and their weighted mean log-likelihoods of points."""

    def one(m: Mixture) -> tuple[Array, Array | None]:
        if points is None:
            return moments(m), None
        x, weight = points
        # An infinite value counts for points, but not for padding.
        terms = weight * log_density(m, x)
        return moments(m), jnp.sum(jnp.where(weight > 0, terms, jnp.zeros_like(terms)))

    return jax.lax.map(one, mixtures)
