"""One-dimensional laws that fall off from a location to either side, written elementwise."""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaincc, gammaln
from jaxtyping import Array, Bool, Float, Key
from numpyro.distributions import constraints

from omt_expfam.extend import AbstractShape, ProductForm


class TwoSided(NamedTuple):
    r"""The law of z with density exp(-(-z / left)^p) / Z below zero and exp(-(z / right)^q) / Z above.

    The normalizer is $Z = s_l \Gamma(1 + 1/p) + s_r \Gamma(1 + 1/q)$. This is the exponential
    power law (Subbotin, 1923) with its two sides set apart (Zhu and Zinde-Walsh, 2009). Entries are arrays that
    broadcast, or Python numbers where a family fixes them: a power of 1.0 then costs nothing, and ``left=None`` with
    ``power_right=1.0`` is the exponential law, with nothing below zero.
    """

    left: Any
    right: Any
    power_left: Any
    power_right: Any

    def log_density(self, z: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The log-density at ``z``."""
        if self.left is None:
            return jnp.where(z >= 0, -jnp.maximum(z, 0) / self.right - self.log_normalizer(), -jnp.inf)
        return -self.raised(jnp.where(z < 0, -z / self.left, z / self.right), z < 0) - self.log_normalizer()

    def raised(self, size: Float[Array, "*s"], below: Bool[Array, "*s"]) -> Float[Array, "*s"]:
        """Distances raised to the power of their side."""
        fixed = isinstance(self.power_left, float) and self.power_left == self.power_right
        return raised(size, self.power_left if fixed else jnp.where(below, self.power_left, self.power_right))

    def log_normalizer(self) -> Array:
        """The logarithm of Z."""
        below, above = self._masses()
        return jnp.log(below + above)

    def shares(self) -> tuple[Any, Any]:
        """The probabilities of either side."""
        below, above = self._masses()
        return below / (below + above), above / (below + above)

    def mean(self) -> Any:
        """The mean of z."""
        (below, above), (down, up) = self.shares(), self._side_means()
        return above * up - below * down

    def variance(self) -> Any:
        """The variance of z: within the sides plus between them."""
        (below, above), (down, up) = self.shares(), self._side_means()
        within = above * self.right**2 * _side_variance(self.power_right)
        if self.left is not None:
            within = within + below * self.left**2 * _side_variance(self.power_left)
        return within + below * above * (down + up) ** 2

    def entropy(self) -> Array:
        """The differential entropy of z, in nats."""
        below, above = self.expected_powers()
        return self.log_normalizer() + below + above

    def expected_powers(self) -> tuple[Any, Any]:
        """The expectations of ((-z)^+ / left)^power_left and (z^+ / right)^power_right."""
        below, above = self.shares()
        return below / self.power_left, above / self.power_right

    def cdf(self, z: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The probability of values up to ``z``."""
        below, above = self.shares()
        result = 1 - above * _upper_tail(jnp.maximum(z, 0) / self.right, self.power_right)
        if self.left is None:
            return jnp.where(z >= 0, result, jnp.zeros_like(result))
        return jnp.where(z >= 0, result, below * _upper_tail(jnp.maximum(-z, 0) / self.left, self.power_left))

    def draw(self, key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Array:
        """Independent draws of z."""
        side_key, left_key, right_key = jax.random.split(key, 3)
        up = self.right * _draw_side(right_key, shape, self.power_right, dtype)
        if self.left is None:
            return up
        down = self.left * _draw_side(left_key, shape, self.power_left, dtype)
        return jnp.where(jax.random.uniform(side_key, shape, dtype) < self.shares()[0], -down, up)

    def _masses(self) -> tuple[Any, Any]:
        """The integrals of the two unnormalized sides."""
        below = 0.0 if self.left is None else self.left * half_moment(self.power_left, 1)
        return below, self.right * half_moment(self.power_right, 1)

    def _side_means(self) -> tuple[Any, Any]:
        """The mean distances from zero on either side."""
        down = 0.0 if self.left is None else self.left * _side_mean(self.power_left)
        return down, self.right * _side_mean(self.power_right)


def raised(size: Float[Array, "*s"], power: Any) -> Float[Array, "*s"]:
    """``size ** power`` of nonnegative numbers, with finite derivatives at zero."""
    if isinstance(power, float) and power == 1:
        return size
    positive = size > 0
    return jnp.where(positive, jnp.where(positive, size, jnp.ones_like(size)) ** power, jnp.zeros_like(size))


def half_moment(power: Any, order: int) -> Any:
    r"""$\int_0^\infty z^{m-1} \exp(-z^p) dz = \Gamma(m/p) / p$ for order m."""
    if isinstance(power, float):
        return math.gamma(order / power) / power
    return jnp.exp(gammaln(order / power)) / power


def _side_mean(power: Any) -> Any:
    return half_moment(power, 2) / half_moment(power, 1)


def _side_variance(power: Any) -> Any:
    return half_moment(power, 3) / half_moment(power, 1) - _side_mean(power) ** 2


def _upper_tail(size: Array, power: Any) -> Array:
    """The probability beyond ``size`` under the density proportional to exp(-z^p), z > 0."""
    if isinstance(power, float) and power == 1:
        return jnp.exp(-size)
    return gammaincc(jnp.broadcast_to(1 / power, size.shape), raised(size, power))


def _draw_side(key: Key[Array, ""], shape: tuple[int, ...], power: Any, dtype: Any) -> Array:
    """Draws from the density proportional to exp(-z^p), z > 0: z^p has a gamma law."""
    if isinstance(power, float) and power == 1:
        return jax.random.exponential(key, shape, dtype)
    inverse = jnp.broadcast_to(1 / power, shape)
    return jnp.exp(jax.random.loggamma(key, inverse, shape, dtype) * inverse)


class AbstractTwoSidedShape(AbstractShape):
    """A two-sided law as the standard shape of a product form."""

    @abc.abstractmethod
    def _law(self) -> TwoSided:
        """The law, elementwise."""

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        return self._law().log_density(z)

    def _knots(self) -> Float[Array, " q"]:
        return jnp.array([0.0, jnp.inf] if self._law().left is None else [-jnp.inf, 0.0, jnp.inf])

    def _mean(self) -> Float[Array, ""]:
        return jnp.asarray(self._law().mean())

    def _variance(self) -> Float[Array, ""]:
        return jnp.asarray(self._law().variance())


class LaplaceShape(AbstractTwoSidedShape):
    """The Laplace law with density exp(-|z|) / 2."""

    def _law(self) -> TwoSided:
        return TwoSided(1.0, 1.0, 1.0, 1.0)


class ExponentialShape(AbstractTwoSidedShape):
    """The exponential law with density exp(-z), z >= 0."""

    def _law(self) -> TwoSided:
        return TwoSided(None, 1.0, 1.0, 1.0)


class ExponentialPowerShape(AbstractTwoSidedShape):
    """A two-sided law whose scales have geometric mean one.

    Attributes:
        left: Scales below zero, shape ``[K, d]``.
        right: Scales above zero, shape ``[K, d]``.
        power_left: Powers below zero, shape ``[K, d]``.
        power_right: Powers above zero, shape ``[K, d]``.
    """

    left: Float[Array, "*s"]
    right: Float[Array, "*s"]
    power_left: Float[Array, "*s"]
    power_right: Float[Array, "*s"]

    def _law(self) -> TwoSided:
        return TwoSided(self.left, self.right, self.power_left, self.power_right)


def product_form(loc: Float[Array, "K d"], law: TwoSided) -> ProductForm:
    """Locations, geometric means of the two scales, and the laws relative to them; all ones where they are equal."""
    left, right = jnp.sqrt(law.left / law.right), jnp.sqrt(law.right / law.left)
    powers = [jnp.broadcast_to(jnp.asarray(power, loc.dtype), loc.shape) for power in (law.power_left, law.power_right)]
    return ProductForm(loc, law.right * left, ExponentialPowerShape(left, right, powers[0], powers[1]))


class LocationLaw(dist.Distribution):
    """The law of ``loc + scale * z`` with z of a two-sided shape, for NumPyro.

    The support is stated as the whole line also where the density vanishes below ``loc``, because NumPyro's mixtures
    take no support that depends on parameters.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    pytree_data_fields = ("shape_of_z",)
    support: Any = constraints.real

    def __init__(
        self,
        loc: Float[Array, "*s"],
        scale: Float[Array, "*s"],
        shape_of_z: AbstractTwoSidedShape,
        *,
        validate_args: bool | None = None,
    ) -> None:
        """Locations and scales of one shape, and the standard laws."""
        self.loc, self.scale, self.shape_of_z = loc, scale, shape_of_z
        super().__init__(batch_shape=loc.shape, validate_args=validate_args)

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        shape = sample_shape + self.batch_shape
        return self.loc + self.scale * self.shape_of_z._law().draw(key, shape, self.loc.dtype)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        return self.shape_of_z._law().log_density((value - self.loc) / self.scale) - jnp.log(self.scale)

    def cdf(self, value: Any) -> Array:
        return self.shape_of_z._law().cdf((value - self.loc) / self.scale)

    @property
    def mean(self) -> Array:
        return self.loc + self.scale * self.shape_of_z._law().mean()

    @property
    def variance(self) -> Array:
        return self.scale**2 * self.shape_of_z._law().variance()
