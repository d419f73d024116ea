"""A coupling of the weights where most pairs are left out, and the evidence for that."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arrays import on_host


class SparseCoupling(eqx.Module):
    """A coupling of the weights on those pairs that may carry mass, with its evidence.

    Attributes:
        source: Source component of each pair, in order.
        target: Target component of each pair.
        weights: The mass of each pair.
        row_shares: ``weights`` over the weight of the source component, right also where that is zero.
        column_shares: ``weights`` over the weight of the target component.
        source_potential: The dual variable lambda, shape ``[K0]``, units of squared distance.
        target_potential: The dual variable tau, shape ``[K1]``.
        left_out: The most that all other pairs together would carry, as a share of the mass.
        num_computed: For how many pairs the coupling of the components was computed.
        marginal_error: L1 error of the rows plus that of the columns.
        num_steps: Steps of all solves.
        result: Why the last one stopped.
    """

    source: Int[Array, " p"]
    target: Int[Array, " p"]
    weights: Float[Array, " p"]
    row_shares: Float[Array, " p"]
    column_shares: Float[Array, " p"]
    source_potential: Float[Array, " K0"]
    target_potential: Float[Array, " K1"]
    left_out: Float[Array, ""]
    num_computed: Int[Array, ""]
    marginal_error: Float[Array, ""]
    num_steps: Int[Array, ""]
    result: Any

    @property
    def num_pairs(self) -> int:
        """The number of pairs."""
        return self.source.shape[0]

    def transposed_order(self) -> np.ndarray:
        """The order of the pairs by target component."""
        return np.lexsort((np.asarray(self.source), np.asarray(self.target)))

    def transpose(self) -> "SparseCoupling":
        """The same coupling read from target to source."""
        order = self.transposed_order()
        tables = self.target, self.source, self.weights, self.column_shares, self.row_shares
        source, target, weights, rows, columns = on_host(lambda _, *own: tuple(v[order] for v in own), *tables)
        evidence = self.left_out, self.num_computed, self.marginal_error, self.num_steps, self.result
        potentials = self.target_potential, self.source_potential
        return SparseCoupling(source, target, weights, rows, columns, *potentials, *evidence)
