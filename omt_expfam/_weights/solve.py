"""The weights' solve: entropic or exact, in the precision that it needs."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import at_top, is_traced, on_host, to_jax
from .._base.buckets import component_bucket, cut, pad, pad_zero
from .._base.precision import in_float64, narrow
from .._base.results import succeeded
from .clipped import clipped_coupling
from .entropic import entropic_coupling, WeightCoupling
from .relaxed import relaxed_coupling, RelaxedCoupling

# float32 resolves cost differences down to 1e-7 of the largest; below this ratio the weights are solved in float64.
_FLOAT32_RATIO = 1e-4

# Numbers of components up to which the solve is padded.
_PADDED = 32


def solve_weights(
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


def solve_relaxed(
    costs: Array,
    a: Array,
    b: Array,
    epsilon: Array,
    rigidity: tuple[Array, Array],
    tolerance: float | None,
    start: Array,
    max_steps: int,
    clipped: tuple[tuple[Array, Array], Array | None] | None = None,
) -> RelaxedCoupling:
    """Solve the Omega-block with relaxed marginals; in float64 where nothing is traced.

    ``clipped`` holds bounds of the potentials and the mass that is moved, see `clipped_coupling`.
    """
    solver: Any = relaxed_coupling if clipped is None else clipped_coupling
    limits: tuple = () if clipped is None else clipped
    dtype, traced = costs.dtype, is_traced(costs, a, b, epsilon, rigidity, limits)
    if tolerance is None:
        tolerance = 5e-6 if dtype == jnp.float32 and traced else 1e-10
    if traced:
        return solver(costs, a, b, epsilon, rigidity, *limits, to_jax(tolerance, dtype), start, to_jax(max_steps))
    (num, other), size = costs.shape, component_bucket(max(costs.shape))
    if size <= _PADDED:
        costs, a, b = pad(pad(costs, size), size, axis=1), pad_zero(a, size), pad_zero(b, size)
        start = pad(start, size)
    limit = np.asarray(tolerance, dtype)
    wide = in_float64(solver, costs, a, b, epsilon, rigidity, *limits, limit, start, to_jax(max_steps))
    found = narrow(wide, dtype)
    # Beside the error of the solve, what rounding takes from the marginals.
    sums = np.asarray(wide.coupling.weights).sum(1), np.asarray(wide.coupling.weights).sum(0)
    error = measured_error(found.coupling.weights, *sums, float(wide.coupling.marginal_error))
    coupling = dataclasses.replace(found.coupling, marginal_error=error)
    left, right = (found.rows, found.log_source_growth), (found.columns, found.log_target_growth)
    (rows, source_growth), (columns, target_growth) = cut(left, num), cut(right, other)
    return RelaxedCoupling(coupling.cut(num, other), found.mass, rows, columns, source_growth, target_growth)


def _balanced_coupling(costs: Array, a: Array, b: Array, *rest: Array) -> WeightCoupling:
    a, b = on_host(lambda xp, *sides: tuple(w / xp.sum(w) for w in sides), a, b)
    return _padded_coupling(costs, a, b, *rest)


def _padded_coupling(costs: Array, a: Array, b: Array, *rest: Array) -> WeightCoupling:
    """`entropic_coupling`; small problems get components of weight zero, and one program serves several sizes."""
    num, other = costs.shape
    size = component_bucket(max(num, other))
    if not at_top(costs, a, b, rest) or size > _PADDED:
        return entropic_coupling(costs, a, b, *rest)
    epsilon, limit, start, steps = rest
    costs = pad(pad(costs, size), size, axis=1)
    wide = entropic_coupling(costs, pad_zero(a, size), pad_zero(b, size), epsilon, limit, pad(start, size), steps)
    return wide.cut(num, other)


def measured_error(weights: Array, a: Any, b: Any, known: float = 0.0) -> Float[Array, "*S"]:
    """The marginal error of stored weights, one coupling or a stack, summed in float64 and rounded up.

    Args:
        weights: The couplings.
        a: Their row sums, without error or with a known one.
        b: Their column sums.
        known: The error of these sums.
    """
    host, left, right = (np.asarray(value, np.float64) for value in (weights, a, b))
    error = np.abs(host.sum(-1) - left).sum(-1) + np.abs(host.sum(-2) - right).sum(-1) + known
    stored = error.astype(weights.dtype)
    return to_jax(np.where(stored >= error, stored, np.nextafter(stored, weights.dtype.type(np.inf))))
