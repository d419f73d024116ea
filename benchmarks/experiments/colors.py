"""Colors of one picture carried to another's, both ways: two photographs of the sea, and two paintings."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import picture
from omt_expfam.families import Gaussian

# In units of squared distance of colors in [0, 1]: both regularizations, and that of the Sinkhorn divergence.
EPSILON, BLUR = 1e-4, 0.005
PAIRS = {"ocean": ("ocean_day", "ocean_sunset"), "paintings": ("renoir", "gauguin")}
UNMOVED, FLOOR = "unchanged", "other pixels of the target"
ENTROPIC = "entropic map (OTT-JAX)"


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes: pixels to fit, of the entropic map, and to measure; components; every how many-th row and column."""

    num_pixels: int = 20_000
    num_few: int = 1024
    num_test: int = 1500
    sizes: tuple[int, ...] = (10, 30)
    scales: tuple[float, ...] = (1.0, 0.3, 0.1)
    stride: int = 1
    pairs: tuple[str, ...] = tuple(PAIRS)
    seeds: int = 3


@dataclasses.dataclass
class Way:
    """A method: its map of colors in either direction, and seconds to fit (and tune) and to solve."""

    maps: tuple[Callable[[Any], Any], Callable[[Any], Any]]
    fit: float
    solve: float
    note: str = ""


def colors(image: np.ndarray) -> np.ndarray:
    """The colors of all pixels, shape ``[height * width, 3]``."""
    return image.reshape(-1, 3)


def roughness(before: np.ndarray, after: np.ndarray) -> float:
    """How much the change of color differs between neighboring pixels: the mean distance."""
    change = np.asarray(after, np.float64) - before
    steps = np.diff(change, axis=0).reshape(-1, 3), np.diff(change, axis=1).reshape(-1, 3)
    return float(np.linalg.norm(np.concatenate(steps), axis=1).mean())


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - begin


def in_parts(function: Callable[[Any], Any], points: np.ndarray, size: int = 100_000) -> np.ndarray:
    """A map of many points, some at a time; the last part is filled up, so that all have one shape."""
    size = min(size, len(points))
    padded = np.pad(points, ((0, -len(points) % size), (0, 0)), mode="edge")
    parts = [np.asarray(function(padded[i : i + size]), np.float32) for i in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(points)]


# -- methods ----------------------------------------------------------------------------------------------------------


def by_mixtures(number: int, seed: int, x: Any, y: Any) -> dict[str, Way]:
    """Means and draws of one plan read both ways, and POT's map between the same mixtures."""
    source_key, target_key, draw_key = jax.random.split(jax.random.key(seed), 3)

    def fit_both() -> list[omt.Mixture]:
        return [omt.fit(k, p, Gaussian, number, progress=False).mixture for k, p in ((source_key, x), (target_key, y))]

    mixtures, fit = timed(fit_both)
    options = {"epsilon_components": EPSILON, "epsilon_weights": EPSILON, "progress": False}
    plan, solve = timed(lambda: omt.transport(*mixtures, **options))
    back = plan.reverse()
    draws = lambda points: plan.sample(draw_key, points), lambda points: back.sample(draw_key, points)
    peer, peer_solve = timed(_peers.UnregularizedPlan, *mixtures)
    return {
        f"OMT, means, K = {number}": Way((plan.push_forward, back.push_forward), fit, solve),
        f"OMT, draws, K = {number}": Way(draws, fit, solve),
        f"GMM-OT (POT), K = {number}": Way((peer.push_forward, peer.pull_back), fit, peer_solve),
    }


def by_samples(study: Study, seed: int, x: Any, y: Any) -> dict[str, Way]:
    """The linear map, and the entropic map between few pixels."""
    tune_key, key = jax.random.split(jax.random.key(seed))
    linear, solve = timed(_peers.Linear(), key, x, y)
    few = x[: study.num_few], y[: study.num_few]
    method, tuning = timed(_peers.BestOf(tuple(map(_peers.Entropic, study.scales))).tuned, tune_key, *few)
    entropic, entropic_solve = timed(method, key, *few)
    note = f"scale {method.scale:g}, {'converged' if all(entropic.converged) else 'not converged'}"
    return {
        "linear map": Way((linear.push_forward, linear.pull_back), 0.0, solve),
        ENTROPIC: Way((entropic.push_forward, entropic.pull_back), tuning, entropic_solve, note),
    }


# -- measurements -----------------------------------------------------------------------------------------------------


def divergence(mine: Any, target: Any) -> float:
    """1000 times the Sinkhorn divergence of colors; colors outside the cube are moved to its side."""
    mine, target = (np.clip(np.asarray(each, np.float32), 0, 1) for each in (mine, target))
    try:
        return 1000 * float(omt.metrics.sinkhorn_divergence(mine, target, BLUR))
    except omt.ConvergenceError:
        return float("nan")


def whole(way: Way, direction: int, image: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """A whole picture with its colors carried, and what that took and gave."""
    in_parts(way.maps[direction], colors(image)[:100_000])
    images, seconds = timed(in_parts, way.maps[direction], colors(image))
    outside = float(((images < 0) | (images > 1)).any(axis=1).mean())
    carried = np.clip(images.reshape(image.shape), 0, 1)
    found = {"map": seconds / len(images) * 1e6, "outside": 100 * outside, "rough": 255 * roughness(image, carried)}
    return carried, found


def run_pair(
    study: Study, pair: str, pictures: list[np.ndarray], seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All methods on one draw of pixels, both ways; whole pictures for the first seed."""
    rng = np.random.default_rng(seed)
    train, test, other = (
        [rng.permutation(colors(image))[:num] for image in pictures]
        for num in (study.num_pixels, study.num_test, study.num_test)
    )
    ways = by_samples(study, seed, *train)
    for number in study.sizes:
        ways = by_mixtures(number, seed, *train) | ways
    rows, shown = [], {}
    for direction in (0, 1):
        end = 1 - direction
        head = {"pair": pair, "seed": seed, "to": PAIRS[pair][end]}
        rows += [
            head | {"method": UNMOVED, "divergence": divergence(test[direction], test[end])},
            head | {"method": FLOOR, "divergence": divergence(other[end], test[end])},
        ]
        for name, way in ways.items():
            row = head | {"method": name, "fit": way.fit, "solve": way.solve, "note": way.note}
            row["divergence"] = divergence(way.maps[direction](test[direction]), test[end])
            if seed == 0:
                shown[direction, name], found = whole(way, direction, pictures[direction])
                row |= found
            rows.append(row)
    return rows, shown


# -- tables and pictures ----------------------------------------------------------------------------------------------


def by_method(rows: list[dict[str, Any]], field: str, digits: int) -> list[list[str]]:
    """Methods by target pictures; seeds are summarized."""
    ends, lines = dict.fromkeys(row["to"] for row in rows), []
    for method in dict.fromkeys(row["method"] for row in rows if field in row):
        mine = [row for row in rows if row["method"] == method and field in row]
        values = ([row[field] for row in mine if row["to"] == end] for end in ends)
        lines.append([method, *(mean_and_deviation(each, f".{digits}f") for each in values)])
    return lines


def costs(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Median seconds of either stage, and of the map of a million pixels."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows if "fit" in row):
        mine = [row for row in rows if row["method"] == method]
        medians = [np.median([row[what] for row in mine if what in row]) for what in ("fit", "solve", "map")]
        lines.append([method, *(f"{value:.2f}" for value in medians)])
    return lines


def draw(pictures: list[np.ndarray], shown: dict[Any, np.ndarray], methods: list[str], width: int = 200) -> Any:
    """Both pictures and their transfers, reduced by leaving out pixels."""
    import matplotlib.pyplot as plt

    columns = {"original": {0: pictures[0], 1: pictures[1]}}
    columns |= {method: {direction: shown[direction, method] for direction in (0, 1)} for method in methods}
    figure, axes = plt.subplots(2, len(columns), figsize=(2.1 * len(columns), 3.5), layout="constrained")
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=10)
        for direction, image in images.items():
            step = max(1, image.shape[1] // width)
            axes[direction, column].imshow(image[::step, ::step], interpolation="nearest")
            axes[direction, column].set_axis_off()
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    study = Study(400, 200, 200, (4,), (1.0,), 8, ("ocean",), 1) if options.quick else Study()
    rows = []
    for pair in study.pairs:
        pictures = [picture(options.data, name)[:: study.stride, :: study.stride] for name in PAIRS[pair]]
        for seed in tqdm(range(options.seeds or study.seeds), disable=None, desc=pair):
            found, shown = run_pair(study, pair, pictures, seed)
            rows += found
            if seed == 0:
                large = study.sizes[-1]
                methods = [f"OMT, means, K = {large}", f"OMT, draws, K = {large}", "linear map", ENTROPIC]
                results.figure(pair, draw(pictures, shown, methods))

    header = ["method", *(f"to {end}" for end in dict.fromkeys(row["to"] for row in rows))]
    results.table("", header, by_method(rows, "divergence", 2))
    results.table("roughness", header, by_method(rows, "rough", 1))
    results.table("outside", header, by_method(rows, "outside", 2))
    results.table("times", ["method", "fit or tune, s", "solve, s", "map of a million pixels, s"], costs(rows))
    fields = ["method", "pair", "to", "seed", "divergence", "rough", "outside", "fit", "solve", "map", "note"]
    results.table("seeds", fields, [[row.get(field) for field in fields] for row in rows], shown=False)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
