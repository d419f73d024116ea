"""Concrete component families, one per file; each is also a worked example.

Import them as ``from omt_expfam.families import Gaussian``.
"""

from .asymmetric_laplace import AsymmetricLaplace as AsymmetricLaplace
from .beta import Beta as Beta
from .binomial import Binomial as Binomial
from .categorical import Categorical as Categorical
from .diagonal_gaussian import DiagonalGaussian as DiagonalGaussian
from .diagonal_student_t import DiagonalStudentT as DiagonalStudentT
from .exponential import Exponential as Exponential
from .exponential_power import ExponentialPower as ExponentialPower
from .gamma import Gamma as Gamma
from .gaussian import Gaussian as Gaussian
from .laplace import Laplace as Laplace
from .log_normal import LogNormal as LogNormal
from .low_rank_gaussian import LowRankGaussian as LowRankGaussian
from .negative_binomial import NegativeBinomial as NegativeBinomial
from .poisson import Poisson as Poisson
from .spherical_gaussian import SphericalGaussian as SphericalGaussian
from .student_t import StudentT as StudentT
from .von_mises import VonMises as VonMises

# The one place where a stored name becomes a class; `omt.load` takes others as an argument.
REGISTRY = {
    "AsymmetricLaplace": AsymmetricLaplace,
    "Beta": Beta,
    "Binomial": Binomial,
    "Categorical": Categorical,
    "DiagonalGaussian": DiagonalGaussian,
    "DiagonalStudentT": DiagonalStudentT,
    "Exponential": Exponential,
    "ExponentialPower": ExponentialPower,
    "Gamma": Gamma,
    "Gaussian": Gaussian,
    "Laplace": Laplace,
    "LogNormal": LogNormal,
    "LowRankGaussian": LowRankGaussian,
    "NegativeBinomial": NegativeBinomial,
    "Poisson": Poisson,
    "SphericalGaussian": SphericalGaussian,
    "StudentT": StudentT,
    "VonMises": VonMises,
}
