r"""The Omega-block with masses that change at a fixed price per unit, or of which a share is left behind.

Total variation: minimize $\sum_{ij} \omega_{ij} L_{ij} + \varepsilon_2 KL(\Omega \| a \otimes b)
+ \rho_0 \|\Omega 1 - a\|_1 + \rho_1 \|\Omega^T 1 - b\|_1$ over $\Omega \ge 0$. The dual differs from the balanced one
by bounds alone, $|\lambda_i| \le \rho_0$ and $|\tau_j| \le \rho_1$: potentials are clipped (Chizat et al., 2018). A
side may also be kept, or be relaxed by a divergence as in `relaxed`.

Partial transport: minimize the same without prices, subject to $\Omega 1 \le a$, $\Omega^T 1 \le b$ and
$\sum_{ij} \omega_{ij} = m$ (Caffarelli and McCann, 2010; Benamou et al., 2015). Then $\tau_j \le 0$ and
$\lambda_i \le \mu$, where $\mu$, the price at which so much is moved, follows from the mass.

In both, given $\tau$, the best $\lambda$ is a clipped soft minimum. Newton's method for what is left is that of
`relaxed`, with the rows and columns at their bounds fixed (a semismooth method: the active ones are found on the way).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from .._base.arrays import safe_log
from .._base.results import RESULTS
from .._base.xla import program
from .entropic import WeightCoupling
from .laplacian import eliminate, solve_laplacian
from .path import follow, half_spread, kept_near, Stop
from .relaxed import RelaxedCoupling
from .search import ascend

# Newton steps after which a stop on the path is given up.
_PATIENCE = 25
# Bisections for the best constant; exponents beyond which a trial point is bad enough; what grounds the graph at least,
# and what leaves its level loose.
_HALVINGS, _LARGEST, _GROUND, _LOOSE = 60, 80.0, 1e-14, 1e-8


class _Problem(NamedTuple):
    """Costs, logarithms of both weights, and the regularization.

    Either side has a rigidity, one over its relaxation, and a bound of its potentials; a side that is kept has rigidity
    zero and an infinite bound. With the logarithm of a mass the problem is partial transport, and bounds say which side
    gives all that it has: that of the target is zero or infinite, that of the source minus or plus infinity.
    """

    cost: Float[Array, "K0 K1"]
    log_a: Float[Array, " K0"]
    log_b: Float[Array, " K1"]
    epsilon: Float[Array, ""]
    rigidity: tuple[Float[Array, ""], Float[Array, ""]]
    bound: tuple[Float[Array, ""], Float[Array, ""]]
    log_mass: Float[Array, ""] | None

    def widest(self) -> Float[Array, ""]:
        """Half the spread of the costs."""
        return half_spread(self.cost)

    def _soft(self, tau: Float[Array, " K1"]) -> Float[Array, " K0"]:
        return logsumexp(self.log_b[None, :] + (tau[None, :] - self.cost) / self.epsilon, axis=1)

    def limits(self, soft: Float[Array, " K0"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The least and the largest source potential."""
        if self.log_mass is None:
            return -self.bound[0], self.bound[0]
        price = self.epsilon * _log_price(soft, self.log_a, self.log_mass)
        return jnp.full_like(price, -jnp.inf), jnp.where(self.bound[0] > 0, jnp.inf, price)

    def source_potential(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, " K0"], Bool[Array, " K0"]]:
        """The best source potential for a target potential, and where it is not at a bound."""
        soft = self._soft(tau)
        free = -soft * self.epsilon / (1 + self.epsilon * self.rigidity[0])
        low, high = self.limits(soft)
        return _clip(free, low, high), (free > low) & (free < high)

    def room(self, tau: Float[Array, " K1"], unit: float | Float[Array, ""] = 1.0) -> tuple[Array, Array]:
        """How far the target potential may fall and rise, in a unit; nothing infinite is differentiated."""
        some = jnp.isfinite(self.bound[1])
        bound = jnp.where(some, self.bound[1], 0.0)
        high = jnp.where(some, (bound - tau) / unit, jnp.inf)
        none = jnp.full_like(tau, -jnp.inf)
        return (none if self.log_mass is not None else jnp.where(some, (-bound - tau) / unit, none)), high

    def inside(self, tau: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """The nearest potential within the bounds, of columns that are near each other."""
        low, high = self.room(tau)
        return kept_near(tau + jnp.clip(jnp.zeros_like(tau), low, high), self.cost, self.log_b)

    def sums(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, " K1"], Float[Array, " K1"]]:
        """Logarithms of the column sums that a target potential stands for without bounds, and of those there are."""
        source, _ = self.source_potential(tau)
        soft = logsumexp(self.log_a[:, None] + (source[:, None] - self.cost) / self.epsilon, axis=0)
        wanted = self.log_b - self.rigidity[1] * tau
        # The same difference where there is no mass at all.
        return wanted, wanted + tau * (self.rigidity[1] + 1 / self.epsilon) + soft

    def gap(self, tau: Float[Array, " K1"]) -> tuple[Float[Array, " K1"], Bool[Array, " K1"]]:
        """Logarithms of the wanted column sums over those there are, as far as bounds let them go; and where they do.

        A column that its bound holds has the mass that is there.
        """
        source, _ = self.source_potential(tau)
        soft = logsumexp(self.log_a[:, None] + (source[:, None] - self.cost) / self.epsilon, axis=0)
        raw = -tau * (self.rigidity[1] + 1 / self.epsilon) - soft
        low, high = self.room(tau, self.epsilon)
        return _clip(raw, low, high), (raw > low) & (raw < high)

    def residual(self, tau: Float[Array, " K1"], unit: Float[Array, ""]) -> Float[Array, " K1"]:
        """The gradient of the dual, in a unit given by its logarithm."""
        wanted, there = (jnp.exp(jnp.minimum(value - unit, _LARGEST)) for value in self.sums(tau))
        return wanted - there

    def error(self, tau: Float[Array, " K1"]) -> Float[Array, ""]:
        """By how much mass columns are off, over the mass; infinite where it is not a number."""
        there, (gap, _) = self.sums(tau)[1], self.gap(tau)
        sums = jnp.stack([there + gap, there])
        wanted, there = jnp.exp(sums - jnp.max(sums))
        error = jnp.sum(jnp.abs(wanted - there)) / jnp.maximum(jnp.sum(wanted), jnp.sum(there))
        return jnp.where(jnp.isnan(error), jnp.inf, error)

    def leveled(self, tau: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """The potential moved by the constant at which both masses are equal, or as far as bounds let it."""
        tau = self.inside(tau)
        low, high = self.room(tau)
        used = jnp.isfinite(self.log_b)
        low, high = jnp.max(jnp.where(used, low, -jnp.inf)), jnp.min(jnp.where(used, high, jnp.inf))
        if self.log_mass is not None:
            return tau + jnp.where(jnp.isinf(high), -jnp.max(jnp.where(used, tau, -jnp.inf)), high)
        soft, wanted = self._soft(tau), logsumexp(self.log_b - self.rigidity[1] * tau)
        best = self._level(soft, wanted)
        return self.inside(tau + jnp.clip(jnp.where(jnp.isnan(best), 0.0, best), low, high))

    def _level(self, soft: Float[Array, " K0"], wanted: Float[Array, ""]) -> Float[Array, ""]:
        """The best constant without bounds of the target: a closed form where the source has none, else by bisection.

        Where all within an interval are as good, the one that is nearest to none.
        """
        epsilon, (left, right), bound = self.epsilon, self.rigidity, self.bound[0]
        rounding = 50 * jnp.finfo(soft.dtype).eps

        def surplus(level: Array) -> Array:
            source = _clip(-(epsilon * soft + level) / (1 + epsilon * left), -bound, bound)
            return wanted - right * level - logsumexp(self.log_a + (source + level) / epsilon + soft)

        now = surplus(jnp.zeros_like(epsilon))
        # The least and the most that there may be, all sources at one bound.
        middle, half = wanted - logsumexp(self.log_a + soft), bound / epsilon
        low, high = ((middle + sign * half) / (right + 1 / epsilon) for sign in (-1.0, 1.0))
        low, high = jnp.where(now > 0, jnp.maximum(low, 0.0), low), jnp.where(now > 0, high, jnp.minimum(high, 0.0))

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = 0.5 * (bracket[0] + bracket[1])
            rise = surplus(middle) > jnp.where(now > 0, rounding, -rounding)
            return jnp.where(rise, middle, bracket[0]), jnp.where(rise, bracket[1], middle)

        low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (low, high))
        best = jnp.where(jnp.isinf(bound), now / (right + left / (1 + epsilon * left)), 0.5 * (low + high))
        return jnp.where(jnp.abs(now) < rounding, 0.0, best)

    def laws(self, tau: Float[Array, " K1"]) -> tuple[Array, Array, Array, Array]:
        """Laws of the target given the source that react, the source's given the target, and what each source absorbs.

        A source at its bound does not react: a change of its columns' potentials changes its mass. With the mass kept,
        all sources at the bound share theirs, and react as one. Last are the columns that are not at a bound.
        """
        source, free = self.source_potential(tau)
        to_target = jax.nn.softmax(self.log_b[None, :] + (tau[None, :] - self.cost) / self.epsilon, axis=1)
        to_source = jax.nn.softmax(self.log_a[:, None] + (source[:, None] - self.cost) / self.epsilon, axis=0)
        if self.log_mass is None:
            rigid = self.epsilon * self.rigidity[0]
            reacts = jnp.where(free, 1 / (1 + rigid), 0.0)
            absorbs = jnp.where(free, rigid / (1 + rigid), 1.0)
        else:
            log_rows = jnp.where(free, -jnp.inf, self.log_a + self._soft(tau))
            shared = jax.nn.softmax(jnp.where(free.all(), jnp.zeros_like(log_rows), log_rows))
            to_target = jnp.where(free[:, None], to_target, (shared @ to_target)[None, :])
            reacts, absorbs = jnp.ones_like(source), jnp.zeros_like(source)
        return reacts[:, None] * to_target, to_source, absorbs, self.gap(tau)[1]

    def _grounded(self, absorbs: Array, to_source: Array) -> Float[Array, " K1"]:
        return jnp.maximum(absorbs @ to_source + self.epsilon * self.rigidity[1], _GROUND)

    def ground(self, tau: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """What a column's potential changes of its mass when all change alike."""
        _, to_source, absorbs, _ = self.laws(tau)
        return self._grounded(absorbs, to_source)

    def solve(
        self, tau: Float[Array, " K1"], rhs: Float[Array, "K1 m"], held: Bool[Array, " K1"]
    ) -> Float[Array, "K1 m"]:
        """Solve with minus epsilon times the derivative of `gap`: a graph Laplacian; columns at bounds are given.

        So are those that are held.
        """
        to_target, to_source, absorbs, free = self.laws(tau)
        free = free & ~held
        edges = jnp.where(free[:, None], to_source.T @ to_target, 0.0)
        ground = self._grounded(absorbs, to_source)
        return eliminate(edges, jnp.where(free, ground, 1.0), rhs)

    def solve_linear(self, tau: Float[Array, " K1"], rhs: Float[Array, " K1"]) -> Float[Array, " K1"]:
        """The same for one right-hand side, at the solution; can be transposed. Rows are weighted by column sums."""
        to_target, to_source, absorbs, free = self.laws(tau)
        columns = jnp.exp(self.sums(tau)[1])
        edges = (columns[:, None] * to_source.T) @ to_target
        edges = 0.5 * (edges + edges.T)
        given = jnp.where(free, 0.0, rhs)
        across = jnp.where(free[None, :], 0.0, edges)
        ground = columns * self._grounded(absorbs, to_source)
        ground = jnp.where(free, ground + across.sum(axis=1), 1.0) + jnp.finfo(tau.dtype).tiny
        inner = jnp.where(free[:, None] & free[None, :], edges, 0.0)
        right = jnp.where(free, columns * rhs + across @ given, rhs)
        return solve_laplacian(inner, ground, right)


def _clip(value: Array, low: Array, high: Array) -> Array:
    """`jnp.clip`, whose derivative takes no part in bounds that are infinite."""
    return jnp.where(value < low, low, jnp.where(value > high, high, value))


def _log_price(soft: Float[Array, " K0"], log_a: Float[Array, " K0"], log_mass: Float[Array, ""]) -> Float[Array, ""]:
    """The x at which sum_i a_i min(1, e^(x + soft_i)) is the mass."""
    price = jax.lax.stop_gradient(_solved_log_price(soft, log_a, log_mass))
    below = price + soft < 0
    log_rows = log_a + jnp.where(below, price + soft, 0.0)
    # The root's derivative is that of one Newton step from it.
    surplus = logsumexp(log_rows) - log_mass
    slope = jax.lax.stop_gradient(jnp.sum(jnp.where(below, jax.nn.softmax(log_rows), 0.0)))
    return price - (surplus - jax.lax.stop_gradient(surplus)) / jnp.where(slope > 0, slope, 1.0)


def _solved_log_price(soft: Array, log_a: Array, log_mass: Array) -> Array:
    # Components without weight last.
    order = jnp.argsort(jnp.where(jnp.isfinite(log_a), soft, jnp.inf))
    soft, log_a = soft[order], log_a[order]
    heap = jax.lax.cumlogsumexp(log_a + soft)
    weights = jnp.exp(log_a)
    rest = jnp.concatenate([jnp.cumsum(weights[::-1])[::-1][1:], jnp.zeros(1, soft.dtype)])
    # Masses at the x where source after source gets below its bound; they fall.
    masses, mass = jnp.exp(heap - soft) + rest, jnp.exp(log_mass)
    count = jnp.sum((masses > mass) & jnp.isfinite(log_a))
    last = jnp.maximum(count - 1, 0)
    left = jnp.maximum(mass - rest[last], jnp.finfo(soft.dtype).tiny)
    return jnp.where(count > 0, jnp.log(left) - heap[last], -soft[0])


def _newton(problem: _Problem, stop: Stop) -> Stop:
    """One damped Newton step at fixed regularization, within the bounds.

    Newton's directions for the column sums and for their logarithms are tried, with and without what changes all
    columns alike, up to the first bound on their way and beyond it, along the bounds. If none halves the least error so
    far, a line search along the best, or Sinkhorn's step, which is always an ascent.
    """
    tau, epsilon = stop.tau, problem.epsilon
    (gap, free), unit = problem.gap(tau), jnp.max(jnp.stack(problem.sums(tau)))
    gradient = problem.residual(tau, unit)
    relative = -jnp.expm1(-jnp.clip(gap, -60.0, 60.0)) * jnp.exp(jnp.clip(gap, -60.0, 60.0))
    relative = jnp.where(free, relative, gap)
    share = jax.nn.softmax(problem.sums(tau)[1])
    centered = gap - share @ gap, relative - share @ relative
    # Where next to nothing holds the level, Newton's method would send it far away.
    loose = free.all() & (share @ problem.ground(tau) < _LOOSE)
    rhs = jnp.stack([jnp.where(loose, centered[0], gap), jnp.where(loose, centered[1], relative), *centered], axis=1)
    low, high = problem.room(tau)

    def solved(held: Array) -> Array:
        solution = epsilon * problem.solve(tau, jnp.where(held[:, None], 0.0, rhs), held).T
        return jnp.where(jnp.isfinite(solution), solution, jnp.zeros_like(solution))

    steps = solved(jnp.zeros_like(free))
    # Columns that would leave their bound alone but that all others push against it stay there.
    held = free & (jnp.where(steps[0] > 0, high, -low) <= 0)
    again = jax.lax.cond(held.any(), lambda: solved(held)[:2], lambda: steps[:2])
    steps = jnp.concatenate([steps, again])
    # As far as the first bound, for those that are not at one.
    room = jnp.where(steps > 0, high[None, :], -low[None, :]) / jnp.maximum(jnp.abs(steps), jnp.finfo(tau.dtype).tiny)
    part = jnp.min(jnp.where(free[None, :] & (steps != 0), room, jnp.inf), axis=1)
    short = jnp.clip(jnp.minimum(part, 1.0)[:, None] * steps, low[None, :], high[None, :])
    sinkhorn = jnp.clip(epsilon * gap / (1 + epsilon * problem.rigidity[1]), low, high)
    directions = jnp.concatenate([jnp.clip(steps, low[None, :], high[None, :]), short, sinkhorn[None]])

    def moved(d: Array, level: Array) -> Array:
        there = problem.inside(tau + d)
        return jnp.where(level, problem.leveled(there), there)

    def outcome(d: Array, level: Array) -> Array:
        return jnp.where(jnp.dot(gradient, d) > 0, problem.error(moved(d, level)), jnp.inf)

    # Where a column is at its bound, Newton's own step knows the level.
    knows = np.array([True, True, False, False, True, True])
    level = jnp.asarray(~np.concatenate([knows, knows, [False]])) | free.all()
    errors = jax.vmap(outcome)(directions, level)
    best = jnp.argmin(errors)
    quick = errors[best] < 0.5 * stop.least
    last = len(directions) - 1
    order = errors.at[last].set(jnp.where(jnp.isinf(errors[:last]).all() | (stop.tries % 4 == 3), -1.0, jnp.inf))
    direction = jnp.where(quick, directions[best], directions[jnp.argmin(order)])
    t = ascend(lambda step: problem.residual(tau + step, unit), gradient, direction, epsilon, quick)
    found, other = moved(t * direction, ~quick | level[best]), problem.leveled(tau + sinkhorn)
    found = jnp.where(jnp.isfinite(problem.error(found)), found, other)
    error = problem.error(found)
    least = jnp.minimum(error, stop.least)
    return stop._replace(tau=found, error=error, least=least, tries=stop.tries + 1, num_steps=stop.num_steps + 1)


@jax.custom_jvp
def _potential(problem: _Problem, tolerance: Array, start: Array, max_steps: Array) -> tuple[Array, Array]:
    """The target potential and the number of steps."""
    return follow(problem, _newton, tolerance, start, max_steps, _PATIENCE)


@_potential.defjvp
def _potential_jvp(primals: tuple, tangents: tuple) -> tuple:
    """Implicit differentiation of the equality of column sums, and of the bounds."""
    problem = primals[0]
    tau, num_steps = _potential(*primals)
    change = jax.jvp(lambda p: p.gap(tau)[0], (problem,), (tangents[0],))[1]
    d_tau = problem.solve_linear(tau, problem.epsilon * change)
    return (tau, num_steps), (d_tau, tangents[3])


@program
def clipped_coupling(
    cost: Float[Array, "K0 K1"],
    a: Float[Array, " K0"],
    b: Float[Array, " K1"],
    epsilon: Float[Array, ""],
    rigidity: tuple[Float[Array, ""], Float[Array, ""]],
    bound: tuple[Float[Array, ""], Float[Array, ""]],
    mass: Float[Array, ""] | None,
    tolerance: Float[Array, ""],
    start: Float[Array, " K1"],
    max_steps: Int[Array, ""],
) -> RelaxedCoupling:
    """Solve the Omega-block with prices of changing masses, or for a part of the mass, for a positive regularization.

    Differentiable with respect to the costs, the weights, the regularization, and the prices or the mass.

    Args:
        cost: Component objectives L_ij, units of squared distance.
        a: Source weights, of any mass.
        b: Target weights, of any mass.
        epsilon: Regularization, units of squared distance; positive.
        rigidity: One over the relaxation by a divergence of either side, else zero.
        bound: The price of changing the masses of either side, infinite where there is none. With a mass, which side
            gives all that it has: that of the target is zero, or infinite if it does, that of the source minus or plus
            infinity.
        mass: The mass that is transported, at most that of either side; ``None`` where prices decide.
        tolerance: Largest accepted error of the marginals, L1 over the mass.
        start: Potential of the target components to start from; ignored unless it is near the solution.
        max_steps: Limit on the number of steps.
    """
    finite = jnp.all(jnp.isfinite(cost))
    safe = jnp.where(jnp.isfinite(cost), cost, jnp.zeros_like(cost))
    log_a, log_b, log_mass = safe_log(a), safe_log(b), None if mass is None else jnp.log(mass)
    rounding = jnp.zeros(2, cost.dtype)
    if log_mass is not None:
        # A side that gives all it has gives exactly that.
        whole = jnp.stack([jnp.log(jnp.sum(a)), jnp.log(jnp.sum(b))])
        rounding = jnp.where(jnp.isposinf(jnp.stack(bound)), log_mass - whole, 0.0)
        log_a, log_b = log_a + rounding[0], log_b + rounding[1]
    problem = _Problem(safe, log_a, log_b, epsilon, rigidity, bound, log_mass)
    tau, num_steps = _potential(problem, 0.5 * tolerance, start, max_steps)
    source = problem.source_potential(tau)[0]
    log_density = (source[:, None] + tau[None, :] - safe) / epsilon
    log_rows = logsumexp(log_b[None, :] + log_density, axis=1)
    log_columns = logsumexp(log_a[:, None] + log_density, axis=0)
    log_total = logsumexp(log_a + log_rows)
    row_shares = jnp.exp(log_b[None, :] + log_density - log_rows[:, None])
    column_shares = jnp.exp(log_a[:, None] + log_density - log_columns[None, :])
    rows, columns = jnp.exp(log_a + log_rows - log_total), jnp.exp(log_b + log_columns - log_total)
    # Rows are exact; columns are exact to the tolerance.
    wanted = jnp.exp(problem.sums(tau)[1] + problem.gap(tau)[0] - log_total)
    error = jnp.sum(jnp.abs(columns - wanted))
    result = RESULTS.where(error <= tolerance, RESULTS.successful, RESULTS.weights_not_converged)
    result = RESULTS.where(finite, result, RESULTS.weights_not_finite)
    coupling = WeightCoupling(
        rows[:, None] * row_shares, row_shares, column_shares, source, tau, error, num_steps, result
    )
    total = jnp.exp(log_total)
    return RelaxedCoupling(
        coupling, total, total * rows, total * columns, log_rows + rounding[0], -log_columns - rounding[1]
    )
