"""Named components and mixtures with what an independent library says of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.stats

from omt_expfam import Mixture
from omt_expfam.families import DiagonalGaussian, Gaussian, LowRankGaussian, SphericalGaussian

NUM, DIM = 4, 3


def covariances(rng, num=NUM, dim=DIM, condition=30.0):
    """Random covariance matrices with eigenvalues spread over ``condition``."""
    basis = np.linalg.qr(rng.standard_normal((num, dim, dim)))[0]
    values = condition ** rng.uniform(-0.5, 0.5, (num, dim))
    return np.einsum("kij,kj,klj->kil", basis, values, basis)


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, a way to draw K components of it, and their moments by NumPy."""

    family: type
    draw: Callable
    moments: Callable

    def oracle(self, arguments, index):
        """One component as a SciPy distribution."""
        mean, covariance = self.moments(arguments)
        return scipy.stats.multivariate_normal(mean[index], covariance[index])


def _mean(rng, num, dim):
    return 2 * rng.standard_normal((num, dim))


def _low_rank(rng, num=NUM, dim=DIM):
    return _mean(rng, num, dim), rng.standard_normal((num, dim, 2)), rng.uniform(0.2, 2, (num, dim))


CASES = {
    "Gaussian": Case(
        Gaussian,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), covariances(rng, num, dim)),
        lambda a: a,
    ),
    "DiagonalGaussian": Case(
        DiagonalGaussian,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), rng.uniform(0.2, 4, (num, dim))),
        lambda a: (a[0], np.einsum("kd,de->kde", a[1], np.eye(a[1].shape[1]))),
    ),
    "SphericalGaussian": Case(
        SphericalGaussian,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), rng.uniform(0.2, 4, num)),
        lambda a: (a[0], np.einsum("k,de->kde", a[1], np.eye(a[0].shape[1]))),
    ),
    "LowRankGaussian": Case(
        LowRankGaussian,
        _low_rank,
        lambda a: (
            a[0],
            np.einsum("kdr,ker->kde", a[1], a[1]) + np.einsum("kd,de->kde", a[2], np.eye(a[2].shape[1])),
        ),
    ),
}


def components(name, seed, dtype="float64", num=NUM, dim=DIM):
    """Components of a family, with the arguments that they were built from."""
    case = CASES[name]
    arguments = tuple(a.astype(dtype) for a in case.draw(np.random.default_rng(seed), num, dim))
    return case.family(*arguments), arguments


def mixture(name, seed, dtype="float64", num=NUM, dim=DIM):
    """A mixture of a family with random weights."""
    weights = np.random.default_rng(seed + 1000).dirichlet(np.full(num, 3.0))
    return Mixture(weights.astype(dtype), components(name, seed, dtype, num, dim)[0])
