"""The component families, under the name that users import: ``from omt_expfam.families import Gaussian``."""

from families import (
    DiagonalGaussian as DiagonalGaussian,
    Gaussian as Gaussian,
    LowRankGaussian as LowRankGaussian,
    SphericalGaussian as SphericalGaussian,
)
