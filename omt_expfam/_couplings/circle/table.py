"""Laws on the circle as tables: distribution functions, their inverses, and nodes that follow a law."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..._components.circle_form import AbstractCircle, tabulated
from ..._numerics.circle import PERIOD, SIZE, SPACING, wrap

# Steps of Newton's method, kept in a cell, that invert a distribution function.
_STEPS = 8
# The share of every law that is spread evenly over the circle, so that where it has next to nothing is ordered too; and
# the log-probability of a node, less the largest, that is the least.
EVEN = {"float64": 1e-10, "float32": 1e-5}
_FLOOR = {"float64": 92.0, "float32": 60.0}


class CircleLaw(eqx.Module):
    """One law on the circle; the arrays of several carry leading axes.

    Attributes:
        levels: The probability between -pi and each angle of the grid, and one.
        density: The density at these angles.
    """

    levels: Float[Array, "*b closed"]
    density: Float[Array, "*b closed"]

    def cdf(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """The probability between -pi and an angle; one more with every turn."""
        turns = jnp.floor((x + math.pi) / PERIOD)
        place = (x + math.pi - PERIOD * turns) / SPACING
        cell = jnp.clip(jnp.floor(place).astype(int), 0, SIZE - 1)
        return turns + _cubic(place - cell.astype(x.dtype), *self._cell(cell))

    def quantile(self, u: Float[Array, ""], stride: int = 1) -> Float[Array, ""]:
        """The inverse of `cdf`, for any number of turns; ``stride`` leaves out angles of the grid."""
        turns = jnp.floor(u)
        wanted = u - turns
        coarse = self.levels[::stride]
        last = coarse.shape[0] - 2
        fixed = jax.lax.stop_gradient((coarse, wanted))
        # A loop: unrolled, as elsewhere, it would be most of what is compiled.
        cell = jnp.clip(jnp.searchsorted(*fixed, side="right", method="scan") - 1, 0, last)
        ends = self._cell(cell * stride, stride)
        kept, level = jax.lax.stop_gradient((ends, wanted))

        def step(_: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            s, low, high = state
            excess = _cubic(s, *kept) - level
            low, high = jnp.where(excess < 0, s, low), jnp.where(excess < 0, high, s)
            slope = _slope(s, *kept)
            newton = s - excess / jnp.where(slope > 0, slope, 1.0)
            inside = (slope > 0) & (newton > low) & (newton < high)
            return jnp.where(inside, newton, 0.5 * (low + high)), low, high

        rise = kept[1] - kept[0]
        first = jnp.where(rise > 0, (level - kept[0]) / jnp.where(rise > 0, rise, 1.0), 0.5)
        first = jnp.clip(first, 0.0, 1.0)
        s = jax.lax.fori_loop(0, _STEPS, step, (first, jnp.zeros_like(first), jnp.ones_like(first)))[0]
        s = jax.lax.stop_gradient(s)
        # A last step that moves nothing and has the derivatives of the inverse.
        slope = jax.lax.stop_gradient(_slope(s, *ends))
        rest = _cubic(s, *ends) - wanted
        moved = (rest - jax.lax.stop_gradient(rest)) / jnp.where(slope > 0, slope, 1.0)
        s = s - jnp.where(slope > 0, moved, 0.0)
        return PERIOD * turns - math.pi + SPACING * stride * (cell.astype(s.dtype) + s)

    def _cell(self, cell: Array, stride: int = 1) -> tuple[Array, Array, Array, Array]:
        width = SPACING * stride
        after = cell + stride
        return self.levels[cell], self.levels[after], width * self.density[cell], width * self.density[after]


def _cubic(s: Array, low: Array, high: Array, start: Array, stop: Array) -> Array:
    """Hermite's cubic on a cell."""
    rise = high - low
    return low + s * (start + s * (3 * rise - 2 * start - stop + s * (start + stop - 2 * rise)))


def _slope(s: Array, low: Array, high: Array, start: Array, stop: Array) -> Array:
    rise = high - low
    return start + s * (2 * (3 * rise - 2 * start - stop) + s * 3 * (start + stop - 2 * rise))


def circle_law(law: AbstractCircle) -> tuple[CircleLaw, Float[Array, ""]]:
    """The table of one law, and the probability that the grid misses or counts twice."""
    masses, total = tabulated(law)
    # The integral of a trigonometric polynomial; rounding must not let it fall.
    spectrum = jnp.fft.rfft(masses)
    order = jnp.arange(spectrum.shape[0], dtype=masses.dtype)
    used = (order > 0) & (order < SIZE // 2)
    scale = jnp.where(used, 1 / jnp.where(used, order, 1.0), 0.0)
    wave = jax.lax.complex(scale * spectrum.imag, -scale * spectrum.real)
    periodic = jnp.fft.irfft(wave, SIZE) / SPACING
    even = jnp.arange(SIZE, dtype=masses.dtype) / SIZE
    rising = jax.lax.cummax(jnp.clip(even + periodic - periodic[0], 0.0, 1.0))
    own = CircleLaw(_closed(rising, 1.0), _closed(masses / SPACING, masses[0] / SPACING))
    return spread(own, EVEN[masses.dtype.name]), jnp.abs(total - 1)


def spread(law: CircleLaw, share: float) -> CircleLaw:
    """A law of which a share is spread evenly over the circle."""
    even = jnp.arange(SIZE + 1, dtype=law.levels.dtype) / SIZE
    return CircleLaw((1 - share) * law.levels + share * even, (1 - share) * law.density + share / PERIOD)


def _closed(values: Float[Array, " n"], last: Any) -> Float[Array, " closed"]:
    return jnp.concatenate([values, jnp.reshape(jnp.asarray(last, values.dtype), (1,))])


def nodes(table: CircleLaw, law: AbstractCircle, size: int) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Nodes of a law, half of which follow it and half are spread evenly, and their log-probabilities.

    Probabilities are those of trapezoidal sums over the level of that compromise; they sum to one.
    """
    at = jnp.arange(size, dtype=table.levels.dtype) / size
    x = jax.lax.stop_gradient(wrap(jax.vmap(spread(table, 0.5).quantile)(at)))
    height = jax.vmap(law._log_density)(x)
    fixed = jax.lax.stop_gradient(height)
    # Nothing may vanish altogether, so that potentials exist everywhere.
    height = jnp.maximum(height, jnp.max(fixed) - _FLOOR[x.dtype.name])
    log_mass = height - jnp.log(0.5 * jnp.exp(fixed) + 0.5 / PERIOD)
    return x, log_mass - jax.nn.logsumexp(log_mass)


def locate(nodes: Float[Array, " m"], x: Float[Array, ""]) -> tuple[Array, Array, Array]:
    """The four nodes about an angle: their places, the angles on one turn, and the angle on that turn."""
    size = nodes.shape[0]
    x = wrap(x)
    first = jnp.searchsorted(nodes, x, side="right", method="scan_unrolled") - 1
    index = first + jnp.arange(-1, 3, dtype=first.dtype)
    return index % size, nodes[index % size] + PERIOD * (index // size).astype(x.dtype), x


def lagrange(points: Float[Array, " 4"], x: Float[Array, ""]) -> Float[Array, " 4"]:
    """The weights of four values in the cubic through them."""
    gap = points[:, None] - points[None, :]
    own = jnp.eye(4, dtype=bool)
    factors = jnp.where(own, 1.0, (x - points)[None, :] / jnp.where(own, 1.0, gap))
    return jnp.prod(factors, axis=1)
