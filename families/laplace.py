"""Components with independent Laplace coordinates."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from omt_expfam.extend import ArrayLike, as_floating, check_positive, check_shape, ProductForm

from ._location_base import AbstractTwoSidedFamily, weighted_quantile
from ._two_sided import LaplaceShape, TwoSided


class Laplace(AbstractTwoSidedFamily):
    """K components with independent Laplace coordinates: density exp(-|x - loc| / scale) / (2 scale).

    Not an exponential family: the location moves a kink. Given the locations it is one, in |x - loc|. EM is exact:
    weighted medians and mean absolute deviations about them.

    Attributes:
        loc: Locations, which are means and medians, shape ``[K, d]``.
        scale: Mean absolute deviations, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    scale: Float[Array, "K d"]

    def __init__(self, loc: ArrayLike, scale: ArrayLike):
        """Build components from locations and scales, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a scale is not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scale = as_floating("scale", scale, "K d", self.loc.dtype)
        check_shape("scale", self.scale, self.loc.shape, "`loc`")
        check_positive("scale", self.scale)

    def _law(self) -> TwoSided:
        return TwoSided(self.scale, self.scale, 1.0, 1.0)

    def _with(self, loc: Float[Array, "K d"], left: Any, right: Float[Array, "K d"]) -> "Laplace":
        return Laplace(loc, right)

    @property
    def _scale_names(self) -> tuple[str, ...]:
        return ("scale",)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, self.scale, LaplaceShape())

    def to_numpyro(self) -> dist.Distribution:
        return dist.Laplace(self.loc, self.scale).to_event(1)

    # -- EM ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Laplace":
        return Laplace(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    @property
    def _equal_scales(self) -> bool:
        return True

    def _candidates(
        self, values: Float[Array, " n"], weight: Float[Array, " n"], pseudo: tuple[Array, Array]
    ) -> Float[Array, " c"]:
        """The weighted median, which minimizes the sum of absolute deviations."""
        return weighted_quantile(values, weight, jnp.full((), 0.5, values.dtype))[None]
