"""Data frames of pandas, polars and pyarrow: columns by name in, frames with names and labels of rows out."""

import jax
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import xarray as xr

import omt_expfam as omt
from families import REGISTRY
from omt_expfam._base.tables import column_names, in_order, like
from omt_expfam.families import DiagonalGaussian, Gaussian

from ..cases import components

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 2)) * [1.0, 0.2] + np.repeat([[-4.0, 1.0], [4.0, 1.0]], 30, axis=0)
Y = X + [0.5, 3.0]
ROWS = [f"cell {i}" for i in range(60)]
SETTINGS = {"epsilon_components": 0.5, "epsilon_weights": 0.25}


def labeled(x):
    """An array of xarray's: names along both axes, and donors of the cells."""
    coords = {"cell": ROWS[: len(x)], "marker": ["CD3", "CD4"], "donor": ("cell", np.arange(len(x)) % 3)}
    return xr.DataArray(x, coords, ("cell", "marker"))


FRAMES = {
    "pandas": lambda x: pd.DataFrame(x, ROWS[: len(x)], ["CD3", "CD4"]),
    "polars": lambda x: pl.DataFrame(x, schema=["CD3", "CD4"]),
    "pyarrow": lambda x: pa.table({"CD3": x[:, 0], "CD4": x[:, 1]}),
    "xarray": labeled,
}


def turned(frame):
    """The same data frame with its columns in another order."""
    if isinstance(frame, xr.DataArray):
        return frame.sel(marker=["CD4", "CD3"])
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
        shares = plan.target_probabilities(given)
        assert type(shares) is type(frame)
        assert column_names(shares) == ("0", "1")
        np.testing.assert_array_equal(np.asarray(shares), plan.target_probabilities(X))
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
    left = {kind: plan.survival(turned(FRAMES[kind](X))) for kind in FRAMES}
    for found in left.values():
        np.testing.assert_array_equal(np.asarray(found), plan.survival(X))
    assert left["pandas"].name == left["polars"].name == left["xarray"].name == "survival"
    assert list(left["pandas"].index) == left["xarray"].cell.values.tolist() == ROWS
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
    other = omt.mixture_from_labels(first.rename(columns={"CD3": "CD4", "CD4": "CD8"}), X[:, 0] > 0, DiagonalGaussian)
    fitted = omt.mixture_from_labels(first, X[:, 0] > 0, DiagonalGaussian)
    for call, message in [
        (
            lambda: omt.transport(fitted, other),
            "`target` must be fitted to the columns .*CD3, CD4; got CD4, CD8",
        ),
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


def test_coordinates_of_rows_come_back(plan):
    image = plan.push_forward(labeled(X).sel(marker=["CD4", "CD3"]))
    assert image.dims == ("cell", "marker")
    assert image.cell.values.tolist() == ROWS
    np.testing.assert_array_equal(image.donor, np.arange(60) % 3)
    # Arrays without coordinates stay arrays of their kind, without names.
    bare = plan.push_forward(xr.DataArray(X, dims=("cell", "marker")))
    assert isinstance(bare, xr.DataArray)
    assert bare.marker.values.tolist() == ["CD3", "CD4"]
    assert column_names(xr.DataArray(X, dims=("cell", "marker"))) is None
    np.testing.assert_allclose(omt.fit(jax.random.key(0), labeled(X), DiagonalGaussian, 2).bic, _bic(X))


def _bic(x):
    return omt.fit(jax.random.key(0), x, DiagonalGaussian, 2).bic


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_array", "coo_matrix"])
def test_sparse_matrices_are_made_dense(plan, kind):
    some = np.where(np.abs(X) > 0.5, X, 0)
    np.testing.assert_array_equal(plan.push_forward(getattr(scipy.sparse, kind)(some)), plan.push_forward(some))
    np.testing.assert_array_equal(_bic(getattr(scipy.sparse, kind)(some)), _bic(some))


def test_large_sparse_matrices_are_refused_in_one_line(plan):
    large = scipy.sparse.csr_matrix((50_000, 30_000))
    for call in (lambda: plan.push_forward(large), lambda: omt.fit(jax.random.key(0), large, DiagonalGaussian, 2)):
        with pytest.raises(
            ValueError, match=r"`x` is sparse, of shape \(50000, 30000\): .* 11.2 GiB. Reduce it"
        ) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_studies_keep_names(plan):
    """Components by name in tables and prints, points by the names of columns; fits of other columns are refused."""
    kinds, first, second = np.where(X[:, 0] > 0, "T", "B"), FRAMES["pandas"](X), turned(FRAMES["polars"](Y))
    fits = [omt.mixture_from_labels(frame, kinds, DiagonalGaussian) for frame in (first, second)]
    known = omt.transport(*fits, **SETTINGS)
    places = first.iloc[:7]
    found = [omt.diagnostics.sensitivity(known, points=places[["CD4", "CD3"]])]
    found.append(omt.diagnostics.sensitivity(*fits, points=np.asarray(places), **SETTINGS))
    np.testing.assert_allclose(found[0].source.map["mean"], found[1].source.map["mean"], rtol=1e-5, atol=1e-7)
    for study in found:
        assert study.component_names == (("B", "T"), ("B", "T"))
        assert study.feature_names == ("CD3", "CD4")
        rows = pd.DataFrame(study.to_dict())
        assert set(rows.component) == {"B", "T"}
        assert rows["map"].tolist() == [row[3] for row in study.ranking()]
        assert f"{rows.side[0]} component {rows.component[0]}" in repr(study)
        assert rows.component[0] in study.summary(1).splitlines()[-1].split()
    path = omt.diagnostics.relaxation_path(known, relaxations=[1.0, 4.0])
    assert path.names == ("B", "T")
    np.testing.assert_array_equal(path.to_dict()["growth of T"], path.growth[:, 1])
    np.testing.assert_array_equal(path.error({"T": 0.5, "B": 2.0}), path.error([2.0, 0.5]))
    with pytest.raises(ValueError, match="`growth` must have the components B, T; got B, C"):
        path.error({"B": 1.0, "C": 1.0})
    other = omt.mixture_from_labels(first.rename(columns={"CD4": "CD8"}), kinds, DiagonalGaussian)
    with pytest.raises(ValueError, match="`target` must be fitted to the columns of `source`"):
        omt.diagnostics.biconvexity(jax.random.key(0), fits[0], other, **SETTINGS)
    with pytest.raises(ValueError, match="`points` must have the columns that were fitted, CD3, CD4: 'CD4' is missing"):
        omt.diagnostics.worst_case(jax.random.key(0), known, radii=[0.1], points=first[["CD3"]])
    with pytest.raises(ValueError, match="`y` must have the columns of `x`"):
        omt.diagnostics.stability(jax.random.key(0), first, second.rename({"CD4": "CD8"}), plan, [])


def test_the_second_sample_takes_the_order_of_the_first():
    """Wherever points of both sides are given."""
    first, second = FRAMES["pandas"](X), turned(FRAMES["polars"](Y))
    method = omt.diagnostics.MixtureTransport(DiagonalGaussian, 2, **SETTINGS)
    expected, found = method(jax.random.key(0), X, Y), method(jax.random.key(0), first, second)
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert found.feature_names == ("CD3", "CD4")
    distance = omt.metrics.frechet_distance(X, Y)
    np.testing.assert_array_equal(omt.metrics.frechet_distance(first, second), distance)
    chosen = omt.select_plan(jax.random.key(0), first, second, DiagonalGaussian, [2], **SETTINGS)
    assert chosen.plan.feature_names == ("CD3", "CD4")
    plain = omt.select_plan(jax.random.key(0), X, Y, DiagonalGaussian, [2], **SETTINGS)
    np.testing.assert_array_equal(chosen.scores, plain.scores)
    assert omt.select_num_components(jax.random.key(0), first, DiagonalGaussian, [2]).fit.feature_names is not None
    other = second.rename({"CD4": "CD8"})
    for call in (
        lambda: method(jax.random.key(0), first, other),
        lambda: omt.metrics.frechet_distance(first, other),
        lambda: omt.select_plan(jax.random.key(0), first, other, DiagonalGaussian, [2]),
        lambda: omt.fit_coupled(jax.random.key(0), first, other, DiagonalGaussian, 2, strength=0.1),
        lambda: omt.fit_brenier(jax.random.key(0), first, other),
    ):
        with pytest.raises(ValueError, match="`y` must have the columns of `x`, CD3, CD4: 'CD4' is missing"):
            call()


def test_optimal_maps_keep_names(plan):
    """Columns by name, in the order of the plan where the search starts from one."""
    first, second = FRAMES["pandas"](X), FRAMES["pandas"](Y)
    found = omt.fit_brenier(jax.random.key(0), turned(first), turned(second), start=plan, num_steps=3)
    assert found.feature_names == found.map.feature_names == ("CD3", "CD4")
    image = found.map.push_forward(turned(first))
    assert list(image.columns) == ["CD3", "CD4"]
    assert list(image.index) == ROWS
    np.testing.assert_array_equal(image, found.map.push_forward(X))
    assert list(found.map.reverse().push_forward(second[["CD4", "CD3"]]).columns) == ["CD3", "CD4"]
    with pytest.raises(ValueError, match="`x` must have the columns that were fitted"):
        found.map.push_forward(first.rename(columns={"CD3": "CD8"}))


def test_time_courses_keep_names():
    tables = [FRAMES["pandas"](X + [0.0, 3.0 * t]) for t in range(3)]
    kinds = np.where(X[:, 0] > 0, "T", "B")
    fits = [omt.mixture_from_labels(table, kinds, DiagonalGaussian) for table in tables]
    course = omt.trajectory(fits, **SETTINGS)
    assert course.feature_names == ("CD3", "CD4")
    assert course.component_names(1) == ("B", "T")
    for found, expected in [
        (course.fates(turned(tables[0]), 0, 2), course.fates(X, 0, 2)),
        (course.origins(y=turned(tables[2]), first=0, last=2), course.origins(np.asarray(tables[2]), 0, 2)),
    ]:
        assert list(found.columns) == ["B", "T"]
        assert list(found.index) == ROWS
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(course.survival(turned(tables[0]), 0, 1), course.survival(X, 0, 1))
    assert isinstance(course.fates(X, 0, 1), jax.Array)
    other = omt.mixture_from_labels(turned(tables[1]), kinds, DiagonalGaussian)
    assert omt.trajectory([fits[0], other], **SETTINGS).costs.tolist() == course.costs[:1].tolist()
    other = omt.mixture_from_labels(tables[1].rename(columns={"CD3": "CD8"}), kinds, DiagonalGaussian)
    with pytest.raises(ValueError, match=r"`mixtures\[1\]` must be fitted to the columns of `mixtures\[0\]`"):
        omt.trajectory([fits[0], other])


def test_posteriors_keep_names():
    first, second = FRAMES["pandas"](X), FRAMES["polars"](Y)
    posteriors = [
        omt.fit_posterior(
            jax.random.key(0), x, DiagonalGaussian, 2, method=omt.Gibbs(num_samples=8, num_warmup=8), throw=False
        )
        for x in (first, second)
    ]
    assert posteriors[0].feature_names == ("CD3", "CD4")
    member = posteriors[0].responsibilities(turned(first))
    assert list(member.index) == ROWS
    np.testing.assert_array_equal(member, posteriors[0].responsibilities(X))
    np.testing.assert_array_equal(posteriors[0].log_prob(turned(first)), posteriors[0].log_prob(X))
    plans = omt.transport_posterior(*posteriors, **SETTINGS)
    assert plans.feature_names == plans.plan(0).feature_names == plans.reverse().feature_names == ("CD3", "CD4")
    np.testing.assert_array_equal(plans.push_forward(turned(first)), plans.push_forward(X))
    np.testing.assert_array_equal(plans.pull_back(turned(second)), plans.pull_back(Y))
    draws = plans.sample(jax.random.key(1), turned(first))
    assert list(draws.columns) == ["CD3", "CD4"]
    assert list(draws.index) == ROWS
    np.testing.assert_array_equal(draws, plans.sample(jax.random.key(1), X))
    interval = plans.push_forward_interval(turned(first))
    assert interval.names == (tuple(ROWS), ("CD3", "CD4"))
    rows = pd.DataFrame(interval.to_dict())
    assert list(rows.columns) == ["axis 0", "axis 1", "mean", "median", "lower", "upper"]
    chosen = rows[(rows["axis 0"] == "cell 3") & (rows["axis 1"] == "CD4")]
    np.testing.assert_array_equal(chosen["upper"], np.asarray(interval.upper)[3, 1:])
    assert "cell 0 CD4 " in repr(interval)
    plain = plans.push_forward_interval(X)
    np.testing.assert_array_equal(plain.lower, interval.lower)
    assert plain.to_dict()["axis 0"][-1] == 59
    with pytest.raises(ValueError, match="`x` must have the columns that were fitted, CD3, CD4: 'CD4' is missing"):
        plans.push_forward_interval(first[["CD3"]])


@pytest.mark.parametrize("case", sorted(REGISTRY))
def test_fits_of_the_same_columns_in_another_order_are_turned(case):
    """The law of turned components at turned points is that of the components at the points."""
    held, _ = components(case, 0, "float32", 3, 2)
    turned = held.turned([1, 0])
    assert type(turned) is type(held)
    points = np.asarray(held.sample(jax.random.key(0), 20))[:, 0]
    np.testing.assert_allclose(turned.log_prob(points[:, ::-1]), held.log_prob(points), rtol=1e-4, atol=1e-4)


def test_transport_turns_the_target(plan):
    kinds = X[:, 0] > 0
    source, target = (omt.mixture_from_labels(FRAMES["pandas"](x), kinds, Gaussian) for x in (X, Y))
    other = omt.mixture_from_labels(turned(FRAMES["polars"](Y)), kinds, Gaussian)
    expected, found = omt.transport(source, target, **SETTINGS), omt.transport(source, other, **SETTINGS)
    assert found.feature_names == ("CD3", "CD4")
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-5)
    np.testing.assert_allclose(found.push_forward(X), expected.push_forward(X), rtol=1e-4)
    image = found.pull_back(turned(FRAMES["pandas"](Y)))
    np.testing.assert_allclose(image, expected.pull_back(Y), rtol=1e-4)
