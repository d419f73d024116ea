"""What an unbalanced plan does to masses: what leaves, what is created, and where."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._base.arrays import on_host
from .._components.mixture import Mixture
from .._weights.entropic import WeightCoupling


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
            Where a share is moved, both are half of what another unit of mass would cost.
        target_relaxation: Price of changing the target masses.
        kinds: What changes cost on either side: ``"divergence"``, ``"total variation"``, ``"partial"``, or ``"kept"``.
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
    kinds: tuple[str, str] = eqx.field(static=True, default=("divergence", "divergence"))

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
            (self.kinds[1], self.kinds[0]),
        )

    def weights_at(self, coupling: WeightCoupling, t: Float[Array, ""]) -> Float[Array, "K0 K1"]:
        """Masses of the pairs at time t: each grows or decays at a constant rate on its way.

        They are read from the shares of what there is, so that components that send or receive next to nothing count.
        """

        def value(xp: Any, rows: Any, columns: Any, a: Any, b: Any, left: Any, right: Any, t: Any) -> Any:
            rate = left[:, None] + right[None, :]

            def grown(start: Any, share: Any, change: Any) -> Any:
                used = (share > 0) & (start > 0)
                return xp.where(used, start * xp.exp(xp.log(xp.where(used, share, xp.ones_like(share))) + change), 0)

            leaves = grown(a[:, None] * xp.ones_like(rows), rows, t * rate)
            return xp.maximum(leaves, grown(b[None, :] * xp.ones_like(rows), columns, -(1 - t) * rate))

        def scaled(_: Any, weights: Any, mass: Any) -> Any:
            return weights * mass

        a = on_host(scaled, self.source.weights, self.source_mass)
        b = on_host(scaled, self.target.weights, self.target_mass)
        growth = self.log_source_growth, self.log_target_growth
        return on_host(value, coupling.row_shares, coupling.column_shares, a, b, *growth, t)
