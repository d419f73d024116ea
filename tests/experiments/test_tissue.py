import numpy as np
import pytest

import omt_expfam as omt
from benchmarks.experiments import tissue
from benchmarks.harness.data import Section
from omt_expfam.families import Gaussian


def section(num, seed, genes=3):
    rng = np.random.default_rng(seed)
    places = rng.uniform([-890, -920], [890, 880], (num, 2)).astype(np.float32)
    return Section(places, rng.exponential(1, (num, genes)).astype(np.float32), np.full(num, "any"))


def test_bins_are_those_of_a_histogram():
    cells = section(500, 0)
    edges = [corner + 60 * np.arange(32) for corner in (-900, -930)]
    sums, counts = tissue.binned(cells.places, cells.expression)
    for gene, values in enumerate(cells.expression.T):
        expected = np.histogram2d(*cells.places.T.astype(float), bins=edges, weights=values)[0]
        np.testing.assert_allclose(sums[:, gene].reshape(33, 33)[1:-1, 1:-1], expected, atol=1e-5)
    np.testing.assert_array_equal(
        counts.reshape(33, 33)[1:-1, 1:-1], np.histogram2d(*cells.places.T.astype(float), bins=edges)[0]
    )


def test_cells_outside_the_grid_are_kept_apart():
    sums, counts = tissue.binned([[-5000.0, 0.0], [5000.0, 5000.0]], [[2.0], [3.0]])
    grid = sums.reshape(33, 33)
    assert counts.sum() == 2
    assert grid[0].sum() == 2
    assert grid[-1, -1] == 3
    assert not grid[1:-1, 1:-1].any()


def test_scores_are_a_cosine_and_a_correlation():
    # Six bins of four cells each, so that every bin counts; the prediction has other cells in the same bins.
    rng = np.random.default_rng(1)
    places = np.repeat([[-870.0 + 60 * i, -900.0] for i in range(6)], 4, axis=0)
    truth, mine = rng.exponential(1, (2, 24, 2))
    cosines, correlations = tissue.scores(places, mine, Section(places, truth, np.full(24, "any")))
    for gene in range(2):
        sums = [values[:, gene].reshape(6, 4).sum(axis=1) for values in (mine, truth)]
        assert cosines[gene] == pytest.approx(sums[0] @ sums[1] / np.prod(np.linalg.norm(sums, axis=1)))
        assert correlations[gene] == pytest.approx(np.corrcoef(sums)[0, 1])


def test_the_true_section_scores_one_and_unexpressed_genes_zero():
    cells = section(4000, 2)
    np.testing.assert_allclose(tissue.scores(cells.places, cells.expression, cells), 1)
    np.testing.assert_array_equal(tissue.scores(cells.places, 0 * cells.expression, cells)[0], 0)


def test_averages_of_components_follow_the_plan():
    source, target = section(60, 3), section(50, 4)
    covariance = np.stack([np.eye(2) * 300.0**2] * 2).astype(np.float32)
    means = np.array([[[-500, 0], [500, 0]], [[0, -500], [0, 500]]], np.float32)
    laws = [
        omt.Mixture(np.array(w, np.float32), Gaussian(m, covariance))
        for w, m in zip(([0.3, 0.7], [0.6, 0.4]), means, strict=True)
    ]
    plan = omt.transport(*laws, epsilon_components=1e3, epsilon_weights=1e5)
    moved, unmoved = tissue.of_components(plan, source, target)

    def posterior(weights, mean, points):
        table = weights * np.exp(-0.5 * ((points[:, None] - mean) ** 2).sum(-1) / 300.0**2)
        return table / table.sum(axis=1, keepdims=True)

    shares = posterior([0.3, 0.7], means[0], source.places)
    averages = shares.T @ source.expression / shares.sum(axis=0)[:, None]
    backward = (np.asarray(plan.weights) / np.asarray(plan.weights).sum(axis=0)).T
    np.testing.assert_allclose(moved, posterior([0.6, 0.4], means[1], target.places) @ backward @ averages, rtol=2e-3)
    np.testing.assert_allclose(unmoved, posterior([0.3, 0.7], means[0], target.places) @ averages, rtol=2e-3)


def test_nearest_cells_score_what_the_data_say(data_dir):
    source, target, genes = tissue.sections(data_dir, tissue.Study())
    cosines, _ = tissue.scores(target.places, tissue.of_neighbors(source, target, 1), target)
    known = {"Gad1": 0.87, "Slc17a6": 0.78, "Aqp4": 0.73, "Mbp": 0.71}
    known |= {"Cck": 0.61, "Nts": 0.40, "Slc17a7": 0.39, "Penk": 0.36}
    assert {gene: round(float(cosines[genes.index(gene)]), 2) for gene in known} == known
