"""What displacements cost in training: a penalty's mean over source points, in the points' own coordinates."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import stacked, to_jax
from .._base.precision import narrow
from .interface import AbstractPotential
from .line import StraightLine
from .penalties import AbstractPenalty


class DisplacementCost(eqx.Module):
    """A penalty of the members of an ensemble, each of which sees points in its own coordinates.

    Arrays have a leading axis of M members; methods are those of one member, without it. Members on the target side
    know the way back: for them the displacement to y is y less its conjugate point, and their "source" is y.

    Attributes:
        penalty: tau; its strength is not looked at.
        line: The members' straight lines, from the source mean at the origin.
        sign: 1 for potentials of source points, -1 for those of target points.
    """

    penalty: AbstractPenalty
    line: StraightLine
    sign: Float[Array, " M"]

    def displacements(self, potential: AbstractPotential, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """T(x) - x of whitened points."""

        def one(point: Float[Array, " d"]) -> Float[Array, " d"]:
            image = self.line.target_point(potential.gradient(point))
            return self.sign * (image - self.line.source_point(point))

        return jax.vmap(one)(x)

    def values(self, potential: AbstractPotential, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Tau of the displacements of whitened points."""
        return jax.vmap(self.penalty.value)(self.displacements(potential, x))


def displacement_cost(penalty: AbstractPenalty, lines: list[StraightLine], on_target: list[bool]) -> DisplacementCost:
    """The cost of some members, in float32.

    Args:
        penalty: The penalty.
        lines: The coordinates of each.
        on_target: Whether each is a potential of target points.
    """
    moved = []
    for line in lines:
        # Means cancel in displacements: their difference is taken before it is rounded.
        difference = np.asarray(line.target_mean, np.float64) - np.asarray(line.source_mean, np.float64)
        origin = to_jax(np.zeros_like(difference), np.float32)
        moved.append(eqx.tree_at(lambda one: (one.source_mean, one.target_mean), line, (origin, to_jax(difference))))
    plain = eqx.tree_at(lambda one: one.strength, penalty, 1.0)
    numbers = jax.tree.map(lambda leaf: to_jax(np.stack([np.asarray(leaf)] * len(lines)), np.float32), plain)
    sign = to_jax(np.where(on_target, -1.0, 1.0), np.float32)
    return DisplacementCost(numbers, narrow(stacked(moved), np.float32), sign)


def in_whitened_units(strength: float, lines: list[StraightLine]) -> Float[np.ndarray, " M"]:
    """What a penalty is multiplied by beside the semi-dual of each member's coordinates."""
    return np.array([strength / float(line.scale) ** 2 for line in lines], np.float32)
