"""Tables of numbers in text files, as pandas and R write them: read with errors that say where, and written."""

import csv
import gzip
import io
import zlib
from typing import Any, NamedTuple

import numpy as np

from .frames import chosen_columns, Columns, first_line, GROUPS, Labels, place

# What cells of labels hold where there is none.
_MISSING = ("", "NA", "NaN", "nan")


def read_text(
    path: str, header: bool | None, columns: Columns, index: str | None, groups: str | None
) -> tuple[np.ndarray, Labels]:
    """Read numbers, names of columns and rows, and one column of labels; arguments as for `read_points`."""
    with open_text(path) as file:
        layout = _layout(path, file, header, columns, index, groups)
        try:
            return _read(file, layout)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: not a readable text file ({first_line(error)}).") from error


def write_text(file: Any, extension: str, points: np.ndarray, labels: Labels) -> None:
    """Write a table to a binary file; names where there are some."""
    delimiter = "\t" if extension == ".tsv" else ","
    digits = 9 if points.dtype == np.float32 else 17
    if labels == Labels():
        np.savetxt(file, points, fmt=f"%.{digits}g", delimiter=delimiter)
        return
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    columns = labels.heads(points.shape[1])
    names = [values for values in (labels.rows, labels.groups) if values is not None]
    heads = [head for head, values in (("", labels.rows), (GROUPS, labels.groups)) if values is not None]
    writer.writerow([*heads, *columns])
    for number, point in enumerate(points):
        writer.writerow([*(values[number] for values in names), *(f"{value:.{digits}g}" for value in point)])
    text.flush()
    text.detach()


def is_missing(cell: str) -> bool:
    """Whether a cell holds no label."""
    return cell in _MISSING


class _Layout(NamedTuple):
    """What a text file holds where: separator, header, the cells to read, names of rows, and labels."""

    path: str
    delimiter: str
    skip: bool
    names: tuple[str, ...] | None
    places: tuple[int, ...] | None
    label: int | None
    groups: int | None


def open_text(path: str) -> Any:
    """Open a text file, packed or not."""
    if path.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return open(path, encoding="utf-8-sig", newline="")


def _layout(
    path: str, file: Any, header: bool | None, columns: Columns, index: str | None, groups: str | None
) -> _Layout:
    """Look at the first two rows."""
    try:
        delimiter = delimiter_of(next((line for line in file if line.strip()), ""))
        file.seek(0)
        rows = (row for row in csv.reader(file, delimiter=delimiter) if row)
        first, second = next(rows, None), next(rows, [])
    except (UnicodeDecodeError, csv.Error, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: not a readable text file ({first_line(error)}).") from error
    file.seek(0)
    if first is None:
        raise ValueError(f"{path}: the file is empty.")
    skip = _has_names(path, first, second) if header is None else header
    if not skip:
        if index is not None or groups is not None or not (columns is None or callable(columns)):
            raise ValueError(f"{path}: has no header, so that no column has a name.")
        return _Layout(path, delimiter, False, None, None, None, None)
    label = 0 if _has_labels(path, first, second) else None
    # With one name fewer than cells, as R writes it, the first cell has none.
    cells = ["", *first] if len(second) == len(first) + 1 else [cell.strip() for cell in first]
    label = label if index is None else place(path, cells, index)
    group = None if groups is None else place(path, cells, groups)
    # Labels that were written beside points are none of them.
    own = [number for number, cell in enumerate(cells) if cell == GROUPS and not _is_number(second[number])]
    aside = {label, group, *own}
    names = tuple(cell for number, cell in enumerate(cells) if number not in aside)
    chosen = chosen_columns(columns, names)
    if chosen is None and aside <= {label} and index is None:
        return _Layout(path, delimiter, True, names, None, label, None)
    names = names if chosen is None else chosen
    places = tuple(place(path, cells, name) for name in names)
    return _Layout(path, delimiter, True, names, places, label, group)


def _read(file: Any, layout: _Layout) -> tuple[np.ndarray, Labels]:
    """Parse by NumPy where it can, and else cell by cell to find what is wrong."""
    rows = groups = None
    try:
        if (layout.label, layout.places) != (None, None):
            raise ValueError("Cells that are no numbers are left out one by one.")
        lines = _lines(file, layout.skip)
        points = np.loadtxt(lines, delimiter=layout.delimiter, ndmin=2, comments=None, quotechar='"')
    except (ValueError, UnicodeDecodeError):
        file.seek(0)
        points, rows, groups = _parse_cells(layout, csv.reader(file, delimiter=layout.delimiter))
    if not points.size:
        raise ValueError(f"{layout.path}: the file has no rows of numbers.")
    return points, Labels(layout.names, rows, groups)


def delimiter_of(line: str) -> str:
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


def _parse_cells(layout: _Layout, reader: Any) -> tuple[np.ndarray, Any, Any]:
    """Parse a table cell by cell, naming the first one that is not a number; and its names of rows and labels."""
    numbers: list[list[float]] = []
    rows: list[str] = []
    groups: list[str | None] = []
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
            numbers.append([float(cells[place]) for place in places])
            if layout.label is not None:
                rows.append(cells[layout.label])
            if layout.groups is not None:
                cell = cells[layout.groups].strip()
                groups.append(None if is_missing(cell) else cell)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a readable text file ({first_line(error)}).") from error
    return np.asarray(numbers), tuple(rows) or None, tuple(groups) or None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
