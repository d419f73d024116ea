"""Longer steps of EM: what two steps tell about where all further ones would lead.

Anderson acceleration (Anderson, 1965) with a memory of one step, on the arrays of the components and their log-weights.
A leap that lowers the objective is taken back (as in Henderson and Varadhan, 2019), so that EM stays monotone.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# Changes of the objective, in nats per point, below which steps are made longer: sooner, they could lead elsewhere.
NEAR = 1e-3
# Steps after which what was learnt is forgotten. Whoever shows the progress of EM stops it after a multiple of it.
SPAN = 25


class Memory(eqx.Module):
    """What is known of the step before.

    Attributes:
        image: Log-weights and components that the last step led to.
        moved: By how much it moved each array; zeros where it is not known.
        known: Whether it is.
        leapt: Whether EM has gone elsewhere than to ``image``.
        wait: Steps that are not to be made longer.
        patience: How many they are after the next leap that fails.
    """

    image: PyTree
    moved: PyTree
    known: Array
    leapt: Array
    wait: Array
    patience: Array


def no_memory(log_weights: Float[Array, " K"], components: PyTree) -> Memory:
    """The memory before the first step."""
    here = log_weights, components
    no, zero = jnp.asarray(False), jnp.asarray(0)
    return Memory(here, _difference(here, here), no, no, zero, jnp.ones_like(zero))


def leap(
    memory: Memory, start: tuple[Array, Any], image: tuple[Array, Any], near: Array, num_steps: Array
) -> tuple[tuple[Array, Any], Memory]:
    """Where to go after a step.

    Args:
        memory: What is known of the step before.
        start: Log-weights and components that the step began at.
        image: What it led to.
        near: Whether the step may be made longer.
        num_steps: Steps taken before it.

    Returns:
        Log-weights and components to go on from, and the memory for the next step.
    """
    fresh = num_steps % SPAN == 0
    known = memory.known & ~fresh
    wait = jnp.where(fresh, 0, memory.wait)
    # A leap that has come here was a good one.
    patience = jnp.where(fresh | memory.leapt, 1, memory.patience)
    moved = _difference(image, start)
    turn = _difference(moved, memory.moved)
    share = jnp.exp(image[0])
    curvature = _product(share, turn, turn)
    length = _product(share, turn, moved) / jnp.where(curvature > 0, curvature, jnp.ones_like(curvature))
    goes = near & known & (wait == 0) & (curvature > 0) & ((num_steps + 1) % SPAN != 0)
    farther = _along(image, _difference(image, memory.image), jnp.where(goes, -length, jnp.zeros_like(length)))
    log_weights = jnp.where(goes, jax.nn.log_softmax(farther[0]), image[0])
    new = Memory(image, moved, jnp.asarray(True), goes, jnp.maximum(wait - 1, 0), patience)
    return (log_weights, farther[1]), new


def take_back(memory: Memory) -> tuple[tuple[Array, Any], Memory]:
    """Where to go on after a leap that failed, and the memory for the next step."""
    no = jnp.asarray(False)
    return memory.image, Memory(memory.image, memory.moved, no, no, memory.patience, 2 * memory.patience)


def _difference(one: PyTree, other: PyTree) -> PyTree:
    """Differences of arrays; zeros for numbers that are no reals, and where both are infinite."""

    def difference(a: Array, b: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return jnp.zeros_like(a)
        return jnp.where(a == b, jnp.zeros_like(a), a - b)

    return jax.tree.map(difference, one, other)


def _product(share: Float[Array, " K"], one: PyTree, other: PyTree) -> Float[Array, ""]:
    """The inner product of two differences; a component counts by its share."""
    total = jnp.zeros_like(share)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jnp.inexact):
            total = total + jnp.sum((a * b).reshape(share.shape[0], -1), axis=1)
    return jnp.sum(jnp.where(share > 0, share * total, jnp.zeros_like(total)))


def _along(here: PyTree, direction: PyTree, length: Array) -> PyTree:
    """Arrays moved in a direction; numbers that would change their sign stay, since many must be positive."""

    def move(a: Array, b: Array) -> Array:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return a
        moved = a + length.astype(a.dtype) * b
        return jnp.where(jnp.sign(moved) == jnp.sign(a), moved, a)

    return jax.tree.map(move, here, direction)
