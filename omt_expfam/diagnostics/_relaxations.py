"""How much hangs on the price of changing masses: transport along a ladder of prices, or of shares."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .._base.arguments import ArrayLike, as_host_or_traced, check_positive, ScalarLike
from .._base.arrays import is_traced, on_host, to_jax
from .._base.results import ConvergenceError, RESULTS, succeeded
from .._plans.correspondences import as_texts
from .._plans.epsilons import choose_epsilons
from .._plans.plan import TransportPlan
from .._plans.relaxations import as_relaxation, Partial
from .._plans.summary import far_from, likely_price, typical_cost
from .._plans.transport import transport
from ._problem import as_problem, names_of, ProblemLike

# A ladder begins at this part of the typical cost and ends at this multiple of the largest one.
_FIRST, _LAST = 0.03, 10.0


class RelaxationPath(eqx.Module):
    """Transport at R prices of changing masses, or shares of the mass; print it, or draw it by `plot.relaxation_path`.

    Attributes:
        relaxation: The prices of either side, units of squared distance, or the shares.
        mass: Mass that stays, over the geometric mean of both masses.
        cost: Mean squared distance that it is moved by.
        far_share: Part of it that goes over far pairs, which cost more than ten times the typical cost.
        growth: What becomes of each source component in the target, over what it is, shape ``[R, K0]``.
        weights: Weights of the source components, shape ``[K0]``.
        suggested: A price between the typical cost and that of far pairs, infinite where no mass goes over these:
            what the print of the balanced plan proposes.
        typical: The typical cost, the median of the costs from components to their nearest ones.
        kind: ``"divergence"``, ``"total variation"`` or ``"partial"``.
        names: Names of the source components, where they have some.
    """

    relaxation: Float[np.ndarray, " R"]
    mass: Float[np.ndarray, " R"]
    cost: Float[np.ndarray, " R"]
    far_share: Float[np.ndarray, " R"]
    growth: Float[np.ndarray, "R K0"]
    weights: Float[np.ndarray, " K0"]
    suggested: float
    typical: float
    kind: str = eqx.field(static=True)
    names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def to_dict(self) -> dict[str, np.ndarray]:
        """A row for each price: mass, cost, share over far pairs, and the growth of each component by its name."""
        columns = {"relaxation": self.relaxation, "mass": self.mass, "cost": self.cost, "far_share": self.far_share}
        grown = zip(as_texts(self.names, len(self.weights)), self.growth.T, strict=True)
        return columns | {f"growth of {name}": column for name, column in grown}

    def error(self, growth: ArrayLike | Mapping[Any, float]) -> Float[np.ndarray, " R"]:
        """How far the growth found is from one that is known: the mass by which components miss it, at each price.

        Args:
            growth: What really becomes of each source component over what it is, shape ``[K0]``, such as the ratio of
                the shares of known groups; or by the names of the components.

        Raises:
            ValueError: If there is not one number for each component.
        """
        if isinstance(growth, Mapping):
            growth = self._by_name(growth)
        known = np.asarray(as_host_or_traced("growth", growth), np.float64)
        if known.shape != self.weights.shape:
            raise ValueError(f"`growth` must have shape {self.weights.shape}; got {known.shape}.")
        return np.abs(self.growth - known) @ self.weights

    def _by_name(self, growth: Mapping[Any, float]) -> list[float]:
        given = {str(name): value for name, value in growth.items()}
        names = as_texts(self.names, len(self.weights))
        missing = [name for name in names if name not in given]
        if missing or len(given) > len(names):
            raise ValueError(f"`growth` must have the components {', '.join(names)}; got {', '.join(given)}.")
        return [given[name] for name in names]

    def best(self, growth: ArrayLike | Mapping[Any, float]) -> float:
        """The price, or share, whose growth is nearest to one that is known, see `error`."""
        return float(self.relaxation[int(np.argmin(self.error(growth)))])

    @property
    def sound(self) -> Bool[np.ndarray, " R"]:
        """Where next to nothing, less than a hundredth of the mass that stays, goes over far pairs."""
        return self.far_share < 0.01

    def __str__(self) -> str:
        name = "share" if self.kind == "partial" else "price"
        lines = [f"{name:>10}  mass that stays       cost  over far pairs"]
        columns = self.relaxation, self.mass, self.cost, self.far_share
        lines += [
            f"{rho:>10.4g}  {mass:>15.1%}  {cost:>9.4g}  {far:>14.1%}"
            for rho, mass, cost, far in zip(*columns, strict=True)
        ]
        if math.isfinite(self.suggested) and self.kind != "partial":
            lines.append(
                f"Between the typical cost, {self.typical:.3g}, and that of far pairs lies {self.suggested:.2g}."
            )
        return "\n".join(lines)


def relaxation_path(
    source: ProblemLike,
    target: Any = None,
    *,
    epsilon_components: ScalarLike | None = None,
    epsilon_weights: ScalarLike | None = None,
    relaxations: ArrayLike | None = None,
    kind: Callable[[ScalarLike], Any] = float,
    source_mass: ScalarLike = 1.0,
    target_mass: ScalarLike = 1.0,
    max_steps: int = 1000,
) -> RelaxationPath:
    """Transport at one price of changing masses after the other, the same for both sides.

    The component couplings are computed once, and one compiled program serves all prices.

    Args:
        source: Source mixture or fit, or a plan that keeps all masses, whose mixtures and regularizations are taken.
        target: Target mixture or fit.
        epsilon_components: Regularization of the component couplings, as in `transport`; by default ``"auto"``.
        epsilon_weights: Regularization of the weights, positive; by default ``"auto"``.
        relaxations: The prices, units of squared distance, or shares. By default 15 prices from a thirtieth of the
            typical cost to ten times the largest one, or 20 shares.
        kind: What they are: ``float`` for divergences, `TotalVariation`, or `Partial`.
        source_mass: Total mass of the source.
        target_mass: Total mass of the target.
        max_steps: Limit on the steps of each solve.

    Raises:
        TypeError: If something is traced, or is missing beside a mixture.
        ValueError: If a price is not positive, ``epsilon_weights`` is 0, or a plan with changed masses is given.
        ConvergenceError: If a solve fails; the message says at which price.
    """
    if isinstance(source, TransportPlan) and source.masses is not None:
        raise ValueError("`source` must be a plan that keeps all masses, or two mixtures; its masses change.")
    names = names_of(source, target)[0][0]
    left, right, first, second = as_problem(source, target, epsilon_components, epsilon_weights)
    if is_traced(left, right, first, second, relaxations):
        raise TypeError("`relaxation_path` looks at its numbers and cannot be traced.")
    if float(second) == 0:
        raise ValueError("`epsilon_weights` must be positive; got 0.")
    options = {"epsilon_components": first, "epsilon_weights": second}
    plan = source if isinstance(source, TransportPlan) else transport(left, right, **options)
    weights, costs = np.asarray(plan.weights, np.float64), np.asarray(plan.component_costs, np.float64)
    typical = typical_cost(weights, costs)
    ladder = _ladder(relaxations, kind, typical, float(costs.max()))
    far, dtype = far_from(typical, costs), plan.weights.dtype
    masses = {"source_mass": source_mass, "target_mass": target_mass, "dtype": dtype}
    objectives, epsilon = plan.component_objectives, to_jax(second, dtype)
    rows, potential, name = [], to_jax(np.zeros(weights.shape[1]), dtype), "divergence"
    for value in ladder:
        relaxed = as_relaxation(kind(float(value)), kind(float(value)), **masses)
        if relaxed is None:
            raise ValueError(f"`relaxations` must be finite; got {value}.")
        a, b = (
            on_host(lambda _, w, m: w * m, side.weights, m)
            for side, m in zip((left, right), relaxed.masses, strict=True)
        )
        found = relaxed.solve(objectives, a, b, epsilon, None, potential, max_steps)
        if not succeeded(found.coupling.result):
            raise ConvergenceError(f"At {value:g}: {RESULTS[found.coupling.result]}")
        potential, name = found.coupling.target_potential, relaxed.kinds[0]
        rows.append(_row(found, costs, far, math.sqrt(float(source_mass) * float(target_mass))))
    mass, cost, share, growth = (np.array(column) for column in zip(*rows, strict=True))
    price = likely_price(weights, costs, float(choose_epsilons(left, right).weights))
    given = np.asarray(left.weights, np.float64)
    return RelaxationPath(ladder, mass, cost, share, growth, given, price, typical, name, names)


def _row(found: Any, costs: np.ndarray, far: np.ndarray, unit: float) -> tuple[float, float, float, np.ndarray]:
    """Mass, cost, share over far pairs, and growth."""
    coupling = found.coupling
    weights = np.asarray(coupling.weights, np.float64)
    leaves, arrives = (np.exp(np.asarray(g, np.float64)) for g in (found.log_source_growth, found.log_target_growth))
    growth = leaves * (np.asarray(coupling.row_shares, np.float64) @ arrives)
    return float(found.mass) / unit, float(np.sum(weights * costs)), float(weights[far].sum()), growth


def _ladder(relaxations: Any, kind: Any, typical: float, largest: float) -> Float[np.ndarray, " R"]:
    if relaxations is None:
        if kind is Partial:
            return np.linspace(0.05, 1.0, 20)
        return np.geomspace(_FIRST * max(typical, 1e-6 * largest), _LAST * largest, 15)
    ladder = np.atleast_1d(np.asarray(as_host_or_traced("relaxations", relaxations), np.float64))
    check_positive("relaxations", ladder)
    return ladder
