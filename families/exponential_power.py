"""Components with independent exponential power coordinates: Laplace, Gaussian and what lies between and beyond."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from omt_expfam.extend import (
    AbstractComponents,
    AbstractCovariance,
    ArrayLike,
    as_floating,
    as_host_or_traced,
    check_positive,
    check_shape,
    DiagonalCovariance,
    is_traced,
    ProductForm,
)

from ._location_base import AbstractTwoSidedFamily, LocationPriors
from ._two_sided import AbstractTwoSidedShape, LocationLaw, product_form, TwoSided
from .diagonal_gaussian import DiagonalGaussian

_SCALES = ("scale_left", "scale_right")


class _Priors(LocationPriors):
    """Those of location families; ``scale`` is both scales where they are equal."""

    def parameters(self, components: "ExponentialPower", names: tuple[str, ...]) -> dict[str, Array]:
        return {name: components.scale_right if name == "scale" else getattr(components, name) for name in names}

    def with_parameters(self, components: "ExponentialPower", parameters: dict[str, Array]) -> "ExponentialPower":
        names = ("loc", *_SCALES)
        values = {name: getattr(components, name) for name in names} | parameters
        if "scale" in parameters:
            values |= dict.fromkeys(_SCALES, parameters["scale"])
        return components._with(*(values[name] for name in names))


class ExponentialPower(AbstractTwoSidedFamily):
    r"""K components with independent coordinates that fall off at chosen powers below and above their location.

    The density is exp(-((loc - x) / scale_left)^p) / Z below the location and exp(-((x - loc) / scale_right)^q) / Z
    above it, with $Z = s_l \Gamma(1 + 1/p) + s_r \Gamma(1 + 1/q)$. With equal scales, p = q = 2 is a Gaussian of
    variance scale^2 / 2, p = q = 1 is Laplace, and large powers approach a uniform law (Subbotin, 1923; with unequal
    sides, Zhu and Zinde-Walsh, 2009).

    Not an exponential family, but for p = q = 2 with equal scales. Given locations and powers it is one, in
    ((loc - x)^+)^p and ((x - loc)^+)^q. Fit it with the powers held fixed,
    ``omt.template(ExponentialPower, power_left=1.5, power_right=2.0)``, and with ``symmetric=True`` for equal scales.
    EM then takes one step of Fisher scoring per location, with a line search, and solves for the scales; for powers
    below one the likelihood has a cusp at every data point, and the location found is a local optimum.

    Attributes:
        loc: Locations, which are modes, shape ``[K, d]``.
        scale_left: Scales below the locations, shape ``[K, d]``.
        scale_right: Scales above the locations, shape ``[K, d]``.
        power_left: Powers p below the locations, shape ``[K, d]``.
        power_right: Powers q above the locations, shape ``[K, d]``.
        symmetric: Whether fitting keeps the two scales equal.
    """

    exchangeable: ClassVar = True
    scale_left: Float[Array, "K d"]
    scale_right: Float[Array, "K d"]
    power_left: Float[Array, "K d"]
    power_right: Float[Array, "K d"]
    symmetric: bool = eqx.field(static=True)
    priors: ClassVar = _Priors()

    def __init__(
        self,
        loc: ArrayLike,
        scale_left: ArrayLike,
        scale_right: ArrayLike,
        power_left: ArrayLike,
        power_right: ArrayLike,
        symmetric: bool = False,
    ):
        """Build components from locations and scales of shape ``[K, d]``, and powers of that shape or scalars.

        Raises:
            ValueError: If a shape does not fit, a scale or power is not positive, or ``symmetric`` scales differ.
        """
        self.loc = as_floating("loc", loc, "K d")
        self.scale_left = as_floating("scale_left", scale_left, "K d", self.loc.dtype)
        self.scale_right = as_floating("scale_right", scale_right, "K d", self.loc.dtype)
        self.power_left = _as_power("power_left", power_left, self.loc)
        self.power_right = _as_power("power_right", power_right, self.loc)
        for name in ("scale_left", "scale_right", "power_left", "power_right"):
            check_shape(name, getattr(self, name), self.loc.shape, "`loc`")
            check_positive(name, getattr(self, name))
        if symmetric and _differ(self.scale_left, self.scale_right):
            raise ValueError("`scale_left` and `scale_right` must be equal when `symmetric` is True.")
        self.symmetric = symmetric

    def _law(self) -> TwoSided:
        return TwoSided(self.scale_left, self.scale_right, self.power_left, self.power_right)

    def _with(self, loc: Float[Array, "K d"], left: Any, right: Float[Array, "K d"]) -> "ExponentialPower":
        return ExponentialPower(loc, left, right, self.power_left, self.power_right, self.symmetric)

    @property
    def _scale_names(self) -> tuple[str, ...]:
        return ("scale",) if self.symmetric else ("scale_left", "scale_right")

    # -- transport, NumPyro -----------------------------------------------------------------------------------------

    def gaussian_form(self) -> DiagonalCovariance | None:
        """The diagonal covariances when all powers are 2 and the scales equal; never when those are traced."""
        fields = self.scale_left, self.scale_right, self.power_left, self.power_right
        if is_traced(fields) or _differ(self.scale_left, self.scale_right):
            return None
        if any(_differ(power, jnp.full_like(power, 2)) for power in fields[2:]):
            return None
        return DiagonalCovariance(0.5 * self.scale_left**2)

    def with_gaussian_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> AbstractComponents:
        return DiagonalGaussian._from_form(mean, covariance)

    def product_form(self) -> ProductForm:
        return product_form(self.loc, self._law())

    def to_numpyro(self) -> dist.Distribution:
        form = self.product_form()
        assert isinstance(form.shape, AbstractTwoSidedShape)
        return LocationLaw(form.loc, form.scale, form.shape).to_event(1)

    # -- EM ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "ExponentialPower":
        symmetric = fixed.pop("symmetric", False)
        if set(fixed) != {"power_left", "power_right"}:
            raise TypeError(
                "ExponentialPower needs its powers, and takes `symmetric`: "
                "fit omt.template(ExponentialPower, power_left=1.5, power_right=2.0)."
            )
        one = jnp.ones((num_components, dim), dtype)
        return ExponentialPower(jnp.zeros_like(one), one, one, symmetric=symmetric, **fixed)

    def _fixed(self) -> dict[str, Any]:
        """The powers, as one row where all components share them, so that they fit any number of components."""
        powers = {"power_left": self.power_left, "power_right": self.power_right}
        if not is_traced(powers):
            powers = {n: p if _differ(p, jnp.broadcast_to(p[:1], p.shape)) else p[0] for n, p in powers.items()}
        return {**powers, "symmetric": self.symmetric}

    def _num_parameters(self) -> int:
        return (2 if self.symmetric else 3) * self.dim

    @property
    def _equal_scales(self) -> bool:
        return self.symmetric

    def _candidates(
        self, values: Float[Array, " n"], weight: Float[Array, " n"], pseudo: tuple[Array, Array]
    ) -> Float[Array, " c"]:
        """Fractions and multiples of a step of Fisher scoring at the current scales, and the data point next to it."""
        law = self._law()
        offset = values - self.loc
        down = _slope(jnp.maximum(-offset, 0) / law.left, law.power_left) / law.left
        up = _slope(jnp.maximum(offset, 0) / law.right, law.power_right) / law.right
        count = jnp.sum(weight)
        count = jnp.where(count > 0, count, jnp.ones_like(count))
        step = jnp.sum(weight * (up - down)) / (count * _information(law))
        lengths = jnp.array([0.1, 0.5, 1.0, 2.0], step.dtype)
        places = jnp.clip(self.loc + lengths * step, values[0], values[-1])
        index = jnp.minimum(jnp.searchsorted(values, places[2]), values.shape[0] - 1)
        before = values[jnp.maximum(index - 1, 0)]
        nearest = jnp.where(places[2] - before < values[index] - places[2], before, values[index])
        return jnp.concatenate([places, nearest[None]])


def _as_power(name: str, value: ArrayLike, loc: Float[Array, "K d"]) -> Array:
    """A power per component and coordinate."""
    axes = " ".join(("K", "d")[2 - min(as_host_or_traced(name, value).ndim, 2) :])
    power = as_floating(name, value, axes, loc.dtype)
    fits = all(ours in (1, theirs) for ours, theirs in zip(power.shape[::-1], loc.shape[::-1], strict=False))
    if not fits:
        raise ValueError(f"`{name}` must be a number or have shape {loc.shape} to match `loc`; got {power.shape}.")
    return jnp.broadcast_to(power, loc.shape)


def _differ(one: Array, other: Array) -> bool:
    """Whether concrete arrays differ; traced ones are taken to agree."""
    return not is_traced(one, other) and not np.array_equal(np.asarray(one), np.asarray(other))


def _slope(size: Array, power: Array) -> Array:
    """The derivative of ``size ** power``; zero at zero."""
    positive = size > 0
    safe = jnp.where(positive, size, jnp.ones_like(size))
    return jnp.where(positive, power * safe ** (power - 1), jnp.zeros_like(size))


def _information(law: TwoSided) -> Array:
    r"""The Fisher information of the location, $(p \Gamma(2 - 1/p) / s_l + q \Gamma(2 - 1/q) / s_r) / Z$.

    It is infinite for powers up to 1/2, where the value at 3/4 serves as a finite step length.
    """

    def side(scale: Array, power: Array) -> Array:
        power = jnp.maximum(power, 0.75)
        return power * jnp.exp(gammaln(2 - 1 / power)) / scale

    return (side(law.left, law.power_left) + side(law.right, law.power_right)) / jnp.exp(law.log_normalizer())
