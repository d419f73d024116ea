import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.infer.util import log_density

from omt_expfam import ConvergenceError, Mixture, NumPyroComponents, RESULTS, transport
from omt_expfam._base.precision import relaxed
from omt_expfam._pipelines import coupled
from omt_expfam._pipelines.coupled import fit_coupled
from omt_expfam._pipelines.factor import transport_factor
from omt_expfam._posteriors.methods.method import PosteriorProblem
from omt_expfam._posteriors.methods.mode import find_mode
from omt_expfam._posteriors.methods.target import Target
from omt_expfam._posteriors.model import mixture_model
from omt_expfam.families import DiagonalGaussian, Exponential, Gamma, Gaussian, Laplace

EPSILONS = {"epsilon_components": 0.1, "epsilon_weights": 0.3}


def gaussians(rng, num, dim=2):
    root = 0.4 * rng.standard_normal((num, dim, dim)) + np.eye(dim)
    return Mixture(rng.dirichlet(np.full(num, 5.0)), Gaussian(rng.standard_normal((num, dim)), scale_tril=tril(root)))


def tril(root):
    return np.linalg.cholesky(root @ np.swapaxes(root, 1, 2))


def diagonals(rng, num, dim=2):
    variance = rng.gamma(3.0, 0.3, (num, dim))
    return Mixture(rng.dirichlet(np.full(num, 5.0)), DiagonalGaussian(rng.standard_normal((num, dim)), variance))


def gammas(rng, num, dim=2):
    concentration, rate = 1 + rng.gamma(4.0, 0.5, (num, dim)), rng.gamma(4.0, 0.5, (num, dim))
    return Mixture(rng.dirichlet(np.full(num, 5.0)), Gamma(concentration, rate))


def blobs(seed, n, m, shift=0.3):
    """Two small samples of four overlapping clusters, the second one moved."""
    rng = np.random.default_rng(seed)
    centers = 1.5 * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    x, y = (centers[rng.integers(0, 4, num)] + 0.9 * rng.standard_normal((num, 2)) for num in (n, m))
    return x, y + [shift, 0.0]


def program(source, target, epsilons=EPSILONS):
    """Two mixture models and the factor between them, as a user writes it."""

    def model(x, y, strength):
        pair = handlers.scope(source, "source")(x), handlers.scope(target, "target")(y)
        return transport_factor("transport", *pair, strength=strength, **epsilons)

    return model


def potential(target, u, strength):
    """Minus the log-density of such a program, with a factor of any strength."""
    return dataclasses.replace(target, args=(*target.args[:2], strength)).potential(u)


def sites(models, mixtures):
    named = zip(("source", "target"), models, mixtures, strict=True)
    return {f"{name}/{key}": value for name, m, mixture in named for key, value in m.sites(mixture).items()}


# -- the factor -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("strength", [0.0, 2.5])
def test_the_factor_is_minus_strength_times_the_objective(strength):
    rng = np.random.default_rng(0)
    pair = gaussians(rng, 3), gaussians(rng, 2)

    def model():
        return transport_factor("penalty", *pair, strength=strength, **EPSILONS)

    with relaxed():
        value, trace = log_density(model, (), {}, {})
    plan = transport(*pair, **EPSILONS)
    assert trace["penalty"]["type"] == "sample"
    np.testing.assert_allclose(value, -strength * plan.objective, rtol=1e-12)
    np.testing.assert_allclose(model_plan(model).weights, plan.weights, atol=1e-9)


def model_plan(model):
    with relaxed(), handlers.block():
        return model()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("left", "right", "epsilon", "dim"),
    [
        (gaussians, gaussians, 0.1, 2),
        pytest.param(gaussians, diagonals, 0.0, 2, marks=pytest.mark.slow),
        # Tabulated, coordinate by coordinate, which takes long: one is enough, with both kinds of laws.
        pytest.param(gammas, diagonals, 0.2, 1, marks=pytest.mark.slow),
    ],
)
def test_its_gradient_is_that_of_finite_differences(left, right, epsilon, dim):
    """In the unconstrained coordinates that NUTS moves in, compiled."""
    rng = np.random.default_rng(1)
    pair = left(rng, 1 + dim, dim), right(rng, 2, dim)
    epsilons = {"epsilon_components": epsilon, "epsilon_weights": 0.3}
    x, y = pair[0].sample(jax.random.key(0), 40), pair[1].sample(jax.random.key(1), 30)
    models = [mixture_model(p, type(m.components), m.num_components) for p, m in zip((x, y), pair, strict=True)]
    target = Target.of(program(*models, epsilons), x, y, jnp.asarray(20.0))
    u = target.unconstrain(sites(models, pair))

    value = jax.jit(jax.value_and_grad(lambda u, strength: potential(target, u, strength)))
    alone = jnp.asarray(0.0)

    def factor(u):
        with_factor, without = value(u, target.args[2]), value(u, alone)
        return with_factor[0] - without[0], with_factor[1] - without[1]

    gradient = np.asarray(factor(u)[1])
    step = 1e-5
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(u.shape)
        ahead, behind = (float(factor(np.asarray(u) + t * direction)[0]) for t in (step, -step))
        np.testing.assert_allclose(gradient @ direction, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


def test_a_transport_that_fails_has_density_zero():
    component = Gaussian(np.zeros((2, 1)), np.ones((2, 1, 1)))

    def value(scale):
        far = Mixture([0.5, 0.5], Gaussian(scale * jnp.ones((2, 1)), np.ones((2, 1, 1))))
        with relaxed(), handlers.seed(rng_seed=0), handlers.trace() as trace:
            plan = transport_factor("penalty", Mixture([0.3, 0.7], component), far, strength=1.0, **EPSILONS)
        return trace["penalty"]["fn"].log_factor, plan.objective

    factor, objective = jax.jit(value)(1.0)
    np.testing.assert_allclose(factor, -objective)
    factor, _ = jax.jit(value)(1e30)
    assert factor == -np.inf


def test_bad_arguments_of_the_factor_are_named():
    rng = np.random.default_rng(2)
    pair = gaussians(rng, 2), gaussians(rng, 2)
    given = {"strength": 1.0, **EPSILONS}
    with pytest.raises(ValueError, match="`epsilon_weights` must be positive"):
        transport_factor("t", *pair, **given | {"epsilon_weights": 0})
    with pytest.raises(ValueError, match="`strength`"):
        transport_factor("t", *pair, **given | {"strength": -1.0})
    with relaxed():
        student = NumPyroComponents(dist.MultivariateStudentT(5.0, jnp.zeros((2, 2)), jnp.eye(2)))
        numerical = Mixture([0.5, 0.5], student)
    with pytest.raises(TypeError, match="coupled numerically, which has no derivative"):
        transport_factor("t", pair[0], numerical, **given)
    with pytest.raises(TypeError, match="Gaussian and Gamma components"):
        transport_factor("t", pair[0], gammas(rng, 2), **given)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.loose
def test_it_works_under_nuts_and_in_svi():
    """NUTS on the coupled program: no divergences, and cheaper transport than without the factor."""
    x, y = blobs(0, 60, 50, shift=1.0)
    models = [mixture_model(p, DiagonalGaussian, 1) for p in (x, y)]
    # A prior under which the means are so far apart: one component each, whose posterior is known well enough.
    costs, arguments = {}, (jnp.asarray(x), jnp.asarray(y))

    def recorded(x, y, strength):
        numpyro.deterministic("cost", program(*models)(x, y, strength).cost)

    mcmc = MCMC(NUTS(recorded), num_warmup=150, num_samples=150, progress_bar=False, jit_model_args=True)
    for strength in (0.0, 20.0):
        mcmc.run(jax.random.key(0), *arguments, jnp.asarray(strength))
        assert not np.asarray(mcmc.get_extra_fields()["diverging"]).any()
        costs[strength] = np.asarray(mcmc.get_samples()["cost"])
    assert costs[20.0].mean() < 0.7 * costs[0.0].mean()

    guide = AutoDelta(recorded)
    svi = SVI(recorded, guide, numpyro.optim.Adam(0.05), Trace_ELBO())
    found = svi.run(jax.random.key(1), 300, *arguments, jnp.asarray(20.0), progress_bar=False)
    losses = np.asarray(found.losses)
    assert np.isfinite(losses).all()
    assert losses[-20:].mean() < losses[:20].mean()


# -- the joint mode ---------------------------------------------------------------------------------------------------

STRENGTHS = (0.0, 1e-6, 0.03, 0.3, 3.0)


@pytest.fixture(scope="module")
def path():
    """Fits of increasing strength to one pair of data sets."""
    with jax.enable_x64(True):
        x, y = blobs(3, 60, 50)
        fits = [fit_coupled(jax.random.key(0), x, y, Gaussian, 4, strength=s, **EPSILONS) for s in STRENGTHS]
    return x, y, fits


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_strength_lowers_the_cost_and_little_of_the_likelihood(path):
    """The objective falls by the definition of a minimum; the cost does so too, and the likelihood pays for it."""
    *_, fits = path
    assert all(f.converged for f in fits)
    costs, objectives = (np.array([float(getattr(f.plan, w)) for f in fits]) for w in ("cost", "objective"))
    likelihoods = np.array([float(f.log_likelihoods.sum()) for f in fits])
    assert (np.diff(objectives) < 1e-6).all()
    assert (np.diff(costs) < 1e-6).all()
    assert (np.diff(likelihoods) < 1e-3).all()
    assert costs[3] < 0.3 * costs[0]
    assert likelihoods[0] - likelihoods[3] < 0.15


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_no_strength_is_two_separate_modes(path):
    x, y, fits = path
    for first, second in ((fits[0], fits[1]), (fits[0].uncoupled_plan, fits[3].uncoupled_plan)):
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=False):
            if getattr(a, "shape", None) == (4,):
                np.testing.assert_allclose(a, b, atol=1e-3)
    np.testing.assert_allclose(fits[0].log_likelihoods, fits[1].log_likelihoods, atol=1e-5)
    np.testing.assert_allclose(fits[0].log_likelihoods, fits[0].uncoupled_log_likelihoods, atol=1e-12)
    for points, mixture in ((x, fits[0].source), (y, fits[0].target)):
        model = mixture_model(points, Gaussian, 4)
        target = PosteriorProblem(points, model, mixture, None, None, None).target()
        mode = find_mode(target, target.unconstrain(model.sites(mixture)))
        assert mode.found
        np.testing.assert_allclose(model.mixture(target.constrain(mode.center)).weights, mixture.weights, atol=2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_it_is_the_mode_of_the_numpyro_program(path):
    """What the search over couplings finds, the program with `transport_factor` agrees is a mode."""
    x, y, fits = path
    models = [mixture_model(p, Gaussian, 4) for p in (x, y)]
    target = Target.of(program(*models), jnp.asarray(x), jnp.asarray(y), jnp.asarray(0.0))
    energy = jax.jit(lambda u, strength: potential(target, u, strength))
    for fitted in (fits[2], fits[3]):
        strength = np.asarray(fitted.strength) * (len(x) + len(y)) / 2
        u = target.unconstrain(sites(models, (fitted.source, fitted.target)))
        best, u = energy(u, strength), np.asarray(u)
        start = sites(models, (fitted.uncoupled_plan.source, fitted.uncoupled_plan.target))
        assert best < energy(target.unconstrain(start), strength) - 0.5
        for seed in range(20):
            direction = np.random.default_rng(seed).standard_normal(u.shape)
            assert energy(u + 1e-3 * direction, strength) > best - 1e-3
            assert energy(u + 1e-1 * direction, strength) > best


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("epsilon_weights", [0.03, 1.0])
def test_the_kink_of_small_regularizations_is_no_obstacle(epsilon_weights):
    """At 0.03 all weights agree to many digits, where the penalty as a function of weights has almost a kink."""
    x, y = blobs(3, 60, 50)
    epsilons = {"epsilon_components": 0.1, "epsilon_weights": epsilon_weights}
    # From a start whose optimum couples the components one to one; that of key 0 splits one.
    fitted = fit_coupled(jax.random.key(1), x, y, Gaussian, 4, strength=1.0, **epsilons)
    assert fitted.converged
    assert fitted.decrement < 1e-4
    if epsilon_weights < 0.1:
        order = np.asarray(fitted.plan.weights).argmax(axis=1)
        np.testing.assert_allclose(fitted.source.weights, np.asarray(fitted.target.weights)[order], atol=1e-4)


def line():
    """Two samples of one normal law each, the second one moved."""
    rng = np.random.default_rng(4)
    return rng.standard_normal((100, 1)), rng.standard_normal((100, 1)) + 2.0


@pytest.mark.usefixtures("x64")
def test_a_shift_shrinks_as_stated():
    """One component of variance s2 on each side: of the shift, 1 / (1 + 4 strength s2) is left."""
    x, y = line()
    fitted = fit_coupled(jax.random.key(0), x, y, Gaussian, 1, strength=0.5, **EPSILONS)
    shift = float(np.asarray(fitted.target.mean() - fitted.source.mean())[0])
    variance = 0.5 * float(np.asarray(fitted.source.covariance() + fitted.target.covariance())[0, 0])
    np.testing.assert_allclose(shift, (y.mean() - x.mean()) / (1 + 4 * 0.5 * variance), rtol=0.02)
    assert "transport cost" in repr(fitted)
    assert fitted.num_searches >= 1


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_coupling_mends_the_map_of_small_samples():
    """Three pairs of small samples: separately fitted components do not match, and the map is far off."""
    centers = 1.5 * np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    covariance = np.broadcast_to(np.eye(2), (4, 2, 2))
    truth = [Mixture(np.full(4, 0.25), Gaussian(centers + s, covariance)) for s in ([0, 0], [0.3, 0])]
    drawn = [jax.tree.map(lambda leaf: leaf.astype("float32"), t) for t in truth]
    exact = transport(*truth, **EPSILONS)
    points = truth[0].sample(jax.random.key(9), 2000)
    errors = {0.0: [], 0.3: []}
    for seed in range(3):
        x, y = (np.float64(t.sample(jax.random.key(10 * seed + i), 60)) for i, t in enumerate(drawn))
        for strength, own in errors.items():
            fitted = fit_coupled(jax.random.key(0), x, y, Gaussian, 4, strength=strength, **EPSILONS)
            offset = np.asarray(fitted.plan.push_forward(points)) - np.asarray(exact.push_forward(points))
            own.append((offset**2).sum(axis=1).mean())
    assert np.mean(errors[0.3]) < 0.6 * np.mean(errors[0.0])


@pytest.mark.slow
def test_other_families_sizes_and_precisions():
    """Sides of different sizes and families, in float32."""
    x, y = (p.astype(np.float32) for p in blobs(5, 60, 40))
    fitted = fit_coupled(
        jax.random.key(0), x, y, DiagonalGaussian, (3, 2), target_family=Gaussian, strength=0.1, **EPSILONS
    )
    assert fitted.converged
    assert isinstance(fitted.source.components, DiagonalGaussian)
    assert isinstance(fitted.target.components, Gaussian)
    assert fitted.plan.weights.shape == (3, 2)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(fitted)} <= {"float32", "int32", "bool"}


@pytest.mark.slow
def test_components_on_a_half_line():
    """Their couplings are tabulated, pair by pair, in every step of the search: two pairs are enough."""
    rng = np.random.default_rng(6)
    x, y = rng.gamma(3.0, 1.0, (60, 1)), rng.gamma(4.0, 1.0, (60, 1))
    fitted = fit_coupled(jax.random.key(0), x, y, Gamma, (2, 1), strength=0.2, **EPSILONS)
    assert fitted.converged
    assert fitted.plan.cost < fitted.uncoupled_plan.cost


def test_bad_arguments_of_the_fit_are_named():
    x, y = blobs(7, 20, 20)

    def refused(match, *arguments, error=ValueError, **options):
        given = {"strength": 0.1, **EPSILONS} | options
        with pytest.raises(error, match=match):
            fit_coupled(jax.random.key(0), *arguments, **given)

    refused("`family` must have log-densities without kinks or jumps", x, y, Laplace, 2, error=TypeError)
    refused(
        "`target_family` must have log-densities without kinks",
        *(x, y, DiagonalGaussian, 2),
        target_family=Exponential,
        error=TypeError,
    )
    refused("coupled numerically", x, y, Gaussian, 2, target_family=Gamma, error=TypeError)
    refused("`epsilon_weights` must be positive", x, y, Gaussian, 2, epsilon_weights=0)
    refused("`strength` must be a finite number", x, y, Gaussian, 2, strength=-0.1)
    refused("`num_components` must be one number or a pair", x, y, Gaussian, (2, 2, 2))
    refused("`num_components` must be a whole number", x, y, Gaussian, 2.0, error=TypeError)
    refused("`x` and `y` must have shapes", x, y[:, :1], Gaussian, 2)
    start = gaussians(np.random.default_rng(0), 2)
    refused("`start` must be a pair of mixtures", x, y, Gaussian, 2, start=start, error=TypeError)
    refused("must be finite", np.where(x == x[0, 0], np.nan, x), y, Gaussian, 2)


@pytest.mark.usefixtures("x64")
def test_a_search_that_ends_nowhere_is_told(monkeypatch):
    lost = lambda target, u: find_mode(target, u)._replace(found=False)
    monkeypatch.setattr(coupled, "find_mode", lost)
    monkeypatch.setattr(coupled, "_SEARCHES", 2)
    with pytest.raises(ConvergenceError, match="no proper maximum"):
        fit_coupled(jax.random.key(0), *line(), Gaussian, 1, strength=0.5, **EPSILONS)
    told = fit_coupled(jax.random.key(0), *line(), Gaussian, 1, strength=0.5, throw=False, **EPSILONS)
    assert not told.converged
    assert told.result == RESULTS.mode_not_found
    assert told.num_searches == 2
