"""Fits of more points than one wants in memory: a file that is read by rows, beside the same points in memory.

Seconds of one EM step (a pass over all points) and the largest memory of a process that fits one or the other. That of
one that maps a file has in it what was read of the file, which the system takes back when it needs it: the last column
is without.
"""

from benchmarks.harness.measure import in_own_process, memory, parse, peak_memory, report  # isort: skip  (sets threads)

import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np

import omt_expfam as omt
from omt_expfam._fitting.rows import Rows
from omt_expfam.families import Gaussian

_STEPS = 3


def write(path: Path, num: int, dim: int, num_components: int) -> None:
    """Points around as many means, in float32."""
    rng = np.random.default_rng(0)
    means = 3 * rng.standard_normal((num_components, dim))
    file = np.lib.format.open_memmap(path, "w+", np.float32, (num, dim))
    for first in range(0, num, 100_000):
        labels = rng.integers(0, num_components, min(100_000, num - first))
        file[first : first + len(labels)] = means[labels] + rng.standard_normal((len(labels), dim))
    file.flush()


def one(path: str, how: str, num_components: int) -> None:
    """Fit in this process, and print seconds per step, the largest memory, and that without the file."""
    x = Rows(np.load(path, mmap_mode="r")) if how == "file" else np.load(path)
    most, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            most[0] = max(most[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = np.load(path, mmap_mode="r")[: 1000 * num_components : 1000 if len(x) > 1000 * num_components else 1]
    start, times = start[:num_components], []
    # The first one compiles.
    for steps in (1, 1, 1 + _STEPS):
        begin = time.perf_counter()
        fit = omt.fit(
            jax.random.key(0), x, Gaussian, num_components, start=start, max_steps=steps, tolerance=0.0, throw=False
        )
        jax.block_until_ready(fit.mixture)
        times.append(time.perf_counter() - begin)
    done.set()
    watcher.join()
    print((times[2] - times[1]) / _STEPS, peak_memory(), most[0], float(fit.log_likelihood))


def main() -> None:
    if len(sys.argv) == 4 and sys.argv[2] in ("file", "memory"):
        one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        return
    options = parse(__doc__)
    sizes = [(20_000, 5, 4)] if options.quick else [(1_000_000, 20, 20), (10_000_000, 20, 20)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for num, dim, num_components in sizes:
            path = Path(folder) / "points.npy"
            write(path, num, dim, num_components)
            found = {}
            for how in ("memory", "file"):
                out = in_own_process("benchmarks.speed.rows", str(path), how, str(num_components))
                found[how] = [float(word) for word in out.split()[-4:]]
            for how, (seconds, peak, anonymous, log_likelihood) in found.items():
                ratio = seconds / found["memory"][0]
                rows.append([f"n = {num}", how, seconds, ratio, peak, anonymous, f"{log_likelihood:.6f}"])
    head = ["points", "from", "s per step", "ratio", "peak MiB", "without the file", "log-likelihood"]
    report(head, rows, options.csv)


if __name__ == "__main__":
    main()
