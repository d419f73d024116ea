"""The entropic transport problem between two laws on the line, by Newton's method on the potential."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from ..._base.xla import unfused
from ..._components.product_form import AbstractShape
from .grid import grid
from .profile import monotone_images, Profile, squared_wasserstein

MAX_STEPS = 40
# The log-weight of a point that is no quadrature node.
NO_WEIGHT = -1e4
# Sinkhorn steps before the first Newton step.
_WARM_STEPS = 2


class LinePlan(eqx.Module):
    """The solved problem between two standardized laws, at the nodes of both sides and the ends of the panels.

    Attributes:
        x: Source points, increasing: an end, the nodes, the other end.
        y: Target points, likewise.
        log_weights: Log-weights of the source points and of the target points; the ends have no weight.
        potentials: Source and target potentials; their means under the two laws are equal.
        means: E[y | x] at the source nodes and E[x | y] at the target nodes.
        slopes: Derivatives of ``means``; the conditional variances are eps/2 times these.
        bends: Second derivatives; the conditional third cumulants are eps^2/4 times these.
        cost: Mean squared distance.
        kl: KL divergence from independence, in nats.
        marginal_error: L1 error of the source marginal.
        lost_moment: The second moments that lie beyond the nodes, of both sides together.
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
    lost_moment: Float[Array, "*b"]
    num_steps: Num[Array, "*b"]


class _Problem(NamedTuple):
    """Nodes and log-weights of both sides, and the regularization."""

    x: Array
    log_a: Array
    y: Array
    log_b: Array
    epsilon: Array

    def swap(self) -> "_Problem":
        """The same problem with source and target exchanged."""
        return _Problem(self.y, self.log_b, self.x, self.log_a, self.epsilon)

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
        x_ends: Ends of the source panels.
        y_ends: Ends of the target panels.
        distance: The squared Wasserstein distance of the two laws.
        entropy: The sum of their differential entropies.
    """

    x: Float[Array, "*b n"]
    log_a: Float[Array, "*b n"]
    y: Float[Array, "*b n"]
    log_b: Float[Array, "*b n"]
    to_y: Float[Array, "*b n"]
    to_x: Float[Array, "*b n"]
    x_ends: Float[Array, "*b 2"]
    y_ends: Float[Array, "*b 2"]
    distance: Float[Array, "*b"]
    entropy: Float[Array, "*b"]


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
    (x, log_a, x_ends), (y, log_b, y_ends) = grid(shapes, profiles, epsilon, count)
    fixed = jax.lax.stop_gradient(profiles)
    to_y = monotone_images(fixed[0], fixed[1], jax.lax.stop_gradient(x))
    to_x = monotone_images(fixed[1], fixed[0], jax.lax.stop_gradient(y))
    distance = squared_wasserstein(jax.lax.stop_gradient(shapes[0]), fixed)
    return LineNodes(x, log_a, y, log_b, to_y, to_x, x_ends, y_ends, distance, fixed[0].entropy + fixed[1].entropy)


def solve_nodes(nodes: LineNodes, epsilon: Float[Array, ""]) -> LinePlan:
    """Solve one problem by Newton's method, started from the monotone map shrunk as between Gaussians."""
    problem = _Problem(nodes.x, nodes.log_a, nodes.y, nodes.log_b, epsilon)
    fixed = jax.lax.stop_gradient(problem)
    shrink = jnp.sqrt(1 + (fixed.epsilon / 4) ** 2) - fixed.epsilon / 4
    start = _integrate(fixed.x, 2 * (fixed.x - shrink * jax.lax.stop_gradient(nodes.to_y)), fixed.log_a)
    f, num_steps = _potential(problem, start)
    g = _target_potential(problem, f)
    return _read(problem, nodes, _source_potential(problem, g), g, num_steps)


def limit_nodes(nodes: LineNodes) -> LinePlan:
    """The unregularized plan, the monotone map; its KL divergence is infinite.

    ``kl`` holds the limit of KL + log(eps)/2, which is (h0 + h1 - log(pi) - 1) / 2 with h the differential entropies.

    Args:
        nodes: The nodes of the two laws.
    """
    sides = ((nodes.x, nodes.to_y, nodes.log_a, nodes.x_ends), (nodes.y, nodes.to_x, nodes.log_b, nodes.y_ends))
    cost = nodes.distance
    no_weight = jnp.full_like(cost, NO_WEIGHT)
    read = []
    for x, image, log_weight, ends in sides:
        slope = _derivative(x, image)
        # An infinite support has infinite images at its end: the map goes on in a straight line there.
        first, last = image[0] + slope[0] * (ends[0] - x[0]), image[-1] + slope[-1] * (ends[1] - x[-1])
        points, means = _enclose(ends[0], x, ends[1]), _enclose(first, image, last)
        slopes = _enclose(slope[0], slope, slope[-1])
        weights = _enclose(no_weight, log_weight, no_weight)
        potential = _integrate(points, 2 * (points - means), weights) + cost / 2
        read.append(_Side(points, weights, potential, means, slopes, _derivative(points, slopes)))
    kl = 0.5 * (nodes.entropy - jnp.log(jnp.pi).astype(cost.dtype) - 1)
    zero = jnp.zeros_like(cost)
    return _join(read[0], read[1], cost, kl, zero, zero, zero)


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


class _Side(NamedTuple):
    """What a plan says at the points of one side."""

    points: Array
    log_weights: Array
    potential: Array
    mean: Array
    slope: Array
    bend: Array


def _join(source: _Side, target: _Side, *numbers: Array) -> LinePlan:
    """The plan that two sides describe."""
    (x, log_a, *left), (y, log_b, *right) = source, target
    both = list(zip(left, right, strict=True))
    return LinePlan(x, y, (log_a, log_b), both[0], both[1], both[2], both[3], *numbers)


def _read(problem: _Problem, nodes: LineNodes, f: Array, g: Array, num_steps: Array) -> LinePlan:
    """Everything that is asked of a solved problem."""
    a, b = jnp.exp(problem.log_a), jnp.exp(problem.log_b)
    half = 0.5 * (jnp.sum(a * f) - jnp.sum(b * g))
    source = _side(problem, nodes.x_ends, g)
    target = _side(problem.swap(), nodes.y_ends, f)
    # A conditional variance is eps/2 times the slope of the conditional mean.
    within = problem.epsilon / 2 * source.slope[1:-1]
    cost = jnp.sum(a * (within + (source.mean[1:-1] - problem.x) ** 2))
    kl = jnp.maximum((jnp.sum(a * f) + jnp.sum(b * g) - cost) / problem.epsilon, 0.0)
    column = jnp.sum(jnp.exp(problem.exponent(f, g) + problem.log_a[:, None]), axis=0)
    source = source._replace(potential=source.potential - half)
    target = target._replace(potential=target.potential + half)
    lost = jnp.abs(1 - jnp.sum(a * problem.x**2)) + jnp.abs(1 - jnp.sum(b * problem.y**2))
    return _join(source, target, cost, kl, jnp.sum(b * jnp.abs(column - 1)), lost, num_steps)


def _side(problem: _Problem, ends: Float[Array, " 2"], g: Float[Array, " m"]) -> _Side:
    """Potential and conditional moments at the source nodes and ends, from a target potential."""
    no_weight = jnp.full_like(problem.epsilon, NO_WEIGHT)
    points = _enclose(ends[0], problem.x, ends[1])
    log_weights = _enclose(no_weight, problem.log_a, no_weight)
    wide = problem._replace(x=points, log_a=log_weights)
    potential = _source_potential(wide, g)
    law = jnp.exp(wide.exponent(potential, g) + problem.log_b[None, :])
    mean = unfused(law @ problem.y)
    # Centered, so that no variance is negative.
    offset = problem.y[None, :] - mean[:, None]
    variance, third = jnp.sum(law * offset**2, axis=1), jnp.sum(law * offset**3, axis=1)
    epsilon = problem.epsilon
    return _Side(points, log_weights, potential, mean, 2 * variance / epsilon, 4 * third / epsilon**2)


def _enclose(first: Array, values: Float[Array, " n"], last: Array) -> Float[Array, " m"]:
    """Values at the nodes between values at the ends."""
    return jnp.concatenate([first[None], values, last[None]])


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
