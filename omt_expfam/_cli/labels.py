"""The command `labels`: labels carried over a plan, and what becomes of groups."""

import argparse
from typing import Any, NamedTuple

import jax
import numpy as np

from .._base.labels import as_labels
from .._components.mixture import Mixture
from .._files.frames import Labels
from .._files.groups import is_labels_file, read_groups
from .._plans.groups import group_shares, GroupFlows
from .._plans.plan import TransportPlan
from .._plans.transfer import Transfer
from .inputs import check_width, columns_of, load_kind, read_table
from .output import Document, save_points, say_saved


class Side(NamedTuple):
    """Points of one side, their names, and their labels, where they are known."""

    path: str
    points: np.ndarray
    names: Labels
    labels: np.ndarray | None


def labels_command(arguments: argparse.Namespace) -> Document:
    """Carry labels over a plan."""
    backward = arguments.backward or arguments.labels is None
    with jax.enable_x64(arguments.precision == "float64"):
        plan = load_kind(arguments.plan, arguments.precision, TransportPlan, "a plan")
        columns = columns_of(arguments.plan, plan)
        sides = [
            _side(arguments, path, wanted, mixture.dim, name)
            for path, wanted, mixture, name in zip(
                (arguments.source, arguments.target),
                columns,
                (plan.source, plan.target),
                (arguments.labels, arguments.target_labels),
                strict=True,
            )
        ]
        flows = None if sides[0].labels is None or sides[1].labels is None else _flows(plan, sides)
        start, end = sides[::-1] if backward else sides
        found = (plan.reverse() if backward else plan).transfer(start.labels, start.points, end.points)
    names = tuple(map(str, found.names))
    best = found.probabilities.argmax(axis=1)
    carried = Labels(names, end.names.rows, tuple(names[k] for k in best))
    saved = save_points(arguments, found.probabilities, carried)
    print(f"labels of {start.path} at {len(end.points)} points of {end.path}")
    print(found)
    document = {
        "out": saved,
        "backward": backward,
        "points": [len(side.points) for side in sides],
        "names": names,
        "proportions": found.proportions,
        "component_probabilities": found.component_probabilities,
        "purity": found.purity,
        "counts": np.bincount(best, minlength=len(names)),
        **_agreement(found, end, names, best),
    }
    if flows is not None:
        print(f"\n{arguments.source} -> {arguments.target}\n{flows}")
        document["flows"] = _flows_document(flows)
    say_saved(arguments, saved)
    return document


def _side(arguments: argparse.Namespace, path: str, wanted: Any, dim: int, labels: str | None) -> Side:
    own = labels is not None and is_labels_file(labels)
    points, names = read_table(arguments, path, wanted, arguments.plan, None if own else labels)
    check_width(path, points, dim, f"the plan {arguments.plan}")
    groups: Any = names.groups
    if labels is not None and own:
        groups = read_groups(labels, len(points), names.rows)
    known = None if groups is None else as_labels(labels or "", np.asarray(groups, object), len(points))
    return Side(path, points.astype(arguments.precision), names, known)


def _agreement(found: Transfer, end: Side, names: tuple[str, ...], best: np.ndarray) -> Document:
    """How many points have the label that is known for them."""
    if end.labels is None:
        return {}
    share = float(np.mean(np.asarray(names)[best] == end.labels))
    print(f"agrees with the known labels of {end.path} at {share:.1%} of the points")
    return {"agreement": share}


def _flows(plan: TransportPlan, sides: list[Side]) -> GroupFlows:
    """Mass from group to group; groups that are components by name are not read through them."""
    both = zip((plan.source, plan.target), sides, plan.component_names, strict=True)
    return plan.group_flows(*(_shares(*entry) for entry in both))


def _shares(mixture: Mixture, side: Side, own: Any) -> Any:
    if side.labels is None or set(own or ()) == set(side.labels):
        return None
    return group_shares(mixture, side.points, side.labels)


def _flows_document(flows: GroupFlows) -> Document:
    """Rows of both tables of transitions sum to one, or are zero for a group that is absent."""
    table, backward = flows.couplings[0], flows.couplings[0].T
    total = backward.sum(axis=1, keepdims=True)
    return {
        "names": flows.names,
        "weights": flows.weights,
        "mass": table,
        "transitions": flows.transitions[0],
        "origins": np.divide(backward, total, out=np.zeros_like(backward), where=total > 0),
        "purity": flows.purity,
    }
