"""Timing, memory and tables for the benchmarks."""

import argparse
import os

# jaxlib's and SciPy's OpenBLAS threads spin when idle; with few cores that slows whoever is measured next.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

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


def spd(rng: np.random.Generator, num: int, dim: int, condition: float) -> np.ndarray:
    """Random covariance matrices of about the given condition number."""
    basis = np.linalg.qr(rng.standard_normal((num, dim, dim)))[0]
    values = condition ** rng.uniform(-0.5, 0.5, (num, dim))
    return np.einsum("kij,kj,klj->kil", basis, values, basis)


def report(header: Sequence[str], rows: Sequence[Sequence[Any]], csv: Path | None) -> None:
    """Print a table and write it where asked."""
    text = [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *text]) for i in range(len(header))]
    for line in [list(header), *text]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    if csv is not None:
        csv.write_text("\n".join(",".join(line) for line in [list(header), *text]) + "\n")
