"""Category form: components whose coordinates are independent categories."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# The cost of every two categories, in rows.
Cost = tuple[tuple[float, ...], ...]


class CategoryForm(eqx.Module):
    """Laws on the categories 0, 1, ..., C - 1, and what it costs to turn one into another.

    Attributes:
        probability: Probabilities, shape ``[K, d, C]``.
        cost: The cost of every two categories.
    """

    probability: Float[Array, "K d C"]
    cost: Cost = eqx.field(static=True)


def as_cost(num_categories: int, cost: Any = None) -> Cost:
    """Checked costs of every two categories; one between different ones by default.

    Raises:
        ValueError: If there is one category alone, or costs are not symmetric with zeros on the diagonal and positive
            numbers elsewhere.
    """
    if num_categories < 2:
        raise ValueError(f"There must be at least two categories; got {num_categories}.")
    apart = ~np.eye(num_categories, dtype=bool)
    table: Any = apart.astype(float) if cost is None else np.asarray(cost, np.float64)
    if table.shape != apart.shape:
        raise ValueError(f"`cost` must have shape {apart.shape}, a number for every two categories; got {table.shape}.")
    if not (np.isfinite(table).all() and (table == table.T).all() and ((table > 0) == apart).all()):
        raise ValueError("`cost` must be symmetric, zero on the diagonal, and positive and finite elsewhere.")
    return tuple(map(tuple, table.tolist()))


def cost_matrix(cost: Cost, dtype: Any) -> Float[Array, "C C"]:
    """Costs as an array."""
    return jnp.asarray(np.asarray(cost), dtype)


def nearest_category(masses: Float[Array, "*b C"], cost: Cost) -> Float[Array, "*b"]:
    """The category that is nearest to a law: it has the least mean cost; the most likely one by default."""
    return jnp.argmin(masses @ cost_matrix(cost, masses.dtype), axis=-1).astype(masses.dtype)


def spread_of_categories(masses: Float[Array, "*b C"], cost: Cost) -> Float[Array, "*b"]:
    """The mean cost of a law from its nearest category."""
    return jnp.min(masses @ cost_matrix(cost, masses.dtype), axis=-1)


def independent_categories(left: CategoryForm, right: CategoryForm) -> tuple[Array, Array, Array]:
    """Expected costs between independent draws, summed over coordinates, and half of those within both sides.

    The latter are what variances are for squared distances.

    Raises:
        ValueError: If the two have other categories or costs.
    """
    check_categories(left, right)
    table = cost_matrix(left.cost, left.probability.dtype)
    costs = jnp.einsum("idc,ce,jde->ij", left.probability, table, right.probability)
    halves = [0.5 * jnp.einsum("kdc,ce,kde->k", own.probability, table, own.probability) for own in (left, right)]
    return costs, halves[0], halves[1]


def check_categories(left: CategoryForm, right: CategoryForm) -> None:
    """Raise ValueError unless categories and costs of two sides are the same."""
    if left.cost != right.cost:
        sizes = " and ".join(str(len(form.cost)) for form in (left, right))
        raise ValueError(f"Both sides must have the same categories and costs; they have {sizes} categories.")
