"""What an unbalanced plan does to masses: what leaves, what is created, and where."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host
from .._components.mixture import Mixture


class MassChange(eqx.Module):
    """The masses before and after transport.

    The row sums of the coupling are the source masses times `source_growth`, and the target masses its column sums
    times `target_growth`.

    Attributes:
        source: The mixture that was given as the source; `TransportPlan.source` is that of what is transported.
        target: The mixture that was given as the target.
        source_mass: Total mass of the source.
        target_mass: Total mass of the target.
        mass: Mass of the coupling.
        log_source_growth: Logarithms of `source_growth`, shape ``[K0]``.
        log_target_growth: Logarithms of `target_growth`, shape ``[K1]``.
        source_relaxation: Price of changing the source masses, units of squared distance; infinite if they are kept.
        target_relaxation: Price of changing the target masses.
    """

    source: Mixture
    target: Mixture
    source_mass: Float[Array, ""]
    target_mass: Float[Array, ""]
    mass: Float[Array, ""]
    log_source_growth: Float[Array, " K0"]
    log_target_growth: Float[Array, " K1"]
    source_relaxation: Float[Array, ""]
    target_relaxation: Float[Array, ""]

    @property
    def source_growth(self) -> Float[Array, " K0"]:
        """Mass that each source component sends over the mass it has: below one where mass leaves."""
        return on_host(lambda xp, value: xp.exp(value), self.log_source_growth)

    @property
    def target_growth(self) -> Float[Array, " K1"]:
        """Mass that each target component has over the mass it receives: above one where mass is created."""
        return on_host(lambda xp, value: xp.exp(value), self.log_target_growth)

    def reverse(self) -> "MassChange":
        """The same, read from target to source."""
        return MassChange(
            self.target,
            self.source,
            self.target_mass,
            self.source_mass,
            self.mass,
            -self.log_target_growth,
            -self.log_source_growth,
            self.target_relaxation,
            self.source_relaxation,
        )

    def weights_at(self, weights: Float[Array, "K0 K1"], t: Float[Array, ""]) -> Float[Array, "K0 K1"]:
        """Masses of the pairs at time t: each grows or decays at a constant rate on its way."""

        def value(xp: Any, weights: Any, mass: Any, left: Any, right: Any, t: Any) -> Any:
            rate = -(1 - t) * left[:, None] + t * right[None, :]
            used = weights > 0
            log = xp.where(used, xp.log(xp.where(used, weights, xp.ones_like(weights))) + xp.log(mass) + rate, -xp.inf)
            return xp.exp(log)

        return on_host(value, weights, self.mass, self.log_source_growth, self.log_target_growth, t)


def as_relaxation(name: str, value: ScalarLike) -> ScalarLike:
    """Check a price of changing masses: positive, or infinite for masses that are kept.

    Raises:
        ValueError: If it is not positive.
    """
    if not is_traced(value) and np.ndim(value) == 0 and float(value) == np.inf:
        return value
    return as_scalar(name, value, strict=True)
