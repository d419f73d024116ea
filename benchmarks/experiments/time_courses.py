"""Time courses of cells: a held-out snapshot predicted, known fates recovered, replicates compared, with growth."""

from benchmarks.harness.experiment import mean_and_deviation, run  # isort: skip  (sets the thread count first)

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn
from tqdm import tqdm

import omt_expfam as omt
from benchmarks.harness import data as _data
from omt_expfam.families import Gaussian

# Hours of the four snapshots of A549 cells; the last pools 754 cells of three days and 129 of seven: their mean.
HOURS = (0.0, 8.0, 24.0, 86.0)


def fit(key: Any, x: Any, num: int) -> omt.Mixture:
    """The best of three fits."""
    return omt.fit(key, x, Gaussian, num, num_starts=3, progress=False).mixture


def epsilon_of(x: Any) -> float:
    """A hundredth of the total variance: one regularization for coordinates of any scale."""
    return 0.01 * float(np.var(np.asarray(x), axis=0).sum())


@functools.partial(jax.jit, static_argnames="max_iterations")
def _entropic(x: Any, y: Any, a: Any, scale: Any, max_iterations: int = 5000) -> Any:
    epsilon = scale * pointcloud.PointCloud(x, y).epsilon
    problem = linear_problem.LinearProblem(pointcloud.PointCloud(x, y, epsilon=epsilon), a=a)
    out = sinkhorn.Sinkhorn(max_iterations=max_iterations)(problem)
    return out.matrix, out.converged


def entropic_coupling(x: np.ndarray, y: np.ndarray, a: np.ndarray | None = None, scale: float = 1.0) -> np.ndarray:
    """OTT-JAX's entropic coupling of two samples; its default regularization times ``scale``."""
    mass = np.full(len(x), 1 / len(x)) if a is None else a / a.sum()
    matrix, converged = _entropic(*(jnp.asarray(v, jnp.float32) for v in (x, y, mass)), scale)
    if not converged:
        raise RuntimeError("Sinkhorn's iteration between the samples did not converge.")
    return np.asarray(matrix, np.float64)


def exact_coupling(x: np.ndarray, y: np.ndarray, a: np.ndarray | None = None) -> np.ndarray:
    """POT's optimal coupling of two samples."""
    mass = ot.unif(len(x)) if a is None else np.asarray(a, np.float64) / np.sum(a)
    return ot.emd(
        mass, ot.unif(len(y)), ot.dist(np.asarray(x, np.float64), np.asarray(y, np.float64)), numItermax=10**7
    )


# -- a snapshot held out ----------------------------------------------------------------------------------------------


def along_pairs(rng: np.random.Generator, coupling: np.ndarray, x: Any, y: Any, t: float, num: int) -> np.ndarray:
    """Points on the way between pairs drawn from a coupling of samples."""
    drawn = rng.choice(coupling.size, num, p=coupling.ravel() / coupling.sum())
    i, j = np.unravel_index(drawn, coupling.shape)
    return (1 - t) * x[i] + t * y[j]


def linear_between(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, t: float, num: int) -> np.ndarray:
    """Source points on the way to their images under the optimal map between normal laws."""
    both = [np.asarray(points, np.float64) for points in (x, y)]
    matrix, shift = ot.gaussian.empirical_bures_wasserstein_mapping(*both, reg=1e-9)
    start = x[rng.choice(len(x), num)]
    return (1 - t) * start + t * (start @ matrix + shift)


def predictions(
    seed: int, before: np.ndarray, after: np.ndarray, t: float, num: int, sizes: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Samples of the held-out snapshot by every method."""
    rng, found = np.random.default_rng(seed), {}
    keys = iter(jax.random.split(jax.random.key(seed), 4 * len(sizes)))
    epsilon = epsilon_of(before)
    for size in sizes:
        mixtures = [fit(next(keys), x, size) for x in (before, after)]
        course = omt.trajectory(mixtures, epsilon_components=epsilon, epsilon_weights=epsilon)
        found[f"OMT, K = {size}"] = np.asarray(course.interpolate(t).sample(next(keys), num))
        start = before[rng.choice(len(before), num)]
        carried = np.asarray(course.plans[0].push_forward(start))
        found[f"OMT, K = {size}, along the map"] = (1 - t) * start + t * carried
    found["exact plan of samples"] = along_pairs(rng, exact_coupling(before, after), before, after, t, num)
    entropic = entropic_coupling(before, after)
    found["entropic plan of samples"] = along_pairs(rng, entropic, before, after, t, num)
    found["linear map"] = linear_between(rng, before, after, t, num)
    found["snapshot before"] = before[rng.choice(len(before), num)]
    found["snapshot after"] = after[rng.choice(len(after), num)]
    mixed = np.where(rng.random((num, 1)) < t, found["snapshot after"], found["snapshot before"])
    found["both, mixed"] = mixed
    return found


def distances(predicted: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """Wasserstein distances of orders 1 and 2 between samples, exactly, and the maximum mean discrepancy."""
    both = [np.asarray(points, np.float64) for points in (predicted, held_out)]
    squared = ot.dist(*both)
    first = ot.emd2([], [], np.sqrt(np.maximum(squared, 0)), numItermax=10**7)
    second = np.sqrt(ot.emd2([], [], squared, numItermax=10**7))
    return {"W1": float(first), "W2": float(second), "MMD": float(omt.metrics.mmd(*both))}


def held_out_study(steps: list[np.ndarray], seeds: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Errors of every method, for both inner snapshots, halfway in steps and at the true hour."""
    rows = []
    jobs = [(held, seed) for held in (1, 2) for seed in range(seeds)]
    for held, seed in tqdm(jobs, desc="held-out snapshots", disable=None):
        truth = steps[held]
        hours = (HOURS[held] - HOURS[held - 1]) / (HOURS[held + 1] - HOURS[held - 1])
        for clock, t in (("halfway", 0.5), ("true hour", hours)):
            found = predictions(seed, steps[held - 1], steps[held + 1], t, len(truth), sizes)
            # As good as a sample of this size can be: cells of the snapshot itself, drawn anew.
            half = np.random.default_rng(seed).permutation(len(truth))
            found["floor: its own halves"] = truth[half[: len(truth) // 2]]
            for name, points in found.items():
                against = truth[half[len(truth) // 2 :]] if name.startswith("floor") else truth
                rows.append({"held": held, "clock": clock, "seed": seed, "method": name, **distances(points, against)})
    return rows


# -- known fates ------------------------------------------------------------------------------------------------------


class Branching:
    """A population that splits in three, the branches growing at different rates: every cell's fate is known.

    Attributes:
        times: Times of the snapshots.
        rates: Growth rate of each branch.
    """

    times = np.arange(5.0)
    rates = np.array([0.0, 0.35, 0.7])
    _slopes = np.array([-1.0, 0.25, 1.0])
    _deviation = 0.3

    def __init__(self, dim: int = 5) -> None:
        self._basis = np.linalg.qr(np.random.default_rng(7).standard_normal((dim, dim)))[0]

    def shares(self, time: float) -> np.ndarray:
        """Share of each branch at a time."""
        mass = np.exp(self.rates * time)
        return mass / mass.sum()

    def _centers(self, time: float) -> np.ndarray:
        center = np.zeros((3, len(self._basis)))
        center[:, 0], center[:, 1] = 0.8 * time, self._slopes * max(time - 1.0, 0.0)
        return center @ self._basis

    def snapshot(self, rng: np.random.Generator, time: float, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Cells and their branches."""
        branch = rng.choice(3, num, p=self.shares(time))
        noise = self._deviation * rng.standard_normal((num, len(self._basis)))
        return (self._centers(time)[branch] + noise).astype(np.float32), branch

    def branches(self, x: np.ndarray, time: float) -> np.ndarray:
        """Probability of each branch given the cell."""
        squared = ((x[:, None] - self._centers(time)[None]) ** 2).sum(2)
        joint = np.exp(-squared / (2 * self._deviation**2)) * self.shares(time)
        return joint / joint.sum(1, keepdims=True)

    def fates(self, x: np.ndarray, time: float) -> np.ndarray:
        """Share of each branch among the descendants of the cell at the last time, in expectation."""
        mass = self.branches(x, time) * np.exp(self.rates * (self.times[-1] - time))
        return mass / mass.sum(1, keepdims=True)

    def growth(self, x: np.ndarray, time: float) -> np.ndarray:
        """Expected number of descendants of a cell one unit of time later."""
        return self.branches(x, time) @ np.exp(self.rates)


def mixture_fates(
    mixtures: list[omt.Mixture], cells: list[Any], law: Branching, epsilon: float, grown: bool
) -> Callable[[int], np.ndarray]:
    """Fates of all cells of a snapshot by this library's trajectories."""
    growth = None
    if grown:
        growth = []
        for mixture, (x, _), time in zip(mixtures[:-1], cells, law.times, strict=False):
            member = np.asarray(mixture.responsibilities(x), np.float64)
            growth.append(member.T @ law.growth(x, time) / member.sum(0))
    course = omt.trajectory(
        mixtures, growth=growth, times=law.times, epsilon_components=epsilon, epsilon_weights=epsilon
    )
    final = omt.group_shares(mixtures[-1], *cells[-1]).shares
    return lambda t: np.asarray(course.fates(cells[t][0], t, len(cells) - 1), np.float64) @ final


def sample_fates(couple: Any, cells: list[Any], law: Branching, grown: bool) -> Callable[[int], np.ndarray]:
    """Fates of all cells of a snapshot by composing couplings of samples, as Waddington-OT does."""
    tables = []
    for (x, _), (y, _), time in zip(cells, cells[1:], law.times, strict=False):
        growth = law.growth(x, time) if grown else np.ones(len(x))
        coupling = couple(x, y, growth)
        tables.append(coupling / coupling.sum(1, keepdims=True) * growth[:, None])
    final = np.eye(3)[cells[-1][1]]

    def fates(t: int) -> np.ndarray:
        mass = functools.reduce(lambda right, left: left @ right, reversed(tables[t:]), final)
        return mass / mass.sum(1, keepdims=True)

    return fates


def fate_study(seeds: int, num: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Total variation between computed fates and the true ones, at two times."""
    law, rows = Branching(), []
    for seed in tqdm(range(seeds), desc="known fates", disable=None):
        rng = np.random.default_rng(seed)
        cells = [law.snapshot(rng, time, num) for time in law.times]
        final = np.eye(3)[cells[-1][1]].mean(0)
        keys = jax.random.split(jax.random.key(seed), len(cells))
        fits = {k: [fit(key, x, k) for key, (x, _) in zip(keys, cells, strict=True)] for k in sizes}
        for grown in (False, True):
            methods: dict[str, Any] = {
                f"OMT, K = {k}, ε = {epsilon:g}": mixture_fates(mixtures, cells, law, epsilon, grown)
                for k, mixtures in fits.items()
                for epsilon in (0.01, 1.0)
            }
            methods["entropic plans of samples"] = sample_fates(entropic_coupling, cells, law, grown)
            methods["exact plans of samples"] = sample_fates(exact_coupling, cells, law, grown)
            methods["shares at the end"] = lambda t, final=final: final[None]
            for name, guess in methods.items():
                gaps = {t: np.abs(guess(t) - law.fates(cells[t][0], t)) for t in (2, 3)}
                errors = {f"time {t}": 0.5 * float(gap.sum(1).mean()) for t, gap in gaps.items()}
                rows.append({"growth": "known" if grown else "ignored", "seed": seed, "method": name, **errors})
    return rows


# -- replicates -------------------------------------------------------------------------------------------------------


def replicate_study(directory: Any, seeds: int, sizes: tuple[int, ...], num: int | None) -> list[dict[str, Any]]:
    """From day 0 to either replicate of day 2: how far the two maps differ, and what growth changes."""
    data, rows = _data.reprogramming(directory), []
    growth_score = data.growth[0][:num]
    samples = [points[:num] for points in (data.day0, *data.day2)]
    for seed in tqdm(range(seeds), desc="replicates", disable=None):
        for size in sizes:
            keys = jax.random.split(jax.random.key(seed), 3)
            day0, *later = [fit(key, x, size) for key, x in zip(keys, samples, strict=True)]
            epsilon = epsilon_of(samples[0])
            member = np.asarray(day0.responsibilities(samples[0]), np.float64)
            # Scores are taken as factors per day, over two days.
            growth = member.T @ growth_score**2 / member.sum(0)
            options = {"times": [0, 2], "epsilon_components": epsilon, "epsilon_weights": epsilon}
            plain = [omt.trajectory([day0, mixture], **options) for mixture in later]
            grown = omt.trajectory([day0, later[0]], growth=[growth], **options)
            maps = [np.asarray(course.plans[0].push_forward(samples[0])) for course in (*plain, grown)]
            moved = float(np.linalg.norm(maps[0] - samples[0], axis=1).mean())
            shares = [np.asarray(course.ancestors(0, 1)) @ np.asarray(later[0].weights) for course in (plain[0], grown)]
            rows.append(
                {
                    "K": size,
                    "seed": seed,
                    "replicates": float(np.linalg.norm(maps[0] - maps[1], axis=1).mean()) / moved,
                    "growth": float(np.linalg.norm(maps[0] - maps[2], axis=1).mean()) / moved,
                    "ancestors": 0.5 * float(np.abs(shares[0] - shares[1]).sum()),
                }
            )
    return rows


# -- tables and pictures ----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], by: tuple[str, ...], of: tuple[str, ...], digits: int) -> list[list[Any]]:
    """Mean and standard deviation over the seeds, groups in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in by), []).append(row)
    table = []
    for group, members in groups.items():
        cells = (mean_and_deviation([row[field] for row in members], f".{digits}f") for field in of)
        table.append([*group, *cells])
    return table


def draw(steps: list[np.ndarray], num: int) -> Any:
    """The course of A549 cells: snapshots, flows between components, and what becomes of them."""
    import matplotlib.pyplot as plt

    fits = [fit(jax.random.key(t), x, num).sort() for t, x in enumerate(steps)]
    epsilon = epsilon_of(steps[0])
    course = omt.trajectory(fits, times=HOURS, epsilon_components=epsilon, epsilon_weights=epsilon)
    center = np.concatenate(steps).mean(0)
    axes_of = np.linalg.svd(np.concatenate(steps) - center, full_matrices=False)[2][:2].T
    figure, axes = plt.subplots(1, 3, figsize=(15, 5), layout="constrained")
    flat = [project(mixture, center, axes_of) for mixture in fits]
    omt.plot.trajectory(
        omt.Trajectory(tuple(flat), course.plans, course.times, course.growth),
        [(x - center) @ axes_of for x in steps],
        ax=axes[0],
        min_share=0.25,
    )
    axes[0].set(title="graph of components", xlabel="first principal axis", ylabel="second principal axis")
    omt.plot.flows(course, ax=axes[1], min_weight=0.01)
    axes[1].set(title="flows between components", xlabel="hours")
    coupling = np.asarray(course.coupling(0, 3))
    shown = axes[2].imshow(coupling / coupling.max(), cmap="Blues", aspect="auto")
    figure.colorbar(shown, ax=axes[2], label="mass, relative to the largest")
    axes[2].set(title="from 0 h to the end, composed", xlabel="component at the end", ylabel="component at 0 h")
    axes[2].set(xticks=range(num), yticks=range(num))
    return figure


def project(mixture: omt.Mixture, center: np.ndarray, basis: np.ndarray) -> omt.Mixture:
    """The marginal of a mixture of normal laws in some directions."""
    mean = (np.asarray(mixture.components.mean()) - center) @ basis
    covariance = np.einsum("de,kdf,fg->keg", basis, np.asarray(mixture.components.covariance()), basis)
    return omt.Mixture(mixture.weights, Gaussian(mean, covariance))


def experiment(options: Any, results: Any) -> None:
    quick = options.quick
    seeds = options.seeds or (1 if quick else 5)
    steps = _data.emt(options.data)
    if quick:
        steps = [x[:150] for x in steps]
    sizes = (3,) if quick else (1, 5, 10, 20)
    rows = held_out_study(steps, seeds, sizes)
    results.table("held_out_seeds", list(rows[0]), [list(row.values()) for row in rows], shown=False)
    for held in (1, 2):
        mine = [row for row in rows if row["held"] == held]
        table = summary(mine, ("clock", "method"), ("W1", "W2", "MMD"), 4)
        results.table(f"held_out_{held}", ["at", "method", "W1", "W2", "MMD²"], table)
    rows = fate_study(seeds, 150 if quick else 1000, (3,) if quick else (3, 6, 12))
    results.table("fates_seeds", list(rows[0]), [list(row.values()) for row in rows], shown=False)
    header = ["growth", "method", "error at time 2", "error at time 3"]
    results.table("fates", header, summary(rows, ("growth", "method"), ("time 2", "time 3"), 3))
    rows = replicate_study(options.data, min(seeds, 3), (3,) if quick else (4, 12), 300 if quick else None)
    results.table("replicates_seeds", list(rows[0]), [list(row.values()) for row in rows], shown=False)
    header = ["K", "map between replicates", "map with growth", "ancestors with growth"]
    results.table("replicates", header, summary(rows, ("K",), ("replicates", "growth", "ancestors"), 2))
    results.figure("", draw(steps, 3 if quick else 8))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
