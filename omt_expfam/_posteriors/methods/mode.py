"""The mode of a posterior density, and its curvature there."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from ..._base.xla import program
from ..._numerics.minimize import minimize
from ..distribution import log_density
from .target import Target

# A mode is found when a Newton step would lower the potential by less than this, in nats: 0.01 posterior deviations.
# Where densities have kinks the gradient jumps at every data point, and this is all that can be asked for.
_DECREMENT, _KINKED_DECREMENT = 1e-4, 0.5
_ROUNDS = 6
# Curvatures below this share of the largest do not define a scale.
_FLAT = 1e-10


class Mode(NamedTuple):
    """The mode of a target and the curvature there.

    Attributes:
        center: Unconstrained numbers, shape ``[p]``.
        factor: A matrix L with ``L @ L.T`` the inverse curvature, shape ``[p, p]``.
        decrement: What a further Newton step would gain, in nats.
        definite: Whether the curvature is positive definite, so that the point is a proper maximum of the density.
        found: Whether it is, and the decrement is small.
    """

    center: Float[Array, " p"]
    factor: Float[Array, "p p"]
    decrement: float
    definite: bool
    found: bool


@program
def value_and_grad(
    target: Target, center: Float[Array, " p"], factor: Float[Array, "p p"], z: Float[Any, " p"]
) -> tuple[Float[Array, ""], Float[Array, " p"]]:
    """The potential about a point in units of a matrix, and its gradient in these units."""
    return jax.value_and_grad(lambda v: target.potential(center + factor @ v))(z)


@program
def _expand(target: Target, u: Float[Array, " p"]) -> tuple[Float[Array, " p"], Float[Array, "p p"]]:
    """The gradient, and products of the curvature with unit vectors, which bring the gradient along."""
    gradient = jax.grad(target.potential)

    def column(_: Array, v: Float[Array, " p"]) -> tuple[Array, Array]:
        return jax.jvp(gradient, (u,), (v,))

    # One product at a time: it is no slower than several, and jaxlib 0.10.2 can deadlock on batches of them.
    return jax.lax.scan(column, jnp.zeros_like(u), jnp.eye(u.shape[0], dtype=u.dtype))


def hessian(target: Target, u: Float[Array, " p"]) -> Float[np.ndarray, "p p"]:
    """The curvature of the potential."""
    return expand(target, u, kinked=False)[1]


def curvature_factor(matrix: np.ndarray) -> tuple[np.ndarray, bool]:
    """A factor L of the inverse of a curvature and whether that is definite; if not, of its absolute value's."""
    if not np.isfinite(matrix).all():
        return np.eye(len(matrix)), False
    if (np.diagonal(matrix) > 0).all():
        unit = 1 / np.sqrt(np.diagonal(matrix))
        scaled = matrix * unit[:, None] * unit
        # Rounding may make a flat direction rise a little: that is no curvature.
        if np.linalg.eigvalsh(scaled)[0] > _FLAT:
            lower = np.linalg.cholesky(scaled)
            return unit[:, None] * scipy.linalg.solve_triangular(lower, np.eye(len(matrix)), lower=True).T, True
    values, vectors = np.linalg.eigh(matrix)
    size = np.abs(values)
    return vectors / np.sqrt(np.maximum(size, _FLAT * max(size.max(), 1e-300))), False


@program
def _score_products(target: Target, u: Float[Array, " p"]) -> Float[Array, "p p"]:
    """The sum over points of outer products of their scores, the gradients of their log-likelihoods."""

    def score(point: Float[Array, " d"]) -> Float[Array, " p"]:
        return jax.grad(lambda v: log_density(target.model.mixture(target.constrain(v)), point[None])[0])(u)

    points, mask = target.args
    scores = jax.lax.map(score, points, batch_size=256)
    scores = jnp.where(mask[:, None], scores, jnp.zeros_like(scores))
    return scores.T @ scores


def expand(
    target: Target, u: Float[Array, " p"], kinked: bool
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, "p p"]]:
    """Gradient and curvature of a potential; with kinks, outer products of scores are the likelihood's curvature.

    Second derivatives miss what a kink adds; both have the same expectation under the model.
    """
    if kinked:
        prior = dataclasses.replace(target, args=(None, None))
        gradient = np.asarray(value_and_grad(target, u, *jax.device_put((np.eye(u.size), np.zeros(u.size))))[1])
        matrix = np.asarray(_expand(prior, u)[1]) + np.asarray(_score_products(target, u))
    else:
        gradient, matrix = (np.asarray(v) for v in _expand(target, u))
    return gradient, 0.5 * (matrix + matrix.T)


def find_mode(target: Target, start: Float[Array, " p"], kinked: bool = False) -> Mode:
    """The mode near ``start``: L-BFGS in coordinates whitened by the curvature, which is measured anew each round.

    Args:
        target: The density; where ``kinked``, that of a `MixtureModel` of points and a mask.
        start: Unconstrained numbers, shape ``[p]``.
        kinked: Whether log-densities have kinks in the parameters.
    """
    center, enough = np.asarray(start, np.float64), _KINKED_DECREMENT if kinked else _DECREMENT
    factor, decrement, definite = _measure(target, center, kinked)
    for attempt in range(_ROUNDS):
        if definite and decrement < enough and (attempt or not kinked):
            break
        step = _descend(target, center, factor)
        if step is None:
            break
        center = center + step
        factor, decrement, definite = _measure(target, center, kinked)
    found = bool(definite and decrement < enough)
    return Mode(jax.device_put(center), jax.device_put(factor), decrement, definite, found)


def _measure(target: Target, center: np.ndarray, kinked: bool) -> tuple[np.ndarray, float, bool]:
    """A factor of the inverse curvature, what a Newton step would gain in nats, and whether the point is a maximum."""
    gradient, matrix = expand(target, jax.device_put(center), kinked)
    factor, definite = curvature_factor(matrix)
    return factor, 0.5 * float(np.sum((factor.T @ gradient) ** 2)), definite


def _descend(target: Target, center: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
    """A step that lowers the potential, by L-BFGS in whitened coordinates; None where it is not finite."""
    origin, shape = jax.device_put((center, factor))
    found = minimize(lambda z: value_and_grad(target, origin, shape, z), np.zeros(len(center)), maxiter=50, gtol=1e-3)
    return factor @ found.x if np.isfinite(found.fun) else None
