"""Mean parameters to natural parameters: Newton's method on the dual of a log-partition."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_MAX_STEPS = 300


class _Iterate(NamedTuple):
    """The present point, and the step from it that is tried next."""

    eta: Float[Array, " m"]
    step: Float[Array, " m"]
    size: Float[Array, ""]
    slope: Float[Array, ""]
    decrement: Float[Array, ""]
    num_steps: Int[Array, ""]
    done: Bool[Array, ""]


def solve_dual(
    log_partition: Callable[[Float[Array, " m"]], Float[Array, ""]],
    mean_parameters: Float[Array, " m"],
    start: Float[Array, " m"],
) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    r"""The maximizer of $\eta \cdot \mu - A(\eta)$, where the gradient of A is $\mu$, by damped Newton steps.

    The length $\lambda$ of a Newton step in the metric of the Hessian is the gap between $\mu$ and the present mean
    parameters in standard deviations of the statistics. Long steps are damped by $1 / (1 + \lambda)$, which keeps a
    self-concordant function in its domain (Nesterov and Nemirovskii, 1994); log-partitions are self-concordant where
    statistics have a skewness of at most 2 in every direction. For the others a step is halved until A is finite and
    convex and its slope along the step has not turned by more than half.

    Args:
        log_partition: A, convex; infinite or NaN outside its domain.
        mean_parameters: The wanted mean parameters.
        start: Natural parameters in the domain.

    Returns:
        Natural parameters, NaN where there was no convergence, and whether there was.
    """
    eps = float(jnp.finfo(start.dtype).eps)
    tolerance = eps**0.5

    def slope_and_value(eta: Array) -> tuple[Array, tuple[Array, Array]]:
        value, gradient = jax.value_and_grad(lambda e: log_partition(e) - jnp.sum(e * mean_parameters))(eta)
        return gradient, (value, gradient)

    def advance(s: _Iterate) -> _Iterate:
        """Evaluate at the trial point; go there and find the next step, or try half the step."""
        trial = s.eta + s.size * s.step
        hessian, (value, gradient) = jax.jacfwd(slope_and_value, has_aux=True)(trial)
        turned = jnp.sum(gradient * s.step)
        step = -_solve_positive(hessian, gradient)
        slope = jnp.sum(step * gradient)
        good = jnp.isfinite(value) & jnp.isfinite(slope) & (turned <= -0.5 * s.slope)
        decrement = jnp.sqrt(jnp.maximum(-slope, 0.0))
        size = jnp.where(decrement > 0.25, 1 / (1 + decrement), jnp.ones_like(decrement))
        # At the floor of rounding the decrement stops falling; the last two points are equally good then.
        floor = (decrement < tolerance**0.5) & (decrement > 0.5 * s.decrement)
        there = _Iterate(trial, step, size, slope, decrement, s.num_steps + 1, (decrement <= tolerance) | floor)
        here = s._replace(size=0.5 * s.size, num_steps=s.num_steps + 1, done=~(s.size * (1 + s.decrement) > 1e-15))
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), there, here)

    # The first trial is the start itself.
    zero, infinite = jnp.zeros((), start.dtype), jnp.asarray(jnp.inf, start.dtype)
    first = _Iterate(start, jnp.zeros_like(start), zero, zero, infinite, jnp.asarray(0), jnp.asarray(False))
    last = jax.lax.while_loop(lambda s: ~s.done & (s.num_steps < _MAX_STEPS), advance, first)
    converged = last.decrement <= eps ** (3 / 8)
    # The last step is within the tolerance: it squares the error.
    eta = last.eta + jnp.where(last.decrement <= tolerance, last.step, jnp.zeros_like(last.step))
    return jnp.where(converged, eta, jnp.full_like(eta, jnp.nan)), converged


def _solve_positive(matrix: Float[Array, "m m"], vector: Float[Array, " m"]) -> Float[Array, " m"]:
    """Solve with a positive matrix, scaled to unit diagonal and steadied by a few roundings; NaN if not positive."""
    scale = jnp.sqrt(jnp.diagonal(matrix))
    size, eps = matrix.shape[0], float(jnp.finfo(matrix.dtype).eps)
    correlation = matrix / (scale[:, None] * scale[None, :])
    steadied = correlation + 8 * size * eps * jnp.eye(size, dtype=matrix.dtype)
    if size == 1:
        return vector / scale / steadied[0] / scale
    if size == 2:
        (a, b), (c, d) = steadied
        u, v = vector / scale
        determinant = a * d - b * c
        solved = jnp.stack([d * u - b * v, a * v - c * u]) / jnp.where(determinant > 0, determinant, jnp.nan)
    else:
        solved = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(steadied), True), vector / scale)
    return solved / scale
