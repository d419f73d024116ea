"""A map that differs between the components of a mixture: each point moves as its own component does."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._base.arguments import ArrayLike, as_points, ScalarLike
from .._base.arrays import at_top, on_host, to_jax
from .._base.buckets import cut, pad, point_bucket
from .._base.tables import maps_tables, reads_tables
from .._base.xla import program
from .._components.mixture import Mixture
from .members import Members
from .paths import on_the_way
from .selection import Selection

# What a `BrenierMap` has and a gated map cannot have, as its pieces may overlap.
_NEEDS_POTENTIAL = (
    "pull_back",
    "solve_push_forward",
    "solve_pull_back",
    "push_forward_members",
    "spread",
    "potential",
    "conjugate",
    "log_det_jacobian",
    "certificate",
    "reverse",
)


@final
class GatedMap(eqx.Module):
    """A map for each component of a mixture; every point takes that of its most likely component.

    Each is the gradient of a convex potential, but all together are not, where components meet: what needs one
    potential (`pull_back`, `potential`, `conjugate`, `reverse`, certificates, ...) is not defined.

    Attributes:
        mixture: The source mixture, K components.
        members: A potential for each component, of the coordinates that any of them moves.
        moves: Which of these coordinates each component moves; the others are left exactly as they are.
        selection: The coordinates that any component moves.
        feature_names: Names of the columns, where they are known: points in tables are taken by name.
    """

    mixture: Mixture
    members: Members
    moves: Bool[Array, "K s"]
    selection: Selection
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __getattr__(self, name: str) -> Any:
        if name in _NEEDS_POTENTIAL:
            raise AttributeError(
                f"`{name}` is not defined for a GatedMap, which is not the gradient of one convex potential; "
                "fit without `per_component`."
            )
        raise AttributeError(f"'GatedMap' object has no attribute {name!r}.")

    @property
    def num_components(self) -> int:
        """K."""
        return self.moves.shape[0]

    @property
    def num_dimensions(self) -> int:
        """d, the dimension of points."""
        return self.selection.num_dimensions

    @reads_tables
    def component_of(self, x: ArrayLike) -> Int[Array, " n"]:
        """The most likely component of points ``x[n, d]``."""
        return on_host(lambda xp, member: xp.argmax(member, axis=1), self.mixture.responsibilities(x))

    @maps_tables
    def push_forward(self, x: ArrayLike) -> Float[Array, "n d"]:
        """The images of points: T_k(x) with the most likely component k of x.

        Args:
            x: Points, shape ``[n, d]``.
        """
        return self._found(_images, x, "point")

    @maps_tables
    def interpolate(self, t: ScalarLike, x: ArrayLike) -> Float[Array, "n d"]:
        """Where points are at a time on their way: (1 - t) x + t T(x).

        Args:
            t: Time from 0 (source) to 1 (image).
            x: Points, shape ``[n, d]``.

        Raises:
            ValueError: If ``t`` lies outside [0, 1].
        """
        return on_the_way(t, self._points(x), self.push_forward)

    @reads_tables
    def jacobian(self, x: ArrayLike) -> Float[Array, "n d d"]:
        """The Jacobian of `push_forward` at points ``x[n, d]``: that of the map of a point's own component.

        Where two components are equally likely the map jumps; its derivative does not see that.
        """
        return self._found(_jacobians, x, "matrix")

    def _points(self, x: ArrayLike) -> Any:
        return as_points("x", x, self.num_dimensions, self.members.line.scale.dtype)

    def _found(self, kernel: Any, x: ArrayLike, kind: str) -> Any:
        """What a kernel says about the coordinates that move, as what holds for all of them."""
        points = self._points(x)
        if not self.selection.size:
            return self.selection.nothing(kind, points)
        component, seen = self.component_of(points), self.selection.part(points)
        if not at_top(self, points):
            return self.selection.whole(kind, kernel(self.members, self.moves, seen, component), points)
        num, size = points.shape[0], point_bucket(points.shape[0])
        seen, component = (to_jax(pad(np.asarray(part), size)) for part in (seen, component))
        return self.selection.whole(kind, cut(kernel(self.members, self.moves, seen, component), num), points)

    def __repr__(self) -> str:
        moved = np.asarray(self.moves).sum(axis=1)
        kind = type(self.members.potential).__name__
        counts = ", ".join(map(str, moved[:8])) + (", ..." if len(moved) > 8 else "")
        return (
            f"GatedMap({self.num_components} {kind} by component, moving {counts} of {self.num_dimensions} dimensions)"
        )


def _image(members: Members, moves: Array, point: Array, component: Array) -> Array:
    """The image of one point, in the coordinates that move."""
    images = members.images(point)[component]
    return jnp.where(moves[component], images, point)


@program
def _images(members: Members, moves: Array, points: Array, component: Array) -> Array:
    return jax.vmap(lambda point, own: _image(members, moves, point, own))(points, component)


@program
def _jacobians(members: Members, moves: Array, points: Array, component: Array) -> Array:
    return jax.vmap(lambda point, own: jax.jacfwd(lambda x: _image(members, moves, x, own))(point))(points, component)
