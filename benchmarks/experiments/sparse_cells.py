"""Sparse maps of real cells: how many coordinates move, against how far images are from unseen cells."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import ot
from ott.geometry import geometry, regularizers
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics.pairwise import euclidean_distances
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness.data import bodenmiller

# A coordinate counts as moved where it moves by more than this.
THRESHOLD = 1e-2
LEVELS = (1e-30, 1e-12, 1e-2)
FLOOR = "other cells after"
# Strengths of the elastic costs over the mean size of a coordinate's difference between the two samples.
ELASTIC = (0.5, 2.0, 8.0)
PENALTIES = (0.03, 0.3)


def markers(directory: Path) -> tuple[np.ndarray, np.ndarray]:
    """Blood cells without and with stimulation of their B cell receptors: 24 markers."""
    cells = bodenmiller(directory)
    return cells.points[~cells.stimulated], cells.points[cells.stimulated]


class Elastic:
    """Entropic maps of the cost h(z) = |z|^2 / 2 + strength tau(z) (Cuturi et al., 2023), by ott-jax's Sinkhorn.

    The map is x - prox(sum_j p_j grad h(x - y_j)), as ott-jax's dual potentials have it, with its operators; costs of
    all pairs are computed once for all strengths.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, name: str):
        self.x, self.y, self.name = x, y, name
        self.unit = float(np.abs(x.mean(axis=0) - y.mean(axis=0)).mean())
        self.operator: Any = regularizers.L1() if name == "L1" else regularizers.STVS(self.unit)
        self.square = cdist(x, y, "sqeuclidean") / 2
        self.penalty = self._penalty(x)

    def _penalty(self, points: np.ndarray) -> np.ndarray:
        if self.name == "L1":
            return cdist(points, self.y, "cityblock")
        function = jax.jit(jax.vmap(jax.vmap(lambda a, b: self.operator(a - b), (None, 0)), (0, None)))
        return np.concatenate([np.asarray(function(points[i : i + 8], self.y)) for i in range(0, len(points), 8)])

    def map(self, multiple: float) -> Callable[[np.ndarray], np.ndarray]:
        """The map with a strength, in units of the mean difference of means."""
        strength = multiple * self.unit
        costs = self.square + strength * self.penalty
        table: Any = costs.astype(np.float32)
        grid = geometry.Geometry(cost_matrix=table, relative_epsilon="std", epsilon=0.05)
        found = sinkhorn.Sinkhorn(max_iterations=500)(linear_problem.LinearProblem(grid))
        heights, epsilon = np.asarray(found.g, np.float64), float(grid.epsilon)
        slopes = jax.jit(jax.vmap(jax.grad(self.operator)))

        def push(points: np.ndarray) -> np.ndarray:
            level = (heights - cdist(points, self.y, "sqeuclidean") / 2 - strength * self._penalty(points)) / epsilon
            images = np.empty_like(points)
            for i, point in enumerate(points):
                weight = np.exp(level[i] - level[i].max())
                near = np.argsort(-weight)[:100]
                weight = weight[near] / weight[near].sum()
                steps = point - self.y[near]
                mean = weight @ (steps + strength * np.asarray(slopes(steps)))
                images[i] = point - np.asarray(self.operator.prox(mean.astype(np.float32), strength))
            return images

        return push


def methods(key: Any, x: np.ndarray, y: np.ndarray, quick: bool) -> Iterator[tuple[str, str, Any]]:
    """Name, setting and map of each method in turn."""
    yield "no map", "", lambda points: points
    first, second = (LedoitWolf().fit(side.astype(float)) for side in (x, y))
    means, covariances = (first.location_, second.location_), (first.covariance_, second.covariance_)
    line: Any = ot.gaussian.bures_wasserstein_mapping(*means, *covariances)
    matrix, offset = line
    yield "linear", "", lambda points: (points @ matrix + offset).astype(np.float32)
    for level in LEVELS[-1:] if quick else LEVELS:
        yield "Screen", f"{level:g}", omt.fit_brenier(key, x, y, sparsity=omt.Screen(level)).map.push_forward
    if quick:
        return
    # Of many genes no network is better than where it starts, the straight line, whatever its penalty.
    many = x.shape[1] > 100
    settings: dict[str, Any] = {"num_members": 1, "num_target_members": 0, "progress": False}
    settings["num_steps"] = 50 if many else 300
    yield "potential", "", omt.fit_brenier(key, x, y, **settings).map.push_forward
    for strength in () if many else PENALTIES:
        fit = omt.fit_brenier(key, x, y, sparsity=omt.L1(strength), **settings)
        yield "potential, L1", f"{strength:g}", fit.map.push_forward
    for name in ("L1", "STVS"):
        elastic = Elastic(x, y, name)
        for multiple in ELASTIC:
            yield f"ott-jax, elastic {name}", f"{multiple:g}", elastic.map(multiple)


def divergence(first: np.ndarray, second: np.ndarray, y: np.ndarray, other: np.ndarray) -> float:
    """OT(T1, Y1) - OT(T1, T2) / 2 - OT(Y1, Y2) / 2 of independent samples of equal size, squared distance, unbiased."""

    def cost(a: np.ndarray, b: np.ndarray) -> float:
        value: Any = ot.emd2([], [], euclidean_distances(a.astype(float), b.astype(float), squared=True))
        return float(value)

    return cost(first, y) - cost(first, second) / 2 - cost(y, other) / 2


def run_one(x: np.ndarray, y: np.ndarray, sizes: tuple[int, int], seed: int, quick: bool) -> list[tuple[str, str, Any]]:
    """Moved coordinates and divergence of every method, for one choice of cells to fit and to judge."""
    rng, (num, held_out) = np.random.default_rng(seed), sizes
    rows: list[tuple[str, str, Any]] = []
    x, y = (side[rng.permutation(len(side))[: num + 2 * held_out]] for side in (x, y))
    tests = [side[len(side) - 2 * held_out :] for side in (x, y)]
    fitted = x[: len(x) - 2 * held_out], y[: len(y) - 2 * held_out]
    # Other cells of the target in place of images: what no map betters, but for chance.
    some = np.split(fitted[1][: 2 * held_out], 2)
    rows.append((FLOOR, "", (0.0, divergence(*some, *np.split(tests[1], 2)))))
    for name, setting, push in methods(jax.random.key(seed), *fitted, quick):
        images = np.asarray(push(tests[0]))
        moved = np.sum(np.abs(images - tests[0]) > THRESHOLD, axis=1).mean()
        halves = images[:held_out], images[held_out:], tests[1][:held_out], tests[1][held_out:]
        rows.append((name, setting, (moved, divergence(*halves))))
    return rows


def study(
    name: str, sides: tuple[np.ndarray, np.ndarray], sizes: tuple[int, int], seeds: int, quick: bool, results: Results
) -> None:
    """The table and the picture of one data set.

    Args:
        name: What coordinates are.
        sides: Cells without and with stimulation.
        sizes: How many cells are fitted, and how many judge, twice.
        seeds: Choices of these cells.
        quick: Whether this is a check that the script runs.
        results: Where they go.
    """
    import matplotlib.pyplot as plt

    runs = [run_one(*sides, sizes, seed, quick) for seed in tqdm(range(seeds), desc=name, disable=None)]
    lines, curves = [], {}
    for rows in zip(*runs, strict=True):
        method, setting, _ = rows[0]
        found = np.array([numbers for _, _, numbers in rows])
        dim = sides[0].shape[1]
        texts = [mean_and_deviation(column, ".1f") for column in found.T]
        lines.append([name, dim, method, setting, "" if method == FLOOR else texts[0], texts[1]])
        curves.setdefault(method, []).append(found.mean(axis=0))
    figure, ax = plt.subplots(figsize=(8, 4.5))
    ax.axhline(curves.pop(FLOOR)[0][1], color="gray", linestyle="--", linewidth=1, label=FLOOR)
    for method, points in curves.items():
        ax.plot(*np.array(sorted(map(tuple, points))).T, "o-", markersize=4, linewidth=1, label=method)
    ax.set_title(f"{name}, {sides[0].shape[1]} coordinates")
    ax.set_xlabel("moved coordinates of a cell")
    ax.set_ylabel("divergence from unseen cells (squared distance)")
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    results.figure("", figure)
    results.table("", ["data", "d", "method", "setting", "moved", "divergence"], lines)


def experiment(options: argparse.Namespace, results: Results) -> None:
    seeds = options.seeds or (1 if options.quick else 3)
    study("markers", markers(options.data), (150, 40) if options.quick else (800, 300), seeds, options.quick, results)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
