"""Tables that other libraries keep, with the names of their columns and rows: Parquet files, AnnData objects."""

import io
from collections.abc import Callable, Sequence
from typing import Any, IO, NamedTuple

import numpy as np

from .._base.arguments import densified

_INSTALL = "pip install 'omt-expfam[tables]'"


# The column that labels are written to.
GROUPS = "label"

# Names of the columns to read, in this order; what chooses them from those of the file; or all.
Columns = Sequence[str] | Callable[[tuple[str, ...]], Sequence[str] | None] | None


class Labels(NamedTuple):
    """Names in a file of points: of its columns, of its rows, and a label of each row, where it has them."""

    columns: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None
    groups: tuple[str | None, ...] | None = None

    def heads(self, num: int) -> tuple[str, ...]:
        """The names of so many columns: their own, or numbers."""
        return self.columns or tuple(f"x{number}" for number in range(num))


def read_frame(
    path: str, name: str | None, columns: Columns, index: str | None, groups: str | None
) -> tuple[np.ndarray, Labels]:
    """Read a ``.parquet`` or ``.h5ad`` file.

    Args:
        path: The file.
        name: The representation of an AnnData object, a key of ``obsm`` or ``"X"``; by default ``"X_pca"``, if there is
            one.
        columns: Names of the columns to read, in this order, or a function that chooses them.
        index: Name of the column that names the rows.
        groups: Name of the column, or key of ``obs``, that holds labels.

    Raises:
        ModuleNotFoundError: If the library that reads such files is not installed.
        ValueError: If the file is not readable, or a column is missing or holds no numbers.
    """
    if path.lower().endswith(".h5ad"):
        return _read_annotated(path, name, columns, index, groups)
    return _read_parquet(path, columns, index, groups)


def chosen_columns(columns: Columns, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The columns to read, of these names; ``None`` for all."""
    chosen = columns(names) if callable(columns) else columns
    return None if chosen is None else tuple(chosen)


def write_parquet(file: IO[bytes], points: np.ndarray, labels: Labels) -> None:
    """Write a table with its names."""
    pandas = _pandas("x.parquet")
    columns = labels.heads(points.shape[1])
    index: Any = None if labels.rows is None else list(labels.rows)
    frame = pandas.DataFrame(points, index, list(columns))
    if labels.groups is not None:
        frame.insert(0, GROUPS, list(labels.groups))
    frame.to_parquet(file)


def write_annotated(file: IO[bytes], points: np.ndarray, labels: Labels) -> None:
    """Write an AnnData object: points as ``X``, with their names."""
    anndata = _anndata("x.h5ad")
    import h5py
    import pandas

    rows: Any = list(labels.rows or map(str, range(points.shape[0])))
    columns: Any = list(labels.heads(points.shape[1]))
    known = {} if labels.groups is None else {GROUPS: pandas.Categorical(list(labels.groups))}
    adata = anndata.AnnData(points, pandas.DataFrame(known, rows), pandas.DataFrame(index=columns))
    content = io.BytesIO()
    with h5py.File(content, "w") as store:
        anndata.io.write_elem(store, "/", adata)
    file.write(content.getbuffer())


def representation(adata: Any, use_rep: str) -> np.ndarray | None:
    """The points of one representation of an AnnData object, a key of ``obsm`` or ``"X"``; None if there is none."""
    if use_rep != "X" and use_rep not in adata.obsm:
        return None
    table = adata.X if use_rep == "X" else adata.obsm[use_rep]
    if use_rep == "X" and getattr(adata, "isbacked", False):
        table = table[:]
    return np.asarray(densified(use_rep, table))


def place(path: str, names: Sequence[str], wanted: str) -> int:
    """Where a column is.

    Raises:
        ValueError: If it is missing, or there are several of that name.
    """
    if list(names).count(wanted) != 1:
        number = "several columns" if wanted in names else "no column"
        raise ValueError(f"{path}: has {number} {wanted!r}; its columns are {', '.join(names)}.")
    return list(names).index(wanted)


def first_line(error: Exception) -> str:
    """The first line of a message, without a full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _pandas(path: str) -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: .parquet files need pandas and pyarrow: {_INSTALL}.") from error
    return pandas


def _anndata(path: str) -> Any:
    try:
        import anndata
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: .h5ad files need anndata: {_INSTALL}.") from error
    return anndata


def read_parquet_frame(path: str) -> tuple[Any, Any]:
    """A data frame with names of columns, and the names of its rows, where it has some."""
    pandas = _pandas(path)
    try:
        with open(path, "rb") as file:
            frame = pandas.read_parquet(file)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable .parquet file ({first_line(error)}).") from error
    frame.columns = [str(column) for column in frame.columns]
    return frame, None if isinstance(frame.index, pandas.RangeIndex) else frame.index


def _read_parquet(path: str, columns: Columns, index: str | None, groups: str | None) -> tuple[np.ndarray, Labels]:
    pandas, (frame, rows) = _pandas(path), read_parquet_frame(path)
    every = list(frame.columns)
    label, group = (None if name is None else place(path, every, name) for name in (index, groups))
    rows = rows if label is None else frame.iloc[:, label]
    # Labels that were written beside points are none of them.
    is_numeric: Any = pandas.api.types.is_numeric_dtype
    own = [number for number, kind in enumerate(frame.dtypes) if every[number] == GROUPS and not is_numeric(kind)]
    names = tuple(name for number, name in enumerate(every) if number not in {label, group, *own})
    wanted = chosen_columns(columns, names)
    chosen = frame.iloc[:, [place(path, every, name) for name in (names if wanted is None else wanted)]]
    for column, kind in zip(chosen.columns, chosen.dtypes, strict=True):
        if not is_numeric(kind):
            raise ValueError(
                f"{path}: column {column!r} holds {kind}, not numbers; choose others with --columns, or labels of rows "
                "with --index."
            )
    known = None if group is None else texts(frame.iloc[:, group])
    labels = Labels(tuple(chosen.columns), None if rows is None else tuple(map(str, rows)), known)
    same = {str(kind) for kind in chosen.dtypes} == {"float32"}
    return chosen.to_numpy(np.float32 if same else np.float64, na_value=np.nan), labels


def texts(column: Any) -> tuple[str | None, ...]:
    """The entries of a column of labels; ``None`` where there is none."""
    return tuple(None if absent else str(entry) for entry, absent in zip(column, column.isna(), strict=True))


def _read_annotated(
    path: str, name: str | None, columns: Columns, index: str | None, groups: str | None
) -> tuple[np.ndarray, Labels]:
    anndata = _anndata(path)
    if index is not None:
        raise ValueError(f"{path}: its rows are labeled by their names; leave --index out.")
    try:
        with open(path, "rb"):
            # Counts of all genes stay in the file unless they are what is asked for.
            adata = anndata.read_h5ad(path, backed="r")
            chosen = name or ("X_pca" if "X_pca" in adata.obsm else "X")
            points = representation(adata, chosen)
            adata.file.close()
    except FileNotFoundError:
        raise
    except Exception as error:  # of whatever kind a broken HDF5 file raises
        raise ValueError(f"{path}: not a readable .h5ad file ({first_line(error)}).") from error
    if points is None:
        known = ", ".join(["X", *adata.obsm])
        raise ValueError(f"{path}: has no array {chosen!r}; choose one with {path}:NAME or --array NAME, from {known}.")
    if groups is not None and groups not in adata.obs:
        raise ValueError(f"{path}: has no obs {groups!r}; it has {', '.join(map(str, adata.obs)) or 'none'}.")
    names: Any = adata.var_names if chosen == "X" else getattr(adata.obsm[chosen], "columns", None)
    names = None if names is None else tuple(map(str, names))
    if names is None and not (columns is None or callable(columns)):
        raise ValueError(f"{path}: the columns of {chosen!r} have no names; leave --columns out.")
    wanted = None if names is None else chosen_columns(columns, names)
    if names is not None and wanted is not None:
        points, names = points[:, [place(path, names, column) for column in wanted]], wanted
    known = None if groups is None else texts(adata.obs[groups])
    return points, Labels(names, tuple(map(str, adata.obs_names)), known)
