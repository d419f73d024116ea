"""Entropic optimal transport between mixture models, for any component family."""

from ._components import (
    AbstractComponents as AbstractComponents,
    AbstractExponentialFamily as AbstractExponentialFamily,
    AbstractRegularFamily as AbstractRegularFamily,
)
from ._mixture import Mixture as Mixture
from ._plan import TransportPlan as TransportPlan
from ._result import ConvergenceError as ConvergenceError, RESULTS as RESULTS
from ._transport import BlockStart as BlockStart, transport as transport
