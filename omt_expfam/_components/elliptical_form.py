"""Elliptical form: components that are affine images of one spherical law."""

import equinox as eqx
from jaxtyping import Array, Float

from .covariance import AbstractCovariance


class EllipticalForm(eqx.Module):
    """What elliptical components are besides their means: covariances, and the generator, the law of the radius.

    Two laws with one generator are affine images of each other.

    Attributes:
        covariance: The K covariances.
        degrees: Degrees of freedom of Student-t laws, shape ``[K]``; ``None`` for Gaussians.
    """

    covariance: AbstractCovariance
    degrees: Float[Array, "*K"] | None
