"""Convergence of chains, judged by quantities that do not depend on how components are labelled."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ._mixture import Mixture
from ._mixture_distribution import log_density

# Points at which the log-likelihood is followed, at most.
_NUM_POINTS = 2000
# Chains with a larger r-hat have not mixed (Vehtari et al., 2021, are stricter; they ask for 1.01 before publication).
LARGEST_R_HAT = 1.05
# Shorter (half) chains cannot be judged.
_LEAST_DRAWS = 4


class LabelFree(eqx.Module):
    """Draws of quantities that do not depend on labels, and their diagnostics.

    Attributes:
        names: The quantities: the mean log-likelihood of (up to 2,000 of) the points, the means and variances of the
            mixture, and its largest weight.
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
    def of(cls, mixtures: Mixture, x: Float[Array, "n d"] | None, num_chains: int) -> "LabelFree":
        """Compute the quantities of all draws and their diagnostics."""
        named = {}
        if x is not None:
            named["log_likelihood"] = np.asarray(_mean_log_likelihoods(mixtures, x[:: -(-x.shape[0] // _NUM_POINTS)]))
        moments = _moments(mixtures)
        for what, values in zip(("mean", "variance"), moments[:2], strict=True):
            named |= {f"{what}[{i}]": column for i, column in enumerate(np.asarray(values).T)}
        named["largest_weight"] = np.asarray(moments[2])
        draws = np.stack(list(named.values())).astype(np.float64)
        diagnostics = _diagnose(draws, num_chains)
        return cls(tuple(named), *map(jnp.asarray, (draws, draws.mean(axis=1), draws.std(axis=1), *diagnostics)))

    @property
    def worst_r_hat(self) -> float:
        """The largest r-hat."""
        return float(jnp.nanmax(self.r_hat))

    def in_words(self) -> str:
        """One phrase for people."""
        return f"r-hat up to {self.worst_r_hat:.3f}, effective size from {float(jnp.nanmin(self.effective_size)):.0f}"

    def __str__(self) -> str:
        lines = [f"{'quantity':<16}{'mean':>12}{'sd':>11}{'ess':>8}{'r-hat':>8}"]
        columns = (self.names, self.mean, self.standard_deviation, self.effective_size, self.r_hat)
        for name, mean, deviation, size, r_hat in zip(*columns, strict=True):
            lines.append(f"{name:<16}{mean:>12.5g}{deviation:>11.3g}{size:>8.0f}{r_hat:>8.3f}")
        return "\n".join(lines)


def _diagnose(draws: np.ndarray, num_chains: int) -> tuple[np.ndarray, np.ndarray]:
    """Effective sizes and r-hats; a single chain is compared with itself, first half against second."""
    from ._arviz import effective_size, r_hat

    chains = draws.reshape(len(draws), num_chains, -1)
    if num_chains == 1:
        half = chains.shape[2] // 2
        chains = chains[:, :, : 2 * half].reshape(len(draws), 2, half)
    if chains.shape[2] < _LEAST_DRAWS:
        return np.full(len(draws), np.nan), np.full(len(draws), np.nan)
    # A quantity that never changes carries no information about mixing.
    constant = np.ptp(draws, axis=1) <= 1e-12 * np.abs(draws).max(axis=1)
    sizes = [draws.shape[1] if c else effective_size(q) for c, q in zip(constant, chains, strict=True)]
    ratios = [1.0 if c else r_hat(q) for c, q in zip(constant, chains, strict=True)]
    return np.asarray(sizes, np.float64), np.asarray(ratios, np.float64)


@eqx.filter_jit
def _mean_log_likelihoods(mixtures: Mixture, x: Float[Array, "n d"]) -> Float[Array, " S"]:
    return jax.lax.map(lambda m: jnp.mean(log_density(m, x)), mixtures)


@eqx.filter_jit
def _moments(mixtures: Mixture) -> tuple[Float[Array, "S d"], Float[Array, "S d"], Float[Array, " S"]]:
    def one(m: Mixture) -> tuple[Array, Array, Array]:
        return m.mean(), jnp.diagonal(m.covariance()), jnp.max(m.weights)

    return jax.lax.map(one, mixtures)
