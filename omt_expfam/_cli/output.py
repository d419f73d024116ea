"""Results of commands, which never replace a file by accident: not one that another process has written meanwhile."""

import argparse
import itertools
import os
from collections.abc import Callable
from typing import Any

from .._files.points import Labels, write_points
from .._files.tree import write_object
from .._storage import library_classes


def save_result(arguments: argparse.Namespace, result: Any, *sides: Any) -> str:
    """Save an object, and the names of the columns of its sides, under the name that was asked for; what to say."""
    columns = [None if names is None else list(names) for names in sides]
    known = columns if any(columns) else None
    write = lambda path, **how: write_object(path, result, library_classes(), columns=known, **how)
    return _written(arguments, write)


def save_points(arguments: argparse.Namespace, points: Any, labels: Labels) -> str:
    """Save points likewise."""
    return _written(arguments, lambda path, **how: write_points(path, points, labels, **how))


def _written(arguments: argparse.Namespace, write: Callable[..., None]) -> str:
    """Write under the wanted name, or under the next free one if that was taken during the work."""
    wanted = arguments.out
    stem, extension = os.path.splitext(wanted)
    for path in itertools.chain([wanted], (f"{stem}-{number}{extension}" for number in itertools.count(2))):
        try:
            write(path, replace=arguments.force)
        except FileExistsError:
            continue
        return f"saved {path}" + (f"; {wanted} was written meanwhile by another process" if path != wanted else "")
    raise AssertionError  # numbers do not end
