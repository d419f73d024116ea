"""Several potentials for one map, each in coordinates of its own."""

import equinox as eqx
from jaxtyping import Array, Float

from .interface import AbstractPotential
from .line import StraightLine


class Members(eqx.Module):
    """Potentials of one kind, each in the coordinates of its own straight line: an ensemble of maps.

    All arrays have a leading axis of M members. Methods take one point in its own units and give what every member
    says about it.

    Attributes:
        potential: Potentials of x' (see `StraightLine`), stacked.
        line: Their coordinates, stacked.
    """

    potential: AbstractPotential
    line: StraightLine

    @property
    def num_members(self) -> int:
        """M."""
        return self.line.scale.shape[0]

    @property
    def num_dimensions(self) -> int:
        """d, the dimension of points."""
        return self.line.variances.shape[1]

    def values(self, x: Float[Array, " d"]) -> Float[Array, " M"]:
        """phi(x) of each member."""

        def one(potential: AbstractPotential, line: StraightLine) -> Float[Array, ""]:
            return line.value(x, potential.value(line.whiten_source(x)))

        return eqx.filter_vmap(one)(self.potential, self.line)

    def images(self, x: Float[Array, " d"]) -> Float[Array, "M d"]:
        """The image grad phi(x) under each member."""

        def one(potential: AbstractPotential, line: StraightLine) -> Float[Array, " d"]:
            return line.target_point(potential.gradient(line.whiten_source(x)))

        return eqx.filter_vmap(one)(self.potential, self.line)
