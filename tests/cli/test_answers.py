"""The commands on real files, with names kept: choices, labels, time courses, laws in between; and their JSON."""

import json
from pathlib import Path

import anndata
import jax
import numpy as np
import pandas as pd
import pytest

import omt_expfam as omt
from omt_expfam._cli.main import main
from omt_expfam._storage import load
from omt_expfam.families import DiagonalGaussian

RNG = np.random.default_rng(0)
KINDS = np.repeat(["B", "T"], 30)
SOURCE = RNG.standard_normal((60, 2)) + np.where(KINDS == "B", -4.0, 4.0)[:, None] * [1.0, 0.0]
TARGET = SOURCE * [1.0, 0.9] + [0.5, 3.0]
LATER = TARGET + [0.0, 3.0]
CELLS = [f"cell {i}" for i in range(60)]
NAMES = ["CD3", "CD4"]
DIAGONAL = ("--family", "diagonal", "--no-cache")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Snapshots as an analyst has them: tables with names of cells and types, and an AnnData object."""
    monkeypatch.chdir(tmp_path)
    for name, points in (("source", SOURCE), ("target", TARGET), ("later", LATER)):
        frame = pd.DataFrame(points, CELLS, NAMES)
        frame.assign(type=KINDS).to_csv(f"{name}.csv")
        frame.assign(type=KINDS).to_parquet(f"{name}.parquet")
    adata = anndata.AnnData(np.ones((60, 3), np.float32), pd.DataFrame({"type": KINDS}, CELLS))
    adata.obsm["X_pca"] = TARGET
    adata.write_h5ad("target.h5ad")
    return tmp_path


@pytest.fixture
def plan():
    """A plan between known groups, saved by Python, that knows the names of its columns."""
    with jax.enable_x64(True):
        tables = [pd.DataFrame(points, columns=NAMES) for points in (SOURCE, TARGET)]
        sides = [omt.mixture_from_labels(table, KINDS, DiagonalGaussian) for table in tables]
        found = omt.transport(*sides, epsilon_components=0.5, epsilon_weights=0.25)
        omt.save("plan.omt", found)
    return found


def run(capsys, *arguments):
    """Standard output of a command that succeeds."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out


def ask(capsys, *arguments):
    """The one JSON document that a command prints."""
    return json.loads(run(capsys, *arguments, "--json"))


def refusal(capsys, *arguments):
    """The line of a command that fails, which prints nothing else."""
    before = sorted(Path().iterdir())
    assert main([str(argument) for argument in arguments]) != 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(Path().iterdir()) == before
    (line,) = captured.err.splitlines()
    return line


# -- fit ------------------------------------------------------------------------------------------------------------


def test_known_groups_are_components(capsys):
    found = ask(capsys, "fit", "source.csv", "--labels", "type", "-o", "a.omt", *DIAGONAL)
    assert found["names"] == ["B", "T"]
    assert found["columns"] == NAMES
    np.testing.assert_allclose(found["weights"], [0.5, 0.5])
    np.testing.assert_allclose(found["means"], [SOURCE[:30].mean(axis=0), SOURCE[30:].mean(axis=0)], atol=1e-6)
    ask(capsys, "fit", "target.parquet", "--labels", "type", "-o", "b.omt", *DIAGONAL)
    text = run(capsys, "transport", "a.omt", "b.omt", "--no-cache", "-o", "plan.omt")
    assert text.splitlines()[2].split()[:2] == ["source", "target"]
    assert text.splitlines()[3].split()[:2] in (["B", "B"], ["T", "T"])
    assert "-K and --labels is required" in refusal(capsys, "fit", "source.csv", "-K", 2, "--labels", "type")
    assert "has no column 'kind'" in refusal(capsys, "fit", "source.csv", "--labels", "kind", *DIAGONAL)
    Path("few.csv").write_text("a,b,type\n0,1,T\n1,3,\n2,0,B\n")
    assert "must name a group at every place; 1 do not" in refusal(capsys, "fit", "few.csv", "--labels", "type")


def test_masses_may_change(capsys):
    for name in ("source.csv", "target.parquet"):
        ask(capsys, "fit", name, "--labels", "type", "-o", f"{name}.omt", *DIAGONAL)
    sides = "source.csv.omt", "target.parquet.omt"
    kinds = {"4": 4.0, "tv:3": omt.TotalVariation(3.0), "share:0.8": omt.Partial(0.8)}
    for given, relaxation in kinds.items():
        options = "--source-relaxation", given, "--target-relaxation", given
        found = ask(capsys, "transport", *sides, *options, "-o", "plan.omt", "--force")
        both = {"source_relaxation": relaxation, "target_relaxation": relaxation}
        with jax.enable_x64(True):
            plan = omt.transport(*(load(side) for side in sides), **both)
        np.testing.assert_allclose(found["mass"], plan.mass, rtol=1e-6)
        np.testing.assert_allclose(found["source_growth"], plan.source_growth, rtol=1e-6)
    options = "--source-relaxation", "4", "--source-mass", 50, "--target-mass", 40
    found = ask(capsys, "transport", *sides, *options, "-o", "plan.omt", "--force")
    np.testing.assert_allclose(found["mass"], 40, rtol=1e-9)
    refused = refusal(capsys, "transport", *sides, "--source-relaxation", "tw:4")
    assert "must be PRICE, tv:PRICE or share:SHARE; got 'tw:4'" in refused
    assert "a share must be at most 1; got 2" in refusal(capsys, "transport", *sides, "--source-relaxation", "share:2")


# -- select ---------------------------------------------------------------------------------------------------------


def test_select_a_mixture(capsys):
    arguments = ("select", "source.csv", "--columns", "CD3,CD4", "-K", 1, 2, *DIAGONAL)
    found = ask(capsys, *arguments)
    with jax.enable_x64(True):
        expected = omt.select_num_components(jax.random.key(0), SOURCE, DiagonalGaussian, (1, 2))
        held = load("mixture.omt")
    assert found["chosen"] == expected.num_components == held.mixture.num_components == 2
    np.testing.assert_allclose([one["score"] for one in found["candidates"]], expected.scores, rtol=1e-9)
    assert [one["standard_error"] for one in found["candidates"]] == [None, None]
    assert found["columns"] == NAMES
    assert "2  " in run(capsys, *arguments, "--force").split("<- chosen")[0]
    assert "the file exists already" in refusal(capsys, *arguments)
    assert "there is one data set" in refusal(capsys, "select", "source.csv", "-K", "2:3")
    assert "--splits is for a source and a target" in refusal(capsys, "select", "source.csv", "-K", 2, "--splits", 3)
    two = ("select", "source.csv", "target.csv", "-K", 2, "--criterion", "bic")
    assert "--criterion is for one data set" in refusal(capsys, *two)


def test_select_a_plan(capsys):
    arguments = ("select", "source.csv", "target.csv", "--columns", "CD3,CD4", "-K", 1, "2:1", *DIAGONAL)
    found = ask(capsys, *arguments)
    with jax.enable_x64(True):
        expected = omt.select_plan(jax.random.key(0), SOURCE, TARGET, DiagonalGaussian, (1, (2, 1)))
        assert load("plan.omt").weights.shape == expected.num_components
    assert found["chosen"] == list(expected.num_components)
    assert [one["components"] for one in found["candidates"]] == [[1, 1], [2, 1]]
    np.testing.assert_allclose([one["score"] for one in found["candidates"]], expected.scores, rtol=1e-6)
    assert found["columns"] == [NAMES, NAMES]
    np.testing.assert_allclose(found["cost"], expected.plan.cost, rtol=1e-6)


# -- labels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["labels.csv", "labels.parquet", "labels.h5ad", "labels.npz"])
def test_labels_are_carried_over(out, capsys, plan):
    arguments = ("labels", "plan.omt", "source.csv", "target.h5ad", "--labels", "type", "-o", out, "--no-cache")
    text = run(capsys, *arguments)
    assert "labels of source.csv at 60 points of target.h5ad" in text
    with jax.enable_x64(True):
        expected = plan.transfer(KINDS, SOURCE, TARGET)
    if out.endswith(".npz"):
        found = np.load(out)
        table, rows, columns, labels = (found[name] for name in ("x", "rows", "columns", "label"))
    elif out.endswith(".h5ad"):
        adata = anndata.read_h5ad(out)
        table, rows, columns, labels = adata.X, adata.obs_names, adata.var_names, adata.obs["label"]
    else:
        frame = pd.read_csv(out, index_col=0) if out.endswith(".csv") else pd.read_parquet(out)
        table, rows, columns, labels = frame[["B", "T"]], frame.index, frame.columns[1:], frame["label"]
    np.testing.assert_allclose(table, expected.probabilities, rtol=1e-12)
    assert list(rows) == CELLS
    assert list(columns) == ["B", "T"]
    assert list(labels) == KINDS.tolist()


def test_labels_of_both_sides_give_flows(capsys, plan):
    arguments = ("labels", "plan.omt", "source.parquet", "target.csv", "--labels", "type", "--no-cache")
    found = ask(capsys, *arguments, "--target-labels", "type", "-o", "a.csv")
    assert found["names"] == found["flows"]["names"] == ["B", "T"]
    assert found["agreement"] == 1
    flows = plan.group_flows()
    np.testing.assert_allclose(found["flows"]["transitions"], flows.transitions[0], atol=1e-9)
    np.testing.assert_allclose(found["flows"]["mass"], flows.couplings[0], atol=1e-9)
    np.testing.assert_allclose(np.sum(found["flows"]["origins"], axis=1), 1)
    np.testing.assert_allclose(np.sum(found["proportions"]), 1)
    back = ask(capsys, *arguments, "--target-labels", "type", "-o", "b.csv", "--backward")
    assert back["backward"]
    with jax.enable_x64(True):
        expected = plan.reverse().transfer(KINDS, TARGET, SOURCE)
    np.testing.assert_allclose(back["proportions"], expected.proportions, rtol=1e-9)
    alone = ask(capsys, *arguments[:4], "--target-labels", "type", "-o", "c.csv", "--no-cache")
    assert alone["backward"]
    assert "flows" not in alone


def test_labels_in_a_file_of_their_own(capsys, plan):
    """In the order of the points, or looked up by their names."""
    order = RNG.permutation(60)
    Path("alone.csv").write_text("\n".join(KINDS))
    pd.Series(KINDS, name="type").to_csv("headed.csv", index=False)
    pd.DataFrame({"type": KINDS[order]}, np.array(CELLS)[order]).to_csv("named.tsv", sep="\t")
    pd.DataFrame({"type": KINDS[order], "more": 0}, np.array(CELLS)[order]).to_parquet("named.parquet")
    wanted = ask(capsys, "labels", "plan.omt", "source.csv", "target.h5ad", "--labels", "type", "--no-cache")
    for number, source in enumerate(["alone.csv", "headed.csv", "named.tsv", "named.parquet:type"]):
        arguments = ("labels", "plan.omt", "source.csv", "target.h5ad", "--labels", source, "-o", f"{number}.csv")
        found = ask(capsys, *arguments, "--no-cache")
        assert found | {"out": ""} == wanted | {"out": ""}
    Path("short.csv").write_text("T\nB\n")
    pd.DataFrame({"type": KINDS[:9]}, CELLS[:9]).to_csv("some.csv")
    Path("twice.csv").write_text("id,type\ncell 0,T\ncell 0,B\n")
    for name, message in [
        ("short.csv", "short.csv: must have one label per point, 60; got 1"),
        ("some.csv", "some.csv: has no label for 51 of 60 points, such as 'cell 9'"),
        ("twice.csv", "twice.csv: must name every point once; 'cell 0' is there twice"),
        ("named.parquet", "named.parquet: has several columns; choose one with named.parquet:NAME, from type, more"),
        ("named.parquet:kind", "has no column 'kind'; its columns are type, more"),
        ("kind", "source.csv: has no column 'kind'; its columns are , CD3, CD4, type"),
    ]:
        arguments = ("labels", "plan.omt", "source.csv", "target.h5ad", "-o", "x.csv", "--no-cache", "--labels")
        assert message in refusal(capsys, *arguments, name)
    for options, message in [
        ((), "--labels or --target-labels is required"),
        (("--labels", "type", "--backward"), "--target-labels is required"),
        (("--labels", "type", "-o", "x.npy"), "a .npy file holds no names of labels"),
    ]:
        assert message in refusal(capsys, "labels", "plan.omt", "source.csv", "target.csv", *options)


# -- time courses ---------------------------------------------------------------------------------------------------


def test_a_trajectory_of_files(capsys):
    """Snapshots of known states and their times; the table says what becomes of each."""
    snapshots = ("source.csv", "target.parquet", "later.csv")
    arguments = ("trajectory", *snapshots, "--times", 0, 2, 3.5, "--labels", "type", *DIAGONAL)
    text = run(capsys, *arguments)
    assert "Trajectory(2 -> 2 -> 2 components in 2 dimensions, times 0 to 3.5)" in text
    assert "time 2 to 3.5, cost " in text
    found = ask(capsys, *arguments, "--force")
    with jax.enable_x64(True):
        known = [omt.mixture_from_labels(x, KINDS, DiagonalGaussian) for x in (SOURCE, TARGET, LATER)]
        expected, held = omt.trajectory(known, times=[0, 2, 3.5]), load("trajectory.omt")
        np.testing.assert_allclose(held.costs, expected.costs, rtol=1e-6)
    assert found["times"] == held.times.tolist() == [0, 2, 3.5]
    assert found["columns"] == NAMES
    for step, entry in enumerate(found["steps"]):
        assert entry["names"] == [["B", "T"]] * 2
        np.testing.assert_allclose(entry["transitions"], expected.descendants(step, step + 1), atol=1e-6)
    np.testing.assert_allclose(found["descendants"], expected.descendants(0, 2), atol=1e-6)
    assert (
        "must be finite and increase" in refusal(capsys, "trajectory", "a.omt", "b.omt", "--times", 2, 1)
        or not Path("a.omt").exists()
    )


def test_a_trajectory_of_fits(capsys):
    for name in ("source", "target"):
        run(capsys, "fit", f"{name}.csv", "--columns", "CD3,CD4", "-K", 2, "-o", f"{name}.omt", *DIAGONAL)
    found = ask(capsys, "trajectory", "source.omt", "target.omt", "--no-cache")
    assert found["times"] == [0, 1]
    assert found["columns"] == NAMES
    assert found["steps"][0]["names"] == [None, None]
    run(capsys, "fit", "target.csv", "--columns", "CD4,CD3", "-K", 2, "-o", "turned.omt", *DIAGONAL)
    arguments = ("--force", "--no-cache")
    turned = ask(capsys, "trajectory", "source.omt", "turned.omt", *arguments)
    np.testing.assert_allclose(turned["steps"][0]["cost"], found["steps"][0]["cost"], rtol=1e-4)
    assert turned["columns"] == NAMES
    for wrong, message in [
        (("source.omt",), "a trajectory has at least two snapshots"),
        (("source.omt", "target.csv"), "one of -K and --labels is required: target.csv holds points"),
        (("source.omt", "target.omt", "-K", 2), "all of these are saved fits"),
        (("source.omt", "target.omt", "--times", 1), "--times must have one time per snapshot, 2; got 1"),
        (("source.omt", "target.omt", "--times", 2, 1), "`times` must be finite and increase; got [2.0, 1.0]"),
    ]:
        assert message in refusal(capsys, "trajectory", *wrong, *arguments)


def test_laws_in_between(capsys, plan):
    """A mixture for what comes next, or points with the names of columns."""
    found = ask(capsys, "interpolate", "plan.omt", "--time", 0.25, "--no-cache")
    with jax.enable_x64(True):
        expected, held = plan.interpolate(0.25), load("between.omt")
        np.testing.assert_allclose(held.components.mean(), expected.components.mean(), rtol=1e-9)
        np.testing.assert_allclose(found["covariance"], expected.covariance(), rtol=1e-9)
        np.testing.assert_allclose(found["mean"], 0.75 * SOURCE.mean(axis=0) + 0.25 * TARGET.mean(axis=0), atol=1e-5)
        draws = np.asarray(expected.sample(jax.random.key(5), 60))
    arguments = ("interpolate", "plan.omt", "--time", 0.25, "-n", 60, "--seed", 5, "-o", "draws.csv.gz", "--no-cache")
    assert "saved draws.csv.gz" in run(capsys, *arguments)
    frame = pd.read_csv("draws.csv.gz")
    assert list(frame.columns) == NAMES
    np.testing.assert_allclose(frame, draws, rtol=1e-9)
    assert "`t` must lie between 0 and 1; got 2" in refusal(
        capsys, "interpolate", "plan.omt", "-t", 2, "-o", "x.omt", "--no-cache"
    )


def test_laws_in_between_of_a_time_course(capsys):
    snapshots = ("source.csv", "target.csv", "later.csv")
    run(capsys, "trajectory", *snapshots, "--labels", "type", *DIAGONAL)
    found = ask(capsys, "interpolate", "trajectory.omt", "--time", 1.5, "--no-cache")
    with jax.enable_x64(True):
        expected = load("trajectory.omt").interpolate(1.5)
        np.testing.assert_allclose(found["means"], expected.components.mean(), rtol=1e-9)
    assert found["columns"] == NAMES
    assert "must hold a plan or a trajectory; got Mixture" in refusal(
        capsys, "interpolate", "between.omt", "-t", 0, "-o", "x.omt", "--no-cache"
    )


# -- for programs ---------------------------------------------------------------------------------------------------


def test_one_document_whatever_is_asked(capsys, plan):
    """The keys that programs rely on; what people read goes to standard error."""
    for arguments, keys in [
        (("push", "plan.omt", "source.csv", "--columns", "CD4,CD3", "-o", "y.csv"), "points dimensions method"),
        (("refine", "source.csv", "target.csv", "--plan", "plan.omt", "--steps", 3), "points steps summary"),
        (("fit", "source.csv", "--columns", "CD3,CD4", "-K", 2, "--family", "diagonal", "-o", "a.omt"), "bic means"),
        (("transport", "a.omt", "a.omt", "-o", "b.omt"), "cost weights correspondences advice independence"),
    ]:
        assert main([*map(str, arguments), "--no-cache", "--json"]) == 0
        captured = capsys.readouterr()
        assert captured.out.count("\n") == 1
        document = json.loads(captured.out)
        assert {"command", "version", "out", *keys.split()} <= set(document)
        assert document["command"] == arguments[0]
        assert Path(document["out"]).exists()
        assert f"saved {document['out']}" in captured.err
    assert document["correspondences"][0].keys() == {
        "source",
        "target",
        "weight",
        "share_of_source",
        "share_of_target",
        "cost",
    }
    # Columns are taken by name, which is said.
    assert list(pd.read_csv("y.csv", index_col=0).columns) == NAMES
    line = refusal(capsys, "push", "absent.omt", "source.csv", "-o", "z.csv", "--json", "--no-cache")
    assert line == "omt-expfam: error: absent.omt: No such file or directory"


def test_a_refined_map_keeps_names(capsys, plan):
    run(capsys, "refine", "source.csv", "target.csv", "--plan", "plan.omt", "--steps", 3, "--no-cache")
    run(capsys, "push", "map.omt", "source.csv", "-o", "y.parquet", "--no-cache")
    images = pd.read_parquet("y.parquet")
    assert list(images.columns) == NAMES
    assert list(images.index) == CELLS
