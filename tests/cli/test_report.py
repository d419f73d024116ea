"""The command `report`: components that are labeled or chosen, coordinates from the files, usage that is wrong."""

import json
import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import omt_expfam as omt
from omt_expfam._cli.main import main
from omt_expfam.families import DiagonalGaussian

RNG = np.random.default_rng(0)
KINDS = np.repeat(["B", "T"], 30)
SOURCE = RNG.standard_normal((60, 2)) + np.where(KINDS == "B", -4.0, 4.0)[:, None] * [1.0, 0.0]
TARGET = SOURCE * [1.0, 0.9] + [0.5, 3.0]
CELLS = [f"cell {i}" for i in range(60)]
PLACES = {"source": np.sin(SOURCE), "target": np.cos(TARGET)}
DIAGONAL = ("--family", "diagonal", "--no-cache")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Tables with features, labels and coordinates to draw at, and AnnData objects."""
    monkeypatch.chdir(tmp_path)
    for name, points in (("source", SOURCE), ("target", TARGET)):
        frame = pd.DataFrame(points, CELLS, ["CD3", "CD4"])
        frame = frame.assign(type=KINDS, u1=PLACES[name][:, 0], u2=PLACES[name][:, 1])
        frame.to_csv(f"{name}.csv")
        adata = anndata.AnnData(np.ones((60, 3), np.float32), pd.DataFrame({"type": KINDS}, CELLS))
        adata.obsm["X_pca"], adata.obsm["X_umap"] = points, PLACES[name]
        adata.write_h5ad(f"{name}.h5ad")
    return tmp_path


def ask(capsys, *arguments):
    """The document of a command that succeeds, and the charts of the page that it wrote."""
    status = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    document = json.loads(captured.out)
    page = Path(document["out"]).read_text()
    found = re.findall(r'id="chart-([\w-]+)-data">(.*?)</script>', page)
    return document, {name: json.loads(text) for name, text in found}, page


def places(charts):
    return {trace["name"]: np.array([trace["x"], trace["y"]]).T for trace in charts["map"]["data"][:2]}


def test_labeled_groups_are_the_components(capsys):
    """Of both tables; the coordinates to draw at are no features."""
    options = ("--labels", "type", "--target-labels", "type", "--embedding", "u1,u2")
    document, charts, page = ask(capsys, "report", "source.csv", "target.csv", *options, *DIAGONAL)
    assert document["columns"] == [["CD3", "CD4"]] * 2
    assert document["names"] == [["B", "T"]] * 2
    assert document["notes"] == [f"The components of {name}.csv are its labeled groups." for name in PLACES]
    assert {row["kind"] for row in document["findings"]} <= {"good", "look", "note"}
    assert set(charts) == {"flows", "points", "map"}
    assert "The labels are the components" in page
    assert "mean of CD3" in page
    for name, expected in PLACES.items():
        np.testing.assert_allclose(places(charts)[f"{name}.csv"], expected, rtol=1e-5)
    assert "omt-expfam report source.csv target.csv --labels type" in page
    assert "<h1>From source.csv to target.csv</h1>" in page


def test_without_a_number_the_bic_chooses_it(capsys):
    """And an embedding is found in AnnData files."""
    drawn = ("--embedding", "X_umap", "--labels", "type", "--target-labels", "type")
    arguments = ("report", "source.h5ad", "target.h5ad", *drawn[:2], "-o", "other.html", *DIAGONAL)
    document, charts, page = ask(capsys, *arguments)
    assert document["components"] == [2, 2]
    assert document["notes"][0] == "2 components of source.h5ad have the smallest BIC of 1 to 8."
    np.testing.assert_allclose(places(charts)["target.h5ad"], PLACES["target"], rtol=1e-5)
    assert document["notes"][0] in page
    assert set(ask(capsys, *arguments, *drawn[2:], "-K", "2", "--force")[1]) >= {"map", "labels-flows"}
    assert main([*arguments]) == 1
    assert "exists already" in capsys.readouterr().err


def test_a_saved_plan_is_taken(capsys):
    tables = [pd.DataFrame(points, columns=["CD3", "CD4"]) for points in (SOURCE, TARGET)]
    plan = omt.transport(*(omt.mixture_from_labels(table, KINDS, DiagonalGaussian) for table in tables))
    omt.save("plan.omt", plan)
    document, charts, page = ask(
        capsys, "report", "source.csv", "target.csv", "--plan", "plan.omt", "--labels", "type", "--title", "<T>"
    )
    assert document["cost"] == pytest.approx(float(plan.cost), rel=1e-4)
    assert set(charts) == {"flows", "points", "map"}
    assert "<h1>&lt;T&gt;</h1>" in page
    assert "Labels carried over" in page


def test_wrong_usage_is_named(capsys):
    wrong = {
        "-o: a report is an .html file": ("-o", "page.pdf"),
        "-K takes one number, or two": ("-K", "1", "2", "3"),
        "-K and --plan do not go together": ("-K", "2", "--plan", "plan.omt"),
        "--embedding takes the name of an array, or of two columns": ("--embedding", "a,b,c"),
        "--target-labels go with --labels": ("--target-labels", "type"),
    }
    for message, arguments in wrong.items():
        assert main(["report", "source.csv", "target.csv", *arguments]) == 2
        assert message in capsys.readouterr().err
    drawn = ("--columns", "CD3,CD4", "--embedding", "X_umap")
    assert main(["report", "source.csv", "target.csv", "-K", "2", *drawn, *DIAGONAL]) == 1
    assert "only .npz and .h5ad files hold named arrays" in capsys.readouterr().err
