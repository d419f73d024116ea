"""The commands `trajectory` and `interpolate`: plans from snapshot to snapshot, and laws in between."""

import argparse
from typing import Any

import jax
import numpy as np

from .._components.mixture import Mixture
from .._files.frames import Labels
from .._plans.displacement import Displacement
from .._plans.plan import TransportPlan
from .._time_courses.trajectory import Trajectory, trajectory
from .arguments import holds_points
from .commands import fit_points, named
from .inputs import columns_of, load_kind, load_mixture, read_table
from .output import Document, save_points, save_result, say_saved


def trajectory_command(arguments: argparse.Namespace) -> Document:
    """Transport along a time course."""
    with jax.enable_x64(arguments.precision == "float64"):
        mixtures, columns = [], None
        for path in arguments.data:
            mixture, own = _snapshot(arguments, path, columns)
            columns = columns or own
            mixtures.append(named(mixture, own if set(own or ()) & set(columns or ()) else None))
        found = trajectory(
            mixtures,
            epsilon_components=arguments.epsilon_components,
            epsilon_weights=arguments.epsilon_weights,
            epsilon_scale=arguments.epsilon_scale,
            times=arguments.times,
            source_relaxation=arguments.source_relaxation,
        )
        saved = save_result(arguments, found, columns, columns)
        print(found)
        for step, plan in enumerate(found.plans):
            print(f"\ntime {found.times[step]:g} to {found.times[step + 1]:g}, cost {float(plan.cost):.6g}")
            print(plan.correspondences(arguments.min_weight))
        print()
        say_saved(arguments, saved)
        return {"out": saved, "snapshots": arguments.data, "columns": columns, **_document(found)}


def _snapshot(arguments: argparse.Namespace, path: str, columns: Any) -> tuple[Any, Any]:
    """The mixture at one time, and the names of its columns."""
    if not holds_points(path):
        mixture = load_mixture(path, arguments.precision)
        return mixture, columns_of(path, mixture)[0]
    points, labels = read_table(arguments, path, columns, arguments.data[0], arguments.labels)
    fitted = fit_points(arguments, points, labels)
    print(f"{path}: {points.shape[0]} points in {points.shape[1]} dimensions\n{fitted}")
    return fitted, None if labels.columns is None else list(labels.columns)


def _document(found: Trajectory) -> Document:
    """What programs want to know of a trajectory; rows of transitions sum to one."""
    last = found.num_times - 1
    return {
        "times": found.times,
        "dimensions": found.dim,
        "components": [mixture.num_components for mixture in found.mixtures],
        "weights": [mixture.weights for mixture in found.mixtures],
        "steps": [
            {
                "time": found.times[step],
                "next_time": found.times[step + 1],
                "cost": plan.cost,
                "names": plan.component_names,
                "weights": plan.weights,
                "transitions": found.descendants(step, step + 1),
                "growth": found.growth[step],
            }
            for step, plan in enumerate(found.plans)
        ],
        "descendants": found.descendants(0, last),
        "ancestors": found.ancestors(0, last),
    }


def interpolate_command(arguments: argparse.Namespace) -> Document:
    """Find the law at a time between two mixtures."""
    with jax.enable_x64(arguments.precision == "float64"):
        kinds = TransportPlan | Trajectory
        held = load_kind(arguments.path, arguments.precision, kinds, "a plan or a trajectory")
        sides = columns_of(arguments.path, held)
        columns = sides[0] or sides[1]
        law = held.interpolate(arguments.time)
        if holds_points(arguments.out):
            draws = np.asarray(law.sample(jax.random.key(arguments.seed), arguments.points))
            saved = save_points(arguments, draws, Labels(None if columns is None else tuple(columns)))
        else:
            saved = save_result(arguments, law, columns)
        print(f"time {arguments.time:g}: {law}")
        say_saved(arguments, saved)
        return {
            "out": saved,
            "time": arguments.time,
            "columns": columns,
            "points": arguments.points if holds_points(arguments.out) else None,
            **_law_document(law),
        }


def _law_document(law: Mixture | Displacement) -> Document:
    mixture = isinstance(law, Mixture)
    return {
        "dimensions": law.dim,
        "components": law.weights.shape[0],
        "weights": law.weights,
        "means": law.components.mean() if mixture else law.means(),
        "mean": law.mean(),
        "covariance": law.covariance(),
    }
