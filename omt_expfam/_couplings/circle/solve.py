"""The transport problem between two laws on the circle, with squared arcs as the cost.

Without regularization quantiles are coupled, lifted to the line and shifted against each other by the number that
makes the mean displacement over the circle vanish: what the derivative of the cost by the shift is (Delon, Salomon and
Sobolevskii, 2010). With regularization, Newton's method on the semi-dual between nodes of both laws.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..._numerics.circle import grid, wrap
from ..._weights.entropic import entropic_coupling
from .table import CircleLaw, EVEN

# Halvings of the interval of the shift; angles of the grid left out while it is sought.
_HALVINGS, _STRIDE = 60, 2
# Newton's method: the marginal error to reach, that at which the regularization falls, by how much, and steps.
_TOLERANCE, _NEAR, _FACTOR, _MAX_STEPS = 1e-11, 0.1, 4.0, 200
# Beyond this error the slower path that couples weights of mixtures is taken.
_GOOD = 1e-9
_TRIALS = (1.0, 0.4, 0.15, 0.03)


class CircleNodes(NamedTuple):
    """Nodes of both sides of a problem with the logarithms of their probabilities."""

    x: Float[Array, " n"]
    log_a: Float[Array, " n"]
    y: Float[Array, " m"]
    log_b: Float[Array, " m"]


class CirclePlan(NamedTuple):
    """A solved problem.

    Attributes:
        values: Potentials at the nodes of both sides; without regularization displacements, with a sign.
        cost: Mean squared arc.
        kl: KL divergence from independence, in nats; infinite without regularization.
        error: What the spacing of nodes or grid and the solve may have changed of cost + epsilon KL.
        marginal_error: L1 error of the target marginal.
        solved: Whether Newton's method was enough, where nothing else was tried.
    """

    values: tuple[Float[Array, " n"], Float[Array, " m"]]
    cost: Float[Array, ""]
    kl: Float[Array, ""]
    error: Float[Array, ""]
    marginal_error: Float[Array, ""]
    solved: Bool[Array, ""]


def squared_arc(x: Array, y: Array) -> Array:
    """Squared lengths of the arcs between angles."""
    return wrap(x - y) ** 2


# -- without regularization --------------------------------------------------------------------------------------------


def best_shift(source: CircleLaw, target: CircleLaw) -> Float[Array, ""]:
    """The shift of quantiles for which displacements have mean zero, over the circle and not over the law."""
    angles = grid(source.levels.dtype)[::_STRIDE]
    left, right = source.levels[:-1:_STRIDE], target.levels[:-1:_STRIDE]

    def drift(shift: Array) -> Array:
        there = jax.vmap(target.quantile)(left + shift) - angles
        back = angles - jax.vmap(source.quantile)(right - shift)
        return jnp.mean(there) + jnp.mean(back)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (bounds[0] + bounds[1])
        above = drift(middle) > 0
        return jnp.where(above, bounds[0], middle), jnp.where(above, middle, bounds[1])

    one = jnp.ones((), angles.dtype)
    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-one, one))
    shift = jax.lax.stop_gradient(0.5 * (low + high))
    # A Newton step that moves nothing, and has the derivatives of the solution.
    rest = drift(shift)
    return shift - (rest - jax.lax.stop_gradient(rest)) / jax.lax.stop_gradient(jax.grad(drift)(shift))


def shifted_cost(source: CircleLaw, target: CircleLaw, shift: Array, stride: int = 1) -> Float[Array, ""]:
    """The mean squared displacement of shifted quantiles, by Gauss's rule between the steps of both tables."""
    left, right = source.levels[:-1:stride], target.levels[:-1:stride] - shift
    steps = jnp.sort(jnp.concatenate([left, right - jnp.floor(right), jnp.ones((1,), left.dtype)]))
    steps = jax.lax.stop_gradient(steps)
    width = jnp.diff(steps)
    offset = 0.5 / math.sqrt(3)

    def square(u: Array) -> Array:
        return (source.quantile(u, stride) - target.quantile(u + shift, stride)) ** 2

    middle = 0.5 * (steps[1:] + steps[:-1])
    places = jnp.stack([middle - offset * width, middle + offset * width])
    return 0.5 * jnp.sum(width * jnp.sum(jax.vmap(jax.vmap(square))(places), axis=0))


def solve_hard(source: CircleLaw, target: CircleLaw, nodes: CircleNodes) -> CirclePlan:
    """The coupling of shifted quantiles."""
    shift = best_shift(source, target)
    cost, rough = (shifted_cost(source, target, shift, stride) for stride in (1, 2))
    there = jax.vmap(lambda x: target.quantile(source.cdf(x) + shift) - x)(nodes.x)
    back = jax.vmap(lambda y: source.quantile(target.cdf(y) - shift) - y)(nodes.y)
    error = jax.lax.stop_gradient(jnp.abs(cost - rough)) + 4 * EVEN[cost.dtype.name] * math.pi**2
    return CirclePlan((there, back), cost, jnp.full_like(cost, jnp.inf), error, jnp.zeros_like(cost), jnp.asarray(True))


# -- with regularization -----------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """Plans whose rows are exact: the laws of y given each x, source potentials, columns and the semi-dual."""

    shares: Array
    f: Array
    columns: Array
    value: Array


def _rows(nodes: CircleNodes, distances: Array, g: Array, epsilon: Array) -> _Rows:
    exponent = nodes.log_b[None, :] + (g[None, :] - distances) / epsilon
    soft = jax.nn.logsumexp(exponent, axis=1)
    shares = jnp.exp(exponent - soft[:, None])
    f, a = -epsilon * soft, jnp.exp(nodes.log_a)
    return _Rows(shares, f, a @ shares, a @ f + jnp.exp(nodes.log_b) @ g)


def _direction(nodes: CircleNodes, rows: _Rows, residual: Array, epsilon: Array) -> Array:
    """Newton's direction: the Hessian, scaled to unit diagonal, with its kernel filled in."""
    root = jnp.sqrt(jnp.maximum(rows.columns, jnp.finfo(residual.dtype).tiny))
    part = jnp.exp(0.5 * nodes.log_a)[:, None] * rows.shares / root[None, :]
    kernel = root / jnp.linalg.norm(root)
    ground = 1e4 * jnp.finfo(root.dtype).eps
    matrix = (1 + ground) * jnp.eye(root.shape[0], dtype=root.dtype) - part.T @ part + kernel[:, None] * kernel[None, :]
    factor = jnp.linalg.cholesky(matrix)
    solved = jax.scipy.linalg.cho_solve((factor, True), residual / root)
    return epsilon * solved / root


def _good(dtype: Any) -> float:
    """The marginal error that is to be reached."""
    return max(_GOOD, 800 * float(jnp.finfo(dtype).eps))


def _semi_dual(nodes: CircleNodes, distances: Array, epsilon: Array, start: Array, rescue: bool) -> tuple[Array, Array]:
    """The target potential, and its marginal error, along a path of falling regularization."""
    b = jnp.exp(nodes.log_b)
    top = jnp.maximum(epsilon, 1.0)
    tolerance = max(_TOLERANCE, 8 * float(jnp.finfo(b.dtype).eps))

    def error_of(g: Array, eps: Array) -> Array:
        return jnp.sum(jnp.abs(b - _rows(nodes, distances, g, eps).columns))

    def going(state: tuple[Array, ...]) -> Array:
        _, eps, error, stalled, steps = state
        unfinished = (eps > epsilon) | (error > tolerance)
        return unfinished & (steps < _MAX_STEPS) & (stalled < 2)

    def step(state: tuple[Array, ...]) -> tuple[Array, ...]:
        g, eps, _, stalled, steps = state
        rows = _rows(nodes, distances, g, eps)
        # Sinkhorn's update sets columns of little mass right, Newton's step all of them together.
        ratio = nodes.log_b - jnp.log(jnp.maximum(rows.columns, jnp.finfo(b.dtype).tiny))
        g = g + eps * ratio
        rows = _rows(nodes, distances, g, eps)
        residual = b - rows.columns
        error = jnp.sum(jnp.abs(residual))
        newton = _direction(nodes, rows, residual, eps)
        newton = jnp.where(jnp.isfinite(newton), newton, 0.0)

        def search() -> tuple[Array, Array, Array]:
            def outcome(scale: Array) -> tuple[Array, Array]:
                moved = _rows(nodes, distances, g + scale * newton, eps)
                return moved.value, jnp.sum(jnp.abs(b - moved.columns))

            scales = jnp.asarray(_TRIALS, b.dtype)
            values, errors = jax.lax.map(outcome, scales)
            # The semi-dual says which step is best, as far as its rounding lets it.
            visible = jnp.max(values) > rows.value + 1e-12 * jnp.abs(rows.value)
            best = jnp.where(visible, jnp.argmax(values), jnp.argmin(errors))
            better = visible | (errors[best] < error)
            return jnp.where(better, g + scales[best] * newton, g), jnp.where(better, errors[best], error), better

        whole = error_of(g + newton, eps)
        quick = whole < 0.5 * error
        g, now, better = jax.lax.cond(quick, lambda: (g + newton, whole, quick), search)
        arrived = (now < _NEAR) & (eps > epsilon)
        lower = jnp.where(arrived, jnp.maximum(epsilon, eps / _FACTOR), eps)
        stalled = jnp.where(better | arrived, 0, stalled + 1)
        return g, lower, jnp.where(arrived, 1.0, now), stalled, steps + 1

    warm = error_of(start, epsilon) < _NEAR
    first = jnp.where(warm, epsilon, top)
    state = (jnp.where(warm, start, jnp.zeros_like(start)), first, jnp.asarray(1.0, b.dtype))
    g, _, error, *_ = jax.lax.while_loop(going, step, (*state, jnp.asarray(0), jnp.asarray(0)))
    if not rescue:
        return g, error_of(g, epsilon)

    def path() -> Array:
        masses, limits = (jnp.exp(nodes.log_a), b), (jnp.asarray(tolerance, b.dtype), g, jnp.asarray(_MAX_STEPS))
        return entropic_coupling(distances, *masses, epsilon, *limits).target_potential

    g = jax.lax.cond(error <= _good(b.dtype), lambda: g, path)
    return g, error_of(g, epsilon)


def extended(potential: Array, log_mass: Array, nodes: Array, x: Array, epsilon: Array) -> Array:
    """The potential of the other side at an angle, the soft minimum over nodes."""
    return -epsilon * jax.nn.logsumexp(log_mass + (potential - squared_arc(x, nodes)) / epsilon)


def _solved(nodes: CircleNodes, epsilon: Array, start: Array, rescue: bool) -> CirclePlan:
    """A problem between nodes."""
    distances = squared_arc(nodes.x[:, None], nodes.y[None, :])
    fixed, eps = jax.lax.stop_gradient((nodes, epsilon))
    g, error = _semi_dual(fixed, distances, eps, start, rescue)
    solved = error <= _good(error.dtype)
    # Columns exact, then rows: potentials where there is no mass are those of the other side's.
    at = _rows(fixed, distances, g, eps)
    g = -eps * jax.nn.logsumexp(fixed.log_a[:, None] + (at.f[:, None] - distances) / eps, axis=0)
    g = jax.lax.stop_gradient(g - jnp.exp(fixed.log_b) @ g)
    # A Newton step that moves next to nothing, and has the derivatives of the solution.
    rows = _rows(nodes, distances, g, epsilon)
    residual = jnp.exp(nodes.log_b) - rows.columns
    change = _direction(fixed, jax.lax.stop_gradient(rows), residual, eps)
    g = g + change - jax.lax.stop_gradient(change)
    rows = _rows(nodes, distances, g, epsilon)
    a = jnp.exp(nodes.log_a)
    cost = a @ jnp.sum(rows.shares * distances, axis=1)
    kl = jnp.maximum((a @ rows.f + rows.columns @ g - cost) / epsilon, 0.0)
    carries = fixed.log_b > math.log(1e-12)
    spread = jnp.max(jnp.where(carries, g, -jnp.inf)) - jnp.min(jnp.where(carries, g, jnp.inf))
    error = jnp.minimum(error, jnp.sum(jnp.abs(residual)))
    kinks = jax.lax.stop_gradient(_kinks(nodes, distances, rows, g))
    return CirclePlan((rows.f, g), cost, kl, error * spread + kinks, error, solved)


def _kinks(nodes: CircleNodes, distances: Array, rows: _Rows, g: Array) -> Array:
    """What trapezoidal sums may be off by for kinks: an eighth of the jump of the slope, the density and a square.

    The cost has one at antipodes, of 4 pi. Potentials nearly have one where the circle is cut, which conditional laws
    reach from either side.
    """
    plan = jnp.exp(nodes.log_a)[:, None] * rows.shares
    total = jnp.zeros_like(g[0])
    sides = (nodes.x, nodes.log_a, rows.f, plan.T, distances.T), (nodes.y, nodes.log_b, g, plan, distances)
    for points, log_mass, potential, entries, squares in sides:
        after = jnp.diff(jnp.concatenate([points, points[:1] + 2 * math.pi]))
        width = jnp.maximum(after, jnp.roll(after, 1))
        near = jnp.sqrt(squares) > math.pi - width[None, :]
        slope = (jnp.roll(potential, -1) - potential) / after
        bend = jnp.abs(slope - jnp.roll(slope, 1)) * jnp.exp(log_mass) * width
        # The density times one spacing is an entry; a kink between two nodes bends both.
        total = total + 0.5 * math.pi * jnp.sum(jnp.where(near, entries, 0.0) * width[None, :]) + 0.25 * jnp.max(bend)
    return total


def solve_soft(nodes: CircleNodes, epsilon: Array, rescue: bool = True) -> CirclePlan:
    """The entropic coupling, on half of the nodes and then on all; their difference says what nodes may change.

    ``rescue`` takes a slower path where Newton's method stalls: most of the program, and hardly ever needed.
    """
    fixed = jax.lax.stop_gradient(nodes)
    half = CircleNodes(fixed.x[::2], _halved(fixed.log_a), fixed.y[::2], _halved(fixed.log_b))
    eps = jax.lax.stop_gradient(epsilon)
    rough = _solved(half, eps, jnp.zeros_like(half.y), rescue)
    start = jax.vmap(lambda y: extended(rough.values[0], half.log_a, half.x, y, eps))(fixed.y)
    plan = _solved(nodes, epsilon, start, rescue)
    gap = jnp.abs((plan.cost - rough.cost) + eps * (plan.kl - rough.kl))
    return plan._replace(error=jax.lax.stop_gradient(plan.error + gap), solved=plan.solved & rough.solved)


def _halved(log_mass: Array) -> Array:
    return log_mass[::2] - jax.nn.logsumexp(log_mass[::2])
