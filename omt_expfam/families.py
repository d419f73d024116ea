"""The component families, under the name that users import: ``from omt_expfam.families import Gaussian``."""

from families import (
    AsymmetricLaplace as AsymmetricLaplace,
    Beta as Beta,
    Binomial as Binomial,
    Categorical as Categorical,
    DiagonalGaussian as DiagonalGaussian,
    DiagonalStudentT as DiagonalStudentT,
    Exponential as Exponential,
    ExponentialPower as ExponentialPower,
    Gamma as Gamma,
    Gaussian as Gaussian,
    Laplace as Laplace,
    LogNormal as LogNormal,
    LowRankGaussian as LowRankGaussian,
    NegativeBinomial as NegativeBinomial,
    Poisson as Poisson,
    SphericalGaussian as SphericalGaussian,
    StudentT as StudentT,
    VonMises as VonMises,
)
