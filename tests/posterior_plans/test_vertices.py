"""Ties and labels that are not identified are reported: against enumeration, and on draws made for it."""

import itertools

import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._components.labelling import Labelling
from omt_expfam._components.relabel import labelled, permuted
from omt_expfam._posterior_plans.vertices import VertexChanges
from tests.posterior_plans.test_transport_posterior import EPSILONS, fitted, gaussians


def northwest(a, b):
    """The coupling of sorted points on a line: the exact optimum of costs (i - j)^2."""
    i = j = 0
    a, b, omega = list(a), list(b), np.zeros((len(a), len(b)))
    while i < len(a) and j < len(b):
        omega[i, j] = min(a[i], b[j])
        a[i], b[j] = a[i] - omega[i, j], b[j] - omega[i, j]
        i, j = (i + 1, j) if a[i] <= b[j] else (i, j + 1)
    return omega


def draws(weights, other, num=60, spread=0.03):
    """Marginals about given ones, and their exact couplings of points on a line."""
    rng = np.random.default_rng(0)
    sides = [np.asarray(w) + spread * rng.standard_normal((num, len(w))) for w in (weights, other)]
    sides = [np.abs(w) / np.abs(w).sum(axis=1, keepdims=True) for w in sides]
    cost = np.subtract.outer(np.arange(3.0), np.arange(3.0)) ** 2
    return np.stack([cost] * num), np.stack([northwest(a, b) for a, b in zip(*sides, strict=True)])


def test_weights_that_tie():
    """.5 is .3 + .2: on either side of the tie the second target group takes from another source group."""
    costs, omega = draws([0.5, 0.3, 0.2], [0.3, 0.2, 0.5])
    found = VertexChanges.of(costs, omega)
    np.testing.assert_allclose(found.used, (omega > 0).mean(axis=0), atol=1e-12)
    first, second = omega[:, 0, 2] > 0, omega[:, 1, 1] > 0
    assert not (first & second).any()
    assert found.is_near
    assert found.contested[0, 2]
    assert found.contested[1, 1]
    kinds = [tuple(row) for row in (omega > 0).reshape(len(omega), -1)]
    assert found.share == pytest.approx(1 - max(kinds.count(kind) for kind in kinds) / len(kinds))
    assert "near a change of vertex" in found.caution
    assert "0 -> 2 in " in found.caution or "1 -> 1 in " in found.caution


def test_weights_that_do_not():
    costs, omega = draws([0.6, 0.25, 0.15], [0.3, 0.2, 0.5], spread=0.005)
    found = VertexChanges.of(costs, omega)
    assert set(np.unique(found.used)) == {0.0, 1.0}
    assert (found.share, found.is_near, found.caution) == (0.0, False, "")
    assert str(found).endswith("no change of vertex is near")


def test_a_change_that_is_smoothed_is_not_near():
    """Couplings far from any vertex: the same ties, and Omega does not turn there."""
    costs, omega = draws([0.5, 0.3, 0.2], [0.3, 0.2, 0.5])
    found = VertexChanges.of(costs, omega.sum(axis=2)[:, :, None] * omega.sum(axis=1)[:, None, :])
    assert found.share > 0.2
    assert not found.is_near


def test_a_plan_and_its_intervals_say_so():
    """The draws of one side have weights on both sides of those of the other."""
    with jax.enable_x64(True):
        plan = omt.transport_posterior(fitted(gaussians(0)), fitted(gaussians(1)), **EPSILONS)
        caution = plan.vertices().caution
        assert plan.cost_interval().caution == plan.weights_interval().caution == caution
        assert ("CAUTION" in repr(plan)) == ("CAUTION" in repr(plan.cost_interval())) == bool(caution)
        assert plan.reverse().vertices().is_near == plan.vertices().is_near
    assert plan.labellings == (None, None)


def test_labels_that_keep_their_roles_are_clear():
    """However they are permuted, and whatever a component weighs."""
    with jax.enable_x64(True):
        given, reference = gaussians(0), fitted(gaussians(0)).reference
        order = np.array(list(itertools.permutations(range(3))))
        _, permutations, found = labelled(permuted(given, order), reference)
    np.testing.assert_array_equal(np.take_along_axis(order, permutations, axis=1), [[0, 1, 2]] * 6)
    assert (found.num_draws, found.num_relabelled) == (6, 5)
    assert found.identified
    assert found.unclear == (0.0, 0.0, 0.0)
    assert str(found) == "5 of 6 draws relabelled, labels clear in 100.0%"


def test_labels_are_unclear_where_another_component_is_more_alike():
    likeness = np.stack([np.eye(3)] * 4)
    # In one draw the second component is more like the first label's, in another the third label's is like none.
    likeness[1, :2, :2] = [[0.5, 0.6], [0.4, 0.9]]
    likeness[2, 2] = [0.3, 0.0, 0.1]
    found = Labelling.of(0, likeness, [np.arange(3)])
    assert found.unclear == (0.25, 0.0, 0.25)
    assert found.unclear_share == 0.5
    assert not found.identified
    assert "components exchange their roles in 50% of the draws (component 2, 0)" in found.caution
    # Components of other families are no rivals.
    apart = Labelling.of(0, likeness, [np.arange(2), np.array([2])])
    assert apart.unclear == (0.25, 0.0, 0.0)


def test_images_look_like_the_target_of_the_plan():
    """And not like the source."""
    with jax.enable_x64(True):
        plan = omt.transport_posterior(fitted(gaussians(0)), fitted(gaussians(1)), **EPSILONS)
        x, y = map(np.asarray, _samples(plan))
        right = plan.predictive_check(jax.random.key(0), x, y)
        wrong = plan.predictive_check(jax.random.key(0), x, x)
    assert right.replicated.shape == (6, 17)
    gap, other = (np.abs(c.replicated.mean(axis=0) - c.observed)[:2] for c in (right, wrong))
    assert (gap < 0.4).all()
    assert (other > 0.6).all()


def _samples(plan):
    """Points of the first draw's mixtures."""
    first = plan.plan(0)
    return first.source.sample(jax.random.key(1), 256), first.target.sample(jax.random.key(2), 256)
