"""Integrals of one-dimensional densities that are known up to a factor, whatever their location and scale.

Three changes of variable turn any smooth density into a smooth bump of unit size: the support is mapped onto the line
(by a logarithm or a logit); the mode is found by zooming in on a grid that covers all magnitudes; and around it
t = center + scale * sinh(u) makes heavy tails short. There, Gauss-Legendre panels converge geometrically.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .support import Constraint, ends

# Panels on each side of the mode, and nodes per panel.
_PANELS, _ORDER = 28, 16
# The log of what is negligible beside the peak; and which power of the precision may be left beyond numbers that exist.
_NEGLIGIBLE, _LOST = -100.0, 0.6
_GRID, _ZOOM, _DISTANCES = 257, 65, 384

LogDensity = Callable[[Any, Float[Array, ""]], Float[Array, ""]]


class Chart(eqx.Module):
    """The map of an interval onto the whole line."""

    lower: float = eqx.field(static=True)
    upper: float = eqx.field(static=True)

    def point(self, t: Array) -> Array:
        """The point x of the interval at a place t on the line."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(t)
        if math.isfinite(self.lower):
            return self.lower + jnp.exp(t)
        return self.upper - jnp.exp(-t) if math.isfinite(self.upper) else t

    def place(self, x: Array) -> Array:
        """The place t of a point x; infinite at the ends and beyond."""
        below, above = jnp.maximum(x - self.lower, 0.0), jnp.maximum(self.upper - x, 0.0)
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return jnp.log(below) - jnp.log(above)
        if math.isfinite(self.lower):
            return jnp.log(below)
        return -jnp.log(above) if math.isfinite(self.upper) else x

    def log_slope(self, t: Array) -> Array:
        """The logarithm of dx/dt."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            return jax.nn.log_sigmoid(t) + jax.nn.log_sigmoid(-t) + math.log(self.upper - self.lower)
        if math.isfinite(self.lower):
            return t
        return -t if math.isfinite(self.upper) else jnp.zeros_like(t)

    def reach(self, dtype: Any) -> tuple[float, float]:
        """The places between which points are distinct from the ends, and their squares finite."""
        info = jnp.finfo(dtype)
        large, small = 0.5 * math.log(float(info.max)), math.log(float(info.tiny))
        # Close to an end other than zero, points stop being distinct from it far sooner.

        def distinct(end: float) -> float:
            return small if end == 0 or math.isinf(end) else math.log(float(info.eps) * max(abs(end), 1e-30))

        left, right = distinct(self.lower), distinct(self.upper)
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            width = math.log(self.upper - self.lower)
            return left - width, width - right
        if math.isfinite(self.lower):
            return left, large
        return (-large, -right) if math.isfinite(self.upper) else (-math.exp(large), math.exp(large))


class Quadrature(eqx.Module):
    """A normalized density on panels.

    Attributes:
        log_normalizer: Log of the integral of the given density; infinite where it cannot be normalized.
        points: Nodes x, shape ``[p, q]``.
        masses: Their probabilities, shape ``[p, q]``.
        edges: Ends of the panels, in units of u, shape ``[p + 1]``.
        center: The place of the mode on the line.
        scale: The unit of length around it.
    """

    log_normalizer: Float[Array, ""]
    points: Float[Array, "p q"]
    masses: Float[Array, "p q"]
    edges: Float[Array, " p+1"]
    center: Float[Array, ""]
    scale: Float[Array, ""]
    chart: Chart = eqx.field(static=True)

    def expectation(self, function: Callable[[Float[Array, ""]], Array]) -> Array:
        """The expectation of a function of one number."""
        values = jax.vmap(function)(self.points.ravel())
        return jnp.tensordot(self.masses.ravel(), values, 1)

    def mean(self) -> Float[Array, ""]:
        """The mean."""
        return jnp.sum(self.masses * self.points)

    def variance(self) -> Float[Array, ""]:
        """The variance."""
        return jnp.sum(self.masses * (self.points - self.mean()) ** 2)

    def cdf(self, log_density: LogDensity, parameters: Any, x: Float[Array, ""]) -> Float[Array, ""]:
        """The probability of numbers up to x; takes the density that the panels are made for."""
        density = functools.partial(self._slope, log_density, parameters)
        u = jnp.arcsinh((self.chart.place(x) - self.center) / self.scale)
        u = jnp.clip(u, self.edges[0], self.edges[-1])
        panel = jnp.clip(jnp.searchsorted(self.edges, u) - 1, 0, self.edges.shape[0] - 2)
        return jnp.clip(self._cumulative()[panel] + _integral(density, self.edges[panel], u), 0.0, 1.0)

    def quantile(self, log_density: LogDensity, parameters: Any, probability: Float[Array, ""]) -> Float[Array, ""]:
        """The number whose `cdf` is the given probability, by Newton's method kept in a panel."""
        density = functools.partial(self._slope, log_density, parameters)
        cumulative = self._cumulative()
        panel = jnp.clip(jnp.searchsorted(cumulative, probability, side="right") - 1, 0, self.edges.shape[0] - 2)
        start, wanted = self.edges[panel], probability - cumulative[panel]

        def step(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            u, low, high = state
            excess = _integral(density, start, u) - wanted
            low, high = jnp.where(excess < 0, u, low), jnp.where(excess < 0, high, u)
            newton = u - excess / density(u)
            # Halving until the density is nearly constant between the bounds.
            halving = (index < 4) | jnp.isnan(newton)
            return jnp.where(halving, 0.5 * (low + high), jnp.clip(newton, low, high)), low, high

        stop = self.edges[panel + 1]
        u, _, _ = jax.lax.fori_loop(0, 9, step, (0.5 * (start + stop), start, stop))
        return self.chart.point(self.center + self.scale * jnp.sinh(u))

    def _cumulative(self) -> Array:
        """Probability below each edge."""
        return jnp.concatenate([jnp.zeros((1,), self.masses.dtype), jnp.cumsum(jnp.sum(self.masses, axis=1))])

    def _slope(self, log_density: LogDensity, parameters: Any, u: Float[Array, ""]) -> Float[Array, ""]:
        """The density of u."""
        t = self.center + self.scale * jnp.sinh(u)
        height = _on_line(log_density, self.chart, parameters, t) - self.log_normalizer
        return jnp.exp(height) * self.scale * jnp.cosh(u)


def quadrature(
    log_density: LogDensity, parameters: Any, support: Constraint, knots: tuple[float, ...] = ()
) -> Quadrature:
    """Prepare the integrals of a density; derivatives with respect to the parameters are those of the integrals.

    Args:
        log_density: The log-density up to a constant, a function of the parameters and one number.
        parameters: Any pytree of floating-point arrays.
        support: An interval, as a NumPyro constraint.
        knots: Points inside the support where the density is not smooth.
    """
    chart = Chart(*ends(support))
    dtype = jax.tree.leaves(parameters)[0].dtype
    fixed = jax.lax.stop_gradient(parameters)

    def height(t: Array) -> Array:
        return jax.vmap(lambda v: _on_line(log_density, chart, fixed, v))(t)

    center, peak = _mode(height, chart, dtype)
    scale, left, right = _extent(height, center, peak)
    outside = jnp.max(height(jnp.asarray(chart.reach(dtype), dtype))) - peak
    proper = jnp.isfinite(peak) & (outside < _LOST * math.log(float(jnp.finfo(dtype).eps)))
    steps = jnp.linspace(0.0, 1.0, _PANELS + 1, dtype=dtype)
    edges = jnp.concatenate([-left * steps[:0:-1], right * steps])
    if knots:
        places = chart.place(jnp.asarray(knots, dtype))
        edges = jnp.sort(jnp.concatenate([edges, jnp.clip(jnp.arcsinh((places - center) / scale), -left, right)]))
    abscissas, weights = _legendre(dtype)
    half = 0.5 * (edges[1:] - edges[:-1])[:, None]
    u = 0.5 * (edges[1:] + edges[:-1])[:, None] + half * abscissas[None]
    t = center + scale * jnp.sinh(u)
    heights = jax.vmap(jax.vmap(lambda v: _on_line(log_density, chart, parameters, v)))(t)
    # Masses beyond what exists are dropped, not multiplied by zero, for the sake of derivatives.
    heights = jnp.where(jnp.isfinite(heights), heights, -jnp.inf)
    masses = half * weights[None] * scale * jnp.cosh(u) * jnp.exp(heights - peak)
    total = jnp.sum(masses)
    log_normalizer = jnp.where(proper, peak + jnp.log(jnp.where(proper, total, 1.0)), jnp.inf)
    return Quadrature(log_normalizer, chart.point(t), masses / total, edges, center, scale, chart)


def _on_line(log_density: LogDensity, chart: Chart, parameters: Any, t: Float[Array, ""]) -> Float[Array, ""]:
    """The log-density of the place on the line; ``-inf`` where it is not a number, and beyond the reach."""
    low, high = chart.reach(t.dtype)
    value = log_density(parameters, chart.point(jnp.clip(t, low, high))) + chart.log_slope(t)
    return jnp.where(jnp.isnan(value) | (t < low) | (t > high), -jnp.inf, value)


def _integral(function: Callable[[Array], Array], start: Float[Array, ""], stop: Float[Array, ""]) -> Float[Array, ""]:
    """The integral over a part of a panel."""
    abscissas, weights = _legendre(start.dtype)
    half = 0.5 * (stop - start)
    return half * jnp.sum(weights * jax.vmap(function)(0.5 * (start + stop) + half * abscissas))


def _legendre(dtype: Any) -> tuple[Array, Array]:
    abscissas, weights = np.polynomial.legendre.leggauss(_ORDER)
    return jnp.asarray(abscissas, dtype), jnp.asarray(weights, dtype)


def _mode(height: Callable[[Array], Array], chart: Chart, dtype: Any) -> tuple[Array, Array]:
    """The highest place, by zooming in on a grid; on the real line the grid is uniform in the logarithm."""
    whole = math.isinf(chart.lower) and math.isinf(chart.upper)
    spread = jnp.sinh if whole else lambda r: r
    low, high = (math.asinh(end) if whole else end for end in chart.reach(dtype))
    first = jnp.linspace(low, high, _GRID, dtype=dtype)

    def best(grid: Array) -> tuple[Array, Array]:
        index = jnp.argmax(height(spread(grid)))
        return grid[jnp.maximum(index - 1, 0)], grid[jnp.minimum(index + 1, grid.shape[0] - 1)]

    def zoom(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        part = jnp.linspace(0.0, 1.0, _ZOOM, dtype=dtype)
        return best(bounds[0] + (bounds[1] - bounds[0]) * part)

    num = 11 if jnp.finfo(dtype).bits == 64 else 5
    low, high = jax.lax.fori_loop(0, num, zoom, best(first))
    center = spread(0.5 * (low + high))
    return center, height(center[None])[0]


def _extent(height: Callable[[Array], Array], center: Array, peak: Array) -> tuple[Array, Array, Array]:
    """The unit of length around the mode, and how far to the left and right there is mass, in u."""
    info = jnp.finfo(center.dtype)
    small = jnp.log(jnp.maximum(0.25 * info.eps * jnp.abs(center), jnp.sqrt(info.tiny)))
    logs = small + (0.5 * math.log(float(info.max)) - small) * jnp.linspace(0.0, 1.0, _DISTANCES, dtype=center.dtype)

    def side(sign: Array) -> tuple[Array, Array]:
        def drops(log_distance: Array) -> Array:
            return height(center + sign * jnp.exp(log_distance)) - peak

        coarse = drops(logs)
        low = jnp.argmax(coarse < -1)
        last = jnp.max(jnp.where(coarse > _NEGLIGIBLE, jnp.arange(_DISTANCES), 0))
        start, stop = logs[last], logs[jnp.minimum(last + 1, _DISTANCES - 1)]
        fine = start + (stop - start) * jnp.linspace(0.0, 1.0, _ZOOM, dtype=center.dtype)
        end = jnp.max(jnp.where(drops(fine) > _NEGLIGIBLE, jnp.arange(_ZOOM), 0))
        return jnp.exp(logs[jnp.maximum(low - 1, 0)]), jnp.exp(fine[jnp.minimum(end + 1, _ZOOM - 1)])

    (left, right), (left_end, right_end) = jax.vmap(side)(jnp.asarray([-1.0, 1.0], center.dtype))
    # Beside a jump the drop is immediate on one side: then the other side sets the unit.
    scale = jnp.maximum(jnp.minimum(left, right), 1e-4 * jnp.maximum(left, right))
    return scale, jnp.arcsinh(left_end / scale), jnp.arcsinh(right_end / scale)
