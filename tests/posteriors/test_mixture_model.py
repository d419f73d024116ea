"""Mixtures as NumPyro models: densities against SciPy's, priors on the scale of the data, NumPyro's own tools."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
from numpyro import handlers
from numpyro.infer import log_likelihood, Predictive
from numpyro.infer.util import log_density

import omt_expfam as omt
from families import REGISTRY
from omt_expfam._base.precision import relaxed
from omt_expfam._posteriors.distribution import log_density as mixture_log_density, MixtureDistribution
from omt_expfam.families import (
    Beta,
    Binomial,
    Categorical,
    DiagonalGaussian,
    Exponential,
    ExponentialPower,
    Gamma,
    Gaussian,
    Laplace,
    LogNormal,
    LowRankGaussian,
    SphericalGaussian,
)
from tests.cases import CASES, TwoHalves
from tests.family.test_factorized import Weibull
from tests.fitting.test_check_family import Normal

K, NUM, DIM, RANK = 2, 12, 2, 1
POWERS = {"power_left": 1.5, "power_right": 2.5}
TEMPLATES = {
    "LowRankGaussian": omt.template(LowRankGaussian, rank=RANK),
    "ExponentialPower": omt.template(ExponentialPower, **POWERS),
    "Binomial": omt.template(Binomial, total_count=6),
    "Categorical": omt.template(Categorical, num_categories=3),
}
COUNTS = {"Binomial", "NegativeBinomial", "Poisson"}
FAMILIES = [*REGISTRY, "Weibull"]
QUICK = ("Gaussian", "LowRankGaussian", "Laplace", "Gamma", "Weibull")
IN_TURN = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAMILIES]
POSITIVE = {"Gamma", "LogNormal", "Weibull"}


def made(make):
    """A NumPyro distribution, which NumPyro cannot make under strict promotion."""
    with relaxed():
        return make()


def points(name, num=NUM, dim=DIM):
    rng = np.random.default_rng(5)
    if name == "Categorical":
        return rng.integers(0, 3, (num, dim)).astype(float)
    if name in COUNTS:
        return rng.integers(0, 7, (num, dim)).astype(float)
    x = rng.normal(size=(num, dim)) * [1.0, 3.0][:dim] + [2.0, -1.0][:dim]
    if name in POSITIVE:
        return np.exp(0.3 * x)
    if name == "VonMises":
        return np.angle(np.exp(1j * x))
    return 1 / (1 + np.exp(-0.5 * x)) if name == "Beta" else x


def family_of(name):
    return Weibull if name == "Weibull" else TEMPLATES.get(name, REGISTRY.get(name))


# -- the log joint density, by SciPy --------------------------------------------------------------------------------


def cholesky_log_prob(tril, degrees, scale):
    """An inverse Wishart law on its Cholesky factor: 2^d prod_i L_ii^(d - i) is the Jacobian of L to L L^T."""
    dim = len(tril)
    jacobian = dim * np.log(2) + np.sum((dim - np.arange(dim)) * np.log(np.diag(tril)))
    return scipy.stats.invwishart(degrees, scale).logpdf(tril @ tril.T) + jacobian


def log_priors(name, x, sites):
    """The documented priors of the components, summed over them."""
    center, scale = x.mean(axis=0), x.std(axis=0)
    within = scale * K ** (-1 / DIM)

    def normal(value):
        return scipy.stats.norm(center, 2 * scale).logpdf(value).sum()

    def positive(value, median, spread=1.0):
        return scipy.stats.lognorm(spread, scale=median).logpdf(value).sum()

    def variance(value, mean):
        return scipy.stats.invgamma(1.5, scale=0.5 * mean).logpdf(value).sum()

    if name == "LogNormal":
        center, scale = np.log(x).mean(axis=0), np.log(x).std(axis=0)
        inside = scale * K ** (-1 / DIM)
        return normal(sites["loc"]) + variance(sites["scale"] ** 2, inside**2) + np.log(2 * sites["scale"]).sum()
    if name == "Gamma":
        median = (center / within) ** 2
        return positive(sites["concentration"], median, 1.5) + positive(sites["rate"], median / center, 1.5)
    if name == "Beta":
        total = center * (1 - center) / within**2
        first = positive(sites["concentration1"], center * total, 1.5)
        return first + positive(sites["concentration0"], (1 - center) * total, 1.5)
    if name == "Weibull":
        eta = sites["natural_parameters"]
        return np.sum(eta * (x**3).mean(axis=0)) + np.log(-3 * eta).sum()
    if name == "VonMises":
        eta = sites["natural_parameters"].reshape(K, DIM, 2)
        size = np.linalg.norm(eta, axis=2)
        mean = np.stack([np.cos(x).mean(axis=0), np.sin(x).mean(axis=0)], axis=1)
        return np.sum(eta * mean[None]) - np.sum(np.log(2 * np.pi * scipy.special.i0e(size)) + size)
    if name == "Categorical":
        return scipy.stats.dirichlet(np.ones(3)).logpdf(sites["probability"].reshape(-1, 3).T).sum()
    if name == "Poisson":
        return scipy.stats.expon(scale=center).logpdf(sites["rate"]).sum()
    if name == "Binomial":
        return scipy.stats.uniform().logpdf(sites["probability"]).sum()
    if name == "NegativeBinomial":
        excess = np.maximum(scale**2 - center, 0.01 * center)
        return positive(sites["rate"], center, 1.5) + positive(sites["concentration"], center**2 / excess, 1.5)
    own = normal(sites["loc"])
    if name.endswith("StudentT"):
        own += scipy.stats.gamma(2, loc=2, scale=10).logpdf(sites["df"]).sum()
        if name == "DiagonalStudentT":
            return own + variance(sites["scatter"], within**2)
    if name in ("Gaussian", "StudentT"):
        return own + sum(cholesky_log_prob(tril, DIM + 2, np.diag(within**2)) for tril in sites["scale_tril"])
    if name == "DiagonalGaussian":
        return own + variance(sites["variance"], within**2)
    if name == "SphericalGaussian":
        return own + variance(sites["variance"], np.mean(within**2))
    if name == "LowRankGaussian":
        loading = scipy.stats.norm(0, within[:, None] / np.sqrt(2 * RANK)).logpdf(sites["factor"]).sum()
        return own + loading + variance(sites["variance"], within**2 / 2)
    if name == "Exponential":
        return own + positive(sites["rate"], 1 / within)
    if name == "Laplace":
        return own + positive(sites["scale"], within / np.sqrt(2))
    unit = TwoHalves(0.0, 1.0, 1.0, *(POWERS.values() if name == "ExponentialPower" else (1.0, 1.0))).var()
    scales = (positive(sites[side], within / np.sqrt(unit)) for side in ("scale_left", "scale_right"))
    return own + sum(scales)


def component_log_probs(name, x, sites):
    """Log-densities of the components by SciPy, shape [n, K]."""
    s = dict(sites)
    if name == "Weibull":
        laws = scipy.stats.weibull_min(3, scale=(-s["natural_parameters"]) ** (-1 / 3))
        return laws.logpdf(x[:, None]).sum(axis=2)
    if name == "VonMises":
        eta = s["natural_parameters"].reshape(K, DIM, 2)
        arguments = np.arctan2(eta[..., 1], eta[..., 0]), np.linalg.norm(eta, axis=2)
    elif name in ("Gaussian", "StudentT"):
        rest = (s["df"],) if name == "StudentT" else ()
        arguments = s["loc"], s["scale_tril"] @ np.swapaxes(s["scale_tril"], 1, 2), *rest
    elif name == "ExponentialPower":
        powers = (np.full((K, DIM), power) for power in POWERS.values())
        arguments = s["loc"], s["scale_left"], s["scale_right"], *powers
    else:
        arguments = tuple(s[name] for name in s if name != "weights")
    return np.stack([CASES[name].oracle(arguments, k).logpdf(x) for k in range(K)], axis=1)


def some_sites(model, seed=0):
    """Values of all sites: perturbed ones of the family's typical parameters."""
    rng = np.random.default_rng(seed)
    sites = {"weights": rng.dirichlet(np.full(model.num_components, 2.0))}
    for name, prior in model.priors.items():
        shape = (model.num_components, *prior.event_shape)
        noise = rng.normal(size=shape)
        if name in ("loc", "factor"):
            sites[name] = noise
        elif name == "scale_tril":
            sites[name] = np.tril(0.4 * noise, -1) + np.exp(0.3 * noise) * np.eye(shape[-1])
        elif name == "natural_parameters":
            sites[name] = -np.exp(noise)
        elif name == "df":
            sites[name] = 2 + np.exp(noise)
        elif name == "probability":
            many = len(prior.event_shape) > 1
            sites[name] = scipy.special.softmax(noise, axis=-1) if many else scipy.special.expit(noise)
        else:
            sites[name] = np.exp(0.5 * noise)
    return sites


def joint_density(model, sites, *args):
    """NumPyro's log joint density of a model, compiled, and the names of its sites."""
    names = set()

    def value(sites):
        with relaxed():
            density, trace = log_density(model, args, {}, sites)
        names.update(trace)
        return density

    return jax.jit(value)({n: jnp.asarray(v) for n, v in sites.items()}), names


@pytest.mark.parametrize("name", FAMILIES)
def test_log_joint_density_is_scipys(name, x64):
    """Priors as documented, plus the log-sum-exp over components."""
    x = points(name)
    model = omt.mixture_model(x, family_of(name), K, weight_concentration=[0.5, 2.0])
    sites = some_sites(model)
    if name == "Exponential":
        sites["loc"] = x.min(axis=0)[None] - np.exp(sites["loc"])
    ours, names = joint_density(model, sites, x)
    table = component_log_probs(name, x, sites) + np.log(sites["weights"])
    expected = (
        scipy.stats.dirichlet([0.5, 2.0]).logpdf(sites["weights"])
        + log_priors(name, x, sites)
        + scipy.special.logsumexp(table, axis=1).sum()
    )
    assert float(ours) == pytest.approx(expected, rel=1e-9)
    assert names >= {"weights", "x", *model.parameter_names}


@pytest.mark.parametrize("name", IN_TURN)
def test_likelihood_is_numpyros_and_sites_go_round(name, dtype):
    """`MixtureSameFamily` of the same law; `sites` gives back what `mixture` took."""
    x = points(name).astype(dtype)
    model = omt.mixture_model(x, family_of(name), K)
    sites = {n: jnp.asarray(v, dtype) for n, v in some_sites(model).items()}
    if name == "Exponential":
        sites["loc"] = sites["loc"] - 20
    mixture = model.mixture(sites)
    back = model.sites(mixture)
    assert set(back) == set(sites)
    for site, value in sites.items():
        np.testing.assert_allclose(back[site], value, rtol=1e-5 if dtype == "float32" else 1e-12)
    law = MixtureDistribution(mixture)
    assert (law.batch_shape, law.event_shape) == ((), (DIM,))

    # The distribution is a pytree whose leaves are those of the mixture.
    def compute(law, x):
        with relaxed():
            table = law.mixture.to_numpyro().log_prob(x), law.log_prob(x), law.log_prob(x[0])
            draws = law.sample(jax.random.key(0), (3, 2))
            inside = law.support(draws)
        moments = law.mean, law.mixture.mean(), law.variance, jnp.diagonal(law.mixture.covariance())
        return table, draws, inside, moments

    shapes = jax.eval_shape(compute, law, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {dtype, "bool"}
    assert jax.eval_shape(lambda law: law.sample(jax.random.key(0)), law).shape == (DIM,)
    if dtype == "float32":
        return
    (theirs, ours, first), draws, inside, moments = jax.jit(compute)(law, x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    np.testing.assert_allclose(first, ours[0], rtol=1e-5)
    assert draws.shape == (3, 2, DIM)
    assert np.asarray(inside).all()
    np.testing.assert_allclose(moments[0], moments[1])
    np.testing.assert_allclose(moments[2], moments[3])


@pytest.mark.parametrize("name", ["Gaussian", "DiagonalGaussian", "SphericalGaussian", "Laplace"])
def test_digits_far_from_the_origin(name, x64):
    """Offsets of 1e5: the natural form would lose six digits, and their gradient more."""
    x, offset = points(name), np.array([1e5, -3e5])
    model = omt.mixture_model(x, family_of(name), K)
    sites = {n: jnp.asarray(v) for n, v in some_sites(model).items()}

    def density(loc, shift):
        mixture = model.mixture(sites | {"loc": loc + shift[None]})
        return jnp.sum(mixture_log_density(mixture, jnp.asarray(x) + shift[None]))

    both = jax.jit(jax.value_and_grad(density))
    near, far = (both(sites["loc"], s) for s in (0 * offset, offset))
    np.testing.assert_allclose(far[0], near[0], rtol=1e-9)
    np.testing.assert_allclose(far[1], near[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in COUNTS | {"VonMises", "Categorical"}])
def test_priors_move_with_the_data(name, x64):
    """The prior density of moved parameters changes by the Jacobian alone: units are irrelevant."""
    x, unit = points(name), np.array([1e-3, 50.0])
    shift = np.array([7.0, -300.0])
    if name in POSITIVE or name == "Beta":
        shift = 0 * shift
    if name in ("SphericalGaussian", "Beta"):
        unit = np.full(2, 1.0 if name == "Beta" else 40.0)
    first, second = (omt.mixture_model(data, family_of(name), K) for data in (x, shift + unit * x))
    sites = {n: jnp.asarray(v) for n, v in some_sites(first).items()}
    moved = second.sites(dataclasses.replace(first.mixture(sites), components=affine(first, sites, shift, unit)))

    @jax.jit
    def log_probs(priors, sites):
        with relaxed():
            return {n: prior.log_prob(sites[n]) for n, prior in priors.items()}

    before, after = (log_probs(m.priors, s) for m, s in ((first, sites), (second, moved)))
    for site, ours in before.items():
        gap = np.asarray(after[site] - ours)
        # The same for both components, whatever their parameters.
        np.testing.assert_allclose(gap, np.full(K, gap[0]), rtol=1e-8, atol=1e-8)


def affine(model, sites, shift, unit):
    """Components of the law of shift + unit * x."""
    parts = model.mixture(sites).components
    if isinstance(parts, LogNormal):
        return LogNormal(parts.loc + np.log(unit)[None], parts.scale)
    return parts._affine(jnp.asarray(shift), jnp.asarray(unit))


def test_constant_coordinates_have_proper_priors():
    x = np.stack([np.full(6, 3.0), np.arange(6.0), np.zeros(6)], axis=1)
    model = omt.mixture_model(x, Gaussian, 2)
    with relaxed():
        draws = jax.jit(Predictive(model, num_samples=20))(jax.random.key(0))
    assert all(np.isfinite(v).all() for v in draws.values())


# -- in NumPyro -----------------------------------------------------------------------------------------------------


@pytest.mark.loose
@pytest.mark.parametrize("name", [p for p in IN_TURN if p.values[0] not in ("VonMises", "Weibull")])
def test_prior_predictive_draws_lie_in_the_support(name):
    x = points(name).astype("float32")
    model = omt.mixture_model(x, family_of(name), K)
    draws = jax.jit(lambda key: Predictive(model, num_samples=25)(key, num_points=3))(jax.random.key(0))
    assert draws["x"].shape == (25, 3, DIM)
    support = family_of(name).family.support if name in TEMPLATES else REGISTRY[name].support
    # In float32 a draw may round to the end of the support.
    assert np.isfinite(draws["x"]).all()
    assert np.mean(np.asarray(support(draws["x"]))) > (0.8 if name in ("Gamma", "Beta") else 0.999)
    assert draws["weights"].shape == (25, K)
    for site, prior in model.priors.items():
        assert draws[site].shape == (25, K, *prior.event_shape)
    again = Predictive(model, posterior_samples={n: draws[n] for n in ("weights", *model.priors)})
    assert jax.eval_shape(lambda key: again(key, num_points=5), jax.random.key(1))["x"].shape == (25, 5, DIM)


@pytest.mark.loose
def test_numpyros_log_likelihood_scope_and_a_users_program(x64):
    x = points("Gaussian")
    model = omt.mixture_model(x, Gaussian, K)
    draws = jax.jit(Predictive(model, num_samples=4))(jax.random.key(0))
    table = jax.jit(lambda draws: log_likelihood(model, draws, x)["x"])(draws)
    assert table.shape == (4, NUM)
    for s in range(4):
        mixture = model.mixture({n: jnp.asarray(np.asarray(v)[s]) for n, v in draws.items()})
        np.testing.assert_allclose(table[s], mixture.log_prob(x), rtol=1e-9)

    def program(x, y):
        source = handlers.scope(model, prefix="source")(x)
        target = handlers.scope(model, prefix="target")(y)
        gap = numpyro.deterministic("gap", source.mean() - target.mean())
        numpyro.factor("near", -jnp.sum(gap**2))

    @jax.jit
    def total(key):
        trace = handlers.trace(handlers.seed(program, key)).get_trace(x, x[:5])
        assert {"source/weights", "source/scale_tril", "target/x", "gap", "near"} <= set(trace)
        assert trace["target/x"]["fn"].batch_shape == (5,)
        return sum(jnp.sum(s["fn"].log_prob(s["value"])) for s in trace.values() if s["type"] == "sample")

    assert np.isfinite(float(total(jax.random.key(0))))


@pytest.mark.loose
def test_mini_batches_are_scaled_to_all_points(x64):
    x = points("Gaussian")
    model = omt.mixture_model(x, DiagonalGaussian, K)
    sites = {n: jnp.asarray(v) for n, v in some_sites(model).items()}
    prior, whole = (float(joint_density(model, sites, *args)[0]) for args in ((), (x,)))

    def one(key):
        value, trace = log_density(handlers.seed(model, key), (x,), {"batch_size": 4}, sites)
        assert trace["x"]["value"].shape == (4, DIM)
        return value

    shares = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(0), 500)))
    assert np.std(shares) > 0
    assert abs(np.mean(shares) - whole) < 4 * np.std(shares) / np.sqrt(len(shares))
    assert abs(whole - prior) > 20


@pytest.mark.slow
@pytest.mark.loose
def test_numpyro_runs_the_model_as_it_is():
    """A user's own NUTS, from the EM optimum, as they would write it."""
    x = points("Gaussian", 60)
    x[::2] += 8
    model = omt.mixture_model(x, DiagonalGaussian, 2)
    fitted = omt.fit(jax.random.key(0), x.astype("float32"), DiagonalGaussian, 2)
    start = numpyro.infer.init_to_value(values=model.sites(fitted.mixture))
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(model, init_strategy=start), num_warmup=100, num_samples=100, progress_bar=False
    )
    mcmc.run(jax.random.key(0), jnp.asarray(x, "float32"))
    means = np.asarray(mcmc.get_samples()["loc"]).mean(axis=0)
    spread = np.sqrt(np.asarray(fitted.mixture.components.variance))
    assert (np.abs(means - np.asarray(fitted.mixture.components.mean())) < spread).all()
    posterior = omt.posterior_from_numpyro(mcmc, model.mixture, x=x, throw=False)
    assert posterior.num_draws == 100


# -- priors of one's own, and distributions of NumPyro --------------------------------------------------------------


def test_priors_can_be_replaced():
    x = points("Gaussian").astype("float32")
    own = {
        "loc": made(lambda: dist.Normal(0.0, 10.0)),
        "scale_tril": made(lambda: dist.LKJCholesky(2)),
    }
    model = omt.mixture_model(x, Gaussian, 3, priors=own)
    shapes = {n: (p.batch_shape, p.event_shape) for n, p in model.priors.items()}
    assert shapes == {"loc": ((3,), (2,)), "scale_tril": ((3,), (2, 2))}
    with relaxed():
        value = np.arange(6.0, dtype="float32").reshape(3, 2)
        expected = scipy.stats.norm(0, 10).logpdf(value).sum(axis=1)
        np.testing.assert_allclose(model.priors["loc"].log_prob(value), expected, rtol=1e-5)
        # One law per component, or one per coordinate of each.
        each = dist.Normal(jnp.arange(6.0).reshape(3, 2), 1.0)
        for prior in (each, each.to_event(1), dist.Normal(jnp.arange(2.0), 1.0)):
            fresh = omt.mixture_model(x, Gaussian, 3, priors={"loc": prior})
            assert fresh.priors["loc"].batch_shape == (3,)
            assert fresh.priors["loc"].log_prob(value).shape == (3,)
    np.testing.assert_array_equal(model.concentration, np.ones(3))
    sparse = omt.mixture_model(x, Gaussian, 3, weight_concentration=1 / 3)
    np.testing.assert_allclose(sparse.concentration, np.full(3, 1 / 3), rtol=1e-6)


def student(loc, scale):
    return dist.StudentT(5.0, loc, scale).to_event(1)


def student_priors():
    return made(
        lambda: {
            "loc": dist.Normal(0.0, 10.0).expand([DIM]).to_event(1),
            "scale": dist.LogNormal(0.0, 1.0).expand([DIM]).to_event(1),
        }
    )


def test_components_of_numpyro(x64):
    x = points("Gaussian")
    model = omt.mixture_model(x, student, K, priors=student_priors())
    sites = some_sites(model)
    ours, _ = joint_density(model, sites, x)
    with relaxed():
        draws = jax.jit(lambda key: Predictive(model, num_samples=10)(key, num_points=3))(jax.random.key(0))
    laws = scipy.stats.t(5.0, sites["loc"], sites["scale"])
    table = laws.logpdf(x[:, None]).sum(axis=2) + np.log(sites["weights"])
    expected = (
        scipy.stats.dirichlet(np.ones(K)).logpdf(sites["weights"])
        + scipy.stats.norm(0, 10).logpdf(sites["loc"]).sum()
        + scipy.stats.lognorm(1.0).logpdf(sites["scale"]).sum()
        + scipy.special.logsumexp(table, axis=1).sum()
    )
    assert float(ours) == pytest.approx(expected, rel=1e-9)
    assert draws["x"].shape == (10, 3, DIM)
    assert isinstance(model.mixture({n: jnp.asarray(v) for n, v in sites.items()}).components, omt.NumPyroComponents)


def test_conjugate_prior_is_not_sampled_but_says_so():
    model = omt.mixture_model(points("Weibull"), Weibull, K)
    with pytest.raises(NotImplementedError, match="default prior of Weibull cannot be sampled; give `priors`"):
        model.priors["natural_parameters"].sample(jax.random.key(0))


# -- bad input ------------------------------------------------------------------------------------------------------

X = points("Gaussian").astype("float32")
# As users call it: without the type checker that the tests run under.
mixture_model = inspect.unwrap(omt.mixture_model)
BAD = {
    "not a family": (lambda: mixture_model(X, "Gaussian", 2), TypeError, "^`family` must be a component family"),
    "a mixture": (lambda: mixture_model(X, 3, 2), TypeError, "^`family` must be a component family"),
    "no components": (
        lambda: mixture_model(X, Gaussian, 0),
        ValueError,
        "^`num_components` must be at least 1; got 0",
    ),
    "half a component": (lambda: mixture_model(X, Gaussian, 1.5), TypeError, "^`num_components` must be a whole"),
    "flat points": (lambda: mixture_model(X[0], Gaussian, 2), ValueError, r"^`x` must have shape \[n, d\]"),
    "no points": (lambda: mixture_model(X[:0], Gaussian, 2), ValueError, "^`x` must hold at least one point"),
    "missing values": (lambda: mixture_model(X * np.nan, Gaussian, 2), ValueError, "^`x` must be finite"),
    "outside the support": (
        lambda: mixture_model(X, Gamma, 2),
        ValueError,
        r"^`x` must lie in the support of Gamma \(positive numbers\)",
    ),
    "above the support": (
        lambda: mixture_model(np.abs(X), Beta, 2),
        ValueError,
        r"^`x` must lie in the support of Beta \(numbers between 0 and 1\)",
    ),
    "priors in a list": (lambda: mixture_model(X, Gaussian, 2, priors=[]), TypeError, "^`priors` must be a dict"),
    "a prior that is none": (
        lambda: mixture_model(X, Gaussian, 2, priors={"loc": 3.0}),
        TypeError,
        r"^`priors\['loc'\]` must be a NumPyro distribution; got float",
    ),
    "unknown parameter": (
        lambda: mixture_model(X, Gaussian, 2, priors={"mean": made(lambda: dist.Normal(0.0, 1.0))}),
        ValueError,
        "^`priors` must name parameters of Gaussian, loc, scale_tril; got mean",
    ),
    "wrong shape": (
        lambda: mixture_model(
            X, Gaussian, 2, priors={"loc": made(lambda: dist.Normal(0.0, 1.0).expand([3]).to_event(1))}
        ),
        ValueError,
        r"^`priors\['loc'\]` must have shape \(2,\) for one component or \(2, 2\) for all; got \(3,\)",
    ),
    "matrix for a vector": (
        lambda: mixture_model(X, Gaussian, 3, priors={"loc": made(lambda: dist.LKJCholesky(2))}),
        ValueError,
        r"^`priors\['loc'\]` must have shape \(2,\) for one component or \(3, 2\) for all; got \(2, 2\)",
    ),
    "wrong support": (
        lambda: mixture_model(X, DiagonalGaussian, 2, priors={"variance": made(lambda: dist.Normal(0.0, 1.0))}),
        ValueError,
        r"^`priors\['variance'\]` must be a law on positive numbers; Normal draws other values",
    ),
    "not triangular": (
        lambda: mixture_model(X, Gaussian, 2, priors={"scale_tril": made(lambda: dist.LogNormal(0.0, 1.0))}),
        ValueError,
        r"^`priors\['scale_tril'\]` must be a law on Cholesky factors; LogNormal draws other values",
    ),
    "improper": (
        lambda: mixture_model(
            X,
            Gaussian,
            2,
            priors={"loc": made(lambda: dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))},
        ),
        ValueError,
        r"^`priors\['loc'\]` must be a law that can be sampled",
    ),
    "natural parameters of no density": (
        lambda: mixture_model(
            np.exp(X), Weibull, 2, priors={"natural_parameters": made(lambda: dist.Normal(0.0, 1.0))}
        ),
        ValueError,
        r"^`priors\['natural_parameters'\]` must be a law on natural parameters of Weibull; Normal draws other values",
    ),
    "discrete": (
        lambda: mixture_model(X, Laplace, 2, priors={"loc": made(lambda: dist.Poisson(3.0))}),
        ValueError,
        r"^`priors\['loc'\]` must be a continuous law; got Poisson",
    ),
    "negative concentration": (
        lambda: mixture_model(X, Gaussian, 2, weight_concentration=[1.0, -1.0]),
        ValueError,
        r"^`weight_concentration` must be positive, one number or 2; got \[1.0, -1.0\]",
    ),
    "zero concentration": (
        lambda: mixture_model(X, Gaussian, 2, weight_concentration=0.0),
        ValueError,
        "^`weight_concentration` must be a finite number greater than 0; got 0",
    ),
    "three concentrations": (
        lambda: mixture_model(X, Gaussian, 2, weight_concentration=[1.0, 1.0, 1.0]),
        ValueError,
        "^`weight_concentration` must be positive, one number or 2; got",
    ),
    "a function without priors": (
        lambda: mixture_model(X, student, 2),
        ValueError,
        "^`priors` must be given for a function that makes NumPyro distributions",
    ),
    "priors for arguments it has not": (
        lambda: mixture_model(X, student, 2, priors={"location": made(lambda: dist.Normal(0.0, 1.0))}),
        ValueError,
        r"^`priors` must name the parameters of `family`, loc, scale; got location",
    ),
    "priors of other batch shape": (
        lambda: mixture_model(
            X, student, 2, priors={n: made(lambda: dist.Normal(0.0, 1.0).expand([5])) for n in ("loc", "scale")}
        ),
        ValueError,
        r"^`priors\['loc'\]` must have batch shape \(\) or \(2,\); got \(5,\). Use `.to_event`",
    ),
    "distributions of other dimension": (
        lambda: mixture_model(X[:, :1], student, 2, priors=student_priors()),
        ValueError,
        "^`family` must make distributions in 1 dimensions; got 2",
    ),
    "distributions of other number": (
        lambda: mixture_model(
            X, lambda loc: dist.Normal(loc[:1], 1.0).to_event(1), 2, priors={"loc": student_priors()["loc"]}
        ),
        ValueError,
        r"^`family` must make a distribution of batch shape \(2,\); got \(1,\)",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_refused(case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call()


def test_points_of_another_dimension_are_refused():
    model = omt.mixture_model(X, SphericalGaussian, 2)
    with pytest.raises(ValueError, match=r"^`x` must have shape \[n, 2\]"), handlers.seed(rng_seed=0):
        model(X[:, :1])
    with pytest.raises(ValueError, match=r"^`x` must have shape \[n, d\]"), handlers.seed(rng_seed=0):
        model(X[0])


def test_a_family_without_priors_takes_those_of_its_fields():
    given = {"loc": dist.Normal(np.zeros(2), 5.0).to_event(1), "scale": dist.LogNormal(0.0, 1.0)}
    model = omt.mixture_model(X, Normal, 2, priors=given)
    sites = {"weights": np.array([0.3, 0.7]), "loc": np.array([[0.0, 1.0], [2.0, 3.0]]), "scale": np.ones((2, 2))}
    with relaxed():
        found, _ = log_density(model, (jnp.asarray(X[:3]),), {}, jax.tree.map(jnp.asarray, sites))
    expected = scipy.stats.norm(0, 5).logpdf(sites["loc"]).sum() + scipy.stats.lognorm(1).logpdf(1.0) * 4
    each = scipy.stats.norm(sites["loc"]).logpdf(np.asarray(X[:3])[:, None]).sum(axis=2)
    expected += scipy.special.logsumexp(each + np.log(sites["weights"]), axis=1).sum()
    # The Dirichlet law of concentration one has density one.
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    held = omt.mixture_model(X, Normal, 2, priors={"loc": given["loc"]})
    assert held.parameter_names == ("loc",)
    with pytest.raises(ValueError, match="`priors` must be given for Normal, .* parameter among loc, scale"):
        omt.mixture_model(X, Normal, 2)
    with pytest.raises(ValueError, match="`priors` must name parameters of Normal, loc, scale; got mu"):
        omt.mixture_model(X, Normal, 2, priors={"mu": given["loc"]})


def test_refits_need_no_priors():
    x = np.concatenate([np.random.default_rng(0).normal(center, 1, (100, 2)) for center in (0, 6)])
    found = omt.fit_posterior(jax.random.key(0), x, Normal, 2, method=omt.Bootstrap(num_samples=8))
    assert "not compared with the posterior" in repr(found)
    centers = np.sort(np.asarray(found.mixtures.components.loc)[..., 0], axis=1)
    np.testing.assert_allclose(centers.mean(axis=0), [0, 6], atol=0.4)


def test_an_exponential_component_has_a_model():
    """Gradients are of no use for it, but densities are: it can be scored and drawn from."""
    model = omt.mixture_model(X, Exponential, 2)
    with relaxed(), handlers.seed(rng_seed=0):
        assert isinstance(model(num_points=3), omt.Mixture)
