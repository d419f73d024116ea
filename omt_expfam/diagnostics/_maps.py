"""What the studies share: descriptions of inputs, finished runs kept in a file, checks of what methods return."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_floating, as_points
from .._base.tables import alike, in_order
from .._components.columns import require_numbers
from .._plans.plan import TransportPlan
from .._potentials.fitted import BrenierFit
from .._potentials.gated import GatedMap
from .._potentials.map import BrenierMap


def images_of(result: Any, points: Float[Array, "n d"]) -> np.ndarray:
    """The images of points under what a method returned: a plan, a fitted or given `BrenierMap`, or a function.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the images have another shape than the points, or are not finite.
    """
    result = result.map if isinstance(result, BrenierFit) else result
    if isinstance(result, TransportPlan):
        require_numbers("This study", result.source.components)
    function: Any = result.push_forward if isinstance(result, TransportPlan | BrenierMap | GatedMap) else result
    if not callable(function):
        raise TypeError(
            f"`method` must return a TransportPlan, a BrenierFit or a map of points; got {type(result).__name__}."
        )
    images = np.asarray(function(points), np.float64)
    if images.shape != points.shape:
        raise ValueError(
            f"`method` must return a map that sends points of shape {tuple(points.shape)} to that shape; "
            f"got {images.shape}."
        )
    if not np.isfinite(images).all():
        raise ValueError("`method` returned a map whose images are not finite.")
    return images


def true_images(true_map: Callable[..., Any] | ArrayLike | None, points: Float[Array, "n d"]) -> np.ndarray | None:
    """True images of the points, from a function of them or from an array of one image per point."""
    if true_map is None:
        return None
    function: Any = true_map
    given = function(points) if callable(true_map) else true_map
    images = as_floating("true_map", given, "n d")
    if images.shape != points.shape:
        raise ValueError(f"`true_map` must give images of shape {tuple(points.shape)}; got {tuple(images.shape)}.")
    return np.asarray(images, np.float64)


def two_sides(x: ArrayLike, y: ArrayLike) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
    """Source and target points of one dimension."""
    x, y = alike(x=x, y=y)
    source = as_floating("x", x, "n d")
    target = as_points("y", y, source.shape[1])
    for name, points in (("x", source), ("y", target)):
        if not points.shape[0]:
            raise ValueError(f"`{name}` must have at least one point; got shape {tuple(points.shape)}.")
    return source, target


def points_or(
    points: ArrayLike | None, x: Float[Array, "n d"], names: tuple[str, ...] | None = None
) -> Float[Array, "m d"]:
    """The points where maps are compared: given ones, their columns by the names of the source's; or the source's."""
    if points is None:
        return x
    given = as_points("points", in_order("points", points, names), x.shape[1], x.dtype)
    if not given.shape[0]:
        raise ValueError(f"`points` must have at least one point; got shape {tuple(given.shape)}.")
    return given


def relative_change(new: float, old: float) -> float:
    """``new / old - 1``; 0 where both are zero."""
    if new == old:
        return 0.0
    return new / old - 1 if old else float("inf")


def image_spread(images: np.ndarray) -> float:
    """Root mean squared distance of images from their mean."""
    return float(np.sqrt(np.mean(np.sum((images - images.mean(axis=0)) ** 2, axis=1))))


def mean_displacement(images: np.ndarray, others: np.ndarray) -> float:
    """Mean distance between two images of each point."""
    return float(np.linalg.norm(images - others, axis=1).mean())


def mean_squared_error(images: np.ndarray, truth: np.ndarray | None) -> float:
    """Mean squared distance from the true images, NaN where these are unknown."""
    return float("nan") if truth is None else float(np.mean(np.sum((images - truth) ** 2, axis=1)))
