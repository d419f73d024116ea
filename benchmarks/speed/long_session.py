"""Memory of a long session: fits of many numbers of points and components, transports and maps.

Programs are shared between neighboring sizes, so memory must settle; the script fails where it grows.
"""

from benchmarks.harness.measure import parse, report, resident_memory  # isort: skip  (sets the thread count first)

import sys

import jax
import numpy as np

import omt_expfam as omt
from benchmarks.harness.programs import counted
from omt_expfam.families import Gaussian

# Growth beyond the first ten rounds that is allowed, in MiB.
_LIMIT = 300
_FIRST = 10


def main() -> None:
    options = parse(__doc__)
    rounds = 12 if options.quick else 200
    rng, rows = np.random.default_rng(0), []
    with counted() as programs:
        for index in range(rounds):
            sizes = rng.integers(60, 3000, 2)
            numbers = rng.integers(1, 9, 2)
            fits = [
                omt.fit(jax.random.key(index), 3 * rng.standard_normal((n, 2)) ** 3, Gaussian, int(k), throw=False)
                for n, k in zip(sizes, numbers, strict=True)
            ]
            source, target = (fit.mixture for fit in fits)
            plan = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.5)
            x = rng.standard_normal((int(sizes[0]), 2))
            np.asarray(plan.push_forward(x))
            np.asarray(plan.sample(jax.random.key(index), x))
            if (index + 1) % max(1, rounds // 10) == 0 or index + 1 == _FIRST:
                rows.append([index + 1, round(resident_memory()), programs.count])
    report(["rounds", "memory MiB", "programs"], rows, options.csv)
    growth = rows[-1][1] - next(row[1] for row in rows if row[0] >= _FIRST)
    print(f"growth after the first {_FIRST} rounds: {growth} MiB")
    if growth > _LIMIT:
        sys.exit(f"Memory grew by {growth} MiB; at most {_LIMIT} are allowed.")


if __name__ == "__main__":
    main()
