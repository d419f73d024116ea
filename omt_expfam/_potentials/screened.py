"""Sparse maps with exact zeros: features are selected first, and a potential sees these alone."""

import dataclasses
from typing import Any

import numpy as np

from .._base.arrays import stacked, to_jax
from .._base.results import RESULTS
from .._screening.balance import balancing_weights
from .._screening.marginal import mean_difference
from .._screening.pairs import pair_p
from .._screening.screen import Features, Screen, screen, Screening
from .ensemble import fit_ensemble, fit_separable, share_moved, Wanted
from .fitted import BrenierFit
from .group_penalty import choose_features, GroupPenalty
from .line import axes_line
from .map import BrenierMap
from .members import Members
from .moved import INTERVAL, MovedFeatures
from .per_component import fit_components
from .recipe import recipe
from .samples import Sample
from .selection import Selection
from .separable import on_lines, SeparablePotential, start_separable

# Level of the test whether more than one-dimensional maps is needed.
_LEVEL = 0.01
# How a network beside one-dimensional maps is trained, unless told otherwise.
_DEFAULTS = {
    "num_layers": 2,
    "width": 32,
    "num_steps": 1000,
    "learning_rate": 0.005,
    "num_members": 2,
    "num_target_members": 0,
}


def fit_selected(
    rng: np.random.Generator,
    source: Sample,
    target: Sample,
    settings: Screen | Features | GroupPenalty,
    wanted: Wanted,
    given: dict[str, Any],
) -> BrenierFit:
    """Select features, and fit a map that leaves all others exactly as they are.

    Args:
        rng: Randomness of training.
        source: Source points.
        target: Target points.
        settings: Which features, or how they are selected.
        wanted: What a fit is asked for.
        given: What the user says of the recipe.
    """
    if isinstance(settings, Screen) and settings.per_component:
        return fit_components(rng, source, target, settings, wanted)
    dim = source.points.shape[1]
    found = chosen = None
    if isinstance(settings, Screen):
        found = screen(settings, source.points, target.points, rng)
        index = np.asarray(found.selected)
    elif isinstance(settings, GroupPenalty):
        chosen = choose_features(rng, source, target, settings, wanted.max_moved)
        index, wanted = chosen.index, wanted._replace(max_moved=None)
    else:
        index = settings.index(wanted.names, dim)
    weights = source.weight, target.weight
    if found is not None and len(index):
        stay = np.setdiff1d(np.arange(dim), index)
        weights = balancing_weights(source.points[:, stay], target.points[:, stay], found.adjust is not None) or weights
    first, second = (
        Sample(side.points[:, index], weight) for side, weight in zip((source, target), weights, strict=True)
    )
    if not len(index):
        inner = _identity(first, second, wanted)
    elif given["num_steps"] is None and not _depends(first, second):
        inner = fit_separable(rng, first, second, wanted)
    else:
        told = _DEFAULTS | {name: value for name, value in given.items() if value is not None}
        how = recipe(min(len(first.points), len(second.points)), len(index), **told)
        if wanted.start is not None:
            # Plans are of all features.
            starts = np.asarray(wanted.start.pull_back(target.points), np.float64)[:, index]
            second = second._replace(starts=starts)
        inner = fit_ensemble(rng, first, second, how, wanted._replace(potential=SeparablePotential))
    if chosen is not None:
        inner = dataclasses.replace(inner, strength=chosen.strength, path=chosen.path)
    often = None if found is None else found.frequency
    often = often if chosen is None else chosen.frequency
    return _whole(inner, source, target, index, found, often, wanted)


def _depends(source: Sample, target: Sample) -> bool:
    """Whether coordinates are dependent in another way once each of them has its target's law."""
    points = source.points, target.points
    sizes = [np.where(side.std(axis=0) > 0, side.std(axis=0), 1.0) for side in points]
    scaled = [side / size for side, size in zip(points, sizes, strict=True)]
    start = start_separable(scaled[0], scaled[1], source.weight, target.weight, choose=False)
    images = on_lines(start).images(scaled[0])
    return bool((pair_p(images, scaled[1], source.weight, target.weight) <= _LEVEL).any())


def _whole(
    inner: BrenierFit,
    source: Sample,
    target: Sample,
    index: np.ndarray,
    found: Screening | None,
    frequency: Any,
    wanted: Wanted,
) -> BrenierFit:
    """The fit of selected features as one of all."""
    dim, dtype = source.points.shape[1], wanted.dtype
    selection = Selection(to_jax(index.astype(np.int32)), dim)
    whole = BrenierMap(inner.map.source, inner.map.target, selection=selection)
    moved, mean, error, p = np.zeros(dim), np.zeros(dim), np.zeros(dim), np.full(dim, np.nan)
    chosen = np.zeros(dim, bool)
    chosen[index] = True
    if len(index):
        part = Sample(source.points[:, index], source.weight)
        moved[index], mean[index] = share_moved(inner.map, part, wanted.threshold)
        error[index] = mean_difference(part.points, target.points[:, index])[1]
    if found is not None:
        p = np.asarray(found.p)
    names = wanted.names or tuple(map(str, range(dim)))
    low, high = mean - INTERVAL * error, mean + INTERVAL * error
    numbers: Any = [to_jax(value, dtype) for value in (moved, mean, low, high, p)]
    advice = "" if found is None else found.advice
    often = None if frequency is None else to_jax(np.asarray(frequency), dtype)
    columns: Any = [names, to_jax(chosen), *numbers, advice, often]
    table = MovedFeatures(*columns)
    return dataclasses.replace(inner, map=whole, moved=numbers[0], features=table)


def _identity(source: Sample, target: Sample, wanted: Wanted) -> BrenierFit:
    """The map of no feature."""
    line = axes_line(source.points, target.points, dtype=wanted.dtype)
    potential = start_separable(source.points, target.points)
    members = stacked([Members(potential, line)])
    zero = to_jax(np.zeros(()), wanted.dtype)
    trace, steps = to_jax(np.zeros(1), wanted.dtype), to_jax(np.zeros(1, np.int32))
    rows = len(source.points), len(target.points)
    moved = to_jax(np.zeros(0), wanted.dtype)
    whole = BrenierMap(members)
    threshold = wanted.threshold
    return BrenierFit(
        whole, zero, zero, trace, steps, zero, 0, rows, RESULTS.successful, moved, threshold, wanted.names
    )
