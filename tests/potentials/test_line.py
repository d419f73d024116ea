"""The straight line against SciPy's matrix roots and closed forms."""

import jax
import numpy as np
import pytest
import scipy.linalg

from omt_expfam._potentials.interface import AbstractPotential
from omt_expfam._potentials.line import straight_line
from omt_expfam._potentials.members import Members


class HalfSquare(AbstractPotential):
    """|x|^2 / 2, the potential of the identity, in three dimensions."""

    @property
    def num_dimensions(self):
        return 3

    @property
    def strong_convexity(self):
        return 1.0

    def value(self, x):
        return x @ x / 2


@jax.jit
def described(members, x, y):
    """All that a line and its one member say about two points."""
    line = jax.tree.map(lambda leaf: leaf[0], members.line)
    white_x, white_y = jax.vmap(line.whiten_source)(x), jax.vmap(line.whiten_target)(y)
    return {
        "x": white_x,
        "y": white_y,
        "back": (jax.vmap(line.source_point)(white_x), jax.vmap(line.target_point)(white_y)),
        "images": jax.vmap(members.images)(x)[:, 0],
        "gradients": jax.vmap(jax.jacobian(members.values))(x)[:, 0],
        "values": jax.vmap(members.values)(x)[:, 0],
        "conjugates": jax.vmap(line.conjugate)(y, (white_y**2).sum(axis=1) / 2),
        "reverse": jax.vmap(line.reverse().whiten_source)(y),
    }


def samples(sizes=(40, 60), scales=(1.0, 1.0)):
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((2, 3, 3))
    return [
        scale * (rng.standard_normal((size, 3)) @ matrix + rng.standard_normal(3))
        for size, scale, matrix in zip(sizes, scales, mix, strict=True)
    ]


def described_pair(x, y):
    line = straight_line(x, y)
    members = Members(HalfSquare(), jax.tree.map(lambda leaf: leaf[None], line))
    return line, described(members, np.asarray(x, np.float32), np.asarray(y, np.float32)[: len(x)])


def bures(x, y):
    """The Gaussian map between two samples, by SciPy."""
    s0, s1 = np.cov(x.T, bias=True), np.cov(y.T, bias=True)
    root = scipy.linalg.sqrtm(s0)
    inverse = np.linalg.inv(root)
    matrix = inverse @ scipy.linalg.sqrtm(root @ s1 @ root) @ inverse
    return y.mean(axis=0) + (x - x.mean(axis=0)) @ matrix.real


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1e-6, 1e6), (1e6, 1e6), (1e-6, 1e-6)])
def test_the_identity_is_the_gaussian_map(scales):
    x, y = samples(scales=scales)
    _, found = described_pair(x, y)
    expected = bures(x / scales[0], y / scales[1]) * scales[1]
    np.testing.assert_allclose(found["images"], expected, rtol=1e-4, atol=1e-5 * scales[1])
    np.testing.assert_allclose(found["gradients"], found["images"], rtol=1e-4, atol=1e-5 * scales[1])


def test_both_covariances_become_one_diagonal():
    x, y = samples()
    line = straight_line(x, y)
    for points, mean, matrix in (
        (x, line.source_mean, line.source_matrix),
        (y, line.target_mean, line.target_matrix),
    ):
        whitened = (points - np.asarray(mean)) @ np.asarray(matrix).T
        np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.diag(line.variances), atol=1e-5)
    np.testing.assert_allclose(np.asarray(line.variances).mean(), 1, rtol=1e-6)


def test_inner_products_are_kept_and_points_come_back():
    x, y = samples()
    line, found = described_pair(x, y)
    white = np.sum(np.asarray(found["x"]) * np.asarray(found["y"]), axis=1)
    centered = (x - x.mean(axis=0)) * (y[: len(x)] - y.mean(axis=0))
    np.testing.assert_allclose(float(line.scale) ** 2 * white, centered.sum(axis=1), atol=1e-5)
    for back, points in zip(found["back"], (x, y[: len(x)]), strict=True):
        np.testing.assert_allclose(back, points, atol=1e-5)
    np.testing.assert_array_equal(found["reverse"], found["y"])


def test_potentials_and_conjugates_meet_at_images():
    """Fenchel and Young: phi(x) + phi*(y) = <x, y> where y is the image of x, and more elsewhere."""
    x, y = samples()
    _, found = described_pair(x, y)
    images = bures(x, y)
    line = straight_line(x, y)
    white = (images - np.asarray(line.target_mean)) @ np.asarray(line.target_matrix).T
    conjugate = float(line.scale) ** 2 * (white**2).sum(axis=1) / 2 + images @ np.asarray(line.source_mean)
    np.testing.assert_allclose(found["values"] + conjugate, (x * images).sum(axis=1), atol=1e-4)
    gaps = found["values"] + found["conjugates"] - (x * y[: len(x)]).sum(axis=1)
    assert np.asarray(gaps).min() > -1e-4


def test_weights_count_points():
    x, y = samples()
    weight = np.arange(1, len(x) + 1) % 3
    line, repeated = straight_line(x, y, weight), straight_line(np.repeat(x, weight, axis=0), y)
    for one, other in zip(jax.tree.leaves(line), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("case", ["constant in the source", "constant in both", "few points", "one column"])
def test_singular_covariances_give_a_line(case):
    x, y = samples()
    if case == "constant in the source":
        x[:, 1] = 5.0
    elif case == "constant in both":
        x[:, 1], y[:, 1] = 5.0, -3.0
    elif case == "few points":
        x, y = x[:2], y[:3]
    else:
        x, y = x[:, :1], y[:, :1]
    line = straight_line(x, y)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(line))
    white = (x - np.asarray(line.source_mean)) @ np.asarray(line.source_matrix).T
    back = np.asarray(line.source_mean) + float(line.scale) ** 2 * white @ np.asarray(line.target_matrix)
    np.testing.assert_allclose(back, x, atol=1e-3)
