"""List the benchmarks: ``python -m benchmarks``; run one as ``python -m benchmarks.NAME``, quicker with ``--quick``."""

import importlib
import pkgutil

import benchmarks

if __name__ == "__main__":
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if not module.name.startswith("_"):
            summary = (importlib.import_module(f"benchmarks.{module.name}").__doc__ or "").splitlines()[0]
            print(f"python -m benchmarks.{module.name:<8} {summary}")
