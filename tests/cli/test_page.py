"""The page on the command line: its commands run one after the other, and JSON has the keys that it promises."""

import json
import re
import shlex
from pathlib import Path

import pytest

from omt_expfam._cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
FENCES = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line) for kind, text in FENCES if kind == "bash" for line in text.splitlines()]


def promised(command, sides):
    """The keys that the table lists for a command."""
    name = f"{command} DATA TARGET" if sides == 2 else f"{command} DATA"
    rows = re.findall(r"^\| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    mine = [keys for commands, keys in rows if {f"`{command}`", f"`{name}`"} & set(commands.split(", "))]
    # What stands in parentheses is within other keys; what follows a semicolon depends on what is asked.
    return {key for keys in mine for key in re.findall(r"`(\w+)`", re.sub(r"\(.*?\)|;.*", "", keys))}


@pytest.mark.loose
def test_its_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("omt_expfam.use_compilation_cache", lambda: None)
    for kind, text in FENCES:
        if kind == "python":
            exec(compile(text, "command-line.md", "exec"), {})
    assert {command[1] for command in COMMANDS} >= {"fit", "select", "labels", "trajectory", "interpolate", "refine"}
    for program, *arguments in COMMANDS:
        assert program == "omt-expfam"
        status = main([*arguments, *(() if "--json" in arguments else ("--json",))])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        document = json.loads(captured.out)
        sides = 2 if arguments[0] == "select" and "best-plan.omt" in arguments else 1
        assert {"command", "version", "out", *promised(arguments[0], sides)} <= set(document), arguments
        assert Path(document["out"]).stat().st_size > 0
    assert document["command"] == "transport"
