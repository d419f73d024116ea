"""Solved problems between laws on whole numbers, one after the other in long vectors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .solve import overlap, Steps

# The log-probability of a number outside of a window.
_NEVER = -1e30


class Groups(eqx.Module):
    """Neighboring numbers that stand together in a table.

    Attributes:
        stride: How many they are in each row, an odd number; ``first`` of the table is the middle of the first group.
        means: Means of the groups.
    """

    stride: Int[Array, " rows"]
    means: Float[Array, " total"]


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
        groups: Groups of numbers that take the place of numbers, where there are too many of these.
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
    groups: Groups | None = None

    def nearest(self, row: Int[Array, "*b"], x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """The number of a row's window next to x."""
        first, stride = self.first[row].astype(x.dtype), self.stride(row, x.dtype)
        half = (stride - 1) / 2
        return jnp.clip(jnp.round(x), first - half, first + stride * (self.size[row] - 1).astype(x.dtype) + half)

    def place(self, row: Int[Array, "*b"], x: Float[Array, "*b"]) -> Int[Array, "*b"]:
        """Where the number next to x, or its group, stands in the vectors."""
        offset = self.nearest(row, x) - self.first[row].astype(x.dtype)
        return self.start[row] + jnp.round(offset / self.stride(row, x.dtype)).astype(row.dtype)

    def stride(self, row: Int[Array, "*b"], dtype: Any) -> Float[Array, "*b"]:
        """How many numbers form a group."""
        return jnp.ones(row.shape, dtype) if self.groups is None else self.groups.stride[row].astype(dtype)

    def numbers(self, row: Int[Array, "*#b"], place: Int[Array, "*#b"], dtype: Any) -> Float[Array, "*#b"]:
        """The numbers at places of rows, or the means of groups."""
        if self.groups is not None:
            return self.groups.means[place].astype(dtype)
        return (self.first[row] + place - self.start[row]).astype(dtype)

    def between(
        self, row: Int[Array, "*b"], x: Float[Array, "*b"]
    ) -> tuple[Int[Array, "*b"], Int[Array, "*b"], Float[Array, "*b"]]:
        """Two places whose values hold those at x between them, and the share of the second: the next two groups."""
        place = self.place(row, x)
        if self.groups is None:
            return place, place, jnp.zeros_like(x)
        x, here = self.nearest(row, x), self.numbers(row, place, x.dtype)
        last = self.start[row] + self.size[row] - 1
        other = jnp.clip(jnp.where(x > here, place + 1, place - 1), self.start[row], last)
        gap = self.numbers(row, other, x.dtype) - here
        return place, other, jnp.where(gap == 0, 0.0, (x - here) / jnp.where(gap == 0, 1.0, gap))

    def spread(self, row: Int[Array, ""], index: Int[Array, ""], share: Float[Array, ""]) -> Float[Array, ""]:
        """A number of the group at an index: the first of them at share zero, the last just below one."""
        stride = self.stride(row, share.dtype)
        middle = self.first[row].astype(share.dtype) + stride * index.astype(share.dtype)
        return middle + jnp.clip(jnp.floor(share * stride), 0.0, stride - 1) - (stride - 1) / 2


def conditional(
    tables: tuple[LatticeTable, LatticeTable], row: Int[Array, ""], epsilon: Float[Array, ""], x: Float[Array, ""]
) -> tuple[Float[Array, " width"], Float[Array, " width"]]:
    """The law of y given x under one problem: numbers and their log-probabilities."""
    source, target = tables
    x = source.nearest(row, x)
    offset = jnp.arange(target.width)
    inside = offset < target.size[row]
    place = target.start[row] + jnp.minimum(offset, target.size[row] - 1)
    y = target.numbers(row, place, x.dtype)
    positive = epsilon > 0
    scale = jnp.where(positive, epsilon, jnp.ones_like(epsilon))
    soft = target.log_weights[place] + (target.potentials[place] - (x - y) ** 2) / scale
    here = source.place(row, x)
    shared = overlap(jax.tree.map(lambda v: v[here], source.steps), jax.tree.map(lambda v: v[place], target.steps))
    hard = jnp.where(shared > 0, jnp.log(jnp.where(shared > 0, shared, jnp.ones_like(shared))), _NEVER)
    return y, jax.nn.log_softmax(jnp.where(inside, jnp.where(positive, soft, hard), _NEVER))
