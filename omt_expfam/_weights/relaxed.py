r"""The Omega-block with marginals that may give way: unbalanced transport of the mixture weights.

Minimize $\sum_{ij} \omega_{ij} L_{ij} + \varepsilon_2 KL(\Omega \| a \otimes b) + \rho_0 KL(\Omega 1 \| a)
+ \rho_1 KL(\Omega^T 1 \| b)$ over $\Omega \ge 0$ (Chizat et al., 2018; Liero et al., 2018), with the divergence of
measures of any mass, $KL(p \| q) = \sum p \log (p / q) - p + q$. The minimizer is
$\omega_{ij} = a_i b_j e^{(\lambda_i + \tau_j - L_{ij}) / \varepsilon_2}$ with row sums
$a_i e^{-\lambda_i / \rho_0}$ and column sums $b_j e^{-\tau_j / \rho_1}$; an infinite $\rho$ is a marginal that is kept.

Given $\tau$, the best $\lambda$ is a damped soft minimum, so that one potential is left. Newton's method finds it,
written for the logarithms of the column sums, whose derivative is a matrix with a dominant diagonal whatever the
masses; a path of decreasing regularization, from the spread of the costs down to the one wanted, keeps it near.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from .._base.arrays import safe_log
from .._base.results import RESULTS
from .._base.xla import program
from .entropic import WeightCoupling
from .laplacian import eliminate, factorize, solve_laplacian
from .path import follow, half_spread, Stop
from .search import ascend

# Newton steps after which a stop on the path is given up.
_PATIENCE = 12
# Exponents beyond which a trial point is bad enough.
_LARGEST = 80.0


class RelaxedCoupling(eqx.Module):
    """An unbalanced coupling of weights.

    Attributes:
        coupling: The coupling over its mass, whose marginals are the shares of what stays.
        mass: The mass of the coupling.
        rows: Its row sums, shape ``[K0]``.
        columns: Its column sums, shape ``[K1]``.
        log_source_growth: Logarithms of the row sums over the source weights, right also where these vanish.
        log_target_growth: Logarithms of the target weights over the column sums.
    """

    coupling: WeightCoupling
    mass: Float[Array, ""]
    rows: Float[Array, " K0"]
    columns: Float[Array, " K1"]
    log_source_growth: Float[Array, " K0"]
    log_target_growth: Float[Array, " K1"]


class _Problem(NamedTuple):
    """Costs, logarithms of both weights, and the regularization; relaxations by their reciprocals."""

    cost: Float[Array, "K0 K1"]
    log_a: Float[Array, " K0"]
    log_b: Float[Array, " K1"]
    epsilon: Float[Array, ""]
    rigidity_a: Float[Array, ""]
    rigidity_b: Float[Array, ""]

    def widest(self) -> Float[Array, ""]:
        """Half the spread of the costs, or of the larger price where masses change for less."""
        rigidity = jnp.minimum(self.rigidity_a, self.rigidity_b)
        return jnp.minimum(half_spread(self.cost), 0.5 / jnp.maximum(rigidity, jnp.finfo(rigidity.dtype).tiny))

    def source_potential(self, tau: Float[Array, " K1"]) -> Float[Array, " K0"]:
        """The best source potential for a target potential."""
        soft = logsumexp(self.log_b[None, :] + (tau[None, :] - self.cost) / self.epsilon, axis=1)
        return -soft * self.epsilon / (1 + self.epsilon * self.rigidity_a)

    def gap(self, tau: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """Logarithms of the wanted column sums over those that there are."""
        source = self.source_potential(tau)
        soft = logsumexp(self.log_a[:, None] + (source[:, None] - self.cost) / self.epsilon, axis=0)
        return -tau * (self.rigidity_b + 1 / self.epsilon) - soft

    def sums(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, " K1"], Float[Array, " K1"]]:
        """Logarithms of the column sums that a target potential stands for, and of those that there are."""
        wanted = self.log_b - self.rigidity_b * tau
        return wanted, wanted - self.gap(tau)

    def residual(self, tau: Float[Array, " K1"], unit: Float[Array, ""]) -> Float[Array, " K1"]:
        """Wanted column sums less those that there are, the gradient of the dual, in a unit given by its logarithm."""
        wanted, there = (jnp.exp(jnp.minimum(value - unit, _LARGEST)) for value in self.sums(tau))
        return wanted - there

    def error(self, tau: Float[Array, " K1"]) -> Float[Array, ""]:
        """The L1 error of the column sums over their mass, whatever that is; infinite where it is not a number."""
        return _error_of(*self.sums(tau))

    def leveled(self, tau: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """The potential moved by the constant at which both masses are equal: the best along that line."""
        return self.leveled_error(tau)[0]

    def leveled_error(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, " K1"], Float[Array, ""]]:
        """The same, and its error: along that line the logarithms of all sums move alike, and need no second look."""
        wanted, there = self.sums(tau)
        gives = self.rigidity_b, self.rigidity_a / (1 + self.epsilon * self.rigidity_a)
        level = (logsumexp(wanted) - logsumexp(there)) / (gives[0] + gives[1])
        return tau + level, _error_of(wanted - gives[0] * level, there + gives[1] * level)

    def solve(
        self, tau: Float[Array, " K1"], rhs: Float[Array, "K1 m"], method: Callable[..., Array]
    ) -> Float[Array, "K1 m"]:
        """Solve with minus epsilon times the derivative of `gap`: a graph Laplacian, grounded where masses may change.

        Its rows are conditional laws, so that columns without any mass are served like all others.
        """
        to_target, to_source = self._laws(tau)
        rigid = self.epsilon * self.rigidity_a
        ground = rigid / (1 + rigid) + self.epsilon * self.rigidity_b
        return method(to_source.T @ to_target / (1 + rigid), jnp.full_like(tau, ground), rhs)

    def solve_linear(self, tau: Float[Array, " K1"], rhs: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """The same for one right-hand side, at the solution; can be transposed. Rows are weighted by column sums."""
        to_target, to_source = self._laws(tau)
        columns, rigid = jnp.exp(self.sums(tau)[0]), self.epsilon * self.rigidity_a
        adjacency = (columns[:, None] * to_source.T) @ to_target / (1 + rigid)
        ground = columns * (rigid / (1 + rigid) + self.epsilon * self.rigidity_b) + jnp.finfo(tau.dtype).tiny
        return solve_laplacian(0.5 * (adjacency + adjacency.T), ground, columns * rhs)

    def _laws(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
        """The laws of the target component given the source's, and of the source given the target."""
        source = self.source_potential(tau)
        to_target = jax.nn.softmax(self.log_b[None, :] + (tau[None, :] - self.cost) / self.epsilon, axis=1)
        to_source = jax.nn.softmax(self.log_a[:, None] + (source[:, None] - self.cost) / self.epsilon, axis=0)
        return to_target, to_source


def _error_of(log_wanted: Float[Array, " K1"], log_there: Float[Array, " K1"]) -> Float[Array, ""]:
    sums = jnp.stack([log_wanted, log_there])
    wanted, there = jnp.exp(sums - jnp.max(sums))
    error = jnp.sum(jnp.abs(wanted - there)) / jnp.maximum(jnp.sum(wanted), jnp.sum(there))
    return jnp.where(jnp.isnan(error), jnp.inf, error)


def _newton(problem: _Problem, stop: Stop) -> Stop:
    """One damped Newton step at fixed regularization.

    Newton's direction for the logarithms of the column sums is tried, and without what changes all of them alike, which
    `leveled` sees to; so is that for the sums themselves. If none halves the error, a line search along the best.
    """
    tau, epsilon = stop.tau, problem.epsilon
    gap, unit = problem.gap(tau), jnp.max(jnp.stack(problem.sums(tau)))
    gradient = problem.residual(tau, unit)
    relative = -jnp.expm1(-jnp.clip(gap, -60.0, 60.0)) * jnp.exp(jnp.clip(gap, -60.0, 60.0))
    share = jax.nn.softmax(problem.sums(tau)[1])
    rhs = jnp.stack([gap - share @ gap, relative - share @ relative, gap, relative], axis=1)

    def newton(method: Callable[..., Array], rhs: Array) -> Array:
        solution = epsilon * problem.solve(tau, rhs, method).T
        return jnp.where(jnp.isfinite(solution), solution, jnp.zeros_like(solution))

    def outcome(d: Array) -> tuple[Array, Array]:
        there, error = problem.leveled_error(tau + d)
        return there, jnp.where(jnp.dot(gradient, d) > 0, error, jnp.inf)

    # What elementary elimination finds is good enough for most steps.
    found, errors = jax.vmap(outcome)(newton(factorize, rhs[:, :2]))

    def other() -> tuple[Array, Array]:
        sinkhorn = epsilon * gap / (1 + epsilon * problem.rigidity_b)
        directions = jnp.concatenate([newton(eliminate, rhs), sinkhorn[None]])
        every, least = jax.vmap(outcome)(directions)
        best = jnp.argmin(least)
        quick = least[best] < 0.5 * stop.error
        # Newton's directions, where they ascend, else Sinkhorn's, which always does.
        order = jnp.where(jnp.arange(5) < 4, least, jnp.where(jnp.isinf(least[:4]).all(), -1.0, jnp.inf))
        direction = directions[jnp.argmin(order)]
        t = ascend(lambda step: problem.residual(tau + step, unit), gradient, direction, epsilon, quick)
        # Where the search met numbers that are none, Sinkhorn's step.
        (there, error), (its_there, its) = (problem.leveled_error(tau + d) for d in (t * direction, directions[4]))
        fine = jnp.isfinite(error)
        there, error = jnp.where(fine, there, its_there), jnp.where(fine, error, its)
        return jnp.where(quick, every[best], there), jnp.where(quick, least[best], error)

    best = jnp.argmin(errors)
    moved, error = jax.lax.cond(errors[best] < 0.5 * stop.error, lambda: (found[best], errors[best]), other)
    return stop._replace(tau=moved, error=error, tries=stop.tries + 1, num_steps=stop.num_steps + 1)


@jax.custom_jvp
def _potential(problem: _Problem, tolerance: Array, start: Array, max_steps: Array) -> tuple[Array, Array]:
    """The target potential and the number of steps."""
    return follow(problem, _newton, tolerance, start, max_steps, _PATIENCE)


@_potential.defjvp
def _potential_jvp(primals: tuple, tangents: tuple) -> tuple:
    """Implicit differentiation of the equality of column sums."""
    problem = primals[0]
    tau, num_steps = _potential(*primals)
    change = jax.jvp(lambda p: p.gap(tau), (problem,), (tangents[0],))[1]
    d_tau = problem.solve_linear(tau, problem.epsilon * change)
    return (tau, num_steps), (d_tau, tangents[3])


@program
def relaxed_coupling(
    cost: Float[Array, "K0 K1"],
    a: Float[Array, " K0"],
    b: Float[Array, " K1"],
    epsilon: Float[Array, ""],
    rigidity: tuple[Float[Array, ""], Float[Array, ""]],
    tolerance: Float[Array, ""],
    start: Float[Array, " K1"],
    max_steps: Int[Array, ""],
) -> RelaxedCoupling:
    """Solve the Omega-block with relaxed marginals for a positive regularization.

    Differentiable with respect to the costs, the weights, the regularization and both relaxations.

    Args:
        cost: Component objectives L_ij, units of squared distance.
        a: Source weights, of any mass.
        b: Target weights, of any mass.
        epsilon: Regularization, units of squared distance; positive.
        rigidity: One over either relaxation, zero for a marginal that is kept; one of them is positive.
        tolerance: Largest accepted error of the marginals, L1 over the mass.
        start: Potential of the target components to start from; ignored unless it is near the solution.
        max_steps: Limit on the number of steps.
    """
    finite = jnp.all(jnp.isfinite(cost))
    safe = jnp.where(jnp.isfinite(cost), cost, jnp.zeros_like(cost))
    # Masses are made equal first, so that potentials are no larger than costs: what they have in common then is known.
    total = jnp.sum(a), jnp.sum(b)
    common = jnp.log(total[1] / total[0]) / (rigidity[0] + rigidity[1])
    log_a, log_b = safe_log(a) + common * rigidity[0], safe_log(b) - common * rigidity[1]
    safe = safe + epsilon * common * (rigidity[0] - rigidity[1])
    problem = _Problem(safe, log_a, log_b, epsilon, *rigidity)
    tau, num_steps = _potential(problem, 0.5 * tolerance, start, max_steps)
    source = problem.source_potential(tau)
    # Rows are exact; columns are exact to the tolerance.
    log_density = (source[:, None] + tau[None, :] - safe) / epsilon
    log_rows = logsumexp(problem.log_b[None, :] + log_density, axis=1)
    log_columns = logsumexp(problem.log_a[:, None] + log_density, axis=0)
    log_mass = logsumexp(log_a + log_rows)
    row_shares = jnp.exp(log_b[None, :] + log_density - log_rows[:, None])
    column_shares = jnp.exp(log_a[:, None] + log_density - log_columns[None, :])
    rows, columns = jnp.exp(log_a + log_rows - log_mass), jnp.exp(log_b + log_columns - log_mass)
    wanted = jnp.exp(log_a - rigidity[0] * source - log_mass), jnp.exp(log_b - rigidity[1] * tau - log_mass)
    weights, mass = rows[:, None] * row_shares, jnp.exp(log_mass)
    error = jnp.sum(jnp.abs(rows - wanted[0])) + jnp.sum(jnp.abs(columns - wanted[1]))
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.weights_not_converged)
    result = RESULTS.where(finite, result, RESULTS.weights_not_finite)
    potentials = source - common, tau + common
    coupling = WeightCoupling(weights, row_shares, column_shares, *potentials, error, num_steps, result)
    growth = log_rows + common * rigidity[0], common * rigidity[1] - log_columns
    return RelaxedCoupling(coupling, mass, mass * rows, mass * columns, *growth)
