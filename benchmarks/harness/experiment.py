"""What the experiments on real data share: their options, where tables and pictures go, and what ran them.

An experiment is a module with a function ``experiment(options, results)`` and, at its end,
``run(__doc__, __spec__, experiment)``.
"""

from benchmarks.harness.measure import report  # isort: skip  (sets the thread count first)

import argparse
import contextlib
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import omt_expfam
from benchmarks.harness.data import data_directory, MissingData

ROOT = Path(__file__).parents[2]
TABLES, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
PACKAGES = ("jax", "ott-jax", "POT", "scikit-learn", "flax", "numpy")


class Results:
    """Prints tables, and writes tables and pictures where asked.

    Attributes:
        name: The experiment; every file's name begins with it.
    """

    name: str

    def __init__(self, name: str, tables: Path | None, pictures: Path | None) -> None:
        self.name = name
        self._tables, self._pictures = tables, pictures
        for directory in (tables, pictures):
            if directory is not None:
                directory.mkdir(parents=True, exist_ok=True)

    def table(self, part: str, header: Sequence[str], rows: Sequence[Sequence[Any]], shown: bool = True) -> None:
        """Print a table (unless it is long) and write it to ``NAME_part.csv``, or ``NAME.csv`` for an empty part."""
        if shown:
            print(f"\n{self._stem(part)}")
        with _replacing(self._tables, f"{self._stem(part)}.csv") as draft:
            report(header, rows, draft, shown)

    def figure(self, part: str, figure: Any, dpi: int = 75) -> None:
        """Write a picture to ``NAME_part.png``, or ``NAME.png`` for an empty part, and close it."""
        import matplotlib.pyplot as plt

        with _replacing(self._pictures, f"{self._stem(part)}.png") as draft:
            if draft is not None:
                figure.savefig(draft, dpi=dpi, bbox_inches="tight")
        plt.close(figure)

    def _stem(self, part: str) -> str:
        return f"{self.name}_{part}" if part else self.name


def mean_and_deviation(values: Sequence[float], form: str, deviation_form: str | None = None) -> str:
    """Mean ± standard deviation of repetitions as text: the mean alone of one, nothing of none."""
    if not len(values):
        return ""
    text = format(np.mean(values), form)
    return text if len(values) < 2 else f"{text} ± {np.std(values, ddof=1):{deviation_form or form}}"


@contextlib.contextmanager
def _replacing(directory: Path | None, name: str) -> Iterator[Path | None]:
    """A file to write, which takes the given name once it is complete; nothing without a directory."""
    if directory is None:
        yield None
        return
    draft = directory / f".{os.getpid()}-{name}"
    try:
        yield draft
        draft.replace(directory / name)
    finally:
        draft.unlink(missing_ok=True)


def versions() -> tuple[list[str], list[str]]:
    """What ran an experiment, as a table of one row: this library's version and commit, peers, and the machine."""
    found = {"omt-expfam": omt_expfam.__version__, "commit": _commit()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    found |= {"Python": platform.python_version(), "cores": str(len(os.sched_getaffinity(0)))}
    found["date"] = datetime.date.today().isoformat()
    return list(found), list(found.values())


def _commit() -> str:
    """The commit of the sources, marked where they differ from it."""
    code, git = ["--", "omt_expfam", "families", "benchmarks/**/*.py"], ["git", "-C", str(ROOT)]
    named = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if named.returncode:
        return "unknown"
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *code]).returncode
    return named.stdout.strip() + ("-dirty" if changed else "")


def run(description: str | None, spec: Any, experiment: Callable[[argparse.Namespace, Results], None]) -> None:
    """Run an experiment with the options of the command line; without its data, say so."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes, a check that the script runs")
    parser.add_argument("--data", type=Path, help="directory of the data sets (default: OMT_DATA)")
    parser.add_argument("--seeds", type=int, help="number of repetitions")
    parser.add_argument("--out", type=Path, help="write tables and pictures into this directory")
    parser.add_argument("--save", action="store_true", help="write them where the documentation takes them from")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}.")
    if options.quick and options.save:
        parser.error("--save keeps full results: leave --quick out, or write with --out.")
    options.data = data_directory(options.data)
    places = (TABLES, PICTURES) if options.save else (options.out, options.out)
    results = Results(spec.name.rpartition(".")[2], *places)
    try:
        experiment(options, results)
    except MissingData as error:
        if not options.quick:
            sys.exit(str(error))
        print(f"{error} Nothing was run.")
        return
    header, row = versions()
    results.table("versions", header, [row])
