"""The straight line: the affine change of coordinates in which two samples have one covariance."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax

# What is added to variances: this share of the mean variance of its sample, so that constant columns do no harm.
_RIDGE = 1e-8
# Lengths along axes are at least this share of the largest; and no point is further from the mean than so many.
_FLATTEST, _FURTHEST = 1e-4, 5.0


class StraightLine(eqx.Module):
    r"""Coordinates in which the optimal map between two Gaussians is the identity.

    With $A$ the matrix of the Bures map between the covariances $S_0$ and $S_1$ (Olkin and Pukelsheim, 1982), the new
    coordinates are $x' = U^T A^{1/2} (x - m_0) / s$ and $y' = U^T A^{-1/2} (y - m_1) / s$, where $U$ are the
    eigenvectors of $A^{1/2} S_0 A^{1/2} = A^{-1/2} S_1 A^{-1/2}$ and $s^2$ is the mean of its eigenvalues. Inner
    products are kept up to $s^2$, so optimal maps stay optimal maps, and the best linear map becomes the identity.

    Methods take one point. `gradient`s, `value`s and `conjugate`s turn those of a potential in the new coordinates
    into those of the potential in the points' own, which belongs to the same map.

    Attributes:
        source_mean: m0.
        target_mean: m1.
        source_matrix: $U^T A^{1/2} / s$; its transpose times $s^2$ leads back from y'.
        target_matrix: $U^T A^{-1/2} / s$; its transpose times $s^2$ leads back from x'.
        scale: s, in units of the square root of (unit of x times unit of y).
        variances: The variances of x' and y', whose mean is 1.
    """

    source_mean: Float[Array, " d"]
    target_mean: Float[Array, " d"]
    source_matrix: Float[Array, "d d"]
    target_matrix: Float[Array, "d d"]
    scale: Float[Array, ""]
    variances: Float[Array, " d"]

    def whiten_source(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """x', of a source point."""
        return self.source_matrix @ (x - self.source_mean)

    def whiten_target(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """y', of a target point."""
        return self.target_matrix @ (y - self.target_mean)

    def source_point(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The source point whose new coordinates are x'."""
        return self.source_mean + self.scale * ((self.scale * x) @ self.target_matrix)

    def target_point(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """The target point whose new coordinates are y'."""
        return self.target_mean + self.scale * ((self.scale * y) @ self.source_matrix)

    def value(self, x: Float[Array, " d"], whitened: Float[Array, ""]) -> Float[Array, ""]:
        """phi(x), from the potential phi' of the new coordinates at x': $s^2 phi'(x') + <x - m_0, m_1>$.

        Its gradient is `target_point` of the gradient of phi'.
        """
        return self.scale * (self.scale * whitened) + (x - self.source_mean) @ self.target_mean

    def conjugate(self, y: Float[Array, " d"], whitened: Float[Array, ""]) -> Float[Array, ""]:
        """phi*(y), from the conjugate of phi' at y': $s^2 phi'^*(y') + <y, m_0>$."""
        return self.scale * (self.scale * whitened) + y @ self.source_mean

    def reverse(self) -> "StraightLine":
        """The same coordinates with source and target exchanged."""
        return StraightLine(
            self.target_mean,
            self.source_mean,
            self.target_matrix,
            self.source_matrix,
            self.scale,
            self.variances,
        )


def straight_line(x: Any, y: Any, x_weight: Any = None, y_weight: Any = None, dtype: Any = None) -> StraightLine:
    """The straight line between two samples; computed on the host, in float64.

    Singular covariances, of constant columns or of fewer points than dimensions, get a small multiple of the identity;
    those of fewer than two points a dimension are moved towards the identity as Ledoit and Wolf (2004) do.

    Args:
        x: Source points, shape ``[n0, d]``.
        y: Target points, shape ``[n1, d]``.
        x_weight: Weights of the source points, shape ``[n0]``; by default equal.
        y_weight: Weights of the target points, shape ``[n1]``.
        dtype: Of the result; by default JAX's own.
    """
    (mean0, scale0, cov0), (mean1, scale1, cov1) = _moments(x, x_weight), _moments(y, y_weight)
    # With S0 = L L^T: A = L^-T (L^T S1 L)^(1/2) L^-1, in units of scale1 / scale0.
    factor = np.linalg.cholesky(cov0)
    values, vectors = np.linalg.eigh(factor.T @ cov1 @ factor)
    half = np.linalg.solve(factor.T, vectors * np.maximum(values, 0.0) ** 0.25)
    # A = half half^T; its root from its own eigenvectors.
    vectors, root, _ = np.linalg.svd(half)
    along = vectors.T @ cov0 @ vectors * np.outer(root, root)
    common, turn = np.linalg.eigh((along + along.T) / 2)
    common, turn = np.maximum(common[::-1], 0.0), turn[:, ::-1]
    size = np.sqrt(common.mean())
    forward, backward = (turn.T * root) @ vectors.T, (turn.T / root) @ vectors.T
    ratio = np.sqrt(scale1 / scale0)
    scale = size * np.sqrt(scale0 * scale1)
    arrays = mean0, mean1, forward * ratio / scale, backward / ratio / scale, scale, common / size**2
    return StraightLine(*(to_jax(np.asarray(array), dtype) for array in arrays))


def axes_line(x: Any, y: Any, x_weight: Any = None, y_weight: Any = None, dtype: Any = None) -> StraightLine:
    """The straight line that keeps coordinates apart and makes their spreads agree; see `straight_line`.

    Spreads are standard deviations, but where a few points lie far out, as in a gene that few cells express: these
    points would be all but out of reach in units of the others.
    """
    sides = []
    for points, weight in ((x, x_weight), (y, y_weight)):
        points = np.asarray(points, np.float64)
        share = np.ones(len(points)) if weight is None else np.asarray(weight, np.float64)
        share = share / share.sum()
        mean = share @ points
        furthest = np.abs(points - mean)[share > 0].max(axis=0, initial=0.0)
        size = np.maximum(np.sqrt(share @ (points - mean) ** 2), furthest / _FURTHEST)
        sides.append((mean, np.maximum(size, _FLATTEST * size.max(initial=0.0) or 1.0)))
    (mean0, size0), (mean1, size1) = sides
    # Of a coordinate with one value on one side alone, lengths stay as they are.
    flat0, flat1 = (size <= _FLATTEST * size.max(initial=0.0) for size in (size0, size1))
    size0, size1 = np.where(flat0, size1, size0), np.where(flat1, size0, size1)
    scale = np.sqrt(np.mean(size0 * size1)) if len(size0) else np.ones(())
    root = np.sqrt(size1 / size0)
    variances = size0 * size1 / scale**2
    arrays = mean0, mean1, np.diag(root / scale), np.diag(1 / root / scale), scale, variances
    return StraightLine(*(to_jax(np.asarray(array), dtype) for array in arrays))


def unit_slopes(line: StraightLine) -> Float[np.ndarray, " d"]:
    """Slopes of maps between the coordinates of an `axes_line` that are one in the points' own units."""
    return np.diag(np.asarray(line.target_matrix, np.float64)) / np.diag(np.asarray(line.source_matrix, np.float64))


def _moments(points: Any, weight: Any) -> tuple[np.ndarray, Any, np.ndarray]:
    """Mean, scale (root of the mean variance) and covariance in units of its square, positive definite."""
    points = np.asarray(points, np.float64)
    share = np.full(len(points), 1 / len(points)) if weight is None else np.asarray(weight, np.float64) / np.sum(weight)
    mean, dim = share @ points, points.shape[1]
    # In units of the largest deviation, whose squares neither overflow nor vanish.
    centered = points - mean
    unit = np.abs(centered).max(initial=0.0) or 1.0
    centered = centered / unit
    covariance = (centered.T * share) @ centered
    size = np.trace(covariance) / dim or 1.0
    covariance = covariance / size
    few = 1 / np.sum(share**2)
    if few < 2 * dim:
        # Ledoit and Wolf's estimate of the error of the covariance beside its distance from the identity.
        squares = np.sum(centered**2, axis=1) / size
        error = (share**2) @ (squares**2) - np.sum(covariance**2) / few
        distance = np.sum(covariance**2) - dim
        shrinkage = float(np.clip(error / distance, 0.0, 1.0)) if distance > 0 else 1.0
        covariance = (1 - shrinkage) * covariance + shrinkage * np.eye(dim)
    return mean, unit * np.sqrt(size), covariance + _RIDGE * np.eye(dim)
