"""The estimator, against scikit-learn's own checks and the functions it calls."""

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import omt_expfam as omt
from omt_expfam.estimators import MixtureTransport
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
    with pytest.raises(ValueError, match="feature names should match"):
        model.fit(tables[0], Xt=tables[1].rename(columns={"a": "c"}))
    with pytest.raises(ValueError, match="`Xt` must be given"):
        model.fit(X)
