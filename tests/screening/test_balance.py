"""Weights under which what stays agrees: moments, what they gain, and where there are none."""

import numpy as np
import pytest

from omt_expfam._screening.balance import balancing_weights


def samples(seed, num=1500, share=0.5, kinds=0.0):
    """Features of ten factors, and a type of points whose share may change."""
    rng = np.random.default_rng(seed)
    factors = 0.5 * np.random.default_rng(9).standard_normal((10, 60))
    types = kinds * np.random.default_rng(8).standard_normal((2, 60))
    sides = []
    for part in (0.5, share):
        second = (rng.random(num) < part).astype(int)
        factor = rng.standard_normal((num, 10))
        sides.append(factor @ factors + types[second] + rng.standard_normal((num, 60)))
    return sides


def test_features_that_stay_agree_and_others_are_known_better():
    gains = []
    for seed in range(8):
        x, y = samples(seed)
        found = balancing_weights(x[:, 1:], y[:, 1:], adjusted=False)
        assert found is not None
        for weight in found:
            np.testing.assert_allclose(weight.sum(), 1, rtol=1e-9)
            assert (weight > 0).all()
        plain = y.mean(axis=0) - x.mean(axis=0)
        weighted = found[1] @ y - found[0] @ x
        # Most of a feature's variance is that of the components; the rest of its difference stays.
        assert np.mean(weighted[1:] ** 2) < 0.5 * np.mean(plain[1:] ** 2)
        gains.append((plain[0] ** 2, weighted[0] ** 2))
    before, after = np.mean(gains, axis=0)
    assert after < 0.6 * before


def test_weights_are_the_nearest_by_entropy():
    """They are exponential in the moments: log-weights are a linear function of them, fitted without error."""
    x, y = samples(1, num=4000)
    found = balancing_weights(x[:, 1:], y[:, 1:], adjusted=False)
    assert found is not None
    both = np.concatenate([x, y])[:, 1:]
    both = (both - both.mean(axis=0)) / both.std(axis=0)
    scores = np.linalg.svd(both, full_matrices=False)[0][:, :10] * np.sqrt(len(both))
    rows, columns = np.triu_indices(10)
    moments = np.column_stack([np.ones(len(both)), scores, scores[:, rows] * scores[:, columns]])
    for weight, own in zip(found, (moments[: len(x)], moments[len(x) :]), strict=True):
        rest = np.linalg.lstsq(own, np.log(weight), rcond=None)[1]
        assert np.sqrt(rest[0] / len(own)) < 0.02 * np.log(weight).std()
        np.testing.assert_allclose(weight @ own, moments.mean(axis=0), atol=0.01)


def test_shares_that_change_are_balanced_only_if_adjusted_for():
    x, y = samples(2, share=0.65, kinds=0.5)
    assert balancing_weights(x, y, adjusted=False) is None
    found = balancing_weights(x, y, adjusted=True)
    assert found is not None
    before, after = y.mean(axis=0) - x.mean(axis=0), found[1] @ y - found[0] @ x
    assert np.mean(after**2) < 0.4 * np.mean(before**2)


def test_given_weights_are_tilted():
    x, y = samples(3, num=3000)
    half = (np.arange(3000) % 2).astype(float)
    found, alone = balancing_weights(x, y, False, half, half), balancing_weights(x[1::2], y[1::2], False)
    assert found is not None
    assert alone is not None
    np.testing.assert_array_equal(found[0][::2], 0)
    np.testing.assert_allclose(found[0][1::2], alone[0], rtol=1e-4)


@pytest.mark.parametrize(("num", "dim"), [(1500, 12), (100, 60)])
def test_too_little_is_left_as_it_is(num, dim):
    x, y = samples(4, num=num)
    assert balancing_weights(x[:, :dim], y[:, :dim], adjusted=False) is None
