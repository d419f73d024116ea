"""Components with independent beta coordinates."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    AbstractPriors,
    AbstractShape,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    positive_prior,
    ProductForm,
    spread_of,
    within_scale,
)

# The prior standard deviation of the logarithms of both parameters: their scale follows from moments, roughly.
_LOG_SPREAD = 1.5


class _Priors(AbstractPriors):
    """Log-normal priors of both parameters, about those that moments suggest."""

    def default(self, components: "Beta", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        total = center * (1 - center) / within_scale(scale, components.num_components) ** 2
        priors = positive_prior(center * total, _LOG_SPREAD), positive_prior((1 - center) * total, _LOG_SPREAD)
        return dict(zip(("concentration1", "concentration0"), priors, strict=True))


class Beta(AbstractCoordinateFamily):
    """K components with independent beta coordinates, on numbers between 0 and 1.

    An exponential family with T(x) = (log x, log(1 - x)) in each coordinate and natural parameters
    (concentration1 - 1, concentration0 - 1). The M-step is Newton's method in both.

    Attributes:
        concentration1: Exponents of x, plus one, shape ``[K, d]``.
        concentration0: Exponents of 1 - x, plus one, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    concentration1: Float[Array, "K d"]
    concentration0: Float[Array, "K d"]
    support: ClassVar = constraints.open_interval(0.0, 1.0)

    priors: ClassVar = _Priors()

    def __init__(self, concentration1: ArrayLike, concentration0: ArrayLike):
        """Build components from the two concentrations, each of shape ``[K, d]``; the mean grows with the first.

        Raises:
            ValueError: If a shape does not fit, or a number is not positive.
        """
        self.concentration1 = as_floating("concentration1", concentration1, "K d")
        self.concentration0 = as_floating("concentration0", concentration0, "K d", self.concentration1.dtype)
        check_shape("concentration0", self.concentration0, self.concentration1.shape, "`concentration1`")
        check_positive("concentration1", self.concentration1)
        check_positive("concentration0", self.concentration0)

    @property
    def dim(self) -> int:
        return self.concentration1.shape[-1]

    # -- the law of one coordinate --------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return jnp.log(x), jnp.log1p(-x)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        inside = jnp.all(eta > -1)
        first, second = (jnp.where(inside, v, jnp.ones_like(v)) for v in (eta[0] + 1, eta[1] + 1))
        return jnp.where(inside, _log_beta(first, second), jnp.inf)

    def _natural(self) -> Float[Array, "d m"]:
        return jnp.stack([self.concentration1 - 1, self.concentration0 - 1], axis=-1)

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "Beta":
        return Beta(natural[..., 0] + 1, natural[..., 1] + 1)

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        draw = jax.random.beta(key, self.concentration1, self.concentration0, dtype=self.dtype)
        info = jnp.finfo(draw.dtype)
        return jnp.clip(draw, info.tiny, 1 - info.epsneg)

    def _mean(self) -> Float[Array, " d"]:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    def _variance(self) -> Float[Array, " d"]:
        return _beta_variance(self.concentration1, self.concentration0)

    def _entropy(self) -> Float[Array, ""]:
        a, b = self.concentration1, self.concentration0
        total = (a + b - 2) * digamma(a + b) - (a - 1) * digamma(a) - (b - 1) * digamma(b)
        return jnp.sum(_log_beta(a, b) + total)

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    def product_form(self) -> ProductForm:
        zero = jnp.zeros_like(self.concentration1)
        return ProductForm(zero, jnp.ones_like(zero), BetaShape(self.concentration1, self.concentration0))

    def to_numpyro(self) -> dist.Distribution:
        return dist.Beta(self.concentration1, self.concentration0).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Beta":
        return Beta(jnp.ones((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))


class BetaShape(AbstractShape):
    """Beta laws."""

    concentration1: Float[Array, "K d"]
    concentration0: Float[Array, "K d"]

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        inside = (z > 0) & (z < 1)
        safe = jnp.where(inside, z, jnp.full_like(z, 0.5))
        value = (self.concentration1 - 1) * jnp.log(safe) + (self.concentration0 - 1) * jnp.log1p(-safe)
        return jnp.where(inside, value - _log_beta(self.concentration1, self.concentration0), -jnp.inf)

    def _knots(self) -> Float[Array, " q"]:
        return jnp.asarray([0.0, 1.0], self.concentration1.dtype)

    def _mean(self) -> Float[Array, ""]:
        return self.concentration1 / (self.concentration1 + self.concentration0)

    def _variance(self) -> Float[Array, ""]:
        return _beta_variance(self.concentration1, self.concentration0)


def _log_beta(a: Array, b: Array) -> Array:
    """The logarithm of B(a, b); the second derivatives of JAX's own are wrong at a = b."""
    first, second, both = gammaln(jnp.stack([a, b, a + b]))
    return first + second - both


def _beta_variance(a: Array, b: Array) -> Array:
    return a * b / ((a + b) ** 2 * (a + b + 1))
