"""Bounds of the distance are honest where it is known, whatever the potential."""

from typing import Any

import jax
import numpy as np
import ot
import pytest
import scipy.linalg

import omt_expfam as omt
from omt_expfam._potentials.certificates import _matched, _sliced
from omt_expfam.families import Gaussian

from .test_map import DIM, numpy_ramps, Quadratic, ramps

NUM = 400


def root_of(matrix):
    root = scipy.linalg.sqrtm(matrix)
    assert np.abs(np.imag(root)).max() < 1e-12
    return np.real(root)


def gaussian_pair():
    """Two covariances, the matrix of the optimal map between them, and their squared distance (Olkin, Pukelsheim)."""
    rng = np.random.default_rng(0)
    first, second = (factor @ factor.T + 0.2 * np.eye(DIM) for factor in rng.standard_normal((2, DIM, DIM)))
    root = root_of(first)
    middle = root_of(root @ second @ root)
    matrix = np.linalg.solve(root, np.linalg.solve(root, middle).T)
    shift = np.array([1.0, -2.0, 0.5])
    return first, matrix, shift, shift @ shift + np.trace(first + second - 2 * middle)


@pytest.fixture(scope="module")
def gaussian_map():
    _, matrix, shift, _ = gaussian_pair()
    # The source is centered at (5, 5, 5).
    slope = 5 + shift - 5 * matrix.sum(axis=1)
    return omt.BrenierMap.from_potential(Quadratic(jax.device_put(matrix), jax.device_put(slope)))


def draw(rng, num=NUM):
    """Points of both laws, independent of each other."""
    first, matrix, shift, _ = gaussian_pair()
    x, other = (5 + rng.multivariate_normal(np.zeros(DIM), first, num) for _ in range(2))
    return x, 5 + shift + (other - 5) @ matrix


def test_bounds_between_gaussians(gaussian_map):
    """With the optimal potential the dual value is the distance, up to its standard error, in many repetitions."""
    distance, rng, scores, matched = gaussian_pair()[3], np.random.default_rng(1), [], []
    for seed in range(25):
        found = gaussian_map.certificate(jax.random.key(seed), *draw(rng))
        scores.append(
            [
                (found.lower - distance) / found.lower_standard_error,
                (found.map_cost - distance) / found.map_cost_standard_error,
            ]
        )
        matched.append(found.upper)
        assert 0 <= found.inner_error < 1e-9
    scores = np.array(scores)
    # Means within 4 standard errors of 0, deviations near 1.
    assert np.all(np.abs(scores.mean(axis=0)) < 4 / np.sqrt(len(scores)))
    assert np.all((scores.std(axis=0) > 0.6) & (scores.std(axis=0) < 1.5))
    assert np.mean(matched) > distance


def test_a_wrong_potential_proves_less(gaussian_map):
    """The dual value of another convex function stays below; its images are told from targets."""
    x, y = draw(np.random.default_rng(2))
    plain = Quadratic(jax.device_put(np.eye(DIM)), jax.device_put(np.zeros(DIM)))
    wrong = omt.BrenierMap.from_potential(plain).certificate(jax.random.key(0), x, y)
    right = gaussian_map.certificate(jax.random.key(0), x, y)
    assert wrong.lower < gaussian_pair()[3] - 4 * wrong.lower_standard_error
    # The identity moves nothing; as to its dual value, |x|^2 - |x|^2 + |y|^2 - |y|^2 = 0.
    assert wrong.map_cost == 0
    assert abs(wrong.lower) < 1e-9
    assert wrong.sliced > 5 * wrong.sliced_floor
    assert wrong.mmd > 10 * abs(wrong.mmd_floor)
    assert right.sliced < 3 * right.sliced_floor
    assert right.mmd < 0.1 * wrong.mmd


def test_the_image_of_a_convex_function(gaussian_map):
    """The distance between a law and its image under a gradient is the mean square that points move."""
    rng, potential = np.random.default_rng(3), ramps(0)
    x, many = rng.standard_normal((NUM, DIM)), rng.standard_normal((200_000, DIM))
    y = numpy_ramps(potential, rng.standard_normal((NUM, DIM)))[1]
    moved = np.sum((numpy_ramps(potential, many)[1] - many) ** 2, axis=1)
    source, target = (omt.Mixture([1.0], Gaussian(p.mean(axis=0)[None], np.cov(p.T)[None])) for p in (x, y))
    plan = omt.transport(source, target, epsilon_components=0.0, epsilon_weights=0.1)
    found = omt.BrenierMap.from_potential(potential).certificate(jax.random.key(0), x, y, plan)
    assert abs(found.lower - moved.mean()) < 4 * found.lower_standard_error
    assert found.plan_cost == float(plan.cost)
    assert found.upper > found.lower
    text = repr(found)
    assert "W2^2 at least" in text
    assert f"{found.plan_cost:.5g}" in text


def test_parts_against_pot():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((100, DIM)), 2 * rng.standard_normal((100, DIM)) + 1
    ways = rng.standard_normal((DIM, 200))
    ways /= np.linalg.norm(ways, axis=0)
    expected: Any = ot.sliced_wasserstein_distance(x, y, n_projections=20_000, seed=0)
    np.testing.assert_allclose(_sliced(rng, x, y), expected**2, rtol=0.1)
    costs = [ot.emd2([], [], ot.dist(x[i : i + 25], y[i : i + 25])) for i in range(0, 100, 25)]
    np.testing.assert_allclose(_matched(x, y), costs, rtol=1e-10)


def test_refusals(gaussian_map):
    with pytest.raises(ValueError, match="`y` must have at least 16 points; got 3"):
        gaussian_map.certificate(jax.random.key(0), np.zeros((20, DIM)), np.zeros((3, DIM)))
    with pytest.raises(TypeError, match="concrete"):
        jax.jit(lambda x: gaussian_map.certificate(jax.random.key(0), x, x))(np.zeros((20, DIM)))
