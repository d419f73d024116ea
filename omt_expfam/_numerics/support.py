"""Supports: the ends of a NumPyro constraint on single numbers, in words, and the check that data lie inside."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from .categories import is_categories
from .circle import is_circle

Constraint = constraints.Constraint


def ends(support: Constraint) -> tuple[float, float]:
    """The ends of a support, ``-inf`` and ``inf`` included.

    Raises:
        TypeError: If the support is not an interval of real numbers.
    """
    support = getattr(support, "base_constraint", support)
    lower = getattr(support, "lower_bound", None)
    upper = getattr(support, "upper_bound", None)
    if (lower, upper) == (None, None) and not isinstance(support, type(constraints.real)):
        raise TypeError(
            "`support` must be a NumPyro constraint on the line, an interval, whole numbers or a circle, such as "
            f"positive or circular; got {support}."
        )
    return -math.inf if lower is None else float(lower), math.inf if upper is None else float(upper)


class JoinedSupport(Constraint):
    """Where points lie whose columns have supports of their own; says of every number whether it is inside.

    Attributes:
        parts: Supports, each with its columns.
    """

    def __init__(self, parts: tuple[tuple[Constraint, tuple[int, ...]], ...]):
        """Take the supports and the columns that each is for."""
        self.parts = parts
        super().__init__()

    def __call__(self, x: Any) -> Any:
        xp = np if isinstance(x, np.ndarray) else jnp
        order = np.argsort(np.concatenate([columns for _, columns in self.parts]))
        return xp.concatenate([support(x[..., np.asarray(own)]) for support, own in self.parts], axis=-1)[..., order]

    def tree_flatten(self) -> Any:
        return (), ((), {"parts": self.parts})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, JoinedSupport) and self.parts == other.parts


def in_words(support: Constraint) -> str:
    """A support as an error message names it."""
    if is_categories(support):
        return "categories, whole numbers from 0"
    if is_circle(support):
        return "angles in radians"
    lower, upper = ends(support)
    if support.is_discrete:
        return f"whole numbers from {lower:g}" + (f" to {upper:g}" if math.isfinite(upper) else "")
    if (lower, upper) == (-math.inf, math.inf):
        return "real numbers"
    closed = bool(support(np.asarray(lower if math.isfinite(lower) else upper)))
    if math.isfinite(lower) and math.isfinite(upper):
        return f"numbers from {lower:g} to {upper:g}" if closed else f"numbers between {lower:g} and {upper:g}"
    if lower == 0:
        return "nonnegative numbers" if closed else "positive numbers"
    word, end = ("above", lower) if math.isfinite(lower) else ("below", upper)
    return f"numbers {word} {end:g}" + (" or equal to it" if closed else "")


def check_support(name: str, values: np.ndarray, family: Any, first: int = 0) -> None:
    """Raise ValueError unless every (concrete) number lies in the support of a family; ``first`` numbers the rows."""
    for own, columns in family.column_families(values.shape[1]):
        if is_circle(own.support):
            continue
        inside = np.broadcast_to(np.asarray(own.support(values[:, columns])), (len(values), len(columns)))
        if inside.all():
            continue
        row, column = np.argwhere(~inside)[0]
        raise ValueError(
            f"`{name}` must lie in the support of {own.__name__} ({in_words(own.support)}); "
            f"got {values[row, columns[column]]:.6g} at index [{first + row}, {columns[column]}]. "
            "Drop or transform such values, or choose a family whose support holds them."
        )
