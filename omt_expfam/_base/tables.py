"""Tables with names: columns by name, and tables like them (pandas, polars, pyarrow; xarray's arrays with two axes)."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .methods import jittable


def column_names(x: Any) -> tuple[str, ...] | None:
    """The names of a table's columns; ``None`` for what has no names of columns."""
    table = _table(x)
    return None if table is None else table.names


def row_names(x: Any) -> tuple[str, ...] | None:
    """The labels of a table's rows, where it has some (pandas; xarray's coordinate along the first axis)."""
    table = _table(x)
    return None if table is None else table.rows


def in_order(name: str, x: Any, names: tuple[str, ...] | None, of: str = "the columns that were fitted") -> Any:
    """A table with its columns in the order of names, which are ``of`` something; anything else as it is.

    Raises:
        ValueError: If it has other columns.
    """
    table = None if names is None else _table(x)
    own = None if table is None else table.names
    if table is None or own is None or own == names:
        return x
    wanted: Any = names
    missing, more = [one for one in wanted if one not in own], [one for one in own if one not in wanted]
    if missing or more or len(own) != len(wanted):
        what = f"{missing[0]!r} is missing" if missing else f"{(more or own)[0]!r} is none of them, or there twice"
        raise ValueError(f"`{name}` must have {of}, {', '.join(wanted)}: {what}.")
    return table.select([own.index(one) for one in wanted])


def alike(**samples: Any) -> list[Any]:
    """Several samples with their columns in the order of the first one that has names.

    Raises:
        ValueError: If another has other columns.
    """
    named = {name: names for name, x in samples.items() if (names := column_names(x)) is not None}
    if not named:
        return list(samples.values())
    first, names = next(iter(named.items()))
    return [in_order(name, x, names, f"the columns of `{first}`") for name, x in samples.items()]


def like(x: Any, values: Any, names: Sequence[str] | None) -> Any:
    """A table of the library of ``x``, with its labels of rows, that holds values under names, where there are some.

    One number for each row is a column, such as pandas' series.
    """
    table, values = _table(x), np.asarray(values)
    return table.like(values, names) if values.ndim == 2 else table.column(values, (names or [""])[0])


class _Frame:
    """A data frame of any library, through narwhals."""

    def __init__(self, frame: Any):
        self.frame = frame
        self.names = tuple(map(str, frame.columns))

    @property
    def rows(self) -> tuple[str, ...] | None:
        import narwhals

        index = narwhals.maybe_get_index(self.frame)
        return None if index is None else tuple(map(str, index))

    def select(self, places: list[int]) -> Any:
        return self.frame.select([self.frame.columns[place] for place in places]).to_native()

    def like(self, values: np.ndarray, names: Sequence[str]) -> Any:
        import narwhals

        found = narwhals.from_numpy(values, schema=list(names), backend=self.frame.implementation).to_native()
        return self._labeled(found)

    def column(self, values: np.ndarray, name: str) -> Any:
        import narwhals

        return self._labeled(narwhals.new_series(name, values, backend=self.frame.implementation).to_native())

    def _labeled(self, found: Any) -> Any:
        import narwhals

        index = narwhals.maybe_get_index(self.frame)
        if index is not None:
            found.index = index
        return found


class _Labeled:
    """An array of xarray's with two axes; coordinates along the second, where there are some, are its names."""

    def __init__(self, array: Any):
        self.array = array
        axis = array.dims[1]
        self.names = tuple(map(str, array.coords[axis].values.tolist())) if axis in array.coords else None

    @property
    def rows(self) -> tuple[str, ...] | None:
        axis = self.array.dims[0]
        return tuple(map(str, self.array.coords[axis].values.tolist())) if axis in self.array.coords else None

    def select(self, places: list[int]) -> Any:
        return self.array.isel({self.array.dims[1]: places})

    def like(self, values: np.ndarray, names: Sequence[str] | None) -> Any:
        named = {} if names is None else {self.array.dims[1]: list(names)}
        return type(self.array)(values, self._kept() | named, self.array.dims)

    def column(self, values: np.ndarray, name: str) -> Any:
        return type(self.array)(values, self._kept(), self.array.dims[:1], name)

    def _kept(self) -> dict[Any, Any]:
        rows = self.array.dims[:1]
        return {name: held for name, held in self.array.coords.items() if held.dims == rows}


def _table(x: Any) -> Any:
    """What is to be done with a table; ``None`` for anything else."""
    if hasattr(x, "isel") and hasattr(x, "dims") and hasattr(x, "coords"):
        return _Labeled(x) if len(x.dims) == 2 else None
    if not (hasattr(x, "columns") or hasattr(x, "column_names")):
        return None
    import narwhals

    frame = narwhals.from_native(x, eager_only=True, pass_through=True)
    return _Frame(frame) if isinstance(frame, narwhals.DataFrame) else None


class reads_tables(jittable):  # noqa: N801
    """Decorates a method that takes points: columns of tables by name, those of the owner's ``feature_names``."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(_reading(function))


class maps_tables(jittable):  # noqa: N801
    """Decorates a map of points likewise, which gives a table for a table."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(_mapping(function, lambda owner, **_: owner.feature_names))


def tabulates(names: Callable[..., Sequence[str]]) -> Callable[[Callable[..., Any]], jittable]:
    """Decorates a method that gives numbers for every point, likewise: under names.

    Args:
        names: Gives them for the owner, and the arguments of the call by name.
    """
    return lambda function: jittable(_mapping(function, names))


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        return function(self, **{name: in_order(name, value, self.feature_names) for name, value in given.items()})

    return call


def _mapping(function: Callable[..., Any], columns: Callable[..., Any]) -> Callable[..., Any]:
    read, parameters = _reading(function), list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = read(self, *args, **kwargs)
        given = dict(zip(parameters[1:], args, strict=False)) | kwargs
        table = next((x for x in given.values() if _table(x) is not None), None)
        if table is None:
            return found
        return like(table, found, columns(self, **given) or column_names(table))

    return call
