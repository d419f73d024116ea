"""Sinkhorn divergences of many samples to one: what they share is solved once, and each starts where the last ended."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32, Float64

from .. import metrics
from .._components.columns import has_angles, has_categories
from .._family.template import as_template

# Steps of one solve, after which the log-domain solver takes over.
_MOST = 500
# Steps that the next one is extrapolated from (Anderson, 1965), half as many as over-relaxed ones in the end; and how
# far: masses that hardly touch change by exponentials of potentials, of which the last steps know little.
_MEMORY, _REACH = 5, 1.0
# L1 error of the marginals: leaves about 1e-4 of a divergence, far below what another split of the points changes.
_TOLERANCE = 1e-3


class Judge:
    """Measures how far samples are from one target: `metrics.sinkhorn_divergence` in a twentieth of the time, to 1e-3.

    Where costs are not many times the regularization, products of matrices take the place of logarithms of sums:
    kernels are scaled to a largest entry of one in each row and column, and what then leaves the range of float32, or
    does not settle, is left to the general solver. So few points are compared on the host, where nothing is compiled.

    Args:
        y: The target's points, shape ``[m, d]``.
        epsilon: Regularization, units of squared distance.
    """

    def __init__(self, y: np.ndarray, epsilon: float):
        self._y, self._epsilon = y, epsilon
        self._middle, self._points = self._centered(y)
        with np.errstate(all="ignore"):
            self._own = _within(self._points)
        self._start = np.zeros(len(y), np.float32)

    def __call__(self, x: Any) -> float:
        """The divergence of points ``x[n, d]`` from the target, units of squared distance."""
        x = np.asarray(x)
        middle, points = self._centered(x)
        with np.errstate(all="ignore"):
            within = _within(points)
            *between, potential = _between(points, self._points, self._start)
        values, errors = zip(between, within, self._own, strict=True)
        if not (np.isfinite(values).all() and max(errors) <= _TOLERANCE):
            return float(metrics.sinkhorn_divergence(x, self._y.astype(x.dtype), self._epsilon))
        self._start = potential
        shift = np.sum((middle - self._middle) ** 2)
        return self._epsilon * float(shift + values[0] - 0.5 * (values[1] + values[2]))

    def _centered(self, points: np.ndarray) -> tuple[np.ndarray, Float32[np.ndarray, "n d"]]:
        """The mean, and the points about it, in units in which the regularization is one."""
        scaled = points.astype(np.float64) / np.sqrt(self._epsilon)
        middle = scaled.mean(axis=0)
        return middle, (scaled - middle).astype(np.float32)


def sight_of(family: Any, points: np.ndarray) -> Callable[[Any], np.ndarray]:
    """How points like these are compared: cosines and sines in place of angles, indicators in place of categories."""
    blank: Any = jax.eval_shape(lambda: as_template(family).blank(1, points.shape[1], points.dtype))
    parts = blank.column_parts()

    def seen(values: Any) -> np.ndarray:
        values = np.asarray(values)
        return np.concatenate([_as_numbers(part.components, values[:, part.columns]) for part in parts], axis=1)

    return seen


def _as_numbers(components: Any, values: np.ndarray) -> np.ndarray:
    if has_angles(components):
        return np.concatenate([np.cos(values), np.sin(values)], axis=1)
    if has_categories(components):
        # Half the squared distance of indicators is one between different categories.
        indicators = values[:, :, None] == np.arange(components.num_categories)
        return indicators.reshape(len(values), -1) / np.sqrt(2)
    return values


def _proximity(x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, "m d"]) -> Float32[np.ndarray, "n m"]:
    """Squared distances, times -1."""
    table = x @ (2 * y.T)
    table -= np.sum(x**2, axis=1)[:, None]
    table -= np.sum(y**2, axis=1)
    return np.minimum(table, 0, out=table)


def _between(
    x: Float32[np.ndarray, "n d"], y: Float32[np.ndarray, "m d"], start: Float32[np.ndarray, " m"]
) -> tuple[float, float, Float32[np.ndarray, " m"]]:
    """Value, L1 error of the marginals, and target potential of transport at a regularization of one."""
    # Potentials that bound the cost from below and touch it in each row and column.
    table = _proximity(x, y)
    table += start
    f = -table.max(axis=1)
    table += f[:, None]
    g = -table.max(axis=0)
    table += g
    kernel = np.exp(table, out=table)
    u, potential, error = np.ones_like(f), np.zeros(len(y)), np.inf
    images: list[np.ndarray] = []
    moves: list[np.ndarray] = []
    for _ in range(_MOST):
        u = len(y) / (kernel @ np.exp(potential.astype(np.float32)))
        images.append(-np.log(u @ kernel / len(x)).astype(np.float64))
        moves.append(images[-1] - potential)
        error = np.mean(np.abs(np.expm1(-moves[-1])))
        if not (error > _TOLERANCE and np.isfinite(moves[-1]).all()):
            break
        potential = _extrapolated(images[-_MEMORY:], moves[-_MEMORY:])
    f, g = f + np.log(u), start + g + potential.astype(np.float32)
    return float(f.mean(dtype=np.float64) + g.mean(dtype=np.float64)), float(error), g


def _extrapolated(images: list[np.ndarray], moves: list[np.ndarray]) -> Float64[np.ndarray, " m"]:
    """On from the last image, towards where the last steps would lead if they were linear."""
    if len(moves) == 1:
        return images[-1]
    changes = np.diff(moves, axis=0)
    shares = np.linalg.lstsq(changes @ changes.T, changes @ moves[-1], rcond=1e-8)[0]
    way = shares @ np.diff(images, axis=0)
    return images[-1] - way * (_REACH / max(np.abs(way).max(), _REACH))


def _within(x: Float32[np.ndarray, "n d"]) -> tuple[float, float]:
    """Value and L1 error of transport of a sample to itself, by averaged steps (Feydy et al., 2019, eq. 25)."""
    table = _proximity(x, x)
    kernel = np.exp(table, out=table)
    u, error = np.ones(len(x), np.float32), np.inf
    for _ in range(_MOST):
        mass = kernel @ u / len(x)
        error = 2 * np.mean(np.abs(u * mass - 1))
        u = np.sqrt(u / mass)
        if error <= _TOLERANCE:
            break
    return float(2 * np.log(u).mean(dtype=np.float64)), float(error)
