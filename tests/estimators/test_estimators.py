"""The estimators, against scikit-learn's own checks and the functions it calls."""

import pickle

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import omt_expfam as omt
from omt_expfam.estimators import BrenierTransport, MixtureTransport
from omt_expfam.families import DiagonalGaussian

# scikit-learn's data and checks are not made for JAX's strict modes.
pytestmark = pytest.mark.loose
RNG = np.random.default_rng(0)
INDEX = RNG.integers(0, 3, 150)
X = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])[INDEX] + RNG.standard_normal((150, 2))
XT = 1.2 * X + [2.0, 1.0]


class ToItself(MixtureTransport):
    """Mapped to itself where no target is given: scikit-learn's checks know of none."""

    def fit(self, X, y=None, Xt=None):
        return super().fit(X, y, X if Xt is None else Xt)


# Sides with few points, columns and values, where one component tells most.
CHECKED = ToItself(DiagonalGaussian, 1, random_state=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=getattr(check, "func", check).__name__)
        for _, check in estimator_checks_generator(CHECKED)
    ],
)
def test_scikit_learn_finds_nothing(check):
    check(clone(CHECKED))


class MappedToItself(BrenierTransport):
    """The same for the optimal map."""

    def fit(self, X, y=None, Xt=None):
        return super().fit(X, y, X if Xt is None else Xt)


MAPPED = MappedToItself(num_steps=1, random_state=0)
# Left out, for they train at further shapes and types; what they check is read and written by the class above both.
LONG = {"check_estimators_dtypes", "check_dtype_object", "check_fit2d_1feature", "check_n_features_in_after_fitting"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=getattr(check, "func", check).__name__)
        for _, check in estimator_checks_generator(MAPPED)
        if getattr(check, "func", check).__name__ not in LONG
    ],
)
def test_scikit_learn_finds_nothing_in_maps(check):
    check(clone(MAPPED))


# Those that fit without a target, which the estimator itself refuses; all of them pass above, where it has one.
WITHOUT_TARGET = {
    "check_fit_score_takes_y",
    "check_estimators_overwrite_params",
    "check_dont_overwrite_parameters",
    "check_estimators_fit_returns_self",
    "check_readonly_memmap_input",
    "check_n_features_in_after_fitting",
    "check_positive_only_tag_during_fit",
    "check_estimators_dtypes",
    "check_dtype_object",
    "check_pipeline_consistency",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_fit2d_1feature",
    "check_dict_unchanged",
    "check_fit_idempotent",
    "check_fit_check_is_fitted",
    "check_n_features_in",
    "check_fit2d_predict1d",
}
# Set up by an environment variable of SciPy's.
NOT_SET_UP = {"check_array_api_input"}


@pytest.mark.filterwarnings("ignore")
def test_checks_of_the_estimator_itself():
    """Every check passes, but those that know of no target."""
    itself, failed = MixtureTransport(DiagonalGaussian, 1, random_state=0), {}
    for _, check in estimator_checks_generator(itself):
        try:
            check(clone(itself))
        except Exception as error:
            failed.setdefault(check.func.__name__, []).append(str(error))
        except pytest.skip.Exception as skipped:
            failed[check.func.__name__] = [str(skipped)]
    assert set(failed) - NOT_SET_UP == WITHOUT_TARGET
    refused = [message for name in WITHOUT_TARGET for message in failed[name]]
    assert sum("`Xt` must be given" in message for message in refused) >= len(WITHOUT_TARGET) - 1


@pytest.fixture(scope="module")
def fitted():
    return MixtureTransport(DiagonalGaussian, 3, random_state=0).fit(X, Xt=XT)


def test_it_is_the_plan_of_two_fits(fitted):
    seeds = np.random.RandomState(0).randint(2**31 - 1, size=2)
    with jax.enable_x64(True):
        fits = [omt.fit(jax.random.key(int(s)), x, DiagonalGaussian, 3) for s, x in zip(seeds, (X, XT), strict=True)]
        plan = omt.transport(*fits)
        np.testing.assert_allclose(fitted.transform(X), plan.push_forward(X), rtol=1e-12)
        np.testing.assert_allclose(fitted.inverse_transform(XT), plan.pull_back(XT), rtol=1e-12)
    assert fitted.transform(X).dtype == np.float64
    assert fitted.transform(X.astype(np.float32)).dtype == np.float32
    # What one component is mapped to is where it comes from: the affine map that made the target.
    np.testing.assert_allclose(fitted.transform(X), XT, atol=0.2)
    np.testing.assert_array_equal(fitted.transform_labels(INDEX), INDEX)


def test_parameters_pipelines_and_names():
    one = MixtureTransport(num_components=2, epsilon_scale=0.5, source_relaxation=3.0)
    assert clone(one).get_params() == one.get_params()
    tables = [pd.DataFrame(values, columns=["a", "b"]) for values in (X, XT)]
    model = MixtureTransport(DiagonalGaussian, 3, random_state=0).set_output(transform="pandas")
    images = model.fit_transform(tables[0], Xt=tables[1])
    assert list(images.columns) == ["a", "b"]
    assert model.plan_.epsilon_rules == ("auto", "auto")
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), clone(model))
    scaled = StandardScaler().set_output(transform="pandas").fit(tables[0]).transform(tables[1])
    mapped = pipe.fit_transform(tables[0], mixturetransport__Xt=scaled)
    assert mapped.shape == X.shape
    turned = clone(model).fit(tables[0], Xt=tables[1][["b", "a"]])
    np.testing.assert_array_equal(turned.transform(tables[0]), images)
    with pytest.raises(ValueError, match="`Xt` must have the columns of `X`, a, b: 'b' is missing"):
        model.fit(tables[0], Xt=tables[1].rename(columns={"b": "c"}))
    with pytest.raises(ValueError, match="`Xt` must be given"):
        model.fit(X)


# -- the optimal map --------------------------------------------------------------------------------------------------


def test_the_optimal_map_is_that_of_its_function():
    tables = [pd.DataFrame(values, columns=["a", "b"]) for values in (X, XT)]
    model = BrenierTransport(num_steps=20, random_state=0).set_output(transform="pandas")
    images = model.fit_transform(tables[0], Xt=tables[1][["b", "a"]])
    seed = np.random.RandomState(0).randint(2**31 - 1)
    with jax.enable_x64(True):
        found = omt.fit_brenier(jax.random.key(int(seed)), X, XT, num_steps=20, feature_names=["a", "b"])
        np.testing.assert_allclose(images, found.map.push_forward(X), rtol=1e-12)
    assert list(images.columns) == ["a", "b"]
    back = model.inverse_transform(images)
    np.testing.assert_allclose(back, X, atol=1e-4)
    # The affine map that made the target, from its 150 points.
    np.testing.assert_allclose(images, XT, atol=0.6)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.transform(tables[0]), images)
    assert clone(model).get_params() == model.get_params()
    with pytest.raises(ValueError, match="`Xt` must be given"):
        model.fit(X)
    with pytest.raises(NotFittedError):
        clone(model).transform(X)
