"""The Bayesian part of the Student-t families: priors, and Gibbs draws given latent precisions."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints, transforms

from omt_expfam.extend import AbstractPriors, check_names, location_prior, slice_draw, spread_of, within_scale

from ._student_base import AbstractStudentT, WeightedMoments


class LatentSums(NamedTuple):
    """Moments weighted by drawn latent precisions u, and sums of log u - u, all that degrees of freedom depend on."""

    moments: WeightedMoments
    balance: Float[Array, " K"]


class StudentPriors(AbstractPriors):
    """Normal locations, the scatter's prior as a covariance has it, and 2 + Gamma(2, 0.1) degrees of freedom.

    The prior of the degrees of freedom is that of Juárez and Steel (2010), moved to where variances exist.
    """

    # The parameter that is the scatter.
    scatter: str

    @abc.abstractmethod
    def _default_scatter(self, within: Any) -> dist.Distribution:
        """The default prior of the scatter, from the scale of one component's share of the data."""

    @abc.abstractmethod
    def _read(self, components: Any, priors: dict[str, Any]) -> tuple[Any, Any]:
        """The hyperparameters of location and scatter."""

    @abc.abstractmethod
    def _draw_moments(
        self, key: Key[Array, ""], components: Any, counts: Float[Array, " K"], moments: WeightedMoments, hyper: Any
    ) -> tuple[Any, Any]:
        """Locations and the covariance structure of scatters, given latent precisions."""

    def default(self, components: AbstractStudentT, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        within = within_scale(scale, components.num_components)
        priors = {"loc": location_prior(center, scale), self.scatter: self._default_scatter(within)}
        return priors if components.fixed_df else priors | {"df": _degrees_prior(x.dtype)}

    def hyperparameters(
        self, components: AbstractStudentT, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> dict[str, Any]:
        check_names(priors, "loc", self.scatter, *(() if components.fixed_df else ("df",)))
        loc, scatter = self._read(components, priors)
        return {"loc": loc.less(origin), "scatter": scatter, "df": priors.get("df")}

    def sums(
        self, key: Key[Array, ""], components: AbstractStudentT, data: Float[Array, "d n"], labels: Float[Array, "K n"]
    ) -> LatentSums:
        """One latent precision for each point, given its label; padding has none and counts for nothing."""

        def length(component: AbstractStudentT) -> Float[Array, " n"]:
            return jax.vmap(component._squared_length, in_axes=1)(data)

        used = jnp.sum(labels, axis=0)
        df = labels.T @ components.df + (1 - used) * components.df[0]
        squared = jnp.sum(labels * jax.vmap(length)(components), axis=0)
        log_gamma = jax.random.loggamma(key, 0.5 * (df + components.dim), dtype=squared.dtype)
        log_latent = log_gamma - jnp.log(0.5 * (df + squared))
        latent = jnp.exp(log_latent)
        moments = jax.vmap(lambda c, label: c._moments(data, label * latent))(components, labels)
        return LatentSums(moments, labels @ (log_latent - latent))

    def draw(
        self,
        key: Key[Array, ""],
        components: AbstractStudentT,
        counts: Float[Array, " K"],
        sums: LatentSums,
        hyper: Any,
    ) -> AbstractStudentT:
        """Location, scatter, and degrees of freedom by slice sampling, each given all else."""
        key, df_key = jax.random.split(key)
        loc, form = self._draw_moments(key, components, counts, sums.moments, hyper)
        df = components.df
        if hyper["df"] is not None:
            df = _draw_degrees(df_key, hyper["df"], df, counts, sums.balance)
        return components._from_form(loc, form, df, components.fixed_df)


def _degrees_prior(dtype: Any) -> dist.Distribution:
    gamma = dist.Gamma(jnp.asarray(2, dtype), jnp.asarray(0.1, dtype), validate_args=False)
    shift = transforms.AffineTransform(2.0, 1.0, domain=constraints.positive)
    return dist.TransformedDistribution(gamma, shift, validate_args=False)


def _draw_degrees(
    key: Key[Array, ""], prior: Any, df: Float[Array, " K"], counts: Float[Array, " K"], balance: Float[Array, " K"]
) -> Float[Array, " K"]:
    """Degrees of freedom given latent precisions."""

    def log_likelihood(df: Float[Array, " K"]) -> Float[Array, " K"]:
        half = 0.5 * df
        return counts * (half * jnp.log(half) - jax.scipy.special.gammaln(half)) + half * balance

    return slice_draw(key, prior, df, log_likelihood)
