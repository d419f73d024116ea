"""Sweeps over choices, against closed forms and hand-made results."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from omt_expfam.diagnostics import MixtureTransport
from omt_expfam.diagnostics._comparison import COLUMNS
from omt_expfam.diagnostics._sweep import Sweep, sweep
from omt_expfam.families import DiagonalGaussian, Gaussian
from omt_expfam.plot import _stability as pictures
from tests.pictures import cut

from .test_stability import affine, key, X, Y

OPTIONS = {"covariance_prior": 0.0, "regularization": 0.0}
BASE = MixtureTransport(Gaussian, 1, epsilon_components=0.3, epsilon_weights=1.0, fit_options=OPTIONS)
LEFT = X[:20] + 0.1, Y[:20] - 0.1


def slope(x, y, epsilon):
    """The matrix of the entropic map of two Gaussians with the moments of the points."""
    s0, s1 = (np.cov(np.float64(p).T, bias=True) for p in (x, y))
    root = scipy.linalg.sqrtm(s0)
    inner = scipy.linalg.sqrtm(root @ s1 @ root + (epsilon / 4) ** 2 * np.eye(2)) - epsilon / 4 * np.eye(2)
    return np.linalg.inv(root) @ inner @ np.linalg.inv(root)


def made(**columns):
    """A result by hand: the base and others, with settled numbers where none are given."""
    num = len(columns["choices"])
    given = {
        "knobs": ("",) + ("num_components",) * (num - 1),
        **{name: np.zeros(num) for name in COLUMNS},
        "num_source_components": np.arange(1.0, num + 1),
        "held_out_error": np.full(num, 0.01),
        "converged": np.ones(num, bool),
        "reasons": ("",) * num,
        "image_spread": 2.0,
        "num_points": 5,
    }
    return Sweep(**(given | columns))


# -- what is measured -------------------------------------------------------------------------------------------------


def test_one_gaussian_is_measured_exactly(monkeypatch):
    from omt_expfam._pipelines import mixture_transport

    fitted, original = [], mixture_transport.fit
    monkeypatch.setattr(mixture_transport, "fit", lambda *a, **k: fitted.append(0) or original(*a, **k))
    found = sweep(
        key(), X, Y, BASE, {"epsilon_components": [0.3, 2.0], "epsilon_weights": [5.0]}, held_out=LEFT, true_map=2 * X
    )
    # The base is listed once, and no regularization needs a fit of its own.
    assert found.choices == ("base", "epsilon_components=2", "epsilon_weights=5")
    assert found.knobs == ("", "epsilon_components", "epsilon_weights")
    assert len(fitted) == 2
    small, large = (slope(X, Y, epsilon) for epsilon in (0.3, 2.0))
    moved = np.linalg.norm((np.float64(X) - X.mean(0)) @ (small - large).T, axis=1).mean()
    # A single component on each side has a single coupling of the weights.
    np.testing.assert_allclose(found.displacement, [0, moved, 0], rtol=1e-3, atol=1e-5)
    covariances = 0.15 * small, 1.0 * large
    root = scipy.linalg.sqrtm(covariances[0])
    bures = sum(map(np.trace, covariances)) - 2 * np.trace(scipy.linalg.sqrtm(root @ covariances[1] @ root))
    shifts = np.linalg.norm((np.float64(X) - X.mean(0)) @ (small - large).T, axis=1)
    np.testing.assert_allclose(found.law_change[1], np.sqrt(shifts**2 + bures).mean(), rtol=1e-3)
    assert found.law_change[1] > found.displacement[1]
    for side, points, left in (("source", X, LEFT[0]), ("target", Y, LEFT[1])):
        law = scipy.stats.multivariate_normal(np.float64(points).mean(0), np.cov(np.float64(points).T, bias=True))
        np.testing.assert_allclose(getattr(found, f"held_out_{side}"), law.logpdf(left).mean(), rtol=1e-3)
    assert (found.held_out_change == 0).all()
    images = Y.mean(0) + (X - X.mean(0)) @ small.T
    assert np.isclose(found.mse[0], ((images - 2 * X) ** 2).sum(1).mean(), rtol=1e-3)
    assert np.isclose(found.image_spread, np.sqrt(((images - images.mean(0)) ** 2).sum(1).mean()), rtol=1e-3)
    assert found.converged.all()
    assert any("hangs on `epsilon_components`" in w and "no likelihood decides" in w for w in found.warnings)


def test_methods_of_any_kind_are_compared():
    def doubled(key, x, y):
        return lambda p: 2 * affine(key, x, y)(p)

    found = sweep(key(), X, Y, affine, {"same": affine, "doubled": doubled}, points=X[:7])
    assert found.knobs == ("", "method", "method")
    # A fifth of the points is left out: the maps are made from the rest.
    assert found.displacement[1] == 0
    assert found.displacement[2] > 0
    assert found.num_points == 7
    for name in ("held_out_source", "cost", "objective", "law_change", "num_source_components"):
        assert np.isnan(getattr(found, name)).all()
    assert found.warnings == ()
    assert "held-out" not in found.summary()


def test_all_combinations_are_tried():
    def names(**options):
        from omt_expfam.diagnostics._choices import choices_of

        return [choice.name for choice in choices_of(BASE, **options)]

    grid = {"num_components": [1, (1, 2)], "seed": [0, 3], "family": [DiagonalGaussian]}
    alone = ["base", "num_components=(1, 2)", "seed=0", "seed=3", "family=DiagonalGaussian"]
    assert names(alternatives=grid, product=False) == alone
    every = names(alternatives={"num_components": [2, 3], "epsilon_weights": [0.5, 1.0]}, product=True)
    assert every[1:] == [f"num_components={k}, epsilon_weights={e}" for k in (2, 3) for e in ("0.5", "1")]
    options = names(alternatives={"fit_options": [{"regularization": 0.0}, {"num_starts": 3}]}, product=False)
    assert options == ["base", "num_starts=3"]


# -- warnings ---------------------------------------------------------------------------------------------------------


def test_a_settled_answer_has_no_warnings():
    assert made(choices=("base", "K=2"), displacement=np.array([0.0, 0.1])).warnings == ()


def test_a_choice_that_nothing_decides_is_named():
    numbers = {"displacement": np.array([0.0, 0.3, 0.8]), "held_out_change": np.array([0.0, -0.01, 0.02])}
    found = made(choices=("base", "seed=1", "seed=2"), knobs=("", "seed", "seed"), **numbers)
    (first, second) = found.warnings
    assert first == (
        "The map hangs on the random start of the fits: with seed=2 images move by 40% of their spread, and held-out "
        "points cannot tell them apart (+0.02 +- 0.01 nats per point)."
    )
    assert "not measured" in second
    assert found.find_warnings(displacement=0.5) == (second,)
    assert found.as_likely().all()
    assert found.as_likely(0.0).tolist() == [True, True, True]
    # A choice that is clearly worse may well give another map.
    worse = made(choices=("base", "K=2"), displacement=np.array([0.0, 0.8]), held_out_change=np.array([0.0, -1.0]))
    (sentence,) = worse.warnings
    assert sentence.endswith("whether that is too coarse cannot be told: those with more describe the data worse.")


def test_other_starts_are_the_yardstick_of_choices_that_fit_again():
    numbers = {"displacement": np.array([0.0, 0.4, 0.5, 0.5]), "held_out_change": np.array([0.0, 0.01, 0.01, 0.0])}
    numbers["held_out_error"] = np.array([0.0, 0.01, 0.01, 0.0])
    knobs = ("", "seed", "num_components", "epsilon_weights")
    found = made(choices=("base", "seed=1", "K=2", "epsilon_weights=1"), knobs=knobs, **numbers)
    assert [sentence[:29] for sentence in found.warnings] == [
        "The map hangs on the random s",
        "The map hangs on `epsilon_wei",
    ]
    numbers["displacement"][2] = 0.7
    found = made(choices=("base", "K=1", "K=2", "epsilon_weights=1"), knobs=knobs, **numbers)
    assert len(found.warnings) == 4
    assert found.warnings[-1] == (
        "The map is coarse: T is a blend of as many affine maps as the source has components, here 1; with 3 images "
        "move by 35% of their spread. Use more source components, or draws of the plan (`plan.sample`) in place of T."
    )


def test_a_better_choice_is_named():
    found = made(choices=("base", "K=2"), displacement=np.array([0.0, 0.1]), held_out_change=np.array([0.0, 0.4]))
    assert found.warnings == (
        "The base is not the best description of the data: K=2 gains 0.4 nats per held-out point, and images move by "
        "5% of their spread.",
    )


def test_lost_choices_are_named():
    lost = {"displacement": np.array([0.0, np.nan, 0.1]), "held_out_change": np.array([0.0, np.nan, 0.0])}
    found = made(choices=("base", "K=2", "K=3"), **lost)
    assert found.warnings == ("No map: K=2; see `reasons`.",)
    assert repr(found) == "Sweep(3 choices, 1 failed)"
    assert " - " in found.summary().replace("\n", " ")


@pytest.mark.slow
def test_few_source_components_are_coarse():
    """A normal source and a bent target: the likelihood asks for one source component, the map for more."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2000, 2))
    y = np.stack([x[:, 0], x[:, 1] + x[:, 0] ** 2], axis=1)[rng.permutation(2000)] * 1.5
    base = MixtureTransport(DiagonalGaussian, (1, 8), epsilon_components=0.02, epsilon_weights=0.02)
    found = sweep(key(), x, y, base, {"num_components": [(8, 8)], "seed": [1]})
    assert any(sentence.startswith("The map is coarse") for sentence in found.warnings)
    assert found.num_source_components.tolist() == [1, 8, 1]
    finer = MixtureTransport(DiagonalGaussian, (8, 8), epsilon_components=0.02, epsilon_weights=0.02)
    again = sweep(key(), x, y, finer, {"num_components": [(1, 8)]})
    assert any("not measured" in sentence for sentence in again.warnings)


# -- files, failures and tables ---------------------------------------------------------------------------------------


def test_an_interrupted_sweep_goes_on(tmp_path):
    path, calls, stop = tmp_path / "sweep.omt", [], [3]

    def scaled(factor):
        def method(key, x, y):
            calls.append(factor)
            if len(calls) == stop[0]:
                raise KeyboardInterrupt
            return lambda p: factor * affine(key, x, y)(p)

        return method

    methods = {f"times {factor}": scaled(factor) for factor in (1.0, 2.0, 3.0)}
    with pytest.raises(KeyboardInterrupt):
        sweep(key(), X, Y, affine, methods, checkpoint=path)
    stop[0] = 0
    calls.clear()
    resumed = sweep(key(), X, Y, affine, methods, checkpoint=path)
    assert calls == [3.0]
    whole = sweep(key(), X, Y, affine, methods)
    np.testing.assert_array_equal(resumed.displacement, whole.displacement)
    assert resumed.displacement[2] > 0
    with pytest.raises(ValueError, match="`checkpoint` .* other inputs: `x`"):
        sweep(key(), X + 1, Y, affine, methods, checkpoint=path)


def test_failed_choices_are_recorded_or_raised():
    def method(key, x, y):
        raise ValueError("no luck")

    found = sweep(key(), X, Y, affine, {"bad": method, "good": affine}, throw=False)
    assert found.failed.tolist() == [False, True, False]
    assert found.reasons == ("", "no luck", "")
    with pytest.raises(ValueError, match="no luck") as caught:
        sweep(key(), X, Y, affine, {"bad": method})
    assert caught.value.__notes__ == ["This was bad; throw=False records failures instead."]
    with pytest.raises(ValueError, match="no luck"):
        sweep(key(), X, Y, method, {"good": affine}, throw=False)


def test_a_sweep_as_a_dataset():
    found = sweep(key(), X, Y, affine, {"same": affine}, true_map=X)
    data = found.to_dataset()
    assert data.sizes == {"choice": 2}
    assert data["mse"].attrs["units"] == "squared units of the data"
    np.testing.assert_array_equal(data["mse"].sel(choice="same"), found.mse[1])
    assert str(data["knob"].values[1]) == "method"


def test_a_chart_of_choices():
    changes = np.array([0.0, 0.02, 0.4, -0.4, np.nan])
    moved = np.array([0.0, 0.1, 0.2, 0.3, np.nan])
    found = made(choices=("base", "a", "b", "c", "d"), displacement=moved, held_out_change=changes)
    panel = pictures.sweep_chart(found)
    assert not cut(panel.figure)
    np.testing.assert_allclose([bar.get_width() for bar in panel.patches[:4]], [5, 10, 15, 0])
    assert [text.get_text() for text in panel.texts] == [
        "5.0 %   (+0.02 nats)",
        "10 %   (+0.4 nats)",
        "15 %   (-0.4 nats)",
        "failed",
    ]
    assert len({bar.get_facecolor() for bar in panel.patches[:4]}) == 4
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b", "c", "d"]
    assert pictures.sweep_chart(found, ax=panel, limit=0.2) is panel
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": 0}, TypeError, "`key` must be a random key"),
        ({"x": X[0]}, ValueError, r"`x` must have shape \[n, d\]"),
        ({"y": Y[:, :1]}, ValueError, r"`y` must have shape \[n, 2\]"),
        ({"base": 3}, TypeError, "`base` must be a MixtureTransport or a function; got int"),
        ({"base": affine}, TypeError, "`base` must be a MixtureTransport for its fields to be varied"),
        ({"alternatives": {}}, TypeError, "`alternatives` must be a dictionary that is not empty"),
        ({"alternatives": [1]}, TypeError, "`alternatives` must be a dictionary that is not empty"),
        ({"alternatives": {"base": affine}}, ValueError, "`alternatives` must not name a method"),
        ({"alternatives": {"a": affine, "seed": [1]}}, TypeError, "either methods or sequences of values, not both"),
        ({"alternatives": {"epsilon": [1.0]}}, ValueError, "`alternatives` must name family, .*; got 'epsilon'"),
        ({"alternatives": {"epsilon_weights": 1.0}}, TypeError, "a sequence of values for 'epsilon_weights'; got 1.0"),
        ({"alternatives": {"epsilon_weights": []}}, TypeError, "a sequence of values for 'epsilon_weights'"),
        ({"alternatives": {"epsilon_weights": [-1.0]}}, ValueError, "`epsilon_weights` must be a finite number"),
        ({"alternatives": {"seed": [-1]}}, ValueError, "`seed` must be at least 0"),
        ({"alternatives": {"fit_options": ["start"]}}, TypeError, "dictionaries for 'fit_options'"),
        ({"held_out": 0.0}, ValueError, "`held_out` must be a finite number greater than 0"),
        ({"held_out": 1.0}, ValueError, "`held_out` must be less than 1; got 1"),
        ({"held_out": 0.999}, ValueError, "`held_out` = 0.999 leaves no points to fit"),
        ({"held_out": (X,)}, ValueError, "`held_out` must be a share or a pair of point sets; got 1 items"),
        ({"held_out": (X, Y[:0])}, ValueError, "`held_out` must have at least one point on each side"),
        ({"points": X[:0]}, ValueError, "`points` must have at least one point"),
        ({"true_map": X[:3]}, ValueError, "`true_map` must give images of shape"),
        ({"checkpoint": "nowhere/sweep.omt", "base": affine, "alternatives": {"a": affine}}, OSError, "no folder"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    given = {"key": key(), "x": X, "y": Y, "base": BASE, "alternatives": {"epsilon_weights": [2.0]}} | change
    with pytest.raises(error, match=message):
        sweep(**given)


def test_bad_thresholds_are_named():
    found = made(choices=("base", "K=2"))
    with pytest.raises(ValueError, match="`displacement` must be a finite number at least 0"):
        found.find_warnings(displacement=-1.0)
    with pytest.raises(ValueError, match="`tolerance` must be a finite number at least 0"):
        found.as_likely(-0.1)
