"""The nodes of several one-dimensional problems, by programs that serve all numbers of panels and of problems."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._base.arrays import map_first, take
from ..._base.buckets import pad
from ..._base.xla import brief_program
from .grid import nodes_of, place_panels
from .profile import monotone_images, PANEL_NODES, Profile, squared_wasserstein
from .schedule import MOST_PANELS
from .solve import LineNodes

# Problems whose nodes are placed at once.
AT_ONCE = 16


def place(shapes: Any, profiles: Any, which: Any, epsilon: np.ndarray, count: int, limit: bool) -> LineNodes:
    """The nodes of several problems, side by side, as NumPy arrays.

    All numbers of problems and of panels have one program, on `AT_ONCE` problems and as many panels as there can be:
    what is beyond theirs is empty, and is cut off. Both sides have one where their families are the same.
    """
    num, size = np.asarray(len(epsilon)), count * len(PANEL_NODES)
    which, epsilon = pad((tuple(which), epsilon), AT_ONCE)
    laws = [take(side, k) for side, k in zip(shapes, which, strict=True)]
    own = [take(side, k) for side, k in zip(profiles, which, strict=True)]
    num_panels = np.asarray(count)
    edges = [_edges(one, other, epsilon, num_panels, num) for one, other in zip(own, own[::-1], strict=True)]
    sides = [_weigh(law, some, num) for law, some in zip(laws, edges, strict=True)]
    images = [_images(one, other, side[0], num) for one, other, side in zip(own, own[::-1], sides, strict=True)]
    distance: Any = _distances(laws[0], own[0], own[1], num) if limit else np.zeros(AT_ONCE)
    (x, log_a, x_ends), (y, log_b, y_ends) = sides
    tables = [np.asarray(table)[:num, :size] for table in (x, log_a, y, log_b, *images)]
    numbers = (x_ends, y_ends, distance, own[0].entropy + own[1].entropy)
    rows: list[Any] = [*tables, *(np.asarray(row)[:num] for row in numbers)]
    return LineNodes(*rows)


@brief_program
def _edges(profiles: Profile, others: Profile, epsilon: Any, count: Any, num: Any) -> Float[Array, "b e"]:
    def one(item: Any) -> Float[Array, " e"]:
        return place_panels(item[0], item[1], item[2], count, MOST_PANELS)

    return map_first(one, (profiles, others, epsilon), num)


@brief_program
def _weigh(laws: Any, edges: Any, num: Any) -> tuple[Array, Array, Array]:
    """Nodes, log-weights and ends; as in `_distances`, the part of the work that depends on the families."""

    def one(item: Any) -> tuple[Array, Array, Array]:
        (law, _), edges = item
        return (*nodes_of(law, edges), jnp.stack([edges[0], edges[-1]]))

    return map_first(one, (laws, edges), num)


@brief_program
def _images(profiles: Profile, others: Profile, x: Any, num: Any) -> Float[Array, "b n"]:
    return map_first(lambda item: monotone_images(item[0], item[1], item[2]), (profiles, others, x), num)


@brief_program
def _distances(laws: Any, profiles: Profile, others: Profile, num: Any) -> Float[Array, " b"]:
    def one(item: Any) -> Float[Array, ""]:
        return squared_wasserstein(item[0][0], (item[1], item[2]))

    return map_first(one, (laws, profiles, others), num)
