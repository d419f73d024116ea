"""Concrete component families, one per file; each is also a worked example.

Import them as ``from omt_expfam.families import Gaussian``.
"""

from .diagonal_gaussian import DiagonalGaussian as DiagonalGaussian
from .gaussian import Gaussian as Gaussian
from .low_rank_gaussian import LowRankGaussian as LowRankGaussian
from .spherical_gaussian import SphericalGaussian as SphericalGaussian

# The one place where a stored name becomes a class; `omt.load` takes others as an argument.
REGISTRY = {
    "DiagonalGaussian": DiagonalGaussian,
    "Gaussian": Gaussian,
    "LowRankGaussian": LowRankGaussian,
    "SphericalGaussian": SphericalGaussian,
}
