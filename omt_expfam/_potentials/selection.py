"""Maps that see some coordinates only: the others stay exactly as they are."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._base.arrays import at_top, to_jax


class Selection(eqx.Module):
    """Some coordinates of points.

    A potential psi of these gives one of all: psi plus half the square of the others, whose map leaves them.

    Attributes:
        index: Their numbers, ascending.
        num_dimensions: d, of points.
    """

    index: Int[Array, " s"]
    num_dimensions: int = eqx.field(static=True)

    @property
    def size(self) -> int:
        """How many are selected."""
        return self.index.shape[0]

    def part(self, points: Any) -> Any:
        """The selected coordinates of points ``[n, d]``."""
        return points[:, self.index] if not at_top(points, self) else to_jax(np.asarray(points)[:, self._numbers])

    @property
    def _numbers(self) -> np.ndarray:
        return np.asarray(self.index)

    def whole(self, kind: str, found: Any, points: Any) -> Any:
        """What is said about points of all coordinates, where it is known for a map of the selected ones.

        Args:
            kind: ``"point"``, ``"images"`` of members, ``"matrix"`` (a Jacobian), ``"value"`` (of a potential), or
                anything else that does not change.
            found: The same about the selected coordinates.
            points: The points, shape ``[n, d]``.
        """
        top = at_top(found, points, self)
        xp: Any = np if top else jnp
        inner, outer = (np.asarray(found), np.asarray(points)) if top else (found, points)
        index = self._numbers if top else self.index
        if kind == "point":
            made = _put(xp, outer, index, inner)
        elif kind == "images":
            shape = (outer.shape[0], inner.shape[1], outer.shape[1])
            made = _put(xp, xp.broadcast_to(outer[:, None, :], shape), index, inner)
        elif kind == "matrix":
            dim = self.num_dimensions
            eye = xp.broadcast_to(xp.eye(dim, dtype=inner.dtype), (outer.shape[0], dim, dim))
            rows = _put(xp, xp.swapaxes(eye, 1, 2)[:, index], index, inner)
            made = xp.swapaxes(_put(xp, eye, index, xp.swapaxes(rows, 1, 2)), 1, 2)
        elif kind == "value":
            rest = _put(xp, outer, index, xp.zeros_like(outer[:, index]))
            made = inner + xp.sum(rest * rest, axis=1) / 2
        else:
            made = inner
        return to_jax(made) if top else made

    def nothing(self, kind: str, points: Any) -> Any:
        """What is known of a map of no coordinate."""
        num = points.shape[0]
        shapes = {"point": (num, 0), "images": (num, 1, 0), "matrix": (num, 0, 0)}
        return self.whole(kind, np.zeros(shapes.get(kind, (num,)), points.dtype), points)


def _put(xp: Any, array: Any, index: Any, values: Any) -> Any:
    """The array with other values at some places of its last axis."""
    if xp is jnp:
        return array.at[..., index].set(values)
    copy = np.array(array)
    copy[..., index] = values
    return copy
