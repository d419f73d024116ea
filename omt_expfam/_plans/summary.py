"""A plan in one line, and one line of advice for each way in which it says little."""

from typing import Any

import numpy as np

from .._base.arrays import is_traced
from .._couplings.gaussian import GaussianCouplings
from .epsilons import choose_epsilons, GIVEN

# A pair is far when it costs so many times what is typical, and it counts when so much of the mass goes there.
_FAR, MUCH = 10, 0.05
# Costs below this share of the largest are as good as zero.
_ROUNDING = 1e-6
# Less than this from independence: nothing can be read from the coupling.
LEAST = 0.01
# With a regularization so many times "auto", mass is spread rather than forced.
_LARGE = 10.0
# Errors of costs from this share of them on are told.
_INEXACT = 0.05
# What one coordinate may have of all variance, and the number of dimensions up to which it is looked at.
_MOST, _DIMENSIONS = 0.99, 64


def summary(plan: Any) -> str:
    """Sizes, costs, regularizations and evidence of a plan."""
    sizes = plan.source.num_components, plan.target.num_components
    sides = f"{sizes[0]} -> {sizes[1]} components in {plan.source.dim} dimensions"
    if is_traced(plan):
        return f"TransportPlan({sides}, traced)"
    mass = ""
    if plan.masses is not None:
        given = float(plan.masses.source_mass), float(plan.masses.target_mass)
        mass = f"mass {float(plan.mass):.4g} of {given[0]:.4g} and {given[1]:.4g}, "
    values = plan.epsilon_components, plan.epsilon_weights
    epsilons = [
        f"epsilon_{name} {float(value):.3g}" + ("" if rule == GIVEN else f" ({rule})")
        for name, value, rule in zip(("components", "weights"), values, plan.epsilon_rules, strict=True)
    ]
    spread = f", {float(plan.independence):.0%} independent" if min(sizes) > 1 else ""
    return (
        f"TransportPlan({sides}, {mass}cost {float(plan.cost):.6g}, objective {float(plan.objective):.6g}, "
        f"{', '.join(epsilons)}{spread}, marginal error {float(plan.marginal_error):.1e} after {int(plan.num_steps)} "
        "steps)"
    )


def advice(plan: Any) -> list[str]:
    """What keeps a plan from saying much, with the remedy."""
    if is_traced(plan):
        return []
    lines = _scales(plan) + _inexact(plan)
    if min(plan.weights.shape) > 1 and float(plan.independence) > 1 - LEAST:
        lines.append(
            f"The components are coupled within {LEAST:.0%} of independence: epsilon_weights is "
            f"{float(plan.epsilon_weights):.3g}, large beside differences of their costs. " + _remedy(plan, "weights")
        )
    else:
        lines += far_pairs(plan)
    # Of a normal pair, the squared correlation in a typical direction.
    weights, kl = np.asarray(plan.weights, np.float64), np.asarray(plan.component_kl, np.float64)
    within = -np.expm1(-2 * np.sum(weights * np.where(weights > 0, kl, 0)) / (weights.sum() * plan.source.dim))
    if within < LEAST:
        lines.append(
            f"Points within pairs are coupled within {LEAST:.0%} of independence: epsilon_components is "
            f"{float(plan.epsilon_components):.3g}, large beside the variances of components. "
            + _remedy(plan, "components")
        )
    return lines


def _inexact(plan: Any) -> list[str]:
    """A line where the costs of component couplings are not known well."""
    if isinstance(plan.couplings, GaussianCouplings):
        return []  # rounding alone
    weights, errors = np.asarray(plan.weights, np.float64), np.asarray(plan.component_errors, np.float64)
    error, cost = np.sum(weights * np.where(weights > 0, errors, 0)), float(plan.cost)
    if error <= _INEXACT * cost:
        return []
    return [
        f"The costs of component couplings are known to within {error:.2g} of {cost:.3g}, and maps no better: a larger "
        f"epsilon_components (here {float(plan.epsilon_components):.3g}) is the remedy, and where couplings are "
        "numerical more nodes, numerical=omt.NumericalSettings(num_nodes=...)."
    ]


def far_pairs(plan: Any) -> list[str]:
    """A line where much of the mass of a plan that keeps all masses goes over pairs far beyond what is typical."""
    if plan.masses is not None or is_traced(plan):
        return []
    auto = float(choose_epsilons(plan.source, plan.target).weights)
    if float(plan.epsilon_weights) > _LARGE * auto:
        return []
    weights, costs = np.asarray(plan.weights, np.float64), np.asarray(plan.component_costs, np.float64)
    share = far_share(weights, costs)
    if share < MUCH:
        return []
    price = likely_price(weights, costs, auto)
    return [
        f"{share:.0%} of the mass goes over {_FAR} times the typical cost: have shares changed? Then relax the "
        f"masses, with source_relaxation and target_relaxation about {price:.2g}."
    ]


def typical_cost(weights: np.ndarray, costs: np.ndarray) -> float:
    """The median, by mass and over both sides, of the costs from components to their nearest ones."""
    nearest = np.concatenate([costs.min(axis=1), costs.min(axis=0)])
    order, half = np.argsort(nearest), np.concatenate([weights.sum(axis=1), weights.sum(axis=0)])
    return float(nearest[order][np.searchsorted(np.cumsum(half[order]), half.sum() / 2)])


def far_from(typical: float, costs: np.ndarray) -> np.ndarray:
    """The pairs that cost many times what is typical."""
    return costs > max(_FAR * typical, _ROUNDING * costs.max())


def far_share(weights: np.ndarray, costs: np.ndarray) -> float:
    """The part of the mass that goes over such pairs."""
    return float(weights[far_from(typical_cost(weights, costs), costs)].sum())


def likely_price(weights: np.ndarray, costs: np.ndarray, least: float) -> float:
    """Half the geometric mean of the typical cost and that of the mass on far pairs; infinite where there is none.

    Mass moves where that costs less than both prices together, which then lie between the two.
    """
    typical = typical_cost(weights, costs)
    far = far_from(typical, costs)
    share = weights[far].sum()
    return float(0.5 * np.sqrt(max(typical, least) * (weights[far] @ costs[far]) / share)) if share > 0 else np.inf


def _remedy(plan: Any, name: str) -> str:
    auto = float(getattr(choose_epsilons(plan.source, plan.target), name))
    if plan.epsilon_rules[("components", "weights").index(name)] == GIVEN:
        return f'Leave epsilon_{name} at "auto", which is {auto:.3g} here.'
    return f'Lower epsilon_scale, or give epsilon_{name} a smaller number; "auto" is {auto:.3g} here.'


def _scales(plan: Any) -> list[str]:
    """Whether one coordinate has all the distance."""
    if not 1 < plan.source.dim <= _DIMENSIONS:
        return []
    left, right = (np.diag(np.asarray(side.covariance(), np.float64)) for side in (plan.source, plan.target))
    total = left + right
    largest = int(total.argmax())
    if total[largest] <= _MOST * total.sum():
        return []
    return [
        f"Coordinate {largest} has {total[largest] / total.sum():.1%} of the variance, and so decides about the plan: "
        "standardize the data before fitting, unless all coordinates have one unit."
    ]
