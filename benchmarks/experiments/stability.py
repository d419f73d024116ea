"""Stability of maps under perturbed source data: this library beside its peers, against a known optimal map."""

from benchmarks.harness.measure import report  # isort: skip  (sets the thread count first)

import argparse
import csv as csv_module
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import data_directory
from benchmarks.harness.w2bench import W2Problem
from omt_expfam.diagnostics import Dropout, GaussianNoise

LARGE = 16_384


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run: sizes, perturbations and methods; each method by its short name with its label."""

    num_points: int
    num_test: int
    perturbations: tuple[Any, ...]
    methods: dict[str, tuple[str, Any]]

    def size(self, name: str) -> int:
        """Training points of a method."""
        return LARGE if name.endswith("-large") else self.num_points


def full_study() -> Study:
    entropic = tuple(_peers.Entropic(scale) for scale in (2.0, 1.0, 0.5, 0.2))
    progressive = tuple(_peers.Entropic(scale, num_steps=4) for scale in (2.0, 1.0, 0.5))
    methods = {
        "linear": ("linear", _peers.Linear()),
        "omt-3-15": ("OMT 3x15", _peers.Mixtures((3, 15))),
        "omt": ("OMT tuned K", _peers.Mixtures(None)),
        "omt-blurred": ("OMT tuned K eps 0.1", _peers.Mixtures(None, 0.1)),
        "gmm-3-15": ("GMM-OT 3x15", _peers.Mixtures((3, 15), None)),
        "gmm": ("GMM-OT tuned K", _peers.Mixtures(None, None)),
        "entropic": ("entropic default", _peers.Entropic()),
        "entropic-tuned": ("entropic tuned", _peers.BestOf(entropic)),
        "progressive": ("progressive tuned", _peers.BestOf(progressive)),
        "neural": ("neural dual", _peers.Neural()),
        "omt-large": (f"OMT tuned K n {LARGE}", _peers.Mixtures(None)),
    }
    noise = tuple(GaussianNoise(sigma) for sigma in (0.1, 0.25, 0.5, 1.0))
    return Study(2048, 10_000, (*noise, Dropout(0.1), Dropout(0.25)), methods)


def quick_study() -> Study:
    methods = {
        "linear": ("linear", _peers.Linear()),
        "omt": ("OMT 4x4", _peers.Mixtures((4, 4))),
        "gmm": ("GMM-OT 4x4", _peers.Mixtures((4, 4), None)),
        "entropic-tuned": ("entropic tuned", _peers.BestOf((_peers.Entropic(2.0), _peers.Entropic()))),
        "progressive": ("progressive", _peers.Entropic(num_steps=2)),
    }
    return Study(200, 500, (GaussianNoise(0.5), Dropout(0.25)), methods)


# -- one method on one draw of the data -------------------------------------------------------------------------------


def coupling_change(first: np.ndarray, second: np.ndarray) -> float:
    """L1 distance of two coupling matrices, the source components of one relabeled so that it is smallest."""
    gaps = np.abs(first[:, None] - second[None]).sum(axis=2)
    return float(gaps[scipy.optimize.linear_sum_assignment(gaps)].sum())


def run_cell(study: Study, problem: W2Problem, name: str, seed: int) -> dict[str, Any]:
    """Fit on clean and on perturbed source points, and measure on clean test points."""
    num = study.size(name)
    # Everybody's points are the first of the same draw, and so are their perturbations.
    rng = np.random.default_rng([problem.dim, seed])
    x, y = (jnp.asarray(law(rng, LARGE), jnp.float32) for law in (problem.source, problem.target))
    test = problem.source(np.random.default_rng([problem.dim, 1_000_000]), study.num_test)
    truth = np.asarray(problem.transport(test), np.float32)
    test = test.astype(np.float32)
    tune_key, fit_key, *keys = jax.random.split(jax.random.key(seed), 2 + len(study.perturbations))
    noisy = [p(key, x, None)[:num] for p, key in zip(study.perturbations, keys, strict=True)]
    x, y = x[:num], y[:num]

    method, begin = study.methods[name][1], time.perf_counter()
    if hasattr(method, "tuned"):
        method = method.tuned(tune_key, x, y)
    cell = {"method": repr(method), "tune_seconds": time.perf_counter() - begin, "rows": []}
    clean = None
    for perturbation, points in zip((None, *study.perturbations), (x, *noisy), strict=True):
        begin = time.perf_counter()
        # The same key, so that only the data differ.
        found = method(jax.random.clone(fit_key), points, y)
        fitted = time.perf_counter()
        images = _peers.images(found, test)
        mapped = time.perf_counter()
        weights = np.asarray(found.weights, np.float64) if hasattr(found, "weights") else None
        if clean is None:
            clean = images, weights
        row = {
            "perturbation": perturbation.name if perturbation else "none",
            "size": perturbation.size if perturbation else 0.0,
            "mse": float(omt.metrics.mean_squared_error(images, truth)),
            "l2_uvp": float(omt.metrics.l2_uvp(images, truth)),
            "displacement": float(np.linalg.norm(images - clean[0], axis=1).mean()),
            "coupling_change": coupling_change(clean[1], weights) if weights is not None else None,
            "fit_seconds": fitted - begin,
            "map_seconds": mapped - fitted,
        }
        cell["rows"].append(row)
    return cell


def cell_path(study: Study, dim: int, name: str, seed: int, cache: Path) -> Path:
    """Where the cache keeps a cell; another method, size or perturbation has another file."""
    settings = repr((study.size(name), study.num_test, study.perturbations, study.methods[name][1]))
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return cache / f"{name}_d{dim}_seed{seed}_{digest}.json"


def cached_cell(
    study: Study, problem: W2Problem, name: str, seed: int, cache: Path | None, begun: set[tuple[int, str]]
) -> dict[str, Any]:
    """The cell from the cache if it was run with the same settings, and else from a run that the cache then keeps."""
    path = cell_path(study, problem.dim, name, seed, cache) if cache is not None else None
    if path is not None and path.is_file():
        return json.loads(path.read_text())
    head = {"dim": problem.dim, "name": name, "seed": seed}
    try:
        cell = head | run_cell(study, problem, name, seed)
    except (ValueError, RuntimeError, FloatingPointError) as error:
        return head | {"method": name, "rows": [], "error": f"{type(error).__name__}: {error}"}
    # Its first fit compiled.
    cell["first"] = (problem.dim, name) not in begun
    begun.add((problem.dim, name))
    if path is not None:
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(cell, indent=1))
        part.replace(path)
    return cell


# -- tables -----------------------------------------------------------------------------------------------------------


def per_seed(study: Study, cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per cell and perturbation, with the relative change of the error."""
    rows = []
    for cell in cells:
        for row in cell["rows"]:
            clean = cell["rows"][0]["mse"]
            head = {"dim": cell["dim"], "name": cell["name"], "n": study.size(cell["name"]), "seed": cell["seed"]}
            rows.append(head | row | {"change": (row["mse"] - clean) / clean})
    return rows


def summary(study: Study, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and standard deviations over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dim"], row["name"], row["perturbation"], row["size"]), []).append(row)
    found = []
    for (dim, name, perturbation, size), members in groups.items():
        line = {"dim": dim, "name": name, "label": study.methods[name][0], "n": study.size(name)}
        line |= {"perturbation": perturbation, "size": size, "seeds": len(members)}
        for field in ("change", "displacement", "mse", "l2_uvp", "coupling_change"):
            values = [row[field] for row in members if row[field] is not None]
            line[field] = float(np.mean(values)) if values else None
            line[f"{field}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found.append(line)
    names, kinds = list(study.methods), ["none", "GaussianNoise", "Dropout"]

    def order(line: dict[str, Any]) -> tuple[Any, ...]:
        return line["dim"], kinds.index(line["perturbation"]), line["size"], names.index(line["name"])

    return sorted(found, key=order)


def times(study: Study, cells: list[dict[str, Any]]) -> list[list[Any]]:
    """Wall seconds of choosing parameters, of the first fit, of later fits, and of the map of all test points."""
    found = []
    for dim in sorted({cell["dim"] for cell in cells}):
        for name, (label, _) in study.methods.items():
            mine = [c for c in cells if (c["dim"], c["name"]) == (dim, name) and c["rows"]]
            if mine:
                firsts = [c["rows"][0]["fit_seconds"] for c in mine if c["first"]]
                later = [[row[k] for c in mine for row in c["rows"][2:]] for k in ("fit_seconds", "map_seconds")]
                tuning = [c["tune_seconds"] for c in mine if not c["first"]] or [mine[0]["tune_seconds"]]
                values = [
                    float(np.median(tuning)),
                    max(firsts, default=float("nan")),
                    *map(float, map(np.median, later)),
                ]
                found.append([dim, label, study.size(name), *values])
    return found


def draw(path: Path, study: Study, lines: list[dict[str, Any]]) -> None:
    """Relative change of the error, and the error itself, against the size of the perturbation."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    dims = sorted({line["dim"] for line in lines})
    names = [name for name in study.methods if any(line["name"] == name for line in lines)]
    # One color per kind of method, its variants by marker and line.
    kinds = {"omt": "#d7301f", "gmm": "#fe9929", "linear": "0.45", "entropic": "#2171b5", "progressive": "#41ae76"}
    kinds["neural"] = "#88419d"
    styles, seen = {}, {}
    for name in names:
        kind = name.split("-")[0]
        index = seen[kind] = seen.get(kind, -1) + 1
        styles[name] = {"color": kinds[kind], "marker": "osD^"[index], "ls": ("-", "--", ":", "-.")[index]}
    labels = {"GaussianNoise": "noise: standard deviation", "Dropout": "dropout: probability"}
    columns = [(dim, kind) for dim in dims for kind in labels]
    widths = [1 + len({line["size"] for line in lines if line["perturbation"] == kind}) for _, kind in columns]
    size = 8.5 * len(dims), 9.5
    figure, axes = plt.subplots(2, len(columns), figsize=size, layout="constrained", width_ratios=widths, squeeze=False)
    for row in axes:
        for left, right in zip(row[::2], row[1::2], strict=True):
            right.sharey(left)
    for column, (dim, kind) in enumerate(columns):
        sizes = [0.0, *sorted({line["size"] for line in lines if line["perturbation"] == kind})]
        for row, (field, factor) in enumerate((("change", 100), ("l2_uvp", 1))):
            axis = axes[row, column]
            for index, name in enumerate(names):
                mine = [
                    v for v in lines if (v["dim"], v["name"]) == (dim, name) and v["perturbation"] in (kind, "none")
                ]
                mine = sorted(mine, key=lambda line: line["size"])[1 - row :]
                # Equally spaced sizes, and methods side by side, so that the bars do not cover each other.
                places = [sizes.index(line["size"]) + 0.05 * (index - (len(names) - 1) / 2) for line in mine]
                values = [factor * line[field] for line in mine]
                spread = [factor * (line[f"{field}_sd"] or 0) for line in mine]
                style = {"ms": 5, "lw": 1.3, "elinewidth": 0.7, **styles[name]}
                axis.errorbar(places, values, spread, label=study.methods[name][0], **style)
            shown = sizes[1 - row :]
            axis.set_xticks(range(1 - row, len(sizes)), [f"{size:g}" if size else "clean" for size in shown])
            axis.grid(axis="y", color="0.9")
            axis.set_axisbelow(True)
            axis.set_xlabel(labels[kind])
            if row:
                axis.set_yscale("log")
                ticks = [
                    t
                    for t in (0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 40, 60, 80)
                    if axis.get_ylim()[0] < t < axis.get_ylim()[1]
                ]
                axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
                axis.yaxis.set_minor_formatter(NullFormatter())
            else:
                axis.set_yscale("symlog", linthresh=10)
                axis.yaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0")
                axis.axhline(0, color="0.5", lw=0.8, zorder=1)
                axis.set_title(f"d = {dim}")
    axes[0, 0].set_ylabel("change of the MSE, relative to clean")
    axes[1, 0].set_ylabel("the error itself, L2-UVP in percent")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a check that the script runs")
    parser.add_argument("--csv", type=Path, help="also write the tables to this file and others beside it")
    parser.add_argument("--figure", type=Path, help="also draw a figure into this file")
    parser.add_argument("--data", type=Path, help="directory that holds w2bench (default: OMT_DATA)")
    parser.add_argument("--dims", type=int, nargs="+", help="dimensions (default: 2 16)")
    parser.add_argument("--seeds", type=int, help="draws of the data (default: 10; at most 3 of the neural method)")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="some of the methods: " + " ".join(full_study().methods)
    )
    parser.add_argument("--cache", type=Path, help="directory of finished cells; a later run goes on from there")
    parser.add_argument("--cached-only", action="store_true", help="run nothing, report what the cache holds")
    return parser.parse_args()


def main() -> None:
    options = parse()
    study = quick_study() if options.quick else full_study()
    dims = options.dims or ([2] if options.quick else [2, 16])
    seeds = options.seeds or (2 if options.quick else 10)
    directory = data_directory(options.data)
    missing = [str(path) for path in (W2Problem.path(directory, dim) for dim in dims) if not path.is_file()]
    if missing:
        message = f"The Wasserstein-2 benchmark is not there ({', '.join(missing)}): pass --data or set OMT_DATA."
        if options.quick:
            print(message, "Nothing was run.")
            return
        sys.exit(message)
    names = options.methods or list(study.methods)
    unknown = sorted(set(names) - set(study.methods))
    if unknown:
        sys.exit(f"unknown methods: {', '.join(unknown)}; there are {', '.join(study.methods)}.")
    if options.cached_only and options.cache is None:
        sys.exit("--cached-only needs --cache.")
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    able = _peers.has_neural()
    if "neural" in names and not able:
        print("The neural method needs flax and diffrax, which are not installed: it is left out unless cached.")

    def wanted(dim: int, seed: int, name: str) -> bool:
        if name == "neural" and seed >= 3:
            return False
        kept = options.cache is not None and cell_path(study, dim, name, seed, options.cache).is_file()
        return kept or not (options.cached_only or (name == "neural" and not able))

    jobs = [(dim, seed, name) for seed in range(seeds) for dim in dims for name in names if wanted(dim, seed, name)]
    problems = {dim: W2Problem(directory, dim) for dim in dims}
    cells, begun = [], set()
    progress = tqdm(jobs, disable=None)
    for dim, seed, name in progress:
        progress.set_postfix_str(f"d = {dim}, seed {seed}, {name}")
        cells.append(cached_cell(study, problems[dim], name, seed, options.cache, begun))
    for cell in cells:
        if "error" in cell:
            print(f"FAILED d = {cell['dim']}, {cell['name']}, seed {cell['seed']}: {cell['error']}")
    write(study, [cell for cell in cells if cell["rows"]], options.csv, options.figure)


def write(study: Study, cells: list[dict[str, Any]], csv: Path | None, figure: Path | None) -> None:
    """The tables and the figure."""
    if not cells:
        print("Nothing is there to report.")
        return

    def path(part: str) -> Path | None:
        return csv.with_name(f"{csv.stem}{part}.csv") if csv is not None else None

    def table(fields: Sequence[str], lines: list[dict[str, Any]]) -> list[list[Any]]:
        return [["" if line[field] is None else line[field] for field in fields] for line in lines]

    rows = per_seed(study, cells)
    lines = summary(study, rows)
    measured = ["change", "displacement", "mse", "l2_uvp", "coupling_change"]
    fields = ["dim", "label", "n", "perturbation", "size", "seeds", *(f for m in measured for f in (m, f"{m}_sd"))]
    report(fields, table(fields, lines), path(""))
    print("\nWall seconds; of later fits and maps the median")
    header = ["dim", "label", "n", "choosing s", "first fit s", "later fit s", "map of all test points s"]
    report(header, times(study, cells), path("_times"))
    if csv is not None:
        fields = ["dim", "name", "n", "seed", "perturbation", "size", *measured[1:]]
        with open(str(path("_seeds")), "w", newline="") as stream:
            writer = csv_module.writer(stream, lineterminator="\n")
            writer.writerow(fields)
            writer.writerows([f"{v:.5g}" if isinstance(v, float) else v for v in row] for row in table(fields, rows))
    if figure is not None:
        draw(figure, study, lines)
    chosen = sorted({(c["dim"], study.methods[c["name"]][0], c["method"]) for c in cells})
    print("\nAs run, with the chosen parameters")
    for dim, label, method in chosen:
        print(f"d = {dim}, {label}: {method}")


if __name__ == "__main__":
    main()
