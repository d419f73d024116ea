"""List the benchmarks: ``python -m benchmarks``; run one as ``python -m benchmarks.NAME``, quicker with ``--quick``."""

import ast
from pathlib import Path

if __name__ == "__main__":
    found = {
        p.stem: ast.get_docstring(ast.parse(p.read_text())) for p in sorted(Path(__file__).parent.glob("[!_]*.py"))
    }
    width = max(map(len, found))
    for name, text in found.items():
        print(f"python -m benchmarks.{name:<{width}}  {(text or '').splitlines()[0]}")
