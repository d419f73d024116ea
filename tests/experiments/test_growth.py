"""Growth between snapshots: what is read from couplings of cells, and how it is scored."""

import numpy as np
import pytest
import scipy.stats

from benchmarks.experiments.growth import EPSILON, of_cells, scores, Step


def step(num=24):
    """Two groups far apart; the second is most of what comes after."""
    rng = np.random.default_rng(0)
    group = np.arange(num) % 2
    before = rng.normal(size=(num, 2)) + 6 * group[:, None]
    later = [rng.normal(size=(num, 2)) + 6 * (np.arange(num) % 6 > 0)[:, None] for _ in range(2)]
    return Step("toy", before, (later[0], later[1]), group.astype(float)), group


@pytest.mark.loose
def test_growth_of_cells_follows_the_shares():
    toy, group = step()
    unit = 36.0
    for growth in of_cells(toy, 0.1 * unit, unit):
        np.testing.assert_allclose(growth.mean(), 1)
        # Shares of a half and a half become a sixth and five sixths, where growth is cheap beside the way.
        np.testing.assert_allclose([growth[group == k].mean() for k in (0, 1)], [1 / 3, 5 / 3], atol=0.25)
    # With a high price all cells have one descendant.
    for growth in of_cells(toy, 1e4 * EPSILON * unit, unit):
        np.testing.assert_allclose(growth, 1, atol=0.05)


def test_scores_are_rank_correlations():
    toy, _ = step()
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 24))
    row = scores([one, other], toy)
    ranks = scipy.stats.rankdata(one), scipy.stats.rankdata(other)
    np.testing.assert_allclose(row["again"], np.corrcoef(*ranks)[0, 1])
    np.testing.assert_allclose(row["spread"], 0.5 * (one.std() + other.std()))
    assert "scores" not in scores([one, other], toy._replace(scores=None))
