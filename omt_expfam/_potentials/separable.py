"""A potential of coordinates one by one, whose map is monotone in each; and a network for what they have in common."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax
from .._base.xla import unfused
from .interface import AbstractPotential
from .monotone import fit_monotone, Fitted, Lines
from .network import ConvexNetwork, start_network

# Size of a network's quadratic form and of its output where training starts.
_QUIET = 1e-2


class SeparablePotential(AbstractPotential):
    r"""$\phi(x) = \sum_j h_j(x_j)$, with derivatives $h_j'$ that are increasing and piecewise linear.

    Its map moves each coordinate by a monotone function of itself. A network beside it lets coordinates depend on each
    other.

    Attributes:
        knots: Where the derivatives bend, ascending; training leaves them.
        levels: $h_j'$ at the first knot.
        slopes: Slopes of the derivatives before softplus, before, between and after the knots; training leaves those
            before and after, where there are no points.
        network: The network, or ``None``.
        curvature: The least slope.
    """

    knots: Float[Array, "d knots"]
    levels: Float[Array, " d"]
    slopes: Float[Array, "d segments"]
    network: ConvexNetwork | None
    curvature: float = eqx.field(static=True)

    @property
    def num_dimensions(self) -> int:
        return self.levels.shape[-1]

    @property
    def strong_convexity(self) -> float:
        return self.curvature

    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        left, right, inside, before, after = self._parts(x)
        slopes, wide = self._slopes, _widened(x, left.shape[1])
        beyond = jnp.maximum(wide - right, 0)
        bends = unfused(slopes[:, 1:-1] * (0.5 * inside**2 + (right - left) * beyond))
        ends = slopes[:, 0] * before**2 + slopes[:, -1] * after**2
        value = jnp.sum(bends) + 0.5 * jnp.sum(ends) + jnp.sum(self.levels * (x - left[:, 0]))
        return value if self.network is None else value + self.network.value(x)

    def gradient(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The derivatives themselves: cheaper than differentiating their integrals."""
        _, _, inside, before, after = self._parts(x)
        slopes = self._slopes
        image = self.levels + jnp.sum(unfused(slopes[:, 1:-1] * inside), axis=1)
        image = image + slopes[:, 0] * before + slopes[:, -1] * after
        return image if self.network is None else image + self.network.gradient(x)

    def _parts(self, x: Float[Array, " d"]) -> tuple[Array, Array, Array, Array, Array]:
        """Ends of segments, and how far each coordinate is into those between knots, before them and after."""
        knots = jax.lax.stop_gradient(self.knots)
        left, right = knots[:, :-1], knots[:, 1:]
        inside = jnp.minimum(jnp.maximum(_widened(x, left.shape[1]) - left, 0), right - left)
        return left, right, inside, jnp.minimum(x - knots[:, 0], 0), jnp.maximum(x - knots[:, -1], 0)

    def near_conjugate(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """The conjugate point without the network: the inverse of each derivative."""
        knots, slopes = self.knots, self._slopes
        steps = jnp.cumsum(slopes[:, 1:-1] * jnp.diff(knots, axis=1), axis=1)
        values = self.levels[:, None] + jnp.concatenate([jnp.zeros_like(self.levels)[:, None], steps], axis=1)
        left, right = values[:, :-1], values[:, 1:]
        inside = unfused((jnp.clip(_widened(y, left.shape[1]), left, right) - left) / slopes[:, 1:-1])
        before, after = jnp.minimum(y - values[:, 0], 0), jnp.maximum(y - values[:, -1], 0)
        return knots[:, 0] + jnp.sum(inside, axis=1) + before / slopes[:, 0] + after / slopes[:, -1]

    @property
    def _slopes(self) -> Float[Array, "d segments"]:
        raw = self.slopes
        ends = jax.lax.stop_gradient(raw)
        raw = jnp.concatenate([ends[:, :1], raw[:, 1:-1], ends[:, -1:]], axis=1)
        return jax.nn.softplus(raw) + self.curvature


def _widened(x: Float[Array, " d"], num: int) -> Float[Array, "d num"]:
    """Every coordinate some times; apart from sums over them, which XLA fuses into wrong numbers (jaxlib 0.10.2)."""
    return unfused(jnp.broadcast_to(x[:, None], (x.shape[0], num)))


def start_separable(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    x_weight: Any = None,
    y_weight: Any = None,
    curvature: float = 0.02,
    choose: bool = True,
    beyond: Float[np.ndarray, " d"] | float = 1.0,
) -> SeparablePotential:
    """The potential whose map sends quantiles of each coordinate to quantiles, by least squares, in float32.

    See `fit_monotone`.
    """
    fitted = fit_monotone(x, y, x_weight, y_weight, curvature, choose, beyond)
    above = np.maximum(fitted.slopes - curvature, 1e-6)
    raw = above + np.log(-np.expm1(-above))
    fields: Any = [to_jax(array, np.float32) for array in (fitted.knots, fitted.levels, raw)]
    fields += [None, curvature]
    return SeparablePotential(*fields)


def on_lines(potential: SeparablePotential) -> Lines:
    """The maps of a potential without a network, on the host, in float64."""
    knots, levels, raw = (np.asarray(a, np.float64) for a in (potential.knots, potential.levels, potential.slopes))
    return Fitted(knots, levels, np.logaddexp(raw, 0) + potential.curvature).lines


def with_network(
    rng: np.random.Generator, potential: SeparablePotential, variances: np.ndarray, num_layers: int, width: int
) -> SeparablePotential:
    """The same, with a network that hardly says anything yet."""
    network = start_network(rng, variances, num_layers, width, curvature=1e-3)
    quiet = network.quadratic * _QUIET, jnp.full_like(network.output, np.log(np.expm1(_QUIET / width)))
    network = eqx.tree_at(lambda one: (one.quadratic, one.output), network, quiet)
    return eqx.tree_at(lambda one: one.network, potential, network, is_leaf=lambda leaf: leaf is None)
