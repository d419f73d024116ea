import numpy as np

import omt_expfam as omt
from benchmarks.experiments.sparse_maps import Cells, run_one

SMALL = Cells("strong", 200, 12, 3, (1.0, 2.5))


def test_responses_are_increasing_shifts_of_the_genes_named():
    x, y, moved, truth = SMALL.draw(0)
    change = truth - x
    np.testing.assert_array_equal(np.flatnonzero(np.any(change != 0, axis=0)), moved)
    assert (np.abs(change[:, moved]) >= 0.8 * 1.0).all()
    assert (np.abs(change[:, moved]) <= 1.2 * 2.5).all()
    for j in moved:
        assert (np.diff(truth[np.argsort(x[:, j]), j]) > 0).all()
    # Cells after are other cells, with the same response.
    np.testing.assert_allclose(y.mean(axis=0), truth.mean(axis=0), atol=0.6)
    assert not np.any(y == truth)


def test_what_is_measured_is_of_the_genes_that_respond():
    row = run_one(SMALL, omt.Screen(), 0)
    assert row["moved"] == 3
    assert row["precision"] == row["recall"] == 1
    assert row["error"] < 3
