"""Sparse maps where nothing happens: from one half of real cells without stimulation to the other."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import ot
from sklearn.covariance import LedoitWolf
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.experiments.sparse_cells import Elastic, markers, THRESHOLD
from benchmarks.harness.data import kang_genes

# Cells of a half at most; a group penalty's strength, and those of the other penalties.
MOST, GROUP, STRENGTH, ELASTIC = 800, 0.5, 0.3, 8.0


def methods(key: Any, x: np.ndarray, y: np.ndarray, quick: bool) -> Iterator[tuple[str, str, Any]]:
    """Name, setting and map of each method in turn."""
    for control in ("family", "discoveries"):
        fit = omt.fit_brenier(key, x, y, sparsity=omt.Screen(control=control), progress=False)
        yield "Screen", control, fit.map.push_forward
    for strength in (GROUP / 2, GROUP):
        fit = omt.fit_brenier(key, x, y, sparsity=omt.GroupPenalty(strength), progress=False)
        yield "GroupPenalty", f"{strength:g}", fit.map.push_forward
    # All others move nearly every gene.
    if quick or x.shape[1] > 100:
        return
    first, second = (LedoitWolf().fit(side.astype(float)) for side in (x, y))
    means, covariances = (first.location_, second.location_), (first.covariance_, second.covariance_)
    line: Any = ot.gaussian.bures_wasserstein_mapping(*means, *covariances)
    matrix, offset = line
    yield "linear", "", lambda points: (points @ matrix + offset).astype(np.float32)
    settings: dict[str, Any] = {"num_members": 1, "num_target_members": 0, "num_steps": 300, "progress": False}
    yield "potential", "", omt.fit_brenier(key, x, y, **settings).map.push_forward
    fit = omt.fit_brenier(key, x, y, sparsity=omt.L1(STRENGTH), **settings)
    yield "potential, L1", f"{STRENGTH:g}", fit.map.push_forward
    yield "ott-jax, elastic L1", f"{ELASTIC:g}", Elastic(x, y, "L1").map(ELASTIC)


def run_one(cells: np.ndarray, seed: int, quick: bool) -> list[tuple[str, str, Any]]:
    """How many coordinates of a cell each method moves, of one split; by more than a hundredth, and by how much."""
    order = np.random.default_rng(seed).permutation(len(cells))
    half = min(len(cells) // 2, MOST)
    x, y = cells[order[:half]], cells[order[half : 2 * half]]
    rows = []
    for name, setting, push in methods(jax.random.key(seed), x, y, quick):
        moves = np.asarray(push(x)) - x
        count = np.sum(np.abs(moves) > THRESHOLD, axis=1).mean()
        rows.append((name, setting, (count, np.sqrt(np.mean(moves**2) / np.mean(x.var(axis=0))))))
    return rows


def experiment(options: argparse.Namespace, results: Results) -> None:
    genes = kang_genes(options.data, 60 if options.quick else 2000)
    studies = {"markers": markers(options.data)[0], "genes": genes.points[~genes.stimulated]}
    seeds = options.seeds or (1 if options.quick else 3)
    lines = []
    for data, cells in studies.items():
        cells = cells[:200] if options.quick else cells
        runs = [run_one(cells, seed, options.quick) for seed in tqdm(range(seeds), desc=data, disable=None)]
        for rows in zip(*runs, strict=True):
            name, setting, _ = rows[0]
            found = np.array([numbers for _, _, numbers in rows])
            texts = [mean_and_deviation(column, form) for column, form in zip(found.T, (".1f", ".2f"), strict=True)]
            half = min(len(cells) // 2, MOST)
            lines.append([data, cells.shape[1], half, name, setting, *texts])
    results.table("", ["data", "d", "cells of a half", "method", "setting", "moved", "displacement"], lines)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
