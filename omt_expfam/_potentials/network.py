"""An input-convex network: the potential that samples are fitted with."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax
from .interface import AbstractPotential

# Where training starts: this share of the identity is in the quadratic form, the rest in the network's reach.
QUADRATIC_START = 0.95


class ConvexNetwork(AbstractPotential):
    r"""A quadratic form plus an input-convex network (Amos, Xu and Kolter, 2017) whose units see squares.

    $\phi(x) = |Q x|^2 / 2 + \mu |x|^2 / 2 + \langle c, x \rangle + \langle w, z_L \rangle$, with
    $z_l = \mathrm{celu}(C_l z_{l-1} + (A_l^T u)^2 + W_l^T u + b_l)$ and $u = x / \text{scale}$, where $w$ and the
    matrices $C_l$ are nonnegative (softplus of the arrays kept), as in Korotin et al. (2021). Sums of convex functions
    and nondecreasing convex functions of them are convex, so $\phi$ is, whatever its arrays hold.

    Attributes:
        quadratic: Q, square unless it is part of a `LowRankNetwork`.
        linear: c.
        squares: A_l, of L layers of h units each.
        slopes: W_l.
        shifts: b_l.
        layers: C_l before softplus, of all layers but the first.
        output: w before softplus.
        scale: What points are divided by for the network; training leaves it as it is.
        curvature: mu.
    """

    quadratic: Float[Array, "r d"]
    linear: Float[Array, " d"]
    squares: Float[Array, "L d h"]
    slopes: Float[Array, "L d h"]
    shifts: Float[Array, "L h"]
    layers: Float[Array, "before h h"]
    output: Float[Array, " h"]
    scale: Float[Array, " d"]
    curvature: float = eqx.field(static=True)

    @property
    def num_dimensions(self) -> int:
        return self.linear.shape[-1]

    @property
    def strong_convexity(self) -> float:
        return self.curvature

    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        u = x / jax.lax.stop_gradient(self.scale)
        rotated = self.quadratic @ x
        units: Any = None
        for i in range(self.shifts.shape[0]):
            seen = (u @ self.squares[i]) ** 2 + u @ self.slopes[i] + self.shifts[i]
            if units is not None:
                seen = seen + jax.nn.softplus(self.layers[i - 1]) @ units
            # celu, with one exponential for value and slope
            units = jnp.maximum(seen, 0) + jnp.exp(jnp.minimum(seen, 0)) - 1
        smooth = (rotated @ rotated + self.curvature * (x @ x)) / 2
        return smooth + self.linear @ x + jax.nn.softplus(self.output) @ units


def start_network(
    rng: np.random.Generator,
    variances: np.ndarray,
    num_layers: int,
    width: int,
    curvature: float = 0.05,
    rank: int | None = None,
) -> ConvexNetwork:
    """A network that is nearly the half square, for points of given variances along their axes, in float32.

    With a ``rank`` its quadratic form has so many rows.
    """
    dim = len(variances)

    def normal(*shape: int, size: float) -> Array:
        return to_jax(size * rng.standard_normal(shape), np.float32)

    # softplus of about log(size)
    quiet = np.log(np.expm1(1.0 / width))
    return ConvexNetwork(
        quadratic=to_jax(np.sqrt(QUADRATIC_START) * np.eye(dim if rank is None else rank, dim), np.float32),
        linear=to_jax(np.zeros(dim), np.float32),
        squares=normal(num_layers, dim, width, size=0.5 / np.sqrt(dim)),
        slopes=normal(num_layers, dim, width, size=1 / np.sqrt(dim)),
        shifts=normal(num_layers, width, size=0.1),
        layers=to_jax(quiet + 0.1 * rng.standard_normal((num_layers - 1, width, width)), np.float32),
        output=to_jax(np.full(width, np.log(np.expm1(0.1 / width))), np.float32),
        scale=to_jax(np.sqrt(np.maximum(variances, 1e-6 * variances.max())), np.float32),
        curvature=curvature,
    )
