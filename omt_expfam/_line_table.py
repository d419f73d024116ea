"""Solved one-dimensional problems, and interpolation between them: in the point and in the regularization."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._line_profile import PANEL_NODES, PANEL_WEIGHTS


class LineTable(eqx.Module):
    """Plans between standardized laws on the line, one row each, at nodes padded to a common number.

    Rows that are interpolated in the regularization eps share their nodes and follow each other. What has a logarithm
    of eps in it is held without: potentials plus eps log(eps) / 4, and KL divergences plus log(eps) / 2.

    Attributes:
        nodes: Nodes of one side, increasing.
        means: Conditional mean of the other side, given the node.
        slopes: Its derivative.
        potentials: Potential of this side, without its logarithm.
        log_weights: Log-weights of the nodes.
    """

    nodes: Float[Array, "rows n"]
    means: Float[Array, "rows n"]
    slopes: Float[Array, "rows n"]
    potentials: Float[Array, "rows n"]
    log_weights: Float[Array, "rows n"]


class LineProblem(eqx.Module):
    """Which rows of a table make up a problem, and how.

    Attributes:
        first: The first row.
        weights: Weights of the rows that follow it, summing to one.
        epsilon: The regularization, in units of the product of the standard deviations.
        resolved: Whether the nodes resolve the conditional laws; else these are narrow, and taken as normal.
    """

    first: Int[Array, "*b"]
    weights: Float[Array, "*b rows"]
    epsilon: Float[Array, "*b"]
    resolved: Float[Array, "*b"]

    @property
    def rows(self) -> Int[Array, "*b rows"]:
        """All rows of the problem (those beyond the table have weight zero)."""
        following = jnp.arange(self.weights.shape[-1])
        return jnp.expand_dims(self.first, -1) + jnp.broadcast_to(following, self.weights.shape)

    def __getitem__(self, index: object) -> "LineProblem":
        return jax.tree.map(lambda leaf: leaf[index], self)


def locate(nodes: Float[Array, "rows n"], row: Int[Array, "*b"], z: Float[Array, "*b"]) -> Int[Array, "*b"]:
    """The index of the interval of a row's nodes that holds each point, by bisection."""
    last = nodes.shape[1] - 2
    low, high = jnp.zeros_like(row), jnp.full_like(row, last)
    for _ in range(int(last).bit_length() + 1):
        middle = (low + high + 1) // 2
        right = nodes[row, middle] <= z
        low, high = jnp.where(right, middle, low), jnp.where(right, high, middle - 1)
        high = jnp.maximum(high, low)
    return low


def evaluate(table: LineTable, problem: LineProblem, z: Float[Array, "*b"]) -> tuple[Array, Array]:
    """Conditional mean of the other side and its slope, one point per problem."""
    index = locate(table.nodes, problem.first, z)
    rows = jnp.minimum(problem.rows, table.nodes.shape[0] - 1)
    column = jnp.expand_dims(index, -1)

    def at(field: Float[Array, "rows n"], offset: int) -> Float[Array, "*b"]:
        return jnp.sum(problem.weights * field[rows, jnp.broadcast_to(column, rows.shape) + offset], axis=-1)

    return cubic(
        z,
        (table.nodes[problem.first, index], table.nodes[problem.first, index + 1]),
        (at(table.means, 0), at(table.means, 1)),
        (at(table.slopes, 0), at(table.slopes, 1)),
    )


def potential(table: LineTable, problem: LineProblem, z: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The potential at one point per problem; its derivative is twice the displacement."""
    index = locate(table.nodes, problem.first, z)
    rows = jnp.minimum(problem.rows, table.nodes.shape[0] - 1)
    column = jnp.expand_dims(index, -1)

    def at(field: Float[Array, "rows n"], offset: int) -> Float[Array, "*b"]:
        return jnp.sum(problem.weights * field[rows, jnp.broadcast_to(column, rows.shape) + offset], axis=-1)

    ends = (table.nodes[problem.first, index], table.nodes[problem.first, index + 1])
    means = (at(table.means, 0), at(table.means, 1))
    slopes = (2 * (ends[0] - means[0]), 2 * (ends[1] - means[1]))
    value, slope = cubic(z, ends, (at(table.potentials, 0), at(table.potentials, 1)), slopes)
    # Beyond the nodes the conditional mean goes on in a straight line, so the potential is quadratic there.
    edge = jnp.clip(z, ends[0], ends[1])
    end_slope = jnp.where(z > ends[1], at(table.slopes, 1), at(table.slopes, 0))
    value = value + (1 - end_slope) * (z - edge) ** 2
    epsilon = problem.epsilon
    positive = epsilon > 0
    logarithm = jnp.where(positive, epsilon * jnp.log(jnp.where(positive, epsilon, jnp.ones_like(epsilon))) / 4, 0.0)
    return value - logarithm


def cubic(
    z: Array, ends: tuple[Array, Array], values: tuple[Array, Array], slopes: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Hermite interpolation between the two ends of an interval, linear beyond them; value and slope."""
    width = ends[1] - ends[0]
    safe = jnp.where(width > 0, width, jnp.ones_like(width))
    inside = jnp.clip(z, ends[0], ends[1])
    t = jnp.where(width > 0, (inside - ends[0]) / safe, jnp.zeros_like(z))
    rise = jnp.where(width > 0, values[1] - values[0], jnp.zeros_like(z))
    left, right = slopes[0] * width - rise, rise - slopes[1] * width
    value = values[0] + t * rise + t * (1 - t) * ((1 - t) * left + t * right)
    bend = (1 - 2 * t) * ((1 - t) * left + t * right) + t * (1 - t) * (right - left)
    slope = jnp.where(width > 0, (rise + bend) / safe, slopes[0])
    return value + slope * (z - inside), slope


# -- draws -----------------------------------------------------------------------------------------------------------

_DEGREE = len(PANEL_NODES)
_BISECTIONS = 40


def _legendre_table() -> np.ndarray:
    """Coefficients of the interpolant in Legendre polynomials, from values at the nodes: a matrix [degree, nodes]."""
    values = np.polynomial.legendre.legvander(PANEL_NODES, _DEGREE - 1)
    return (values * PANEL_WEIGHTS[:, None]).T * (2 * np.arange(_DEGREE)[:, None] + 1) / 2


def draw(
    uniform: Float[Array, ""],
    nodes: Float[Array, " n"],
    log_weights: Float[Array, " n"],
    potentials: Float[Array, " n"],
    epsilon: Float[Array, ""],
    z: Float[Array, ""],
) -> Float[Array, ""]:
    """One draw from the conditional law at z: the inverse of its distribution function.

    The law's density times the quadrature weights is known at the nodes; within the panel where the draw falls, its
    integral is that of the interpolating polynomial.
    """
    exponent = log_weights + (potentials - (z - nodes) ** 2) / epsilon
    mass = jnp.exp(exponent - jnp.max(exponent)).reshape(-1, _DEGREE)
    total = jnp.cumsum(jnp.sum(mass, axis=1))
    wanted = uniform * total[-1]
    panel = jnp.clip(jnp.searchsorted(total, wanted, side="right"), 0, total.shape[0] - 1)
    before = jnp.where(panel > 0, total[jnp.maximum(panel - 1, 0)], 0.0)
    # Mass over weight is the density at the nodes of the panel, as a function on [-1, 1].
    density = mass[panel] / jnp.asarray(PANEL_WEIGHTS, z.dtype)
    coefficients = jnp.asarray(_legendre_table(), z.dtype) @ density
    points = nodes.reshape(-1, _DEGREE)[panel]
    half = (points[-1] - points[0]) / (PANEL_NODES[-1] - PANEL_NODES[0])
    middle = 0.5 * (points[0] + points[-1])

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        t = 0.5 * (ends[0] + ends[1])
        short = before + _integral(coefficients, t) < wanted
        return jnp.where(short, t, ends[0]), jnp.where(short, ends[1], t)

    one = jnp.ones((), z.dtype)
    low, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (-one, one))
    return middle + half * 0.5 * (low + high)


def _integral(coefficients: Float[Array, " degree"], t: Float[Array, ""]) -> Float[Array, ""]:
    """The integral from -1 to t of a sum of Legendre polynomials."""
    previous, current = jnp.ones_like(t), t
    total = coefficients[0] * (t + 1)
    for n in range(1, _DEGREE):
        following = ((2 * n + 1) * t * current - n * previous) / (n + 1)
        total = total + coefficients[n] * (following - previous) / (2 * n + 1)
        previous, current = current, following
    return total
