"""Two sections of a hypothalamus: predicting where genes are expressed, with 5 to 1000 components a side."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import concurrent.futures
import dataclasses
import itertools
import multiprocessing
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import ot
import scipy.spatial
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import merfish, Section
from benchmarks.harness.measure import peak_memory, resident_memory
from omt_expfam.families import Gaussian

# Micrometers; the corner of the grid is that of the data's own description of the nearest-cell baseline.
BIN, CORNER, NUM_BINS = 60.0, np.array([-900.0, -930.0]), 31
EPSILON = 100.0
SHOWN = ("Gad1", "Slc17a6", "Aqp4", "Mbp", "Cck", "Nts", "Slc17a7", "Penk")
DRAWN, DRAWN_SIZES = SHOWN[:5], (5, 50, 250, 1000)
CARRIED = {"means": "OMT, means", "draws": "OMT, draws", "averages": "OMT, averages"}
REFERENCE_COLORS = ("0.5", "k", "C4", "C5", "C6", "C8", "C9")
WAYS = CARRIED | {"unmoved": "averages, without transport"}


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes: components of either side, repetitions, cells per section, and cells of the entropic map."""

    sizes: tuple[int, ...] = (5, 10, 25, 50, 100, 250, 500, 1000)
    seeds: int = 2
    num_cells: int | None = None
    num_samples: int = 2048
    scales: tuple[float, ...] = (1.0, 0.1, 0.01)
    neighbors: tuple[int, ...] = (1, 20, 100)
    epsilon_size: int = 250
    epsilons: tuple[float, ...] = (0.0, 1e2, 1e3, 1e4, 1e5)


def sections(directory: Path, study: Study) -> tuple[Section, Section, list[str]]:
    """Both sections, or their first cells in a random order."""
    source, target, genes = merfish(directory)
    order = np.random.default_rng(0).permutation(min(len(source.places), len(target.places)))[: study.num_cells]
    if study.num_cells is not None:
        source, target = (Section(*(field[order] for field in section)) for section in (source, target))
    return source, target, genes


# -- maps of expression -----------------------------------------------------------------------------------------------


def binned(places: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values of the cells in every bin, shape ``[bins, genes]``, and their number.

    One more bin on every side of the grid takes what lies outside.
    """
    index = np.clip(np.floor((np.asarray(places, np.float64) - CORNER) / BIN).astype(int), -1, NUM_BINS) + 1
    flat, num = index[:, 0] * (NUM_BINS + 2) + index[:, 1], (NUM_BINS + 2) ** 2
    sums = np.stack([np.bincount(flat, column, num) for column in np.asarray(values, np.float64).T], axis=1)
    return sums, np.bincount(flat, minlength=num)


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine between the columns of two arrays; zero where a column is."""
    norms = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    return (first * second).sum(axis=0) / np.where(norms > 0, norms, 1)


def scores(places: Any, values: Any, target: Section) -> tuple[np.ndarray, np.ndarray]:
    """How well cells with expression, carried to places, reproduce the target's maps, for every gene.

    Returns:
        The cosine of the sums in the bins, and the correlation of the means in the bins with at least three target
        cells. Where no cell is carried to a bin, its mean is that of all carried cells.
    """
    (mine, count), (truth, truth_count) = binned(places, values), binned(target.places, target.expression)
    used = truth_count >= 3
    means = np.where(count[:, None] > 0, mine / np.maximum(count, 1)[:, None], np.mean(values, axis=0))[used]
    truth_means = (truth / np.maximum(truth_count, 1)[:, None])[used]
    return cosine(mine, truth), cosine(means - means.mean(axis=0), truth_means - truth_means.mean(axis=0))


# -- methods: where cells are carried, and with what expression -------------------------------------------------------


def of_neighbors(source: Section, target: Section, number: int) -> np.ndarray:
    """The mean expression of the nearest source cells, at the target's places."""
    found = scipy.spatial.KDTree(source.places).query(target.places, k=number)[1]
    return source.expression[found.reshape(len(target.places), number)].mean(axis=1)


def of_components(plan: omt.TransportPlan, source: Section, target: Section) -> tuple[np.ndarray, np.ndarray]:
    """Mean expression of the source components that a target cell comes from by the plan, and by its place alone."""
    shares = np.asarray(plan.source.responsibilities(source.places), np.float64)
    means = shares.T @ source.expression / np.maximum(shares.sum(axis=0), 1e-30)[:, None]
    origins = plan.reverse().target_probabilities(target.places), plan.source.responsibilities(target.places)
    moved, unmoved = (np.asarray(probabilities, np.float64) @ means for probabilities in origins)
    return moved, unmoved


def exact(source: Section, target: Section) -> np.ndarray:
    """Barycentric images of the source cells under the optimal plan between cells."""
    plan = ot.emd([], [], ot.dist(source.places, target.places), numItermax=10_000_000)
    return plan @ target.places / plan.sum(axis=1, keepdims=True)


def references(source: Section, target: Section, study: Study) -> tuple[dict[str, Any], str]:
    """What does not depend on components, as places and expression by name, and how the entropic map was chosen."""
    key, rng = jax.random.key(0), np.random.default_rng(0)
    found = {
        "cells where they are": (source.places, source.expression),
        "random cells at the target's places": (
            target.places,
            source.expression[rng.integers(0, len(source.places), len(target.places))],
        ),
    }
    for number in study.neighbors:
        name = "nearest cell" if number == 1 else f"mean of {number} nearest cells"
        found[name] = target.places, of_neighbors(source, target, number)
    found["plan between cells (POT)"] = exact(source, target), source.expression
    candidates = tuple(_peers.Entropic(scale) for scale in study.scales)
    few = [rng.choice(s.places, min(study.num_samples, len(s.places)), False) for s in (source, target)]
    method = _peers.BestOf(candidates).tuned(key, *few)
    entropic = method(key, *few)
    found["entropic map (OTT-JAX)"] = _peers.images(entropic, source.places), source.expression
    return found, f"{method!r}, converged: {all(entropic.converged)}"


def transported(
    source: Section, target: Section, number: int, seed: int, epsilon: float = EPSILON
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Places and expression by way of carrying with mixtures of one size; and times, evidence and the plan."""
    keys, clock = jax.random.split(jax.random.key(seed), 3), [time.perf_counter()]
    fits = [
        omt.fit(k, s.places, Gaussian, number, progress=False) for k, s in zip(keys, (source, target), strict=False)
    ]
    clock.append(time.perf_counter())
    plan = omt.transport(
        *(f.mixture for f in fits), epsilon_components=EPSILON, epsilon_weights=epsilon, progress=False
    )
    jax.block_until_ready(plan.weights)
    clock.append(time.perf_counter())
    means = np.asarray(plan.push_forward(source.places))
    clock.append(time.perf_counter())
    moved, unmoved = of_components(plan, source, target)
    found = {
        "means": (means, source.expression),
        "draws": (np.asarray(plan.sample(keys[2], source.places)), source.expression),
        "averages": (target.places, moved),
        "unmoved": (target.places, unmoved),
    }
    evidence = dict(zip(("fit", "solve", "map"), np.diff(clock), strict=True))
    evidence |= {"steps": max(int(f.num_steps) for f in fits), "cost": float(plan.cost) ** 0.5}
    evidence["light"] = sum(int((np.asarray(f.effective_sizes) < 1).sum()) for f in fits)
    components = fits[1].mixture.components
    return found, evidence | {"ellipses": (np.asarray(components.mean()), np.asarray(components.covariance()))}


# -- runs -------------------------------------------------------------------------------------------------------------


def run_size(directory: Path, study: Study, number: int) -> list[dict[str, Any]]:
    """All seeds of one number of components: scores, evidence, and what the pictures need of the first seed."""
    source, target, _ = sections(directory, study)
    before, cells = resident_memory(), []
    for seed in range(study.seeds):
        found, evidence = transported(source, target, number, seed)
        cell = {"size": number, "seed": seed, "scores": {way: scores(*pair, target) for way, pair in found.items()}}
        cells.append(cell | evidence | {"peak": peak_memory() - before, "found": found if seed == 0 else None})
    return cells


def run_epsilons(directory: Path, study: Study) -> list[dict[str, Any]]:
    """Scores of one size by the regularization of the weights."""
    source, target, _ = sections(directory, study)
    cells = []
    for epsilon, seed in itertools.product(study.epsilons, range(study.seeds)):
        found, _ = transported(source, target, study.epsilon_size, seed, epsilon)
        cells.append({"epsilon": epsilon, "scores": {way: scores(*pair, target) for way, pair in found.items()}})
    return cells


def in_fresh_process(function: Any, *arguments: Any) -> Any:
    """The result of a function run in a process of its own, for its peak memory and first calls."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# -- tables and pictures ----------------------------------------------------------------------------------------------


def by_size(cells: list[dict[str, Any]], field: str) -> list[list[str]]:
    """Means over all genes of both scores of every way of carrying, by size or another field."""
    rows = []
    for value in dict.fromkeys(cell[field] for cell in cells):
        mine = [cell["scores"] for cell in cells if cell[field] == value]
        means = [mean_and_deviation([np.mean(found[way][i]) for found in mine], ".3f") for i in (0, 1) for way in WAYS]
        rows.append([f"{value:g}", *means])
    return rows


def gene_table(fixed: dict[str, Any], cells: list[dict[str, Any]], genes: list[str]) -> tuple[list[str], list[Any]]:
    """Cosine of chosen genes, by method; mixtures of the largest size."""
    largest = [cell for cell in cells if cell["size"] == cells[-1]["size"]]
    rows = []
    for gene in SHOWN:
        index = genes.index(gene)
        mine = [mean_and_deviation([cell["scores"][way][0][index] for cell in largest], ".2f") for way in CARRIED]
        rows.append([gene, *(f"{pair[0][index]:.2f}" for pair in fixed.values()), *mine])
    return ["gene", *fixed, *(f"{label}, K = {cells[-1]['size']}" for label in CARRIED.values())], rows


def cost_table(cells: list[dict[str, Any]]) -> list[list[Any]]:
    """Times and memory of every size; the first seed, which compiles, is left out of the times."""
    rows = []
    for size in dict.fromkeys(cell["size"] for cell in cells):
        mine = [cell for cell in cells if cell["size"] == size]
        later = mine[1:] or mine
        warm = [f"{np.mean([cell[what] for cell in later]):.2f}" for what in ("fit", "solve", "map")]
        evidence = [mean_and_deviation([cell[what] for cell in mine], ".0f") for what in ("steps", "light", "cost")]
        rows.append([size, size**2, *warm, f"{mine[-1]['peak']:.0f}", *evidence])
    return rows


COST_HEADER = ["K", "pairs", "both fits, s", "solve, s", "map, s", "peak memory, MiB", "EM steps"]
COST_HEADER += ["components below one point", "root of the cost, µm"]


def draw_genes(found: dict[str, Any], source: Section, target: Section, genes: list[str]) -> Any:
    """Binned expression of some genes: source, target, and predictions."""
    import matplotlib.pyplot as plt

    columns = {
        "source section": (source.places, source.expression),
        "target section": (target.places, target.expression),
    }
    columns |= found
    size = (2.05 * len(columns), 2.1 * len(DRAWN))
    figure, axes = plt.subplots(len(DRAWN), len(columns), figsize=size, layout="constrained")
    index = [genes.index(gene) for gene in DRAWN]
    maps = {name: binned(places, values[:, index])[0] for name, (places, values) in columns.items()}
    for (row, column), axis in np.ndenumerate(axes):
        top, name = maps["target section"][:, row].max(), list(columns)[column]
        image = maps[name][:, row].reshape(NUM_BINS + 2, -1)[1:-1, 1:-1].T
        axis.imshow(image, origin="lower", cmap="magma", vmin=0, vmax=top)
        axis.set(xticks=[], yticks=[])
        if row == 0:
            axis.set_title(name, fontsize=11)
        if column == 0:
            axis.set_ylabel(DRAWN[row], fontsize=12)
    return figure


def ellipse(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Points two standard deviations from a mean."""
    angle = np.linspace(0, 2 * np.pi, 40)
    return mean + 2 * np.c_[np.cos(angle), np.sin(angle)] @ np.linalg.cholesky(covariance).T


def draw_sizes(cells: list[dict[str, Any]], target: Section) -> Any:
    """The target section with its components, and carried cells, by number of components."""
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    chosen = [cell for cell in cells if cell["found"] and cell["size"] in DRAWN_SIZES] or cells[:1]
    figure, axes = plt.subplots(
        3, len(chosen), figsize=(3.2 * len(chosen), 9.6), layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    names = "target, components", "carried, means", "carried, draws"
    for column, cell in enumerate(chosen):
        shown = target.places, cell["found"]["means"][0], cell["found"]["draws"][0]
        for axis, points, color in zip(axes[:, column], shown, ("#2171b5", "#d7301f", "#d7301f"), strict=True):
            axis.scatter(*points.T, s=1.2, lw=0, color=color)
            axis.set(aspect="equal", xticks=[], yticks=[], xlim=(-1000, 1000), ylim=(-1030, 970))
        outlines = LineCollection([ellipse(*each) for each in zip(*cell["ellipses"], strict=True)], colors="k", lw=0.5)
        axes[0, column].add_collection(outlines)
        axes[0, column].set_title(f"K = {cell['size']}", fontsize=12)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=12)
    return figure


def draw_scores(fixed: dict[str, Any], cells: list[dict[str, Any]]) -> Any:
    """Both scores against the number of components, beside what does not depend on it."""
    import matplotlib.pyplot as plt

    sizes = list(dict.fromkeys(cell["size"] for cell in cells))
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    labels = "mean cosine of binned sums", "mean correlation of bin means"
    for which, (axis, label) in enumerate(zip(axes, labels, strict=True)):
        for way, name in WAYS.items():
            values = np.array([[np.mean(c["scores"][way][which]) for c in cells if c["size"] == s] for s in sizes])
            center, width = values.mean(axis=1), values.std(axis=1, ddof=min(1, values.shape[1] - 1))
            axis.errorbar(sizes, center, width, label=name, marker="o", ms=4, capsize=2)
        for number, (name, pair) in enumerate(fixed.items()):
            axis.axhline(
                np.mean(pair[which]), color=REFERENCE_COLORS[number], ls=("--", ":", "-.")[number % 3], label=name
            )
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.set(xlabel="components on either side", ylabel=label)
        axis.grid(axis="y", color="0.92")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    small = Study((8,), 1, 800, 200, (1.0,), (1, 20), 8, (1e4,))
    study = small if options.quick else Study()
    study = dataclasses.replace(study, seeds=options.seeds or study.seeds)
    source, target, genes = sections(options.data, study)
    found, chosen = references(source, target, study)
    print(f"Entropic map as chosen: {chosen}", flush=True)
    fixed = {name: scores(*pair, target) for name, pair in found.items()}
    runs = tqdm(study.sizes, disable=None, desc="components", miniters=1)
    isolated = (lambda function, *arguments: function(*arguments)) if options.quick else in_fresh_process
    cells = [cell for size in runs for cell in isolated(run_size, options.data, study, size)]

    rows = [[name, *(f"{np.mean(score):.3f}" for score in pair)] for name, pair in fixed.items()]
    results.table("", ["without mixtures", "cosine of sums", "correlation of means"], rows)
    columns = [f"{score}: {way}" for score in ("cosine", "correlation") for way in WAYS.values()]
    results.table("sizes", ["K", *columns], by_size(cells, "size"))
    results.table("epsilons", ["epsilon", *columns], by_size(isolated(run_epsilons, options.data, study), "epsilon"))
    results.table("genes", *gene_table(fixed, cells, genes))
    results.table("costs", COST_HEADER, cost_table(cells))
    long = [["", "", name, *map(float, map(np.mean, pair))] for name, pair in fixed.items()]
    long += [[c["size"], c["seed"], w, *map(float, map(np.mean, p))] for c in cells for w, p in c["scores"].items()]
    results.table("seeds", ["K", "seed", "method", "cosine", "correlation"], long, shown=False)
    results.table("entropic", ["entropic map"], [[chosen]], shown=False)
    last = next(cell for cell in reversed(cells) if cell["found"])
    predicted = {"nearest cell": found["nearest cell"]} | {name: last["found"][way] for way, name in CARRIED.items()}
    results.figure("", draw_genes(predicted, source, target, genes))
    results.figure("sizes", draw_sizes(cells, target))
    results.figure("scores", draw_scores(fixed, cells))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
