"""Columns of several kinds: which part of components describes which columns, and what kind of numbers these hold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._base.arrays import on_host
from .._numerics.categories import is_categories
from .._numerics.circle import is_circle, wrap
from .category_form import cost_matrix


class ColumnPart(NamedTuple):
    """Components of some columns of the points.

    Attributes:
        components: K components in as many dimensions as there are columns.
        columns: The columns, increasing.
        cost_weight: What the cost of these columns is multiplied by where it is added to that of others.
    """

    components: Any
    columns: Int[np.ndarray, " c"]
    cost_weight: float


class Columns(NamedTuple):
    """What kind of numbers every column holds.

    Attributes:
        angles: Which columns are angles, shape ``[d]``.
        categories: Which are categories.
        cost_weights: What the cost of each is multiplied by.
    """

    angles: Bool[np.ndarray, " d"]
    categories: Bool[np.ndarray, " d"]
    cost_weights: Float[np.ndarray, " d"]

    @property
    def are_numbers(self) -> bool:
        """Whether all are numbers on the line, with one cost."""
        return not (self.angles.any() or self.categories.any() or (self.cost_weights != 1).any())


def columns_of(components: Any) -> Columns:
    """The kinds of the columns of components."""
    parts = components.column_parts()
    dim = sum(len(part.columns) for part in parts)
    angles, categories, weights = np.zeros(dim, bool), np.zeros(dim, bool), np.ones(dim)
    for part in parts:
        support = part.components.support
        angles[part.columns], categories[part.columns] = is_circle(support), is_categories(support)
        weights[part.columns] = part.cost_weight
    return Columns(angles, categories, weights)


def has_angles(components: Any) -> bool:
    """Whether some coordinates of components are angles."""
    return any(is_circle(part.components.support) for part in components.column_parts())


def has_categories(components: Any) -> bool:
    """Whether some coordinates of components are categories."""
    return any(is_categories(part.components.support) for part in components.column_parts())


def point_costs(components: Any, x: Float[Array, "*#b d"], y: Float[Array, "*#b d"]) -> Float[Array, "*b"]:
    """What it costs to turn points into others, summed over columns: squared distances or arcs, costs of categories."""
    total: Any = 0.0
    for part in components.column_parts():
        form, left, right = part.components.category_form(), x[..., part.columns], y[..., part.columns]
        if form is not None:
            each = cost_matrix(form.cost, x.dtype)[jnp.round(left).astype(int), jnp.round(right).astype(int)]
        else:
            gaps = left - right
            each = (wrap(gaps) if has_angles(part.components) else gaps) ** 2
        total = total + part.cost_weight * jnp.sum(each, axis=-1)
    return total


def require_numbers(what: str, *components: Any) -> None:
    """Raise TypeError if coordinates are angles or categories, for what takes them for numbers on the line."""
    for own in components:
        kind = "angles" if has_angles(own) else "categories" if has_categories(own) else None
        if kind is not None:
            raise TypeError(
                f"{what} takes points for numbers on the line; {type(own).__name__} components have {kind}. Use what a "
                "plan says of them: costs, weights, images, draws and conditional dispersions."
            )


def split(x: Array, parts: Sequence[ColumnPart]) -> list[Array]:
    """The columns of points ``x[..., d]`` that belong to each part."""
    if len(parts) == 1:
        return [x]
    return on_host(lambda _, values: [values[..., part.columns] for part in parts], x)


def join(values: Sequence[Array], parts: Sequence[ColumnPart]) -> Array:
    """Columns that belong to the parts, put together again."""
    if len(parts) == 1:
        return values[0]
    order = np.argsort(np.concatenate([part.columns for part in parts]))
    return on_host(lambda xp, *own: xp.concatenate(own, axis=-1)[..., order], *values)


def join_matrices(matrices: Sequence[Array], parts: Sequence[ColumnPart]) -> Array:
    """Matrices ``[..., c, c]`` of the parts as blocks of one, with zeros elsewhere."""
    if len(parts) == 1:
        return matrices[0]
    dim = sum(len(part.columns) for part in parts)

    def put(xp: Any, *own: Any) -> Any:
        whole = xp.zeros((*own[0].shape[:-2], dim, dim), own[0].dtype)
        for part, matrix in zip(parts, own, strict=True):
            at = (..., part.columns[:, None], part.columns[None, :])
            if xp is jnp:
                whole = whole.at[at].set(matrix)
            else:
                whole[at] = matrix
        return whole

    return on_host(put, *matrices)


def centers_of_draws(columns: Columns, images: np.ndarray) -> np.ndarray:
    """Means of draws: of angles mean directions, and of categories those that are most frequent."""
    center = images.mean(axis=0)
    if columns.angles.any():
        center = np.where(columns.angles, np.arctan2(np.sin(images).mean(axis=0), np.cos(images).mean(axis=0)), center)
    if columns.categories.any():
        counts = np.stack([(images == c).sum(axis=0) for c in range(int(images[..., columns.categories].max()) + 1)])
        center = np.where(columns.categories, counts.argmax(axis=0), center)
    return center.astype(images.dtype)


def within_half_turn(columns: Columns, images: np.ndarray) -> np.ndarray:
    """Draws whose angles are within half a turn of their mean directions."""
    center = centers_of_draws(columns, images)
    return np.where(columns.angles, center + wrap(images - center, np), images)
