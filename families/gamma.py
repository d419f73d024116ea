"""Components with independent gamma coordinates."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import digamma, gammaln, polygamma
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

    def default(self, components: "Gamma", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        concentration = (center / within_scale(scale, components.num_components)) ** 2
        priors = positive_prior(concentration, _LOG_SPREAD), positive_prior(concentration / center, _LOG_SPREAD)
        return dict(zip(("concentration", "rate"), priors, strict=True))


class Gamma(AbstractCoordinateFamily):
    """K components with independent gamma coordinates, on positive numbers.

    An exponential family with T(x) = (log x, x) in each coordinate and natural parameters (concentration - 1, -rate).
    The M-step is a Newton iteration in the one concentration (Minka, 2002).

    Attributes:
        concentration: Shape parameters, shape ``[K, d]``.
        rate: Inverse scales, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    concentration: Float[Array, "K d"]
    rate: Float[Array, "K d"]
    support: ClassVar = constraints.positive
    standardization: ClassVar = "scale"

    priors: ClassVar = _Priors()

    def __init__(self, concentration: ArrayLike, rate: ArrayLike):
        """Build components from concentrations and rates, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a number is not positive.
        """
        self.concentration = as_floating("concentration", concentration, "K d")
        self.rate = as_floating("rate", rate, "K d", self.concentration.dtype)
        check_shape("rate", self.rate, self.concentration.shape, "`concentration`")
        check_positive("concentration", self.concentration)
        check_positive("rate", self.rate)

    @property
    def dim(self) -> int:
        return self.rate.shape[-1]

    # -- the law of one coordinate --------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return jnp.log(x), x

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        inside = (eta[0] > -1) & (eta[1] < 0)
        concentration, rate = (jnp.where(inside, v, jnp.ones_like(v)) for v in (eta[0] + 1, -eta[1]))
        return jnp.where(inside, gammaln(concentration) - concentration * jnp.log(rate), jnp.inf)

    def _natural(self) -> Float[Array, "d m"]:
        return jnp.stack([self.concentration - 1, -self.rate], axis=-1)

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "Gamma":
        return Gamma(natural[..., 0] + 1, -natural[..., 1])

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        draw = jnp.exp(jax.random.loggamma(key, self.concentration, dtype=self.dtype)) / self.rate
        return jnp.maximum(draw, jnp.finfo(draw.dtype).tiny)

    def _mean(self) -> Float[Array, " d"]:
        return self.concentration / self.rate

    def _variance(self) -> Float[Array, " d"]:
        return self.concentration / self.rate**2

    def _entropy(self) -> Float[Array, ""]:
        a = self.concentration
        return jnp.sum(a - jnp.log(self.rate) + gammaln(a) + (1 - a) * digamma(a))

    def _mean_parameters(self) -> Float[Array, " m"]:
        mean_log = digamma(self.concentration) - jnp.log(self.rate)
        return jnp.stack([mean_log, self._mean()], axis=-1).ravel()

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "Gamma":
        mean_log, mean = jnp.moveaxis(mean_parameters.reshape(mean_parameters.shape[0], -1, 2), -1, 0)
        concentration = _solve_concentration(jnp.log(mean) - mean_log)
        return Gamma(concentration, concentration / mean)

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    def product_form(self) -> ProductForm:
        return ProductForm(jnp.zeros_like(self.rate), 1 / self.rate, GammaShape(self.concentration))

    def to_numpyro(self) -> dist.Distribution:
        return dist.Gamma(self.concentration, self.rate).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Gamma":
        return Gamma(jnp.ones((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "Gamma":
        return Gamma(self.concentration, self.rate / scale[None])


class GammaShape(AbstractShape):
    """Gamma laws of rate one."""

    concentration: Float[Array, "K d"]

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        safe = jnp.where(z > 0, z, jnp.ones_like(z))
        value = (self.concentration - 1) * jnp.log(safe) - safe - gammaln(self.concentration)
        return jnp.where(z > 0, value, -jnp.inf)

    def _knots(self) -> Float[Array, " q"]:
        return jnp.asarray([0.0, jnp.inf], self.concentration.dtype)

    def _mean(self) -> Float[Array, ""]:
        return self.concentration

    def _variance(self) -> Float[Array, ""]:
        return self.concentration


def _log_minus_digamma(a: Array) -> Array:
    """The difference log a - digamma(a), by its asymptotic series where the difference would cancel."""
    large = jnp.maximum(a, 50.0)
    series = (0.5 + (1 / 12 - (1 / 120 - 1 / (252 * large**2)) / large**2) / large) / large
    return jnp.where(a > 50, series, jnp.log(a) - digamma(a))


def _solve_concentration(gap: Float[Array, "K d"]) -> Float[Array, "K d"]:
    """The a with log a - digamma(a) = gap, by Newton's method on 1/a (Minka, 2002); NaN unless the gap is positive."""

    def step(_: Array, a: Array) -> Array:
        large = jnp.maximum(a, 50.0)
        series = -(0.5 + (1 / 6 - 1 / (30 * large**2)) / large) / large**2
        slope = jnp.where(a > 50, series, 1 / a - polygamma(1, a))
        return 1 / (1 / a + (gap - _log_minus_digamma(a)) / (-slope * a**2))

    start = (3 - gap + jnp.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    return jnp.where(gap > 0, jax.lax.fori_loop(0, 6, step, start), jnp.nan)
