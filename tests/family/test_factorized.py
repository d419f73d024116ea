"""Families defined by the law of one coordinate, against SciPy; what is not a density is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpyro.distributions import constraints

import omt_expfam as omt
from omt_expfam.families import Beta, Gamma, LogNormal
from tests.cases import components


class Weibull(omt.extend.AbstractFactorizedFamily):
    """Of shape 3: the density is 3 x^2 / s^3 exp(-(x / s)^3)."""

    support, start = constraints.positive, (-1.0,)
    standardization = "scale"

    def _statistics(self, x):
        return (x**3,)

    def _log_base(self, x):
        return 2 * jnp.log(x)

    def _log_normalizer(self, eta):
        return -jnp.log(-3 * eta[0])

    def _coordinate_affine(self, eta, shift, scale):
        return eta / scale**3


class InverseGaussian(omt.extend.AbstractFactorizedFamily):
    """eta = (-l / 2 m^2, -l / 2) for mean m and shape l."""

    support, start = constraints.positive, (-0.5, -0.5)

    def _statistics(self, x):
        return x, 1 / x

    def _log_base(self, x):
        return -1.5 * jnp.log(x)

    def _log_normalizer(self, eta):
        return -2 * jnp.sqrt(eta[0] * eta[1]) - 0.5 * jnp.log(-eta[1] / jnp.pi)


class VonMises(omt.extend.AbstractFactorizedFamily):
    """Angles; the log-partition is left to the library."""

    support, start = constraints.circular, (0.0, 0.0)

    def _statistics(self, x):
        return jnp.cos(x), jnp.sin(x)


NATURAL = {
    Weibull: np.array([[[-1.0], [-8.0]], [[-1e3], [-0.01]]]),
    InverseGaussian: -np.array([[[0.5, 0.5], [3.0, 0.2]], [[0.02, 8.0], [1.0, 1.0]]]),
    VonMises: np.array([[[2.0, 0.0], [0.0, 0.0]], [[0.5, -3.0], [-0.2, 0.1]]]),
}


def oracle(family, eta):
    """SciPy's laws with these natural parameters, one per component and coordinate."""
    if family is Weibull:
        return scipy.stats.weibull_min(3, scale=(-eta[..., 0]) ** (-1 / 3))
    if family is InverseGaussian:
        mean, shape = np.sqrt(eta[..., 1] / eta[..., 0]), -2 * eta[..., 1]
        return scipy.stats.invgauss(mean / shape, scale=shape)
    return None


def von_mises(eta):
    """Angles are not centered: SciPy's law is cut at the opposite of its mode, ours at pi."""
    return scipy.stats.vonmises(np.hypot(*eta), np.arctan2(eta[1], eta[0]))


FAMILIES = list(NATURAL)


def points(family, num=5):
    draws = np.random.default_rng(0).uniform(0.1, 2.9, (num, 2))
    return draws if family is not VonMises else draws - 1.5


@pytest.mark.parametrize("family", FAMILIES)
def test_density_is_scipys(family, dtype):
    eta = NATURAL[family].astype(dtype)
    parts, x = family(eta), points(family).astype(dtype)
    if family is VonMises:
        expected = np.stack([sum(von_mises(e).logpdf(v) for e, v in zip(c, x.T, strict=True)) for c in eta], axis=1)
    else:
        expected = oracle(family, eta.astype(float)).logpdf(x[:, None]).sum(axis=2)
    np.testing.assert_allclose(parts.log_prob(x), expected, rtol=2e-4 if dtype == "float32" else 1e-10)
    np.testing.assert_allclose(
        parts.to_numpyro().log_prob(x[:, None]), parts.log_prob(x), rtol=1e-5 if dtype == "float32" else 1e-12
    )


@pytest.mark.parametrize("family", [Weibull, InverseGaussian])
def test_moments_entropy_and_divergence_are_scipys(family, x64):
    parts, laws = family(NATURAL[family]), oracle(family, NATURAL[family])
    np.testing.assert_allclose(parts.mean(), laws.mean(), rtol=1e-10)
    np.testing.assert_allclose(jnp.diagonal(parts.covariance(), axis1=1, axis2=2), laws.var(), rtol=1e-10)
    # SciPy integrates the entropy of the inverse Gaussian law itself, to about eight digits.
    np.testing.assert_allclose(parts.entropy(), laws.entropy().sum(axis=1), rtol=1e-7)
    np.testing.assert_allclose(parts.kl_divergence(parts), np.zeros(2), atol=1e-12)
    again = parts.select([1, 0]).with_mean_parameters(parts.mean_parameters())
    np.testing.assert_allclose(again.natural, NATURAL[family], rtol=1e-7)


def test_draws_have_the_law_and_stay_inside():
    for family in FAMILIES:
        parts = family(NATURAL[family])
        draws = np.asarray(parts.sample(jax.random.key(0), 2000), np.float64)
        assert family.support(draws).all()
        for k, j in np.ndindex(2, 2):
            eta = NATURAL[family][k, j]
            law = von_mises(eta) if family is VonMises else oracle(family, eta)
            sample = draws[:, k, j]
            if family is VonMises:
                center = np.arctan2(eta[1], eta[0])
                sample = center + np.angle(np.exp(1j * (sample - center)))
            # Twelve tests with fixed keys.
            assert scipy.stats.kstest(sample, law.cdf).pvalue > 1e-3


@pytest.mark.loose
def test_numpyro_distribution_draws_and_has_moments(x64):
    parts = Weibull(NATURAL[Weibull])
    law = parts.to_numpyro()
    assert (law.batch_shape, law.event_shape) == ((2,), (2,))
    assert law.sample(jax.random.key(0), (3, 4)).shape == (3, 4, 2, 2)
    np.testing.assert_allclose(law.mean, parts.mean())
    np.testing.assert_allclose(law.variance, jnp.diagonal(parts.covariance(), axis1=1, axis2=2))
    mixture = omt.Mixture([0.5, 0.5], parts)
    x = points(Weibull)
    np.testing.assert_allclose(mixture.to_numpyro().log_prob(x), mixture.log_prob(x), rtol=1e-4)


@pytest.mark.parametrize("name", ["Gamma", "LogNormal", "Beta", "Weibull"])
def test_product_form_is_the_same_law(name, x64):
    parts = Weibull(np.repeat(NATURAL[Weibull], 3, axis=1)[:, :3]) if name == "Weibull" else components(name, 0)[0]
    form = parts.product_form()
    x = jnp.asarray([[0.3, 0.9, 0.5], [-0.5, 0.5, 0.5]])

    def one(loc, scale, shape, v):
        return shape._log_density((v - loc) / scale) - jnp.log(scale)

    each = jax.vmap(jax.vmap(one), in_axes=(0, 0, 0, None))
    table = jax.vmap(lambda row: each(form.loc, form.scale, form.shape, row).sum(axis=1))(x)
    np.testing.assert_allclose(table, parts.log_prob(x), rtol=1e-12)
    mean, variance, knots = (
        jax.vmap(jax.vmap(f))(form.shape) for f in (lambda s: s._mean(), lambda s: s._variance(), lambda s: s._knots())
    )
    np.testing.assert_allclose(form.loc + form.scale * mean, parts.mean(), rtol=1e-10)
    np.testing.assert_allclose(form.scale**2 * variance, jnp.diagonal(parts.covariance(), axis1=1, axis2=2), rtol=1e-10)
    assert knots.shape[-1] == 2


@pytest.mark.parametrize("family", [Gamma, LogNormal, Beta, Weibull])
def test_outside_the_support(family, x64):
    """The density vanishes at the ends and beyond, and gradients are finite there."""
    parts = family(NATURAL[Weibull]) if family is Weibull else family(np.full((1, 2), 0.7), np.full((1, 2), 0.9))
    for bad in (-1.0, 0.0, 1.0 if family is Beta else -0.0):
        x = jnp.asarray([[bad, 0.5], [0.5, 0.5]])
        table = parts.log_prob(x)
        assert (table[0] == -jnp.inf).all()
        assert jnp.isfinite(table[1]).all()
        gradient = jax.grad(lambda c, x=x: jnp.sum(jnp.maximum(c.log_prob(x), -1e3)))(parts)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


def test_what_is_not_a_density_is_refused():
    class Wrong(Weibull):
        def _log_normalizer(self, eta):
            return -jnp.log(-2 * eta[0])

    with pytest.raises(ValueError, match="^The density of Wrong integrates to 0.666667 and not to 1"):
        Wrong(-np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match="^The density of Wrong integrates to 0.666667"):
        omt.fit(jax.random.key(0), np.ones((3, 1)), Wrong, 1)
    with pytest.raises(ValueError, match="`natural` must give densities that can be normalized"):
        Weibull(np.ones((1, 1, 1)))
    with pytest.raises(ValueError, match=r"`natural` must have shape \[K, d, 1\]"):
        Weibull(-np.ones((1, 1, 2)))


def test_impossible_mean_parameters_are_refused():
    with pytest.raises(omt.ConvergenceError, match="`mean_parameters` must be expected statistics of Weibull"):
        Weibull(NATURAL[Weibull]).with_mean_parameters(jnp.full((2, 2), -1.0))


def test_files(tmp_path):
    parts = Weibull(NATURAL[Weibull])
    omt.save(tmp_path / "w.omt", parts)
    again = omt.load(tmp_path / "w.omt", families={"Weibull": Weibull})
    np.testing.assert_array_equal(again.natural, parts.natural)
