"""Lattice form: components whose coordinates are independent counts."""

import abc

import equinox as eqx
from jaxtyping import Array, Float


class AbstractLattice(eqx.Module):
    """Laws on the whole numbers 0, 1, 2, ...

    Array fields carry leading axes ``[K, d]``, one law per component and coordinate. Methods are written for one law
    (fields without those axes) and one number.
    """

    @abc.abstractmethod
    def _log_mass(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """The log-probability of one whole number, ``-inf`` outside the support."""

    @abc.abstractmethod
    def _mean(self) -> Float[Array, ""]:
        """The mean."""

    @abc.abstractmethod
    def _variance(self) -> Float[Array, ""]:
        """The variance."""
