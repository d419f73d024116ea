r"""Proximal steps: a potential each of whose coordinates costs, so that few of them are seen by it.

The semi-dual J plus $\lambda \sum_j |\theta_j|_2$ is made small, where $\theta_j$ is all that touches coordinate j: the
departure of its diagonal quadratic form from the half square, its linear term, and its column of a network's weights.
A step is one of gradient descent and a soft threshold of each group (Yuan and Lin, 2006; Beck and Teboulle, 2009).
Groups that it makes zero are exactly so, and their coordinates are left as they are.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.xla import program
from .dual import ascend, dual_terms
from .low_rank import LowRankNetwork
from .network import ConvexNetwork

# Units of the network beside the quadratic form, and the least curvature of the potential.
_WIDTH, _CURVATURE = 8, 0.05
# The diagonal whose quadratic form, with the curvature, is the half square.
_REST = float(np.sqrt(1 - _CURVATURE))
# Steps at most, their first length, and the share of the strength to which gradients have to agree with it.
_MOST_STEPS, _FIRST, _TOLERANCE = 300, 1.0, 2e-2
# A unit's multiple, before softplus.
_QUIET = float(np.log(np.expm1(1 / _WIDTH)))
# Steps of the search for conjugate points, at each step.
_ASCENT_STEPS = 5


class Grouped(NamedTuple):
    """The numbers of a potential, those of each coordinate in a row of their own; rows of zeros leave a coordinate.

    Attributes:
        rows: Of the diagonal (less what it has at rest), the linear term, and a network's squares and slopes.
        shifts: Those of the network's units, which touch no coordinate. What these are multiplied by is fixed: larger
            multiples would make a network of the same use of smaller rows.
    """

    rows: Float[Any, "q k"]
    shifts: Float[Any, " h"]

    @property
    def potential(self) -> LowRankNetwork:
        """The potential."""
        num, width, dtype = self.rows.shape[0], self.shifts.shape[0], self.rows.dtype
        squares, slopes = (part[None] for part in jnp.split(self.rows[:, 2:], 2, axis=1))
        none, ones, output = jnp.zeros((0, num), dtype), jnp.ones(num, dtype), jnp.full(width, _QUIET, dtype)
        layers = jnp.zeros((0, width, width), dtype)
        network = ConvexNetwork(
            none, self.rows[:, 1], squares, slopes, self.shifts[None], layers, output, ones, _CURVATURE
        )
        return LowRankNetwork(_REST + self.rows[:, 0], network)


class Descended(NamedTuple):
    """Where proximal steps end.

    Attributes:
        numbers: The potential's.
        images: Of the source points.
        conjugates: Conjugate points of the target points.
        error: By how much gradients miss their conditions, the most of all coordinates.
        of_x: Derivatives of the potential by the network's shifts at source points.
        of_y: The same at the conjugate points.
    """

    numbers: Grouped
    images: Float[Array, "n q"]
    conjugates: Float[Array, "m q"]
    error: Float[Array, ""]
    of_x: Float[Array, "n h"]
    of_y: Float[Array, "m h"]


def at_rest(rng: np.random.Generator, dim: int) -> Grouped:
    """The potential that moves nothing, on the host."""
    rows = np.zeros((dim, 2 + 2 * _WIDTH), np.float32)
    return Grouped(rows, rng.standard_normal(_WIDTH).astype(np.float32))


def lengths(rows: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " q"]:
    """What the rows cost, on the host."""
    return np.sqrt(np.sum(rows**2, axis=1))


def slopes_at_rest(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    x_share: Float[np.ndarray, " n"],
    y_share: Float[np.ndarray, " m"],
    of_x: Float[np.ndarray, "n h"],
    of_y: Float[np.ndarray, "m h"],
) -> Float[np.ndarray, " d"]:
    """Lengths of the derivatives of J by the row of each coordinate, if it is zero; on the host.

    A row stays zero where this is at most the strength.

    Args:
        x: Source points, in all coordinates.
        y: Target points, which are their own conjugate points in such a coordinate.
        x_share: Shares of the source points.
        y_share: Shares of the target points.
        of_x: As in `Descended`.
        of_y: As in `Descended`.
    """
    linear = x_share @ x - y_share @ y
    diagonal = _REST * (x_share @ x**2 - y_share @ y**2)
    network = x.T @ (x_share[:, None] * of_x) - y.T @ (y_share[:, None] * of_y)
    return np.sqrt(linear**2 + diagonal**2 + np.sum(network**2, axis=1))


def shrunken(rows: Float[Array, "q k"], by: Any) -> Float[Array, "q k"]:
    """Rows shortened by some length, to zero where they are shorter: the proximal operator of their lengths' sum."""
    length = jnp.sqrt(jnp.sum(rows**2, axis=1))
    return rows * jnp.maximum(1 - by / jnp.maximum(length, 1e-30), 0)[:, None]


class _State(NamedTuple):
    numbers: Grouped
    value: Any
    slope: Grouped
    conjugates: Any
    pace: Any
    length: Any
    error: Any
    step: Any


@program
def descend(start: Grouped, x: Any, y: Any, x_share: Any, y_share: Any, conjugates: Any, strength: Any) -> Descended:
    """Proximal steps until the conditions of a minimum hold.

    Args:
        start: Where they start.
        x: Source points, shape ``[n, q]``.
        y: Target points, shape ``[m, q]``.
        x_share: Their shares, zero for rows that hold none.
        y_share: Those of the target points.
        conjugates: First conjugate points.
        strength: What the length of a row costs.
    """

    def look(numbers: Grouped, conjugates: Any, pace: Any) -> tuple[Any, Any, Any, Any]:
        found = ascend(numbers.potential, y, conjugates, pace, _ASCENT_STEPS)

        def dual(numbers: Grouped) -> Any:
            of_x, of_y = dual_terms(numbers.potential, x, y, found.point)
            return of_x @ x_share + of_y @ y_share

        value, slope = jax.value_and_grad(dual)(numbers)
        return value, slope, found.point, found.pace

    def step(state: _State) -> _State:
        length = state.length
        trial = jax.tree.map(lambda a, g: a - length * g, state.numbers, state.slope)
        trial = trial._replace(rows=shrunken(trial.rows, length * strength))
        value, slope, points, pace = look(trial, state.conjugates, state.pace)
        change = jax.tree.map(jnp.subtract, trial, state.numbers)
        square = sum(jnp.sum(part**2) for part in change)
        along = sum(jnp.sum(g * part) for g, part in zip(state.slope, change, strict=True))
        # The usual upper bound, up to rounding.
        fits = value <= state.value + along + square / (2 * length) + 1e-6 * (1 + jnp.abs(state.value))
        error = jnp.sqrt(jnp.max(jnp.sum(change.rows**2, axis=1))) / length
        taken = _State(trial, value, slope, points, pace, length, error, state.step)
        kept = state._replace(length=length / 2)
        state = jax.tree.map(lambda a, b: jnp.where(fits, a, b), taken, kept)
        return state._replace(step=state.step + 1)

    def goes_on(state: _State) -> Any:
        return (state.step < _MOST_STEPS) & (state.error > _TOLERANCE * strength)

    value, slope, points, pace = look(start, conjugates, jnp.ones(y.shape[0], y.dtype))
    infinite = jnp.full_like(value, jnp.inf)
    length = jnp.full_like(value, _FIRST)
    state = _State(start, value, slope, points, pace, length, infinite, jnp.zeros((), jnp.int32))
    last = jax.lax.while_loop(goes_on, step, state)

    def by_shifts(points: Any) -> Any:
        def one(point: Any) -> Any:
            return jax.grad(lambda shifts: last.numbers._replace(shifts=shifts).potential.value(point))(
                last.numbers.shifts
            )

        return jax.vmap(one)(points)

    images = jax.vmap(last.numbers.potential.gradient)(x)
    return Descended(last.numbers, images, last.conjugates, last.error, by_shifts(x), by_shifts(last.conjugates))
