"""Tables of points in files: reading them with errors that say where, and writing them."""

import csv
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .archive import atomic_file, read_array
from .frames import Labels, place, read_frame, write_parquet
from .paths import check_extension

# What reading a malformed array raises, and a malformed archive besides.
_NPY_ERRORS = (ValueError, EOFError, SyntaxError, MemoryError)
_NPZ_ERRORS = (*_NPY_ERRORS, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


# Files that hold several arrays, and those that other libraries read.
_SEVERAL, _FRAMES = (".npz", ".h5ad"), (".parquet", ".h5ad")


def read_points(
    source: str,
    *,
    array: str | None = None,
    header: bool | None = None,
    columns: Sequence[str] | None = None,
    index: str | None = None,
) -> np.ndarray:
    """Read points from a file: ``.npy``, ``.npz``, ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad``.

    Text may be compressed (``.csv.gz``), and separated by commas, semicolons or tabs. Labels of rows, as pandas and R
    write them, are left out; `read_labels` reads them.

    Args:
        source: The file; ``file.npz:name`` chooses one array of several, ``file.h5ad:name`` one representation.
        array: The name of the array in a ``.npz`` or ``.h5ad`` file.
        header: Whether the first line of a text file holds names; by default it does if none of its cells is a number,
            or its first cell is empty.
        columns: Names of the columns of a table to read, in this order; by default all but labels.
        index: Name of the column of a table that labels the rows.

    Returns:
        Real, finite numbers, shape ``[n, d]``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not readable as a table of finite numbers; the message says where.
    """
    path, name = _split_name(source)
    name = array if name is None else name
    extension = check_extension(path)
    if name is not None and extension not in _SEVERAL:
        raise ValueError(f"{path}: only {' and '.join(_SEVERAL)} files hold named arrays; got the name {name!r}.")
    if extension in _FRAMES:
        return _as_table(source, read_frame(path, name, columns, index)[0])
    text = extension.removesuffix(".gz") in (".csv", ".tsv")
    if not text and (columns is not None or index is not None):
        raise ValueError(f"{path}: only tables have columns with names; choose those of an array beforehand.")
    if text:
        with _open_text(path) as file:
            points = _read_numbers(file, _layout(path, file, header, columns, index))
    else:
        points = _read_npz(path, name) if extension == ".npz" else _read_npy(path)
    return _as_table(source, points)


def write_points(path: str, points: np.ndarray, labels: Labels | None = None, *, replace: bool = True) -> None:
    """Write points to a ``.npy``, ``.npz`` (array ``x``), text or ``.parquet`` file that appears only when complete.

    Tables also hold names of columns and rows.
    """
    extension = check_extension(path, output=True)
    with atomic_file(path, replace=replace) as file:
        if extension.endswith(".gz"):
            # Without a date: equal points give equal files.
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                _write_text(packed, extension.removesuffix(".gz"), points, labels)
        elif extension in (".csv", ".tsv"):
            _write_text(file, extension, points, labels)
        elif extension == ".parquet":
            write_parquet(file, points, labels or Labels())
        elif extension == ".npy":
            np.lib.format.write_array(file, points, allow_pickle=False)
        else:
            np.savez_compressed(file, x=points)


def _split_name(source: str) -> tuple[str, str | None]:
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


def read_labels(
    source: str,
    *,
    array: str | None = None,
    header: bool | None = None,
    columns: Sequence[str] | None = None,
    index: str | None = None,
) -> Labels:
    """The names in a table; none of others. Arguments as for `read_points`."""
    path, name = _split_name(source)
    if check_extension(path) in _FRAMES:
        return read_frame(path, array if name is None else name, columns, index)[1]
    if check_extension(path).removesuffix(".gz") not in (".csv", ".tsv"):
        return Labels()
    with _open_text(path) as file:
        layout = _layout(path, file, header, columns, index)
        rows = None
        if layout.label is not None:
            cells = (row for row in csv.reader(file, delimiter=layout.delimiter) if _is_row(row))
            next(cells)
            rows = tuple(row[layout.label] for row in cells)
    return Labels(layout.names, rows)


class _Layout(NamedTuple):
    """What a text file holds where: its separator, whether it has a header, the cells to read, and labels of rows."""

    path: str
    delimiter: str
    skip: bool
    names: tuple[str, ...] | None
    places: tuple[int, ...] | None
    label: int | None


def _open_text(path: str) -> Any:
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _layout(path: str, file: Any, header: bool | None, columns: Sequence[str] | None, index: str | None) -> _Layout:
    """Look at the first two rows."""
    try:
        delimiter = _delimiter(next((line for line in file if line.strip()), ""))
        file.seek(0)
        rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
        first, second = next(rows, None), next(rows, [])
    except (UnicodeDecodeError, csv.Error, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: not a readable text file ({_first_line(error)}).") from error
    file.seek(0)
    if first is None:
        raise ValueError(f"{path}: the file is empty.")
    skip = _has_names(path, first, second) if header is None else header
    if not skip:
        if columns is not None or index is not None:
            raise ValueError(f"{path}: has no header, so that no column has a name.")
        return _Layout(path, delimiter, False, None, None, None)
    label = 0 if _has_labels(path, first, second) else None
    # With one name fewer than cells, as R writes it, the first cell has none.
    cells = ["", *first] if len(second) == len(first) + 1 else [cell.strip() for cell in first]
    if index is not None:
        label = place(path, cells, index)
    if columns is None and index is None:
        names = tuple(cell for place, cell in enumerate(cells) if place != label)
        return _Layout(path, delimiter, True, names, None, label)
    chosen = [cell for place, cell in enumerate(cells) if place != label] if columns is None else list(columns)
    places = tuple(place(path, cells, name) for name in chosen)
    return _Layout(path, delimiter, True, tuple(chosen), places, label)


def _read_numbers(file: Any, layout: _Layout) -> np.ndarray:
    """Parse by NumPy where it can, and else cell by cell to find what is wrong."""
    try:
        if layout.label is not None or layout.places is not None:
            raise ValueError("Cells that are no numbers are left out one by one.")
        lines = _lines(file, layout.skip)
        rows = np.loadtxt(lines, delimiter=layout.delimiter, ndmin=2, comments=None, quotechar='"')
    except (ValueError, UnicodeDecodeError):
        file.seek(0)
        rows = _parse_cells(layout, csv.reader(file, delimiter=layout.delimiter))
    if not rows.size:
        raise ValueError(f"{layout.path}: the file has no rows of numbers.")
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


def _is_row(cells: list[str]) -> bool:
    return bool(cells) and (len(cells) > 1 or bool(cells[0].strip()))


def _parse_cells(layout: _Layout, reader: Any) -> np.ndarray:
    """Parse a table cell by cell, naming the first one that is not a number; labels of rows are left out."""
    rows: list[list[float]] = []
    path, skip, width = layout.path, layout.skip, None
    try:
        for cells in reader:
            if not _is_row(cells):
                continue
            if skip:
                skip = False
                continue
            width = len(cells) if width is None else width
            if len(cells) != width:
                raise ValueError(
                    f"{path}: line {reader.line_num} has {len(cells)} columns; the rows above have {width}."
                )
            places = layout.places
            if places is None:
                places = [place for place in range(width) if place != layout.label]
            for place in places:
                if not _is_number(cells[place]):
                    where = f"line {reader.line_num}, column {place + 1}"
                    raise ValueError(f"{path}: {where}: {cells[place]!r} is not a number.")
            rows.append([float(cells[place]) for place in places])
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


def _write_text(file: Any, extension: str, points: np.ndarray, labels: Labels | None) -> None:
    delimiter = "\t" if extension == ".tsv" else ","
    digits = 9 if points.dtype == np.float32 else 17
    if labels is None or labels == Labels():
        np.savetxt(file, points, fmt=f"%.{digits}g", delimiter=delimiter)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    columns = labels.columns or tuple(f"x{number}" for number in range(points.shape[1]))
    writer.writerow(columns if labels.rows is None else ("", *columns))
    for number, point in enumerate(points):
        cells = [f"{value:.{digits}g}" for value in point]
        writer.writerow(cells if labels.rows is None else [labels.rows[number], *cells])
    text.flush()
    text.detach()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
