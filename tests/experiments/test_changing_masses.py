"""Groups that grow and vanish: what is drawn, and what is read from couplings."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.experiments.changing_masses import by_ott, by_pot, cells, Found, GROWTH, of_cells, synthetic


def test_the_synthetic_pair_has_the_growth_that_it_says():
    pair = synthetic(0, 100)
    np.testing.assert_allclose(pair.growth, GROWTH)
    assert len(pair.x) == len(pair.y) == 100
    for group in range(4):
        gap = pair.y[pair.after == group].mean(0) - pair.x[pair.before == group].mean(0)
        np.testing.assert_allclose(gap, 0.5, atol=1.0)


def test_a_type_is_left_out_of_the_cells_after_only():
    rng = np.random.default_rng(0)
    group = np.array(["a", "b", "c"])[rng.integers(0, 3, 300)]
    data = SimpleNamespace(group=group, stimulated=np.arange(300) % 2 == 0, points=rng.normal(size=(300, 2)))
    pair = cells(data, "b", 0, 60)
    assert pair.num_groups == 3
    assert set(pair.before) == {0, 1, 2}
    assert set(pair.after) == {0, 2}
    assert pair.growth[1] == 0
    np.testing.assert_allclose(pair.growth @ np.bincount(pair.before) / 60, 1)


def test_what_a_coupling_says_by_counting():
    pair = synthetic(1, 50)
    coupling = np.random.default_rng(0).uniform(size=(50, 50)) * (1 + 4 * (pair.before[:, None] == pair.after))
    found = of_cells(pair, coupling)
    growth = np.zeros(5)
    for i in range(50):
        # A point after is made of what it receives, in equal parts of all mass.
        made = sum(coupling[i, j] / coupling[:, j].sum() for j in range(50))
        growth[pair.before[i]] += made / np.sum(pair.before == pair.before[i])
    np.testing.assert_allclose(found.growth, growth)
    wrong = sum(coupling[i, j] for i in range(50) for j in range(50) if pair.before[i] != pair.after[j])
    scores = found.scores(pair)
    np.testing.assert_allclose(scores["wrong"], 100 * wrong / coupling.sum())
    np.testing.assert_allclose(scores["mean"], 20 * np.abs(growth - GROWTH).sum())
    assert Found(GROWTH, np.eye(5)).scores(pair) == {"largest": 0.0, "mean": 0.0, "wrong": 0.0}


@pytest.mark.loose
def test_peers_solve_one_problem():
    """Their references differ, by a common factor of the coupling alone."""
    cost = np.random.default_rng(2).uniform(size=(20, 20))
    one, other = by_ott(cost, 0.1, 1.0), by_pot(cost, 0.1, 1.0)
    np.testing.assert_allclose(one / one.sum(), other / other.sum(), rtol=0.05, atol=1e-5)
