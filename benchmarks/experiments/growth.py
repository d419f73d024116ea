"""Growth found between snapshots of cells, beside moscot's way: how it returns in other cells and in growth scores."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn
from scipy.stats import spearmanr

import omt_expfam as omt
from benchmarks.harness.data import emt, reprogramming
from omt_expfam.families import Gaussian

# Prices of growth and the regularization of couplings of cells, in parts of the mean squared distance.
PRICES, EPSILON = (0.02, 0.1, 0.5), 0.02


class Step(NamedTuple):
    """Cells at one time, two disjoint sets of cells at the next, and growth scores of the former or ``None``."""

    name: str
    before: np.ndarray
    after: tuple[np.ndarray, np.ndarray]
    scores: np.ndarray | None


def steps(directory: Any, seed: int, num: int) -> Iterator[Step]:
    """From day 0 to either replicate of day 2; and from each time of the A549 cells to either half of the next."""
    rng = np.random.default_rng([7, seed])
    data = reprogramming(directory)
    one, *other = (rng.permutation(len(points))[:num] for points in (data.day0, *data.day2))
    later = tuple(points[index] for points, index in zip(data.day2, other, strict=True))
    yield Step("reprogramming", data.day0[one], (later[0], later[1]), data.growth[0][one])
    snapshots = emt(directory)
    for n, (before, after) in enumerate(zip(snapshots, snapshots[1:], strict=False)):
        order, half = rng.permutation(len(after)), len(after) // 2
        pair = after[order[:half]][:num], after[order[half : 2 * half]][:num]
        yield Step(f"A549, step {n + 1}", rng.permutation(before)[:num], pair, None)


def of_mixtures(step: Step, price: float, size: int, seed: int) -> list[np.ndarray]:
    """The growth of the cells before, by components, towards either set of cells after."""
    keys = jax.random.split(jax.random.key(seed), 3)
    first, *later = (
        omt.fit(key, points.astype(np.float32), Gaussian, size, progress=False)
        for key, points in zip(keys, (step.before, *step.after), strict=True)
    )
    member = np.asarray(first.mixture.responsibilities(step.before.astype(np.float32)))
    courses = [omt.trajectory([first, fit], source_relaxation=price) for fit in later]
    return [member @ np.asarray(course.growth[0]) for course in courses]


@functools.partial(jax.jit, static_argnums=2)
def _rows(cost: jax.Array, epsilon: float, share: float) -> jax.Array:
    geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    problem = linear_problem.LinearProblem(geom, tau_a=share, tau_b=1.0)
    return sinkhorn.Sinkhorn(threshold=1e-3, max_iterations=2000)(problem).matrix.sum(axis=1)


def of_cells(step: Step, price: float, unit: float) -> list[np.ndarray]:
    """The same from couplings of all cells, the source relaxed: tau_a = rho / (rho + epsilon), tau_b = 1."""
    found = []
    for after in step.after:
        cost = jnp.asarray(ot.dist(step.before, after), jnp.float32)
        rows = np.asarray(_rows(cost, EPSILON * unit, round(price / (price + EPSILON * unit), 6)), np.float64)
        found.append(rows * len(rows) / rows.sum())
    return found


def scores(found: list[np.ndarray], step: Step) -> dict[str, float]:
    """Rank correlations between both sets of cells after, and with the scores; and how much growth differs."""
    row = {"again": float(spearmanr(*found).statistic), "spread": float(np.mean([np.std(growth) for growth in found]))}
    if step.scores is not None:
        row["scores"] = float(np.mean([spearmanr(growth, step.scores).statistic for growth in found]))
    return row


def experiment(options: argparse.Namespace, results: Results) -> None:
    num, seeds, size = (80, 1, 2) if options.quick else (600, options.seeds or 3, 12)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for step in list(steps(options.data, seed, num))[: 1 if options.quick else None]:
            unit = float(ot.dist(step.before, step.after[0]).mean())
            for part in PRICES[: 1 if options.quick else None]:
                methods = {
                    "OMT": lambda p, step=step, seed=seed: of_mixtures(step, p, size, seed),
                    "OTT-JAX, cells": lambda p, step=step, unit=unit: of_cells(step, p, unit),
                }
                for name, method in methods.items():
                    begin = time.process_time()
                    found = method(part * unit)
                    seconds = time.process_time() - begin
                    row = {"step": step.name, "price": part, "method": name, "seconds": seconds}
                    rows.append(row | scores(found, step))
    lines = []
    for key in dict.fromkeys((row["step"], row["price"], row["method"]) for row in rows):
        same = [row for row in rows if (row["step"], row["price"], row["method"]) == key]
        form = {"again": ".2f", "scores": ".2f", "spread": ".2f", "seconds": ".1f"}
        lines.append([*key, *(mean_and_deviation([r[f] for r in same if f in r], t) for f, t in form.items())])
    header = ["step", "price", "method", "returns in other cells", "with growth scores", "deviation of growth", "CPU s"]
    results.table("", header, lines)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
