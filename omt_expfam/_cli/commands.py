"""The commands that compute: fit, transport, refine and push."""

import argparse
from typing import Any

import jax
import numpy as np

import families

from .._components.mixture import Mixture
from .._family.template import template
from .._files.points import Labels, read_labels, read_points
from .._files.tree import read_columns
from .._fitting.fit import Fit, fit
from .._plans.plan import TransportPlan
from .._plans.transport import transport
from .._potentials.fit import fit_brenier
from .._potentials.fitted import BrenierFit
from .._potentials.gated import GatedMap
from .._potentials.map import BrenierMap
from .._storage import load
from .output import save_points, save_result
from .parser import FAMILIES


def read_table(
    arguments: argparse.Namespace, path: str, wanted: Any = None, other: str = ""
) -> tuple[np.ndarray, Labels]:
    """Points and their names; columns in the order of others of the same names, which ``other`` has."""
    chosen = {name: getattr(arguments, name) for name in ("array", "header", "columns", "index")}
    labels = read_labels(path, **chosen)
    if wanted and labels.columns and set(wanted) & set(labels.columns):
        missing = [name for name in wanted if name not in labels.columns]
        if missing:
            raise ValueError(f"{path}: has no column {missing[0]!r}, as {other} has; choose others with --columns.")
        if list(labels.columns) != list(wanted):
            print(f"{path}: columns taken in the order of {other}: {', '.join(wanted)}")
            chosen["columns"], labels = list(wanted), Labels(tuple(wanted), labels.rows)
    return read_points(path, **chosen), labels


def _columns_of(path: str, number: int = 0) -> Any:
    """The names that one side of a saved object has kept."""
    sides = read_columns(path)
    return sides[number] if sides else None


def fit_command(arguments: argparse.Namespace) -> None:
    """Fit a mixture to a file of points."""
    points, labels = read_table(arguments, arguments.data)
    chosen = getattr(families, FAMILIES[arguments.family])
    if arguments.rank is not None:
        chosen = template(chosen, rank=arguments.rank)
    limits = {"tolerance": arguments.tolerance, "max_steps": arguments.max_steps}
    limits = {name: value for name, value in limits.items() if value is not None}
    with jax.enable_x64(arguments.precision == "float64"):
        key = jax.random.key(arguments.seed)
        result = fit(key, points.astype(arguments.precision), chosen, arguments.components, **limits)
        saved = save_result(arguments, result, labels.columns)
        print(f"{arguments.data}: {points.shape[0]} points in {points.shape[1]} dimensions")
        print(result)
        print(f"BIC {float(result.bic):.6g}, smaller is better")
        print(_components_table(np.asarray(result.mixture.weights), np.asarray(result.mixture.components.mean())))
        print(saved)


def _components_table(weights: Any, means: Any) -> str:
    """Weight and mean of every component, the heaviest first."""
    lines = ["component  weight  mean"]
    for k in (-weights).argsort(kind="stable"):
        numbers = "  ".join(f"{value:.4g}" for value in means[k][:6])
        lines.append(f"{k:>9}  {weights[k]:.4f}  {numbers}{'  ...' if len(means[k]) > 6 else ''}")
    return "\n".join(lines)


def transport_command(arguments: argparse.Namespace) -> None:
    """Transport one saved mixture to another."""
    sides = [_columns_of(path) for path in (arguments.source, arguments.target)]
    if all(sides) and sides[0] != sides[1] and set(sides[0]) & set(sides[1]):
        raise ValueError(
            f"{arguments.target}: was fitted to the columns {', '.join(sides[1])}, and {arguments.source} to "
            f"{', '.join(sides[0])}: fit it again with --columns {','.join(sides[0])}."
        )
    with jax.enable_x64(arguments.precision == "float64"):
        plan = transport(
            _load_mixture(arguments.source, arguments.precision),
            _load_mixture(arguments.target, arguments.precision),
            epsilon_components=arguments.epsilon_components,
            epsilon_weights=arguments.epsilon_weights,
            epsilon_scale=arguments.epsilon_scale,
        )
        saved = save_result(arguments, plan, *sides)
        print(plan)
        print("cost: mean squared distance, in squared units of the data")
        print(plan.correspondences(arguments.min_weight))
        print(saved)


def _load_mixture(path: str, precision: str) -> Any:
    held = load(path, dtype=precision)
    mixture = held.mixture if isinstance(held, Fit) else held
    if not isinstance(mixture, Mixture):
        raise ValueError(f"{path}: must hold a mixture or a fit; got {type(held).__name__}.")
    # Weights that were rounded to float32 miss one by too much for float64: the constructor normalizes them.
    rounded = abs(float(mixture.weights.sum()) - 1) > 1e-12
    return Mixture(mixture.weights, mixture.components) if rounded else mixture


def refine_command(arguments: argparse.Namespace) -> None:
    """Fit the optimal map between two files of points."""
    with jax.enable_x64(arguments.precision == "float64"):
        plan = None
        if arguments.plan is not None:
            plan = load(arguments.plan, dtype=arguments.precision)
            if not isinstance(plan, TransportPlan):
                raise ValueError(f"{arguments.plan}: must hold a plan; got {type(plan).__name__}.")
        sides, names, first = [], [], arguments.source
        if arguments.plan is not None:
            names, first = [_columns_of(arguments.plan)], arguments.plan
        for path in (arguments.source, arguments.target):
            points, labels = read_table(arguments, path, names[0] if names else None, first)
            names.append(labels.columns)
            width = sides[0].shape[1] if sides else plan.source.dim if plan is not None else points.shape[1]
            if points.shape[1] != width:
                other = arguments.source if sides else f"the plan {arguments.plan}"
                raise ValueError(f"{path}: must have {width} columns, as {other}; got {points.shape[1]}.")
            sides.append(points.astype(arguments.precision))
            print(f"{path}: {points.shape[0]} points in {points.shape[1]} dimensions")
        result = fit_brenier(jax.random.key(arguments.seed), *sides, start=plan, num_steps=arguments.steps)
        saved = save_result(arguments, result, *names[-2:])
        print(result)
        print(saved)


def push_command(arguments: argparse.Namespace) -> None:
    """Map a file of points by a saved plan or map."""
    with jax.enable_x64(arguments.precision == "float64"):
        held = load(arguments.plan, dtype=arguments.precision)
        sides = [_columns_of(arguments.plan, number) for number in (0, 1)]
        ours, theirs = reversed(sides) if arguments.backward else sides
        held = held.map if isinstance(held, BrenierFit) else held
        if not isinstance(held, TransportPlan | BrenierMap | GatedMap):
            raise ValueError(f"{arguments.plan}: must hold a plan or a map; got {type(held).__name__}.")
        if isinstance(held, GatedMap) and arguments.backward:
            raise ValueError(f"{arguments.plan}: holds a map gated by components, which has no way back.")
        if isinstance(held, BrenierMap | GatedMap) and arguments.method != "mean":
            raise ValueError(f"{arguments.plan}: holds a map, which has no --method {arguments.method}; leave it out.")
        held = held.reverse() if arguments.backward else held
        points, labels = read_table(arguments, arguments.data, ours, arguments.plan)
        kind, dim = (
            ("map", held.num_dimensions) if isinstance(held, BrenierMap | GatedMap) else ("plan", held.source.dim)
        )
        if points.shape[1] != dim:
            raise ValueError(
                f"{arguments.data}: must have {dim} columns, as the {kind} {arguments.plan}; got {points.shape[1]}."
            )
        images = np.asarray(_image_function(held, arguments)(points.astype(arguments.precision)))
    saved = save_points(arguments, images, _labels_of_images(labels, theirs))
    print(f"mapped {images.shape[0]} points in {images.shape[1]} dimensions")
    print(saved)


def _labels_of_images(labels: Labels, theirs: Any) -> Labels:
    """A table with names gives one: of the columns of the other side, where they are known."""
    if labels == Labels():
        return labels
    return Labels(labels.columns if theirs is None else tuple(theirs), labels.rows)


def _image_function(held: TransportPlan | BrenierMap | GatedMap, arguments: argparse.Namespace) -> Any:
    if isinstance(held, BrenierMap | GatedMap) or arguments.method == "mean":
        return held.push_forward
    if arguments.method == "most-likely":
        return held.push_forward_most_likely
    return lambda x: held.sample(jax.random.key(arguments.seed), x)
