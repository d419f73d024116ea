"""Parquet files as pandas and polars' Arrow write them, and AnnData files."""

import anndata
import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse

from omt_expfam._cli.main import main
from omt_expfam._files.frames import Labels
from omt_expfam._files.points import read_points, write_points

POINTS = np.random.default_rng(0).standard_normal((40, 2))
CELLS = [f"cell {i}" for i in range(40)]


@pytest.fixture
def parquet(tmp_path):
    """A table with a column of names, one of whole numbers, and no labels of rows."""
    frame = pd.DataFrame(POINTS, columns=["a", "b"]).assign(kind="T", count=np.arange(40))
    frame.to_parquet(tmp_path / "x.parquet")
    return str(tmp_path / "x.parquet")


@pytest.fixture
def h5ad(tmp_path):
    """Sparse counts of named genes, and a representation."""
    adata = anndata.AnnData(scipy.sparse.csr_matrix(np.round(np.abs(POINTS) * 3).astype(np.float32)))
    adata.obs_names, adata.var_names = CELLS, ["g0", "g1"]
    adata.obsm["X_pca"], adata.obsm["X_named"] = POINTS, pd.DataFrame(POINTS, CELLS, ["u", "v"])
    adata.obs["type"] = pd.Categorical([None, *["T", "B"] * 19, "T"])
    adata.write_h5ad(tmp_path / "x.h5ad")
    return str(tmp_path / "x.h5ad")


def read(path, **settings):
    """The points alone."""
    return read_points(str(path), **settings)[0]


def test_columns_are_chosen_by_name(parquet):
    found, _ = read_points(parquet, columns=["b", "count", "a"])
    np.testing.assert_array_equal(found, np.stack([POINTS[:, 1], np.arange(40), POINTS[:, 0]], axis=1))
    assert read_points(parquet, columns=["a", "b", "count"], index="kind")[1] == Labels(
        ("a", "b", "count"), ("T",) * 40
    )
    points, labels = read_points(parquet, groups="kind", index="count")
    np.testing.assert_array_equal(points, POINTS)
    assert labels == Labels(("a", "b"), tuple(map(str, range(40))), ("T",) * 40)
    assert read_points(parquet, columns=["b"])[1] == Labels(("b",))
    # Chosen from those of the file.
    points, labels = read_points(parquet, columns=lambda names: names[1::-1])
    np.testing.assert_array_equal(points, POINTS[:, ::-1])
    assert labels.columns == ("b", "a")


def test_a_file_is_read_once(parquet, h5ad, monkeypatch):
    """Names, numbers and labels come from one pass; counts of all genes are left where they are."""
    calls = []
    for module, name in ((pd, "read_parquet"), (anndata, "read_h5ad")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, **k: calls.append(real) or real(*a, **k))
    read_points(parquet, groups="kind")
    read_points(h5ad, groups="type")
    assert len(calls) == 2


@pytest.mark.parametrize("extension", [".csv", ".tsv", ".csv.gz", ".tsv.gz", ".npz", ".parquet", ".h5ad"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_names_rows_and_labels_are_kept(extension, precision, tmp_path):
    path, points = str(tmp_path / f"x{extension}"), POINTS.astype(precision)
    labels = Labels(("a", "b"), tuple(CELLS), ("T", "B") * 20)
    write_points(path, points, labels)
    found, known = read_points(path, groups="label")
    # Text has no precision, only digits.
    np.testing.assert_array_equal(found.astype(precision), points)
    assert known == labels
    # Labels that were not asked for are no coordinates.
    again, known = read_points(path)
    np.testing.assert_array_equal(again, found)
    assert known.columns == labels.columns
    if extension != ".h5ad":
        write_points(path, points)
        found, known = read_points(path)
        np.testing.assert_array_equal(found.astype(precision), points)
        assert known.rows is None


def test_h5ad_files_are_whole_objects(tmp_path):
    write_points(str(tmp_path / "x.h5ad"), POINTS, Labels(("a", "b"), tuple(CELLS), ("T", "B") * 20))
    adata = anndata.read_h5ad(tmp_path / "x.h5ad")
    np.testing.assert_array_equal(adata.X, POINTS)
    assert list(adata.obs_names) == CELLS
    assert list(adata.var_names) == ["a", "b"]
    assert list(adata.obs["label"][:2]) == ["T", "B"]


def test_labels_of_rows_and_precision_are_kept(tmp_path):
    path = str(tmp_path / "x.parquet")
    single = POINTS.astype(np.float32)
    write_points(path, single, Labels(("a", "b"), tuple(CELLS)))
    pd.testing.assert_frame_equal(pd.read_parquet(path), pd.DataFrame(single, CELLS, ["a", "b"]))
    write_points(path, POINTS)
    assert list(pd.read_parquet(path).columns) == ["x0", "x1"]


def test_other_writers_are_read(tmp_path):
    """What knows nothing of pandas, and columns with missing values."""
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": POINTS[:, 0], "b": POINTS[:, 1]}), path)
    np.testing.assert_array_equal(read(path), POINTS)
    pd.DataFrame({"a": pd.array([1, None, 3], "Int64"), "b": [1.0, 2.0, 3.0]}).to_parquet(path)
    with pytest.raises(ValueError, match="point 2, column 1 is nan"):
        read(path)


def test_representations_are_chosen_by_name(h5ad):
    np.testing.assert_array_equal(read(h5ad), POINTS)
    np.testing.assert_array_equal(read(f"{h5ad}:X_pca"), POINTS)
    counts = np.round(np.abs(POINTS) * 3)
    np.testing.assert_array_equal(read(h5ad, array="X"), counts)
    np.testing.assert_array_equal(read(f"{h5ad}:X", columns=["g1"]), counts[:, 1:])
    assert read_points(h5ad)[1] == Labels(None, tuple(CELLS))
    assert read_points(f"{h5ad}:X")[1] == Labels(("g0", "g1"), tuple(CELLS))
    assert read_points(f"{h5ad}:X_named")[1] == Labels(("u", "v"), tuple(CELLS))
    assert read_points(h5ad, groups="type")[1].groups == (None, *["T", "B"] * 19, "T")


def test_what_is_not_there_is_named(parquet, h5ad, tmp_path):
    (tmp_path / "bad.parquet").write_text("no")
    (tmp_path / "bad.h5ad").write_text("no")
    for source, settings, message in [
        (parquet, {}, "column 'kind' holds .*, not numbers; choose others with --columns"),
        (parquet, {"columns": ["z"]}, "has no column 'z'; its columns are a, b, kind, count"),
        (parquet, {"array": "a"}, "only .npz and .h5ad files hold named arrays"),
        (f"{h5ad}:X_umap", {}, "has no array 'X_umap'; choose one with .*x.h5ad:NAME .* from X, X_named, X_pca"),
        (h5ad, {"columns": ["g0"]}, "the columns of 'X_pca' have no names"),
        (h5ad, {"index": "g0"}, "leave --index out"),
        (str(tmp_path / "bad.parquet"), {}, "bad.parquet: not a readable .parquet file"),
        (str(tmp_path / "bad.h5ad"), {}, "bad.h5ad: not a readable .h5ad file"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            read_points(source, **settings)
        assert len(str(caught.value).splitlines()) == 1
    for missing in ("none.parquet", "none.h5ad"):
        with pytest.raises(FileNotFoundError):
            read_points(str(tmp_path / missing))
    with pytest.raises(ValueError, match="has no obs 'kind'; it has type"):
        read_points(h5ad, groups="kind")


def test_the_command_line_keeps_names(h5ad, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in (
        "fit x.h5ad:X_pca -K 2 --family diagonal -o a.omt --no-cache",
        "transport a.omt a.omt --epsilon-components 0.1 --epsilon-weights 0.1 -o plan.omt --no-cache",
        "push plan.omt x.h5ad -o y.parquet --no-cache",
    ):
        assert main(command.split()) == 0, capsys.readouterr().err
    images = pd.read_parquet("y.parquet")
    assert list(images.index) == CELLS
    assert images.shape == (40, 2)
    assert main("push plan.omt x.h5ad -o y.h5ad --no-cache".split()) == 0
    np.testing.assert_array_equal(anndata.read_h5ad("y.h5ad").X, images.to_numpy())
