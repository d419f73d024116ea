"""The Omega-block without regularization: the transportation problem, solved exactly on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from .._base.arrays import at_top, is_traced, on_host, to_jax
from .._base.results import RESULTS
from .entropic import WeightCoupling
from .laplacian import solve_laplacian

# HiGHS works to 1e-10; a vertex that misses its marginals by more has failed.
_ACCEPTED_ERROR = 1e-8


def exact_coupling(
    cost: Float[Array, "K0 K1"], a: Float[Array, " K0"], b: Float[Array, " K1"]
) -> tuple[WeightCoupling, Float[Array, ""]]:
    """Solve ``min sum omega * cost`` over couplings of ``a`` and ``b`` with SciPy's HiGHS.

    Where several couplings are optimal, one vertex is returned. The value has the derivative that the envelope
    theorem gives: the coupling for the costs, the dual variables for the weights. The coupling itself does not depend
    on the costs, and on the weights linearly; where a vertex is degenerate that derivative does not exist and is NaN.

    Returns:
        The coupling and the optimal value.

    Raises:
        TypeError: If called under ``jax.jit`` or ``vmap`` (``jax.grad`` alone is fine).
    """
    weights, source, target, value, num_steps = _solve(cost, a, b)
    source, target = jax.lax.stop_gradient((source, target))
    reduced = jax.lax.stop_gradient(cost), source, target
    row_shares, column_shares, error = on_host(_shares, weights, a, b, *reduced)
    accepted = max(_ACCEPTED_ERROR, 1e2 * float(jnp.finfo(cost.dtype).eps))
    if at_top(cost, error):
        found = RESULTS.successful if np.asarray(error) <= accepted else RESULTS.linear_program_failed
        result = found if np.isfinite(np.asarray(cost)).all() else RESULTS.weights_not_finite
    else:
        result = RESULTS.where(error <= accepted, RESULTS.successful, RESULTS.linear_program_failed)
        result = RESULTS.where(jnp.all(jnp.isfinite(cost)), result, RESULTS.weights_not_finite)
    coupling = WeightCoupling(weights, row_shares, column_shares, source, target, error, num_steps, result)
    return coupling, value


def _shares(xp: Any, weights: Any, a: Any, b: Any, cost: Any, source: Any, target: Any) -> Any:
    """The coupling divided by its row and by its column sums, and how far these are from the marginals."""
    # A zero-weight component sends its (zero) mass where the dual says that it would go.
    reduced = cost - source[:, None] - target[None, :]
    nearest = xp.argmin(xp.where(b[None, :] > 0, reduced, xp.inf), axis=1)
    farthest = xp.argmin(xp.where(a[:, None] > 0, reduced, xp.inf), axis=0)
    rows = _divided(xp, weights, a, xp.eye(b.shape[0], dtype=cost.dtype)[nearest])
    columns = _divided(xp, weights.T, b, xp.eye(a.shape[0], dtype=cost.dtype)[farthest]).T
    error = xp.sum(xp.abs(xp.sum(weights, axis=1) - a)) + xp.sum(xp.abs(xp.sum(weights, axis=0) - b))
    return rows, columns, error


def _divided(xp: Any, weights: Any, total: Any, lonely: Any) -> Any:
    """Rows of the coupling divided by their sums, with a substitute where there is (next to) no mass."""
    sums = xp.sum(weights, axis=1)
    used = (xp.abs(sums - total) < 0.01 * total)[:, None]
    return xp.where(used, weights / xp.where(used, total[:, None], xp.ones_like(total)[:, None]), lonely)


@jax.custom_jvp
def _solve(cost: Array, a: Array, b: Array) -> tuple[Array, Array, Array, Array, Array]:
    """The optimal vertex, both dual variables, the value, and the number of simplex iterations."""
    if is_traced(cost, a, b):
        raise TypeError(
            "`epsilon_weights` = 0 is solved on the host and cannot be traced by jit or vmap. "
            "Use a small positive `epsilon_weights`, or call it outside the transformation."
        )
    # Loaded here: nothing else needs SciPy's optimizers to transport.
    import scipy.optimize
    import scipy.sparse

    host = np.asarray(cost, np.float64)
    left, right = (np.asarray(w, np.float64) for w in (a, b))
    left, right = left / left.sum(), right / right.sum()
    num, other = host.shape
    weights, dual, num_steps = np.full(host.shape, np.nan), np.full(num + other, np.nan), 0
    if np.isfinite(host).all():
        rows = scipy.sparse.kron(scipy.sparse.eye_array(num), np.ones((1, other)))
        columns = scipy.sparse.kron(np.ones((1, num)), scipy.sparse.eye_array(other))
        scale = max(float(np.abs(host).max()), np.finfo(float).tiny)
        # The last constraint follows from the others; kept, a rounding error in the weights makes it unsatisfiable.
        answer = scipy.optimize.linprog(
            host.ravel() / scale,
            A_eq=scipy.sparse.vstack([rows, columns]).tocsr()[:-1],
            b_eq=np.concatenate([left, right])[:-1],
            bounds=(0, None),
            method="highs-ds",
            options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
        )
        if answer.x is not None:
            weights = np.maximum(answer.x, 0).reshape(host.shape)
            dual, num_steps = np.append(answer.eqlin.marginals, 0.0) * scale, answer.nit
    value = np.sum(weights * np.where(weights > 0, host, 0.0))
    omega, source, target, best = (to_jax(v, cost.dtype) for v in (weights, dual[:num], dual[num:], value))
    return omega, source, target, best, to_jax(num_steps)


def _solve_jvp(primals: tuple, tangents: tuple) -> tuple:
    cost, a, b = primals
    still = all(isinstance(t, SymbolicZero) for t in tangents[1:])
    d_cost, d_a, d_b = (
        jnp.zeros_like(p) if isinstance(t, SymbolicZero) else t for p, t in zip(primals, tangents, strict=True)
    )
    out = weights, source, target, _, num_steps = _solve(cost, a, b)
    d_value = jnp.sum(weights * d_cost) + source @ d_a + target @ d_b
    # On the vertex's edges (a tree) the coupling follows the weights as the one flow that balances them.
    edges = (weights > 0).astype(cost.dtype)
    k0, k1 = edges.shape
    adjacency = jnp.block([[jnp.zeros((k0, k0), edges.dtype), edges], [edges.T, jnp.zeros((k1, k1), edges.dtype)]])
    finfo = jnp.finfo(cost.dtype)
    ground = jnp.full((k0 + k1,), 1e2 * finfo.eps, cost.dtype)
    level = solve_laplacian(adjacency, ground, jnp.concatenate([d_a, -d_b]))
    flow = edges * (level[:k0, None] - level[None, k0:])
    degenerate = jnp.sum(weights > 0) < jnp.sum(a > 0) + jnp.sum(b > 0) - 1
    d_weights = jnp.zeros_like(flow) if still else flow * jnp.where(degenerate, jnp.nan, 1.0)
    zero_steps = np.zeros(jnp.shape(num_steps), jax.dtypes.float0)
    return out, (d_weights, jnp.zeros_like(source), jnp.zeros_like(target), d_value, zero_steps)


_solve.defjvp(_solve_jvp, symbolic_zeros=True)
