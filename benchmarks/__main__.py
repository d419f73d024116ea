"""The benchmarks: ``python -m benchmarks`` lists them, ``python -m benchmarks.NAME`` runs one, ``--quick`` a small one.

``python -m benchmarks --quick [NAME ...]`` runs those named, or all, at their smallest: a check that they run.
"""

import argparse
import ast
import contextlib
import importlib
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, NoReturn

import jax
from jax._src.xla_bridge import backends_are_initialized

from benchmarks.harness.xla_flags import xla_flags

PATHS = {
    f"{folder}.{path.stem}": path
    for folder in ("experiments", "speed")
    for path in sorted((Path(__file__).parent / folder).glob("[!_]*.py"))
}
# Calibration is run by a test of its own; mutations have no small size.
ALL = [name for name in PATHS if name not in ("experiments.calibration", "speed.mutations")]
# Loaded once: each benchmark runs in a fork, before JAX has started.
SHARED = [
    "benchmarks.harness.experiment",
    "benchmarks.harness.networks",
    "benchmarks.harness.peers",
    "arviz",
    "matplotlib.pyplot",
]
SHARED += ["omt_expfam.diagnostics", "omt_expfam.families", "numpyro.infer"]
# Seconds for one at its smallest; the slowest takes three minutes, and more where others run beside it.
LIMIT = 900


def list_all() -> None:
    """Print the first lines of all."""
    found = {name: ast.get_docstring(ast.parse(path.read_text())) for name, path in PATHS.items()}
    width = max(map(len, found))
    for name, text in found.items():
        print(f"python -m benchmarks.{name:<{width}}  {(text or '').splitlines()[0]}")


def run_one(name: str, output: IO[str]) -> NoReturn:
    """Run a benchmark as from the command line, and end this process."""
    code = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        sys.argv = [name, "--quick"]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = 0 if stop.code in (None, 0) else 1
        print(stop.code or "")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run_small(names: list[str], slots: int = 2) -> int:
    """Run benchmarks side by side, print the seconds of each and the output of those that fail; how many do."""
    # What small sizes run is not worth optimizing. JAX is loaded and has read its environment; what is started has not.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    jax.config.update("jax_disable_most_optimizations", True)
    os.environ.setdefault("XLA_FLAGS", xla_flags())
    for name in SHARED:
        # Some of it is optional.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if backends_are_initialized():
        sys.exit("a module starts JAX when it is loaded: a fork of this process would wait for ever")
    waiting, running, failures = list(names), {}, 0
    while waiting or running:
        while waiting and len(running) < slots:
            name, output = waiting.pop(0), tempfile.TemporaryFile("w+")
            sys.stdout.flush()
            child = os.fork()
            if not child:
                # One that stands still is ended by this alarm, and fails.
                signal.alarm(LIMIT)
                run_one(name, output)
            running[child] = name, output, time.perf_counter()
        child, status, usage = os.wait3(0)
        name, output, begin = running.pop(child)
        cpu, wall = usage.ru_utime + usage.ru_stime, time.perf_counter() - begin
        print(f"{name:<30} {cpu:6.1f} CPU s {wall:6.1f} s{' FAILED' if status else ''}")
        if status:
            failures += 1
            output.seek(0)
            print(output.read())
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="run them at small sizes, a check that they run")
    parser.add_argument("names", nargs="*", metavar="NAME", help="those to run (default: all)")
    options = parser.parse_args()
    if options.quick:
        sys.exit(run_small(options.names or ALL) > 0)
    list_all()
