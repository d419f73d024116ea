"""Results of commands, which never replace a file by accident: not one that another process has written meanwhile."""

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import omt_expfam

from .._files.frames import Labels
from .._files.points import write_points
from .._files.tree import write_object
from .._storage import library_classes

# What a command found, for programs.
Document = dict[str, Any]


def write_document(command: str, document: Mapping[str, Any]) -> None:
    """Write one JSON document to standard output; numbers that JSON does not have become ``null``."""
    whole = {"command": command, "version": omt_expfam.__version__, **document}
    sys.stdout.write(json.dumps(_plain(whole), allow_nan=False, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _plain(np.asarray(value).tolist())


def save_result(arguments: argparse.Namespace, result: Any, *sides: Any) -> str:
    """Save an object, and the names of the columns of its sides, under the wanted name or a free one; which it was."""
    columns = [None if names is None else list(names) for names in sides]
    known = columns if any(columns) else None
    write = lambda path, **how: write_object(path, result, library_classes(), columns=known, **how)
    return _written(arguments, write)


def save_points(arguments: argparse.Namespace, points: Any, labels: Labels) -> str:
    """Save points likewise."""
    return _written(arguments, lambda path, **how: write_points(path, points, labels, **how))


def save_page(arguments: argparse.Namespace, write: Callable[..., None]) -> str:
    """Save what a function writes likewise."""
    return _written(arguments, write)


def say_saved(arguments: argparse.Namespace, path: str) -> None:
    """Print where a result was saved."""
    other = path != arguments.out
    print(f"saved {path}" + (f"; {arguments.out} was written meanwhile by another process" if other else ""))


def _written(arguments: argparse.Namespace, write: Callable[..., None]) -> str:
    """Write under the wanted name, or under the next free one if that was taken during the work."""
    wanted = arguments.out
    stem, extension = os.path.splitext(wanted)
    for path in itertools.chain([wanted], (f"{stem}-{number}{extension}" for number in itertools.count(2))):
        try:
            write(path, replace=arguments.force)
        except FileExistsError:
            continue
        return path
    raise AssertionError  # numbers do not end
