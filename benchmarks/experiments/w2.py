"""Forward and backward maps on the Wasserstein-2 benchmark, whose optimal map is known: this library and its peers.

The environment variable OMT_CACHE may name a directory that keeps what is finished; a later run goes on from there.
"""

from benchmarks.harness.measure import in_own_process, peak_memory, resident_memory, seconds  # isort: skip  (sets threads)

import argparse
import dataclasses
import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.experiments import _w2_components
from benchmarks.harness.experiment import Results, run
from benchmarks.harness.kept import kept
from benchmarks.experiments._w2_tables import picture, report
from benchmarks.harness.w2bench import W2Problem
from omt_expfam.diagnostics import MixtureTransport
from omt_expfam.families import DiagonalGaussian, Gaussian, LowRankGaussian

SMALL, LARGE, SEED_OF_TESTS = 2048, 16_384, 1_000_000


def papers(source: int, target: int) -> MixtureTransport:
    """The papers' setting; their epsilon 0.01 of the components is 0.02 in our units."""
    return MixtureTransport(Gaussian, (source, target), epsilon_components=0.02, epsilon_weights=0.01)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the tables.

    Attributes:
        label: Its name.
        method: A method of `_peers`, or ``None`` for the true map.
        num_points: Training points of each side; parameters are chosen on the first ``SMALL`` of them.
        seeds: Repetitions at most.
        dims: Dimensions it runs in; all of them if empty.
    """

    label: str
    method: Any
    num_points: int = SMALL
    seeds: int = 5
    dims: tuple[int, ...] = ()


def full() -> list[Entry]:
    entropic = tuple(_peers.Entropic(scale) for scale in (2.0, 1.0, 0.5, 0.2))
    progressive = tuple(_peers.Entropic(scale, num_steps=4) for scale in (2.0, 1.0, 0.5))
    low_rank = omt.template(LowRankGaussian, rank=8)
    entries = [
        Entry("true map", None),
        Entry("linear", _peers.Linear()),
        Entry("OMT 3 × 15", papers(3, 15)),
        Entry("OMT 5 × 15", papers(5, 15)),
        Entry("OMT, K chosen", _peers.Mixtures(None)),
        Entry("mixture map by POT, K chosen", _peers.Mixtures(None, None)),
        Entry("OMT, diagonal, K chosen", _peers.Mixtures(None, family=DiagonalGaussian), dims=(64,)),
        Entry("OMT, low rank, K chosen", _peers.Mixtures(None, family=low_rank), dims=(64,), seeds=3),
        Entry("OMT, convex potential", _peers.Potential()),
        Entry("OMT, convex potential, n = 20,000", _peers.Potential(), 20_000, seeds=3),
        Entry("entropic, default", _peers.Entropic()),
        Entry("entropic, tuned", _peers.BestOf(entropic)),
        Entry("progressive, tuned", _peers.BestOf(progressive)),
        Entry("neural dual", _peers.Neural(), seeds=3),
        Entry("OMT, same K, n = 16,384", _peers.Mixtures(None), LARGE),
        Entry("entropic, default, n = 8,192", _peers.Entropic(), 8192, seeds=1, dims=(2, 16)),
    ]
    return [entry for entry in entries if entry.label != "neural dual" or _peers.has_neural()]


def quick() -> list[Entry]:
    small = ("num_members", 1), ("num_target_members", 0), ("width", 16), ("num_steps", 200)
    return [
        Entry("true map", None),
        Entry("linear", _peers.Linear(), 256),
        Entry("OMT 3 × 5", papers(3, 5), 256),
        Entry("OMT, convex potential", _peers.Potential(small), 256),
        Entry("entropic, default", _peers.Entropic(), 256),
    ]


# -- one method on one draw of the data -------------------------------------------------------------------------------


def ways(found: Any, seed: int) -> Iterator[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]:
    """The ways to use what was found, forward and backward: its maps, and draws from its conditional laws."""
    yield "", found.push_forward, found.pull_back
    if hasattr(found, "sample"):
        keys = jax.random.split(jax.random.key(seed))
        yield ", drawn", lambda x: found.sample(keys[0], x), lambda y: found.reverse().sample(keys[1], y)


def quality(points: Any, images: Any, truth: Any, fresh: Any) -> dict[str, float]:
    """Error, direction, law and cost of a map."""
    some = len(fresh)
    # A tenth of the total variance of the law that the images should have.
    epsilon = 0.1 * float(fresh.var(axis=0).sum())
    return {
        "l2_uvp": float(omt.metrics.l2_uvp(images, truth)),
        "cosine": float(omt.metrics.cosine_similarity(points, images, truth)),
        "divergence": float(omt.metrics.sinkhorn_divergence(images[:some], fresh, epsilon)),
        "displacement": float(((points - images) ** 2).sum(axis=1).mean()),
    }


@dataclasses.dataclass(frozen=True)
class Data:
    """Training points of a seed and those of the source under the true map, test points, and fresh points."""

    x: np.ndarray
    y: np.ndarray
    images_of_x: np.ndarray
    test: np.ndarray
    truth: np.ndarray
    fresh_x: np.ndarray
    fresh_y: np.ndarray


def draw(problem: W2Problem, seed: int, num_points: int, num_test: int, num_law: int) -> Data:
    """Training points up to ``LARGE`` are the first of one draw; the test points are the same for all seeds."""
    rng = np.random.default_rng([problem.dim, seed])
    x, y = (
        law(rng, max(num_points, LARGE))[:num_points].astype(np.float32) for law in (problem.source, problem.target)
    )
    rng = np.random.default_rng([problem.dim, SEED_OF_TESTS])
    test = problem.source(rng, num_test)
    fresh = (law(rng, num_law).astype(np.float32) for law in (problem.source, problem.target))
    exact = problem.transport(x), test, problem.transport(test)
    return Data(*(points.astype(np.float32) for points in (x, y, *exact)), *fresh)


def run_cell(entry: Entry, problem: W2Problem, seed: int, sizes: tuple[int, int]) -> dict[str, Any]:
    """Choose, fit, and measure every way to use the result in both directions."""
    data = draw(problem, seed, entry.num_points, *sizes)
    if entry.method is None:
        rows = {"": both_ways(data, data.truth, data.test)}
        return {"chosen": "", "method": "", "unconverged": [0, 0], "rows": rows, "fit seconds": 0.0}
    tune_key, fit_key = jax.random.split(jax.random.key(seed))
    method = entry.method
    if hasattr(method, "tuned"):
        method = method.tuned(tune_key, data.x[:SMALL], data.y[:SMALL])
    begin = time.perf_counter()
    found = jax.block_until_ready(method(fit_key, data.x, data.y))
    elapsed = time.perf_counter() - begin
    rows = {
        suffix: both_ways(data, np.asarray(forward(data.test), np.float32), np.asarray(back(data.truth), np.float32))
        for suffix, forward, back in ways(found, seed)
    }
    if hasattr(found, "cost"):
        rows[""]["plan_cost"] = float(found.cost)
    stopped = getattr(found, "converged", True)
    stopped = stopped if isinstance(stopped, list) else [bool(stopped)]
    head = {"chosen": chosen(method), "method": pickle.dumps(method).hex(), "fit seconds": elapsed}
    return head | {"unconverged": [stopped.count(False), len(stopped)], "rows": rows}


def both_ways(data: Data, images: np.ndarray, back: np.ndarray) -> dict[str, float]:
    """`quality` of the map, and of the map back, with names of its own."""
    backward = quality(data.truth, back, data.test, data.fresh_x)
    forward = quality(data.test, images, data.truth, data.fresh_y)
    return forward | {f"{name}_back": value for name, value in backward.items()}


def chosen(method: Any) -> str:
    """The parameters of a method that were chosen, in words."""
    if isinstance(method, _peers.Mixtures):
        return f"{method.num_components[0]} × {method.num_components[1]}"
    return f"{method.scale:g} ε" if isinstance(method, _peers.Entropic) else ""


def slug(label: str) -> str:
    """A label as part of a file's name."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in label)


def cached(name: str, settings: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was computed, or kept by an earlier run; a failure is its message, and is tried again by the next run."""
    try:
        return kept(f"w2_{name}", settings, compute)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


# -- time and memory, in a process of its own -------------------------------------------------------------------------

ALONE = "--alone"


def alone(directory: str, dim: str, num_points: str, num_test: str, method: str) -> None:
    """Print the costs of one method in this process."""
    data = draw(W2Problem(Path(directory), int(dim)), 0, int(num_points), int(num_test), 1)
    rule, kept, before = pickle.loads(bytes.fromhex(method)), [], resident_memory()
    fit = seconds(lambda: kept.append(rule(jax.random.key(0), data.x, data.y)), repeats=1)
    after_fit = peak_memory() - before
    # The first map back of progressive transport solves it.
    maps = [seconds(lambda f=f, p=p: f(kept[-1], p), 1) for f, p in zip(MAPS, (data.test, data.truth), strict=True)]
    numbers = [*fit, maps[0][1], *maps[1], after_fit, peak_memory() - before]
    print(json.dumps(numbers))


MAPS = (_peers.images, _peers.back_images)


def cost_rows(cells: list[dict[str, Any]], directory: Path, num_test: int) -> list[list[Any]]:
    """Seconds and MiB of every method as the first seed chose it."""
    rows = []
    for cell in tqdm(cells, desc="alone", disable=None):
        arguments = str(directory), str(cell["dim"]), str(cell["n"]), str(num_test), cell["method"]
        found = cached(
            f"alone_{slug(cell['label'])}_d{cell['dim']}",
            (cell["method"], cell["n"], num_test),
            lambda a=arguments: {
                "numbers": json.loads(in_own_process("benchmarks.experiments.w2", ALONE, *a).splitlines()[-1])
            },
        )
        numbers = [float(f"{value:.2g}") for value in found["numbers"][:5]] + [round(v) for v in found["numbers"][5:]]
        rows.append([cell["dim"], cell["label"], cell["chosen"], f"{cell['n']:,}", *numbers])
    return rows


# -- all of it --------------------------------------------------------------------------------------------------------


def run_cells(options: argparse.Namespace, dims: list[int], sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Every method in every dimension, one seed after the other."""
    entries, most = (quick(), 1) if options.quick else (full(), 5)
    seeds = min(options.seeds or most, most)
    problems = {dim: W2Problem(options.data, dim) for dim in dims}
    jobs = [
        (seed, dim, entry)
        for seed in range(seeds)
        for dim in dims
        for entry in entries
        if seed < entry.seeds and dim in (entry.dims or dims)
    ]
    cells, progress = [], tqdm(jobs, disable=None)
    for seed, dim, entry in progress:
        progress.set_postfix_str(f"seed {seed}, d = {dim}, {entry.label}")
        head = {"label": entry.label, "n": entry.num_points, "dim": dim, "seed": seed}
        name = f"{slug(entry.label)}_d{dim}_seed{seed}"
        cells.append(head | cached(name, (entry, sizes), lambda j=(entry, problems[dim], seed): run_cell(*j, sizes)))
        if "error" in cells[-1]:
            print(f"FAILED seed {seed}, d = {dim}, {entry.label}: {cells[-1]['error']}")
    # Methods in the order of the list, whatever dimension they run in.
    order = [entry.label for entry in entries]
    return sorted(cells, key=lambda cell: order.index(cell["label"]))


def sources_of_error(options: argparse.Namespace, results: Results, dims: list[int], num_test: int) -> None:
    """The tables over numbers of components and of training points."""
    numbers, size, sizes = (3, 8, 15, 30, 60), LARGE, (SMALL, LARGE, 4 * LARGE)
    if options.quick:
        numbers, size, sizes = (2,), 256, (256,)
    errors, lost, growth = [], [], []
    for dim in tqdm(dims, desc="components", disable=None):
        problem = W2Problem(options.data, dim)
        data = [draw(problem, 0, num, num_test, 1) for num in (size, *sizes)]
        settings = numbers, size, sizes, num_test
        grid = cached(f"grid_d{dim}", settings, lambda d=data: _w2_components.over_components(d[0], numbers))
        for i, number in enumerate(numbers):
            errors.append([dim, number, *grid["plan"][i], grid["blend"][i]])
            lost.append([dim, number, *grid["lost"][i]])
        for number in numbers[:4]:
            name = f"points_d{dim}_K{number}"
            found = cached(name, settings, lambda d=data, k=number: _w2_components.over_points(d[1:], k))
            growth.append([dim, f"{number} × {number}", *found["plan"]])
    header = ["d", "K0", *(f"K1 = {number}" for number in numbers)]
    results.table("components", [*header, "best blend of K0 affine maps"], errors)
    results.table("lost", header, lost)
    results.table("points", ["d", "K0 × K1", *(f"n = {size:,}" for size in sizes)], growth)


def experiment(options: argparse.Namespace, results: Results) -> None:
    dims, few = ([2], [2]) if options.quick else ([2, 8, 16, 64], [2, 16])
    sizes = (500, 200) if options.quick else (10_000, 2000)
    cells = run_cells(options, dims, sizes)
    report(results, cells, dims)
    results.figure("", picture(cells, dims))
    sources_of_error(options, results, few, sizes[0])
    if options.quick:
        return
    firsts = [cell for cell in cells if cell["seed"] == 0 and cell["dim"] in few and cell.get("method")]
    header = ["d", "method", "chosen", "n", "first fit, s", "later fit, s", "map of 10,000 points, s"]
    header += ["first map back, s", "later, s", "peak of the fit, MiB", "with maps, MiB"]
    results.table("times", header, cost_rows(firsts, options.data, sizes[0]))


if __name__ == "__main__":
    if ALONE in sys.argv:
        alone(*sys.argv[2:])
    else:
        run(__doc__, __spec__, experiment)
