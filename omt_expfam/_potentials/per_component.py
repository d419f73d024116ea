"""Maps that differ between the components of a plan: features are selected within each, and moved one by one."""

from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.arrays import stacked, to_jax
from .._base.precision import narrow
from .._base.results import RESULTS
from .._components.mixture import cast_mixture
from .._plans.plan import TransportPlan
from .._screening.components import screen_components
from .._screening.marginal import mean_difference
from .._screening.screen import Screen, Screening
from .ensemble import Wanted
from .fitted import BrenierFit
from .gated import GatedMap
from .line import axes_line, unit_slopes
from .members import Members
from .monotone import fit_monotone
from .moved import ComponentFeatures, INTERVAL, MovedFeatures
from .samples import Sample
from .selection import Selection
from .separable import SeparablePotential, start_separable

# Pairs of components with a smaller share of both of them are taken for noise of the weights.
_LEAST_SHARE = 0.1
# The part of the points that is held out to value the map; points of less weight are no part of a component.
_FOLD, _LEAST = 5, 1e-3


class Part(NamedTuple):
    """What one component fits: the points that belong to it, and how much, in the features that it moves."""

    x: np.ndarray
    y: np.ndarray
    x_weight: Any
    y_weight: Any


def fit_components(
    rng: np.random.Generator, source: Sample, target: Sample, settings: Screen, wanted: Wanted
) -> BrenierFit:
    """Select features within each component of the plan, and fit a gated map.

    Args:
        rng: Randomness of what is held out, and of resampling.
        source: Source points.
        target: Target points.
        settings: How features are selected.
        wanted: What a fit is asked for.
    """
    plan = wanted.start
    assert plan is not None  # fit_brenier has asked.
    members = memberships(plan, source.points, target.points)
    found = screen_components(settings, source.points, target.points, *members, rng)
    dim, num = source.points.shape[1], len(found)
    selected = np.zeros((num, dim), bool)
    for row, one in zip(selected, found, strict=True):
        row[np.asarray(one.selected)] = True
    index = np.flatnonzero(selected.any(axis=0))
    map = _gated(plan, source, target, members, index, selected[:, index], wanted)
    value, error = _value(rng, source, target, members, selected)
    table, whole = _tables(map, source, target, members, selected, found, wanted)
    value, error, trace, zero = (to_jax(np.array(number), wanted.dtype) for number in (value, error, [value], 0.0))
    return BrenierFit(
        map,
        held_out_value=value,
        held_out_error=error,
        trace=trace,
        trace_steps=to_jax(np.zeros(1, np.int32)),
        inner_residual=zero,
        num_steps=0,
        num_rows=(len(source.points), len(target.points)),
        result=RESULTS.successful,
        moved=whole.share,
        moved_threshold=wanted.threshold,
        feature_names=wanted.names,
        features=whole,
        component_features=table,
    )


def memberships(plan: TransportPlan, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How likely points belong to, or come from, each component of the source, shapes ``[n, K]`` and ``[m, K]``.

    A component goes where the plan sends it; pairs that are a small part of both of their components are left out, as
    the shares of components are not known better.
    """
    weights = np.asarray(plan.weights, np.float64)
    rows, columns = (weights / np.maximum(weights.sum(axis=a, keepdims=True), 1e-300) for a in (1, 0))
    large = np.maximum(rows, columns) >= _LEAST_SHARE
    large[np.arange(len(rows)), rows.argmax(axis=1)] = True
    kept = np.where(large, weights, 0)
    shares = kept / np.maximum(kept.sum(axis=0), 1e-300)
    sides = (plan.source, x), (plan.target, y)
    first, second = (np.asarray(mixture.responsibilities(points), np.float64) for mixture, points in sides)
    return first, second @ shares.T


def _part(source: Sample, target: Sample, members: tuple[np.ndarray, np.ndarray], k: int, index: Any) -> Part:
    inside = [np.flatnonzero(member[:, k] > _LEAST) for member in members]
    points = [side.points[rows][:, index] for side, rows in zip((source, target), inside, strict=True)]
    weights = [member[rows, k] for member, rows in zip(members, inside, strict=True)]
    return Part(points[0], points[1], weights[0], weights[1])


def _gated(
    plan: TransportPlan,
    source: Sample,
    target: Sample,
    members: tuple[np.ndarray, np.ndarray],
    index: np.ndarray,
    moves: np.ndarray,
    wanted: Wanted,
) -> GatedMap:
    """The maps of all components, of the features that any of them moves."""
    made = []
    for k, own in enumerate(moves):
        part = _part(source, target, members, k, index)
        if not own.any():
            # Any line will do: nothing moves.
            part = Part(source.points[:, index], target.points[:, index], None, None)
        line = axes_line(*part, dtype=wanted.dtype)
        x, y = (
            (points - np.asarray(mean, np.float64)) * np.diag(np.asarray(matrix, np.float64))
            for points, mean, matrix in (
                (part.x, line.source_mean, line.source_matrix),
                (part.y, line.target_mean, line.target_matrix),
            )
        )
        beyond = unit_slopes(line)[own]
        potential = start_separable(x[:, own], y[:, own], part.x_weight, part.y_weight, beyond=beyond)
        made.append(Members(narrow(_among(potential, own), wanted.dtype), line))
    mixture = cast_mixture(plan.source, np.dtype(wanted.dtype))
    selection = Selection(to_jax(index.astype(np.int32)), source.points.shape[1])
    return GatedMap(mixture, stacked(made), to_jax(moves), selection)


def _among(potential: SeparablePotential, own: np.ndarray) -> SeparablePotential:
    """A potential of some coordinates, among others of which it is never asked."""

    def wide(leaf: Any) -> Any:
        values = np.asarray(leaf)
        among = np.tile(np.arange(values.shape[1], dtype=values.dtype), (len(own), 1)) if values.ndim > 1 else None
        among = np.zeros(len(own), values.dtype) if among is None else among
        among[own] = values
        return to_jax(among)

    return jax.tree.map(wide, potential)


def _value(
    rng: np.random.Generator,
    source: Sample,
    target: Sample,
    members: tuple[np.ndarray, np.ndarray],
    selected: np.ndarray,
) -> tuple[float, float]:
    """The dual value of maps fitted without a fifth of the points, on these, and its standard error.

    It is that of each component, by their shares: a lower bound of what it costs to move every component to its target.
    """
    total, variance = 0.0, 0.0
    for k, own in enumerate(selected):
        if not own.any():
            continue
        part = _part(source, target, members, k, own)
        center = np.average(part.x, axis=0, weights=part.x_weight)
        sides = [points.astype(np.float64) - center for points in (part.x, part.y)]
        weights = [part.x_weight, part.y_weight]
        out = [rng.permutation(len(points)) < max(len(points) // _FOLD, 1) for points in sides]
        known = [array[~held] for pair in (sides, weights) for array, held in zip(pair, out, strict=True)]
        lines = fit_monotone(known[0], known[1], known[2], known[3]).lines
        terms = lines.terms(*(points[held] for points, held in zip(sides, out, strict=True)))
        for each, weight, held in zip(terms, weights, out, strict=True):
            share, sums = weight[held] / weight[held].sum(), each.sum(axis=1)
            part_of_all = members[0][:, k].mean()
            total += part_of_all * (share @ sums)
            variance += part_of_all**2 * np.sum(share**2 * (sums - share @ sums) ** 2)
    return total, float(np.sqrt(variance))


def _tables(
    map: GatedMap,
    source: Sample,
    target: Sample,
    members: tuple[np.ndarray, np.ndarray],
    selected: np.ndarray,
    found: list[Screening],
    wanted: Wanted,
) -> tuple[ComponentFeatures, MovedFeatures]:
    """What moves in each component, and in all of them together."""
    num, dim = selected.shape
    own = np.asarray(map.component_of(source.points))
    moved = np.asarray(map.push_forward(source.points), np.float64) - source.points
    weight = np.bincount(own, minlength=num) / len(own)
    share, mean, error = np.zeros((3, num, dim))
    for k in range(num):
        if np.any(own == k):
            share[k] = np.mean(np.abs(moved[own == k]) > wanted.threshold, axis=0)
            mean[k] = moved[own == k].mean(axis=0)
        if selected[k].any():
            part = _part(source, target, members, k, selected[k])
            error[k, selected[k]] = mean_difference(*part)[1]
    p = np.minimum(num * np.array([np.asarray(one.p, np.float64) for one in found]), 1)
    often = [one.frequency for one in found]
    frequency = None if all(one is None for one in often) else np.zeros((num, dim))
    if frequency is not None:
        for row, one in zip(frequency, often, strict=True):
            row[:] = 0 if one is None else np.asarray(one)
    given = wanted.start.component_names[0] if wanted.start is not None else None
    components = tuple(map_names(given, num))
    names = wanted.names or tuple(map_names(None, dim))
    within = [share, mean, mean - INTERVAL * error, mean + INTERVAL * error, p]
    whole_mean, whole_error = weight @ mean, np.sqrt(weight**2 @ error**2)
    all_p = np.minimum(p.min(axis=0), 1)
    whole = [
        weight @ share,
        whole_mean,
        whole_mean - INTERVAL * whole_error,
        whole_mean + INTERVAL * whole_error,
        all_p,
    ]
    advice = sorted({one.advice for one in found} - {""})
    rows: Any = [to_jax(values, wanted.dtype) for values in within]
    totals: Any = [to_jax(values, wanted.dtype) for values in whole]
    shown = None if frequency is None else to_jax(frequency, wanted.dtype)
    most = None if frequency is None else to_jax(frequency.max(axis=0), wanted.dtype)
    told, any_selected = to_jax(weight, wanted.dtype), to_jax(selected.any(axis=0))
    table = ComponentFeatures(names, components, told, to_jax(selected), *rows, frequency=shown)
    return table, MovedFeatures(names, any_selected, *totals, advice="\n".join(advice), frequency=most)


def map_names(names: Any, num: int) -> list[str]:
    """Names, or numbers where there are none."""
    return [str(name) for name in (range(num) if names is None else names)]
