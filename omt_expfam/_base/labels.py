"""Labels of points: one name each, or probabilities of several."""

from typing import Any

import numpy as np


def as_labels(where: str, labels: Any, num: int | None = None) -> np.ndarray:
    """One label for each point; what is missing is no label.

    Raises:
        ValueError: If a label is missing, or their number is not ``num``.
    """
    found = np.asarray(labels)
    missing = np.asarray([label is None or label != label or str(label) == "<NA>" for label in found.flat], bool)
    if missing.any():
        first = int(np.argmax(missing))
        raise ValueError(f"`{where}` must name a group at every place; {missing.sum()} do not, the first at {first}.")
    if num is not None and found.shape != (num,):
        raise ValueError(f"`{where}` must have one entry per point, {num}; got shape {found.shape}.")
    return found.astype(str) if found.dtype == object else found


def as_memberships(where: str, labels: Any, num: int) -> tuple[tuple[Any, ...], np.ndarray]:
    """The different labels, and how far each point has each of them, shape ``[n, L]``.

    Args:
        where: The argument's name.
        labels: One label for each point; or probabilities, shape ``[n, L]``, whose columns a table names.
        num: The number of points n.

    Raises:
        ValueError: If labels are missing, or probabilities are negative or do not sum to one.
    """
    if np.ndim(labels) != 2:
        names, index = np.unique(as_labels(where, labels, num), return_inverse=True)
        return tuple(names.tolist()), np.eye(len(names))[index]
    try:
        table = np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"`{where}` must be one label per point, or numbers of shape [n, L]; got text.") from None
    if table.shape[0] != num or table.shape[1] < 1:
        raise ValueError(f"`{where}` must have one row per point, {num}; got shape {table.shape}.")
    if not ((table >= 0).all() and np.allclose(table.sum(axis=1), 1, rtol=0, atol=1e-3)):
        raise ValueError(f"`{where}` with several columns must hold probabilities, whose rows sum to one.")
    columns = getattr(labels, "columns", range(table.shape[1]))
    names = tuple(name if isinstance(name, int) else str(name) for name in columns)
    return names, table / table.sum(axis=1, keepdims=True)
