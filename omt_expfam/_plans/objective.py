"""The objective of transport, its value at given weights, and along the block iteration."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.arrays import on_host


class BlockTrace(eqx.Module):
    """The objective along the block iteration.

    Attributes:
        objective: Values at the start and after each block update, units of squared distance.
        blocks: What each value follows: ``"start"``, ``"components"`` or ``"weights"``.
    """

    objective: Float[Array, " steps"]
    blocks: tuple[str, ...] = eqx.field(static=True)


def objective_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, ""]:
    """Sum omega L + eps2 KL(Omega || a b)."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        return xp.sum(weights * costs) + epsilon * divergence(xp, weights, a[:, None] * b[None, :])

    return on_host(value, weights, costs, a, b, epsilon)


@jax.custom_jvp
def least_objective(costs: Array, a: Array, b: Array, epsilon: Array, solved: tuple[Array, ...]) -> Float[Array, ""]:
    """`objective_of` weights that minimize it, with the derivatives that the envelope theorem gives.

    Those of the weights themselves keep the marginals only as well as their linear systems are solved, which counts in
    float32.

    Args:
        costs: Component objectives.
        a: Source weights.
        b: Target weights.
        epsilon: Regularization.
        solved: The weights, the source and the target potential.
    """
    return objective_of(solved[0], costs, a, b, epsilon)


@least_objective.defjvp
def _least_objective_jvp(primals: tuple, tangents: tuple) -> tuple:
    costs, a, b, epsilon, (weights, source, target) = primals
    d_costs, d_a, d_b, d_epsilon, _ = tangents
    divergence = objective_of(weights, jnp.zeros_like(costs), a, b, jnp.ones_like(epsilon))
    # One side's total mass may change only if the other's does: a derivative by one alone is that of both.
    source, target = source + target @ b, target + source @ a
    change = jnp.sum(weights * d_costs) + source @ d_a + target @ d_b + divergence * d_epsilon
    return least_objective(*primals), change


def divergence(xp: Any, p: Any, q: Any) -> Any:
    """KL of measures of any mass: sum p log(p / q) - p + q."""
    used = p > 0
    safe, reference = xp.where(used, p, xp.ones_like(p)), xp.where(used, q, xp.ones_like(p))
    return xp.sum(p * (xp.log(safe) - xp.log(reference))) - xp.sum(p) + xp.sum(q)


def independence_of(weights: Array, a: Array, b: Array) -> Float[Array, ""]:
    """One less the mutual information of a coupling over the most that its marginals allow, min(H(a), H(b))."""

    def value(xp: Any, weights: Any, a: Any, b: Any) -> Any:
        most = xp.minimum(*(-xp.sum(p * xp.log(xp.where(p > 0, p, xp.ones_like(p)))) for p in (a, b)))
        information = divergence(xp, weights, a[:, None] * b[None, :])
        some = most > 0
        return xp.where(
            some, xp.clip(1 - information / xp.where(some, most, xp.ones_like(most)), 0, 1), xp.ones_like(most)
        )

    return on_host(value, weights, a, b)


def potential_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, " K1"]:
    """A target potential that a given coupling would have: the dual's start from it."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        product = a[:, None] * b[None, :]
        used = (weights > 0) & (product > 0)
        one = xp.ones_like(weights)
        total = costs + epsilon * xp.log(xp.where(used, weights, one) / xp.where(used, product, one))
        return a @ (total - (total @ b)[:, None])

    return on_host(value, weights, costs, a, b, epsilon)
