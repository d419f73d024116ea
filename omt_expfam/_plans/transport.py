"""Transport between two mixtures: the block iteration over component couplings and weight couplings."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_floating, as_scalar, ScalarLike
from .._base.arrays import at_top, is_traced, on_host, to_jax
from .._base.buckets import component_bucket, cut, pad, pad_zero
from .._base.precision import in_float64, narrow
from .._base.results import raise_if_failed, succeeded
from .._components.mixture import cast_mixture, check_pair, Mixture
from .._couplings.cross_covariances import cross_covariance_terms
from .._couplings.interface import independent_costs
from .._couplings.settings import NumericalSettings
from .._couplings.solve import solve_couplings
from .._weights.entropic import entropic_coupling, WeightCoupling
from .._weights.exact import exact_coupling
from .plan import BlockTrace, TransportPlan

# float32 resolves cost differences down to 1e-7 of the largest; below this ratio the weights are solved in float64.
_FLOAT32_RATIO = 1e-4


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
    source: Mixture,
    target: Mixture,
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
        source: Source mixture.
        target: Target mixture, of the same dimension.
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
    check_pair(source, target)
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
            coupling, precision = _solve_weights(objectives, a, b, epsilon_2, tolerance, potential, max_steps)
            value = objective_of(coupling.weights, objectives, a, b, epsilon_2)
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


def objective_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, ""]:
    """Sum omega L + eps2 KL(Omega || a b)."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        used = weights > 0
        safe = xp.where(used, weights, xp.ones_like(weights))
        product = xp.where(used, a[:, None] * b[None, :], xp.ones_like(weights))
        divergence = xp.sum(weights * (xp.log(safe) - xp.log(product))) - xp.sum(weights) + xp.sum(a) * xp.sum(b)
        return xp.sum(weights * costs) + epsilon * divergence

    return on_host(value, weights, costs, a, b, epsilon)


def potential_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, " K1"]:
    """A target potential that a given coupling would have: the dual's start from it."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        product = a[:, None] * b[None, :]
        used = (weights > 0) & (product > 0)
        one = xp.ones_like(weights)
        total = costs + epsilon * xp.log(xp.where(used, weights, one) / xp.where(used, product, one))
        return a @ (total - (total @ b)[:, None])

    return on_host(value, weights, costs, a, b, epsilon)


def _solve_weights(
    costs: Array,
    a: Array,
    b: Array,
    epsilon: Array,
    tolerance: float | None,
    start: Array,
    max_steps: int,
) -> tuple[WeightCoupling, str]:
    """Solve the Omega-block in the precision that its numbers need; returns also that precision."""
    dtype, traced = costs.dtype, is_traced(costs, a, b, epsilon)
    steps = to_jax(max_steps)
    widen = False
    if dtype == jnp.float32 and not traced:
        widen = float(epsilon) < _FLOAT32_RATIO * float(np.abs(np.asarray(costs)).max())
    if tolerance is None:
        tolerance = 5e-6 if dtype == jnp.float32 and not widen else 1e-10
    limit = to_jax(tolerance, dtype)
    coupling = None
    if not widen:
        coupling = _padded_coupling(costs, a, b, epsilon, limit, start, steps)
        # What float32 cannot finish, float64 may.
        widen = dtype == jnp.float32 and not traced and not succeeded(coupling.result)
    if coupling is None or widen:
        # Rescaled in float64, so that the rounding of float32 weights does not unbalance the marginals.
        coupling = narrow(in_float64(_balanced_coupling, costs, a, b, epsilon, limit, start, steps), dtype)
    if not traced:
        coupling = dataclasses.replace(coupling, marginal_error=measured_error(coupling.weights, a, b))
    return coupling, "float64" if widen else str(dtype)


def _balanced_coupling(costs: Array, a: Array, b: Array, *rest: Array) -> WeightCoupling:
    a, b = on_host(lambda xp, *sides: tuple(w / xp.sum(w) for w in sides), a, b)
    return _padded_coupling(costs, a, b, *rest)


# Numbers of components up to which the solve is padded.
_PADDED = 32


def _padded_coupling(costs: Array, a: Array, b: Array, *rest: Array) -> WeightCoupling:
    """`entropic_coupling`; small problems get components of weight zero, and one program serves several sizes."""
    num, other = costs.shape
    size = component_bucket(max(num, other))
    if not at_top(costs, a, b, rest) or size > _PADDED:
        return entropic_coupling(costs, a, b, *rest)
    epsilon, limit, start, steps = rest
    costs = pad(pad(costs, size), size, axis=1)
    wide = entropic_coupling(costs, pad_zero(a, size), pad_zero(b, size), epsilon, limit, pad(start, size), steps)
    tables = (wide.weights, wide.row_shares, wide.column_shares)
    weights, row_shares, column_shares = cut(cut(tables, num), other, axis=1)
    return WeightCoupling(
        weights,
        row_shares,
        column_shares,
        cut(wide.source_potential, num),
        cut(wide.target_potential, other),
        wide.marginal_error,
        wide.num_steps,
        wide.result,
    )


def measured_error(weights: Array, a: Array, b: Array) -> Float[Array, "*S"]:
    """The marginal error of stored weights, one coupling or a stack, summed in float64 and rounded up."""
    host, left, right = (np.asarray(value, np.float64) for value in (weights, a, b))
    error = np.abs(host.sum(-1) - left).sum(-1) + np.abs(host.sum(-2) - right).sum(-1)
    stored = error.astype(weights.dtype)
    return to_jax(np.where(stored >= error, stored, np.nextafter(stored, weights.dtype.type(np.inf))))
