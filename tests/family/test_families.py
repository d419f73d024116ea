"""Laws that every family obeys, against SciPy, NumPy and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omt_expfam._components.exponential_family import AbstractExponentialFamily, AbstractRegularFamily
from tests.cases import CASES, components, DIM, NUM

FAMILIES = list(CASES)
EXPONENTIAL = [name for name in FAMILIES if issubclass(CASES[name].family, AbstractExponentialFamily)]
# Rounding of float32 through a 3 x 3 factorization; float64 to its last digits.
RTOL = {"float32": 2e-4, "float64": 1e-11}


def _points(name, seed, num=7):
    return CASES[name].points(np.random.default_rng(seed), num, DIM)


@jax.jit
def _derivatives(component, eta):
    return jax.grad(component._log_partition)(eta), jax.hessian(component._log_partition)(eta)


@jax.jit
def _log_prob_gradient(parts, x):
    return jax.grad(lambda c: jnp.sum(c.log_prob(x)))(parts)


@pytest.mark.parametrize("name", FAMILIES)
def test_log_prob_is_scipys(name, dtype):
    parts, arguments = components(name, 0, dtype)
    x = _points(name, 1).astype(dtype)
    expected = np.stack([CASES[name].oracle(arguments, k).logpdf(x) for k in range(NUM)], axis=1)
    result = parts.log_prob(x)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=RTOL[dtype], atol=RTOL[dtype])


@pytest.mark.parametrize("name", FAMILIES)
def test_moments_are_numpys(name, dtype):
    parts, arguments = components(name, 0, dtype)
    mean, covariance = CASES[name].moments(arguments)
    np.testing.assert_allclose(parts.mean(), mean, rtol=RTOL[dtype])
    np.testing.assert_allclose(parts.covariance(), covariance, rtol=RTOL[dtype], atol=10 * RTOL[dtype])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Categorical"])
def test_samples_have_the_moments(name):
    parts, arguments = components(name, 0, "float32")
    mean, covariance = CASES[name].moments(arguments)
    num = 20_000
    draws = np.asarray(parts.sample(jax.random.key(3), num), np.float64)
    assert draws.shape == (num, NUM, DIM)
    # Five standard errors of a mean, of 12 numbers with a fixed key.
    error = np.sqrt(np.einsum("kdd->kd", covariance) / num)
    assert (np.abs(draws.mean(0) - mean) < 5 * error).all()
    for k in range(NUM):
        offset = draws[:, k] - mean[k]
        error = np.einsum("nd,ne->nde", offset, offset).std(0) / np.sqrt(num)
        assert (np.abs(np.cov(draws[:, k].T) - covariance[k]) < 5 * error).all()


@pytest.mark.parametrize("name", [n for n in FAMILIES if hasattr(CASES[n].family, "entropy")])
def test_entropy_is_scipys(name, dtype):
    parts, arguments = components(name, 0, dtype)
    expected = [CASES[name].oracle(arguments, k).entropy() for k in range(NUM)]
    np.testing.assert_allclose(parts.entropy(), expected, rtol=RTOL[dtype])


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_kl_is_monte_carlos(name, x64):
    parts, _ = components(name, 0)
    other, _ = components(name, 1)
    np.testing.assert_allclose(parts.kl_divergence(parts), np.zeros(NUM), atol=5 * RTOL["float64"])
    divergence = np.asarray(parts.kl_divergence(other))
    assert (divergence > 0).all()
    draws = np.asarray(parts.sample(jax.random.key(5), 20_000))
    for k in range(NUM):
        ours, theirs = (np.asarray(c.log_prob(draws[:, k]))[:, k] for c in (parts, other))
        gap = np.asarray(ours - theirs, np.float64)
        assert abs(gap.mean() - divergence[k]) < 5 * gap.std() / np.sqrt(len(gap))


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential_family_view(name, x64):
    """h exp(eta T - A) is the density, the gradient of A the mean parameters, its Hessian the covariance of T."""
    parts, _ = components(name, 0)
    x = _points(name, 1)
    eta, statistics = parts.natural_parameters(), parts.sufficient_statistics(x)
    table = np.asarray(statistics) @ np.asarray(eta).T - np.asarray(parts.log_partition())[None]
    table = table + np.asarray(jax.jit(jax.vmap(parts._log_base_measure))(x))[:, None]
    tolerance = 20 * RTOL["float64"]
    np.testing.assert_allclose(table, parts.log_prob(x), rtol=tolerance, atol=tolerance)
    one, eta = jax.tree.map(lambda leaf: np.asarray(leaf)[1], (parts, eta))
    gradient, hessian = _derivatives(one, eta)
    np.testing.assert_allclose(gradient, np.asarray(parts.mean_parameters())[1], rtol=tolerance, atol=tolerance)
    draws = np.asarray(parts.sample(jax.random.key(7), 20_000))[:, 1]
    drawn = np.asarray(parts.sufficient_statistics(draws), np.float64)
    error = drawn.std(0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(0) - np.asarray(gradient)) < 5 * error).all()
    hessian = np.asarray(hessian, np.float64)
    spread = np.sqrt(np.diag(hessian))
    correlation = np.cov(drawn.T) / np.outer(spread, spread)
    # Fourth moments of a Gaussian: the standard error of a correlation of squares is a few times n^-1/2.
    assert np.abs(correlation - hessian / np.outer(spread, spread)).max() < 12 / np.sqrt(len(drawn))
    assert np.linalg.eigvalsh(hessian).min() > 0


@pytest.mark.parametrize("name", [n for n in FAMILIES if issubclass(CASES[n].family, AbstractRegularFamily)])
def test_parameters_round_trip(name, x64):
    parts, _ = components(name, 0)
    for rebuilt in (
        parts.with_natural_parameters(parts.natural_parameters()),
        parts.with_mean_parameters(parts.mean_parameters()),
    ):
        assert isinstance(rebuilt, CASES[name].family)
        np.testing.assert_allclose(rebuilt.mean(), parts.mean(), rtol=20 * RTOL["float64"], atol=20 * RTOL["float64"])
        np.testing.assert_allclose(
            rebuilt.covariance(), parts.covariance(), rtol=50 * RTOL["float64"], atol=50 * RTOL["float64"]
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_method_keeps_single_precision(name):
    """Numbers are looked at in double precision, where a wrong digit shows."""
    parts, other = (components(name, seed, "float32")[0] for seed in (0, 1))
    x = jnp.zeros((7, DIM), "float32")

    def methods(parts, other, x):
        yield parts.log_prob(x), parts.mean(), parts.covariance(), parts.sample(jax.random.key(0), 5)
        if name in EXPONENTIAL:
            yield parts.kl_divergence(other), parts.natural_parameters(), parts.sufficient_statistics(x)
            yield parts.log_partition(), parts.mean_parameters()
        if isinstance(parts, AbstractRegularFamily):
            yield parts.with_natural_parameters(parts.natural_parameters())
            yield parts.with_mean_parameters(parts.mean_parameters())

    found = jax.eval_shape(lambda *args: list(methods(*args)), parts, other, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}


@pytest.mark.loose
@pytest.mark.parametrize("name", FAMILIES)
def test_to_numpyro_is_the_same_law(name, x64):
    parts, _ = components(name, 0)
    x = _points(name, 2)

    @jax.jit
    def log_prob(parts, x):
        law = parts.to_numpyro()
        assert law.batch_shape == (NUM,)
        assert law.event_shape == (DIM,)
        return law.log_prob(x[:, None, :])

    tolerance = 5 * RTOL["float64"]
    np.testing.assert_allclose(log_prob(parts, x), parts.log_prob(x), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_and_selection(name, x64):
    parts, _ = components(name, 0)
    x = _points(name, 4)
    gradient = _log_prob_gradient(parts, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    chosen = parts.select([2, 0])
    np.testing.assert_array_equal(chosen.log_prob(x), np.asarray(parts.log_prob(x))[:, [2, 0]])


@pytest.mark.parametrize("name", FAMILIES)
def test_affine_image(name, x64):
    """The law of shift + scale x has the density of x, divided by the volume."""
    parts, _ = components(name, 0)
    x = _points(name, 5)
    scale = np.full(DIM, 1.7) if name == "SphericalGaussian" else np.array([0.5, 2.0, 3.0])
    shift = np.array([1.0, -2.0, 0.5])
    if parts.standardization in ("scale", "none"):
        shift = np.zeros(DIM)
    if parts.standardization == "none":
        scale = np.ones(DIM)
    image = jax.jit(type(parts)._affine)(parts, jnp.asarray(shift), jnp.asarray(scale))
    np.testing.assert_allclose(image.log_prob(shift + scale * x), parts.log_prob(x) - np.log(scale).sum(), rtol=1e-11)


def test_low_rank_needs_no_dense_precision(dtype):
    """Tight noise beside large factors: the whitened form keeps its digits in float32."""
    rng = np.random.default_rng(0)
    mean, factor, variance = (
        rng.standard_normal((1, 6)),
        30 * rng.standard_normal((1, 6, 2)),
        np.full((1, 6), 0.01),
    )
    parts = CASES["LowRankGaussian"].family(*(a.astype(dtype) for a in (mean, factor, variance)))
    x = (mean[0] + factor[0] @ np.array([0.5, -0.2]) + 0.1 * rng.standard_normal(6))[None]
    expected = CASES["LowRankGaussian"].oracle((mean, factor, variance), 0).logpdf(x)
    tolerance = 5e-3 if dtype == "float32" else 1e-10
    np.testing.assert_allclose(np.asarray(parts.log_prob(x))[0, 0], expected, rtol=tolerance)


def test_capability_of_bad_pairs():
    parts, _ = components("Gaussian", 0, "float32")
    other, _ = components("DiagonalGaussian", 0, "float32")
    with pytest.raises(TypeError, match="`other` must be Gaussian components; got DiagonalGaussian"):
        parts.kl_divergence(other)
    with pytest.raises(ValueError, match="`other` must have"):
        parts.kl_divergence(parts.select([0, 1]))
