"""Components made of NumPyro distributions, against NumPyro itself and draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import omt_expfam as omt
from omt_expfam._components.covariance import DenseCovariance, DiagonalCovariance

NUM, DIM = 3, 2


def _normal(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def _positive(*shape):
    return jnp.asarray(np.random.default_rng(1).uniform(1.5, 3, shape), jnp.float32)


def _tril(*shape):
    factor = 0.3 * np.asarray(_normal(*shape, DIM, DIM)) + np.eye(DIM)
    return jnp.asarray(np.linalg.cholesky(factor @ np.swapaxes(factor, -1, -2)), jnp.float32)


# Every way in which parameters may relate to the batch shape.
MAKE = {
    "student": lambda: dist.MultivariateStudentT(3 + _positive(NUM), _normal(NUM, DIM), _tril(NUM)),
    "student, shared df": lambda: dist.MultivariateStudentT(6.0, _normal(NUM, DIM), _tril(NUM)),
    "gaussian": lambda: dist.MultivariateNormal(_normal(NUM, DIM), scale_tril=_tril()),
    "expanded": lambda: dist.MultivariateNormal(_normal(DIM), jnp.eye(DIM)).expand([NUM]),
    "normals": lambda: dist.Normal(_normal(NUM, DIM), _positive(DIM)).to_event(1),
    "square normals": lambda: dist.Normal(_normal(2, 2), _positive(2)).to_event(1),
    "gammas": lambda: dist.Gamma(_positive(NUM, DIM), 2).to_event(1),
    "laplaces": lambda: dist.Laplace(_normal(NUM, DIM), _positive(NUM, 1)).to_event(1),
    "uniforms": lambda: dist.Uniform(-_positive(NUM, DIM), _positive(NUM, DIM)).to_event(1),
    "skewed": lambda: dist.TransformedDistribution(
        dist.Gamma(_positive(DIM), 1.0).to_event(1),
        dist.transforms.LowerCholeskyAffine(_normal(NUM, DIM), _tril()),
    ),
    "sigmoid": lambda: dist.TransformedDistribution(
        dist.MultivariateNormal(_normal(NUM, DIM), scale_tril=_tril(NUM)), dist.transforms.SigmoidTransform()
    ),
}


def relaxed():
    """The library works under JAX's strict modes; NumPyro, the oracle, does not."""
    return jax.numpy_rank_promotion("allow")


def theirs(distribution, x):
    """NumPyro's log-densities, by one program."""
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        return np.asarray(jax.jit(lambda law, x: law.log_prob(x))(distribution, x))


@pytest.mark.parametrize("name", list(MAKE))
def test_components_are_the_distribution(name):
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        distribution = MAKE[name]()
        x = np.asarray(jax.jit(lambda law: law.sample(jax.random.key(0), (4,)))(distribution))
    expected = theirs(distribution, x)
    components = omt.NumPyroComponents(distribution)
    num = distribution.batch_shape[0]
    assert (components.num_components, components.dim) == (num, DIM)
    own = np.stack([np.asarray(components.log_prob(x[:, k]))[:, k] for k in range(num)], axis=1)
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)
    chosen = components.select([num - 1, 0])
    ours = [np.asarray(chosen.log_prob(x[:, k])) for k in (0, 1)]
    np.testing.assert_allclose(ours[0][:, 1], expected[:, 0], rtol=1e-4, atol=1e-4)
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        same, back = components.to_numpyro(), chosen.to_numpyro()
    np.testing.assert_allclose(theirs(same, x), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(theirs(back, x[:, :2])[:, 1], ours[1][:, 1], rtol=1e-4, atol=1e-4)
    assert (back.batch_shape, back.event_shape) == ((2,), (DIM,))


@pytest.mark.parametrize("name", list(MAKE))
def test_moments_are_those_of_draws(name):
    """Five standard errors; the fourth moment of the Student-t family here is large but finite."""
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        components = omt.NumPyroComponents(MAKE[name]())
    x = np.asarray(components.sample(jax.random.key(1), 20_000))
    deviation = x.std(0)
    np.testing.assert_array_less(np.abs(x.mean(0) - components.mean()), 5 * deviation / 20_000**0.5)
    scale = deviation[:, :, None] * deviation[:, None, :]
    own = np.stack([np.cov(x[:, k].T) for k in range(x.shape[1])])
    np.testing.assert_array_less(np.abs(own - components.covariance()), 0.15 * scale)


def test_density_is_zero_outside_the_support():
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        sets = [omt.NumPyroComponents(MAKE[name]()) for name in ("gammas", "uniforms", "skewed")]
    for components in sets:
        assert np.isneginf(np.asarray(components.log_prob([[-50.0, -50.0]]))).all()


def test_forms():
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        sets = {name: omt.NumPyroComponents(make()) for name, make in MAKE.items() if "student" not in name}
    assert isinstance(sets["gaussian"].gaussian_form(), DenseCovariance)
    assert isinstance(sets["normals"].gaussian_form(), DiagonalCovariance)
    assert sets["skewed"].gaussian_form() is None
    assert sets["skewed"].product_form() is None


@pytest.mark.parametrize(
    ("name", "knots"), [("laplaces", [-np.inf, 0, np.inf]), ("gammas", [0, np.inf]), ("normals", [-np.inf, np.inf])]
)
def test_product_form_is_the_density(name, knots):
    with relaxed(), jax.numpy_dtype_promotion("standard"):
        components = omt.NumPyroComponents(MAKE[name]())
    x = np.asarray(components.sample(jax.random.key(2), 5))[:, 0]

    @jax.jit
    def compute(form, x):
        z = (x[:, None] - form.loc[None]) / form.scale[None]
        each = jax.vmap(jax.vmap(jax.vmap(lambda shape, point: shape._log_density(point))), in_axes=(None, 0))
        table = each(form.shape, z) - jnp.log(form.scale)[None]
        law = jax.tree.map(lambda leaf: leaf[0, 0], form.shape)
        moments = form.loc[0, 0] + form.scale[0, 0] * law._mean(), form.scale[0, 0] ** 2 * law._variance()
        return jnp.sum(table, axis=-1), law._knots(), *moments

    table, at, mean, variance = compute(components.product_form(), x)
    np.testing.assert_allclose(table, components.log_prob(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(at, knots)
    np.testing.assert_allclose(mean, np.asarray(components.mean())[0, 0], rtol=1e-4)
    np.testing.assert_allclose(variance, np.asarray(components.covariance())[0, 0, 0], rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dist.Normal(0.0, 1.0), ValueError, r"must have event shape \(d,\); got \(\)"),
        (lambda: dist.Normal(jnp.zeros(3), 1.0).to_event(1), ValueError, r"must have batch shape \(K,\)"),
        (lambda: dist.Poisson(jnp.ones((3, 2))).to_event(1), TypeError, "must be continuous"),
        (lambda: dist.Dirichlet(jnp.ones((3, 2))), TypeError, "Dirichlet lives on a surface"),
        (lambda: dist.ImproperUniform(dist.constraints.real_vector, (3,), (2,)), TypeError, "`sample` method"),
        (lambda: 3, TypeError, "must be a NumPyro distribution; got int"),
    ],
)
def test_refusals(make, error, message):
    with relaxed(), jax.numpy_dtype_promotion("standard"), pytest.raises(error, match=message):
        omt.NumPyroComponents(make())


def test_float64(x64):
    components = omt.NumPyroComponents(dist.MultivariateStudentT(5.0, jnp.zeros((2, 2)), jnp.eye(2)))
    assert components.dtype == components.mean().dtype == components.log_prob(np.zeros((1, 2))).dtype == np.float64
