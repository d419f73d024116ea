import numpy as np
import pytest
import scipy.linalg

import omt_expfam as omt
from benchmarks.experiments import colors, shapes
from omt_expfam.families import Gaussian


def test_shapes_are_what_their_names_say():
    points = shapes.draw(np.random.default_rng(0), 2000)
    assert len(points) == 8
    assert all(each.shape == (2000, 2) for each in points.values())
    assert (np.floor(points["checkerboard"]).sum(axis=1) % 2 == 0).all()
    assert (np.abs(points["cross"]).min(axis=1) <= 0.12).all()
    angle = np.arctan2(*points["eight Gaussians"].T[::-1]) / (np.pi / 4)
    assert set(np.round(angle).astype(int) % 8) == set(range(8))
    radius = np.linalg.norm(points["circles"], axis=1)
    assert (np.minimum(np.abs(radius - 0.5), np.abs(radius - 1)) < 0.25).all()


def test_turning_is_a_rotation():
    points, angle = np.random.default_rng(1).normal(size=(5, 2)), np.linspace(0, 3, 5)
    whole = (points @ [1, 1j]) * np.exp(1j * angle)
    np.testing.assert_allclose(shapes.turned(points, angle), np.c_[whole.real, whole.imag])


def test_samples_share_the_scale_of_the_first():
    first, second = shapes.standardized(np.random.default_rng(2), 3000, 1000)["spiral"]
    np.testing.assert_allclose([first.mean(axis=0), first.std(axis=0)], [[0, 0], [1, 1]], atol=1e-5)
    np.testing.assert_allclose([second.mean(axis=0), second.std(axis=0)], [[0, 0], [1, 1]], atol=0.15)


def test_draws_by_pot_between_single_components_are_the_linear_map():
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(2, 2, 2))
    covariances = np.einsum("kij,klj->kil", factors, factors) + np.eye(2)
    means = rng.normal(size=(2, 1, 2))
    laws = [
        omt.Mixture(np.ones(1, np.float32), Gaussian(m.astype(np.float32), s[None].astype(np.float32)))
        for m, s in zip(means, covariances, strict=True)
    ]
    root = scipy.linalg.sqrtm(covariances[0])
    inverse = np.linalg.inv(root)
    matrix = inverse @ scipy.linalg.sqrtm(root @ covariances[1] @ root) @ inverse
    points = rng.normal(size=(6, 2))
    np.testing.assert_allclose(shapes.pot_draws(*laws, 0)(points), (points - means[0]) @ matrix + means[1], rtol=1e-4)


def test_measurements_by_hand():
    rng = np.random.default_rng(4)
    test, mine, fresh = rng.normal(size=(3, 40, 2)).astype(np.float32)
    found = shapes.measure(mine, test, fresh, 20)

    def kernel(a, b):
        return np.exp(-((a[:, None].astype(float) - b) ** 2).sum(-1) / (2 * 0.25**2))

    within = [(kernel(p, p).sum() - 40) / (40 * 39) for p in (mine, fresh)]
    assert found["mmd"] == pytest.approx(100 * (sum(within) - 2 * kernel(mine, fresh).mean()), rel=1e-4)
    assert found["cost"] == pytest.approx(((mine - test) ** 2).sum() / 40, rel=1e-5)
    assert found["divergence"] > 0


def test_roughness_of_a_change_of_color():
    before = np.random.default_rng(5).random((4, 5, 3))
    assert colors.roughness(before, before + 0.1) == pytest.approx(0)
    after = before.copy()
    after[2, 2, 0] += 0.3
    # Four of the 31 pairs of neighbors hold the changed pixel.
    assert colors.roughness(before, after) == pytest.approx(4 * 0.3 / 31)


def test_parts_make_the_whole():
    points = np.arange(21.0).reshape(7, 3)
    np.testing.assert_array_equal(colors.in_parts(lambda part: 2 * part, points, 3), 2 * points)
