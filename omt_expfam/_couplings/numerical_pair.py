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

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float, Int

from .._base.xla import unfused
from .numerical_sinkhorn import derivative, interaction, Potentials, sinkhorn

_NEWTON_STEPS = 12


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
    num = jnp.sum(used.astype(feature.dtype))
    equal = jnp.where(used, -jnp.log(num), -jnp.inf)
    log_weight = closest_weights(feature, equal)
    usable = jnp.sum(jnp.exp(2 * log_weight)) < 2 / num
    return jnp.where(usable, log_weight, equal)


def closest_weights(feature: Float[Array, "n p"], base: Float[Array, " n"]) -> Float[Array, " n"]:
    """The log-weights closest to normalized ones (in KL) under which every feature has mean zero."""
    ridge = 1e-6 * jnp.eye(feature.shape[1], dtype=feature.dtype)
    lengths = jnp.asarray([1.0, 0.5, 0.25, 0.0625], feature.dtype)

    def step(_: Array, tilt: Array) -> Array:
        weight = jax.nn.softmax(feature @ tilt + base)
        mean = weight @ feature
        moment = unfused((feature * weight[:, None]).T @ feature)
        direction = jnp.linalg.solve(moment - mean[:, None] * mean[None, :] + ridge, mean)
        trial = tilt[None] - lengths[:, None] * direction[None]
        return trial[jnp.argmin(logsumexp(unfused(trial @ feature.T) + base[None], axis=1))]

    tilt = jax.lax.fori_loop(0, _NEWTON_STEPS, step, jnp.zeros((feature.shape[1],), feature.dtype))
    return jax.nn.log_softmax(unfused(feature @ tilt) + base)


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
    feature: Float[Array, "N p"], log_weight: Float[Array, " N"], potential: Float[Array, "N 2"], surrogate: Surrogate
) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """The integrals of a potential and its derivative, known at the nodes that have a weight.

    Also the variance of the first where all nodes have a weight.
    """
    weight = jnp.exp(log_weight)
    row = jnp.concatenate([feature, surrogate.at_nodes - surrogate.mean[None]], axis=1)
    weighted = (row * weight[:, None]).T
    coefficient = _solve(unfused(weighted @ row), unfused(weighted @ potential))
    rest = potential - unfused(row @ coefficient)
    freedom = weight.shape[0] / max(weight.shape[0] - row.shape[1], 1)
    variance = freedom * jnp.sum((weight * rest[:, 0]) ** 2)
    own = coefficient[-2:, 0]
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
    limits = epsilon, tolerance, max_steps
    start = jnp.stack([gauss / epsilon, -gauss / epsilon], axis=1)
    few, _ = solve_nodes(nodes.points[:, :part], nodes.part_log_weight, start[:part], *limits)
    other = jax.tree.map(lambda leaf: leaf[::-1], nodes)
    cheap = jax.lax.map(
        lambda item: Surrogate.of(item[0], item[1], item[2][:, 0], item[2][:, 1], item[3], epsilon),
        (nodes, other, few[::-1], both.draws),
    )
    full, potentials = solve_nodes(nodes.points, nodes.log_weight, cheap.at_nodes[1], *limits)
    halves = _solve_halves(nodes, full, *limits)
    value, slope, error = _integrate(nodes, feature, cheap, full, halves)
    integrals = jnp.stack([value, slope])
    return with_value(source.mean, target.mean, source.nodes, target.nodes, integrals, error, potentials, epsilon)


def with_value(
    source_mean: Float[Array, " d"],
    target_mean: Float[Array, " d"],
    source: Nodes,
    target: Nodes,
    integrals: Float[Array, " 2"],
    error: Float[Array, ""],
    potentials: Potentials,
    epsilon: Float[Array, ""],
) -> PairSolution:
    """The solution that the integrals of both potentials and of their derivatives give."""
    value, slope = integrals[0], integrals[1]
    total = source.total_variance() + target.total_variance()
    # The derivative of the value with respect to epsilon is the divergence: sampling errors that the values have in
    # common cancel, which they would not in a cost read off the plan between nodes. The value is the more accurate: the
    # divergence takes the rest. Neither it nor the trace of the cross-covariance can be negative.
    divergence = jnp.maximum(value + slope, 0.0)
    value = total + epsilon * value
    trace = 0.5 * (total - value + epsilon * divergence)
    distance = jnp.sum((source_mean - target_mean) ** 2)
    kl = jnp.maximum((value - total + 2 * trace) / epsilon, 0)
    rounding = 16 * jnp.finfo(value.dtype).eps * (total + distance)
    error = epsilon * (error + potentials.residual) + rounding
    return PairSolution(jnp.maximum(distance + value - epsilon * kl, 0), kl, error, potentials)


def solve_nodes(
    points: Float[Array, "2 n d"],
    log_weight: Float[Array, "2 n"],
    start: Float[Array, "n 2"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Float[Array, "2 n 2"], Potentials]:
    """The potentials of both sides and their derivatives by the logarithm of epsilon, from guesses of v and its own."""
    kernel = interaction(points[0], points[1], epsilon)
    solved, plan = sinkhorn(kernel, log_weight[0], log_weight[1], start[:, 0], tolerance, max_steps)
    slopes = derivative(plan, points[0], points[1], epsilon, start[:, 1])
    sides = [jnp.stack(pair, axis=1) for pair in zip((solved.u, solved.v), slopes, strict=True)]
    return jnp.stack(sides), solved


def _solve_halves(nodes: Nodes, full: Float[Array, "2 N 2"], *limits: Array) -> Float[Array, "2 2 h 2"]:
    """What either half of the nodes gives by itself; sides first."""
    half = nodes.half
    points = jnp.swapaxes(nodes.points.reshape(2, 2, half, -1), 0, 1)
    items = points, jnp.swapaxes(nodes.half_log_weight, 0, 1), full[1].reshape(2, half, 2)
    return jnp.swapaxes(jax.lax.map(lambda item: solve_nodes(*item, *limits)[0], items), 0, 1)


def _integrate(
    nodes: Nodes,
    feature: Float[Array, "2 N p"],
    cheap: Surrogate,
    full: Float[Array, "2 N 2"],
    halves: Float[Array, "2 2 h 2"],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """The extrapolated integrals of both potentials, of their derivatives, and the error of the first."""
    tables = (
        jnp.concatenate([nodes.log_weight[:, None], _apart(nodes.half_log_weight, -jnp.inf)], axis=1),
        jnp.concatenate([full[:, None], _apart(halves, 0.0)], axis=1),
    )

    def side(item: tuple[Array, Surrogate, Array, Array]) -> tuple[Array, Array]:
        feature, surrogate, log_weight, potential = item
        return jax.lax.map(lambda own: integral(feature, own[0], own[1], surrogate), (log_weight, potential))

    means, variances = jax.lax.map(side, (feature, cheap, *tables))
    whole, *parts = jnp.sum(means, axis=0)
    bias = 0.5 * (parts[0] + parts[1]) - whole
    spread = 0.5 * jnp.abs(parts[0] - parts[1])
    error = reported_error(jnp.sqrt(jnp.sum(variances[:, 0])), bias[0], spread[0])
    return *(whole - bias), error


def _apart(halves: Float[Array, "2 2 h *c"], fill: float) -> Float[Array, "2 2 N *c"]:
    """What belongs to either half of the nodes of each side, filled up to all of them."""
    first, second = halves[:, 0], halves[:, 1]
    rest = jnp.full_like(first, fill)
    return jnp.stack([jnp.concatenate([first, rest], axis=1), jnp.concatenate([rest, second], axis=1)], axis=1)


def reported_error(deviation: Array, bias: Array, spread: Array) -> Float[Array, ""]:
    """3.5 standard errors, the whole of the extrapolated bias and the spread of the halves."""
    return 3.5 * deviation + jnp.abs(bias) + spread
