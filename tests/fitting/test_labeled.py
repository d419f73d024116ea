"""Mixtures of known groups, against moments of the groups; their names through plans, tables and files."""

import jax
import numpy as np
import pandas as pd
import pytest

import omt_expfam as omt
from omt_expfam.families import Gaussian, Laplace

RNG = np.random.default_rng(0)
GROUPS = np.array(["B", "Mono", "NK", "T"])
CENTERS = np.array([[0.0, 0.0], [6.0, 6.0], [0.0, 6.0], [6.0, 0.0]])
INDEX = RNG.choice(4, 400, p=[0.4, 0.1, 0.2, 0.3])
LABELS = GROUPS[INDEX]
X = CENTERS[INDEX] + RNG.standard_normal((400, 2)) * [1.0, 0.5]


@pytest.fixture(scope="module")
def sides():
    return [omt.mixture_from_labels(x, LABELS, Gaussian) for x in (X, X + 1.0)]


@pytest.fixture(scope="module")
def plan(sides):
    return omt.transport(*sides)


def test_components_are_the_groups():
    weight = RNG.integers(0, 3, 400).astype(float)
    fit = omt.mixture_from_labels(X, LABELS, Gaussian, sample_weight=weight, covariance_prior=0.0, regularization=0.0)
    assert fit.names == tuple(GROUPS)
    for k, group in enumerate(GROUPS):
        own = LABELS == group
        mean = np.average(X[own], axis=0, weights=weight[own])
        covariance = np.cov(X[own].T, aweights=weight[own], bias=True)
        np.testing.assert_allclose(fit.mixture.components.mean()[k], mean, atol=1e-5)
        np.testing.assert_allclose(fit.mixture.components.covariance()[k], covariance, atol=1e-5)
        np.testing.assert_allclose(fit.mixture.weights[k], weight[own].sum() / weight.sum(), rtol=1e-5)
        np.testing.assert_allclose(fit.effective_sizes[k], weight[own].sum(), rtol=1e-5)
    expected = np.average(np.asarray(fit.mixture.log_prob(X)), weights=weight)
    np.testing.assert_allclose(fit.log_likelihood, expected, rtol=1e-5)
    assert fit.converged


def test_probabilities_of_groups_are_weights_of_points():
    soft = 0.9 * np.eye(4)[INDEX] + 0.025
    table = pd.DataFrame(soft, columns=list(GROUPS))
    fit = omt.mixture_from_labels(X, table, Gaussian, covariance_prior=0.0, regularization=0.0)
    assert fit.names == tuple(GROUPS)
    np.testing.assert_allclose(fit.mixture.components.mean(), soft.T @ X / soft.sum(0)[:, None], atol=1e-5)
    np.testing.assert_allclose(fit.mixture.weights, soft.mean(0), rtol=1e-5)
    shares = omt.group_shares(fit.mixture, X, table)
    member = np.asarray(fit.mixture.responsibilities(X), np.float64)
    np.testing.assert_allclose(shares.shares, member.T @ soft / member.sum(0)[:, None], rtol=1e-5)


def test_other_families_are_fitted_to_their_groups():
    fit = omt.mixture_from_labels(X, LABELS, Laplace, covariance_prior=0.0, regularization=0.0)
    for k, group in enumerate(GROUPS):
        own = X[LABELS == group]
        median = np.median(own, axis=0)
        deviation = np.abs(own - np.asarray(fit.mixture.components.loc)[k]).mean(0)
        least = np.abs(own - median).mean(0)
        np.testing.assert_allclose(deviation, least, rtol=1e-2)
        np.testing.assert_allclose(np.asarray(fit.mixture.components.scale)[k], least, rtol=1e-2)


def test_names_go_through_plans(plan, sides, tmp_path):
    assert plan.component_names == (tuple(GROUPS), tuple(GROUPS))
    assert plan.reverse().component_names == plan.component_names
    text = str(plan.correspondences())
    assert text.splitlines()[1].split()[:2] == ["B", "B"]
    assert plan.correspondences().to_dict()["source"].tolist()[0] == "B"
    named = str(plan.correspondences(names=(None, ["one", "two", "three", "four"])))
    assert named.splitlines()[1].split()[:2] == ["0", "one"]
    omt.save(tmp_path / "plan.omt", (plan, sides[0]))
    again, fit = omt.load(tmp_path / "plan.omt")
    assert str(again.correspondences()) == text
    assert fit.names == tuple(GROUPS)
    course = omt.trajectory(sides)
    np.testing.assert_allclose(course.group_flows().couplings[0], plan.weights, atol=1e-5)
    axes = omt.plot.coupling(plan)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(GROUPS)
    relaxed = omt.transport(*sides, source_relaxation=0.5, target_relaxation=0.5)
    assert any(line.startswith("source Mono sends") for line in str(relaxed.correspondences()).splitlines())


def test_groups_are_read_with_the_purity_of_their_components(plan, sides):
    flows = plan.group_flows()
    assert flows.names == tuple(GROUPS)
    np.testing.assert_allclose(flows.couplings[0], plan.weights)
    np.testing.assert_allclose(flows.purity, 1.0)
    assert "?" not in str(flows)
    mixed = omt.fit(jax.random.key(0), X + 1.0, Gaussian, 2)
    shares = omt.group_shares(mixed.mixture, X + 1.0, LABELS)
    np.testing.assert_allclose(shares.purity, shares.shares.max(1))
    coarse = omt.transport(sides[0], mixed)
    flows = coarse.group_flows(target_groups=shares)
    mass = np.asarray(mixed.mixture.weights, np.float64)[:, None] * shares.shares
    for number, name in enumerate(flows.names):
        column = shares.names.index(name)
        expected = (mass[:, column] * shares.shares[:, column]).sum() / mass[:, column].sum()
        np.testing.assert_allclose(flows.purity[1, number], expected, rtol=1e-6)
    weights = np.asarray(coarse.weights, np.float64)
    np.testing.assert_allclose(flows.couplings[0], weights @ shares.shares, rtol=1e-6)
    marked = [line for line in str(flows).splitlines() if line.endswith("%?")]
    rows = zip(flows.to_dict(0.005)["purity"], strict=True)
    assert len(marked) == sum(purity < 0.8 for (purity,) in rows) > 0
    assert "less than 80% purity" in str(flows)
    carried = coarse.transfer(LABELS, X)
    np.testing.assert_allclose(carried.purity, carried.component_probabilities.max(1))
    assert f"({carried.purity[0]:.0%})" in str(carried)
    soft = coarse.transfer(pd.DataFrame(np.eye(4)[INDEX], columns=list(GROUPS)), X)
    np.testing.assert_allclose(soft.component_probabilities, carried.component_probabilities, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[1:], "`labels` must have one entry per point, 400; got shape"),
        ([*LABELS[1:], None], "`labels` must name a group at every place; 1 do not, the first at 399"),
        (np.full((400, 2), 0.4), "`labels` with several columns must hold probabilities, whose rows sum to one"),
        (np.eye(5)[INDEX], "`labels` must give every group some points; 4 has none"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        omt.mixture_from_labels(X, labels, Gaussian)


def test_names_that_do_not_fit_are_named(plan):
    with pytest.raises(ValueError, match="`names` must have one name per target component, 4; got 1"):
        plan.correspondences(names=(None, ["a"]))
    with pytest.raises(ValueError, match="`names` must be a pair"):
        plan.correspondences(names=["a", "b", "c", "d"])
    bare = omt.transport(plan.source, plan.target)
    with pytest.raises(ValueError, match="`source_groups` must be given: the components there have no names"):
        bare.group_flows()
