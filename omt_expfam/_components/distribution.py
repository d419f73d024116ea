"""Components of any family as a NumPyro distribution."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro.distributions import constraints


class ComponentsDistribution(dist.Distribution):
    """K components in d dimensions: batch shape ``(K,)``, event shape ``(d,)``.

    The support is that of the family: NumPyro's mixtures take none that depends on parameters.
    """

    pytree_data_fields = ("components",)

    def __init__(self, components: Any, *, validate_args: bool | None = None):
        """Wrap K components."""
        self.components = components
        shapes = (components.num_components,), (components.dim,)
        super().__init__(*shapes, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)  # pyright: ignore[reportArgumentType]
    def support(self) -> Any:
        return constraints.independent(self.components.support, 1)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        draws = self.components.sample(key, int(np.prod(sample_shape, dtype=int)))
        return draws.reshape(*sample_shape, *draws.shape[1:])

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        points = jnp.broadcast_to(value, jnp.broadcast_shapes(jnp.shape(value), self.batch_shape + self.event_shape))
        rows = points.reshape(-1, *self.batch_shape, *self.event_shape)
        table = jax.vmap(lambda row: jax.vmap(lambda c, x: c._log_prob(x))(self.components, row))(rows)
        return table.reshape(points.shape[:-1])

    @property
    def mean(self) -> Array:
        return self.components.mean()

    @property
    def variance(self) -> Array:
        return jax.vmap(lambda c: jnp.diagonal(c._covariance()))(self.components)
