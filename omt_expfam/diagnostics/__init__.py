"""Diagnostics: whether the minimizer is unique, how far the map moves when its inputs do, and what it hangs on."""

from .._pipelines.mixture_transport import MixtureTransport as MixtureTransport
from ._biconvexity import Biconvexity as Biconvexity, biconvexity as biconvexity
from ._calibration import Calibration as Calibration, calibration as calibration
from ._envelope import Envelope as Envelope, fit_envelope as fit_envelope, Violation as Violation
from ._perturbations import (
    AbstractPerturbation as AbstractPerturbation,
    Dropout as Dropout,
    GaussianNoise as GaussianNoise,
    MassShift as MassShift,
    Outliers as Outliers,
    Reseeding as Reseeding,
    Subsampling as Subsampling,
)
from ._relaxations import relaxation_path as relaxation_path, RelaxationPath as RelaxationPath
from ._sensitivity import Sensitivity as Sensitivity, sensitivity as sensitivity, SideSensitivity as SideSensitivity
from ._stability import Stability as Stability, stability as stability
from ._sweep import Sweep as Sweep, sweep as sweep
from ._uniqueness import Uniqueness as Uniqueness, uniqueness as uniqueness
from ._worst_case import worst_case as worst_case, WorstCase as WorstCase
