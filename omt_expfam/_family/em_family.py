"""What a family adds to its components so that expectation-maximization can fit it."""

import abc
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key, PyTree
from numpyro.distributions import constraints

from .._base.xla import unfused
from .._components.exponential_family import AbstractRegularFamily
from .._components.interface import AbstractComponents, map_components
from .._numerics.support import Constraint
from .priors import ConjugatePrior, mean_statistics


class AbstractEMFamily(AbstractComponents):
    """Components that EM can fit: the E-step table, sums that add over chunks of data, and the M-step.

    All methods work on K components at once, with the component axis first and the points last.
    """

    # How the data may be rescaled before fitting: shifted and scaled, each coordinate by itself or all by one factor;
    # scaled only, each coordinate by itself; or not at all.
    standardization: ClassVar[Literal["coordinate", "scalar", "scale", "none"]] = "coordinate"
    # Where every coordinate of every point must lie.
    support: ClassVar[Constraint] = constraints.real
    # Whether the M-step can do with sums over chunks of the data; otherwise it is given all points at once.
    streams: ClassVar[bool] = True
    # How many times log-densities are continuously differentiable in the parameters: 2 (or more), 1 where they have
    # kinks, 0 where they jump, so that no gradient can be followed.
    smoothness: ClassVar[Literal[0, 1, 2]] = 2

    @classmethod
    @abc.abstractmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AbstractEMFamily":
        """Any valid components: they carry the fixed parameters into the first M-step."""

    def _fixed(self) -> dict[str, Any]:
        """The fixed parameters that `_blank` takes; none unless a family says otherwise."""
        return {}

    @abc.abstractmethod
    def _seeding(self, num_components: int) -> "AbstractRegularEMFamily":
        """Blank components of the regular family in which a start is sought by merging."""

    @abc.abstractmethod
    def _num_parameters(self) -> int:
        """The number of free parameters of one component."""

    @abc.abstractmethod
    def _prior_strength(self) -> float:
        """The default number of pseudo-observations behind the covariance prior."""

    @abc.abstractmethod
    def _prepare(self, x: Float[Array, "d n"], natural: bool) -> PyTree:
        """What the E-step and the sums need of the data; computed once where memory allows."""

    @abc.abstractmethod
    def _table(self, data: PyTree, natural: bool) -> Float[Array, "K n"]:
        """Log-densities of every component at every point."""

    @abc.abstractmethod
    def _accumulate(self, data: PyTree, responsibilities: Float[Array, "K n"], natural: bool) -> PyTree:
        """Sums over points, all that the M-step needs; sums of two chunks add up."""

    @abc.abstractmethod
    def _pooled(self, counts: Float[Array, " K"], sums: PyTree) -> PyTree:
        """The target of the prior: the within-component spread, pooled over components."""

    @abc.abstractmethod
    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: PyTree,
        target: PyTree,
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractEMFamily":
        """The M-step, with ``strength`` pseudo-observations of spread ``target`` and ``ridge`` on the variances."""

    @abc.abstractmethod
    def _log_prior(self, target: PyTree, strength: Float[Array, ""]) -> Float[Array, " K"]:
        """The penalty whose mode the M-step finds, per component."""

    @abc.abstractmethod
    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractEMFamily":
        """The law of ``shift + scale * x``."""

    def _priors(self, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        """Weakly informative priors on the scale of the data for the free parameters of one component, by name.

        Each is a distribution with batch shape ``()`` and the event shape of the parameter; its support says what
        values the parameter may have. A name is that of a field unless `_parameters` says otherwise.
        """
        raise NotImplementedError(f"{type(self).__name__} has no default priors; write `_priors`, or give `priors`.")

    def _parameters(self, names: tuple[str, ...]) -> dict[str, Array]:
        """The free parameters of K components, by the names that `_priors` uses."""
        return {name: getattr(self, name) for name in names}

    def _with_parameters(self, parameters: dict[str, Array]) -> "AbstractEMFamily":
        """The same components with other free parameters."""
        names = tuple(parameters)
        return eqx.tree_at(lambda c: [getattr(c, name) for name in names], self, [parameters[n] for n in names])

    def _conjugate(self, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]) -> PyTree | None:
        """The hyperparameters of conjugate priors, as `_conjugate_step` takes them; ``None`` for a family without.

        Points are given less ``origin``, which is zero unless the family's `standardization` shifts points.

        Raises:
            TypeError: If a prior is not conjugate.
        """
        return None

    def _conjugate_step(
        self, key: Key[Array, ""], counts: Float[Array, " K"], sums: PyTree, hyper: PyTree
    ) -> "AbstractEMFamily":
        """Components whose parameters are drawn, one after the other, from their laws given all else."""
        raise NotImplementedError(f"{type(self).__name__} has no conjugate step.")

    def _verify(self) -> None:
        """Raise ValueError if (concrete) components are not what their family says; nothing to check by default."""

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "AbstractEMFamily":
        """The first M-step, on `_blank` components: one pseudo-observation keeps empty components valid."""
        data = self._prepare(x, natural=False)
        counts = jnp.sum(responsibilities, axis=1)
        sums = self._accumulate(data, responsibilities, natural=False)
        return self._maximize(counts, sums, self._pooled(counts, sums), jnp.ones((), x.dtype), ridge)


class AbstractRegularEMFamily(AbstractRegularFamily, AbstractEMFamily):
    r"""A regular exponential family that EM can fit, and whose components can be merged.

    Everything but `_blank` follows from the exponential family. Log-densities are
    $\eta \cdot T(x) - A(\eta) + \log h(x)$, sums are those of T, and the M-step solves
    $\nabla A(\eta) = (\sum_n r_n T(x_n) + \theta \bar T) / (n + \theta)$, with $\theta$ pseudo-observations of the mean
    statistics $\bar T$ of all data (Diaconis and Ylvisaker, 1979). The ridge is the share of $\bar T$ that is mixed in
    besides: what adding it to variances is for standardized Gaussian data.
    """

    standardization: ClassVar = "none"

    def _seeding(self, num_components: int) -> "AbstractRegularEMFamily":
        blank = type(self)._blank(num_components, self.dim, self.dtype, **self._fixed())
        assert isinstance(blank, AbstractRegularEMFamily)
        return blank

    def _num_parameters(self) -> int:
        return jax.eval_shape(lambda: self.natural_parameters()).shape[1]

    def _prior_strength(self) -> float:
        return 0.01

    def _priors(self, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        """One pseudo-observation with the mean statistics of all data."""
        component = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), self)
        return {"natural_parameters": ConjugatePrior(component, mean_statistics(self, x))}

    def _parameters(self, names: tuple[str, ...]) -> dict[str, Array]:
        """The natural parameters, where the priors are on them."""
        return {n: self.natural_parameters() if n == "natural_parameters" else getattr(self, n) for n in names}

    def _with_parameters(self, parameters: dict[str, Array]) -> "AbstractEMFamily":
        if "natural_parameters" not in parameters:
            return super()._with_parameters(parameters)
        components = self.with_natural_parameters(parameters["natural_parameters"])
        assert isinstance(components, AbstractEMFamily)
        return components

    def _prepare(self, x: Float[Array, "d n"], natural: bool) -> "Statistics":
        return Statistics(
            jax.vmap(self._sufficient_statistics, in_axes=1, out_axes=1)(x),
            jax.vmap(self._log_base_measure, in_axes=1)(x),
            None if natural else x,
        )

    def _table(self, data: "Statistics", natural: bool) -> Float[Array, "K n"]:
        if data.points is not None:
            points = data.points
            return map_components(lambda c: jax.vmap(c._log_prob, in_axes=1)(points), self, points.size)
        eta = self.natural_parameters()
        return unfused(eta @ data.statistics) - self.log_partition(eta)[:, None] + data.log_base[None]

    def _accumulate(
        self, data: "Statistics", responsibilities: Float[Array, "K n"], natural: bool
    ) -> Float[Array, "K m"]:
        return responsibilities @ data.statistics.T

    def _pooled(self, counts: Float[Array, " K"], sums: Float[Array, "K m"]) -> Float[Array, " m"]:
        return jnp.sum(sums, axis=0) / jnp.sum(counts)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: Float[Array, "K m"],
        target: Float[Array, " m"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "AbstractRegularEMFamily":
        total = (counts + strength)[:, None]
        mean = (sums + strength * target[None]) / jnp.where(total > 0, total, jnp.ones_like(total))
        # A component without any point, real or pseudo, gets the target.
        share = jnp.where(total > 0, jnp.broadcast_to(ridge, total.shape), jnp.ones_like(total))
        components = self.with_mean_parameters((1 - share) * mean + share * target[None])
        assert isinstance(components, AbstractRegularEMFamily)
        return components

    def _log_prior(self, target: Float[Array, " m"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        r"""$\theta (\eta \cdot \bar T - A(\eta))$, the log-likelihood of the pseudo-observations."""
        eta = self.natural_parameters()
        return strength * (eta @ target - self.log_partition(eta))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractRegularEMFamily":
        """The components themselves: `standardization` is "none" unless a family can do better."""
        return self


class Statistics(NamedTuple):
    """Sufficient statistics and log base measure of points, and the points where densities need them (float32)."""

    statistics: Float[Array, "m n"]
    log_base: Float[Array, " n"]
    points: Float[Array, "d n"] | None


def verify(components: Any) -> None:
    """Raise ValueError if fitted components are not what their family says."""
    components._verify()


def joint_table(
    log_weights: Float[Array, " K"], components: AbstractEMFamily, data: PyTree, natural: bool
) -> Float[Array, "K n"]:
    """Log-densities plus log-weights; ``-inf`` for components without weight, whatever their parameters."""
    table = components._table(data, natural) + log_weights[:, None]
    return jnp.where(jnp.isneginf(log_weights)[:, None], -jnp.inf, table)
