"""Linear systems in a weighted graph Laplacian, accurate entry by entry."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def solve_laplacian(adjacency: Float[Array, "k k"], ground: Float[Array, " k"], rhs: Array) -> Array:
    """Solve ``(diag(adjacency 1 + ground) - adjacency) x = rhs``.

    Gaussian elimination of the graph's nodes, after Grassmann, Taksar and Heyman (1985): the diagonal is never formed,
    so nothing is subtracted and edges of 1e-100 count as exactly as edges of 1.

    Args:
        adjacency: Nonnegative symmetric edge weights; its diagonal is ignored.
        ground: Positive weights of edges to a grounded node, which make the system definite.
        rhs: Right-hand side, shape ``[k]``.

    Returns:
        The solution, shape ``[k]``. It is linear in ``rhs`` for transposition and differentiation.
    """
    k = adjacency.shape[0]
    index = jnp.arange(k)
    edges = jnp.where(index[:, None] != index[None, :], adjacency, jnp.zeros_like(adjacency))

    def eliminate(node: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        edges, ground, degree = state
        row = jnp.where(index > node, edges[node], jnp.zeros_like(edges[node]))
        total = jnp.sum(row) + ground[node]
        share = row / total
        return (
            edges + share[:, None] * row[None, :],
            ground + share * ground[node],
            degree.at[node].set(total),
        )

    edges, _, degree = jax.lax.fori_loop(0, k, eliminate, (edges, ground, jnp.zeros_like(ground)))
    upper = jnp.triu(edges, 1) / degree[:, None]

    def solve(_: object, b: Array) -> Array:
        def forward(node: Array, r: Array) -> Array:
            return r + upper[node] * r[node]

        def backward(step: Array, x: Array) -> Array:
            node = k - 1 - step
            return x.at[node].add(jnp.dot(upper[node], x))

        reduced = jax.lax.fori_loop(0, k, forward, b)
        return jax.lax.fori_loop(0, k, backward, reduced / degree)

    def apply(x: Array) -> Array:
        return (jnp.sum(adjacency, axis=1) - jnp.diagonal(adjacency) + ground) * x - (
            adjacency @ x - jnp.diagonal(adjacency) * x
        )

    return jax.lax.custom_linear_solve(apply, rhs, solve, symmetric=True)
