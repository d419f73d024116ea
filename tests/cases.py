"""Named components and mixtures with what an independent library says of them."""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.integrate
import scipy.stats

from families._gaussian_base import AbstractGaussian
from omt_expfam import Mixture
from omt_expfam.families import (
    AsymmetricLaplace,
    Beta,
    Binomial,
    Categorical,
    DiagonalGaussian,
    DiagonalStudentT,
    Exponential,
    ExponentialPower,
    Gamma,
    Gaussian,
    Laplace,
    LogNormal,
    LowRankGaussian,
    NegativeBinomial,
    Poisson,
    SphericalGaussian,
    StudentT,
    VonMises,
)

NUM, DIM = 4, 3


def covariances(rng, num=NUM, dim=DIM, condition=30.0):
    """Random covariance matrices with eigenvalues spread over ``condition``."""
    basis = np.linalg.qr(rng.standard_normal((num, dim, dim)))[0]
    values = condition ** rng.uniform(-0.5, 0.5, (num, dim))
    return np.einsum("kij,kj,klj->kil", basis, values, basis)


def normal_points(rng, num, dim):
    """Points anywhere."""
    return 2 * rng.standard_normal((num, dim))


def positive_points(rng, num, dim):
    """Positive numbers."""
    return np.exp(rng.standard_normal((num, dim)))


def unit_points(rng, num, dim):
    """Numbers between 0 and 1."""
    return rng.uniform(0.02, 0.98, (num, dim))


def count_points(rng, num, dim):
    """Small whole numbers."""
    return rng.integers(0, 7, (num, dim)).astype(float)


def category_points(rng, num, dim):
    """Categories from 0 to 2."""
    return rng.integers(0, 3, (num, dim)).astype(float)


def angle_points(rng, num, dim):
    """Angles, some beyond one turn."""
    return rng.uniform(-4, 4, (num, dim))


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, a way to draw K components of it, their moments by NumPy, and where to evaluate densities."""

    family: type
    draw: Callable
    moments: Callable
    marginals: Callable | None = None
    points: Callable = normal_points
    fixed: dict = dataclasses.field(default_factory=dict)

    def oracle(self, arguments, index):
        """One component as a SciPy distribution: Gaussian, t, or a product of ``marginals`` with parameters [K, d]."""
        if self.family in (StudentT, DiagonalStudentT):
            loc, scatter, df = (a[index] for a in arguments)
            return scipy.stats.multivariate_t(loc, scatter if scatter.ndim == 2 else np.diag(scatter), df)
        if self.marginals is not None:
            return Product(self.marginals(arguments), index)
        mean, covariance = self.moments(arguments)
        return scipy.stats.multivariate_normal(mean[index], covariance[index])


@dataclasses.dataclass(frozen=True)
class Product:
    """One component with independent coordinates, each a law of SciPy's."""

    laws: object
    index: int

    def logpdf(self, x):
        own = getattr(self.laws, "logpdf", None) or self.laws.logpmf
        return own(x[:, None, :]).sum(axis=2)[:, self.index]

    def entropy(self):
        return self.laws.entropy().sum(axis=1)[self.index]


def factorized(family, draw, marginals, points=normal_points, fixed=None):
    """A case with independent coordinates: ``marginals`` makes a SciPy law with parameters ``[K, d]`` of arguments."""

    def moments(arguments):
        law = marginals(arguments)
        return law.mean(), np.einsum("kd,de->kde", law.var(), np.eye(arguments[0].shape[1]))

    return Case(family, draw, moments, marginals, points, fixed or {})


class TwoHalves:
    """Two halves of generalized normal laws, back to back at ``loc``, with equal densities there.

    SciPy knows such a half under two names: one has the density, the other closed moments.
    """

    def __init__(self, loc, scale_left, scale_right, power_left, power_right):
        scales, powers = (scale_left, scale_right), (power_left, power_right)
        self.loc = loc
        self.densities = [scipy.stats.halfgennorm(p, 0, s) for s, p in zip(scales, powers, strict=True)]
        self.sides = [scipy.stats.gengamma(1 / p, p, 0, s) for s, p in zip(scales, powers, strict=True)]
        below, above = (1 / side.pdf(0) for side in self.densities)
        self.shares = below / (below + above), above / (below + above)

    def logpdf(self, x):
        z = x - self.loc
        left, right = (side.logpdf(np.abs(z)) for side in self.densities)
        return np.where(z < 0, np.log(self.shares[0]) + left, np.log(self.shares[1]) + right)

    def mean(self):
        down, up = (share * side.mean() for share, side in zip(self.shares, self.sides, strict=True))
        return self.loc + up - down

    def var(self):
        pairs = zip(self.shares, self.sides, strict=True)
        return sum(share * (side.var() + side.mean() ** 2) for share, side in pairs) - (self.mean() - self.loc) ** 2

    def entropy(self):
        return sum(p * (side.entropy() - np.log(p)) for p, side in zip(self.shares, self.sides, strict=True))

    def cdf(self, x):
        z = x - self.loc
        left, right = self.sides
        return np.where(z < 0, self.shares[0] * left.sf(-z), self.shares[0] + self.shares[1] * right.cdf(z))


def arc_moments(arguments):
    """Mean directions, and mean squared arcs by trapezoidal sums from one antipode to the other."""
    loc, concentration = (np.asarray(a, float)[..., None] for a in arguments)
    arc = np.linspace(-np.pi, np.pi, 20001)
    density = np.exp(concentration * (np.cos(arc) - 1))
    variance = scipy.integrate.simpson(density * arc**2) / scipy.integrate.simpson(density)
    return loc[..., 0], np.einsum("kd,de->kde", variance, np.eye(loc.shape[1]))


class Choices:
    """Independent categories with probabilities ``[K, d, C]``, by looking them up."""

    def __init__(self, probability):
        self.probability = np.asarray(probability, float)

    def logpmf(self, x):
        table = np.broadcast_to(np.log(self.probability), (len(x), *self.probability.shape))
        index = np.broadcast_to(x, table.shape[:-1]).astype(int)
        return np.take_along_axis(table, index[..., None], axis=-1)[..., 0]

    def entropy(self):
        return scipy.stats.entropy(self.probability, axis=2)


def most_likely(arguments):
    """The most likely categories, and the probabilities of all others."""
    largest = np.asarray(arguments[0]).max(axis=2)
    return np.argmax(arguments[0], axis=2), np.einsum("kd,de->kde", 1 - largest, np.eye(largest.shape[1]))


def _mean(rng, num, dim):
    return 2 * rng.standard_normal((num, dim))


def _inflated(arguments):
    """Mean and covariance of Student-t laws."""
    loc, scatter, df = arguments
    scatter = scatter if scatter.ndim == 3 else np.einsum("kd,de->kde", scatter, np.eye(scatter.shape[1]))
    return loc, (df / (df - 2))[:, None, None] * scatter


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
    "Laplace": factorized(
        Laplace,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), rng.uniform(0.4, 2, (num, dim))),
        lambda a: scipy.stats.laplace(*a),
    ),
    "AsymmetricLaplace": factorized(
        AsymmetricLaplace,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), *rng.uniform(0.4, 2, (2, num, dim))),
        lambda a: scipy.stats.laplace_asymmetric(np.sqrt(a[1] / a[2]), a[0], np.sqrt(a[1] * a[2])),
    ),
    "Exponential": factorized(
        Exponential,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), rng.uniform(0.5, 2, (num, dim))),
        lambda a: scipy.stats.expon(a[0], 1 / a[1]),
    ),
    "ExponentialPower": factorized(
        ExponentialPower,
        lambda rng, num=NUM, dim=DIM: (
            _mean(rng, num, dim),
            *rng.uniform(0.4, 2, (2, num, dim)),
            *rng.uniform(0.8, 3, (2, num, dim)),
        ),
        lambda a: TwoHalves(*a),
    ),
    "Gamma": factorized(
        Gamma,
        lambda rng, num=NUM, dim=DIM: (rng.uniform(0.6, 8, (num, dim)), rng.uniform(0.5, 4, (num, dim))),
        lambda a: scipy.stats.gamma(a[0], scale=1 / a[1]),
        positive_points,
    ),
    "LogNormal": factorized(
        LogNormal,
        lambda rng, num=NUM, dim=DIM: (rng.uniform(-1, 1, (num, dim)), rng.uniform(0.2, 0.6, (num, dim))),
        lambda a: scipy.stats.lognorm(a[1], scale=np.exp(a[0])),
        positive_points,
    ),
    "Beta": factorized(
        Beta,
        lambda rng, num=NUM, dim=DIM: tuple(rng.uniform(0.6, 8, (2, num, dim))),
        lambda a: scipy.stats.beta(*a),
        unit_points,
    ),
    "Poisson": factorized(
        Poisson,
        lambda rng, num=NUM, dim=DIM: (rng.uniform(0.3, 6, (num, dim)),),
        lambda a: scipy.stats.poisson(a[0]),
        count_points,
    ),
    "Binomial": factorized(
        Binomial,
        lambda rng, num=NUM, dim=DIM: (rng.uniform(0.1, 0.9, (num, dim)),),
        lambda a: scipy.stats.binom(6, a[0]),
        count_points,
        {"total_count": 6},
    ),
    "NegativeBinomial": factorized(
        NegativeBinomial,
        lambda rng, num=NUM, dim=DIM: (rng.uniform(0.5, 6, (num, dim)), rng.uniform(0.5, 5, (num, dim))),
        lambda a: scipy.stats.nbinom(a[1], a[1] / (a[0] + a[1])),
        count_points,
    ),
    "StudentT": Case(
        StudentT,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), covariances(rng, num, dim), rng.uniform(5, 9, num)),
        _inflated,
    ),
    "DiagonalStudentT": Case(
        DiagonalStudentT,
        lambda rng, num=NUM, dim=DIM: (_mean(rng, num, dim), rng.uniform(0.2, 4, (num, dim)), rng.uniform(5, 9, num)),
        _inflated,
    ),
    "VonMises": Case(
        VonMises,
        # So far from the antipode that what is wrapped does not show in means of draws.
        lambda rng, num=NUM, dim=DIM: (rng.uniform(-0.6, 0.6, (num, dim)), rng.uniform(6, 12, (num, dim))),
        arc_moments,
        lambda a: scipy.stats.vonmises(a[1], a[0]),
        angle_points,
    ),
    "Categorical": Case(
        Categorical,
        lambda rng, num=NUM, dim=DIM: (rng.dirichlet(np.full(3, 4.0), (num, dim)),),
        most_likely,
        lambda a: Choices(a[0]),
        category_points,
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

# Those that are transported in closed form.
GAUSSIANS = [name for name, case in CASES.items() if issubclass(case.family, AbstractGaussian)]


def components(name, seed, dtype="float64", num=NUM, dim=DIM):
    """Components of a family, with the arguments that they were built from."""
    case = CASES[name]
    arguments = tuple(a.astype(dtype) for a in case.draw(np.random.default_rng(seed), num, dim))
    return case.family(*arguments, **case.fixed), arguments


def mixture(name, seed, dtype="float64", num=NUM, dim=DIM):
    """A mixture of a family with random weights."""
    weights = np.random.default_rng(seed + 1000).dirichlet(np.full(num, 3.0))
    return Mixture(weights.astype(dtype), components(name, seed, dtype, num, dim)[0])
