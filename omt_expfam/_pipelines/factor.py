"""The transport between two mixtures as a factor of a NumPyro program."""

from typing import Any

import jax.numpy as jnp
import numpyro

from .._base.arguments import as_scalar, ScalarLike
from .._base.arrays import is_traced
from .._base.precision import relaxed
from .._base.results import RESULTS
from .._components.interface import AbstractComponents
from .._components.joined import as_blocks
from .._components.mixture import Mixture
from .._couplings.solve import route_of
from .._plans.plan import TransportPlan
from .._plans.transport import transport


def transport_factor(
    name: str,
    source: Mixture,
    target: Mixture,
    *,
    epsilon_components: ScalarLike,
    epsilon_weights: ScalarLike,
    strength: ScalarLike,
) -> TransportPlan:
    r"""Penalize the transport between two mixtures of a NumPyro program.

    Adds ``-strength * transport(source, target, ...).objective`` to the log-density of the program, by
    `numpyro.factor`: an unnormalized prior under which mixtures that are cheap to transport are more likely. It works
    under NUTS and in SVI. Where the transport cannot be solved the density is zero, so that NUTS reports a divergence.

    With ``epsilon_weights`` far below the differences of component costs, the objective has almost a kink wherever a
    group of source components weighs as much as the group that it is sent to. Gradients jump there and NUTS takes
    small steps; about a tenth of the costs or more keeps the density smooth.

    Args:
        name: Name of the factor's site.
        source: Source mixture, such as a scoped `mixture_model` returns.
        target: Target mixture, of the same dimension.
        epsilon_components: Regularization of the component couplings, units of squared distance; may be 0. A number:
            one that follows the mixtures would be another penalty for each of them.
        epsilon_weights: Regularization of the weight coupling, units of squared distance; positive.
        strength: What a unit of squared distance costs, in nats, not per point: multiply by the number of points for a
            penalty that keeps its share of the likelihood as data grow (`fit_coupled` does). A `strength` with a
            prior would need the normalizing constant of the factor, which is not known.

    Returns:
        The transport plan, for the rest of the program.

    Raises:
        TypeError: If an argument is not of the stated type, or the families are coupled numerically, which has no
            derivative.
        ValueError: If the dimensions differ, ``epsilon_weights`` is zero, or an argument is negative.
    """
    for label, mixture in (("source", source), ("target", target)):
        if not isinstance(mixture, Mixture):
            raise TypeError(f"`{label}` must be a Mixture; got {type(mixture).__name__}.")
    for label, value in (("epsilon_components", epsilon_components), ("epsilon_weights", epsilon_weights)):
        if isinstance(value, str):
            raise TypeError(f"`{label}` must be a number, not {value!r}: a penalty may not change with the mixtures.")
    check_epsilon_weights(epsilon_weights)
    as_scalar("strength", strength)
    check_differentiable(source.components, target.components)
    plan = transport(
        source,
        target,
        epsilon_components=epsilon_components,
        epsilon_weights=epsilon_weights,
        progress=False,
        throw=False,
    )
    penalty = jnp.asarray(strength, plan.objective.dtype) * plan.objective
    with relaxed():
        numpyro.factor(name, jnp.where(plan.result == RESULTS.successful, -penalty, -jnp.inf))
    return plan


def check_epsilon_weights(value: Any) -> None:
    """Raise ValueError unless the weights' regularization is positive."""
    as_scalar("epsilon_weights", value)
    if not is_traced(value) and float(value) == 0:
        raise ValueError(
            "`epsilon_weights` must be positive: at 0 the weights are solved on the host and cannot be followed by "
            "gradients. Use a small share of the component costs."
        )


def check_differentiable(source: AbstractComponents, target: AbstractComponents) -> None:
    """Raise TypeError if some pair of families is coupled numerically."""
    for left in as_blocks(source).blocks:
        for right in as_blocks(target).blocks:
            if route_of(left, right) == "numerical":
                raise TypeError(
                    "`source` and `target` must both have a Gaussian form, or both independent coordinates: "
                    f"{type(left).__name__} and {type(right).__name__} components are coupled numerically, which has "
                    "no derivative."
                )
