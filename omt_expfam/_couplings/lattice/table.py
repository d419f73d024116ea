"""Solved problems between laws on whole numbers, one after the other in long vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .solve import overlap, Steps

# The log-probability of a number outside of a window.
_NEVER = -1e30


class LatticeTable(eqx.Module):
    """Plans seen from one side; row r holds the ``size[r]`` numbers from ``first[r]`` on, beginning at ``start[r]``.

    Attributes:
        first: The first number of each row.
        start: Where each row begins in the vectors below.
        size: How many numbers each row holds.
        log_weights: Log-probabilities.
        steps: Steps of the distribution function.
        potentials: Potentials.
        means: Conditional means of the other side.
        variances: Conditional variances of the other side.
        width: The largest size.
    """

    first: Int[Array, " rows"]
    start: Int[Array, " rows"]
    size: Int[Array, " rows"]
    log_weights: Float[Array, " total"]
    steps: Steps
    potentials: Float[Array, " total"]
    means: Float[Array, " total"]
    variances: Float[Array, " total"]
    width: int = eqx.field(static=True)

    def nearest(self, row: Int[Array, "*b"], x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """The number of a row's window next to x."""
        first = self.first[row].astype(x.dtype)
        return jnp.clip(jnp.round(x), first, first + (self.size[row] - 1).astype(x.dtype))

    def place(self, row: Int[Array, "*b"], x: Float[Array, "*b"]) -> Int[Array, "*b"]:
        """Where the number next to x stands in the vectors."""
        offset = (self.nearest(row, x) - self.first[row].astype(x.dtype)).astype(row.dtype)
        return self.start[row] + offset


def conditional(
    tables: tuple[LatticeTable, LatticeTable], row: Int[Array, ""], epsilon: Float[Array, ""], x: Float[Array, ""]
) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
    """The law of y given x under one problem: numbers and their log-probabilities."""
    source, target = tables
    x = source.nearest(row, x)
    offset = jnp.arange(target.width)
    inside = offset < target.size[row]
    place = target.start[row] + jnp.minimum(offset, target.size[row] - 1)
    y = (target.first[row] + offset).astype(x.dtype)
    positive = epsilon > 0
    scale = jnp.where(positive, epsilon, jnp.ones_like(epsilon))
    soft = target.log_weights[place] + (target.potentials[place] - (x - y) ** 2) / scale
    here = source.place(row, x)
    shared = overlap(jax.tree.map(lambda v: v[here], source.steps), jax.tree.map(lambda v: v[place], target.steps))
    hard = jnp.where(shared > 0, jnp.log(jnp.where(shared > 0, shared, jnp.ones_like(shared))), _NEVER)
    return y, jax.nn.log_softmax(jnp.where(inside, jnp.where(positive, soft, hard), _NEVER))
