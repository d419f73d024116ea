"""What a family adds to its components so that expectation-maximization can fit it."""

import abc
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._base.xla import unfused
from .._components.exponential_family import AbstractRegularFamily
from .._components.interface import AbstractComponents, map_components
from .._components.sizes import SizedPoints
from .bayesian import AbstractPriors, StatisticsPriors


class AbstractEMFamily(AbstractComponents):
    """Components that EM can fit: what the E-step needs of the data, sums that add over chunks, and the M-step.

    A family writes `_blank`, `_accumulate` and `_maximize`; a `_prepare` where the E-step needs more than the points;
    and the penalty, `_log_prior` with its target `_pooled`, where its M-step has one. The rest are options. All
    methods work on K components at once, with the component axis first and the points last.
    """

    # How the data may be rescaled before fitting: shifted and scaled, each coordinate by itself or all by one factor;
    # scaled only, each coordinate by itself; or not at all. All but the last need `_affine`.
    standardization: ClassVar[Literal["coordinate", "scalar", "scale", "none"]] = "none"
    # Whether the M-step can do with sums over chunks of the data; otherwise it is given all points at once.
    streams: ClassVar[bool] = True
    # Whether components have points far away: these are drawn in while a start is sought, or it would be theirs.
    heavy_tails: ClassVar[bool] = False
    # How many times log-densities are continuously differentiable in the parameters: 2 (or more), 1 where they have
    # kinks, 0 where they jump, so that no gradient can be followed.
    smoothness: ClassVar[Literal[0, 1, 2]] = 2
    # The Bayesian part: default priors and conjugate draws.
    priors: ClassVar[AbstractPriors | None] = None

    # -- what a family implements ------------------------------------------------------------------------------

    @classmethod
    @abc.abstractmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "AbstractEMFamily":
        """Any valid components: they carry the fixed parameters into the first M-step."""

    def _prepare(self, x: Float[Array, "d n"]) -> PyTree:
        """What the E-step and the sums need of the data; computed once where memory allows. The points, by default.

        In float64 log-densities may be computed as eta . T(x) - A(eta); in float32 points must be centered first.
        """
        return x

    @abc.abstractmethod
    def _accumulate(self, data: PyTree, responsibilities: Float[Array, "K n"]) -> PyTree:
        """Sums over points, all that the M-step needs; sums of two chunks add up."""

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

    def _log_prior(self, target: PyTree, strength: Float[Array, ""]) -> Float[Array, " K"]:
        """The penalty whose mode the M-step finds, per component; none by default."""
        return jnp.zeros(self.num_components, self.dtype)

    # -- options -----------------------------------------------------------------------------------------------

    def _pooled(self, counts: Float[Array, " K"], sums: PyTree) -> PyTree:
        """The target of the penalty, such as the within-component spread, pooled over components."""
        return ()

    def _prior_strength(self) -> float:
        """The default number of pseudo-observations behind the penalty."""
        return 3.0

    def _table(self, data: PyTree) -> Float[Array, "K n"]:
        """Log-densities of every component at every point; ``data`` are the points, or have them as ``x``."""
        if isinstance(data, SizedPoints):
            return self.log_prob_rows(data.x.T, data.sizes)
        points = getattr(data, "x", data)
        return map_components(lambda c: jax.vmap(c._log_prob, in_axes=1)(points), self, points.size)

    def _fixed(self) -> dict[str, Any]:
        """The fixed parameters that `_blank` takes; none unless a family says otherwise."""
        return {}

    def _num_parameters(self) -> int:
        """The number of free parameters of one component; all numbers in it unless a family says otherwise."""
        return sum(leaf.size for leaf in jax.tree.leaves(self)) // self.num_components

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "AbstractEMFamily":
        """The law of ``shift + scale * x``, for a family with a `standardization`."""
        if self.standardization != "none":
            raise NotImplementedError(f'{type(self).__name__} needs `_affine`, or `standardization` "none".')
        return self

    def _seeding(self, num_components: int) -> "AbstractRegularEMFamily | None":
        """Blank components of the regular family in which a start is sought by merging; ``None`` for Gaussians."""
        return None

    @classmethod
    def column_families(cls, dim: int) -> tuple[tuple[type["AbstractEMFamily"], np.ndarray], ...]:
        """Which columns of points are of which family: all of this one, unless it has several kinds of columns."""
        return ((cls, np.arange(dim)),)

    @classmethod
    def _read_fixed(cls, fixed: dict[str, Any]) -> dict[str, Any]:
        """Fixed parameters as `_blank` takes them, of those that a user gives; raises where they are wrong."""
        return fixed

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        """Raise ValueError if points ``x[n, d]`` in the support cannot be fitted; nothing to check by default."""

    def _verify(self) -> None:
        """Raise ValueError if (concrete) components are not what their family says; nothing to check by default."""

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "AbstractEMFamily":
        """The first M-step, on `_blank` components: one pseudo-observation keeps empty components valid."""
        counts = jnp.sum(responsibilities, axis=1)
        sums = self._accumulate(self._prepare(x), responsibilities)
        return self._maximize(counts, sums, self._pooled(counts, sums), jnp.ones((), x.dtype), ridge)


class AbstractRegularEMFamily(AbstractRegularFamily, AbstractEMFamily):
    r"""A regular exponential family that EM can fit, and whose components can be merged.

    Everything but `_blank` follows from the exponential family. Log-densities are
    $\eta \cdot T(x) - A(\eta) + \log h(x)$, sums are those of T, and the M-step solves
    $\nabla A(\eta) = (\sum_n r_n T(x_n) + \theta \bar T) / (n + \theta)$, with $\theta$ pseudo-observations of the mean
    statistics $\bar T$ of all data (Diaconis and Ylvisaker, 1979). The ridge is the share of $\bar T$ that is mixed in
    besides: what adding it to variances is for standardized Gaussian data.
    """

    priors: ClassVar = StatisticsPriors()

    def _seeding(self, num_components: int) -> "AbstractRegularEMFamily":
        blank = type(self)._blank(num_components, self.dim, self.dtype, **self._fixed())
        assert isinstance(blank, AbstractRegularEMFamily)
        return blank

    def _num_parameters(self) -> int:
        return jax.eval_shape(lambda: self.natural_parameters()).shape[1]

    def _prior_strength(self) -> float:
        return 0.01

    def _prepare(self, x: Float[Array, "d n"]) -> "Statistics":
        return Statistics(
            jax.vmap(self._sufficient_statistics, in_axes=1, out_axes=1)(x),
            jax.vmap(self._log_base_measure, in_axes=1)(x),
            None if x.dtype == jnp.float64 else x,
        )

    def _table(self, data: "Statistics") -> Float[Array, "K n"]:
        if data.x is not None:
            return super()._table(data)
        eta = self.natural_parameters()
        return unfused(eta @ data.statistics) - self.log_partition(eta)[:, None] + data.log_base[None]

    def _accumulate(self, data: "Statistics", responsibilities: Float[Array, "K n"]) -> Float[Array, "K m"]:
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


class Statistics(NamedTuple):
    """Sufficient statistics and log base measure of points, and the points where densities need them (float32)."""

    statistics: Float[Array, "m n"]
    log_base: Float[Array, " n"]
    x: Float[Array, "d n"] | None


def verify(components: Any) -> None:
    """Raise ValueError if fitted components are not what their family says."""
    components._verify()


def joint_table(log_weights: Float[Array, " K"], components: AbstractEMFamily, data: PyTree) -> Float[Array, "K n"]:
    """Log-densities plus log-weights; ``-inf`` for components without weight, whatever their parameters."""
    table = components._table(data) + log_weights[:, None]
    return jnp.where(jnp.isneginf(log_weights)[:, None], -jnp.inf, table)
