"""Pictures of several maps side by side."""

from collections.abc import Mapping
from typing import Any, TYPE_CHECKING

import numpy as np

from .._base.arguments import ArrayLike, as_floating, as_points
from .._base.arrays import spread_indices
from .._plans.plan import TransportPlan
from .._potentials.fitted import BrenierFit
from .._potentials.gated import GatedMap
from .._potentials.map import BrenierMap
from ._arrows import draw_arrows, MapLike
from ._embedding import as_places, coordinates
from ._mixtures import draw_points
from ._style import equal_aspect, MAX_POINTS, NEUTRAL_COLOR, same_limits, TARGET_COLOR

if TYPE_CHECKING:
    import matplotlib.figure


def maps(
    maps: Mapping[str, MapLike],
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    dims: ArrayLike | None = None,
    embedding: Any = None,
    max_arrows: int = 100,
) -> "matplotlib.figure.Figure":
    """Draw maps side by side: displacements above, and below the images of all points over the target.

    In one dimension there is one row, images against points.

    Args:
        maps: What `arrows` takes, by title: ``{"Barycentric": plan, "Brenier": fit.map}``.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``, drawn behind the images.
        dims: The two dimensions to show; by default the first two that vary and are not nearly the same.
        embedding: Coordinates of ``x`` and of ``y`` to draw them at, a pair of shapes ``[n, 2]`` and ``[m, 2]``, or a
            function from points to such; see `arrows`.
        max_arrows: Of more points than this, as many displacements are shown, evenly spaced.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no maps, or points or ``dims`` do not fit.
    """
    from matplotlib import pyplot as plt

    if not maps:
        raise ValueError("`maps` must hold at least one map; got none.")
    points = as_floating("x", x, "n d")
    targets = None if y is None else np.asarray(as_points("y", y, points.shape[1]), np.float64)
    places = as_places(embedding, dims, [("x", points), ("y", targets)])
    rows = 1 if points.shape[1] == 1 and embedding is None else 2
    size = (4.6 * len(maps), 4.3 * rows)
    figure, axes = plt.subplots(rows, len(maps), figsize=size, layout="constrained", squeeze=False)
    for column, (title, one) in enumerate(maps.items()):
        above = axes[0, column]
        draw_arrows(above, one, points, places, max_arrows)
        above.set_title(title)
        if rows == 2:
            images = _images(one, points[spread_indices(len(points), MAX_POINTS)])
            below = axes[1, column]
            if targets is not None:
                draw_points(below, coordinates(embedding, 1, targets, places), TARGET_COLOR, {"alpha": 0.35})
            draw_points(below, places.of(images), NEUTRAL_COLOR, {"alpha": 0.5})
            equal_aspect(below)
            below.set_xlabel(above.get_xlabel())
            below.set_ylabel(above.get_ylabel())
            below.set_title("images" if targets is None else "images and targets")
    same_limits(list(axes.flat))
    return figure


def _images(one: Any, points: Any) -> np.ndarray:
    one = one.map if isinstance(one, BrenierFit) else one
    function = one.push_forward if isinstance(one, TransportPlan | BrenierMap | GatedMap) else one
    if callable(function):
        return np.asarray(function(points), np.float64)
    return np.asarray(as_floating("maps", function, "n d"), np.float64)[spread_indices(len(function), MAX_POINTS)]
