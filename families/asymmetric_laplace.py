"""Components with independent asymmetric Laplace coordinates."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from omt_expfam.extend import ArrayLike, as_floating, check_positive, check_shape, ProductForm

from ._location_base import AbstractTwoSidedFamily
from ._two_sided import product_form, TwoSided


class AsymmetricLaplace(AbstractTwoSidedFamily):
    """K components whose independent coordinates fall off exponentially, at one rate below and another above.

    The density is exp(-(loc - x) / scale_left) below the location and exp(-(x - loc) / scale_right) above it, divided
    by scale_left + scale_right (Kotz, Kozubowski and Podgorski, 2001).

    Not an exponential family: the location moves a kink. Given the locations it is one, in the distances (loc - x)^+
    and (x - loc)^+. EM is exact: the likelihood with the best scales has its maximum over the location at a data
    point, and all of them are compared.

    Attributes:
        loc: Locations, which are modes, shape ``[K, d]``.
        scale_left: Scales below the locations, shape ``[K, d]``.
        scale_right: Scales above the locations, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    scale_left: Float[Array, "K d"]
    scale_right: Float[Array, "K d"]

    def __init__(self, loc: ArrayLike, scale_left: ArrayLike, scale_right: ArrayLike):
        """Build components from locations and scales, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a scale is not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scale_left = as_floating("scale_left", scale_left, "K d", self.loc.dtype)
        self.scale_right = as_floating("scale_right", scale_right, "K d", self.loc.dtype)
        for name, scale in (("scale_left", self.scale_left), ("scale_right", self.scale_right)):
            check_shape(name, scale, self.loc.shape, "`loc`")
            check_positive(name, scale)

    def _law(self) -> TwoSided:
        return TwoSided(self.scale_left, self.scale_right, 1.0, 1.0)

    def _with(self, loc: Float[Array, "K d"], left: Any, right: Float[Array, "K d"]) -> "AsymmetricLaplace":
        return AsymmetricLaplace(loc, left, right)

    def product_form(self) -> ProductForm:
        return product_form(self.loc, self._law())

    def to_numpyro(self) -> dist.Distribution:
        scale, ratio = jnp.sqrt(self.scale_left * self.scale_right), jnp.sqrt(self.scale_left / self.scale_right)
        return dist.AsymmetricLaplace(self.loc, scale, ratio).to_event(1)

    # -- EM ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AsymmetricLaplace":
        one = jnp.ones((num_components, dim), dtype)
        return AsymmetricLaplace(jnp.zeros_like(one), one, one)

    @property
    def _equal_scales(self) -> bool:
        return False

    def _candidates(
        self, values: Float[Array, " n"], weight: Float[Array, " n"], pseudo: tuple[Array, Array]
    ) -> Float[Array, " c"]:
        """The data point with the least sqrt(sum of distances below) + sqrt(sum above): the profile likelihood's."""
        offset = values - self.loc
        mass, moment = jnp.cumsum(weight), jnp.cumsum(weight * offset)
        below = offset * mass - moment
        above = (moment[-1] - moment) - offset * (mass[-1] - mass)
        roots = [jnp.sqrt(jnp.maximum(side + extra, 0)) for side, extra in zip((below, above), pseudo, strict=True)]
        return values[jnp.argmin(roots[0] + roots[1])][None]
