"""NumPyro laws by their parameters: densities inside and outside the support, and the forms that transport uses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from .._base.precision import relaxed
from .._components.lattice_form import AbstractLattice
from .._components.product_form import AbstractShape
from .._numerics.support import ends

# Where densities have a kink at the location.
_KINKED = (dist.Laplace, dist.AsymmetricLaplace)


def log_density(law: type, parameters: dict[str, Any], x: Array) -> Array:
    """NumPyro's log-density of one law, ``-inf`` outside the support, where NumPyro's is arbitrary."""
    with relaxed():
        one = law(**parameters, validate_args=False)
        inside = one.support(x)
        safe = jnp.where(inside, x, one.support.feasible_like(x)) if one.event_shape == () else x
        return jnp.where(inside, jnp.asarray(one.log_prob(safe)).astype(x.dtype), -jnp.inf)


class _Law(eqx.Module):
    """One-dimensional NumPyro laws.

    Attributes:
        parameters: Their parameters, with leading axes ``[K, d]``.
        law: The class of the distribution.
    """

    parameters: dict[str, Any]
    law: Any = eqx.field(static=True)

    def _mean(self) -> Float[Array, ""]:
        return moment(self.law, self.parameters, "mean")

    def _variance(self) -> Float[Array, ""]:
        return moment(self.law, self.parameters, "variance")


class LawShape(_Law, AbstractShape):
    """One-dimensional NumPyro laws as shapes."""

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        return log_density(self.law, self.parameters, z)

    def _knots(self) -> Float[Array, " q"]:
        lower, upper = ends(self.law.support)
        dtype = jax.tree.leaves(self.parameters)[0].dtype
        kinks = [self.parameters["loc"]] if issubclass(self.law, _KINKED) else []
        return jnp.stack([jnp.asarray(point, dtype) for point in (lower, *kinks, upper)])


class LawLattice(_Law, AbstractLattice):
    """NumPyro laws of counts."""

    def _log_mass(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return log_density(self.law, self.parameters, x)


def moment(law: type, parameters: dict[str, Any], name: str) -> Array:
    """The mean or the variance of a law."""
    with relaxed():
        one = law(**parameters, validate_args=False)
        dtype = jax.tree.leaves(parameters)[0].dtype
        return jnp.broadcast_to(jnp.asarray(getattr(one, name), dtype), one.batch_shape + one.event_shape)
