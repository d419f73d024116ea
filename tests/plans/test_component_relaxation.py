"""Plans whose components change their shapes: laws by quadrature, both ends of the way, limits, derivatives, files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import omt_expfam as omt
from families import DiagonalGaussian, Gamma, Gaussian, SphericalGaussian
from omt_expfam._couplings.interface import PairSelection

SETTINGS = {"epsilon_components": 0.2, "epsilon_weights": 0.4}
RELAXED = {**SETTINGS, "source_relaxation": 5.0, "target_relaxation": 4.0, "component_relaxation": (1.0, 3.0)}


def sides(dim=1, dtype=None):
    """Two mixtures with covariances of full rank."""
    rng = np.random.default_rng(3)

    def one(num, weights):
        factor = rng.normal(size=(num, dim, 2 * dim))
        covariance = jnp.asarray(factor @ factor.transpose(0, 2, 1) / (2 * dim) + 0.3 * np.eye(dim), dtype)
        return omt.Mixture(
            jnp.asarray(weights, dtype), Gaussian(jnp.asarray(rng.normal(size=(num, dim)), dtype), covariance)
        )

    return one(2, [0.4, 0.6]), one(3, [0.5, 0.3, 0.2])


@pytest.fixture
def plan(x64):
    return omt.transport(*sides(), **RELAXED)


LINE = np.linspace(-16, 16, 700)
STEP = LINE[1] - LINE[0]


def table(plan):
    """The density of the plan on a grid, by pairs of points."""
    x, y = np.meshgrid(LINE, LINE, indexing="ij")
    return np.exp(np.asarray(plan.log_prob(x.reshape(-1, 1), y.reshape(-1, 1)))).reshape(x.shape)


def density(mixture):
    return np.exp(np.asarray(mixture.log_prob(LINE[:, None])))


def test_the_laws_at_a_point_are_those_of_the_density(plan):
    joint = table(plan)
    np.testing.assert_allclose(joint.sum() * STEP**2, 1, rtol=1e-8)
    rows, columns = joint.sum(1) * STEP, joint.sum(0) * STEP
    for law, other in zip(plan.marginals(), (rows, columns), strict=True):
        np.testing.assert_allclose(density(law), other, atol=1e-8)
    # They are not the given components any more.
    assert np.abs(rows - density(plan.source)).max() > 0.02
    some = np.arange(280, 420, 14)
    mean = joint[some] @ LINE / joint[some].sum(1)
    second = joint[some] @ LINE**2 / joint[some].sum(1) - mean**2
    x = LINE[some, None]
    np.testing.assert_allclose(plan.push_forward(x)[:, 0], mean, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(plan.conditional_covariance(x)[:, 0, 0], second, rtol=1e-6)
    back = LINE @ joint[:, some] / joint[:, some].sum(0)
    np.testing.assert_allclose(plan.pull_back(x)[:, 0], back, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(jnp.sum(plan.target_probabilities(x), axis=1), 1, rtol=1e-9)
    # Mass that leaves over the mass there.
    given = plan.masses.source
    np.testing.assert_allclose(
        plan.survival(LINE[:, None])[some], float(plan.mass) * rows[some] / density(given)[some], rtol=1e-6
    )
    cost = np.sum(joint * (LINE[:, None] - LINE[None]) ** 2) * STEP**2
    np.testing.assert_allclose(plan.cost, cost, rtol=1e-7)


def test_each_pair_is_at_its_least(plan):
    """No Gaussian near the coupling of a pair has a smaller objective, by the divergences of Gaussians."""
    couplings, (source, target) = plan.couplings, (plan.source.components, plan.target.components)
    k, i, j = 4, 1, 1
    left, right = couplings.leaving.covariance()[k, 0, 0], couplings.arriving.covariance()[k, 0, 0]
    pairs = PairSelection(jnp.array([k]), jnp.array([j]), jnp.ones(1))
    cross = couplings.cross_covariances(pairs)[0, 0, 0]

    def objective(v):
        mean, covariance = jnp.array(v[:2]), jnp.array([[v[2], v[4]], [v[4], v[3]]])
        ends = np.array([source.mean()[i, 0], target.mean()[j, 0]])
        variances = np.array([source.covariance()[i, 0, 0], target.covariance()[j, 0, 0]])
        shift, prices = mean - ends, np.array([1.0, 3.0])
        ratios = np.diag(covariance) / variances
        changes = 0.5 * (ratios - 1 - np.log(ratios) + shift**2 / variances)
        information = 0.5 * np.log(np.prod(np.diag(covariance)) / np.linalg.det(covariance))
        cost = (mean[0] - mean[1]) ** 2 + v[2] + v[3] - 2 * v[4]
        return cost + 0.2 * (information + changes.sum()) + prices @ changes

    at = np.array([couplings.leaving.mean()[k, 0], couplings.arriving.mean()[k, 0], left, right, cross], float)
    np.testing.assert_allclose(objective(at), plan.component_objectives[i, j], rtol=1e-9)
    for way in range(5):
        ends = [objective(at + h * np.eye(5)[way]) for h in (-1e-4, 1e-4)]
        np.testing.assert_allclose(ends[0], ends[1], atol=1e-10)
        assert min(ends) > objective(at)


def test_points_arrive_as_they_should(plan):
    x, y = plan.sample_joint(jax.random.key(0), 20_000)
    for points, law in zip((x, y), plan.marginals(), strict=True):
        np.testing.assert_allclose(points.mean(), law.mean()[0], atol=0.03)
        np.testing.assert_allclose(points.var(), law.covariance()[0, 0], rtol=0.05)
    covariance = np.cov(np.asarray(x[:, 0]), np.asarray(y[:, 0]))[0, 1]
    joint = table(plan)
    mean = [(joint.sum(axis) @ LINE) / joint.sum() for axis in (1, 0)]
    np.testing.assert_allclose(covariance, (LINE - mean[0]) @ joint @ (LINE - mean[1]) * STEP**2, rtol=0.05)
    images = plan.push_forward_most_likely(x[:5])
    assert images.shape == (5, 1)
    assert np.isfinite(images).all()


def test_the_way_begins_and_ends_with_what_was_given(plan):
    for t, given, mass in ((0.0, plan.masses.source, 1.0), (1.0, plan.masses.target, 1.0)):
        law = plan.interpolate(t, min_weight=0.0)
        np.testing.assert_allclose(density(law), density(given), atol=1e-9)
        np.testing.assert_allclose(plan.mass_at(t), mass, rtol=1e-9)
    assert plan.mass_at(0.4) < 1
    back = plan.reverse()
    np.testing.assert_allclose(back.mass_at(0.3), plan.mass_at(0.7), rtol=1e-9)
    np.testing.assert_allclose(density(back.interpolate(0.3)), density(plan.interpolate(0.7)), atol=1e-9)


@pytest.mark.parametrize("family", [Gaussian, DiagonalGaussian, SphericalGaussian])
def test_a_large_price_keeps_components(family, x64):
    source, target = sides(2)

    def alike(mixture):
        variances = jnp.diagonal(mixture.components.covariance(), axis1=1, axis2=2)
        if family is Gaussian:
            return mixture
        spread = variances if family is DiagonalGaussian else variances[:, 0]
        return omt.Mixture(mixture.weights, family(mixture.components.mean(), jnp.sqrt(spread)))

    source, target = alike(source), alike(target)
    usual = omt.transport(source, target, **SETTINGS)
    kept = omt.transport(source, target, **SETTINGS, component_relaxation=1e9)
    assert isinstance(kept.marginals()[0].components, family)
    x = np.random.default_rng(0).normal(size=(20, 2))
    for name in ("push_forward", "pull_back", "conditional_covariance", "target_probabilities", "survival"):
        np.testing.assert_allclose(getattr(kept, name)(x), getattr(usual, name)(x), rtol=1e-6, atol=1e-7)
    for name in ("component_costs", "component_kl", "component_objectives", "weights", "cost", "objective"):
        np.testing.assert_allclose(getattr(kept, name), getattr(usual, name), rtol=1e-6)
    at = [plan.interpolate(0.4).log_prob(x) for plan in (kept, usual)]
    np.testing.assert_allclose(at[0], at[1], rtol=1e-6)
    # Structures are told from their numbers alone.
    dense = [omt.Mixture(m.weights, Gaussian(m.components.mean(), m.components.covariance())) for m in (source, target)]
    relaxed, full = (omt.transport(*pair, **RELAXED) for pair in ((source, target), dense))
    np.testing.assert_allclose(relaxed.component_objectives, full.component_objectives, rtol=1e-9)
    np.testing.assert_allclose(relaxed.push_forward(x), full.push_forward(x), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(relaxed.mass_at(0.4), full.mass_at(0.4), rtol=1e-9)
    np.testing.assert_allclose(relaxed.interpolate(0.4).log_prob(x), full.interpolate(0.4).log_prob(x), rtol=1e-7)


@pytest.mark.parametrize("price", [1e-2, 1.0, 1e4])
def test_reported_errors_cover_those_of_float32(price):
    """Against the same mixtures, as float32 has them, in float64."""
    settings = {**RELAXED, "component_relaxation": (price, 2 * price)}
    plan = omt.transport(*sides(2), **settings)
    with jax.enable_x64(True):
        wide = [
            omt.Mixture(
                np.asarray(m.weights, float) / np.asarray(m.weights, float).sum(),
                Gaussian(np.asarray(m.components.mean(), float), np.asarray(m.components.covariance(), float)),
            )
            for m in (plan.masses.source, plan.masses.target)
        ]
        exact = np.asarray(omt.transport(*wide, **settings).component_objectives)
    assert (np.abs(np.asarray(plan.component_objectives, float) - exact) <= np.asarray(plan.component_errors)).all()


def test_everything_under_jit_and_its_derivatives(x64):
    source, target = sides(2)
    x = np.random.default_rng(0).normal(size=(3, 2))

    def image(price, shift):
        moved = omt.Mixture(source.weights, Gaussian(source.components.mean() + shift, source.components.covariance()))
        plan = omt.transport(moved, target, **{**RELAXED, "component_relaxation": (price, 3.0)}, throw=False)
        return jnp.sum(plan.push_forward(x)[0]) + plan.objective

    both = jax.jit(jax.value_and_grad(image, (0, 1)))
    value, slopes = both(1.0, 0.1)
    np.testing.assert_allclose(value, image(1.0, 0.1), rtol=1e-9)
    for way, slope in enumerate(slopes):
        ends = [both(*(np.array([1.0, 0.1]) + h * np.eye(2)[way]))[0] for h in (-1e-5, 1e-5)]
        np.testing.assert_allclose(slope, (ends[1] - ends[0]) / 2e-5, rtol=1e-5)


def test_features_of_pairs_are_those_of_what_moves(plan):
    table = omt.pair_features(plan, min_weight=0.0)
    moved = plan.couplings.arriving.mean() - plan.couplings.leaving.mean()
    np.testing.assert_allclose(table.mean[:, 0], moved[table.source * 3 + table.target, 0], rtol=1e-6)


def test_files_and_correspondences(plan, tmp_path):
    omt.save(tmp_path / "plan.omt", plan)
    again = omt.load(tmp_path / "plan.omt")
    np.testing.assert_array_equal(again.push_forward(LINE[:5, None]), plan.push_forward(LINE[:5, None]))
    assert "mass" in str(again)
    assert len(str(again.correspondences()).splitlines()) > 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"component_relaxation": 0.0},
            ValueError,
            "`component_relaxation` must be a finite number greater than 0; got 0",
        ),
        (
            {"component_relaxation": -1},
            ValueError,
            "`component_relaxation` must be a finite number greater than 0; got -1",
        ),
        (
            {"component_relaxation": (1.0, 2.0, 3.0)},
            ValueError,
            "`component_relaxation` must be one number or two; got 3",
        ),
        ({"component_relaxation": "much"}, TypeError, "`component_relaxation`"),
        (
            {"component_relaxation": 1.0, "epsilon_components": 0.0},
            ValueError,
            "`epsilon_components` must be positive where `component_relaxation` is finite; got 0",
        ),
    ],
)
def test_bad_prices_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        omt.transport(*sides(2), **{**SETTINGS, **change})


def test_other_components_and_diagnostics_are_refused(plan):
    times = omt.Mixture(np.full(2, 0.5), Gamma(np.array([[1.0], [4.0]]), np.ones((2, 1))))
    with pytest.raises(
        ValueError,
        match="must be infinite unless all components are Gaussian; got Gamma and",
    ):
        omt.transport(times, times, **SETTINGS, component_relaxation=1.0)
    with pytest.raises(ValueError, match="`source` must be a plan that keeps its components"):
        omt.diagnostics.uniqueness(jax.random.key(0), plan)
    with pytest.raises(ValueError, match="`component_relaxation` must be left out"):
        omt.trajectory([plan.source, plan.target], component_relaxation=1.0)
