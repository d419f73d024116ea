"""Diagnostics: is the minimizer unique, how far does the map move, and what does it hang on."""

from ._method import MixtureTransport as MixtureTransport
from ._perturbations import (
    AbstractPerturbation as AbstractPerturbation,
    Dropout as Dropout,
    GaussianNoise as GaussianNoise,
    MassShift as MassShift,
    Outliers as Outliers,
    Reseeding as Reseeding,
    Subsampling as Subsampling,
)
