"""Components with independent exponential coordinates, one-sided from a location."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from omt_expfam.extend import (
    AbstractPriors,
    ArrayLike,
    as_floating,
    batch_size,
    check_positive,
    check_shape,
    joint_table,
    location_prior,
    log_share,
    map_components,
    point_bucket,
    positive_prior,
    ProductForm,
    spread_of,
    within_scale,
)

from ._location_base import AbstractLocationFamily, Membership, SortedData, unless_collapsed
from ._two_sided import ExponentialShape, LocationLaw, TwoSided

# What EM takes off the log-density below a location: finite, so that a step can still reach a point left out.
_OUTSIDE = 1e9


class _Priors(AbstractPriors):
    """Normal locations, and log-normal rates."""

    def default(self, components: "Exponential", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        rate = positive_prior(1 / within_scale(scale, components.num_components))
        return {"loc": location_prior(center, scale), "rate": rate}


class Exponential(AbstractLocationFamily):
    """K components with independent exponential coordinates: density rate exp(-rate (x - loc)) for x >= loc.

    Not an exponential family: the location is the end of the support. Given the locations it is one, in x.

    Responsibilities vanish below a location, so EM's own M-step would never move it past a point on either side. EM
    therefore updates weights and rates, and then moves each location to the place where the likelihood *of the
    mixture* is largest, among data points near and far in their order and where it was (ECME; Liu and Rubin, 1994):
    monotone, and a location may pass points that another component explains. Fitted locations are data points, and a
    new point below all of them has density zero.

    Attributes:
        loc: Lower ends of the supports, shape ``[K, d]``.
        rate: Rates, one over the mean excess above ``loc``, shape ``[K, d]``.
    """

    exchangeable: ClassVar = True
    rate: Float[Array, "K d"]
    smoothness: ClassVar = 0
    priors: ClassVar = _Priors()

    def __init__(self, loc: ArrayLike, rate: ArrayLike):
        """Build components from locations and rates, each of shape ``[K, d]``.

        Raises:
            ValueError: If a shape does not fit, or a rate is not positive.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.rate = as_floating("rate", rate, "K d", self.loc.dtype)
        check_shape("rate", self.rate, self.loc.shape, "`loc`")
        check_positive("rate", self.rate)

    def _law(self) -> TwoSided:
        return TwoSided(None, 1 / self.rate, 1.0, 1.0)

    def _with(self, loc: Float[Array, "K d"], left: Any, right: Float[Array, "K d"]) -> "Exponential":
        return Exponential(loc, 1 / right)

    def product_form(self) -> ProductForm:
        return ProductForm(self.loc, 1 / self.rate, ExponentialShape())

    def to_numpyro(self) -> dist.Distribution:
        return LocationLaw(self.loc, 1 / self.rate, ExponentialShape()).to_event(1)

    # -- EM ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "Exponential":
        return Exponential(jnp.zeros((num_components, dim), dtype), jnp.ones((num_components, dim), dtype))

    def _table(self, data: SortedData) -> Float[Array, "K n"]:
        """Log-densities that are finite, but very small, outside the support."""

        def one(component: "Exponential") -> Float[Array, " n"]:
            terms = jax.vmap(_term)(data.x, component.loc, component.rate)
            return jnp.sum(terms, axis=0) + jnp.sum(jnp.log(component.rate))

        return map_components(one, self, data.x.size)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: Membership,
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "Exponential":
        updated = self._with_rates(counts, sums, target, strength, ridge)
        return updated._with_locations(log_share(counts), sums)

    def _with_rates(
        self, counts: Array, sums: Membership, target: Float[Array, " d"], strength: Array, ridge: Array
    ) -> "Exponential":
        """One over the mean excesses, with pseudo-observations at the pooled spread."""
        x = sums.data.x

        def one(item: tuple["Exponential", Array]) -> Float[Array, " d"]:
            component, weight = item
            return jnp.maximum(x - component.loc[:, None], 0) @ weight

        excess = map_components(one, (self, sums.responsibilities), x.size)
        total = (counts + strength)[:, None]
        total = jnp.where(total > 0, total, jnp.ones_like(total))
        scale = (excess + strength * jnp.sqrt(target)[None]) / total
        scale = jnp.maximum(scale, self._scale_floor(ridge))
        return Exponential(self.loc, 1 / unless_collapsed(scale, scale))

    def _with_locations(self, log_weights: Float[Array, " K"], sums: Membership) -> "Exponential":
        """Locations that increase the likelihood of the mixture, one component and coordinate after the other."""
        data, weight = sums.data, jnp.sum(sums.responsibilities, axis=0)

        def component(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            locs, joint = state
            rest = jax.nn.logsumexp(joint.at[k].set(-jnp.inf), axis=0)

            def coordinate(j: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
                locs, own = state
                others = own - _term(data.x[j], locs[k, j], self.rate[k, j])

                def likelihood(place: Float[Array, ""]) -> Float[Array, ""]:
                    return weight @ _log_sum(rest, others + _term(data.x[j], place, self.rate[k, j]))

                places = _places(data.values[j], locs[k, j])
                values = jax.lax.map(likelihood, places, batch_size=min(batch_size(weight.size), places.size))
                best = places[jnp.argmax(values)]
                return locs.at[k, j].set(best), others + _term(data.x[j], best, self.rate[k, j])

            locs, own = jax.lax.fori_loop(0, self.dim, coordinate, (locs, joint[k]))
            return locs, joint.at[k].set(own)

        joint = joint_table(log_weights, self, data)
        locs, _ = jax.lax.fori_loop(0, self.loc.shape[0], component, (self.loc, joint))
        return Exponential(locs, self.rate)

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "Exponential":
        """Locations at the smallest points assigned to each component, so that every point is in some support."""
        data = self._prepare(x)
        counts, sums = jnp.sum(responsibilities, axis=1), self._accumulate(data, responsibilities)
        used = jnp.sum(responsibilities, axis=0) > 0
        label = jnp.argmax(responsibilities, axis=0)

        def one(k: Array) -> Float[Array, " d"]:
            mine = used & (label == k)
            member = jnp.where(jnp.any(mine), mine, used)
            return jnp.min(jnp.where(member[None], x, jnp.inf), axis=1)

        first = Exponential(map_components(one, jnp.arange(self.loc.shape[0]), x.size), self.rate)
        return first._with_rates(counts, sums, self._pooled(counts, sums), jnp.ones((), x.dtype), ridge)

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "Exponential":
        """Rounded down, so that a data point at a location stays in the support."""
        moved = shift[None] + scale[None] * self.loc
        size = jnp.abs(shift)[None] + jnp.abs(scale[None] * self.loc)
        return Exponential(moved - 4 * jnp.finfo(moved.dtype).eps * size, self.rate / scale[None])


def _term(x: Float[Array, " n"], loc: Float[Array, ""], rate: Float[Array, ""]) -> Float[Array, " n"]:
    """What one coordinate adds to the log-density, but for log rate; finite below the location."""
    below = jnp.maximum(loc - x, 0)
    return -rate * jnp.maximum(x - loc, 0) - jnp.where(below > 0, below + _OUTSIDE, 0)


def _log_sum(one: Float[Array, " n"], other: Float[Array, " n"]) -> Float[Array, " n"]:
    """The logarithm of a sum of exponentials to rounding of its size; twice as fast as `jax.numpy.logaddexp`."""
    return jnp.maximum(one, other) + jnp.log(1 + jnp.exp(-jnp.abs(one - other)))


def _places(values: Float[Array, " n"], loc: Float[Array, ""]) -> Float[Array, " c"]:
    """The current location, and data points that are 0, 1, 8, 64, ... places from it."""
    jumps = [8**power for power in range(point_bucket(values.size).bit_length() // 3 + 1)]
    offsets = jnp.array([0, *jumps, *(-jump for jump in jumps)])
    index = jnp.searchsorted(values, loc).astype(offsets.dtype) + offsets
    return jnp.concatenate([loc[None], values[jnp.clip(index, 0, values.size - 1)]])
