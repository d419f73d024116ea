"""Maps of convex potentials against closed forms, SciPy and finite differences."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jaxtyping import Array

import omt_expfam as omt
from omt_expfam._potentials.conjugate import conjugate_point
from omt_expfam._potentials.line import straight_line
from omt_expfam._potentials.members import Members

DIM = 3


class SoftRamps(omt.AbstractPotential):
    """A user's own potential: a sum of soft ramps and a paraboloid."""

    ways: Array
    steepness: float

    @property
    def num_dimensions(self):
        return self.ways.shape[1]

    @property
    def strong_convexity(self):
        return self.steepness

    def value(self, x):
        return jnp.sum(jax.nn.softplus(self.ways @ x)) + 0.5 * self.steepness * jnp.sum(x * x)


class Quadratic(omt.AbstractPotential):
    """x' H x / 2 + b' x, whose map and conjugate are known."""

    hessian: Array
    slope: Array

    @property
    def num_dimensions(self):
        return self.slope.shape[0]

    @property
    def strong_convexity(self):
        return jnp.linalg.eigvalsh(self.hessian)[0]

    def value(self, x):
        return 0.5 * x @ self.hessian @ x + self.slope @ x


def ramps(seed, steepness=0.3):
    rng = np.random.default_rng(seed)
    return SoftRamps(jax.device_put(1.5 * rng.standard_normal((6, DIM))), steepness)


def numpy_ramps(potential, x):
    """Value and gradient of `SoftRamps`, by NumPy."""
    ways = np.asarray(potential.ways, np.float64)
    steps = x @ ways.T
    slopes = (0.5 * (1 + np.tanh(steps / 2))) @ ways + potential.steepness * x
    return np.logaddexp(0, steps).sum(-1) + 0.5 * potential.steepness * (x * x).sum(-1), slopes


def points(seed, num=6):
    return np.random.default_rng(seed).standard_normal((num, DIM))


def members(seed, num=2):
    """Potentials in the coordinates of straight lines between random samples, far from the identity and apart."""
    rng = np.random.default_rng(seed)
    each = np.stack([np.asarray(ramps(seed + i).ways) for i in range(num)])
    potential = SoftRamps(jax.device_put(each), jax.device_put(np.full(num, 0.3)))

    lines = []
    for _ in range(num):
        x, y = (rng.standard_normal((12, DIM)) @ rng.standard_normal((DIM, DIM)) + 5 for _ in range(2))
        lines.append(straight_line(x, 0.1 * y))
    return Members(potential, jax.tree.map(lambda *leaves: jax.device_put(np.stack(leaves)), *lines))


def test_own_potential_in_both_types(dtype):
    """Fifteen lines by a user: the map is the gradient, and its inverse is SciPy's maximizer."""
    potential = ramps(0)
    map, x = omt.BrenierMap.from_potential(potential), points(1)
    loose, tight = (1e-5, 3e-4) if dtype == "float32" else (1e-12, 1e-7)  # SciPy stops at the root of rounding
    value, slope = numpy_ramps(potential, x)
    assert map.push_forward(x).dtype == dtype
    np.testing.assert_allclose(map.push_forward(x), slope, rtol=loose, atol=loose)
    np.testing.assert_allclose(map.potential(x), value, rtol=loose)
    y = points(2)
    found = map.solve_pull_back(y)
    assert found.result == omt.RESULTS.successful
    assert np.all(np.asarray(found.converged))
    numbers = jax.tree.map(np.asarray, (found.points, found.values, found.point_errors))
    for image, point, most, bound in zip(y, *numbers, strict=True):

        def energy(u, y=image):
            value, slope = numpy_ramps(potential, u)
            return value - u @ y, slope - y

        best = scipy.optimize.minimize(energy, np.zeros(DIM), jac=True, method="BFGS", options={"gtol": 1e-12})
        error = np.linalg.norm(point - best.x)
        assert error < tight
        assert error <= bound + tight
        np.testing.assert_allclose(most, -best.fun, rtol=loose, atol=loose)
    np.testing.assert_array_equal(map.pull_back(y), found.points)


@pytest.mark.parametrize("max_steps", [0, 1, 3])
def test_evidence_of_unfinished_solves(x64, max_steps):
    """What is said about the error of solves that stopped early is never too little, and they are flagged."""
    map, y = omt.BrenierMap.from_potential(ramps(0, 0.05)), 3 * points(3, 40)
    exact, early = map.solve_pull_back(y), map.solve_pull_back(y, max_steps=max_steps)
    error = np.linalg.norm(np.asarray(early.points) - np.asarray(exact.points), axis=1)
    gap = np.asarray(exact.values) - np.asarray(early.values)
    assert np.all(error <= np.asarray(early.point_errors) + 1e-10)
    assert np.all(gap >= -1e-12)
    assert np.all(gap <= np.asarray(early.value_errors) + 1e-12)
    images = np.asarray(map.push_forward(early.points))
    np.testing.assert_allclose(early.residuals, np.linalg.norm(images - y, axis=1), atol=1e-10)
    assert not np.all(np.asarray(early.converged))
    assert early.result == omt.RESULTS.conjugate_not_converged
    assert error.max() > 1e-3


def test_sharp_kinks_are_found_or_flagged(x64):
    """Maxima of affine functions, smoothed by a thousandth: the Hessian jumps from .05 to hundreds."""
    rng = np.random.default_rng(0)
    ways, level = rng.standard_normal((50, DIM)), 0.3 * rng.standard_normal(50)

    def slope(x):
        return jax.nn.softmax(1000 * (ways @ x + level)) @ ways + 0.05 * x

    found = jax.jit(jax.vmap(lambda y: conjugate_point(slope, y, jnp.zeros_like(y))))(points(4, 30))
    assert np.mean(found.converged) > 0.9
    images = np.asarray(jax.jit(jax.vmap(slope))(found.point))
    exact = np.linalg.norm(images - points(4, 30), axis=1) < 1e-8
    assert np.all(exact[np.asarray(found.converged)])


def test_quadratic_closed_form(x64):
    rng = np.random.default_rng(5)
    root, slope = rng.standard_normal((DIM, DIM)), rng.standard_normal(DIM)
    hessian = root @ root.T + 0.1 * np.eye(DIM)
    map = omt.BrenierMap.from_potential(Quadratic(jax.device_put(hessian), jax.device_put(slope)))
    x = points(6)
    y = x @ hessian + slope
    np.testing.assert_allclose(map.push_forward(x), y, atol=1e-10)
    np.testing.assert_allclose(map.pull_back(y), x, atol=1e-9)
    conjugate = 0.5 * np.einsum("ni,ij,nj->n", y - slope, np.linalg.inv(hessian), y - slope)
    np.testing.assert_allclose(map.conjugate(y), conjugate, atol=1e-9)
    np.testing.assert_allclose(map.jacobian(x), np.broadcast_to(hessian, (len(x), DIM, DIM)), atol=1e-10)
    np.testing.assert_allclose(map.log_det_jacobian(x), np.full(len(x), np.linalg.slogdet(hessian)[1]), atol=1e-10)
    np.testing.assert_allclose(np.asarray(map.reverse().jacobian(y))[0], np.linalg.inv(hessian), atol=1e-8)
    np.testing.assert_allclose(map.interpolate(0.25, x), 0.75 * x + 0.25 * y, atol=1e-10)


SIDES = {"target": (None, 4), "both": (3, 4)}


@pytest.mark.parametrize("sides", SIDES)
def test_averages(x64, sides):
    """The mean of maps, on either side; its inverse; the potential whose gradient it is; Fenchel's equality."""
    source, target = (None if seed is None else members(10 * seed) for seed in SIDES[sides])
    map = omt.BrenierMap(source, target)
    x = 5 + points(7)
    y = np.asarray(map.push_forward(x))
    each = np.asarray(map.push_forward_members(x))
    np.testing.assert_allclose(each.mean(axis=1), y, atol=1e-9)
    np.testing.assert_allclose(map.spread(x), each.std(axis=1, ddof=1), atol=1e-9)
    own = [] if source is None else [_image(source, i, x) for i in range(2)]
    if target is not None:
        for i in range(2):
            np.testing.assert_allclose(_image(target, i, each[:, len(own) + i]), x, atol=1e-8)
    for i, image in enumerate(own):
        np.testing.assert_allclose(each[:, i], image, atol=1e-9)
    found = map.solve_pull_back(y)
    error = np.linalg.norm(np.asarray(found.points) - x, axis=1)
    np.testing.assert_allclose(found.points, x, atol=1e-7)
    assert np.all(error <= np.asarray(found.point_errors) + 1e-12)
    np.testing.assert_allclose(map.potential(x) + map.conjugate(y), np.sum(x * y, axis=1), atol=1e-8)
    back = map.reverse()
    np.testing.assert_allclose(back.push_forward(y), x, atol=1e-7)
    np.testing.assert_allclose(back.pull_back(x), y, atol=1e-9)
    np.testing.assert_allclose(back.conjugate(x), map.potential(x), atol=1e-9)


def _image(side, index, x):
    """One member's gradient by finite differences of its value in the points' own units."""
    line = jax.tree.map(lambda leaf: np.asarray(leaf)[index], side.line)
    ways, step = np.asarray(side.potential.ways)[index], 1e-5
    potential = SoftRamps(jax.device_put(ways), 0.3)

    def value(x):
        inner = (x - line.source_mean) @ line.source_matrix.T
        return line.scale**2 * numpy_ramps(potential, inner)[0] + (x - line.source_mean) @ line.target_mean

    shifts = step * np.eye(DIM)
    return np.stack([(value(x + s) - value(x - s)) / (2 * step) for s in shifts], axis=1)


def test_derivatives(x64):
    """Through maps, inverses and values, to points and parameters: against finite differences."""
    source, target = members(30), members(40)
    x, way = 5 + points(8, 4), points(9, 4)
    ways: Any = lambda m: m.potential.ways  # noqa: E731

    @jax.jit
    @jax.value_and_grad
    def total(inputs):
        move, size = inputs
        scaled = eqx.tree_at(ways, source, size * ways(source))
        map = omt.BrenierMap(scaled, target)
        at = x + move * way
        images = jnp.sum(jnp.sin(at) * map.push_forward(at) + jnp.cos(at) * map.pull_back(at))
        return images + jnp.sum(map.conjugate(at))

    start, step = (0.1, 1.0), 1e-5
    slopes = total(start)[1]
    for i in range(2):
        ends = []
        for sign in (1, -1):
            at = list(start)
            at[i] += sign * step
            ends.append(float(total(tuple(at))[0]))
        np.testing.assert_allclose(slopes[i], (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_change_of_variables(x64):
    """The image of a standard normal has total mass one: its density is read off at pulled-back points of a grid."""
    map = omt.BrenierMap.from_potential(SoftRamps(jax.device_put(np.array([[1.5], [-0.7]])), 0.4))
    y = np.linspace(-6, 6, 2001)[:, None]
    x = np.asarray(map.pull_back(y))
    log_density = -0.5 * x[:, 0] ** 2 - 0.5 * np.log(2 * np.pi) - np.asarray(map.log_det_jacobian(x))
    np.testing.assert_allclose(np.trapezoid(np.exp(log_density), y[:, 0]), 1, atol=1e-6)


def test_many_points_and_none():
    """Blocks and their padding change nothing; empty sets give empty arrays."""
    map = omt.BrenierMap(members(30))
    x = np.tile(points(11), (2_000, 1)).astype(np.float32)
    images = np.asarray(map.push_forward(x))
    np.testing.assert_allclose(images, np.tile(np.asarray(map.push_forward(x[:6])), (2_000, 1)), rtol=1e-5, atol=1e-5)
    empty = np.zeros((0, DIM))
    for method in (map.push_forward, map.pull_back, map.spread, map.reverse().push_forward):
        assert method(empty).shape == (0, DIM)
    assert map.potential(empty).shape == map.conjugate(empty).shape == map.log_det_jacobian(empty).shape == (0,)
    assert map.jacobian(empty).shape == (0, DIM, DIM)


def test_refusals():
    map = omt.BrenierMap.from_potential(ramps(0))
    with pytest.raises(ValueError, match=r"`x` must have shape \[n, 3\]"):
        map.push_forward(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="`t` must lie between 0 and 1; got 1.5"):
        map.interpolate(1.5, np.zeros((2, DIM)))
    with pytest.raises(ValueError, match="this one has one"):
        map.spread(np.zeros((2, DIM)))
    with pytest.raises(ValueError, match="must not both be None"):
        omt.BrenierMap(None)
    with pytest.raises(ValueError, match="`max_steps` must be at least 0; got -1"):
        map.solve_pull_back(np.zeros((2, DIM)), max_steps=-1)


def test_points_without_an_answer():
    """A potential that breaks its promise has points that no gradient reaches: an error, or NaN when traced."""
    map = omt.BrenierMap.from_potential(ramps(0, 0.0))
    far = np.full((2, DIM), 1e3, np.float32)
    with pytest.raises(omt.ConvergenceError, match="solve_pull_back"):
        map.pull_back(far)
    assert not np.any(np.asarray(map.solve_pull_back(far).converged))
    assert np.all(np.isnan(np.asarray(jax.jit(map.pull_back)(far))))
