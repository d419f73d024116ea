"""What a plan's numbers mean, in sentences."""

import numpy as np

from .._base.results import RESULTS
from .._couplings.coordinates import AbstractCoordinateCouplings
from .._couplings.gaussian import GaussianCouplings
from .._plans.epsilons import COMPONENTS_SHARE, GIVEN, WEIGHTS_SHARE
from .._plans.plan import TransportPlan
from .._plans.summary import advice, far_share, LEAST, MUCH
from .._plans.transport import transport

# A marginal error beyond the first number, a coupling that other regularizations move by more than the second, and
# groups read through components less pure than the third are to be looked at.
_ERROR, _MOVED, PURE = 1e-3, 0.1, 0.8
_FACTORS = (0.5, 2.0)

Finding = tuple[str, str, str]


def findings(plan: TransportPlan) -> list[Finding]:
    """What the diagnostics that cost nothing say: kind, subject and sentence."""
    return [_convergence(plan), _marginals(plan), _independence(plan), *_far(plan), _unique(plan), *_regularized(plan)]


def remarks(plan: TransportPlan) -> list[str]:
    """What keeps the plan from saying much, a sentence each."""
    return advice(plan)


def regularization(plan: TransportPlan) -> list[tuple[str, str, str, str]]:
    """Name, value, rule and meaning of both regularizations."""
    meanings = (
        f"auto is {COMPONENTS_SHARE:g} times the typical variance of a coordinate within components. Smaller: images "
        "are sharper; larger: points are spread within the components they go to.",
        f"auto is {WEIGHTS_SHARE:g} times the typical squared distance between points of matched components. Smaller: "
        "each component goes to few others; larger: components are coupled as if independent.",
    )
    values = plan.epsilon_components, plan.epsilon_weights
    names = "epsilon_components", "epsilon_weights"
    return [
        (name, f"{float(value):.3g}", rule, meaning)
        for name, value, rule, meaning in zip(names, values, plan.epsilon_rules, meanings, strict=True)
    ]


def chosen(plan: TransportPlan) -> str:
    """How the regularizations were chosen, in a sentence."""
    given = [rule == GIVEN for rule in plan.epsilon_rules]
    if all(given):
        return "Both were given as numbers, in squared units of the data."
    if any(given):
        return "One was given as a number, in squared units of the data; the other follows the data."
    return "Both follow the data, so that no unit has to be known; epsilon_scale multiplies them."


def _convergence(plan: TransportPlan) -> Finding:
    if bool(plan.converged):
        return (
            "good",
            "Convergence",
            f"Both blocks met their tolerances, the weights after {int(plan.num_steps)} steps.",
        )
    return "look", "Convergence", f"The solve has not converged: {' '.join(RESULTS[plan.result].split())}"


def _marginals(plan: TransportPlan) -> Finding:
    error = float(plan.marginal_error)
    kind = "good" if error < _ERROR else "look"
    return kind, "Marginals", f"The plan misses the weights of the components by {error:.1e} of the mass in all."


def _independence(plan: TransportPlan) -> Finding:
    if min(plan.weights.shape) < 2:
        return "note", "Independence", "With one component on a side there is nothing to couple: all mass goes there."
    share = float(plan.independence)
    said = f"{share:.0%} of the way from one-to-one (0%) to independence of both sides (100%)."
    if share > 1 - LEAST:
        return "look", "Independence", f"{said} Nothing can be read from the coupling of the components."
    if share > 0.5:
        return "note", "Independence", f"{said} Components are shared among many; read shares, not single arrows."
    return "good", "Independence", said


def _far(plan: TransportPlan) -> list[Finding]:
    if plan.masses is not None:
        given, mass = float(plan.masses.source_mass), float(plan.mass)
        text = (
            f"Masses may change: {mass:.4g} of {given:.4g} is transported. Shares on this page are of what is "
            "transported."
        )
        return [("note", "Masses", text)]
    weights, costs = np.asarray(plan.weights, np.float64), np.asarray(plan.component_costs, np.float64)
    share = far_share(weights, costs)
    text = f"{share:.0%} of the mass goes over pairs of more than ten times the typical cost."
    if share >= MUCH:
        text += " Have shares of groups changed? Then relax the masses (source_relaxation, target_relaxation)."
    return [("look" if share >= MUCH else "good", "Far pairs", text)]


def _unique(plan: TransportPlan) -> Finding:
    if float(plan.epsilon_weights) > 0 and float(plan.epsilon_components) > 0:
        text = "Both regularizations are positive: the objective has one minimizer, whatever the solve starts from."
        return "good", "Uniqueness", text
    if float(plan.epsilon_weights) > 0:
        text = "The weights are regularized, so that their coupling is unique given the costs of the pairs."
        return "good", "Uniqueness", text
    text = "Without regularization of the weights, their coupling may be one of several that cost the same."
    return "note", "Uniqueness", text


def _regularized(plan: TransportPlan) -> list[Finding]:
    """How much mass goes elsewhere at half and at twice the regularization of the weights."""
    closed = isinstance(plan.couplings, GaussianCouplings | AbstractCoordinateCouplings)
    epsilon = float(plan.epsilon_weights)
    if not closed or plan.masses is not None or epsilon == 0 or min(plan.weights.shape) < 2:
        return []
    weights, moved = np.asarray(plan.weights, np.float64), []
    for factor in _FACTORS:
        other = transport(
            plan.source,
            plan.target,
            epsilon_components=float(plan.epsilon_components),
            epsilon_weights=factor * epsilon,
            throw=False,
        )
        moved.append(0.5 * float(np.abs(np.asarray(other.weights, np.float64) - weights).sum()))
    text = (
        f"With half of epsilon_weights {moved[0]:.1%} of the mass goes to other pairs, and with twice {moved[1]:.1%}."
    )
    if max(moved) > _MOVED:
        return [("look", "Choice of epsilon", f"{text} Shares hang on the regularization: report them with it.")]
    return [("good", "Choice of epsilon", text)]
