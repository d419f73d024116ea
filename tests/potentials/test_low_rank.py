"""The network for many dimensions: the dense one's values, its maps, its files, and when it is taken."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._potentials.low_rank import MOST_DENSE, start_low_rank

NUM, DIM = 600, 4


def samples(seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, NUM, DIM))
    return x.astype(np.float32), response(y).astype(np.float32)


def response(x):
    """The gradient of a convex function that couples coordinates."""
    along = x @ np.array([1.0, 1.0, 0.0, 0.0])
    return x + 1.5 * np.tanh(along)[:, None] * np.array([1.0, 1.0, 0.0, 0.0]) + np.array([0.0, 0.0, 1.0, 0.0])


def test_values_are_those_of_a_dense_form():
    rng = np.random.default_rng(0)
    found = start_low_rank(rng, np.ones(DIM), 2, 8, rank=2)
    wild = jax.tree.map(lambda a: (np.asarray(a) + 0.3 * rng.standard_normal(a.shape)).astype(np.float32), found)
    rows = np.concatenate([np.diag(np.asarray(wild.diagonal)), np.asarray(wild.network.quadratic)])
    # Of a form with more rows than columns, the root of its square.
    values, vectors = np.linalg.eigh(rows.T @ rows)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    dense = eqx.tree_at(lambda one: one.quadratic, wild.network, root.astype(np.float32))
    x = rng.standard_normal((32, DIM)).astype(np.float32)
    numbers = [jax.jit(jax.vmap(one))(x) for one in (wild.value, dense.value, wild.gradient, dense.gradient)]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=1e-4)
    np.testing.assert_allclose(numbers[2], numbers[3], rtol=1e-3, atol=1e-3)


def test_maps_are_as_exact_as_the_dense_ones(tmp_path):
    x, y = samples()
    settings: dict[str, Any] = {
        "num_members": 1,
        "num_target_members": 0,
        "num_layers": 2,
        "width": 16,
        "num_steps": 400,
    }
    start = start_low_rank(np.random.default_rng(0), np.ones(DIM), 2, 16, rank=2)
    errors = []
    for potential in (start, None):
        fit = omt.fit_brenier(jax.random.key(0), x, y, potential=potential, progress=False, **settings)
        errors.append(np.mean((np.asarray(fit.map.push_forward(x)) - response(x)) ** 2))
        if potential is not None:
            omt.save(tmp_path / "fit.omt", fit)
            again = omt.load(tmp_path / "fit.omt")
            np.testing.assert_array_equal(again.map.push_forward(x), fit.map.push_forward(x))
            assert "LowRankNetwork" in repr(again)
    assert errors[0] < 1.3 * errors[1] + 0.01


@pytest.mark.slow
def test_many_dimensions_have_few_parameters_and_few_points_suffice():
    """More dimensions than points: a shift along two coordinates is found, and no full matrix is trained."""
    dim = MOST_DENSE + 88
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 200, dim)).astype(np.float32)
    y[:, :2] += 4
    settings: dict[str, Any] = {"num_members": 1, "num_target_members": 0, "num_layers": 2, "width": 8, "num_steps": 20}
    fit: Any = omt.fit_brenier(jax.random.key(0), x, y, progress=False, **settings)
    potential = fit.map.source.potential
    assert isinstance(potential, omt.LowRankNetwork)
    assert max(leaf.size for leaf in jax.tree.leaves(potential) if eqx.is_array(leaf)) < dim**2 / 4
    images = np.asarray(fit.map.push_forward(x))
    np.testing.assert_allclose((images - x)[:, :2].mean(axis=0), (y - x)[:, :2].mean(axis=0), atol=0.2)
    assert np.sqrt(np.mean((images - y.mean(axis=0)) ** 2)) < 1.3
