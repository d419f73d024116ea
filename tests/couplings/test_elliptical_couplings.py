"""Student-t pairs without regularization, against Gelbrich's formula by SciPy, quantiles, and exact transport."""

import jax
import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.stats
from scipy.integrate import quad

import omt_expfam as omt
from omt_expfam._couplings.solve import route_of
from omt_expfam.families import DiagonalStudentT, Gaussian, StudentT
from tests.cases import components

DF = 5.0
MONGE = {"epsilon_components": 0.0, "epsilon_weights": 0.5}


def with_degrees(name, seed, df=DF, num=2, dim=3):
    parts, arguments = components(name, seed, num=num, dim=dim)
    weights = np.full(num, 1 / num)
    return omt.Mixture(weights, type(parts)(*arguments[:2], df)), arguments


@pytest.fixture(scope="module")
def monge():
    with jax.enable_x64(True):
        source, target = with_degrees("StudentT", 0)[0], with_degrees("DiagonalStudentT", 1)[0]
        return source, target, omt.transport(source, target, **MONGE)


def test_costs_are_gelbrichs(monge, x64):
    source, target, plan = monge
    left, right = (np.asarray(side.components.covariance()) for side in (source, target))
    means = [np.asarray(side.components.mean()) for side in (source, target)]
    for i in range(2):
        root = scipy.linalg.sqrtm(left[i])
        for j in range(2):
            cross = scipy.linalg.sqrtm(root @ right[j] @ root)
            expected = np.sum((means[0][i] - means[1][j]) ** 2) + np.trace(left[i] + right[j] - 2 * cross)
            np.testing.assert_allclose(plan.component_costs[i, j], expected.real, rtol=1e-10)


def test_map_carries_one_law_to_the_other(monge, x64):
    """The map of one pair: its image has the target's density, by the change of variables."""
    source, target, _ = monge
    one, other = (omt.Mixture([1.0], side.components.select([0])) for side in (source, target))
    plan = omt.transport(one, other, **MONGE)
    x = np.random.default_rng(0).standard_normal((6, 3))
    y = np.asarray(plan.push_forward(x))
    jacobian = np.asarray(jax.jit(jax.jacfwd(lambda p: plan.push_forward(p[None])[0]))(x[0]))
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-12)
    change = np.log(np.linalg.det(jacobian))
    np.testing.assert_allclose(np.asarray(one.log_prob(x)), np.asarray(other.log_prob(y)) + change, rtol=1e-10)
    np.testing.assert_allclose(plan.sample(jax.random.key(0), x), y, rtol=1e-12)
    np.testing.assert_allclose(plan.reverse().push_forward(y), x, rtol=1e-9, atol=1e-9)


def test_interpolation_stays_elliptical(monge, x64):
    """At the end it is the target; between, draws of x and their images have its moments."""
    source, target, plan = monge
    end = plan.interpolate(1.0)
    assert isinstance(end.components, StudentT)
    np.testing.assert_array_equal(end.components.df, DF)
    x = np.random.default_rng(0).standard_normal((7, 3))
    np.testing.assert_allclose(end.log_prob(x), target.log_prob(x), rtol=1e-9)
    half, means = plan.interpolate(0.5), np.asarray(source.components.mean())
    assert np.asarray(half.weights).shape == (4,)
    np.testing.assert_allclose(half.components.mean()[0], (means[0] + np.asarray(target.components.mean())[0]) / 2)


def test_costs_are_those_of_exact_transport_between_draws(x64):
    """Both sides by the same 2,000 quasi-random directions and radii, coupled by POT: a few percent of noise."""
    source, target = with_degrees("StudentT", 3, 9.0, 1, 2)[0], with_degrees("StudentT", 4, 9.0, 1, 2)[0]
    rng = np.random.default_rng(0)
    x, y = (np.asarray(side.sample(jax.random.key(int(rng.integers(99))), 1500)) for side in (source, target))
    found = ot.emd2([], [], ot.dist(x, y), numItermax=10**6)
    np.testing.assert_allclose(found, omt.transport(source, target, **MONGE).cost, rtol=0.1)


def test_in_one_dimension_degrees_may_differ(x64):
    """Quantiles by SciPy; with regularization too there is nothing numerical."""
    source, target = components("DiagonalStudentT", 0, num=1, dim=1), components("StudentT", 1, num=2, dim=1)
    plan = omt.transport(omt.Mixture([1.0], source[0]), omt.Mixture([0.5, 0.5], target[0]), **MONGE)
    for j in range(2):
        loc, scatter, df = (a[0].item() for a in source[1])
        law = scipy.stats.t(df, loc, scatter**0.5)
        other = scipy.stats.t(target[1][2][j], target[1][0][j, 0], target[1][1][j, 0, 0] ** 0.5)
        expected = quad(lambda u, law=law, other=other: (law.ppf(u) - other.ppf(u)) ** 2, 0, 1, limit=500)[0]
        np.testing.assert_allclose(plan.component_costs[0, j], expected, rtol=1e-6)
    assert route_of(source[0], target[0], 1.0) == "product"


def test_what_has_no_finite_cost_or_no_closed_form_is_refused(x64):
    source, cauchy = with_degrees("StudentT", 0)[0], with_degrees("StudentT", 1, 2.0)[0]
    message = r"`target` must have a finite covariance in every component; component 0 \(StudentT\) does not"
    for epsilon in (0.0, 0.3):
        with pytest.raises(ValueError, match=message):
            omt.transport(source, cauchy, epsilon_components=epsilon, epsilon_weights=0.5)
    with pytest.raises(ValueError, match="needs components with finite, positive variances"):
        omt.transport(source, cauchy)
    normal = omt.Mixture(source.weights, Gaussian(source.components.loc, source.components.covariance()))
    for other in (with_degrees("DiagonalStudentT", 1, [5.0, 6.0])[0], normal):
        with pytest.raises(ValueError, match="one number of degrees of freedom on both sides"):
            omt.transport(source, other, **MONGE)
    assert isinstance(with_degrees("DiagonalStudentT", 0)[0].components, DiagonalStudentT)
