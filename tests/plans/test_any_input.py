"""Fits, plans, maps and derivatives of inputs of many kinds, in float32, against formulas in float64 NumPy."""

import jax
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, HealthCheck, settings, strategies as st
from numpy.testing import assert_allclose

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gaussian

# Few shapes and many values: one program each, and a moment per example.
QUICK = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=400)
K, DIM = 3, 2

sides = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "weights": st.sampled_from(["equal", "unequal", "one zero", "all on one"]),
        "covariances": st.sampled_from(["any", "multiples of one", "equal", "nearly singular", "of very unequal size"]),
        "means": st.sampled_from(["apart", "equal", "far apart"]),
    }
)
problems = st.fixed_dictionaries(
    {
        "source": sides,
        "target": sides,
        "scale": st.sampled_from([1e-12, 1e-6, 1.0, 3e5, 1e12]),
        "offset": st.sampled_from([0.0, 0.0, 100.0]),
        "epsilon_components": st.sampled_from([0.0, 1e-3, 0.5, 100.0]),
        "epsilon_weights": st.sampled_from([1e-2, 0.3, 10.0]),
        "same": st.booleans(),
    }
)


def make(side, offset):
    """Weights, means and covariances in units of one, rounded to float32 so that both sides see the same numbers."""
    random = np.random.default_rng(side["seed"])
    weights = {
        "equal": np.full(K, 1 / K),
        "unequal": random.dirichlet(np.ones(K)),
        "one zero": np.array([0.25, 0.0, 0.75]),
        "all on one": np.array([0.0, 1.0, 0.0]),
    }[side["weights"]]
    means = random.normal(size=(K, DIM)) * {"apart": 2.0, "equal": 0.0, "far apart": 50.0}[side["means"]] + offset
    rotation, _ = np.linalg.qr(random.normal(size=(K, DIM, DIM)))
    sizes = {
        "any": np.exp(random.normal(size=(K, DIM))),
        "multiples of one": np.exp(random.normal(size=(K, 1))) * np.ones((K, DIM)),
        "equal": np.full((K, DIM), 0.7),
        "nearly singular": np.exp(random.normal(size=(K, DIM))) * [1.0, 1e-3],
        "of very unequal size": np.exp(random.normal(size=(K, DIM))) * np.array([[1e-3], [1.0], [30.0]]),
    }[side["covariances"]]
    covariances = np.einsum("kde,ke,kfe->kdf", rotation, sizes**2, rotation)
    tril = np.linalg.cholesky(covariances).astype(np.float32).astype(np.float64)
    return weights, means.astype(np.float32).astype(np.float64), tril


def reference_pair(tril_0, tril_1, epsilon):
    """Cost without means, KL and gain of one pair, by the eigenvalues of Janati et al. (2020)."""
    first, second, s = tril_0 @ tril_0.T, tril_1 @ tril_1.T, epsilon / 2
    product = tril_0.T @ second @ tril_0
    values, vectors = np.linalg.eigh((product + product.T) / 2)
    values = np.maximum(values, 0)
    w = np.sqrt(values + s * s / 4)
    r = values / (w + s / 2)
    inverse = scipy.linalg.solve_triangular(tril_0, np.eye(DIM), lower=True)
    gain = inverse.T @ (vectors * r) @ vectors.T @ inverse
    kl = 0.5 * np.log1p(r / s).sum() if s > 0 else 0.0
    return np.trace(first) + np.trace(second) - 2 * r.sum(), kl, gain


@jax.jit
def slopes(source, target, epsilon_components, epsilon_weights):
    def objective(mixture):
        plan = omt.transport(
            mixture, target, epsilon_components=epsilon_components, epsilon_weights=epsilon_weights, throw=False
        )
        return plan.objective

    return jax.grad(objective)(source).components


def check_plan(problem):
    source, target = make(problem["source"], problem["offset"]), make(problem["target"], problem["offset"])
    if problem["same"]:
        target = source
    scale = np.float32(problem["scale"])
    mixtures = [
        omt.Mixture(w, Gaussian(np.float32(m) * scale, scale_tril=np.float32(t) * scale))
        for w, m, t in (source, target)
    ]
    # What float32 resolves: distances to the rounding of positions.
    unit = np.float64(scale) ** 2
    epsilons = [np.float32(problem[name] * unit) for name in ("epsilon_components", "epsilon_weights")]
    plan = omt.transport(*mixtures, epsilon_components=epsilons[0], epsilon_weights=epsilons[1])
    costs, objectives, gains = np.zeros((K, K)), np.zeros((K, K)), np.zeros((K, K, DIM, DIM))
    for i, (mean_0, tril_0) in enumerate(zip(*source[1:], strict=True)):
        for j, (mean_1, tril_1) in enumerate(zip(*target[1:], strict=True)):
            cost, kl, gains[i, j] = reference_pair(tril_0, tril_1, problem["epsilon_components"])
            costs[i, j] = cost + np.sum((mean_0 - mean_1) ** 2)
            objectives[i, j] = costs[i, j] + problem["epsilon_components"] * kl
    size = max(
        np.abs(costs).max(),
        *(np.sum(side[2] ** 2, axis=(1, 2)).max() for side in (source, target)),
    )
    assert np.min(plan.component_costs) >= 0
    assert_allclose(np.float64(plan.component_costs) / unit, costs, rtol=1e-4, atol=1e-5 * size)
    assert_allclose(np.float64(plan.component_objectives) / unit, objectives, rtol=1e-4, atol=1e-5 * size)
    # Weights: their marginals, and that they are the minimum at their own potentials (the kernel's form).
    omega = np.float64(plan.weights)
    assert_allclose(omega.sum(1), source[0], atol=1e-5)
    assert_allclose(omega.sum(0), target[0], atol=1e-5)
    potentials = [
        np.float64(value) for value in (plan.weight_coupling.source_potential, plan.weight_coupling.target_potential)
    ]
    reduced = (potentials[0][:, None] + potentials[1][None] - np.float64(plan.component_objectives)) / float(
        epsilons[1]
    )
    slack = 1e-6 * size / problem["epsilon_weights"]
    # The density of the coupling is exp of the reduced costs: compared by logarithms where something weighs.
    product = np.outer(source[0], target[0])
    seen = (product > 0) & (omega > 1e-6)
    assert_allclose(np.log(omega[seen] / product[seen]), reduced[seen], atol=1e-2 + 3 * slack)
    # The map, from the plan's own shares.
    random = np.random.default_rng(0)
    x = np.float32(source[1][random.integers(0, K, 5)] + random.normal(size=(5, DIM))).astype(np.float64)
    log_joint = np.full((5, K), -np.inf)
    for i in np.flatnonzero(source[0] > 0):
        z = scipy.linalg.solve_triangular(source[2][i], (x - source[1][i]).T, lower=True)
        log_joint[:, i] = np.log(source[0][i]) - 0.5 * np.sum(z**2, 0) - np.log(np.diagonal(source[2][i])).sum()
    # Where no component is clearly nearest in float32 (squares of many standard deviations), nothing is compared.
    gap = np.sort(log_joint, axis=1)
    noise = 1e-4 * np.abs(gap[:, -1:])
    clear = ((gap[:, -1:] - gap[:, :-1] > 30) | (noise < 1e-2)).all(axis=1)
    member = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    member /= member.sum(axis=1, keepdims=True)
    shares = np.float64(plan.weight_coupling.row_shares)
    images = np.zeros((5, DIM))
    for i in range(K):
        gain = np.einsum("j,jde->de", shares[i], gains[i])
        images += member[:, i : i + 1] * (shares[i] @ target[1] + (x - source[1][i]) @ gain.T)
    found = np.float64(plan.push_forward(np.float32(x) * scale)) / np.float64(scale)
    assert np.isfinite(found).all()
    spread = np.abs(images).max() + np.abs(gains).max() * np.abs(x[:, None] - source[1][None]).max()
    assert_allclose(found[clear], images[clear], atol=2e-3 * spread)
    # The derivatives by the means: 2 sum_j omega_ij (m_i - m_j); by the factors: 2 (sum_j omega_ij (I - A_ij)) L_i.
    slope = slopes(*mixtures, *epsilons)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(slope))
    by_mean = 2 * np.einsum("ij,ijd->id", omega, source[1][:, None] - target[1][None])
    by_factor = np.tril(2 * np.einsum("ij,ijde,ief->idf", omega, np.eye(DIM) - gains, source[2]))
    assert_allclose(np.float64(slope.loc) / np.float64(scale), by_mean, rtol=1e-3, atol=1e-4 * np.sqrt(size))
    largest = np.abs(gains).max() * np.abs(source[2]).max() + np.sqrt(size)
    assert_allclose(
        np.tril(np.float64(slope.scale_tril)) / np.float64(scale), by_factor, rtol=1e-2, atol=1e-3 * largest
    )


@given(problems)
@QUICK
def test_plans_maps_and_derivatives_agree_with_formulas(problem):
    check_plan(problem)


@pytest.mark.slow
@given(problems)
@LONG
def test_plans_maps_and_derivatives_agree_with_formulas_at_length(problem):
    check_plan(problem)


data = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "scale": st.sampled_from([1e-12, 1e-3, 1.0, 1e7, 1e12]),
        "offset": st.sampled_from([0.0, 1.0, 1000.0]),
        "duplicates": st.booleans(),
        "column": st.sampled_from(["free", "constant", "copied"]),
        "weights": st.sampled_from(["none", "counts", "any", "mostly zero"]),
        "dtype": st.sampled_from(["float32", "float64"]),
        "family": st.sampled_from([Gaussian, DiagonalGaussian]),
    }
)


def check_fit(case):
    """What units, offsets and types do to a fit is what they do to the data."""
    random = np.random.default_rng(case["seed"])
    x = np.concatenate([random.normal(size=(30, 3)), random.normal(size=(30, 3)) + 5])
    if case["duplicates"]:
        x = np.repeat(x[::4], 4, axis=0)
    if case["column"] != "free":
        x[:, 2] = 0.5 if case["column"] == "constant" else x[:, 0]
    weight = {
        "none": None,
        "counts": random.integers(0, 3, 60),
        "any": random.exponential(size=60) * 1e-3,
        "mostly zero": np.where(random.uniform(size=60) < 0.3, 2.0, 0.0),
    }[case["weights"]]
    options = {"sample_weight": weight, "start": np.array([x[0], x[-1]])}
    moved = ((x + case["offset"]) * case["scale"]).astype(case["dtype"])
    start = (options["start"] + case["offset"]) * case["scale"]
    with jax.enable_x64(True):
        expected = omt.fit(jax.random.key(0), x, case["family"], 2, **options)
    fitted = omt.fit(jax.random.key(0), moved, case["family"], 2, **{**options, "start": start})
    rounding = 3e-7 * (1 + case["offset"]) * 10
    means = np.float64(fitted.mixture.components.mean()) / case["scale"] - case["offset"]
    assert_allclose(means, expected.mixture.components.mean(), atol=1e-3 + 10 * rounding)
    covariances = np.float64(fitted.mixture.components.covariance()) / np.float64(case["scale"]) ** 2
    wanted = np.asarray(expected.mixture.components.covariance())
    # A constant column has the ridge in its own units, whatever these are.
    free = slice(0, 2) if case["column"] == "constant" else slice(0, 3)
    assert_allclose(covariances[:, free, free], wanted[:, free, free], atol=5e-3 + 20 * rounding)
    assert_allclose(fitted.mixture.weights, expected.mixture.weights, atol=1e-3 + rounding)
    assert_allclose(fitted.effective_sizes, expected.effective_sizes, rtol=1e-2, atol=1e-2)


@given(data)
@QUICK
def test_fits_follow_their_data(case):
    check_fit(case)


@pytest.mark.slow
@given(data)
@LONG
def test_fits_follow_their_data_at_length(case):
    check_fit(case)
