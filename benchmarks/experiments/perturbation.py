"""Response of single cells to a perturbation: maps from untreated to treated cells and back, on held-out cells.

The environment variable OMT_CACHE may name a directory that keeps what is finished; a later run goes on from there.
"""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import collections
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import bodenmiller, Cells, kang
from benchmarks.harness.kept import kept

PAPER, WAYS, FIELD = (3, 5), ("forward", "backward"), "divergence, {}"
IDENTITY = _peers.Maps(np.asarray, np.asarray)
FLOOR = "training cells of the other side"
MANY = "OMT, K chosen, 4,000 cells"
# What tells cells apart whatever their treatment, by marker: above, and below.
GATES = {"B": ({"CD20": 2.5, "HLA-DR": 1.0}, {"CD3": 2.0, "CD33": 1.0}), "T": ({"CD3": 1.5}, {"CD20": 1.0})}
# Medians of signaling markers that the stimulation is known to move, or not to move.
KNOWN = (("B", "pS6"), ("T", "pS6"), ("B", "pPlcg2"), ("T", "pNFkB"))
FUNCTIONAL = "pNFkB pp38 pStat5 pAkt pStat1 pSHP2 pZap70 pStat3 pSlp76 pBtk pPlcg2 pErk pLat pS6".split()


def full_methods() -> dict[str, Any]:
    entropic = _peers.BestOf(tuple(_peers.Entropic(scale) for scale in (4.0, 2.0, 1.0, 0.5, 0.2)))
    progressive = _peers.BestOf(tuple(_peers.Entropic(scale, num_steps=4) for scale in (4.0, 2.0, 1.0, 0.5)))
    return {
        "linear map": _peers.Linear(),
        "GMM-OT (POT), 3 x 5": _peers.Mixtures(PAPER, None),
        "GMM-OT (POT), K chosen": _peers.Mixtures(None, None),
        "entropic, default epsilon": _peers.Entropic(),
        "entropic, epsilon chosen": entropic,
        "ProgOT, epsilon chosen": progressive,
        "OMT, 3 x 5": _peers.Mixtures(PAPER),
        "OMT, K chosen": _peers.Mixtures(None),
        MANY: _peers.Mixtures(None, candidates=(8, 15, 30, 60)),
    }


def quick_methods() -> dict[str, Any]:
    return {"linear map": _peers.Linear(), "entropic": _peers.Entropic(), "OMT, 3 x 5": _peers.Mixtures(PAPER)}


# -- data to fit and held out -----------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Cells of each condition: to fit, held out, and to fit where a method takes many.

    They are the same for all divisions and both conditions, which spares compilation and makes divergences comparable.
    """

    fit: int
    test: int
    many: int


class Side(NamedTuple):
    """Cells of one condition, and what they are.

    Attributes:
        points: To fit.
        kinds: Their types or donors.
        test: Held out.
        test_kinds: Their types or donors.
        many: More cells to fit, ``points`` among them.
    """

    points: np.ndarray
    kinds: np.ndarray
    test: np.ndarray
    test_kinds: np.ndarray
    many: np.ndarray


def divide(cells: Cells, test: np.ndarray, fit: np.ndarray, rng: np.random.Generator, sizes: Sizes) -> list[Side]:
    """Untreated and treated cells, drawn from those marked as held out and as to be fitted."""
    sides = []
    for condition in (False, True):
        mine = [rng.permutation(np.flatnonzero(marked & (cells.stimulated == condition))) for marked in (test, fit)]
        held_out, some = mine[0][: sizes.test], mine[1][: sizes.fit]
        parts = [part for rows in (some, held_out) for part in (cells.points[rows], cells.group[rows])]
        sides.append(Side(*parts, cells.points[mine[1][: sizes.many]]))
    return sides


def at_random(cells: Cells, seed: int, sizes: Sizes) -> list[Side]:
    """Cells held out at random."""
    rng = np.random.default_rng(seed)
    test = np.zeros(len(cells.points), bool)
    for condition in (False, True):
        rows = rng.permutation(np.flatnonzero(cells.stimulated == condition))
        test[rows[: sizes.test]] = True
    return divide(cells, test, ~test, rng, sizes)


def leave_donor_out(cells: Cells, seed: int, sizes: Sizes) -> list[Side]:
    """One donor held out, by the seed."""
    donors = np.unique(cells.group)
    test = cells.group == donors[seed % len(donors)]
    return divide(cells, test, ~test, np.random.default_rng(seed), sizes)


@dataclasses.dataclass(frozen=True)
class Study:
    """A data set, how it is divided, and what else is measured on images of its held-out cells."""

    name: str
    cells: Cells
    divide: Callable[[Cells, int, Sizes], list[Side]]
    sizes: Sizes
    seeds: int
    measure: Callable[[Cells, Side, Side, np.ndarray], dict[str, float]]


# -- measures ---------------------------------------------------------------------------------------------------------


def divergence(images: np.ndarray, cells: np.ndarray) -> float:
    """Sinkhorn divergence at a tenth of the cells' total variance."""
    epsilon = 0.1 * cells.var(axis=0).sum()
    return float(omt.metrics.sinkhorn_divergence(images.astype(np.float32), cells, epsilon))


def law(images: np.ndarray, cells: np.ndarray) -> dict[str, float]:
    """How far the law of the images is from that of cells: divergence, discrepancy, and how much they vary."""
    bandwidth = float(np.median(scipy.spatial.distance.pdist(cells)))
    return {
        "divergence": divergence(images, cells),
        "discrepancy": 1000 * float(omt.metrics.mmd(images, cells, bandwidth)),
        "variance": 100 * float(images.var(axis=0).sum() / cells.var(axis=0).sum()),
    }


def both_laws(images: np.ndarray, back: np.ndarray, sides: list[Side]) -> dict[str, float]:
    """`law` of images forward and backward."""
    ways = ("forward", images, sides[1]), ("backward", back, sides[0])
    return {f"{name}, {way}": v for way, found, side in ways for name, v in law(found, side.test).items()}


def same_kind(cells: Cells, source: Side, target: Side, images: np.ndarray) -> dict[str, float]:
    """Share of cells whose image is nearest to a fitted target cell of their own type, in percent."""
    _, nearest = scipy.spatial.KDTree(target.points).query(images)
    return {"type of nearest cell": 100 * float(np.mean(target.kinds[nearest] == source.test_kinds))}


def gate(cells: Cells, points: np.ndarray, kind: str) -> np.ndarray:
    """Which cells are of a kind, by lineage markers."""
    above, below = GATES[kind]
    columns = {name: points[:, cells.features.index(name)] for name in (*above, *below)}
    chosen = [columns[n] > level for n, level in above.items()] + [columns[n] < level for n, level in below.items()]
    return np.logical_and.reduce(chosen)


def moves(cells: Cells, before: np.ndarray, after: np.ndarray, after_kinds: np.ndarray) -> dict[str, float]:
    """Changes of the medians that biology knows about; cells are gated before, and after in the points given."""
    found = {}
    for kind, marker in KNOWN:
        column = cells.features.index(marker)
        old, new = before[gate(cells, before, kind), column], after[gate(cells, after_kinds, kind), column]
        found[f"{marker} in {kind} cells"] = float(np.median(new) - np.median(old))
    return found


def marker_shifts(cells: Cells, source: Side, target: Side, images: np.ndarray) -> dict[str, float]:
    """Error of the mean shift over signaling markers, and the known changes of medians."""
    columns = [cells.features.index(name) for name in FUNCTIONAL]
    gap = images[:, columns].mean(axis=0) - target.test[:, columns].mean(axis=0)
    error = {"error of mean shift": float(np.sqrt(np.mean(gap**2)))}
    # An image is one cell's: its kind is that of its source.
    own = source.test if len(images) == len(source.test) else images
    return error | moves(cells, source.test, images, own)


def composition(mixture: Any, points: np.ndarray, kinds: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Share of each type of cells in each component, shape ``[types, K]``."""
    shares = np.asarray(mixture.responsibilities(jnp.asarray(points)), np.float64)
    mass = np.stack([shares[kinds == name].sum(axis=0) for name in names])
    return mass / mass.sum(axis=0)


def kept_mass(weights: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """Share of a coupling's mass between equal types, in percent, given the types' shares in its rows and columns."""
    return 100 * float(np.einsum("ij,ti,tj->", weights / weights.sum(), source, target))


def entropic_weights(method: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The coupling of two samples behind the entropic map."""
    solve = _peers._sinkhorn(jnp.asarray(x), jnp.asarray(y), method.scale, method.max_iterations)
    costs = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    exponent = (np.asarray(solve.f)[:, None] + np.asarray(solve.g)[None] - costs) / float(solve.epsilon)
    return np.exp(exponent - exponent.max())


def mass_between_types(method: Any, found: Any, source: Side, target: Side) -> float | None:
    """Share of a plan's mass that stays within a cell type, for plans of mixtures and of samples."""
    names = np.union1d(source.kinds, target.kinds)
    if isinstance(found, omt.TransportPlan):
        sides = (found.source, source), (found.target, target)
        return kept_mass(np.asarray(found.weights), *(composition(m, s.points, s.kinds, names) for m, s in sides))
    if isinstance(method, _peers.Entropic) and method.num_steps == 1:
        member = [np.asarray(names[:, None] == side.kinds[None], float) for side in (source, target)]
        return kept_mass(entropic_weights(method, source.points, target.points), *member)
    return None


# -- all methods on one division --------------------------------------------------------------------------------------


def chosen(method: Any) -> str:
    """The parameters of a method, in words."""
    if isinstance(method, _peers.Mixtures):
        return "{} x {}".format(*method.num_components)
    return f"{method.scale:g} of the default" if isinstance(method, _peers.Entropic) else ""


def row(study: Study, sides: list[Side], maps: Any) -> dict[str, Any]:
    """Divergences of the images both ways, and the study's own measures forward."""
    source, target = sides
    images, back = _peers.images(maps, source.test), _peers.back_images(maps, target.test)
    return both_laws(images, back, sides) | study.measure(study.cells, source, target, images)


def references(study: Study, sides: list[Side]) -> Iterator[dict[str, Any]]:
    """No transport, fitted cells in place of images, and the held-out cells themselves."""
    source, target = sides
    yield {"method": "no transport"} | row(study, sides, IDENTITY)
    measured = both_laws(target.points[: study.sizes.test], source.points[: study.sizes.test], sides)
    if study.measure is marker_shifts:
        yield {"method": FLOOR} | measured | marker_shifts(study.cells, source, target, target.points)
        yield {"method": "held-out treated cells"} | moves(study.cells, source.test, target.test, target.test)
        return
    yield {"method": FLOOR} | measured
    names = np.union1d(source.kinds, target.kinds)
    shares = [np.array([[np.mean(side.kinds == name)] for name in names]) for side in sides]
    kept = 100 * float(np.minimum(*shares).sum())
    yield {"method": "held-out treated cells"} | same_kind(study.cells, target, target, target.test)
    yield {"method": "independent coupling", "mass within type": kept_mass(np.ones((1, 1)), *shares)}
    yield {"method": "most that the types' shares allow", "mass within type": kept}


def run_division(study: Study, methods: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Rows of all methods for one division of the data."""
    sides = study.divide(study.cells, seed, study.sizes)
    head = {"data": study.name, "seed": seed}
    yield from (head | reference for reference in references(study, sides))
    tune_key, fit_key, draw_key, back_key = jax.random.split(jax.random.key(seed), 4)
    for name, method in methods.items():
        if name == MANY and study.sizes.many == study.sizes.fit:
            continue
        x, y = (side.many if name == MANY else side.points for side in sides)
        if hasattr(method, "tuned"):
            method = method.tuned(jax.random.clone(tune_key), x, y)
        found = method(jax.random.clone(fit_key), x, y)
        measured = row(study, sides, found)
        stopped = int(np.sum(~np.asarray(getattr(found, "converged", True), bool)))
        if study.measure is same_kind:
            measured["mass within type"] = mass_between_types(method, found, *sides)
        yield head | {"method": name, "chosen": chosen(method), "failures": stopped} | measured
        if isinstance(found, omt.TransportPlan):
            keys = [jax.random.clone(key) for key in (draw_key, back_key)]
            plans = zip((found, found.reverse()), keys, strict=True)
            draws = [lambda points, p=p, k=k: p.sample(k, jnp.asarray(points)) for p, k in plans]
            yield head | {"method": f"{name}, draw"} | row(study, sides, _peers.Maps(*draws))


# -- tables and picture -----------------------------------------------------------------------------------------------


def over_seeds(rows: list[dict[str, Any]], data: str, method: str, field: str) -> str:
    """Mean ± standard deviation in three digits, or nothing."""
    mine = [r[field] for r in rows if (r["data"], r["method"]) == (data, method) and r.get(field) is not None]
    if not mine:
        return ""
    decimals = max(0, 2 - int(np.floor(np.log10(max(abs(np.mean(mine)), 0.1)))))
    return mean_and_deviation(mine, f".{decimals}f")


def tables(studies: list[Study], rows: list[dict[str, Any]], results: Results) -> None:
    """Divergences, cell types, markers, choices; only methods that have something to tell in each."""
    methods = list(dict.fromkeys(r["method"] for r in rows))

    def table(part: str, columns: list[tuple[str, str, str]]) -> None:
        lines = [[m, *(over_seeds(rows, data, m, field) for _, data, field in columns)] for m in methods]
        results.table(part, ["method", *(name for name, _, _ in columns)], [line for line in lines if any(line[1:])])

    for part, field in (("", "divergence"), ("discrepancy", "discrepancy"), ("variance", "variance")):
        table(part, [(f"{s.name}, {way}", s.name, f"{field}, {way}") for s in studies for way in WAYS])
    typed = [s.name for s in studies if s.measure is same_kind]
    fields = ("mass within type", "type of nearest cell")
    table("types", [(f"{name}, {field}, %", name, field) for name in typed for field in fields])
    for study in studies:
        if study.measure is marker_shifts:
            fields = ("error of mean shift", *(f"{marker} in {kind} cells" for kind, marker in KNOWN))
            table("markers", [(field, study.name, field) for field in fields])

    lines = []
    for method in methods:
        counts = [collections.Counter(r.get("chosen", "") for r in rows if is_of(r, s, method)) for s in studies]
        texts = [", ".join(f"{name} ({num})" for name, num in sorted(c.items()) if name) for c in counts]
        failures = sum(r.get("failures", 0) for r in rows if r["method"] == method)
        if any(texts):
            lines.append([method, *texts, failures])
    results.table("chosen", ["method", *(s.name for s in studies), "solves not converged"], lines)
    fields = list(dict.fromkeys(field for r in rows for field in r))
    results.table("seeds", fields, [[r.get(field) for field in fields] for r in rows], shown=False)


def is_of(row: dict[str, Any], study: Study, method: str) -> bool:
    """Whether a row is of a study and method."""
    return (row["data"], row["method"]) == (study.name, method)


def draw(studies: list[Study], rows: list[dict[str, Any]]) -> Any:
    """Divergences of all methods, forward and backward, one panel per data set."""
    import matplotlib.pyplot as plt

    methods = list(dict.fromkeys(r["method"] for r in rows if FIELD.format("forward") in r))
    figure, axes = plt.subplots(
        1, len(studies), figsize=(4 + 3.2 * len(studies), 5.6), layout="constrained", sharey=True
    )
    for axis, study in zip(np.atleast_1d(axes), studies, strict=True):
        for way, marker, offset in (("forward", "o", -0.14), ("backward", "s", 0.14)):
            for place, method in enumerate(methods):
                values = [r[FIELD.format(way)] for r in rows if is_of(r, study, method) and FIELD.format(way) in r]
                color = "#d7301f" if method.startswith("OMT") else "#2171b5"
                color = "0.5" if method in ("no transport", FLOOR) else color
                face = color if way == "forward" else "white"
                if values:
                    bar = np.std(values)
                    axis.errorbar(
                        np.mean(values), place + offset, xerr=bar, color=color, marker=marker, mfc=face, lw=1, ms=5
                    )
        axis.set(xscale="log", title=study.name, xlabel="Sinkhorn divergence")
        low, high = axis.get_xlim()
        ticks = [tick for tick in (5, 7, 10, 15, 20, 30, 50, 100, 200, 300) if low < tick < high]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set_yticks(range(len(methods)), methods)
        axis.grid(color="0.92")
        axis.set_axisbelow(True)
    np.atleast_1d(axes)[0].invert_yaxis()
    handles = [plt.Line2D([], [], color="k", marker=m, mfc=f, ls="") for m, f in (("o", "k"), ("s", "white"))]
    figure.legend(handles, ["forward", "backward"], loc="outside lower center", ncols=2, frameon=False)
    return figure


# -- the experiment ---------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace, results: Results) -> None:
    """All methods on all divisions of the data sets."""
    sizes = (Sizes(600, 300, 600), Sizes(1000, 700, 4000))
    dims, methods, most = {16: 5, 50: 3}, full_methods(), options.seeds or 8
    if options.quick:
        sizes, dims, methods, most = (Sizes(200, 100, 200),) * 2, {16: 1}, quick_methods(), 1
    studies = [
        Study(f"Kang, {dim} PCs", kang(options.data, dim), at_random, sizes[0], seeds, same_kind)
        for dim, seeds in dims.items()
    ]
    studies += [Study("Bodenmiller", bodenmiller(options.data), leave_donor_out, sizes[1], 8, marker_shifts)]
    jobs = [(study, seed) for seed in range(most) for study in studies if seed < study.seeds]
    rows: list[dict[str, Any]] = []
    for study, seed in tqdm(jobs, disable=None):
        settings = study.name, study.sizes, methods, seed
        rows += kept("perturbation", settings, lambda j=(study, methods, seed): list(run_division(*j)))
    tables(studies, rows, results)
    results.figure("", draw(studies, rows))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
