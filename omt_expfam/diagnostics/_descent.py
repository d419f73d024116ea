r"""Joint descents on $(\Omega, P)$ that know nothing of the solvers: what the block iteration is checked against.

Two of them. Gaussian components: a quasi-Newton method on the cross-covariances and the coupling of the weights
together, through coordinates that keep both admissible. Any components: mirror descent on the transport of finite
samples of them, where both blocks are plain tables.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int, Key

from .._base.xla import jit, jit_in_order, program
from .._components.columns import point_costs
from .._components.mixture import Mixture
from .._numerics.minimize import minimize
from .._plans.objective import objective_of
from .._weights.entropic import entropic_coupling

# Sweeps of proportional fitting inside the descents, until the marginals hold to this error or so many were made.
_MARGINAL_ERROR, _MAX_SWEEPS = 1e-13, 20_000
# Mirror descent goes on from couplings that are scaled this far; only its last must be exact.
_INNER_SWEEPS = 50
# The weight solve of the problem between samples.
_OMEGA_ERROR = 1e-12


class Descent(NamedTuple):
    """Where a joint descent ended: the coupling of the weights, the component objectives, and the objective."""

    weights: np.ndarray
    costs: np.ndarray
    objective: float
    num_steps: int


def _scale(
    table: Float[Array, "*p m q"],
    left: Float[Array, "*p m"],
    right: Float[Array, "*p q"],
    start: Float[Array, "*p q"],
    max_sweeps: int,
) -> tuple[Array, Array]:
    """Add to log-tables what gives them their (log) marginals: the tables, and the columns' part of what was added.

    ``start`` is a guess of that part, by which iterative proportional fitting begins; the answer does not depend on it.
    """

    def rows(columns: Array) -> Array:
        return left - logsumexp(table + columns[..., None, :], axis=-1)

    def going(state: tuple[Array, Array, Array]) -> Array:
        _, error, sweeps = state
        return (error > _MARGINAL_ERROR) & (sweeps < max_sweeps)

    def sweep(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        columns, _, sweeps = state
        new = right - logsumexp(table + rows(columns)[..., :, None], axis=-2)
        # With exact rows, the columns were off by the factor that corrects them.
        error = jnp.max(jnp.sum(jnp.exp(right) * jnp.abs(jnp.expm1(columns - new)), axis=-1))
        return new, error, sweeps + 1

    first = start, jnp.asarray(jnp.inf, table.dtype), jnp.asarray(0)
    columns = jax.lax.while_loop(going, sweep, first)[0]
    return table + rows(columns)[..., :, None] + columns[..., None, :], columns


# -- Gaussian components: gradient descent on C and Omega ---------------------------------------------------------


class GaussianProblem(NamedTuple):
    """Two Gaussian mixtures, by weights, means and Cholesky factors."""

    a: Array
    b: Array
    source_mean: Array
    target_mean: Array
    source_root: Array
    target_root: Array
    epsilon_components: Array
    epsilon_weights: Array


def _joint_step(place: Array, columns: Array, problem: GaussianProblem) -> tuple:
    r"""The objective at free coordinates of both blocks, in one vector, and its gradient there.

    With $R = M F^{-T}$ for the Cholesky factor F of $I + M^T M$, $C = L_0 R L_1^T$ is admissible for every matrix M,
    and $-\frac12 \log\det(I - R R^T) = \frac12 \log\det(I + M^T M)$. Omega is the exponential of a free table,
    scaled to its marginals, from the scaling ``columns`` of a neighboring table.
    """
    a, b = problem.a, problem.b
    shape, dim = (len(a), len(b)), problem.source_mean.shape[1]
    split = shape[0] * shape[1]
    table, matrices = place[:split].reshape(shape), place[split:].reshape(*shape, dim, dim)
    base = jnp.log(a)[:, None] + jnp.log(b)[None, :]
    logs, columns = _scale(table + base, jnp.log(a), jnp.log(b), columns, _MAX_SWEEPS)
    weights = jnp.exp(logs)
    costs, pull = jax.vjp(lambda m: _pair_objectives(m, problem), matrices)
    density = logs - base
    value = jnp.sum(weights * costs) + problem.epsilon_weights * jnp.sum(weights * density)
    # Moving the table moves Omega along the coupling constraints only: the slope loses what is constant in rows and
    # in columns, in the metric of Omega.
    slope = costs + problem.epsilon_weights * density
    system = jnp.block([[jnp.diag(jnp.sum(weights, axis=1)), weights], [weights.T, jnp.diag(jnp.sum(weights, axis=0))]])
    sums = jnp.concatenate([jnp.sum(weights * slope, axis=1), jnp.sum(weights * slope, axis=0)])
    level = jnp.linalg.lstsq(system, sums)[0]
    tangent = weights * (slope - level[: len(a), None] - level[None, len(a) :])
    return value, jnp.concatenate([tangent.ravel(), pull(weights)[0].ravel()]), weights, costs, columns


def _pair_objectives(matrices: Array, problem: GaussianProblem) -> Array:
    """L_ij at given free coordinates of the cross-covariances, shape ``[K0, K1, d, d]``."""

    def pair(mean: Array, other: Array, root: Array, other_root: Array, matrix: Array) -> Array:
        factor = jnp.linalg.cholesky(jnp.eye(mean.shape[0]) + matrix.T @ matrix)
        correlation = jax.scipy.linalg.solve_triangular(factor, matrix.T, lower=True).T
        cross = root @ correlation @ other_root.T
        cost = jnp.sum((mean - other) ** 2) + jnp.sum(root**2) + jnp.sum(other_root**2) - 2 * jnp.trace(cross)
        return cost + problem.epsilon_components * jnp.sum(jnp.log(jnp.diagonal(factor)))

    row = jax.vmap(pair, in_axes=(None, 0, None, 0, 0))
    return jax.vmap(row, in_axes=(0, None, 0, None, 0))(
        problem.source_mean, problem.target_mean, problem.source_root, problem.target_root, matrices
    )


def descend_gaussian(
    problem: GaussianProblem, rng: np.random.Generator, max_steps: int = 1000, max_rounds: int = 5
) -> Descent:
    """Minimize over all cross-covariances and the coupling of the weights at once, from a random start.

    SciPy's L-BFGS; arrays in float64. A joint descent does not feel the couplings of pairs that have lost their mass,
    and may come to rest there. Each round therefore begins with mass on all pairs again, at the couplings it has, until
    that no longer helps.
    """
    k0, k1, dim = len(problem.a), len(problem.b), problem.source_mean.shape[1]
    split = k0 * k1
    columns, step_of = jax.device_put(np.zeros(k1)), jit_in_order(_joint_step)

    def evaluate(vector: Any) -> tuple:
        nonlocal columns
        step = step_of(jax.device_put(vector), columns, problem)
        columns = step[-1]
        return step

    def function(vector: Array) -> tuple[Array, Array]:
        value, gradient, *_ = evaluate(vector)
        return value, gradient

    options = {"maxiter": max_steps, "maxfun": 2 * max_steps, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10}
    place = rng.standard_normal(split * (1 + dim * dim))
    best, lowest, num_steps = place, np.inf, 0
    for _ in range(max_rounds):
        answer = minimize(function, place, **options)
        num_steps += answer.nit
        settled = answer.fun > lowest - 1e-10 * max(1.0, abs(lowest))
        if answer.fun < lowest:
            best, lowest = answer.x, answer.fun
        if settled:
            break
        place = np.concatenate([np.zeros(split), answer.x[split:]])
    value, _, weights, costs, _ = evaluate(best)
    return Descent(np.asarray(weights), np.asarray(costs), float(value), num_steps)


# -- finite samples: mirror descent -------------------------------------------------------------------------------


class SampleProblem(NamedTuple):
    """Two mixtures whose components are m equally weighted points each: squared distances ``[K0, K1, m, m]``."""

    a: Array
    b: Array
    distances: Array
    epsilon_components: Array
    epsilon_weights: Array


def _sample_marginals(problem: SampleProblem) -> Array:
    shape = problem.distances.shape[:3]
    return jnp.full(shape, -jnp.log(shape[-1] * 1.0))


def _sample_objectives(logs: Array, problem: SampleProblem) -> Array:
    """L_ij of given (log) couplings of the samples."""
    plan = jnp.exp(logs)
    # Against the product of uniform laws on m points.
    divergence = jnp.sum(plan * (logs + 2 * jnp.log(logs.shape[-1] * 1.0)), axis=(-2, -1))
    return jnp.sum(plan * problem.distances, axis=(-2, -1)) + problem.epsilon_components * divergence


@program
def sample_problem(
    key: Key[Array, ""], source: Mixture, target: Mixture, epsilons: tuple[Array, Array], num_points: int
) -> SampleProblem:
    """Draw the samples."""
    left, right = jax.random.split(key)
    x = jnp.swapaxes(source.components.sample(left, num_points), 0, 1)
    y = jnp.swapaxes(target.components.sample(right, num_points), 0, 1)
    distances = point_costs(source.components, x[:, None, :, None], y[None, :, None])
    return SampleProblem(source.weights, target.weights, distances, *epsilons)


@jit
def mirror_descent(
    log_weights: Float[Array, "K0 K1"],
    logs: Float[Array, "K0 K1 m m"],
    problem: SampleProblem,
    rate: Float[Array, ""],
    num_steps: Int[Array, ""],
) -> tuple[Array, Array, Array]:
    r"""Steps of mirror descent with the entropy on both blocks at once, from given (log) tables.

    The gradient of each component coupling is that of its own objective (the factor $\omega_{ij}$, which changes no
    stationary point, is left out); the step size is ``rate`` over each regularization. Both gradients are taken at the
    same point: no block is ever minimized.

    Returns:
        The coupling of the weights, the objective, and the component objectives.
    """
    a, b = problem.a, problem.b
    uniform = _sample_marginals(problem)
    log_a, log_b = jnp.log(a), jnp.log(b)

    def scale(table: Array, tables: Array, columns: tuple[Array, Array], max_sweeps: int) -> tuple:
        weights, of_weights = _scale(table, log_a, log_b, columns[0], max_sweeps)
        couplings, of_couplings = _scale(tables, uniform, uniform, columns[1], max_sweeps)
        return weights, couplings, (of_weights, of_couplings)

    def step(_: Array, state: tuple[Array, Array, tuple]) -> tuple[Array, Array, tuple]:
        table, tables, columns = state
        _, couplings, columns = scale(table, tables, columns, _INNER_SWEEPS)
        # What scaling adds to a table changes neither the next scaled table nor, therefore, the descent.
        slope = _sample_objectives(couplings, problem) / problem.epsilon_weights - log_a[:, None] - log_b[None, :]
        slopes = problem.distances / problem.epsilon_components
        return table - rate * (slope + table), tables - rate * (slopes + tables), columns

    start = log_weights, logs, (jnp.zeros_like(b), jnp.zeros_like(uniform))
    last, lasts, columns = jax.lax.fori_loop(0, num_steps, step, start)
    table, couplings, _ = scale(last, lasts, columns, _MAX_SWEEPS)
    weights, costs = jnp.exp(table), _sample_objectives(couplings, problem)
    value = jnp.sum(weights * costs) + problem.epsilon_weights * jnp.sum(
        jax.scipy.special.rel_entr(weights, a[:, None] * b[None, :])
    )
    return weights, value, costs


@jit
def solve_samples(problem: SampleProblem) -> tuple[Float[Array, "K0 K1"], Float[Array, ""]]:
    """The sample problem by one update of each block: the coupling of the weights, and the objective.

    The P-block is solved by Sinkhorn's iteration.
    """
    uniform = _sample_marginals(problem)
    logs, _ = _scale(-problem.distances / problem.epsilon_components, uniform, uniform, 0 * uniform, _MAX_SWEEPS)
    costs = _sample_objectives(logs, problem)
    a, b, epsilon = problem.a, problem.b, problem.epsilon_weights
    limits = jnp.asarray(_OMEGA_ERROR, costs.dtype), jnp.zeros_like(b), jnp.asarray(1000)
    weights = entropic_coupling(costs, a, b, epsilon, *limits).weights
    return weights, objective_of(weights, costs, a, b, epsilon)
