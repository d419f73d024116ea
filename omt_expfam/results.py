"""The types of results that calls return; nobody needs to make one."""

from ._components.labelling import Labelling as Labelling
from ._couplings.circle.couplings import CircleCouplings as CircleCouplings
from ._couplings.gaussian import GaussianCouplings as GaussianCouplings
from ._couplings.joined import BlockCouplings as BlockCouplings
from ._couplings.lattice.couplings import LatticeCouplings as LatticeCouplings
from ._couplings.listed import ListedCouplings as ListedCouplings
from ._couplings.numerical import NumericalCouplings as NumericalCouplings
from ._couplings.product import ProductCouplings as ProductCouplings
from ._fitting.check.findings import FamilyCheck as FamilyCheck, Finding as Finding
from ._fitting.select import Selection as Selection
from ._pipelines.coupled import CoupledFit as CoupledFit
from ._pipelines.select_plan import PlanSelection as PlanSelection
from ._plans.correspondences import Correspondences as Correspondences
from ._plans.displacement import Displacement as Displacement
from ._plans.groups import GroupFlows as GroupFlows, GroupShares as GroupShares
from ._plans.masses import MassChange as MassChange
from ._plans.objective import BlockTrace as BlockTrace
from ._plans.pair_features import PairFeatures as PairFeatures
from ._plans.sparse_plan import SparsePlan as SparsePlan
from ._plans.transfer import Transfer as Transfer
from ._posterior_plans.correspondences import PosteriorCorrespondences as PosteriorCorrespondences
from ._posterior_plans.transfer import PosteriorTransfer as PosteriorTransfer
from ._posterior_plans.vertices import VertexChanges as VertexChanges
from ._posteriors.credible import CredibleInterval as CredibleInterval
from ._posteriors.label_free import LabelFree as LabelFree
from ._posteriors.predictive import PredictiveCheck as PredictiveCheck
from ._potentials.annealing import StrengthPath as StrengthPath
from ._potentials.certificates import Certificate as Certificate
from ._potentials.gated import GatedMap as GatedMap
from ._potentials.map import ConjugatePoints as ConjugatePoints
from ._potentials.moved import ComponentFeatures as ComponentFeatures, MovedFeatures as MovedFeatures
from ._time_courses.lineage import Lineage as Lineage
from ._weights.entropic import WeightCoupling as WeightCoupling
from ._weights.sparse_coupling import SparseCoupling as SparseCoupling
