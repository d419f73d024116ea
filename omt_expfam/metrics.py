"""How far an estimated map or sample lies from the truth: errors of maps and distances between samples.

Costs are squared Euclidean distances without a factor 1/2, so errors are in units of squared distance unless
a function says otherwise. Results have the floating-point type of the arguments.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._base.arguments import ArrayLike, as_count, as_scalar, ScalarLike
from ._base.arrays import is_traced, to_jax
from ._base.precision import in_float64, narrow
from ._base.results import ConvergenceError
from ._base.samples import in_range, matched, restored, squared, to_samples, unit_of
from ._base.xla import jit

__all__ = ["cosine_similarity", "frechet_distance", "l2_uvp", "mean_squared_error", "mmd", "sinkhorn_divergence"]


def __dir__() -> list[str]:
    return __all__


# Rows and columns of a block of kernel values, and how many points at most give the median distance.
_BLOCK, _MEDIAN_POINTS = 1024, 2000

_NOT_CONVERGED = (
    "The Sinkhorn divergence stopped before the marginals met `tolerance`. Raise `max_steps`, `tolerance` or "
    "`epsilon`, or pass float64 points if `epsilon` is tiny beside the squared distances."
)


# -- errors of maps ---------------------------------------------------------------------------------------------------


def mean_squared_error(estimate: ArrayLike, truth: ArrayLike) -> Float[Array, ""]:
    r"""Mean squared distance $\frac{1}{n} \sum_i \|\hat T_i - T_i\|^2$, summed over dimensions.

    Args:
        estimate: Estimated images, shape ``[n, d]``.
        truth: True images, shape ``[n, d]``.

    Returns:
        The error, in units of squared distance.

    Raises:
        TypeError: If an argument is not an array of real numbers.
        ValueError: If the shapes differ, or values are missing or not finite.
    """
    return squared(_mean_squared_error, "`estimate` and `truth`", *matched(estimate=estimate, truth=truth))


def l2_uvp(estimate: ArrayLike, truth: ArrayLike) -> Float[Array, ""]:
    r"""Unexplained variance percentage $100 \cdot \mathbb{E}\|\hat T - T\|^2 / \operatorname{Var}(T)$.

    The variance is the mean squared distance of ``truth`` from its mean (over n, summed over dimensions): a
    map that sends every point to that mean scores 100. From Korotin et al., "Do neural optimal transport solvers
    work? A continuous Wasserstein-2 benchmark" (2021).

    Args:
        estimate: Estimated images, shape ``[n, d]``.
        truth: True images, shape ``[n, d]``.

    Returns:
        The error in percent: 0 is exact, and values above 100 are possible.

    Raises:
        TypeError: If an argument is not an array of real numbers.
        ValueError: If the shapes differ, values are missing or not finite, or all points of ``truth``
            coincide (infinite or NaN when traced).
    """
    images, true_images = matched(estimate=estimate, truth=truth)
    if not is_traced(true_images) and bool((true_images == true_images[:1]).all()):
        raise ValueError("`truth` must vary: all its points coincide, so its variance is zero.")
    if is_traced(images, true_images):
        return _l2_uvp(images, true_images)
    error, variance = (np.asarray(value) for value in _error_and_variance(images, true_images))
    return to_jax(100 * error / variance) if in_range(error, variance) else _l2_uvp(images, true_images)


def cosine_similarity(x: ArrayLike, estimate: ArrayLike, truth: ArrayLike) -> Float[Array, ""]:
    r"""Cosine between displacements, $\langle \hat T - I, T - I \rangle / (\|\hat T - I\| \, \|T - I\|)$.

    Inner product and norms are those of L2 of the sample: averages over all points, one number, not a mean of
    pointwise cosines. From Korotin et al. (2021), see `l2_uvp`.

    Args:
        x: Points, shape ``[n, d]``.
        estimate: Their estimated images, shape ``[n, d]``.
        truth: Their true images, shape ``[n, d]``.

    Returns:
        A number from -1 to 1; 1 is a map whose displacements are right up to one common positive factor.

    Raises:
        TypeError: If an argument is not an array of real numbers.
        ValueError: If the shapes differ, values are missing or not finite, or ``estimate`` or ``truth`` moves
            no point, which leaves the cosine undefined (NaN when traced).
    """
    points, images, true_images = matched(x=x, estimate=estimate, truth=truth)
    if not is_traced(points, images, true_images):
        for name, value in (("estimate", images), ("truth", true_images)):
            if bool((value == points).all()):
                raise ValueError(f"`{name}` must move some point: it equals `x`, so the cosine is undefined.")
    return _cosine_similarity(points, images, true_images)


# -- distances between samples ----------------------------------------------------------------------------------------


def frechet_distance(x: ArrayLike, y: ArrayLike) -> Float[Array, ""]:
    r"""Squared Wasserstein-2 distance between the Gaussians with the moments of the two samples.

    $\|m_x - m_y\|^2 + \operatorname{tr}\big(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2}\big)$ with sample means
    and covariances (over n - 1); on features of a network this is the Frechet inception distance of Heusel et
    al. (2017). No matrix square root is formed: with $S_x = A^T A$ and $S_y = B^T B$ the covariance term is
    $\min_U \|A - U B\|_F^2$ over orthogonal U (a Procrustes problem), which is never negative, loses no digits
    to cancellation, and holds for singular covariances (fewer points than dimensions).

    Differentiable once, by the envelope theorem.

    Args:
        x: Points, shape ``[n, d]``, n at least 2.
        y: Points, shape ``[m, d]``, m at least 2.

    Returns:
        The squared distance, in units of squared distance.

    Raises:
        TypeError: If an argument is not an array of real numbers.
        ValueError: If the widths differ, a sample has fewer than two points, or values are not finite.
    """
    return squared(_frechet_distance, "`x` and `y`", *_samples(x, y, minimum=2))


def mmd(x: ArrayLike, y: ArrayLike, bandwidth: ScalarLike | None = None) -> Float[Array, ""]:
    r"""Unbiased squared maximum mean discrepancy, Gaussian kernel $k(x, y) = \exp(-\|x - y\|^2 / (2 h^2))$.

    $\frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{nm} \sum_{ij} k(x_i, y_j)$, from Gretton et al., "A kernel two-sample test" (2012). Its
    expectation is zero when the laws agree, so values slightly below zero are normal.

    Kernel values are summed in blocks, so memory stays bounded; time grows with (n + m)^2. Concrete points
    are handled in float64 inside; under a caller's ``jit`` the points' own precision is used.

    Args:
        x: Points, shape ``[n, d]``, n at least 2.
        y: Points, shape ``[m, d]``, m at least 2.
        bandwidth: The length h of the kernel, in units of distance. By default the median distance between
            pairs of points of the pooled sample; when that has more than 2000 points, 2000 of them, evenly
            spaced in the order x, then y, stand for it.

    Returns:
        The squared discrepancy, without unit.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the widths differ, a sample has fewer than two points, values are not finite,
            ``bandwidth`` is not positive, or it is not given and the median distance is zero.
    """
    points, others = _samples(x, y, minimum=2)
    dtype = points.dtype
    if bandwidth is not None:
        as_scalar("bandwidth", bandwidth, strict=True)
    if is_traced(points, others, bandwidth):
        h = _median_distance(points, others) if bandwidth is None else jnp.asarray(bandwidth, dtype)
        return _mmd(points, others, h)
    # NumPy's scalar, so that a float64 bandwidth reaches the float64 kernel unrounded.
    h = in_float64(_median_distance, points, others) if bandwidth is None else np.float64(bandwidth)
    if float(h) == 0:
        raise ValueError("`bandwidth` must be given: most points coincide, so their median distance is zero.")
    return narrow(in_float64(_mmd, points, others, np.asarray(h)), dtype)


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    epsilon: ScalarLike,
    *,
    tolerance: ScalarLike | None = None,
    max_steps: int = 20_000,
) -> Float[Array, ""]:
    r"""Sinkhorn divergence $E_\varepsilon(x, y) - \frac12 (E_\varepsilon(x, x) + E_\varepsilon(y, y))$.

    $E_\varepsilon$ is the value of entropic transport, cost $\|x - y\|^2$ plus $\varepsilon$ times the KL
    divergence against the product of the (uniform) marginals: the convention of `omt_expfam.transport`. It
    tends to the squared Wasserstein-2 distance as epsilon falls and to the squared distance of the means as it
    grows. From Genevay, Peyré and Cuturi (2018) and Feydy et al. (2019); solved by OTT-JAX, with over-relaxed
    steps, after the means are split off exactly.

    Memory grows with the number of pairs of points: about 10 GB for two float32 samples of 2e4 points.

    Args:
        x: Points, shape ``[n, d]``.
        y: Points, shape ``[m, d]``.
        epsilon: Regularization, in units of squared distance; positive.
        tolerance: Largest L1 error of the marginals; by default 3e-4 in float32 and 1e-5 in float64.
            The divergence is usually far more precise (of the order of 1e-6 and 1e-9, relative).
        max_steps: Limit on the steps of each of the three solves. Changing it compiles anew.

    Returns:
        The divergence, in units of squared distance; nonnegative up to rounding.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the widths differ, values are missing or not finite, or a number is out of range.
        ConvergenceError: If a solve misses the tolerance.
    """
    points, others = _samples(x, y, minimum=1)
    as_scalar("epsilon", epsilon, strict=True)
    if tolerance is None:
        tolerance = 3e-4 if points.dtype == np.float32 else 1e-5
    as_scalar("tolerance", tolerance, strict=True)
    max_steps = as_count("max_steps", max_steps)
    unit = unit_of(points, others)
    points, others = points / unit, others / unit
    wide, scale = (epsilon, unit) if is_traced(epsilon, unit) else (np.float64(epsilon), np.float64(unit))
    knobs = tuple(jnp.asarray(value, points.dtype) for value in (wide / scale / scale, tolerance))
    # The cost splits into the squared distance of the means and that of the centered samples, which round less.
    (mean_x, points), (mean_y, others) = _split_mean(points), _split_mean(others)
    values = []
    for first, second in ((points, others), (points, points), (others, others)):
        # OTT-JAX does not satisfy JAX's strict promotion modes. One solve at a time holds one cost matrix.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            value, converged = _entropic_cost(first, second, *knobs, max_steps, first is second)
        if is_traced(converged):
            value = eqx.error_if(value, ~converged, _NOT_CONVERGED)
        elif not bool(converged):
            raise ConvergenceError(_NOT_CONVERGED)
        values.append(value)
    between, within_x, within_y = values
    value = jnp.sum((mean_x - mean_y) ** 2) + between - 0.5 * (within_x + within_y)
    return restored(value, unit, "`x` and `y`")


def _samples(x: ArrayLike, y: ArrayLike, minimum: int) -> list[Array]:
    """Two samples, moved together to around the origin, so that no digits are lost to a common offset."""
    points, others = to_samples({"x": x, "y": y}, minimum)
    return list(_centered(points, others))


@jit
def _centered(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> tuple[Array, Array]:
    center = 0.5 * (jnp.mean(x, axis=0, keepdims=True) + jnp.mean(y, axis=0, keepdims=True))
    return x - center, y - center


# -- kernels ----------------------------------------------------------------------------------------------------------


@jit
def _mean_squared_error(estimate: Float[Array, "n d"], truth: Float[Array, "n d"]) -> Float[Array, ""]:
    return jnp.mean(jnp.sum((estimate - truth) ** 2, axis=1))


@jit
def _error_and_variance(estimate: Float[Array, "n d"], truth: Float[Array, "n d"]) -> tuple[Array, Array]:
    return _mean_squared_error(estimate, truth), jnp.sum(jnp.var(truth, axis=0))


@jit
def _l2_uvp(estimate: Float[Array, "n d"], truth: Float[Array, "n d"]) -> Float[Array, ""]:
    # A ratio has no unit: by a power of two, nothing is rounded and no square leaves the range.
    unit = unit_of(truth)
    error, variance = _error_and_variance(estimate / unit, truth / unit)
    return 100 * error / variance


@jit
def _cosine_similarity(
    x: Float[Array, "n d"], estimate: Float[Array, "n d"], truth: Float[Array, "n d"]
) -> Float[Array, ""]:
    # The cosine has no scale: dividing by the largest entry keeps squares from under- and overflowing.
    ours, theirs = (move / jnp.max(jnp.abs(move)) for move in (estimate - x, truth - x))
    return jnp.sum(ours * theirs) / jnp.sqrt(jnp.sum(ours**2) * jnp.sum(theirs**2))


@jit
def _frechet_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    mean_x, mean_y = (jnp.mean(v, axis=0) for v in (x, y))
    a, b = _covariance_factor(x, mean_x), _covariance_factor(y, mean_y)
    rank = max(a.shape[0], b.shape[0])
    a, b = (jnp.pad(v, ((0, rank - v.shape[0]), (0, 0))) for v in (a, b))
    # The best rotation is stationary, so it is held fixed under differentiation.
    cross = jax.lax.stop_gradient(jnp.matmul(a, b.T, precision="highest"))
    left, _, right = jnp.linalg.svd(cross)
    rotated = jnp.matmul(jnp.matmul(left, right, precision="highest"), b, precision="highest")
    return jnp.sum((mean_x - mean_y) ** 2) + jnp.sum((a - rotated) ** 2)


def _covariance_factor(x: Float[Array, "n d"], mean: Float[Array, " d"]) -> Float[Array, "r d"]:
    """A matrix A with A^T A the covariance of the points, at most d rows."""
    offset = (x - mean[None]) / np.sqrt(x.shape[0] - 1)
    if x.shape[0] <= x.shape[1]:
        return offset
    # Q^T X rather than R: its derivative, with Q fixed, gives that of A^T A also where R is singular.
    basis, _ = jnp.linalg.qr(jax.lax.stop_gradient(offset))
    return jnp.matmul(basis.T, offset, precision="highest")


@jit
def _median_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    num = x.shape[0] + y.shape[0]
    # Chosen on the host: with n and m fixed, always the same points.
    chosen = np.arange(num) if num <= _MEDIAN_POINTS else np.linspace(0, num - 1, _MEDIAN_POINTS).astype(int)
    points = jnp.concatenate([x[chosen[chosen < len(x)]], y[chosen[chosen >= len(x)] - len(x)]])
    row, column = np.triu_indices(len(chosen), 1)
    unit = unit_of(points)
    points = points / unit
    return unit * jnp.sqrt(jnp.median(_squared_distances(points, points)[row, column]))


@jit
def _mmd(x: Float[Array, "n d"], y: Float[Array, "m d"], bandwidth: Float[Array, ""]) -> Float[Array, ""]:
    x, y = x / bandwidth, y / bandwidth
    # The numbers of pairs may overflow int32, so they go in as floats.
    within_x, within_y = (_kernel_sum(v, v, True) / float(len(v) * (len(v) - 1)) for v in (x, y))
    return within_x + within_y - 2 * _kernel_sum(x, y, False) / float(len(x) * len(y))


def _kernel_sum(x: Float[Array, "n d"], y: Float[Array, "m d"], skip_diagonal: bool) -> Float[Array, ""]:
    """Sum of exp(-distance^2 / 2) over pairs, block by block; optionally without pairs of equal index."""

    def blocks(points: Float[Array, "n d"]) -> tuple[Array, Array]:
        num, size = points.shape[0], min(_BLOCK, points.shape[0])
        fill = -num % size
        padded = jnp.pad(points, ((0, fill), (0, 0))).reshape(-1, size, points.shape[1])
        return padded, jnp.arange(num + fill).reshape(-1, size)

    def block(item: tuple[Array, Array], other: tuple[Array, Array]) -> Float[Array, ""]:
        (points, row), (others, column) = item, other
        counted = (row < x.shape[0])[:, None] & (column < y.shape[0])[None, :]
        if skip_diagonal:
            counted &= row[:, None] != column[None, :]
        kernel = jnp.exp(-0.5 * _squared_distances(points, others))
        return jnp.sum(jnp.where(counted, kernel, jnp.zeros_like(kernel)))

    ours, theirs = blocks(x), blocks(y)
    return jnp.sum(jax.lax.map(lambda a: jnp.sum(jax.lax.map(lambda b: block(a, b), theirs)), ours))


def _squared_distances(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    return jnp.maximum(squares - 2 * jnp.matmul(x, y.T, precision="highest"), 0)


@functools.partial(jit, static_argnames=("max_steps", "symmetric"))
def _entropic_cost(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    epsilon: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_steps: int,
    symmetric: bool,
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Value of entropic transport between uniform samples, and whether the solve met the tolerance."""
    # OTT-JAX loads matplotlib, which `import omt_expfam` must not.
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.acceleration import Momentum
    from ott.solvers.linear.sinkhorn import Sinkhorn

    # Averaged parallel updates settle the transport of a sample to itself in a few steps (Feydy et al., eq. 25).
    momentum = Momentum(start=0, value=0.5) if symmetric else Momentum(start=20, value=1.5)
    options: dict[str, Any] = {"threshold": tolerance, "max_iterations": max_steps, "momentum": momentum}
    solver = Sinkhorn(parallel_dual_updates=symmetric, **options)
    output = solver(LinearProblem(PointCloud(x, y, epsilon=epsilon)))
    value = jnp.asarray(output.reg_ot_cost)
    return value, jnp.asarray(output.converged) & jnp.isfinite(value)


@jit
def _split_mean(x: Float[Array, "n d"]) -> tuple[Float[Array, " d"], Float[Array, "n d"]]:
    mean = jnp.mean(x, axis=0)
    return mean, x - mean[None]
