"""Means and covariances of mixtures whose columns are numbers, angles or categories."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .category_form import nearest_category, spread_of_categories
from .circle_form import about_directions, mean_directions
from .columns import has_angles, join, join_matrices


def center_of(weights: Float[Array, " K"], components: Any) -> Float[Array, " d"]:
    """The mean of a mixture; of angles the mean direction, and of categories the one of least mean cost."""
    parts = components.column_parts()
    return join([_center(weights, part.components) for part in parts], parts)


def covariance_of(weights: Float[Array, " K"], components: Any) -> Float[Array, "d d"]:
    """The covariance of a mixture about its center: of angles, that of arcs; of categories, their mean cost."""
    parts = components.column_parts()
    pieces = [_about(weights, part.components) for part in parts]
    offset = join([piece[0] for piece in pieces], parts)
    within = join_matrices([piece[1] for piece in pieces], parts)
    return jnp.einsum("k,kde->de", weights, within) + jnp.einsum("k,kd,ke->de", weights, offset, offset)


def _center(weights: Float[Array, " K"], components: Any) -> Float[Array, " d"]:
    if has_angles(components):
        return mean_directions(weights, components.characteristics())
    form = components.category_form()
    if form is not None:
        return nearest_category(jnp.einsum("k,kdc->dc", weights, form.probability), form.cost)
    return weights @ components.mean()


def _about(weights: Float[Array, " K"], components: Any) -> tuple[Float[Array, "K d"], Float[Array, "K d d"]]:
    """How far the components lie from the center of a mixture, and their second moments besides."""
    center = _center(weights, components)
    if has_angles(components):
        offset, variance = about_directions(center, components.characteristics())
        return offset, jax.vmap(jnp.diag)(variance)
    form = components.category_form()
    if form is not None:
        spread = spread_of_categories(jnp.einsum("k,kdc->dc", weights, form.probability), form.cost)
        shape = form.probability.shape[:2]
        return jnp.zeros(shape, spread.dtype), jnp.broadcast_to(jnp.diag(spread), (shape[0], shape[1], shape[1]))
    return components.mean() - center[None], components.covariance()
