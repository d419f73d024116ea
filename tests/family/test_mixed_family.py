"""Components of several kinds of columns: densities and fits against SciPy and NumPy, names, files and bad input."""

import jax
import numpy as np
import pandas as pd
import pytest
import scipy.stats as st

import omt_expfam as omt
from omt_expfam.families import Categorical, Gaussian, NegativeBinomial, Poisson, StudentT, VonMises

KINDS = omt.template(Categorical, num_categories=3)


def _table(num=600, seed=0):
    """Two kinds of visitors: sizes, visits, hours (one group around the cut) and a category."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 2, num)
    size = np.array([[0.0, 0.0], [3.0, 1.0]])[group] + rng.normal(size=(num, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
    hour = np.array([3.0, 0.5])[group] + 0.5 * rng.normal(size=num)
    kind = (rng.random((num, 1)) > np.array([[0.7, 0.9], [0.1, 0.4]])[group]).sum(1)
    return pd.DataFrame(
        {
            "width": size[:, 0],
            "visits": rng.poisson(np.array([2.0, 9.0])[group]),
            "hour": (hour + np.pi) % (2 * np.pi) - np.pi,
            "height": size[:, 1],
            "kind": kind,
        }
    )


def _template(table):
    return omt.mixed(
        table,
        size=(Gaussian, ["height", "width"]),
        visits=(Poisson, "visits"),
        hour=(VonMises, "hour"),
        kind=(KINDS, "kind"),
    )


@pytest.fixture(scope="module")
def fitted():
    table = _table()
    with jax.enable_x64(True):
        return table, omt.fit(jax.random.key(0), table, _template(table), 2, covariance_prior=0.0, regularization=0.0)


def _log_densities(components, x):
    """By SciPy."""
    size, visits, hour, kind = (components[name] for name in ("size", "visits", "hour", "kind"))
    covariance, shares = np.asarray(size.covariance()), np.log(np.asarray(kind.probability))
    found = [
        st.multivariate_normal(np.asarray(size.loc)[k], covariance[k]).logpdf(x[:, [0, 3]])
        + st.poisson(float(visits.rate[k, 0])).logpmf(x[:, 1])
        + st.vonmises(float(hour.concentration[k, 0]), float(hour.loc[k, 0])).logpdf(x[:, 2])
        + shares[k, 0, x[:, 4].astype(int)]
        for k in range(2)
    ]
    return np.stack(found, axis=1)


def test_densities_are_scipys_and_the_fit_is_where_em_stays(fitted, x64):
    table, fit = fitted
    x, mixture = table.to_numpy(), fit.mixture
    joint = _log_densities(mixture.components, x) + np.log(mixture.weights)
    total = np.logaddexp(*joint.T)
    np.testing.assert_allclose(mixture.log_prob(x), total, rtol=1e-9)
    assert abs(total.mean() - float(fit.log_likelihood)) < 1e-9
    # Each M-step in NumPy.
    member = np.exp(joint - total[:, None])
    share = member / member.sum(0)
    mean = share.T @ x
    np.testing.assert_allclose(mixture.components["size"].loc, mean[:, [0, 3]], atol=1e-3)
    np.testing.assert_allclose(mixture.components["visits"].rate[:, 0], mean[:, 1], atol=1e-3)
    direction = np.arctan2(share.T @ np.sin(x[:, 2]), share.T @ np.cos(x[:, 2]))
    np.testing.assert_allclose(mixture.components["hour"].loc[:, 0], direction, atol=1e-3)
    np.testing.assert_allclose(
        mixture.components["kind"].probability[:, 0], share.T @ np.eye(3)[table["kind"]], atol=1e-3
    )
    groups = np.argsort(np.asarray(mixture.components["visits"].rate)[:, 0])
    np.testing.assert_allclose(np.asarray(mixture.components["visits"].rate)[groups, 0], [2, 9], atol=0.4)


def test_moments_are_those_of_draws(fitted, x64):
    _, fit = fitted
    draws = np.asarray(fit.mixture.sample(jax.random.key(1), 20_000))
    center = draws.mean(0)
    center[2] = np.arctan2(np.sin(draws[:, 2]).mean(), np.cos(draws[:, 2]).mean())
    center[4] = np.bincount(draws[:, 4].astype(int)).argmax()
    np.testing.assert_allclose(fit.mixture.mean(), center, atol=0.15)
    offset = draws - np.asarray(fit.mixture.mean())
    offset[:, 2] = (offset[:, 2] + np.pi) % (2 * np.pi) - np.pi
    expected = offset.T @ offset / len(offset)
    expected[4], expected[:, 4] = 0.0, 0.0
    expected[4, 4] = (offset[:, 4] != 0).mean()
    size = np.sqrt(np.diag(expected))
    assert (np.abs(np.asarray(fit.mixture.covariance()) - expected) < 0.05 * np.outer(size, size)).all()


def test_names_orders_and_files(fitted, tmp_path, x64):
    table, fit = fitted
    assert fit.feature_names == tuple(table.columns)
    order = [4, 3, 2, 0, 1]
    turned = fit.mixture.components.turned(order)
    x = table.to_numpy()[:40]
    np.testing.assert_allclose(turned.log_prob(x[:, order]), fit.mixture.components.log_prob(x), rtol=1e-9)
    omt.save(tmp_path / "fit.omt", fit)
    loaded = omt.load(tmp_path / "fit.omt")
    assert type(loaded.mixture.components) is type(fit.mixture.components)
    np.testing.assert_array_equal(loaded.mixture.log_prob(x), fit.mixture.log_prob(x))


def test_what_is_wrong_is_said():
    table = _table(30)
    with pytest.raises(ValueError, match="'kind' is in none"):
        omt.mixed(table, size=(Gaussian, ["height", "width"]), visits=(Poisson, ["visits", "hour"]))
    with pytest.raises(ValueError, match="'hour' is in two"):
        omt.mixed(table, a=(Gaussian, ["hour", "width"]), b=(Gaussian, ["hour"]))
    with pytest.raises(ValueError, match="'weight', a column of the block 'a', is none of width"):
        omt.mixed(table, a=(Gaussian, ["weight"]), b=(Gaussian, ["hour"]))
    with pytest.raises(ValueError, match="pass the table"):
        omt.mixed(a=(Gaussian, ["weight"]), b=(Gaussian, ["hour"]))
    with pytest.raises(ValueError, match="at least two blocks"):
        omt.mixed(a=(Gaussian, [0]))
    with pytest.raises(TypeError, match=r"must be a tuple \(family, columns\)"):
        omt.mixed(a=Gaussian, b=(Gaussian, [0]))
    with pytest.raises(ValueError, match="must be positive; got 0"):
        omt.mixed(a=(Gaussian, [0], 0.0), b=(Gaussian, [1]))
    with pytest.raises(TypeError, match="of one family"):
        omt.mixed(a=(omt.mixed(c=(Gaussian, 0), d=(Gaussian, 1)), [0, 1]), b=(Gaussian, [2]))
    bad = omt.mixed(size=(Gaussian, [0, 1]), visits=(Poisson, 2))
    x = np.column_stack([table["width"], table["height"], table["visits"] + 0.5])
    with pytest.raises(ValueError, match=r"support of Poisson \(whole numbers from 0\); got .* at index \[0, 2\]"):
        omt.fit(jax.random.key(0), x, bad, 2)
    x[:, 2] = 0
    with pytest.raises(ValueError, match="only zeros in column 0.*Columns \\[2\\], the block 'visits'"):
        omt.fit(jax.random.key(0), x, bad, 2)
    with pytest.raises(ValueError, match="must have 3 columns for mixed"):
        omt.fit(jax.random.key(0), x[:, :2], bad, 2)
    with pytest.raises(ValueError, match="must have the columns of the family"):
        omt.fit(jax.random.key(0), table[["width", "hour"]], _template(table), 2)
    with pytest.raises(TypeError, match="'visits' must be Poisson components"):
        bad.family(Gaussian([[0.0, 0.0]], [np.eye(2)]), Gaussian([[0.0]], [[[1.0]]]))


@pytest.mark.slow
def test_every_method_agrees_with_the_others(fitted, x64):
    """A table in another order; checks; and posteriors: Gibbs sampling and Laplace's method share nothing."""
    table, fit = fitted
    shuffled = table[["kind", "height", "hour", "width", "visits"]]
    again = omt.fit(jax.random.key(0), shuffled, _template(table), 2, covariance_prior=0.0, regularization=0.0)
    np.testing.assert_array_equal(again.mixture.log_prob(table.to_numpy()), fit.mixture.log_prob(table.to_numpy()))
    assert omt.check_family(_template(table), table).passed
    part = table[["width", "height", "visits", "kind"]]
    family = omt.mixed(part, size=(Gaussian, ["width", "height"]), visits=(Poisson, "visits"), kind=(KINDS, "kind"))
    exact, laplace = (
        omt.fit_posterior(jax.random.key(1), part, family, 2, method=method)
        for method in (omt.Gibbs(num_samples=500), omt.LaplaceApproximation())
    )
    assert omt.fit_posterior(jax.random.key(1), part, family, 2, method=None).method.startswith("Gibbs")
    assert set(exact.parameters) == {"weights", "size.loc", "size.scale_tril", "visits.rate", "kind.probability"}
    gap = np.abs(np.asarray(exact.label_free.mean) - np.asarray(laplace.label_free.mean))
    assert (gap < 0.5 * np.asarray(exact.label_free.standard_deviation)).all()
    assert "probability[3,2]" in exact.label_free.names


@pytest.mark.slow
def test_blocks_that_are_no_regular_families(x64):
    table = _table()
    family = omt.mixed(size=(omt.template(StudentT, df=5.0), [0, 1]), visits=(NegativeBinomial, 2))
    x = table[["width", "height", "visits"]].to_numpy(float)
    fit = omt.fit(jax.random.key(0), x, family, 2)
    assert fit.converged
    alone = omt.fit(jax.random.key(0), x[:, :2], omt.template(StudentT, df=5.0), 2)
    # More is known of the groups than sizes alone tell.
    rates = np.sort(np.asarray(fit.mixture.components["visits"].rate)[:, 0])
    np.testing.assert_allclose(rates, [2, 9], atol=0.5)
    assert float(fit.log_likelihood) < float(alone.log_likelihood)


@pytest.mark.slow
def test_tables_in_another_order_are_turned_on_both_sides(x64):
    before, after = (_table(200, seed)[["width", "height"]] for seed in (0, 1))
    family = omt.mixed(before, one=(Gaussian, "width"), two=(Gaussian, "height"))
    tables = (before, after), tuple(table[["height", "width"]] for table in (before, after))
    plans = [omt.fit_coupled(jax.random.key(0), *pair, family, 2, strength=1.0).plan for pair in tables]
    assert plans[0].feature_names == plans[1].feature_names == ("width", "height")
    np.testing.assert_array_equal(plans[0].component_costs, plans[1].component_costs)
    plans = [omt.select_plan(jax.random.key(0), *pair, family, [2]).plan for pair in tables]
    np.testing.assert_array_equal(plans[0].component_costs, plans[1].component_costs)
