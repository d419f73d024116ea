"""Groups that grow and vanish: the growth that unbalanced plans find, and the mass that they send to wrong groups."""

from benchmarks.harness.experiment import mean_and_deviation, Results, run  # isort: skip  (sets the thread count first)

import argparse
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

import omt_expfam as omt
from benchmarks.harness.data import kang
from omt_expfam.diagnostics import relaxation_path
from omt_expfam.families import Gaussian

MEANS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [16.0, 4.0]])
GROWTH = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
REMOVED = ("B", "CD4T", "CD14+Mono")


class Pair(NamedTuple):
    """Points before and after, with the groups that both are of, numbered; and the number of components to fit."""

    name: str
    x: np.ndarray
    y: np.ndarray
    before: np.ndarray
    after: np.ndarray
    num_components: int

    @property
    def growth(self) -> np.ndarray:
        """The share of each group after over that before."""
        return self._shares(self.after) / self._shares(self.before)

    def _shares(self, groups: np.ndarray) -> np.ndarray:
        return np.bincount(groups, minlength=self.num_groups) / len(groups)

    @property
    def num_groups(self) -> int:
        return int(self.before.max()) + 1


class Found(NamedTuple):
    """What a plan says: the growth of each group, and the mass from group to group."""

    growth: np.ndarray
    flows: np.ndarray

    def scores(self, pair: Pair) -> dict[str, float]:
        """Errors in percent: of the growth, by group at most and by mass, and of the mass that goes to other groups."""
        gaps = np.abs(self.growth - pair.growth)
        shares = np.bincount(pair.before, minlength=pair.num_groups) / len(pair.before)
        wrong = 1 - np.trace(self.flows) / self.flows.sum()
        return {"largest": 100 * float(gaps.max()), "mean": 100 * float(gaps @ shares), "wrong": 100 * float(wrong)}


def synthetic(seed: int, num: int) -> Pair:
    """Five groups in the plane that move by half a standard deviation; the first doubles, the last vanishes."""
    rng = np.random.default_rng([5, seed])
    before = rng.permutation(np.repeat(np.arange(5), num // 5))
    after = rng.permutation(np.repeat(np.arange(5), (GROWTH * (num // 5)).astype(int)))
    x, y = (MEANS[g] + s + rng.standard_normal((len(g), 2)) for g, s in ((before, 0.0), (after, 0.5)))
    return Pair("synthetic", x.astype(np.float32), y.astype(np.float32), before, after, 5)


def cells(data: Any, removed: str, seed: int, num: int, aligned: bool = False) -> Pair:
    """Cells without and with interferon, a type left out of the latter; shares of the others differ in the data, too.

    Aligned, the means of both are brought together, which takes away most of the response that all types share.
    """
    rng = np.random.default_rng([6, seed])
    names, numbers = np.unique(data.group, return_inverse=True)
    one = rng.permutation(np.flatnonzero(~data.stimulated))[:num]
    other = rng.permutation(np.flatnonzero(data.stimulated & (data.group != removed)))[:num]
    # Types without a cell before have no growth.
    kept = np.isin(numbers, numbers[one])
    other = other[kept[other]]
    used, inverse = np.unique(numbers[one], return_inverse=True)
    after = np.searchsorted(used, numbers[other])
    x, y = data.points[one], data.points[other]
    if aligned:
        y = y - y.mean(axis=0) + x.mean(axis=0)
    name = f"without {removed}" + (", aligned" if aligned else "")
    return Pair(name, x, y, inverse, after, min(12, len(names) + 5))


def ours(pair: Pair, seed: int) -> Iterator[tuple[str, Found, float]]:
    """Plans of mixtures: masses kept; prices by the rule, which sees no groups; and the known share."""
    keys = jax.random.split(jax.random.key(seed), 2)
    begin = time.process_time()
    source, target = (
        omt.fit(key, points, Gaussian, pair.num_components, progress=False)
        for key, points in zip(keys, (pair.x, pair.y), strict=True)
    )
    path = relaxation_path(source, target)
    fitted = time.process_time() - begin
    price = path.suggested if np.isfinite(path.suggested) else float(path.relaxation[-1])
    stays = float(np.minimum(pair.growth, 1) @ np.bincount(pair.before) / len(pair.before))
    options: dict[str, Any] = {
        "OMT, masses kept": np.inf,
        "OMT, divergence": price,
        "OMT, price per unit": omt.TotalVariation(price),
        "OMT, known share": omt.Partial(stays),
    }
    members = [
        np.asarray(side.mixture.responsibilities(points), np.float64)
        for side, points in ((source, pair.x), (target, pair.y))
    ]
    groups = [np.eye(pair.num_groups)[labels] for labels in (pair.before, pair.after)]
    parts = [m.T @ g / np.maximum(m.sum(0), 1e-12)[:, None] for m, g in zip(members, groups, strict=True)]

    def found(relaxation: Any, scale: float = 1.0) -> Found:
        options = {"epsilon_scale": scale, "source_relaxation": relaxation, "target_relaxation": relaxation}
        plan = omt.transport(source, target, **options)
        flows = parts[0].T @ np.asarray(plan.weights, np.float64) @ parts[1]
        growth = members[0] @ np.asarray(plan.growth, np.float64)
        return Found(groups[0].T @ growth / groups[0].sum(0), flows)

    for name, relaxation in options.items():
        begin = time.process_time()
        yield name, found(relaxation), fitted + time.process_time() - begin
    begin = time.process_time()
    ladder = [found(float(rho), scale) for scale in (0.3, 1.0, 3.0) for rho in path.relaxation[4::2]]
    best = min(ladder, key=lambda one: one.scores(pair)["mean"])
    yield "OMT, divergence, tuned by the truth", best, fitted + time.process_time() - begin


def of_cells(pair: Pair, coupling: np.ndarray) -> Found:
    """What a coupling of all points says."""
    groups = [np.eye(pair.num_groups)[labels] for labels in (pair.before, pair.after)]
    columns = np.maximum(coupling.sum(axis=0), 1e-300)
    growth = len(pair.x) * coupling @ (1 / len(pair.y) / columns)
    return Found(groups[0].T @ growth / groups[0].sum(0), groups[0].T @ coupling @ groups[1])


@functools.partial(jax.jit, static_argnums=2)
def _ott(cost: jax.Array, epsilon: float, share: float) -> jax.Array:
    geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
    problem = linear_problem.LinearProblem(geom, tau_a=share, tau_b=share)
    return sinkhorn.Sinkhorn(threshold=1e-4, max_iterations=2000)(problem).matrix


def by_ott(cost: np.ndarray, epsilon: float, rho: float) -> np.ndarray:
    """Unbalanced Sinkhorn of ott-jax, the way of moscot: tau = rho / (rho + epsilon)."""
    return np.asarray(_ott(jnp.asarray(cost, jnp.float32), epsilon, round(rho / (rho + epsilon), 6)), np.float64)


def by_pot(cost: np.ndarray, epsilon: float, rho: float) -> np.ndarray:
    """Unbalanced Sinkhorn of POT, stabilized."""
    a, b = (np.full(n, 1 / n) for n in cost.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ot.unbalanced.sinkhorn_stabilized_unbalanced(
            a, b, cost, epsilon, rho, reg_type="entropy", numItermax=500, stopThr=1e-5
        )


def peers(pair: Pair, quick: bool) -> Iterator[tuple[str, Found, float, str]]:
    """Couplings of all points, each with the regularization and price of a grid that find the true growth best."""
    cost = ot.dist(pair.x.astype(np.float64), pair.y.astype(np.float64)).astype(np.float64)
    prices = np.geomspace(0.02, 2, 2 if quick else 7) * cost.mean()
    strengths = np.array([0.01] if quick else [0.003, 0.01, 0.05]) * cost.mean()
    methods: tuple[tuple[str, Callable[..., np.ndarray]], ...] = (
        ("OTT-JAX, tuned by the truth", by_ott),
        ("POT, tuned by the truth", by_pot),
    )
    for name, method in methods:
        begin, best = time.process_time(), None
        for epsilon in strengths:
            for rho in prices:
                coupling = method(cost, float(epsilon), float(rho))
                if not (np.isfinite(coupling).all() and coupling.sum() > 1e-6):
                    continue
                found = of_cells(pair, coupling)
                score = found.scores(pair)["mean"]
                if best is None or score < best[0]:
                    best = score, found, f"{epsilon:.3g}, {rho:.3g}"
        if best is not None:
            yield name, best[1], time.process_time() - begin, best[2]


def picture(pair: Pair, seed: int) -> Any:
    """The ladder of prices of a pair."""
    import matplotlib.pyplot as plt

    keys = jax.random.split(jax.random.key(seed), 2)
    source, target = (
        omt.fit(key, points, Gaussian, pair.num_components, progress=False)
        for key, points in zip(keys, (pair.x, pair.y), strict=True)
    )
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    omt.plot.relaxation_path(relaxation_path(source, target), ax=axes)
    return figure


def experiment(options: argparse.Namespace, results: Results) -> None:
    num, seeds = (100, 1) if options.quick else (500, options.seeds or 3)
    pairs = [synthetic(seed, num) for seed in range(seeds)]
    if not options.quick:
        data = kang(options.data)
        choices = [(removed, aligned) for removed in REMOVED for aligned in (False, True)]
        pairs += [cells(data, removed, seed, num, aligned) for removed, aligned in choices for seed in range(seeds)]
    rows: list[dict[str, Any]] = []
    for n, pair in enumerate(pairs):
        found = [(*one, "") for one in ours(pair, n)] + list(peers(pair, options.quick))
        for method, one, seconds, chosen in found:
            row = {"pair": pair.name, "method": method, "seconds": seconds, "chosen": chosen}
            rows.append(row | one.scores(pair))
    header = ["pair", "method", "growth, largest error, %", "growth, mean error, %", "to wrong groups, %", "CPU s"]
    lines = []
    for name in dict.fromkeys(row["pair"] for row in rows):
        for method in dict.fromkeys(row["method"] for row in rows):
            same = [row for row in rows if row["pair"] == name and row["method"] == method]
            form = {"largest": ".1f", "mean": ".1f", "wrong": ".2f", "seconds": ".1f"}
            lines.append([name, method, *(mean_and_deviation([r[f] for r in same], t) for f, t in form.items())])
    results.table("", header, lines)
    chosen = [[row["pair"], row["method"], row["chosen"]] for row in rows if row["chosen"]]
    results.table("chosen", ["pair", "method", "epsilon and price"], chosen, shown=False)
    if not options.quick:
        results.figure("", picture(pairs[0], 0))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
