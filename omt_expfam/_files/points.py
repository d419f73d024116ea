"""Files of points with their names: reading them with errors that say where, and writing them."""

import gzip
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from .archive import atomic_file, read_array
from .frames import Columns, first_line, GROUPS, Labels, read_frame, write_annotated, write_parquet
from .paths import check_extension
from .text import read_text, write_text

# What reading a malformed array raises, and a malformed archive besides.
_NPY_ERRORS = (ValueError, EOFError, SyntaxError, MemoryError)
_NPZ_ERRORS = (*_NPY_ERRORS, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)

# Files that hold several arrays, and those that other libraries read.
_SEVERAL, _FRAMES = (".npz", ".h5ad"), (".parquet", ".h5ad")
# The arrays of a .npz file that we write: points, names of columns, names of rows.
_POINTS, _NAMES = "x", ("columns", "rows", GROUPS)


def read_points(
    source: str,
    *,
    array: str | None = None,
    header: bool | None = None,
    columns: Columns = None,
    index: str | None = None,
    groups: str | None = None,
) -> tuple[np.ndarray, Labels]:
    """Read points and their names from a file: ``.npy``, ``.npz``, ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad``.

    Text may be compressed (``.csv.gz``), and separated by commas, semicolons or tabs; names of rows are known as pandas
    and R write them.

    Args:
        source: The file; ``file.npz:name`` chooses one array of several, ``file.h5ad:name`` one representation.
        array: The name of the array in a ``.npz`` or ``.h5ad`` file.
        header: Whether the first line of a text file holds names; by default it does if none of its cells is a number,
            or its first cell is empty.
        columns: Names of the columns of a table to read, in this order; by default all but names of rows, labels, and
            texts in a column ``label``, as we write it. Or a function that chooses them from those of the file
            (``None`` for all), and is not called where there are none.
        index: Name of the column of a table that names the rows.
        groups: Name of the column of a table, the array, or the key of ``obs``, that holds a label of each row.

    Returns:
        Real, finite numbers, shape ``[n, d]``; and the names that the file has.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the library that reads such files is not installed.
        ValueError: If the file is not readable as a table of finite numbers; the message says where.
    """
    path, name = split_name(source)
    name = array if name is None else name
    extension = check_extension(path)
    if name is not None and extension not in _SEVERAL:
        raise ValueError(f"{path}: only {' and '.join(_SEVERAL)} files hold named arrays; got the name {name!r}.")
    if extension in _FRAMES:
        points, labels = read_frame(path, name, columns, index, groups)
    elif is_text(extension):
        points, labels = read_text(path, header, columns, index, groups)
    else:
        if index is not None or not (columns is None or callable(columns)) or (groups and extension == ".npy"):
            raise ValueError(f"{path}: only tables have columns with names; choose those of an array beforehand.")
        points, labels = _read_npz(path, name, groups) if extension == ".npz" else (_read_npy(path), Labels())
    return _as_table(source, points), labels


def write_points(path: str, points: np.ndarray, labels: Labels | None = None, *, replace: bool = True) -> None:
    """Write points and their names to a file that appears only when complete; a ``.npy`` file has no names.

    A ``.npz`` file has the points as ``x`` and names as ``columns``, ``rows`` and ``label``; a ``.h5ad`` file as ``X``,
    with labels in ``obs``.
    """
    extension, labels = check_extension(path), labels or Labels()
    with atomic_file(path, replace=replace) as file:
        if extension.endswith(".gz"):
            # Without a date: equal points give equal files.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                write_text(packed, extension.removesuffix(".gz"), points, labels)
        elif is_text(extension):
            write_text(file, extension, points, labels)
        elif extension in _FRAMES:
            (write_parquet if extension == ".parquet" else write_annotated)(file, points, labels)
        elif extension == ".npy":
            np.lib.format.write_array(file, points, allow_pickle=False)
        else:
            held: Any = {k: np.asarray(names) for k, names in zip(_NAMES, labels, strict=True) if names is not None}
            np.savez_compressed(file, **{_POINTS: points}, **held)


def is_text(extension: str) -> bool:
    """Whether files of this extension are text."""
    return extension.removesuffix(".gz") in (".csv", ".tsv")


def split_name(source: str) -> tuple[str, str | None]:
    """Split ``file.npz:name``."""
    for extension in _SEVERAL:
        path, mark, name = source.rpartition(f"{extension}:")
        if mark and not os.path.exists(source):
            return f"{path}{extension}", name
    return source, None


def _read_npy(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return read_array(file, os.fstat(file.fileno()).st_size)
    except _NPY_ERRORS as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({first_line(error)}).") from error


def _read_npz(path: str, name: str | None, groups: str | None) -> tuple[Any, Labels]:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            every = [member.removesuffix(".npy") for member in archive.namelist()]
            aside = {groups, *(_NAMES if _POINTS in every else ())}
            names = [member for member in every if member not in aside]
            chosen: Any = names[0] if name is None and len(names) == 1 else name
            for wanted, among in ((chosen, names), (groups or every[0], every)):
                if wanted not in among:
                    problem = "holds several arrays; choose one" if wanted is None else f"has no array {wanted!r}"
                    known = ", ".join(among)
                    raise _Choice(f"{path}: {problem} with {path}:NAME or --array NAME, from {known}.")
            points = _read_member(archive, chosen)
            if chosen != _POINTS or np.ndim(points) != 2:
                return points, Labels(groups=_names(archive, groups, len(points)))
            columns, rows = (_names(archive, *pair) for pair in zip(_NAMES, points.shape[::-1], strict=False))
            return points, Labels(columns, rows, _names(archive, groups, len(points)))
    except _Choice as choice:
        raise ValueError(str(choice)) from None
    except _NPZ_ERRORS as error:
        raise ValueError(f"{path}: not a readable .npz file of numbers ({first_line(error)}).") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> Any:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        return read_array(member, info.file_size)


def _names(archive: zipfile.ZipFile, name: str | None, num: int) -> tuple[str, ...] | None:
    """An array of names, where the archive has one of that length."""
    if name is None or f"{name}.npy" not in archive.namelist():
        return None
    found = _read_member(archive, name)
    return tuple(map(str, found.tolist())) if found.shape == (num,) else None


class _Choice(Exception):
    """No array, or no single one, meets the request."""


def _as_table(source: str, points: np.ndarray) -> np.ndarray:
    if points.dtype.kind not in "biuf":
        raise ValueError(f"{source}: must hold real numbers; got {points.dtype}.")
    if points.ndim != 2 or not points.size:
        raise ValueError(f"{source}: must hold points, shape [n, d], one row per point; got shape {points.shape}.")
    finite = np.isfinite(points)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{source}: point {row + 1}, column {column + 1} is {points[row, column]}. "
            "Drop or impute missing and infinite values."
        )
    return points
