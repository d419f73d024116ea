"""The commands that compute: fit, transport and push."""

import argparse
from typing import Any

import jax
import numpy as np

import families

from .._components.mixture import Mixture
from .._family.template import template
from .._files.points import read_points, write_points
from .._fitting.fit import Fit, fit
from .._plans.plan import TransportPlan
from .._plans.transport import transport
from .._storage import load, save
from .parser import FAMILIES


def fit_command(arguments: argparse.Namespace) -> None:
    """Fit a mixture to a file of points."""
    points = read_points(arguments.data, array=arguments.array, header=arguments.header)
    chosen = getattr(families, FAMILIES[arguments.family])
    if arguments.rank is not None:
        chosen = template(chosen, rank=arguments.rank)
    limits = {"tolerance": arguments.tolerance, "max_steps": arguments.max_steps}
    limits = {name: value for name, value in limits.items() if value is not None}
    with jax.enable_x64(arguments.precision == "float64"):
        key = jax.random.key(arguments.seed)
        result = fit(key, points.astype(arguments.precision), chosen, arguments.components, **limits)
        save(arguments.out, result)
        print(f"{arguments.data}: {points.shape[0]} points in {points.shape[1]} dimensions")
        print(result)
        print(f"BIC {float(result.bic):.6g}, smaller is better")
        print(_components_table(np.asarray(result.mixture.weights), np.asarray(result.mixture.components.mean())))
        print(f"saved {arguments.out}")


def _components_table(weights: Any, means: Any) -> str:
    """Weight and mean of every component, the heaviest first."""
    lines = ["component  weight  mean"]
    for k in (-weights).argsort(kind="stable"):
        numbers = "  ".join(f"{value:.4g}" for value in means[k][:6])
        lines.append(f"{k:>9}  {weights[k]:.4f}  {numbers}{'  ...' if len(means[k]) > 6 else ''}")
    return "\n".join(lines)


def transport_command(arguments: argparse.Namespace) -> None:
    """Transport one saved mixture to another."""
    with jax.enable_x64(arguments.precision == "float64"):
        plan = transport(
            _load_mixture(arguments.source, arguments.precision),
            _load_mixture(arguments.target, arguments.precision),
            epsilon_components=arguments.epsilon_components,
            epsilon_weights=arguments.epsilon_weights,
        )
        save(arguments.out, plan)
        print(plan)
        print("cost: mean squared distance, in squared units of the data")
        print(plan.correspondences(arguments.min_weight))
        print(f"saved {arguments.out}")


def _load_mixture(path: str, precision: str) -> Any:
    held = load(path, dtype=precision)
    mixture = held.mixture if isinstance(held, Fit) else held
    if not isinstance(mixture, Mixture):
        raise ValueError(f"{path}: must hold a mixture or a fit; got {type(held).__name__}.")
    # Weights that were rounded to float32 miss one by too much for float64: the constructor normalizes them.
    rounded = abs(float(mixture.weights.sum()) - 1) > 1e-12
    return Mixture(mixture.weights, mixture.components) if rounded else mixture


def push_command(arguments: argparse.Namespace) -> None:
    """Map a file of points by a saved plan."""
    with jax.enable_x64(arguments.precision == "float64"):
        plan = load(arguments.plan, dtype=arguments.precision)
        if not isinstance(plan, TransportPlan):
            raise ValueError(f"{arguments.plan}: must hold a plan; got {type(plan).__name__}.")
        plan = plan.reverse() if arguments.backward else plan
        points = read_points(arguments.data, array=arguments.array, header=arguments.header)
        if points.shape[1] != plan.source.dim:
            raise ValueError(
                f"{arguments.data}: must have {plan.source.dim} columns, as the plan {arguments.plan}; "
                f"got {points.shape[1]}."
            )
        maps = {
            "mean": plan.push_forward,
            "most-likely": plan.push_forward_most_likely,
            "sample": lambda x: plan.sample(jax.random.key(arguments.seed), x),
        }
        images = np.asarray(maps[arguments.method](points.astype(arguments.precision)))
    write_points(arguments.out, images)
    print(f"mapped {images.shape[0]} points in {images.shape[1]} dimensions")
    print(f"saved {arguments.out}")
