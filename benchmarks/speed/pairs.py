"""Transport between mixtures of many Gaussians: the pairs that may carry mass, beside all pairs.

Seconds of a plan of its own process, compilation included, the largest memory of that process, how many pairs there are
and how many were computed, what the others carry at most, the cost, and seconds of the map of 10,000 points. Components
of both sides have full covariances and lie around 200 common places, those of the target a little away from them.
"""

from benchmarks.harness.measure import in_own_process, parse, peak_memory, report  # isort: skip  (sets threads)

import sys
import time

import jax
import numpy as np

import omt_expfam as omt
from omt_expfam.families import Gaussian

_PLACES, _SHARE, _POINTS = 200, 1e-3, 10_000


def mixture(num: int, dim: int, seed: int) -> omt.Mixture:
    """Components around common places."""
    places = 2 * np.random.default_rng(0).standard_normal((_PLACES, dim))
    rng = np.random.default_rng(seed)
    mean = places[rng.integers(0, _PLACES, num)] + 0.3 * (seed - 1) + rng.standard_normal((num, dim))
    turn = np.linalg.qr(rng.standard_normal((num, dim, dim)))[0]
    root = turn * np.sqrt(rng.gamma(3.0, 1 / 3, (num, 1, dim)))
    weights = rng.gamma(1.0, size=num)
    return omt.Mixture(weights / weights.sum(), Gaussian(mean, root @ np.swapaxes(root, 1, 2)))


def one(how: str, num: int, dim: int) -> None:
    """Transport in this process, and print what was measured."""
    source, target = mixture(num, dim, 1), mixture(num, dim, 2)
    x = source.sample(jax.random.key(0), _POINTS)
    begin = time.perf_counter()
    if how == "all":
        plan = omt.transport(source, target)
        numbers = [num * num, num * num, 0.0]
    else:
        plan = omt.transport(source, target, pair_tolerance=_SHARE)
        numbers = [plan.num_pairs, int(plan.num_computed), float(plan.left_out)]
    middle = time.perf_counter()
    jax.block_until_ready(plan.push_forward(x))
    end = time.perf_counter()
    print(middle - begin, peak_memory(), *numbers, float(plan.cost), end - middle)


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[1] in ("all", "few"):
        one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return
    options = parse(__doc__)
    cases = [("all", 40, 3), ("few", 40, 3)]
    if not options.quick:
        cases = [(how, num, 30) for num in (300, 1000) for how in ("all", "few")] + [("few", 5000, 30)]
    rows = []
    for how, num, dim in cases:
        words = in_own_process("benchmarks.speed.pairs", how, str(num), str(dim)).split()[-7:]
        seconds, memory, pairs, computed, share, cost, mapped = map(float, words)
        rows.append([num, dim, how, seconds, memory, int(pairs), int(computed), share, f"{cost:.6g}", mapped])
    header = ["K", "d", "pairs of the plan", "seconds", "MiB", "pairs", "computed", "others carry", "cost", "map, s"]
    report(header, rows, options.csv)


if __name__ == "__main__":
    main()
