"""Couplings of the weights on few pairs: against those of all pairs, and what they say of the pairs left out."""

import jax.numpy as jnp
import numpy as np
import ot
import pytest

from omt_expfam._base.results import succeeded
from omt_expfam._weights.entropic import entropic_coupling
from omt_expfam._weights.listed import listed_coupling, Pairs
from omt_expfam._weights.pruned import pruned_coupling

NUM, OTHER = 60, 40
# One shape, so that the coupling of all pairs is compiled once.
WEIGHTS = {
    "even": lambda rng, num: rng.uniform(0.5, 1, num),
    "tiny": lambda rng, num: rng.gamma(0.1, size=num) + 1e-12,
    "zero": lambda rng, num: rng.uniform(0.5, 1, num) * (rng.uniform(size=num) > 0.2),
}


def problem(seed, weights="even", slack=0.0):
    """Costs between clustered points, lower bounds of them, and weights."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(8, 3)) * rng.choice([0.5, 2, 6])
    x, y = (centers[rng.integers(8, size=num)] + rng.normal(size=(num, 3)) for num in (NUM, OTHER))
    costs = ((x[:, None] - y[None]) ** 2).sum(-1)
    bounds = costs - slack * costs.mean() * rng.uniform(size=costs.shape)
    a, b = (WEIGHTS[weights](rng, num) for num in (NUM, OTHER))
    return costs, np.nextafter(bounds.astype(np.float32), np.float32(-np.inf)), a / a.sum(), b / b.sum()


def pruned(costs, bounds, a, b, epsilon, share):
    """The coupling on few pairs, as a table; and the pairs whose costs were asked for."""
    asked = []

    def terms_of(source, target):
        asked.extend(zip(source.tolist(), target.tolist(), strict=True))
        return costs[source, target], np.zeros(source.size), costs[source, target]

    found = pruned_coupling(bounds.copy(), terms_of, a, b, epsilon, share, 1e-10, 1000)
    weights = a[found.pairs.source] * b[found.pairs.target] * found.coupling.density
    return found, found.pairs.table(weights).toarray(), asked


def all_pairs(costs, a, b, epsilon):
    arrays = (jnp.asarray(value) for value in (costs, a, b, epsilon, 1e-11, np.zeros(b.size)))
    return np.asarray(entropic_coupling(*arrays, jnp.asarray(1000)).weights)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("slack", [0.0, 0.1])
def test_what_is_left_out_is_never_understated(weights, slack, x64):
    """Regularizations from a thousandth of the mean cost to ten times it; bounds that are exact, and loose ones."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        costs, bounds, a, b = problem(seed, weights, slack)
        epsilon, share = costs.mean() * 10 ** rng.uniform(-3, 1), 10 ** rng.uniform(-6, -1.3)
        found, table, _ = pruned(costs, bounds, a, b, epsilon, share)
        assert succeeded(found.coupling.result)
        dense = all_pairs(costs, a, b, epsilon)
        missing = np.ones_like(dense, bool)
        missing[found.pairs.source, found.pairs.target] = False
        assert dense[missing].sum() <= found.left_out + 1e-12
        assert found.left_out <= share
        # Pinsker's inequality, from KL(ours, that of all pairs) <= left_out; rounding beside it.
        assert np.abs(table - dense).sum() <= np.sqrt(2 * found.left_out) + 1e-8
        np.testing.assert_allclose(table.sum(1), a, atol=1e-10)
        np.testing.assert_allclose(table.sum(0), b, atol=1e-10)


def test_the_objective_is_nearly_the_least(x64):
    """It exceeds that of all pairs by the regularization times what was left out, at most."""
    for seed in range(6):
        costs, bounds, a, b = problem(seed)
        epsilon = 0.05 * costs.mean()
        found, table, _ = pruned(costs, bounds, a, b, epsilon, 1e-3)
        dense = all_pairs(costs, a, b, epsilon)
        product = a[:, None] * b[None]
        values = [
            np.sum(plan * costs) + epsilon * np.sum(plan * np.log(np.where(plan > 0, plan, 1) / product))
            for plan in (table, dense)
        ]
        assert -1e-9 <= values[0] - values[1] <= epsilon * found.left_out + 1e-9


def test_most_pairs_are_never_computed(x64):
    costs, bounds, a, b = problem(3)
    found, _, asked = pruned(costs, bounds, a, b, 0.002 * costs.mean(), 1e-3)
    assert found.num_computed == len(asked) == len(set(asked)) < 0.25 * costs.size


def test_loose_bounds_cost_pairs_and_nothing_else(x64):
    costs, bounds, a, b = problem(2)
    epsilon = 0.02 * costs.mean()
    (tight, table, _), (loose, other, _) = (
        pruned(costs, one, a, b, epsilon, 1e-6) for one in (bounds, bounds - np.float32(0.1 * costs.mean()))
    )
    assert loose.num_computed > tight.num_computed
    np.testing.assert_allclose(table, other, atol=1e-5)


def test_all_pairs_listed_are_the_coupling_of_pot():
    costs, _, a, b = problem(0)
    epsilon = 0.05 * costs.mean()
    pairs = Pairs(*np.divmod(np.arange(costs.size), OTHER), costs.shape)
    found = listed_coupling(pairs, costs.ravel(), a, b, epsilon, 1e-12, np.zeros(OTHER), 1000)
    weights = (a[:, None] * b[None]).ravel() * found.density
    expected = ot.sinkhorn(a, b, costs, epsilon, method="sinkhorn_log", stopThr=1e-13, numItermax=100_000)
    np.testing.assert_allclose(weights.reshape(costs.shape), expected, atol=1e-12)
    total = found.source_potential[:, None] + found.target_potential[None] - costs
    np.testing.assert_allclose(weights.reshape(costs.shape), a[:, None] * b[None] * np.exp(total / epsilon), atol=1e-12)


def test_too_few_steps_are_no_success():
    costs, _, a, b = problem(0)
    pairs = Pairs(*np.divmod(np.arange(costs.size), OTHER), costs.shape)
    found = listed_coupling(pairs, costs.ravel(), a, b, 1e-3 * costs.mean(), 1e-12, np.zeros(OTHER), 2)
    assert not succeeded(found.result)
    assert found.marginal_error > 1e-12
