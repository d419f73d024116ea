"""The objective of transport and its value at given weights."""

from typing import Any

from jaxtyping import Array, Float

from .._base.arrays import on_host


def objective_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, ""]:
    """Sum omega L + eps2 KL(Omega || a b)."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        used = weights > 0
        safe = xp.where(used, weights, xp.ones_like(weights))
        product = xp.where(used, a[:, None] * b[None, :], xp.ones_like(weights))
        divergence = xp.sum(weights * (xp.log(safe) - xp.log(product))) - xp.sum(weights) + xp.sum(a) * xp.sum(b)
        return xp.sum(weights * costs) + epsilon * divergence

    return on_host(value, weights, costs, a, b, epsilon)


def potential_of(weights: Array, costs: Array, a: Array, b: Array, epsilon: Array) -> Float[Array, " K1"]:
    """A target potential that a given coupling would have: the dual's start from it."""

    def value(xp: Any, weights: Any, costs: Any, a: Any, b: Any, epsilon: Any) -> Any:
        product = a[:, None] * b[None, :]
        used = (weights > 0) & (product > 0)
        one = xp.ones_like(weights)
        total = costs + epsilon * xp.log(xp.where(used, weights, one) / xp.where(used, product, one))
        return a @ (total - (total @ b)[:, None])

    return on_host(value, weights, costs, a, b, epsilon)
