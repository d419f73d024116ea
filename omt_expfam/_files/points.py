"""Tables of points in files: reading them with errors that say where, and writing them."""

import csv
import os
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np

from .archive import atomic_file, read_array
from .paths import check_extension

# What reading a malformed array raises, and a malformed archive besides.
_NPY_ERRORS = (ValueError, EOFError, SyntaxError, MemoryError)
_NPZ_ERRORS = (*_NPY_ERRORS, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_points(source: str, *, array: str | None = None, header: bool | None = None) -> np.ndarray:
    """Read points from a ``.npy``, ``.npz``, ``.csv`` or ``.tsv`` file.

    Text may be separated by commas, semicolons or tabs. Labels of rows, as pandas and R write them, are left out.

    Args:
        source: The file; ``file.npz:name`` chooses one array of several.
        array: The name of the array in a ``.npz`` file.
        header: Whether the first line of a text file holds names; by default it does if none of its cells is a number,
            or its first cell is empty.

    Returns:
        Real, finite numbers, shape ``[n, d]``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not readable as a table of finite numbers; the message says where.
    """
    path, name = _split_name(source)
    name = array if name is None else name
    extension = check_extension(path)
    if name is not None and extension != ".npz":
        raise ValueError(f"{path}: only .npz files hold named arrays; got the name {name!r}.")
    if extension in (".csv", ".tsv"):
        points = _read_csv(path, header)
    else:
        points = _read_npz(path, name) if extension == ".npz" else _read_npy(path)
    return _as_table(source, points)


def write_points(path: str, points: np.ndarray, *, replace: bool = True) -> None:
    """Write points to a ``.npy``, ``.npz`` (array ``x``) or ``.csv`` file that appears only when complete."""
    extension = check_extension(path)
    with atomic_file(path, replace=replace) as file:
        _write(file, extension, points)


def _split_name(source: str) -> tuple[str, str | None]:
    """Split ``file.npz:name``."""
    path, mark, name = source.rpartition(".npz:")
    if not mark or os.path.exists(source):
        return source, None
    return f"{path}.npz", name


def _read_npy(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return read_array(file, os.fstat(file.fileno()).st_size)
    except _NPY_ERRORS as error:
        raise ValueError(f"{path}: not a readable .npy file of numbers ({_first_line(error)}).") from error


def _read_npz(path: str, name: str | None) -> Any:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            names = [member.removesuffix(".npy") for member in archive.namelist()]
            chosen = names[0] if name is None and len(names) == 1 else name
            if chosen not in names:
                problem = "holds several arrays; choose one" if name is None else f"has no array {name!r}"
                raise _Choice(f"{path}: {problem} with {path}:NAME or --array NAME, from {', '.join(names)}.")
            info = archive.getinfo(f"{chosen}.npy")
            with archive.open(info) as member:
                return read_array(member, info.file_size)
    except _Choice as choice:
        raise ValueError(str(choice)) from None
    except _NPZ_ERRORS as error:
        raise ValueError(f"{path}: not a readable .npz file of numbers ({_first_line(error)}).") from error


class _Choice(Exception):
    """No array, or no single one, meets the request."""


def _read_csv(path: str, header: bool | None) -> np.ndarray:
    """Parse by NumPy where it can, and else cell by cell to find what is wrong."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            delimiter = _delimiter(next((line for line in file if line.strip()), ""))
            file.seek(0)
            rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
            first, second = next(rows, None), next(rows, [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: not a readable text file ({_first_line(error)}).") from error
        if first is None:
            raise ValueError(f"{path}: the file is empty.")
        skip = _has_names(path, first, second) if header is None else header
        labels = skip and _has_labels(path, first, second)
        file.seek(0)
        try:
            if labels:
                raise ValueError("Labels of rows are left out cell by cell.")
            rows = np.loadtxt(_lines(file, skip), delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
        except (ValueError, UnicodeDecodeError):
            file.seek(0)
            rows = _parse_cells(path, csv.reader(file, delimiter=delimiter), skip, labels)
    if not rows.size:
        raise ValueError(f"{path}: the file has no rows of numbers.")
    return rows


def _delimiter(line: str) -> str:
    """Comma, semicolon or tab: what the first line has most of."""
    return max(",;\t", key=line.count)


def _has_names(path: str, first: list[str], second: list[str]) -> bool:
    """Whether the first line holds names: none of its cells is a number, or its corner is empty, above row labels."""
    counted = first == [str(column) for column in range(len(first))]
    whole = all(cell.strip().lstrip("-").isdigit() for cell in second)
    if counted and (len(first) > 3 or (len(first) > 1 and not whole)):
        raise ValueError(
            f"{path}: the first line is {','.join(first)}: a point, or numbers of columns as pandas writes them? Say "
            "--no-header or --header (header=False or True)."
        )
    return not first[0].strip() or not any(_is_number(cell) for cell in first)


def _has_labels(path: str, names: list[str], second: list[str]) -> bool:
    """Whether rows begin with a label: below an empty corner (pandas), or with one cell more than names (R)."""
    if second and len(second) == len(names) + 1:
        return True
    if second and len(second) != len(names):
        raise ValueError(f"{path}: the header has {len(names)} names; the first row has {len(second)} cells.")
    return len(names) > 1 and not names[0].strip()


def _lines(file: Any, skip: bool) -> Any:
    """The lines that are not blank, without the header; at least one."""
    lines = (line for line in file if line.strip())
    if skip:
        next(lines)
    first = next(lines, None)
    if first is None:
        raise ValueError("There is nothing but a header.")
    yield first
    yield from lines


def _parse_cells(path: str, reader: Any, skip: bool, labels: bool) -> np.ndarray:
    """Parse a table cell by cell, naming the first one that is not a number; labels of rows are left out."""
    rows: list[list[float]] = []
    try:
        for cells in reader:
            if not cells or (len(cells) == 1 and not cells[0].strip()):
                continue
            if skip:
                skip = False
                continue
            if rows and len(cells) != len(rows[0]) + labels:
                above = len(rows[0]) + labels
                raise ValueError(
                    f"{path}: line {reader.line_num} has {len(cells)} columns; the rows above have {above}."
                )
            for column, cell in list(enumerate(cells, 1))[labels:]:
                if not _is_number(cell):
                    raise ValueError(f"{path}: line {reader.line_num}, column {column}: {cell!r} is not a number.")
            rows.append([float(cell) for cell in cells[labels:]])
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable text file ({_first_line(error)}).") from error
    return np.asarray(rows)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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


def _write(file: BinaryIO, extension: str, points: np.ndarray) -> None:
    if extension == ".npy":
        np.lib.format.write_array(file, points, allow_pickle=False)
    elif extension == ".npz":
        np.savez_compressed(file, x=points)
    else:
        digits = 9 if points.dtype == np.float32 else 17
        np.savetxt(file, points, fmt=f"%.{digits}g", delimiter="\t" if extension == ".tsv" else ",")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
