"""Components with independent negative binomial counts."""

from collections.abc import Callable
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

from ._counts import check_counts, thinned
from ._newton import climb

# Rates are kept above this; concentrations between these: counts of a larger one are Poisson, to any purpose.
_LEAST_RATE, _CONCENTRATIONS = 1e-8, (1e-3, 1e5)
# Sums over counts up to this one are sums over tables.
_TABLE = 256
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
        return _draw(key, self.rate, self.concentration)

    def _mean(self) -> Float[Array, " d"]:
        return self.rate

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(self.rate + self.rate**2 / self.concentration)

    def _sized(self, size: Float[Array, ""]) -> "NegativeBinomial":
        return eqx.tree_at(lambda own: own.rate, self, size * self.rate)

    def _to_size_one(self, key: Key[Array, ""], x: Float[Array, " d"], size: Float[Array, ""]) -> Float[Array, " d"]:
        thin_key, more_key = jax.random.split(key)
        # The gamma law of the rate of a point, given its counts.
        concentration = self.concentration + x
        rate = self.rate * concentration / (self.concentration + size * self.rate)
        return thinned(thin_key, x, size) + _draw(more_key, jnp.maximum(1 - size, 0.0) * rate, concentration)

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
        # Points that fill up the data have no weight, but any counts.
        far = jnp.any((sums.x > _TABLE) & (jnp.sum(sums.responsibilities, axis=0) > 0)[None])

        def one(item: tuple[Array, ...]) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
            before, mean, concentration, weight, share, tails = item

            def column(x: Array, tails: Array, old: Array, mean: Array, r: Array, target: Array) -> tuple[Array, Array]:
                data = _Column(x, sums.sizes, weight, tails, far, target, strength)
                if sums.sizes is not None:
                    mean = data.rate(jnp.stack([old, mean]), r)
                rate = jnp.maximum((1 - share) * mean + share * target, _LEAST_RATE)
                return rate, data.concentration(rate, r)

            return jax.vmap(column)(sums.x, tails, before, mean, concentration, target)

        items = (self.rate, mean, self.concentration, sums.responsibilities, share[:, 0], _tails(sums))
        return NegativeBinomial(*map_components(one, items, sums.x.size))

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


def _draw(key: Key[Array, ""], rate: Float[Array, " d"], concentration: Float[Array, " d"]) -> Float[Array, " d"]:
    gamma_key, poisson_key = jax.random.split(key)
    gamma = jnp.exp(jax.random.loggamma(gamma_key, concentration, dtype=rate.dtype))
    return jax.random.poisson(poisson_key, gamma * rate / concentration).astype(rate.dtype)


def _log_mass(x: Array, rate: Array, concentration: Array) -> Array:
    """Log-probabilities of counts; ``-inf`` below zero and between whole numbers is left to the caller."""
    over = jnp.log1p(rate / concentration)
    # The logarithm of x successes' share, without a difference of logarithms of large numbers.
    success = jnp.log(rate) - jnp.log(concentration) - over
    choose = gammaln(x + concentration) - gammaln(concentration) - gammaln(x + 1)
    return choose - concentration * over + x * success


def _tails(sums: _Sums) -> Float[Array, "K d t"]:
    """How much weight counts above 0, 1, 2, ... have: all that a sum over gamma functions of counts depends on."""

    def column(x: Float[Array, " n"]) -> Float[Array, "K t"]:
        places = jnp.minimum(x, _TABLE).astype(int)
        found = jnp.zeros((_TABLE + 1, sums.totals.shape[0]), x.dtype).at[places].add(sums.responsibilities.T)
        return jnp.cumsum(found[:0:-1], axis=0)[::-1].T

    return jnp.swapaxes(jax.lax.map(column, sums.x), 0, 1)


class _Column(NamedTuple):
    """One coordinate of one component: what its likelihood depends on.

    Attributes:
        x: Counts.
        sizes: Their size factors, where they have some.
        weight: Their weights.
        tails: How much weight counts above 0, 1, 2, ... have.
        far: Whether there are counts beyond these.
        target: Where the pseudo-observations lie, at a size factor of one.
        strength: How many they are.
    """

    x: Float[Array, " n"]
    sizes: Float[Array, " n"] | None
    weight: Float[Array, " n"]
    tails: Float[Array, " t"]
    far: Array
    target: Array
    strength: Array

    def rate(self, places: Float[Array, " p"], r: Array) -> Array:
        """Guarded Newton steps on the logarithm of the rate, from the better of some places."""
        starts = jnp.log(jnp.maximum(places, _LEAST_RATE))

        def value(log_rate: Array) -> Array:
            return self._mass() * log_rate - self._sum(lambda x, mean: (x + r) * jnp.log1p(mean / r), jnp.exp(log_rate))

        def slope(log_rate: Array) -> Array:
            return self._sum(lambda x, mean: x - (x + r) * mean / (r + mean), jnp.exp(log_rate))

        start = starts[jnp.argmax(jax.vmap(value)(starts))]
        return jnp.exp(climb(value, slope, start, (np.log(_LEAST_RATE), np.inf)))

    def concentration(self, rate: Array, start: Array) -> Array:
        """Guarded Newton steps on the logarithm of the concentration, given the rate."""

        def value(log_r: Array) -> Array:
            r = jnp.exp(log_r)
            spread = self._sum(lambda x, mean: (x + r) * jnp.log1p(mean / r), rate)
            return self._rising(jnp.log, gammaln, r) - spread - self._mass() * log_r

        def slope(log_r: Array) -> Array:
            r = jnp.exp(log_r)
            spread = self._sum(
                lambda x, mean: jnp.log1p(mean / r) - (x + r) * mean / (r * (r + mean)) + x / r,
                rate,
            )
            return r * (self._rising(jnp.reciprocal, digamma, r) - spread)

        bounds = np.log(_CONCENTRATIONS)
        return jnp.exp(climb(value, slope, jnp.log(start), (bounds[0], bounds[1])))

    def _mass(self) -> Array:
        return self.weight @ self.x + self.strength * self.target

    def _sum(self, term: Callable[[Array, Array], Array], rate: Array) -> Array:
        """The weighted sum of a term in counts and their means, which is linear in the counts."""
        more = self.strength * term(self.target, rate)
        if self.sizes is not None:
            return self.weight @ term(self.x, self.sizes * rate) + more
        total = jnp.sum(self.weight)
        mean = (self.weight @ self.x) / jnp.where(total > 0, total, jnp.ones_like(total))
        return total * term(mean, rate) + more

    def _rising(self, step: Callable[[Array], Array], whole: Callable[[Array], Array], r: Array) -> Array:
        """The sum of ``whole(x + r) - whole(r)``, for a function that grows by ``step(z)`` from z to z + 1."""
        table = self.tails @ step(r + jnp.arange(_TABLE, dtype=r.dtype))

        def beyond() -> Array:
            return self.weight @ jnp.where(self.x > _TABLE, whole(self.x + r) - whole(_TABLE + r), 0.0)

        rest = jax.lax.cond(self.far, beyond, lambda: jnp.zeros_like(table))
        return table + rest + self.strength * (whole(self.target + r) - whole(r))
