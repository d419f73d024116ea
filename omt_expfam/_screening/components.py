"""Features selected within components: points count as much as they are likely to belong to each."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from .._base.arrays import to_jax
from .marginal import as_share, effective
from .screen import Screen, screen, Screening

# Points that belong less to a component are left out of its tests.
_LEAST = 1e-3
# A component of fewer points on either side is not tested: nothing of it is selected.
FEWEST = 16


def screen_components(
    settings: Screen,
    x: Float[np.ndarray, "n d"],
    y: Float[np.ndarray, "m d"],
    x_member: Float[np.ndarray, "n K"],
    y_member: Float[np.ndarray, "m K"],
    rng: np.random.Generator,
) -> list[Screening]:
    """Select features within each of K components, at the level of all divided by K.

    Args:
        settings: How.
        x: Source points.
        y: Target points.
        x_member: How likely each source point belongs to each component.
        y_member: How likely each target point comes from each.
        rng: What halves of the points are drawn by.
    """
    num = x_member.shape[1]
    within = dataclasses.replace(settings, level=float(settings.level) / num)
    found = []
    for weights in zip(x_member.T, y_member.T, strict=True):
        parts: list[Any] = [_inside(points, weight) for points, weight in zip((x, y), weights, strict=True)]
        if min(len(weight) and effective(as_share(weight, weight)) for _, weight in parts) < FEWEST:
            ones = to_jax(np.ones(x.shape[1]))
            nothing = to_jax(np.zeros(0, int))
            found.append(Screening(nothing, ones, ones, None, settings.adjust, None))
            continue
        (first, first_weight), (second, second_weight) = parts
        found.append(screen(within, first, second, rng, first_weight, second_weight))
    return found


def _inside(points: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points that belong to a component, and how much each does."""
    index = np.flatnonzero(weight > _LEAST)
    return points[index], np.asarray(weight, np.float64)[index]
