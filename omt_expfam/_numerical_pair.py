r"""Entropic transport between two components known by draws and moments, for one pair.

Both components are represented by weighted, centered nodes. With $c = \|x\|^2 + \|y\|^2 - 2 x \cdot y$ the plan has the
density $\exp(u(x) + v(y) + 2 x \cdot y / \varepsilon)$ against the product of its marginals; $u$ and $v$ are the
potentials without their parts $\|x\|^2$ and $\|y\|^2$, in units of $\varepsilon$. Then

    value = tr Sigma0 + tr Sigma1 + eps (∫ u dmu + ∫ v dnu),

and an error of order $\delta$ in the nodes enters it in three ways, each with its own remedy:

- linearly, through the integrals of $u$ and $v$: these are taken over many more draws, with a cheaper potential (that
  of few nodes) and quadratic polynomials as control variates;
- quadratically, as a bias of order 1/N: the value from N nodes is extrapolated with those from two halves of them;
- through moments: nodes are weighted so that their mean and covariance are exact.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from ._arrays import unfused

# Scaling steps between two returns to the log domain, where what the scalings have grown to is absorbed.
INNER_STEPS = 20
_NEWTON_STEPS = 12


# Relative step of the difference quotient that gives the divergence.
STEP = 0.1


class Nodes(eqx.Module):
    """One component as weighted points about its mean.

    Attributes:
        points: Draws minus the exact mean, shape ``[N, d]``.
        log_weight: Log-weights of all nodes.
        half_log_weight: Log-weights of the first and second half, each by itself.
        part_log_weight: Log-weights of the first quarter by itself.
        tril: Cholesky factor of the exact covariance.
    """

    points: Float[Array, "*K N d"]
    log_weight: Float[Array, "*K N"]
    half_log_weight: Float[Array, "*K 2 h"]
    part_log_weight: Float[Array, "*K q"]
    tril: Float[Array, "*K d d"]

    @classmethod
    def of(cls, points: Float[Array, "N d"], covariance: Float[Array, "d d"]) -> "Nodes":
        """Weight centered draws so that their moments are exact."""
        tril = jnp.linalg.cholesky(covariance)
        z = features(whiten(tril, points), points.shape[0])
        half, part = points.shape[0] // 2, points.shape[0] // 4
        halves = jnp.stack([calibrated_weights(z[:half]), calibrated_weights(z[half:])])
        return cls(points, calibrated_weights(z), halves, calibrated_weights(z[:part]), tril)

    @property
    def half(self) -> int:
        """The number of nodes in a half."""
        return self.half_log_weight.shape[-1]

    def total_variance(self) -> Float[Array, ""]:
        """The trace of the exact covariance."""
        return jnp.sum(self.tril**2)


class Potentials(eqx.Module):
    """Potentials u and v at the nodes, with the L1 error of the plan's first marginal and the steps taken."""

    u: Float[Array, " N"]
    v: Float[Array, " N"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]


class PairSolution(eqx.Module):
    """What is kept of one pair, for centered components.

    Attributes:
        value: Cost plus epsilon times KL.
        error: A cautious estimate of the error of ``value``.
        trace: Tr C of the cross-covariance C, from the derivative of ``value`` with respect to epsilon.
        potentials: Those of all nodes.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    trace: Float[Array, ""]
    potentials: Potentials


# -- nodes -------------------------------------------------------------------------------------------------------


def whiten(tril: Float[Array, "d d"], points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Coordinates in which the covariance is the identity."""
    return solve_triangular(tril, points.T, lower=True).T


def features(z: Float[Array, "n d"], num_nodes: int) -> Float[Array, "n p"]:
    """Polynomials of mean zero: all quadratic ones, or only squares, or none, as the number of nodes allows."""
    dim = z.shape[1]
    if dim * (dim + 3) // 2 <= num_nodes // 16:
        left, right = np.triu_indices(dim)
        squares = z[:, left] * z[:, right] - jnp.asarray(np.equal(left, right), z.dtype)[None]
    elif 2 * dim <= num_nodes // 16:
        squares = z * z - 1
    else:
        return jnp.zeros((z.shape[0], 0), z.dtype)
    return jnp.concatenate([z, squares], axis=1)


def calibrated_weights(feature: Float[Array, "n p"]) -> Float[Array, " n"]:
    """The log-weights closest to equal ones (in KL) under which every feature has mean zero.

    Where that would leave less than half of the effective number of nodes, equal weights.
    """
    num, dim = feature.shape
    ridge = 1e-6 * jnp.eye(dim, dtype=feature.dtype)
    lengths = jnp.asarray([1.0, 0.5, 0.25, 0.0625], feature.dtype)

    def step(_: Array, tilt: Array) -> Array:
        weight = jax.nn.softmax(feature @ tilt)
        mean = weight @ feature
        moment = unfused((feature * weight[:, None]).T @ feature)
        direction = jnp.linalg.solve(moment - mean[:, None] * mean[None, :] + ridge, mean)
        trial = tilt[None] - lengths[:, None] * direction[None]
        return trial[jnp.argmin(logsumexp(unfused(trial @ feature.T), axis=1))]

    tilt = jax.lax.fori_loop(0, _NEWTON_STEPS, step, jnp.zeros((dim,), feature.dtype))
    log_weight = jax.nn.log_softmax(unfused(feature @ tilt))
    usable = jnp.sum(jnp.exp(2 * log_weight)) < 2 / num
    return jnp.where(usable, log_weight, jnp.full_like(log_weight, -math.log(num)))


# -- the solve ---------------------------------------------------------------------------------------------------


def interaction(x: Float[Array, "n d"], y: Float[Array, "m d"], epsilon: Float[Array, ""]) -> Float[Array, "n m"]:
    """2 x.y / epsilon for all pairs of points."""
    return unfused(x @ ((2 / epsilon) * y).T)


def extend(x: Float[Array, "n d"], y: Float[Array, "m d"], log_weight: Array, v: Array, epsilon: Array) -> Array:
    """The potential u at any points, from v at the nodes y of the other side."""
    return -logsumexp(interaction(x, y, epsilon) + (log_weight + v)[None], axis=1)


def sinkhorn(
    kernel: Float[Array, "n m"],
    log_a: Float[Array, " n"],
    log_b: Float[Array, " m"],
    start: Float[Array, " m"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> Potentials:
    """Sinkhorn's iteration, in scalings between returns to the log domain.

    Args:
        kernel: 2 x.y / epsilon at the nodes.
        log_a: Log-weights of the source nodes.
        log_b: Log-weights of the target nodes.
        start: A guess of v.
        tolerance: Largest accepted L1 error of the first marginal; the second is exact.
        max_steps: Limit on the steps, each an update of both potentials.
    """
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    tiny = jnp.asarray(jnp.finfo(kernel.dtype).tiny * 1e3, kernel.dtype)

    def unmet(state: Potentials) -> Array:
        return (state.residual > tolerance) & (state.num_steps < max_steps)

    def absorb(state: Potentials) -> Potentials:
        u = -logsumexp(kernel + (log_b + state.v)[None], axis=1)
        v = -logsumexp(kernel + (log_a + u)[:, None], axis=0)
        density = jnp.exp(kernel + u[:, None] + v[None])

        def step(_: Array, scalings: tuple[Array, Array]) -> tuple[Array, Array]:
            left = 1 / jnp.maximum(density @ (b * scalings[1]), tiny)
            return left, 1 / jnp.maximum((a * left) @ density, tiny)

        left, right = jax.lax.fori_loop(0, INNER_STEPS, step, (jnp.ones_like(u), jnp.ones_like(v)))
        residual = jnp.sum(a * jnp.abs(left * (density @ (b * right)) - 1))
        return Potentials(u + jnp.log(left), v + jnp.log(right), residual, state.num_steps + INNER_STEPS)

    begin = Potentials(jnp.zeros_like(log_a), start, jnp.asarray(jnp.inf, kernel.dtype), jnp.zeros_like(max_steps))
    return jax.lax.while_loop(unmet, absorb, begin)


# -- integrals of the potentials ------------------------------------------------------------------------------------


class Surrogate(eqx.Module):
    """A cheap potential (that of few nodes), and what many draws say of it.

    Attributes:
        at_nodes: The cheap potential at all nodes.
        mean: Its integral, by many draws with quadratic control variates.
        variance: The variance of ``mean`` for a coefficient of one.
    """

    at_nodes: Float[Array, " N"]
    mean: Float[Array, ""]
    variance: Float[Array, ""]

    @classmethod
    def of(cls, nodes: Nodes, other: Nodes, v: Array, draws: Float[Array, "b m d"], epsilon: Array) -> "Surrogate":
        """Integrate the potential that the first quarter of the other side's nodes gives."""
        part = v.shape[0]
        center = jnp.zeros((), v.dtype)

        def cheap(points: Array) -> Array:
            return extend(points, other.points[:part], other.part_log_weight, v, epsilon)

        at_nodes = cheap(nodes.points)
        center = jnp.mean(at_nodes)

        def add(gram: Array, block: Float[Array, "m d"]) -> tuple[Array, None]:
            feature = _with_constant(features(whiten(nodes.tril, block), nodes.points.shape[0]))
            row = jnp.concatenate([feature, (cheap(block) - center)[:, None]], axis=1)
            return gram + unfused(row.T @ row), None

        size = features(nodes.points[:1], nodes.points.shape[0]).shape[1] + 2
        total = draws.shape[0] * draws.shape[1]
        gram = jax.lax.scan(add, jnp.zeros((size, size), v.dtype), draws)[0] / total
        coefficient = _solve(gram[:-1, :-1], gram[:-1, -1])
        variance = jnp.maximum(gram[-1, -1] - coefficient @ gram[:-1, -1], 0) / total
        # Every feature but the constant has mean zero.
        return cls(at_nodes, center + coefficient[0], variance)


def integral(
    nodes: Nodes, log_weight: Array, potential: Array, surrogate: Surrogate, start: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The integral of a potential known at some nodes, and its variance."""
    stop = start + potential.shape[0]
    weight = jnp.exp(log_weight)
    feature = _with_constant(features(whiten(nodes.tril, nodes.points[start:stop]), nodes.points.shape[0]))
    row = jnp.concatenate([feature, (surrogate.at_nodes[start:stop] - surrogate.mean)[:, None]], axis=1)
    coefficient = _solve((row * weight[:, None]).T @ row, (row * weight[:, None]).T @ potential)
    rest = potential - unfused(row @ coefficient)
    freedom = weight.shape[0] / max(weight.shape[0] - row.shape[1], 1)
    variance = freedom * jnp.sum((weight * rest) ** 2) + coefficient[-1] ** 2 * surrogate.variance
    return coefficient[0] + weight @ rest, variance


def _with_constant(feature: Float[Array, "n p"]) -> Float[Array, "n q"]:
    return jnp.concatenate([jnp.ones((feature.shape[0], 1), feature.dtype), feature], axis=1)


def _solve(matrix: Float[Array, "p p"], vector: Float[Array, " p"]) -> Float[Array, " p"]:
    """Solve a system of normal equations, scaled to a unit diagonal."""
    scale = jnp.sqrt(jnp.diagonal(matrix) + jnp.finfo(matrix.dtype).tiny)
    unit = matrix / (scale[:, None] * scale[None, :])
    ridge = 10 * jnp.finfo(matrix.dtype).eps * jnp.eye(len(scale), dtype=matrix.dtype)
    return jnp.linalg.solve(unit + ridge, vector / scale) / scale


# -- one pair -----------------------------------------------------------------------------------------------------


def solve_pair(
    source: Nodes,
    target: Nodes,
    draws: tuple[Float[Array, "b m d"], Float[Array, "b m d"]],
    backward_gain: Float[Array, "d d"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> PairSolution:
    """The plan of one pair, its value and the value's error.

    Args:
        source: Nodes of the source component.
        target: Nodes of the target component.
        draws: Many more centered draws of both, in blocks.
        backward_gain: That of Gaussians with the same covariances, for the start.
        epsilon: Regularization, units of squared distance.
        tolerance: For `sinkhorn`.
        max_steps: For `sinkhorn`.
    """
    gauss = -jnp.sum(unfused(target.points @ backward_gain) * target.points, axis=1)

    def at(guess: Array, factor: Array) -> tuple[Array, tuple[Array, Array, Potentials]]:
        """The value at a multiple of epsilon, from a guess of the target potential in units of cost."""
        own = epsilon * factor
        value, error, full = _corrected_value(source, target, draws, guess / own, own, tolerance, max_steps)
        return full.v * own, (value, error, full)

    factors = jnp.asarray([1.0, 1 + STEP, 1 - STEP], epsilon.dtype)
    _, (values, errors, potentials) = jax.lax.scan(at, gauss, factors)
    # The derivative of the value with respect to epsilon is the divergence: sampling errors that the values have in
    # common cancel, which they would not in a cost read off the plan between nodes.
    divergence = jnp.maximum((values[1] - values[2]) / (2 * STEP * epsilon), 0.0)
    total = source.total_variance() + target.total_variance()
    trace = 0.5 * (total - values[0] + epsilon * divergence)
    return PairSolution(values[0], errors[0], trace, jax.tree.map(lambda leaf: leaf[0], potentials))


def _corrected_value(
    source: Nodes,
    target: Nodes,
    draws: tuple[Array, Array],
    start: Float[Array, " N"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Potentials]:
    """Cost plus epsilon times KL of one pair, its error, and the potentials of all nodes."""
    kernel = interaction(source.points, target.points, epsilon)

    def solve(rows: slice, log_a: Array, log_b: Array, guess: Array) -> Potentials:
        return sinkhorn(kernel[rows, rows], log_a, log_b, guess[rows], tolerance, max_steps)

    full = solve(slice(None), source.log_weight, target.log_weight, start)
    part = source.part_log_weight.shape[0]
    few = solve(slice(part), source.part_log_weight, target.part_log_weight, full.v)
    left = Surrogate.of(source, target, few.v, draws[0], epsilon)
    right = Surrogate.of(target, source, few.u, draws[1], epsilon)

    def value(solution: Potentials, log_a: Array, log_b: Array, begin: int) -> tuple[Array, Array]:
        first, first_variance = integral(source, log_a, solution.u, left, begin)
        second, second_variance = integral(target, log_b, solution.v, right, begin)
        return first + second, first_variance + second_variance

    whole, variance = value(full, source.log_weight, target.log_weight, 0)
    halves = []
    for index in range(2):
        begin = index * source.half
        weights = source.half_log_weight[index], target.half_log_weight[index]
        solution = solve(slice(begin, begin + source.half), *weights, full.v)
        halves.append(value(solution, *weights, begin)[0])
    bias = 0.5 * (halves[0] + halves[1]) - whole
    spread = 0.5 * jnp.abs(halves[0] - halves[1])
    total = source.total_variance() + target.total_variance()
    error = epsilon * reported_error(jnp.sqrt(variance), bias, spread, full.residual)
    rounding = 16 * jnp.finfo(total.dtype).eps * total
    return total + epsilon * (whole - bias), error + rounding, full


def reported_error(deviation: Array, bias: Array, spread: Array, residual: Array) -> Float[Array, ""]:
    """3.5 standard errors, the whole of the extrapolated bias, the spread of the halves and the unmet marginal."""
    return 3.5 * deviation + jnp.abs(bias) + spread + residual
