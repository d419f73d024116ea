"""Costs of Gaussian pairs whose cross-covariances are given, as in iterations that start elsewhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.xla import program
from .._components.covariance import to_dense
from .._components.interface import AbstractComponents
from .gaussian_blocks import form_of


def cross_covariance_terms(
    source: AbstractComponents, target: AbstractComponents, cross: Float[Array, "K0 K1 d d"]
) -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
    """Tr C and KL of Gaussian couplings with given cross-covariances C; NaN where a joint is not definite.

    Raises:
        TypeError: If a family has no Gaussian form.
    """
    for components in (source, target):
        if components.gaussian_form() is None:
            raise TypeError(f"Cross-covariances describe couplings of Gaussians; got {type(components).__name__}.")
    return _cross_terms(to_dense(form_of(source)).tril, to_dense(form_of(target)).tril, cross)


@program
def _cross_terms(roots: Float[Array, "K0 d d"], other: Float[Array, "K1 d d"], cross: Array) -> tuple[Array, Array]:
    def one(left: Array, right: Array, c: Array) -> tuple[Array, Array]:
        half = jax.scipy.linalg.solve_triangular(left, c, lower=True)
        correlation = jax.scipy.linalg.solve_triangular(right, half.T, lower=True)
        gap = jnp.eye(c.shape[0], dtype=c.dtype) - correlation @ correlation.T
        return jnp.trace(c), -jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(gap))))

    def row(item: tuple[Array, Array]) -> tuple[Array, Array]:
        left, blocks = item
        return jax.vmap(lambda right, c: one(left, right, c))(other, blocks)

    return jax.lax.map(row, (roots, cross))
