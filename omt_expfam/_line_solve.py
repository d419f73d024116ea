"""The entropic transport problem between two laws on the line, by Newton's method on the potential."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ._arrays import unfused
from ._line_grid import grid
from ._line_profile import Profile
from ._product_form import AbstractShape

MAX_STEPS = 40
# Sinkhorn steps before the first Newton step.
_WARM_STEPS = 2


class LinePlan(eqx.Module):
    """The solved problem between two standardized laws, at the nodes of both sides.

    Attributes:
        x: Source nodes, increasing.
        y: Target nodes, increasing.
        log_weights: Log-weights of the source nodes and of the target nodes.
        potentials: Source and target potentials; their means under the two laws are equal.
        means: E[y | x] at the source nodes and E[x | y] at the target nodes.
        slopes: Derivatives of ``means``; the conditional variances are eps/2 times these.
        bends: Second derivatives; the conditional third cumulants are eps^2/4 times these.
        cost: Mean squared distance.
        kl: KL divergence from independence, in nats.
        marginal_error: L1 error of the source marginal.
        num_steps: Newton steps taken.
    """

    x: Float[Array, "*b n"]
    y: Float[Array, "*b n"]
    log_weights: tuple[Float[Array, "*b n"], Float[Array, "*b n"]]
    potentials: tuple[Float[Array, "*b n"], Float[Array, "*b n"]]
    means: tuple[Float[Array, "*b n"], Float[Array, "*b n"]]
    slopes: tuple[Float[Array, "*b n"], Float[Array, "*b n"]]
    bends: tuple[Float[Array, "*b n"], Float[Array, "*b n"]]
    cost: Float[Array, "*b"]
    kl: Float[Array, "*b"]
    marginal_error: Float[Array, "*b"]
    num_steps: Num[Array, "*b"]


class _Problem(NamedTuple):
    """Nodes and log-weights of both sides, and the regularization."""

    x: Array
    log_a: Array
    y: Array
    log_b: Array
    epsilon: Array

    def exponent(self, f: Array, g: Array) -> Array:
        """Log-density of the plan against the product of the laws."""
        difference = self.x[:, None] - self.y[None, :]
        return (f[:, None] + g[None, :] - difference * difference) / self.epsilon


class _State(NamedTuple):
    """An iterate: a source potential, the potentials that follow from it, and its marginal error."""

    f: Array
    g: Array
    update: Array
    error: Array
    num_steps: Array


class LineNodes(NamedTuple):
    """The nodes of a problem: all that is left of the two laws.

    Attributes:
        x: Source nodes, increasing.
        log_a: Their log-weights.
        y: Target nodes, increasing.
        log_b: Their log-weights.
        to_y: Images of the source nodes under the monotone map between the laws.
        to_x: Images of the target nodes under its inverse.
    """

    x: Float[Array, "*b n"]
    log_a: Float[Array, "*b n"]
    y: Float[Array, "*b n"]
    log_b: Float[Array, "*b n"]
    to_y: Float[Array, "*b n"]
    to_x: Float[Array, "*b n"]


def place_nodes(
    shapes: tuple[AbstractShape, AbstractShape],
    profiles: tuple[Profile, Profile],
    epsilon: Float[Array, ""],
    count: int,
) -> LineNodes:
    """The nodes that a regularization needs, in units of the product of the standard deviations.

    Args:
        shapes: Two laws.
        profiles: Their profiles.
        epsilon: The regularization.
        count: Number of panels of each side.
    """
    (x, log_a), (y, log_b) = grid(shapes, profiles, epsilon, count)
    fixed = jax.lax.stop_gradient(profiles)
    to_y = fixed[1].quantile(fixed[0].log_odds_at(jax.lax.stop_gradient(x)))
    to_x = fixed[0].quantile(fixed[1].log_odds_at(jax.lax.stop_gradient(y)))
    return LineNodes(x, log_a, y, log_b, to_y, to_x)


def solve_nodes(nodes: LineNodes, epsilon: Float[Array, ""]) -> LinePlan:
    """Solve one problem by Newton's method, started from the monotone map shrunk as between Gaussians."""
    problem = _Problem(nodes.x, nodes.log_a, nodes.y, nodes.log_b, epsilon)
    fixed = jax.lax.stop_gradient(problem)
    shrink = jnp.sqrt(1 + (fixed.epsilon / 4) ** 2) - fixed.epsilon / 4
    start = _integrate(fixed.x, 2 * (fixed.x - shrink * jax.lax.stop_gradient(nodes.to_y)), fixed.log_a)
    f, num_steps = _potential(problem, start)
    g = _target_potential(problem, f)
    return _read(problem, _source_potential(problem, g), g, num_steps)


def limit_nodes(nodes: LineNodes, entropies: Float[Array, ""]) -> LinePlan:
    """The unregularized plan, the monotone map; its KL divergence is infinite.

    ``kl`` holds the limit of KL + log(eps)/2, which is (h0 + h1 - log(pi) - 1) / 2 with h the differential entropies.

    Args:
        nodes: The nodes of the two laws.
        entropies: The sum of the differential entropies.
    """
    sides = ((nodes.x, nodes.to_y, nodes.log_a), (nodes.y, nodes.to_x, nodes.log_b))
    cost = jnp.sum(jnp.exp(nodes.log_a) * (nodes.x - nodes.to_y) ** 2)
    f, g = (_integrate(x, 2 * (x - image), log_weight) + cost / 2 for x, image, log_weight in sides)
    slope_x, slope_y = (_derivative(x, image) for x, image, _ in sides)
    bends = (_derivative(nodes.x, slope_x), _derivative(nodes.y, slope_y))
    kl = 0.5 * (entropies - jnp.log(jnp.pi).astype(cost.dtype) - 1)
    zero = jnp.zeros_like(cost)
    weights = (nodes.log_a, nodes.log_b)
    return LinePlan(
        nodes.x, nodes.y, weights, (f, g), (nodes.to_y, nodes.to_x), (slope_x, slope_y), bends, cost, kl, zero, zero
    )


def _derivative(x: Float[Array, " n"], value: Float[Array, " n"]) -> Float[Array, " n"]:
    """Derivatives at increasing nodes: weighted means of the neighboring secants."""
    step = jnp.maximum(jnp.diff(x), jnp.finfo(x.dtype).tiny)
    secant = jnp.diff(value) / step
    inner = (secant[:-1] * step[1:] + secant[1:] * step[:-1]) / (step[1:] + step[:-1])
    return jnp.concatenate([secant[:1], inner, secant[-1:]])


def _integrate(x: Float[Array, " n"], slope: Float[Array, " n"], log_weight: Array) -> Float[Array, " n"]:
    """The integral of a slope known at increasing nodes, with mean zero under the weights."""
    pieces = 0.5 * (slope[1:] + slope[:-1]) * jnp.diff(x)
    value = jnp.concatenate([jnp.zeros((1,), x.dtype), jnp.cumsum(pieces)])
    return value - jnp.sum(jnp.exp(log_weight) * value)


def _read(problem: _Problem, f: Array, g: Array, num_steps: Array) -> LinePlan:
    """Everything that is asked of a solved problem."""
    x, log_a, y, log_b, epsilon = problem
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    exponent = problem.exponent(f, g)
    to_y = jnp.exp(exponent + log_b[None, :])
    to_x = jnp.exp(exponent + log_a[:, None])
    row, column = jnp.sum(to_y, axis=1), jnp.sum(to_x, axis=0)
    means = (to_y @ y / row, x @ to_x / column)
    # The conditional variance is eps/2 times the slope of the conditional mean; centered, so that none is negative.
    offset_y, offset_x = y[None, :] - means[0][:, None], x[:, None] - means[1][None, :]
    spread_y = jnp.sum(to_y * offset_y**2, axis=1) / row
    spread_x = jnp.sum(to_x * offset_x**2, axis=0) / column
    skew_y = jnp.sum(to_y * offset_y**3, axis=1) / row
    skew_x = jnp.sum(to_x * offset_x**3, axis=0) / column
    cost = jnp.sum(a * (spread_y + (means[0] - x) ** 2))
    value = jnp.sum(a * f) + jnp.sum(b * g)
    half = 0.5 * (jnp.sum(a * f) - jnp.sum(b * g))
    return LinePlan(
        x,
        y,
        (log_a, log_b),
        (f - half, g + half),
        means,
        (2 * spread_y / epsilon, 2 * spread_x / epsilon),
        (4 * skew_y / epsilon**2, 4 * skew_x / epsilon**2),
        cost,
        jnp.maximum((value - cost) / epsilon, 0.0),
        jnp.sum(b * jnp.abs(column - 1)),
        num_steps,
    )


def _target_potential(problem: _Problem, f: Array) -> Array:
    """The target potential that gives the target marginal, from a source potential."""
    exponent = problem.exponent(f, jnp.zeros_like(problem.y)) + problem.log_a[:, None]
    return -problem.epsilon * jax.nn.logsumexp(exponent, axis=0)


def _source_potential(problem: _Problem, g: Array) -> Array:
    """The source potential that gives the source marginal, from a target potential."""
    exponent = problem.exponent(jnp.zeros_like(problem.x), g) + problem.log_b[None, :]
    return -problem.epsilon * jax.nn.logsumexp(exponent, axis=1)


def _sinkhorn(problem: _Problem, f: Array, num_steps: Array) -> _State:
    """An iterate with what one Sinkhorn step makes of it."""
    g = _target_potential(problem, f)
    update = _source_potential(problem, g)
    excess = jnp.expm1(jnp.clip((f - update) / problem.epsilon, -50.0, 50.0))
    return _State(f, g, update, jnp.sum(jnp.exp(problem.log_a) * jnp.abs(excess)), num_steps)


def _newton_matrix(problem: _Problem, f: Array, g: Array, update: Array) -> Array:
    """I minus the derivative of a Sinkhorn step, with the constants (its null vectors) made regular.

    The derivative is the product of the two conditional laws: a stochastic matrix, so that the potential in the tails,
    where nothing weighs, is found as accurately as anywhere.
    """
    to_y = jnp.exp(problem.exponent(update, g) + problem.log_b[None, :])
    to_x = jnp.exp(problem.exponent(f, g) + problem.log_a[:, None])
    stationary = jnp.exp(problem.log_a + jnp.clip((f - update) / problem.epsilon, -50.0, 50.0))
    size = jnp.eye(f.shape[0], dtype=f.dtype)
    return size - unfused(to_y @ to_x.T) + (stationary / jnp.sum(stationary))[None, :]


@jax.custom_jvp
def _potential(problem: _Problem, start: Array) -> tuple[Array, Array]:
    """The source potential and the number of Newton steps."""
    tolerance = jnp.sqrt(jnp.finfo(start.dtype).eps) * (1e-3 if start.dtype == jnp.float64 else 1e-1)

    def going(state: _State) -> Array:
        return (state.num_steps < MAX_STEPS) & (state.error > tolerance)

    def step(state: _State) -> _State:
        matrix = _newton_matrix(problem, state.f, state.g, state.update)
        newton = state.f + jnp.linalg.solve(matrix, state.update - state.f)
        trial = _sinkhorn(problem, newton, state.num_steps + 1)
        # Where Newton's step does not help, Sinkhorn's does.
        return jax.lax.cond(
            trial.error < state.error,
            lambda: trial,
            lambda: _sinkhorn(problem, state.update, state.num_steps + 1),
        )

    f = start
    for _ in range(_WARM_STEPS):
        f = _sinkhorn(problem, f, jnp.asarray(0)).update
    final = jax.lax.while_loop(going, step, _sinkhorn(problem, f, jnp.asarray(0)))
    return final.update, final.num_steps


@_potential.defjvp
def _potential_jvp(
    primals: tuple[_Problem, Array], tangents: tuple[_Problem, Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Implicit differentiation of the fixed point of a Sinkhorn step."""
    problem, start = primals
    f, num_steps = _potential(problem, start)

    def one_step(p: _Problem) -> Array:
        return _source_potential(p, _target_potential(p, f))

    update, change = jax.jvp(one_step, (problem,), (tangents[0],))
    matrix = _newton_matrix(problem, f, _target_potential(problem, f), update)
    return (f, num_steps), (jnp.linalg.solve(matrix, change), jnp.zeros_like(num_steps, jax.dtypes.float0))
