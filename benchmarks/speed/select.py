"""Choosing the number of components and the plan, beside scikit-learn's loop: made-up snapshots, and real ones.

CPU seconds and wall time of five numbers of components, for one snapshot after another. The first one compiles; the
others have other numbers of points, and should compile nothing. scikit-learn chooses by the BIC, for plans on both
sides, at its own tolerance, a hundred times ours; it has no plans to judge. Real cells take more steps of EM than those
that are drawn from a few Gaussians.
"""

from benchmarks.harness.measure import parse, report, spd  # isort: skip  (sets the thread count first)

import time

import jax
import numpy as np
from sklearn.mixture import GaussianMixture

import omt_expfam as omt
from benchmarks.harness.data import bodenmiller, data_directory, merfish, MissingData, reprogramming
from benchmarks.harness.programs import counted
from omt_expfam.families import Gaussian

_SNAPSHOTS, _CELLS, _CANDIDATES = 4, 7000, (2, 4, 6, 8, 10)


def snapshots(num: int, dim: int, seed: int = 0) -> list[np.ndarray]:
    """Points of six groups that move from snapshot to snapshot, a few less each time."""
    rng = np.random.default_rng(seed)
    means, drift = 3 * rng.standard_normal((6, dim)), rng.standard_normal((6, dim))
    shapes = np.linalg.cholesky(spd(rng, 6, dim, 20.0))
    found = []
    for step in range(_SNAPSHOTS):
        labels = rng.choice(6, num - 7 * step, p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05])
        noise = np.einsum("nd,nde->ne", rng.standard_normal((len(labels), dim)), np.swapaxes(shapes, 1, 2)[labels])
        found.append(means[labels] + step * drift[labels] + noise)
    return found


def timed(call) -> tuple[object, float, float, int]:
    """What a call gives, its CPU seconds, wall time, and the programs it compiled."""
    with counted() as programs:
        cpu, wall = time.process_time(), time.perf_counter()
        found = call()
        return found, time.process_time() - cpu, time.perf_counter() - wall, programs.count


def scikit_learn(x: np.ndarray) -> GaussianMixture:
    """scikit-learn's usual loop over the BIC."""
    fits = [GaussianMixture(num, random_state=0).fit(x) for num in _CANDIDATES]
    return min(fits, key=lambda fit: fit.bic(x))


def real_snapshots() -> dict[str, list[np.ndarray]]:
    """Real cells before and after, by name; those that are there."""
    directory, rng, found = data_directory(), np.random.default_rng(0), {}
    try:
        cells = bodenmiller(directory)
        centered = cells.points - cells.points.mean(axis=0)
        scores = centered @ np.linalg.svd(centered, full_matrices=False)[2].T
        for dim in (6, 10):
            found[f"blood, d = {dim}"] = [scores[cells.stimulated == after, :dim] for after in (False, True)]
        fibroblasts = reprogramming(directory)
        days, spread = (fibroblasts.day0, np.concatenate(fibroblasts.day2)), fibroblasts.day0.std(axis=0)
        found["fibroblasts, d = 10"] = [(x / spread)[:, :10] for x in days]
        found["tissue, d = 2"] = [section.places for section in merfish(directory)[:2]]
    except MissingData as error:
        print(f"Left out: {error}")
    return {k: [x[rng.permutation(len(x))[:_CELLS]].astype(float) for x in pair] for k, pair in found.items()}


def measured(name: str, points: list[np.ndarray]) -> list[list[object]]:
    """Rows of the table: the number of components of each snapshot, then plans between neighbors."""
    rows: list[list[object]] = []
    for index, x in enumerate(points):
        peer, peer_cpu, peer_wall, _ = timed(lambda x=x: scikit_learn(x))
        ours, cpu, wall, programs = timed(
            lambda x=x, index=index: omt.select_num_components(jax.random.key(index), x, Gaussian, _CANDIDATES)
        )
        chosen = f"{ours.num_components} / {peer.n_components}"
        gain = float(np.mean(np.asarray(ours.fit.mixture.log_prob(x)))) - peer.score(x)
        rows.append([f"{name}, snapshot {index}", cpu, peer_cpu, wall, peer_wall, programs, chosen, gain])
    for index, (x, y) in enumerate(zip(points, points[1:], strict=False)):
        two = lambda x=x, y=y, index=index: omt.select_plan(jax.random.key(index), x, y, Gaussian, _CANDIDATES)
        peer, peer_cpu, peer_wall, _ = timed(lambda x=x, y=y: (scikit_learn(x), scikit_learn(y)))
        ours, cpu, wall, programs = timed(two)
        chosen = f"{ours.num_components[0]} / {peer[0].n_components}"
        rows.append([f"{name}, plan {index}", cpu, peer_cpu, wall, peer_wall, programs, chosen, np.nan])
    return rows


def main() -> None:
    options = parse(__doc__)
    num, dims = (500, (2,)) if options.quick else (_CELLS, (6, 10))
    rows = [row for dim in dims for row in measured(f"d = {dim}", snapshots(num, dim))]
    for name, points in ({} if options.quick else real_snapshots()).items():
        measured(name, points)  # compiles
        rows += measured(name, points)
    head = ["step", "CPU s", "scikit-learn", "wall s", "scikit-learn", "programs", "K ours / theirs", "nats per point"]
    report(head, rows, options.csv)


if __name__ == "__main__":
    main()
