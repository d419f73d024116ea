"""Data frames: the names of their columns, columns by name, and frames like them (pandas, polars, pyarrow)."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from .methods import jittable


def column_names(x: Any) -> tuple[str, ...] | None:
    """The names of a data frame's columns; ``None`` for what has no names of columns."""
    frame = _frame(x)
    return None if frame is None else tuple(map(str, frame.columns))


def in_order(name: str, x: Any, names: tuple[str, ...] | None) -> Any:
    """A data frame with its columns in the order of names; anything else as it is.

    Raises:
        ValueError: If it has other columns.
    """
    own = None if names is None else column_names(x)
    if own is None or own == names:
        return x
    wanted: Any = names
    missing, more = [one for one in wanted if one not in own], [one for one in own if one not in wanted]
    if missing or more or len(own) != len(wanted):
        what = f"{missing[0]!r} is missing" if missing else f"{(more or own)[0]!r} is none of them, or there twice"
        raise ValueError(f"`{name}` must have the columns that were fitted, {', '.join(wanted)}: {what}.")
    frame = _frame(x)
    by_name = dict(zip(own, frame.columns, strict=True))
    return frame.select([by_name[one] for one in wanted]).to_native()


def like(x: Any, values: Any, names: tuple[str, ...]) -> Any:
    """A data frame of the library of ``x``, with its labels of rows, that holds values under names."""
    import narwhals

    frame = _frame(x)
    found = narwhals.from_numpy(np.asarray(values), schema=list(names), backend=frame.implementation).to_native()
    index = narwhals.maybe_get_index(frame)
    if index is not None:
        found.index = index
    return found


class reads_tables(jittable):  # noqa: N801
    """Decorates a method that takes points: columns of data frames by name, those of the owner's ``feature_names``."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(_reading(function))


class maps_tables(jittable):  # noqa: N801
    """Decorates a map of points likewise, which gives a data frame for a data frame."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__(_mapping(function))


def _reading(function: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        return function(self, **{name: in_order(name, value, self.feature_names) for name, value in given.items()})

    return call


def _mapping(function: Callable[..., Any]) -> Callable[..., Any]:
    read = _reading(function)

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        images = read(self, *args, **kwargs)
        table = next((x for x in (*args, *kwargs.values()) if _frame(x) is not None), None)
        names: Any = self.feature_names or column_names(table)
        return images if table is None else like(table, images, names)

    return call


def _frame(x: Any) -> Any:
    """What narwhals makes of a data frame; ``None`` for anything else."""
    if not (hasattr(x, "columns") or hasattr(x, "column_names")):
        return None
    import narwhals

    frame = narwhals.from_native(x, eager_only=True, pass_through=True)
    return frame if isinstance(frame, narwhals.DataFrame) else None
