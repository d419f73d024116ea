import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.spatial.distance
from numpy.testing import assert_allclose

from omt_expfam import ConvergenceError, metrics


@pytest.fixture
def dtype(dtype):
    return np.dtype(dtype)


def tolerance(dtype):
    return 2e-5 if dtype == np.float32 else 1e-11


def draw(seed: int, *shape: int, dtype: Any = np.float64) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def check_scalar(value, dtype):
    assert isinstance(value, jax.Array)
    assert value.shape == ()
    assert value.dtype == dtype
    return float(value)


# -- errors of maps ---------------------------------------------------------------------------------------------------


def test_mean_squared_error_is_the_mean_over_points(dtype):
    estimate, truth = draw(0, 40, 3, dtype=dtype), draw(1, 40, 3, dtype=dtype)
    total = 0.0
    for p, q in zip(estimate, truth, strict=True):
        total += sum((float(a) - float(b)) ** 2 for a, b in zip(p, q, strict=True))
    value = check_scalar(metrics.mean_squared_error(estimate, truth), dtype)
    assert value == pytest.approx(total / 40, rel=tolerance(dtype))


def test_l2_uvp_is_100_for_the_mean_and_0_for_the_truth(dtype):
    truth = draw(0, 50, 2, dtype=dtype) * 3 + 100
    mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert check_scalar(metrics.l2_uvp(truth, truth), dtype) == 0
    assert check_scalar(metrics.l2_uvp(mean, truth), dtype) == pytest.approx(100, rel=1e-5)


def test_l2_uvp_against_numpy(dtype):
    estimate, truth = draw(0, 50, 4, dtype=dtype), draw(1, 50, 4, dtype=dtype)
    expected = 100 * ((estimate - truth) ** 2).sum(1).mean() / np.trace(np.cov(truth.T, bias=True))
    value = check_scalar(metrics.l2_uvp(estimate, truth), dtype)
    assert value == pytest.approx(expected, rel=tolerance(dtype))


def test_cosine_similarity_averages_inner_products_over_points(dtype):
    x, estimate, truth = (draw(seed, 30, 3, dtype=dtype) for seed in range(3))
    ours, theirs = (estimate - x).astype(np.float64).ravel(), (truth - x).astype(np.float64).ravel()
    expected = 1 - scipy.spatial.distance.cosine(ours, theirs)
    value = check_scalar(metrics.cosine_similarity(x, estimate, truth), dtype)
    assert value == pytest.approx(expected, abs=tolerance(dtype))
    pairs = zip(estimate - x, truth - x, strict=True)
    pointwise = np.mean([1 - scipy.spatial.distance.cosine(a, b) for a, b in pairs])
    assert abs(value - pointwise) > 0.01


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_similarity_has_no_scale(scale):
    x = np.zeros((20, 2), np.float32)
    move = draw(0, 20, 2, dtype=np.float32) * np.float32(scale)
    assert float(metrics.cosine_similarity(x, 3 * move, move)) == pytest.approx(1, abs=1e-6)
    assert float(metrics.cosine_similarity(x, -move, move)) == pytest.approx(-1, abs=1e-6)


def test_cosine_similarity_refuses_a_map_that_moves_nothing():
    x = draw(0, 10, 2)
    with pytest.raises(ValueError, match="`estimate` must move some point"):
        metrics.cosine_similarity(x, x, x + 1)
    with pytest.raises(ValueError, match="`truth` must move some point"):
        metrics.cosine_similarity(x, x + 1, x)
    assert np.isnan(jax.jit(metrics.cosine_similarity)(x, x, x + 1))


def test_l2_uvp_refuses_a_truth_without_variance():
    with pytest.raises(ValueError, match="`truth` must vary"):
        metrics.l2_uvp(draw(0, 10, 2), np.ones((10, 2)))


# -- Frechet ----------------------------------------------------------------------------------------------------------


def frechet_by_matrix_roots(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    s, t = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    root = np.real(np.asarray(scipy.linalg.sqrtm(s)))
    cross = np.real(np.asarray(scipy.linalg.sqrtm(root @ t @ root)))
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * cross)


@pytest.mark.parametrize(("n", "m", "d"), [(50, 70, 4), (30, 31, 1), (60, 5, 8)])
def test_frechet_against_matrix_square_roots(n, m, d, dtype):
    # The third case has a singular covariance, where sqrtm is good to about 1e-7 only.
    x, y = draw(0, n, d, dtype=dtype), (draw(1, m, d) @ draw(2, d, d) + 0.5).astype(dtype)
    value = check_scalar(metrics.frechet_distance(x, y), dtype)
    assert value == pytest.approx(frechet_by_matrix_roots(x, y), rel=max(tolerance(dtype), 1e-6 * (m < d)))


@pytest.mark.parametrize(("n", "m", "d"), [(3, 4, 10), (2, 2, 3), (4, 40, 10), (40, 50, 6)])
def test_frechet_against_the_nuclear_norm_of_the_cross_product(n, m, d, dtype):
    x, y = draw(0, n, d, dtype=dtype), draw(1, m, d, dtype=dtype)
    a, b = ((v - v.mean(0)).astype(np.float64) / math.sqrt(len(v) - 1) for v in (x, y))
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    gap = x.astype(np.float64).mean(0) - y.astype(np.float64).mean(0)
    expected = (gap**2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear
    value = check_scalar(metrics.frechet_distance(x, y), dtype)
    assert value == pytest.approx(expected, rel=tolerance(dtype))


@pytest.mark.parametrize("shape", [(40, 3), (3, 40), (2, 1)])
def test_frechet_is_exact_for_shifts_and_scalings(shape, dtype):
    x = draw(0, *shape, dtype=dtype)
    shift = np.arange(shape[1], dtype=dtype)
    total = np.cov(x.astype(np.float64).T).trace() if shape[1] > 1 else np.var(x.astype(np.float64), ddof=1)
    offset = ((x.astype(np.float64).mean(0) + shift) ** 2).sum()
    assert check_scalar(metrics.frechet_distance(x, x), dtype) <= 100 * np.finfo(dtype).eps ** 2 * total
    shifted, doubled = metrics.frechet_distance(x, x + shift), metrics.frechet_distance(x, 2 * x + shift)
    assert float(shifted) == pytest.approx((shift**2).sum(), rel=tolerance(dtype), abs=1e-12)
    assert float(doubled) == pytest.approx(offset + total, rel=tolerance(dtype))


def test_frechet_keeps_its_digits_far_from_the_origin_and_near_zero():
    x = draw(0, 200, 3)
    near = x * 1.001
    with jax.enable_x64(True):
        expected = float(metrics.frechet_distance(x, near))
    far = (x + 1000).astype(np.float32), (near + 1000).astype(np.float32)
    # Points near 1000 are themselves known to 6e-5; a difference of traces would be off by 1e-7 * 6.
    assert expected == pytest.approx(1e-6 * (np.cov(x.T).trace() + (x.mean(0) ** 2).sum()), rel=1e-6)
    assert float(metrics.frechet_distance(x, near)) == pytest.approx(expected, rel=0.01)
    assert abs(float(metrics.frechet_distance(*far)) - expected) < 1e-6


@pytest.mark.parametrize(("n", "d"), [(12, 3), (3, 5)])
def test_frechet_gradient_by_finite_differences(n, d):
    with jax.enable_x64(True):
        x, y, step = draw(0, n, d), draw(1, n + 1, d), 1e-5
        gradient = np.asarray(jax.grad(metrics.frechet_distance)(jnp.asarray(x), jnp.asarray(y)))
        for i, j in [(0, 0), (1, d - 1), (n - 1, 1)]:
            moved = np.zeros((n, d))
            moved[i, j] = step
            up, down = (float(metrics.frechet_distance(v, y)) for v in (x + moved, x - moved))
            assert gradient[i, j] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-8)


# -- MMD --------------------------------------------------------------------------------------------------------------


def mmd_by_loops(x, y, h):
    def kernel(a, b):
        return math.exp(-sum((float(s) - float(t)) ** 2 for s, t in zip(a, b, strict=True)) / (2 * h * h))

    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


@pytest.mark.parametrize("h", [0.3, 2.0])
def test_mmd_against_loops(h, dtype):
    x, y = draw(0, 25, 3, dtype=dtype), draw(1, 18, 3, dtype=dtype) + dtype.type(0.5)
    value = check_scalar(metrics.mmd(x, y, h), dtype)
    # Float32 points are handled in float64; only the result is rounded.
    assert value == pytest.approx(mmd_by_loops(x, y, h), abs=6e-8 if dtype == np.float32 else 1e-14)


def test_mmd_bandwidth_defaults_to_the_median_distance(dtype):
    x, y = draw(0, 25, 2, dtype=dtype), 3 * draw(1, 18, 2, dtype=dtype)
    h = np.median(scipy.spatial.distance.pdist(np.concatenate([x, y]).astype(np.float64)))
    assert check_scalar(metrics.mmd(x, y), dtype) == pytest.approx(mmd_by_loops(x, y, h), abs=5e-7)


@pytest.mark.parametrize(("n", "m", "block"), [(23, 17, 8), (16, 8, 8), (3, 30, 7), (5, 4, 1)])
def test_mmd_blocks_leave_nothing_out(n, m, block, monkeypatch):
    x, y = draw(0, n, 2), draw(1, m, 2)
    monkeypatch.setattr(metrics, "_BLOCK", block)
    jax.clear_caches()
    with jax.enable_x64(True):
        assert float(metrics.mmd(x, y, 1.0)) == pytest.approx(mmd_by_loops(x, y, 1.0), abs=1e-13)
    jax.clear_caches()


def test_mmd_subsamples_for_the_median_at_even_spacing():
    x, y = draw(0, 2600, 1), draw(1, 1400, 1) + 1
    pooled = np.concatenate([x, y])[np.linspace(0, 3999, 2000).astype(int)]
    h = np.median(scipy.spatial.distance.pdist(pooled))
    with jax.enable_x64(True):
        default, given = float(metrics.mmd(x, y)), float(metrics.mmd(x, y, float(h)))
    assert default == pytest.approx(given, abs=1e-13)
    # Squared MMD of N(0, 1) and N(1, 1) in closed form; both samples scatter by about 0.01.
    wide = h * h + 2
    expected = 2 * h / math.sqrt(wide) * (1 - math.exp(-1 / (2 * wide)))
    assert default == pytest.approx(expected, abs=0.02)


def test_mmd_is_unbiased():
    values = [float(metrics.mmd(draw(2 * s, 20, 2), draw(2 * s + 1, 20, 2), 1.0)) for s in range(100)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 4 * np.std(values) / 10


def test_mmd_of_far_apart_clusters_keeps_float32_accuracy():
    """Squares of 1e4 would drown a bandwidth of 1 in float32; float64 inside does not."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(40, 2)) + 1e4 * rng.integers(0, 2, size=(40, 1)) for _ in range(2))
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert float(metrics.mmd(x, y, 1.0)) == pytest.approx(mmd_by_loops(x, y, 1.0), abs=1e-3)


def test_mmd_of_many_points_holds_no_square_matrix():
    """Compiled for 1e5 points the kernel needs blocks of memory, not 80 GB."""
    shape = jax.ShapeDtypeStruct((100_000, 3), np.float32)
    compiled = metrics._mmd.__wrapped__.lower(shape, shape, jax.ShapeDtypeStruct((), np.float32)).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2**26


def test_mmd_bandwidth_is_checked():
    x = draw(0, 10, 2)
    with pytest.raises(ValueError, match="`bandwidth` must be a finite number greater than 0"):
        metrics.mmd(x, x, 0)
    with pytest.raises(ValueError, match="`bandwidth` must be given"):
        metrics.mmd(np.ones((10, 2)), np.ones((10, 2)))


# -- Sinkhorn divergence ----------------------------------------------------------------------------------------------


def entropic_cost(x, y, epsilon):
    """<P, C> + epsilon KL(P || product), from POT's converged potentials."""
    n, m = len(x), len(y)
    cost = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    options: Any = {"method": "sinkhorn_log", "numItermax": 20_000, "stopThr": 1e-9, "log": True}
    _, log = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), cost, epsilon, **options)
    return epsilon * (np.mean(log["log_u"]) + np.mean(log["log_v"]) + math.log(n * m))


@pytest.mark.parametrize("epsilon", [2.0, 5.0])
def test_sinkhorn_divergence_against_pot(epsilon, dtype):
    x, y = draw(0, 30, 2, dtype=dtype), (1.5 * draw(1, 20, 2) + 0.7).astype(dtype)
    between, *within = (entropic_cost(*pair, epsilon) for pair in ((x, y), (x, x), (y, y)))
    expected = between - sum(within) / 2
    strict = 1e-10 if dtype == np.float64 else None
    value = check_scalar(metrics.sinkhorn_divergence(x, y, epsilon, tolerance=strict), dtype)
    assert value == pytest.approx(expected, rel=2e-5 if dtype == np.float32 else 1e-9)


def test_sinkhorn_divergence_limits():
    x, y = draw(0, 12, 2), draw(1, 12, 2) + 1
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    exact = ot.emd2([], [], scipy.spatial.distance.cdist(x, y, "sqeuclidean"))
    with jax.enable_x64(True):
        assert float(metrics.sinkhorn_divergence(x, y, 1e6)) == pytest.approx(means, rel=1e-4)
        assert float(metrics.sinkhorn_divergence(x, y, 0.05)) == pytest.approx(exact, rel=0.02)
        assert abs(float(metrics.sinkhorn_divergence(x, x, 0.5))) < 1e-8


def test_sinkhorn_divergence_ignores_a_common_offset():
    x, y = draw(0, 20, 2), draw(1, 20, 2)
    near, far = metrics.sinkhorn_divergence(x, y, 0.5), metrics.sinkhorn_divergence(x + 100, y + 100, 0.5)
    assert float(far) == pytest.approx(float(near), abs=1e-5)


def test_sinkhorn_divergence_splits_off_the_means():
    """Far apart samples converge in float32 where the raw costs would drown epsilon."""
    x, y = draw(0, 20, 2), draw(1, 20, 2)
    shift = np.array([100.0, 0.0]) - y.mean(0) + x.mean(0)
    near, far = (float(metrics.sinkhorn_divergence(x, v, 0.5)) for v in (y, y + shift))
    assert far == pytest.approx(near + 1e4 - ((x.mean(0) - y.mean(0)) ** 2).sum(), rel=1e-6)


def test_sinkhorn_divergence_gradient_by_finite_differences():
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        x, y, step = jnp.asarray(draw(0, 10, 2)), jnp.asarray(draw(1, 10, 2)), 1e-4
        gradient = jax.grad(metrics.sinkhorn_divergence)(x, y, 1.0)
        up, down = (metrics.sinkhorn_divergence(x.at[2, 1].add(s), y, 1.0) for s in (step, -step))
        assert float(gradient[2, 1]) == pytest.approx(float(up - down) / (2 * step), rel=1e-6)


def test_sinkhorn_divergence_that_does_not_converge_raises():
    x, y = draw(0, 30, 2), draw(1, 30, 2) + 3
    with pytest.raises(ConvergenceError, match="Raise `max_steps`, `tolerance` or `epsilon`") as caught:
        metrics.sinkhorn_divergence(x, y, 1e-3, max_steps=10)
    assert "\n" not in str(caught.value)
    traced = jax.jit(lambda a: metrics.sinkhorn_divergence(a, y, 1e-3, max_steps=10))
    with pytest.raises(Exception, match="Raise `max_steps`"):
        jax.block_until_ready(traced(jnp.asarray(x)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epsilon": 0.0}, ValueError, "`epsilon` must be a finite number greater than 0"),
        ({"epsilon": 1.0, "tolerance": -1.0}, ValueError, "`tolerance`"),
        ({"epsilon": 1.0, "max_steps": 0}, ValueError, "`max_steps`"),
        ({"epsilon": np.ones(2)}, TypeError, "`epsilon` must be a single number"),
    ],
)
def test_sinkhorn_divergence_checks_its_numbers(options, error, message):
    x = draw(0, 10, 2)
    with pytest.raises(error, match=message):
        metrics.sinkhorn_divergence(x, x, **options)


# -- what all have in common ------------------------------------------------------------------------------------------

PAIRED = [metrics.mean_squared_error, metrics.l2_uvp, lambda a, b: metrics.cosine_similarity(a + 1, a, b)]
UNPAIRED = [metrics.frechet_distance, metrics.mmd, lambda x, y: metrics.sinkhorn_divergence(x, y, 1.0)]


@pytest.mark.parametrize("metric", PAIRED + UNPAIRED)
def test_eager_jit_and_input_kinds_agree(metric):
    x, y = draw(0, 20, 3, dtype=np.float32), draw(1, 20, 3, dtype=np.float32)
    expected = float(metric(x, y))
    assert float(metric(jnp.asarray(x), jnp.asarray(y))) == expected
    assert float(metric(x.astype(np.float64), y.astype(np.float64))) == pytest.approx(expected, rel=1e-6)
    assert float(jax.jit(metric)(x, y)) == pytest.approx(expected, rel=2e-5)
    batch = jax.vmap(metric)(jnp.stack([x, y]), jnp.stack([y, x]))
    assert float(batch[0]) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("metric", PAIRED + UNPAIRED)
def test_mixed_precision_takes_the_wider(metric):
    with jax.enable_x64(True):
        assert metric(draw(0, 20, 3, dtype=np.float32), draw(1, 20, 3)).dtype == np.float64


@pytest.mark.parametrize("metric", PAIRED[:2])
def test_paired_metrics_check_shapes(metric):
    with pytest.raises(ValueError, match=r"`truth` must have the shape of `estimate`, \(5, 2\); got \(4"):
        metric(draw(0, 5, 2), draw(1, 4, 2))
    with pytest.raises(ValueError, match="`truth` must be 2 wide, like `estimate`"):
        metric(draw(0, 5, 2), draw(1, 5, 3))
    with pytest.raises(ValueError, match=r"`estimate` must have shape \[n, d\]; got shape \(5,\)"):
        metric(draw(0, 5), draw(1, 5))
    with pytest.raises(ValueError, match="`estimate` must have at least 1 point and one column"):
        metric(np.zeros((0, 2)), np.zeros((0, 2)))
    with pytest.raises(TypeError, match="`truth` must be an array of real numbers"):
        metric(draw(0, 2, 2), np.array([["a", "b"], ["c", "d"]]))


def test_cosine_similarity_names_the_argument_that_does_not_fit():
    with pytest.raises(ValueError, match="`estimate` must have the shape of `x`"):
        metrics.cosine_similarity(draw(0, 5, 2), draw(1, 4, 2), draw(1, 5, 2))


@pytest.mark.parametrize("metric", UNPAIRED)
def test_unpaired_metrics_check_shapes(metric):
    with pytest.raises(ValueError, match=r"`y` must be 2 wide, like `x`; got shape \(5, 3\)"):
        metric(draw(0, 5, 2), draw(1, 5, 3))
    with pytest.raises(ValueError, match="`x` must have at least"):
        metric(np.zeros((0, 2)), draw(0, 5, 2))
    with pytest.raises(ValueError, match="`y` must have at least"):
        metric(draw(0, 5, 2), np.zeros((0, 2)))


@pytest.mark.parametrize("metric", PAIRED[:2] + UNPAIRED)
def test_missing_values_are_named(metric):
    bad = draw(0, 5, 2)
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"must be finite; got nan at index \[3, 1\]"):
        metric(draw(1, 5, 2), bad)


@pytest.mark.parametrize("metric", [metrics.frechet_distance, metrics.mmd])
def test_one_point_is_not_a_sample(metric):
    with pytest.raises(ValueError, match="`y` must have at least 2 points"):
        metric(draw(0, 5, 2), draw(0, 1, 2))


@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_units_and_offsets_of_float64_points_do_not_count(offset, scale):
    random = np.random.default_rng(0)
    x, y, z = (random.normal(size=(30, 3)) * a + b for a, b in ((1, 0), (1.5, 0.4), (0.7, 1)))
    far = [(points + offset) * scale for points in (x, y, z)]
    square = scale * scale
    assert_allclose(
        np.float64(metrics.mean_squared_error(*far[:2])) / square, np.mean(np.sum((x - y) ** 2, 1)), rtol=1e-5
    )
    uvp = 100 * np.mean(np.sum((x - y) ** 2, 1)) / y.var(axis=0).sum()
    assert_allclose(metrics.l2_uvp(*far[:2]), uvp, rtol=1e-5)
    first, second = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(first)
    cross = scipy.linalg.sqrtm(root @ second @ root).real
    distance = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first + second - 2 * cross)
    assert_allclose(np.float64(metrics.frechet_distance(*far[:2])) / square, distance, rtol=1e-4)
    near = [np.float32(points) for points in (x, y, z)]
    assert_allclose(metrics.mmd(*far[:2]), metrics.mmd(*near[:2]), rtol=1e-3, atol=1e-6)
    assert_allclose(metrics.cosine_similarity(*far), metrics.cosine_similarity(*near), rtol=1e-5)
    far_value = np.float64(metrics.sinkhorn_divergence(*far[:2], 0.5 * square)) / square
    assert_allclose(far_value, metrics.sinkhorn_divergence(*near[:2], 0.5), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_squared_distances_out_of_range_are_refused(scale):
    x, y = np.random.default_rng(0).normal(size=(2, 10, 2)) * scale
    for function in (metrics.mean_squared_error, metrics.frechet_distance):
        with pytest.raises(ValueError, match="squared distances that float32 can hold"):
            function(x, y)
