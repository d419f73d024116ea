"""Tables and picture of the comparison on the Wasserstein-2 benchmark, from its cells: method, dimension, seed."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.harness.experiment import mean_and_deviation, Results

MEASURES = ("l2_uvp", "cosine", "divergence", "displacement")
Cells = Sequence[dict[str, Any]]


def gather(cells: Cells) -> dict[tuple[str, int], dict[str, list[float]]]:
    """Values over the seeds, of each label (a way to use a method) and dimension."""
    found: dict[tuple[str, int], dict[str, list[float]]] = {}
    for cell in cells:
        for suffix, row in cell.get("rows", {}).items():
            values = found.setdefault((cell["label"] + suffix, cell["dim"]), collections.defaultdict(list))
            for name, value in row.items():
                values[name].append(value)
    return found


def wide(cells: Cells, dims: Sequence[int], fields: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """One row per way to use a method, one column per field and dimension; mean ± standard deviation over the seeds."""
    found = gather(cells)
    failed = {(cell["label"], cell["dim"]) for cell in cells if "error" in cell}
    labels = list(dict.fromkeys([label for label, _ in found] + [label for label, _ in failed]))
    rows = []
    for label in labels:
        values = [found.get((label, dim), {}).get(field, []) for field in fields for dim in dims]
        texts = [
            "failed" if (label, dim) in failed and not v else mean_and_deviation(v, ".3g", ".2g")
            for v, dim in zip(values, dims * len(fields), strict=True)
        ]
        rows.append([label, str(max(len(v) for v in values)), *texts])
    return ["method", "seeds", *(f"{name}d = {dim}" for name in fields.values() for dim in dims)], rows


def choices(cells: Cells, dims: Sequence[int]) -> list[list[str]]:
    """What was chosen over the seeds, and how many solves stopped early, of methods with something to tell."""
    rows = []
    for label in dict.fromkeys(cell["label"] for cell in cells):
        mine = [cell for cell in cells if cell["label"] == label and "rows" in cell]
        texts = []
        for dim in dims:
            counts = collections.Counter(cell["chosen"] for cell in mine if cell["dim"] == dim)
            texts.append(", ".join(f"{name} ({count})" for name, count in sorted(counts.items()) if name))
        early, solves = (sum(cell["unconverged"][i] for cell in mine) for i in (0, 1))
        if any(texts) or early:
            rows.append([label, *texts, f"{early} of {solves}"])
    return rows


def report(results: Results, cells: Cells, dims: Sequence[int]) -> None:
    """The tables of quality."""
    both = {"{}": "", "{}_back": "back, "}
    for part, field in (("", "l2_uvp"), ("divergence", "divergence"), ("cosine", "cosine")):
        results.table(part, *wide(cells, dims, {key.format(field): name for key, name in both.items()}))
    costs = {"displacement": "of the map, ", "plan_cost": "of the plan, "}
    results.table("cost", *wide(cells, dims, costs))
    results.table("chosen", ["method", *(f"d = {dim}" for dim in dims), "solves not converged"], choices(cells, dims))
    fields = [name + back for name in MEASURES for back in ("", "_back")]
    rows = [
        [cell["dim"], cell["label"] + suffix, cell["n"], cell["seed"], *(row[f] for f in fields), row.get("plan_cost")]
        for cell in cells
        for suffix, row in cell.get("rows", {}).items()
    ]
    results.table("seeds", ["dim", "method", "n", "seed", *fields, "plan_cost"], rows, shown=False)


COLORS = {
    "true map": "black",
    "linear": "0.55",
    "OMT 3 × 15": "#fdae61",
    "OMT 3 × 15, drawn": "#fdae61",
    "OMT, K chosen": "#d7301f",
    "OMT, K chosen, drawn": "#d7301f",
    "OMT, same K, n = 16,384": "#7f0000",
    "OMT, convex potential": "#8c6d31",
    "OMT, convex potential, n = 20,000": "#543005",
    "entropic, tuned": "#2171b5",
    "progressive, tuned": "#41ae76",
    "neural dual": "#88419d",
}


def picture(cells: Cells, dims: Sequence[int]) -> Any:
    """Errors, and divergences over those of the true map, against the dimension, forward and backward."""
    import matplotlib.pyplot as plt

    found = gather(cells)
    names = {"l2_uvp": "L2-UVP, percent", "divergence": "Sinkhorn divergence over that of the true map"}
    figure, axes = plt.subplots(2, 2, figsize=(12, 10), layout="constrained", sharex=True, sharey="row")
    for row, (field, name) in zip(axes, names.items(), strict=True):
        for axis, suffix, title in zip(row, ("", "_back"), ("forward", "backward"), strict=True):
            for index, (label, color) in enumerate(COLORS.items()):
                here = [dim for dim in dims if (label, dim) in found]
                if not here or (field == "l2_uvp" and label == "true map"):
                    continue
                units = [np.mean(found["true map", dim][field + suffix]) for dim in here]
                scale = units if field == "divergence" else np.ones(len(here))
                values = [np.divide(found[label, dim][field + suffix], s) for dim, s in zip(here, scale, strict=True)]
                places = [dims.index(dim) + 0.04 * (index - len(COLORS) / 2) for dim in here]
                style = {"ls": ":" if "drawn" in label else "-", "marker": "os^Dv"[index % 5], "color": color}
                axis.errorbar(places, [np.mean(v) for v in values], [np.std(v) for v in values], label=label, **style)
            axis.set(yscale="log", title=title)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.set_xticks(range(len(dims)), [f"d = {dim}" for dim in dims])
            axis.grid(axis="y", color="0.9")
        row[0].set_ylabel(name)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
