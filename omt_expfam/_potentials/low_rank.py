"""A network for many dimensions, whose quadratic form is diagonal plus low rank."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import to_jax
from .interface import AbstractPotential
from .network import ConvexNetwork, QUADRATIC_START, start_network

# Rank of the form beside its diagonal, and the size of what it starts with.
_RANK, _QUIET = 64, 1e-2
# With more dimensions a full form has more parameters than any sample can tell.
MOST_DENSE = 512


class LowRankNetwork(AbstractPotential):
    r"""$\phi(x) = |D x|^2 / 2 + \psi(x)$ with a diagonal $D$ and a `ConvexNetwork` whose quadratic form has r rows.

    Of d dimensions it has (r + 1) d numbers in its quadratic form, where a full one has d^2; `fit_brenier` uses it
    beyond 512 dimensions, with r = 64.

    Attributes:
        diagonal: D.
        network: The rest; its Q has shape ``[r, d]``.
    """

    diagonal: Float[Array, " d"]
    network: ConvexNetwork

    @property
    def num_dimensions(self) -> int:
        return self.diagonal.shape[-1]

    @property
    def strong_convexity(self) -> float:
        return self.network.strong_convexity

    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        stretched = self.diagonal * x
        return jnp.sum(stretched * stretched) / 2 + self.network.value(x)


def start_low_rank(
    rng: np.random.Generator, variances: np.ndarray, num_layers: int, width: int, rank: int = _RANK
) -> LowRankNetwork:
    """A network that is nearly the half square, as `start_network` makes it, in float32."""
    dim = len(variances)
    network = start_network(rng, variances, num_layers, width, rank=0)
    rows: Any = to_jax(_QUIET / np.sqrt(dim) * rng.standard_normal((rank, dim)), np.float32)
    network = eqx.tree_at(lambda one: one.quadratic, network, rows)
    return LowRankNetwork(to_jax(np.full(dim, np.sqrt(QUADRATIC_START)), np.float32), network)
