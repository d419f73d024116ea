"""Exponential families with independent coordinates, defined by the law of one coordinate."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._base.arguments import as_floating
from .._base.arrays import is_traced
from .._base.precision import in_float64
from .._base.xla import program
from .._components.circle_form import AbstractCircle
from .._components.lattice_form import AbstractLattice
from .._components.product_form import AbstractShape, ProductForm
from .._numerics.circle import circle_sum, CircleSum, is_circle, wrap
from .._numerics.lattice_sum import lattice_sum, LatticeSum
from .._numerics.newton import solve_dual
from .._numerics.quadrature import Quadrature, quadrature
from .._numerics.support import Constraint, ends
from .em_family import AbstractRegularEMFamily

# A density must integrate to one within this, and so many laws are integrated at a time, and at most.
_MASS_TOLERANCE, _BLOCK, _MOST = 1e-6, 32, 512


class AbstractCoordinateFamily(AbstractRegularEMFamily):
    r"""Components with independent coordinates, each an exponential family on an interval, lattice or circle.

    The density of a coordinate is $h(x) \exp(\eta \cdot T(x) - A(\eta))$. What is not given in closed form is
    integrated, or summed, numerically: the log-partition, moments, entropy and draws.
    """

    # Numbers inside the support where the density is not smooth.
    knots: ClassVar[tuple[float, ...]] = ()

    # -- the law of one coordinate --------------------------------------------------------------------------------

    @abc.abstractmethod
    def _statistics(self, x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
        """The sufficient statistics of one number, a tuple of m scalars."""

    def _log_base(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """The log base measure log h(x) of one number; zero unless a family says otherwise."""
        return jnp.zeros_like(x)

    def _log_normalizer(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        """The log-partition of one coordinate, not finite outside its domain; integrated unless a family knows it."""
        return _integrated_normalizer(_law(self), eta)

    def _coordinate_affine(
        self, eta: Float[Array, " m"], shift: Float[Array, ""], scale: Float[Array, ""]
    ) -> Float[Array, " m"]:
        """The natural parameters of the law of ``shift + scale * x``, for a family with a `standardization`."""
        raise NotImplementedError(f'{type(self).__name__} needs `_coordinate_affine`, or `standardization` "none".')

    # -- components -----------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _natural(self) -> Float[Array, "d m"]:
        """The natural parameters of one component."""

    @abc.abstractmethod
    def _with_natural(self, natural: Float[Array, "K d m"]) -> "AbstractCoordinateFamily":
        """Components with the given natural parameters."""

    # -- densities, draws and moments -----------------------------------------------------------------------------

    def _unnormalized(self, eta: Float[Array, " m"], x: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.sum(eta * jnp.stack(self._statistics(x))) + self._log_base(x)

    def _quadrature(self, eta: Float[Array, " m"]) -> Quadrature | LatticeSum | CircleSum:
        if is_circle(self.support):
            return circle_sum(self._unnormalized, eta)
        if self.support.is_discrete:
            return lattice_sum(self._unnormalized, eta, self.support)
        return quadrature(self._unnormalized, eta, self.support, self.knots)

    def _coordinate_log_prob(self, eta: Float[Array, " m"], x: Float[Array, ""]) -> Float[Array, ""]:
        if is_circle(self.support):
            return self._unnormalized(eta, wrap(x)) - self._log_normalizer(eta)
        inside = self.support(x)
        safe = jnp.where(inside, x, jnp.full_like(x, _interior(self.support)))
        return jnp.where(inside, self._unnormalized(eta, safe) - self._log_normalizer(eta), -jnp.inf)

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(self._coordinate_log_prob)(self._natural(), x))

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        return _draw(_law(self), self._natural(), jax.random.uniform(key, (self.dim,), self.dtype))

    def _mean(self) -> Float[Array, " d"]:
        return _integrals(_law(self), self._natural())[0]

    def _variance(self) -> Float[Array, " d"]:
        """The variances of the coordinates of one component."""
        return _integrals(_law(self), self._natural())[1]

    def _covariance(self) -> Float[Array, "d d"]:
        return jnp.diag(self._variance())

    # -- the exponential-family view ------------------------------------------------------------------------------

    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        return jax.vmap(lambda v: jnp.stack(self._statistics(v)))(x).ravel()

    def _natural_parameters(self) -> Float[Array, " m"]:
        return self._natural().ravel()

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(self._log_normalizer)(eta.reshape(self.dim, -1)))

    def _log_base_measure(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(self._log_base)(x))

    def _entropy(self) -> Float[Array, ""]:
        """A(eta) - eta . mu - E[log h]."""
        return self._negative_dual() - jnp.sum(_integrals(_law(self), self._natural())[2])

    def _solve_dual(self, mean_parameters: Float[Array, " m"]) -> Float[Array, " m"]:
        """Coordinate by coordinate: the Hessian of the log-partition has one block for each."""
        own = self._natural()

        def one(mu: Array, eta: Array) -> Array:
            return solve_dual(self._log_normalizer, mu, eta)[0]

        return jax.vmap(one)(mean_parameters.reshape(own.shape), own).ravel()

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "AbstractCoordinateFamily":
        return self._with_natural(natural_parameters.reshape(natural_parameters.shape[0], self.dim, -1))

    # -- transport, EM --------------------------------------------------------------------------------------------

    def product_form(self) -> ProductForm | None:
        if self.support.is_discrete or is_circle(self.support):
            return None
        natural = jax.vmap(lambda c: c._natural())(self)
        zero = jnp.zeros(natural.shape[:2], natural.dtype)
        return ProductForm(zero, jnp.ones_like(zero), CoordinateShape(natural, _law(self)))

    def lattice_form(self) -> AbstractLattice | None:
        if not self.support.is_discrete:
            return None
        return CoordinateLattice(jax.vmap(lambda c: c._natural())(self), _law(self))

    def circle_form(self) -> AbstractCircle | None:
        if not is_circle(self.support):
            return None
        return CoordinateCircle(jax.vmap(lambda c: c._natural())(self), _law(self))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractCoordinateFamily":
        if self.standardization == "none":
            return self
        natural = jax.vmap(lambda c: jax.vmap(self._coordinate_affine)(c._natural(), shift, scale))(self)
        return self._with_natural(natural)


class AbstractFactorizedFamily(AbstractCoordinateFamily):
    r"""An exponential family of your own with independent coordinates, from the law of one coordinate.

    A subclass says where a coordinate lives, what its sufficient statistics are, and which natural parameters a fit may
    start from; a log base measure and a log-partition in closed form are optional:

        class Weibull(omt.extend.AbstractFactorizedFamily):
            support, start = constraints.positive, (-1.0,)

            def _statistics(self, x):
                return (x**3,)

            def _log_base(self, x):
                return 2 * jnp.log(x)

            def _log_normalizer(self, eta):
                return -jnp.log(-3 * eta[0])

    Attributes:
        natural: Natural parameters, shape ``[K, d, m]``.
    """

    natural: Float[Array, "K d m"] = eqx.field(converter=lambda value: as_floating("natural", value, "K d m"))

    # Any natural parameters with a normalizable density, a tuple of m numbers.
    start: ClassVar[tuple[float, ...]]

    def __check_init__(self) -> None:
        if self.natural.shape[-1] != _num_statistics(type(self)):
            raise ValueError(
                f"`natural` must have shape [K, d, {len(self.start)}], one entry per statistic; "
                f"got shape {self.natural.shape}."
            )
        _check_statistics(self)
        self._verify()

    @property
    def dim(self) -> int:
        return self.natural.shape[-2]

    def _natural(self) -> Float[Array, "d m"]:
        return self.natural

    def _with_natural(self, natural: Float[Array, "K d m"]) -> "AbstractFactorizedFamily":
        return dataclasses.replace(self, natural=natural)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AbstractFactorizedFamily":
        natural = np.broadcast_to(np.asarray(cls.start, dtype), (num_components, dim, _num_statistics(cls)))
        return cls(natural, **fixed)

    def _fixed(self) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(self) if field.name != "natural"]
        return {name: getattr(self, name) for name in names}

    def _verify(self) -> None:
        """Raise ValueError unless every density can be normalized and integrates to one."""
        if is_traced(self.natural):
            return
        laws = np.unique(np.asarray(self.natural, np.float64).reshape(-1, len(self.start)), axis=0)
        laws = laws[:: -(-len(laws) // _MOST)]
        for first in range(0, len(laws), _BLOCK):
            block = laws[first : first + _BLOCK]
            padded = np.concatenate([block, np.repeat(block[:1], _BLOCK - len(block), axis=0)])
            normalizers, gaps, roundings = (np.asarray(v) for v in in_float64(_mass_gaps, _law(self), padded))
            for eta, normalizer, gap, rounding in zip(block, normalizers, gaps, roundings, strict=False):
                where = f"at natural parameters {np.array2string(eta, precision=6)}"
                if not np.isfinite(normalizer):
                    raise ValueError(
                        f"`natural` must give densities that can be normalized; {type(self).__name__} has none {where}."
                    )
                if not abs(gap) <= _MASS_TOLERANCE + rounding:
                    raise ValueError(
                        f"The density of {type(self).__name__} integrates to {np.exp(gap):.6g} and not to 1 {where}. "
                        "Correct `_log_normalizer`, or leave it out to have it integrated."
                    )


def _num_statistics(family: type[AbstractFactorizedFamily]) -> int:
    """The number of natural parameters that a fit may start from."""
    if not isinstance(family.start, tuple) or not np.issubdtype(np.asarray(family.start).dtype, np.number):
        raise TypeError(
            f"`start` of {family.__name__} must be a tuple of numbers, one for each statistic; got {family.start!r}."
        )
    return len(family.start)


def _check_statistics(components: AbstractFactorizedFamily) -> None:
    """Raise unless there is one statistic, a scalar, for each natural parameter."""
    name, num = type(components).__name__, len(components.start)
    point = jax.ShapeDtypeStruct((), components.natural.dtype)
    found = jax.eval_shape(lambda x: _law(components)._statistics(x), point)
    shapes = [leaf.shape for leaf in jax.tree.leaves(found)]
    if not isinstance(found, tuple) or len(found) != num or any(shapes):
        got = f"shapes {shapes}" if isinstance(found, tuple) else "no tuple"
        raise TypeError(
            f"`_statistics(x)` of {name} must return a tuple of {num} scalars, one for each number of `start`; "
            f"got {got}."
        )


def _law(components: AbstractCoordinateFamily) -> Any:
    """A family without its arrays: the law of a coordinate needs only its natural parameters."""
    return jax.tree.map(lambda _: None, components)


@program
def _integrated_normalizer(law: AbstractCoordinateFamily, eta: Float[Array, " m"]) -> Float[Array, ""]:
    return law._quadrature(eta).log_normalizer


@program
def _integrals(law: AbstractCoordinateFamily, natural: Float[Array, "d m"]) -> tuple[Array, Array, Array]:
    """Means, variances and expected log base measures of the coordinates."""

    def one(eta: Float[Array, " m"]) -> tuple[Array, Array, Array]:
        rule = law._quadrature(eta)
        return rule.mean(), rule.variance(), rule.expectation(law._log_base)

    return jax.vmap(one)(natural)


@program
def _draw(
    law: AbstractCoordinateFamily, natural: Float[Array, "d m"], probabilities: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Coordinates with the given probabilities below them."""

    def one(eta: Float[Array, " m"], probability: Float[Array, ""]) -> Float[Array, ""]:
        return law._quadrature(eta).quantile(law._unnormalized, eta, probability)

    return jax.vmap(one)(natural, probabilities)


@program
def _mass_gaps(law: AbstractFactorizedFamily, natural: Float[Array, "b m"]) -> tuple[Array, Array, Array]:
    """Integrated log-normalizers, by how much they exceed the stated ones, and what rounding may do to that."""

    def one(eta: Float[Array, " m"]) -> tuple[Array, Array, Array]:
        rule = law._quadrature(eta)
        size = rule.expectation(lambda x: jnp.sum(jnp.abs(eta * jnp.stack(law._statistics(x)))))
        gap = rule.log_normalizer - law._log_normalizer(eta)
        return rule.log_normalizer, gap, 100 * jnp.finfo(eta.dtype).eps * size

    return jax.vmap(one)(natural)


def _interior(support: Constraint) -> float:
    """Some number inside a support."""
    lower, upper = ends(support)
    if np.isfinite(lower) and np.isfinite(upper):
        return 0.5 * (lower + upper)
    return lower + 1 if np.isfinite(lower) else upper - 1 if np.isfinite(upper) else 0.0


class CoordinateShape(AbstractShape):
    """The laws of the coordinates of a factorized family, as shapes."""

    natural: Float[Array, "K d m"]
    law: AbstractCoordinateFamily

    def _log_density(self, z: Float[Array, ""]) -> Float[Array, ""]:
        return self.law._coordinate_log_prob(self.natural, z)

    def _knots(self) -> Float[Array, " q"]:
        lower, upper = ends(self.law.support)
        return jnp.asarray([lower, *self.law.knots, upper], self.natural.dtype)

    def _mean(self) -> Float[Array, ""]:
        return _integrals(self.law, self.natural[None])[0][0]

    def _variance(self) -> Float[Array, ""]:
        return _integrals(self.law, self.natural[None])[1][0]


class CoordinateCircle(AbstractCircle):
    """The laws of the angles of a factorized family."""

    natural: Float[Array, "K d m"]
    law: AbstractCoordinateFamily

    def _log_density(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return self.law._coordinate_log_prob(self.natural, x)


class CoordinateLattice(AbstractLattice):
    """The laws of the counts of a factorized family."""

    natural: Float[Array, "K d m"]
    law: AbstractCoordinateFamily

    def _log_mass(self, x: Float[Array, ""]) -> Float[Array, ""]:
        return self.law._coordinate_log_prob(self.natural, x)

    def _mean(self) -> Float[Array, ""]:
        return self._one()._mean()[0]

    def _variance(self) -> Float[Array, ""]:
        return self._one()._variance()[0]

    def _one(self) -> AbstractCoordinateFamily:
        """A component of this count alone, whose family may know its moments."""
        return jax.tree.map(lambda leaf: leaf[0], self.law._with_natural(self.natural[None, None]))
