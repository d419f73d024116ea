"""What the Student-t families share: everything but the structure of the scatter matrix, an object of its own."""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    AbstractEMFamily,
    AbstractLinearCovariance,
    AbstractShape,
    ArrayLike,
    as_floating,
    as_host_or_traced,
    check_positive,
    DenseCovariance,
    DiagonalCovariance,
    EllipticalForm,
    is_traced,
    map_components,
    on_host,
    ProductForm,
    to_dense,
    unfused,
)

from ._newton import climb

# Degrees of freedom that are estimated stay between these: below 2 transport has no finite cost, and above 1000 a law
# is Gaussian to any purpose. Those that EM starts from.
_BOUNDS, _FIRST = (2.1, 1e3), 10.0


class WeightedMoments(NamedTuple):
    """Sums about the current locations, of points weighted by their latent precisions.

    Attributes:
        mass: Sums of the weights.
        first: First moments.
        second: Second moments, in the coordinates of the scatter's structure.
    """

    mass: Float[Array, " K"]
    first: Float[Array, "K d"]
    second: Float[Array, "K q"]


class _Sums(NamedTuple):
    """Moments, and what degrees of freedom depend on: the points and their responsibilities."""

    moments: WeightedMoments
    x: Float[Array, "d n"]
    responsibilities: Float[Array, "K n"]


class AbstractStudentT(AbstractEMFamily):
    """Multivariate Student-t components; a family adds the structure of its scatter matrix.

    A point is a Gaussian with the scatter divided by a latent precision, which is gamma distributed with mean one and
    shape df / 2. EM weighs points by the expected precision, (df + d) / (df + distance^2).
    """

    loc: eqx.AbstractVar[Float[Array, "K d"]]
    df: eqx.AbstractVar[Float[Array, " K"]]
    fixed_df: eqx.AbstractVar[bool]
    exchangeable: ClassVar = True
    standardization: ClassVar = "coordinate"
    streams: ClassVar = False
    heavy_tails: ClassVar = True
    _structure: ClassVar[type[AbstractLinearCovariance]]

    @abc.abstractmethod
    def _form(self) -> AbstractLinearCovariance:
        """The scatter matrix, of one component or of all."""

    @staticmethod
    @abc.abstractmethod
    def _second(centered: Float[Array, "d n"], weight: Float[Array, " n"]) -> Float[Array, " q"]:
        """Weighted sums of the coordinates of x x^T."""

    @staticmethod
    @abc.abstractmethod
    def _from_form(
        loc: Float[Array, "K d"], scatter: AbstractCovariance, df: Float[Array, " K"], fixed_df: bool
    ) -> "AbstractStudentT":
        """Components of this family where it holds the structure, else of the next wider one."""

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    # -- densities, draws and moments -----------------------------------------------------------------------------

    def _squared_length(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The squared Mahalanobis distance of a point from the location."""
        z = unfused(self._form().whiten(x - self.loc))
        return jnp.sum(z * z)

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return radial_log_density(self._squared_length(x), self.df, self.dim) - 0.5 * self._form().log_det()

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        noise_key, gamma_key = jax.random.split(key)
        log_precision = jax.random.loggamma(gamma_key, 0.5 * self.df, dtype=self.dtype) - jnp.log(0.5 * self.df)
        return self.loc + jnp.exp(-0.5 * log_precision) * self._form().noise(noise_key)

    def _mean(self) -> Float[Array, " d"]:
        return jnp.where(self.df > 1, self.loc, jnp.nan)

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.where(self.df > 2, inflation(jnp, self.df) * self._form().matrix(), jnp.inf)

    def _entropy(self) -> Float[Array, ""]:
        def power(df: Array) -> Array:
            return log_gamma_ratio(0.5 * df, self.dim)

        # The derivative of the ratio is the difference of digammas.
        tail = (self.df + self.dim) * jax.grad(power)(self.df)
        return 0.5 * (self._form().log_det() + self.dim * jnp.log(jnp.pi * self.df)) - power(self.df) + tail

    # -- transport --------------------------------------------------------------------------------------------------

    def elliptical_form(self) -> EllipticalForm:
        """Covariances df / (df - 2) times the scatter."""
        return EllipticalForm(_times(self._form(), self.df, inflation), self.df)

    def with_elliptical_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractStudentT":
        df = on_host(lambda xp, df: xp.broadcast_to(df[:1], mean.shape[:1]), self.df)
        scatter = _times(covariance, df, lambda xp, df: 1 / inflation(xp, df))
        return self._from_form(mean, scatter, df, self.fixed_df)

    def product_form(self) -> ProductForm | None:
        """In one dimension a coordinate has nothing to depend on."""
        if self.dim > 1:
            return None
        form = self._form()
        if isinstance(form, DiagonalCovariance):
            scale = on_host(lambda xp, scatter: xp.sqrt(scatter), form.variance)
        else:
            scale = on_host(lambda _, tril: tril[:, :, 0], to_dense(form).tril)
        return ProductForm(self.loc, scale, StudentShape(on_host(lambda _, df: df[:, None], self.df)))

    # -- EM ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AbstractStudentT":
        if set(fixed) - {"df"}:
            raise TypeError(f"{cls.__name__} takes `df` alone to be held fixed; got {', '.join(sorted(fixed))}.")
        loc = jnp.zeros((num_components, dim), dtype)
        df = as_degrees(fixed.get("df", _FIRST), loc)
        return cls._from_form(loc, cls._structure.identity(num_components, dim, dtype), df, "df" in fixed)

    def _fixed(self) -> dict[str, Any]:
        """The degrees of freedom, where they are; one number where all components share it."""
        if not self.fixed_df:
            return {}
        if is_traced(self.df) or (np.asarray(self.df) != np.asarray(self.df)[0]).any():
            return {"df": self.df}
        return {"df": np.asarray(self.df)[0]}

    def _num_parameters(self) -> int:
        quadratic = jax.eval_shape(lambda x: self._structure.coordinates(x), self.loc[0]).shape[0]
        return self.dim + quadratic + (not self.fixed_df)

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractStudentT":
        scaled = jax.vmap(lambda form: form.scaled(scale))(self._form())
        return self._from_form(shift[None] + scale[None] * self.loc, scaled, self.df, self.fixed_df)

    def _precision(self, squared: Array) -> Array:
        """The expected latent precision at a squared distance."""
        return (self.df + self.dim) / (self.df + squared)

    def _accumulate(self, data: Float[Array, "d n"], responsibilities: Float[Array, "K n"]) -> _Sums:
        def one(item: tuple["AbstractStudentT", Array]) -> WeightedMoments:
            component, weight = item
            latent = component._precision(jax.vmap(component._squared_length, in_axes=1)(data))
            return component._moments(data, weight * latent)

        return _Sums(map_components(one, (self, responsibilities), data.size), data, responsibilities)

    def _moments(self, data: Float[Array, "d n"], weight: Float[Array, " n"]) -> WeightedMoments:
        """The moments of weighted points about one component's location."""
        centered = data - self.loc[:, None]
        return WeightedMoments(jnp.sum(weight), centered @ weight, self._second(centered, weight))

    def _centered(self, moments: WeightedMoments) -> tuple[Float[Array, "K d"], Float[Array, "K q"]]:
        """Steps to the weighted means, and sums of squares about these; empty components stay where they are."""
        safe = jnp.where(moments.mass > 0, moments.mass, jnp.ones_like(moments.mass))[:, None]
        step = moments.first / safe
        return step, moments.second - moments.mass[:, None] * jax.vmap(self._structure.coordinates)(step)

    def _pooled(self, counts: Float[Array, " K"], sums: _Sums) -> Float[Array, " q"]:
        """The scatter within components, of points weighted by their precisions."""
        return jnp.sum(self._centered(sums.moments)[1], axis=0) / jnp.sum(counts)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: _Sums,
        target: Float[Array, " q"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractStudentT":
        """Location and scatter by weights, then the degrees of freedom that suit them best (ECME)."""
        step, squares = self._centered(sums.moments)
        total = (counts + strength)[:, None]
        unit = self._structure.identity(1, self.dim, self.dtype)
        floor = ridge * jax.vmap(lambda c: c.own_coordinates())(unit)
        scatter = (squares + strength * target[None]) / jnp.where(total > 0, total, jnp.ones_like(total)) + floor
        form = jax.vmap(lambda s: self._structure.from_coordinates(s, self.dim))(scatter)
        moved = self._from_form(self.loc + step, form, self.df, self.fixed_df)
        if self.fixed_df:
            return moved

        def one(item: tuple["AbstractStudentT", Array]) -> Float[Array, ""]:
            component, weight = item
            return component._best_df(jax.vmap(component._squared_length, in_axes=1)(sums.x), weight)

        df = map_components(one, (moved, sums.responsibilities), sums.x.size)
        return self._from_form(moved.loc, form, df, False)

    def _best_df(self, squared: Float[Array, " n"], weight: Float[Array, " n"]) -> Float[Array, ""]:
        """Degrees of freedom under which points at these distances are likelier than before."""

        def value(log_df: Float[Array, ""]) -> Float[Array, ""]:
            return jnp.sum(weight * radial_log_density(squared, jnp.exp(log_df), self.dim))

        bounds = math.log(_BOUNDS[0]), math.log(_BOUNDS[1])
        return jnp.exp(climb(value, jax.grad(value), jnp.log(self.df), bounds))

    def _log_prior(self, target: Float[Array, " q"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """-strength/2 (log det S + tr(S^-1 target)), whose mode in the scatter S is the target, singular or not."""
        return jax.vmap(lambda form: -0.5 * strength * (form.log_det() + form.inverse_trace(target)))(self._form())

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "AbstractStudentT":
        """The first M-step, without latent weights; one pseudo-observation keeps empty components valid."""
        counts = jnp.sum(responsibilities, axis=1)
        moments = map_components(lambda item: item[0]._moments(x, item[1]), (self, responsibilities), x.size)
        sums = _Sums(moments, x, responsibilities)
        return self._maximize(counts, sums, self._pooled(counts, sums), jnp.ones((), x.dtype), ridge)


class StudentShape(AbstractShape):
    """Standard Student-t laws on the line, with ``df`` degrees of freedom."""

    df: Float[Array, "*K d"]

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        return radial_log_density(z * z, self.df, 1)

    def _knots(self) -> Float[Array, " q"]:
        return jnp.array([-jnp.inf, jnp.inf], self.df.dtype)

    def _mean(self) -> Float[Array, ""]:
        return jnp.zeros_like(self.df)

    def _variance(self) -> Float[Array, ""]:
        return inflation(jnp, self.df)


def as_degrees(df: ArrayLike | None, loc: Float[Array, "K d"]) -> Float[Array, " K"]:
    """Degrees of freedom, one number or one for each component.

    Raises:
        ValueError: If a shape does not fit, or a number is not positive.
    """
    if df is None:
        raise TypeError("`df` must be given: degrees of freedom, one number or shape [K].")
    array = as_floating("df", df, "K" if as_host_or_traced("df", df).ndim else "", loc.dtype)
    if array.ndim and array.shape != loc.shape[:1]:
        raise ValueError(f"`df` must be a number or have shape {loc.shape[:1]} to match `loc`; got {array.shape}.")
    check_positive("df", array)
    return on_host(lambda xp, value: xp.broadcast_to(value, loc.shape[:1]), array)


def inflation(xp: Any, df: Any) -> Any:
    """What the covariance is of the scatter: df / (df - 2), infinite up to 2."""
    above = df > 2
    return xp.where(above, df / xp.where(above, df - 2, xp.ones_like(df)), xp.full_like(df, xp.inf))


def _times(form: AbstractCovariance, df: Float[Array, " K"], factor: Callable[[Any, Any], Any]) -> AbstractCovariance:
    """K matrices times a function of the degrees of freedom, in the structure that they have."""
    if isinstance(form, DiagonalCovariance):
        return DiagonalCovariance(on_host(lambda xp, v, df: factor(xp, df)[:, None] * v, form.variance, df))
    tril = to_dense(form).tril
    return DenseCovariance(on_host(lambda xp, t, df: xp.sqrt(factor(xp, df))[:, None, None] * t, tril, df))


def radial_log_density(squared: Array, df: Array, dim: int) -> Array:
    """The log-density of a standard Student-t law in several dimensions at points of a squared length."""
    normalizer = log_gamma_ratio(0.5 * df, dim) - 0.5 * dim * jnp.log(math.pi * df)
    return normalizer - 0.5 * (df + dim) * jnp.log1p(squared / df)


def log_gamma_ratio(start: Array, dim: int) -> Array:
    """Log of Gamma(start + dim / 2) / Gamma(start), without the difference of two large numbers."""
    place, ratio = start, jnp.zeros_like(start)
    if dim % 2:
        # Half a step, by Stirling's series twelve steps further up.
        steps = jnp.arange(12, dtype=start.dtype).reshape((12,) + (1,) * start.ndim)
        far = start + 12
        s = 1 / far**2
        series = (-1 / 8 + s * (1 / 192 + s * (-1 / 640 + s * (17 / 14336 - s * (31 / 18432))))) / far
        ratio = 0.5 * jnp.log(far) + series - jnp.sum(jnp.log1p(0.5 / (start + steps)), axis=0)
        place = start + 0.5
    if dim > 1:
        steps = jnp.arange(dim // 2, dtype=start.dtype).reshape((-1,) + (1,) * start.ndim)
        ratio = ratio + jnp.sum(jnp.log(place + steps), axis=0)
    return ratio
