"""Transport between two mixtures: the block iteration over component couplings and weight couplings."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_floating, as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host, to_jax
from .._base.results import raise_if_failed
from .._components.mixture import as_pair, cast_mixture, Mixture, MixtureLike
from .._couplings.cross_covariances import cross_covariance_terms
from .._couplings.interface import independent_costs
from .._couplings.settings import NumericalSettings
from .._couplings.solve import solve_couplings
from .._weights.exact import exact_coupling
from .._weights.solve import solve_weights
from .objective import least_objective, objective_of, potential_of
from .plan import BlockTrace, TransportPlan


class BlockStart(eqx.Module):
    """Where the block iteration starts.

    Attributes:
        weights: A coupling of the weights, shape ``[K0, K1]``; by default the product of the weights.
        cross_covariances: Cross-covariances of Gaussian component couplings, shape ``[K0, K1, d, d]``, source
            coordinates first; by default the components are coupled independently.
    """

    weights: ArrayLike | None = None
    cross_covariances: ArrayLike | None = None


def transport(
    source: MixtureLike,
    target: MixtureLike,
    *,
    epsilon_components: ScalarLike,
    epsilon_weights: ScalarLike,
    start: BlockStart | None = None,
    num_sweeps: int = 1,
    tolerance: float | None = None,
    max_steps: int = 1000,
    numerical: NumericalSettings | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> TransportPlan:
    r"""Couple two mixtures by entropic optimal transport of their components and of their weights.

    Minimizes, over couplings $p_{ij}$ of the components and couplings $\Omega$ of the weights,

    $$\sum_{ij} \omega_{ij} \Big[\int \|x - y\|^2 dp_{ij} + \varepsilon_1 KL(p_{ij} \| \mu_{0i} \otimes \mu_{1j})\Big]
      + \varepsilon_2 KL(\Omega \| \alpha_0 \otimes \alpha_1)$$

    by alternating the two blocks. The first block does not depend on the second, so one sweep reaches the unique
    minimizer from any interior start; more sweeps show that it stays there.

    Args:
        source: Source mixture, or a fit of it.
        target: Target mixture or fit, of the same dimension.
        epsilon_components: Regularization of the component couplings, units of squared distance; 0 gives the
            unregularized (Monge) couplings.
        epsilon_weights: Regularization of the weight coupling, same units; 0 gives the exact linear program, which is
            solved on the host and cannot be traced.
        start: Where the block iteration starts; changes the trace, not the answer.
        num_sweeps: Number of sweeps over both blocks.
        tolerance: Largest accepted marginal error (L1, rows plus columns) of the weight coupling. Default 1e-10 where
            it is solved in float64, 5e-6 in float32.
        max_steps: Limit on the steps of the weight solve.
        numerical: How accurately component couplings are computed that have neither a closed form nor independent
            coordinates.
        progress: Show a progress bar over the component couplings; by default on a terminal, when there are many.
        throw: Raise when a solve fails; otherwise the plan's ``result`` tells.

    Returns:
        The plan. All of it is differentiable with respect to both mixtures and both regularizations when
        ``epsilon_weights`` is positive. Float32 mixtures with ``epsilon_weights`` below 1e-4 of the largest cost have
        their weights solved in float64 inside, see `TransportPlan.weights_precision`; under a caller's ``jit`` that
        is not possible and float32 is used.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the dimensions differ, a regularization is negative, or ``epsilon_components`` is 0 for
            components that are coupled numerically.
        ConvergenceError: If a solve fails and ``throw`` is true.
    """
    source, target = as_pair(source, target)
    dtype = jnp.result_type(source.components.dtype, target.components.dtype)
    source, target = (cast_mixture(mixture, dtype) for mixture in (source, target))
    epsilon_1 = to_jax(as_scalar("epsilon_components", epsilon_components), dtype)
    exact = not is_traced(as_scalar("epsilon_weights", epsilon_weights)) and float(epsilon_weights) == 0
    epsilon_2 = to_jax(epsilon_weights, dtype)
    num_sweeps, max_steps = as_count("num_sweeps", num_sweeps), as_count("max_steps", max_steps)
    if tolerance is not None:
        as_scalar("tolerance", tolerance, strict=True)
    if numerical is not None and not isinstance(numerical, NumericalSettings):
        raise TypeError(f"`numerical` must be NumericalSettings; got {type(numerical).__name__}.")

    weights, costs = _start_values(start, source, target, epsilon_1)
    a, b = source.weights, target.weights
    trace = [objective_of(weights, costs, a, b, epsilon_2)]
    potential = to_jax(np.zeros(b.shape, dtype))
    while True:
        couplings = solve_couplings(source.components, target.components, epsilon_1, progress, numerical)
        objectives = couplings.objectives()
        trace.append(objective_of(weights, objectives, a, b, epsilon_2))
        if len(trace) == 2 and start is not None and start.weights is not None:
            potential = potential_of(weights, objectives, a, b, epsilon_2)
        if exact:
            coupling, value = exact_coupling(objectives, a, b)
            precision = "float64"
        else:
            coupling, precision = solve_weights(objectives, a, b, epsilon_2, tolerance, potential, max_steps)
            solved = coupling.weights, coupling.source_potential, coupling.target_potential
            least = least_objective if is_traced(objectives, a, b, epsilon_2) else least_objective.fun
            value = least(objectives, a, b, epsilon_2, solved)
        weights, potential = coupling.weights, coupling.target_potential
        trace.append(value)
        if len(trace) > 2 * num_sweeps:
            break
    values = on_host(lambda xp, *items: xp.stack(items), *trace)
    steps = BlockTrace(values, ("start",) + ("components", "weights") * num_sweeps)
    plan = TransportPlan(source, target, couplings, coupling, epsilon_2, steps, precision)
    return raise_if_failed(plan, plan.result) if throw else plan


def _start_values(
    start: BlockStart | None, source: Mixture, target: Mixture, epsilon: Array
) -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
    """Weights and component objectives where the iteration starts."""
    shape = (source.num_components, target.num_components)
    weights = on_host(lambda _, a, b: a[:, None] * b[None, :], source.weights, target.weights)
    if start is not None and start.weights is not None:
        weights = as_floating("start.weights", start.weights, "K0 K1", weights.dtype)
        _check_start(weights, source, target)
    if start is None or start.cross_covariances is None:
        # Independent components have no divergence.
        return weights, independent_costs(source.components, target.components)
    cross = as_floating("start.cross_covariances", start.cross_covariances, "K0 K1 d d", weights.dtype)
    expected = (*shape, source.dim, source.dim)
    if cross.shape != expected:
        raise ValueError(f"`start.cross_covariances` must have shape {expected}; got {tuple(cross.shape)}.")
    trace, kl = cross_covariance_terms(source.components, target.components, cross)
    if not is_traced(kl) and not np.isfinite(np.asarray(kl)).all():
        bad = np.argwhere(~np.isfinite(np.asarray(kl)))[0]
        raise ValueError(
            f"`start.cross_covariances` must leave each joint covariance positive definite; pair {tuple(bad)} does not."
        )

    def objectives(xp: Any, alone: Any, trace: Any, kl: Any, epsilon: Any) -> Any:
        return alone - 2 * trace + xp.where(epsilon > 0, epsilon * kl, xp.zeros_like(kl))

    alone = independent_costs(source.components, target.components)
    return weights, on_host(objectives, alone, trace, kl, epsilon)


def _check_start(weights: Array, source: Mixture, target: Mixture) -> None:
    shape = (source.num_components, target.num_components)
    if weights.shape != shape:
        raise ValueError(f"`start.weights` must have shape {shape}; got {tuple(weights.shape)}.")
    if is_traced(weights, source.weights, target.weights):
        return
    host = np.asarray(weights)
    error = np.abs(host.sum(1) - np.asarray(source.weights)).sum()
    error += np.abs(host.sum(0) - np.asarray(target.weights)).sum()
    if (host < 0).any() or error > 1e-4:
        raise ValueError(
            f"`start.weights` must be nonnegative with the mixtures' weights as marginals; they are off by {error:.3g}."
        )
