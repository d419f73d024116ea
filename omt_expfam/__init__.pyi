"""The public names and where they live; `__init__.py` reads this file."""

from . import (
    anndata as anndata,
    diagnostics as diagnostics,
    extend as extend,
    metrics as metrics,
    plot as plot,
    results as results,
)
from ._base.cache import use_compilation_cache as use_compilation_cache
from ._base.results import ConvergenceError as ConvergenceError, RESULTS as RESULTS
from ._components.interface import AbstractComponents as AbstractComponents
from ._components.joined import Blocks as Blocks
from ._components.mixture import Mixture as Mixture
from ._components.numpyro_components import NumPyroComponents as NumPyroComponents
from ._components.relabel import relabel as relabel
from ._couplings.settings import NumericalSettings as NumericalSettings
from ._family.laws import family as family
from ._family.mixed import mixed as mixed
from ._family.priors import ConjugatePrior as ConjugatePrior
from ._family.template import Template as Template, template as template
from ._fitting.check.family import check_family as check_family
from ._fitting.fit import Fit as Fit, fit as fit
from ._fitting.labeled import mixture_from_labels as mixture_from_labels
from ._fitting.select import select_num_components as select_num_components
from ._pipelines.coupled import fit_coupled as fit_coupled
from ._pipelines.factor import transport_factor as transport_factor
from ._pipelines.select_plan import select_plan as select_plan
from ._plans.groups import group_shares as group_shares
from ._plans.pair_features import pair_features as pair_features
from ._plans.plan import TransportPlan as TransportPlan
from ._plans.relaxations import Partial as Partial, TotalVariation as TotalVariation
from ._plans.transport import BlockStart as BlockStart, transport as transport
from ._posterior_plans.plan import PosteriorPlan as PosteriorPlan
from ._posterior_plans.transport import transport_posterior as transport_posterior
from ._posteriors.credible import credible_interval as credible_interval
from ._posteriors.distribution import MixtureDistribution as MixtureDistribution
from ._posteriors.fit import fit_posterior as fit_posterior
from ._posteriors.from_numpyro import posterior_from_numpyro as posterior_from_numpyro
from ._posteriors.methods.bootstrap import Bootstrap as Bootstrap
from ._posteriors.methods.gibbs import Gibbs as Gibbs
from ._posteriors.methods.gibbs_kernel import MixtureGibbs as MixtureGibbs
from ._posteriors.methods.laplace import LaplaceApproximation as LaplaceApproximation
from ._posteriors.methods.method import AbstractMethod as AbstractMethod
from ._posteriors.methods.nuts import NUTS as NUTS
from ._posteriors.methods.svi import SVI as SVI
from ._posteriors.model import mixture_model as mixture_model, MixtureModel as MixtureModel
from ._posteriors.posterior import PosteriorFit as PosteriorFit
from ._potentials.annealing import Annealing as Annealing
from ._potentials.blend import BlendedPotential as BlendedPotential
from ._potentials.fit import fit_brenier as fit_brenier
from ._potentials.fitted import BrenierFit as BrenierFit
from ._potentials.group_penalty import GroupPenalty as GroupPenalty
from ._potentials.interface import AbstractPotential as AbstractPotential
from ._potentials.low_rank import LowRankNetwork as LowRankNetwork
from ._potentials.map import BrenierMap as BrenierMap
from ._potentials.network import ConvexNetwork as ConvexNetwork
from ._potentials.penalties import (
    AbstractPenalty as AbstractPenalty,
    L1 as L1,
    Penalty as Penalty,
    SmoothedL0 as SmoothedL0,
    STVS as STVS,
)
from ._potentials.separable import SeparablePotential as SeparablePotential
from ._report.report import report as report
from ._screening.screen import Features as Features, Screen as Screen
from ._storage import load as load, save as save
from ._time_courses.trajectory import Trajectory as Trajectory, trajectory as trajectory

__version__: str
