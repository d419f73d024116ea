"""EM, against scikit-learn's trajectory, its likelihood on real data, and the laws that EM obeys."""

import functools
import statistics
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import omt_expfam as omt
from omt_expfam._fitting import problem
from omt_expfam._fitting.start import merge
from omt_expfam.families import DiagonalGaussian, Gaussian, LowRankGaussian, SphericalGaussian
from tests.cases import CASES, mixture

FAMILIES = {
    "Gaussian": Gaussian,
    "DiagonalGaussian": DiagonalGaussian,
    "SphericalGaussian": SphericalGaussian,
    "LowRankGaussian": omt.template(LowRankGaussian, rank=2),
}
PLAIN = {"covariance_prior": 0.0, "regularization": 0.0, "standardize": False}


def drawn(name="Gaussian", num=1000, dim=3):
    """Points of four components: as a rule, more than 512 and at most 1024, for which the same programs serve."""
    return _points(name, max(num, 1024), dim)[:num]


@functools.cache
def _points(name, num, dim):
    return np.asarray(mixture(name, 0, "float32", 4, dim).sample(jax.random.key(0), num), np.float64)


@pytest.mark.parametrize(
    ("family", "kind"), [(Gaussian, "full"), (DiagonalGaussian, "diag"), (SphericalGaussian, "spherical")]
)
def test_trajectory_is_scikit_learns(family, kind, x64):
    """From the same start, the same likelihood at every step and the same parameters at the end."""
    sklearn = pytest.importorskip("sklearn.mixture")
    x, rng = drawn(), np.random.default_rng(0)
    means = x[rng.choice(len(x), 4, replace=False)]
    shape = {"full": (4, 3, 3), "diag": (4, 3), "spherical": (4,)}[kind]
    precision = np.broadcast_to(np.eye(3), shape) if kind == "full" else np.ones(shape)
    model = sklearn.GaussianMixture(
        4,
        covariance_type=kind,
        tol=0.0,
        max_iter=25,
        means_init=means,
        weights_init=np.full(4, 0.25),
        precisions_init=precision.copy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x)
    start = omt.Mixture(np.full(4, 0.25), family(means, precision.copy()))
    settings = {**PLAIN, "regularization": 1e-6}
    fitted = omt.fit(jax.random.key(0), x, family, 4, start=start, tolerance=0.0, max_steps=25, throw=False, **settings)
    np.testing.assert_allclose(fitted.log_likelihoods, model.lower_bounds_, rtol=1e-9)
    np.testing.assert_allclose(fitted.mixture.weights, model.weights_, rtol=1e-6)
    np.testing.assert_allclose(fitted.mixture.components.mean(), model.means_, rtol=1e-6)
    covariance = np.asarray(fitted.mixture.components.covariance())
    theirs = model.covariances_
    if kind != "full":
        theirs = np.stack([np.diag(np.broadcast_to(c, 3)) for c in theirs])
    np.testing.assert_allclose(covariance, theirs, rtol=1e-6, atol=1e-9)
    assert float(fitted.bic) == pytest.approx(model.bic(x), rel=1e-9)
    assert float(fitted.aic) == pytest.approx(model.aic(x), rel=1e-9)


@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("dtype_inside", ["float64", "float32"])
def test_likelihood_rises_and_the_law_is_recovered(name, dtype_inside, x64):
    law = mixture(name, 2, num=2)
    x = np.asarray(law.sample(jax.random.key(0), 1024))
    settings = {} if dtype_inside == "float64" else {"tolerance": 2e-5}
    fitted = omt.fit(jax.random.key(1), x, FAMILIES[name], 2, dtype=dtype_inside, **settings)
    assert fitted.converged
    num = int(fitted.num_steps)
    trace = np.asarray(fitted.objectives)
    assert np.isnan(trace[num:]).all()
    # The objective rises but for rounding (and a ridge of 1e-6 that is not part of it).
    assert (np.diff(trace[:num]) > (-1e-6 if dtype_inside == "float64" else -2e-5)).all()
    np.testing.assert_allclose(fitted.effective_sizes.sum(), 1024, rtol=1e-4)
    np.testing.assert_allclose(fitted.log_likelihood, fitted.mixture.log_prob(x).mean(), rtol=1e-4)
    # The likelihood of the truth, within the 2n^-1 p of chi-squared fluctuations; prior costs included.
    truth = float(law.log_prob(x).mean())
    assert 1024 * float(fitted.log_likelihood - truth) > -8
    order = np.argsort(np.asarray(fitted.mixture.components.mean())[:, 0])
    target = np.argsort(np.asarray(law.components.mean())[:, 0])
    mean, expected = (
        np.asarray(m)[o] for m, o in ((fitted.mixture.components.mean(), order), (law.components.mean(), target))
    )
    spread = np.sqrt(np.einsum("kdd->kd", np.asarray(law.components.covariance()))[target])
    size = 1024 * np.asarray(law.weights)[target][:, None]
    assert (np.abs(mean - expected) < 6 * spread / np.sqrt(size)).all()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_without_prior_the_likelihood_itself_rises(name, x64):
    x = drawn(name)
    fitted = omt.fit(jax.random.key(0), x, FAMILIES[name], 3, start="k-means++", **PLAIN)
    trace = np.asarray(fitted.log_likelihoods)[: int(fitted.num_steps)]
    assert (np.diff(trace) > -1e-10).all()
    np.testing.assert_allclose(fitted.log_likelihoods, fitted.objectives, rtol=1e-12)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_sample_weights_are_repetitions(name, x64):
    x, rng = drawn(name, 600), np.random.default_rng(1)
    counts = rng.integers(0, 4, len(x))
    assert 600 < counts.sum() <= 1024
    # Plain steps: longer ones enlarge differences of rounding.
    settings = {"standardize": False, "tolerance": 0.0, "max_steps": 60, "throw": False}
    start = x[:3]
    weighted = omt.fit(jax.random.key(0), x, FAMILIES[name], 3, start=start, sample_weight=counts, **settings)
    repeated = omt.fit(jax.random.key(0), np.repeat(x, counts, axis=0), FAMILIES[name], 3, start=start, **settings)
    np.testing.assert_allclose(weighted.mixture.components.mean(), repeated.mixture.components.mean(), rtol=1e-6)
    np.testing.assert_allclose(weighted.log_likelihood, repeated.log_likelihood, rtol=1e-9)
    assert float(weighted.total_weight) == counts.sum()


@pytest.mark.parametrize("name", list(FAMILIES))
def test_chunks_change_nothing(name, x64):
    x = drawn(name, 1024)  # as many points as they would be padded to: what fills the last chunk must not count
    whole = omt.fit(jax.random.key(0), x, FAMILIES[name], 3)
    parts = omt.fit(jax.random.key(0), x, FAMILIES[name], 3, chunk_size=130)
    np.testing.assert_allclose(parts.mixture.components.mean(), whole.mixture.components.mean(), rtol=1e-7)
    np.testing.assert_allclose(parts.log_likelihood, whole.log_likelihood, rtol=1e-10)


def test_float64_inside_leaves_global_flags_alone():
    x = drawn().astype(np.float32)
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 3)
    assert not jax.config.jax_enable_x64
    assert fitted.mixture.weights.dtype == jnp.float32
    assert jnp.asarray(1.0).dtype == jnp.float32


def test_tight_components_far_from_the_origin():
    """A cluster a thousand times tighter than the cloud, and data far from zero: both precisions keep their digits."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((500, 2)), [0.5, -0.3] + 1e-3 * rng.standard_normal((500, 2))]) + 1e3
    for inside in ("float64", "float32"):
        fitted = omt.fit(jax.random.key(0), x, Gaussian, 2, covariance_prior=0.0, regularization=1e-9, dtype=inside)
        scale = np.sort(np.sqrt(np.asarray(fitted.mixture.components.covariance())[:, 0, 0]))
        assert scale[0] == pytest.approx(1e-3, rel=0.15)
        assert scale[1] == pytest.approx(1.0, rel=0.15)


def test_standardization_makes_units_irrelevant(x64):
    x = drawn()
    unit = np.array([1e-4, 1.0, 1e5])
    plain = omt.fit(jax.random.key(0), x, Gaussian, 3)
    scaled = omt.fit(jax.random.key(0), x * unit + unit, Gaussian, 3)
    expected = plain.mixture.components.mean() * unit[None] + unit[None]
    np.testing.assert_allclose(scaled.mixture.components.mean(), expected, rtol=1e-6)
    assert float(scaled.log_likelihood) == pytest.approx(float(plain.log_likelihood) - np.log(unit).sum(), rel=1e-9)
    assert int(scaled.num_steps) == int(plain.num_steps)


def test_empty_and_collapsing_components(x64):
    """Two components started where no data are, and more components than distinct points."""
    x = drawn()
    start = np.concatenate([x[:2], np.full((2, 3), 1e4)])
    fitted = omt.fit(jax.random.key(0), x, Gaussian, 4, start=start)
    assert (np.asarray(fitted.effective_sizes) > 1).all()
    few = np.repeat(x[:3], 20, axis=0)
    fitted = omt.fit(jax.random.key(0), few, DiagonalGaussian, 5)
    assert np.isfinite(float(fitted.log_likelihood))
    assert np.isfinite(np.asarray(fitted.mixture.log_prob(few))).all()
    constant = np.c_[x[:, :2], np.full(len(x), 7.0)]
    fitted = omt.fit(jax.random.key(0), constant, Gaussian, 2)
    np.testing.assert_allclose(fitted.mixture.components.mean()[:, 2], 7.0)


def test_merging_keeps_the_moments(x64):
    """Also: always the cheapest pair goes, by brute force over Runnalls' bound; light components are cheap to all."""
    law = mixture("Gaussian", 3, num=8)
    law = omt.Mixture(np.array([0.3, 1e-4, 0.2, 0.2, 2e-4, 0.1, 0.1994, 3e-4]), law.components)
    merged_to = jax.jit(lambda num: merge(law.weights, law.components, jnp.asarray(8), num))
    weights, merged = merged_to(5)
    assert (np.asarray(weights) > 0).tolist() == [True] * 5 + [False] * 3
    result = omt.Mixture(weights[:5], merged.select(slice(5)))
    np.testing.assert_allclose(result.mean(), law.mean(), rtol=1e-10)
    np.testing.assert_allclose(result.covariance(), law.covariance(), rtol=1e-10)
    left = list(zip(*map(np.asarray, (law.weights, law.components.mean(), law.components.covariance())), strict=True))
    for num in (7, 6, 5, 4, 3, 2):
        costs = {}
        for j in range(len(left)):
            for i in range(j):
                joint = _both(left[i], left[j])
                parts = [(w, np.linalg.slogdet(s)[1]) for w, _, s in (joint, left[i], left[j])]
                costs[i, j] = 0.5 * (parts[0][0] * parts[0][1] - sum(w * log_det for w, log_det in parts[1:]))
        i, j = min(costs, key=costs.get)
        left[i] = _both(left[i], left.pop(j))
        found = merged_to(num)
        np.testing.assert_allclose(np.asarray(found[0])[:num], [w for w, *_ in left], rtol=1e-12)
        np.testing.assert_allclose(np.asarray(found[1].mean())[:num], [m for _, m, _ in left], rtol=1e-9)


def _both(one, other):
    """Weight, mean and covariance of two components as one."""
    (v, m, s), (w, n, t) = one, other
    total, gap = v + w, m - n
    return total, (v * m + w * n) / total, (v * s + w * t) / total + np.outer(gap, gap) * v * w / total**2


@pytest.mark.parametrize("inside", ["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "num", "size"),
    [("Gaussian", 3, 600), ("DiagonalGaussian", 5, 600), ("LowRankGaussian", 2, 300), ("SphericalGaussian", 1, 5200)],
)
def test_padding_changes_nothing(name, num, size, inside, monkeypatch, x64):
    """Without room for more points and components: the same steps, the same evidence, the same mixture."""
    x = drawn(name, size).astype(inside)
    weight = np.random.default_rng(0).uniform(0.5, 2, size)
    settings = {"dtype": inside, "sample_weight": weight, "tolerance": 1e-5 if inside == "float64" else 1e-4}
    padded = omt.fit(jax.random.key(0), x, FAMILIES[name], num, **settings)
    monkeypatch.setattr(problem, "point_bucket", lambda count: count)
    monkeypatch.setattr(problem, "_slots", lambda *arguments: arguments[3])
    monkeypatch.setattr(problem, "_start_slots", lambda template, count: 2 * count)
    plain = omt.fit(jax.random.key(0), x, FAMILIES[name], num, **settings)
    assert int(padded.num_steps) == int(plain.num_steps)
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if inside == "float64" else {"rtol": 1e-5, "atol": 1e-5}
    for ours, theirs in zip(jax.tree.leaves(padded), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, **tolerance)
    assert float(padded.bic) == pytest.approx(float(plain.bic), rel=1e-6)


def test_merging_finds_better_optima_than_k_means(x64):
    """Twelve components in eight dimensions: the default start loses to no k-means++ start."""
    law = mixture("Gaussian", 5, num=12, dim=8)
    x = np.asarray(law.sample(jax.random.key(0), 3000))
    merged = omt.fit(jax.random.key(0), x, Gaussian, 12)
    others = [omt.fit(jax.random.key(k), x, Gaussian, 12, start="k-means++") for k in range(3)]
    assert float(merged.log_likelihood) >= max(float(o.log_likelihood) for o in others) - 0.02


def test_starts_are_reproducible_and_the_best_of_several_wins(x64):
    x = drawn()
    once, again = (omt.fit(jax.random.key(4), x, Gaussian, 5, start="k-means++") for _ in range(2))
    np.testing.assert_array_equal(once.mixture.weights, again.mixture.weights)
    several = omt.fit(jax.random.key(4), x, Gaussian, 5, start="k-means++", num_starts=4)
    assert float(several.log_likelihood) >= float(once.log_likelihood) - 0.05


@pytest.mark.parametrize("criterion", ["bic", pytest.param("held_out", marks=pytest.mark.slow)])
def test_number_of_components_is_found(criterion, x64):
    centers = np.array([[0, 0], [6, 0], [0, 6], [6, 6]])
    rng = np.random.default_rng(0)
    x = centers[rng.integers(0, 4, 600)] + rng.standard_normal((600, 2))
    chosen = omt.select_num_components(
        jax.random.key(0), x, DiagonalGaussian, [2, 4, 6], criterion=criterion, num_folds=3
    )
    assert chosen.num_components == 4
    assert chosen.fit.mixture.num_components == 4
    assert "<- chosen" in str(chosen)
    # Converged, and as good as a fit by itself.
    alone = omt.fit(jax.random.key(1), x, DiagonalGaussian, 4)
    assert chosen.fit.converged
    assert float(chosen.fit.bic) == pytest.approx(float(alone.bic), abs=0.5)
    if criterion == "bic":
        assert chosen.scores[1] == float(chosen.fit.bic)
    assert len(chosen.scores) == 3


@pytest.mark.slow
def test_held_out_scores_are_those_of_left_out_points(x64):
    x = drawn(num=500)
    chosen = omt.select_num_components(jax.random.key(0), x, Gaussian, [3], criterion="held_out", num_folds=4)
    inside = float(chosen.fit.log_likelihood)
    assert inside - 0.5 < float(chosen.scores[0]) < inside
    assert chosen.standard_errors[0] > 0


def test_leaving_one_out_is_done_by_hand(x64):
    """One normal law and as many folds as points: every score in closed form, whatever the order of the folds."""
    x = drawn(num=12, dim=1)
    options = {"criterion": "held_out", "num_folds": len(x), "start": "k-means++", **PLAIN}
    chosen = omt.select_num_components(jax.random.key(0), x, DiagonalGaussian, [1], **options)
    scores = []
    for i in range(len(x)):
        rest = np.delete(x, i)
        scores.append(scipy.stats.norm(rest.mean(), rest.std()).logpdf(x[i, 0]))
    np.testing.assert_allclose(chosen.scores[0], np.mean(scores), rtol=1e-9)
    np.testing.assert_allclose(chosen.standard_errors[0], statistics.stdev(scores) / np.sqrt(len(x)), rtol=1e-9)


@pytest.mark.parametrize("family", [Gaussian, DiagonalGaussian])
def test_objective_holds_the_whole_prior(family, x64):
    """One component: -c/2 (log det S + d) of c pseudo-observations with the spread S of the data, beside n points."""
    x, strength = drawn(num=100), 7.0
    options = {**PLAIN, "covariance_prior": strength, "start": "k-means++"}
    fitted = omt.fit(jax.random.key(0), x, family, 1, **options)
    spread = np.cov(x.T, bias=True) if family is Gaussian else np.diag(x.var(0))
    likelihood = scipy.stats.multivariate_normal(x.mean(0), spread).logpdf(x).mean()
    prior = -strength / 2 * (np.linalg.slogdet(spread)[1] + 3) / len(x)
    found = np.asarray(fitted.objectives)[int(fitted.num_steps) - 1]
    np.testing.assert_allclose(found, likelihood + prior, rtol=1e-9)


def test_components_serve_as_a_template(x64):
    """Only their fixed parameters count: the same fit as with a template of that rank."""
    parts = mixture("LowRankGaussian", 0).components
    x = drawn("LowRankGaussian")
    named = omt.fit(jax.random.key(0), x, FAMILIES["LowRankGaussian"], 3)
    meant = omt.fit(jax.random.key(0), x, parts, 3)
    np.testing.assert_array_equal(meant.mixture.components.factor, named.mixture.components.factor)


def test_no_convergence_raises_or_is_returned():
    with pytest.raises(omt.ConvergenceError, match="^EM stopped at `max_steps`"):
        omt.fit(jax.random.key(0), drawn(), Gaussian, 4, max_steps=2)
    fitted = omt.fit(jax.random.key(0), drawn(), Gaussian, 4, max_steps=2, throw=False)
    assert not fitted.converged
    assert int(fitted.num_steps) == 2


@pytest.mark.slow
@pytest.mark.optimized
def test_real_data_at_least_scikit_learns(data_dir):
    """Control cells of Kang et al. 2018, 16 principal components, K = 10: held-out likelihood over five splits."""
    sklearn = pytest.importorskip("sklearn.mixture")
    z = np.load(data_dir / "kang_ifnb" / "kang_ifnb.npz")
    x = z["pca"][z["stim"] == 0, :16].astype(np.float64)
    ours, theirs = [], []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(x))
        train, test = x[order[:8000]], x[order[8000:]]
        fitted = omt.fit(jax.random.key(seed), train, Gaussian, 10)
        ours.append(float(fitted.mixture.log_prob(test).mean()))
        theirs.append(sklearn.GaussianMixture(10, random_state=seed).fit(train).score(test))
    assert np.mean(ours) >= np.mean(theirs)
    assert min(ours) >= min(theirs)


def test_a_fit_without_finite_likelihood_is_reported():
    """Three components on two distinct points, with both safeguards off."""
    x = np.array([[0.0], [0.0], [1.0], [1.0]])
    options = {"covariance_prior": 0.0, "regularization": 0.0}
    failed = omt.fit(jax.random.key(0), x, Gaussian, 3, throw=False, **options)
    assert failed.result == omt.RESULTS.fit_not_finite
    with pytest.raises(omt.ConvergenceError, match="log-likelihood that is not finite"):
        omt.fit(jax.random.key(0), x, Gaussian, 3, **options)


def test_families_are_all_covered():
    elsewhere = {"Laplace", "AsymmetricLaplace", "Exponential", "ExponentialPower"}  # test_location_families.py
    elsewhere |= {"Gamma", "LogNormal", "Beta"}  # test_fit_families.py
    elsewhere |= {"Binomial", "NegativeBinomial", "Poisson"}  # test_fit_counts.py
    elsewhere |= {"StudentT", "DiagonalStudentT"}  # test_fit_student.py
    elsewhere |= {"VonMises"}  # test_fit_angles.py
    elsewhere |= {"Categorical"}  # test_fit_categories.py
    assert set(FAMILIES) | elsewhere == set(CASES)
