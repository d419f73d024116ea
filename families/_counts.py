"""What families of counts share: the check of their data, and fewer counts."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


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


def thinned(key: Key[Array, ""], x: Float[Array, " d"], size: Float[Array, ""]) -> Float[Array, " d"]:
    """Counts of a size factor above one as at one: each is kept with the same probability."""
    return jax.random.binomial(key, x, jnp.minimum(1 / size, 1.0), dtype=x.dtype)
