"""A mixture as a NumPyro distribution whose log-density is fast in sampling and in variational inference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from .._base.arrays import safe_log
from .._base.xla import unfused
from .._components.columns import split
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily, AbstractRegularEMFamily
from .._numerics.support import Constraint


class MixtureDistribution(dist.Distribution):
    """A mixture as a NumPyro distribution: batch shape ``()``, event shape ``(d,)``.

    For regular exponential families in float64 its log-density is one matrix product of natural parameters with
    sufficient statistics, several times faster than NumPyro's ``MixtureSameFamily``; everywhere else it is that of the
    components. Labels are summed over.

    Attributes:
        mixture: The mixture.
    """

    pytree_data_fields = ("mixture",)

    def __init__(self, mixture: Mixture, *, validate_args: bool | None = None):
        """Wrap a mixture."""
        self.mixture = mixture
        super().__init__((), (mixture.dim,), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # pyright: ignore[reportArgumentType]
    def support(self) -> Constraint:
        components = self.mixture.components
        if isinstance(components, AbstractEMFamily):
            return constraints.independent(components.support, 1)
        return components.to_numpyro().support or constraints.real_vector

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        num = 1
        for size in sample_shape:
            num *= size
        return self.mixture.sample(key, max(num, 1))[:num].reshape(*sample_shape, self.mixture.dim)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        # A NumPy array has the precision of JAX's default from here on, and is judged by it.
        points = jnp.reshape(jnp.asarray(value), (-1, self.mixture.dim))
        return log_density(self.mixture, points).reshape(jnp.shape(value)[:-1])

    @property
    def mean(self) -> Array:
        return self.mixture.mean()

    @property
    def variance(self) -> Array:
        return jnp.diagonal(self.mixture.covariance())


def log_density(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Log-densities of a mixture, in the form that is fastest for many evaluations and gradients."""
    joint = density_table(mixture.components, x) + safe_log(mixture.weights)[:, None]
    return jax.nn.logsumexp(joint, axis=0)


def density_table(components: Any, x: Float[Array, "n d"]) -> Float[Array, "K n"]:
    """Log-densities of all components: natural parameters times statistics where that keeps its digits."""
    parts = components.column_parts()
    if len(parts) > 1:
        tables = [density_table(part.components, own) for part, own in zip(parts, split(x, parts), strict=True)]
        return sum(tables[1:], start=tables[0])
    if not isinstance(components, AbstractRegularEMFamily) or x.dtype != jnp.float64:
        return unfused(components.log_prob_rows(x))
    if components.standardization in ("coordinate", "scalar"):
        # Far from the origin the natural form cancels: move the origin into the data.
        center = jax.lax.stop_gradient(jnp.mean(x, axis=0))
        moved = components._affine(-center, jnp.ones_like(center))
        return moved._table(moved._prepare((x - center[None]).T))
    return components._table(components._prepare(x.T))
