"""Solved one-dimensional problems, and interpolation between them: in the point and in the regularization."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._base.arrays import take
from .profile import PANEL_NODES, PANEL_WEIGHTS


class LineTable(eqx.Module):
    """Plans between standardized laws on the line, one row each, at nodes padded to a common number.

    Rows that are interpolated in the regularization eps share their nodes and follow each other. What has a logarithm
    of eps in it is held without: potentials plus eps log(eps) / 4, and KL divergences plus log(eps) / 2.

    Attributes:
        nodes: Nodes of one side, increasing.
        means: Conditional mean of the other side, given the node.
        slopes: Its derivative.
        bends: Its second derivative.
        potentials: Potential of this side, without its logarithm.
        log_weights: Log-weights of the nodes.
    """

    nodes: Float[Array, "rows n"]
    means: Float[Array, "rows n"]
    slopes: Float[Array, "rows n"]
    bends: Float[Array, "rows n"]
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
        return take(self, index)


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


def evaluate(table: LineTable, problem: LineProblem, z: Float[Array, "*b"]) -> tuple[Array, Array, Array]:
    """Conditional mean of the other side, its slope and its bend, one point per problem."""
    ends, read = _around(table, problem, z)
    return quintic(z, ends, read(table.means), read(table.slopes), read(table.bends))


def potential(table: LineTable, problem: LineProblem, z: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The potential at one point per problem; its derivative is twice the displacement."""
    ends, read = _around(table, problem, z)
    means, slopes = read(table.means), read(table.slopes)
    rises = (2 * (ends[0] - means[0]), 2 * (ends[1] - means[1]))
    bends = (2 * (1 - slopes[0]), 2 * (1 - slopes[1]))
    value, _, bend = quintic(z, ends, read(table.potentials), rises, bends)
    # Beyond the nodes the conditional mean goes on in a straight line, so the potential is quadratic there.
    value = value + 0.5 * bend * (z - jnp.clip(z, ends[0], ends[1])) ** 2
    epsilon = problem.epsilon
    positive = epsilon > 0
    logarithm = jnp.where(positive, epsilon * jnp.log(jnp.where(positive, epsilon, jnp.ones_like(epsilon))) / 4, 0.0)
    return value - logarithm


def _around(table: LineTable, problem: LineProblem, z: Float[Array, "*b"]) -> tuple[tuple[Array, Array], Any]:
    """The nodes on both sides of each point, and a function that reads what the table holds there."""
    index = locate(table.nodes, problem.first, z)
    rows = jnp.minimum(problem.rows, table.nodes.shape[0] - 1)
    column = jnp.broadcast_to(jnp.expand_dims(index, -1), rows.shape)

    def read(field: Float[Array, "rows n"]) -> tuple[Array, Array]:
        left, right = (jnp.sum(problem.weights * field[rows, column + offset], axis=-1) for offset in (0, 1))
        return left, right

    return (table.nodes[problem.first, index], table.nodes[problem.first, index + 1]), read


def quintic(
    z: Array,
    ends: tuple[Array, Array],
    values: tuple[Array, Array],
    slopes: tuple[Array, Array],
    bends: tuple[Array, Array],
) -> tuple[Array, Array, Array]:
    """Hermite interpolation between the two ends of an interval, linear beyond them: value, slope and bend.

    The bend is the one inside the interval, at its nearer end for a point beyond.
    """
    width = ends[1] - ends[0]
    wide = width > 0
    safe = jnp.where(wide, width, jnp.ones_like(width))
    inside = jnp.clip(z, ends[0], ends[1])
    t = jnp.where(wide, (inside - ends[0]) / safe, jnp.zeros_like(z))
    rise = jnp.where(wide, values[1] - values[0], jnp.zeros_like(z))
    d0, d1 = slopes[0] * width, slopes[1] * width
    s0, s1 = bends[0] * width**2, bends[1] * width**2
    cube = 10 * rise - 6 * d0 - 4 * d1 - 1.5 * s0 + 0.5 * s1
    fourth = -15 * rise + 8 * d0 + 7 * d1 + 1.5 * s0 - s1
    fifth = 6 * rise - 3 * d0 - 3 * d1 - 0.5 * s0 + 0.5 * s1
    value = values[0] + t * (d0 + t * (0.5 * s0 + t * (cube + t * (fourth + t * fifth))))
    slope = d0 + t * (s0 + t * (3 * cube + t * (4 * fourth + t * 5 * fifth)))
    bend = s0 + t * (6 * cube + t * (12 * fourth + t * 20 * fifth))
    slope = jnp.where(wide, slope / safe, slopes[0])
    return value + slope * (z - inside), slope, jnp.where(wide, bend / safe**2, bends[0])


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
