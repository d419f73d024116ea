"""Groups carried over by a plan, against counting."""

import numpy as np
import pytest

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
    carried = omt.transfer_groups(plan, *labeled())
    composition = omt.group_shares(before, *labeled()).shares
    weights = np.asarray(plan.weights, np.float64)
    for j in range(3):
        expected = sum(weights[i, j] * composition[i] for i in range(3)) / weights[:, j].sum()
        np.testing.assert_allclose(carried.shares[j], expected, atol=1e-5)
    np.testing.assert_allclose(carried.proportions, np.asarray(after.weights) @ carried.shares, rtol=1e-6)
    np.testing.assert_allclose(carried.proportions.sum(), 1, rtol=1e-6)
    if np.isfinite(relaxation):
        # Every component stays, so that the target has the groups of its own components.
        np.testing.assert_allclose(carried.proportions, [0.2 * 0.75, 0.6 + 0.2 * 0.25, 0.2], atol=0.02)


def test_points_have_the_groups_of_their_components():
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS, source_relaxation=2.0)
    carried = omt.transfer_groups(plan, *labeled())
    found = carried.probabilities(MEAN + 0.5)
    np.testing.assert_allclose(found, carried.shares, atol=1e-3)
    assert "proportion" in str(carried)
    assert [line.split()[0] for line in str(carried).splitlines()[1:]] == ["a", "b", "c"]


def test_the_way_back_and_files(tmp_path):
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS, source_relaxation=2.0)
    x, labels = labeled()
    carried = omt.transfer_groups(plan.reverse(), x + 0.5, labels)
    np.testing.assert_allclose(carried.proportions, [0.5 * 0.75, 0.25 + 0.5 * 0.25, 0.25], atol=0.02)
    omt.save(tmp_path / "groups.omt", carried)
    np.testing.assert_array_equal(omt.load(tmp_path / "groups.omt").shares, carried.shares)


def test_a_label_too_few_is_refused():
    before, after = sides()
    plan = omt.transport(before, after, **SETTINGS)
    with pytest.raises(ValueError, match="`groups` must have one entry per point, 600; got shape"):
        omt.transfer_groups(plan, labeled()[0], labeled()[1][1:])
