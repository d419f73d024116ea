"""Linear systems in a weighted graph Laplacian, accurate entry by entry."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_laplacian(adjacency: Float[Array, "k k"], ground: Float[Array, " k"], rhs: Array) -> Array:
    """Solve ``(diag(adjacency 1 + ground) - adjacency) x = rhs``.

    Args:
        adjacency: Nonnegative symmetric edge weights; its diagonal is ignored.
        ground: Positive weights of edges to a grounded node, which make the system definite.
        rhs: Right-hand side, shape ``[k]``.

    Returns:
        The solution, shape ``[k]``. It is linear in ``rhs`` for transposition and differentiation.
    """

    def solve(_: object, b: Array) -> Array:
        return eliminate(adjacency, ground, b[:, None])[:, 0]

    def apply(x: Array) -> Array:
        return (jnp.sum(adjacency, axis=1) - jnp.diagonal(adjacency) + ground) * x - (
            adjacency @ x - jnp.diagonal(adjacency) * x
        )

    return jax.lax.custom_linear_solve(apply, rhs, solve, symmetric=True)


def factorize(adjacency: Float[Array, "k k"], ground: Float[Array, " k"], rhs: Float[Array, "k m"]) -> Array:
    """The same by LAPACK's factorization: several times faster, and inexact where little holds the graph."""
    edges = adjacency - jnp.diag(jnp.diagonal(adjacency))
    return jnp.linalg.solve(jnp.diag(jnp.sum(edges, axis=1) + ground) - edges, rhs)


def eliminate(adjacency: Float[Array, "k k"], ground: Float[Array, " k"], rhs: Float[Array, "k m"]) -> Array:
    """The same for several right-hand sides at once and any nonnegative edges, without derivatives.

    Gaussian elimination of the graph's nodes, after Grassmann, Taksar and Heyman (1985): the diagonal is never formed,
    so nothing is subtracted and edges of 1e-100 count as exactly as edges of 1.
    """
    k = adjacency.shape[0]
    index = jnp.arange(k)
    off_diagonal = jnp.where(index[:, None] != index[None, :], adjacency, jnp.zeros_like(adjacency))

    # One table of edges, ground and right-hand sides: a node's row is added to those of its later neighbors.
    def forward(node: Array, table: Array) -> Array:
        row = table[node]
        later = index > node
        degree = jnp.sum(jnp.where(later, row[:k], jnp.zeros_like(row[:k]))) + row[k]
        share = jnp.where(later, table[:, node], jnp.zeros_like(row[:k])) / degree
        return table + share[:, None] * row[None, :]

    table = jax.lax.fori_loop(0, k, forward, jnp.concatenate([off_diagonal, ground[:, None], rhs], axis=1))
    later = jnp.triu(table[:, :k], 1)
    degree = (jnp.sum(later, axis=1) + table[:, k])[:, None]
    upper = later / degree

    def backward(step: Array, x: Array) -> Array:
        node = k - 1 - step
        return x.at[node].add(upper[node] @ x)

    return jax.lax.fori_loop(0, k, backward, table[:, k + 1 :] / degree)
