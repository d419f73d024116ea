"""The report on a user's own two data sets: what `omt_expfam.diagnostics` finds, in Markdown with pictures."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import families

from .. import diagnostics, plot
from .._base.results import ConvergenceError
from .._files.archive import atomic_file
from .._files.paths import unfinished
from .._plans.plan import TransportPlan
from .arguments import MIN_WEIGHT
from .inputs import check_width, read_table
from .output import Document
from .parser import FAMILIES

REPORT = "report.md"
# Disturbances, in mean standard deviations of the data or as shares of the points.
_NOISE, _DROPOUT, _REMOVED, _OUTLIERS = (0.05, 0.1, 0.25), 0.1, 0.3, 0.02
_RADII = (1e-4, 1e-2, 1e-1)
_NUM_STARTS, _NUM_POINTS = 100, 500


class Study(NamedTuple):
    """What the report is about."""

    names: tuple[str, str]
    x: np.ndarray
    y: np.ndarray
    method: diagnostics.MixtureTransport
    num_repeats: int
    seed: int


def diagnose_command(arguments: argparse.Namespace) -> Document:
    """Report on two files of points."""
    x, labels = read_table(arguments, arguments.source)
    y, _ = read_table(arguments, arguments.target, labels.columns, arguments.source)
    x, y = x.astype(arguments.precision), y.astype(arguments.precision)
    check_width(arguments.target, y, x.shape[1], arguments.source)
    method = diagnostics.MixtureTransport(
        getattr(families, FAMILIES[arguments.family]),
        tuple(arguments.components) if len(arguments.components) == 2 else arguments.components[0],
        epsilon_components=arguments.epsilon_components,
        epsilon_weights=arguments.epsilon_weights,
        epsilon_scale=arguments.epsilon_scale,
    )
    names = os.path.basename(arguments.source), os.path.basename(arguments.target)
    with jax.enable_x64(arguments.precision == "float64"):
        study = Study(names, x, y, method, arguments.repeats, arguments.seed)
        sections, failed = run_diagnose(arguments.out, study, debug=arguments.debug)
    saved = os.path.join(arguments.out, REPORT)
    print(f"saved {saved}")
    if failed:
        raise ConvergenceError(f"{arguments.out}: the report has no results on {', '.join(failed)}; it says why.")
    return {
        "out": saved,
        "points": [len(x), len(y)],
        "columns": labels.columns,
        "components": method.num_components,
        "sections": sections,
    }


def run_diagnose(
    folder: str, study: Study, say: Callable[[str], None] = print, *, debug: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Fit, transport, diagnose; write the report and its pictures into a folder.

    Pictures are drawn beside the folder first: an interrupted run leaves no half of a report there. A section that
    fails says why, and the others are kept; with ``debug`` its error is raised.

    Returns:
        The sections by their titles, in Markdown, and which of them failed.
    """
    import matplotlib

    # Pictures go to files, whatever display there is.
    matplotlib.use("Agg")
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, unfinished(scratch):
        head, sections, failed = _write(study, scratch, say, debug)
        text = "\n\n".join([head, *(f"## {title}\n\n{found}" for title, found in sections.items())]) + "\n"
        for name in sorted(os.listdir(scratch)):
            with open(os.path.join(scratch, name), "rb") as source, atomic_file(os.path.join(folder, name)) as file:
                shutil.copyfileobj(source, file)
        with atomic_file(os.path.join(folder, REPORT)) as file:
            file.write(text.encode())
    return sections, failed


def _write(
    study: Study, scratch: str, say: Callable[[str], None], debug: bool
) -> tuple[str, dict[str, str], list[str]]:
    """What stands above the sections, the sections by their titles, and which of them failed."""
    keys = jax.random.split(jax.random.key(study.seed), 6)
    plan = study.method(keys[0], study.x, study.y)
    say(str(plan))
    rng = np.random.default_rng(study.seed)
    shown = study.x[np.sort(rng.permutation(len(study.x))[:_NUM_POINTS])]
    epsilon = {
        "epsilon_components": float(plan.epsilon_components),
        "epsilon_weights": float(plan.epsilon_weights),
    }
    head = (
        "# Transport diagnostics\n\n"
        f"From {study.names[0]} ({len(study.x)} points) to {study.names[1]} ({len(study.y)} points), {plan.source.dim} "
        f"dimensions; regularization {epsilon['epsilon_components']:g} of the component couplings and "
        f"{epsilon['epsilon_weights']:g} of the weights, in squared units of the data. Seed {study.seed}."
    )
    table = _code(f"{plan}\n{plan.correspondences(MIN_WEIGHT)}")
    sections = {"The plan": f"{table}\n\n{_figure(scratch, 'plan.png', lambda: plot.coupling(plan))}"}
    steps = (
        ("Uniqueness", lambda: _uniqueness(keys[1], plan, epsilon, scratch)),
        ("Stability", lambda: _stability(keys[2], study, shown, scratch)),
        ("Choices", lambda: _choices(keys[3], study, epsilon, shown, scratch)),
        ("Sensitivity", lambda: _sensitivity(plan, epsilon, shown, scratch)),
        ("Worst case", lambda: _worst_case(keys[4], plan, epsilon, shown, scratch)),
    )
    failed = []
    for title, step in steps:
        say(f"{title.lower()} ...")
        try:
            found = step()
        except Exception as error:
            # Not a full disk, of which the rest of the report would die, too.
            if debug or isinstance(error, OSError):
                raise
            failed.append(title.lower())
            found = [f"Failed: {type(error).__name__}: {' '.join(str(error).split())}"]
        sections[title] = "\n\n".join(found)
    return head, sections, failed


def _uniqueness(key: Any, plan: TransportPlan, epsilon: dict[str, Any], scratch: str) -> list[str]:
    key, other = jax.random.split(key)
    found = diagnostics.uniqueness(key, plan.source, plan.target, num_starts=_NUM_STARTS, num_descents=1, **epsilon)
    curved = diagnostics.biconvexity(other, plan.source, plan.target, **epsilon)
    return [
        _code(found.summary()),
        _figure(scratch, "uniqueness.png", lambda: plot.uniqueness_histogram(found)),
        "Convexity of the objective in each block, along random segments:",
        _code(curved.summary()),
    ]


def _stability(key: Any, study: Study, shown: np.ndarray, scratch: str) -> list[str]:
    spread = float(study.x.std(axis=0).mean())
    perturbations = [
        *(diagnostics.GaussianNoise(float(f"{sigma * spread:.2g}")) for sigma in _NOISE),
        diagnostics.Dropout(_DROPOUT),
        diagnostics.Subsampling(_REMOVED),
        diagnostics.Outliers(_OUTLIERS),
        diagnostics.Reseeding(),
    ]
    found = diagnostics.stability(
        key,
        study.x,
        study.y,
        study.method,
        perturbations,
        num_repeats=study.num_repeats,
        points=shown,
        throw=False,
    )
    parts = [
        f"The source is disturbed, fitted again and transported, {study.num_repeats} times each; the map is compared "
        f"on {found.num_points} undisturbed points. Noise and displacements are in units of the data, whose mean "
        f"standard deviation is {spread:.3g}.",
        _code(found.summary()),
        _figure(scratch, "stability.png", lambda: plot.stability_curves(found, against="w2")),
    ]
    try:
        envelope = diagnostics.fit_envelope(found, column="w2")
    except ValueError as error:
        return [*parts, f"No envelope: {error}"]
    return [
        *parts,
        "The smallest constants of the bound a0 W2 + b0 W2^(1/2) that hold on these runs:",
        _code(str(envelope)),
        _figure(scratch, "modulus.png", lambda: plot.modulus(envelope)),
    ]


def _choices(key: Any, study: Study, epsilon: dict[str, Any], shown: np.ndarray, scratch: str) -> list[str]:
    first, second = study.method.num_components
    alternatives = {
        "num_components": [(2 * first, second), (first, 2 * second)],
        **{name: [value * factor for factor in (0.1, 10)] for name, value in epsilon.items()},
        "seed": [1, 2],
    }
    alternatives = {
        name: values for name, values in alternatives.items() if not name.startswith("epsilon") or max(values) > 0
    }
    found = diagnostics.sweep(key, study.x, study.y, study.method, alternatives, points=shown, throw=False)
    return [
        "Other choices on the same data; likelihoods are of held-out points.",
        _code(found.summary()),
        _figure(scratch, "choices.png", lambda: plot.sweep_chart(found)),
    ]


def _sensitivity(plan: TransportPlan, epsilon: dict[str, Any], shown: np.ndarray, scratch: str) -> list[str]:
    if epsilon["epsilon_weights"] == 0:
        return ["Left out: without regularization of the weights the coupling has no derivatives."]
    found = diagnostics.sensitivity(plan.source, plan.target, points=shown, **epsilon)
    pictures = [
        _figure(scratch, f"sensitivity_{side}.png", lambda side=side: plot.sensitivity_map(found, side=side))
        for side in ("source", "target")
    ]
    return [
        "Largest effects of one parameter of one component: of component parameters per unit of distance that the "
        "mixture moves, of weights per unit of mass.",
        _code(found.summary()),
        *pictures,
    ]


def _worst_case(key: Any, plan: TransportPlan, epsilon: dict[str, Any], shown: np.ndarray, scratch: str) -> list[str]:
    if plan.source.components.gaussian_form() is None:
        return ["Left out: the search moves Gaussian components."]
    spread = float(np.sqrt(np.trace(np.asarray(plan.source.covariance())) / plan.source.dim))
    found = diagnostics.worst_case(
        key,
        plan.source,
        plan.target,
        radii=[spread * radius for radius in _RADII],
        points=shown,
        num_starts=2,
        num_random=50,
        **epsilon,
    )
    return [
        "Disturbances of the fitted source mixture of given size (an upper bound of W2, in units of the data) that "
        "move the map most, beside random ones. The search may have missed worse ones.",
        _code(found.summary()),
        _figure(scratch, "worst_case.png", lambda: plot.worst_case_curve(found)),
    ]


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _figure(scratch: str, name: str, draw: Callable[[], Any]) -> str:
    """Draw into a file; the Markdown that shows it."""
    from matplotlib import pyplot as plt

    drawn = draw()
    figure = drawn.figure if hasattr(drawn, "figure") else drawn
    with atomic_file(os.path.join(scratch, name)) as file:
        figure.savefig(file, format="png", dpi=120)
    plt.close(figure)
    return f"![{name.removesuffix('.png').replace('_', ' ')}]({name})"
