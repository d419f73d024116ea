"""Labels carried over by a plan, against counting."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import omt_expfam as omt
from omt_expfam.families import SphericalGaussian

MEAN = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
SETTINGS = {"epsilon_components": 0.1, "epsilon_weights": 0.1}


def sides():
    before = omt.Mixture([0.5, 0.25, 0.25], SphericalGaussian(MEAN, np.ones(3)))
    after = omt.Mixture([0.2, 0.6, 0.2], SphericalGaussian(MEAN + 0.5, np.ones(3)))
    return before, after


def labeled(num=200):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(mean, 1, (num, 2)) for mean in MEAN])
    # A quarter of the first component is of the second one's group.
    labels = np.repeat(["a", "b", "c"], num)
    labels[: num // 4] = "b"
    return x, labels


@pytest.mark.parametrize("relaxation", [np.inf, 2.0])
def test_shares_are_those_of_the_pairs(relaxation):
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS, source_relaxation=relaxation, target_relaxation=relaxation)
    carried = plan.transfer(*labeled()[::-1])
    composition = omt.group_shares(before, *labeled()).shares
    weights = np.asarray(plan.weights, np.float64)
    for j in range(3):
        expected = sum(weights[i, j] * composition[i] for i in range(3)) / weights[:, j].sum()
        np.testing.assert_allclose(carried.component_probabilities[j], expected, atol=1e-5)
    np.testing.assert_allclose(
        carried.proportions, np.asarray(after.weights) @ carried.component_probabilities, rtol=1e-6
    )
    np.testing.assert_allclose(carried.proportions.sum(), 1, rtol=1e-6)
    if np.isfinite(relaxation):
        # Every component stays, so that the target has the groups of its own components.
        np.testing.assert_allclose(carried.proportions, [0.2 * 0.75, 0.6 + 0.2 * 0.25, 0.2], atol=0.02)


def test_points_have_the_labels_of_their_components():
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS, source_relaxation=2.0)
    x, labels = labeled()
    carried = plan.transfer(labels, x, MEAN + 0.5)
    np.testing.assert_allclose(carried.probabilities, carried.component_probabilities, atol=1e-3)
    assert [line.split()[0] for line in str(carried).splitlines()[1:]] == ["a", "b", "c"]
    numbers = plan.transfer(np.searchsorted(["a", "b", "c"], labels), x, MEAN + 0.5)
    np.testing.assert_array_equal(numbers.labels[numbers.probabilities.argmax(1)], [0, 1, 2])
    np.testing.assert_array_equal(plan.transfer(labels, x).probabilities, carried.component_probabilities)


def test_the_way_back_and_files(tmp_path):
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS, source_relaxation=2.0)
    x, labels = labeled()
    carried = plan.reverse().transfer(labels, x + 0.5)
    np.testing.assert_allclose(carried.proportions, [0.5 * 0.75, 0.25 + 0.5 * 0.25, 0.25], atol=0.02)
    omt.save(tmp_path / "labels.omt", carried)
    same = omt.load(tmp_path / "labels.omt")
    np.testing.assert_array_equal(same.probabilities, carried.probabilities)
    np.testing.assert_array_equal(same.labels, ["a", "b", "c"])


def test_a_label_too_few_or_missing_is_refused():
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS)
    x, labels = labeled()
    with pytest.raises(ValueError, match="`labels` must have one entry per point, 600; got shape"):
        plan.transfer(labels[1:], x)
    with pytest.raises(ValueError, match="`labels` must name a group at every place; 1 do not, the first at 599"):
        plan.transfer([*labels[:-1], None], x)


def test_it_is_within_a_percent_of_the_bayes_rule():
    """Groups that overlap: the rule that knows the laws of the target, by SciPy, errs almost as often."""
    rng = np.random.default_rng(0)
    means, shares = MEAN / 2, np.array([0.5, 0.3, 0.2])
    kinds, truth = (rng.choice(3, 900, p=shares) for _ in range(2))
    x = means[kinds] + rng.standard_normal((900, 2))
    moved = means + [1.0, 0.5]
    y = moved[truth] + 1.2 * rng.standard_normal((900, 2))
    densities = [multivariate_normal(mean, 1.44).pdf(y) for mean in moved]
    best = np.argmax(shares[:, None] * densities, axis=0)
    assert 0.9 < (best == truth).mean() < 0.98
    known = omt.mixture_from_labels(x, kinds, SphericalGaussian)
    target = omt.fit(jax.random.key(0), y, SphericalGaussian, 3, num_starts=3)
    found = omt.transport(known, target).transfer(kinds, x, y)
    carried = found.labels[found.probabilities.argmax(axis=1)]
    assert (carried == truth).mean() > (best == truth).mean() - 0.01
