"""Supports: the ends of a NumPyro constraint on single numbers, in words, and the check that data lie inside."""

import math
from typing import Any

import numpy as np
from numpyro.distributions import constraints

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


def in_words(support: Constraint) -> str:
    """A support as an error message names it."""
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


def check_support(name: str, values: np.ndarray, family: Any) -> None:
    """Raise ValueError unless every (concrete) number lies in the support of a family."""
    if is_circle(family.support):
        return
    inside = np.broadcast_to(np.asarray(family.support(values)), values.shape)
    if inside.all():
        return
    index = np.argwhere(~inside)[0]
    raise ValueError(
        f"`{name}` must lie in the support of {family.__name__} ({in_words(family.support)}); "
        f"got {values[tuple(index)]:.6g} at index [{', '.join(map(str, index))}]. "
        "Drop or transform such values, or choose a family whose support holds them."
    )
