"""A potential of coordinates one by one, whose map is monotone in each; and a network for what they have in common."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax
from .._base.xla import unfused
from .interface import AbstractPotential
from .network import ConvexNetwork, start_network

# Segments between knots, quantiles that the start is fitted to, and the levels between which they lie.
_SEGMENTS, _QUANTILES, _TAIL = 12, 400, 0.01
# Size of a network's quadratic form and of its output where training starts.
_QUIET = 1e-2


class SeparablePotential(AbstractPotential):
    r"""$\phi(x) = \sum_j h_j(x_j)$, with derivatives $h_j'$ that are increasing and piecewise linear.

    Its map moves each coordinate by a monotone function of itself. A network beside it lets coordinates depend on each
    other.

    Attributes:
        knots: Where the derivatives bend, ascending; training leaves them.
        levels: $h_j'$ at the first knot.
        slopes: Slopes of the derivatives before softplus, before, between and after the knots.
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
        return jax.nn.softplus(self.slopes) + self.curvature


def _widened(x: Float[Array, " d"], num: int) -> Float[Array, "d num"]:
    """Every coordinate some times; apart from sums over them, which XLA fuses into wrong numbers (jaxlib 0.10.2)."""
    return unfused(jnp.broadcast_to(x[:, None], (x.shape[0], num)))


def start_separable(
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    x_weight: Any = None,
    y_weight: Any = None,
    curvature: float = 0.02,
) -> SeparablePotential:
    """The potential whose map sends quantiles of each coordinate to quantiles, by least squares, in float32."""
    grid = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    ends = np.linspace(_TAIL, 1 - _TAIL, _SEGMENTS + 1)
    knots, levels, slopes = [], [], []
    for j in range(x.shape[1]):
        source, target = (
            np.quantile(side[:, j].astype(np.float64), np.concatenate([grid, ends]), **_weighted(weight))
            for side, weight in ((x, x_weight), (y, y_weight))
        )
        at = np.maximum.accumulate(source[_QUANTILES:])
        level, slope = _monotone(at, source[:_QUANTILES], target[:_QUANTILES], curvature)
        knots.append(at)
        levels.append(level)
        slopes.append(slope)
    above = np.maximum(np.array(slopes) - curvature, 1e-6)
    raw = above + np.log(-np.expm1(-above))
    shapes = (-1, _SEGMENTS + 1), (-1,), (-1, _SEGMENTS + 2)
    arrays = zip((knots, levels, raw), shapes, strict=True)
    fields: Any = [to_jax(np.reshape(np.array(array), shape), np.float32) for array, shape in arrays]
    fields += [None, curvature]
    return SeparablePotential(*fields)


class Line(NamedTuple):
    """One-dimensional maps on the host, in float64: piecewise linear, with a slope for each end."""

    knots: Float[np.ndarray, "d knots"]
    values: Float[np.ndarray, "d knots"]
    ends: Float[np.ndarray, "d 2"]


def on_lines(potential: SeparablePotential) -> Line:
    """The maps of a potential without a network."""
    knots, levels, raw = (np.asarray(a, np.float64) for a in (potential.knots, potential.levels, potential.slopes))
    slopes = np.logaddexp(raw, 0) + potential.curvature
    steps = np.cumsum(slopes[:, 1:-1] * np.diff(knots, axis=1), axis=1)
    values = levels[:, None] + np.column_stack([np.zeros(len(levels)), steps])
    return Line(knots, values, slopes[:, [0, -1]])


def separable_images(potential: SeparablePotential, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Images under a potential without a network, on the host."""
    return _along(on_lines(potential), x)


def _along(lines: Line, x: np.ndarray) -> np.ndarray:
    knots, values, ends = lines
    images = np.empty(x.shape)
    for j, column in enumerate(x.T):
        inside = np.interp(column, knots[j], values[j])
        below, above = np.minimum(column - knots[j, 0], 0), np.maximum(column - knots[j, -1], 0)
        images[:, j] = inside + ends[j, 0] * below + ends[j, 1] * above
    return images


def separable_terms(
    potential: SeparablePotential, x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "m d"]]:
    """Terms whose means, of x and of y, add up to the dual value of each coordinate, a bound of its W2^2 from below.

    They are x^2 - 2 h(x) and y^2 - 2 h*(y), for a potential without a network.
    """
    lines = on_lines(potential)
    back = _along(Line(lines.values, lines.knots, 1 / lines.ends), y)
    return x**2 - 2 * _integrals(lines, x), y**2 - 2 * (back * y - _integrals(lines, back))


def _integrals(lines: Line, x: np.ndarray) -> np.ndarray:
    """Integrals of the maps from the first knot."""
    knots, values, _ = lines
    images, found = _along(lines, x), np.empty(x.shape)
    steps = np.cumsum((values[:, 1:] + values[:, :-1]) / 2 * np.diff(knots, axis=1), axis=1)
    before = np.column_stack([np.zeros(len(knots)), steps])
    for j, column in enumerate(x.T):
        at = np.clip(np.searchsorted(knots[j], column) - 1, 0, knots.shape[1] - 1)
        found[:, j] = before[j, at] + (values[j, at] + images[:, j]) / 2 * (column - knots[j, at])
    return found


def with_network(
    rng: np.random.Generator, potential: SeparablePotential, variances: np.ndarray, num_layers: int, width: int
) -> SeparablePotential:
    """The same, with a network that hardly says anything yet."""
    network = start_network(rng, variances, num_layers, width, curvature=1e-3)
    quiet = network.quadratic * _QUIET, jnp.full_like(network.output, np.log(np.expm1(_QUIET / width)))
    network = eqx.tree_at(lambda one: (one.quadratic, one.output), network, quiet)
    return eqx.tree_at(lambda one: one.network, potential, network, is_leaf=lambda leaf: leaf is None)


def _weighted(weight: Any) -> dict[str, Any]:
    return {} if weight is None else {"weights": weight, "method": "inverted_cdf"}


def _monotone(
    knots: np.ndarray, source: np.ndarray, target: np.ndarray, curvature: float
) -> tuple[float, Float[np.ndarray, " segments"]]:
    """Level at the first knot and slopes of the increasing function that is nearest to pairs of quantiles."""
    import scipy.optimize

    left, right = knots[:-1], knots[1:]
    point = source[:, None]
    parts = [
        np.minimum(source - knots[0], 0),
        *np.minimum(np.maximum(point - left, 0), right - left).T,
        np.maximum(source - knots[-1], 0),
    ]
    table = np.array(parts).T
    # The level has either sign; slopes start at the least one. Of segments without points the slope is one.
    rest = target - table @ np.full(table.shape[1], curvature)
    prior = 1e-3 * np.eye(table.shape[1])
    wide = np.block(
        [[np.ones((len(source), 1)), -np.ones((len(source), 1)), table], [np.zeros((len(prior), 2)), prior]]
    )
    found, _ = scipy.optimize.nnls(wide, np.concatenate([rest, np.diag(prior) * (1 - curvature)]))
    return found[0] - found[1], found[2:] + curvature
