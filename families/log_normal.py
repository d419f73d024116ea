"""Components with independent log-normal coordinates."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    AbstractPriors,
    AbstractShape,
    ArrayLike,
    as_floating,
    check_names,
    check_positive,
    check_shape,
    draw_location,
    draw_variance,
    location_prior,
    ProductForm,
    read_inverse_gamma,
    read_normal,
    scale_prior,
    spread_of,
    within_scale,
)

_LOG_2PI = math.log(2 * math.pi)


class _Priors(AbstractPriors):
    """Normal means and inverse gamma variances of the logarithms."""

    def default(self, components: "LogNormal", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(np.log(np.asarray(x)))
        own = scale_prior(within_scale(scale, components.num_components))
        return {"loc": location_prior(center, scale), "scale": own}

    def hyperparameters(
        self, components: "LogNormal", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        check_names(priors, "loc", "scale")
        variance = read_inverse_gamma("scale", priors["scale"], components.scale, power=0.5)
        return {"loc": read_normal("loc", priors["loc"], components.loc), "variance": variance}

    def draw(
        self,
        key: Key[Array, ""],
        components: "LogNormal",
        counts: Float[Array, " K"],
        sums: Float[Array, "K m"],
        hyper: Any,
    ) -> "LogNormal":
        """The mean of the logarithms given their variance, then the variance given the mean."""
        loc_key, variance_key = jax.random.split(key)
        num = counts[:, None]
        first, second = jnp.moveaxis(sums.reshape(*components.loc.shape, 2), -1, 0)
        mean = first / jnp.maximum(num, 1)
        loc = draw_location(loc_key, hyper["loc"], 1 / components.scale**2, counts, mean)
        squares = jnp.maximum(second - num * mean**2, 0) + num * (mean - loc) ** 2
        return LogNormal(loc, jnp.sqrt(draw_variance(variance_key, hyper["variance"], num, squares)))


class LogNormal(AbstractCoordinateFamily):
    """K components with independent log-normal coordinates: the logarithms are Gaussian.

    An exponential family with T(x) = (log x, (log x)^2) in each coordinate and natural parameters
    (loc / scale^2 - 1, -1 / (2 scale^2)). The M-step takes mean and variance of the logarithms.

    Attributes:
        loc: Means of the logarithms, shape ``[K, d]``.
        scale: Standard deviations of the logarithms, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    loc: Float[Array, "K d"]
    scale: Float[Array, "K d"]
    support: ClassVar = constraints.positive
    standardization: ClassVar = "scale"

    priors: ClassVar = _Priors()

    def __init__(self, loc: ArrayLike, scale: ArrayLike):
        """Build components from means and standard deviations of the logarithms, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a scale is not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scale = as_floating("scale", scale, "K d", self.loc.dtype)
        check_shape("scale", self.scale, self.loc.shape, "`loc`")
        check_positive("scale", self.scale)

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    # -- the law of one coordinate --------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return jnp.log(x), jnp.log(x) ** 2

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        precision = -2 * eta[1]
        return 0.5 * ((eta[0] + 1) ** 2 / precision - jnp.log(precision) + _LOG_2PI)

    def _natural(self) -> Float[Array, "d m"]:
        precision = 1 / self.scale**2
        return jnp.stack([self.loc * precision - 1, -0.5 * precision], axis=-1)

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "LogNormal":
        variance = -0.5 / natural[..., 1]
        return LogNormal((natural[..., 0] + 1) * variance, jnp.sqrt(variance))

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Centered, so that narrow laws keep their digits."""
        inside = x > 0
        log = jnp.log(jnp.where(inside, x, jnp.ones_like(x)))
        value = -0.5 * ((log - self.loc) / self.scale) ** 2 - log - jnp.log(self.scale) - 0.5 * _LOG_2PI
        return jnp.sum(jnp.where(inside, value, -jnp.inf))

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        draw = jnp.exp(self.loc + self.scale * jax.random.normal(key, self.loc.shape, self.loc.dtype))
        return jnp.clip(draw, jnp.finfo(draw.dtype).tiny, jnp.finfo(draw.dtype).max)

    def _mean(self) -> Float[Array, " d"]:
        return jnp.exp(self.loc + 0.5 * self.scale**2)

    def _variance(self) -> Float[Array, " d"]:
        return jnp.expm1(self.scale**2) * self._mean() ** 2

    def _entropy(self) -> Float[Array, ""]:
        return jnp.sum(self.loc + jnp.log(self.scale) + 0.5 * (1 + _LOG_2PI))

    def _mean_parameters(self) -> Float[Array, " m"]:
        return jnp.stack([self.loc, self.loc**2 + self.scale**2], axis=-1).ravel()

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "LogNormal":
        first, second = jnp.moveaxis(mean_parameters.reshape(mean_parameters.shape[0], -1, 2), -1, 0)
        return LogNormal(first, jnp.sqrt(second - first**2))

    # -- transport, NumPyro, EM -----------------------------------------------------------------------------------

    def product_form(self) -> ProductForm:
        return ProductForm(jnp.zeros_like(self.loc), jnp.exp(self.loc), LogNormalShape(self.scale))

    def to_numpyro(self) -> dist.Distribution:
        return dist.LogNormal(self.loc, self.scale).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "LogNormal":
        return LogNormal(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "LogNormal":
        return LogNormal(self.loc + jnp.log(scale)[None], self.scale)


class LogNormalShape(AbstractShape):
    """Log-normal laws of median one."""

    scale: Float[Array, "K d"]

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        log = jnp.log(jnp.where(z > 0, z, jnp.ones_like(z)))
        value = -0.5 * (log / self.scale) ** 2 - log - jnp.log(self.scale) - 0.5 * _LOG_2PI
        return jnp.where(z > 0, value, -jnp.inf)

    def _knots(self) -> Float[Array, " q"]:
        return jnp.asarray([0.0, jnp.inf], self.scale.dtype)

    def _mean(self) -> Float[Array, ""]:
        return jnp.exp(0.5 * self.scale**2)

    def _variance(self) -> Float[Array, ""]:
        return jnp.expm1(self.scale**2) * jnp.exp(self.scale**2)
