"""Tests of features: against SciPy, against what was put into the data, and for false alarms."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam._screening.composition import adjusted_p
from omt_expfam._screening.marginal import benjamini_hochberg, holm, kolmogorov_p, marginal_p, welch_p
from omt_expfam._screening.pairs import pair_p
from omt_expfam._screening.screen import screen


def test_tests_of_one_feature_are_scipys():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 30)), 1.3 * rng.standard_normal((300, 30)) + 0.2
    # Tied values, as in counts.
    x[:, :10], y[:, :10] = np.maximum(np.round(x[:, :10]), 0), np.maximum(np.round(y[:, :10]), 0)
    welch: Any = scipy.stats.ttest_ind(x, y, equal_var=False)
    np.testing.assert_allclose(welch_p(x, y), welch.pvalue, rtol=1e-9)
    found: Any = [scipy.stats.ks_2samp(x[:, j], y[:, j]) for j in range(30)]
    gap = [one.statistic for one in found]
    np.testing.assert_allclose(kolmogorov_p(x, y), scipy.special.kolmogorov(np.sqrt(120) * np.array(gap)), rtol=1e-9)


def test_weights_of_zero_and_one_choose_points():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 6)), 1.3 * rng.standard_normal((300, 6)) + 0.2
    weights = [(rng.random(len(side)) < 0.5) * 2.0 for side in (x, y)]
    parts = [side[weight > 0] for side, weight in zip((x, y), weights, strict=True)]
    tests: Any = (welch_p, kolmogorov_p, pair_p)
    for test in tests:
        np.testing.assert_allclose(test(x, y, *weights), test(*parts), rtol=1e-4)
    expected = adjusted_p(parts[0], parts[1], 0.01).p
    np.testing.assert_allclose(adjusted_p(x, y, 0.01, weights[0], weights[1]).p, expected, rtol=1e-6)


def test_few_features_give_no_advice():
    """Four features that all respond leave none to say what points are like."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 500, 4))
    found = screen(omt.Screen(), x, y + 0.5)
    assert len(found.selected) == 4
    assert found.advice == ""


def test_halves_select_weak_effects_less_often():
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 600, 12))
    y[:, 0] += 2
    y[:, 1] += 0.32
    for adjust in (None, "composition"):
        found = screen(omt.Screen(adjust=adjust, num_resamples=20), x, y, np.random.default_rng(0))
        assert found.frequency is not None
        frequency = np.asarray(found.frequency)
        assert frequency[0] == 1
        assert 0.05 < frequency[1] < 0.95
        assert frequency[2:].max() <= 0.2


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.04, 0.001, 0.03, 0.5])), [0.09, 0.004, 0.09, 0.5])


def test_equal_laws_are_left_alone():
    """In forty pairs of samples of zero-inflated features, none is flagged more often than the level allows."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = (np.maximum(rng.standard_normal((150, 60)) - 0.8, 0) for _ in range(2))
        alarms += len(np.asarray(screen(omt.Screen(level=0.05), x, y).selected)) > 0
    # Of a binomial law with this level, more than six have probability 0.003.
    assert alarms <= 6


def test_benjamini_and_hochberg_are_scipys():
    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), scipy.stats.false_discovery_control(p), rtol=1e-12)


def test_shares_of_false_selections_are_bounded_where_asked():
    """With half of the features moved a little, more are found, and few of them are false."""
    rng = np.random.default_rng(0)
    counts = {"family": np.zeros(2), "discoveries": np.zeros(2)}
    for _ in range(20):
        x, y = rng.standard_normal((2, 400, 40))
        y[:, :20] += 0.25
        for control, count in counts.items():
            selected = np.asarray(screen(omt.Screen(level=0.1, control=control), x, y).selected)
            count += [np.sum(selected < 20), np.sum(selected >= 20)]
    assert counts["discoveries"][0] > 1.1 * counts["family"][0]
    # The level's expected share, and three standard deviations of a Poisson number.
    expected = 0.1 * counts["discoveries"].sum() / 2
    assert counts["discoveries"][1] < expected + 3 * np.sqrt(expected)


def test_constant_features_differ_only_by_value():
    x, y = np.zeros((20, 3)), np.zeros((30, 3))
    y[:, 1] = 1
    p = marginal_p(x, y)
    assert p[1] == 0
    np.testing.assert_array_equal(p[[0, 2]], 1)


@pytest.fixture(scope="module")
def groups():
    """Two types of cells with ten factors in common, of which a share that changes is the second."""
    rng = np.random.default_rng(3)
    factors, kinds = 0.3 * rng.standard_normal((10, 300)), 0.8 * rng.standard_normal((2, 300))

    def draw(num, share):
        second = (rng.random(num) < share).astype(int)
        return rng.standard_normal((num, 10)) @ factors + kinds[second] + rng.standard_normal((num, 300))

    return draw


def test_shares_that_change_are_no_response(groups):
    x, y = groups(1500, 0.5), groups(1500, 0.65)
    plain, given = (screen(omt.Screen(adjust=adjust), x, y) for adjust in (None, "composition"))
    assert len(plain.selected) > 30
    assert len(given.selected) == 0
    assert plain.num_other == 0
    for found in (plain, given):
        assert "shares of groups may have changed" in found.advice
        assert "source_relaxation" in found.advice
    # A response beside it is seen.
    y[:, [4, 40, 200]] += [1.0, -1.0, 0.7]
    np.testing.assert_array_equal(screen(omt.Screen(adjust="composition"), x, y).selected, [4, 40, 200])


def test_weak_effects_are_found(groups):
    x, y = groups(3000, 0.5), groups(3000, 0.5)
    effect = np.random.default_rng(0).uniform(0.2, 0.3, 20)
    y[:, 100:120] += effect
    for adjust in (None, "composition"):
        selected = np.asarray(screen(omt.Screen(adjust=adjust), x, y).selected)
        assert len(np.intersect1d(selected, np.arange(100, 120))) >= (15 if adjust is None else 19)
        assert len(np.setdiff1d(selected, np.arange(100, 120))) == 0
    assert screen(omt.Screen(), x, y).advice == ""


def test_a_response_that_points_are_like_is_told():
    """One factor that responds: given it, the features that follow it less than others differ."""
    rng = np.random.default_rng(1)
    slopes = np.linspace(0.2, 1.5, 20)
    x, y = (rng.standard_normal((1500, 1)) * slopes + 0.3 * rng.standard_normal((1500, 20)) for _ in range(2))
    y[:, 10:] += 0.6
    found = screen(omt.Screen(), x, y)
    assert found.num_other is not None
    assert found.num_other > 10
    assert "what they are like may itself respond" in found.advice


def test_correlations_that_change_are_found():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 800, 60))
    y[:, 7] = 0.6 * y[:, 30] + 0.8 * y[:, 7]
    assert (marginal_p(x, y)[[7, 30]] > 0.01).all()
    np.testing.assert_array_equal(screen(omt.Screen(), x, y).selected, [7, 30])


def test_pairs_of_heavy_tails_give_no_alarm():
    """Log-normal factors in common: products have long tails, and correlations are far from zero."""
    alarms = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, y = (np.exp(rng.standard_normal((300, 1)) + rng.standard_normal((300, 20))) for _ in range(2))
        alarms += bool((pair_p(x, y) <= 0.05).any())
    assert alarms <= 4


def test_given_what_points_are_like_p_is_uniform(groups):
    x, y = groups(400, 0.5), groups(400, 0.5)
    p = adjusted_p(x, y, 0.05).p
    assert (holm(p) > 0.05).all()
    assert 0.3 < np.mean(p) < 0.9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: omt.Screen(level=0.0), "`level` must lie between 0 and 1; got 0"),
        (lambda: omt.Screen(level=1.5), "`level` must lie between 0 and 1; got 1.5"),
        (lambda: omt.Screen(num_resamples=-1), "`num_resamples`"),
        (lambda: omt.Screen(control="fdr"), '`control` must be "family" or "discoveries"; got \'fdr\''),
        (lambda: omt.Screen(adjust="batch"), '`adjust` must be None or "composition"'),
        (lambda: omt.Features(["a", "z"]).index(("a", "b"), 2), "got 'z', which is none of them"),
        (lambda: omt.Features([0, 2]).index(None, 2), "`selected` must hold numbers from 0 to 1; got 2"),
        (lambda: omt.Features([True]).index(None, 2), "one truth value for each of 2 features; got 1"),
        (lambda: omt.Features([0, 0]).index(None, 2), "`selected` must name features once"),
        (lambda: omt.Features("ab").index(("a", "b"), 2), "`selected` must be a list of names"),
        (lambda: omt.Features([0.5]).index(None, 2), "it holds 0.5"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


def test_features_may_be_given_in_any_way():
    names = ("a", "b", "c")
    for given in (["c", "a"], [2, 0], [True, False, True], np.array([0, 2]), np.array([True, False, True])):
        np.testing.assert_array_equal(omt.Features(given).index(names, 3), [0, 2])
