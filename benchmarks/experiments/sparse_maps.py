"""Sparse maps of synthetic cells: how many features move, whether they are the true ones, and how exact the map is."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import omt_expfam as omt


@dataclasses.dataclass(frozen=True)
class Cells:
    """Unpaired cells with ten weak factors and unit noise; some genes respond by shifts that depend on their value."""

    name: str
    num_points: int
    dim: int
    num_moved: int
    effects: tuple[float, float]

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cells before and after, the genes that respond, and what cells before would be after."""
        rng = np.random.default_rng([self.dim, seed])
        factors = 0.3 * rng.standard_normal((10, self.dim))
        x, y = (
            rng.standard_normal((self.num_points, 10)) @ factors + rng.standard_normal((self.num_points, self.dim))
            for _ in range(2)
        )
        moved = np.sort(rng.choice(self.dim, self.num_moved, replace=False))
        size = rng.uniform(*self.effects, self.num_moved)
        sign = rng.choice([-1, 1], self.num_moved)
        images = []
        for points in (x, y):
            image = points.copy()
            image[:, moved] += size * (sign + 0.2 * np.tanh(points[:, moved]))
            images.append(image.astype(np.float32))
        return x.astype(np.float32), images[1], moved, images[0]


FULL = (
    Cells("strong", 4000, 3000, 100, (1.0, 2.5)),
    Cells("half", 4000, 3000, 100, (0.4, 1.0)),
    Cells("weak", 3000, 300, 20, (0.1, 0.3)),
)
SMALL = (Cells("strong", 300, 30, 3, (1.0, 2.5)),)


def run_one(cells: Cells, adjust: str | None, seed: int) -> dict[str, Any]:
    """What a screened map moves."""
    x, y, moved, truth = cells.draw(seed)
    begin = time.process_time()
    fit = omt.fit_brenier(jax.random.key(seed), x, y, sparsity=omt.Screen(adjust=adjust), progress=False)
    images = np.asarray(fit.map.push_forward(x))
    seconds = time.process_time() - begin
    each = np.abs(images - x) > 1e-2
    found = np.flatnonzero(each.mean(axis=0) > 0.5)
    right = len(np.intersect1d(found, moved))
    return {
        "moved": each.sum(axis=1).mean(),
        "precision": right / max(len(found), 1),
        "recall": right / len(moved),
        "error": 100 * np.sum((images - truth) ** 2) / np.sum((truth - x) ** 2),
        "seconds": seconds,
    }


def experiment(options: argparse.Namespace, results: Results) -> None:
    studies = SMALL if options.quick else FULL
    seeds = options.seeds or (1 if options.quick else 5)
    form = {"moved": ".1f", "precision": ".3f", "recall": ".3f", "error": ".2f", "seconds": ".0f"}
    lines = []
    for cells in studies:
        for adjust in (None, "composition"):
            rows = [run_one(cells, adjust, seed) for seed in tqdm(range(seeds), desc=cells.name, disable=None)]
            texts = [mean_and_deviation([row[name] for row in rows], text) for name, text in form.items()]
            lines.append([cells.name, cells.dim, cells.num_moved, adjust or "none", *texts])
    header = ["effects", "d", "genes that respond", "adjust", "moved", "precision", "recall", "error, %", "CPU s"]
    results.table("", header, lines)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
