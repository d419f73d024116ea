"""Sinkhorn divergences of many samples to one: what they share is solved once, and each starts where the last ended."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .. import metrics
from .._base.buckets import pad, point_bucket
from .._base.xla import program

# Steps of one solve, after which the log-domain solver takes over; between looks at the marginals.
_MOST, _LOOK = 500, 5
# Exponent of over-relaxed steps, which settle in far fewer (Thibault et al., 2021).
_OVER = 1.8
# L1 error of the marginals: leaves about 1e-4 of a divergence, far below what another split of the points changes.
_TOLERANCE = 1e-3


class Judge:
    """Measures how far samples are from one target: `metrics.sinkhorn_divergence` in a tenth of the time, to 1e-3.

    Where costs are not many times the regularization, products of matrices take the place of logarithms of sums:
    kernels are scaled to a largest entry of one in each row and column, and what then leaves the range of the type, or
    does not settle, is left to the general solver.

    Args:
        y: The target's points, shape ``[m, d]``.
        epsilon: Regularization, units of squared distance.
    """

    def __init__(self, y: np.ndarray, epsilon: float):
        self._y, self._epsilon = y, epsilon
        self._start: Any = None
        self._within: Any = None

    def __call__(self, x: Any) -> float:
        """The divergence of points ``x[n, d]`` from the target, units of squared distance."""
        x = np.asarray(x)
        y = self._y.astype(x.dtype)
        # Of the order of one: squares stay within the range of the type.
        unit = np.sqrt(self._epsilon).astype(x.dtype)
        sides = [_centered(points / unit) for points in (x, y)]
        (middle, own, many), (other, theirs, others) = sides
        if self._within is None:
            self._within = _within(theirs, others)
            self._start = np.zeros(len(theirs), x.dtype)
        within = _within(own, many)
        between = _between(own, theirs, many, others, self._start)
        values, errors = zip(*((float(one[0]), float(one[1])) for one in (between, within, self._within)), strict=True)
        if not (np.isfinite(values).all() and max(errors) <= _TOLERANCE):
            return float(metrics.sinkhorn_divergence(x, y, self._epsilon))
        self._start = between[2]
        shift = np.sum((middle - other).astype(np.float64) ** 2)
        return self._epsilon * float(shift + values[0] - 0.5 * (values[1] + values[2]))


def _centered(points: np.ndarray) -> tuple[Any, Any, Any]:
    """The mean, the points about it, padded to a common number, and how many there are."""
    middle = points.mean(axis=0)
    return middle, pad(points - middle, point_bucket(len(points))), np.asarray(len(points), np.int32)


def _shares(here: Bool[Array, " n"], x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Equal weights of the points that count."""
    counted = here.astype(x.dtype)
    return counted / jnp.sum(counted)


def _kernel(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    start: Float[Array, " m"],
    here: Bool[Array, " n"],
    there: Bool[Array, " m"],
) -> tuple[Array, Array, Array]:
    """The kernel about potentials that bound the cost from below and touch it in each row and column."""
    squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    cost = jnp.maximum(squares - 2 * jnp.matmul(x, y.T, precision="highest"), 0)
    f = jnp.min(jnp.where(there, cost - start[None], jnp.inf), axis=1)
    g = jnp.min(jnp.where(here[:, None], cost - f[:, None], jnp.inf), axis=0)
    kernel = jnp.where(here[:, None] & there[None], jnp.exp(f[:, None] + g[None] - cost), 0)
    return kernel, f, g


@program
def _between(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    num: Int[Array, ""],
    others: Int[Array, ""],
    start: Float[Array, " m"],
) -> tuple[Array, Array, Array]:
    """Value, L1 error of the marginals, and target potential of transport at a regularization of one."""
    here, there = jnp.arange(len(x), dtype=num.dtype) < num, jnp.arange(len(y), dtype=num.dtype) < others
    a, b = _shares(here, x), _shares(there, x)
    kernel, f, g = _kernel(x, y, start, here, there)

    def sweep(scales: tuple[Array, Array], power: Any) -> tuple[Array, Array]:
        u, v = scales
        u = u ** (1 - power) * jnp.where(here, 1 / (kernel @ (b * v)), 1) ** power
        v = v ** (1 - power) * jnp.where(there, 1 / ((a * u) @ kernel), 1) ** power
        return u, v

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        u, v, _, count = state
        power = jnp.where(count < 2 * _LOOK, 1.0, _OVER).astype(x.dtype)
        u, v = jax.lax.fori_loop(0, _LOOK, lambda _, scales: sweep(scales, power), (u, v))
        rows, columns = a * u * (kernel @ (b * v)), b * v * ((a * u) @ kernel)
        error = jnp.sum(jnp.abs(rows - a)) + jnp.sum(jnp.abs(columns - b))
        return u, v, error, count + _LOOK

    def unsettled(state: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        return (state[2] > _TOLERANCE) & (state[3] < _MOST)

    first = jnp.ones_like(a), jnp.ones_like(b), jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0)
    u, v, error, _ = jax.lax.while_loop(unsettled, step, first)
    f, g = jnp.where(here, f + jnp.log(u), 0), jnp.where(there, g + jnp.log(v), 0)
    return a @ f + b @ g, error, g


@program
def _within(x: Float[Array, "n d"], num: Int[Array, ""]) -> tuple[Array, Array]:
    """Value and L1 error of transport of a sample to itself, by averaged steps (Feydy et al., 2019, eq. 25)."""
    here = jnp.arange(len(x), dtype=num.dtype) < num
    a = _shares(here, x)
    squares = jnp.sum(x**2, axis=1)
    cost = jnp.maximum(squares[:, None] + squares[None] - 2 * jnp.matmul(x, x.T, precision="highest"), 0)
    kernel = jnp.where(here[:, None] & here[None], jnp.exp(-cost), 0)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        u, _, count = state
        mass = kernel @ (a * u)
        error = 2 * jnp.sum(jnp.abs(a * u * mass - a))
        return jnp.where(here, jnp.sqrt(u / jnp.where(here, mass, 1)), 1), error, count + 1

    def unsettled(state: tuple[Array, Array, Array]) -> Bool[Array, ""]:
        return (state[1] > _TOLERANCE) & (state[2] < _MOST)

    first = jnp.ones_like(a), jnp.asarray(jnp.inf, x.dtype), jnp.asarray(0)
    u, error, _ = jax.lax.while_loop(unsettled, step, first)
    return 2 * a @ jnp.where(here, jnp.log(u), 0), error
