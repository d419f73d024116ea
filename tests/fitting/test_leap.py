"""Longer steps of EM: exact where EM is linear, taken back where they fail, and to the same optimum in fewer steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import omt_expfam as omt
from omt_expfam._fitting.leap import leap, no_memory, SPAN, take_back
from omt_expfam.families import DiagonalGaussian


def components(loc):
    return DiagonalGaussian(jnp.asarray(loc), jnp.ones_like(jnp.asarray(loc)))


@jax.jit
def go(memory, start, image, near, num_steps):
    return leap(memory, start, image, near, num_steps)


@pytest.fixture
def linear(x64):
    """A step that halves, all the same, the way to a fixed point; one of three components has no weight."""
    weights = jnp.log(jnp.asarray([0.25, 0.75, 0.0]))
    goal = np.asarray([[1.0, -2.0], [3.0, 0.5], [7.0, 7.0]])

    def step(place):
        return weights, components(goal + 0.5 * (np.asarray(place[1].loc) - goal))

    return (weights, components(np.zeros((3, 2)))), step, goal


def test_a_linear_step_is_followed_to_its_end(linear):
    start, step, goal = linear
    one, memory = go(no_memory(*start), start, step(start), jnp.asarray(True), jnp.asarray(1))
    np.testing.assert_allclose(one[1].loc, step(start)[1].loc)
    two, memory = go(memory, one, step(one), jnp.asarray(True), jnp.asarray(2))
    np.testing.assert_allclose(two[1].loc, goal, rtol=1e-12)
    np.testing.assert_allclose(jnp.exp(two[0]), [0.25, 0.75, 0.0])
    assert bool(memory.leapt)


def test_what_would_change_its_sign_stays(x64):
    def place(rate):
        return jnp.zeros(1), components(np.asarray([[rate, 4.0]]))

    _, memory = go(no_memory(*place(3.0)), place(3.0), place(2.0), jnp.asarray(True), jnp.asarray(1))
    farther, _ = go(memory, place(2.0), place(1.1), jnp.asarray(True), jnp.asarray(2))
    np.testing.assert_array_equal(farther[1].loc, [[1.1, 4.0]])


@pytest.mark.parametrize(("near", "num_steps"), [(False, 2), (True, SPAN), (True, SPAN - 1)])
def test_where_a_step_stays_as_it_is(linear, near, num_steps):
    start, step, _ = linear
    one, memory = go(no_memory(*start), start, step(start), jnp.asarray(True), jnp.asarray(1))
    two, memory = go(memory, one, step(one), jnp.asarray(near), jnp.asarray(num_steps))
    np.testing.assert_array_equal(two[1].loc, step(one)[1].loc)
    assert not bool(memory.leapt)


def test_after_failures_leaps_are_rarer(linear):
    start, step, _ = linear
    place, memory = go(no_memory(*start), start, step(start), jnp.asarray(True), jnp.asarray(1))
    leaps, steps = [], iter(range(2, SPAN - 1))
    for index in steps:
        before = step(place)
        place, memory = go(memory, place, before, jnp.asarray(True), jnp.asarray(index))
        if bool(memory.leapt):
            leaps.append(index)
            place, memory = take_back(memory)
            np.testing.assert_array_equal(place[1].loc, before[1].loc)
    assert leaps == [2, 4, 7, 12, 21]


def test_the_same_optimum_in_fewer_steps(x64):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((200, 2)) + place for place in ([0, 0], [2.5, 0], [0, 2.5])])
    start = np.asarray([[0.0, 0.0], [2.5, 0.0], [0.0, 2.5]])
    # scikit-learn's steps are plain, and its first is that of k-means' labels.
    plain = GaussianMixture(3, tol=1e-13, max_iter=20_000, reg_covar=0.0, means_init=start, random_state=0).fit(x)
    options = dict(start=start, covariance_prior=0.0, regularization=0.0, tolerance=1e-13, max_steps=20_000)
    found = omt.fit(jax.random.key(0), x, omt.families.Gaussian, 3, **options)
    assert float(found.log_likelihood) == pytest.approx(plain.score(x), abs=1e-9)
    order, theirs = np.argsort(found.mixture.weights), np.argsort(plain.weights_)
    np.testing.assert_allclose(found.mixture.components.loc[order], plain.means_[theirs], atol=1e-4)
    assert np.diff(found.objectives).min() > -1e-12
    assert int(found.num_steps) < plain.n_iter_ / 2
