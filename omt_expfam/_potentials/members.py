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
        return eqx.filter_vmap(lambda member: member.value(x))(self)

    def images(self, x: Float[Array, " d"]) -> Float[Array, "M d"]:
        """The image grad phi(x) under each member."""
        return eqx.filter_vmap(lambda member: member.image(x))(self)

    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """phi(x), of one member without the leading axis."""
        return self.line.value(x, self.potential.value(self.line.whiten_source(x)))

    def image(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The image of one point under such a member."""
        return self.line.target_point(self.potential.gradient(self.line.whiten_source(x)))

    def near_conjugate(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """A point whose image under such a member is near y."""
        return self.line.source_point(self.potential.near_conjugate(self.line.whiten_target(y)))
