"""From a normal law to eight shapes in the plane: how near the transported points are to fresh ones."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import ot
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from omt_expfam.families import Gaussian

# In units of the shapes' standard deviation per coordinate, which is one; and of its square.
BANDWIDTH, BLUR, EPSILON = 0.25, 0.1, 0.01
FLOOR = "fresh points of the shape"


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes: training and test points, points of the entropic map and of Sinkhorn divergences, and components."""

    num_points: int = 10_000
    num_test: int = 4000
    num_few: int = 2048
    sizes: tuple[int, ...] = (3, 5, 15, 60)
    scales: tuple[float, ...] = (1.0, 0.2)
    shapes: tuple[str, ...] | None = None
    seeds: int = 3


# -- shapes -----------------------------------------------------------------------------------------------------------


def turned(points: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Points turned, each by its own angle."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.c_[cos * points[:, 0] - sin * points[:, 1], sin * points[:, 0] + cos * points[:, 1]]


def draw(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    """Points of eight shapes, shape ``[num, 2]`` each."""
    noise, angle = rng.normal(size=(num, 2)), rng.uniform(0, 2 * np.pi, num)
    turn, sway = 3.5 * np.pi * np.sqrt(rng.uniform(0.05, 1, num)), rng.uniform(-1.5, 1.5, num) * np.pi
    arc, arm = np.c_[np.cos(angle), np.sin(angle)], rng.integers(0, 5, num) * 0.4 * np.pi
    bar, square = rng.uniform(-1, 1, (num, 2)) * [1, 0.12], rng.integers(0, [4, 2], (num, 2))
    blade, eighth = [1, 0] + noise * [0.3, 0.08], rng.integers(0, 8, num) * 0.25 * np.pi
    return {
        "moons": arc + np.where(angle < np.pi, 0, 1)[:, None] * [1, 0.5] + 0.05 * noise,
        "spiral": turn[:, None] * np.c_[np.cos(turn), np.sin(turn)] + 0.3 * noise,
        "circles": arc * rng.choice([0.5, 1.0], (num, 1)) + 0.04 * noise,
        "checkerboard": square @ [[1, 0], [0, 2]] + rng.random((num, 2)) + [[0, 1]] * (square[:, :1] % 2),
        "S-curve": np.c_[np.sin(sway), np.sign(sway) * (np.cos(sway) - 1)] + 0.08 * noise,
        "cross": np.where(rng.random((num, 1)) < 0.5, bar, bar[:, ::-1]),
        "pinwheel": turned(blade, arm + 0.25 * np.exp(blade[:, 0])),
        "eight Gaussians": 2 * np.c_[np.cos(eighth), np.sin(eighth)] + 0.15 * noise,
    }


def standardized(rng: np.random.Generator, *sizes: int) -> dict[str, list[np.ndarray]]:
    """Samples of every shape of the given sizes, with the first one's mean at zero and its deviations one."""
    samples = [draw(rng, size) for size in sizes]
    return {
        name: [((s[name] - first.mean(axis=0)) / first.std(axis=0)).astype(np.float32) for s in samples]
        for name, first in samples[0].items()
    }


# -- methods ----------------------------------------------------------------------------------------------------------


def mixtures(number: int, key: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Mixtures of both sides."""
    fits = [omt.fit(k, p, Gaussian, number, progress=False) for k, p in zip(jax.random.split(key), (x, y), strict=True)]
    return fits[0].mixture, fits[1].mixture


def pot_draws(source: Any, target: Any, seed: int) -> Callable[[Any], np.ndarray]:
    """Images under random pairs of components, by POT; the unregularized plan between the same mixtures."""
    both = source, target
    means, covariances = (
        [np.asarray(getattr(m.components, what)(), float) for m in both] for what in ("mean", "covariance")
    )
    weights = [np.asarray(m.weights, float) for m in both]
    arguments = *means, *covariances, *(w / w.sum() for w in weights)
    plan = ot.gmm.gmm_ot_plan(*arguments)

    def images(points: Any) -> np.ndarray:
        # Its ratios of densities may overflow, to a share of zero.
        with np.errstate(over="ignore"):
            return ot.gmm.gmm_ot_apply_map(np.asarray(points, float), *arguments, plan=plan, method="rand", seed=seed)

    return images


@dataclasses.dataclass
class Found:
    """Images of the test points under one method, and seconds to fit (and tune), to solve and to map.

    Attributes:
        note: What was chosen, or whether a solver converged.
    """

    images: np.ndarray
    fit: float
    solve: float
    map: float
    note: str = ""


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - begin


def by_mixtures(number: int, seed: int, x: Any, y: Any, test: Any, with_peer: bool) -> dict[str, Found]:
    """Draws and means of a plan between mixtures of one size and, between the same mixtures, by POT."""
    fit_key, draw_key = jax.random.split(jax.random.key(seed))
    (source, target), fit = timed(mixtures, number, fit_key, x, y)
    options = {"epsilon_components": EPSILON, "epsilon_weights": EPSILON, "progress": False}
    plan, solve = timed(lambda: omt.transport(source, target, **options))
    found = {}
    ways = {"draws": lambda p: plan.sample(draw_key, p), "means": plan.push_forward}
    for way, function in ways.items():
        images, seconds = timed(function, test)
        found[f"OMT, {way}, K = {number}"] = Found(images, fit, solve, seconds)
    if with_peer:
        pot_map, solve = timed(pot_draws, source, target, seed)
        images, seconds = timed(pot_map, test)
        found[f"GMM-OT (POT), draws, K = {number}"] = Found(images, fit, solve, seconds)
        peer, solve = timed(_peers.UnregularizedPlan, source, target)
        images, seconds = timed(peer.push_forward, test)
        found[f"GMM-OT (POT), means, K = {number}"] = Found(images, fit, solve, seconds)
    return found


def by_samples(study: Study, seed: int, x: Any, y: Any, test: Any) -> dict[str, Found]:
    """The linear map, and the entropic map of few points."""
    tune_key, key = jax.random.split(jax.random.key(seed))
    linear, solve = timed(_peers.Linear(), key, x, y)
    images, seconds = timed(linear.push_forward, test)
    found = {"linear map": Found(images, 0.0, solve, seconds)}
    few = x[: study.num_few], y[: study.num_few]
    candidates = tuple(_peers.Entropic(scale) for scale in study.scales)
    method, tuning = timed(_peers.BestOf(candidates).tuned, tune_key, *few)
    entropic, solve = timed(method, key, *few)
    images, seconds = timed(entropic.push_forward, test)
    note = f"scale {method.scale:g}, {'converged' if all(entropic.converged) else 'not converged'}"
    return found | {"entropic map (OTT-JAX)": Found(images, tuning, solve, seconds, note)}


# -- measurements -----------------------------------------------------------------------------------------------------


def measure(images: Any, test: Any, fresh: np.ndarray, few: int) -> dict[str, float]:
    """Distances of images to fresh points of the shape, and how far the points went."""
    mine = np.asarray(images, np.float32)
    try:
        divergence = float(omt.metrics.sinkhorn_divergence(mine[:few], fresh[:few], BLUR))
    except omt.ConvergenceError:
        divergence = float("nan")
    moved = float(((mine - test) ** 2).sum(axis=1).mean())
    return {"mmd": 100 * float(omt.metrics.mmd(mine, fresh, BANDWIDTH)), "divergence": divergence, "cost": moved}


def run_shape(study: Study, shape: str, seed: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """All methods on one draw of one shape: a row for each, and the points for the picture."""
    rng = np.random.default_rng(seed)
    x, test = (rng.normal(size=(num, 2)).astype(np.float32) for num in (study.num_points, study.num_test))
    y, fresh, others = standardized(rng, study.num_points, study.num_test, study.num_test)[shape]
    found = {FLOOR: Found(others, 0.0, 0.0, 0.0)}
    for number in study.sizes:
        found |= by_mixtures(number, seed, x, y, test, with_peer=number == study.sizes[-1])
    found |= by_samples(study, seed, x, y, test)
    rows = []
    for method, result in found.items():
        row = {"method": method, "shape": shape, "seed": seed, "note": result.note}
        row |= {what: getattr(result, what) for what in ("fit", "solve", "map")}
        rows.append(row | measure(result.images, test, fresh, study.num_few // 2))
    return rows, {method: np.asarray(result.images) for method, result in found.items()}


# -- tables and picture -----------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], field: str, digits: int) -> tuple[list[str], list[list[str]]]:
    """Mean and standard deviation over the seeds, methods by shapes."""
    shapes, lines = list(dict.fromkeys(row["shape"] for row in rows)), []
    for method in dict.fromkeys(row["method"] for row in rows):
        line = [method]
        for shape in shapes:
            values = [row[field] for row in rows if (row["method"], row["shape"]) == (method, shape)]
            line.append(mean_and_deviation(values, f".{digits}f"))
        lines.append(line)
    return ["method", *shapes], lines


def times(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Median seconds over shapes and seeds, which leaves out compilation."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != FLOOR):
        mine = [row for row in rows if row["method"] == method]
        lines.append([method, *(f"{np.median([row[what] for row in mine]):.3f}" for what in ("fit", "solve", "map"))])
    return lines


def picture(shown: dict[str, dict[str, np.ndarray]], methods: list[str]) -> Any:
    """Methods by shapes."""
    import matplotlib.pyplot as plt

    size = 1.55 * len(shown) + 0.4, 1.6 * len(methods)
    figure, axes = plt.subplots(len(methods), len(shown), figsize=size, layout="constrained", squeeze=False)
    for column, (shape, images) in enumerate(shown.items()):
        for row, method in enumerate(methods):
            axis, color = axes[row, column], omt.plot.SOURCE_COLOR if row else omt.plot.TARGET_COLOR
            axis.scatter(*images[method][:3000].T, s=2.5, color=color, alpha=0.4, lw=0)
            axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=[], yticks=[])
            if row == 0:
                axis.set_title(shape, fontsize=12)
            if column == 0:
                axis.set_ylabel(method.replace(", ", "\n").replace(" (", "\n("), fontsize=10)
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    small = Study(500, 400, 200, (8,), (1.0,), ("moons",), 1)
    study = small if options.quick else Study()
    shapes = study.shapes or tuple(draw(np.random.default_rng(0), 1))
    rows, shown = [], {}
    jobs = [(shape, seed) for seed in range(options.seeds or study.seeds) for shape in shapes]
    for shape, seed in tqdm(jobs, disable=None):
        found, images = run_shape(study, shape, seed)
        rows += found
        shown.setdefault(shape, images)

    results.table("", *table(rows, "mmd", 2))
    results.table("divergence", *table(rows, "divergence", 4))
    results.table("cost", *table(rows, "cost", 2))
    results.table("times", ["method", "fit or tune, s", "solve, s", "map, s"], times(rows))
    fields = ["method", "shape", "seed", "mmd", "divergence", "cost", "fit", "solve", "map", "note"]
    results.table("seeds", fields, [[row[field] for field in fields] for row in rows], shown=False)
    sizes, last = study.sizes[-3:], study.sizes[-1]
    methods = [FLOOR, *(f"OMT, draws, K = {size}" for size in sizes), f"OMT, means, K = {last}"]
    methods += ["linear map", "entropic map (OTT-JAX)"]
    results.figure("", picture(shown, methods))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
