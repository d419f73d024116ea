"""Components of several families at once, against one family of which they are parts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import omt_expfam as omt
from omt_expfam._couplings.interface import PairSelection, select_pairs
from omt_expfam._couplings.solve import solve_block_couplings, solve_couplings
from omt_expfam.families import DiagonalGaussian, Gaussian


def gaussians(seed, num):
    rng = np.random.default_rng(seed)
    factor = 0.3 * rng.standard_normal((num, 2, 2)) + np.eye(2)
    return Gaussian(2 * rng.standard_normal((num, 2)), factor @ factor.transpose(0, 2, 1))


def shuffled(components, parts):
    """The same components in the same order, split into blocks that interleave."""
    order = np.argsort(np.concatenate(parts))
    return omt.Blocks([components.select(part) for part in parts]).select(order)


PAIR = (gaussians(0, 3), gaussians(1, 4))
BLOCKS = (shuffled(PAIR[0], [[0], [2, 1]]), shuffled(PAIR[1], [[1, 3], [0, 2]]))
X = np.random.default_rng(0).standard_normal((20, 2)).astype("float32")


def test_a_mixture_of_blocks_is_the_mixture():
    weights = [0.2, 0.3, 0.5]
    one, several = omt.Mixture(weights, PAIR[0]), omt.Mixture(weights, BLOCKS[0])
    for name in ("log_prob", "responsibilities"):
        np.testing.assert_array_equal(getattr(one, name)(X), getattr(several, name)(X))
    np.testing.assert_allclose(one.mean(), several.mean(), rtol=1e-6)
    np.testing.assert_allclose(one.covariance(), several.covariance(), rtol=1e-5)
    np.testing.assert_allclose(one.sort().log_prob(X), several.sort().log_prob(X), rtol=1e-6)
    np.testing.assert_array_equal(one.select([2, 0]).log_prob(X), several.select([2, 0]).log_prob(X))
    np.testing.assert_array_equal(PAIR[0].select([2, 2, 0]).mean(), BLOCKS[0].select([2, 2, 0]).mean())
    np.testing.assert_array_equal(PAIR[0].select(slice(1, 3)).mean(), BLOCKS[0].select(slice(1, 3)).mean())
    assert BLOCKS[0].sample(jax.random.key(0), 5).shape == (5, 3, 2)


def test_draws_come_from_their_components():
    mixture = omt.Mixture([0.2, 0.3, 0.5], BLOCKS[0])
    x, labels = mixture.sample_with_labels(jax.random.key(0), 6000)
    for k in range(3):
        own = np.asarray(x)[np.asarray(labels) == k]
        error = np.sqrt(np.diagonal(PAIR[0].covariance()[k]) / len(own))
        assert (np.abs(own.mean(0) - PAIR[0].mean()[k]) < 5 * error).all()


@pytest.fixture(scope="module", params=["forward", "backward"])
def both(request):
    epsilon = jnp.asarray(0.7)
    pair = solve_couplings(*PAIR, epsilon), solve_block_couplings(*BLOCKS, epsilon)
    return pair if request.param == "forward" else tuple(c.transpose() for c in pair)


def test_couplings_of_blocks_are_the_couplings(both):
    one, several = both
    num, other = one.costs.shape
    rng = np.random.default_rng(2)
    source, target = (jnp.asarray(rng.integers(0, k, 20)) for k in (num, other))
    shares = jnp.asarray(rng.dirichlet(np.ones(other), num), jnp.float32)
    weight = jnp.asarray(rng.dirichlet(np.ones(num), 20), jnp.float32)
    pairs, x = select_pairs(shares, 0.0), jnp.asarray(X)
    for ask in (
        lambda c: c.costs,
        lambda c: c.kl,
        lambda c: c.objective_errors,
        lambda c: c.conditional_mean(x, source, target),
        lambda c: c.component_maps(shares)(x, weight),
        lambda c: c.conditional_covariance(x, x + 1, weight, pairs),
        lambda c: c.log_conditional(x, x + 1, jnp.log(weight), pairs),
        lambda c: jax.jit(lambda p: c.log_conditional(x, x + 1, jnp.log(weight), p))(pairs),
        lambda c: c.cross_covariances(pairs),
        lambda c: c.interpolate(jnp.asarray(0.3), pairs).covariance(),
    ):
        np.testing.assert_allclose(ask(several), ask(one), rtol=1e-4, atol=1e-5)
    assert several.result == omt.RESULTS.successful


def test_conditional_draws_have_the_conditional_moments():
    couplings = solve_block_couplings(*BLOCKS, jnp.asarray(0.7))
    x = jnp.zeros((4000, 2))
    source, target = jnp.zeros(4000, int), jnp.full(4000, 2)
    y = np.asarray(couplings.sample_conditional(jax.random.key(0), x, source, target))
    mean = couplings.conditional_mean(x[:1], source[:1], target[:1])
    pair = PairSelection(source[:1], target[:1], jnp.ones(1))
    covariance = couplings.conditional_covariance(x[:1], mean, jnp.eye(3)[:1], pair)[0]
    np.testing.assert_allclose(y.mean(0), mean[0], atol=0.05)
    np.testing.assert_allclose(np.cov(y.T), covariance, atol=0.05)


def test_families_differ():
    student = omt.NumPyroComponents(dist.MultivariateStudentT(5.0, jnp.ones((2, 2)), jnp.eye(2)))
    mixture = omt.Mixture([0.25] * 4, omt.Blocks([student, gaussians(3, 2)]))
    table = np.concatenate([student.log_prob(X), gaussians(3, 2).log_prob(X)], axis=1)
    np.testing.assert_allclose(mixture.log_prob(X), np.log(np.exp(table).mean(1)), rtol=1e-4)
    assert np.isfinite(np.asarray(mixture.covariance())).all()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: omt.Blocks([]), ValueError, "at least one set of components"),
        (lambda: omt.Blocks([3]), TypeError, "sets of components of one family; got int"),
        (
            lambda: omt.Blocks([PAIR[0], DiagonalGaussian(np.zeros((1, 3)), np.ones((1, 3)))]),
            ValueError,
            "agree in dim",
        ),
        (lambda: BLOCKS[0].to_numpyro(), NotImplementedError, "convert each block by itself"),
        (lambda: BLOCKS[0]._mean(), TypeError, "no common type"),
        (lambda: jax.jit(lambda i: BLOCKS[0].select(i).mean())(jnp.arange(2)), TypeError, "traced indices"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
