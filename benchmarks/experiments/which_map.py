"""The maps of one plan and the optimal map that starts from it: error, variance, law, time, and the members' spread."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.spatial.distance import cdist
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness.w2bench import W2Problem
from omt_expfam.families import Gaussian

FLOOR = "two samples of targets"


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes: dimensions, training and test points, components of either side, and repetitions."""

    dims: tuple[int, ...] = (2, 16)
    num_points: int = 2048
    num_test: int = 2000
    components: tuple[int, int] = (15, 15)
    seeds: int = 3
    settings: tuple[tuple[str, Any], ...] = ()


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Twice the mean distance between samples, less those within them (Székely and Rizzo, 2013)."""
    within = [cdist(z, z).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    return float(2 * cdist(x, y).mean() - sum(within))


def coverage(images: np.ndarray, spread: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The share of coordinates whose true image lies within one and two spreads of the map's, in percent."""
    score = np.abs(images - truth) / spread
    return 100 * float(np.mean(score < 1)), 100 * float(np.mean(score < 2))


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its CPU seconds."""
    begin = time.process_time()
    found = jax.block_until_ready(function())
    return found, time.process_time() - begin


def run_one(study: Study, problem: W2Problem, seed: int) -> list[dict[str, Any]]:
    """All maps from one draw of the data."""
    rng = np.random.default_rng([problem.dim, seed])
    laws = (problem.source, problem.target)
    x, y = (law(rng, study.num_points).astype(np.float32) for law in laws)
    test, fresh = (law(rng, study.num_test) for law in laws)
    truth, others = problem.transport(test), problem.target(rng, study.num_test)
    keys = jax.random.split(jax.random.key(seed), 4)
    settings = {"progress": False, **dict(study.settings)}

    def couple() -> Any:
        sides = zip(keys[:2], (x, y), study.components, strict=True)
        fits = [omt.fit(key, points, Gaussian, number, progress=False) for key, points, number in sides]
        # The plan without entropy of components; a little of it for the weights.
        little = 0.02 * float(y.var(axis=0).sum())
        return omt.transport(*fits, epsilon_components=0.0, epsilon_weights=little, progress=False)

    plan, seconds = timed(couple)
    network, own = timed(lambda: omt.fit_brenier(keys[2], x, y, start=plan, **settings))
    blend, other = timed(lambda: omt.fit_brenier(keys[2], x, y, start=plan, potential=omt.BlendedPotential, **settings))
    images = {
        FLOOR: (others, 0.0),
        "barycentric": (plan.push_forward(test), seconds),
        "drawn": (plan.sample(keys[3], test), seconds),
        "most likely": (plan.push_forward_most_likely(test), seconds),
        "Brenier, network": (network.map.push_forward(test), own),
        "Brenier, blend": (blend.map.push_forward(test), other),
    }
    floor, total = energy_distance(others, fresh), fresh.var(axis=0).sum()
    rows = []
    for name, (found, cpu) in images.items():
        points = np.asarray(found, np.float64)
        row = {"map": name, "dim": problem.dim, "seed": seed, "seconds": cpu}
        row["error"] = float("nan") if name == FLOOR else float(omt.metrics.l2_uvp(points, truth))
        row["variance"] = 100 * points.var(axis=0).sum() / total
        row["energy"] = energy_distance(points, fresh)
        rows.append(row | {"floor": floor})
    spread = np.asarray(network.map.spread(test), np.float64)
    one, two = coverage(np.asarray(network.map.push_forward(test)), spread, truth)
    size = float(np.sqrt(np.sum(spread**2, axis=1).mean()))
    error = float(np.sqrt(np.sum((np.asarray(network.map.push_forward(test)) - truth) ** 2, axis=1).mean()))
    rows.append({"map": "spread", "dim": problem.dim, "one": one, "two": two, "size": size, "true": error})
    return rows


def picture(study: Study) -> Any:
    """From two groups to a ring: where three components of the source are too few for the barycentric map."""
    rng, half = np.random.default_rng(0), study.num_points // 2

    def draw() -> tuple[np.ndarray, np.ndarray]:
        groups = [rng.standard_normal((half, 2)) * size + [at, 0] for size, at in (([0.6, 0.6], -2), ([0.5, 0.9], 2))]
        x = np.concatenate(groups)
        angle = rng.uniform(0, 2 * np.pi, (2 * half, 1))
        y = 3 * np.concatenate([np.cos(angle), np.sin(angle)], axis=1) + 0.25 * rng.standard_normal((2 * half, 2))
        order = rng.permutation(2 * half)
        return x[order].astype(np.float32), y.astype(np.float32)

    (x, y), (test, fresh) = draw(), draw()
    keys = jax.random.split(jax.random.key(0), 3)
    sides = zip(keys[:2], (x, y), (3, 8), strict=True)
    fits = [omt.fit(key, points, Gaussian, number, progress=False) for key, points, number in sides]
    plan = omt.transport(*fits, epsilon_components=0.02, epsilon_weights=0.02, progress=False)
    fit = omt.fit_brenier(keys[2], x, y, start=plan, **{"progress": False, **dict(study.settings)})
    return omt.plot.maps(
        {"Barycentric": plan, "Most likely": plan.push_forward_most_likely, "Brenier": fit}, test, fresh
    )


def experiment(options: argparse.Namespace, results: Results) -> None:
    small = Study((2,), 200, 200, (2, 3), 1, (("num_steps", 20), ("num_members", 2), ("width", 8)))
    study = small if options.quick else Study()
    rows: list[dict[str, Any]] = []
    jobs = [(dim, seed) for dim in study.dims for seed in range(options.seeds or study.seeds)]
    for dim, seed in tqdm(jobs, disable=None):
        rows += run_one(study, W2Problem(options.data, dim), seed)

    lines, header = [], ["map", "d", "error, %", "variance, %", "energy distance", "CPU s"]
    for dim in study.dims:
        mine = [row for row in rows if row["dim"] == dim and row["map"] != "spread"]
        for name in dict.fromkeys(row["map"] for row in mine):
            same = [row for row in mine if row["map"] == name]
            form = {"error": ".2f", "variance": ".1f", "energy": ".4f", "seconds": ".0f"}
            cells = [mean_and_deviation([row[field] for row in same], text) for field, text in form.items()]
            lines.append([name, dim, *("" if name == FLOOR and i in (0, 3) else c for i, c in enumerate(cells))])
    results.table("", header, lines)
    lines = []
    for dim in study.dims:
        mine = [row for row in rows if row["dim"] == dim and row["map"] == "spread"]
        form = {"one": ".0f", "two": ".0f", "size": ".3f", "true": ".3f"}
        lines.append([dim, *(mean_and_deviation([row[field] for row in mine], text) for field, text in form.items())])
    results.figure("", picture(study))
    results.table("spread", ["d", "within one, %", "within two, %", "spread", "error"], lines)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
