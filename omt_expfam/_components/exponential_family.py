"""Exponential families: what their components add to the interface, and the way between their parameters."""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_points
from .._base.arrays import at_top, is_traced
from .._base.buckets import cut, pad, point_bucket
from .._base.precision import in_float64, narrow
from .._base.results import ConvergenceError
from .._base.xla import program
from .._numerics.newton import solve_dual
from .interface import AbstractComponents, each


class AbstractExponentialFamily(AbstractComponents):
    r"""Components with density $h(x) \exp(\eta \cdot T(x) - A(\eta))$.

    Families whose natural parameters fill an open set are regular (`AbstractRegularFamily`); a *curved* family, such
    as `LowRankGaussian`, restricts them to a surface.
    """

    @abc.abstractmethod
    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        """The sufficient statistics T(x) of one point."""

    @abc.abstractmethod
    def _natural_parameters(self) -> Float[Array, " m"]:
        """The natural parameters of one component."""

    @abc.abstractmethod
    def _mean_parameters(self) -> Float[Array, " m"]:
        """The expected sufficient statistics of one component, the gradient of the log-partition."""

    @abc.abstractmethod
    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        """The log-partition A of one vector of natural parameters."""

    def _log_base_measure(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """The log base measure log h(x) of one point; zero unless a family says otherwise."""
        return jnp.zeros((), x.dtype)

    @abc.abstractmethod
    def _kl_divergence(self, other: "AbstractExponentialFamily") -> Float[Array, ""]:
        """KL(self || other) of one component against one component."""

    @abc.abstractmethod
    def _entropy(self) -> Float[Array, ""]:
        """The differential entropy of one component."""

    def natural_parameters(self) -> Float[Array, "K m"]:
        """The natural parameters eta."""
        return each("_natural_parameters", self)

    def mean_parameters(self) -> Float[Array, "K m"]:
        """The mean parameters, the expected sufficient statistics."""
        return each("_mean_parameters", self)

    def sufficient_statistics(self, x: ArrayLike) -> Float[Array, "n m"]:
        """The sufficient statistics T(x) of points ``x[n, d]``."""
        points = as_points("x", x, self.dim, self.dtype)
        if not at_top(self, points):
            return _sufficient_statistics(self, points)
        num = points.shape[0]
        return cut(_sufficient_statistics(self.padded(self.dim), pad(points, point_bucket(num))), num)

    def log_partition(self, natural_parameters: Float[Array, "K m"] | None = None) -> Float[Array, " K"]:
        """The log-partition A, at the components' own natural parameters unless others are given."""
        if natural_parameters is None:
            return each("_own_log_partition", self)
        return each("_log_partition", self, natural_parameters)

    def kl_divergence(self, other: "AbstractExponentialFamily") -> Float[Array, " K"]:
        """KL(self_k || other_k) for each k, in nats.

        Raises:
            TypeError: If ``other`` is of another family.
            ValueError: If the numbers of components or the dimensions differ.
        """
        if type(other) is not type(self):
            raise TypeError(f"`other` must be {type(self).__name__} components; got {type(other).__name__}.")
        ours, theirs = (self.num_components, self.dim), (other.num_components, other.dim)
        if ours != theirs:
            raise ValueError(f"`other` must have (num_components, dim) = {ours}; got {theirs}.")
        return each("_kl_divergence", self, other)

    def _own_log_partition(self) -> Float[Array, ""]:
        return self._log_partition(self._natural_parameters())

    def entropy(self) -> Float[Array, " K"]:
        """The differential entropies, in nats."""
        return each("_entropy", self)


@program
def _sufficient_statistics(components: AbstractExponentialFamily, x: Float[Array, "n d"]) -> Float[Array, "n m"]:
    return jax.vmap(lambda point: components._sufficient_statistics(point))(x)


class AbstractRegularFamily(AbstractExponentialFamily):
    """An exponential family whose parameters may be any natural parameters with a finite log-partition."""

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "AbstractRegularFamily":
        """Components with the given expected statistics (and the fixed parameters of ``self``).

        Found from those of ``self`` by Newton's method, in float64 where the values are concrete, unless the family
        has a closed form. Under tracing, components that are not found are NaN.

        Raises:
            ConvergenceError: If no natural parameters have the given mean parameters.
        """
        if is_traced(self, mean_parameters):
            return self.with_natural_parameters(natural_from_mean(self, mean_parameters))
        eta = in_float64(natural_from_mean, self, mean_parameters)
        missed = np.flatnonzero(np.isnan(np.asarray(eta)).any(axis=1))
        if missed.size:
            raise ConvergenceError(
                f"`mean_parameters` must be expected statistics of {type(self).__name__}; no component was found with "
                f"those at index {missed[0]}. Check that they lie inside the range of the statistics."
            )
        return self.with_natural_parameters(narrow(eta, self.dtype))

    def _mean_parameters(self) -> Float[Array, " m"]:
        return jax.grad(self._log_partition)(self._natural_parameters())

    def _negative_dual(self) -> Float[Array, ""]:
        """A(eta) - eta . mu of one component: its entropy, up to the expected log base measure."""
        eta = self._natural_parameters()
        value, mean_parameters = jax.value_and_grad(self._log_partition)(eta)
        return value - jnp.sum(eta * mean_parameters)

    def _kl_divergence(self, other: "AbstractRegularFamily") -> Float[Array, ""]:
        """The Bregman divergence of the log-partition."""
        own, theirs = self._natural_parameters(), other._natural_parameters()
        gap = self._log_partition(theirs) - self._log_partition(own)
        return gap - jnp.sum((theirs - own) * self._mean_parameters())

    def _solve_dual(self, mean_parameters: Float[Array, " m"]) -> Float[Array, " m"]:
        """The natural parameters of one component with the given mean parameters, from its own; NaN if not found."""
        return solve_dual(self._log_partition, mean_parameters, self._natural_parameters())[0]

    @abc.abstractmethod
    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "AbstractRegularFamily":
        """Components with the given natural parameters (and the fixed parameters of ``self``)."""


@program
def natural_from_mean(components: AbstractRegularFamily, mean_parameters: Float[Array, "K m"]) -> Float[Array, "K m"]:
    """Natural parameters with the given mean parameters, NaN where none are found."""
    return jax.vmap(lambda c, mu: c._solve_dual(mu))(components, mean_parameters)
