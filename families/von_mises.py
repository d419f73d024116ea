"""Components with independent von Mises angles."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import i0e, i1e
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    direction,
    on_host,
    wrap,
)

# Concentrations lie between these: the smaller is flat, the larger is .18 degrees wide.
_CONCENTRATIONS = (1e-6, 1e5)
# Newton's steps from a concentration that is right to a few per cent.
_STEPS = 6


class VonMises(AbstractCoordinateFamily):
    r"""K components with independent von Mises angles, in radians, of period two pi.

    An exponential family with T(x) = (cos x, sin x) in each coordinate and natural parameters
    ``concentration * (cos loc, sin loc)``. Angles on any turn are taken and given back between -pi and pi. Means are
    mean directions, and variances mean squared arcs from them.

    The M-step has the direction in closed form, and the concentration by Newton's method on
    $I_1(\kappa) / I_0(\kappa) = R$, the mean resultant length (Banerjee et al., 2005, say where to start). Fitted
    concentrations lie between 1e-6, the uniform law to any purpose, and 1e5.

    Attributes:
        loc: Mean directions, shape ``[K, d]``, between -pi and pi.
        concentration: Concentrations, shape ``[K, d]``; about one over the variance where they are large.
    """

    exchangeable: ClassVar = True
    loc: Float[Array, "K d"]
    concentration: Float[Array, "K d"]
    support: ClassVar = constraints.circular

    def __init__(self, loc: ArrayLike, concentration: ArrayLike):
        """Build components from mean directions and concentrations, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a concentration is not positive.
        """
        self.loc = on_host(lambda xp, angles: wrap(angles, xp), as_floating("loc", loc, "K d"))
        self.concentration = as_floating("concentration", concentration, "K d", self.loc.dtype)
        check_shape("concentration", self.concentration, self.loc.shape, "`loc`")
        check_positive("concentration", self.concentration)

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    # -- the law of one angle -------------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return jnp.cos(x), jnp.sin(x)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        size = _length(*eta)
        return size + jnp.log(2 * math.pi * i0e(size))

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        # One less the cosine, without a difference.
        fall = 2 * self.concentration * jnp.sin(0.5 * (x - self.loc)) ** 2
        return -jnp.sum(fall + jnp.log(2 * math.pi * i0e(self.concentration)))

    def _natural(self) -> Float[Array, "d m"]:
        return self.concentration[..., None] * jnp.stack([jnp.cos(self.loc), jnp.sin(self.loc)], axis=-1)

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "VonMises":
        loc = direction(natural[..., 0], natural[..., 1])
        return VonMises(loc, jnp.maximum(_length(natural[..., 0], natural[..., 1]), _CONCENTRATIONS[0]))

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return dist.VonMises(self.loc, self.concentration, validate_args=False).sample(key)

    def _mean(self) -> Float[Array, " d"]:
        return self.loc

    def _mean_parameters(self) -> Float[Array, " m"]:
        size = _resultant(self.concentration)
        return jnp.stack([size * jnp.cos(self.loc), size * jnp.sin(self.loc)], axis=-1).ravel()

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "VonMises":
        cosine, sine = jnp.moveaxis(mean_parameters.reshape(-1, self.dim, 2), -1, 0)
        return VonMises(direction(cosine, sine), _concentration(_length(cosine, sine)))

    # -- NumPyro, EM ----------------------------------------------------------------------------------------------

    def to_numpyro(self) -> dist.Distribution:
        return dist.VonMises(self.loc, self.concentration, validate_args=False).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "VonMises":
        zero = jnp.zeros((num_components, dim), dtype)
        return VonMises(zero, jnp.ones_like(zero))


def _length(cosine: Array, sine: Array) -> Array:
    """The length of a vector, with derivatives also at zero."""
    return jnp.sqrt(cosine**2 + sine**2 + jnp.finfo(cosine.dtype).tiny)


def _resultant(concentration: Array) -> Array:
    """The mean resultant length."""
    return i1e(concentration) / i0e(concentration)


def _concentration(length: Array) -> Array:
    """The concentration with a given mean resultant length."""
    rest = jnp.maximum(1 - length**2, jnp.finfo(length.dtype).eps)
    first = length * (2 - length**2) / rest

    def step(_: Array, value: Array) -> Array:
        ratio = _resultant(value)
        slope = jnp.maximum(1 - ratio / value - ratio**2, 0.25 / (1 + value) ** 2)
        return jnp.clip(value - (ratio - length) / slope, 0.5 * value, 2 * value)

    low, high = _CONCENTRATIONS
    return jnp.clip(jax.lax.fori_loop(0, _STEPS, step, jnp.clip(first, low, high)), low, high)
