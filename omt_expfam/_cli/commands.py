"""The commands that compute: fit, transport, refine and push."""

import argparse
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from .._files.frames import Labels
from .._fitting.fit import Fit, fit
from .._fitting.labeled import mixture_from_labels
from .._plans.plan import TransportPlan
from .._plans.relaxations import Partial, RelaxationLike, TotalVariation
from .._plans.transport import transport
from .._potentials.fit import fit_brenier
from .._potentials.fitted import BrenierFit
from .._potentials.gated import GatedMap
from .._potentials.map import BrenierMap
from .._storage import load
from .inputs import check_width, columns_of, family_of, load_kind, load_mixture, read_table
from .output import Document, save_points, save_result, say_saved


def fit_command(arguments: argparse.Namespace) -> Document:
    """Fit a mixture to a file of points."""
    points, labels = read_table(arguments, arguments.data, groups=arguments.labels)
    with jax.enable_x64(arguments.precision == "float64"):
        result = fit_points(arguments, points, labels)
        saved = save_result(arguments, result, labels.columns)
        print(f"{arguments.data}: {points.shape[0]} points in {points.shape[1]} dimensions")
        print(result)
        print(f"BIC {float(result.bic):.6g}, smaller is better")
        print(components_table(result))
        say_saved(arguments, saved)
        return {
            "out": saved,
            "points": len(points),
            "columns": labels.columns,
            **fit_document(result),
        }


def fit_points(arguments: argparse.Namespace, points: np.ndarray, labels: Labels) -> Fit:
    """The mixture of points: of known groups where they have labels."""
    points, family = points.astype(arguments.precision), family_of(arguments)
    if labels.groups is not None:
        return mixture_from_labels(points, np.asarray(labels.groups, object), family)
    limits = {name: getattr(arguments, name, None) for name in ("tolerance", "max_steps")}
    limits = {name: value for name, value in limits.items() if value is not None}
    return fit(jax.random.key(arguments.seed), points, family, arguments.components, **limits)


def fit_document(result: Fit) -> Document:
    """What programs want to know of a fit."""
    return {
        "family": type(result.mixture.components).__name__,
        "dimensions": result.mixture.dim,
        "components": result.mixture.num_components,
        "names": result.names,
        "weights": result.mixture.weights,
        "means": result.mixture.components.mean(),
        "effective_sizes": result.effective_sizes,
        "log_likelihood": result.log_likelihood,
        "bic": result.bic,
        "aic": result.aic,
        "steps": result.num_steps,
    }


def components_table(result: Fit) -> str:
    """Weight and mean of every component, the heaviest first."""
    weights, means = np.asarray(result.mixture.weights), np.asarray(result.mixture.components.mean())
    names = [str(k) if result.names is None else result.names[k] for k in range(len(weights))]
    width = max(9, *map(len, names))
    lines = [f"{'component':>{width}}  weight  mean"]
    for k in (-weights).argsort(kind="stable"):
        numbers = "  ".join(f"{value:.4g}" for value in means[k][:6])
        lines.append(f"{names[k]:>{width}}  {weights[k]:.4f}  {numbers}{'  ...' if len(means[k]) > 6 else ''}")
    return "\n".join(lines)


def transport_command(arguments: argparse.Namespace) -> Document:
    """Transport one saved mixture to another."""
    paths = arguments.source, arguments.target
    with jax.enable_x64(arguments.precision == "float64"):
        mixtures = [load_mixture(path, arguments.precision) for path in paths]
        sides = [columns_of(*pair)[0] for pair in zip(paths, mixtures, strict=True)]
        # Names of which none is common are two ways to call the same columns.
        common = sides[0] if set(sides[0] or ()) & set(sides[1] or ()) else None
        if common:
            mixtures = [named(*pair) for pair in zip(mixtures, sides, strict=True)]
        plan = transport(
            *mixtures,
            epsilon_components=arguments.epsilon_components,
            epsilon_weights=arguments.epsilon_weights,
            epsilon_scale=arguments.epsilon_scale,
            source_relaxation=_relaxation(arguments.source_relaxation),
            target_relaxation=_relaxation(arguments.target_relaxation),
            source_mass=arguments.source_mass,
            target_mass=arguments.target_mass,
        )
        sides = [common, common] if common else sides
        saved = save_result(arguments, plan, *sides)
        print(plan)
        print("cost: mean squared distance, in squared units of the data")
        print(plan.correspondences(arguments.min_weight))
        say_saved(arguments, saved)
        return {"out": saved, "columns": sides, **plan_document(plan, arguments.min_weight)}


def _relaxation(given: tuple[str, float] | None) -> RelaxationLike:
    """What an argument says of a side's masses."""
    if given is None:
        return math.inf
    kind, value = given
    return {"": lambda v: v, "tv": TotalVariation, "share": Partial}[kind](value)


def named(mixture: Any, columns: Any) -> Any:
    """A mixture with the names of its columns, as fits have them."""
    if columns is None:
        return mixture
    if isinstance(mixture, Fit):
        return dataclasses.replace(mixture, feature_names=tuple(columns))
    return NamedMixture(mixture, tuple(columns))


class NamedMixture(NamedTuple):
    """What takes the place of a fit."""

    mixture: Any
    feature_names: tuple[str, ...]


def plan_document(plan: TransportPlan, min_weight: float) -> Document:
    """What programs want to know of a plan."""
    table = plan.correspondences(min_weight)
    columns = table.to_dict()
    return {
        "dimensions": plan.source.dim,
        "components": [plan.source.num_components, plan.target.num_components],
        "names": plan.component_names,
        "cost": plan.cost,
        "objective": plan.objective,
        "epsilon_components": plan.epsilon_components,
        "epsilon_weights": plan.epsilon_weights,
        "epsilon_rules": plan.epsilon_rules,
        "independence": plan.independence,
        "mass": plan.mass,
        "source_growth": plan.source_growth,
        "target_growth": plan.target_growth,
        "marginal_error": plan.marginal_error,
        "weights": plan.weights,
        "component_costs": plan.component_costs,
        "correspondences": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        "dropped_weight": table.dropped_weight,
        "advice": str(plan).splitlines()[1:],
    }


def refine_command(arguments: argparse.Namespace) -> Document:
    """Fit the optimal map between two files of points."""
    with jax.enable_x64(arguments.precision == "float64"):
        plan, names, first, sides = None, [], arguments.source, []
        if arguments.plan is not None:
            plan = load_kind(arguments.plan, arguments.precision, TransportPlan, "a plan")
            names, first = [columns_of(arguments.plan, plan)[0]], arguments.plan
        for path in (arguments.source, arguments.target):
            points, labels = read_table(arguments, path, names[0] if names else None, first)
            names.append(labels.columns)
            if sides:
                check_width(path, points, sides[0].shape[1], arguments.source)
            elif plan is not None:
                check_width(path, points, plan.source.dim, f"the plan {arguments.plan}")
            sides.append(points.astype(arguments.precision))
            print(f"{path}: {points.shape[0]} points in {points.shape[1]} dimensions")
        result = fit_brenier(jax.random.key(arguments.seed), *sides, start=plan, num_steps=arguments.steps)
        saved = save_result(arguments, result, *names[-2:])
        print(result)
        say_saved(arguments, saved)
        return {
            "out": saved,
            "points": [len(side) for side in sides],
            "dimensions": sides[0].shape[1],
            "columns": names[-2:],
            "steps": result.num_steps,
            "summary": str(result).splitlines(),
        }


def push_command(arguments: argparse.Namespace) -> Document:
    """Map a file of points by a saved plan or map."""
    with jax.enable_x64(arguments.precision == "float64"):
        held = load(arguments.plan, dtype=arguments.precision)
        sides = columns_of(arguments.plan, held)
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
        check_width(arguments.data, points, dim, f"the {kind} {arguments.plan}")
        images = np.asarray(_image_function(held, arguments)(points.astype(arguments.precision)))
    labels = _labels_of_images(labels, theirs)
    saved = save_points(arguments, images, labels)
    print(f"mapped {images.shape[0]} points in {images.shape[1]} dimensions")
    say_saved(arguments, saved)
    return {
        "out": saved,
        "points": images.shape[0],
        "dimensions": images.shape[1],
        "columns": labels.columns,
        "method": arguments.method,
        "backward": arguments.backward,
    }


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
