"""One-dimensional maps: exact where the data are, smooth where they suffice, and their dual values."""

import numpy as np
import pytest
import scipy.integrate

from omt_expfam._potentials.monotone import fit_monotone, Lines


def test_affine_maps_are_known_as_well_as_their_two_numbers():
    """The error of an estimated shift and scale, and no more than half as much again."""
    errors, floors = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x, y = rng.standard_normal((2, 1000, 10))
        truth = 0.7 * x + 0.5
        found = fit_monotone(x, 0.7 * y + 0.5).lines.images(x)
        errors.append(np.mean((found - truth) ** 2))
        scale = (0.7 * y).std(axis=0) / x.std(axis=0)
        straight = (x - x.mean(axis=0)) * scale + 0.5 + 0.7 * y.mean(axis=0)
        floors.append(np.mean((straight - truth) ** 2))
    assert np.mean(errors) < 1.5 * np.mean(floors)


def test_bends_are_kept_where_points_show_them():
    """Among affine maps, one whose slope jumps: it has a firmness of its own."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4000, 8))
    y[:, 3] = np.where(y[:, 3] > 0, 4 * y[:, 3], 0.2 * y[:, 3])
    found = fit_monotone(x, y).lines.images(x)
    truth = np.where(x[:, 3] > 0, 4 * x[:, 3], 0.2 * x[:, 3])
    assert np.mean((found[:, 3] - truth) ** 2) < 0.02 * np.var(truth)
    line = (x - x.mean(axis=0)) * y.std(axis=0) / x.std(axis=0) + y.mean(axis=0)
    error, floor = (np.mean(np.delete(images - x, 3, axis=1) ** 2) for images in (found, line))
    assert error < 1.3 * floor


@pytest.mark.parametrize("weighted", [False, True])
def test_values_at_quantiles_are_quantiles(weighted):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3000, 2)), np.exp(rng.standard_normal((3000, 2)))
    weights = [rng.random(3000) + 0.5 for _ in range(2)] if weighted else [None, None]
    found = fit_monotone(x, y, weights[0], weights[1]).lines
    grid = np.linspace(0.05, 0.85, 17)
    options = [{} if w is None else {"weights": w, "method": "inverted_cdf"} for w in weights]
    for j in range(2):
        ends = [np.quantile(side[:, j], grid, **one) for side, one in zip((x, y), options, strict=True)]
        image = found.images(np.column_stack([ends[0]] * 2))[:, j]
        np.testing.assert_allclose(image, ends[1], atol=0.15, rtol=0.05)


def test_inverses_and_integrals_are_what_they_say():
    lines = Lines(np.array([[-1.0, 0.0, 2.0]]), np.array([[0.0, 3.0, 4.0]]), np.array([[2.0, 0.5]]))
    x = np.linspace(-4, 5, 37)[:, None]
    np.testing.assert_allclose(lines.inverse().images(lines.images(x)), x, atol=1e-12)
    exact = [
        scipy.integrate.quad(lambda t: lines.images(np.array([[t]]))[0, 0], -1, end, points=(-1, 0, 2))[0]
        for end in x[:, 0]
    ]
    np.testing.assert_allclose(lines.integrals(x)[:, 0], exact, atol=1e-9)


def test_dual_values_are_bounds_of_the_distance():
    """Under its own map the dual value of any potential is the mean square that points move; elsewhere it is less."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 3)), np.exp(rng.standard_normal((300, 3)))
    lines = fit_monotone(x, y).lines
    images = lines.images(x)
    first, second = lines.terms(x, images)
    np.testing.assert_allclose(first.mean(axis=0) + second.mean(axis=0), np.mean((images - x) ** 2, axis=0), rtol=1e-9)
    first, second = lines.terms(x, y)
    exact = np.mean((np.sort(x, axis=0) - np.sort(y, axis=0)) ** 2, axis=0)
    found = first.mean(axis=0) + second.mean(axis=0)
    assert (found <= exact + 1e-12).all()
    np.testing.assert_allclose(found, exact, rtol=0.1)


@pytest.mark.parametrize("num", [90, 3000])
def test_atoms_go_to_means_and_the_rest_bends_as_it_does(num):
    """Most values are zero: these go to the mean of what they are worth, the others to their own targets."""
    rng = np.random.default_rng(0)
    rank = (np.arange(num) + 0.5) / num
    x = np.where(rank > 0.9, 1 + (rank - 0.9), 0.0)
    y = np.where(rank > 0.9, 5 + 40 * (rank - 0.9) ** 2, rank)
    lines = fit_monotone(rng.permutation(x)[:, None], rng.permutation(y)[:, None]).lines
    found = lines.images(np.array([[0.0], [1.0], [1.1], [2.1], [-3.0]]))[:, 0]
    np.testing.assert_allclose(found[:3], [0.45, 5.0, 5.4], atol=0.25)
    # Outside, displacements stay.
    np.testing.assert_allclose(found[3], found[2] + 1, atol=0.01)
    np.testing.assert_allclose(found[4], found[0] - 3, atol=1e-9)


@pytest.mark.parametrize("alike", [True, False])
def test_functions_learn_from_each_other_as_far_as_they_are_alike(alike):
    """Against those of each variable alone: much nearer where all bend alike, and no further where they do not."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1500, 40))
    turn = np.ones(40) if alike else rng.uniform(0.3, 2.0, 40)
    size = rng.uniform(0.5, 1.0, 40)

    def response(points):
        return turn * points + size * (1 + 0.2 * np.tanh(points))

    found = fit_monotone(x, response(y)).lines.images(x)
    alone = [fit_monotone(x[:, [j]], response(y)[:, [j]]).lines.images(x[:, [j]])[:, 0] for j in range(40)]
    errors = [np.mean((images - response(x)) ** 2) for images in (found, np.array(alone).T)]
    assert errors[0] < (0.75 if alike else 1.05) * errors[1]
