import jax.numpy as jnp
import numpy as np
import ot
import pytest
from sklearn.neighbors import KNeighborsClassifier

import omt_expfam as omt
from benchmarks.experiments import perturbation, perturbation_times
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import bodenmiller, Cells
from omt_expfam.families import SphericalGaussian

pytestmark = pytest.mark.loose


def made_up(num=400, seed=0):
    """Cells of two types and four donors in two conditions."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((num, 3)).astype(np.float32)
    return Cells(points, rng.random(num) < 0.5, np.where(points[:, 0] > 0, "a", "b"), ["A", "B", "C"])


def test_divisions_are_disjoint_and_of_one_size():
    cells = made_up()
    cells = cells._replace(points=np.arange(1200.0, dtype=np.float32).reshape(400, 3))
    sizes = perturbation.Sizes(60, 30, 90)
    for seed in range(2):
        sides = perturbation.at_random(cells, seed, sizes)
        for condition, side in zip((False, True), sides, strict=True):
            assert [part.shape for part in (side.points, side.test, side.many)] == [(60, 3), (30, 3), (90, 3)]
            assert not set(side.many[:, 0]) & set(side.test[:, 0])
            rows = (side.points[:, 0] / 3).astype(int)
            assert (cells.stimulated[rows] == condition).all()
            assert (cells.group[rows] == side.kinds).all()
    donors = cells._replace(group=np.arange(400) % 4)
    for seed in range(4):
        for side in perturbation.leave_donor_out(donors, seed, perturbation.Sizes(60, 30, 90)):
            assert set(side.test_kinds) == {seed}
            assert seed not in side.kinds


def test_nearest_types_against_scikit_learn():
    cells = made_up()
    source, target = perturbation.at_random(cells, 0, perturbation.Sizes(100, 50, 100))
    images = source.test + np.float32(0.4)
    predicted = KNeighborsClassifier(1).fit(target.points, target.kinds).predict(images)
    found = perturbation.same_kind(cells, source, target, images)
    assert found == {"type of nearest cell": pytest.approx(100 * np.mean(predicted == source.test_kinds))}


def test_mass_between_types():
    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c"])
    points = np.array([[0.0, 0.0], [100.0, 0.0]])[rng.integers(0, 2, 200)] + rng.standard_normal((200, 2))
    kinds = np.where(points[:, 0] < 50, "a", rng.choice(["b", "c"], 200))
    means = jnp.array([[0.0, 0.0], [100.0, 0.0]])
    mixture = omt.Mixture(jnp.array([0.5, 0.5]), SphericalGaussian(means, jnp.array([1.0, 1.0])))
    shares = perturbation.composition(mixture, points.astype(np.float32), kinds, names)
    part_b = np.mean(kinds[points[:, 0] > 50] == "b")
    np.testing.assert_allclose(shares, [[1, 0], [0, part_b], [0, 1 - part_b]], atol=1e-6)

    weights, target = rng.random((2, 4)), rng.dirichlet(np.ones(3), 4).T
    drawn = [(i, j, s, t) for i in range(2) for j in range(4) for s in range(3) for t in range(3)]
    mass = [weights[i, j] * shares[s, i] * target[t, j] * (s == t) for i, j, s, t in drawn]
    expected = 100 * sum(mass) / weights.sum()
    assert perturbation.kept_mass(weights, shares, target) == pytest.approx(expected)


def test_coupling_behind_the_entropic_map_against_pot():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((num, 2)).astype(np.float32) for num in (40, 50))
    method = _peers.Entropic(10.0)
    epsilon = float(_peers._sinkhorn(x, y, method.scale, method.max_iterations).epsilon)
    plan = ot.sinkhorn(np.full(40, 1 / 40), np.full(50, 1 / 50), ot.dist(x, y).astype(float), epsilon, stopThr=1e-12)
    weights = perturbation.entropic_weights(method, x, y)
    np.testing.assert_allclose(weights / weights.sum(), plan, atol=2e-3 * plan.max())


def test_gates_find_what_the_data_are_known_for(data_dir):
    cells = bodenmiller(data_dir)

    def medians(kind, marker):
        inside = perturbation.gate(cells, cells.points, kind)
        values = cells.points[inside, cells.features.index(marker)], cells.stimulated[inside]
        return [float(np.median(values[0][values[1] == condition])) for condition in (False, True)]

    np.testing.assert_allclose(medians("T", "pS6"), [-0.04, 0.13], atol=0.01)
    np.testing.assert_allclose(medians("T", "pNFkB"), [2.17, 1.26], atol=0.01)
    # Its gate of B cells is not given.
    np.testing.assert_allclose(medians("B", "pS6"), [1.13, 3.62], atol=0.12)
    np.testing.assert_allclose(medians("B", "pPlcg2"), [0.80, 2.06], atol=0.05)
    sides = perturbation.leave_donor_out(cells, 7, perturbation.Sizes(1000, 700, 4000))
    perfect = perturbation.marker_shifts(cells, *sides, sides[1].test)
    assert perfect["error of mean shift"] == 0
    still = perturbation.marker_shifts(cells, *sides, sides[0].test)
    assert still["pS6 in B cells"] == 0
    assert still["error of mean shift"] > 0.2


def test_law_of_images():
    rng = np.random.default_rng(0)
    cells = rng.standard_normal((200, 3)).astype(np.float32)
    found = perturbation.law(0.5 * cells, cells)
    assert found["variance"] == pytest.approx(25, abs=1e-3)
    assert found["divergence"] > 0.1
    assert found["discrepancy"] > 1
    same = perturbation.law(cells[:100], cells[100:])
    assert abs(same["discrepancy"]) < found["discrepancy"] / 3


def test_many_cells_have_the_law_of_the_real_ones(data_dir):
    few, many = perturbation_times.many_cells(data_dir, 500), perturbation_times.many_cells(data_dir, 5000)
    for side, more in zip(few, many, strict=True):
        assert (side.shape, more.shape, more.dtype) == ((500, 16), (5000, 16), np.float32)
        np.testing.assert_allclose(side.mean(axis=0), more.mean(axis=0), atol=0.2 * more.std(axis=0).max())
    assert len(np.unique(many[0], axis=0)) == 5000


def test_plans_keep_separate_types():
    rng = np.random.default_rng(0)
    kinds = rng.choice(["a", "b"], 300)
    points = (np.where(kinds == "a", 0, 20)[:, None] + rng.standard_normal((300, 2))).astype(np.float32)
    side = perturbation.Side(points, kinds, points, kinds, points)
    other = side._replace(points=points + np.float32(3))
    means, weights = jnp.array([[0.0, 0.0], [20.0, 20.0]]), jnp.array([np.mean(kinds == k) for k in "ab"])
    laws = [omt.Mixture(weights, SphericalGaussian(means + shift, jnp.ones(2))) for shift in (0.0, 3.0)]
    plan = omt.transport(*laws, epsilon_components=0.1, epsilon_weights=0.1, progress=False)
    entropic = _peers.Entropic()
    for method, found in ((None, plan), (entropic, entropic(None, side.points, other.points))):
        assert perturbation.mass_between_types(method, found, side, other) == pytest.approx(100, abs=0.1)
    assert perturbation.mass_between_types(_peers.Linear(), None, side, other) is None
