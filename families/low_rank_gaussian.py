"""Gaussian components whose covariance is a low-rank part plus a diagonal: mixtures of factor analyzers."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractInvertibleCovariance,
    AbstractPriors,
    ArrayLike,
    as_count,
    as_floating,
    check_positive,
    check_shape,
    DenseCovariance,
    each,
    is_traced,
    location_prior,
    LowRankCovariance,
    map_components,
    spread_of,
    to_jax,
    variance_prior,
    within_scale,
)

from ._gaussian_base import AbstractGaussian
from .gaussian import Gaussian


class FactorCovariance(AbstractInvertibleCovariance):
    """A low-rank part plus a diagonal one: ``factor @ factor.T + diag(variance)``; no d x d matrix is factored."""

    factor: Float[Array, "*K d r"]
    variance: Float[Array, "*K d"]

    @property
    def dim(self) -> int:
        return self.variance.shape[-1]

    def matrix(self) -> Float[Array, "d d"]:
        return self.factor @ self.factor.T + jnp.diag(self.variance)

    def scale_tril(self) -> Float[Array, "d d"]:
        return jnp.linalg.cholesky(self.matrix())

    def trace(self) -> Float[Array, ""]:
        return jnp.sum(self.factor**2) + jnp.sum(self.variance)

    def latent(self) -> tuple[Array, Array]:
        """Scaled loadings G = D^-1/2 F, and the Cholesky factor of the latent precision I + G'G."""
        scaled = self.factor / jnp.sqrt(self.variance)[:, None]
        return scaled, jnp.linalg.cholesky(jnp.eye(scaled.shape[1], dtype=scaled.dtype) + scaled.T @ scaled)

    def regression(self) -> Float[Array, "r d"]:
        """E[latent | x] as a matrix applied to centered points."""
        scaled, tril = self.latent()
        return cho_solve((tril, True), scaled.T / jnp.sqrt(self.variance)[None])

    def whiten(self, x: Float[Array, " d"]) -> Float[Array, " p"]:
        """Residual and latent mean: their squared lengths add up to the Mahalanobis length without cancellation."""
        latent = self.regression() @ x
        return jnp.concatenate([(x - self.factor @ latent) / jnp.sqrt(self.variance), latent])

    def noise(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        rank = self.factor.shape[-1]
        z = jax.random.normal(key, (rank + self.dim,), self.variance.dtype)
        return self.factor @ z[:rank] + jnp.sqrt(self.variance) * z[rank:]

    def log_det(self) -> Float[Array, ""]:
        return jnp.sum(jnp.log(self.variance)) + 2 * jnp.sum(jnp.log(jnp.diagonal(self.latent()[1])))

    def relative_trace(self, other: "FactorCovariance") -> Float[Array, ""]:
        columns = jnp.concatenate([self.factor, jnp.diag(jnp.sqrt(self.variance))], axis=1)
        return jnp.sum(jax.vmap(other.whiten, in_axes=1)(columns) ** 2)

    def scaled(self, scale: Float[Array, " d"]) -> "FactorCovariance":
        return FactorCovariance(scale[:, None] * self.factor, scale**2 * self.variance)


class _Priors(AbstractPriors):
    """Normal means and loadings, and inverse gamma variances."""

    def default(self, components: "LowRankGaussian", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        within = within_scale(scale, components.num_components)
        # Half of the variance is the factors', half the diagonal part's, on average.
        loading = np.broadcast_to((within / (2 * components.rank) ** 0.5)[:, None], (components.dim, components.rank))
        factor = dist.Normal(jax.device_put(0 * loading), jax.device_put(loading), validate_args=False).to_event(2)
        return {"loc": location_prior(center, scale), "factor": factor, "variance": variance_prior(within / 2**0.5)}


class LowRankGaussian(AbstractGaussian):
    """K Gaussian components with covariance ``factor @ factor.T + diag(variance)``.

    A curved exponential family: its natural parameters are those of `Gaussian`, restricted to a surface. EM runs on the
    latent factors (Ghahramani and Hinton, 1996), without any d x d matrix. Fit it with
    ``omt.template(LowRankGaussian, rank=r)``.

    Attributes:
        loc: Means, shape ``[K, d]``.
        factor: Factor loadings, shape ``[K, d, r]``; r is static.
        variance: Variances of the diagonal part, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    factor: Float[Array, "K d r"]
    variance: Float[Array, "K d"]
    priors: ClassVar = _Priors()

    def __init__(self, mean: ArrayLike, factor: ArrayLike, variance: ArrayLike):
        """Build components from means ``[K, d]``, loadings ``[K, d, r]`` and variances ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a variance is not positive.
        """
        self.loc = as_floating("mean", mean, "K d")
        self.factor = as_floating("factor", factor, "K d r", self.loc.dtype)
        self.variance = as_floating("variance", variance, "K d", self.loc.dtype)
        check_shape("factor", self.factor, (*self.loc.shape, self.factor.shape[2]), "`mean`")
        check_shape("variance", self.variance, self.loc.shape, "`mean`")
        check_positive("variance", self.variance)

    @property
    def rank(self) -> int:
        """The number r of factors."""
        return self.factor.shape[-1]

    def to_gaussian(self) -> Gaussian:
        """The same components with dense covariances."""
        return Gaussian(self.loc, self.covariance())

    def _form(self) -> "FactorCovariance":
        return FactorCovariance(self.factor, self.variance)

    @staticmethod
    def _from_form(mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractGaussian:
        if isinstance(covariance, FactorCovariance):
            return LowRankGaussian(mean, covariance.factor, covariance.variance)
        return Gaussian._from_form(mean, covariance)

    # -- the exponential-family view, through the dense Gaussian ----------------------------------------------------

    def _dense(self) -> Gaussian:
        """One component as a one-component dense Gaussian."""
        return Gaussian(self.loc[None], scale_tril=self._form().scale_tril()[None])

    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        return jnp.concatenate([x, DenseCovariance.coordinates(x)])

    def _natural_parameters(self) -> Float[Array, " m"]:
        return self._dense().natural_parameters()[0]

    def _mean_parameters(self) -> Float[Array, " m"]:
        return self._dense().mean_parameters()[0]

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return self._dense().log_partition(eta[None])[0]

    # -- transport, NumPyro ---------------------------------------------------------------------------------------

    def gaussian_form(self) -> AbstractCovariance:
        """The cheap low-rank structure where every diagonal part is a multiple of the identity, else dense."""
        if not is_traced(self.variance):
            variance = np.asarray(self.variance)
            if (variance == variance[:, :1]).all():
                return LowRankCovariance(self.factor, to_jax(variance[:, 0]))
        return DenseCovariance(each("_scale_tril", self))

    def _scale_tril(self) -> Float[Array, "d d"]:
        """The Cholesky factor of the covariance of one component."""
        return self._form().scale_tril()

    def to_numpyro(self) -> dist.Distribution:
        return dist.LowRankMultivariateNormal(self.loc, self.factor, self.variance)

    # -- EM on the latent factors ---------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "LowRankGaussian":
        if "rank" not in fixed:
            raise TypeError("LowRankGaussian needs its rank: fit omt.template(LowRankGaussian, rank=r).")
        rank = as_count("rank", fixed["rank"], minimum=1)
        if rank >= dim:
            raise ValueError(f"`rank` must be smaller than the dimension {dim}; got {rank}. Use Gaussian instead.")
        shape = (num_components, dim)
        return LowRankGaussian(jnp.zeros(shape, dtype), jnp.zeros((*shape, rank), dtype), jnp.ones(shape, dtype))

    def _fixed(self) -> dict[str, Any]:
        return {"rank": self.rank}

    def _num_parameters(self) -> int:
        return 2 * self.dim + self.dim * self.rank - self.rank * (self.rank - 1) // 2

    def _prior_strength(self) -> float:
        return self.rank + 3.0

    def _accumulate(self, data: Float[Array, "d n"], responsibilities: Float[Array, "K n"]) -> "FactorMoments":
        def one(item: tuple["LowRankGaussian", Array]) -> "FactorMoments":
            component, weight = item
            centered = data - component.loc[:, None]
            weighted = centered * weight[None]
            return FactorMoments(
                jnp.sum(weighted, axis=1),
                jnp.sum(weighted * centered, axis=1),
                weighted @ (component._form().regression() @ centered).T,
            )

        return map_components(one, (self, responsibilities), data.size)

    def _pooled(self, counts: Float[Array, " K"], sums: "FactorMoments") -> Float[Array, " d"]:
        safe = jnp.where(counts > 0, counts, jnp.ones_like(counts))[:, None]
        return (counts / jnp.sum(counts)) @ (sums.square / safe - (sums.first / safe) ** 2)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: "FactorMoments",
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "LowRankGaussian":
        def one(item: tuple["LowRankGaussian", Array, "FactorMoments"]) -> tuple[Array, Array, Array]:
            component, count, moments = item
            safe = jnp.where(count > 0, count, jnp.ones_like(count))
            share = count / (count + strength)
            regression = component._form().regression()
            step = moments.first / safe
            diagonal = share * (moments.square / safe - step**2) + (1 - share) * target + ridge
            cross = share * (moments.cross / safe - jnp.outer(step, regression @ step))
            cross = cross + (((1 - share) * target + ridge)[None] * regression).T
            tril = component._form().latent()[1]
            second = cho_solve((tril, True), jnp.eye(self.rank, dtype=cross.dtype)) + regression @ cross
            factor = cho_solve(cho_factor(0.5 * (second + second.T), lower=True), cross.T).T
            return (
                component.loc + step,
                factor,
                jnp.maximum(diagonal - jnp.sum(factor * cross, axis=1), ridge),
            )

        return LowRankGaussian(*jax.vmap(lambda *item: one(item))(self, counts, sums))

    def _log_prior(self, target: Float[Array, " d"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """-strength/2 (log det Sigma + tr(Sigma^-1 diag(target)))."""

        def one(component: "LowRankGaussian") -> Float[Array, ""]:
            form = component._form()
            scaled, root = form.latent()[0], jnp.sqrt(component.variance)
            explained = jnp.sum((form.regression().T * scaled) * (target / root)[:, None])
            return -0.5 * strength * (form.log_det() + jnp.sum(target / component.variance) - explained)

        return jax.vmap(one)(self)

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "LowRankGaussian":
        """Weighted means and leading subspaces, by a few block power iterations."""
        total = jnp.sum(responsibilities)
        pooled_mean = x @ jnp.sum(responsibilities, axis=0) / total
        spread = ((x - pooled_mean[:, None]) ** 2) @ jnp.sum(responsibilities, axis=0) / total

        def one(weight: Float[Array, " n"]) -> tuple[Array, Array, Array]:
            count = jnp.sum(weight) + 1
            mean = (x @ weight + pooled_mean) / count
            centered = x - mean[:, None]
            diagonal = ((centered**2) @ weight + spread) / count + ridge
            basis = jax.random.normal(jax.random.key(0), (self.dim, self.rank), x.dtype)
            for _ in range(6):
                image = centered @ (weight[:, None] * (centered.T @ basis)) / count
                basis, _ = jnp.linalg.qr(image + ridge * basis)
            energy = jnp.sum((basis.T @ centered) ** 2 * weight[None], axis=1) / count
            rest = jnp.maximum(jnp.sum(diagonal) - jnp.sum(energy), ridge) / self.dim
            factor = basis * jnp.sqrt(jnp.maximum(energy - rest, ridge))[None]
            return mean, factor, jnp.maximum(diagonal - jnp.sum(factor**2, axis=1), 0.05 * diagonal)

        return LowRankGaussian(*map_components(one, responsibilities, x.size))


class FactorMoments(NamedTuple):
    """Sums about the current means: first moments, squares, and cross moments with the latent means."""

    first: Float[Array, "K d"]
    square: Float[Array, "K d"]
    cross: Float[Array, "K d r"]
