"""How many programs a first call compiles, and which further calls compile none: what a user waits for at first."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import omt_expfam as omt
from benchmarks.harness.programs import counted
from omt_expfam._base.precision import relaxed
from omt_expfam._couplings.numerical_solve import solve_numerical_couplings
from omt_expfam._weights.exact import exact_coupling
from omt_expfam.families import DiagonalGaussian, Gamma, Gaussian, Laplace, LowRankGaussian, SphericalGaussian

# Keys are used once.
KEYS = iter(list(jax.random.split(jax.random.key(0), 100)))


def mixture(num_components, seed=0, family=Gaussian, dim=2):
    rng = np.random.default_rng(seed)
    mean, scale = rng.normal(size=(num_components, dim)), rng.uniform(0.5, 2, (num_components, dim))
    components = {
        Gaussian: lambda: Gaussian(mean, scale[:, :, None] * np.eye(dim) + 0.2),
        DiagonalGaussian: lambda: DiagonalGaussian(mean, scale),
        SphericalGaussian: lambda: SphericalGaussian(mean, scale[:, 0]),
        LowRankGaussian: lambda: LowRankGaussian(mean, scale[:, :, None], scale),
        Laplace: lambda: Laplace(mean, scale),
    }[family]()
    weights = rng.uniform(0.5, 1, num_components)
    return omt.Mixture(weights / weights.sum(), components)


def plan_of(num_source, num_target, family=Gaussian):
    source, target = mixture(num_source, 0, family), mixture(num_target, 1, family)
    return omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.1)


def points(num):
    return np.random.default_rng(2).normal(size=(num, 2))


def programs(call, *args):
    """The programs that a call compiles."""
    with counted() as found:
        call(*args)
    return found


# What is called in this order, and how many programs its first call may compile beside those that are there by then.
# Calls with another number of points, or of components, in the same bucket (`omt_expfam._base.buckets`) compile none.
PLAN = {
    "push_forward": (3, lambda plan, num: plan.push_forward(points(num))),
    "pull_back": (0, lambda plan, num: plan.pull_back(points(num))),
    "push_forward_most_likely": (1, lambda plan, num: plan.push_forward_most_likely(points(num))),
    "target_probabilities": (1, lambda plan, num: plan.target_probabilities(points(num))),
    "conditional_covariance": (1, lambda plan, num: plan.conditional_covariance(points(num))),
    "sample": (2, lambda plan, num: plan.sample(next(KEYS), points(num))),
    "log_prob": (2, lambda plan, num: plan.log_prob(points(num), points(num)[::-1])),
    "interpolate": (1, lambda plan, num: plan.interpolate(0.5)),
    "correspondences": (1, lambda plan, num: str(plan.correspondences())),
    "reverse": (0, lambda plan, num: plan.reverse()),
    "numbers": (1, lambda plan, num: (plan.cost, plan.objective, plan.component_errors, plan.converged, repr(plan))),
}
MIXTURE = {
    "log_prob": (1, lambda mixture, num: mixture.log_prob(points(num))),
    "responsibilities": (1, lambda mixture, num: mixture.responsibilities(points(num))),
    "mean": (1, lambda mixture, num: mixture.mean()),
    "covariance": (1, lambda mixture, num: mixture.covariance()),
    "select": (0, lambda mixture, num: mixture.select([1, 0])),
    "sort": (0, lambda mixture, num: mixture.sort()),
    "components.log_prob": (1, lambda mixture, num: mixture.components.log_prob(points(num))),
    "components.mean": (1, lambda mixture, num: mixture.components.mean()),
    "components.covariance": (1, lambda mixture, num: mixture.components.covariance()),
    "components.entropy": (1, lambda mixture, num: mixture.components.entropy()),
    "components.natural_parameters": (1, lambda mixture, num: mixture.components.natural_parameters()),
    "components.mean_parameters": (1, lambda mixture, num: mixture.components.mean_parameters()),
    "components.log_partition": (1, lambda mixture, num: mixture.components.log_partition()),
    "components.kl_divergence": (1, lambda mixture, num: mixture.components.kl_divergence(mixture.components)),
    "components.sufficient_statistics": (1, lambda m, num: m.components.sufficient_statistics(points(num))),
}


def check(table, one, other):
    """Go through a table in its order, with a first and a second object."""
    jax.clear_caches()
    for name, (most, call) in table.items():
        assert (first := programs(call, one, 900)).count <= most, f"{name}: {first}"
        assert not (again := programs(call, one, 1000)).count, f"{name}, other points: {again}"
        assert not (again := programs(call, other, 900)).count, f"{name}, other components: {again}"


def test_reading_a_plan_compiles_few_programs():
    check(PLAN, plan_of(3, 3), plan_of(4, 3))


def test_reading_a_mixture_compiles_few_programs():
    check(MIXTURE, mixture(3), mixture(4))


def test_draws_compile_few_programs():
    one = mixture(3)
    jax.clear_caches()
    for draw in (one.sample, one.components.sample):
        assert (first := programs(draw, next(KEYS), 900)).count <= 1, str(first)
        assert not (again := programs(draw, next(KEYS), 1000)).count, str(again)


# A family, and how many programs its first transport may compile.
FAMILIES = {Gaussian: 3, DiagonalGaussian: 3, SphericalGaussian: 3, LowRankGaussian: 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_building_and_coupling_mixtures_compiles_few_programs(family):
    jax.clear_caches()
    assert not (first := programs(mixture, 3, 0, family)).count, str(first)
    assert (first := programs(plan_of, 3, 3, family)).count <= FAMILIES[family], str(first)
    assert not (again := programs(plan_of, 4, 3, family)).count, str(again)
    assert not (again := programs(plan_of, 3, 4, family)).count, str(again)


def test_couplings_without_regularization_compile_nothing():
    """The linear program and what is made of it stay on the host."""
    arrays = jax.device_put((np.ones((3, 4), "float32"), np.full(3, 1 / 3, "float32"), np.full(4, 0.25, "float32")))
    assert not (found := programs(exact_coupling, *arrays)).count, str(found)


# -- numerical couplings --------------------------------------------------------------------------------------------


def student(seed, num):
    loc = np.random.default_rng(seed).normal(size=(num, 2)).astype("float32")
    tril = np.broadcast_to(np.eye(2, dtype="float32"), (num, 2, 2))
    return omt.NumPyroComponents(dist.MultivariateStudentT(np.full(num, 6.0, "float32"), loc, tril))


def test_numerical_couplings_compile_a_family_and_a_pair():
    """Another epsilon, seed or tolerance, and other numbers of components, compile nothing."""
    first = programs(lambda: student(0, 3))
    assert first.count <= 1, first
    assert programs(lambda: student(1, 3)).count == 0
    sides = {num: student(2, num) for num in (3, 4, 2)}

    def couple(left, right, epsilon, **changes):
        epsilon = jnp.asarray(epsilon, "float32")
        return solve_numerical_couplings(sides[left], sides[right], epsilon, omt.NumericalSettings(64, 2048, **changes))

    first = programs(couple, 3, 3, 1.0)
    assert first.count <= 4, first
    assert {"_sample_side", "_couple"} <= set(first.names)
    for call in ((3, 3, 0.7), (4, 2, 1.0)):
        found = programs(couple, *call)
        assert found.count == 0, found
    found = programs(lambda: couple(2, 4, 0.5, seed=3, tolerance=1e-3, max_steps=100))
    assert found.count == 0, found


# -- diagnostics ----------------------------------------------------------------------------------------------------


def test_diagnostics_of_another_number_of_points_compile_next_to_nothing():
    """What is left converts the points. The derivatives, where the time goes, serve all epsilons but zero as well."""
    sides, x = (mixture(2, 0, DiagonalGaussian), mixture(3, 1, DiagonalGaussian)), points(60)

    def differentiate(num, epsilon):
        omt.diagnostics.sensitivity(*sides, epsilon_components=epsilon, epsilon_weights=epsilon, points=x[:num])

    first = programs(differentiate, 50, 0.5)
    assert first.names["_derivatives"] == 1
    for call in ((60, 0.5), (50, 0.25)):
        found = programs(differentiate, *call)
        assert found.count <= 3, found
        assert "_derivatives" not in found.names


# -- posteriors -----------------------------------------------------------------------------------------------------


def sample_of(num, family):
    rng = np.random.default_rng(num)
    x = np.concatenate([rng.normal(size=(num // 2, 2)), rng.normal(size=(num - num // 2, 2)) + 5]).astype("float32")
    return np.exp(0.2 * x) if family is Gamma else x


def logistic(loc, scale):
    return dist.Logistic(loc, scale).to_event(1)


def priors_of(family):
    if family is not logistic:
        return None
    with relaxed():
        location, scale = dist.Normal(0.0, 10.0), dist.LogNormal(0.0, 1.0)
        return {name: law.expand([2]).to_event(1) for name, law in (("loc", location), ("scale", scale))}


# A method and a family, and how many programs their first posterior may compile, fitting by EM included.
GIBBS = omt.Gibbs(num_warmup=5, num_samples=20)
POSTERIORS = {
    "Gibbs": (18, GIBBS, Gaussian),
    "Gibbs, proposals": (22, GIBBS, Gamma),
    "Laplace": (20, omt.LaplaceApproximation(20), Gaussian),
    "Laplace, NumPyro's law": (30, omt.LaplaceApproximation(20), logistic),
    "SVI": (45, omt.SVI(num_steps=200, num_samples=20), Gaussian),
    "NUTS": (23, omt.NUTS(num_warmup=5, num_samples=10), Gaussian),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("SVI", "NUTS") else n for n in POSTERIORS]
)
def test_a_posterior_compiles_few_programs(name):
    """Another data set, with another number of points of the same bucket, compiles none, by any method."""
    most, method, family = POSTERIORS[name]
    options = {"method": method, "priors": priors_of(family), "throw": False}

    def call(num):
        omt.fit_posterior(next(KEYS), sample_of(num, family), family, 2, **options)

    jax.clear_caches()
    assert (first := programs(call, 100)).count <= most, str(first)
    assert not (again := programs(call, 120)).count, str(again)


def draws_of(num, seed):
    rng = np.random.default_rng(seed)
    loc = np.arange(2)[None, :, None] * 3 + 0.1 * rng.normal(size=(num, 2, 2))
    tril = np.broadcast_to(np.eye(2), (num, 2, 2, 2))
    return jax.vmap(lambda m, t: omt.Mixture(np.full(2, 0.5), Gaussian(m, scale_tril=t)))(loc, tril)


def posterior_plan_of(draws):
    return omt.transport_posterior(*draws, epsilon_components=0.1, epsilon_weights=0.1)


# What is called in this order, and how many programs its first call may compile beside those that are there by then.
POSTERIOR_PLAN = {
    "push_forward": (3, lambda plan, x: plan.push_forward(x)),
    "sample": (1, lambda plan, x: plan.sample(next(KEYS), x)),
    "sample_draws": (2, lambda plan, x: plan.sample_draws(next(KEYS), x)),
    "predictive_covariance": (1, lambda plan, x: plan.predictive_covariance(x)),
    "push_forward_interval": (0, lambda plan, x: plan.push_forward_interval(x)),
    "weights_interval": (0, lambda plan, x: plan.weights_interval(kind="highest-density")),
    "correspondences": (0, lambda plan, x: str(plan.correspondences())),
    "numbers": (0, lambda plan, x: (plan.cost, plan.distance, plan.objective, plan.converged, repr(plan))),
    "plan": (0, lambda plan, x: plan.plan(3)),
}


def test_transport_between_posteriors_compiles_few_programs():
    """Another number of draws, or of points, in the same bucket compiles none."""
    sides = {num: (draws_of(num, 0), draws_of(num, 1)) for num in (70, 100)}
    jax.clear_caches()
    assert (first := programs(posterior_plan_of, sides[70])).count <= 8, str(first)
    assert not (again := programs(posterior_plan_of, sides[100])).count, str(again)
    plans = [posterior_plan_of(draws) for draws in sides.values()]
    for name, (most, call) in POSTERIOR_PLAN.items():
        assert (first := programs(call, plans[0], np.ones((70, 2), "float32"))).count <= most, f"{name}: {first}"
        assert not (again := programs(call, plans[1], np.ones((90, 2), "float32"))).count, f"{name}: {again}"
