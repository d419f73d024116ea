"""Ways in which masses may change: by a divergence, at a price per unit, or a share of them left behind."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host, to_jax
from .._components.mixture import Mixture
from .._weights.relaxed import RelaxedCoupling
from .._weights.relaxed_exact import CANNOT_TRACE, exact_relaxed_coupling, Side
from .._weights.solve import solve_relaxed
from .masses import MassChange
from .objective import divergence, objective_of

KEPT, DIVERGENCE, VARIATION, PARTIAL = "kept", "divergence", "total variation", "partial"
# A share of one up to so many units of rounding is all.
_ROUNDING = 8


class TotalVariation(eqx.Module):
    """A fixed price of every unit of mass that is destroyed or created, for ``source_relaxation`` and the other side.

    Mass is moved wherever that costs less than the prices of both sides together, and left where it costs more: there
    is a sharp limit, while a divergence changes all masses a little. Components whose masses need not change keep them
    exactly.

    Attributes:
        price: Price of a unit of mass, units of squared distance.
    """

    price: ScalarLike


class Partial(eqx.Module):
    """A share of the mass that is transported, the cheapest to move, for both ``source_relaxation`` and the other side.

    Both sides must have one, of the same mass, but for a side that gives all it has: its relaxation is infinite.

    Attributes:
        share: The share of the side's mass, at most 1.
    """

    share: ScalarLike


RelaxationLike = ScalarLike | TotalVariation | Partial


class Relaxation(NamedTuple):
    """How the masses of both sides may change.

    Attributes:
        kinds: For each side, whether its mass is kept or what its changes cost.
        prices: For each side, the price; infinite where masses are kept or a share of them is moved.
        masses: Total masses of both sides.
        moved: The mass that is transported, where that is given.
    """

    kinds: tuple[str, str]
    prices: tuple[Array, Array]
    masses: tuple[Array, Array]
    moved: Array | None

    def objective(
        self, weights: Array, costs: Array, a: Array, b: Array, epsilon: Float[Array, ""]
    ) -> Float[Array, ""]:
        """The objective of transport with what changes of masses cost."""
        kinds = self.kinds

        def changes(xp: Any, weights: Any, a: Any, b: Any, prices: Any) -> Any:
            total = xp.zeros_like(prices[0])
            for kind, axis, wanted, price in zip(kinds, (1, 0), (a, b), prices, strict=True):
                there, finite = xp.sum(weights, axis=axis), xp.where(xp.isinf(price), xp.zeros_like(price), price)
                if kind == DIVERGENCE:
                    total = total + finite * divergence(xp, there, wanted)
                if kind == VARIATION:
                    total = total + finite * xp.sum(xp.abs(there - wanted))
            return total

        cost = on_host(changes, weights, a, b, self.prices)
        return on_host(lambda _, *values: sum(values), objective_of(weights, costs, a, b, epsilon), cost)

    def solve(
        self,
        costs: Array,
        a: Array,
        b: Array,
        epsilon: Array,
        tolerance: float | None,
        start: Array,
        max_steps: int,
    ) -> RelaxedCoupling:
        """The best weights, see `solve_relaxed`."""

        def limits(xp: Any, prices: Any, moved: Any, masses: Any) -> Any:
            one = xp.ones_like(prices[0])
            rigidity = tuple(one / p if k == DIVERGENCE else 0 * one for k, p in zip(self.kinds, prices, strict=True))
            bounds = tuple(p if k == VARIATION else xp.inf * one for k, p in zip(self.kinds, prices, strict=True))
            if moved is None:
                return rigidity, bounds
            # A side of which all is moved has no bound, and none of another one is passed.
            least = 1 - _ROUNDING * xp.finfo(one.dtype).eps
            whole = [moved >= least * mass for mass in masses]
            return rigidity, (xp.where(whole[0], xp.inf, -xp.inf) * one, xp.where(whole[1], xp.inf, 0.0) * one)

        rigidity, bounds = on_host(limits, self.prices, self.moved, self.masses)
        plain = set(self.kinds) <= {KEPT, DIVERGENCE}
        clipped = None if plain else (bounds, self.moved)
        return solve_relaxed(costs, a, b, epsilon, rigidity, tolerance, start, max_steps, clipped)

    def solve_exact(self, costs: Array, a: Array, b: Array, max_steps: int) -> RelaxedCoupling:
        """The best weights without regularization, on the host, see `solve_exact_relaxed`."""
        if is_traced(self.prices, self.masses, self.moved, a, b):
            raise TypeError(CANNOT_TRACE)
        moved = None if self.moved is None else float(self.moved)
        sides = []
        for kind, price, weights in zip(self.kinds, self.prices, (a, b), strict=True):
            host = np.asarray(weights, np.float64)
            unit = math.inf if kind in (KEPT, DIVERGENCE) else float(price)
            if kind == PARTIAL:
                whole = moved is not None and moved >= (1 - _ROUNDING * np.finfo(price.dtype).eps) * host.sum()
                unit, host = (math.inf, host * (moved / host.sum())) if whole and moved else (0.0, host)
            divergence = float(price) if kind == DIVERGENCE else math.inf
            sides.append(Side(host, divergence, unit, kind == VARIATION))
        return exact_relaxed_coupling(costs, (sides[0], sides[1]), moved, max_steps)

    def change(self, source: Mixture, target: Mixture, found: RelaxedCoupling) -> MassChange:
        """What became of the masses."""
        prices = self.prices
        if self.moved is not None:
            coupling = found.coupling
            pair = coupling.source_potential, coupling.target_potential, source.weights, target.weights
            prices = (on_host(_price_of_moving, *pair),) * 2
        growth = found.log_source_growth, found.log_target_growth
        one, other = self.masses
        return MassChange(source, target, one, other, found.mass, *growth, prices[0], prices[1], self.kinds)


def _price_of_moving(xp: Any, source: Any, target: Any, a: Any, b: Any) -> Any:
    """Half of what another unit of mass would cost: the price at which this share is moved."""
    return 0.5 * (xp.max(xp.where(a > 0, source, -xp.inf)) + xp.max(xp.where(b > 0, target, -xp.inf)))


def as_relaxation(
    source_relaxation: Any, target_relaxation: Any, source_mass: Any, target_mass: Any, dtype: Any
) -> Relaxation | None:
    """The arguments of unbalanced transport, checked; ``None`` where both masses are kept.

    Raises:
        TypeError: If an argument is not a number, or one of the objects of this module.
        ValueError: If a price or mass is not positive, a share does not lie between 0 and 1, or the masses do not fit.
    """
    names = "source_relaxation", "target_relaxation"
    given = source_relaxation, target_relaxation
    kinds, values = zip(*(_read(name, value) for name, value in zip(names, given, strict=True)), strict=True)
    masses = as_scalar("source_mass", source_mass, strict=True), as_scalar("target_mass", target_mass, strict=True)
    if kinds == (KEPT, KEPT):
        if is_traced(*masses) or float(masses[0]) != float(masses[1]):
            raise ValueError(
                f"`source_mass` and `target_mass` must be equal where both are kept; got {masses[0]} and {masses[1]}. "
                "Set `source_relaxation` or `target_relaxation`."
            )
        return None
    moved = _moved(kinds, values, masses, dtype) if PARTIAL in kinds else None
    prices, masses = (tuple(to_jax(value, dtype) for value in pair) for pair in (values, masses))
    if moved is not None:
        prices = (to_jax(np.inf, dtype),) * 2
    return Relaxation((kinds[0], kinds[1]), (prices[0], prices[1]), (masses[0], masses[1]), moved)


def _read(name: str, value: Any) -> tuple[str, Any]:
    """The kind of a relaxation, and its number."""
    if isinstance(value, TotalVariation):
        return VARIATION, as_scalar(f"{name}.price", value.price, strict=True)
    if isinstance(value, Partial):
        share = as_scalar(f"{name}.share", value.share, strict=True)
        if not is_traced(share) and float(share) > 1:
            raise ValueError(f"`{name}.share` must be at most 1; got {float(share):g}.")
        return PARTIAL, share
    if _infinite(value):
        return KEPT, value
    return DIVERGENCE, as_scalar(name, value, strict=True)


def _infinite(value: Any) -> bool:
    """Whether an argument is the number infinity, which keeps masses."""
    if is_traced(value):
        return False
    array = np.asarray(value)
    return array.ndim == 0 and array.dtype.kind == "f" and float(array) == math.inf


def _moved(kinds: Any, values: Any, masses: Any, dtype: Any) -> Array:
    """The mass that is moved, which both sides must agree on."""
    if not set(kinds) <= {KEPT, PARTIAL}:
        raise ValueError(
            "`source_relaxation` and `target_relaxation` must both be Partial or infinite where one is Partial; got "
            f"{kinds[0]} and {kinds[1]}."
        )
    parts = [mass * (1.0 if kind == KEPT else value) for kind, value, mass in zip(kinds, values, masses, strict=True)]
    if not is_traced(*parts) and abs(float(parts[0]) - float(parts[1])) > 1e-6 * float(parts[0]):
        raise ValueError(
            "`source_relaxation` and `target_relaxation` must move the same mass; got "
            f"{float(parts[0]):.6g} and {float(parts[1]):.6g}."
        )
    # Without the differences of rounding.
    least = on_host(lambda xp, one, other: xp.minimum(one, other), *(to_jax(part, dtype) for part in parts))
    return jnp.asarray(least) if is_traced(least) else least


def as_component_prices(value: Any, epsilon: Array) -> tuple[Array, Array] | None:
    """The argument ``component_relaxation``, checked: prices of both sides, or ``None`` where components are kept.

    Raises:
        TypeError: If it is not a number, or a pair of numbers.
        ValueError: If a price or the regularization is not positive.
    """
    both = value if isinstance(value, tuple) else (value, value)
    if len(both) != 2:
        raise ValueError(f"`component_relaxation` must be one number or two; got {len(both)}.")
    kept = [_infinite(one) for one in both]
    prices = tuple(
        v if k else as_scalar("component_relaxation", v, strict=True) for v, k in zip(both, kept, strict=True)
    )
    if all(kept):
        return None
    if not is_traced(epsilon) and not float(epsilon) > 0:
        raise ValueError(
            "`epsilon_components` must be positive where `component_relaxation` is finite; got 0. Keep it infinite, or "
            "relax the masses of whole components."
        )
    first, second = (to_jax(price, epsilon.dtype) for price in prices)
    return first, second
