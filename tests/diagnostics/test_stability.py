"""Stability studies and their envelope, against closed forms, exact distances and hand-made data."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import omt_expfam as omt
from omt_expfam.diagnostics import (
    AbstractPerturbation,
    Dropout,
    GaussianNoise,
    MassShift,
    MixtureTransport,
    Outliers,
    Reseeding,
    Subsampling,
)
from omt_expfam.diagnostics._distances import cloud_distances, gelbrich_distance, mixture_distances, weights_change
from omt_expfam.diagnostics._envelope import fit_envelope
from omt_expfam.diagnostics._stability import COLUMNS, stability
from omt_expfam.families import DiagonalGaussian, Gaussian, Laplace
from omt_expfam.plot import _stability as pictures
from tests.pictures import cut

EPSILON = 0.3


def draw(seed, num=80):
    """Points on both sides, in float32."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, 2)) @ [[1.5, 0.4], [0.0, 0.7]] + [1.0, 2.0]
    y = rng.standard_normal((num, 2)) @ [[0.6, 0.0], [0.5, 1.2]] - [2.0, 1.0]
    return x.astype(np.float32), y.astype(np.float32)


X, Y = draw(0)


def key(seed=7):
    """A fresh key: JAX refuses one that was used."""
    return jax.random.key(seed)


class Scaling(AbstractPerturbation):
    """All points times a factor."""

    factor: float
    keeps_rows = True

    def __call__(self, key, x, mixture):
        return x * jnp.asarray(self.factor, x.dtype)


class Translation(AbstractPerturbation):
    """All points moved along the diagonal."""

    step: float
    keeps_rows = True

    def __call__(self, key, x, mixture):
        return x + jnp.asarray(self.step, x.dtype)


def moments(points):
    host = np.asarray(points, np.float64)
    return host.mean(0), np.cov(host.T, bias=True)


def one_gaussian(key, x, y):
    """The transport between the Gaussians with the moments of the points."""
    sides = [omt.Mixture([1.0], Gaussian(mean[None], cov[None])) for mean, cov in map(moments, (x, y))]
    return omt.transport(*sides, epsilon_components=EPSILON, epsilon_weights=1.0)


def linear_map(x, y):
    """The entropic map of two Gaussians and its cost, by SciPy's matrix square roots."""
    (m0, s0), (m1, s1) = moments(x), moments(y)
    root = scipy.linalg.sqrtm(s0)
    inner = scipy.linalg.sqrtm(root @ s1 @ root + (EPSILON / 4) ** 2 * np.eye(2)) - EPSILON / 4 * np.eye(2)
    a = np.linalg.inv(root) @ inner @ np.linalg.inv(root)
    cost = ((m0 - m1) ** 2).sum() + np.trace(s0) + np.trace(s1) - 2 * np.trace(inner)
    return lambda p: m1 + (np.asarray(p, np.float64) - m0) @ a.T, cost


def affine(key, x, y):
    """A map without any mixture: means and scales are matched."""
    x, y = (np.asarray(p, np.float64) for p in (x, y))
    return lambda p: y.mean(0) + (np.asarray(p) - x.mean(0)) * y.std(0) / x.std(0)


def columns(study):
    return {name: getattr(study, name) for name in COLUMNS if name != "seconds"}


# -- what is measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["source", "target"])
def test_one_gaussian_is_measured_exactly(side):
    def truth(p):
        return 2 * np.asarray(p)

    perturbations = [Scaling(1.0), Scaling(1.3), Translation(0.5)]
    study = stability(key(), X, Y, one_gaussian, perturbations, num_repeats=2, true_map=truth, side=side)
    before, cost = linear_map(X, Y)
    assert np.isclose(study.reference_cost, cost, rtol=1e-4)
    assert (study.displacement[0] == 0).all()
    assert (study.w2_upper[0] == 0).all()
    for row, change in ((1, lambda p: 1.3 * p), (2, lambda p: p + 0.5)):
        changed = change(np.float64(X if side == "source" else Y))
        after, new_cost = linear_map(changed, Y) if side == "source" else linear_map(X, changed)
        expected = np.linalg.norm(before(X) - after(X), axis=1).mean()
        np.testing.assert_allclose(study.displacement[row], expected, rtol=1e-4)
        np.testing.assert_allclose(study.cost_change[row], new_cost / cost - 1, rtol=1e-3, atol=1e-5)
        errors = [((f(X) - truth(np.float64(X))) ** 2).sum(1).mean() for f in (before, after)]
        np.testing.assert_allclose(study.mse_change[row], errors[1] / errors[0] - 1, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(study.weights_change[row], 0, atol=1e-6)
        # One component each: the mixture distance, the moments' distance and W2 are one.
        points = np.float64(X if side == "source" else Y)
        exact = np.sqrt(((changed - points) ** 2).sum(1).mean())
        for name in ("w2_lower", "w2", "w2_upper"):
            np.testing.assert_allclose(getattr(study, name)[row], exact, rtol=1e-4)
    assert study.converged.all()
    assert study.kinds == ("Scaling", "Scaling", "Translation")
    np.testing.assert_allclose(study.sizes, [1.0, 1.3, 0.5])


def test_a_map_without_mixtures():
    study = stability(key(), X, Y, affine, [GaussianNoise(0.0), GaussianNoise(0.5), Subsampling(0.25)], num_repeats=3)
    noise_key = jax.random.split(key(), 4)[1]
    for repeat in range(3):
        noisy = GaussianNoise(0.5)(jax.random.fold_in(noise_key, repeat), jnp.asarray(X), None)
        expected = np.linalg.norm(affine(None, X, Y)(X) - affine(None, noisy, Y)(X), axis=1).mean()
        assert np.isclose(study.displacement[1, repeat], expected, rtol=1e-6)
        assert np.isclose(study.w2_upper[1, repeat], np.sqrt(((noisy - X) ** 2).sum(1).mean()), rtol=1e-6)
    assert (study.displacement[0] == 0).all()
    assert (study.w2[0] == 0).all()
    assert (study.w2_lower <= study.w2).all()
    assert (study.w2[:2] <= study.w2_upper[:2]).all()
    for name in ("weights_change", "cost", "cost_change", "mse"):
        assert np.isnan(getattr(study, name)).all()
    assert np.isnan(study.w2_upper[2]).all()
    assert "weights" not in study.summary()


def test_a_fitted_map_is_a_method():
    """`fit_brenier` with settings, as it is; its images are those of its map."""
    fit: Any = functools.partial(omt.fit_brenier, num_members=1, num_layers=2, width=4, num_steps=3, batch_size=16)
    study = stability(key(), X, Y, fit, [GaussianNoise(0.0), Scaling(2.0)], num_repeats=1)
    assert study.displacement[0, 0] == 0
    assert 0.2 < study.displacement[1, 0] < 5
    assert study.converged.all()


def test_the_repeats_share_their_noise():
    study = stability(key(), X, Y, affine, [GaussianNoise(0.1), GaussianNoise(0.2)], num_repeats=2)
    np.testing.assert_allclose(study.w2_upper[1], 2 * study.w2_upper[0], rtol=1e-5)
    assert study.w2_upper[0, 0] != study.w2_upper[0, 1]


METHOD = MixtureTransport(
    Gaussian,
    1,
    epsilon_components=EPSILON,
    epsilon_weights=1.0,
    fit_options={"covariance_prior": 0.0, "regularization": 0.0},
)


def test_a_mixture_is_refitted_on_the_disturbed_side_only(monkeypatch):
    from omt_expfam._pipelines import mixture_transport

    fitted, original = [], mixture_transport.fit

    def counted(key, x, *rest, **options):
        fitted.append(np.asarray(x))
        return original(key, x, *rest, **options)

    monkeypatch.setattr(mixture_transport, "fit", counted)
    study = stability(key(), X, Y, METHOD, [GaussianNoise(0.0), Scaling(1.3), Reseeding()], num_repeats=2)
    assert len(fitted) == 2 + 6
    assert sum(np.array_equal(points, Y) for points in fitted) == 1
    assert (study.displacement[0] == 0).all()
    assert (study.weights_change[0] == 0).all()
    expected = stability(key(), X, Y, one_gaussian, [Scaling(1.3)], num_repeats=1)
    np.testing.assert_allclose(study.displacement[1], expected.displacement[0, 0], rtol=1e-4)
    # The fit of a single component has one optimum, whatever its start.
    np.testing.assert_allclose(study.displacement[2], 0, atol=1e-5)
    # The reference is the method itself, called with a key.
    plan = METHOD(jax.random.split(key(), 4)[0], X, Y)
    assert study.reference_cost == float(plan.cost)


def test_relabelled_weights_do_not_change():
    source = omt.Mixture([0.2, 0.3, 0.5], DiagonalGaussian([[0.0], [3.0], [9.0]], [[1.0], [0.5], [2.0]]))
    target = omt.Mixture([0.6, 0.4], DiagonalGaussian([[1.0], [7.0]], [[1.0], [1.5]]))
    options = {"epsilon_components": 0.1, "epsilon_weights": 2.0}
    plan = omt.transport(source, target, **options)
    moved = omt.transport(source.select([2, 0, 1]), target.select([1, 0]), **options)
    assert weights_change(plan, moved) < 1e-5
    lighter = omt.Mixture([0.1, 0.4, 0.5], source.components)
    other = omt.transport(lighter, target, **options)
    assert np.isclose(weights_change(plan, other), np.abs(plan.weights - other.weights).sum(), atol=1e-6)
    assert np.isnan(weights_change(plan, plan.reverse()))


# -- distances --------------------------------------------------------------------------------------------------------


def line_distance(first, second):
    """W2 on the line by quantiles, from the densities on a fine grid."""
    grid = np.linspace(-30, 40, 200_001)
    levels = (np.arange(100_000) + 0.5) / 100_000
    quantiles = []
    for mixture in (first, second):
        density = np.exp(np.asarray(mixture.log_prob(grid[:, None]), np.float64))
        distribution = np.cumsum(density) / density.sum()
        quantiles.append(np.interp(levels, distribution, grid))
    return np.sqrt(np.mean((quantiles[0] - quantiles[1]) ** 2))


@pytest.mark.parametrize("family", [DiagonalGaussian, pytest.param(Laplace, marks=pytest.mark.slow)])
def test_bounds_enclose_the_distance_on_the_line(family):
    first = omt.Mixture([0.3, 0.7], family([[0.0], [4.0]], [[1.0], [1.5]]))
    for second in (
        omt.Mixture([0.5, 0.5], family([[0.5], [6.0]], [[0.5], [1.0]])),
        omt.Mixture([0.7, 0.3], family([[1.0], [8.0]], [[2.0], [1.5]])),
    ):
        exact = line_distance(first, second)
        found = mixture_distances(key(), first, second)
        assert found.lower <= exact * (1 + 1e-4)
        assert exact <= found.upper * (1 + 1e-4)
        assert found.lower <= found.estimate <= found.upper
        # The mean square of 1000 points spreads by a few percent.
        assert np.isclose(found.estimate, exact, rtol=0.1)


def test_a_translation_is_known_exactly():
    first = omt.Mixture([0.3, 0.7], DiagonalGaussian([[0.0], [4.0]], [[1.0], [1.5]]))
    second = omt.Mixture([0.3, 0.7], DiagonalGaussian([[1e-3], [4.001]], [[1.0], [1.5]]))
    np.testing.assert_allclose(mixture_distances(key(), first, second), 1e-3, rtol=1e-3)
    clouds = np.float64(X), np.float64(X) + [0.3, 0.4]
    np.testing.assert_allclose(cloud_distances(*clouds, paired=True), 0.5, rtol=1e-9)
    lower, estimate, upper = cloud_distances(clouds[0], clouds[1][::-1], paired=False)
    np.testing.assert_allclose([lower, estimate], 0.5, rtol=1e-9)
    assert np.isnan(upper)


def test_the_distance_of_normal_laws():
    rng = np.random.default_rng(3)
    a, b = (m @ np.swapaxes(m, 1, 2) for m in rng.standard_normal((2, 4, 3, 3)))
    found = gelbrich_distance(np.zeros((4, 3)), a, np.ones((4, 3)), b)
    for k in range(4):
        root = scipy.linalg.sqrtm(a[k])
        cross = np.trace(scipy.linalg.sqrtm(root @ b[k] @ root)).real
        assert np.isclose(found[k] ** 2, 3 + np.trace(a[k]) + np.trace(b[k]) - 2 * cross, rtol=1e-9)
    assert gelbrich_distance(np.zeros(3), a[0], np.zeros(3), a[0]) < 1e-12


# -- failures and files -----------------------------------------------------------------------------------------------


class Failing:
    """The affine map, failing at one call, or interrupted there."""

    def __init__(self, at, error):
        self.at, self.error, self.calls = at, error, 0

    def __call__(self, key, x, y):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return affine(key, x, y)


def test_failed_runs_are_recorded_or_raised():
    perturbations = [GaussianNoise(0.1), GaussianNoise(0.2)]
    study = stability(
        key(), X, Y, Failing(3, ValueError("no luck")), perturbations, num_repeats=2, throw=False, true_map=X
    )
    assert study.failed.tolist() == [[False, True], [False, False]]
    assert study.reasons == (("", "no luck"), ("", ""))
    assert not study.converged[0, 1]
    assert np.isnan(study.mse[0, 1])
    assert "1 failed" in repr(study)
    assert fit_envelope(study).violations() == ()
    with pytest.raises(ValueError, match="no luck") as caught:
        stability(key(), X, Y, Failing(3, ValueError("no luck")), perturbations, num_repeats=2)
    assert "repeat 1 of GaussianNoise(sigma=0.1)" in caught.value.__notes__[0]
    # A mistake in a program is never a row, and neither is a failure of the reference.
    with pytest.raises(NameError):
        stability(key(), X, Y, Failing(3, NameError("oops")), perturbations, num_repeats=2, throw=False)
    with pytest.raises(ValueError, match="no luck"):
        stability(key(), X, Y, Failing(1, ValueError("no luck")), perturbations, num_repeats=2, throw=False)


def test_images_that_are_not_finite_are_a_failure():
    def method(key, x, y):
        return lambda p: np.asarray(p) * (np.nan if float(np.abs(x).max()) > 100 else 1.0)

    study = stability(key(), X, Y, method, [Scaling(1000.0)], num_repeats=1, throw=False)
    assert "not finite" in study.reasons[0][0]


def test_a_plan_that_did_not_converge_is_marked():
    def method(key, x, y):
        return eqx.tree_at(
            lambda p: p.weight_coupling.result, one_gaussian(key, x, y), omt.RESULTS.weights_not_converged
        )

    study = stability(key(), X, Y, method, [Scaling(1.1)], num_repeats=1)
    assert not study.converged.any()
    assert not study.failed.any()
    assert study.reasons[0][0].startswith("The weight coupling stopped")


def test_a_resumed_study_is_the_same(tmp_path):
    path, calls, stop = tmp_path / "study.omt", [], [5]

    def method(key, x, y):
        calls.append(0)
        if len(calls) == stop[0]:
            raise KeyboardInterrupt
        return affine(key, x, y)

    options = {"num_repeats": 3, "true_map": 2 * X, "checkpoint": path}
    perturbations = [GaussianNoise(0.1), Dropout(0.3)]
    whole = stability(key(), X, Y, affine, perturbations, num_repeats=3, true_map=2 * X)
    with pytest.raises(KeyboardInterrupt):
        stability(key(), X, Y, method, perturbations, **options)
    stop[0] = 0
    calls.clear()
    resumed = stability(key(), X, Y, method, perturbations, **options)
    # Of six runs three were left, and the reference is made again to compare with.
    assert len(calls) == 4
    for name, values in columns(whole).items():
        np.testing.assert_array_equal(getattr(resumed, name), values, err_msg=name)
    assert resumed.reasons == whole.reasons
    # A complete file answers alone; a longer study reuses it.
    calls.clear()
    again = stability(key(), X, Y, method, perturbations, **options)
    assert not calls
    np.testing.assert_array_equal(again.displacement, whole.displacement)
    np.testing.assert_array_equal(again.seconds, resumed.seconds)
    longer = stability(key(), X, Y, method, [*perturbations, Reseeding()], **{**options, "num_repeats": 4})
    assert len(calls) == 1 + 2 + 4
    np.testing.assert_array_equal(longer.displacement[:2, :3], whole.displacement)


def test_a_file_of_another_study_is_refused(tmp_path):
    path, noise = tmp_path / "study.omt", [GaussianNoise(0.1)]

    def scaled(factor):
        images = affine(None, X, Y)
        return lambda key, x, y: lambda p: factor.value * images(p)

    class Factor:
        value = 1.0

    method = scaled(Factor)
    stability(key(), X, Y, method, noise, num_repeats=1, checkpoint=path)
    for change, word in (
        ({"x": X + 1}, "`x`"),
        ({"y": Y + 1}, "`y`"),
        ({"key": jax.random.key(8)}, "`key`"),
        ({"method": affine}, "`method`"),
        ({"points": X[:5]}, "`points`"),
        ({"true_map": X}, "`true_map`"),
        ({"side": "target"}, "`side`"),
    ):
        given = {"key": key(), "x": X, "y": Y, "method": method, "num_repeats": 1, "checkpoint": path} | change
        with pytest.raises(ValueError, match=f"`checkpoint` .* holds a study of other inputs: {word}"):
            stability(perturbations=noise, **given)
    # What the file cannot see in a function shows in the images on undisturbed data.
    Factor.value = 2.0
    with pytest.raises(ValueError, match="`checkpoint` .* holds runs of another method"):
        stability(key(), X, Y, method, [*noise, GaussianNoise(0.2)], num_repeats=1, checkpoint=path)
    omt.save(path, {"a": 1})
    with pytest.raises(ValueError, match="`checkpoint` must be a file of this kind of study"):
        stability(key(), X, Y, method, noise, num_repeats=1, checkpoint=path)


# -- results ----------------------------------------------------------------------------------------------------------


def test_a_study_as_a_dataset():
    import arviz
    import xarray

    study = stability(key(), X, Y, affine, [GaussianNoise(0.1), Dropout(0.3)], num_repeats=3, true_map=2 * X)
    data = study.to_dataset()
    assert data.sizes == {"perturbation": 2, "repeat": 3}
    assert data["displacement"].attrs["units"] == "units of the data"
    assert data.attrs["side"] == "source"
    np.testing.assert_array_equal(data["mse"], study.mse)
    mean = data["displacement"].mean("repeat")
    assert np.isclose(mean.sel(perturbation="Dropout(probability=0.3)"), study.displacement[1].mean())
    assert set(data.where(data["kind"] == "Dropout", drop=True)["size"].values) == {0.3}
    tree = xarray.DataTree.from_dict({"stability": data})
    assert tree["stability"].to_dataset().equals(data)
    draws = data[["displacement", "mse_change"]].rename(perturbation="chain", repeat="draw").drop_vars(["kind", "size"])
    assert "mse_change" in arviz.summary(draws.assign_coords(chain=[0, 1]), kind="stats").index


def test_a_part_of_a_study_and_its_table():
    study = stability(key(), X, Y, affine, [GaussianNoise(0.1), Dropout(0.3), GaussianNoise(0.2)], num_repeats=2)
    part = study.select("GaussianNoise")
    assert part.perturbations == ("GaussianNoise(sigma=0.1)", "GaussianNoise(sigma=0.2)")
    np.testing.assert_array_equal(part.displacement, study.displacement[[0, 2]])
    assert part.num_points == study.num_points
    assert repr(part) == "Stability(2 perturbations of the source, 2 repeats)"
    assert f"{part.displacement[0].mean():.3g} +- {part.displacement[0].std(ddof=1):.2g}" in part.summary()
    with pytest.raises(ValueError, match="`kinds` must be among GaussianNoise, Dropout; got 'Noise'"):
        study.select("Noise")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": 0}, TypeError, "`key` must be a random key"),
        ({"x": X[0]}, ValueError, r"`x` must have shape \[n, d\]"),
        ({"x": X[:0]}, ValueError, "`x` must have at least one point"),
        ({"y": Y[:, :1]}, ValueError, r"`y` must have shape \[n, 2\]"),
        ({"y": np.full((3, 2), np.nan)}, ValueError, "`y` must be finite"),
        ({"method": 3}, TypeError, "`method` must be a MixtureTransport or a function; got int"),
        ({"method": lambda k, x, y: 3}, TypeError, "`method` must return a TransportPlan, a BrenierFit or"),
        ({"method": lambda k, x, y: lambda p: p[:, :1]}, ValueError, "`method` must return a map that sends points"),
        ({"perturbations": []}, ValueError, "`perturbations` must hold at least one perturbation; got none"),
        ({"perturbations": Dropout(0.1)}, TypeError, "`perturbations` must be a sequence"),
        ({"perturbations": [0.1]}, TypeError, "`perturbations` must hold perturbations such as"),
        ({"perturbations": [MassShift(0.1)]}, ValueError, "`MassShift` needs a method that fits a mixture"),
        ({"num_repeats": 0}, ValueError, "`num_repeats` must be at least 1; got 0"),
        ({"points": X[:, 0]}, ValueError, r"`points` must have shape \[n, d\]"),
        ({"points": X[:0]}, ValueError, "`points` must have at least one point"),
        ({"true_map": X[:3]}, ValueError, r"`true_map` must give images of shape \(80, 2\); got \(3, 2\)"),
        ({"warm_start": True}, TypeError, "`warm_start` needs a MixtureTransport as `method`; got function"),
        ({"side": "left"}, ValueError, '`side` must be "source" or "target"; got \'left\''),
        ({"checkpoint": "nowhere/study.omt"}, FileNotFoundError, "there is no folder"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    given = {"key": key(), "x": X, "y": Y, "method": affine, "perturbations": [GaussianNoise(0.1)]} | change
    with pytest.raises(error, match=message):
        stability(**given)


# -- the envelope -----------------------------------------------------------------------------------------------------


def test_a_known_envelope_is_recovered():
    w2 = np.array([0.04, 0.25, 1.0, 2.25])
    for a0, b0 in ((0.7, 0.4), (0.0, 0.4), (0.7, 0.0)):
        found = fit_envelope((w2, a0 * w2 + b0 * np.sqrt(w2)))
        np.testing.assert_allclose((found.a0, found.b0), (a0, b0), atol=1e-6)
        np.testing.assert_allclose(found.bound([4.0]), [4 * a0 + 2 * b0], rtol=1e-6)
        assert abs(found.mean_slack) < 1e-6
    still = fit_envelope((w2, 0 * w2))
    assert (still.a0, still.b0) == (0, 0)


def test_the_envelope_is_the_best_of_a_grid():
    rng = np.random.default_rng(4)
    w2 = rng.uniform(0.01, 2, (5, 6))
    displacement = (0.3 * w2 + 0.2 * np.sqrt(w2)) * rng.uniform(0.2, 1, w2.shape)
    found = fit_envelope((w2, displacement))
    assert found.violations() == ()
    assert (displacement <= found.bound(w2) * (1 + 1e-9)).all()
    # For each slope of a grid the smallest constant that covers the runs.
    slopes = np.linspace(0, 1, 2001)
    constants = np.maximum((displacement[None] - slopes[:, None, None] * w2) / np.sqrt(w2), 0).max(axis=(1, 2))
    heights = slopes * w2.mean() + constants * np.sqrt(w2).mean()
    slack = found.a0 * w2.mean() + found.b0 * np.sqrt(w2).mean()
    assert slack <= heights.min() * (1 + 1e-6)
    assert np.isclose(slack, heights.min(), rtol=1e-3)
    for value, (low, high) in ((found.a0, found.a0_interval), (found.b0, found.b0_interval)):
        assert low <= value <= high
    # A change of the unit of length changes b0 by its root only.
    scaled = fit_envelope((1000 * w2, 1000 * displacement))
    np.testing.assert_allclose((scaled.a0, scaled.b0), (found.a0, found.b0 * np.sqrt(1000)), rtol=1e-5, atol=1e-8)
    assert scaled.left_out_share == found.left_out_share


def test_violations_and_the_modulus():
    w2 = np.array([[1.0, 4.0], [9.0, np.nan]])
    displacement = np.array([[1.0, 5.0], [4.0, np.nan]])
    found = fit_envelope((w2, displacement))
    above = found.violations(0.5, 1.0)
    assert [(v.perturbation, v.repeat, v.w2, v.displacement, v.bound) for v in above] == [("row 0", 1, 4.0, 5.0, 4.0)]
    assert found.violations(0.5, 2.0) == ()
    r, largest = found.modulus()
    assert r.tolist() == [1.0, 4.0, 9.0]
    assert largest.tolist() == [1.0, 5.0, 5.0]
    # Without the second repeat the envelope does not cover it; without the first it does.
    assert found.left_out_share == 0.5
    assert np.isnan(fit_envelope((w2[:, :1], displacement[:, :1])).left_out_share)
    assert "a0" in repr(found)


def test_the_columns_of_a_study():
    study = stability(key(), X, Y, affine, [GaussianNoise(s) for s in (0.0, 0.1, 0.3)], num_repeats=4)
    safe, middle, large = (fit_envelope(study, column=c) for c in ("w2_lower", "w2", "w2_upper"))
    assert fit_envelope(study).column == "w2_lower"
    # Constants from lower bounds cover the runs whatever W2 is in between.
    for table in (study.w2, study.w2_upper):
        assert (study.displacement <= safe.bound(table) * (1 + 1e-9)).all()
    assert safe.perturbations == study.perturbations
    assert large.bound(1.0) <= middle.bound(1.0) <= safe.bound(1.0)


@pytest.mark.parametrize(
    ("study", "options", "error", "message"),
    [
        (3, {}, TypeError, r"`study` must be a Stability or a pair \(w2, displacement\); got int"),
        (([1.0], [1.0, 2.0]), {}, ValueError, r"`study` must hold two arrays of one shape"),
        (([np.nan], [np.nan]), {}, ValueError, "`study` must have at least one run"),
        (([-1.0], [1.0]), {}, ValueError, "that are not negative"),
        (([1.0], [np.inf]), {}, ValueError, "`study` must hold finite"),
        (
            ([0.0, 1.0], [1.0, 2.0]),
            {},
            ValueError,
            "a map that moved while given is 0: repeat 0 of row 0",
        ),
        (([1.0], [1.0]), {"num_bootstrap": 0}, ValueError, "`num_bootstrap` must be at least 1"),
        (([1.0], [1.0]), {"probability": 1.5}, ValueError, "`probability`"),
        (([1.0], [1.0]), {"seed": -1}, ValueError, "`seed` must be at least 0"),
    ],
)
def test_bad_observations_are_named(study, options, error, message):
    with pytest.raises(error, match=message):
        fit_envelope(study, **options)


def test_bad_arguments_of_the_envelope():
    study = stability(key(), X, Y, affine, [GaussianNoise(0.1)], num_repeats=2, side="target")
    with pytest.raises(ValueError, match="`study` must disturb the source"):
        fit_envelope(study)
    with pytest.raises(ValueError, match='`column` must be "w2_lower", "w2" or "w2_upper"; got \'w1\''):
        fit_envelope(study, column="w1")
    found = fit_envelope(([1.0], [1.0]))
    with pytest.raises(ValueError, match="`w2` must not be negative; got -1"):
        found.bound([-1.0])
    with pytest.raises(ValueError, match="`a0` must be a finite number at least 0"):
        found.violations(a0=-1.0)


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_curves_show_means_and_quantiles():
    noise = [GaussianNoise(s) for s in (0.3, 0.0, 0.1)]
    study = stability(key(), X, Y, affine, [*noise, Dropout(0.3)], num_repeats=5, true_map=2 * X)
    panel = pictures.stability_curves(study)
    assert not cut(panel.figure)
    curve, flat = panel.get_lines()
    # The sizes are sorted, and a kind with one size is a line across.
    np.testing.assert_allclose(curve.get_xdata(), [0, 0.1, 0.3])
    np.testing.assert_allclose(curve.get_ydata(), study.displacement.mean(axis=1)[[1, 2, 0]])
    np.testing.assert_allclose(flat.get_ydata(), study.displacement[3].mean())
    (band,) = panel.collections
    assert np.isclose(band.get_paths()[0].vertices[:, 1].max(), np.quantile(study.displacement[0], 0.9))
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["GaussianNoise", "Dropout"]
    axes = plt.subplots()[1]
    assert pictures.stability_curves(study, "mse_change", ax=axes, against="w2", label="mine") is axes
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), study.w2.mean(axis=1)[[1, 2, 0]])
    plt.close("all")
    with pytest.raises(ValueError, match="`quantity` must be one of w2_lower, .*; got 'map'"):
        pictures.stability_curves(study, "map")
    with pytest.raises(ValueError, match="`quantity` 'cost' was not recorded"):
        pictures.stability_curves(study, "cost")
    with pytest.raises(ValueError, match='`against` must be "size" or "w2"; got \'time\''):
        pictures.stability_curves(study, against="time")
    with pytest.raises(ValueError, match="`probability`"):
        pictures.stability_curves(study, probability=1.2)


def test_the_envelope_is_drawn_above_all_runs():
    study = stability(key(), X, Y, affine, [GaussianNoise(s) for s in (0.1, 0.3)], num_repeats=4)
    envelope = fit_envelope(study, column="w2")
    panel = pictures.modulus(study, envelope)
    assert not cut(panel.figure)
    steps, bound = panel.get_lines()
    places = np.asarray(panel.collections[0].get_offsets())
    np.testing.assert_allclose(np.sort(places[:, 0]), np.sort(study.w2.ravel()))
    assert (np.interp(places[:, 0], *bound.get_data()) >= 0.99 * places[:, 1]).all()
    assert np.isclose(max(steps.get_ydata()), study.displacement.max())
    assert len(pictures.modulus(envelope).get_lines()) == 2
    assert len(pictures.modulus(study).get_lines()) == 1
    plt.close("all")
    with pytest.raises(ValueError, match='`column` must be "w2_lower", "w2" or "w2_upper"'):
        pictures.modulus(study, column="cost")
    with pytest.raises(ValueError, match="`envelope` must be that of `study`"):
        pictures.modulus(study.select("GaussianNoise"), fit_envelope(([1.0], [1.0])))


# -- all together -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_perturbations_of_a_fitted_mixture(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300, 2)) + np.where(rng.random((300, 1)) < 0.5, [0, 0], [7, 0])
    y = rng.standard_normal((300, 2)) + np.where(rng.random((300, 1)) < 0.6, [0, 5], [6, 6])
    method = MixtureTransport(Gaussian, (2, 2), epsilon_components=0.05, epsilon_weights=0.05)
    perturbations = [
        *(GaussianNoise(s) for s in (0.0, 0.1, 0.4)),
        Dropout(0.05),
        Subsampling(0.3),
        Outliers(0.02),
        Reseeding(),
        MassShift(0.2),
        MassShift(0.4),
    ]
    study = stability(key(), x, y, method, perturbations, num_repeats=3, checkpoint=tmp_path / "study.omt")
    assert (study.displacement[0] == 0).all()
    assert (study.w2_lower <= study.w2 * (1 + 1e-9)).all()
    assert (study.w2 <= study.w2_upper * (1 + 1e-9)).all()
    assert (study.displacement[2] > study.displacement[1]).all()
    # Moving mass changes Omega by twice the moved share of all points, up to the spread of the draw.
    for row, share in ((7, 0.2), (8, 0.4)):
        np.testing.assert_allclose(study.weights_change[row], share, rtol=0.35)
    found = fit_envelope(study.select("GaussianNoise", "MassShift", "Dropout"), column="w2")
    assert found.violations() == ()
    assert found.a0 + found.b0 > 0
    # Fits that start at the undisturbed mixture leave out what another optimum of EM would do.
    warm = stability(key(), x, y, method, perturbations[:3], num_repeats=3, warm_start=True)
    assert (warm.displacement[0] == 0).all()
    assert (warm.displacement[1] < 0.5 * warm.displacement[2]).all()
    assert (warm.displacement.mean(axis=1) <= 1.1 * study.displacement[:3].mean(axis=1)).all()
