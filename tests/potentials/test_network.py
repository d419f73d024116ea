"""The network is convex whatever it holds, and what training computes is right against brute force."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from omt_expfam._potentials.dual import ascend, dual_terms
from omt_expfam._potentials.network import start_network

NUM, DIM = 32, 2


def wild_network(seed, size):
    """A network whose arrays are random and large."""
    rng = np.random.default_rng(seed)
    network = start_network(rng, np.array([1.5, 0.5]), 3, 8)

    def noisy(leaf):
        return (np.asarray(leaf) + size * rng.standard_normal(leaf.shape)).astype(np.float32)

    return eqx.tree_at(lambda n: n.scale, jax.tree.map(noisy, network), np.asarray(network.scale))


@jax.jit
def values(network, x):
    return jax.vmap(network.value)(x)


@jax.jit
def gradients(network, x):
    return jax.vmap(network.gradient)(x)


@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_networks_are_strongly_convex_along_segments(size):
    network, rng = wild_network(1, size), np.random.default_rng(2)
    ends = 3 * rng.standard_normal((2, NUM, DIM)).astype(np.float32)
    first, last = gradients(network, ends[0]), gradients(network, ends[1])
    difference = ends[0] - ends[1]
    rise = np.sum((np.asarray(first, np.float64) - last) * difference, axis=1)
    assert (rise >= 0.999 * network.strong_convexity * np.sum(difference**2, axis=1)).all()
    means = [np.asarray(values(network, end), np.float64) for end in (*ends, ends.mean(axis=0))]
    gap = (means[0] + means[1]) / 2 - means[2]
    floor = network.strong_convexity * np.sum(difference**2, axis=1) / 8
    assert (gap >= floor - 1e-5 * np.abs(means).max(axis=0)).all()


def test_a_network_starts_near_the_half_square():
    network, rng = wild_network(0, 0.0), np.random.default_rng(3)
    x = rng.standard_normal((NUM, DIM)).astype(np.float32)
    assert np.abs(np.asarray(gradients(network, x)) - x).mean() < 0.3


@jax.jit
def ascent(network, y):
    found = ascend(network, y, y, jnp.ones(NUM, y.dtype), 60)
    return found, dual_terms(network, y, y, found.point)


def test_conjugate_points_are_those_of_a_minimizer():
    network = wild_network(4, 0.3)
    y = np.random.default_rng(5).standard_normal((NUM, DIM)).astype(np.float32)
    found, (of_x, of_y) = ascent(network, y)
    np.testing.assert_allclose(of_x, values(network, y), rtol=1e-5)
    np.testing.assert_allclose(found.rest, y - np.asarray(gradients(network, np.asarray(found.point))), atol=1e-4)

    def negative(x, target):
        x = np.broadcast_to(x.astype(np.float32), (NUM, DIM))
        slope = np.asarray(gradients(network, x)[0], np.float64) - target
        return float(np.asarray(values(network, x))[0]) - x[0] @ target, slope

    for target, point, value in list(zip(y, np.asarray(found.point), np.asarray(of_y), strict=True))[:5]:
        best = scipy.optimize.minimize(negative, target, (target.astype(np.float64),), jac=True, method="BFGS")
        np.testing.assert_allclose(point, best.x, atol=2e-3)
        np.testing.assert_allclose(value, -best.fun, atol=1e-5 * (1 + abs(best.fun)))


@jax.jit
def envelope(network, x, y, conjugates):
    """The derivative of J that training uses, with conjugate points held fixed."""

    def loss(network):
        of_x, of_y = dual_terms(network, x, y, conjugates)
        return of_x.mean() + of_y.mean()

    return jax.grad(loss)(network)


def test_the_derivative_of_the_dual_is_that_of_differences():
    network, rng = wild_network(6, 0.3), np.random.default_rng(7)
    x, y = rng.standard_normal((2, NUM, DIM)).astype(np.float32)
    found, _ = ascent(network, y)
    slope = envelope(network, x, y, found.point)

    def dual(shifted):
        _, (_, of_y) = ascent(shifted, y)
        return float(np.mean(np.asarray(values(shifted, x), np.float64)) + np.mean(np.asarray(of_y, np.float64)))

    for name in ("quadratic", "squares", "layers", "output"):
        leaf = np.asarray(getattr(network, name))
        direction = rng.standard_normal(leaf.shape).astype(np.float32)
        step = 0.02 / np.linalg.norm(direction)
        ends = [
            dual(eqx.tree_at(lambda n, name=name: getattr(n, name), network, leaf + sign * step * direction))
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step)
        along = float(np.sum(np.asarray(getattr(slope, name)) * direction))
        np.testing.assert_allclose(along, expected, rtol=0.02, atol=2e-3)
    np.testing.assert_array_equal(np.asarray(slope.scale), 0)
