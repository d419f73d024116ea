"""The transport problem between two laws on whole numbers, in a window each.

Where the regularization is not far below one, the spacing of the numbers, Newton's method for laws on the line does it.
Below, the problem is nearly a linear program with many vertices: the method for weights of mixtures does that. Without
regularization the coupling of quantiles is read off the cumulative sums.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._base.xla import program
from ..._weights.entropic import entropic_coupling
from ..line.solve import LineNodes, solve_nodes

_TOLERANCE, _MAX_STEPS = 1e-12, 2000


class LatticeNodes(NamedTuple):
    """The windows of a problem, padded by numbers that carry nothing.

    Attributes:
        x: Source numbers.
        log_a: Their log-probabilities, summing to one.
        y: Target numbers.
        log_b: Their log-probabilities.
        epsilon: Regularization.
    """

    x: Float[Array, "*b n"]
    log_a: Float[Array, "*b n"]
    y: Float[Array, "*b m"]
    log_b: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]


class LatticePlan(NamedTuple):
    """A solved problem.

    Attributes:
        potentials: Source and target potentials; zero without regularization.
        means: E[y | x] at the source numbers, E[x | y] at the target numbers.
        variances: The conditional variances.
        cost: Mean squared distance.
        kl: KL divergence from independence, in nats.
        marginal_error: L1 error of the target marginal.
        spread: How far the target potentials are apart where there is mass.
    """

    potentials: tuple[Float[Array, "*b n"], Float[Array, "*b m"]]
    means: tuple[Float[Array, "*b n"], Float[Array, "*b m"]]
    variances: tuple[Float[Array, "*b n"], Float[Array, "*b m"]]
    cost: Float[Array, "*b"]
    kl: Float[Array, "*b"]
    marginal_error: Float[Array, "*b"]
    spread: Float[Array, "*b"]


def solve_smooth(nodes: LatticeNodes) -> LatticePlan:
    """Newton's method for laws on the line, on standardized numbers."""
    mean, scale = zip(*(_moments(*side) for side in (nodes[:2], nodes[2:4])), strict=True)
    x, y = (nodes.x - mean[0]) / scale[0], (nodes.y - mean[1]) / scale[1]
    product = scale[0] * scale[1]
    middle = [jnp.cumsum(jnp.exp(v)) - 0.5 * jnp.exp(v) for v in (nodes.log_a, nodes.log_b)]
    images = jnp.interp(middle[0], middle[1], y), jnp.interp(middle[1], middle[0], x)
    zero = jnp.zeros_like(product)
    ends = jnp.stack([x[0], x[-1]]), jnp.stack([y[0], y[-1]])
    line = LineNodes(x, nodes.log_a, y, nodes.log_b, *images, *ends, zero, zero)
    plan = solve_nodes(line, nodes.epsilon / product)
    # Squared distances in whole numbers are those of standardized ones plus functions of either side.
    shift = mean[0] - mean[1]
    g = product * plan.potentials[1][1:-1] + (scale[1] ** 2 - product) * y**2 - 2 * shift * scale[1] * y
    return read(nodes, g)


def solve_sharp(nodes: LatticeNodes) -> LatticePlan:
    """The path of decreasing regularization that couples weights: any two sizes, and padding may weigh nothing."""
    cost = (nodes.x[:, None] - nodes.y[None, :]) ** 2
    tolerance = jnp.asarray(max(_TOLERANCE, 4 * float(jnp.finfo(cost.dtype).eps)), cost.dtype)
    start = jnp.zeros_like(nodes.y)
    masses = jnp.exp(nodes.log_a), jnp.exp(nodes.log_b)
    coupling = entropic_coupling(cost, *masses, nodes.epsilon, tolerance, start, jnp.asarray(_MAX_STEPS))
    return read(nodes, coupling.target_potential)


def read(nodes: LatticeNodes, g: Float[Array, " m"]) -> LatticePlan:
    """Everything that is asked of a problem, from a target potential: rows are exact, columns as good as that is."""
    distances = (nodes.x[:, None] - nodes.y[None, :]) ** 2
    epsilon, a, b = nodes.epsilon, jnp.exp(nodes.log_a), jnp.exp(nodes.log_b)
    exponent = nodes.log_b[None, :] + (g[None, :] - distances) / epsilon
    soft = jax.nn.logsumexp(exponent, axis=1)
    f = -epsilon * soft
    rows = jnp.exp(exponent - soft[:, None])
    log_columns = nodes.log_a[:, None] + (f[:, None] - distances) / epsilon
    columns = jax.nn.softmax(log_columns, axis=0)
    (to_y, within), (to_x, between) = _conditional(rows, nodes.y), _conditional(columns.T, nodes.x)
    cost = a @ (within + (to_y - nodes.x) ** 2)
    there = a @ rows
    kl = jnp.maximum((a @ f + there @ g - cost) / epsilon, 0.0)
    carries = b > 1e-12
    spread = jnp.max(jnp.where(carries, g, -jnp.inf)) - jnp.min(jnp.where(carries, g, jnp.inf))
    error = jnp.sum(jnp.abs(there - b))
    return LatticePlan((f, g), (to_y, to_x), (within, between), cost, kl, error, spread)


def solve_monotone(nodes: LatticeNodes) -> LatticePlan:
    """The coupling of quantiles: its entries are how far the steps of both distribution functions overlap."""
    a, b = jnp.exp(nodes.log_a), jnp.exp(nodes.log_b)
    left, right = (
        jax.tree.map(lambda v, own=axes: jnp.expand_dims(v, own), steps(mass)) for mass, axes in ((a, 1), (b, 0))
    )
    weights = overlap(left, right)
    there = jnp.sum(weights, axis=0)
    rows, columns = weights / jnp.sum(weights, axis=1, keepdims=True), (weights / there[None, :]).T
    (to_y, within), (to_x, between) = _conditional(rows, nodes.y), _conditional(columns, nodes.x)
    cost = a @ (within + (to_y - nodes.x) ** 2)
    used = weights > 0
    density = jnp.where(used, weights, 1.0) / jnp.where(used, a[:, None] * b[None, :], 1.0)
    kl = jnp.maximum(jnp.sum(weights * jnp.log(density)), 0.0)
    zero, flat = jnp.zeros_like(cost), (jnp.zeros_like(nodes.x), jnp.zeros_like(nodes.y))
    error = jnp.sum(jnp.abs(there - b))
    return LatticePlan(flat, (to_y, to_x), (within, between), cost, kl, error, zero)


class Steps(eqx.Module):
    """Steps of a distribution function, counted from either end, so that both tails are exact.

    Attributes:
        low: Probability below each number.
        high: Probability up to and including it.
        high_above: Probability above it.
        low_above: Probability from it on.
    """

    low: Any
    high: Any
    high_above: Any
    low_above: Any


def steps(mass: Any, xp: Any = jnp) -> Steps:
    """The steps that probabilities make, by JAX or NumPy."""
    below, above = xp.cumsum(mass), xp.cumsum(mass[::-1])[::-1]
    zero = xp.zeros((1,), mass.dtype)
    return Steps(xp.concatenate([zero, below[:-1]]), below, xp.concatenate([above[1:], zero]), above)


def overlap(one: Steps, other: Steps) -> Array:
    """What two steps have in common: the lower half of the distribution function from below, the upper from above."""

    def common(low: Array, high: Array, other_low: Array, other_high: Array) -> Array:
        low, high = jnp.maximum(low, other_low), jnp.minimum(high, other_high)
        return jnp.maximum(jnp.minimum(high, 0.5) - jnp.minimum(low, 0.5), 0.0)

    lower = common(one.low, one.high, other.low, other.high)
    return lower + common(one.high_above, one.low_above, other.high_above, other.low_above)


def _conditional(
    rows: Float[Array, "n m"], values: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    mean = rows @ values
    return mean, jnp.sum(rows * (values[None, :] - mean[:, None]) ** 2, axis=1)


def _moments(values: Float[Array, " n"], log_mass: Float[Array, " n"]) -> tuple[Array, Array]:
    """Mean and standard deviation, one for a law of one number."""
    mass = jnp.exp(log_mass)
    mean = mass @ values
    variance = mass @ (values - mean) ** 2
    return mean, jnp.sqrt(jnp.where(variance > 0, variance, jnp.ones_like(variance)))


@program
def smooth_plans(nodes: LatticeNodes) -> LatticePlan:
    """Several problems by Newton's method."""
    return jax.lax.map(solve_smooth, nodes)


@program
def sharp_plans(nodes: LatticeNodes) -> LatticePlan:
    """Several problems by the path of decreasing regularization."""
    return jax.lax.map(solve_sharp, nodes)


@program
def monotone_plans(nodes: LatticeNodes) -> LatticePlan:
    """Several problems without regularization."""
    return jax.lax.map(solve_monotone, nodes)
