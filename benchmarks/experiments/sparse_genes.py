"""Sparse maps of real cells in gene space: as `sparse_cells`, of 2,000 genes."""

from benchmarks.harness.experiment import Results, run  # isort: skip  (sets the thread count first)

import argparse

from benchmarks.experiments.sparse_cells import study
from benchmarks.harness.data import kang_genes


def experiment(options: argparse.Namespace, results: Results) -> None:
    cells = kang_genes(options.data, 60 if options.quick else 2000)
    sides = cells.points[~cells.stimulated], cells.points[cells.stimulated]
    sizes, seeds = ((150, 40), 1) if options.quick else ((500, 200), 2)
    study("genes", sides, sizes, options.seeds or seeds, options.quick, results)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
