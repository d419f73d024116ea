import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpyro.distributions import constraints, transforms

from omt_expfam import Mixture
from omt_expfam._base.precision import relaxed
from omt_expfam._family.priors import ConjugatePrior
from omt_expfam._posteriors.methods import gibbs_sweeps
from omt_expfam._posteriors.methods.gibbs_kernel import MixtureGibbs
from omt_expfam._posteriors.methods.gibbs_sweeps import gibbs_draws
from omt_expfam._posteriors.methods.metropolis import Metropolis
from omt_expfam._posteriors.model import mixture_model
from omt_expfam.extend import AbstractFactorizedFamily
from omt_expfam.families import (
    DiagonalGaussian,
    Exponential,
    Gamma,
    Gaussian,
    Laplace,
    LogNormal,
    LowRankGaussian,
    SphericalGaussian,
)

DIM, NUM_DRAWS = 2, 4000
# Probability of what is at least as far from uniform as a test statistic; all keys are fixed.
P_VALUE = 1e-3
COUNTS = np.array([12.0, 0.0])


def prior(make):
    """A NumPyro distribution, which NumPyro cannot make under strict promotion."""
    with relaxed():
        return make()


def on_host(tree):
    """The same with NumPy arrays, which keep float64 outside of x64."""
    return jax.tree.map(np.asarray, tree)


def uniform(law, draws):
    """Whether draws follow a law of SciPy's, by Kolmogorov and Smirnov."""
    return scipy.stats.kstest(np.asarray(draws), law.cdf).pvalue > P_VALUE


def points(seed=0, num=12, dim=DIM):
    """Points of the first of two components; the second has none."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, dim)) @ np.array([[1.5, 0.6], [0.0, 0.7]])[:dim, :dim] + np.arange(1, dim + 1)


@jax.jit
def sums_of(components, x):
    """Sums over points that all belong to the first component."""
    data = components._prepare(x.T)
    return components._accumulate(data, jnp.asarray([[1.0] * len(x), [0.0] * len(x)]))


def steps(components, priors, sums, origin=0.0):
    """Many conjugate steps from the same components."""
    hyper = components.priors.hyperparameters(components, priors, jnp.full((components.dim,), origin))
    return _steps(jax.random.key(1), components, jnp.asarray(COUNTS), sums, hyper)


@jax.jit
def _steps(key, components, counts, sums, hyper):
    keys = jax.random.split(key, NUM_DRAWS)
    return jax.vmap(lambda key: components.priors.draw(key, components, counts, sums, hyper))(keys)


# One family each: components of given location and covariance matrix, and its priors for a tight or a wide location.
SPREAD = {
    "Gaussian": (
        lambda loc, cov: Gaussian(loc, cov),
        "scale_tril",
        lambda: dist.InverseWishartCholesky(5.0, scale_tril=jnp.asarray([[1.0, 0.0], [0.3, 0.8]])),
    ),
    "DiagonalGaussian": (
        lambda loc, cov: DiagonalGaussian(loc, np.diagonal(cov, axis1=1, axis2=2).copy()),
        "variance",
        lambda: dist.InverseGamma(2.5, jnp.asarray([0.7, 1.2])).to_event(1),
    ),
    "SphericalGaussian": (
        lambda loc, cov: SphericalGaussian(loc, cov[:, 0, 0]),
        "variance",
        lambda: dist.InverseGamma(2.5, 0.7),
    ),
    "LogNormal": (
        lambda loc, cov: LogNormal(loc, np.sqrt(np.diagonal(cov, axis1=1, axis2=2))),
        "scale",
        lambda: dist.TransformedDistribution(
            dist.InverseGamma(2.5, jnp.asarray([0.7, 1.2])), transforms.PowerTransform(0.5)
        ).to_event(1),
    ),
}
LOC = np.array([[0.5, 2.0], [-1.0, 0.0]])
COV = np.array([[[1.3, 0.4], [0.4, 0.6]], [[0.5, 0.0], [0.0, 2.0]]])


@pytest.mark.parametrize("name", SPREAD)
def test_a_location_given_the_spread_is_normal(name, x64):
    """The precision is that of the prior plus one per point; the mean weighs prior and points by them."""
    make, spread, spread_prior = SPREAD[name]
    components, x = make(LOC, COV), points()
    center, scale = np.array([1.0, -1.0]), np.array([2.0, 0.5])
    priors = prior(lambda: {"loc": dist.Normal(center, scale).to_event(1), spread: spread_prior()})
    data = np.exp(x) if name == "LogNormal" else x
    own = np.asarray(components.covariance())
    if name == "LogNormal":
        own = np.asarray(components.scale)[:, :, None] ** 2 * np.eye(DIM)
    precision = np.linalg.inv(own)
    draws = steps(components, priors, sums_of(components, data))
    for k in range(2):
        total = np.diag(scale**-2) + COUNTS[k] * precision[k]
        mean = np.linalg.solve(total, center / scale**2 + COUNTS[k] * precision[k] @ x.mean(0))
        white = (np.asarray(draws.loc)[:, k] - mean) @ np.linalg.cholesky(total)
        assert uniform(scipy.stats.norm, white[:, 0])
        assert uniform(scipy.stats.norm, white[:, 1])


@pytest.mark.parametrize("name", SPREAD)
def test_a_spread_given_the_location_is_conjugate(name, x64):
    """With a prior that pins the location, variances are inverse gamma and covariances inverse Wishart."""
    make, spread, spread_prior = SPREAD[name]
    components, x = make(LOC, COV), points()
    center = np.array([1.0, -1.0])
    priors = prior(lambda: {"loc": dist.Normal(center, 1e-7).expand([2, 2]).to_event(1), spread: spread_prior()})
    draws = steps(components, priors, sums_of(components, np.exp(x) if name == "LogNormal" else x))
    deviations = x - center
    for k in range(2):
        scatter = deviations.T @ deviations * (COUNTS[k] > 0)
        if name == "Gaussian":
            tril = np.array([[1.0, 0.0], [0.3, 0.8]])
            scale, degrees = tril @ tril.T + scatter, 5 + COUNTS[k]
            covariance = np.einsum("...ij,...kj->...ik", draws.scale_tril, draws.scale_tril)
            distance = np.trace(scale @ np.linalg.inv(covariance[:, k]), axis1=1, axis2=2)
            assert uniform(scipy.stats.chi2(2 * degrees), distance)
            for i in range(2):
                law = scipy.stats.invgamma((degrees - 1) / 2, scale=scale[i, i] / 2)
                assert uniform(law, covariance[:, k, i, i])
            correlation = np.mean(covariance[:, k, 0, 1] - scale[0, 1] / (degrees - 3))
            assert abs(correlation) < 4 * np.std(covariance[:, k, 0, 1]) / NUM_DRAWS**0.5
        elif name == "SphericalGaussian":
            law = scipy.stats.invgamma(2.5 + COUNTS[k], scale=0.7 + np.trace(scatter) / 2)
            assert uniform(law, np.asarray(draws.variance)[:, k])
        else:
            variance = np.asarray(draws.scale) ** 2 if name == "LogNormal" else np.asarray(draws.variance)
            for i in range(2):
                law = scipy.stats.invgamma(2.5 + COUNTS[k] / 2, scale=[0.7, 1.2][i] + scatter[i, i] / 2)
                assert uniform(law, variance[:, k, i])


def many_steps(components, priors, counts, sums, num=40):
    """Metropolis steps of many components alike, each a chain of its own; the last half."""
    law = Metropolis(components, priors)
    drawn = _chain(jax.random.key(2), law, components, counts, sums, num)
    return law, jax.tree.map(lambda leaf: np.asarray(leaf)[num // 2 :], drawn)


@functools.partial(jax.jit, static_argnames="num")
def _chain(key, law, components, counts, sums, num):
    def one(carry, key):
        drawn = law.draw(key, carry, counts, sums)
        return drawn[0], drawn

    return jax.lax.scan(one, components, jax.random.split(key, num))[1]


@pytest.mark.parametrize(("num", "least"), [(0, 0.6), (3, 0.6), (400, 0.8)])
def test_gamma_steps_follow_their_conditional(num, least, x64):
    """Against a dense grid in the logarithms of both parameters, coordinate by coordinate and both at once."""
    x = np.random.default_rng(3).gamma(2.0, 0.7, (num, 2))
    sums = np.stack([np.log(x).sum(0), x.sum(0)], -1)
    chains = 400
    components = Gamma(np.full((chains, 2), 2.0), np.full((chains, 2), 2.0))
    center = np.log(np.array([[1.5, 3.0], [1.0, 2.0]]))
    normals = prior(lambda: [dist.LogNormal(c, 0.8).to_event(1) for c in center])
    counts, totals = jnp.full((chains,), float(num)), jnp.broadcast_to(sums.ravel(), (chains, 4))
    grid = np.linspace(-6, 7, 1201)
    a, b = np.exp(grid)[:, None], np.exp(grid)[None]
    for joint in (False, True):
        if joint:
            # The same priors, in a form that does not show that coordinates are independent.
            normals = prior(
                lambda: [
                    dist.TransformedDistribution(
                        dist.MultivariateNormal(jnp.asarray(c), 0.64 * jnp.eye(2)), transforms.ExpTransform()
                    )
                    for c in center
                ]
            )
        priors = dict(zip(("concentration", "rate"), normals, strict=True))
        law, (draws, accepted) = many_steps(components, priors, counts, totals)
        assert law.by_coordinate != joint
        assert accepted.mean() > least - 0.2 * joint
        for i in range(2):
            log_density = (a - 1) * sums[i, 0] - b * sums[i, 1] + num * (a * np.log(b) - scipy.special.gammaln(a))
            log_density = log_density - 0.5 * ((np.log(a) - center[0, i]) ** 2 + (np.log(b) - center[1, i]) ** 2) / 0.64
            weight = np.exp(log_density - log_density.max())
            weight /= weight.sum()
            for axis, values in enumerate((draws.concentration, draws.rate)):
                mass = weight.sum(1 - axis)
                mean = mass @ grid
                sd = np.sqrt(mass @ (grid - mean) ** 2)
                logs = np.log(values[..., i])
                # Chains are independent, so the error of a mean comes from the spread of their means.
                error = logs.mean(0).std() / chains**0.5
                assert abs(logs.mean() - mean) < 4 * error
                np.testing.assert_allclose(logs.std(), sd, rtol=0.05)


class Cubic(AbstractFactorizedFamily):
    """A Weibull law of known shape: its conjugate prior is a gamma law."""

    support, start = constraints.positive, (-1.0,)

    def _statistics(self, x):
        return (x**3,)

    def _log_base(self, x):
        return 2 * jnp.log(x)

    def _log_normalizer(self, eta):
        return -jnp.log(-3 * eta[0])


@pytest.mark.parametrize("num", [0.0, 30.0])
def test_conjugate_priors_are_pseudo_observations(num, x64):
    """The density exp(eta (S + s t) + (n + s) log(-eta)) is that of a gamma law of -eta."""
    chains = 1500
    components = Cubic(np.full((chains, 1, 1), -1.0))
    single = jax.tree.map(lambda leaf: leaf[0], components)
    own = ConjugatePrior(single, jnp.asarray([0.7]), 1.5)
    priors = prior(lambda: {"natural_parameters": own.expand((chains,))})
    sums = jnp.full((chains, 1), 0.4 * num)
    _, (draws, accepted) = many_steps(components, priors, jnp.full((chains,), num), sums, 20)
    assert accepted.mean() > 0.6
    assert uniform(scipy.stats.gamma(num + 2.5, scale=1 / (0.4 * num + 1.05)), -draws.natural[-1].ravel())


def grid_posterior(x, loc_scale, concentration, rate):
    """Moments of mean and variance of a normal sample under independent normal and inverse gamma priors."""
    mean = np.linspace(x.mean() - 6 * x.std(), x.mean() + 6 * x.std(), 801)[:, None]
    log_variance = np.linspace(-6, 6, 1201)[None]
    variance = np.exp(log_variance)
    squares = ((x - x.mean()) ** 2).sum() + len(x) * (x.mean() - mean) ** 2
    log_density = -0.5 * len(x) * log_variance - 0.5 * squares / variance - 0.5 * (mean / loc_scale) ** 2
    log_density = log_density - concentration * log_variance - rate / variance
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    return [
        (w @ v, np.sqrt(w @ v**2 - (w @ v) ** 2))
        for w, v in ((weight.sum(1), mean[:, 0]), (weight.sum(0), log_variance[0]))
    ]


def diagonal_priors(shift=0.0, loc_scale=2.0):
    return prior(
        lambda: {
            "loc": dist.Normal(jnp.asarray([shift]), loc_scale).to_event(1),
            "variance": dist.InverseGamma(jnp.asarray([1.5]), 0.5).to_event(1),
        }
    )


def test_a_single_component_has_the_posterior_of_quadrature():
    x = np.random.default_rng(4).normal(1.0, 1.5, (7, 1))
    start = Mixture(np.ones(1), DiagonalGaussian(np.zeros((1, 1)), np.ones((1, 1))))
    options = {"num_warmup": 50, "num_samples": 2000, "num_chains": 2, "progress": False}
    result = on_host(gibbs_draws(jax.random.key(5), x, start, diagonal_priors(), 1.0, **options))
    own = result.mixture.components
    assert result.acceptance is None
    assert result.log_likelihood.dtype == own.loc.dtype == np.float64
    assert own.loc.shape == (2, 2000, 1, 1)
    for draws, (mean, sd) in zip((own.loc, np.log(own.variance)), grid_posterior(x[:, 0], 2.0, 1.5, 0.5), strict=True):
        draws = np.asarray(draws).ravel()
        # About half of the draws are effective.
        assert abs(draws.mean() - mean) < 4 * sd / 2000**0.5
        np.testing.assert_allclose(draws.std(), sd, rtol=0.06)
    law = scipy.stats.norm(np.asarray(own.loc[1, -1, 0]), np.sqrt(np.asarray(own.variance[1, -1, 0])))
    np.testing.assert_allclose(result.log_likelihood[1, -1], law.logpdf(x).sum(), rtol=1e-10)


def two_groups(seed=6, dim=1, num=60):
    rng = np.random.default_rng(seed)
    first = rng.normal(-1.5, 1.0, (num, dim))
    return np.concatenate([first, rng.normal(1.5, 0.6, (num // 2, dim))])


def start_of(family, dim=1):
    loc = np.array([[-1.5], [1.5]]) + np.zeros((2, dim))
    spread = {"Gaussian": np.stack([np.eye(dim)] * 2), "SphericalGaussian": np.ones(2)}
    return Mixture([0.6, 0.4], family(loc, spread.get(family.__name__, np.ones((2, dim)))))


def test_a_shift_of_the_data_shifts_the_draws():
    """Even by a million standard deviations, where raw squares have lost the spread."""
    x, shift = two_groups(), 2.0**20
    options = {"num_warmup": 3, "num_samples": 20, "num_chains": 2, "progress": False}
    start = start_of(DiagonalGaussian)
    near = gibbs_draws(jax.random.key(7), x, start, diagonal_priors(), 1.0, **options)
    moved = Mixture(
        start.weights, DiagonalGaussian(np.asarray(start.components.loc) + shift, start.components.variance)
    )
    far = gibbs_draws(jax.random.key(7), x + shift, moved, diagonal_priors(shift), 1.0, **options)
    np.testing.assert_allclose(np.asarray(far.mixture.components.loc) - shift, near.mixture.components.loc, atol=1e-6)
    np.testing.assert_allclose(far.mixture.components.variance, near.mixture.components.variance, rtol=1e-6)
    np.testing.assert_allclose(far.log_likelihood, near.log_likelihood, rtol=1e-6)


def test_chunks_of_points_make_no_difference(monkeypatch, x64):
    x, start = jnp.asarray(two_groups()), start_of(Gaussian)
    priors = mixture_model(x, Gaussian, 2).priors
    states = []
    for chunk, prepared in ((2**20, 2**20), (100, 2**20), (100, 0)):
        monkeypatch.setattr(gibbs_sweeps, "_CHUNK", chunk)
        monkeypatch.setattr(gibbs_sweeps, "_PREPARED", prepared)
        problem, components = gibbs_sweeps.gibbs_problem(x, start, priors, jnp.ones(2))
        first = gibbs_sweeps.first_state(problem, jax.random.key(0), start.weights, components)
        states.append(on_host(jax.jit(gibbs_sweeps.draw_labels)(problem, first)[1]))
        assert (problem.used.shape[0] == 1) == (chunk > 100)
        assert problem.prepared == (prepared > 0)
    expected = np.asarray(start.log_prob(x)).sum()
    for state in states:
        np.testing.assert_allclose(state.log_likelihood, expected, rtol=1e-12)
        np.testing.assert_allclose(state.counts.sum(), len(x))
        np.testing.assert_allclose(state.sums.first.sum(0), 0, atol=1e-9)
        # The groups are far enough apart for labels to follow them.
        np.testing.assert_allclose(state.counts, [60, 30], atol=12)


def test_new_data_need_no_compilation():
    options = {"num_warmup": 1, "num_samples": 2, "num_chains": 2, "progress": False}
    start = start_of(DiagonalGaussian)
    gibbs_draws(jax.random.key(0), two_groups(1), start, diagonal_priors(), 1.0, **options)
    before = gibbs_sweeps._advance.__wrapped__._cache_size()
    gibbs_draws(jax.random.key(1), two_groups(2), start, diagonal_priors(0.5, 3.0), 0.5, **options)
    assert gibbs_sweeps._advance.__wrapped__._cache_size() == before


@pytest.mark.parametrize(
    ("name", "law", "message"),
    [
        ("loc", lambda: dist.Laplace(jnp.zeros(1)).to_event(1), "Normal prior on `loc`; got Laplace"),
        ("variance", lambda: dist.Gamma(jnp.ones(1)).to_event(1), "InverseGamma prior on `variance`; got Gamma"),
        ("scale", lambda: dist.HalfNormal(jnp.ones(1)).to_event(1), "`loc`, `variance`; got `loc`, `scale`, `var"),
    ],
)
def test_priors_that_are_not_conjugate_are_refused(name, law, message):
    options = {"num_warmup": 1, "num_samples": 1, "progress": False}
    with pytest.raises(TypeError, match=f"{message}.*NUTS"):
        gibbs_draws(
            jax.random.key(0),
            two_groups(),
            start_of(DiagonalGaussian),
            diagonal_priors() | {name: prior(law)},
            1.0,
            **options,
        )


@pytest.mark.parametrize(
    ("components", "remedy"),
    [
        (Laplace(np.zeros((2, 1)), np.ones((2, 1))), "bootstrap"),
        (Exponential(np.zeros((2, 1)), np.ones((2, 1))), "bootstrap"),
        (LowRankGaussian(np.zeros((2, 1)), np.ones((2, 1, 1)), np.ones((2, 1))), "NUTS or the bootstrap"),
    ],
)
def test_families_without_conditionals_are_refused(components, remedy):
    with pytest.raises(TypeError, match=f"regular exponential family.*got {type(components).__name__}.*{remedy}"):
        gibbs_draws(
            jax.random.key(0), two_groups(), Mixture([0.5, 0.5], components), {}, 1.0, num_warmup=1, num_samples=1
        )


# -- whole samplers -------------------------------------------------------------------------------------------------


@pytest.mark.loose
@pytest.mark.parametrize(("method", "progress"), [("sequential", True), ("vectorized", False)])
def test_the_kernel_runs_in_numpyro(method, progress):
    from numpyro.infer import MCMC

    x = two_groups(dim=2).astype(np.float32)
    options = {"num_warmup": 5, "num_samples": 20, "num_chains": 2, "chain_method": method, "progress_bar": progress}
    mcmc = MCMC(MixtureGibbs(start_of(DiagonalGaussian, 2)), **options)
    mcmc.run(jax.random.key(0), x, extra_fields=("log_likelihood",))
    draws = mcmc.get_samples(group_by_chain=True)
    log_likelihood = mcmc.get_extra_fields(group_by_chain=True)["log_likelihood"]
    shapes = {name: value.shape for name, value in draws.items()}
    assert shapes == {"weights": (2, 20, 2), "loc": (2, 20, 2, 2), "variance": (2, 20, 2, 2)}
    assert draws["loc"].dtype == np.float32
    last = {name: np.asarray(value)[1, -1] for name, value in draws.items()}
    mixture = Mixture(last["weights"], DiagonalGaussian(last["loc"], last["variance"]))
    np.testing.assert_allclose(np.asarray(log_likelihood)[1, -1], np.asarray(mixture.log_prob(x)).sum(), rtol=1e-4)
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(jax.random.key(1), x)
    assert not np.allclose(mcmc.get_samples(group_by_chain=True)["loc"][:, 0], draws["loc"][:, -1])


@pytest.mark.loose
def test_the_kernel_takes_old_keys_and_reports_acceptance():
    from numpyro.infer import MCMC

    x = np.random.default_rng(0).gamma(3.0, 1.0, (40, 1))
    start = Mixture(np.ones(1), Gamma(np.full((1, 1), 3.0), np.ones((1, 1))))
    with jax.enable_x64(True):
        mcmc = MCMC(MixtureGibbs(start, weight_concentration=0.5), num_warmup=5, num_samples=50, progress_bar=False)
        mcmc.run(jax.random.PRNGKey(0), x=x, extra_fields=("acceptance",))
        assert mcmc.get_samples()["rate"].dtype == np.float64
        assert mcmc.get_extra_fields()["acceptance"].shape == (50, 1)
        assert "accepted" in mcmc.sampler.get_diagnostics_str(mcmc.last_state)


@pytest.mark.loose
def test_the_kernel_takes_points_only():
    kernel = MixtureGibbs(start_of(Gaussian))
    with pytest.raises(TypeError, match="takes one argument"):
        kernel.init(jax.random.key(0), 1, None, (1, 2), {})
    with pytest.raises(ValueError, match="`init_params`"):
        kernel.init(jax.random.key(0), 1, {}, (two_groups(),), {})


def nuts_draws(x, make, priors):
    """Draws of the same model by NUTS, from plain NumPyro distributions."""
    import numpyro
    from numpyro.infer import init_to_value, MCMC, NUTS

    def model(x):
        weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("components", 2):
            sites = {name: numpyro.sample(name, law) for name, law in priors.items()}
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), make(**sites)), obs=x)

    return MCMC, NUTS, init_to_value, model


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.loose
@pytest.mark.parametrize("name", ["Gaussian", "Gamma"])
def test_gibbs_agrees_with_nuts(name, x64):
    """Means within Monte-Carlo error, standard deviations within a fifth, on two groups that overlap.

    One family with conjugate steps, as the others have that are tested above, and one with Metropolis's.
    """
    dim = 2 if name == "Gaussian" else 1
    x = two_groups(dim=dim)
    families = {
        "Gaussian": (Gaussian, lambda loc, scale_tril: dist.MultivariateNormal(loc, scale_tril=scale_tril)),
        "Gamma": (Gamma, lambda concentration, rate: dist.Gamma(concentration, rate).to_event(1)),
    }
    family, make = families[name]
    gamma = Mixture([0.6, 0.4], Gamma([[1.5], [5.0]], [[5.0], [1.0]]))
    start = gamma if name == "Gamma" else start_of(family, dim)
    if name == "Gamma":
        x = np.exp(x)
    priors = mixture_model(x, family, 2).priors
    MCMC, NUTS, init_to_value, model = nuts_draws(x, make, priors)
    values = {"weights": start.weights, **start.components.priors.parameters(start.components, tuple(priors))}
    nuts = MCMC(
        NUTS(model, init_strategy=init_to_value(values=values)), num_warmup=500, num_samples=1500, progress_bar=False
    )
    nuts.run(jax.random.key(0), x)
    options = {"num_warmup": 200, "num_samples": 6000, "num_chains": 2, "progress": False}
    result = gibbs_draws(jax.random.key(1), x, start, priors, 1.0, **options)
    ours = {
        "weights": result.mixture.weights,
        **jax.vmap(jax.vmap(lambda c: c.priors.parameters(c, tuple(priors))))(result.mixture.components),
    }
    from numpyro.diagnostics import effective_sample_size

    for site, theirs in nuts.get_samples(group_by_chain=True).items():
        theirs, own = np.asarray(theirs), np.asarray(ours[site])
        if site == "scale_tril":
            theirs, own = (np.einsum("...ij,...kj->...ik", v, v) for v in (theirs, own))
        sd = theirs.std((0, 1))
        error = np.sqrt(1 / effective_sample_size(theirs) + 1 / effective_sample_size(own))
        assert (abs(own.mean((0, 1)) - theirs.mean((0, 1))) < 4 * error * sd).all(), site
        np.testing.assert_allclose(own.std((0, 1)), sd, rtol=0.2)


@pytest.mark.slow
@pytest.mark.optimized
def test_the_truth_has_uniform_ranks():
    """Simulation-based calibration (Talts et al., 2018): two components in one dimension, functions without labels."""
    rng, num_sets, num_points, kept = np.random.default_rng(8), 200, 40, 63
    ranks = []
    for seed in range(num_sets):
        weights = rng.dirichlet([1.0, 1.0])
        loc, variance = rng.normal(0, 2, (2, 1)), 0.5 / rng.gamma(1.5, 1.0, (2, 1))
        label = rng.choice(2, num_points, p=weights)
        x = rng.normal(loc[label], np.sqrt(variance[label]))
        start = Mixture(weights, DiagonalGaussian(loc, variance))
        options = {"num_warmup": 0, "num_samples": 20 * kept, "num_chains": 1, "progress": False}
        result = on_host(gibbs_draws(jax.random.key(seed), x, start, diagonal_priors(), 1.0, **options))
        own = result.mixture.components
        truth = (
            scipy.special.logsumexp(
                scipy.stats.norm(loc.T, np.sqrt(variance.T)).logpdf(x), b=weights[None], axis=1
            ).sum(),
            weights.max(),
            loc.min(),
            weights @ loc[:, 0],
        )
        draws = (
            result.log_likelihood,
            result.mixture.weights.max(-1),
            own.loc.min((2, 3)),
            (np.asarray(result.mixture.weights) * np.asarray(own.loc[..., 0])).sum(-1),
        )
        ranks.append([(np.asarray(d)[0, 19::20] < t).sum() for d, t in zip(draws, truth, strict=True)])
    counts = [np.bincount(column // 8, minlength=8) for column in np.array(ranks).T]
    assert min(scipy.stats.chisquare(c).pvalue for c in counts) > P_VALUE, counts
