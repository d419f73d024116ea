"""Weights of points: only their ratios count for the mixture, their sum for the evidence."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, Laplace


def _data():
    random = np.random.default_rng(0)
    parts = random.normal(size=(30, 2)), random.normal(size=(20, 2)) + 4, 0.5 * random.normal(size=(10, 2)) + [0, 6]
    return np.concatenate(parts), random.integers(0, 4, 60).astype(float)


def _fit(x, weight, family=Gaussian, **options):
    return omt.fit(jax.random.key(0), x, family, 2, sample_weight=weight, tolerance=1e-8, **options)


def _assert_same(one, other, tolerance=1e-6):
    for left, right in zip(jax.tree.leaves(one.mixture), jax.tree.leaves(other.mixture), strict=True):
        assert_allclose(left, right, atol=tolerance)


@pytest.mark.parametrize(("family", "power"), [(Gaussian, 1), (Gaussian, 1.5), (DiagonalGaussian, 1), (Laplace, 1)])
def test_a_common_factor_changes_the_evidence_alone(family, power):
    x, weight = _data()
    weight = weight**power
    one, other = _fit(x, weight, family), _fit(x, 1e-3 * weight, family)
    _assert_same(one, other)
    assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-6)
    assert_allclose(one.effective_sizes, other.effective_sizes, rtol=1e-5)
    assert one.undetermined.tolist() == other.undetermined.tolist()
    assert_allclose([one.total_weight, other.total_weight], [weight.sum(), 1e-3 * weight.sum()], rtol=1e-6)
    expected = -2e-3 * weight.sum() * float(other.log_likelihood)
    assert_allclose(other.bic, expected + other.num_parameters * np.log(1e-3 * weight.sum()), rtol=1e-5)


@pytest.mark.parametrize("start", ["merge", "k-means++"])
def test_points_of_weight_zero_are_none(start):
    x, weight = _data()
    # What has no weight must not even be looked at by the standardization.
    x[weight == 0] = 1e6
    used = weight > 0
    _assert_same(_fit(x, weight, start=start), _fit(x[used], weight[used], start=start))


def test_whole_weights_are_repeated_points_in_any_unit():
    x, weight = _data()
    repeated = _fit(np.repeat(x, weight.astype(int), axis=0), None, start=x[:2])
    for factor in (1.0, 0.1):
        _assert_same(_fit(x, factor * weight, start=x[:2]), repeated)


def test_the_prior_sees_as_many_observations_as_unequal_weights_are_worth():
    x, weight = _data()
    unequal = weight**1.5
    assert_allclose(np.sum(_fit(x, unequal).effective_sizes), unequal.sum() ** 2 / (unequal**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_selection_honors_weights(criterion):
    x, weight = _data()
    x[weight == 0] = 1e6
    used = weight > 0
    chosen = [
        omt.select_num_components(
            jax.random.key(0), *points, Gaussian, (1, 2), criterion=criterion, num_folds=2, sample_weight=own
        )
        for points, own in (((x,), weight), ((x[used],), weight[used]))
    ]
    assert_allclose(chosen[0].scores, chosen[1].scores, rtol=1e-6)


def test_too_few_points_with_a_weight_are_refused():
    x, _ = _data()
    with pytest.raises(ValueError, match="`sample_weight` must be positive for as many points"):
        _fit(x, np.eye(1, 60)[0])
