"""Programs that outlive the process: found by the next one, bounded, and set up only where somebody asks for it."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import platformdirs
import pytest

import omt_expfam as omt
from omt_expfam._base import cache

pytestmark = pytest.mark.usefixtures("kept_programs")
ROOT = Path(__file__).parents[2]


def python(code, *arguments, at_once=1):
    """The words that processes print, each running the same code."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) for _ in range(at_once)]
    printed = []
    for process in running:
        out, error = process.communicate()
        assert process.returncode == 0, error
        assert "Error" not in error
        printed.append(out.split())
    return printed


def compile_one(number):
    """Compile a program that no other number shares."""
    return jax.jit(lambda x: x * number)(jnp.ones(3))


def programs(folder):
    return {path.name.removesuffix("-cache") for path in Path(folder).glob("*-cache")}


def size(folder):
    return sum(path.stat().st_size for path in Path(folder).glob("*-cache"))


TRANSPORT = """
import collections, sys
import jax, numpy as np
import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian

events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.rpartition("/")[2]]))
assert str(omt.use_compilation_cache(sys.argv[1])) == sys.argv[1]
sides = [omt.Mixture(np.full(2, 0.5), DiagonalGaussian(np.eye(2) * s, np.ones((2, 2)))) for s in (1, 3)]
plan = omt.transport(*sides, epsilon_components=0.5, epsilon_weights=0.25)
print(float(plan.cost), events["compile_requests_use_cache"], events["cache_hits"])
"""


def test_the_next_process_compiles_nothing(tmp_path):
    """Also where two processes wrote at the same time."""
    runs = python(TRANSPORT, tmp_path / "programs", at_once=2)
    assert any(int(hits) < int(requests) for _, requests, hits in runs)
    cost, requests, _ = runs[0]
    assert python(TRANSPORT, tmp_path / "programs") == [[cost, requests, requests]]


def test_importing_changes_no_setting():
    code = """
import jax, numpyro
before = dict(jax.config.values)
import omt_expfam, omt_expfam.families
for name in omt_expfam.__all__:
    getattr(omt_expfam, name)
print(*(name for name, value in jax.config.values.items() if before[name] != value))
"""
    assert python(code) == [[]]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    with pytest.warns(UserWarning, match="Compiled programs are not kept: .*file.*: Not a directory"):
        assert omt.use_compilation_cache(tmp_path / "file" / "programs") is None
    assert jax.config.jax_compilation_cache_dir == before
    assert compile_one(1).tolist() == [1, 1, 1]


def test_size_is_bounded(tmp_path, monkeypatch):
    """The program that was used longest ago makes room."""
    omt.use_compilation_cache(tmp_path)
    compile_one(2)
    (oldest,) = programs(tmp_path)
    monkeypatch.setattr(cache, "_MAX_BYTES", bound := 3 * size(tmp_path))
    omt.use_compilation_cache(tmp_path)
    for number in range(3, 8):
        compile_one(number)
        assert size(tmp_path) <= bound
    assert len(programs(tmp_path)) >= 2
    assert oldest not in programs(tmp_path)


def test_a_folder_that_was_not_bounded_before(tmp_path):
    """Its programs have no time of last use, which JAX's bounded cache cannot read; they stay, and more come."""
    omt.use_compilation_cache(tmp_path)
    compile_one(8)
    (held,) = programs(tmp_path)
    (tmp_path / f"{held}-atime").unlink()
    omt.use_compilation_cache(tmp_path)
    compile_one(9)
    assert held in programs(tmp_path)
    assert len(programs(tmp_path)) == 2


def test_a_later_call_wins(tmp_path):
    for number, name in enumerate(("a", "b"), 10):
        assert omt.use_compilation_cache(tmp_path / name) == tmp_path / name
        compile_one(number)
        assert len(programs(tmp_path / name)) == 1


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    """That folder is the user's: it is not bounded here. What is asked for in words comes before it."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert omt.use_compilation_cache() == tmp_path / "theirs"
    assert jax.config.jax_compilation_cache_max_size == -1
    assert omt.use_compilation_cache(tmp_path / "ours") == tmp_path / "ours"
    assert jax.config.jax_compilation_cache_max_size == cache._MAX_BYTES


def test_the_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    assert omt.use_compilation_cache() == tmp_path / "omt-expfam" / "jax"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "omt-expfam" / "jax")
