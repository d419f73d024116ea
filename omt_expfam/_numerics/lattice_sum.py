"""Sums over whole numbers of probabilities that are known up to a factor."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .support import Constraint, ends

# How many numbers are summed, and where the largest probability is looked for: at powers of this, up to that.
_WIDTH, _RATIO, _FARTHEST = 2048, 1.04, 1e7
# Which power of the precision may be left beyond the numbers that are summed.
_LOST = 0.6

LogMass = Callable[[Any, Float[Array, ""]], Float[Array, ""]]


class LatticeSum(eqx.Module):
    """A normalized law on whole numbers, as `Quadrature` is on an interval.

    Attributes:
        log_normalizer: Log of the sum of the given probabilities; infinite where it cannot be normalized.
        points: The numbers.
        masses: Their probabilities.
    """

    log_normalizer: Float[Array, ""]
    points: Float[Array, " n"]
    masses: Float[Array, " n"]

    def expectation(self, function: Callable[[Float[Array, ""]], Array]) -> Array:
        """The expectation of a function of one number."""
        values = jax.vmap(function)(self.points)
        # Functions may be infinite where there is nothing.
        return jnp.tensordot(self.masses, jnp.where(self.masses > 0, values, jnp.zeros_like(values)), 1)

    def mean(self) -> Float[Array, ""]:
        """The mean."""
        return jnp.sum(self.masses * self.points)

    def variance(self) -> Float[Array, ""]:
        """The variance."""
        return jnp.sum(self.masses * (self.points - self.mean()) ** 2)

    def quantile(self, log_mass: LogMass, parameters: Any, probability: Float[Array, ""]) -> Float[Array, ""]:
        """The smallest number with at least the given probability up to it."""
        total = jnp.cumsum(self.masses)
        return self.points[jnp.clip(jnp.searchsorted(total, probability * total[-1]), 0, _WIDTH - 1)]


def lattice_sum(log_mass: LogMass, parameters: Any, support: Constraint) -> LatticeSum:
    """Prepare the sums of a law with one mode; derivatives with respect to the parameters are those of the sums.

    Args:
        log_mass: The log-probability up to a constant, a function of the parameters and one number.
        parameters: Any pytree of floating-point arrays.
        support: Whole numbers from a lower to an upper end, as a NumPyro constraint; the lower end is finite.
    """
    lower, upper = ends(support)
    dtype = jax.tree.leaves(parameters)[0].dtype
    fixed = jax.lax.stop_gradient(parameters)
    last = min(upper, lower + _FARTHEST)
    powers = np.floor(_RATIO ** np.arange(math.ceil(math.log(_FARTHEST) / math.log(_RATIO))))
    grid = np.unique(np.minimum(lower + np.concatenate([[0.0], powers]), last))
    heights = jax.vmap(lambda x: log_mass(fixed, x))(jnp.asarray(grid, dtype))
    peak = jnp.asarray(grid, dtype)[jnp.argmax(jnp.where(jnp.isnan(heights), -jnp.inf, heights))]
    first = jnp.maximum(peak - _WIDTH // 2, lower)
    points = first + jnp.arange(_WIDTH, dtype=dtype)
    inside = points <= upper
    values = jax.vmap(lambda x: log_mass(parameters, x))(jnp.where(inside, points, first))
    values = jnp.where(inside & jnp.isfinite(values), values, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(values))
    rest = jnp.maximum(values[-1], jnp.where(first > lower, values[0], -jnp.inf)) - top
    proper = jnp.isfinite(top) & (rest < _LOST * math.log(float(jnp.finfo(dtype).eps)))
    masses = jnp.exp(values - jnp.where(proper, top, 0.0))
    total = jnp.sum(masses)
    log_normalizer = jnp.where(proper, top + jnp.log(jnp.where(proper, total, 1.0)), jnp.inf)
    return LatticeSum(log_normalizer, points, masses / total)
