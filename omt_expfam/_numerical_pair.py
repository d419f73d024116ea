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

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

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
        num = points.shape[0]
        z, index = features(whiten(tril, points), num), np.arange(num)
        subsets = np.stack([index >= 0, index < num // 2, index >= num // 2, index < num // 4])
        whole, first, second, part = jax.lax.map(lambda used: calibrated_weights(z, used), jnp.asarray(subsets))
        return cls(points, whole, jnp.stack([first[: num // 2], second[num // 2 :]]), part[: num // 4], tril)

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


class Side(eqx.Module):
    """One component as all that a coupling is solved from.

    Attributes:
        mean: The exact mean.
        nodes: Nodes about it.
        draws: Many more centered draws, in blocks.
    """

    mean: Float[Array, "*K d"]
    nodes: Nodes
    draws: Float[Array, "*K b m d"]


class PairSolution(eqx.Module):
    """What is kept of one pair.

    Attributes:
        cost: Expected squared distance.
        kl: Divergence from the independent coupling.
        error: A cautious estimate of the error of cost plus epsilon times KL.
        potentials: Those of all nodes.
    """

    cost: Float[Array, "*p"]
    kl: Float[Array, "*p"]
    error: Float[Array, "*p"]
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


def calibrated_weights(feature: Float[Array, "n p"], used: Bool[Array, " n"]) -> Float[Array, " n"]:
    """The log-weights closest to equal ones (in KL) under which every feature has mean zero.

    Where that would leave less than half of the effective number of nodes, equal weights. Nodes that are not used have
    weight zero.
    """
    dim = feature.shape[1]
    num = jnp.sum(used.astype(feature.dtype))
    equal = jnp.where(used, -jnp.log(num), -jnp.inf)
    ridge = 1e-6 * jnp.eye(dim, dtype=feature.dtype)
    lengths = jnp.asarray([1.0, 0.5, 0.25, 0.0625], feature.dtype)

    def step(_: Array, tilt: Array) -> Array:
        weight = jax.nn.softmax(feature @ tilt + equal)
        mean = weight @ feature
        moment = unfused((feature * weight[:, None]).T @ feature)
        direction = jnp.linalg.solve(moment - mean[:, None] * mean[None, :] + ridge, mean)
        trial = tilt[None] - lengths[:, None] * direction[None]
        return trial[jnp.argmin(logsumexp(unfused(trial @ feature.T) + equal[None], axis=1))]

    tilt = jax.lax.fori_loop(0, _NEWTON_STEPS, step, jnp.zeros((dim,), feature.dtype))
    log_weight = jax.nn.log_softmax(unfused(feature @ tilt) + equal)
    usable = jnp.sum(jnp.exp(2 * log_weight)) < 2 / num
    return jnp.where(usable, log_weight, equal)


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
    """Sinkhorn's iteration with momentum, in scalings between returns to the log domain.

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
    infinite = jnp.asarray(jnp.inf, kernel.dtype)

    def unmet(state: Potentials) -> Array:
        return (state.residual > tolerance) & (state.num_steps < max_steps)

    def absorb(state: Potentials) -> Potentials:
        exponent = kernel + (log_b + state.v)[None]
        top = jnp.max(exponent, axis=1)
        density = jnp.exp(exponent - top[:, None])

        def step(scaled: _Scaled) -> _Scaled:
            plain = 1 / jnp.maximum(scaled.sums, tiny)
            # Nesterov's momentum, which starts anew where the error has grown.
            age = jnp.where(scaled.residual < scaled.before, scaled.age + 1, 0)
            left = plain * (plain / scaled.plain) ** (age / (age + 3)).astype(plain.dtype)
            mass = (a * left) @ density
            right = b / jnp.maximum(mass, tiny)
            sums = density @ right
            # A column that has underflown is to be found again in the log domain.
            lost = jnp.any((mass < tiny) & (b > 0))
            residual = jnp.where(lost, infinite, jnp.sum(a * jnp.abs(left * sums - 1)))
            return _Scaled(left, right, sums, residual, scaled.num_steps + 1, plain, scaled.residual, age)

        def go_on(scaled: _Scaled) -> Array:
            steps = scaled.num_steps
            return (scaled.residual > tolerance) & (steps < INNER_STEPS) & (state.num_steps + steps < max_steps)

        ones = jnp.ones_like(log_a), jnp.ones_like(log_b)
        sums = density @ ones[1]
        plain = 1 / jnp.maximum(sums, tiny)
        begin = _Scaled(*ones, sums, infinite, jnp.zeros_like(max_steps), plain, infinite, jnp.zeros_like(max_steps))
        last = jax.lax.while_loop(go_on, step, begin)
        u, v = jnp.log(last.left) - top, state.v + jnp.log(last.right)
        return Potentials(u, v, last.residual, state.num_steps + last.num_steps)

    begin = Potentials(jnp.zeros_like(log_a), start, infinite, jnp.zeros_like(max_steps))
    return jax.lax.while_loop(unmet, absorb, begin)


class _Scaled(NamedTuple):
    """Scalings of both sides, the sums of rows that the next left one comes from, and the first marginal's error.

    For the momentum also the left scalings without it, the error before, and the steps since momentum began.
    """

    left: Float[Array, " n"]
    right: Float[Array, " m"]
    sums: Float[Array, " n"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]
    plain: Float[Array, " n"]
    before: Float[Array, ""]
    age: Int[Array, ""]


# -- integrals of the potentials ------------------------------------------------------------------------------------


class Surrogate(eqx.Module):
    """A cheap potential (that of few nodes) and its derivative, and what many draws say of their integrals.

    Attributes:
        at_nodes: The cheap potential and its derivative by the logarithm of epsilon, at all nodes.
        mean: Their integrals, by many draws with quadratic control variates.
        covariance: The covariance matrix of ``mean``.
    """

    at_nodes: Float[Array, "*s N 2"]
    mean: Float[Array, "*s 2"]
    covariance: Float[Array, "*s 2 2"]

    @classmethod
    def of(
        cls, nodes: Nodes, other: Nodes, v: Array, slope: Array, draws: Float[Array, "b m d"], epsilon: Array
    ) -> "Surrogate":
        """Integrate the potential that the first quarter of the other side's nodes gives.

        Args:
            nodes: The nodes of this side.
            other: The nodes of the other side.
            v: The potential of the other side at its first quarter.
            slope: Its derivative by the logarithm of epsilon.
            draws: Centered draws of this side.
            epsilon: Regularization.
        """
        part = v.shape[0]
        far = other.points[:part]
        sides = jnp.concatenate([far, slope[:, None], jnp.ones_like(slope)[:, None]], axis=1)

        def cheap(points: Array) -> Array:
            exponent = interaction(points, far, epsilon) + (other.part_log_weight + v)[None]
            top = jnp.max(exponent, axis=1)
            sums = unfused(jnp.exp(exponent - top[:, None]) @ sides)
            image, moved = sums[:, :-2] / sums[:, -1:], sums[:, -2] / sums[:, -1]
            derivative = 2 * jnp.sum(points * image, axis=1) / epsilon - moved
            return jnp.stack([-top - jnp.log(sums[:, -1]), derivative], axis=1)

        at_nodes = cheap(nodes.points)
        center = jnp.mean(at_nodes, axis=0)

        def add(gram: Array, block: Float[Array, "m d"]) -> tuple[Array, None]:
            row = jnp.concatenate([_regressors(nodes, block), cheap(block) - center[None]], axis=1)
            return gram + unfused(row.T @ row), None

        size = _regressors(nodes, nodes.points[:1]).shape[1] + 2
        total = draws.shape[0] * draws.shape[1]
        gram = jax.lax.scan(add, jnp.zeros((size, size), v.dtype), draws)[0] / total
        coefficient = _solve(gram[:-2, :-2], gram[:-2, -2:])
        covariance = (gram[-2:, -2:] - gram[-2:, :-2] @ coefficient) / total
        # Every feature but the constant has mean zero.
        return cls(at_nodes, center + coefficient[0], covariance)


def integral(
    feature: Float[Array, "N p"], log_weight: Float[Array, " N"], potential: Float[Array, " N"], surrogate: Surrogate
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The integral of a potential known at the nodes that have a weight, and its variance where all of them have."""
    weight = jnp.exp(log_weight)
    row = jnp.concatenate([feature, surrogate.at_nodes - surrogate.mean[None]], axis=1)
    coefficient = _solve((row * weight[:, None]).T @ row, ((row * weight[:, None]).T @ potential)[:, None])[:, 0]
    rest = potential - unfused(row @ coefficient)
    freedom = weight.shape[0] / max(weight.shape[0] - row.shape[1], 1)
    variance = freedom * jnp.sum((weight * rest) ** 2)
    own = coefficient[-2:]
    return coefficient[0] + weight @ rest, variance + jnp.maximum(own @ surrogate.covariance @ own, 0)


def _regressors(nodes: Nodes, points: Float[Array, "n d"]) -> Float[Array, "n p"]:
    return _with_constant(features(whiten(nodes.tril, points), nodes.points.shape[0]))


def _with_constant(feature: Float[Array, "n p"]) -> Float[Array, "n q"]:
    return jnp.concatenate([jnp.ones((feature.shape[0], 1), feature.dtype), feature], axis=1)


def _solve(matrix: Float[Array, "p p"], right: Float[Array, "p r"]) -> Float[Array, "p r"]:
    """Solve a system of normal equations, scaled to a unit diagonal."""
    scale = jnp.sqrt(jnp.diagonal(matrix) + jnp.finfo(matrix.dtype).tiny)
    unit = matrix / (scale[:, None] * scale[None, :])
    ridge = 10 * jnp.finfo(matrix.dtype).eps * jnp.eye(len(scale), dtype=matrix.dtype)
    return jnp.linalg.solve(unit + ridge, right / scale[:, None]) / scale[:, None]


# -- one pair -----------------------------------------------------------------------------------------------------


def solve_pair(
    source: Side,
    target: Side,
    backward_gain: Float[Array, "d d"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> PairSolution:
    """The plan of one pair, its value and the value's error.

    Args:
        source: The source component.
        target: The target component.
        backward_gain: That of Gaussians with the same covariances, for the start.
        epsilon: Regularization, units of squared distance.
        tolerance: For `sinkhorn`.
        max_steps: For `sinkhorn`.
    """
    points = target.nodes.points
    gauss = -jnp.sum(unfused(points @ backward_gain) * points, axis=1)
    # Both sides stacked: what is done to each is then written, and compiled, once.
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), source, target)
    feature = jax.lax.map(lambda nodes: _regressors(nodes, nodes.points), both.nodes)

    nodes, part = both.nodes, source.nodes.part_log_weight.shape[-1]

    def few(guess: Array, factor: Array) -> tuple[Array, Array]:
        """The potentials of few nodes at a multiple of epsilon, from a guess in units of cost."""
        own = epsilon * factor
        kernel = interaction(nodes.points[0, :part], nodes.points[1, :part], own)
        weights = nodes.part_log_weight
        solved = sinkhorn(kernel, weights[0], weights[1], guess / own, tolerance, max_steps)
        return solved.v * own, jnp.stack([solved.v, solved.u])

    factors = jnp.asarray([1.0, 1 + STEP, 1 - STEP], epsilon.dtype)
    across, above, below = jax.lax.scan(few, gauss[:part], factors)[1]
    slope = (above - below) / (2 * STEP)
    other = jax.tree.map(lambda leaf: leaf[::-1], nodes)
    cheap = jax.lax.map(lambda item: Surrogate.of(*item, epsilon=epsilon), (nodes, other, across, slope, both.draws))

    def at(factor: Array) -> tuple[Array, Array, Potentials]:
        start = cheap.at_nodes[1, :, 0] + jnp.log(factor) * cheap.at_nodes[1, :, 1]
        return _corrected_value(nodes, feature, cheap, start, epsilon * factor, tolerance, max_steps)

    (value, above, below), errors, potentials = jax.lax.map(at, factors)
    # The derivative of the value with respect to epsilon is the divergence: sampling errors that the values have in
    # common cancel, which they would not in a cost read off the plan between nodes. The value is the more accurate: the
    # divergence takes the rest. Neither it nor the trace of the cross-covariance can be negative.
    divergence = jnp.maximum((above - below) / (2 * STEP * epsilon), 0.0)
    total = source.nodes.total_variance() + target.nodes.total_variance()
    trace = 0.5 * (total - value + epsilon * divergence)
    distance = jnp.sum((source.mean - target.mean) ** 2)
    kl = jnp.maximum((value - total + 2 * trace) / epsilon, 0)
    error = errors[0] + 16 * jnp.finfo(value.dtype).eps * distance
    potentials = jax.tree.map(lambda leaf: leaf[0], potentials)
    return PairSolution(distance + value - epsilon * kl, kl, error, potentials)


def _corrected_value(
    nodes: Nodes,
    feature: Float[Array, "2 N p"],
    cheap: Surrogate,
    start: Float[Array, " N"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, ""], Float[Array, ""], Potentials]:
    """Cost plus epsilon times KL of one pair, its error, and the potentials of all nodes."""
    half = nodes.half
    kernel = interaction(nodes.points[0], nodes.points[1], epsilon)
    full = sinkhorn(kernel, nodes.log_weight[0], nodes.log_weight[1], start, tolerance, max_steps)

    def solve_half(index: Array) -> Array:
        begin = index * half
        block = jax.lax.dynamic_slice(kernel, (begin, begin), (half, half))
        guess = jax.lax.dynamic_slice(full.v, (begin,), (half,))
        weights = nodes.half_log_weight[:, index]
        own = sinkhorn(block, weights[0], weights[1], guess, tolerance, max_steps)
        return jnp.stack([own.u, own.v])

    halves = jax.lax.map(solve_half, jnp.arange(2))
    potentials = [jnp.stack([full.u, full.v]), *_apart(halves, 0.0)]
    log_weights = [nodes.log_weight, *_apart(jnp.swapaxes(nodes.half_log_weight, 0, 1), -jnp.inf)]

    def integrate(item: tuple[Array, Surrogate, Array, Array]) -> tuple[Array, Array]:
        feature, surrogate, log_weight, potential = item
        return jax.lax.map(lambda own: integral(feature, own[0], own[1], surrogate), (log_weight, potential))

    tables = jnp.stack(log_weights, axis=1), jnp.stack(potentials, axis=1)
    means, variances = jax.lax.map(integrate, (feature, cheap, *tables))
    whole, *parts = jnp.sum(means, axis=0)
    variance = jnp.sum(variances[:, 0])
    bias = 0.5 * (parts[0] + parts[1]) - whole
    spread = 0.5 * jnp.abs(parts[0] - parts[1])
    total = jnp.sum(nodes.tril**2)
    error = epsilon * reported_error(jnp.sqrt(variance), bias, spread, full.residual)
    rounding = 16 * jnp.finfo(total.dtype).eps * total
    return total + epsilon * (whole - bias), error + rounding, full


def _apart(halves: Float[Array, "2 s h"], fill: float) -> tuple[Float[Array, "s N"], Float[Array, "s N"]]:
    """What belongs to either half of the nodes, filled up to all of them."""
    first, second = halves
    rest = jnp.full_like(first, fill)
    return jnp.concatenate([first, rest], axis=1), jnp.concatenate([rest, second], axis=1)


def reported_error(deviation: Array, bias: Array, spread: Array, residual: Array) -> Float[Array, ""]:
    """3.5 standard errors, the whole of the extrapolated bias, the spread of the halves and the unmet marginal."""
    return 3.5 * deviation + jnp.abs(bias) + spread + residual
