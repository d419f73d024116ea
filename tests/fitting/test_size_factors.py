"""Counts with size factors, against SciPy's maximizers and densities, and what size factors cannot be."""

import jax
import numpy as np
import pytest
import scipy.stats as st
from scipy.optimize import minimize
from scipy.special import logsumexp

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, NegativeBinomial, Poisson

PLAIN = {"covariance_prior": 0.0, "regularization": 0.0}
FAMILIES = {"Poisson": Poisson, "NegativeBinomial": NegativeBinomial}
RATES, CONCENTRATION = np.array([[2.0, 9.0, 0.5], [6.0, 3.0, 2.0]]), 4.0


def _data(name, num=700, spread=0.7):
    """Two populations in three columns, their labels, and size factors that differ by some multiples."""
    rng = np.random.default_rng(3)
    labels, sizes = (rng.random(num) < 0.6).astype(int), rng.lognormal(0, spread, num)
    rates = RATES[labels] * (1 if name == "Poisson" else rng.gamma(CONCENTRATION, 1 / CONCENTRATION, (num, 3)))
    return rng.poisson(sizes[:, None] * rates).astype(float), labels, sizes


def _log_mass(components, x, sizes):
    """Log-probabilities of every point in every component, by SciPy."""
    found = []
    for k, rate in enumerate(np.asarray(components.rate)):
        mean = sizes[:, None] * rate
        if isinstance(components, Poisson):
            found.append(st.poisson(mean).logpmf(x).sum(1))
        else:
            r = np.asarray(components.concentration)[k]
            found.append(st.nbinom(r, r / (r + mean)).logpmf(x).sum(1))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_one_component_is_the_maximum_that_scipy_finds(name, x64):
    """Also with weights, of which some are zero."""
    x, _, sizes = _data(name)
    weight = np.random.default_rng(1).integers(0, 3, len(x)).astype(float)
    fitted = omt.fit(jax.random.key(0), x, FAMILIES[name], 1, sample_weight=weight, size_factors=sizes, **PLAIN)
    components, total = fitted.mixture.components, 0.0
    for j, column in enumerate(x.T):

        def loss(parameters, column=column):
            mean = np.exp(parameters[0]) * sizes
            if name == "Poisson":
                return -weight @ st.poisson(mean).logpmf(column) / weight.sum()
            r = np.exp(parameters[1])
            return -weight @ st.nbinom(r, r / (r + mean)).logpmf(column) / weight.sum()

        best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
        total -= best.fun
        np.testing.assert_allclose(np.log(components.rate[0, j]), best.x[0], atol=1e-5)
        if name == "NegativeBinomial":
            np.testing.assert_allclose(np.log(components.concentration[0, j]), best.x[1], atol=1e-3)
    np.testing.assert_allclose(fitted.log_likelihood, total, rtol=1e-8)
    if name == "Poisson":
        np.testing.assert_allclose(components.rate[0], weight @ x / (weight @ sizes), rtol=1e-12)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_populations_are_recovered_where_sizes_hide_them(name, x64):
    x, labels, sizes = _data(name)
    fitted = omt.fit(jax.random.key(0), x, FAMILIES[name], 2, size_factors=sizes)
    objectives = np.asarray(fitted.objectives)
    assert (np.diff(objectives) > -1e-9 * np.abs(objectives[1:])).all()
    components = fitted.mixture.components
    order = np.argsort(np.asarray(components.rate)[:, 0])
    np.testing.assert_allclose(np.asarray(components.rate)[order], RATES, rtol=0.2)

    table = np.log(np.asarray(fitted.mixture.weights)) + _log_mass(components, x, sizes)
    np.testing.assert_allclose(fitted.mixture.log_prob(x, sizes), logsumexp(table, axis=1), rtol=1e-10)
    np.testing.assert_allclose(float(fitted.log_likelihood), logsumexp(table, axis=1).mean(), rtol=1e-9)
    responsibilities = np.asarray(fitted.mixture.responsibilities(x, sizes))
    np.testing.assert_allclose(responsibilities, np.exp(table - logsumexp(table, axis=1, keepdims=True)), atol=1e-9)

    found = order.argsort()[responsibilities.argmax(1)]
    blind = omt.fit(jax.random.key(0), x, FAMILIES[name], 2).mixture.responsibilities(x)
    guessed = np.asarray(blind).argmax(1)
    # The Bayes rule with the true rates is what can be reached.
    truth = FAMILIES[name](*([RATES] if name == "Poisson" else [RATES, np.full((2, 3), CONCENTRATION)]))
    bayes = (np.log([0.4, 0.6]) + _log_mass(truth, x, sizes)).argmax(1)
    assert (found == labels).mean() > (bayes == labels).mean() - 0.01
    assert max((guessed == labels).mean(), (guessed != labels).mean()) < (found == labels).mean() - 0.05


@pytest.mark.parametrize("name", list(FAMILIES))
def test_the_unit_of_sizes_does_not_matter(name, x64):
    """Equal sizes are none; twice the sizes are half the rates."""
    x, _, sizes = _data(name)
    one, two, none, equal = (
        omt.fit(jax.random.key(0), x, FAMILIES[name], 2, size_factors=own, tolerance=1e-9, **PLAIN)
        for own in (sizes, 2 * sizes, None, np.ones(len(x)))
    )
    np.testing.assert_allclose(2 * two.mixture.components.rate, one.mixture.components.rate, rtol=1e-3)
    np.testing.assert_allclose(two.log_likelihood, one.log_likelihood, rtol=1e-6)
    np.testing.assert_allclose(equal.log_likelihood, none.log_likelihood, rtol=1e-6)


def test_a_given_start_goes_on(x64):
    x, _, sizes = _data("NegativeBinomial")
    first = omt.fit(jax.random.key(0), x, NegativeBinomial, 2, size_factors=sizes)
    again = omt.fit(jax.random.key(1), x, NegativeBinomial, 2, size_factors=sizes, start=first.mixture)
    assert int(again.num_steps) <= 3
    np.testing.assert_allclose(again.log_likelihood, first.log_likelihood, rtol=1e-5)
    seeded = omt.fit(jax.random.key(1), x, NegativeBinomial, 2, size_factors=sizes, start=np.ceil(RATES))
    np.testing.assert_allclose(seeded.log_likelihood, first.log_likelihood, rtol=1e-4)


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_the_number_of_components_is_chosen_with_sizes(criterion, x64):
    """Without them, differences of size look like components. Held-out points are judged with their own sizes."""
    x, _, sizes = _data("Poisson")
    weight = np.r_[np.zeros(3), np.ones(len(x) - 3)]
    options = {"criterion": criterion, "sample_weight": weight}
    chosen = omt.select_num_components(jax.random.key(0), x, Poisson, (1, 2, 3, 4), size_factors=sizes, **options)
    assert chosen.num_components == 2
    blind = omt.select_num_components(jax.random.key(0), x, Poisson, (1, 2, 3, 4), **options)
    assert blind.num_components == 4
    if criterion == "held_out":
        # Per point, what the fit to all of them says of them, within what folds differ by.
        gap = float(chosen.fit.log_likelihood) - chosen.scores[1]
        assert -0.01 < gap < 0.05


@pytest.mark.parametrize("block", [DiagonalGaussian, Poisson])
def test_sizes_belong_to_the_counts_of_mixed_columns(block, x64):
    """Other columns are as they are: the parts of one component are the fits of their columns."""
    x, _, sizes = _data("NegativeBinomial")
    other = st.poisson(3.0).rvs((len(x), 2), random_state=0) + 1.0
    both = np.concatenate([other[:, :1], x, other[:, 1:]], axis=1)
    family = omt.mixed(other=(block, [0, 4]), counts=(NegativeBinomial, [1, 2, 3]))
    fitted = omt.fit(jax.random.key(0), both, family, 1, size_factors=sizes, **PLAIN)
    alone = omt.fit(jax.random.key(0), x, NegativeBinomial, 1, size_factors=sizes, **PLAIN)
    own = {"size_factors": sizes} if block is Poisson else {}
    rest = omt.fit(jax.random.key(0), other, block, 1, **own, **PLAIN)
    np.testing.assert_allclose(fitted.mixture.components["counts"].rate, alone.mixture.components.rate, rtol=1e-6)
    np.testing.assert_allclose(fitted.mixture.components["other"].mean(), rest.mixture.components.mean(), rtol=1e-9)
    np.testing.assert_allclose(fitted.log_likelihood, alone.log_likelihood + rest.log_likelihood, rtol=1e-8)
    np.testing.assert_allclose(np.mean(fitted.mixture.log_prob(both, sizes)), fitted.log_likelihood, rtol=1e-10)
    two = omt.fit(jax.random.key(0), both, family, 2, size_factors=sizes)
    assert two.converged
    moved = np.asarray(two.mixture.to_size_one(jax.random.key(1), both, sizes))
    assert (moved[:, [0, 4]] == both[:, [0, 4]]).all() == (block is DiagonalGaussian)
    assert (moved[:, 1:4] != both[:, 1:4]).any()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_counts_are_brought_to_size_one(name, x64):
    """Their law there is the mixture's, whatever their sizes; counts stay when they have it, and few others come."""
    _, labels, _ = _data(name, 20_000)
    rng = np.random.default_rng(2)
    rates = RATES[labels] * (1 if name == "Poisson" else rng.gamma(CONCENTRATION, 1 / CONCENTRATION, (len(labels), 3)))
    components = FAMILIES[name](*([RATES] if name == "Poisson" else [RATES, np.full((2, 3), CONCENTRATION)]))
    mixture = omt.Mixture([0.4, 0.6], components)
    grid = np.arange(60.0)
    for size in (0.3, 2.5):
        x = rng.poisson(size * rates).astype(float)
        moved = np.asarray(mixture.to_size_one(jax.random.key(0), x, np.full(len(x), size)))
        np.testing.assert_array_equal(moved, np.round(moved))
        assert ((moved >= x) if size < 1 else (moved <= x)).all()
        for j in range(3):
            mean = RATES[:, j]
            law = (
                st.poisson(mean[:, None])
                if name == "Poisson"
                else st.nbinom(CONCENTRATION, (CONCENTRATION / (CONCENTRATION + mean))[:, None])
            )
            expected = len(x) * ([0.4, 0.6] @ law.pmf(grid[None]))
            counts = np.bincount(moved[:, j].astype(int), minlength=len(grid))[: len(grid)]
            some = expected > 5
            assert (
                st.chisquare(
                    np.r_[counts[some], counts[~some].sum()], np.r_[expected[some], len(x) - expected[some].sum()]
                ).pvalue
                > 1e-3
            )
    np.testing.assert_array_equal(mixture.to_size_one(jax.random.key(0), x[:50], np.ones(50)), x[:50])


def test_bad_sizes_are_refused():
    x, _, sizes = _data("Poisson", 40)
    cases = {
        "must have shape (40,)": sizes[:-1],
        "positive and finite; got 0 at index 2": np.where(np.arange(40) == 2, 0.0, sizes),
        "positive and finite; got nan at index 5": np.where(np.arange(40) == 5, np.nan, sizes),
    }
    for words, bad in cases.items():
        with pytest.raises(ValueError, match=r"`size_factors`.*" + words.replace("(", r"\(").replace(")", r"\)")):
            omt.fit(jax.random.key(0), x, Poisson, 2, size_factors=bad)
    with pytest.raises(ValueError, match="are for counts, such as NegativeBinomial.*got Gaussian"):
        omt.fit(jax.random.key(0), x, Gaussian, 2, size_factors=sizes)
    mixture = omt.Mixture([1.0], Gaussian(np.zeros((1, 3)), np.eye(3)[None]))
    with pytest.raises(ValueError, match="are for counts"):
        mixture.log_prob(x, sizes)
