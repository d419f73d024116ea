"""Saving objects to one portable file, and loading them.

A file is a ZIP archive: ``manifest.json`` holds the tree of the object, the other members its arrays in
NumPy's format. The archive's comment, its last 64 bytes, is the SHA-256 digest of everything before it, so
that any damage shows.
"""

import os
from collections.abc import Mapping
from typing import Any

from families import REGISTRY

from ._components.joined import Blocks
from ._components.labelling import Labelling
from ._components.mixture import Mixture
from ._couplings.category import CategoryCouplings
from ._couplings.circle.couplings import CircleCouplings
from ._couplings.circle.problems import CircleSide
from ._couplings.gaussian import GaussianCouplings
from ._couplings.interface import PairSelection
from ._couplings.joined import BlockCouplings
from ._couplings.lattice.couplings import LatticeCouplings
from ._couplings.lattice.solve import Steps
from ._couplings.lattice.table import Groups, LatticeTable
from ._couplings.line.table import LineProblem, LineTable
from ._couplings.listed import ListedCouplings
from ._couplings.mixed import MixedCouplings
from ._couplings.numerical import NumericalCouplings
from ._couplings.numerical_pair import Nodes
from ._couplings.product import ProductCouplings
from ._couplings.settings import NumericalSettings
from ._couplings.unbalanced import UnbalancedGaussianCouplings
from ._family.laws import law_of_name
from ._family.mixed import mixed_of_name
from ._files.tree import read_object, write_object
from ._fitting.fit import Fit
from ._pipelines.coupled import CoupledFit
from ._plans.correspondences import Correspondences
from ._plans.displacement import Displacement
from ._plans.groups import GroupFlows, GroupShares
from ._plans.masses import MassChange
from ._plans.objective import BlockTrace
from ._plans.plan import TransportPlan
from ._plans.sparse_plan import SparsePlan
from ._plans.transfer import Transfer
from ._plans.transport import BlockStart
from ._posterior_plans.correspondences import PosteriorCorrespondences
from ._posterior_plans.draws import ListedPlans, PlanNumbers, StackedPlans
from ._posterior_plans.plan import PosteriorPlan
from ._posterior_plans.transfer import PosteriorTransfer
from ._posteriors.credible import CredibleInterval
from ._posteriors.label_free import LabelFree
from ._posteriors.posterior import PosteriorFit
from ._posteriors.predictive import PredictiveCheck
from ._potentials.annealing import StrengthPath
from ._potentials.blend import BlendedPotential
from ._potentials.certificates import Certificate
from ._potentials.fitted import BrenierFit
from ._potentials.gated import GatedMap
from ._potentials.line import StraightLine
from ._potentials.low_rank import LowRankNetwork
from ._potentials.map import BrenierMap, ConjugatePoints
from ._potentials.members import Members
from ._potentials.moved import ComponentFeatures, MovedFeatures
from ._potentials.network import ConvexNetwork
from ._potentials.selection import Selection
from ._potentials.separable import SeparablePotential
from ._time_courses.lineage import Lineage
from ._time_courses.trajectory import Trajectory
from ._weights.entropic import WeightCoupling
from ._weights.sparse_coupling import SparseCoupling
from .diagnostics import (
    Biconvexity,
    Calibration,
    Envelope,
    RelaxationPath,
    Sensitivity,
    SideSensitivity,
    Stability,
    Sweep,
    Uniqueness,
    WorstCase,
)

# The library's own classes that files may name; component families come from `families.REGISTRY`.
_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Biconvexity,
        BlockCouplings,
        BlendedPotential,
        Blocks,
        BlockStart,
        BlockTrace,
        BrenierFit,
        BrenierMap,
        CategoryCouplings,
        Certificate,
        CircleCouplings,
        CircleSide,
        ComponentFeatures,
        ConjugatePoints,
        Correspondences,
        CoupledFit,
        CredibleInterval,
        Displacement,
        Envelope,
        Fit,
        GatedMap,
        GaussianCouplings,
        GroupFlows,
        GroupShares,
        ConvexNetwork,
        LabelFree,
        Labelling,
        Calibration,
        PredictiveCheck,
        Lineage,
        LineProblem,
        LatticeCouplings,
        Groups,
        LatticeTable,
        LineTable,
        ListedCouplings,
        ListedPlans,
        LowRankNetwork,
        MassChange,
        Members,
        MixedCouplings,
        Mixture,
        MovedFeatures,
        Nodes,
        NumericalCouplings,
        NumericalSettings,
        PairSelection,
        PlanNumbers,
        PosteriorCorrespondences,
        PosteriorFit,
        PosteriorPlan,
        PosteriorTransfer,
        ProductCouplings,
        UnbalancedGaussianCouplings,
        RelaxationPath,
        Selection,
        Sensitivity,
        SeparablePotential,
        SideSensitivity,
        SparseCoupling,
        SparsePlan,
        Stability,
        StackedPlans,
        Steps,
        StraightLine,
        StrengthPath,
        Sweep,
        Trajectory,
        Transfer,
        TransportPlan,
        Uniqueness,
        WeightCoupling,
        WorstCase,
    )
}


def save(path: str | os.PathLike[str], object: Any) -> None:
    """Save an object to one portable file, which `load` restores bit for bit.

    The file is written beside its destination and then moved there: whatever goes wrong, an older file of
    that name stays as it was. It holds no code: neither pickles nor class definitions.

    Args:
        path: The file, customarily with the extension ``.omt``; an existing one is replaced.
        object: A `Mixture`, `Fit`, `TransportPlan`, `PosteriorFit`, `PosteriorPlan`, `BrenierMap`, `BrenierFit`, weight
            coupling, or set of components, also of a family or with a potential of your own; or tuples, lists and
            dictionaries of these, arrays, numbers, strings and None.

    Raises:
        TypeError: If the object holds something else, or traced arrays.
        OSError: If the file cannot be written.
    """
    write_object(path, object, library_classes())


def load(path: str | os.PathLike[str], *, families: Mapping[str, type] | None = None, dtype: str | None = None) -> Any:
    """Load an object that `save` wrote.

    Args:
        path: The file.
        families: Classes of your own that the file may hold, families or potentials: ``{"Mine": Mine}``.
        dtype: ``"float32"`` or ``"float64"`` converts the object's JAX floating-point arrays. By default they
            keep the type they were saved with; while JAX's x64 mode is off, float64 numbers are rounded with a warning.
            (64-bit integers become 32-bit ones there, where their values fit.)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of ours, is damaged or from a newer version, names an unknown
            class, or holds numbers that the type which was asked for, or JAX's, cannot hold.
    """
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32", "float64" or None; got {dtype!r}.')
    return read_object(path, library_classes(), families, dtype)


class _Classes(dict[str, type]):
    """Classes by name; families of NumPyro's distributions are made when a file names them."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name) or law_of_name(name) or mixed_of_name(name, self.get) or default


def library_classes() -> dict[str, type]:
    """Every class that a file may name without the help of ``load(families=...)``."""
    return _Classes({**_CLASSES, **REGISTRY})
