"""AnnData objects in and out: real ones, through files, against scikit-learn's components and sums over points."""

import json
import re

import anndata
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.decomposition import PCA

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian

GENES = [f"gene{j}" for j in range(6)]
SETTINGS = {"epsilon_components": 0.5, "epsilon_weights": 0.1}


def expression(seed, num, shift):
    """Two types of cells that differ in two genes, and their names."""
    rng = np.random.default_rng(seed)
    kind = np.arange(num) % 5 < 2
    x = rng.standard_normal((num, 6)) + np.where(kind[:, None], [5.0, 0, 0, 5, 0, 0], 0.0)
    x[kind] += shift
    return x, np.where(kind, "T", "B")


def together():
    """Both sides in components of one analysis of all cells, as scanpy leaves them: the third gene has no loading."""
    (x, first), (y, second) = expression(0, 60, 0.0), expression(1, 50, [0, 0, 0, 0, 2.0, 0])
    used = [0, 1, 3, 4, 5]
    analysis = PCA(5, svd_solver="full").fit(np.concatenate([x, y])[:, used])
    loadings = np.zeros((6, 5))
    loadings[used] = analysis.components_.T
    sides = []
    for name, table, labels in (("a", x, first), ("b", y, second)):
        side = anndata.AnnData(table, pd.DataFrame({"cell_type": labels}, [f"{name}{i}" for i in range(len(table))]))
        side.var_names = GENES
        side.obsm["X_pca"] = analysis.transform(table[:, used])
        side.varm["PCs"] = loadings
        sides.append(side)
    return *sides, analysis


@pytest.fixture
def sides():
    return together()[:2]


@pytest.fixture(scope="module")
def plan():
    source, target, _ = together()
    return omt.transport(
        *omt.anndata.mixtures(jax.random.key(0), source, target, DiagonalGaussian, groupby="cell_type")
    )


def test_groups_are_the_components(sides, plan):
    source, target = sides
    assert plan.component_names == (("B", "T"), ("B", "T"))
    for side, mixture in zip(sides, (plan.source, plan.target), strict=True):
        table = pd.DataFrame(side.obsm["X_pca"]).groupby(side.obs["cell_type"].to_numpy()).mean()
        np.testing.assert_allclose(mixture.components.mean(), table, atol=1e-4)
    found = omt.anndata.transitions(plan, source, target, "cell_type")
    assert list(found.index) == list(found.columns) == ["B", "T"]
    weights = np.asarray(plan.weights, np.float64)
    np.testing.assert_allclose(found, weights / weights.sum(axis=1, keepdims=True), rtol=1e-6)


def test_other_groups_are_read_through_components(sides, plan):
    """Sums over points: what a component consists of, and where each point's components go."""
    source, target = sides
    source.obs["donor"] = pd.Categorical(np.where(np.arange(60) % 3 == 0, "d2", "d1"))
    found = omt.anndata.transitions(plan, source, target, "donor", "cell_type")
    member = np.asarray(plan.source.responsibilities(source.obsm["X_pca"]), np.float64)
    donor = (source.obs["donor"].to_numpy()[:, None] == ["d1", "d2"]).astype(float)
    shares = (member / member.sum(axis=0)).T @ donor
    mass = shares.T @ np.asarray(plan.weights, np.float64)
    assert list(found.index) == ["d1", "d2"]
    np.testing.assert_allclose(found, mass / mass.sum(axis=1, keepdims=True), rtol=1e-5)


def test_everything_comes_back_from_a_file(sides, plan, tmp_path):
    source, target = sides
    omt.anndata.annotate(plan, source, target)
    omt.anndata.transfer(plan, source, target, "cell_type")
    again = []
    for name, side in zip(("source", "target"), sides, strict=True):
        side.write_h5ad(tmp_path / f"{name}.h5ad")
        again.append(anndata.read_h5ad(tmp_path / f"{name}.h5ad"))
    for side in again:
        kept = omt.anndata.read_plan(side)
        assert str(kept) == str(plan)
        np.testing.assert_array_equal(kept.weights, plan.weights)
        assert list(side.uns["omt"]["correspondences"]["source"][:1]) == ["B"]
    x, y = (side.obsm["X_pca"] for side in sides)
    np.testing.assert_array_equal(again[0].obsm["omt_image"], plan.push_forward(x))
    np.testing.assert_array_equal(again[1].obsm["omt_origin"], plan.pull_back(y))
    member = np.asarray(plan.target.responsibilities(y))
    np.testing.assert_array_equal(again[1].obsm["omt_responsibilities"], member)
    assert list(again[1].obsm["omt_responsibilities"].columns) == ["B", "T"]
    np.testing.assert_array_equal(again[1].obs["omt_component"], np.array(["B", "T"])[member.argmax(axis=1)])
    found = plan.transfer(source.obs["cell_type"].to_numpy(), x, y)
    np.testing.assert_allclose(again[1].obsm["omt_cell_type"], found.probabilities)
    np.testing.assert_array_equal(again[1].obs["omt_cell_type"], found.labels[found.probabilities.argmax(axis=1)])
    np.testing.assert_allclose(again[1].obs["omt_cell_type_probability"], found.probabilities.max(axis=1))
    assert (again[1].obs["omt_cell_type"] == again[1].obs["cell_type"]).mean() > 0.9


def test_images_are_carried_back_to_genes(sides, plan):
    source, target = sides
    analysis = together()[2]
    own = omt.anndata.to_genes(source, "X_pca")
    # All components of five genes: nothing is lost.
    used = ["gene0", "gene1", "gene3", "gene4", "gene5"]
    assert (list(own.columns), list(own.index)) == (used, list(source.obs_names))
    np.testing.assert_allclose(own, source[:, used].X, atol=1e-9)
    omt.anndata.annotate(plan, source)
    image = omt.anndata.to_genes(source, "omt_image")
    expected = analysis.inverse_transform(np.asarray(plan.push_forward(source.obsm["X_pca"]), np.float64))
    np.testing.assert_allclose(image, expected, atol=1e-5)
    # What distinguishes the sides: gene 4 of T cells.
    moved = (image - own).groupby(source.obs["cell_type"].to_numpy()).mean()
    truth = (
        target.to_df()[used].groupby(target.obs["cell_type"].to_numpy()).mean()
        - own.groupby(source.obs["cell_type"].to_numpy()).mean()
    )
    np.testing.assert_allclose(moved.loc["T"], truth.loc["T"], atol=0.2)
    assert moved.loc["T"].idxmax() == "gene4"


def test_features_are_matched_by_name(sides):
    """The target's columns in another order, sparse, change nothing."""
    source, target = sides
    other = target[:, [5, 3, 1, 0, 4, 2]].copy()
    other.X = scipy.sparse.csr_matrix(other.X)
    fits = [
        omt.anndata.mixtures(jax.random.key(0), source, side, DiagonalGaussian, groupby="cell_type", use_rep="X")
        for side in (target, other)
    ]
    np.testing.assert_array_equal(*(fit[1].mixture.components.mean() for fit in fits))
    plan = omt.transport(*fits[1], **SETTINGS)
    omt.anndata.annotate(plan, source, other, use_rep="X", key="map")
    assert list(other.obsm["map_origin"].columns) == GENES
    np.testing.assert_array_equal(other.obsm["map_origin"], plan.pull_back(target.X))
    # Loadings of permuted features are the same loadings.
    omt.anndata.transfer(plan, source, other, "cell_type", use_rep="X")
    omt.anndata.mixtures(jax.random.key(0), source, other, DiagonalGaussian, groupby="cell_type")


def test_a_side_without_groups_starts_from_the_other(sides):
    source, target = sides
    groups = ("cell_type", None)
    before, after = omt.anndata.mixtures(jax.random.key(0), source, target, DiagonalGaussian, groupby=groups)
    assert (before.names, after.names) == (("B", "T"), None)
    share = np.mean(target.obs["cell_type"].to_numpy() == "T")
    np.testing.assert_allclose(after.mixture.weights, [1 - share, share], atol=0.03)
    both = omt.anndata.mixtures(jax.random.key(0), source, target, DiagonalGaussian, 2)
    np.testing.assert_allclose(sorted(both[1].mixture.weights), sorted(after.mixture.weights), atol=0.03)


def refused(source, target, change):
    """What is wrong in the one line that is raised."""
    settings = {"groupby": "cell_type"} | change(source, target)
    with pytest.raises((ValueError, TypeError)) as caught:
        omt.anndata.mixtures(jax.random.key(0), source, target, DiagonalGaussian, **settings)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_coordinates_of_two_analyses_are_refused(sides):
    def change(source, target):
        target.varm["PCs"] = target.varm["PCs"] * [1, -1, 1, 1, 1]
        return {}

    assert "the same loadings of 'X_pca' in varm['PCs']" in refused(*sides, change)


def test_other_dimensions_and_features_are_refused(sides):
    def shorten(source, target):
        target.obsm["X_pca"] = target.obsm["X_pca"][:, :3]
        return {}

    def rename(source, target):
        target.var_names = [*GENES[:5], "new"]
        return {"use_rep": "X"}

    def repeat(source, target):
        target.var_names = [*GENES[:5], "gene0"]
        return {"use_rep": "X"}

    source, target = sides
    assert "one dimension; got 5 and 3" in refused(source, target.copy(), shorten)
    assert "'gene5' of the source is missing in the target" in refused(source, target.copy(), rename)
    assert "`var_names_make_unique`" in refused(source, target.copy(), repeat)


def test_what_is_not_there_is_named(sides, plan):
    source, target = sides
    assert "which has X, X_pca; got 'X_umap'" in refused(source, target, lambda *_: {"use_rep": "X_umap"})
    assert "column of `source.obs`; got 'type'" in refused(source, target, lambda *_: {"groupby": "type"})
    assert "`num_components` or `groupby`" in refused(source, target, lambda *_: {"groupby": None})
    source.obs.loc["a3", "cell_type"] = None
    assert "`source.obs['cell_type']` must name a group" in refused(source, target, lambda *_: {})
    with pytest.raises(TypeError, match="`adata` must be an AnnData object; got ndarray"):
        omt.anndata.points(np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"must have a plan in uns\['omt'\]"):
        omt.anndata.read_plan(source)
    with pytest.raises(ValueError, match="must have the shape of 'X_pca'"):
        omt.anndata.to_genes(source, np.zeros((2, 5)))
    del source.varm["PCs"]
    with pytest.raises(ValueError, match=r"loadings of 'X_pca' in varm\['PCs'\]"):
        omt.anndata.to_genes(source, "X_pca")


def test_a_damaged_plan_is_refused_and_nothing_is_half_written(sides, plan):
    source, target = sides
    wide = target.copy()
    wide.obsm["X_pca"] = np.full((50, 5), np.nan)
    with pytest.raises(ValueError, match="finite"):
        omt.anndata.annotate(plan, source, wide)
    assert not list(source.uns)
    assert list(source.obsm) == ["X_pca"]
    omt.anndata.annotate(plan, source)
    source.uns["omt"]["plan"] = source.uns["omt"]["plan"][:-5]
    with pytest.raises(ValueError, match="uns"):
        omt.anndata.read_plan(source)


def test_a_report_is_drawn_in_the_embedding_of_the_objects(sides, plan, tmp_path):
    source, target = sides
    path = tmp_path / "page.html"

    def places():
        (text,) = re.findall(r'id="chart-map-data">(.*?)</script>', path.read_text())
        return {trace["name"]: np.array([trace["x"], trace["y"]]).T for trace in json.loads(text)["data"][:2]}

    for side in sides:
        side.obs["lymphocyte"] = ["yes"] * len(side)
    omt.anndata.report(path, plan, source, target, "lymphocyte")
    np.testing.assert_allclose(places()["source"], source.obsm["X_pca"][:, :2], rtol=1e-5)
    assert 'id="chart-labels-flows"' in path.read_text()
    omt.anndata.report(path, plan, source, target, "cell_type")
    assert "The labels are the components" in path.read_text()
    for side in sides:
        side.obsm["X_umap"] = np.sin(side.obsm["X_pca"][:, 2:5])
    omt.anndata.report(path, plan, source, target)
    np.testing.assert_allclose(places()["target"], target.obsm["X_umap"][:, :2], rtol=1e-5)
    assert 'id="chart-labels-flows"' not in path.read_text()
    with pytest.raises(ValueError, match="`use_rep` must name a representation"):
        omt.anndata.report(path, plan, source, target, basis="X_tsne")
    del target.obs["cell_type"]
    omt.anndata.report(path, plan, source, target, "cell_type")
    assert "Labels carried over" in path.read_text()
