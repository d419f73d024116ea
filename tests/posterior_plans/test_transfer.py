"""Labels carried by draws of plans, against the plan of each draw and against the law of the proportions."""

import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam.families import SphericalGaussian
from tests.plans.test_transfer import labeled, MEAN, SETTINGS, sides

COUNTS = np.array([20, 60, 20])


def draws(num):
    components = SphericalGaussian(MEAN + 0.5, np.ones(3))
    return [omt.Mixture(w, components) for w in np.random.default_rng(1).dirichlet(COUNTS, num)]


@pytest.mark.parametrize("relaxation", [np.inf, 2.0])
def test_every_draw_is_its_plan(relaxation):
    x, labels = labeled()
    plans = omt.transport_posterior(sides()[0], draws(3), **SETTINGS, source_relaxation=relaxation)
    carried = plans.transfer(labels, x, MEAN)
    for s in range(3):
        one = plans.plan(s).transfer(labels, x, MEAN)
        np.testing.assert_allclose(carried.probabilities[s], one.probabilities, atol=1e-5)
        np.testing.assert_allclose(carried.proportions[s], one.proportions, atol=1e-5)
    np.testing.assert_array_equal(carried.labels, ["a", "b", "c"])
    back = plans.reverse().transfer(labels, x + 0.5)
    expected = plans.plan(1).reverse().transfer(labels, x + 0.5)
    np.testing.assert_allclose(back.proportions[1], expected.proportions, atol=1e-5)
    np.testing.assert_allclose(back.probabilities, back.component_probabilities)


def test_intervals_are_those_of_the_proportions(tmp_path):
    """Every component stays, so that the share of the last group has the law of the last weight, a beta law."""
    x, labels = labeled()
    plans = omt.transport_posterior(sides()[0], draws(150), **SETTINGS, source_relaxation=2.0)
    carried = plans.transfer(labels, x)
    found = carried.proportions_interval()
    law = scipy.stats.beta(COUNTS[2], COUNTS.sum() - COUNTS[2])
    # Quantiles of 150 draws have standard errors of about a tenth of the interval's length; three of these.
    np.testing.assert_allclose([found.lower[2], found.upper[2]], law.ppf([0.05, 0.95]), atol=0.04)
    np.testing.assert_allclose(found.mean[2], law.mean(), atol=3 * law.std() / np.sqrt(150))
    np.testing.assert_allclose(carried.proportions.sum(1), 1, rtol=1e-6)
    assert [line.split()[0] for line in str(carried).splitlines()] == ["label", "a", "b", "c"]
    omt.save(tmp_path / "labels.omt", carried)
    np.testing.assert_array_equal(omt.load(tmp_path / "labels.omt").proportions, carried.proportions)
    assert carried.probabilities_interval(0.5).lower.shape == (3, 3)


def test_a_label_too_few_is_refused():
    x, labels = labeled()
    plans = omt.transport_posterior(sides()[0], draws(3), **SETTINGS, source_relaxation=2.0)
    with pytest.raises(ValueError, match="`labels` must have one entry per point, 600; got shape"):
        plans.transfer(labels[1:], x)
