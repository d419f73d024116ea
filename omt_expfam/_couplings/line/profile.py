"""One law on the line, standardized: its distribution function on panels fine enough for any density."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._base.buckets import pad
from ..._components.product_form import AbstractShape

# Gauss-Legendre nodes and weights of a panel, on [-1, 1].
PANEL_NODES, PANEL_WEIGHTS = np.polynomial.legendre.leggauss(16)
# Panel edges lie at these distances, in standard deviations, from the mean and from every knot: whatever the scale on
# which a density varies there, some panels have that size. Between 1/16 and 32 they are closer, as quantiles are read
# off them.
_OFFSETS = 2.0 ** np.concatenate([np.arange(-160, -16) / 4, np.arange(-32, 40) / 8, np.arange(10, 53) / 2])
_REACH = float(_OFFSETS[-1])
# Profiles are padded to as many edges and knots as a law with so many knots has.
_KNOTS = 3


class Profile(eqx.Module):
    """A law with mean 0 and variance 1, tabulated at the edges of its panels.

    Attributes:
        edges: Edges of the panels, increasing (equal where panels are empty).
        density: Density at the edges, bounded where it is not.
        below: Probability to the left of each edge.
        above: Probability to the right of each edge.
        knots: Ends of the support and other points where the density is not smooth; the last one may be repeated.
        entropy: Differential entropy, in nats.
        defect: How far the quadrature of the mass and of the variance are from one.
    """

    edges: Float[Array, " e"]
    density: Float[Array, " e"]
    below: Float[Array, " e"]
    above: Float[Array, " e"]
    knots: Float[Array, " q"]
    entropy: Float[Array, ""]
    defect: Float[Array, ""]

    @property
    def num_knots(self) -> Int[Array, ""]:
        """The number of knots without repetitions of the last one."""
        return jnp.sum(self.knots < self.knots[-1]) + 1

    @property
    def log_odds(self) -> Float[Array, " e"]:
        """Log of the probability below over the probability above each edge."""
        tiny = jnp.finfo(self.below.dtype).tiny
        return jnp.log(jnp.maximum(self.below, tiny)) - jnp.log(jnp.maximum(self.above, tiny))

    @property
    def log_odds_slope(self) -> Float[Array, " e"]:
        """The derivative of the log-odds."""
        tiny = jnp.finfo(self.below.dtype).tiny
        return self.density / jnp.maximum(self.below * self.above, tiny)

    def log_odds_at(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
        """The log-odds at any points."""
        return hermite(x, self.edges, self.log_odds, self.log_odds_slope)

    def quantile(self, log_odds: Float[Array, " n"]) -> Float[Array, " n"]:
        """The points with the given log-odds."""
        slope = 1 / jnp.maximum(self.log_odds_slope, jnp.finfo(self.density.dtype).tiny)
        return hermite(log_odds, self.log_odds, self.edges, slope)


def standard_log_density(shape: AbstractShape, x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Log-density of the standardized law at points."""
    center, scale = shape._mean(), jnp.sqrt(shape._variance())
    z = center.astype(x.dtype) + scale.astype(x.dtype) * x
    return jax.vmap(shape._log_density)(z) + jnp.log(scale).astype(x.dtype)


def standard_knots(shape: AbstractShape, dtype: np.dtype) -> Float[Array, " q"]:
    """The knots of the standardized law."""
    knots = shape._knots()
    finite = jnp.isfinite(knots)
    # Kept apart from infinite ends, whose derivatives would not be numbers.
    moved = (jnp.where(finite, knots, jnp.zeros_like(knots)) - shape._mean()) / jnp.sqrt(shape._variance())
    return jnp.where(finite, moved, knots).astype(dtype)


def tabulate(shape: AbstractShape, dtype: np.dtype) -> Profile:
    """The profile of one shape."""
    knots = standard_knots(shape, dtype)
    reach = jnp.asarray(_REACH, dtype)
    offsets = jnp.asarray(np.concatenate([-_OFFSETS[::-1], [0.0], _OFFSETS]), dtype)
    anchors = jnp.concatenate([jnp.zeros((1,), dtype), jnp.where(jnp.isfinite(knots), knots, jnp.zeros_like(knots))])
    edges = jnp.clip((anchors[:, None] + offsets[None, :]).reshape(-1), *clip_ends(knots, reach))
    edges = jnp.sort(jnp.concatenate([edges, jnp.clip(knots, -reach, reach)]))
    nodes, weights = panel_quadrature(edges)
    log_density = standard_log_density(shape, nodes.reshape(-1)).reshape(nodes.shape)
    mass = jnp.exp(log_density) * weights
    total = jnp.sum(mass)
    share = jnp.sum(mass, axis=1) / total
    zero = jnp.zeros((1,), dtype)
    below = jnp.concatenate([zero, jnp.cumsum(share)])
    above = jnp.concatenate([jnp.cumsum(share[::-1])[::-1], zero])
    density = jnp.exp(jnp.clip(standard_log_density(shape, edges), -1e4, 300.0 if dtype == np.float64 else 60.0))
    spread = jnp.sum(mass * nodes**2) / total - (jnp.sum(mass * nodes) / total) ** 2
    defect = jnp.abs(total - 1) + jnp.abs(spread - 1)
    bounded = jnp.where(mass > 0, log_density, jnp.zeros_like(log_density))
    return Profile(edges, density, below, above, knots, -jnp.sum(mass * bounded) / total, defect)


def widened(profiles: Profile) -> Profile:
    """Stacked profiles on the host with empty panels behind the last one, so that most families share programs."""
    num_edges = (1 + _KNOTS) * (2 * len(_OFFSETS) + 1) + _KNOTS

    def tables(p: Profile) -> tuple[Any, ...]:
        return p.edges, p.density, p.below, p.above

    wide = pad(tables(profiles), max(num_edges, profiles.edges.shape[1]), axis=1)
    knots = pad(profiles.knots, max(_KNOTS, profiles.knots.shape[1]), axis=1)
    return eqx.tree_at(lambda p: (*tables(p), p.knots), profiles, (*wide, knots))


def monotone_images(profile: Profile, other: Profile, x: Float[Array, " n"]) -> Float[Array, " n"]:
    """Images of points under the monotone map to another law."""
    return other.quantile(profile.log_odds_at(x))


def squared_wasserstein(shape: AbstractShape, profiles: tuple[Profile, Profile]) -> Float[Array, ""]:
    """The squared Wasserstein distance of two standardized laws: the mean squared displacement by the monotone map.

    On the panels of the profile, which are fine enough also where the map is infinite.
    """
    nodes, weights = panel_quadrature(profiles[0].edges)
    x = nodes.reshape(-1)
    mass = jnp.exp(standard_log_density(shape, x)) * weights.reshape(-1)
    image = monotone_images(*profiles, x)
    # Panels at an end of the support, where the log-odds are infinite, carry nothing that counts.
    inner = (profiles[0].below[:-1] > 0) & (profiles[0].above[1:] > 0)
    used = jnp.repeat(inner, nodes.shape[1])
    return jnp.sum(jnp.where(used, mass * (x - image) ** 2, 0.0)) / jnp.sum(mass)


def clip_ends(knots: Float[Array, " q"], reach: Float[Array, ""]) -> tuple[Array, Array]:
    """The ends of the support, made finite."""
    return jnp.maximum(knots[0], -reach), jnp.minimum(knots[-1], reach)


def panel_quadrature(edges: Float[Array, " e"]) -> tuple[Float[Array, "p b"], Float[Array, "p b"]]:
    """Gauss-Legendre nodes and weights of each panel between consecutive edges."""
    half = jnp.diff(edges)[:, None] / 2
    nodes = edges[:-1, None] + half * (1 + jnp.asarray(PANEL_NODES, edges.dtype)[None, :])
    return nodes, half * jnp.asarray(PANEL_WEIGHTS, edges.dtype)[None, :]


def hermite(
    query: Float[Array, " n"], x: Float[Array, " e"], value: Float[Array, " e"], slope: Float[Array, " e"]
) -> Float[Array, " n"]:
    """Monotone cubic interpolation of an increasing function; constant beyond the ends."""
    index = jnp.clip(jnp.searchsorted(x, query, side="right") - 1, 0, x.shape[0] - 2)
    left, right = value[index], value[index + 1]
    width = x[index + 1] - x[index]
    safe = jnp.where(width > 0, width, jnp.ones_like(width))
    t = jnp.clip((query - x[index]) / safe, 0.0, 1.0)
    # Slopes of at most three times the secant keep the interpolant monotone (Fritsch and Carlson, 1980).
    limit = 3 * (right - left)
    rise_left = jnp.minimum(slope[index] * width, limit)
    rise_right = jnp.minimum(slope[index + 1] * width, limit)
    cubic = left + (right - left) * t * t * (3 - 2 * t)
    return cubic + t * (1 - t) * (rise_left * (1 - t) - rise_right * t)
