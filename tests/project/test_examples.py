"""Every example runs to its end at a small size, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each starts Python and compiles what it draws: 5 to 25 seconds.
pytestmark = pytest.mark.slow

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
# Those that read data which nothing installs, given by their directory.
WITH_DATA = [path for path in EXAMPLES if path.stem == "uncertain_correspondences"]


def run(path, folder, *arguments):
    # What small sizes run is not worth optimizing.
    settings = {"OMT_SMOKE": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(path.parents[1])}
    environment = {**os.environ, **settings}
    return subprocess.run(
        [sys.executable, path, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("path", [p for p in EXAMPLES if p not in WITH_DATA], ids=lambda p: p.stem)
def test_example_runs(path, tmp_path):
    done = run(path, tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("path", WITH_DATA, ids=lambda p: p.stem)
def test_example_runs_on_real_data(path, tmp_path, data_dir):
    done = run(path, tmp_path, str(data_dir))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("path", WITH_DATA, ids=lambda p: p.stem)
def test_missing_data_are_named(path, tmp_path):
    done = run(path, tmp_path, str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "set OMT_DATA" in done.stderr
    assert "Traceback" not in done.stderr
