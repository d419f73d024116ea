"""Whether the arrays of an object have the shapes that its class says."""

import dataclasses
import functools
from typing import Any, get_type_hints

import jax
import numpy as np


def misfit(value: Any) -> str | None:
    """Why the arrays of an object do not fit each other; ``None`` where they do.

    Axes of one name have one length. Objects may be stacked: leading axes that the class does not name are common.
    """
    lengths: dict[str, int] = {}
    extra: tuple[int, ...] | None = None
    hints = _hints(type(value))
    for field in dataclasses.fields(value):
        array, text = getattr(value, field.name), getattr(hints.get(field.name), "dim_str", None)
        if text is None or not isinstance(array, jax.Array | np.ndarray):
            continue
        names = text.split()
        if any(not name.isidentifier() for name in names):
            continue
        stacked = array.ndim - len(names)
        if stacked < 0 or (extra is not None and array.shape[:stacked] != extra):
            return f"`{field.name}` has shape {array.shape}, not {(*(extra or ()), *names)}"
        extra = array.shape[:stacked]
        for name, length in zip(names, array.shape[stacked:], strict=True):
            if name != "_" and lengths.setdefault(name, length) != length:
                return f"`{field.name}` has shape {array.shape}, where {name} is {lengths[name]}"
    return value._misfit() if hasattr(value, "_misfit") else None


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except Exception:  # a class of the user's, with names that are not at hand
        return {}
