"""Fits of potentials: maps known in closed form, hard data, bad arguments, interruption, and what they compile."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import omt_expfam as omt
from benchmarks.harness.programs import counted
from omt_expfam._potentials import held_out
from omt_expfam._potentials.recipe import recipe
from omt_expfam.families import Gaussian

# A small network and few steps, of one shape: the tests of this file share its programs.
SMALL = {
    "num_members": 2,
    "num_target_members": 0,
    "num_layers": 2,
    "width": 16,
    "num_steps": 300,
    "batch_size": 64,
    "learning_rate": 0.03,
}
NUM, DIM = 500, 2


def samples(num=NUM, seed=0, sizes=(1.0, 1.0)):
    """Two samples in the plane, neither of them Gaussian."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, DIM)) + 2 * rng.integers(0, 2, (num, 1))
    y = rng.standard_normal((num, DIM)) * np.array([0.5, 1.5]) + rng.exponential(size=(num, 1))
    return sizes[0] * x, sizes[1] * y


def root_of(matrix) -> Any:
    return scipy.linalg.sqrtm(matrix)


def fitted(x, y, seed=0, **settings) -> Any:
    return omt.fit_brenier(jax.random.key(seed), x, y, progress=False, **{**SMALL, **settings})


def error(estimate, truth):
    """Mean squared error as a share of the truth's total variance."""
    return np.mean(np.sum((np.asarray(estimate) - truth) ** 2, axis=1)) / truth.var(axis=0).sum()


@pytest.fixture(scope="module")
def fit():
    return fitted(*samples())


# -- maps that are known ----------------------------------------------------------------------------------------------


def test_on_the_line_it_is_the_quantile_map():
    """From a normal law to an exponential one: exp(-x) has the quantiles of the upper tail."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2000, 1)), rng.exponential(size=(2000, 1))
    found = fitted(x, y, noise=0.0, num_steps=800)
    new = rng.standard_normal((NUM, 1))
    truth = scipy.stats.expon.isf(scipy.stats.norm.sf(new))
    line = y.mean() + (new - x.mean()) * y.std() / x.std()
    assert error(line, truth) > 0.1
    assert error(found.map.push_forward(new), truth) < 0.02
    assert error(found.map.pull_back(truth), new) < 0.02


def test_between_gaussians_it_is_the_bures_map():
    rng = np.random.default_rng(2)
    factors = np.array([[[1.0, 0.0], [0.8, 0.5]], [[0.3, 0.4], [0.0, 2.0]]])
    # Points whose own mean and covariance are exactly these: their chance is not to be learned.
    draws = rng.standard_normal((2, NUM, DIM))
    draws -= draws.mean(axis=1, keepdims=True)
    whitened = (z @ np.linalg.inv(np.linalg.cholesky(z.T @ z / NUM)).T for z in draws)
    x, y = (z @ factor.T + 3 for z, factor in zip(whitened, factors, strict=True))
    covariances = [factor @ factor.T for factor in factors]
    root = root_of(covariances[0]).real
    inverse = np.linalg.inv(root)
    matrix = inverse @ root_of(root @ covariances[1] @ root).real @ inverse
    new = rng.standard_normal((NUM, DIM)) @ factors[0].T + 3
    truth = 3 + (new - 3) @ matrix
    found = fitted(x, y, noise=0.0)
    assert error(found.map.push_forward(new), truth) < 0.01
    assert error(found.map.pull_back(truth), new) < 0.01
    # W2^2 between Gaussians of one mean.
    exact = sum(np.trace(c) for c in covariances) - 2 * np.trace(root_of(root @ covariances[1] @ root)).real
    assert abs(float(found.held_out_value) - exact) < 4 * float(found.held_out_error)


def test_target_members_find_the_same_map(fit):
    x, y = samples()
    other = fitted(x, y, num_members=0, num_target_members=2)
    assert other.map.source is None
    assert other.map.target.num_members == 2
    images = np.asarray(fit.map.push_forward(x))
    assert error(other.map.push_forward(x), images) < 0.05
    both = fitted(x, y, num_members=1, num_target_members=1)
    assert (both.map.source.num_members, both.map.target.num_members) == (1, 1)
    assert error(both.map.push_forward(x), images) < 0.05


class Bowl(omt.AbstractPotential):
    """A quadratic form, as a user writes it."""

    factor: Any

    @property
    def num_dimensions(self):
        return DIM

    @property
    def strong_convexity(self):
        return 0.1

    def value(self, x):
        rotated = self.factor @ x
        return rotated @ rotated / 2 + 0.05 * x @ x


def test_a_potential_of_ones_own_is_trained():
    """Quadratic potentials cannot do better than the straight line, |x'|^2 / 2, where all covariances agree."""
    start = Bowl(np.array([[1.5, 0.5], [0.0, 0.3]]))
    found = fitted(*samples(), potential=start, noise=0.0)
    factor = np.asarray(found.map.source.potential.factor)[0]
    np.testing.assert_allclose(factor.T @ factor, 0.9 * np.eye(DIM), atol=0.1)
    assert float(found.trace[-1]) > float(found.trace[0])


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_the_evidence_is_that_of_the_map(fit):
    """One member's dual value on its held-out points, from the potential and the conjugate of the map."""
    x, y = samples()
    one = fitted(x, y, num_members=1)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(jax.random.key(0))).ravel())
    num = NUM // 5
    parts = []
    for points, of in ((x, one.map.potential), (y, one.map.conjugate)):
        out = points[rng.permutation(NUM)[:num]]
        parts.append(np.sum(out**2, axis=1) - 2 * np.asarray(of(out), np.float64))
    np.testing.assert_allclose(one.held_out_value, sum(part.mean() for part in parts), rtol=1e-3)
    spread = np.sqrt(sum(part.var() for part in parts) / num)
    np.testing.assert_allclose(one.held_out_error, spread, rtol=1e-3)
    assert fit.converged
    assert fit.num_steps == SMALL["num_steps"]
    np.testing.assert_array_equal(fit.trace_steps, [0, 100, 200, 300])
    assert float(fit.inner_residual) < 1e-3
    assert f"{float(fit.held_out_value):.6g}" in repr(fit)
    assert len(repr(fit).splitlines()) == 1


def test_a_key_gives_one_fit(fit):
    again, other = fitted(*samples()), fitted(*samples(), seed=1)
    for one, two in zip(jax.tree.leaves(fit.map), jax.tree.leaves(again.map), strict=True):
        np.testing.assert_array_equal(one, two)
    assert float(fit.held_out_value) != float(other.held_out_value)


def test_interrupted_training_returns_what_it_has(monkeypatch, fit):
    look = held_out.Judge.look

    def interrupting(self, potential, step):
        fine = look(self, potential, step)
        if step == 200:
            raise KeyboardInterrupt
        return fine

    monkeypatch.setattr(held_out.Judge, "look", interrupting)
    found = fitted(*samples())
    assert found.result == omt.RESULTS.potential_interrupted
    assert not found.converged
    assert found.num_steps == 200
    assert "interrupted" in repr(found)
    np.testing.assert_array_equal(found.trace, np.asarray(fit.trace)[:3])


def test_values_that_are_not_finite_are_told():
    with pytest.raises(omt.ConvergenceError, match="learning_rate"):
        fitted(*samples(), learning_rate=1e25)
    found = fitted(*samples(), learning_rate=1e25, throw=False)
    assert found.result == omt.RESULTS.potential_not_finite
    assert np.isfinite(np.asarray(found.map.push_forward(samples()[0]))).all()


def test_neighboring_numbers_of_points_compile_nothing(fit):
    assert fit.converged
    with counted() as programs:
        fitted(*samples(num=NUM - 7), seed=3, learning_rate=0.02, noise=0.1, num_steps=250)
    assert programs.count == 0, str(programs)


# -- data that are hard -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1e-6, 1e6), (1e6, 1e-6), (1e6, 1e6)])
def test_units_do_not_matter(fit, sizes):
    x, y = samples()
    found = fitted(*samples(sizes=sizes))
    images = np.asarray(found.map.push_forward(x * sizes[0])) / sizes[1]
    assert error(images, np.asarray(fit.map.push_forward(x))) < 1e-3
    scale = sizes[0] ** 2 + sizes[1] ** 2
    assert abs(float(found.held_out_value)) < 20 * scale


@pytest.mark.parametrize(
    "case", ["constant column", "constant in the source", "repeated points", "few sources", "tails"]
)
def test_hard_data_give_sensible_maps(case):
    x, y = samples()
    if case.startswith("constant"):
        x[:, 1] = 5
        y[:, 1] = -3 if case == "constant column" else y[:, 1]
    elif case == "repeated points":
        x, y = np.repeat(x[:50], 10, axis=0), np.repeat(y[:25], 20, axis=0)
    elif case == "few sources":
        x = x[:40]
    else:
        x = np.random.default_rng(4).standard_t(2, (NUM, DIM))
    found = fitted(x, y)
    images = np.asarray(found.map.push_forward(x))
    assert np.isfinite(images).all()
    spread = np.abs(images - y.mean(axis=0)).mean(axis=0) / np.maximum(np.abs(y - y.mean(axis=0)).mean(axis=0), 1e-3)
    low, high = (0.0, 0.6) if case == "constant in the source" else (0.7, 1.4)
    assert (spread[:1] > 0.7).all()
    assert (spread[:1] < 1.4).all()
    if case == "constant column":
        np.testing.assert_allclose(images[:, 1], -3, atol=0.05)
    else:
        assert low <= spread[1] < high


def test_weights_count_points():
    """Points of weight zero do not exist, wherever they are; others count as often as they weigh."""
    x, y = samples()
    far = np.concatenate([x, np.full((20, DIM), 1e3)])
    weight = np.concatenate([np.ones(NUM), np.zeros(20)])
    found = fitted(far, y, source_weight=weight)
    images = np.asarray(found.map.push_forward(x))
    np.testing.assert_allclose(images.mean(axis=0), y.mean(axis=0), atol=0.15)
    # Only the first half of the target counts.
    low = y[:, 0] < np.median(y[:, 0])
    found = fitted(x, y, target_weight=low.astype(float))
    np.testing.assert_allclose(np.asarray(found.map.push_forward(x)).mean(axis=0), y[low].mean(axis=0), atol=0.15)


# -- plans ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    weights, means = np.array([0.4, 0.6]), np.array([[0.0, 0.0], [3.0, 1.0]])
    covariances = np.array([[[1.0, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 1.2]]])
    sides = [
        omt.Mixture(weights, Gaussian(means, covariances)),
        omt.Mixture(weights[::-1], Gaussian(2 * means - 1, covariances[::-1])),
    ]
    return omt.transport(*sides, epsilon_components=0.0, epsilon_weights=0.01)


def test_a_plan_is_enough(plan):
    found = fitted(None, None, start=plan, num_steps=100)
    assert found.num_rows == (16_384, 16_384)
    x = np.asarray(plan.source.sample(jax.random.key(5), 512))
    images = np.asarray(found.map.push_forward(x))
    np.testing.assert_allclose(images.mean(axis=0), plan.target.mean(), atol=0.3)
    # No coupling costs less than the optimal one.
    assert float(found.held_out_value) < float(plan.cost) + 4 * float(found.held_out_error)


def test_a_plan_starts_the_search_for_conjugate_points(plan):
    x, y = (np.asarray(m.sample(jax.random.key(i), NUM)) for i, m in enumerate((plan.source, plan.target)))
    alone, found = fitted(x, y), fitted(x, y, start=plan)
    assert error(found.map.push_forward(x), np.asarray(alone.map.push_forward(x))) < 0.05
    assert float(found.held_out_value) != float(alone.held_out_value)


# -- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((NUM, DIM))}, "`x` must have points that differ"),
        ({"x": np.eye(DIM)}, "`x` must have at least 8 points"),
        ({"y": np.zeros((NUM, 3))}, "`y` must have"),
        ({"y": None}, "`y` None"),
        ({"x": None, "y": None}, "`start`"),
        ({"x": np.full((NUM, DIM), np.nan)}, r"`x` must be finite; got nan at index \[0, 0\]"),
        ({"y": np.zeros(NUM)}, r"`y` must have shape \[n, d\]"),
        ({"source_weight": np.ones(3)}, "`source_weight` must have shape"),
        ({"target_weight": -np.ones(NUM)}, "`target_weight` must be finite and nonnegative"),
        ({"num_members": 0}, "`num_members` and `num_target_members`"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be"),
        ({"noise": -1.0}, "`noise` must be"),
        ({"width": 0}, "`width` must be at least 1"),
        ({"x": np.eye(9), "y": np.eye(9), "potential": Bowl(np.eye(DIM))}, "`potential` must be of 9"),
        ({"key": 0}, "`key` must be a random key"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    x, y = samples()
    arguments = {"key": jax.random.key(0), "x": x, "y": y} | SMALL | change
    with pytest.raises((ValueError, TypeError), match=message):
        omt.fit_brenier(**arguments)


def test_traced_data_are_refused():
    _, y = samples()
    with pytest.raises(TypeError, match="`x` must be concrete"):
        jax.jit(lambda x: omt.fit_brenier(jax.random.key(0), x, y).held_out_value)(y)


@pytest.mark.parametrize("num", [8, 300, 600, 2048, 20_000, 1_000_000])
@pytest.mark.parametrize("dim", [1, 2, 16, 64, 256])
def test_there_is_a_recipe_for_every_size(num, dim):
    found = recipe(num, dim, noise=None)
    assert found.num_members + found.num_target_members >= 1
    assert 0 <= found.noise <= 0.6
    assert 0 < found.learning_rate < 0.1
    assert recipe(num, dim, noise=0.25, width=8).noise == 0.25
    assert recipe(num, dim, num_members=3).num_target_members in (0, 3)
    assert recipe(num, dim, num_members=3, num_target_members=1).num_target_members == 1


def test_fits_are_pytrees(fit):
    arrays, rest = eqx.partition(fit, eqx.is_array)
    again = eqx.combine(arrays, rest)
    assert again.num_steps == fit.num_steps
    assert again.converged
