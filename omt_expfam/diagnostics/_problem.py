"""The transport problem that a diagnostic looks at: that of a plan, or two mixtures and their regularizations."""

from typing import Any, TYPE_CHECKING

from .._components.mixture import as_pair, Mixture, MixtureLike
from .._plans.epsilons import choose_epsilons
from .._plans.plan import TransportPlan
from .._plans.transport import aligned

if TYPE_CHECKING:
    ProblemLike = TransportPlan | MixtureLike
else:
    # Checked by `as_problem`, with better messages than a run-time type checker's.
    ProblemLike = Any


def as_problem(
    source: Any, target: Any, epsilon_components: Any, epsilon_weights: Any
) -> tuple[Mixture, Mixture, Any, Any]:
    """Both mixtures and both regularizations, as numbers.

    Raises:
        TypeError: If something is missing beside a mixture, or given beside a plan.
        ValueError: If a plan is given whose components change their shapes, or fits of different columns.
    """
    epsilons = {"epsilon_components": epsilon_components, "epsilon_weights": epsilon_weights}
    rest = {"target": target, **epsilons}
    if isinstance(source, TransportPlan):
        given = [f"`{name}`" for name, value in rest.items() if value is not None]
        if given:
            raise TypeError(f"{', '.join(given)} must be left out: the plan that is given as `source` holds them.")
        if not source.couplings.keeps_marginals:
            raise ValueError("`source` must be a plan that keeps its components; got one with `component_relaxation`.")
        return source.source, source.target, source.epsilon_components, source.epsilon_weights
    if target is None:
        raise TypeError("`target` must be given, unless `source` is a plan.")
    pair = as_pair(*aligned(source=source, target=target)[1])
    first, second = ("auto" if value is None else value for value in epsilons.values())
    chosen = choose_epsilons(*pair, first, second)
    return *pair, chosen.components, chosen.weights


def names_of(source: Any, target: Any) -> tuple[tuple[Any, Any], tuple[str, ...] | None]:
    """Names of the components of both sides, and of the columns, as far as a plan or fits know them."""
    if isinstance(source, TransportPlan):
        return source.component_names, source.feature_names
    names = getattr(source, "names", None), getattr(target, "names", None)
    return names, aligned(source=source, target=target)[0]
