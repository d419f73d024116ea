"""What families of counts share: the check of their data."""

import numpy as np


def check_counts(family: str, x: np.ndarray) -> None:
    """Raise ValueError if a column of counts is zero throughout: any rate near zero fits it.

    Args:
        family: The name of the family.
        x: Points, shape ``[n, d]``.
    """
    empty = np.flatnonzero((x == 0).all(axis=0))
    if empty.size:
        more = f" and in {empty.size - 1} more" if empty.size > 1 else ""
        raise ValueError(
            f"`x` must have counts above zero in every column for {family}; got only zeros in column {empty[0]}{more}. "
            "Leave such columns out: x[:, x.any(axis=0)]."
        )
