"""The command `select`: how many components, of one data set or of both sides of a plan."""

import argparse
from typing import Any

import jax

from .._fitting.select import select_num_components
from .._pipelines.select_plan import select_plan
from .arguments import MIN_WEIGHT
from .commands import fit_document, plan_document
from .inputs import check_width, family_of, read_table
from .output import Document, save_result, say_saved


def select_command(arguments: argparse.Namespace) -> Document:
    """Choose among numbers of components."""
    with jax.enable_x64(arguments.precision == "float64"):
        return _select_fit(arguments) if arguments.target is None else _select_plan(arguments)


def _select_fit(arguments: argparse.Namespace) -> Document:
    points, labels = read_table(arguments, arguments.data)
    found = select_num_components(
        jax.random.key(arguments.seed),
        points.astype(arguments.precision),
        family_of(arguments),
        arguments.components,
        criterion=arguments.criterion.replace("-", "_"),
    )
    saved = save_result(arguments, found.fit, labels.columns)
    print(f"{arguments.data}: {points.shape[0]} points in {points.shape[1]} dimensions")
    print(found)
    print(found.fit)
    say_saved(arguments, saved)
    return {
        "out": saved,
        "chosen": found.num_components,
        "criterion": arguments.criterion,
        "candidates": _candidates(found.candidates, found.scores, found.standard_errors),
        "points": len(points),
        "columns": labels.columns,
        **fit_document(found.fit),
    }


def _select_plan(arguments: argparse.Namespace) -> Document:
    x, labels = read_table(arguments, arguments.data)
    y, others = read_table(arguments, arguments.target, labels.columns, arguments.data)
    check_width(arguments.target, y, x.shape[1], arguments.data)
    found = select_plan(
        jax.random.key(arguments.seed),
        x.astype(arguments.precision),
        y.astype(arguments.precision),
        family_of(arguments),
        arguments.components,
        epsilon_components=arguments.epsilon_components,
        epsilon_weights=arguments.epsilon_weights,
        epsilon_scale=arguments.epsilon_scale,
        num_splits=arguments.splits,
    )
    saved = save_result(arguments, found.plan, labels.columns, others.columns)
    print(f"{arguments.data}: {len(x)} points, {arguments.target}: {len(y)} points in {x.shape[1]} dimensions")
    print(found)
    print(found.plan)
    say_saved(arguments, saved)
    failures = {":".join(map(str, pair)): why for pair, why in found.failures.items()}
    return {
        "out": saved,
        "chosen": found.num_components,
        "candidates": _candidates(found.candidates, found.scores, found.standard_errors),
        "floor": found.floor,
        "failures": failures,
        "points": [len(x), len(y)],
        "columns": [labels.columns, others.columns],
        **plan_document(found.plan, MIN_WEIGHT),
    }


def _candidates(*columns: Any) -> list[Document]:
    names = ("components", "score", "standard_error")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
