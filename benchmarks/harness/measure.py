"""Timing, memory and tables for the benchmarks."""

import argparse
import csv
import os

# jaxlib's and SciPy's OpenBLAS threads spin when idle; with few cores that slows whoever is measured next.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# With two threads, XLA can wait for ever for batches of factorizations that it runs side by side (jaxlib 0.10.2).
os.environ.setdefault("PJRT_NPROC", "4")

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np


def parse(description: str | None, figure: bool = False) -> argparse.Namespace:
    """The options that every benchmark takes, and where to put a figure, for those that draw one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, a check that the script runs")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    if figure:
        parser.add_argument("--figure", type=Path, help="also draw a figure into this file")
    return parser.parse_args()


def seconds(function: Callable[[], Any], repeats: int = 3) -> tuple[float, float]:
    """Seconds of the first call (with compilation) and of the fastest later one."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:], default=times[0])


def in_own_process(module: str, *arguments: str) -> str:
    """What ``python -m module arguments`` prints: for peak memory, which a process keeps, and for first calls."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def resident_memory() -> float:
    """Memory of this process in MiB, now (on Linux)."""
    return memory("VmRSS")


def peak_memory() -> float:
    """Largest memory of this process so far in MiB; its difference to what was resident is an upper bound.

    From the kernel's own high-water mark: ``getrusage`` counts what the parent of a child process held at its start.
    """
    return memory("VmHWM")


def memory(name: str) -> float:
    """A line of the kernel's account of this process, MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 2**10


def spd(rng: np.random.Generator, num: int, dim: int, condition: float) -> np.ndarray:
    """Random covariance matrices of about the given condition number."""
    basis = np.linalg.qr(rng.standard_normal((num, dim, dim)))[0]
    values = condition ** rng.uniform(-0.5, 0.5, (num, dim))
    return np.einsum("kij,kj,klj->kil", basis, values, basis)


def report(header: Sequence[str], rows: Sequence[Sequence[Any]], path: Path | None, shown: bool = True) -> None:
    """Print a table and write it where asked; floats with three digits, ``None`` as nothing."""
    text = [["" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    if shown:
        widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
        for line in [list(header), *text]:
            print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if path is not None:
        with path.open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([list(header), *text])
