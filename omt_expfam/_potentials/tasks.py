"""What each member of an ensemble learns from, on the host."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Side(NamedTuple):
    """What one member learns from one sample, in its coordinates, on the host.

    Attributes:
        points: Whitened points, shape ``[n, d]``.
        training: Indices of those that it is trained with.
        held_out: Indices of those that judge it.
        weight: Weights of all points, or ``None`` where they are equal.
    """

    points: Float[np.ndarray, "n d"]
    training: Int[np.ndarray, " t"]
    held_out: Int[np.ndarray, " h"]
    weight: Float[np.ndarray, " n"] | None

    @property
    def held_out_share(self) -> Float[np.ndarray, " h"]:
        """The share of each held-out point in their weight."""
        weight = np.ones(len(self.held_out)) if self.weight is None else self.weight[self.held_out]
        return weight / weight.sum()


class Task(NamedTuple):
    """One member: what its potential is of, what its conjugate is of, and first conjugate points less their y."""

    source: Side
    target: Side
    shift: Float[np.ndarray, "n d"] | None
