"""Plans between Gaussian mixtures, against brute force, POT, quadrature and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from scipy.special import logsumexp

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian, LowRankGaussian, SphericalGaussian
from tests.cases import covariances, GAUSSIANS as KINDS, mixture
from tests.lines import log_mean


def random_pair(seed, k0=4, k1=5, dim=3, condition=30.0, dtype="float64"):
    rng = np.random.default_rng(seed)

    def one(k):
        weights = rng.dirichlet(np.full(k, 3.0)).astype(dtype)
        mean = (2 * rng.standard_normal((k, dim))).astype(dtype)
        return omt.Mixture(weights, Gaussian(mean, covariances(rng, k, dim, condition).astype(dtype)))

    return one(k0), one(k1)


class BruteForce:
    """Every pair by SciPy's matrix square roots, the weights by a long Sinkhorn run: slow, plain, independent."""

    def __init__(self, source, target, epsilon_1, epsilon_2):
        self.a, self.b = (np.asarray(m.weights, np.float64) for m in (source, target))
        self.m0, self.m1 = (np.asarray(m.components.mean(), np.float64) for m in (source, target))
        self.s0, self.s1 = (np.asarray(m.components.covariance(), np.float64) for m in (source, target))
        k0, k1, dim = len(self.a), len(self.b), self.m0.shape[1]
        self.cross = np.zeros((k0, k1, dim, dim))
        self.cost, self.kl = np.zeros((k0, k1)), np.zeros((k0, k1))
        for i in range(k0):
            root = np.real(scipy.linalg.sqrtm(self.s0[i]))
            inverse = np.linalg.inv(root)
            for j in range(k1):
                inner = scipy.linalg.sqrtm(root @ self.s1[j] @ root + epsilon_1**2 / 16 * np.eye(dim))
                cross = root @ np.real(inner) @ inverse - epsilon_1 / 4 * np.eye(dim)
                gap = np.eye(dim) - np.linalg.solve(self.s0[i], cross) @ np.linalg.solve(self.s1[j], cross.T)
                self.cross[i, j] = cross
                self.cost[i, j] = ((self.m0[i] - self.m1[j]) ** 2).sum() - 2 * np.trace(cross)
                self.cost[i, j] += np.trace(self.s0[i]) + np.trace(self.s1[j])
                self.kl[i, j] = -0.5 * np.linalg.slogdet(gap)[1] if epsilon_1 else np.inf
        self.total = self.cost + (epsilon_1 * self.kl if epsilon_1 else 0)
        g = np.zeros(k1)
        for _ in range(100_000):
            f = -epsilon_2 * log_mean((g[None] - self.total) / epsilon_2, self.b, axis=1)
            new = -epsilon_2 * log_mean((f[:, None] - self.total) / epsilon_2, self.a, axis=0)
            if np.abs(new - g).max() < 1e-15 * np.abs(self.total).max():
                break
            g = new
        density = np.exp((f[:, None] + g[None] - self.total) / epsilon_2)
        self.weights = np.outer(self.a, self.b) * density
        self.objective = (self.weights * (self.total + epsilon_2 * np.log(density))).sum()

    def gains(self):
        return np.einsum("ijde,ief->ijdf", np.swapaxes(self.cross, 2, 3), np.linalg.inv(self.s0))

    def responsibilities(self, x):
        table = np.stack(
            [scipy.stats.multivariate_normal(m, s).logpdf(x) for m, s in zip(self.m0, self.s0, strict=True)],
            axis=-1,
        )
        table = table.reshape(len(x), -1) + np.log(self.a)
        return np.exp(table - logsumexp(table, axis=1, keepdims=True))

    def conditional(self, x):
        """Weights [n, K0, K1] and means [n, K0, K1, d] of y given x under each pair."""
        weight = self.responsibilities(x)[:, :, None] * (self.weights / self.a[:, None])[None]
        step = x[:, None] - self.m0[None]
        return weight, self.m1[None, None] + np.einsum("ijde,nie->nijd", self.gains(), step)

    def push_forward(self, x):
        weight, mean = self.conditional(x)
        return np.einsum("nij,nijd->nd", weight, mean)


@pytest.mark.parametrize(("dim", "k0", "k1"), [(1, 4, 5), (3, 4, 5), (16, 4, 5), (64, 3, 3)])
@pytest.mark.parametrize("epsilon", [0.05, 2.0])
def test_everything_is_brute_forces(dim, k0, k1, epsilon, x64):
    source, target = random_pair(dim, k0, k1, dim)
    plan = omt.transport(source, target, epsilon_components=epsilon, epsilon_weights=1.0)
    brute = BruteForce(source, target, epsilon, 1.0)
    np.testing.assert_allclose(plan.component_costs, brute.cost, rtol=1e-8)
    np.testing.assert_allclose(plan.component_kl, brute.kl, rtol=1e-8)
    np.testing.assert_allclose(plan.component_objectives, brute.total, rtol=1e-8)
    np.testing.assert_allclose(plan.weights, brute.weights, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(plan.objective, brute.objective, rtol=1e-8)
    np.testing.assert_allclose(plan.cost, (brute.weights * brute.cost).sum(), rtol=1e-8)
    x = np.asarray(source.sample(jax.random.key(0), 6))
    image = brute.push_forward(x)
    np.testing.assert_allclose(plan.push_forward(x), image, rtol=1e-8, atol=1e-8 * np.abs(image).max())


def test_agreement_with_pot_without_regularization(x64):
    ot = pytest.importorskip("ot")
    source, target = random_pair(7, 5, 6, 4)
    plan = omt.transport(source, target, epsilon_components=0.0, epsilon_weights=0.0)
    sides = [np.asarray(v) for m in (source, target) for v in (m.components.mean(), m.components.covariance())]
    arguments = (sides[0], sides[2], sides[1], sides[3])
    weights = [np.asarray(m.weights) for m in (source, target)]
    theirs = ot.gmm.gmm_ot_plan(*arguments, *weights)
    np.testing.assert_allclose(plan.weights, theirs, atol=1e-9)
    loss = float(ot.gmm.gmm_ot_loss(*arguments, *weights))
    np.testing.assert_allclose([plan.cost, plan.objective], [loss, loss], rtol=1e-8)
    x = np.asarray(source.sample(jax.random.key(1), 9))
    image = ot.gmm.gmm_ot_apply_map(x, *arguments, *weights, plan=theirs, method="bary")
    np.testing.assert_allclose(plan.push_forward(x), image, rtol=1e-7, atol=1e-7)
    assert np.isinf(np.asarray(plan.component_kl)).all()
    assert np.isfinite(np.asarray(plan.component_objectives)).all()
    with pytest.raises(ValueError, match="no joint density"):
        plan.log_prob(x, x)


@pytest.mark.parametrize("left", KINDS)
@pytest.mark.parametrize("right", KINDS)
def test_cheap_forms_are_the_dense_one(left, right, x64):
    """Every pair of structures, and their derivatives, against the same covariances held dense."""

    def dense(m):
        return omt.Mixture(m.weights, Gaussian(m.components.mean(), m.components.covariance()))

    source, target = mixture(left, 0, num=3, dim=5), mixture(right, 1, num=2, dim=5)
    epsilons = {"epsilon_components": 0.3, "epsilon_weights": 0.5}
    plan = omt.transport(source, target, **epsilons)
    full = omt.transport(dense(source), dense(target), **epsilons)
    for name in ("component_costs", "component_kl", "weights", "objective"):
        np.testing.assert_allclose(getattr(plan, name), getattr(full, name), rtol=1e-9, atol=1e-12)
    x = np.asarray(source.sample(jax.random.key(0), 5))
    np.testing.assert_allclose(plan.push_forward(x), full.push_forward(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(plan.conditional_covariance(x), full.conditional_covariance(x), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(plan.log_prob(x, x + 0.2), full.log_prob(x, x + 0.2), rtol=1e-8)
    np.testing.assert_allclose(plan.interpolate(0.3).log_prob(x), full.interpolate(0.3).log_prob(x), rtol=1e-8)


@pytest.mark.parametrize("other", ["low rank", "spherical"])
def test_isotropic_low_rank_is_solved_in_its_span(other, x64):
    rng = np.random.default_rng(0)
    mean, factor = rng.standard_normal((3, 12)), rng.standard_normal((3, 12, 2))
    source = LowRankGaussian(mean, factor, np.full((3, 12), 0.3))
    if other == "low rank":
        target = LowRankGaussian(mean[:2] + 1, 0.5 * factor[:2, ::-1], np.full((2, 12), 0.7))
    else:
        target = SphericalGaussian(mean[:2] + 1, np.array([0.5, 2.0]))
    assert type(source.gaussian_form()).__name__ == "LowRankCovariance"
    pair = [omt.Mixture(np.full(len(c.mean()), 1 / len(c.mean())), c) for c in (source, target)]
    dense = [omt.Mixture(m.weights, Gaussian(m.components.mean(), m.components.covariance())) for m in pair]
    plan, full = (omt.transport(*m, epsilon_components=0.2, epsilon_weights=0.5) for m in (pair, dense))
    np.testing.assert_allclose(plan.component_costs, full.component_costs, rtol=1e-10)
    np.testing.assert_allclose(plan.component_kl, full.component_kl, rtol=1e-10)
    x = rng.standard_normal((4, 12))
    np.testing.assert_allclose(plan.push_forward(x), full.push_forward(x), rtol=1e-9, atol=1e-10)
    back = plan.pull_back(x)
    np.testing.assert_allclose(back, full.pull_back(x), rtol=1e-9, atol=1e-10)


def test_one_dimension_is_dense_sinkhorn(x64):
    """math.md's check: N(0, 1) -> N(1.5, 0.36) at eps1 = 0.5, cross-covariance 0.487883; values from a grid."""
    grid0, grid1 = np.linspace(-8, 8, 500), 1.5 + 0.6 * np.linspace(-8, 8, 500)
    p, q = np.exp(-(grid0**2) / 2), np.exp(-((grid1 - 1.5) ** 2) / 0.72)
    p, q = p / p.sum(), q / q.sum()
    cost = (grid0[:, None] - grid1[None]) ** 2
    kernel, v = np.exp(-cost / 0.5), np.ones(500)
    for _ in range(500):
        u = 1 / (kernel @ (q * v))
        v = 1 / (kernel.T @ (p * u))
    f, g = 0.5 * np.log(u), 0.5 * np.log(v)
    joint = np.outer(p * u, q * v) * kernel
    covariance = (joint * np.outer(grid0, grid1)).sum() - p @ grid0 * (q @ grid1)
    assert covariance == pytest.approx(0.487883, abs=1e-6)
    source, target = (omt.Mixture([1.0], Gaussian([[m]], [[[v]]])) for m, v in ((0.0, 1.0), (1.5, 0.36)))
    # With one component on each side the weights' regularization does not matter.
    for epsilon_weights in (0.0, 3.0):
        plan = omt.transport(source, target, epsilon_components=0.5, epsilon_weights=epsilon_weights)
        assert float(plan.cost) == pytest.approx((joint * cost).sum(), rel=1e-8)
        assert float(plan.component_kl[0, 0]) == pytest.approx(
            (joint * (f[:, None] + g[None] - cost)).sum() / 0.5, rel=1e-8
        )
        assert float(plan.objective) == pytest.approx(f @ p + g @ q, rel=1e-8)
        mean = (joint * grid1[None]).sum(1) / joint.sum(1)
        np.testing.assert_allclose(plan.push_forward(grid0[200:300, None])[:, 0], mean[200:300], rtol=1e-6)


def test_invariances(x64):
    """Swapping sides, rotating, translating and scaling change the plan as they must."""
    source, target = random_pair(3)
    plan = omt.transport(source, target, epsilon_components=0.4, epsilon_weights=0.3)
    swapped = omt.transport(target, source, epsilon_components=0.4, epsilon_weights=0.3)
    np.testing.assert_allclose(swapped.weights, plan.weights.T, atol=1e-10)
    x = np.asarray(target.sample(jax.random.key(0), 5))
    np.testing.assert_allclose(plan.pull_back(x), swapped.push_forward(x), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(plan.reverse().push_forward(x), swapped.push_forward(x), rtol=1e-8, atol=1e-8)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]

    def moved(m, scale, shift):
        mean = scale * m.components.mean() @ rotation.T + shift
        covariance = scale**2 * jnp.einsum("de,kef,gf->kdg", rotation, m.components.covariance(), rotation)
        return omt.Mixture(m.weights, Gaussian(mean, covariance))

    image = omt.transport(
        moved(source, 3.0, 1.0), moved(target, 3.0, -2.0), epsilon_components=3.6, epsilon_weights=2.7
    )
    shift = np.full(3, 3.0)
    x = np.asarray(source.sample(jax.random.key(1), 5))
    expected = 3.0 * np.asarray(plan.push_forward(x)) @ rotation.T - 2.0
    # A relative shift of the two sides changes all costs by rank-one terms: the coupling stays.
    np.testing.assert_allclose(image.weights, plan.weights, atol=1e-9)
    np.testing.assert_allclose(image.push_forward(3.0 * x @ rotation.T + 1.0), expected, rtol=1e-8)
    difference = source.mean() - target.mean()
    gained = 9 * float(plan.cost) + 2 * float(3 * (rotation @ difference) @ shift) + float(shift @ shift)
    assert float(image.cost) == pytest.approx(gained, rel=1e-9)


def test_joint_precision_and_limits(x64):
    source, target = random_pair(11, 2, 2)
    brute = BruteForce(source, target, 0.7, 1.0)
    plan = omt.transport(source, target, epsilon_components=0.7, epsilon_weights=1.0)
    gains = brute.gains()
    one = (
        omt.Mixture([1.0], Gaussian(brute.m0[:1], brute.s0[:1])),
        omt.Mixture([1.0], Gaussian(brute.m1[1:], brute.s1[1:])),
    )
    alone = omt.transport(*one, epsilon_components=0.7, epsilon_weights=1.0)
    covariance = np.asarray(alone.conditional_covariance(brute.m0[:1]))[0]
    # Cov[y | x] = eps1/2 A, and the off-diagonal block of the joint precision is -2/eps1 I.
    np.testing.assert_allclose(covariance, 0.35 * gains[0, 1], rtol=1e-9)
    joint = np.block([[brute.s0[0], brute.cross[0, 1]], [brute.cross[0, 1].T, brute.s1[1]]])
    np.testing.assert_allclose(np.linalg.inv(joint)[:3, 3:], -2 / 0.7 * np.eye(3), atol=1e-9)
    far = omt.transport(source, target, epsilon_components=1e7, epsilon_weights=1.0)
    independent = ((brute.m0[:, None] - brute.m1[None]) ** 2).sum(-1)
    independent += np.trace(brute.s0, axis1=1, axis2=2)[:, None] + np.trace(brute.s1, axis1=1, axis2=2)[None]
    np.testing.assert_allclose(far.component_costs, independent, rtol=1e-5)
    near = omt.transport(source, target, epsilon_components=1e-8, epsilon_weights=1.0)
    exact = omt.transport(source, target, epsilon_components=0.0, epsilon_weights=1.0)
    np.testing.assert_allclose(near.component_costs, exact.component_costs, rtol=1e-7)
    assert plan.converged


def test_conditional_law_is_brute_forces_and_is_sampled(x64):
    source, target = random_pair(5)
    plan = omt.transport(source, target, epsilon_components=0.5, epsilon_weights=2.0)
    brute = BruteForce(source, target, 0.5, 2.0)
    x = np.asarray(source.sample(jax.random.key(0), 3))
    weight, mean = brute.conditional(x)
    center = brute.push_forward(x)
    offset = mean - center[:, None, None]
    expected = np.einsum("nij,nijd,nije->nde", weight, offset, offset)
    expected += 0.25 * np.einsum("nij,ijde->nde", weight, brute.gains())
    result = np.asarray(plan.conditional_covariance(x))
    np.testing.assert_allclose(result, expected, rtol=1e-8, atol=1e-9)
    num = 20_000
    for point, m, c in zip(x, center, expected, strict=True):
        draws = np.asarray(plan.sample(jax.random.key(4), np.tile(point, (num, 1))))
        scale = np.sqrt(np.diag(c))
        assert (np.abs(draws.mean(0) - m) < 5 * scale / np.sqrt(num)).all()
        # Mixtures have heavier fourth moments than Gaussians: five errors of twice the Gaussian size.
        assert (np.abs(np.cov(draws.T) - c) < 10 * np.outer(scale, scale) * np.sqrt(2 / num)).all()
    probability = weight.sum(1)
    np.testing.assert_allclose(plan.target_probabilities(x), probability, rtol=1e-8, atol=1e-12)


def test_draws_have_the_target_law(x64):
    """Sampling the plan at draws of the source gives the target mixture: its mean and covariance."""
    source, target = random_pair(6)
    plan = omt.transport(source, target, epsilon_components=0.3, epsilon_weights=0.5)
    x, y = (np.asarray(v) for v in plan.sample_joint(jax.random.key(0), 20_000))
    scale = np.sqrt(np.diag(np.asarray(target.covariance())))
    assert (np.abs(y.mean(0) - np.asarray(target.mean())) < 5 * scale / np.sqrt(len(y))).all()
    gap = np.cov(y.T) - np.asarray(target.covariance())
    assert (np.abs(gap) < 10 * np.outer(scale, scale) * np.sqrt(2 / len(y))).all()
    moved = ((x - y) ** 2).sum(1)
    assert abs(moved.mean() - float(plan.cost)) < 5 * moved.std() / np.sqrt(len(y))


def test_joint_density_integrates_to_the_marginals(x64):
    rng = np.random.default_rng(2)

    def one(k):
        return omt.Mixture(rng.dirichlet(np.ones(k)), Gaussian(rng.normal(size=(k, 1)), rng.uniform(0.3, 1, (k, 1, 1))))

    source, target = one(2), one(3)
    plan = omt.transport(source, target, epsilon_components=0.4, epsilon_weights=0.3)
    grid = np.linspace(-8, 8, 161)
    step = grid[1] - grid[0]
    x, y = (v.reshape(-1, 1) for v in np.meshgrid(grid, grid, indexing="ij"))
    density = np.exp(np.asarray(plan.log_prob(x, y))).reshape(161, 161)
    np.testing.assert_allclose(density.sum(1) * step, np.exp(source.log_prob(grid[:, None])), atol=1e-9)
    np.testing.assert_allclose(density.sum(0) * step, np.exp(target.log_prob(grid[:, None])), atol=1e-9)
    assert (density * (x - y).reshape(161, 161) ** 2).sum() * step**2 == pytest.approx(float(plan.cost), rel=1e-8)


def test_interpolation(x64):
    source, target = random_pair(8)
    plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=0.1)
    x = np.asarray(source.sample(jax.random.key(0), 4))
    dropped = plan.correspondences(1e-9).dropped_weight
    assert dropped < 1e-6
    for t, end in ((0.0, source), (1.0, target)):
        middle = plan.interpolate(t, min_weight=1e-9)
        np.testing.assert_allclose(middle.log_prob(x), end.log_prob(x), rtol=1e-5)
    half = plan.interpolate(0.5, min_weight=0.0)
    np.testing.assert_allclose(half.mean(), 0.5 * (source.mean() + target.mean()), rtol=1e-8)
    draws = 0.5 * sum(plan.sample_joint(jax.random.key(1), 20_000))
    scale = np.sqrt(np.diag(np.asarray(half.covariance())))
    gap = np.cov(np.asarray(draws).T) - np.asarray(half.covariance())
    assert (np.abs(gap) < 10 * np.outer(scale, scale) * np.sqrt(2 / 20_000)).all()
    with pytest.raises(ValueError, match="`t` must lie between 0 and 1"):
        plan.interpolate(1.5)
    with pytest.raises(ValueError, match="`min_weight` must leave some pairs"):
        plan.interpolate(0.5, min_weight=0.99)
    kinds = {
        name: type(
            omt.transport(mixture(name, 0), mixture(name, 1), epsilon_components=0.1, epsilon_weights=0.1)
            .interpolate(0.5)
            .components
        )
        for name in ("SphericalGaussian", "DiagonalGaussian", "Gaussian")
    }
    assert list(kinds.values()) == [SphericalGaussian, DiagonalGaussian, Gaussian]


def test_interpolation_without_small_pairs(x64):
    """The pairs that are left make a law, each with its share of what is left."""
    source, target = random_pair(8)
    plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=0.1)
    weights = np.asarray(plan.weights)
    left = weights > 0.05
    assert 0.01 < weights[~left].sum() < 0.5
    shares = weights[left] / weights[left].sum()
    law = plan.interpolate(0.3, min_weight=0.05)
    np.testing.assert_allclose(np.sort(law.weights), np.sort(shares), rtol=1e-10)
    start, end = (np.asarray(m.components.mean()) for m in (source, target))
    means = 0.7 * start[:, None] + 0.3 * end[None]
    np.testing.assert_allclose(law.mean(), shares @ means[left], rtol=1e-10)


def test_correspondences_are_a_readable_table(x64):
    source, target = random_pair(9)
    plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=0.1)
    table = plan.correspondences(0.01)
    weights = np.asarray(plan.weights)
    assert len(table) == (weights > 0.01).sum()
    np.testing.assert_allclose(table.weight, weights[table.source, table.target])
    assert (np.diff(table.weight) <= 0).all()
    assert table.weight.sum() + table.dropped_weight == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(
        table.share_of_source,
        (weights / np.asarray(source.weights)[:, None])[table.source, table.target],
        rtol=1e-9,
    )
    lines = str(table).splitlines()
    assert lines[0].split() == ["source", "target", "weight", "of", "source", "of", "target", "cost"]
    assert len(lines) == len(table) + 1 + (table.dropped_weight > 5e-5)
    assert f"{table.weight[0]:.4f}" in lines[1]


def test_block_iteration_reaches_the_minimum_in_one_sweep(x64):
    source, target = random_pair(10)
    rng = np.random.default_rng(0)
    settings = {"epsilon_components": 0.3, "epsilon_weights": 0.2}
    plain = omt.transport(source, target, num_sweeps=3, **settings)
    weights = np.asarray(plain.weights)
    for trial in range(3):
        # A random admissible coupling of the weights, and half-correlated components.
        start = np.outer(source.weights, target.weights)
        for _ in range(200):
            start *= np.exp(0.05 * rng.standard_normal(start.shape))
            for _ in range(20):
                start *= (np.asarray(source.weights) / start.sum(1))[:, None]
                start *= (np.asarray(target.weights) / start.sum(0))[None]
        # Rows exact last, well within the accepted rounding.
        roots = [np.linalg.cholesky(np.asarray(m.components.covariance())) for m in (source, target)]
        contraction = np.linalg.qr(rng.standard_normal((4, 5, 3, 3)))[0] * rng.uniform(-0.9, 0.9, (4, 5, 1, 1))
        cross = np.einsum("ide,ijef,jgf->ijdg", roots[0], contraction, roots[1])
        given = omt.BlockStart(weights=start, cross_covariances=cross) if trial else omt.BlockStart(weights=start)
        plan = omt.transport(source, target, start=given, num_sweeps=2, **settings)
        objective = np.asarray(plan.trace.objective)
        assert plan.trace.blocks == ("start", "components", "weights", "components", "weights")
        assert (np.diff(objective) < 1e-10).all()
        assert objective[0] > objective[1] > objective[2]
        np.testing.assert_allclose(objective[2:], float(plain.objective), rtol=1e-10)
        np.testing.assert_allclose(plan.weights, weights, atol=1e-10)
        if trial:
            kl = np.zeros((4, 5))
            for i, j in np.ndindex(4, 5):
                joint = np.block(
                    [
                        [roots[0][i] @ roots[0][i].T, cross[i, j]],
                        [cross[i, j].T, roots[1][j] @ roots[1][j].T],
                    ]
                )
                log_det = [np.linalg.slogdet(r @ r.T)[1] for r in (roots[0][i], roots[1][j])]
                kl[i, j] = 0.5 * (sum(log_det) - np.linalg.slogdet(joint)[1])
            traces = [np.trace(np.asarray(m.components.covariance()), axis1=1, axis2=2) for m in (source, target)]
            means = [np.asarray(m.components.mean()) for m in (source, target)]
            cost = ((means[0][:, None] - means[1][None]) ** 2).sum(-1) + traces[0][:, None] + traces[1][None]
            cost = cost - 2 * np.trace(cross, axis1=2, axis2=3) + 0.3 * kl
            product = np.outer(source.weights, target.weights)
            expected = (start * cost).sum() + 0.2 * (start * np.log(start / product)).sum()
            assert objective[0] == pytest.approx(expected, rel=1e-9)


def _plan_of(values, epsilon_components, epsilon_weights):
    sides = [omt.Mixture(values[w] / values[w].sum(), Gaussian(values[m], values[s])) for w, m, s in ("amS", "bnU")]
    return omt.transport(
        *sides, epsilon_components=epsilon_components, epsilon_weights=epsilon_weights, tolerance=1e-13
    )


READINGS = {
    "objective": lambda plan, x: plan.objective,
    "cost": lambda plan, x: plan.cost,
    "kl": lambda plan, x: jnp.sum(plan.weights * plan.component_kl),
    "map": lambda plan, x: jnp.sum(jnp.sin(plan.push_forward(x))),
    "density": lambda plan, x: jnp.sum(plan.log_prob(x, x + 0.3)),
    "covariance": lambda plan, x: jnp.sum(plan.conditional_covariance(x)[:, 0, 1]),
}


@jax.jit
def _readings(values, x):
    plan = _plan_of(values, values["e"][0], values["e"][1])
    return jnp.stack([reading(plan, x) for reading in READINGS.values()])


_slopes = jax.jit(jax.jacrev(_readings))


@pytest.mark.parametrize("spherical", [False, True])
def test_derivatives_are_finite_differences(spherical, x64):
    """All mixture parameters and both regularizations; also at repeated eigenvalues, where decompositions fail."""
    rng = np.random.default_rng(4)
    eye = np.broadcast_to(np.eye(2), (3, 2, 2))
    values = {
        "a": rng.dirichlet(np.full(2, 5.0)),
        "b": rng.dirichlet(np.full(3, 5.0)),
        "m": rng.standard_normal((2, 2)),
        "n": rng.standard_normal((3, 2)),
        "S": 1.3 * eye[:2] if spherical else covariances(rng, 2, 2, 10.0),
        "U": 0.8 * eye if spherical else covariances(rng, 3, 2, 10.0),
        "e": np.array([0.3, 0.2]),
    }
    x = rng.standard_normal((3, 2))
    slopes = _slopes(values, x)
    for name, value in values.items():
        direction = rng.standard_normal(value.shape)
        if name in "SU":
            direction = direction + np.swapaxes(direction, 1, 2)
        ahead, behind = (np.asarray(_readings({**values, name: value + t * direction}, x)) for t in (1e-6, -1e-6))
        ours = np.sum(np.asarray(slopes[name]) * direction, axis=tuple(range(1, value.ndim + 1)))
        for reading, slope, finite in zip(READINGS, ours, (ahead - behind) / 2e-6, strict=True):
            assert slope == pytest.approx(finite, rel=1e-5, abs=1e-6), (reading, name)


def test_linear_program_derivative_is_the_envelopes(x64):
    rng = np.random.default_rng(4)
    values = {
        "a": rng.dirichlet(np.full(2, 5.0)),
        "b": rng.dirichlet(np.full(3, 5.0)),
        "m": rng.standard_normal((2, 2)),
        "n": rng.standard_normal((3, 2)),
        "S": covariances(rng, 2, 2, 10.0),
        "U": covariances(rng, 3, 2, 10.0),
    }
    values = {k: jnp.asarray(v) for k, v in values.items()}
    for reading in ("objective", "cost"):
        gradient = jax.grad(lambda v, reading=reading: READINGS[reading](_plan_of(v, 0.0, 0.0), None))(values)
        for name in values:
            direction = rng.standard_normal(values[name].shape)
            if name in "SU":
                direction = direction + np.swapaxes(direction, 1, 2)

            def moved(t, name=name, direction=direction, reading=reading):
                changed = {**values, name: values[name] + t * direction}
                return READINGS[reading](_plan_of(changed, 0.0, 0.0), None)

            finite = float(moved(1e-6) - moved(-1e-6)) / 2e-6
            assert float(jnp.sum(gradient[name] * direction)) == pytest.approx(finite, rel=1e-5, abs=1e-6)


def test_inside_jit_and_vmap(x64):
    source, target = random_pair(12, 2, 3, 2)
    x = jnp.asarray(source.sample(jax.random.key(0), 4))

    def image(shift, points):
        moved = omt.Mixture(source.weights, Gaussian(source.components.mean() + shift, source.components.covariance()))
        plan = omt.transport(moved, target, epsilon_components=0.3, epsilon_weights=0.2, throw=False)
        return plan.push_forward(points), plan.cost

    shifts = jnp.asarray([0.0, 0.5, 1.0])
    looped = [image(s, x) for s in shifts]
    mapped = jax.jit(jax.vmap(image, in_axes=(0, None)))(shifts, x)
    np.testing.assert_allclose(mapped[0], np.stack([v[0] for v in looped]), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(mapped[1], np.stack([v[1] for v in looped]), rtol=1e-8)
    # A concrete plan inside a user's jit, before and after it was used outside: nothing traced is kept.
    plan = omt.transport(source, target, epsilon_components=0.3, epsilon_weights=0.2)
    inside = jax.jit(lambda v: plan.push_forward(v))(x)
    np.testing.assert_allclose(inside, plan.push_forward(x), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda p, v: p.push_forward(v))(plan, x), inside, rtol=1e-10)


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_float32_is_within_a_thousandth(condition, x64):
    source, target = random_pair(2, 5, 6, 8, condition)
    wide = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.5)
    x = np.asarray(source.sample(jax.random.key(0), 50))
    narrow = [jax.tree.map(lambda leaf: leaf.astype(jnp.float32), m) for m in (source, target)]
    with jax.enable_x64(False):
        plan = omt.transport(*narrow, epsilon_components=0.1, epsilon_weights=0.5)
        image = np.asarray(plan.push_forward(x))
        assert plan.weights.dtype == jnp.float32
    np.testing.assert_allclose(plan.component_costs, wide.component_costs, rtol=1e-3)
    np.testing.assert_allclose(plan.component_kl, wide.component_kl, rtol=1e-3)
    np.testing.assert_allclose(plan.cost, wide.cost, rtol=1e-3)
    expected = np.asarray(wide.push_forward(x))
    assert np.abs(image - expected).max() < 1e-3 * np.abs(expected).max()


def test_float32_weights_are_solved_in_float64_where_the_costs_ask_for_it():
    source, target = random_pair(1, 30, 30, 5, dtype="float32")
    far = omt.Mixture(target.weights, Gaussian(10 * target.components.mean(), target.components.covariance()))
    plan = omt.transport(source, far, epsilon_components=0.1, epsilon_weights=0.01)
    assert plan.weights_precision == "float64"
    assert plan.weights.dtype == jnp.float32
    weights = np.asarray(plan.weights, np.float64)
    a, b = (np.asarray(m.weights, np.float64) for m in (source, far))
    error = np.abs(weights.sum(1) - a).sum() + np.abs(weights.sum(0) - b).sum()
    # The reported error is that of the stored float32 numbers, never less.
    assert error <= float(plan.marginal_error) < 1e-6
    mild = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=5.0)
    assert mild.weights_precision == "float32"
    assert float(mild.marginal_error) < 1e-5


@pytest.mark.parametrize("distance", [1e3, 1e8, 1e15, 1e30])
def test_points_far_from_every_component(distance):
    source, target = random_pair(1, dtype="float32")
    plan = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.1)
    x = np.float32(distance) * np.array([[1, 0, 0], [-1, 2, 0.5], [0, 0, -3]], np.float32)
    assert np.isfinite(np.asarray(plan.push_forward(x))).all()
    assert np.isfinite(np.asarray(plan.pull_back(x))).all()
    share = np.asarray(source.responsibilities(x))
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-5)
    if distance <= 1e15:
        assert np.isfinite(np.asarray(plan.sample(jax.random.key(0), x))).all()


def test_zero_weights_and_single_components(x64):
    source, target = random_pair(3)
    weights = np.asarray(source.weights).copy()
    weights[1] = 0
    source = omt.Mixture(weights / weights.sum(), source.components)
    for epsilon_weights in (0.0, 0.3):
        plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=epsilon_weights)
        reduced = omt.transport(
            source.select([0, 2, 3]), target, epsilon_components=0.2, epsilon_weights=epsilon_weights
        )
        np.testing.assert_allclose(plan.weights[np.array([0, 2, 3])], reduced.weights, atol=1e-10)
        x = np.asarray(source.sample(jax.random.key(0), 4))
        np.testing.assert_allclose(plan.push_forward(x), reduced.push_forward(x), rtol=1e-8)
        y = np.asarray(target.sample(jax.random.key(0), 4))
        np.testing.assert_allclose(plan.pull_back(y), reduced.pull_back(y), rtol=1e-8)
        assert np.isfinite(np.asarray(plan.sample(jax.random.key(0), x))).all()
    one = source.select([0])
    plan = omt.transport(one, target, epsilon_components=0.2, epsilon_weights=0.1)
    np.testing.assert_allclose(plan.weights[0], target.weights, atol=1e-10)


def test_most_likely_map(x64):
    source, target = random_pair(4)
    plan = omt.transport(source, target, epsilon_components=0.2, epsilon_weights=0.1)
    brute = BruteForce(source, target, 0.2, 0.1)
    x = np.asarray(source.sample(jax.random.key(0), 6))
    i = brute.responsibilities(x).argmax(1)
    j = brute.weights.argmax(1)[i]
    expected = brute.m1[j] + np.einsum("nde,ne->nd", brute.gains()[i, j], x - brute.m0[i])
    np.testing.assert_allclose(plan.push_forward_most_likely(x), expected, rtol=1e-8)


def test_giving_up_raises_or_returns():
    source, target = random_pair(1, 30, 30, 5, dtype="float32")
    with pytest.raises(omt.ConvergenceError, match="^The weight coupling stopped before its marginals"):
        omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.01, max_steps=2)
    plan = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.01, max_steps=2, throw=False)
    assert not plan.converged
    assert plan.result == omt.RESULTS.weights_not_converged
    assert "marginal error" in repr(plan)


def test_no_matrix_per_pair_is_held():
    """The compiled blocks for K = 600, d = 40 need a few megabytes: 360,000 matrices would take 2.3 GB."""
    from omt_expfam._components.covariance import DenseCovariance
    from omt_expfam._couplings.gaussian_blocks import collapse, couple, GaussianSides
    from omt_expfam._couplings.interface import PairSelection

    num, dim = 600, 40

    def shaped(kind, **fields):
        module = kind.__new__(kind)
        for name, (shape, dtype) in fields.items():
            object.__setattr__(module, name, jax.ShapeDtypeStruct(shape, dtype))
        return module

    components = shaped(Gaussian, loc=((num, dim), jnp.float32), scale_tril=((num, dim, dim), jnp.float32))
    sides = shaped(GaussianSides, epsilon=((), jnp.float32))
    form = shaped(DenseCovariance, tril=((num, dim, dim), jnp.float32))
    for name, value in (("source", components), ("target", components), ("forms", (form, form))):
        object.__setattr__(sides, name, value)
    pair = (num * num,)
    chosen = shaped(PairSelection, source=(pair, jnp.int32), target=(pair, jnp.int32), weight=(pair, jnp.float32))
    table = jax.ShapeDtypeStruct((num, num), jnp.float32)
    for compiled in (
        jax.jit(couple).lower(sides).compile(),
        jax.jit(collapse).lower(sides, chosen, table).compile(),
    ):
        assert compiled.memory_analysis().temp_size_in_bytes < 100 * 2**20


def test_many_pairs_are_solved_in_slices(monkeypatch, capsys, x64):
    """The same numbers, and a progress bar."""
    import omt_expfam._couplings.gaussian as module

    source, target = random_pair(2, 37, 3)
    whole = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.1)
    monkeypatch.setattr(module, "LONG", 0)
    sliced = omt.transport(source, target, epsilon_components=0.1, epsilon_weights=0.1, progress=True)
    np.testing.assert_allclose(sliced.component_costs, whole.component_costs, rtol=1e-13)
    np.testing.assert_allclose(sliced.component_kl, whole.component_kl, rtol=1e-13)


def test_what_float32_cannot_finish_is_finished_in_float64():
    """A tolerance beyond float32: the weights are solved again in float64, and the plan says so."""
    source, target = mixture("DiagonalGaussian", 0, "float32"), mixture("DiagonalGaussian", 1, "float32")
    plan = omt.transport(source, target, epsilon_components=0.3, epsilon_weights=0.5, tolerance=1e-9)
    assert plan.converged
    assert plan.weights_precision == "float64"
    assert plan.weights.dtype == np.float32
    usual = omt.transport(source, target, epsilon_components=0.3, epsilon_weights=0.5)
    assert usual.weights_precision == "float32"
    np.testing.assert_allclose(plan.weights, usual.weights, atol=1e-5)
