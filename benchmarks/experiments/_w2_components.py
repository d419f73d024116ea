"""Where the error of a map between mixtures comes from, on the Wasserstein-2 benchmark."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from omt_expfam.families import Gaussian

EPSILONS = {"epsilon_components": 0.02, "epsilon_weights": 0.01}


def affine_features(shares: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every share times the coordinates and 1, shape ``[n, K0 (d + 1)]``."""
    affine = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return (shares[:, :, None] * affine[:, None]).reshape(len(x), -1)


def best_blend(shares: np.ndarray, x: np.ndarray, truth: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The map closest to the true images among the blends of affine maps, one a component, with these shares.

    The barycentric map of a plan between mixtures of normal laws is such a blend, with the responsibilities of the
    source components as shares: no coupling of these components can do better, on the points given here.
    """
    features = affine_features(shares, x)
    values, vectors = np.linalg.eigh(features.T @ features)
    # Components that lie on top of each other have the same features.
    vectors, values = vectors[:, values > 1e-6 * values[-1]], values[values > 1e-6 * values[-1]]
    maps = vectors @ ((vectors.T @ (features.T @ truth)) / values[:, None])
    return lambda shares, x: affine_features(shares, x) @ maps


def lost_variance(images: np.ndarray, target: np.ndarray) -> float:
    """Percent of the target's total variance that the images lack."""
    return 100 * (1 - float(images.var(axis=0).sum() / target.var(axis=0).sum()))


def over_components(data: Any, numbers: Sequence[int]) -> dict[str, Any]:
    """Over numbers of components of source (rows) and target: the error of the map, and the variance that it loses.

    For each number of source components also the error of `best_blend`.
    """
    keys = jax.random.split(jax.random.key(0))
    sources, targets = (
        [omt.fit(key, points, Gaussian, number, progress=False).mixture for number in numbers]
        for key, points in zip(keys, (data.x, data.y), strict=True)
    )
    found: dict[str, Any] = {"plan": [], "blend": [], "lost": []}
    for source in sources:
        plans = (omt.transport(source, target, progress=False, **EPSILONS) for target in targets)
        images = [_peers.images(plan, data.test) for plan in plans]
        found["plan"].append([float(omt.metrics.l2_uvp(each, data.truth)) for each in images])
        found["lost"].append([lost_variance(each, data.truth) for each in images])
        shares = [np.asarray(source.responsibilities(points), np.float64) for points in (data.x, data.test)]
        best = best_blend(shares[0], data.x.astype(np.float64), data.images_of_x)
        found["blend"].append(float(omt.metrics.l2_uvp(best(shares[1], data.test).astype(np.float32), data.truth)))
    return found


def over_points(draws: Sequence[Any], number: int) -> dict[str, list[float]]:
    """Errors of the map between as many components on both sides, over samples."""
    method = omt.diagnostics.MixtureTransport(Gaussian, number, **EPSILONS)
    plans = ((method(jax.random.key(0), data.x, data.y), data) for data in draws)
    return {"plan": [float(omt.metrics.l2_uvp(_peers.images(plan, data.test), data.truth)) for plan, data in plans]}
