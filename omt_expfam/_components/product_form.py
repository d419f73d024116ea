"""Product form: components whose coordinates are independent, as location, scale and a standard shape."""

import abc
import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractShape(eqx.Module):
    """One-dimensional laws up to location and scale: the law of z in x = loc + scale * z.

    Array fields carry leading axes ``[K, d]``, one law per component and coordinate; a shape without parameters has no
    array fields. Methods are written for one law (fields without those axes) and one point.
    """

    @abc.abstractmethod
    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        """Log-density at one point, ``-inf`` outside the support."""

    @abc.abstractmethod
    def _knots(self) -> Float[Array, " q"]:
        """The ends of the support (``-inf`` and ``inf`` included) and every point between them where the density is
        not smooth, in increasing order; their number q is fixed for a class.
        """  # noqa: D205

    @abc.abstractmethod
    def _mean(self) -> Float[Array, ""]:
        """The mean of z."""

    @abc.abstractmethod
    def _variance(self) -> Float[Array, ""]:
        """The variance of z."""


class ProductForm(eqx.Module):
    """K components with independent coordinates, each the law of ``loc + scale * z``.

    Components with equal shapes differ by location and scale only, and share the work of their couplings.

    Attributes:
        loc: Locations, shape ``[K, d]``.
        scale: Positive scales, shape ``[K, d]``; not necessarily standard deviations.
        shape: The laws of z, with leading axes ``[K, d]``.
    """

    loc: Float[Array, "K d"]
    scale: Float[Array, "K d"]
    shape: AbstractShape


class NormalShape(AbstractShape):
    """The standard normal law."""

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        return -0.5 * (z * z + math.log(2 * math.pi))

    def _knots(self) -> Float[Array, " q"]:
        return jnp.array([-jnp.inf, jnp.inf])

    def _mean(self) -> Float[Array, ""]:
        return jnp.zeros(())

    def _variance(self) -> Float[Array, ""]:
        return jnp.ones(())
