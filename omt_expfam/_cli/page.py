"""The command `report`: one HTML page on two data sets and the plan between them."""

import argparse
import dataclasses
import os
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.labels import as_labels
from .._files.frames import Labels
from .._files.groups import is_labels_file, read_groups
from .._files.points import read_points, split_name
from .._fitting.fit import Fit
from .._fitting.select import select_num_components
from .._plans.plan import TransportPlan
from .._plans.transport import transport
from .._report.report import plotly_library, report
from .._report.words import findings
from .arguments import MIN_WEIGHT
from .commands import fit_points, plan_document
from .inputs import check_width, columns_of, family_of, load_kind, read_table, reading
from .output import Document, save_page, say_saved
from .parser import PROG

# Numbers of components that are tried where none is given.
_MOST = 8


class Side(NamedTuple):
    """Points of one side, their names, labels and coordinates, where they are known."""

    path: str
    points: np.ndarray
    names: Labels
    labels: np.ndarray | None
    places: np.ndarray | None


def report_command(arguments: argparse.Namespace) -> Document:
    """Write the page."""
    plotly_library()
    with jax.enable_x64(arguments.precision == "float64"):
        plan = None
        if arguments.plan is not None:
            plan = load_kind(arguments.plan, arguments.precision, TransportPlan, "a plan")
        sides = _sides(arguments, plan)
        fits, notes = (None, None), [f"The plan was read from {arguments.plan}."]
        if plan is None:
            found = [_fit(arguments, side, number) for number, side in enumerate(sides)]
            fits, notes = (found[0][0], found[1][0]), [note for _, note in found]
            epsilons = {name: getattr(arguments, name) for name in ("epsilon_components", "epsilon_weights")}
            plan = transport(*fits, **epsilons, epsilon_scale=arguments.epsilon_scale)
        columns = sides[0].names.columns
        if columns and plan.feature_names is None:
            plan = dataclasses.replace(plan, feature_names=tuple(columns))
        places = [side.places for side in sides]
        titles = _titles([side.path for side in sides])
        options: dict[str, Any] = {
            "fits": fits,
            "labels": tuple(side.labels for side in sides),
            "embedding": None if places[0] is None else tuple(places),
            "names": titles,
            "title": arguments.title,
            "notes": notes,
            "call": shlex.join([PROG, *arguments.words]),
        }
        points = sides[0].points, sides[1].points
        saved = save_page(arguments, lambda path, **how: report(path, plan, *points, **options, **how))
        for side in sides:
            print(f"{side.path}: {len(side.points)} points in {side.points.shape[1]} dimensions")
        print("\n".join(notes))
        print(plan)
        say_saved(arguments, saved)
        return {
            "out": saved,
            "points": [len(side.points) for side in sides],
            "columns": [side.names.columns for side in sides],
            "notes": notes,
            "findings": [dict(zip(("kind", "subject", "text"), row, strict=True)) for row in findings(plan)],
            **plan_document(plan, MIN_WEIGHT),
        }


def _fit(arguments: argparse.Namespace, side: Side, number: int) -> tuple[Fit, str]:
    """A fit of one side, and how its number of components was chosen."""
    name = _titles([side.path])[0]
    if arguments.components is None and side.labels is not None:
        labeled = side.names._replace(groups=tuple(side.labels.tolist()))
        return fit_points(arguments, side.points, labeled), f"The components of {name} are its labeled groups."
    if arguments.components is None:
        most = min(_MOST, len(side.points))
        key = jax.random.key(arguments.seed)
        found = select_num_components(key, side.points, family_of(arguments), range(1, most + 1))
        text = f"{found.num_components} components of {name} have the smallest BIC of 1 to {most}."
        return found.fit, text
    count = arguments.components[number % len(arguments.components)]
    own = argparse.Namespace(**(vars(arguments) | {"components": count}))
    found = fit_points(own, side.points, side.names._replace(groups=None))
    return found, f"The number of components of {name} was given: {count}."


def _sides(arguments: argparse.Namespace, plan: TransportPlan | None) -> list[Side]:
    """Points of both sides, in the same columns."""
    wanted: Any = (None, None) if plan is None else columns_of(arguments.plan, plan)
    other, width, sides = arguments.plan or "", None if plan is None else plan.source.dim, []
    both = zip((arguments.source, arguments.target), (arguments.labels, arguments.target_labels), strict=True)
    for number, (path, labels) in enumerate(both):
        own = wanted[number] if plan is not None else sides[0].names.columns if sides else None
        side = _side(arguments, path, own, other, labels)
        if width is not None:
            check_width(path, side.points, width, f"the plan {other}" if plan is not None else other)
        elif plan is None:
            width, other = side.points.shape[1], path
        sides.append(side)
    return sides


def _side(arguments: argparse.Namespace, path: str, wanted: Any, other: str, labels: str | None) -> Side:
    own = labels is not None and is_labels_file(labels)
    drawn = _drawn_columns(arguments.embedding)
    if wanted is None and arguments.columns is None and drawn:
        # What is drawn at is no feature.
        rest = lambda names: tuple(name for name in names if name not in drawn)
        points, names = read_points(path, columns=rest, groups=None if own else labels, **reading(arguments))
    else:
        points, names = read_table(arguments, path, wanted, other, None if own else labels)
    groups: Any = names.groups
    if labels is not None and own:
        groups = read_groups(labels, len(points), names.rows)
    known = None if groups is None else as_labels(labels or "", np.asarray(groups, object), len(points))
    places = None if arguments.embedding is None else _places(arguments, path, len(points))
    return Side(path, points.astype(arguments.precision), names, known, places)


def _drawn_columns(embedding: Sequence[str] | None) -> tuple[str, ...]:
    """The two columns of a table to draw at, if that is what was asked for."""
    return tuple(embedding) if embedding is not None and len(embedding) == 2 else ()


def _places(arguments: argparse.Namespace, path: str, num: int) -> np.ndarray:
    """Coordinates to draw at: an array of the file, or two columns of it."""
    drawn = _drawn_columns(arguments.embedding)
    if drawn:
        places, _ = read_points(path, columns=drawn, **reading(arguments))
    else:
        places, _ = read_points(split_name(path)[0], array=arguments.embedding[0])
    if places.shape[0] != num or places.shape[1] < 2:
        raise ValueError(f"{path}: --embedding must be {num} rows of two numbers; got shape {places.shape}.")
    return places[:, :2]


def _titles(paths: Sequence[str]) -> tuple[str, ...]:
    """The names of files, and whole paths where these are alike."""
    names = tuple(os.path.basename(path) for path in paths)
    return names if len(set(names)) == len(names) else tuple(paths)
