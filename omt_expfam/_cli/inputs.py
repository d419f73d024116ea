"""What commands are given: tables of points, and objects that other commands saved."""

import argparse
import dataclasses
from typing import Any

import numpy as np

import families

from .._components.mixture import Mixture
from .._family.template import template
from .._files.frames import Labels
from .._files.points import read_points
from .._files.tree import read_columns
from .._fitting.fit import Fit
from .._storage import load
from .parser import FAMILIES


def read_table(
    arguments: argparse.Namespace, path: str, wanted: Any = None, other: str = "", groups: str | None = None
) -> tuple[np.ndarray, Labels]:
    """Points and their names; columns in the order of others of the same names, which ``other`` has."""

    def choose(names: Any) -> Any:
        if not (wanted and set(wanted) & set(names)):
            return arguments.columns
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"{path}: has no column {missing[0]!r}, as {other} has; choose others with --columns.")
        if [name for name in names if name in wanted] != list(wanted):
            print(f"{path}: columns taken in the order of {other}: {', '.join(wanted)}")
        return wanted

    # Columns that were asked for are refused where they have no names.
    columns = choose if arguments.columns is None else choose(arguments.columns)
    return read_points(path, columns=columns, groups=groups, **reading(arguments))


def reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """How tables are read, as options of `read_points`."""
    return {"array": arguments.array, "header": arguments.header, "index": arguments.index}


def check_width(path: str, points: np.ndarray, width: int, other: str) -> None:
    """Raise ValueError unless points are as wide as something else is."""
    if points.shape[1] != width:
        raise ValueError(f"{path}: must have {width} columns, as {other}; got {points.shape[1]}.")


def columns_of(path: str, held: Any = None) -> tuple[Any, Any]:
    """The names of columns that both sides of a saved object have kept: beside it, or in it, where Python saved it."""
    sides = read_columns(path)
    own = getattr(held, "feature_names", None)
    known = [own and list(own)] if sides is None else sides
    return known[0], known[-1]


def load_kind(path: str, precision: str, kinds: Any, what: str) -> Any:
    """A saved object of one of some classes.

    Raises:
        ValueError: If it is another one.
    """
    held = load(path, dtype=precision)
    if not isinstance(held, kinds):
        raise ValueError(f"{path}: must hold {what}; got {type(held).__name__}.")
    return held


def load_mixture(path: str, precision: str) -> Any:
    """A saved mixture; a fit keeps the names of its components."""
    held = load_kind(path, precision, Fit | Mixture, "a mixture or a fit")
    mixture = held.mixture if isinstance(held, Fit) else held
    # Weights that were rounded to float32 miss one by too much for float64: the constructor normalizes them.
    rounded = abs(float(mixture.weights.sum()) - 1) > 1e-12
    mixture = Mixture(mixture.weights, mixture.components) if rounded else mixture
    return dataclasses.replace(held, mixture=mixture) if isinstance(held, Fit) else mixture


def family_of(arguments: argparse.Namespace) -> Any:
    """The family that was asked for."""
    chosen = getattr(families, FAMILIES[arguments.family])
    return chosen if arguments.rank is None else template(chosen, rank=arguments.rank)
