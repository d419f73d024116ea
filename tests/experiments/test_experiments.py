"""What the experiments share: options, missing data, tables and pictures; and that each is described and listed."""

import ast
import csv
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from benchmarks import __main__
from benchmarks.harness import data as _data, experiment as _experiment
from benchmarks.speed.mutations import FAULTS

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (ROOT / "docs" / "experiments").glob("*.md") if p.stem != "index")
SCRIPTS = sorted(
    p for p in (ROOT / "benchmarks" / "experiments").glob("[!_]*.py") if "harness.experiment" in p.read_text()
)


def call(monkeypatch, experiment, *arguments):
    monkeypatch.setattr(sys, "argv", ["toy", *arguments])
    _experiment.run("A toy.", SimpleNamespace(name="benchmarks.toy"), experiment)


def toy(options, results):
    results.table("", ["name", "value", "note"], [["a,b", 1.23456, None], ["c", float("nan"), "x"]])
    results.table("seeds", ["value"], [[0.1]], shown=False)
    results.figure("curve", plt.figure())


def test_tables_and_pictures_are_written_where_asked(monkeypatch, tmp_path, capsys):
    call(monkeypatch, toy, "--out", str(tmp_path / "new"))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "toy.csv",
        "toy_curve.png",
        "toy_seeds.csv",
        "toy_versions.csv",
    ]
    with open(tmp_path / "new" / "toy.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "value", "note"], ["a,b", "1.23", ""], ["c", "nan", "x"]]
    with open(tmp_path / "new" / "toy_versions.csv", newline="") as stream:
        assert "omt-expfam" in next(csv.reader(stream))
    printed = capsys.readouterr().out
    assert "a,b" in printed
    assert "toy_seeds" not in printed
    assert not plt.get_fignums()


def test_without_a_place_nothing_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, toy)
    assert not list(tmp_path.iterdir())
    assert "1.23" in capsys.readouterr().out


def test_a_failure_leaves_older_results_alone(monkeypatch, tmp_path):
    (tmp_path / "toy.csv").write_text("older")

    def broken(options, results):
        results.table("", ["a"], [[1]] * 3 + [5])

    with pytest.raises(TypeError):
        call(monkeypatch, broken, "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["toy.csv"]
    assert (tmp_path / "toy.csv").read_text() == "older"


def test_missing_data_are_named(monkeypatch, tmp_path, capsys):
    def reads(options, results):
        _data.mnist(options.data)

    call(monkeypatch, reads, "--quick", "--data", str(tmp_path))
    assert capsys.readouterr().out.strip().endswith("pass --data or set OMT_DATA. Nothing was run.")
    with pytest.raises(SystemExit, match="the data set mnist/mnist_train.npz is not there"):
        call(monkeypatch, reads, "--data", str(tmp_path))


def test_small_results_are_not_saved_as_full_ones(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, toy, "--quick", "--save")
    assert "--save keeps full results" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(monkeypatch, toy, "--seeds", "0")


def test_loaders_read_what_the_data_sets_say(data_dir):
    cells = _data.kang(data_dir)
    assert cells.points.shape == (1975, 16)
    assert int(cells.stimulated.sum()) == 1039
    assert len(set(cells.group)) == 7
    cells = _data.kang_genes(data_dir)
    assert cells.points.shape == (1975, 2000)
    assert {"ISG15", "CXCL10"} <= set(cells.features)
    assert np.expm1(cells.points.astype(float)).sum(axis=1).max() < 10_001
    change = cells.points[cells.stimulated].mean(axis=0) - cells.points[~cells.stimulated].mean(axis=0)
    assert cells.features[int(change.argmax())] in ("ISG15", "IFIT3", "IFI6", "ISG20")
    cells = _data.bodenmiller(data_dir)
    assert cells.points.shape == (23926, 24)
    assert cells.features[:2] == ["CD3", "CD45"]
    first, second, genes = _data.merfish(data_dir)
    assert first.places.shape == (5578, 2)
    assert second.expression.shape == (5584, 156)
    assert {"Slc17a7", "Gad1"} <= set(genes)
    assert [len(step) for step in _data.emt(data_dir)] == [577, 885, 788, 883]
    course = _data.reprogramming(data_dir)
    assert [len(v) for v in (course.day0, *course.day2)] == [len(v) for v in course.growth] == [4060, 2890, 2729]
    (images, labels), (_, test_labels) = _data.mnist(data_dir)
    assert images.shape == (60000, 28, 28)
    assert test_labels[:3].tolist() == [7, 2, 1]
    assert float(images[:1000].max()) == 1.0
    assert labels[:3].tolist() == [5, 0, 4]
    assert _data.picture(data_dir, "ocean_day").shape == (669, 1000, 3)


def test_every_experiment_has_a_page_that_gives_its_command():
    commands = {
        page.stem: set(re.findall(r"python -m benchmarks\.experiments\.(\w+) --save", page.read_text()))
        for page in PAGES
    }
    assert all(commands.values()), commands
    assert set.union(*commands.values()) == {p.stem for p in SCRIPTS}
    gate = ROOT / ".ci" / "run"
    if gate.is_file():
        assert "\npython -m benchmarks --quick\n" in gate.read_text()
    assert {f"experiments.{p.stem}" for p in SCRIPTS} <= set(__main__.ALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_tables_and_pictures_of_a_page_are_results(page):
    text = page.read_text()
    tables = re.findall(r"^:file: (\S+)$", text, re.MULTILINE)
    assert any(name.endswith("_versions.csv") for name in tables), "the page must say what ran it"
    for name in tables:
        path = (page.parent / name).resolve()
        assert path.parent == ROOT / "benchmarks" / "results"
        with open(path, newline="") as stream:
            rows = list(csv.reader(stream))
        assert len(rows) > 1
        assert len({len(row) for row in rows}) == 1
    for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (page.parent / name).resolve().is_file(), name


def test_results_were_not_measured_at_quick_sizes_or_without_versions():
    for script in SCRIPTS:
        with open(ROOT / "benchmarks" / "results" / f"{script.stem}_versions.csv", newline="") as stream:
            header, row = csv.reader(stream)
        found = dict(zip(header, row, strict=True))
        assert found["omt-expfam"]
        assert np.datetime64(found["date"])


def test_the_list_names_every_benchmark():
    listed = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = re.findall(r"^python -m benchmarks\.([\w.]+) +(\S.*)$", listed.stdout, re.MULTILINE)
    paths = [*(ROOT / "benchmarks" / "experiments").glob("[!_]*.py"), *(ROOT / "benchmarks" / "speed").glob("[!_]*.py")]
    expected = {f"{p.parent.stem}.{p.stem}": ast.get_docstring(ast.parse(p.read_text())) for p in paths}
    assert {name: text for name, text in names} == {n: (t or "").splitlines()[0] for n, t in expected.items()}


def test_a_benchmark_that_fails_is_shown():
    code = "from benchmarks import __main__ as m; m.SHARED = []; exit(m.run_small(['absent', '__init__']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = sorted(re.findall(r"^(\w+) .* s( FAILED)?$", done.stdout, re.MULTILINE))
    assert lines == [("__init__", ""), ("absent", " FAILED")]
    assert "No module named benchmarks.absent" in done.stdout


@pytest.mark.parametrize("name", FAULTS)
def test_faults_can_be_put_in(name):
    """The text that a hand-made fault changes is where it is looked for, and so are its tests."""
    fault = FAULTS[name]
    assert fault.changed(ROOT) != (ROOT / fault.file).read_text()
    assert (ROOT / fault.tests).is_file()
