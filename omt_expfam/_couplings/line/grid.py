"""Where to put the nodes of a one-dimensional entropic problem: as dense as its conditional laws are narrow."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ..._components.product_form import AbstractShape
from .profile import clip_ends, panel_quadrature, Profile, standard_knots, standard_log_density

# Length of a panel in units of the local width; mass below which the spacing may grow, and how far; second moments
# beyond which the line may be cut.
_PANEL_LENGTH = 9.0
_RARE, _COARSEST, _CUTS = 1e-5, 0.4, 10.0 ** np.arange(-13, -1, 0.5)
# The line is cut at the first of these that leaves at most so many times the panels of all that is not rare: the
# second number where that is more panels than the third, the first elsewhere.
_LONG, _SHORT, _MANY = 8.0, 2.5, 64
# How much of its own scale of variation a density may change within one unit of length.
_OWN_SCALE = 0.3


def resolution(profile: Profile, other: Profile, epsilon: Float[Array, ""]) -> Float[Array, " panels"]:
    """How many units of length each panel of the profile deserves in the coupling with another law.

    Under the coupling, x given y has about the variance eps / (2 m'(x)), with m(x) = E[y | x] close to the monotone map
    between the laws; a unit is such a standard deviation, or the scale on which the density itself varies.
    """
    width = jnp.diff(profile.edges)
    safe = jnp.where(width > 0, width, jnp.ones_like(width))
    image = other.quantile(profile.log_odds)
    slope = jnp.clip(jnp.diff(image) / safe, 1e-12, 1e12)
    slope = slope / (1 + 0.25 * epsilon * slope)
    log_density = jnp.log(jnp.maximum(profile.density, jnp.finfo(width.dtype).tiny))
    steepness = jnp.diff(log_density) / safe
    steepness = jnp.where(profile.density[1:] * profile.density[:-1] > 0, steepness, jnp.zeros_like(steepness))
    tail = jnp.minimum(profile.below[1:], profile.above[:-1])
    coarse = jnp.clip((tail / _RARE) ** 0.25, _COARSEST, 1.0)
    unit = jnp.sqrt(2 * slope / epsilon + _OWN_SCALE * steepness**2 + 1)
    return jnp.where(width > 0, coarse * unit * width, jnp.zeros_like(width))


def kept_range(profile: Profile, length: Float[Array, " panels"]) -> tuple[Array, Array]:
    """The first and last edge, beyond which a negligible part of the second moment lies.

    Polynomial tails would take most of the panels, or more than there are: they are cut sooner.
    """
    moment = jnp.minimum(profile.below, profile.above) * jnp.maximum(profile.edges**2, 1.0)
    last = profile.edges.shape[0] - 1

    def cut(least: Array) -> tuple[tuple[Array, Array], Array]:
        kept = moment > least
        ends = jnp.maximum(jnp.argmax(kept) - 1, 0), jnp.minimum(last - jnp.argmax(kept[::-1]) + 1, last)
        return ends, jnp.sum(jnp.where(_between(*ends, last), length, 0.0))

    ends, lengths = jax.vmap(cut)(jnp.asarray(_CUTS, length.dtype))
    tail = jnp.minimum(profile.below[1:], profile.above[:-1])
    core = jnp.sum(jnp.where(tail > _RARE, length, 0.0))
    allowed = jnp.maximum(_SHORT * core, jnp.minimum(_LONG * core, _MANY * _PANEL_LENGTH))
    first, end = (end[jnp.argmax(lengths <= allowed)] for end in ends)
    return first, end


def _between(first: Array, last: Array, size: int) -> Array:
    """Which panels lie between two edges."""
    index = jnp.arange(size)
    return (index >= first) & (index < last)


def num_panels(profile: Profile, other: Profile, epsilon: Float[Array, ""]) -> Float[Array, ""]:
    """The number of panels that resolves the coupling on this side, not rounded."""
    length = resolution(profile, other, epsilon)
    inside = _between(*kept_range(profile, length), length.shape[0])
    length = jnp.where(inside, length, 0.0)
    # Every piece between knots has a panel of its own, however short.
    return jnp.sum(length) / _PANEL_LENGTH + profile.num_knots.astype(length.dtype)


def place_panels(
    profile: Profile, other: Profile, epsilon: Float[Array, ""], count: Int[Array, ""], most: int
) -> Float[Array, " e"]:
    """Edges of ``count`` panels of equal length in units of the resolution, with the knots among them.

    Behind them are empty ones, ``most`` in all.
    """
    length = resolution(profile, other, epsilon)
    first, last = kept_range(profile, length)
    units = jnp.concatenate([jnp.zeros((1,), epsilon.dtype), jnp.cumsum(length)])
    low, high = profile.edges[first], profile.edges[last]
    knots = jnp.clip(profile.knots, low, high)
    at_knots = jnp.interp(knots, profile.edges, units)
    span = at_knots[-1] - at_knots[0]
    end = jnp.asarray(count).astype(span.dtype)
    position = jnp.round(end * (at_knots - at_knots[0]) / jnp.where(span > 0, span, jnp.ones_like(span)))
    num, num_knots = knots.shape[0], profile.num_knots
    # Knots take distinct edges, the first and the last one the ends.
    for i in range(1, num):
        position = position.at[i].max(position[i - 1] + 1)
    position = jnp.where(jnp.arange(num) < num_knots - 1, position, end)
    for i in range(num - 2, -1, -1):
        position = position.at[i].min(position[i + 1] - jnp.where(i < num_knots - 1, 1, 0).astype(span.dtype))
    place = jnp.minimum(jnp.arange(most + 1, dtype=units.dtype), end)
    edges = jnp.interp(jnp.interp(place, position, at_knots), units, profile.edges)
    edges = jnp.where(place < end, edges, high).at[position.astype(int)].set(knots)
    return jnp.maximum(edges, jax.lax.cummax(edges))


def nodes_of(shape: AbstractShape, edges: Float[Array, " e"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Quadrature nodes, increasing, and log-weights that sum to one, of the standardized law on given panels."""
    nodes, weights = panel_quadrature(edges)
    x = nodes.reshape(-1)
    tiny = jnp.finfo(x.dtype).tiny
    log_weight = standard_log_density(shape, x) + jnp.log(jnp.maximum(weights.reshape(-1), tiny))
    # A floor keeps potentials defined at nodes that carry nothing.
    log_weight = jnp.maximum(log_weight, jnp.max(log_weight) - (92.0 if x.dtype == jnp.float64 else 60.0))
    return x, log_weight - jax.nn.logsumexp(log_weight)


def grid(
    shapes: tuple[AbstractShape, AbstractShape],
    profiles: tuple[Profile, Profile],
    epsilon: Float[Array, ""],
    count: int,
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Nodes, log-weights and ends of both sides, ``count`` panels each; where they lie is not differentiated."""
    sides = []
    for own, other in ((0, 1), (1, 0)):
        fixed, partner = jax.lax.stop_gradient((profiles[own], profiles[other]))
        edges = place_panels(fixed, partner, jax.lax.stop_gradient(epsilon), jnp.asarray(count), count)
        edges = _follow(edges, fixed.knots, standard_knots(shapes[own], edges.dtype))
        sides.append((*nodes_of(shapes[own], edges), jnp.stack([edges[0], edges[-1]])))
    return sides[0], sides[1]


def _follow(edges: Float[Array, " e"], fixed: Float[Array, " q"], knots: Float[Array, " q"]) -> Float[Array, " e"]:
    """The same edges, moving with the knots between which they lie."""
    reach = jnp.asarray(1e6, edges.dtype)
    start, now = (jnp.clip(k, *clip_ends(k, reach)) for k in (fixed, knots))
    low, high = edges[0], edges[-1]
    inside = (start >= low) & (start <= high) & jnp.isfinite(fixed)
    shift = jnp.where(inside, now - start, jnp.zeros_like(now))
    return edges + jnp.interp(edges, start, shift)
