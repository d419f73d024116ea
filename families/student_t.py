"""Student-t components with full scatter matrices."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from omt_expfam.extend import (
    AbstractCovariance,
    ArrayLike,
    as_floating,
    covariance_prior,
    DenseCovariance,
    draw_dense_location,
    draw_scale_tril,
    read_inverse_wishart,
    read_normal,
    symmetric,
    to_dense,
)

from ._factors import as_factor, turned_factors
from ._student_base import AbstractStudentT, as_degrees, WeightedMoments
from ._student_priors import StudentPriors


class _Priors(StudentPriors):
    """With inverse Wishart scatters."""

    scatter = "scale_tril"

    def _default_scatter(self, within: Any) -> dist.Distribution:
        return covariance_prior(within)

    def _read(self, components: "StudentT", priors: dict[str, Any]) -> tuple[Any, Any]:
        loc = read_normal("loc", priors["loc"], components.loc, dense=True)
        return loc, read_inverse_wishart("scale_tril", priors["scale_tril"], components.scale_tril)

    def _draw_moments(
        self,
        key: Key[Array, ""],
        components: "StudentT",
        counts: Float[Array, " K"],
        moments: WeightedMoments,
        hyper: Any,
    ) -> tuple[Array, DenseCovariance]:
        loc_key, tril_key = jax.random.split(key)
        step, squares = components._centered(moments)
        mean, mass = components.loc + step, moments.mass
        root = jax.vmap(lambda form: form.root_inverse())(components._form())
        loc = draw_dense_location(loc_key, hyper["loc"], jnp.swapaxes(root, 1, 2) @ root, mass, mean)
        about = squares + mass[:, None] * jax.vmap(DenseCovariance.coordinates)(mean - loc)
        tril = draw_scale_tril(tril_key, hyper["scatter"], counts, symmetric(about, components.dim))
        return loc, DenseCovariance(tril)


class StudentT(AbstractStudentT):
    """K multivariate Student-t components with full scatter matrices: Gaussians with heavy tails.

    The density falls off like ``(1 + (x - loc)^T scatter^-1 (x - loc) / df)^(-(df + d) / 2)``. The covariance is
    ``df / (df - 2)`` times the scatter; with ``df`` up to 2 it is infinite, and such components cannot be transported.

    Not an exponential family: a Gaussian whose precision is multiplied by a latent gamma variable. EM weighs points by
    its expectation (Lange, Little and Taylor, 1989), so that far points hardly count: a robust fit. Degrees of freedom
    are estimated, between 2.1 and 1000, for every component, by the likelihood itself (ECME; Liu and Rubin, 1995); or
    held fixed, ``omt.template(StudentT, df=4.0)``.

    Attributes:
        loc: Locations, which are means where ``df`` is above 1, shape ``[K, d]``.
        scale_tril: Lower Cholesky factors of the scatter matrices, shape ``[K, d, d]``.
        df: Degrees of freedom, shape ``[K]``.
        fixed_df: Whether fitting keeps the degrees of freedom.
    """

    loc: Float[Array, "K d"]
    scale_tril: Float[Array, "K d d"]
    df: Float[Array, " K"]
    fixed_df: bool = eqx.field(static=True)
    priors: ClassVar = _Priors()
    _structure: ClassVar = DenseCovariance

    def __init__(
        self,
        loc: ArrayLike,
        scatter: ArrayLike | None = None,
        df: ArrayLike | None = None,
        *,
        scale_tril: ArrayLike | None = None,
        fixed_df: bool = False,
    ):
        """Build components from locations, scatter matrices or their factors, and degrees of freedom.

        Args:
            loc: Locations, shape ``[K, d]``.
            scatter: Symmetric positive definite matrices, shape ``[K, d, d]``; not the covariances.
            df: Degrees of freedom, one number or shape ``[K]``.
            scale_tril: Lower Cholesky factors instead of ``scatter``, shape ``[K, d, d]``.
            fixed_df: Whether fits that start from these components keep ``df``.

        Raises:
            TypeError: If not exactly one of ``scatter`` and ``scale_tril`` is given, or ``df`` is not.
            ValueError: If a shape does not fit, a matrix is not symmetric positive definite, or ``df`` not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scale_tril = as_factor("StudentT", "loc", self.loc, "scatter", scatter, scale_tril)
        self.df = as_degrees(df, self.loc)
        self.fixed_df = fixed_df

    def _form(self) -> DenseCovariance:
        return DenseCovariance(self.scale_tril)

    @staticmethod
    def _second(centered: Float[Array, "d n"], weight: Float[Array, " n"]) -> Float[Array, " q"]:
        row, column = np.triu_indices(centered.shape[0])
        return ((centered * weight[None]) @ centered.T)[row, column]

    @staticmethod
    def _from_form(
        loc: Float[Array, "K d"], scatter: AbstractCovariance, df: Float[Array, " K"], fixed_df: bool
    ) -> AbstractStudentT:
        return StudentT(loc, df=df, scale_tril=to_dense(scatter).tril, fixed_df=fixed_df)

    def turned(self, order: Sequence[int]) -> "StudentT":
        """The rows of the factors in that order, made triangular again."""
        loc, factor = np.asarray(self.loc), np.asarray(self.scale_tril)
        moved = jax.device_put(loc[:, order]), turned_factors(factor, order)
        return eqx.tree_at(lambda c: (c.loc, c.scale_tril), self, moved)

    def to_numpyro(self) -> dist.Distribution:
        return dist.MultivariateStudentT(self.df, self.loc, self.scale_tril)

    def _prior_strength(self) -> float:
        return self.dim + 2.0
