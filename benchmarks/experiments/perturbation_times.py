"""Time and memory of maps between single cells as the number of cells grows, each in a process of its own."""

from benchmarks.harness.measure import in_own_process, peak_memory, resident_memory  # isort: skip  (sets threads first)

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import kang
from benchmarks.harness.experiment import Results, run
from omt_expfam.families import Gaussian

DIM, NUM_COMPONENTS, EPSILON = 16, 8, 0.01
# Seconds: a method whose next size would take longer stops; what takes longer than the other is not repeated.
LIMIT, BRIEF = 60.0, 45.0
PEERS = {"entropic": _peers.Entropic(), "ProgOT": _peers.Entropic(num_steps=4)}
ALONE = "--alone"


def many_cells(directory: Path, num: int) -> list[np.ndarray]:
    """So many cells of each condition: the real ones drawn with replacement, and a hundredth of noise."""
    cells, rng = kang(directory, DIM), np.random.default_rng(0)
    sides = []
    for condition in (False, True):
        mine = cells.points[cells.stimulated == condition]
        noise = rng.standard_normal((num, DIM), np.float32) * (0.01 * mine.std(axis=0))
        sides.append(mine[rng.integers(0, len(mine), num)] + noise)
    return sides


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns and its seconds: of a second call, unless the first took long."""
    for _ in range(2):
        begin = time.perf_counter()
        result = jax.block_until_ready(function())
        elapsed = time.perf_counter() - begin
        if elapsed > BRIEF:
            break
    return result, elapsed


def alone(directory: str, name: str, num: str) -> None:
    """Print seconds to fit, to solve and to map, and MiB, of one method in this process."""
    x, y = many_cells(Path(directory), int(num))
    before, fit = resident_memory(), None
    if name in PEERS:
        found, solve = timed(lambda: PEERS[name](jax.random.key(0), x, y))
    else:
        options = {"num_components": NUM_COMPONENTS, "progress": False}
        pair, fit = timed(lambda: [omt.fit(jax.random.key(i), p, Gaussian, **options) for i, p in enumerate((x, y))])
        mixtures = [each.mixture for each in pair]
        epsilons = {"epsilon_components": EPSILON, "epsilon_weights": EPSILON}
        found, solve = timed(lambda: omt.transport(*mixtures, **epsilons, progress=False))
    points = jnp.asarray(x)
    _, mapped = timed(lambda: found.push_forward(points))
    print(json.dumps([fit, solve, mapped, peak_memory() - before]))


def measure(directory: Path, name: str, sizes: tuple[int, ...]) -> list[list[Any]]:
    """Rows of one method, up to where it would take too long."""
    rows = []
    for num, after in zip(sizes, (*sizes[1:], None), strict=True):
        arguments = ALONE, str(directory), name, str(num)
        fit, solve, mapped, memory = json.loads(
            in_own_process("benchmarks.experiments.perturbation_times", *arguments).splitlines()[-1]
        )
        rows.append([name, num, fit, solve, mapped, round(memory)])
        growth = (after / num) ** 2 if after else 1.0
        if name in PEERS and growth * (solve + mapped) > LIMIT:
            break
    return rows


def draw(rows: list[list[Any]]) -> Any:
    """Seconds and memory against the number of cells."""
    import matplotlib.pyplot as plt

    ours = next(row[0] for row in rows if row[0] not in PEERS)
    lines = {
        f"{ours}: fit, solve and map": (ours, lambda row: sum(row[2:5]), "#d7301f", "o-"),
        f"{ours}: solve": (ours, lambda row: row[3], "#fe9929", "s--"),
        "entropic: solve and map": ("entropic", lambda row: sum(row[3:5]), "#2171b5", "^-"),
        "ProgOT: solve and map": ("ProgOT", lambda row: sum(row[3:5]), "#41ae76", "v-"),
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for label, (name, value, color, style) in lines.items():
        mine = [row for row in rows if row[0] == name]
        sizes = [row[1] for row in mine]
        axes[0].plot(sizes, [value(row) for row in mine], style, color=color, ms=4, label=label)
        if not label.endswith(": solve"):
            axes[1].plot(sizes, [row[5] for row in mine], style, color=color, ms=4)
    for axis, name in zip(axes, ("seconds", "memory above the start, MiB"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="cells of each condition", ylabel=name)
        axis.grid(color="0.92")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    """All methods in all sizes."""
    sizes = {name: (1000, 2000, 4000, 8000, 16_000) for name in PEERS}
    sizes["OMT"] = (1000, 10_000, 100_000, 1_000_000)
    if options.quick:
        sizes = {"entropic": (500,), "OMT": (500,)}
    kang(options.data, DIM)
    rows = [row for name, some in tqdm(sizes.items(), disable=None) for row in measure(options.data, name, some)]
    header = ["method", "cells of each condition", "fit, s", "solve, s", "map of all, s", "memory above the start, MiB"]
    results.table("", header, [[row[0], f"{row[1]:,}", *row[2:]] for row in rows])
    results.figure("", draw(rows))


if __name__ == "__main__":
    if sys.argv[1:2] == [ALONE]:
        alone(*sys.argv[2:])
    else:
        run(__doc__, __spec__, experiment)
