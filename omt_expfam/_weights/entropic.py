r"""The Omega-block: entropic coupling of the mixture weights.

Minimize $\sum_{ij} \omega_{ij} L_{ij} + \varepsilon_2 KL(\Omega \| \alpha_0 \otimes \alpha_1)$ over couplings of the
weights. The dual is followed along a path of decreasing regularization, from the spread of the costs down to the one
wanted: at each value Newton steps on the semi-dual, between values a step along the tangent of the path.

The state is the matrix of *reduced* costs $R = L - \lambda - \tau$, never the potentials: entries that carry mass stay
near zero, so that nothing cancels however small the regularization is. Its linear systems are graph Laplacians.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from .._base.arrays import on_host, safe_log
from .._base.buckets import cut
from .._base.results import RESULTS
from .._base.samples import power_of_two_above
from .._base.xla import program
from .laplacian import eliminate, solve_laplacian
from .search import ascend

# The path: how exact a stop on it must be, how far a tangent step may miss the marginals, and how the regularization
# shrinks. Found by search over several hundred hard problems (ties, clusters, tiny weights, permutations).
_GUARD = 0.1
_FIRST_FACTOR = 4.0
_LEAST_FACTOR = 2.0
_PATIENCE = 10


class WeightCoupling(eqx.Module):
    """A coupling of the weights of two mixtures, with its evidence.

    Attributes:
        weights: The coupling Omega, shape ``[K0, K1]``; rows sum to the source weights, columns to the target's.
        row_shares: ``Omega / source weights``, right also where a weight is zero: rows sum to one.
        column_shares: ``Omega / target weights``; columns sum to one.
        source_potential: The dual variable lambda, shape ``[K0]``, units of squared distance.
        target_potential: The dual variable tau, shape ``[K1]``.
        marginal_error: L1 error of the rows plus that of the columns.
        num_steps: Steps taken: Newton and path steps, or simplex iterations at zero regularization.
        result: Why the solve stopped.
    """

    weights: Float[Array, "K0 K1"]
    row_shares: Float[Array, "K0 K1"]
    column_shares: Float[Array, "K0 K1"]
    source_potential: Float[Array, " K0"]
    target_potential: Float[Array, " K1"]
    marginal_error: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: Any

    def cut(self, num: int, other: int) -> "WeightCoupling":
        """The coupling of the first components of either side; the others are padding without weight."""
        tables = self.weights, self.row_shares, self.column_shares
        weights, row_shares, column_shares = cut(cut(tables, num), other, axis=1)
        potentials = cut(self.source_potential, num), cut(self.target_potential, other)
        evidence = self.marginal_error, self.num_steps, self.result
        return WeightCoupling(weights, row_shares, column_shares, *potentials, *evidence)

    def transpose(self) -> "WeightCoupling":
        """The same coupling read from target to source."""
        tables = self.weights, self.column_shares, self.row_shares
        weights, row_shares, column_shares = on_host(lambda _, *values: tuple(value.T for value in values), *tables)
        return WeightCoupling(
            weights,
            row_shares,
            column_shares,
            self.target_potential,
            self.source_potential,
            self.marginal_error,
            self.num_steps,
            self.result,
        )


class _Plan(NamedTuple):
    """A coupling whose rows are exact, and what the Newton steps need of it."""

    reduced: Float[Array, "K0 K1"]
    shares: Float[Array, "K0 K1"]
    weights: Float[Array, "K0 K1"]
    columns: Float[Array, " K1"]
    residual: Float[Array, " K1"]


class _Path(NamedTuple):
    """A point on the regularization path, and the one to fall back to: the last converged, or the path's start."""

    plan: _Plan
    epsilon: Float[Array, ""]
    error: Float[Array, ""]
    factor: Float[Array, ""]
    stage_tolerance: Float[Array, ""]
    tries: Array
    slow: Array
    safe_reduced: Float[Array, "K0 K1"]
    safe_epsilon: Float[Array, ""]
    num_steps: Array


class _Directions(NamedTuple):
    """Changes of the target potential at a point on the path, all from one linear system."""

    plain: Float[Array, " K1"]
    logarithmic: Float[Array, " K1"]
    diagonal: Float[Array, " K1"]
    tangent: Float[Array, " K1"]


def _evaluate(reduced: Array, a: Array, b: Array, epsilon: Array) -> _Plan:
    """Make the rows exact by a soft minimum and measure the columns."""
    log_b = safe_log(b)[None, :]
    scaled = log_b - reduced / epsilon
    peak = jnp.max(scaled, axis=1, keepdims=True)
    reduced = reduced + epsilon * (peak + jnp.log(jnp.sum(jnp.exp(scaled - peak), axis=1, keepdims=True)))
    shares = jnp.exp(log_b - reduced / epsilon)
    shares = shares / jnp.sum(shares, axis=1, keepdims=True)
    weights = a[:, None] * shares
    columns = jnp.sum(weights, axis=0)
    return _Plan(reduced, shares, weights, columns, b - columns)


def _directions(plan: _Plan, b: Array, epsilon: Array) -> _Directions:
    """Newton's direction for the column sums and for their logarithms, Sinkhorn's, and the tangent of the path.

    The system is the (negative, scaled) Hessian of the semi-dual, lightly grounded: its right-hand sides, which should
    sum to zero as the range of a Laplacian does, may sum to a rounding error.
    """
    finfo = jnp.finfo(b.dtype)
    ratio = jnp.where(b > 0, safe_log(b) - jnp.log(jnp.maximum(plan.columns, finfo.tiny)), jnp.zeros_like(b))
    log_residual = plan.columns * (ratio - jnp.dot(plan.columns, ratio) / jnp.sum(plan.columns))
    scaled = plan.reduced / epsilon
    shift = jnp.sum(plan.weights * scaled, axis=0) - plan.weights.T @ jnp.sum(plan.shares * scaled, axis=1)
    # 1e4 roundings: edges below that carry no information about the shift between the parts that they connect.
    ground = 1e4 * finfo.eps * plan.columns + finfo.tiny
    rhs = jnp.stack([plan.residual, log_residual, shift], axis=1)
    solution = eliminate(plan.weights.T @ plan.shares, ground, rhs)
    # A nearly singular system has solutions that would overflow, or none.
    usable = jnp.abs(solution) < finfo.max**0.5
    plain, logarithmic, tangent = jnp.where(usable, solution, jnp.zeros_like(solution)).T
    return _Directions(plain, logarithmic, ratio, tangent)


def _newton(path: _Path, directions: _Directions, a: Array, b: Array) -> _Path:
    """One damped Newton step at fixed regularization.

    Two directions are tried: Newton's for the column sums and Newton's for their logarithms, which is the better one
    where a column is short by orders of magnitude. If neither halves the error, a line search along the better.
    """
    epsilon, plan = path.epsilon, path.plan

    def moved(step: Array) -> _Plan:
        return _evaluate(plan.reduced - epsilon * step[None, :], a, b, epsilon)

    def outcome(direction: Array) -> Array:
        error = jnp.sum(jnp.abs(moved(direction).residual))
        usable = jnp.isfinite(error) & (jnp.dot(plan.residual, direction) > 0)
        return jnp.where(usable, error, jnp.inf)

    errors = jax.vmap(outcome)(jnp.stack([directions.plain, directions.logarithmic]))
    direction = jnp.where(errors[1] <= errors[0], directions.logarithmic, directions.plain)
    quick = jnp.min(errors) < 0.5 * jnp.sum(jnp.abs(plan.residual))
    # The diagonal direction (Sinkhorn's) always ascends.
    direction = jnp.where(jnp.dot(plan.residual, direction) > 0, direction, directions.diagonal)
    direction = direction - jnp.dot(direction, b)
    one = jnp.ones((), direction.dtype)
    t = ascend(lambda step: moved(step).residual, plan.residual, direction, one, quick)
    reduced = plan.reduced - epsilon * t * direction[None, :]
    return path._replace(plan=plan._replace(reduced=reduced), tries=path.tries + 1)


def _advance(path: _Path, tangent: Array, a: Array, b: Array, target: Array) -> _Path:
    """A step to a smaller regularization along the tangent of the path, as far as the marginals allow."""
    epsilon, plan = path.epsilon, path.plan

    def at(new: Array) -> Array:
        return plan.reduced + (new - epsilon) * tangent[None, :]

    def too_far(state: tuple[Array, Array]) -> Array:
        new, tries = state
        return (jnp.sum(jnp.abs(_evaluate(at(new), a, b, new).residual)) > _GUARD) & (tries < 6)

    # A last hop that is little longer than planned is taken at once, but not after a retreat: that would cycle.
    reach = jnp.where(path.factor < _LEAST_FACTOR, 1.0, 1.5) * target
    wanted = epsilon / path.factor
    wanted = jnp.where(wanted < reach, target, wanted)
    new, shortened = jax.lax.while_loop(
        too_far, lambda s: (jnp.sqrt(s[0] * epsilon), s[1] + 1), (wanted, jnp.asarray(0))
    )
    easy, hard = 4 * path.factor, jnp.maximum(_LEAST_FACTOR, path.factor / 2)
    factor = jnp.where(path.tries <= 1, easy, jnp.where(path.tries > 3, hard, path.factor))
    return path._replace(
        plan=plan._replace(reduced=at(new)),
        epsilon=new,
        factor=jnp.where(shortened > 0, jnp.maximum(epsilon / new, _LEAST_FACTOR), factor),
        tries=jnp.zeros_like(path.tries),
        safe_reduced=plan.reduced,
        safe_epsilon=epsilon,
    )


def _retreat(path: _Path, tolerance: Array) -> _Path:
    """Return to the last converged point, to leave it again by a shorter step and more exactly."""
    factor = jnp.clip(jnp.sqrt(path.safe_epsilon / path.epsilon), 1.2, _FIRST_FACTOR)
    return path._replace(
        plan=path.plan._replace(reduced=path.safe_reduced),
        epsilon=path.safe_epsilon,
        factor=factor.astype(path.factor.dtype),
        stage_tolerance=jnp.maximum(tolerance, 1e-2 * path.stage_tolerance),
        tries=jnp.zeros_like(path.tries),
    )


def _follow(
    cost: Array, a: Array, b: Array, epsilon: Array, tolerance: Array, start: Array, max_steps: Array
) -> tuple[Array, Array]:
    """Reduced costs at the wanted regularization, and the number of steps."""
    spread = jnp.max(cost) - jnp.min(cost)

    def error_of(plan: _Plan) -> Array:
        return jnp.sum(jnp.abs(plan.residual))

    # A given start that is already good skips the path; should it deceive, the path is there to fall back to.
    warm = cost - start[None, :]
    good = error_of(_evaluate(warm, a, b, epsilon)) < _GUARD
    top = jnp.maximum(epsilon, spread / 2)
    first = jnp.where(good, epsilon, top)
    plan = _evaluate(jnp.where(good, warm, cost), a, b, first)
    factor = jnp.full_like(first, _FIRST_FACTOR)
    zero = jnp.asarray(0)
    slow = jnp.asarray(False)
    path = _Path(plan, first, error_of(plan), factor, tolerance, zero, slow, cost, top, zero)

    def going(path: _Path) -> Array:
        unfinished = (path.epsilon > epsilon) | ~(path.error <= tolerance)
        return unfinished & (path.num_steps < max_steps) & ~jnp.isnan(path.error)

    def step(path: _Path) -> _Path:
        arrived = path.error <= jnp.where(path.epsilon > epsilon, path.stage_tolerance, tolerance)
        stuck = (path.tries >= _PATIENCE) & path.slow & (path.safe_epsilon > path.epsilon)
        branch = jnp.where(arrived, 0, jnp.where(stuck, 1, 2))
        directions = _directions(path.plan, b, path.epsilon)
        new = jax.lax.switch(
            branch,
            [
                lambda p: _advance(p, directions.tangent, a, b, epsilon),
                lambda p: _retreat(p, tolerance),
                lambda p: _newton(p, directions, a, b),
            ],
            path,
        )
        # Twice: rows far from exact are only as exact as the rounding of what made them so.
        plan = _evaluate(_evaluate(new.plan.reduced, a, b, new.epsilon).reduced, a, b, new.epsilon)
        error = error_of(plan)
        return new._replace(plan=plan, error=error, slow=error > 0.5 * path.error, num_steps=path.num_steps + 1)

    path = jax.lax.while_loop(going, step, path)
    return path.plan.reduced, path.num_steps


@jax.custom_jvp
def _reduced_costs(
    cost: Float[Array, "K0 K1"],
    a: Float[Array, " K0"],
    b: Float[Array, " K1"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    start: Float[Array, " K1"],
    max_steps: Int[Array, ""],
) -> tuple[Array, Array, Array, Array]:
    """Reduced costs at the optimum, the two potentials, and the number of steps."""
    # The semi-dual has one variable per column: take the shorter side.
    if cost.shape[1] > cost.shape[0]:
        guess = -epsilon * logsumexp(safe_log(b)[None, :] + (start[None, :] - cost) / epsilon, axis=1)
        reduced, num_steps = _follow(cost.T, b, a, epsilon, tolerance, guess, max_steps)
        reduced = reduced.T
    else:
        reduced, num_steps = _follow(cost, a, b, epsilon, tolerance, start, max_steps)
    # Exact rows, and potentials of zero-weight components that their soft minima define.
    reduced = reduced + epsilon * logsumexp(safe_log(a)[:, None] - reduced / epsilon, axis=0, keepdims=True)
    reduced = _evaluate(reduced, a, b, epsilon).reduced
    source, target = _potentials(cost - reduced, a, b)
    return reduced, source, target, num_steps


def _kernel(reduced: Array, a: Array, b: Array, epsilon: Array) -> Array:
    """Density of the coupling against the product of the weights; zero between two components of weight zero."""
    used = (a > 0)[:, None] | (b > 0)[None, :]
    return jnp.where(used, jnp.exp(-jnp.where(used, reduced, jnp.zeros_like(reduced)) / epsilon), 0.0)


def _potentials(total: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Split lambda_i + tau_j so that both sides carry the same mean under the weights."""
    mean = a @ total @ b
    return total @ b - mean / 2, a @ total - mean / 2


@_reduced_costs.defjvp
def _reduced_costs_jvp(primals: tuple, tangents: tuple) -> tuple:
    """Implicit differentiation of the marginal constraints."""
    cost, a, b, epsilon = primals[:4]
    d_cost, d_a, d_b, d_epsilon = tangents[:4]
    reduced, source, target, num_steps = _reduced_costs(*primals)
    kernel = _kernel(reduced, a, b, epsilon)
    shares = b[None, :] * kernel
    weights = a[:, None] * shares
    columns = jnp.sum(weights, axis=0)
    shift = d_cost - (d_epsilon / epsilon) * reduced
    row = jnp.sum(shares * shift, axis=1) - epsilon * (kernel @ d_b)
    column = jnp.sum(weights * shift, axis=0) - epsilon * b * (d_a @ kernel)
    rhs = column - weights.T @ row
    rhs = rhs - columns * (jnp.sum(rhs) / jnp.sum(columns))
    finfo = jnp.finfo(b.dtype)
    ground = 1e4 * finfo.eps * columns + finfo.tiny
    d_target = solve_laplacian(weights.T @ shares, ground, rhs)
    d_source = row - shares @ d_target
    d_reduced = d_cost - d_source[:, None] - d_target[None, :]
    # The potentials are defined up to a constant; keep the primal's normalization.
    total = cost - reduced
    d_mean = d_a @ total @ b + a @ (d_cost - d_reduced) @ b + a @ total @ d_b
    d_source_out = (d_cost - d_reduced) @ b + total @ d_b - d_mean / 2
    d_target_out = a @ (d_cost - d_reduced) + d_a @ total - d_mean / 2
    out = (reduced, source, target, num_steps)
    return out, (d_reduced, d_source_out, d_target_out, tangents[6])


@program
def entropic_coupling(
    cost: Float[Array, "K0 K1"],
    a: Float[Array, " K0"],
    b: Float[Array, " K1"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    start: Float[Array, " K1"],
    max_steps: Int[Array, ""],
) -> WeightCoupling:
    """Solve the Omega-block for a positive regularization.

    Differentiable with respect to the costs, the weights and the regularization, in both modes.

    Args:
        cost: Component objectives L_ij, units of squared distance.
        a: Source weights.
        b: Target weights.
        epsilon: Regularization, units of squared distance; positive.
        tolerance: Largest accepted ``marginal_error``.
        start: Potential of the target components to start from; ignored unless it is near the solution.
        max_steps: Limit on the number of steps.
    """
    finite = jnp.all(jnp.isfinite(cost))
    # A common shift of the costs changes nothing; without it the reduced costs lose digits.
    base = jax.lax.stop_gradient(jnp.min(jnp.where(finite, cost, jnp.zeros_like(cost))))
    safe = jnp.where(finite, cost, jnp.zeros_like(cost)) - base
    # Nor does a common unit: by a power of two, it rounds nothing and keeps squares in range.
    unit = jax.lax.stop_gradient(power_of_two_above(jnp.maximum(jnp.max(safe), epsilon)))
    safe, epsilon, start = safe / unit, epsilon / unit, start / unit
    reduced, source, target, num_steps = _reduced_costs(safe, a, b, epsilon, 0.5 * tolerance, start, max_steps)
    kernel = _kernel(reduced, a, b, epsilon)
    row_shares = b[None, :] * kernel
    column_shares = a[:, None] * kernel
    weights = a[:, None] * row_shares
    error = jnp.sum(jnp.abs(jnp.sum(weights, axis=1) - a)) + jnp.sum(jnp.abs(jnp.sum(weights, axis=0) - b))
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.weights_not_converged)
    result = RESULTS.where(finite, result, RESULTS.weights_not_finite)
    source, target = (unit * potential + base / 2 for potential in (source, target))
    return WeightCoupling(weights, row_shares, column_shares, source, target, error, num_steps, result)
