"""Labels of points in a file of their own, in the order of the points or beside their names."""

import csv
import os
from typing import Any

from .frames import first_line, place, read_parquet_frame, texts
from .paths import check_extension
from .text import delimiter_of, is_missing, open_text

_TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")


def is_labels_file(source: str) -> bool:
    """Whether a name, with a column behind a colon or without, is that of a file that can hold labels."""
    return any(os.path.isfile(path) and path.lower().endswith(_TABLES) for path in (source, source.rpartition(":")[0]))


def read_groups(source: str, num: int, rows: tuple[str, ...] | None) -> tuple[str | None, ...]:
    """A label for each point; ``None`` where there is none.

    Args:
        source: The file, a table that holds labels alone, or names of the points and labels; or ``file.csv:column``.
        num: The number of points.
        rows: Their names, which the labels are looked up by where the file has names, too.

    Raises:
        ValueError: If the file is not readable, or there is not one label for each point.
    """
    path, column = (source, None) if os.path.isfile(source) else source.rpartition(":")[::2]
    read = _read_parquet if check_extension(path) == ".parquet" else _read_text
    names, groups = read(path, column, num)
    if rows is None or names is None:
        if len(groups) != num:
            raise ValueError(f"{path}: must have one label per point, {num}; got {len(groups)}.")
        return groups
    known = dict(zip(names, groups, strict=True))
    if len(known) != len(names):
        raise ValueError(f"{path}: must name every point once; {_twice(names)!r} is there twice.")
    absent = [name for name in rows if name not in known]
    if absent:
        raise ValueError(f"{path}: has no label for {len(absent)} of {num} points, such as {absent[0]!r}.")
    return tuple(known[name] for name in rows)


def _twice(names: tuple[str, ...]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _read_text(path: str, column: str | None, num: int) -> tuple[Any, Any]:
    try:
        with open_text(path) as file:
            delimiter = delimiter_of(next((line for line in file if line.strip()), ""))
            file.seek(0)
            rows = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=delimiter) if any(row)]
    except (UnicodeDecodeError, csv.Error, EOFError) as error:
        raise ValueError(f"{path}: not a readable text file ({first_line(error)}).") from error
    if not rows:
        raise ValueError(f"{path}: the file is empty.")
    width = len(rows[-1])
    wrong = next((row for row in rows[1:] if len(row) != width), None)
    if wrong is not None:
        raise ValueError(f"{path}: a row has {len(wrong)} cells, {', '.join(wrong)}; others have {width}.")
    if width == 1 and column is None and len(rows) == num:
        # Labels alone: a first line that is none would be one more.
        return None, _labels(row[0] for row in rows)
    header, body = rows[0], rows[1:]
    header = ["", *header] if len(header) == width - 1 else header
    return _chosen(path, header, column, lambda number: [row[number] for row in body])


def _labels(cells: Any) -> tuple[str | None, ...]:
    return tuple(None if is_missing(cell) else cell for cell in cells)


def _chosen(path: str, header: list[str], column: str | None, cells: Any) -> tuple[Any, Any]:
    """Names of points, where the first column holds them, and the labels."""
    if column is None and len(header) > 2:
        raise ValueError(f"{path}: has several columns; choose one with {path}:NAME, from {', '.join(header)}.")
    number = len(header) - 1 if column is None else place(path, header, column)
    names = tuple(cells(0)) if number > 0 and (not header[0] or len(header) == 2) else None
    return names, _labels(cells(number))


def _read_parquet(path: str, column: str | None, num: int) -> tuple[Any, Any]:
    frame, rows = read_parquet_frame(path)
    header = list(frame.columns)
    if column is None and len(header) > 1:
        raise ValueError(f"{path}: has several columns; choose one with {path}:NAME, from {', '.join(header)}.")
    number = 0 if column is None else place(path, header, column)
    return (None if rows is None else tuple(map(str, rows))), texts(frame.iloc[:, number])
