"""Data frames of pandas, polars and pyarrow: columns by name in, frames with names and labels of rows out."""

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import omt_expfam as omt
from omt_expfam._base.tables import column_names, in_order, like
from omt_expfam.families import DiagonalGaussian

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 2)) * [1.0, 0.2] + np.repeat([[-4.0, 1.0], [4.0, 1.0]], 30, axis=0)
Y = X + [0.5, 3.0]
ROWS = [f"cell {i}" for i in range(60)]
SETTINGS = {"epsilon_components": 0.5, "epsilon_weights": 0.25}

FRAMES = {
    "pandas": lambda x: pd.DataFrame(x, ROWS[: len(x)], ["CD3", "CD4"]),
    "polars": lambda x: pl.DataFrame(x, schema=["CD3", "CD4"]),
    "pyarrow": lambda x: pa.table({"CD3": x[:, 0], "CD4": x[:, 1]}),
}


def turned(frame):
    """The same data frame with its columns in another order."""
    return frame.select(["CD4", "CD3"]) if hasattr(frame, "select") else frame[["CD4", "CD3"]]


@pytest.fixture(scope="module")
def plan():
    fits = [omt.fit(jax.random.key(0), FRAMES["pandas"](x), DiagonalGaussian, 2, progress=False) for x in (X, Y)]
    return omt.transport(*fits, **SETTINGS)


@pytest.mark.parametrize("kind", FRAMES)
def test_maps_take_columns_by_name_and_give_frames(plan, kind):
    frame, expected = FRAMES[kind](X), np.asarray(plan.push_forward(X))
    assert plan.feature_names == ("CD3", "CD4")
    for given in (frame, turned(frame)):
        image = plan.push_forward(given)
        assert type(image) is type(frame)
        assert column_names(image) == ("CD3", "CD4")
        np.testing.assert_array_equal(np.asarray(image), expected)
        np.testing.assert_array_equal(plan.target_probabilities(given), plan.target_probabilities(X))
    np.testing.assert_array_equal(np.asarray(plan.pull_back(y=turned(FRAMES[kind](Y)))), plan.pull_back(Y))
    draws = plan.sample(jax.random.key(1), turned(frame))
    np.testing.assert_array_equal(np.asarray(draws), plan.sample(jax.random.key(1), X))
    np.testing.assert_array_equal(plan.log_prob(turned(frame), turned(FRAMES[kind](Y))), plan.log_prob(X, Y))
    labels = X[:, 0] > 0
    found = plan.transfer(labels, turned(frame), turned(FRAMES[kind](Y)))
    np.testing.assert_array_equal(found.probabilities, plan.transfer(labels, X, Y).probabilities)


def test_labels_of_rows_come_back(plan):
    image = plan.push_forward(FRAMES["pandas"](X)[["CD4", "CD3"]])
    assert list(image.index) == ROWS
    assert plan.reverse().feature_names == ("CD3", "CD4")


def test_names_go_through_files_and_known_groups(plan, tmp_path):
    omt.save(tmp_path / "plan.omt", plan)
    assert omt.load(tmp_path / "plan.omt").feature_names == ("CD3", "CD4")
    known = omt.mixture_from_labels(FRAMES["polars"](X), X[:, 0] > 0, DiagonalGaussian)
    assert known.feature_names == ("CD3", "CD4")
    # A mixture without names goes with every one.
    assert omt.transport(known.mixture, known, **SETTINGS).feature_names == ("CD3", "CD4")
    # Without names, a frame keeps its own.
    image = omt.transport(known.mixture, known.mixture, **SETTINGS).push_forward(FRAMES["polars"](X))
    assert image.columns == ["CD3", "CD4"]


def test_other_columns_are_refused(plan):
    first = FRAMES["pandas"](X)
    other = omt.mixture_from_labels(turned(first), X[:, 0] > 0, DiagonalGaussian)
    fitted = omt.mixture_from_labels(first, X[:, 0] > 0, DiagonalGaussian)
    for call, message in [
        (lambda: omt.transport(fitted, other), "`target` must be fitted to the columns of `source`.*CD3, CD4; got CD4"),
        (lambda: plan.push_forward(first.rename(columns={"CD4": "CD8"})), "`x` must have the columns .*'CD4' is miss"),
        (lambda: plan.pull_back(first.assign(CD8=0.0)), "`y` must have the columns .*: 'CD8' is none of them"),
        (lambda: plan.transfer(X[:, 0] > 0, X, first[["CD3"]]), "`y` must have the columns .*: 'CD4' is missing"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_frame_stays_as_it_is(plan):
    assert column_names(X) is column_names(X.tolist()) is None
    assert in_order("x", X, ("a", "b")) is X
    assert isinstance(plan.push_forward(X), jax.Array)
    assert isinstance(jax.jit(plan.push_forward)(X), jax.Array)
    assert like(FRAMES["polars"](X), Y, ("u", "v")).columns == ["u", "v"]
