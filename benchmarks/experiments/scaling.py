"""Time and memory against the number of points and of dimensions: this library beside solvers between samples."""

from benchmarks.harness.measure import in_own_process, peak_memory, resident_memory, seconds, spd  # isort: skip  (sets threads)

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import ot
from tqdm import tqdm

from benchmarks.harness import peers as _peers
from benchmarks.harness.experiment import Results, run
from omt_expfam.diagnostics import MixtureTransport
from omt_expfam.families import DiagonalGaussian, Gaussian


OMT, ENTROPIC, PROGRESSIVE, EXACT = "OMT", "entropic map", "progressive", "exact (POT emd)"
NUM_COMPONENTS, NUM_MAPPED = 10, 10_000
CHILD = "--child"


@dataclasses.dataclass(frozen=True)
class Study:
    """Dimensions, numbers of points of each method, and the seconds that no run should take longer than.

    This library's limit is the first, so that its line is long enough to see; the peers' is the second.
    """

    dims: tuple[int, ...]
    sizes: dict[str, tuple[int, ...]]
    limits: tuple[float, float]


def full() -> Study:
    samples = (1000, 2000, 4000, 8000)
    sizes = {OMT: (1000, 10_000, 100_000, 1_000_000), ENTROPIC: samples, PROGRESSIVE: samples, EXACT: samples[:3]}
    return Study((2, 8, 16, 64, 128), sizes, (60.0, 20.0))


def quick() -> Study:
    return Study((2,), {OMT: (200, 400), ENTROPIC: (100, 200), EXACT: (100, 200)}, (5.0, 5.0))


# -- one method in one dimension, in a process of its own -------------------------------------------------------------


class Points:
    """Draws of two mixtures of normal laws in d dimensions."""

    def __init__(self, dim: int) -> None:
        self._rng = np.random.default_rng(dim)
        self._laws = []
        for _ in range(2):
            means = 3 * self._rng.standard_normal((NUM_COMPONENTS, dim))
            roots = np.linalg.cholesky(spd(self._rng, NUM_COMPONENTS, dim, 10.0))
            self._laws.append((means, roots))

    def draw(self, side: int, num: int) -> np.ndarray:
        """Points of the source (0) or the target (1), shape ``[num, d]``."""
        means, roots = self._laws[side]
        which = self._rng.integers(0, NUM_COMPONENTS, num)
        points = self._rng.standard_normal((num, means.shape[1]))
        for component in range(NUM_COMPONENTS):
            mine = which == component
            points[mine] = means[component] + points[mine] @ roots[component].T
        return points.astype(np.float32)


def timed(function: Callable[[], Any], compilation: float | None) -> tuple[float, float]:
    """Seconds of compilation and of a run: by a second run, or, if that takes long, by what compilation took before."""
    first, _ = seconds(function, repeats=0)
    if compilation is not None and first > 5 + compilation:
        return compilation, first - compilation
    _, later = seconds(function, repeats=0)
    return max(first - later, 0.0), later


def parts_of(method: str, dim: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, Callable[[], Any]]]:
    """The parts of a method, to be run in this order, given both samples and points to map."""
    family = Gaussian if dim <= 64 else DiagonalGaussian
    ours = MixtureTransport(family, NUM_COMPONENTS, epsilon_components=0.01, epsilon_weights=0.01)
    steps = 4 if method == PROGRESSIVE else 1

    def mixtures(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> dict[str, Callable[[], Any]]:
        kept: dict[str, Any] = {}
        keys = jax.random.split(jax.random.key(0))

        def fit() -> Any:
            kept["fits"] = ours.fit_source(keys[0], x).mixture, ours.fit_target(keys[1], y).mixture
            return kept["fits"]

        def solve() -> Any:
            kept["plan"] = ours.couple(*kept["fits"])
            return kept["plan"]

        return {"fit": fit, "solve": solve, "map": lambda: kept["plan"].push_forward(points)}

    def entropic(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> dict[str, Callable[[], Any]]:
        kept: dict[str, Any] = {}

        def solve() -> None:
            kept["maps"] = _peers.Entropic(num_steps=steps)(None, x, y)

        return {"solve": solve, "map": lambda: kept["maps"].push_forward(points)}

    def exact(x: np.ndarray, y: np.ndarray, points: np.ndarray) -> dict[str, Callable[[], Any]]:
        uniform = np.full(len(x), 1 / len(x))
        return {"solve": lambda: ot.emd(uniform, uniform, ot.dist(x.astype(float), y.astype(float)), numItermax=10**7)}

    return {OMT: mixtures, EXACT: exact}.get(method, entropic)


def child(method: str, dim: str, sizes: str, limit: str) -> None:
    """Print the costs of one method for growing samples, until the next one would pass the limit."""
    source, rows, growth = Points(int(dim)), [], 1.0 if method == OMT else 2.0
    points, compilation = source.draw(0, NUM_MAPPED), {}
    # Whatever the first computation needs is there before the memory is read.
    jax.block_until_ready(jax.numpy.ones((100, 100)) @ jax.numpy.ones((100, 100)))
    for num in json.loads(sizes):
        if rows and rows[-1]["total"] * (num / rows[-1]["n"]) ** growth > float(limit):
            break
        x, y = source.draw(0, num), source.draw(1, num)
        before = resident_memory() if not rows else before
        found = {name: timed(f, compilation.get(name)) for name, f in parts_of(method, int(dim))(x, y, points).items()}
        compilation = {name: compiled for name, (compiled, _) in found.items()}
        row = {name: run for name, (_, run) in found.items()}
        total = {"total": sum(row.values()), "compilation": sum(compilation.values())}
        rows.append({"n": num, **row, **total, "memory": peak_memory() - before})
    print(json.dumps(rows))


# -- tables and picture -----------------------------------------------------------------------------------------------


def crossover(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> tuple[str, float]:
    """Where the first curve of (n, seconds) falls below the second, both straight between points on logarithmic axes.

    Returns:
        ``"at"``, ``"below"`` or ``"above"``, and the number of points: where they cross, or the smallest or largest
        number that both have, if the first is lower, or higher, on all of the common range.
    """
    (n0, t0), (n1, t1) = (np.log(np.asarray(curve, float)).T for curve in (ours, theirs))
    nodes = np.unique(np.concatenate([n0, n1]))
    nodes = nodes[(nodes >= max(n0[0], n1[0])) & (nodes <= min(n0[-1], n1[-1]))]
    gap = np.interp(nodes, n0, t0) - np.interp(nodes, n1, t1)
    if gap[0] <= 0:
        return "below", float(np.exp(nodes[0]))
    if (gap > 0).all():
        return "above", float(np.exp(nodes[-1]))
    i = int(np.argmax(gap <= 0))
    share = gap[i - 1] / (gap[i - 1] - gap[i])
    return "at", float(np.exp(nodes[i - 1] + share * (nodes[i] - nodes[i - 1])))


def crossover_rows(runs: dict[tuple[int, str], list[dict[str, Any]]], dims: Sequence[int]) -> list[list[Any]]:
    """The crossovers with every peer: after compilation, and with it."""
    signs, rows = {"at": "", "below": "< ", "above": "> "}, []
    for peer in dict.fromkeys(method for _, method in runs if method != OMT):
        for name, extra in (("compiled", 0.0), ("first call", 1.0)):
            cells = []
            for dim in dims:
                curves = [
                    [(row["n"], row["total"] + extra * row["compilation"]) for row in runs[dim, method]]
                    for method in (OMT, peer)
                ]
                where, num = crossover(*curves)
                cells.append(f"{signs[where]}{float(f'{num:.2g}'):,.0f}")
            rows.append([peer, name, *cells])
    return rows


def wide(runs: dict[tuple[int, str], list[dict[str, Any]]], field: str) -> tuple[list[str], list[list[Any]]]:
    """One row per dimension and method, one column per number of points."""
    sizes = sorted({row["n"] for rows in runs.values() for row in rows})
    lines = []
    for (dim, method), rows in runs.items():
        values = {row["n"]: f"{row[field]:.2g}" if row[field] < 100 else f"{row[field]:.0f}" for row in rows}
        lines.append([dim, method, *(values.get(num, "") for num in sizes)])
    return ["d", "method", *(f"n = {num:,}" for num in sizes)], lines


STYLES = {OMT: ("#d7301f", "o"), ENTROPIC: ("#2171b5", "s"), PROGRESSIVE: ("#41ae76", "^"), EXACT: ("0.4", "D")}


def picture(runs: dict[tuple[int, str], list[dict[str, Any]]], dims: Sequence[int]) -> Any:
    """Time and memory against the number of points, one column per dimension."""
    import matplotlib.pyplot as plt

    size = 3.4 * len(dims) + 1, 8
    figure, axes = plt.subplots(2, len(dims), figsize=size, layout="constrained", sharex=True, sharey="row")
    axes = np.reshape(axes, (2, len(dims)))
    for row, (field, name) in zip(axes, {"total": "seconds, compiled", "memory": "peak, MiB"}.items(), strict=True):
        for axis, dim in zip(row, dims, strict=True):
            for method, (color, marker) in STYLES.items():
                mine = runs.get((dim, method), [])
                places, values = [line["n"] for line in mine], [line[field] for line in mine]
                axis.plot(places, values, color=color, marker=marker, label=method)
            axis.set(xscale="log", yscale="log")
            axis.set_title(f"d = {dim}")
            axis.grid(color="0.9")
        row[0].set_ylabel(name)
    for axis in axes[1]:
        axis.set_xlabel("points of each sample")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    study = quick() if options.quick else full()
    jobs, runs = [(dim, method) for dim in study.dims for method in study.sizes], {}
    for dim, method in tqdm(jobs, disable=None):
        limit = study.limits[method != OMT]
        arguments = method, str(dim), json.dumps(study.sizes[method]), str(limit)
        answer = in_own_process("benchmarks.experiments.scaling", CHILD, *arguments)
        runs[dim, method] = json.loads(answer.splitlines()[-1])
    results.table("", *wide(runs, "total"))
    results.table("memory", *wide(runs, "memory"))
    results.table(
        "crossover", ["peer", "times", *(f"d = {dim}" for dim in study.dims)], crossover_rows(runs, study.dims)
    )
    names = ["n", "fit", "solve", "map", "compilation", "memory"]
    ours = [
        [dim, *(row[name] for name in names)] for (dim, method), rows in runs.items() if method == OMT for row in rows
    ]
    header = ["d", "n", "fit, s", "solve, s", "map, s", "compilation, s", "peak, MiB"]
    results.table("parts", header, [[*line[:1], f"{line[1]:,}", *line[2:]] for line in ours])
    fields = ["n", "fit", "solve", "map", "total", "compilation", "memory"]
    tidy = [[dim, method, *(row.get(f) for f in fields)] for (dim, method), rows in runs.items() for row in rows]
    results.table("runs", ["d", "method", *fields], tidy, shown=False)
    results.figure("", picture(runs, study.dims))


if __name__ == "__main__":
    if CHILD in sys.argv:
        child(*sys.argv[2:])
    else:
        run(__doc__, __spec__, experiment)
