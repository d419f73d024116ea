"""Integrals of one-dimensional densities, against SciPy, over many orders of location and scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from numpyro.distributions import constraints

from omt_expfam._numerics.quadrature import quadrature

PROBABILITIES = np.array([1e-12, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.999])

# Per law: the log-density without its constant, the support, SciPy's law, and parameters.
LAWS = {
    "normal": (
        lambda p, x: -0.5 * ((x - p[0]) / p[1]) ** 2,
        constraints.real,
        scipy.stats.norm,
        [(0, 1), (3, 1e-3), (1e6, 10), (-1e8, 1e5), (0, 1e-20), (1e-5, 1e10)],
    ),
    "gamma": (
        lambda p, x: (p[0] - 1) * jnp.log(x) - x / p[1],
        constraints.positive,
        lambda a, scale: scipy.stats.gamma(a, scale=scale),
        [(0.05, 1), (0.5, 1e-5), (1, 1), (3, 1e8), (100, 0.3), (1e4, 1)],
    ),
    "beta": (
        lambda p, x: (p[0] - 1) * jnp.log(x) + (p[1] - 1) * jnp.log1p(-x),
        constraints.open_interval(0.0, 1.0),
        scipy.stats.beta,
        [(1, 1), (0.3, 2), (50, 3), (1e3, 2e3)],
    ),
    "student": (
        lambda p, x: -0.5 * (p[0] + 1) * jnp.log1p((x - p[1]) ** 2 / p[0]),
        constraints.real,
        scipy.stats.t,
        [(5, 7), (20, -1e3)],
    ),
    "reflected": (
        lambda p, x: p[0] * (x - p[1]),
        constraints.less_than(2.0),
        lambda rate, end: Reflected(rate, end),
        [(0.1, 2), (30, 2)],
    ),
}


class Reflected:
    """An exponential law of numbers below an end."""

    def __init__(self, rate, end):
        self.law, self.end = scipy.stats.expon(0, 1 / rate), end

    def __getattr__(self, name):
        flipped = {"ppf": lambda p: self.end - self.law.isf(p), "logpdf": lambda x: self.law.logpdf(self.end - x)}
        same = {"mean": lambda: self.end - self.law.mean(), "median": lambda: self.end - self.law.median()}
        return {**flipped, **same}.get(name) or getattr(self.law, name)


@functools.cache
def solver(name):
    density, support, _, _ = LAWS[name]

    @jax.jit
    def solve(parameters):
        rule = quadrature(density, parameters, support)
        x = jax.vmap(lambda p: rule.quantile(density, parameters, p))(jnp.asarray(PROBABILITIES))
        back = jax.vmap(lambda v: rule.cdf(density, parameters, v))(x)
        return rule.log_normalizer, rule.mean(), rule.variance(), x, back

    return solve


@pytest.mark.parametrize("name", list(LAWS))
def test_integrals_are_scipys(name, x64):
    density, _, law, cases = LAWS[name]
    at = jax.jit(density)
    for case in cases:
        exact, parameters = law(*case), jnp.asarray(case, "float64")
        log_normalizer, mean, variance, x, back = (np.asarray(v) for v in solver(name)(parameters))
        middle = exact.median()
        assert abs(log_normalizer - (float(at(parameters, middle)) - exact.logpdf(middle))) < 1e-10, case
        assert abs(mean - exact.mean()) < 1e-9 * exact.std(), case
        np.testing.assert_allclose(variance, exact.var(), rtol=1e-9, err_msg=str(case))
        # A quantile is no more accurate than the numbers around it are dense.
        spacing = 20 * np.finfo(float).eps * np.abs(x) / exact.std()
        assert (np.abs(x - exact.ppf(PROBABILITIES)) / exact.std() < 1e-9 + spacing).all(), case
        np.testing.assert_allclose(back, PROBABILITIES, rtol=1e-8, err_msg=str(case))


def test_two_modes_and_derivatives_are_quads(x64):
    """A double well: the normalizer, and its gradient, the expected statistics."""

    def density(eta, x):
        return jnp.sum(eta * jnp.stack([x, x**2, x**4]))

    @jax.jit
    def solve(eta):
        return jax.value_and_grad(lambda e: quadrature(density, e, constraints.real).log_normalizer)(eta)

    for eta in ([0.3, 8.0, -2.0], [0.1, 60.0, -15.0], [0.5, -1.0, -1e-9]):
        value, gradient = solve(jnp.asarray(eta))

        def integrand(x, power, eta=eta, shift=float(value)):
            return x**power * np.exp(eta[0] * x + eta[1] * x**2 + eta[2] * x**4 - shift)

        moments = [
            scipy.integrate.quad(integrand, -10, 10, (k,), points=(-1.4, 1.4), epsabs=1e-12)[0] for k in (0, 1, 2, 4)
        ]
        np.testing.assert_allclose([1, *gradient], moments, rtol=1e-9, atol=1e-12)


def test_knots_and_what_cannot_be_normalized(x64):
    def kinked(p, x):
        return -p[0] * jnp.abs(x) - 0.5 * (x - 3) ** 2

    log_normalizer = jax.jit(lambda p: quadrature(kinked, p, constraints.real, (0.0,)).log_normalizer)
    density = lambda x: np.exp(-2 * np.abs(x) - 0.5 * (x - 3) ** 2)
    exact = sum(scipy.integrate.quad(density, *side)[0] for side in ((-20, 0), (0, 20)))
    np.testing.assert_allclose(np.exp(log_normalizer(jnp.asarray([2.0]))), exact, rtol=1e-12)
    endless = jax.jit(lambda p: quadrature(lambda p, x: -p[0] * x, p, constraints.positive).log_normalizer)
    for rate in (0.0, -1.0):
        assert np.isposinf(endless(jnp.asarray([rate])))


def test_single_precision_has_its_digits():
    density, _, law, _ = LAWS["gamma"]

    @jax.jit
    def solve(parameters):
        rule = quadrature(density, parameters, constraints.positive)
        return rule.log_normalizer, rule.mean(), rule.variance()

    found, exact = solve(jnp.asarray([3.0, 2.0], "float32")), law(3, 2)
    np.testing.assert_allclose(found, [scipy.special.gammaln(3) + 3 * np.log(2), exact.mean(), exact.var()], rtol=1e-5)
