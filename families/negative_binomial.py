"""Components with independent negative binomial counts."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import (
    AbstractEMFamily,
    AbstractLattice,
    AbstractPriors,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    counts_of,
    map_components,
    positive_prior,
    SizedPoints,
    spread_of,
)

from ._counts import check_counts
from ._newton import climb

# Rates are kept above this; concentrations between these: counts of a larger one are Poisson, to any purpose.
_LEAST_RATE, _CONCENTRATIONS = 1e-8, (1e-3, 1e5)
# The prior standard deviation of the logarithms of both parameters.
_LOG_SPREAD = 1.5


class _Priors(AbstractPriors):
    """Log-normal priors of both parameters, about those that moments suggest."""

    def default(self, components: "NegativeBinomial", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        concentration = jnp.clip(center**2 / jnp.maximum(scale**2 - center, 1e-2 * center), *_CONCENTRATIONS)
        priors = positive_prior(center, _LOG_SPREAD), positive_prior(concentration, _LOG_SPREAD)
        return dict(zip(("rate", "concentration"), priors, strict=True))


class _Sums(NamedTuple):
    """Totals of the counts, and all that a concentration depends on: points, size factors and responsibilities."""

    totals: Float[Array, "K d"]
    x: Float[Array, "d n"]
    sizes: Float[Array, " n"] | None
    responsibilities: Float[Array, "K n"]

    def exposures(self, counts: Float[Array, " K"]) -> Float[Array, " K"]:
        """What totals are divided by: numbers of points, or the sums of their size factors."""
        return counts if self.sizes is None else self.responsibilities @ self.sizes


class NegativeBinomial(AbstractEMFamily):
    """K components with independent negative binomial counts: Poisson counts whose rates are gamma distributed.

    The variance is ``rate + rate**2 / concentration``; the larger the concentration, the nearer to Poisson, and above
    1e5 it is one. Not an exponential family unless the concentrations are known.

    The M-step has the rates in closed form. Each concentration takes guarded Newton steps on its logarithm, which
    never decrease the likelihood. Points may have size factors, which multiply their mean counts; rates then take such
    steps as well.

    Attributes:
        rate: Mean counts, shape ``[K, d]``.
        concentration: Concentrations of the gamma laws ("dispersion" and "theta" elsewhere), shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    sized: ClassVar = True
    rate: Float[Array, "K d"]
    concentration: Float[Array, "K d"]
    support: ClassVar = constraints.nonnegative_integer
    streams: ClassVar = False
    priors: ClassVar = _Priors()

    def __init__(self, rate: ArrayLike, concentration: ArrayLike):
        """Build components from mean counts and concentrations, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a number is not positive.
        """
        self.rate = as_floating("rate", rate, "K d")
        self.concentration = as_floating("concentration", concentration, "K d", self.rate.dtype)
        check_shape("concentration", self.concentration, self.rate.shape, "`rate`")
        check_positive("rate", self.rate)
        check_positive("concentration", self.concentration)

    @property
    def dim(self) -> int:
        return self.rate.shape[-1]

    # -- densities, draws and moments -----------------------------------------------------------------------------

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        inside = self.support(x)
        mass = _log_mass(jnp.where(inside, x, jnp.zeros_like(x)), self.rate, self.concentration)
        return jnp.sum(jnp.where(inside, mass, -jnp.inf))

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        gamma_key, poisson_key = jax.random.split(key)
        gamma = jnp.exp(jax.random.loggamma(gamma_key, self.concentration, dtype=self.dtype))
        return jax.random.poisson(poisson_key, gamma * self.rate / self.concentration).astype(self.rate.dtype)

    def _mean(self) -> Float[Array, " d"]:
        return self.rate

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(self.rate + self.rate**2 / self.concentration)

    def _sized(self, size: Float[Array, ""]) -> "NegativeBinomial":
        return eqx.tree_at(lambda own: own.rate, self, size * self.rate)

    # -- transport, NumPyro ---------------------------------------------------------------------------------------

    def lattice_form(self) -> AbstractLattice:
        return NegativeBinomialLattice(self.rate, self.concentration)

    def to_numpyro(self) -> dist.Distribution:
        return dist.NegativeBinomial2(self.rate, self.concentration).to_event(1)

    # -- EM -------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "NegativeBinomial":
        ones = jnp.ones((num_components, dim), dtype)
        return NegativeBinomial(ones, ones)

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        check_counts("NegativeBinomial", x)

    def _prepare(self, x: Float[Array, "w n"]) -> Float[Array, "d n"] | SizedPoints:
        return counts_of(self, x)

    def _accumulate(self, data: Float[Array, "d n"] | SizedPoints, responsibilities: Float[Array, "K n"]) -> _Sums:
        x, sizes = data if isinstance(data, SizedPoints) else (data, None)
        return _Sums(responsibilities @ x.T, x, sizes, responsibilities)

    def _pooled(self, counts: Float[Array, " K"], sums: _Sums) -> Float[Array, " d"]:
        return jnp.sum(sums.totals, axis=0) / jnp.sum(sums.exposures(counts))

    def _prior_strength(self) -> float:
        return 0.01

    def _log_prior(self, target: Float[Array, " d"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """The log-likelihood of pseudo-observations at the mean of all data."""
        return strength * jnp.sum(jax.vmap(lambda m, r: _log_mass(target, m, r))(self.rate, self.concentration), axis=1)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: _Sums,
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "NegativeBinomial":
        total = (sums.exposures(counts) + strength)[:, None]
        mean = (sums.totals + strength * target[None]) / jnp.where(total > 0, total, jnp.ones_like(total))
        share = jnp.where(total > 0, jnp.broadcast_to(ridge, total.shape), jnp.ones_like(total))
        # The pseudo-observations lie at the target, with a size factor of one.
        points = jnp.concatenate([sums.x, target[:, None]], axis=1)
        sizes = None if sums.sizes is None else jnp.concatenate([sums.sizes, jnp.ones_like(target[:1])])

        def one(item: tuple[Array, ...]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
            before, mean, concentration, weight, share = item
            weights = jnp.concatenate([weight, strength[None]])

            def column(x: Array, old: Array, mean: Array, r: Array, target: Array) -> tuple[Array, Array]:
                if sizes is not None:
                    mean = _rate(x, sizes, weights, jnp.stack([old, mean]), r)
                rate = jnp.maximum((1 - share) * mean + share * target, _LEAST_RATE)
                return rate, _concentration(x, weights, rate if sizes is None else sizes * rate, r)

            return jax.vmap(column)(points, before, mean, concentration, target)

        items = (self.rate, mean, self.concentration, sums.responsibilities, share[:, 0])
        return NegativeBinomial(*map_components(one, items, points.size))

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> AbstractEMFamily:
        """Concentrations that the moments of each part suggest, and from there the first M-step."""
        counts = jnp.sum(responsibilities, axis=1)[:, None] + 1
        rates = x[: self.dim]
        # Of Poisson counts that were divided by a size factor, the variance is.
        share = 1 / x[self.dim :] if x.shape[0] > self.dim else jnp.ones_like(x[:1])

        def average(values: Float[Array, "r n"]) -> Float[Array, "K r"]:
            return (responsibilities @ values.T + jnp.mean(values, axis=1)[None]) / counts

        mean = average(rates)
        excess = jnp.maximum(average(rates**2) - mean**2 - mean * average(share), 1e-2 * mean)
        moments = jnp.clip(mean**2 / jnp.where(excess > 0, excess, jnp.ones_like(excess)), 1e-2, 1e2)
        return super(NegativeBinomial, NegativeBinomial(self.rate, moments))._start(x, responsibilities, ridge)


class NegativeBinomialLattice(AbstractLattice):
    """Negative binomial laws."""

    rate: Float[Array, "K d"]
    concentration: Float[Array, "K d"]

    def _log_mass(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return _log_mass(x, self.rate, self.concentration)

    def _mean(self) -> Float[Array, ""]:
        return self.rate

    def _variance(self) -> Float[Array, ""]:
        return self.rate + self.rate**2 / self.concentration


def _log_mass(x: Array, rate: Array, concentration: Array) -> Array:
    """Log-probabilities of counts; ``-inf`` below zero and between whole numbers is left to the caller."""
    over = jnp.log1p(rate / concentration)
    # The logarithm of x successes' share, without a difference of logarithms of large numbers.
    success = jnp.log(rate) - jnp.log(concentration) - over
    choose = gammaln(x + concentration) - gammaln(concentration) - gammaln(x + 1)
    return choose - concentration * over + x * success


def _rate(
    x: Float[Array, " n"], size: Float[Array, " n"], weight: Float[Array, " n"], places: Float[Array, " p"], r: Array
) -> Float[Array, ""]:
    """Guarded Newton steps on the logarithm of one rate, given the concentration, from the better of some places."""

    def value(log_rate: Array) -> Array:
        return weight @ (x * log_rate - (x + r) * jnp.log1p(size * jnp.exp(log_rate) / r))

    def slope(log_rate: Array) -> Array:
        mean = size * jnp.exp(log_rate)
        return weight @ (x - (x + r) * mean / (r + mean))

    starts = jnp.log(jnp.maximum(places, _LEAST_RATE))
    start = starts[jnp.argmax(jax.vmap(value)(starts))]
    return jnp.exp(climb(value, slope, start, (np.log(_LEAST_RATE), np.inf)))


def _concentration(x: Float[Array, " n"], weight: Float[Array, " n"], rate: Array, concentration: Array) -> Array:
    """Guarded Newton steps on the logarithm of one concentration, given the rate, one for all points or one of each."""
    total = jnp.sum(weight)

    def value(log_r: Array) -> Array:
        r = jnp.exp(log_r)
        spread = jnp.sum(weight * (x + r) * jnp.log1p(rate / r))
        return weight @ gammaln(x + r) - total * gammaln(r) - spread - (weight @ x) * log_r

    def slope(log_r: Array) -> Array:
        r = jnp.exp(log_r)
        spread = jnp.sum(weight * (jnp.log1p(rate / r) - (x + r) * rate / (r * (r + rate))))
        return r * (weight @ digamma(x + r) - total * digamma(r) - spread - (weight @ x) / r)

    bounds = np.log(_CONCENTRATIONS)
    return jnp.exp(climb(value, slope, jnp.log(concentration), (bounds[0], bounds[1])))
