"""Student-t components with diagonal scatter matrices."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    ArrayLike,
    as_floating,
    check_positive,
    check_shape,
    DiagonalCovariance,
    draw_location,
    draw_variance,
    read_inverse_gamma,
    read_normal,
    variance_prior,
)

from ._student_base import AbstractStudentT, as_degrees, WeightedMoments
from ._student_priors import StudentPriors
from .student_t import StudentT


class _Priors(StudentPriors):
    """With inverse gamma entries of the scatters."""

    scatter = "scatter"

    def _default_scatter(self, within: Any) -> dist.Distribution:
        return variance_prior(within)

    def _read(self, components: "DiagonalStudentT", priors: dict[str, Any]) -> tuple[Any, Any]:
        loc = read_normal("loc", priors["loc"], components.loc)
        return loc, read_inverse_gamma("scatter", priors["scatter"], components.scatter)

    def _draw_moments(
        self,
        key: Key[Array, ""],
        components: "DiagonalStudentT",
        counts: Float[Array, " K"],
        moments: WeightedMoments,
        hyper: Any,
    ) -> tuple[Array, DiagonalCovariance]:
        loc_key, scatter_key = jax.random.split(key)
        step, squares = components._centered(moments)
        mean, mass = components.loc + step, moments.mass
        loc = draw_location(loc_key, hyper["loc"], 1 / components.scatter, mass, mean)
        about = squares + mass[:, None] * (mean - loc) ** 2
        return loc, DiagonalCovariance(draw_variance(scatter_key, hyper["scatter"], counts[:, None], about))


class DiagonalStudentT(AbstractStudentT):
    """K multivariate Student-t components with diagonal scatter matrices.

    `StudentT` with few parameters. Coordinates are uncorrelated but *not independent*: they share one latent precision,
    so that a point that is far in one coordinate tends to be far in all. (Independent Student-t coordinates are
    ``omt.family(dist.StudentT)``, which is transported coordinate by coordinate.)

    Attributes:
        loc: Locations, which are means where ``df`` is above 1, shape ``[K, d]``.
        scatter: Diagonals of the scatter matrices, squared scales, shape ``[K, d]``.
        df: Degrees of freedom, shape ``[K]``.
        fixed_df: Whether fitting keeps the degrees of freedom.
    """

    loc: Float[Array, "K d"]
    scatter: Float[Array, "K d"]
    df: Float[Array, " K"]
    fixed_df: bool = eqx.field(static=True)
    priors: ClassVar = _Priors()
    _structure: ClassVar = DiagonalCovariance

    def __init__(self, loc: ArrayLike, scatter: ArrayLike, df: ArrayLike, *, fixed_df: bool = False):
        """Build components from locations and diagonals of scatter matrices, ``[K, d]``, and degrees of freedom.

        ``df`` is one number or has shape ``[K]``; with ``fixed_df`` fits that start from these components keep it.

        Raises:
            ValueError: If a shape does not fit, or a number is not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scatter = as_floating("scatter", scatter, "K d", self.loc.dtype)
        check_shape("scatter", self.scatter, self.loc.shape, "`loc`")
        check_positive("scatter", self.scatter)
        self.df = as_degrees(df, self.loc)
        self.fixed_df = fixed_df

    def _form(self) -> DiagonalCovariance:
        return DiagonalCovariance(self.scatter)

    @staticmethod
    def _second(centered: Float[Array, "d n"], weight: Float[Array, " n"]) -> Float[Array, " q"]:
        return centered**2 @ weight

    @staticmethod
    def _from_form(
        loc: Float[Array, "K d"], scatter: AbstractCovariance, df: Float[Array, " K"], fixed_df: bool
    ) -> AbstractStudentT:
        if isinstance(scatter, DiagonalCovariance):
            return DiagonalStudentT(loc, scatter.variance, df, fixed_df=fixed_df)
        return StudentT._from_form(loc, scatter, df, fixed_df)

    def to_numpyro(self) -> dist.Distribution:
        tril = jax.vmap(jnp.diag)(jnp.sqrt(self.scatter))
        return dist.MultivariateStudentT(self.df, self.loc, tril)
