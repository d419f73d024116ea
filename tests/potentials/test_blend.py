"""Potentials built from plans: convex, readable, level where the plan says, and trainable."""

import jax
import numpy as np
import pytest
import scipy.special

import omt_expfam as omt
from omt_expfam._potentials.line import straight_line
from omt_expfam._potentials.members import Members
from omt_expfam.families import Gaussian

# Two groups of the source, one of which is split between two of the target.
X_MEANS, Y_MEANS = np.array([[-3.0, 0.0], [3.0, 0.0]]), np.array([[-4.0, 1.0], [2.0, 3.0], [4.0, -3.0]])


def mixture(means, weights, seed):
    factors = 0.5 * np.random.default_rng(seed).standard_normal((len(means), 2, 2))
    return omt.Mixture(weights, Gaussian(means, factors @ np.swapaxes(factors, 1, 2) + 0.2 * np.eye(2)))


@pytest.fixture(scope="module")
def plan():
    sides = mixture(X_MEANS, [0.4, 0.6], 0), mixture(Y_MEANS, [0.4, 0.3, 0.3], 1)
    return omt.transport(*sides, epsilon_components=0.0, epsilon_weights=0.05)


def host(potential):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), potential)


def numpy_value(potential, x):
    """Value and weights of the pieces."""
    pieces = 0.5 * np.sum(np.einsum("pij,nj->npi", potential.roots, x) ** 2, axis=2)
    pieces = (pieces + x @ potential.slopes.T + potential.offsets) / np.exp(potential.log_temperature)
    soft = np.exp(potential.log_temperature) * scipy.special.logsumexp(pieces, axis=1)
    return soft + 0.5 * potential.curvature * np.sum(x * x, axis=1), scipy.special.softmax(pieces, axis=1)


def test_values_weights_and_convexity(plan):
    potential = omt.BlendedPotential.from_plan(plan)
    own, x = host(potential), 3 * np.random.default_rng(2).standard_normal((40, 2))
    value, weights = numpy_value(own, x)
    map = omt.BrenierMap.from_potential(potential)
    np.testing.assert_allclose(map.potential(x), value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.jit(jax.vmap(potential.responsibilities))(x), weights, atol=1e-4)
    matrices = np.swapaxes(own.roots, 1, 2) @ own.roots + own.curvature * np.eye(2)
    images = np.einsum("pij,nj->npi", matrices, x) + own.slopes
    np.testing.assert_allclose(map.push_forward(x), np.einsum("np,npi->ni", weights, images), rtol=1e-4, atol=1e-4)
    # Strongly convex with the stated number: along random segments, and by all eigenvalues of the Hessian.
    middle = numpy_value(own, 0.5 * (x + x[::-1]))[0]
    bend = own.curvature / 8 * np.sum((x - x[::-1]) ** 2, axis=1)
    assert np.all(middle + bend <= 0.5 * (value + value[::-1]) + 1e-9)
    assert np.linalg.eigvalsh(np.asarray(map.jacobian(x))).min() >= own.curvature * (1 - 1e-3)


def test_pieces_follow_the_plan(plan):
    """The pairs in use, and no others; each takes mean to mean, and acts where its source component is."""
    potential = omt.BlendedPotential.from_plan(plan, temperature=0.01)
    assert potential.pairs == ((0, 0), (1, 1), (1, 2))
    own = host(potential)
    matrices = np.swapaxes(own.roots, 1, 2) @ own.roots + own.curvature * np.eye(2)
    for piece, (k, j) in enumerate(potential.pairs):
        np.testing.assert_allclose(matrices[piece] @ X_MEANS[k] + own.slopes[piece], Y_MEANS[j], atol=1e-4)
    weights = numpy_value(own, X_MEANS)[1]
    assert weights[0, 0] > 0.99
    assert weights[1, 0] < 0.01
    # The pieces of a source component that is split share its mass about equally, as the plan does.
    x = np.asarray(plan.source.components.sample(jax.random.key(0), 2000))[:, 1]
    shares = numpy_value(own, x)[1].mean(axis=0)
    np.testing.assert_allclose(shares, [0, 0.5, 0.5], atol=0.2)


def test_coordinates_do_not_matter(plan):
    """In the coordinates of a line, and brought back from there, it is one function up to a constant."""
    rng = np.random.default_rng(3)
    x, y = (np.asarray(side.sample(jax.random.key(i), 200)) for i, side in enumerate((plan.source, plan.target)))
    line = straight_line(x, y)
    white = omt.BlendedPotential.from_plan(plan, line)
    stacked = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[None]), Members(white, line))
    points = 2 * rng.standard_normal((30, 2))
    one, other = omt.BrenierMap(stacked), omt.BrenierMap.from_potential(white.unwhitened(line))
    np.testing.assert_allclose(one.push_forward(points), other.push_forward(points), rtol=1e-3, atol=1e-3)
    gap = np.asarray(one.potential(points)) - np.asarray(other.potential(points))
    np.testing.assert_allclose(gap, gap.mean(), atol=1e-3)


def test_training_reads_the_plan(plan):
    """It is trained as networks are, on either side, from what the plan says."""
    x, y = (np.asarray(side.sample(jax.random.key(i), 600)) for i, side in enumerate((plan.source, plan.target)))
    small = {"num_members": 1, "num_target_members": 1, "batch_size": 64, "noise": 0.0, "learning_rate": 0.03}
    fit = omt.fit_brenier(
        jax.random.key(0), x, y, start=plan, potential=omt.BlendedPotential, num_steps=300, progress=False, **small
    )
    assert fit.map.source is not None
    potential: omt.BlendedPotential = fit.map.source.potential  # pyright: ignore[reportAssignmentType]
    assert potential.pairs == ((0, 0), (1, 1), (1, 2))
    assert float(fit.held_out_value) > float(fit.trace[0])
    new, other = (side.sample(jax.random.key(7 + i), 400) for i, side in enumerate((plan.source, plan.target)))
    proof = fit.certificate(jax.random.key(1), new, other)
    assert proof.sliced < 5 * proof.sliced_floor
    assert proof.lower <= float(plan.cost) + 4 * proof.lower_standard_error
    member = jax.tree.map(lambda leaf: leaf[0], fit.map.source)
    readable = omt.BrenierMap.from_potential(member.potential.unwhitened(member.line))
    each = np.asarray(fit.map.push_forward_members(x[:50]))[:, 0]
    np.testing.assert_allclose(readable.push_forward(x[:50]), each, rtol=1e-3, atol=1e-3)


def test_refusals(plan):
    with pytest.raises(ValueError, match="`min_weight` must leave some pairs"):
        omt.BlendedPotential.from_plan(plan, min_weight=0.9)
    x = np.zeros((20, 2)) + np.arange(20)[:, None]
    with pytest.raises(ValueError, match="`start` must be a plan where `potential` is BlendedPotential"):
        omt.fit_brenier(jax.random.key(0), x, x, potential=omt.BlendedPotential)
    with pytest.raises(TypeError, match="got Gaussian"):
        omt.fit_brenier(jax.random.key(0), x, x, potential=Gaussian)
