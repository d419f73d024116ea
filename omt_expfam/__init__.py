"""Entropic optimal transport between mixture models, for any component family."""

import importlib.metadata

from . import metrics as metrics, plot as plot
from ._blocks import Blocks as Blocks
from ._components import (
    AbstractComponents as AbstractComponents,
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractRegularFamily as AbstractRegularFamily,
)
from ._covariance import (
    AbstractCovariance as AbstractCovariance,
    DenseCovariance as DenseCovariance,
    DiagonalCovariance as DiagonalCovariance,
    LowRankCovariance as LowRankCovariance,
    ScalarCovariance as ScalarCovariance,
)
from ._displacement import Displacement as Displacement
from ._em import AbstractEMFamily as AbstractEMFamily, AbstractRegularEMFamily as AbstractRegularEMFamily
from ._factorized import AbstractFactorizedFamily as AbstractFactorizedFamily
from ._fit import Fit as Fit, fit as fit
from ._mixture import Mixture as Mixture
from ._numerical_couplings import NumericalSettings as NumericalSettings
from ._numpyro_components import NumPyroComponents as NumPyroComponents
from ._persist import load as load, save as save
from ._plan import TransportPlan as TransportPlan
from ._product_form import AbstractShape as AbstractShape, ProductForm as ProductForm
from ._result import ConvergenceError as ConvergenceError, RESULTS as RESULTS
from ._select import select_num_components as select_num_components, Selection as Selection
from ._template import Template as Template, template as template
from ._transport import BlockStart as BlockStart, transport as transport

try:
    __version__ = importlib.metadata.version("omt-expfam")
except importlib.metadata.PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
