"""NumPyro laws as families: fits against SciPy's, files, draws, posteriors, and what is refused."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats

import omt_expfam as omt

RNG = np.random.default_rng(0)
NUM = 400


def minimized(loss, start):
    return scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}).x


def one(law, x, **options):
    """The parameters of one component, by maximum likelihood."""
    fitted = omt.fit(jax.random.key(0), x, law, 1, covariance_prior=0.0, regularization=0.0, tolerance=1e-10, **options)
    return fitted, {name: np.asarray(value)[0] for name, value in fitted.mixture.components.parameters.items()}


def test_weibull_is_scipys_maximum(x64):
    x = 3 * RNG.weibull(2, (NUM, 2))
    fitted, found = one(omt.family(dist.Weibull), x)
    shape, _, scale = scipy.stats.weibull_min.fit(x[:, 0], floc=0)
    np.testing.assert_allclose([found["concentration"][0], found["scale"][0]], [shape, scale], rtol=1e-3)
    law = scipy.stats.weibull_min(found["concentration"], scale=found["scale"])
    np.testing.assert_allclose(fitted.mixture.log_prob(x), law.logpdf(x).sum(axis=1), rtol=1e-8)
    np.testing.assert_allclose(fitted.mixture.mean(), law.mean(), rtol=1e-8)


@pytest.mark.slow
def test_free_and_fixed_degrees_of_freedom_are_scipys(x64):
    x = 100 + 5 * RNG.standard_t(3, (NUM, 1))
    _, free = one(omt.family(dist.StudentT), x)
    expected = scipy.stats.t.fit(x[:, 0], 4.0, loc=100, scale=5)
    np.testing.assert_allclose([free["df"][0], free["loc"][0], free["scale"][0]], expected, rtol=5e-3)
    fitted, held = one(omt.family(dist.StudentT, df=4.0), x)
    _, loc, scale = scipy.stats.t.fit(x[:, 0], f0=4.0, loc=100, scale=5)
    np.testing.assert_allclose([held["loc"][0], held["scale"][0]], [loc, scale], rtol=1e-3)
    assert fitted.num_parameters == 2
    again = omt.fit(jax.random.key(0), x, fitted.mixture.components, 1)
    np.testing.assert_array_equal(again.mixture.components.fixed["df"], [[4.0]])


@pytest.mark.slow
def test_dependent_vectors_are_scipys_maximum(x64):
    x = scipy.stats.multivariate_t([1.0, -2.0], [[2.0, 0.9], [0.9, 1.0]], df=5).rvs(NUM, random_state=0)
    _, found = one(omt.family(dist.MultivariateStudentT, df=5.0), x)

    def loss(u):
        tril = np.array([[np.exp(u[2]), 0.0], [u[3], np.exp(u[4])]])
        return -scipy.stats.multivariate_t(u[:2], tril @ tril.T, df=5).logpdf(x).mean()

    u = minimized(loss, np.array([1.0, -2.0, 0.3, 0.6, -0.2]))
    np.testing.assert_allclose(found["loc"], u[:2], atol=2e-3)
    tril = np.array([[np.exp(u[2]), 0.0], [u[3], np.exp(u[4])]])
    np.testing.assert_allclose(found["scale_tril"], tril, atol=2e-3)
    example = omt.family(dist.MultivariateStudentT(5.0, np.zeros(2), np.eye(2)), df=5.0)
    np.testing.assert_allclose(one(example, x)[1]["loc"], u[:2], atol=2e-3)
    # What is held fixed stays in the units of the data.
    tril = np.array([[3.0, 0.0], [1.0, 2.0]])
    fitted, found = one(omt.family(dist.MultivariateNormal, scale_tril=tril), 10 * x)
    np.testing.assert_array_equal(fitted.mixture.components.fixed["scale_tril"], tril[None])
    np.testing.assert_allclose(found["loc"], 10 * x.mean(axis=0), rtol=1e-4)
    with pytest.raises(ValueError, match="`loc` of MultivariateStudentT is for 2 columns; got 3"):
        omt.fit(jax.random.key(0), RNG.normal(size=(9, 3)), example, 1)


# NumPyro's binomial draws use a key twice.
@pytest.mark.loose
@pytest.mark.slow
def test_counts_with_too_many_zeros_and_of_trials(x64, tmp_path):
    x = (RNG.poisson(4, (NUM, 1)) * (RNG.random((NUM, 1)) < 0.6)).astype(float)
    fitted, found = one(omt.family(dist.ZeroInflatedPoisson), x)

    def loss(u):
        gate, rate = 1 / (1 + np.exp(-u[0])), np.exp(u[1])
        mass = (1 - gate) * scipy.stats.poisson(rate).pmf(x) + gate * (x == 0)
        return -np.log(mass).mean()

    u = minimized(loss, np.array([-0.5, 1.4]))
    np.testing.assert_allclose(found["gate"][0], 1 / (1 + np.exp(-u[0])), rtol=1e-3)
    np.testing.assert_allclose(found["rate"][0], np.exp(u[1]), rtol=1e-3)
    assert fitted.mixture.components.lattice_form() is not None
    trials = RNG.binomial(20, 0.3, (NUM, 1)).astype(float)
    fitted, found = one(omt.family(dist.BinomialProbs, total_count=20), trials)
    np.testing.assert_allclose(found["probs"][0], trials.mean() / 20, rtol=1e-4)
    draws = np.asarray(fitted.mixture.sample(jax.random.key(0), 500))
    assert (draws == np.round(draws)).all()
    assert draws.max() <= 20
    np.testing.assert_allclose(draws.mean(), trials.mean(), rtol=0.05)
    omt.save(tmp_path / "trials.omt", fitted)
    same = omt.load(tmp_path / "trials.omt")
    np.testing.assert_array_equal(same.mixture.log_prob(trials), fitted.mixture.log_prob(trials))
    with pytest.raises(ValueError, match="`x` must have counts of at most `total_count`; got 20 at index"):
        omt.fit(jax.random.key(0), np.full((5, 1), 20.0), omt.family(dist.BinomialProbs, total_count=9), 1)


@pytest.mark.slow
def test_two_groups_are_found_in_any_unit_and_give_a_posterior_and_a_plan():
    x = np.concatenate([RNG.laplace(0, 1, (NUM, 1)), RNG.laplace(20, 1, (NUM, 1))])
    first, second = (omt.fit(jax.random.key(0), scale * x, omt.family(dist.Laplace), 2) for scale in (1.0, 1e4))
    for fitted, scale in ((first, 1.0), (second, 1e4)):
        centers = np.sort(np.asarray(fitted.mixture.components.mean())[:, 0]) / scale
        np.testing.assert_allclose(centers, np.median(x.reshape(2, NUM), axis=1), atol=0.2)
        assert np.diff(fitted.objectives[: int(fitted.num_steps)]).min(initial=0) > -1e-6
    assert omt.check_family(first.mixture.components, x).passed
    plan = omt.transport(first, first)
    np.testing.assert_allclose(plan.push_forward(np.array([[0.0], [20.0]])), [[0.0], [20.0]], atol=0.2)
    method = omt.LaplaceApproximation(num_samples=100)
    posterior = omt.fit_posterior(jax.random.key(1), x, omt.family(dist.Normal), 2, method=method)
    centers = np.sort(np.asarray(posterior.mixtures.components.parameters["loc"])[..., 0], axis=1)
    np.testing.assert_allclose(centers.mean(axis=0), x.reshape(2, NUM).mean(axis=1), atol=0.1)
    np.testing.assert_allclose(centers.std(axis=0), x.reshape(2, NUM).std(axis=1) / np.sqrt(NUM), rtol=0.4)


@pytest.mark.parametrize(
    ("law", "fixed", "error", "message"),
    [
        (3, {}, TypeError, "`law` must be a NumPyro distribution, a class or an example"),
        (dist.Binomial, {}, TypeError, "such as dist.BinomialProbs for dist.Binomial"),
        (dist.BinomialProbs, {}, TypeError, "`total_count` of BinomialProbs cannot be estimated; fix it"),
        (dist.Uniform, {}, TypeError, "must have one support for all parameters; Uniform's moves"),
        (dist.Dirichlet, {}, TypeError, "on an interval, of counts or of real vectors; Dirichlet has the support"),
        (dist.StudentT, {"nu": 3.0}, ValueError, "StudentT has no parameter 'nu'; it has df, loc, scale"),
        (dist.StudentT, {"df": -1.0}, ValueError, "`df` of StudentT must be .*; got -1.0"),
        (dist.Kumaraswamy, {}, None, ""),
        (dist.Levy, {}, TypeError, "must have one support"),
        (dist.FoldedDistribution, {}, TypeError, "must have parameters of its own"),
    ],
)
def test_what_cannot_be_a_family_is_refused(law, fixed, error, message):
    if error is None:
        assert omt.family(law, **fixed).family.law is law
        return
    with pytest.raises(error, match=message):
        omt.family(law, **fixed)
