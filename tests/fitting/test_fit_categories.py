"""Fits of categories, against frequencies and the conditions of a maximum."""

import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam.families import Categorical

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}
THREE = omt.template(Categorical, num_categories=3)


def _points(num=700):
    """Two groups that answer four questions differently, of three answers each."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, num)
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])[group]
    return (rng.random((num, 4, 1)) > np.cumsum(shares, axis=1)[:, None, :]).sum(2).astype(float)


def test_fits_are_frequencies_and_where_em_stays(x64):
    x = _points()
    indicators = np.eye(3)[x.astype(int)]
    alone = omt.fit(jax.random.key(0), x, THREE, 1, **PLAIN)
    np.testing.assert_allclose(alone.mixture.components.probability[0], indicators.mean(0), atol=1e-9)
    fit = omt.fit(jax.random.key(0), x, THREE, 2, tolerance=1e-9, **PLAIN)
    own, weights = np.asarray(fit.mixture.components.probability), np.asarray(fit.mixture.weights)
    joint = np.einsum("ndc,kdc->nk", indicators, np.log(own)) + np.log(weights)
    total = np.logaddexp(*joint.T)
    assert abs(total.mean() - float(fit.log_likelihood)) < 1e-9
    member = np.exp(joint - total[:, None])
    np.testing.assert_allclose(own, np.einsum("nk,ndc->kdc", member / member.sum(0), indicators), atol=1e-3)
    np.testing.assert_allclose(np.sort(own[:, 0, 0]), [0.1, 0.7], atol=0.07)
    assert fit.num_parameters == 2 * 4 * 2 + 1


def test_bad_input_is_named():
    x = _points(30)
    with pytest.raises(ValueError, match=r"say how many categories .* template\(Categorical, num_categories=3\)"):
        omt.fit(jax.random.key(0), x, Categorical, 2)
    with pytest.raises(ValueError, match=r"categories below 2; got 2 at index .* num_categories=3"):
        omt.fit(jax.random.key(0), x, omt.template(Categorical, num_categories=2), 2)
    with pytest.raises(ValueError, match=r"support of Categorical \(categories, whole numbers from 0\); got 0.5"):
        omt.fit(jax.random.key(0), x + 0.5 * (x == 0), THREE, 2)
    x[:, 1] = 2
    with pytest.raises(ValueError, match="more than one category .* got 2 alone in column 1"):
        omt.fit(jax.random.key(0), x, THREE, 2)
    costs = omt.template(Categorical, cost=np.array([[0.0, 2.0], [2.0, 0.0]]))
    assert costs.fixed == {"num_categories": 2, "cost": ((0.0, 2.0), (2.0, 0.0))}
    with pytest.raises(ValueError, match=r"`cost` must have shape \(3, 3\)"):
        omt.template(Categorical, num_categories=3, cost=np.zeros((2, 2)))
