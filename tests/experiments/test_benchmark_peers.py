import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special

import omt_expfam as omt
from benchmarks.experiments import stability
from benchmarks.harness import peers as _peers
from benchmarks.harness.w2bench import W2Problem
from omt_expfam.families import Gaussian


def samples(num=60, dim=2, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, dim))
    y = 0.5 * rng.standard_normal((num + 7, dim)) + np.sign(rng.standard_normal((num + 7, 1)))
    return x.astype(np.float32), y.astype(np.float32)


# -- the problem with a known map -------------------------------------------------------------------------------------


def write_problem(directory, dim=3, width=8, seed=0):
    """A file of the benchmark's layout whose networks are random."""
    rng = np.random.default_rng(seed)
    arrays = {"centers": rng.standard_normal((3, dim)), "maps": rng.standard_normal((3, dim, dim)), "std": 0.4}
    arrays |= {"strong_convexity": 0.1, "shift": rng.standard_normal(dim), "scale": 2.0}
    for version in ("v1", "v2"):
        for layer in range(3):
            size = width // 2 if layer == 2 else width
            arrays[f"{version}_A{layer}"] = rng.standard_normal((dim, size))
            arrays[f"{version}_W{layer}"] = rng.standard_normal((size, dim))
            arrays[f"{version}_b{layer}"] = rng.standard_normal(size)
        arrays[f"{version}_C0"] = rng.uniform(0, 0.1, (width, width))
        arrays[f"{version}_C1"] = rng.uniform(0, 0.1, (width // 2, width))
        arrays[f"{version}_w"] = rng.uniform(0, 0.1, width // 2)
    (directory / "w2bench").mkdir()
    np.savez(W2Problem.path(directory, dim), **arrays)
    return arrays


def check_convex(problem, num):
    """The map is the gradient of a convex function: its Jacobian is symmetric and has no negative eigenvalue."""
    x, step = problem.source(np.random.default_rng(1), num), 1e-5
    sides = [[problem.transport(x + sign * step * axis) for axis in np.eye(problem.dim)] for sign in (1, -1)]
    jacobian = np.moveaxis((np.array(sides[0]) - np.array(sides[1])) / (2 * step), 0, 2)
    np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, 1, 2), atol=1e-6 * np.abs(jacobian).max())
    assert np.linalg.eigvalsh(jacobian).min() > 0
    y = problem.transport(x)
    assert (((x[:, None] - x) * (y[:, None] - y)).sum(-1) >= 0).all()


def test_true_map_is_the_gradient_of_its_potential(tmp_path):
    z = write_problem(tmp_path)
    problem = W2Problem(tmp_path, 3)
    check_convex(problem, 40)

    def potential(x):
        total = 0.0
        for v in ("v1", "v2"):
            q = [(x @ z[f"{v}_A{i}"]) ** 2 + z[f"{v}_W{i}"] @ x + z[f"{v}_b{i}"] for i in range(3)]
            h = jax.nn.celu(z[f"{v}_C0"] @ q[0] + q[1])
            h = jax.nn.celu(z[f"{v}_C1"] @ h + q[2])
            total += jnp.sum(z[f"{v}_w"] * h) + 0.5 * z["strong_convexity"] * jnp.sum(x**2)
        return (total - jnp.sum(z["shift"] * x)) / z["scale"]

    x = problem.source(np.random.default_rng(0), 5)
    with jax.enable_x64(True):
        expected = jax.vmap(jax.grad(potential))(jnp.asarray(x))
    np.testing.assert_allclose(problem.transport(x), expected, rtol=1e-10)


@pytest.mark.parametrize(("dim", "cost", "linear"), [(2, 0.327, 14.1), (16, 7.13, 41.5)])
def test_true_map_of_the_benchmark(data_dir, dim, cost, linear):
    problem = W2Problem(data_dir, dim)
    check_convex(problem, 200)
    x = problem.source(np.random.default_rng(0), 20_000)
    y = problem.transport(x)
    assert np.mean(np.sum((x - y) ** 2, axis=1)) / 2 == pytest.approx(cost, rel=0.03)
    assert y.var(axis=0).mean() == pytest.approx(1, abs=0.05)
    images = _peers.images(_peers.Linear()(None, x, y), x)
    assert float(omt.metrics.l2_uvp(images, y.astype(np.float32))) == pytest.approx(linear, rel=0.03)


def test_absent_data_is_said(tmp_path, monkeypatch, capsys):
    with pytest.raises(FileNotFoundError, match="mix3tomix10_5.npz is not there"):
        W2Problem(tmp_path, 5)
    monkeypatch.setattr(sys, "argv", ["stability", "--quick", "--data", str(tmp_path)])
    stability.main()
    assert "mix3tomix10_2.npz" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["stability", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="set OMT_DATA"):
        stability.main()


# -- the methods ------------------------------------------------------------------------------------------------------


def test_linear_map_is_that_of_normal_laws():
    x, y = samples(dim=3)
    covariances = [np.cov(points.T.astype(float), bias=True) for points in (x, y)]
    root = scipy.linalg.sqrtm(covariances[0])
    matrix = np.linalg.inv(root) @ scipy.linalg.sqrtm(root @ covariances[1] @ root) @ np.linalg.inv(root)
    expected = (x - x.mean(axis=0)) @ matrix + y.mean(axis=0)
    found = _peers.Linear()(None, x, y)
    np.testing.assert_allclose(_peers.images(found, x), expected, atol=1e-4)
    np.testing.assert_allclose(_peers.back_images(found, expected), x, atol=1e-4)
    # The inverse is the optimal map between the exchanged samples.
    exchanged = _peers.Linear()(None, y, x)
    np.testing.assert_allclose(_peers.images(exchanged, y), _peers.back_images(found, y), atol=1e-4)


def plain_entropic_map(x, y, scale):
    """A potential by plain steps, and the map by its formula."""
    cost = ((x[:, None] - y) ** 2).sum(axis=-1)
    epsilon = scale * 0.05 * cost.std()
    kernel, v = np.exp(-cost / epsilon), np.ones(len(y))
    for _ in range(3000):
        u = len(y) / (kernel @ v)
        v = len(x) / (u @ kernel)
    g = epsilon * np.log(v)

    def transport_map(points):
        return scipy.special.softmax((g - ((points[:, None] - y) ** 2).sum(axis=-1)) / epsilon, axis=1) @ y

    return transport_map


@pytest.mark.loose
@pytest.mark.parametrize("num_steps", [1, 3])
def test_entropic_maps_against_the_formula(num_steps):
    x, y = samples()
    points = np.random.default_rng(3).standard_normal((20, 2)).astype(np.float32)
    now, expected = x.astype(float), points.astype(float)
    for step in range(num_steps):
        plain = plain_entropic_map(now, y.astype(float), 2.0)
        now, expected = (p + (plain(p) - p) / (num_steps - step) for p in (now, expected))
    found = _peers.images(_peers.Entropic(2.0, num_steps)(None, x, y), points)
    # The solver stops at marginal errors of 1e-3.
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.loose
@pytest.mark.parametrize("num_steps", [1, 3])
def test_entropic_way_back_is_the_way_between_exchanged_samples(num_steps):
    x, y = samples()
    method = _peers.Entropic(2.0, num_steps)
    found, exchanged = method(None, x, y), method(None, y, x)
    assert found.converged == [True] * num_steps
    np.testing.assert_allclose(_peers.back_images(found, y), _peers.images(exchanged, y), atol=0.02)
    assert np.abs(_peers.back_images(found, y) - y).max() > 0.3
    # Several steps solved anew, and once.
    _peers.back_images(found, y)
    assert found.converged == [True] * (1 if num_steps == 1 else 2 * num_steps)


@pytest.mark.loose
def test_entropic_solves_that_stop_early_are_told():
    x, y = samples()
    assert _peers.Entropic(0.1, max_iterations=10)(None, x, y).converged == [False]


def test_unregularized_plan_is_ours_without_regularization():
    rng = np.random.default_rng(0)
    sides = []
    for num in (3, 5):
        root = rng.standard_normal((num, 2, 2))
        components = Gaussian(2 * rng.standard_normal((num, 2)), root @ np.swapaxes(root, 1, 2) + 0.2 * np.eye(2))
        sides.append(omt.Mixture(rng.dirichlet(np.ones(num)), components))
    x = rng.standard_normal((30, 2)).astype(np.float32)
    theirs = _peers.UnregularizedPlan(*sides)
    ours = omt.transport(*sides, epsilon_components=0.0, epsilon_weights=0.0)
    np.testing.assert_allclose(theirs.weights, ours.weights, atol=1e-5)
    np.testing.assert_allclose(_peers.images(theirs, x), ours.push_forward(x), atol=2e-3)
    np.testing.assert_allclose(_peers.back_images(theirs, x), ours.pull_back(x), atol=2e-3)


def test_both_couplings_take_the_same_mixtures():
    x, y = samples(193, dim=3)
    x = np.concatenate([x, y[:7]])
    ours, theirs = (_peers.Mixtures((2, 2), epsilon)(jax.random.key(0), x, y) for epsilon in (0.01, None))
    for axis, mixture in ((1, ours.source), (0, ours.target)):
        np.testing.assert_allclose(theirs.weights.sum(axis=axis), mixture.weights, atol=1e-6)
    np.testing.assert_allclose(theirs._means[0], ours.source.components.mean(), atol=1e-6)
    np.testing.assert_allclose(theirs._covariances[1], ours.target.components.covariance(), atol=1e-6)


class Shift:
    def __init__(self, size):
        self.size = size

    def __call__(self, key, x, y):
        return lambda points: points + self.size


@pytest.mark.loose
def test_the_best_of_methods_sends_held_out_points_to_the_target():
    x, _ = samples(300)
    methods = tuple(Shift(size) for size in (0.0, 1.0, 3.0))
    assert _peers.BestOf(methods).tuned(jax.random.key(0), x, x[::-1] + 1.1) is methods[1]


def test_numbers_of_components_are_chosen_for_our_map(monkeypatch):
    tried = []
    monkeypatch.setattr(_peers.BestOf, "tuned", lambda best, *_: tried.extend(best.candidates) or best.candidates[1])
    x, _ = samples(300)
    chosen = _peers.Mixtures(None, None, candidates=(2, 3, 31)).tuned(jax.random.key(0), x, x)
    assert [m.num_components for m in tried] == [(2, 2), (3, 3)]
    assert all(m.epsilon == 0.01 for m in tried)
    assert (chosen.num_components, chosen.epsilon) == ((3, 3), None)
    assert _peers.Mixtures((4, 5)).tuned(None, x, x).num_components == (4, 5)


@pytest.mark.loose
def test_neural_map():
    if not _peers.has_neural():
        pytest.skip("flax and diffrax are not installed")
    x, _ = samples(200)
    found = _peers.Neural(600, 64, 16, 3e-3)(jax.random.key(0), x, x + 2.0)
    assert np.abs(_peers.images(found, x) - (x + 2)).mean() < 0.5
    assert np.abs(_peers.back_images(found, x + 2) - x).mean() < 0.5


# -- the study --------------------------------------------------------------------------------------------------------


def test_change_of_couplings_is_the_least_over_labelings():
    rng = np.random.default_rng(0)
    first, second = rng.dirichlet(np.ones(12), 2).reshape(2, 4, 3)
    orders = itertools.permutations(range(4))
    expected = min(np.abs(first - second[list(order)]).sum() for order in orders)
    assert stability.coupling_change(first, second) == pytest.approx(expected)
    assert stability.coupling_change(first, first[[2, 0, 3, 1]]) == 0


def test_cells_are_kept_and_their_changes_are_relative(tmp_path, monkeypatch):
    write_problem(tmp_path)
    problem = W2Problem(tmp_path, 3)
    monkeypatch.setattr(stability, "LARGE", 400)
    names = ["linear", "gmm"]
    study = stability.quick_study()
    study.methods["gmm"] = ("GMM-OT 2x2", _peers.Mixtures((2, 2), None))
    cells = [stability.cached_cell(study, problem, name, 0, tmp_path, set()) for name in names]
    assert not any("error" in cell for cell in cells)
    monkeypatch.setattr(stability, "run_cell", None)
    assert [stability.cached_cell(study, problem, name, 0, tmp_path, set()) for name in names] == json.loads(
        json.dumps(cells)
    )
    rows = stability.per_seed(study, cells)
    for cell in cells:
        clean, *noisy = [row for row in rows if row["name"] == cell["name"]]
        assert clean["change"] == clean["displacement"] == 0
        assert all(row["change"] == pytest.approx(row["mse"] / clean["mse"] - 1) for row in noisy)
        assert all(row["displacement"] > 0 for row in noisy)
    assert [row["coupling_change"] is None for row in rows] == [True] * 3 + [False] * 3
    assert len(stability.summary(study, rows)) == len(rows)
