"""Couplings of categories, against linear programs and dense Sinkhorn iterations in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

import omt_expfam as omt
from omt_expfam._couplings.category import solve_category_couplings
from omt_expfam.families import Categorical

LEFT, RIGHT = np.random.default_rng(0).dirichlet(np.ones(3), (2, 2, 2))
# Three sizes: from small to large costs twice as much.
OWN = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
PLAIN = 1 - np.eye(3)


def _program(cost, p, q):
    ones, eye = np.ones((1, 3)), np.eye(3)
    equal = np.concatenate([np.kron(eye, ones), np.kron(ones, eye)])
    return linprog(cost.ravel(), A_eq=equal[:-1], b_eq=np.concatenate([p, q])[:-1]).fun


def _sinkhorn(cost, p, q, epsilon):
    kernel = np.exp(-cost / epsilon)
    u = np.ones(3)
    for _ in range(5000):
        v = q / (kernel.T @ u)
        u = p / (kernel @ v)
    return u[:, None] * kernel * v


def _objective(plan, cost, p, q, epsilon):
    return (plan * cost).sum() + epsilon * (plan * np.log(plan / p[:, None] / q)).sum()


def _solved(epsilon, cost=None, solve=solve_category_couplings):
    return solve(Categorical(LEFT, cost), Categorical(RIGHT, cost), jnp.asarray(epsilon))


@pytest.mark.parametrize(("own", "cost"), [(None, PLAIN), (OWN, OWN)], ids=["plain", "own"])
def test_costs_are_those_of_linear_programs_and_sinkhorn(own, cost, x64):
    exact, blurred = _solved(0.0, own), _solved(0.1, own)
    for i, j in np.ndindex(2, 2):
        pairs = [(LEFT[i, c], RIGHT[j, c]) for c in range(2)]
        assert abs(exact.costs[i, j] - sum(_program(cost, *pair) for pair in pairs)) < 1e-9
        plans = [_sinkhorn(cost, *pair, 0.1) for pair in pairs]
        expected = sum(_objective(plan, cost, *pair, 0.1) for plan, pair in zip(plans, pairs, strict=True))
        assert abs(blurred.objectives()[i, j] - expected) < 1e-9
        for c in range(2):
            np.testing.assert_allclose(blurred.laws[0][i, j, c], plans[c] / LEFT[i, c][:, None], atol=1e-9)
    assert blurred.errors.max() < 1e-8
    # The regularized coupling of the plain cost goes to the one without regularization.
    if own is None:
        np.testing.assert_allclose(_solved(0.01).laws[0], exact.laws[0], atol=1e-12)


def test_traced_couplings_are_the_same(x64):
    traced = _solved(0.1, None, jax.jit(lambda *args: solve_category_couplings(*args).objectives()))
    np.testing.assert_allclose(traced, _solved(0.1).objectives(), atol=1e-9)


def test_maps_draws_and_densities(x64):
    weights = np.array([0.4, 0.6]), np.array([0.7, 0.3])
    sides = (omt.Mixture(w, Categorical(p, OWN)) for w, p in zip(weights, (LEFT, RIGHT), strict=True))
    plan = omt.transport(*sides, epsilon_components=0.1, epsilon_weights=0.5)
    x = np.array([[a, b] for a in range(3) for b in range(3)], float)
    # The law of y given x by Bayes' rule and the laws of the pairs.
    density = LEFT[:, 0, x[:, 0].astype(int)] * LEFT[:, 1, x[:, 1].astype(int)] * weights[0][:, None]
    member, shares = (density / density.sum(0)).T, np.asarray(plan.weights) / weights[0][:, None]
    laws = np.stack([np.asarray(plan.couplings.laws[0])[:, :, c, x[:, c].astype(int)] for c in range(2)])
    law = np.einsum("ni,ij,cijnk->nck", member, shares, laws)
    np.testing.assert_array_equal(plan.push_forward(x), np.argmin(law @ OWN, axis=2))
    draws = np.asarray(plan.sample(jax.random.key(0), np.repeat(x[4:5], 4000, axis=0)))
    for c in range(2):
        found = np.bincount(draws[:, c].astype(int), minlength=3) / 4000
        assert (np.abs(found - law[4, c]) < 5 * np.sqrt(law[4, c] * (1 - law[4, c]) / 4000) + 1e-9).all()
    # All pairs of points: probabilities sum to one, with the right marginal and the plan's cost.
    left, right = np.repeat(x, 9, axis=0), np.tile(x, (9, 1))
    masses = np.exp(np.asarray(plan.log_prob(left, right)))
    np.testing.assert_allclose(masses.reshape(9, 9).sum(1), density.sum(0), atol=1e-9)
    each = OWN[left.astype(int), right.astype(int)].sum(1)
    assert abs(masses @ each - plan.cost) < 1e-9
    covariance = plan.conditional_covariance(x[4:5])[0]
    center = np.asarray(plan.push_forward(x[4:5]))[0].astype(int)
    np.testing.assert_allclose(np.diag(covariance), [law[4, c] @ OWN[center[c]] for c in range(2)], atol=1e-9)


def test_what_is_wrong_is_said():
    plain, own = (omt.Mixture([1.0], Categorical([[[0.5, 0.2, 0.3]]], cost)) for cost in (None, OWN))
    with pytest.raises(ValueError, match="same categories and costs"):
        omt.transport(plain, own)
    with pytest.raises(TypeError, match="both have categories, or neither"):
        omt.transport(plain, omt.Mixture([1.0], omt.families.Poisson([[1.0]])))
    with pytest.raises(ValueError, match="at least two categories"):
        Categorical([[[1.0]]])
    with pytest.raises(ValueError, match="symmetric, zero on the diagonal"):
        Categorical([[[0.5, 0.5]]], [[0, 1], [2, 0]])
    with pytest.raises(ValueError, match="sum to one"):
        Categorical([[[0.5, 0.6]]])
    plan = omt.transport(plain, plain, epsilon_components=0.0)
    with pytest.raises(TypeError, match="numbers on the line; Categorical components have categories"):
        plan.interpolate(0.5).mean()
