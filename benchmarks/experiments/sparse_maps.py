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
from benchmarks.experiments.sparse_cells import divergence
from omt_expfam.families import DiagonalGaussian


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
        moved, (x, truth), (_, y) = self._draw(seed, (self.num_points, self.num_points))
        return x, y, moved, truth

    def draw_fresh(self, seed: int, num_points: int) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """More cells of the same kind, twice: before, what these would be after, and others after."""
        nums = (self.num_points, self.num_points, *[num_points] * 4)
        _, _, _, *sides = self._draw(seed, nums)
        return [x for x, _ in sides[:2]], [image for _, image in sides[:2]], [image for _, image in sides[2:]]

    def _draw(self, seed: int, nums: tuple[int, ...]) -> list[Any]:
        """The genes that respond; and groups of cells before, and what they would be after."""
        rng = np.random.default_rng([self.dim, seed])
        factors = 0.3 * rng.standard_normal((10, self.dim))
        groups = [self._cells(rng, factors, num) for num in nums[:2]]
        moved = np.sort(rng.choice(self.dim, self.num_moved, replace=False))
        size = rng.uniform(*self.effects, self.num_moved)
        sign = rng.choice([-1, 1], self.num_moved)
        groups += [self._cells(rng, factors, num) for num in nums[2:]]
        found: list[Any] = [moved]
        for points in groups:
            image = points.copy()
            image[:, moved] += size * (sign + 0.2 * np.tanh(points[:, moved]))
            found.append((points.astype(np.float32), image.astype(np.float32)))
        return found

    def _cells(self, rng: np.random.Generator, factors: np.ndarray, num: int) -> np.ndarray:
        return rng.standard_normal((num, 10)) @ factors + rng.standard_normal((num, self.dim))


@dataclasses.dataclass(frozen=True)
class Types:
    """Two types of cells that lie far apart; each responds in genes of its own, or only their shares change.

    Attributes:
        num_points: Cells before and after.
        dim: Genes.
        num_moved: Genes that move in each type.
        share: The share of the second type after; it is a half before.
    """

    num_points: int
    dim: int
    num_moved: int
    share: float = 0.5

    def draw(self, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells before and after, and what cells before would be after."""
        rng = np.random.default_rng([self.dim, seed])
        factors, kinds = 0.3 * rng.standard_normal((10, self.dim)), 0.8 * rng.standard_normal((2, self.dim))
        moved = [rng.choice(self.dim, self.num_moved, replace=False) for _ in kinds]
        shifts = rng.choice([-1, 1], (2, self.num_moved)) * rng.uniform(1.0, 2.5, (2, self.num_moved))
        sides = []
        for share in (0.5, self.share):
            kind = (rng.random(self.num_points) < share).astype(int)
            noise = rng.standard_normal((self.num_points, self.dim))
            points = rng.standard_normal((self.num_points, 10)) @ factors + kinds[kind] + noise
            image = points.copy()
            for k in (0, 1):
                image[np.ix_(kind == k, moved[k])] += shifts[k]
            sides.append((points.astype(np.float32), image.astype(np.float32)))
        return sides[0][0], sides[1][1], sides[0][1]


FULL = (
    Cells("strong", 4000, 3000, 100, (1.0, 2.5)),
    Cells("half", 4000, 3000, 100, (0.4, 1.0)),
    Cells("weak", 3000, 300, 20, (0.1, 0.3)),
)
MORE = omt.Screen(adjust="composition", control="discoveries")
# Cells of either side that judge, twice, maps of so many seeds; and the strength of a group penalty, just above what
# chance reaches.
JUDGES, JUDGED, STRENGTH = 1000, 3, 0.14
JUDGED_FORM = {"moved": ".1f", "precision": ".3f", "recall": ".3f", "error": ".2f"}
JUDGED_FORM |= {"divergence": ".1f", "of the truth": ".1f", "difference": ".2f"}
SMALL = (Cells("strong", 300, 30, 3, (1.0, 2.5)),)


def run_one(
    cells: Cells, sparsity: Any, seed: int, max_moved: int | None = None, judged: bool = False
) -> dict[str, Any]:
    """What a map of selected features moves; if judged, also how far its images of unseen cells are from others."""
    x, y, moved, truth = cells.draw(seed)
    begin = time.process_time()
    fit = omt.fit_brenier(jax.random.key(seed), x, y, sparsity=sparsity, max_moved=max_moved, progress=False)
    images = np.asarray(fit.map.push_forward(x))
    seconds = time.process_time() - begin
    each = np.abs(images - x) > 1e-2
    found = np.flatnonzero(each.mean(axis=0) > 0.5)
    right = len(np.intersect1d(found, moved))
    numbers = {
        "moved": each.sum(axis=1).mean(),
        "precision": right / max(len(found), 1),
        "recall": right / len(moved),
        "error": 100 * np.sum((images - truth) ** 2) / np.sum((truth - x) ** 2),
        "seconds": seconds,
    }
    if not judged:
        return numbers
    before, after, others = cells.draw_fresh(seed, min(JUDGES, cells.num_points // 2))
    mapped = [np.asarray(fit.map.push_forward(part)) for part in before]
    own = divergence(*after, *others)
    found_too = divergence(*mapped, *others)
    return numbers | {"divergence": found_too, "of the truth": own, "difference": found_too - own}


def judged_ways(cells: Cells) -> list[tuple[str, str, Any, int | None]]:
    """Selections whose maps are judged by their divergence: name, setting, sparsity, and how many genes at most."""
    found: list[tuple[str, str, Any, int | None]] = [
        ("Screen", "", omt.Screen(), None),
        ("GroupPenalty", f"{STRENGTH:g}", omt.GroupPenalty(STRENGTH), None),
    ]
    if cells.name == "weak":
        found.append(("GroupPenalty", "as many as respond", omt.GroupPenalty(), cells.num_moved))
    return found


def run_types(types: Types, seed: int) -> dict[str, float]:
    """Which genes a map by component moves in each cell, and a map of all cells beside it."""
    x, y, truth = types.draw(seed)
    fits = [omt.fit(jax.random.key(seed), side, DiagonalGaussian, 2) for side in (x, y)]
    plan, moves, numbers = omt.transport(*fits), np.abs(truth - x) > 1e-2, {}
    for name, per_component in (("one map", False), ("by component", True)):
        sparsity, start = omt.Screen(per_component=per_component), plan if per_component else None
        fit = omt.fit_brenier(jax.random.key(seed), x, y, start=start, sparsity=sparsity, progress=False)
        found = np.abs(np.asarray(fit.map.push_forward(x)) - x) > 1e-2
        numbers[f"{name}: precision"] = np.sum(found & moves) / max(np.sum(found), 1)
        numbers[f"{name}: recall"] = np.sum(found & moves) / np.sum(moves)
    return numbers


def run_nothing(seed: int, dim: int) -> dict[str, float]:
    """How many genes are selected where only shares change, where correlations do, and where nothing does."""
    x, y, _ = Types(2000, dim, 0, 0.65).draw(seed)
    plain, given = (screened(x, y, adjust) for adjust in (None, "composition"))
    advice = plain.features is not None and "shares of groups may have changed" in plain.features.advice
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, 2000, dim)).astype(np.float32)
    numbers = {"shares": plain.mean_moved, "shares, composition": given.mean_moved, "advice given": float(advice)}
    numbers["nothing"] = screened(x, y, None).mean_moved
    for first, second in ((0, 1), (2, 3), (4, 5)):
        y[:, second] = 0.6 * y[:, first] + 0.8 * y[:, second]
    table = screened(x, y, None).features
    chosen = np.zeros(dim, bool) if table is None else np.asarray(table.selected)
    return numbers | {"correlations: 6 are true, found": chosen[:6].sum(), "others": chosen[6:].sum()}


def screened(x: np.ndarray, y: np.ndarray, adjust: str | None) -> omt.BrenierFit:
    return omt.fit_brenier(jax.random.key(0), x, y, sparsity=omt.Screen(adjust=adjust), progress=False)


def experiment(options: argparse.Namespace, results: Results) -> None:
    studies = SMALL if options.quick else FULL
    seeds = options.seeds or (1 if options.quick else 5)
    form = {"moved": ".1f", "precision": ".3f", "recall": ".3f", "error": ".2f", "seconds": ".0f"}
    lines, judged = [], []
    for cells in studies:
        for settings in (omt.Screen(), omt.Screen(adjust="composition"), MORE)[: 3 if cells.name == "weak" else 2]:
            rows = [run_one(cells, settings, seed) for seed in tqdm(range(seeds), desc=cells.name, disable=None)]
            texts = [mean_and_deviation([row[name] for row in rows], text) for name, text in form.items()]
            asked = [settings.adjust or "none", settings.control]
            lines.append([cells.name, cells.dim, cells.num_moved, *asked, *texts])
        for name, setting, sparsity, most in judged_ways(cells):
            rows = [run_one(cells, sparsity, seed, most, judged=True) for seed in range(min(seeds, JUDGED))]
            texts = [mean_and_deviation([row[key] for row in rows], text) for key, text in JUDGED_FORM.items()]
            judged.append([cells.name, name, setting, *texts])
    header = ["effects", "d", "genes that respond", "adjust", "control"]
    results.table("", [*header, "moved", "precision", "recall", "error, %", "CPU s"], lines)
    header = ["effects", "selection", "setting", "moved", "precision", "recall", "error, %"]
    results.table("divergence", [*header, "divergence", "of the truth", "difference"], judged)
    dim = 40 if options.quick else 300
    types = Types(300 if options.quick else 3000, dim, 4 if options.quick else 20)
    rows = [run_types(types, seed) for seed in range(seeds)]
    results.table(
        "types", list(rows[0]), [[mean_and_deviation([row[name] for row in rows], ".3f") for name in rows[0]]]
    )
    rows = [run_nothing(seed, dim) for seed in range(seeds)]
    results.table("null", list(rows[0]), [[mean_and_deviation([row[name] for row in rows], ".1f") for name in rows[0]]])


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
