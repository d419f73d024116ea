"""What the Gaussian families share: everything but the structure of the covariance, which is an object of its own."""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractEMFamily,
    AbstractExponentialFamily,
    AbstractInvertibleCovariance,
    AbstractLinearCovariance,
    AbstractPriors,
    AbstractRegularEMFamily,
    draw_location,
    draw_variance,
    location_prior,
    map_components,
    read_moments,
    spread_of,
    to_jax,
    unfused,
    variance_prior,
    within_scale,
)

LOG_2PI = math.log(2 * math.pi)


class AbstractGaussian(AbstractExponentialFamily, AbstractEMFamily):
    """Gaussian components; a family adds the structure of its covariance.

    Every Gaussian is an exponential family, transported in closed form.
    """

    loc: Float[Array, "K d"]
    standardization: ClassVar = "coordinate"

    @abc.abstractmethod
    def _form(self) -> AbstractInvertibleCovariance:
        """The covariance, of one component or of all."""

    @staticmethod
    @abc.abstractmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractGaussian":
        """Components with these moments, of this family where it holds the structure, else of the next wider one."""

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        form = self._form()
        z = unfused(form.whiten(x - self.loc))
        return -0.5 * (jnp.sum(z * z) + self.dim * LOG_2PI + form.log_det())

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.loc + self._form().noise(key)

    def _mean(self) -> Float[Array, " d"]:
        return self.loc

    def _covariance(self) -> Float[Array, "d d"]:
        return self._form().matrix()

    def gaussian_form(self) -> AbstractCovariance:
        return self._form()

    def with_gaussian_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractGaussian":
        return self._from_form(mean, covariance)

    def _entropy(self) -> Float[Array, ""]:
        return 0.5 * (self.dim * (1 + LOG_2PI) + self._form().log_det())

    def _kl_divergence(self, other: "AbstractGaussian") -> Float[Array, ""]:
        own, theirs = self._form(), other._form()
        z = theirs.whiten(self.loc - other.loc)
        log_ratio = theirs.log_det() - own.log_det()
        return 0.5 * (own.relative_trace(theirs) - self.dim + jnp.sum(z * z) + log_ratio)

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractGaussian":
        scaled = jax.vmap(lambda form: form.scaled(scale))(self._form())
        return self._from_form(shift[None] + scale[None] * self.loc, scaled)


class AbstractMomentGaussian(AbstractGaussian, AbstractRegularEMFamily):
    """Gaussian components that are a regular exponential family in first and second moments: T(x) = (x, q(x)).

    The quadratic statistics q are the coordinates of x x^T in the structure of the covariance.
    """

    _structure: ClassVar[type[AbstractLinearCovariance]]

    @abc.abstractmethod
    def _form(self) -> AbstractLinearCovariance:
        """The covariance, of one component or of all."""

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        return jnp.concatenate([x, self._structure.coordinates(x)])

    def _mean_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate([self.loc, self._form().own_coordinates() + self._structure.coordinates(self.loc)])

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "AbstractMomentGaussian":
        mean, second = mean_parameters[:, : self.dim], mean_parameters[:, self.dim :]
        return self._with_moments(mean, second - self._square(mean))

    def _natural_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate(self._form().natural(self.loc))

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return self._structure.log_integral(eta[: self.dim], eta[self.dim :]) + 0.5 * self.dim * LOG_2PI

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "AbstractMomentGaussian":
        parts = natural_parameters[:, : self.dim], natural_parameters[:, self.dim :]
        return self._made(*jax.vmap(self._structure.from_natural)(*parts))

    def _negative_dual(self) -> Float[Array, ""]:
        return self._entropy()

    def _log_partition_at_own(self) -> Float[Array, ""]:
        """The log-partition at the component's own natural parameters, without factoring the precision anew."""
        form = self._form()
        z = form.whiten(self.loc)
        return 0.5 * (jnp.sum(z * z) + form.log_det() + self.dim * LOG_2PI)

    def _made(self, mean: Float[Array, "K d"], form: AbstractCovariance) -> "AbstractMomentGaussian":
        """Components of this family with these moments."""
        components = self._from_form(mean, form)
        assert isinstance(components, type(self))
        return components

    def _with_moments(self, mean: Float[Array, "K d"], scatter: Float[Array, "K q"]) -> "AbstractMomentGaussian":
        """Components with the given means and centered second moments."""
        return self._made(mean, jax.vmap(lambda s: self._structure.from_coordinates(s, self.dim))(scatter))

    def _square(self, mean: Float[Array, "K d"]) -> Float[Array, "K q"]:
        """The quadratic statistics of the means."""
        return jax.vmap(self._structure.coordinates)(mean)

    # -- EM: natural form in float64, centered form in float32 ----------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AbstractMomentGaussian":
        mean = to_jax(np.zeros((num_components, dim), dtype))
        blank = cls._from_form(mean, cls._structure.identity(num_components, dim, dtype))
        assert isinstance(blank, cls)
        return blank

    def _prior_strength(self) -> float:
        return 3.0

    def _prepare(self, x: Float[Array, "d n"]) -> Float[Array, "p n"]:
        if x.dtype != jnp.float64:
            return x
        return jax.vmap(self._sufficient_statistics, in_axes=1, out_axes=1)(x)

    def _table(self, data: Float[Array, "m n"]) -> Float[Array, "K n"]:
        if data.dtype != jnp.float64:
            return map_components(lambda c: jax.vmap(c._log_prob, in_axes=1)(data), self, data.size)
        eta = self.natural_parameters()
        return unfused(eta @ data) - jax.vmap(lambda c: c._log_partition_at_own())(self)[:, None]

    def _accumulate(self, data: Float[Array, "p n"], responsibilities: Float[Array, "K n"]) -> "Moments":
        if data.dtype == jnp.float64:
            sums = responsibilities @ data.T
            return Moments(sums[:, : self.dim], sums[:, self.dim :], jnp.zeros_like(self.loc))
        counts = jnp.sum(responsibilities, axis=1)

        def one(item: tuple[Any, Array]) -> tuple[Array, Array]:
            component, weight = item
            centered = data - component.loc[:, None]
            second = jax.vmap(self._structure.coordinates, in_axes=1, out_axes=1)(centered)
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
        unit = self._structure.identity(1, self.dim, self.dtype)
        floor = ridge * jax.vmap(lambda c: c.own_coordinates())(unit)
        return self._with_moments(mean, share * scatter + (1 - share) * target[None] + floor)

    def _log_prior(self, target: Float[Array, " q"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """-strength/2 (log det Sigma + tr(Sigma^-1 target)), whose mode in Sigma is the target, singular or not."""
        return jax.vmap(lambda form: -0.5 * strength * (form.log_det() + form.inverse_trace(target)))(self._form())

    def _center(self, counts: Float[Array, " K"], sums: "Moments") -> tuple[Array, Array]:
        """Means and centered second moments; empty components get their origin and zero."""
        safe = jnp.where(counts > 0, counts, jnp.ones_like(counts))[:, None]
        step = sums.first / safe
        return sums.origin / safe + step, sums.second / safe - self._square(step)


class VariancePriors(AbstractPriors):
    """Normal means, and inverse gamma variances of a component's share of the data."""

    def default(self, components: Any, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        within = within_scale(scale, components.num_components)
        # One variance for all coordinates has their mean.
        within = np.sqrt(np.mean(within**2)) if components.variance.ndim == 1 else within
        return {"loc": location_prior(center, scale), "variance": variance_prior(within)}

    def hyperparameters(
        self, components: Any, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        return read_moments(priors, components.loc, components.variance, origin)

    def draw(
        self, key: Key[Array, ""], components: Any, counts: Float[Array, " K"], sums: "Moments", hyper: Any
    ) -> "AbstractMomentGaussian":
        """The mean given the variances, then the variances given the mean."""
        loc_key, variance_key = jax.random.split(key)
        mean, scatter = components._center(counts, sums)
        shape, num = components.variance.shape, counts[:, None]
        loc = draw_location(loc_key, hyper["loc"], 1 / components.variance.reshape(len(num), -1), counts, mean)
        squares = num * (scatter + components._square(mean - loc))
        deviations = jnp.broadcast_to(num * (components.dim // squares.shape[1]), squares.shape)
        drawn = draw_variance(variance_key, hyper["variance"], deviations.reshape(shape), squares.reshape(shape))
        return type(components)(loc, drawn)


class Moments(NamedTuple):
    """Sums of first and second moments about an origin, which is itself summed with the same weights."""

    first: Float[Array, "K d"]
    second: Float[Array, "K q"]
    origin: Float[Array, "K d"]
