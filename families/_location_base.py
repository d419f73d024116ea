"""What the location families share: densities and moments of two-sided laws, and EM on sorted data."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key

from omt_expfam.extend import (
    AbstractEMFamily,
    AbstractPriors,
    location_prior,
    map_components,
    positive_prior,
    program,
    spread_of,
    within_scale,
)

from ._side_scales import common_scale, expected_log_density, separate_scales
from ._two_sided import raised, TwoSided

# Quantiles tried as first locations; an odd number, so that the median is one.
_START_LEVELS = 17


class SortedData(NamedTuple):
    """Points, and each coordinate of them in increasing order."""

    x: Float[Array, "d n"]
    order: Int[Array, "d n"]
    values: Float[Array, "d n"]


class Membership(NamedTuple):
    """Points with their responsibilities: locations are not a function of sums."""

    data: SortedData
    responsibilities: Float[Array, "K n"]


class LocationPriors(AbstractPriors):
    """Normal locations, and log-normal scales about that of a component's share of the data."""

    def default(self, components: "AbstractLocationFamily", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        own = positive_prior(_scale_of(components, jax.device_put(within_scale(scale, components.num_components))))
        return {"loc": location_prior(center, scale)} | dict.fromkeys(components._scale_names, own)


class AbstractLocationFamily(AbstractEMFamily):
    """K components with independent coordinates, each a two-sided law moved to its location.

    All array fields have shape ``[K, d]``, so that a method may be mapped over components and coordinates.
    """

    loc: Float[Array, "K d"]
    standardization: ClassVar = "coordinate"
    streams: ClassVar[bool] = False
    priors: ClassVar[AbstractPriors] = LocationPriors()
    smoothness: ClassVar = 1

    @abc.abstractmethod
    def _law(self) -> TwoSided:
        """The law of x - loc, elementwise."""

    @abc.abstractmethod
    def _with(self, loc: Float[Array, "K d"], left: Any, right: Float[Array, "K d"]) -> "AbstractLocationFamily":
        """Components with the given locations and scales, and the fixed parameters of ``self``."""

    # -- densities, draws and moments -----------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self.loc.shape[-1]

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(self._law().log_density(x - self.loc))

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return self.loc + self._law().draw(key, self.loc.shape, self.loc.dtype)

    def _mean(self) -> Float[Array, " d"]:
        return self.loc + self._law().mean()

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(self._law().variance())

    def entropy(self) -> Float[Array, " K"]:
        """The differential entropies, in nats."""
        return jnp.sum(jnp.broadcast_to(self._law().entropy(), self.loc.shape), axis=1)

    # -- EM: what does not depend on how locations are found --------------------------------------------------------

    @property
    def _scale_names(self) -> tuple[str, ...]:
        """The parameters that are scales, each with the same prior."""
        return ("scale_left", "scale_right")

    def _prepare(self, x: Float[Array, "d n"]) -> SortedData:
        order = jnp.argsort(x, axis=1)
        return SortedData(x, order, jnp.take_along_axis(x, order, axis=1))

    def _accumulate(self, data: SortedData, responsibilities: Float[Array, "K n"]) -> Membership:
        return Membership(data, responsibilities)

    def _pooled(self, counts: Float[Array, " K"], sums: Membership) -> Float[Array, " d"]:
        """Variances about the components' weighted means."""
        x = sums.data.x

        def one(weight: Float[Array, " n"]) -> Float[Array, " d"]:
            count = jnp.sum(weight)
            mean = (x @ weight) / jnp.where(count > 0, count, jnp.ones_like(count))
            return ((x - mean[:, None]) ** 2) @ weight

        return jnp.sum(map_components(one, sums.responsibilities, x.size), axis=0) / jnp.sum(counts)

    def _unit_law(self) -> TwoSided:
        """The law with scales one."""
        law = self._law()
        return law._replace(left=None if law.left is None else 1.0, right=1.0)

    def _scale_of(self, variance: Float[Array, "*s"]) -> Array:
        """The common scale at which a law has the given variance."""
        return jnp.sqrt(variance / self._unit_law().variance())

    def _scale_floor(self, ridge: Float[Array, ""]) -> Array:
        """The smallest scale: that of the variance ``ridge``."""
        return jnp.maximum(self._scale_of(ridge), _vanishing(ridge.dtype))

    def _expected(self, variance: Float[Array, "*s"]) -> tuple[Any, Any]:
        """What one pseudo-observation of the given variance adds to the power sums of either side.

        Pseudo-observations follow the law with equal scales and that variance, about the component's own location.
        """
        scale = self._scale_of(variance)
        below, above = self._unit_law().expected_powers()
        law = self._law()
        return raised(scale, law.power_left) * below, raised(scale, law.power_right) * above

    def _log_prior(self, target: Float[Array, " d"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """The expected log-density of ``strength`` pseudo-observations of variance ``target``."""

        def one(coordinate: Any, variance: Float[Array, ""]) -> Float[Array, ""]:
            return expected_log_density(coordinate._law(), *coordinate._expected(variance))

        return strength * jnp.sum(jax.vmap(lambda c: jax.vmap(one)(c, target))(self), axis=1)

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractLocationFamily":
        law = self._law()
        left = None if law.left is None else scale[None] * law.left
        return self._with(shift[None] + scale[None] * self.loc, left, scale[None] * law.right)


class AbstractTwoSidedFamily(AbstractLocationFamily):
    """Location families on the whole line: the M-step compares a few locations, each with its best scales.

    Given its location (and powers), a component is an exponential family in the powers of the distances below and
    above it, so the best scales are unique. The current location is always among those compared: EM is monotone.
    """

    @property
    @abc.abstractmethod
    def _equal_scales(self) -> bool:
        """Whether both sides have one scale."""

    @abc.abstractmethod
    def _candidates(
        self, values: Float[Array, " n"], weight: Float[Array, " n"], pseudo: tuple[Array, Array]
    ) -> Float[Array, " c"]:
        """Locations to try for one component and coordinate.

        Args:
            values: The data in increasing order.
            weight: Their responsibilities.
            pseudo: What the pseudo-observations add to the power sums of either side, wherever the location.
        """

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: Membership,
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractTwoSidedFamily":
        def places(own: Any, values: Array, weight: Array, pseudo: tuple[Array, Array]) -> Float[Array, " c"]:
            return jnp.concatenate([own.loc[None], own._candidates(values, weight, pseudo)])

        return self._search(places, sums, target, strength, ridge)

    def _search(
        self,
        places: Callable[..., Float[Array, " c"]],
        sums: Membership,
        target: Float[Array, " d"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractTwoSidedFamily":
        """The best of the ``places`` with its scales, for every component and coordinate."""
        data = sums.data

        def one(item: tuple[Any, Array]) -> tuple[Array, Array, Array]:
            component, weight = item

            def coordinate(own: Any, values: Array, order: Array, variance: Array) -> tuple[Array, Array, Array]:
                own_weight = weight[order]
                pseudo = jax.tree.map(lambda expected: strength * expected, own._expected(variance))
                tried = places(own, values, own_weight, pseudo)
                return own._best(tried, values, own_weight, pseudo, strength, ridge)

            return jax.vmap(coordinate)(component, data.values, data.order, target)

        loc, left, right = map_components(one, (self, sums.responsibilities), 4 * data.x.size)
        result = self._with(loc, left, right)
        assert isinstance(result, AbstractTwoSidedFamily)
        return result

    def _best(
        self,
        places: Float[Array, " c"],
        values: Float[Array, " n"],
        weight: Float[Array, " n"],
        pseudo: tuple[Array, Array],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> tuple[Array, Array, Array]:
        """The best of several locations with its scales, for one component and coordinate."""
        total = jnp.sum(weight) + strength
        total = jnp.where(total > 0, total, jnp.ones_like(total))
        law, floor = self._law(), self._scale_floor(ridge)
        solve = common_scale if self._equal_scales else separate_scales

        def at(place: Float[Array, ""]) -> tuple[Array, Array, Array]:
            below, above = self._power_sums(values - place, weight)
            below, above = (below + pseudo[0]) / total, (above + pseudo[1]) / total
            left, right = solve(law, below, above, floor)
            return left, right, expected_log_density(law._replace(left=left, right=right), below, above)

        left, right, objective = jax.vmap(at)(places)
        best = jnp.argmax(objective)
        size = jnp.maximum(left[best], right[best])
        return places[best], unless_collapsed(left[best], size), unless_collapsed(right[best], size)

    def _power_sums(self, offset: Float[Array, " n"], weight: Float[Array, " n"]) -> tuple[Array, Array]:
        """The weighted sums of the powers of distances below and above."""
        below = offset < 0
        powers = weight * self._law().raised(jnp.abs(offset), below)
        return jnp.sum(jnp.where(below, powers, 0)), jnp.sum(jnp.where(below, 0, powers))

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "AbstractTwoSidedFamily":
        """The best of weighted quantiles, then an M-step; both with one pseudo-observation."""
        data, one = self._prepare(x), jnp.ones((), x.dtype)
        counts, sums = jnp.sum(responsibilities, axis=1), self._accumulate(data, responsibilities)
        target = self._pooled(counts, sums)
        # Empty components have the quantiles of all points.
        total = jnp.sum(responsibilities, axis=0)
        steady = Membership(data, responsibilities + (total / jnp.sum(total))[None])
        levels = jnp.linspace(0, 1, _START_LEVELS, dtype=x.dtype)

        def places(own: Any, values: Array, weight: Array, pseudo: tuple[Array, Array]) -> Float[Array, " c"]:
            return jax.vmap(lambda level: weighted_quantile(values, weight, level))(levels)

        return self._search(places, steady, target, one, ridge)._maximize(counts, sums, target, one, ridge)


@program
def _scale_of(components: AbstractLocationFamily, within: Float[Array, " d"]) -> Float[Array, " d"]:
    """The scale at which a law of the first component has given standard deviations."""
    return components._scale_of(within[None] ** 2)[0]


def _vanishing(dtype: Any) -> float:
    """A scale that only a component without any spread or ridge can have."""
    return float(jnp.finfo(dtype).tiny) ** 0.25


def unless_collapsed(scale: Float[Array, "*s"], size: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The scale, or NaN, which `fit` reports, where a component's ``size`` has vanished."""
    return jnp.where(size > _vanishing(size.dtype), scale, jnp.nan)


def weighted_quantile(
    values: Float[Array, " n"], weight: Float[Array, " n"], level: Float[Array, ""]
) -> Float[Array, ""]:
    """The middle of the weighted quantiles of sorted values; masses that differ by rounding count as equal."""
    mass = jnp.cumsum(weight)
    goal, slack = level * mass[-1], 8 * jnp.finfo(mass.dtype).eps * mass[-1]
    last = values.shape[0] - 1
    low, high = jnp.searchsorted(mass, goal - slack), jnp.searchsorted(mass, goal + slack, side="right")
    return 0.5 * (values[jnp.minimum(low, last)] + values[jnp.minimum(high, last)])
