"""Cholesky factors of covariances and scatter matrices: read from what a user gives, and turned."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omt_expfam.extend import ArrayLike, as_floating, check_positive, check_shape, is_traced, to_jax


def as_factor(
    family: str, center: str, loc: Float[Array, "K d"], name: str, matrix: ArrayLike | None, tril: ArrayLike | None
) -> Float[Array, "K d d"]:
    """Lower Cholesky factors, of matrices or as they are.

    Args:
        family: The name of the family.
        center: What it calls ``loc``.
        loc: Locations, which the factors must fit.
        name: What the family calls the matrices.
        matrix: Symmetric positive definite matrices, shape ``[K, d, d]``, or ``None``.
        tril: Their factors instead, the argument ``scale_tril``.

    Raises:
        TypeError: If not exactly one of both is given.
        ValueError: If a shape does not fit, or a matrix is not symmetric positive definite.
    """
    if (matrix is None) == (tril is None):
        raise TypeError(f"{family} takes exactly one of `{name}` and `scale_tril`.")
    given, value = (name, matrix) if tril is None else ("scale_tril", tril)
    assert value is not None
    array = as_floating(given, value, "K d d", loc.dtype)
    check_shape(given, array, (*loc.shape, loc.shape[1]), f"`{center}`")
    if tril is not None:
        _check_triangular(array)
        return array
    _check_symmetric(name, array)
    return _cholesky(name, array)


def turned_factors(tril: Float[np.ndarray, "K d d"], order: Sequence[int]) -> Float[Array, "K d d"]:
    """The rows of the factors in that order, made triangular again."""
    triangle = np.swapaxes(np.linalg.qr(np.swapaxes(tril[:, order], 1, 2), mode="r"), 1, 2)
    return jax.device_put(triangle * np.sign(np.einsum("kii->ki", triangle))[:, None, :])


def _check_symmetric(name: str, matrix: Array) -> None:
    if is_traced(matrix):
        return
    host = np.asarray(matrix)
    gap = np.abs(host - np.swapaxes(host, 1, 2)).max(axis=(1, 2), initial=0.0)
    size = np.abs(host).max(axis=(1, 2), initial=0.0)
    bad = np.flatnonzero(gap > 1e-4 * size)
    if bad.size:
        raise ValueError(f"`{name}` must be symmetric; component {bad[0]} differs by {gap[bad[0]]:.3g}.")


def _check_triangular(factor: Array) -> None:
    if is_traced(factor):
        return
    host = np.asarray(factor)
    if np.triu(host, 1).any():
        raise ValueError("`scale_tril` must be lower triangular: zero above the diagonal.")
    check_positive("the diagonal of scale_tril", np.diagonal(host, axis1=1, axis2=2))


def _cholesky(name: str, matrix: Array) -> Array:
    """Lower Cholesky factors; on the host, in float64, where the matrices are concrete."""
    if is_traced(matrix):
        return jnp.linalg.cholesky(0.5 * (matrix + jnp.swapaxes(matrix, 1, 2)))
    host = np.asarray(matrix, np.float64)
    host = 0.5 * (host + np.swapaxes(host, 1, 2))
    try:
        return to_jax(np.linalg.cholesky(host), matrix.dtype)
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(host)[:, 0]
        raise ValueError(
            f"`{name}` must be positive definite; component {least.argmin()} has smallest eigenvalue {least.min():.3g}."
        ) from None
