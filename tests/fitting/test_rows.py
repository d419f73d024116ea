"""Data that are not in memory are fitted as if they were."""

import threading
import warnings

import h5py
import jax
import numpy as np
import pytest
import zarr

import omt_expfam as omt
from omt_expfam._fitting import rows
from omt_expfam.families import Categorical, DiagonalGaussian, Gaussian, Laplace, Poisson

OPTIONS = {"chunk_size": 512, "progress": False}


@pytest.fixture
def points():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(1200, 2)), 4 + rng.normal(size=(900, 2))]).astype(np.float32)


@pytest.fixture
def mapped(monkeypatch, tmp_path, points):
    """A file that is mapped into memory, as if it were a large one."""
    monkeypatch.setattr(rows, "_SMALL", 0)
    np.save(tmp_path / "points.npy", points)
    return np.load(tmp_path / "points.npy", mmap_mode="r")


class Watched:
    """An array that knows which of its rows were read, and where."""

    chunks = None

    def __init__(self, array, fails_at=None):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read, self.threads, self.fails_at = [], set(), fails_at

    def __getitem__(self, index):
        if self.fails_at is not None and index.start <= self.fails_at < index.stop:
            raise OSError("the disk is gone")
        self.read.append(index.stop - index.start)
        self.threads.add(threading.get_ident())
        return self.array[index]


def equal(one, other):
    assert one.num_steps == other.num_steps
    for name in ("log_likelihood", "effective_sizes", "objectives", "total_weight", "bic"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, err_msg=name)
    np.testing.assert_allclose(one.mixture.weights, other.mixture.weights, rtol=1e-7)
    for a, b in zip(*(jax.tree.leaves(f.mixture.components) for f in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("start", ["merge", "k-means++"])
def test_a_file_is_fitted_like_the_array(mapped, points, start):
    one, other = (omt.fit(jax.random.key(0), x, Gaussian, 3, start=start, **OPTIONS) for x in (mapped, points))
    equal(one, other)
    assert one.converged
    assert one.num_steps > 3


def test_the_same_to_rounding_in_double_precision(mapped, points, x64):
    one, other = (omt.fit(jax.random.key(0), x.astype(float), Gaussian, 3, **OPTIONS) for x in (points, points))
    wide = rows.Rows(points.astype(float))
    found = omt.fit(jax.random.key(0), wide, Gaussian, 3, **OPTIONS)
    for a, b, c in zip(*(jax.tree.leaves(f.mixture) for f in (one, other, found)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(c, a, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_weights_and_zeros_among_them(mapped, points):
    weight = np.random.default_rng(1).integers(0, 3, len(points)).astype(float)
    one, other = (
        omt.fit(jax.random.key(0), x, DiagonalGaussian, 2, sample_weight=weight, **OPTIONS) for x in (mapped, points)
    )
    equal(one, other)


@pytest.mark.slow
def test_counts(mapped, points):
    counts = np.random.default_rng(1).poisson(np.where(points > 2, 9.0, 2.0)).astype(np.int16)
    one, other = (omt.fit(jax.random.key(0), x, Poisson, 2, **OPTIONS) for x in (rows.Rows(counts), counts))
    equal(one, other)


@pytest.mark.parametrize("kind", ["h5py", "zarr"])
def test_data_sets_of_other_libraries(tmp_path, points, kind):
    if kind == "h5py":
        stored = h5py.File(tmp_path / "points.h5", "w").create_dataset("x", data=points, chunks=(100, 2))
    else:
        stored = zarr.create_array(str(tmp_path / "points.zarr"), data=points, chunks=(100, 2))
    assert rows.is_out_of_memory(stored)
    one, other = (omt.fit(jax.random.key(0), x, Gaussian, 3, **OPTIONS) for x in (stored, points))
    equal(one, other)


def test_few_rows_are_read_at_once_and_in_another_thread(monkeypatch, points):
    monkeypatch.setattr(rows, "_BLOCK", 1000)
    source = Watched(points)
    omt.fit(jax.random.key(0), source, Gaussian, 3, **OPTIONS)
    assert max(source.read) <= 512
    assert threading.get_ident() not in source.threads


def test_far_points_are_left_out_of_the_scale_as_in_memory(mapped, points, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK", 1000)
    spoilt = points.copy()
    spoilt[[5, 1700], 1] = -9999
    with pytest.warns(UserWarning, match="2 points far from all others in column 1, such as -9999"):
        other = omt.fit(jax.random.key(0), spoilt, Gaussian, 3, **OPTIONS)
    with pytest.warns(UserWarning, match="2 points far from all others in column 1, such as -9999"):
        one = omt.fit(jax.random.key(0), rows.Rows(spoilt), Gaussian, 3, **OPTIONS)
    np.testing.assert_allclose(one.log_likelihood, other.log_likelihood, rtol=1e-5)


def test_heavy_tails_are_not_far(points, monkeypatch):
    """Beyond six standard deviations, but not beyond a hundred interquartile ranges."""
    monkeypatch.setattr(rows, "_BLOCK", 1000)
    spread = points.copy()
    spread[[5, 1700], 1] = 60
    one, other = (omt.fit(jax.random.key(0), x, Gaussian, 3, **OPTIONS) for x in (rows.Rows(spread), spread))
    equal(one, other)


def test_rows_are_taken_in_the_order_that_is_asked_for(monkeypatch, points):
    monkeypatch.setattr(rows, "_BLOCK", 1000)
    index = np.random.default_rng(0).permutation(len(points))[:50]
    np.testing.assert_array_equal(rows.Rows(points).take(index), points[index])


def test_small_files_are_read_at_once(tmp_path, points):
    np.save(tmp_path / "points.npy", points)
    assert not rows.is_out_of_memory(np.load(tmp_path / "points.npy", mmap_mode="r"))
    assert not rows.is_out_of_memory(points)


def test_what_cannot_be_fitted_is_refused(points):
    key = jax.random.key(0)
    spoilt = points.copy()
    spoilt[1500, 1] = np.nan
    with pytest.raises(ValueError, match=r"`x` must be finite; got nan at index \[1500, 1\]"):
        omt.fit(key, rows.Rows(spoilt), Gaussian, 2, **OPTIONS)
    with pytest.raises(ValueError, match="must be in memory for Laplace"):
        omt.fit(key, rows.Rows(points), Laplace, 2, progress=False)
    with pytest.raises(ValueError, match=r"support of Poisson .* at index \[0, 0\]"):
        omt.fit(key, rows.Rows(points), Poisson, 2, **OPTIONS)
    with pytest.raises(ValueError, match="as many points as components, 3; got shape \\(2, 2\\)"):
        omt.fit(key, rows.Rows(points[:2]), Gaussian, 3, progress=False)
    with pytest.raises(ValueError, match="must have shape"):
        rows.Rows(points[:, 0])
    with pytest.raises(TypeError, match="real numbers; got dtype"):
        rows.Rows(points.astype(str))
    zeros = rows.Rows(np.zeros((50, 1)))
    with pytest.raises(ValueError, match="more than one category"):
        omt.fit(key, zeros, omt.template(Categorical, num_categories=2), 1, **OPTIONS)
    with pytest.raises(OSError, match="the disk is gone"):
        omt.fit(key, Watched(points, fails_at=700), Gaussian, 2, **OPTIONS)


def test_a_run_that_ends_too_soon_says_so(mapped):
    with warnings.catch_warnings(), pytest.raises(omt.ConvergenceError, match="max_steps"):
        omt.fit(jax.random.key(0), mapped, Gaussian, 3, max_steps=2, **OPTIONS)
