"""What the Gaussian families share: moments, the stable log-density, and EM from first and second moments."""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractEMFamily,
    AbstractExponentialFamily,
    AbstractRegularEMFamily,
    map_components,
    unfused,
)

LOG_2PI = math.log(2 * math.pi)


class AbstractGaussian(AbstractExponentialFamily, AbstractEMFamily):
    """Gaussian components; a family adds the structure of its covariance.

    Every Gaussian is an exponential family, transported in closed form.
    """

    loc: Float[Array, "K d"]
    standardization: ClassVar = "coordinate"

    # -- the structure of the covariance, for one component -------------------------------------------------------

    @abc.abstractmethod
    def _whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        """A vector whose squared length is the squared Mahalanobis length of ``x``."""

    @abc.abstractmethod
    def _noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """A centered draw."""

    @abc.abstractmethod
    def _log_det(self) -> Float[Array, ""]:
        """The log-determinant of the covariance."""

    @abc.abstractmethod
    def _relative_trace(self, other: "AbstractGaussian") -> Float[Array, ""]:
        """tr(other's precision x own covariance), for the KL divergence."""

    @staticmethod
    @abc.abstractmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractGaussian":
        """Components with these moments, of this family where it holds the structure, else of the next wider one."""

    # -- densities, draws and moments -----------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        z = unfused(self._whiten(x - self.loc))
        return -0.5 * (jnp.sum(z * z) + self.dim * LOG_2PI + self._log_det())

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.loc + self._noise(key)

    def _mean(self) -> Float[Array, " d"]:
        return self.loc

    def with_gaussian_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractGaussian":
        return self._from_form(mean, covariance)

    def _entropy(self) -> Float[Array, ""]:
        return 0.5 * (self.dim * (1 + LOG_2PI) + self._log_det())

    def _kl_divergence(self, other: "AbstractGaussian") -> Float[Array, ""]:
        z = other._whiten(self.loc - other.loc)
        log_ratio = other._log_det() - self._log_det()
        return 0.5 * (self._relative_trace(other) - self.dim + jnp.sum(z * z) + log_ratio)


class AbstractMomentGaussian(AbstractGaussian, AbstractRegularEMFamily):
    """Gaussian components that are a regular exponential family in first and second moments: T(x) = (x, q(x))."""

    @abc.abstractmethod
    def _second_moments(self, x: Float[Array, " d"]) -> Float[Array, " q"]:
        """The quadratic sufficient statistics of one point."""

    @abc.abstractmethod
    def _with_moments(self, mean: Float[Array, "K d"], scatter: Float[Array, "K q"]) -> "AbstractMomentGaussian":
        """Components with the given means and centered second moments."""

    @abc.abstractmethod
    def _square(self, mean: Float[Array, "K d"]) -> Float[Array, "K q"]:
        """The quadratic statistics of the means."""

    @abc.abstractmethod
    def _ridge(self, ridge: Float[Array, ""]) -> Float[Array, " q"]:
        """The quadratic statistics of ``ridge`` times the identity."""

    @abc.abstractmethod
    def _whitened_trace(self, scatter: Float[Array, " q"]) -> Float[Array, ""]:
        """tr(Sigma^-1 S) for the centered second moments S."""

    @abc.abstractmethod
    def _scatter(self) -> Float[Array, "K q"]:
        """The centered second moments."""

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        return jnp.concatenate([x, self._second_moments(x)])

    def _mean_parameters(self) -> Float[Array, " m"]:
        batched = jax.tree.map(lambda leaf: leaf[None], self)
        return jnp.concatenate([self.loc, (batched._scatter() + batched._square(self.loc[None]))[0]])

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "AbstractMomentGaussian":
        mean, second = mean_parameters[:, : self.dim], mean_parameters[:, self.dim :]
        return self._with_moments(mean, second - self._square(mean))

    def _negative_dual(self) -> Float[Array, ""]:
        return self._entropy()

    # -- EM: natural form in float64, centered form in float32 ----------------------------------------------------

    def _seeding(self, num_components: int) -> AbstractRegularEMFamily:
        blank = type(self)._blank(num_components, self.dim, self.dtype)
        assert isinstance(blank, AbstractMomentGaussian)
        return blank

    def _prepare(self, x: Float[Array, "d n"], natural: bool) -> Float[Array, "p n"]:
        if not natural:
            return x
        return jax.vmap(self._sufficient_statistics, in_axes=1, out_axes=1)(x)

    def _table(self, data: Float[Array, "m n"], natural: bool) -> Float[Array, "K n"]:
        if natural:
            eta = self.natural_parameters()
            return unfused(eta @ data) - jax.vmap(lambda c: c._log_partition_at_own())(self)[:, None]
        return map_components(lambda c: jax.vmap(c._log_prob, in_axes=1)(data), self, data.size)

    def _log_partition_at_own(self) -> Float[Array, ""]:
        """The log-partition at the component's own natural parameters, without factoring the precision anew."""
        z = self._whiten(self.loc)
        return 0.5 * (jnp.sum(z * z) + self._log_det() + self.dim * LOG_2PI)

    def _accumulate(self, data: Float[Array, "p n"], responsibilities: Float[Array, "K n"], natural: bool) -> "Moments":
        counts = jnp.sum(responsibilities, axis=1)
        if natural:
            sums = responsibilities @ data.T
            return Moments(sums[:, : self.dim], sums[:, self.dim :], jnp.zeros_like(self.loc))

        def one(item: tuple[Any, Array]) -> tuple[Array, Array]:
            component, weight = item
            centered = data - component.loc[:, None]
            second = jax.vmap(self._second_moments, in_axes=1, out_axes=1)(centered)
            return centered @ weight, second @ weight

        first, second = map_components(one, (self, responsibilities), data.size)
        return Moments(first, second, self.loc * counts[:, None])

    def _pooled(self, counts: Float[Array, " K"], sums: "Moments") -> Float[Array, " q"]:
        _, scatter = self._center(counts, sums)
        return (counts / jnp.sum(counts)) @ scatter

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: "Moments",
        target: Float[Array, " q"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractMomentGaussian":
        mean, scatter = self._center(counts, sums)
        share = (counts / (counts + strength))[:, None]
        return self._with_moments(mean, share * scatter + (1 - share) * target[None] + self._ridge(ridge)[None])

    def _log_prior(self, target: Float[Array, " q"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """-strength/2 (log det Sigma + tr(Sigma^-1 target)), whose mode in Sigma is the target, singular or not."""
        return jax.vmap(lambda c: -0.5 * strength * (c._log_det() + c._whitened_trace(target)))(self)

    def _center(self, counts: Float[Array, " K"], sums: "Moments") -> tuple[Array, Array]:
        """Means and centered second moments; empty components get their origin and zero."""
        safe = jnp.where(counts > 0, counts, jnp.ones_like(counts))[:, None]
        step = sums.first / safe
        return sums.origin / safe + step, sums.second / safe - self._square(step)


class Moments(NamedTuple):
    """Sums of first and second moments about an origin, which is itself summed with the same weights."""

    first: Float[Array, "K d"]
    second: Float[Array, "K q"]
    origin: Float[Array, "K d"]
