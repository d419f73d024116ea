"""Fitting the optimal map between two samples: convex potentials, trained by the semi-dual of optimal transport."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from .._base.arguments import ArrayLike, as_key, as_scalar, KeyLike, ScalarLike
from .._base.arrays import host_generator
from .._base.results import raise_if_failed, RESULTS, succeeded
from .._base.tables import alike, in_order
from .._components.columns import require_numbers
from .._plans.plan import TransportPlan
from .._screening.screen import Features, Screen
from .blend import BlendedPotential
from .ensemble import fit_ensemble, Wanted
from .fitted import BrenierFit
from .group_penalty import GroupPenalty
from .interface import AbstractPotential
from .penalties import as_penalty, SmoothedL0
from .recipe import recipe
from .samples import read_names, read_samples, Sample
from .screened import fit_selected


def fit_brenier(
    key: KeyLike,
    x: ArrayLike | None,
    y: ArrayLike | None,
    *,
    start: TransportPlan | None = None,
    potential: AbstractPotential | type | None = None,
    sparsity: Any = None,
    max_moved: ScalarLike | None = None,
    moved_threshold: float = 1e-2,
    feature_names: Sequence[str] | None = None,
    source_weight: ArrayLike | None = None,
    target_weight: ArrayLike | None = None,
    num_members: int | None = None,
    num_target_members: int | None = None,
    num_layers: int | None = None,
    width: int | None = None,
    noise: float | None = None,
    num_steps: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> BrenierFit:
    """Fit the optimal map between two samples, the gradient of a convex potential.

    Several potentials are trained, each by stochastic descent of the semi-dual (Makkuva et al., 2020) in the
    coordinates of a straight line of its own (`StraightLine`), each with some points held out that say when it was
    best; the map is the average of theirs. All that is not given follows from the numbers of points and dimensions.
    Ctrl-C stops training and returns what it has.

    Args:
        key: Random key of the starts, the order of points and the noise.
        x: Source points, shape ``[n0, d]``; or ``None`` with a ``start``.
        y: Target points, shape ``[n1, d]``; or ``None`` with a ``start``.
        start: A plan, whose `pull_back` gives first conjugate points; where ``x`` and ``y`` are ``None``, the points
            are drawn from its mixtures. With `Screen(per_component=True)`, what components there are.
        potential: Where every member starts, in whitened coordinates, in which the identity is the best linear map;
            by default a `ConvexNetwork` near the half square. Or the class `BlendedPotential`, made from
            ``start``: a readable blend of affine maps, which suits few dimensions.
        sparsity: What moving costs, so that few coordinates do: `L1`, `STVS`, `SmoothedL0`, or any function of the
            displacement T(x) - x of one point, or `Penalty` of one and a strength. Its mean over source points, in the
            points' own units, is added to the semi-dual, which is in units of half a squared distance. Or `Screen`,
            `GroupPenalty` or `Features`, which select features: all others are left exactly as they are. Those are
            moved one by one by monotone maps; where they depend on each other in another way afterwards, or
            ``num_steps`` is given, with a network beside these, if that improves the dual value of held-out points.
            With `Screen(per_component=True)` every component of the ``start`` has a map of its own (`GatedMap`).
        max_moved: How many coordinates of a point may move, on average over source points (or each of them, see
            `Annealing`): the strength of the ``sparsity``, by default `SmoothedL0`, is searched for in training. With
            a `GroupPenalty`, how many features may be selected.
        moved_threshold: What counts as moved, in units of the points.
        feature_names: Names of the columns; by default those of ``x`` where it is a table.
        source_weight: Nonnegative weights of the source points, shape ``[n0]``.
        target_weight: Nonnegative weights of the target points, shape ``[n1]``.
        num_members: Potentials of source points.
        num_target_members: Potentials of target points, whose conjugates are part of the map; none where a
            ``potential`` or a ``sparsity`` is given.
        num_layers: Layers of each network.
        width: Units of each layer.
        noise: Standard deviation of the Gaussian noise that smooths both samples, in whitened units, in which
            variances are one on average.
        num_steps: Steps of Adam.
        batch_size: Points of either sample per step.
        learning_rate: The largest learning rate; it warms up and falls to zero along a cosine.
        progress: Show a progress bar; by default on a terminal, after two seconds.
        throw: Raise when training fails; otherwise the fit's ``result`` tells. An interrupted fit is always returned.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If samples are not finite, too few, all equal or of different dimensions, or an argument is out of
            range.
        ConvergenceError: If training met values that are not finite, held-out points have no conjugate points, or the
            map moves more than ``max_moved`` coordinates, and ``throw`` is true.
    """
    key = as_key(key)
    selects = isinstance(sparsity, Screen | Features | GroupPenalty)
    if max_moved is not None and sparsity is None:
        sparsity = SmoothedL0("annealed")
    penalty = None if sparsity is None or selects else as_penalty(sparsity)
    threshold = float(as_scalar("moved_threshold", moved_threshold))
    if start is not None:
        require_numbers("A convex potential", start.source.components)
    fitted_to = None if start is None else start.feature_names
    x, y = alike(x=in_order("x", x, fitted_to), y=in_order("y", y, fitted_to))
    source, target, dtype = read_samples(key, x, y, start, source_weight, target_weight)
    names = read_names(feature_names, x, source.points.shape[1])
    dim = source.points.shape[1]
    if max_moved is not None:
        _check_most(max_moved, dim, sparsity)
    if potential is BlendedPotential and start is None:
        raise ValueError("`start` must be a plan where `potential` is BlendedPotential; got None.")
    if not (potential is None or potential is BlendedPotential or isinstance(potential, AbstractPotential)):
        raise TypeError(
            "`potential` must be an AbstractPotential, the class BlendedPotential, or None; got "
            f"{getattr(potential, '__name__', type(potential).__name__)}."
        )
    if isinstance(potential, AbstractPotential) and potential.num_dimensions != dim:
        raise ValueError(f"`potential` must be of {dim} dimensions, as `x`; got {potential.num_dimensions}.")
    if (potential is not None or penalty is not None) and num_target_members is None:
        num_target_members = 0
    given = {
        "num_members": num_members,
        "num_target_members": num_target_members,
        "num_layers": num_layers,
        "width": width,
        "noise": noise,
        "num_steps": num_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    chosen = recipe(min(len(source.points), len(target.points)), dim, **given)
    rng = host_generator(key)
    most = None if max_moved is None else float(max_moved)
    wanted = Wanted(potential, start, penalty, threshold, names, dtype, progress, most)
    if isinstance(sparsity, Screen | Features | GroupPenalty):
        _check_selects(sparsity, potential, start, source, target, num_target_members, num_steps, most)
        fitted = fit_selected(rng, source, target, sparsity, wanted, given)
    else:
        fitted = fit_ensemble(rng, source, target, chosen, wanted)
    fitted = dataclasses.replace(fitted, map=dataclasses.replace(fitted.map, feature_names=names))
    return fitted if not throw or _may_return(fitted.result) else raise_if_failed(fitted, fitted.result)


def _check_selects(
    sparsity: Any,
    potential: Any,
    start: Any,
    source: Sample,
    target: Sample,
    num_target_members: int | None,
    num_steps: Any,
    most: float | None,
) -> None:
    """Refuse what does not go with a selection of features."""
    if potential is not None:
        raise ValueError("`potential` must be None where `sparsity` selects features: it would see all of them.")
    if num_target_members:
        raise ValueError(f"`num_target_members` must be 0 with a `sparsity`; got {num_target_members}.")
    if isinstance(sparsity, GroupPenalty) and sparsity.strength is None and most is None:
        raise ValueError("`strength` of a GroupPenalty must be given where `max_moved` is not; got None.")
    if isinstance(sparsity, Screen):
        for name, side in (("source_weight", source), ("target_weight", target)):
            if side.weight is not None:
                raise ValueError(f"`{name}` must be None with a Screen, whose tests count points; give Features.")
        if sparsity.per_component and start is None:
            raise ValueError("`start` must be a TransportPlan with `Screen(per_component=True)`; got None.")
        if sparsity.per_component and num_steps is not None:
            raise ValueError("`num_steps` must be None with `Screen(per_component=True)`, whose maps are not trained.")


def _check_most(max_moved: Any, dim: int, sparsity: Any) -> None:
    """Refuse a number of coordinates that none, or any, map respects."""
    if isinstance(sparsity, Screen | Features):
        raise ValueError("`max_moved` must be None where `sparsity` selects features; it belongs to a penalty.")
    if not 0 < float(as_scalar("max_moved", max_moved, strict=True)) < dim:
        raise ValueError(f"`max_moved` must be less than the {dim} coordinates of a point; got {max_moved:g}.")
    if isinstance(sparsity, GroupPenalty) and float(max_moved) < 1:
        raise ValueError(f"`max_moved` must be at least 1 with a GroupPenalty; got {max_moved:g}.")


def _may_return(result: Any) -> bool:
    return succeeded(result) or bool(result == RESULTS.potential_interrupted)
