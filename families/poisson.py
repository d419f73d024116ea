"""Components with independent Poisson counts."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractCoordinateFamily,
    AbstractPriors,
    AbstractRegularEMFamily,
    ArrayLike,
    as_floating,
    check_names,
    check_positive,
    counts_of,
    exposure_of,
    read_gamma,
    SizedPoints,
)

from ._counts import check_counts, thinned

# Rates are kept above this, where a component has no counts at all.
_LEAST_RATE = 1e-8


class _Priors(AbstractPriors):
    """Exponential laws of the rates with the means of all data: conjugate."""

    def default(self, components: "Poisson", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center = np.maximum(np.asarray(x).mean(axis=0), _LEAST_RATE)
        one, rate = jax.device_put((np.ones_like(center), 1 / center))
        return {"rate": dist.Gamma(one, rate, validate_args=False).to_event(1)}

    def hyperparameters(
        self, components: "Poisson", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> Any:
        check_names(priors, "rate")
        return read_gamma("rate", priors["rate"], components.rate)

    def draw(self, key: Key[Array, ""], components: "Poisson", counts: Array, sums: Array, hyper: Any) -> "Poisson":
        log_gamma = jax.random.loggamma(key, hyper.concentration + sums, dtype=sums.dtype)
        return Poisson(jnp.exp(log_gamma) / (hyper.rate + counts[:, None]))


class Poisson(AbstractCoordinateFamily):
    """K components with independent Poisson counts, on whole numbers from zero.

    An exponential family with T(x) = x in each coordinate and natural parameter log rate. Points may have size factors,
    which multiply their rates.

    Attributes:
        rate: Mean counts, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    sized: ClassVar = True
    rate: Float[Array, "K d"]
    support: ClassVar = constraints.nonnegative_integer
    priors: ClassVar = _Priors()

    def __init__(self, rate: ArrayLike):
        """Build components from rates, shape ``[K, d]``.

        Raises:
            ValueError: If the shape does not fit, or a rate is not positive.
        """
        self.rate = as_floating("rate", rate, "K d")
        check_positive("rate", self.rate)

    @property
    def dim(self) -> int:
        return self.rate.shape[-1]

    # -- the law of one count -------------------------------------------------------------------------------------

    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        return (x,)

    def _log_base(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return -gammaln(x + 1)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return jnp.exp(eta[0])

    def _natural(self) -> Float[Array, "d m"]:
        return jnp.log(self.rate)[..., None]

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "Poisson":
        return Poisson(jnp.exp(natural[..., 0]))

    # -- draws and moments ----------------------------------------------------------------------------------------

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return jax.random.poisson(key, self.rate).astype(self.rate.dtype)

    def _mean(self) -> Float[Array, " d"]:
        return self.rate

    def _variance(self) -> Float[Array, " d"]:
        return self.rate

    def _mean_parameters(self) -> Float[Array, " m"]:
        return self.rate

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "Poisson":
        return Poisson(jnp.maximum(mean_parameters, _LEAST_RATE))

    def _sized(self, size: Float[Array, ""]) -> "Poisson":
        return eqx.tree_at(lambda own: own.rate, self, size * self.rate)

    def _to_size_one(self, key: Key[Array, ""], x: Float[Array, " d"], size: Float[Array, ""]) -> Float[Array, " d"]:
        thin_key, more_key = jax.random.split(key)
        more = jax.random.poisson(more_key, jnp.maximum(1 - size, 0.0) * self.rate)
        return thinned(thin_key, x, size) + more.astype(x.dtype)

    # -- NumPyro, EM ----------------------------------------------------------------------------------------------

    def to_numpyro(self) -> dist.Distribution:
        return dist.Poisson(self.rate).to_event(1)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Poisson":
        return Poisson(jnp.ones((num_components, dim), dtype))

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        check_counts("Poisson", x)

    def _prepare(self, x: Float[Array, "w n"]) -> Any:
        points = counts_of(self, x)
        return points if isinstance(points, SizedPoints) else super()._prepare(x)

    def _accumulate(self, data: Any, responsibilities: Float[Array, "K n"]) -> Float[Array, "K w"]:
        if not isinstance(data, SizedPoints):
            return super()._accumulate(data, responsibilities)
        return responsibilities @ jnp.concatenate([data.x, data.sizes[None]]).T

    def _pooled(self, counts: Float[Array, " K"], sums: Float[Array, "K w"]) -> Float[Array, " d"]:
        return super()._pooled(*exposure_of(counts, sums, self.dim))

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: Float[Array, "K w"],
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> AbstractRegularEMFamily:
        return super()._maximize(*exposure_of(counts, sums, self.dim), target, strength, ridge)
