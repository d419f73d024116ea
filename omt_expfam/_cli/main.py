"""The command line: fit mixtures to files of points, transport them, and read off what the plan says.

The library itself is loaded with the module of a command, so that help and usage errors come at once.
"""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import omt_expfam

from .._files.paths import remove_unfinished
from .arguments import check_usage
from .parser import build_parser, PROG

# The module of each command.
_HOMES = {
    "demo": "demo",
    "select": "selection",
    "fit": "commands",
    "transport": "commands",
    "push": "commands",
    "refine": "commands",
    "labels": "labels",
    "trajectory": "courses",
    "interpolate": "courses",
    "report": "page",
    "diagnose": "report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status: 0 for success, 1 for an error in the data or the computation, 2 for wrong usage, 130 when
        interrupted, 143 when terminated.
    """
    if argv is None:
        # The program itself, not a caller's process.
        _open_closed_streams()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
    debug = False
    try:
        arguments = build_parser().parse_args(argv)
        debug = arguments.debug
        arguments.words = sys.argv[1:] if argv is None else list(argv)
        check_usage(arguments)
        if arguments.cache:
            # What earlier runs compiled is found.
            omt_expfam.use_compilation_cache()
        home = importlib.import_module(f".{_HOMES[arguments.command]}", __package__)
        _run(getattr(home, f"{arguments.command}_command"), arguments)
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left; nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, ModuleNotFoundError, RuntimeError) as error:
        if debug or not _is_expected(error):
            raise
        print(f"{PROG}: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _run(command: Callable[[argparse.Namespace], Any], arguments: argparse.Namespace) -> None:
    """Run a command; for programs, only its document goes to standard output."""
    if not arguments.json:
        command(arguments)
        return
    with contextlib.redirect_stdout(sys.stderr):
        document = command(arguments)
    # Loaded by every command; help does without.
    output = importlib.import_module(".output", __package__)
    output.write_document(arguments.command, document)


def _open_closed_streams() -> None:
    """Let nothing come of what is printed where output is closed; else the next file opened would take its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))


def _stop(number: int, _: Any) -> NoReturn:
    """Leave at once, and nothing behind: an exception might be lost, in the middle of an import or in a callback."""
    remove_unfinished()
    word = "interrupted" if number == signal.SIGINT else "terminated"
    with contextlib.suppress(OSError):
        os.write(2, f"{PROG}: {word}\n".encode())
    os._exit(128 + number)


def _is_expected(error: Exception) -> bool:
    """Whether an error is the data's or the computation's, not a mistake in the library."""
    return not isinstance(error, RuntimeError) or isinstance(error, omt_expfam.ConvergenceError)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
