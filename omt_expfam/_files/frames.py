"""Tables that other libraries keep, with the names of their columns and rows: Parquet files, AnnData objects."""

from collections.abc import Sequence
from typing import Any, IO, NamedTuple

import numpy as np

_INSTALL = "pip install 'omt-expfam[tables]'"


class Labels(NamedTuple):
    """Names in a table: of its columns, and of its rows, where it has them."""

    columns: tuple[str, ...] | None = None
    rows: tuple[str, ...] | None = None


def read_frame(
    path: str, name: str | None, columns: Sequence[str] | None, index: str | None
) -> tuple[np.ndarray, Labels]:
    """Read a ``.parquet`` or ``.h5ad`` file.

    Args:
        path: The file.
        name: The representation of an AnnData object, a key of ``obsm`` or ``"X"``; by default ``"X_pca"``, if there is
            one.
        columns: Names of the columns to read, in this order.
        index: Name of the column that labels the rows.

    Raises:
        ModuleNotFoundError: If the library that reads such files is not installed.
        ValueError: If the file is not readable, or a column is missing or holds no numbers.
    """
    if path.lower().endswith(".h5ad"):
        return _read_annotated(path, name, columns, index)
    return _read_parquet(path, columns, index)


def write_parquet(file: IO[bytes], points: np.ndarray, labels: Labels) -> None:
    """Write a table with its names."""
    pandas = _pandas("x.parquet")
    columns = labels.columns or tuple(f"x{number}" for number in range(points.shape[1]))
    index: Any = None if labels.rows is None else list(labels.rows)
    pandas.DataFrame(points, index, list(columns)).to_parquet(file)


def representation(adata: Any, use_rep: str) -> np.ndarray | None:
    """The points of one representation of an AnnData object, a key of ``obsm`` or ``"X"``; None if there is none."""
    if use_rep != "X" and use_rep not in adata.obsm:
        return None
    table = adata.X if use_rep == "X" else adata.obsm[use_rep]
    return np.asarray(table.toarray() if hasattr(table, "toarray") else table)


def place(path: str, names: Sequence[str], wanted: str) -> int:
    """Where a column is.

    Raises:
        ValueError: If it is missing, or there are several of that name.
    """
    if list(names).count(wanted) != 1:
        number = "several columns" if wanted in names else "no column"
        raise ValueError(f"{path}: has {number} {wanted!r}; its columns are {', '.join(names)}.")
    return list(names).index(wanted)


def _pandas(path: str) -> Any:
    try:
        import pandas
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: .parquet files need pandas and pyarrow: {_INSTALL}.") from error
    return pandas


def _read_parquet(path: str, columns: Sequence[str] | None, index: str | None) -> tuple[np.ndarray, Labels]:
    pandas = _pandas(path)
    try:
        with open(path, "rb") as file:
            frame = pandas.read_parquet(file)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable .parquet file ({str(error).splitlines()[0].rstrip('.')}).") from error
    frame.columns = [str(column) for column in frame.columns]
    rows = None if isinstance(frame.index, pandas.RangeIndex) else frame.index
    places = list(range(frame.shape[1]))
    if index is not None:
        label = place(path, list(frame.columns), index)
        rows = frame.iloc[:, label]
        places.remove(label)
    if columns is not None:
        places = [place(path, list(frame.columns), column) for column in columns]
    chosen = frame.iloc[:, places]
    for column, kind in zip(chosen.columns, chosen.dtypes, strict=True):
        if not pandas.api.types.is_numeric_dtype(kind):
            raise ValueError(
                f"{path}: column {column!r} holds {kind}, not numbers; choose others with --columns, or labels of rows "
                "with --index."
            )
    labels = Labels(tuple(chosen.columns), None if rows is None else tuple(map(str, rows)))
    same = {str(kind) for kind in chosen.dtypes} == {"float32"}
    return chosen.to_numpy(np.float32 if same else np.float64, na_value=np.nan), labels


def _read_annotated(
    path: str, name: str | None, columns: Sequence[str] | None, index: str | None
) -> tuple[np.ndarray, Labels]:
    try:
        import anndata
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{path}: .h5ad files need anndata: {_INSTALL}.") from error
    if index is not None:
        raise ValueError(f"{path}: its rows are labeled by their names; leave --index out.")
    try:
        with open(path, "rb"):
            adata = anndata.read_h5ad(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # of whatever kind a broken HDF5 file raises
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"{path}: not a readable .h5ad file ({first}).") from error
    chosen = name or ("X_pca" if "X_pca" in adata.obsm else "X")
    points = representation(adata, chosen)
    if points is None:
        known = ", ".join(["X", *adata.obsm])
        raise ValueError(f"{path}: has no array {chosen!r}; choose one with {path}:NAME or --array NAME, from {known}.")
    names = tuple(map(str, adata.var_names)) if chosen == "X" else None
    if columns is not None:
        if names is None:
            raise ValueError(f"{path}: the columns of {chosen!r} have no names; leave --columns out.")
        points, names = points[:, [place(path, names, column) for column in columns]], tuple(columns)
    return points, Labels(names, tuple(map(str, adata.obs_names)))
