"""The circle: angles in radians, their arcs, and integrals of densities of period two pi.

Trapezoidal sums of smooth periodic functions converge faster than any power of the spacing. Arcs have a kink, or a
jump, at the antipode: their expectations are sums over the characteristic function of a law, which have neither.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float
from numpyro.distributions import constraints

# Angles at which densities are looked at: they resolve widths from half the spacing, a tenth of a degree, on.
SIZE = 4096
PERIOD = 2 * math.pi
SPACING = PERIOD / SIZE

LogDensity = Callable[[Any, Float[Array, ""]], Float[Array, ""]]


def is_circle(support: Any) -> bool:
    """Whether a support is the circle, NumPyro's ``constraints.circular``."""
    return isinstance(support, type(constraints.circular))


def wrap(angle: Any, xp: Any = jnp) -> Any:
    """The same angles between -pi and pi, by JAX or NumPy."""
    return angle - PERIOD * xp.round(angle / PERIOD)


def grid(dtype: Any) -> Float[Array, " n"]:
    """Equally spaced angles from -pi on."""
    return -math.pi + SPACING * jnp.arange(SIZE, dtype=dtype)


def characteristic(masses: Float[Array, " n"]) -> Complex[Array, " k"]:
    """The expectations of exp(i k x), k = 0, 1, ..., from probabilities of the angles of the grid."""
    values = jnp.fft.rfft(masses)
    sign = jnp.where(jnp.arange(values.shape[0]) % 2 == 0, 1.0, -1.0).astype(masses.dtype)
    return jax.lax.complex(sign * values.real, -sign * values.imag)


def turned(values: Complex[Array, " k"], angle: Float[Array, ""]) -> Complex[Array, " k"]:
    """The characteristic function of x less an angle."""
    phase = jnp.arange(values.shape[0], dtype=angle.dtype) * angle
    return values * jax.lax.complex(jnp.cos(phase), -jnp.sin(phase))


def mean_arc(values: Complex[Array, " k"]) -> Float[Array, ""]:
    """The expectation of the arc from zero, which has a sign, given the characteristic function."""
    order = jnp.arange(1, values.shape[0], dtype=values.real.dtype)
    sign = jnp.where(order % 2 == 1, 1.0, -1.0).astype(order.dtype)
    return 2 * jnp.sum(sign * values[1:].imag / order)


def mean_square_arc(values: Complex[Array, " k"]) -> Float[Array, ""]:
    """The expectation of the squared arc from zero, given the characteristic function."""
    order = jnp.arange(1, values.shape[0], dtype=values.real.dtype)
    sign = jnp.where(order % 2 == 1, -1.0, 1.0).astype(order.dtype)
    return jnp.maximum(math.pi**2 / 3 + 4 * jnp.sum(sign * values[1:].real / order**2), 0.0)


class CircleSum(eqx.Module):
    """A normalized density on the circle, as `Quadrature` is on an interval.

    Attributes:
        log_normalizer: Log of the integral of the given density.
        points: The angles of the grid.
        masses: Their probabilities.
    """

    log_normalizer: Float[Array, ""]
    points: Float[Array, " n"]
    masses: Float[Array, " n"]

    def expectation(self, function: Callable[[Float[Array, ""]], Array]) -> Array:
        """The expectation of a function of one angle."""
        return jnp.tensordot(self.masses, jax.vmap(function)(self.points), 1)

    def mean(self) -> Float[Array, ""]:
        """The mean direction; any angle where a law has none."""
        return direction(self.expectation(jnp.cos), self.expectation(jnp.sin))

    def variance(self) -> Float[Array, ""]:
        """The mean squared arc from the mean direction."""
        arc = wrap(self.points - self.mean())
        plain = jnp.sum(self.masses * arc**2)
        # Without mass at the antipode there is no kink, and nothing cancels.
        far = self.masses[jnp.argmax(jnp.abs(arc))] < jnp.finfo(arc.dtype).eps
        return jnp.where(far, plain, mean_square_arc(turned(characteristic(self.masses), self.mean())))

    def quantile(self, log_density: LogDensity, parameters: Any, probability: Float[Array, ""]) -> Float[Array, ""]:
        """The angle with the given probability between -pi and it."""
        total = jnp.concatenate([jnp.zeros((1,), self.masses.dtype), jnp.cumsum(self.masses)])
        edges = -math.pi + SPACING * (jnp.arange(SIZE + 1, dtype=total.dtype) - 0.5)
        return wrap(jnp.interp(probability * total[-1], total, edges))


def direction(cosine: Any, sine: Any) -> Any:
    """The angle of a mean cosine and sine; zero, and no derivative, where both are zero."""
    nowhere = (cosine == 0) & (sine == 0)
    return jnp.where(nowhere, 0.0, jnp.arctan2(sine, jnp.where(nowhere, 1.0, cosine)))


def circle_sum(log_density: LogDensity, parameters: Any) -> CircleSum:
    """Prepare the integrals of a density; derivatives with respect to the parameters are those of the integrals.

    Args:
        log_density: The log-density up to a constant, a function of the parameters and one angle.
        parameters: Any pytree of floating-point arrays.
    """
    points = grid(jax.tree.leaves(parameters)[0].dtype)
    values = jax.vmap(lambda x: log_density(parameters, x))(points)
    values = jnp.where(jnp.isnan(values), -jnp.inf, values)
    log_total = jax.nn.logsumexp(values)
    return CircleSum(log_total + math.log(SPACING), points, jnp.exp(values - log_total))
