r"""Entropic transport between two components known by draws and moments, for one pair.

Both components are represented by weighted, centered nodes. With $c = \|x\|^2 + \|y\|^2 - 2 x \cdot y$ the plan has the
density $\exp(u(x) + v(y) + 2 x \cdot y / \varepsilon)$ against the product of its marginals; $u$ and $v$ are the
potentials without their parts $\|x\|^2$ and $\|y\|^2$, in units of $\varepsilon$. Then

    value = tr Sigma0 + tr Sigma1 + eps (∫ u dmu + ∫ v dnu),

and an error of order $\delta$ in the nodes enters it in three ways, each with its own remedy:

- linearly, through the integrals of $u$ and $v$: these are taken over many more draws, with a cheaper potential (that
  of few nodes) and quadratic polynomials as control variates;
- quadratically, as a bias: the value from N nodes is extrapolated with those from two halves and four quarters of them,
  which tell a bias of order 1/N from one of N^(-2/d), that of nodes further apart than the regularization reaches;
- through moments: nodes are weighted so that their mean and covariance are exact.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from .._base.xla import unfused
from .numerical_sinkhorn import derivative, interaction, Potentials, sinkhorn

_NEWTON_STEPS = 12
# The ratio of two differences, each of a few parts of the nodes, is uncertain by as much.
_RATIO_ERROR = 0.1


class Nodes(eqx.Module):
    """One component as weighted points about its mean.

    Attributes:
        points: Draws minus the exact mean, shape ``[N, d]``.
        log_weight: Their log-weights.
        tril: Cholesky factor of the exact covariance.
    """

    points: Float[Array, "*K N d"]
    log_weight: Float[Array, "*K N"]
    tril: Float[Array, "*K d d"]

    # Saved by older versions.
    former_fields: ClassVar[frozenset[str]] = frozenset({"half_log_weight", "part_log_weight"})

    @classmethod
    def of(cls, points: Float[Array, "N d"], covariance: Float[Array, "d d"]) -> "Nodes":
        """Weight centered draws so that their moments are exact."""
        tril = jnp.linalg.cholesky(covariance)
        return cls(points, calibrated_weights(features(whiten(tril, points), points.shape[0])), tril)

    def total_variance(self) -> Float[Array, ""]:
        """The trace of the exact covariance."""
        return jnp.sum(self.tril**2)


class Side(eqx.Module):
    """One component as all that a coupling is solved from.

    Attributes:
        mean: The exact mean.
        nodes: Nodes about it.
        few: A quarter as many draws, centered, which say what surrogates are.
        draws: Many more centered draws, in blocks.
    """

    mean: Float[Array, "*K d"]
    nodes: Nodes
    few: Float[Array, "*K q d"]
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


def calibrated_weights(feature: Float[Array, "n p"]) -> Float[Array, " n"]:
    """The log-weights closest to equal ones (in KL) under which every feature has mean zero.

    Where that would leave less than half of the effective number of nodes, equal weights.
    """
    num = feature.shape[0]
    equal = jnp.full((num,), -jnp.log(num), feature.dtype)
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
        cls, nodes: Nodes, far: Array, v: Array, slope: Array, draws: Float[Array, "b m d"], epsilon: Array
    ) -> "Surrogate":
        """Integrate the potential that few draws of the other side give.

        Args:
            nodes: The nodes of this side.
            far: Few draws of the other side.
            v: The potential of the other side there.
            slope: Its derivative by the logarithm of epsilon.
            draws: Centered draws of this side.
            epsilon: Regularization.
        """
        sides = jnp.concatenate([far, slope[:, None], jnp.ones_like(slope)[:, None]], axis=1)

        def cheap(points: Array) -> Array:
            exponent = interaction(points, far, epsilon) + (v - jnp.log(v.shape[0]).astype(v.dtype))[None]
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
) -> tuple[Float[Array, "2 2"], Float[Array, " 2"]]:
    """The integrals of a potential and its derivative, and variances of the first: without and with a surrogate."""
    weight = jnp.exp(log_weight)

    def controlled(row: Float[Array, "N q"]) -> tuple[Array, Array, Array]:
        weighted = (row * weight[:, None]).T
        coefficient = _solve(unfused(weighted @ row), unfused(weighted @ potential))
        rest = potential - unfused(row @ coefficient)
        freedom = weight.shape[0] / max(weight.shape[0] - row.shape[1], 1)
        return coefficient[0] + weight @ rest, freedom * jnp.sum((weight * rest[:, 0]) ** 2), coefficient[-2:, 0]

    plain, plain_variance, _ = controlled(feature)
    better, variance, own = controlled(jnp.concatenate([feature, surrogate.at_nodes - surrogate.mean[None]], axis=1))
    variance = variance + jnp.maximum(own @ surrogate.covariance @ own, 0)
    return jnp.stack([plain, better]), jnp.stack([plain_variance, variance])


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
    # Both sides stacked: what is done to each is then written, and compiled, once.
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), source, target)
    nodes, limits, num = both.nodes, (epsilon, tolerance, max_steps), both.nodes.points.shape[1]
    feature = jax.lax.map(lambda nodes: _regressors(nodes, nodes.points), nodes)

    points = jnp.concatenate([nodes.points, both.few], axis=1)
    gauss = jnp.sum(unfused(points[1] @ backward_gain) * points[1], axis=1) / epsilon
    *quarters, few = jnp.swapaxes(_solve_parts(points, 5, jnp.stack([-gauss, gauss], axis=1), *limits), 0, 1)
    cheap = jax.lax.map(
        lambda item: Surrogate.of(item[0], item[1], item[2][:, 0], item[2][:, 1], item[3], epsilon),
        (nodes, both.few[::-1], few[::-1], both.draws),
    )

    def solve(start: Float[Array, "N 2"], log_weight: Float[Array, "2 N"]) -> tuple[Array, tuple[Array, Potentials]]:
        full, potentials = solve_nodes(nodes.points, log_weight, start, *limits)
        return full[1], (full, potentials)

    both_weights = jnp.stack([jnp.full_like(nodes.log_weight, -jnp.log(num)), nodes.log_weight])
    _, ((equal, full), solved) = jax.lax.scan(solve, cheap.at_nodes[1], both_weights)
    potentials = jax.tree.map(lambda leaf: leaf[-1, ...], solved)
    halves = _solve_parts(nodes.points, 2, equal[1], *limits)
    means, variances = jax.lax.map(lambda item: integral(*item), (feature, nodes.log_weight, full, cheap))
    value, deviation = careful(jnp.sum(means, axis=0), jnp.sqrt(jnp.sum(variances, axis=0)))
    bias, left = extrapolated(beyond(halves, equal), beyond(jnp.stack(quarters, axis=1), equal), points.shape[-1])
    error = 3.5 * deviation + left
    return with_value(source.mean, target.mean, source.nodes, target.nodes, value - bias, error, potentials, epsilon)


def beyond(parts: Float[Array, "2 k n 2"], whole: Float[Array, "2 N 2"]) -> Float[Array, "k 2"]:
    """By how much the integrals of what k parts of the nodes give lie above those of what all nodes give, there."""
    return jnp.sum(jnp.mean(parts - whole.reshape(parts.shape), axis=2), axis=0)


def careful(means: Float[Array, "2 2"], deviations: Float[Array, " 2"]) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """Integrals with surrogates, as far as these change no more than noise explains, and the standard error.

    Where nodes are further apart than the regularization reaches, potentials between them are not those at them.
    """
    change = means[1] - means[0]
    share = jnp.minimum(1, 3 * deviations[0] / jnp.maximum(jnp.abs(change[0]), jnp.finfo(change.dtype).tiny))
    return means[0] + share * change, jnp.where(share < 1, deviations[0], deviations[1])


def extrapolated(
    halves: Float[Array, "2 2"], quarters: Float[Array, "4 2"], dim: int
) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """The bias of integrals by their number of nodes, and the error that is left of the first.

    Args:
        halves: By how much those of halves lie above those of all nodes.
        quarters: The same of quarters.
        dim: Number of dimensions.
    """
    last = jnp.mean(halves, axis=0)
    before = jnp.mean(quarters, axis=0) - last
    # What doubling the nodes changes shrinks from one doubling to the next, by this factor at most and at least.
    most, least = max(0.5, 2 ** (-2 / dim)), 0.5
    found = last[0] / jnp.where(before[0] > 0, before[0], jnp.inf)
    ratio = jnp.clip(jnp.stack([found - _RATIO_ERROR, found, jnp.ones_like(found)]), least, most)
    smallest, factor, largest = ratio / (1 - ratio)
    spread = 0.5 * jnp.abs(halves[0, 0] - halves[1, 0])
    margin = jnp.maximum(jnp.maximum(largest - factor, factor - smallest), 1)
    return factor * last, margin * jnp.abs(last[0]) + factor * spread


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
    # Coupled independently, components cost the total variance; and none less than normal ones of the same moments do
    # without regularization (Gelbrich).
    least = total - 2 * jnp.sum(jnp.linalg.svd(unfused(target.tril.T @ source.tril), compute_uv=False))
    value = jnp.clip(total + epsilon * value, least, total)
    trace = jnp.clip(0.5 * (total - value + epsilon * divergence), 0, 0.5 * (total - least))
    distance = jnp.sum((source_mean - target_mean) ** 2)
    kl = jnp.maximum((value - total + 2 * trace) / epsilon, 0)
    rounding = 16 * jnp.finfo(value.dtype).eps * (total + distance)
    error = jnp.minimum(epsilon * (error + potentials.residual), jnp.maximum(value - least, total - value)) + rounding
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


def _solve_parts(
    points: Float[Array, "2 N d"], count: int, start: Float[Array, "N 2"], *limits: Array
) -> Float[Array, "2 k n 2"]:
    """What each of so many equal parts of the nodes gives by itself, weighted equally; sides first."""
    _, num, dim = points.shape
    size = num // count
    equal = jnp.full((2, size), -jnp.log(size), points.dtype)

    def solve(item: tuple[Array, Array]) -> Float[Array, "2 n 2"]:
        return solve_nodes(item[0], equal, item[1], *limits)[0]

    items = jnp.swapaxes(points.reshape(2, count, size, dim), 0, 1), start.reshape(count, size, 2)
    return jnp.swapaxes(jax.lax.map(solve, items), 0, 1)
