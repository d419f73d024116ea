"""Couplings of components with independent coordinates: what follows from the laws of one coordinate given another."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arrays import batch_size, safe_log
from .._base.precision import in_float64, narrow
from .._base.results import RESULTS
from .._base.xla import program
from .._components.interface import AbstractComponents
from .interface import AbstractCouplings, PairSelection

# Largest accepted marginal error (L1) of a problem of one coordinate.
_TOLERANCE = {"float64": 1e-9, "float32": 1e-3}

_Couplings = TypeVar("_Couplings", bound="AbstractCoordinateCouplings")


class AbstractCoordinateCouplings(AbstractCouplings):
    """Couplings of components with independent coordinates.

    The entropic plan between product laws is the product of the plans between their coordinates; costs and KL
    divergences add.
    """

    errors: eqx.AbstractVar[Float[Array, "K0 K1"]]
    source: eqx.AbstractVar[AbstractComponents]
    target: eqx.AbstractVar[AbstractComponents]
    marginal_error: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def _moments_at(self, x: Float[Array, " d"], i: Array, j: Array) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Mean and variance of each coordinate of y given a point x, under the pair i, j."""

    @abc.abstractmethod
    def _log_density_at(self, x: Float[Array, " d"], y: Float[Array, " d"], i: Array, j: Array) -> Float[Array, ""]:
        """The log-density of a point y given a point x, under the pair i, j."""

    @abc.abstractmethod
    def _work(self) -> int:
        """How many numbers one point takes."""

    def _transposed(self, **own: Any) -> Any:
        """These seen from the other side, but for what is a kind's ``own``."""
        tables = {"costs": self.costs.T, "kl": self.kl.T, "errors": self.errors.T}
        return dataclasses.replace(self, source=self.target, target=self.source, **tables, **own)

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        return self.errors

    @property
    def result(self) -> Any:
        solved = self.marginal_error <= _TOLERANCE[str(self.costs.dtype)]
        return RESULTS.where(solved, RESULTS.successful, RESULTS.components_not_converged)

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        return _conditional_covariance(self, x, y, weight, shares)

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _conditional_moments(self, x, source, target)[0]

    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        return _log_conditional(self, x, y, log_weight, shares)

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> None:
        return None


def solve_wide(
    solve: Callable[[Any, Any, Any], _Couplings],
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Float[Array, ""],
) -> _Couplings:
    """Couplings solved in float64, in the precision of ``epsilon`` and of the components as they were given."""
    wide = in_float64(solve, source, target, epsilon)
    # What is lost on the way to fewer digits.
    rounded = np.asarray(wide.errors) + float(jnp.finfo(epsilon.dtype).eps) * np.asarray(wide.objectives())
    couplings = narrow(eqx.tree_at(lambda c: c.errors, wide, rounded), epsilon.dtype)
    return eqx.tree_at(lambda c: (c.source, c.target, c.epsilon), couplings, (source, target, epsilon))


@program
def _conditional_moments(
    couplings: AbstractCoordinateCouplings, x: Array, source: Array, target: Array
) -> tuple[Array, Array]:
    """Mean and variance of each coordinate of y given x, each point under its own pair."""
    size = min(batch_size(couplings._work()), max(x.shape[0], 1))
    return jax.lax.map(lambda item: couplings._moments_at(*item), (x, source, target), batch_size=size)


@program
def _conditional_covariance(
    couplings: AbstractCoordinateCouplings, x: Array, y: Array, weight: Array, shares: PairSelection
) -> Array:
    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        whole = (jnp.broadcast_to(k, x.shape[:1]) for k in (pair.source, pair.target))
        mean, variance = _conditional_moments(couplings, x, *whole)
        offset = mean - y
        scale = (weight[:, pair.source] * pair.weight)[:, None]
        outer = (scale * offset)[:, :, None] * offset[:, None, :]
        return total + outer + jax.vmap(jnp.diag)(scale * variance), None

    start = jnp.zeros((*x.shape, x.shape[1]), x.dtype)
    return jax.lax.scan(add, start, shares)[0]


@program
def _log_conditional(
    couplings: AbstractCoordinateCouplings, x: Array, y: Array, log_weight: Array, shares: PairSelection
) -> Array:
    def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
        density = jax.vmap(lambda point, image: couplings._log_density_at(point, image, pair.source, pair.target))
        term = density(x, y) + log_weight[:, pair.source] + safe_log(pair.weight)
        return jnp.logaddexp(total, term), None

    return jax.lax.scan(add, jnp.full(x.shape[:1], -jnp.inf, x.dtype), shares)[0]
