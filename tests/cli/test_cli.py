import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import omt_expfam as omt
from omt_expfam._cli.main import main
from omt_expfam._files.frames import Labels
from omt_expfam._storage import load, save
from omt_expfam.families import DiagonalGaussian, LowRankGaussian

from ..cases import components, mixture

RNG = np.random.default_rng(0)
SOURCE = RNG.standard_normal((60, 2)) + np.repeat([[-4.0, 0.0], [4.0, 0.0]], 30, axis=0)
TARGET = RNG.standard_normal((50, 2)) + np.repeat([[0.0, 5.0], [0.0, -5.0]], 25, axis=0)
ROOT = Path(__file__).parents[2]
EPSILONS = ("--epsilon-components", "0.5", "--epsilon-weights", "0.25")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every command runs in an empty folder with two files of points, and leaves JAX's settings as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omt_expfam.use_compilation_cache", lambda: None)
    np.save("source.npy", SOURCE)
    np.savetxt("target.csv", TARGET, delimiter=",", header="x,y", comments="", fmt="%.17g")
    return tmp_path


@pytest.fixture
def small_plan():
    """A plan on disk, without any fit."""
    sides = (mixture("DiagonalGaussian", seed, "float32", 2, 2) for seed in (0, 1))
    plan = omt.transport(*sides, epsilon_components=0.5, epsilon_weights=0.25)
    save("plan.omt", plan)
    return plan


def run(capsys, *arguments):
    """Exit status, standard output and standard error of a command."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def assert_error(result, status, message):
    """One line on standard error that says what is wrong."""
    assert result[0] == status
    assert result[2].startswith("omt-expfam: error: ")
    assert result[2].count("\n") == 1
    assert re.search(message, result[2]), result[2]


# -- from data to mapped points -----------------------------------------------------------------------------


def test_fit_transport_push(capsys):
    """The commands give what the functions give, in float64."""
    for data, out in (("source.npy", "a.omt"), ("target.csv", "b.omt")):
        status, text, _ = run(capsys, "fit", data, "-K", 2, "--family", "diagonal", "-o", out, "--seed", 7)
        assert status == 0
        assert "Fit(Mixture of 2 DiagonalGaussian components in 2 dimensions" in text
        assert f"saved {out}" in text
    status, text, _ = run(capsys, "transport", "a.omt", "b.omt", *EPSILONS)
    assert status == 0
    assert "TransportPlan(2 -> 2 components in 2 dimensions" in text
    assert "source  target   weight" in text
    assert run(capsys, "push", "plan.omt", "source.npy", "--out", "mapped.csv")[0] == 0

    with jax.enable_x64(True):
        key = jax.random.key(7)
        fits = [omt.fit(jax.random.clone(key), x, DiagonalGaussian, 2) for x in (SOURCE, TARGET)]
        plan = omt.transport(fits[0].mixture, fits[1].mixture, epsilon_components=0.5, epsilon_weights=0.25)
        assert load("plan.omt").weights.tolist() == plan.weights.tolist()
        images = np.loadtxt("mapped.csv", delimiter=",")
        assert np.array_equal(images, plan.push_forward(SOURCE))
    assert images.dtype == np.float64
    assert abs(images[:, 0]).mean() < 2 < abs(images[:, 1]).mean()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), lambda plan, x: plan.push_forward(x)),
        (("--backward",), lambda plan, x: plan.pull_back(x)),
        (("--method", "most-likely"), lambda plan, x: plan.push_forward_most_likely(x)),
        (("--method", "sample", "--seed", "5"), lambda plan, x: plan.sample(jax.random.key(5), x)),
        (
            ("--backward", "--method", "sample"),
            lambda plan, x: plan.reverse().sample(jax.random.key(0), x),
        ),
    ],
    ids=["mean", "backward", "most-likely", "sample", "backward-sample"],
)
def test_push_methods(options, expected, capsys, small_plan):
    arguments = ("push", "plan.omt", "source.npy", "--precision", "float32", *options)
    assert run(capsys, *arguments)[0] == 0
    mapped = np.load("mapped.npy")
    assert mapped.dtype == np.float32
    assert np.array_equal(mapped, expected(small_plan, SOURCE.astype("float32")))


def test_refine_and_push(capsys, small_plan):
    status, text, _ = run(capsys, "refine", "source.npy", "target.csv", "--plan", "plan.omt", "--steps", 3)
    assert status == 0
    assert "target.csv: 50 points in 2 dimensions" in text
    assert "BrenierFit(" in text
    with jax.enable_x64(True):
        fit = load("map.omt")
        images, back = (np.asarray(m(SOURCE)) for m in (fit.map.push_forward, fit.map.pull_back))
    assert fit.num_steps == 3
    assert run(capsys, "push", "map.omt", "source.npy")[0] == 0
    np.testing.assert_allclose(np.load("mapped.npy"), images, rtol=1e-12)
    assert run(capsys, "push", "map.omt", "source.npy", "--backward", "--out", "back.npy")[0] == 0
    np.testing.assert_allclose(np.load("back.npy"), back, rtol=1e-9)
    wrong = run(capsys, "push", "map.omt", "source.npy", "--method", "sample", "--force")
    assert_error(wrong, 1, r"map\.omt: holds a map, which has no --method sample")
    np.save("wide.npy", np.zeros((20, 3)))
    assert_error(run(capsys, "push", "map.omt", "wide.npy", "--force"), 1, "must have 2 columns, as the map map.omt")
    wrong = run(capsys, "refine", "source.npy", "wide.npy", "--force")
    assert_error(wrong, 1, r"wide\.npy: must have 2 columns, as source\.npy; got 3")
    wrong = run(capsys, "refine", "wide.npy", "source.npy", "--plan", "plan.omt", "--force")
    assert_error(wrong, 1, r"wide\.npy: must have 2 columns, as the plan plan\.omt; got 3")
    wrong = run(capsys, "refine", "source.npy", "target.csv", "--plan", "map.omt", "--force")
    assert_error(wrong, 1, r"map\.omt: must hold a plan; got BrenierFit")


def test_counts(capsys):
    """Drawn images of counts are counts."""
    rng = np.random.default_rng(0)
    for name, rates in (("before", (2.0, 6.0)), ("after", (4.0, 5.0))):
        np.savetxt(f"{name}.csv", rng.poisson(rates, (200, 2)), "%d", ",", header="a,b", comments="")
        assert run(capsys, "fit", f"{name}.csv", "-K", 1, "--family", "poisson", "-o", f"{name}.omt")[0] == 0
    assert run(capsys, "transport", "before.omt", "after.omt", *EPSILONS)[0] == 0
    assert run(capsys, "push", "plan.omt", "before.csv", "--method", "sample", "--out", "drawn.npy")[0] == 0
    drawn = np.load("drawn.npy")
    assert (drawn == np.round(drawn)).all()
    np.testing.assert_allclose(drawn.mean(axis=0), (4.0, 5.0), atol=0.8)


def test_low_rank_family(capsys):
    x = RNG.standard_normal((40, 4))
    np.savez("points.npz", x=x, other=x[:5])
    arguments = ("fit", "points.npz:x", "-K", 1, "--family", "low-rank", "--rank", 2, "--out", "a.omt")
    assert run(capsys, *arguments, "--max-steps", 500, "--tolerance", 1e-3)[0] == 0
    with jax.enable_x64(True):
        held = load("a.omt").mixture.components
    assert isinstance(held, LowRankGaussian)
    assert held.rank == 2


def test_transport_accepts_mixtures(capsys):
    for seed, name in enumerate(("a.omt", "b.omt")):
        save(name, mixture("Gaussian", seed, "float32"))
    assert run(capsys, "transport", "a.omt", "b.omt", *EPSILONS, "--min-weight", 0.9)[0] == 0
    with jax.enable_x64(True):
        assert load("plan.omt").weights.dtype == jnp.float64


# -- files of points ----------------------------------------------------------------------------------------


def write_csv(text):
    def write():
        with open("points.csv", "w", encoding="utf-8", newline="") as file:
            file.write(text)
        return "points.csv"

    return write


def write_npz(**arrays):
    def write():
        np.savez("points.npz", **arrays)
        return "points.npz"

    return write


GOOD = "0,1\n2,3\n4,5\n"


@pytest.mark.parametrize(
    ("write", "options"),
    [
        (write_csv(GOOD), ()),
        (write_csv("a,b\n" + GOOD), ()),
        (write_csv('\ufeffa,"b"\r\n\r\n0,"1"\r\n2 , 3\r\n  4,5'), ()),
        (write_csv("9,9\n" + GOOD), ("--header",)),
        (write_csv(GOOD), ("--no-header",)),
        (write_npz(only=np.arange(6).reshape(3, 2)), ()),
        (write_npz(a=np.ones(3), b=np.arange(6.0).reshape(3, 2)), ("--array", "b")),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv"])
def test_points_are_read_and_written(write, options, suffix, capsys, small_plan):
    expected = small_plan.push_forward(np.arange(6, dtype="float32").reshape(3, 2))
    arguments = ("push", "plan.omt", write(), "--out", f"mapped{suffix}", "--precision", "float32", *options)
    assert run(capsys, *arguments)[0] == 0
    if suffix == ".csv":
        # A table with names gives one.
        named = not Path("mapped.csv").read_text()[0].isnumeric() and "a,b" in Path("mapped.csv").read_text()
        mapped = np.loadtxt("mapped.csv", delimiter=",", dtype="float32", skiprows=int(named or "--header" in options))
    else:
        mapped = np.load(f"mapped{suffix}") if suffix == ".npy" else np.load("mapped.npz")["x"]
    assert np.array_equal(mapped, expected)


def _named(names, points, path, **options):
    import pandas as pd

    pd.DataFrame(np.asarray(points), columns=names).set_axis([f"cell {k}" for k in range(len(points))]).to_csv(
        path, **options
    )


def test_names_are_kept_and_put_in_order(capsys):
    """Columns are known by their names in all that follows, and rows keep their labels."""
    import pandas as pd

    _named(["CD3", "CD4"], SOURCE, "a.csv")
    _named(["CD4", "CD3"], TARGET[:, ::-1], "b.csv.gz")
    fitting = ("-K", 2, "--family", "diagonal")
    assert run(capsys, "fit", "a.csv", *fitting, "-o", "a.omt")[0] == 0
    assert run(capsys, "fit", "b.csv.gz", *fitting, "-o", "b.omt")[::2] == (0, "")
    # A fit of the same columns in another order is turned.
    assert run(capsys, "transport", "a.omt", "b.omt", *EPSILONS)[0] == 0
    with jax.enable_x64(True):
        plan = load("plan.omt")
        np.testing.assert_allclose(np.sort(plan.target.components.mean()[:, 1]), [-5, 5], atol=0.6)
        expected = np.asarray(plan.push_forward(SOURCE))
    # By name, whatever the order and whatever else the file holds.
    table = pd.DataFrame({"kind": "T", "CD4": SOURCE[:, 1], "id": np.arange(60), "CD3": SOURCE[:, 0]})
    table.to_csv("new.csv", index=False)
    status, text, _ = run(capsys, "push", "plan.omt", "new.csv", "--index", "id", "-o", "mapped.csv.gz")
    assert status == 0
    assert "new.csv: columns taken in the order of plan.omt: CD3, CD4" in text
    mapped = pd.read_csv("mapped.csv.gz", index_col=0)
    assert mapped.columns.tolist() == ["CD3", "CD4"]
    assert mapped.index.tolist() == list(range(60))
    np.testing.assert_allclose(mapped, expected, rtol=1e-12)
    table.drop(columns="CD4").to_csv("less.csv", index=False)
    assert_error(run(capsys, "push", "plan.omt", "less.csv", "-o", "x.csv"), 1, "has no column 'CD4', as plan.omt has")
    wrong = run(capsys, "fit", "a.csv", "-K", 1, "-o", "c.omt", "--columns", "CD3,CD8")
    assert_error(wrong, 1, "a.csv: has no column 'CD8'; its columns are ")
    assert_error(run(capsys, "fit", "source.npy", "-K", 1, "-o", "c.omt", "--columns", "a"), 1, "only tables have")


def write_bytes(name, content):
    def write():
        with open(name, "wb") as file:
            file.write(content)
        return name

    return write


def write_npy(array):
    def write():
        np.save("points.npy", array, allow_pickle=True)
        return "points.npy"

    return write


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (lambda: "absent.csv", (), r"absent\.csv: No such file"),
        (lambda: "absent.npz:x", (), r"absent\.npz: No such file"),
        (lambda: "points.txt", (), r"points\.txt: files of points end in \.npy, \.npz, \.csv"),
        (lambda: "source.npy", ("--array", "x"), "only .npz and .h5ad files hold named arrays"),
        (write_csv("a,b\n1,2\n3,x4\n"), (), r"points\.csv: line 3, column 2: 'x4' is not a number"),
        (write_csv("1,2\n\n3,\n"), (), r"line 3, column 2: '' is not a number"),
        (write_csv("1,b\n3,4\n"), (), r"line 1, column 2: 'b' is not a number"),
        (write_csv("a,b\n" + GOOD), ("--no-header",), r"line 1, column 1: 'a' is not a number"),
        (write_csv("1,2\n3,4,5\n"), (), "line 2 has 3 columns; the rows above have 2"),
        (write_csv("1,2\nnan,4\n"), (), r"point 2, column 1 is nan\. Drop or impute"),
        (write_csv(""), (), "the file is empty"),
        (write_csv("a,b\n"), (), "no rows of numbers"),
        (write_csv("1,2,3\n4,5,6\n"), (), r"must have 2 columns, as the plan plan\.omt; got 3"),
        (write_bytes("points.csv", b"\xff\xfe\x00"), (), "not a readable text file"),
        (write_bytes("points.npy", b"hello"), (), "not a readable .npy file"),
        (write_bytes("points.npz", b"hello"), (), "not a readable .npz file"),
        (write_npy(np.array([{}])), (), "not a readable .npy file of numbers .*allow_pickle"),
        (write_npy(np.array([["a"]])), (), "must hold real numbers"),
        (write_npy(np.ones(3)), (), r"shape \[n, d\], one row per point; got shape \(3,\)"),
        (write_npy(np.ones((0, 2))), (), r"got shape \(0, 2\)"),
        (write_npz(a=SOURCE, b=SOURCE), (), "several arrays; choose one .* from a, b"),
        (write_npz(a=SOURCE, b=SOURCE), ("--array", "c"), "has no array 'c'.* from a, b"),
    ],
)
def test_unreadable_points(write, options, message, capsys, small_plan):
    assert_error(run(capsys, "push", "plan.omt", write(), *options), 1, message)


# -- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: COMMAND"),
        (("fly",), "invalid choice: 'fly'"),
        (("fit", "source.npy"), "one of -K and --labels is required"),
        (("fit", "source.npy", "-K", "0"), "-K/--components: must be at least 1"),
        (("fit", "source.npy", "-K", "two"), "must be a whole number; got 'two'"),
        (("fit", "source.npy", "-K", "2", "--family", "cauchy"), "invalid choice: 'cauchy'.*low-rank"),
        (("fit", "source.npy", "-K", "2", "--rank", "2"), "--family low-rank and --rank R go together"),
        (("fit", "source.npy", "-K", "2", "--family", "low-rank"), "go together"),
        (("fit", "source.npy", "-K", "2", "--seed", "-1"), "must be at least 0"),
        (("transport", "a.omt", "b.omt", *EPSILONS, "--epsilon-scale", "2"), "--epsilon-scale multiplies auto"),
        (("transport", "a.omt", "b.omt", "--epsilon-scale", "0"), "must be greater than 0; got 0"),
        (("transport", "a.omt", "b.omt", "--epsilon-weights", "-1"), "must be finite and at least 0; got -1"),
        (("transport", "a.omt", "b.omt", "--epsilon-weights", "x"), "must be a number; got 'x'"),
        (("push", "plan.omt", "x.npy", "--header", "--no-header"), "not allowed with"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert_error(run(capsys, *arguments), 2, message)


def test_too_many_components(capsys):
    assert_error(run(capsys, "fit", "source.npy", "-K", 61), 1, "as many points as components, 61")


def test_no_convergence(capsys, folder):
    before = sorted(folder.iterdir())
    assert_error(
        run(capsys, "fit", "source.npy", "-K", 2, "--family", "diagonal", "--max-steps", 1),
        1,
        "EM stopped at `max_steps`",
    )
    assert sorted(folder.iterdir()) == before


def test_wrong_objects(capsys, small_plan):
    save("components.omt", components("Gaussian", 0, "float32")[0])
    save("mixture.omt", small_plan.source)
    wrong = run(capsys, "transport", "components.omt", "mixture.omt", *EPSILONS, "--force")
    assert_error(wrong, 1, r"components\.omt: must hold a mixture or a fit; got Gaussian")
    assert_error(run(capsys, "push", "mixture.omt", "source.npy"), 1, "must hold a plan or a map; got Mixture")
    wrong = run(capsys, "transport", "mixture.omt", "source.npy", *EPSILONS, "--force")
    assert_error(wrong, 1, r"source\.npy: not an omt-expfam file")
    assert_error(run(capsys, "push", "absent.omt", "source.npy"), 1, r"absent\.omt: No such file")


def test_existing_files_are_replaced_only_by_force(capsys, small_plan):
    with open("mapped.npy", "w") as file:
        file.write("precious")
    assert_error(run(capsys, "push", "plan.omt", "source.npy"), 1, r"mapped\.npy: the file exists .* --force")
    with open("mapped.npy") as file:
        assert file.read() == "precious"
    assert run(capsys, "push", "plan.omt", "source.npy", "--force")[0] == 0
    assert np.load("mapped.npy").shape == SOURCE.shape


def test_what_another_process_wrote_meanwhile_is_not_replaced(capsys, monkeypatch, small_plan):
    def read(*args, **options):
        Path("mapped.npy").write_text("theirs")
        return SOURCE, Labels()

    monkeypatch.setattr("omt_expfam._cli.inputs.read_points", read)
    status, text, _ = run(capsys, "push", "plan.omt", "source.npy")
    assert status == 0
    assert "saved mapped-2.npy; mapped.npy was written meanwhile by another process" in text
    assert Path("mapped.npy").read_text() == "theirs"
    assert np.load("mapped-2.npy").shape == SOURCE.shape


@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
@pytest.mark.parametrize("where", ["import", "saving"])
def test_signals_leave_one_line_and_no_file(name, status, word, where, folder):
    """In the middle of an import, where an exception would become another, and of a file."""
    program = f"""
import os, signal, sys, types
def stop(*_):
    os.kill(os.getpid(), signal.{name})
    raise ImportError("The signal was lost.")
class Finder:
    find_spec = staticmethod(lambda module, *_: stop() if module == "omt_expfam._cli.commands" else None)
def fit_command(arguments):
    from omt_expfam._files.archive import atomic_file
    with atomic_file(arguments.out) as file:
        file.write(b"half")
        stop()
if "{where}" == "import":
    sys.meta_path.insert(0, Finder())
else:
    sys.modules["omt_expfam._cli.commands"] = types.SimpleNamespace(fit_command=fit_command)
from omt_expfam._cli.main import main
sys.argv = ["omt-expfam", "fit", "source.npy", "-K", "2", "--no-cache"]
sys.exit(main())
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (status, f"omt-expfam: {word}\n")
    assert {path.name for path in folder.iterdir()} == {"source.npy", "target.csv"}


def test_closed_output_is_no_error(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"exec {sys.executable} -m omt_expfam --version >&-"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_is_checked_before_the_work(capsys):
    assert_error(run(capsys, "push", "absent.omt", "source.npy", "--out", "m.txt"), 1, "files of points end in")
    assert_error(run(capsys, "fit", "absent.npy", "-K", 2, "-o", "source.npy"), 1, "the file exists already")


def test_debug_shows_where(capsys):
    with pytest.raises(FileNotFoundError):
        main(["push", "absent.omt", "source.npy", "--debug"])


def test_interruption(capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("omt_expfam._cli.inputs.read_points", interrupt)
    assert run(capsys, "fit", "source.npy", "-K", 2)[::2] == (130, "omt-expfam: interrupted\n")


# -- the program itself -------------------------------------------------------------------------------------


def test_version_of_the_module():
    done = subprocess.run(
        [sys.executable, "-m", "omt_expfam", "--version"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert re.fullmatch(r"omt-expfam \S+\n", done.stdout)


def test_status_of_the_module():
    done = subprocess.run(
        [sys.executable, "-m", "omt_expfam", "push", "absent.omt", "x.npy", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert_error((done.returncode, done.stdout, done.stderr), 1, "No such file")


@pytest.mark.parametrize("command", ["demo", "fit", "transport", "refine", "push", "labels", "trajectory", "select"])
def test_help(command, capsys):
    status, text, error = run(capsys, command, "--help")
    assert (status, error) == (0, "")
    assert "default" in text
    assert ("squared distance" in text) == (command in ("transport", "trajectory", "select"))
    assert "--json" in text


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("labels", "--help"), ("--version",), ("fit", "x.npy", "-K", "0")]
)
def test_usage_comes_at_once(arguments):
    """Help, the version and wrong usage do not wait for JAX."""
    code = (
        "import sys; sys.modules.update(jax=None, numpy=None); from omt_expfam._cli.main import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    if arguments in ((), ("fit", "x.npy", "-K", "0")):
        assert_error((done.returncode, done.stdout, done.stderr), 2, "required: COMMAND|must be at least 1")
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert "omt-expfam" in done.stdout


@pytest.mark.parametrize("options", [(), ("--no-cache",)])
def test_programs_are_kept_between_runs(options, capsys, monkeypatch, small_plan):
    calls = []
    monkeypatch.setattr("omt_expfam.use_compilation_cache", lambda: calls.append(1))
    assert run(capsys, "push", "plan.omt", "source.npy", "--precision", "float32", *options)[0] == 0
    assert calls == ([] if options else [1])


# -- the demo -----------------------------------------------------------------------------------------------


def test_demo_without_scikit_learn(capsys, monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert_error(run(capsys, "demo"), 1, r"needs scikit-learn: pip install 'omt-expfam\[demo\]'")
    assert not (folder / "omt-demo").exists()


def table_of(text):
    """The rows of the demo's table of distances."""
    rows = re.findall(r"^ *(no transport|T\(x\)|a draw per x|training 9s) +(\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


@pytest.mark.slow
def test_demo(capsys, folder):
    """The plan brings held-out points far nearer to the target, and every picture shows something."""
    matplotlib_image = pytest.importorskip("matplotlib.image")
    status, text, error = run(capsys, "demo", "--out", "results")
    assert (status, error) == (0, "")
    table = table_of(text)
    assert len(table) == 4
    for mapped in (table["T(x)"], table["a draw per x"]):
        assert all(ours < 0.25 * none for ours, none in zip(mapped, table["no transport"], strict=True))
    for name in ("overview", "coupling", "digits"):
        picture = matplotlib_image.imread(folder / "results" / f"{name}.png")
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50
        assert f"saved {Path('results') / name}.png" in text
    with jax.enable_x64(True):
        assert isinstance(load(folder / "results" / "plan.omt"), omt.TransportPlan)


# -- diagnostics --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_diagnose_writes_a_report(capsys, folder, monkeypatch):
    """Every section is there, every picture that it shows exists, and nothing else was left."""
    monkeypatch.setattr("omt_expfam._cli.report._NUM_STARTS", 5)
    monkeypatch.setattr("omt_expfam._cli.report._RADII", (0.1,))
    arguments = ("diagnose", "source.npy", "target.csv", "-K", 2, *EPSILONS, "--repeats", 2, "--out", "report")
    status, text, error = run(capsys, *arguments)
    assert status == 0, error
    assert f"saved {Path('report', 'report.md')}" in text
    report = Path("report", "report.md").read_text()
    sections = re.findall(r"^## (.*)$", report, re.MULTILINE)
    assert sections == ["The plan", "Uniqueness", "Stability", "Choices", "Sensitivity", "Worst case"]
    assert "1 of the component couplings, 1 of the weights" in report
    assert "From source.npy (60 points) to target.csv (50 points), 2 dimensions" in report
    pictures = set(re.findall(r"\]\((.*?\.png)\)", report))
    assert {path.name for path in Path("report").iterdir()} == {"report.md", *pictures}
    # An earlier report is not replaced by accident.
    assert_error(run(capsys, *arguments), 1, "report.md: the file exists already")


def test_a_failing_section_leaves_the_rest_of_the_report(capsys, monkeypatch):
    def fail(*args):
        raise ValueError("too\nfew")

    for name in ("_stability", "_choices", "_sensitivity", "_worst_case"):
        monkeypatch.setattr(f"omt_expfam._cli.report.{name}", lambda *args: ["fine"])
    monkeypatch.setattr("omt_expfam._cli.report._uniqueness", fail)
    arguments = ("diagnose", "source.npy", "target.csv", "-K", 2, *EPSILONS, "--out", "report")
    assert_error(run(capsys, *arguments), 1, "report: the report has no results on uniqueness; it says why")
    report = Path("report", "report.md").read_text()
    assert "## Uniqueness\n\nFailed: ValueError: too few\n" in report
    assert report.count("fine") == 4
    with pytest.raises(ValueError, match="few"):
        main([str(argument) for argument in (*arguments, "--force", "--debug")])


def test_diagnose_refuses_what_does_not_fit(capsys):
    np.save("line.npy", SOURCE[:, :1])
    arguments = ("diagnose", "source.npy", "line.npy", *EPSILONS)
    assert_error(run(capsys, *arguments, "-K", 2), 1, "line.npy: must have 2 columns, as source.npy; got 1")
    assert_error(run(capsys, *arguments, "-K", 2, 3, 4), 2, "-K takes one number, or two")
    assert_error(run(capsys, "diagnose", "source.npy", "nowhere.npy", *EPSILONS, "-K", 2), 1, "nowhere.npy")
    assert not Path("omt-report").exists()
