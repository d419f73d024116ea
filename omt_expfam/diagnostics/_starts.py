"""Random interior points of the two blocks, and what they cost: couplings of weights, of Gaussians, and of samples.

On the host: the arrays are small, and none of this may know of the solvers that it is there to check.
"""

import numpy as np

# Singular values of random correlations stay below this: well inside the admissible set.
_LARGEST_CORRELATION = 0.95


def random_couplings(
    rng: np.random.Generator, a: np.ndarray, b: np.ndarray, num: int, spread: float = 2.0
) -> np.ndarray:
    """Random couplings with positive entries and marginals ``a[..., K0]`` and ``b[..., K1]``: ``[num, ..., K0, K1]``.

    A random positive matrix, scaled by iterative proportional fitting (Deming and Stephan, 1940).
    """
    shape = (num, *a.shape, b.shape[-1])
    return fit_marginals(np.exp(spread * rng.standard_normal(shape)) * a[..., :, None] * b[..., None, :], a, b)


def fit_marginals(table: np.ndarray, a: np.ndarray, b: np.ndarray, num_sweeps: int = 10_000) -> np.ndarray:
    """Scale rows and columns of positive matrices until their sums are ``a`` and ``b`` to rounding."""
    for _ in range(num_sweeps):
        table = table * _ratio(a, table.sum(-1))[..., :, None]
        table = table * _ratio(b, table.sum(-2))[..., None, :]
        if np.abs(table.sum(-1) - a).max() < 1e-15:
            break
    return table


def _ratio(wanted: np.ndarray, sums: np.ndarray) -> np.ndarray:
    return np.where(sums > 0, wanted / np.where(sums > 0, sums, 1), 0)


def random_cross_covariances(
    rng: np.random.Generator, source_roots: np.ndarray, target_roots: np.ndarray, num: int
) -> np.ndarray:
    """Random admissible cross-covariances ``L0 R L1^T`` of all pairs, shape ``[num, K0, K1, d, d]``.

    R has random singular vectors and uniform singular values below 0.95, so that every joint covariance is positive
    definite.
    """
    k0, k1, dim = len(source_roots), len(target_roots), source_roots.shape[-1]
    left, right = (np.linalg.qr(rng.standard_normal((num, k0, k1, dim, dim)))[0] for _ in range(2))
    values = _LARGEST_CORRELATION * rng.uniform(size=(num, k0, k1, 1, dim))
    correlation = (left * values) @ np.swapaxes(right, -1, -2)
    return source_roots[None, :, None] @ correlation @ np.swapaxes(target_roots, -1, -2)[None, None]


def gaussian_objectives(
    means: tuple[np.ndarray, np.ndarray], roots: tuple[np.ndarray, np.ndarray], cross: np.ndarray, epsilon: float
) -> np.ndarray:
    r"""The objectives $L_{ij}$ of Gaussian couplings with given cross-covariances ``[..., K0, K1, d, d]``.

    NaN where a joint covariance is not definite.
    """
    left, right = roots[0][:, None], roots[1][None, :]
    half = np.linalg.solve(left, cross)
    correlation = np.linalg.solve(right, np.swapaxes(half, -1, -2))
    gap = np.eye(cross.shape[-1]) - correlation @ np.swapaxes(correlation, -1, -2)
    sign, logarithm = np.linalg.slogdet(gap)
    spread = [np.sum(root**2, axis=(-2, -1)) for root in (left, right)]
    alone = np.sum((means[0][:, None] - means[1][None, :]) ** 2, axis=-1) + spread[0] + spread[1]
    divergence = np.where(sign > 0, -0.5 * logarithm, np.nan)
    return alone - 2 * np.trace(cross, axis1=-2, axis2=-1) + epsilon * divergence
