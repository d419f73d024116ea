"""The README's example runs as it stands, and its first part stays within fifteen lines."""

import re
from pathlib import Path

import numpy as np
import pytest

import omt_expfam as omt

TEXT = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.optimized
@pytest.mark.loose
def test_the_example_runs(kept_programs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    names = {}
    exec(compile(first, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "marginal error" in printed
    assert "of source" in printed
    assert names["images"].shape == names["draws"].shape == names["x"].shape
    assert isinstance(names["halfway"], omt.Mixture)
    # The draws have the target's law: their means agree within a few standard errors of the fit.
    gap = np.asarray(names["draws"]).mean(0) - names["y"].mean(0)
    assert (np.abs(gap) < 5 * names["y"].std(0) / np.sqrt(1000)).all()
    assert omt.load(tmp_path / "plan.omt").num_steps == names["plan"].num_steps
    exec(compile(second, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "P(sends)" in printed
    interval = names["plans"].cost_interval(0.99)
    assert interval.lower < interval.mean < interval.upper


def test_its_size():
    assert len(TEXT.splitlines()) <= 120
    lines = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)[0].splitlines()
    assert len([line for line in lines if line.strip() and not line.startswith(("import", "from"))]) <= 15
