import numpy as np
import pytest
import scipy.stats

from benchmarks.experiments.which_map import coverage, energy_distance


def test_energy_distance_on_the_line():
    """SciPy's is the square root of the biased one: distances of points to themselves are counted."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 1)), rng.normal(size=(40, 1)) + 1
    biased = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    within = [np.abs(z - z.T).mean() / (len(z) - 1) for z in (x, y)]
    assert energy_distance(x, y) == pytest.approx(biased - sum(within), rel=1e-10)


def test_coverage_of_normal_errors():
    rng = np.random.default_rng(1)
    images, spread = rng.normal(size=(2, 5000, 2)) ** [[[1.0]], [[2.0]]]
    truth = images + spread * rng.normal(size=images.shape)
    expected = [100 * (2 * scipy.stats.norm.cdf(k) - 1) for k in (1, 2)]
    np.testing.assert_allclose(coverage(images, spread, truth), expected, atol=2)
