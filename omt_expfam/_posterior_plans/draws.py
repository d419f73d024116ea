"""The plans of all draws: solved together and kept as arrays, or solved one by one and kept as a list."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import is_traced, kept, power_of_two, split_key, stacked, take
from .._base.buckets import cut, pad, point_bucket
from .._base.xla import program
from .._components.draws import draws_at_once
from .._components.mixture import Mixture
from .._couplings.gaussian import GaussianCouplings
from .._couplings.interface import AbstractComponentMaps
from .._plans.epsilons import GIVEN
from .._plans.objective import BlockTrace
from .._plans.plan import TransportPlan
from .._weights.entropic import WeightCoupling

# Collapsed maps of all draws are kept up to this many numbers; beyond, they are computed in every call.
_MAX_KEPT = 2**25


class PlanNumbers(eqx.Module):
    """What a plan adds to its two mixtures; with a leading axis, the same of many plans.

    Attributes:
        costs: Mean squared distance under each component coupling, shape ``[S, K0, K1]``.
        kl: KL of each component coupling against independence, in nats.
        weight_coupling: The coupling of the weights.
        objectives: The objective along the block iteration, units of squared distance.
        result: Why the solves stopped.
    """

    costs: Float[Array, "*S K0 K1"]
    kl: Float[Array, "*S K0 K1"]
    weight_coupling: WeightCoupling
    objectives: Float[Array, "*S steps"]
    result: Any

    @classmethod
    def of(cls, plan: TransportPlan) -> "PlanNumbers":
        """Those of one plan."""
        couplings = plan.couplings
        return cls(couplings.costs, couplings.kl, plan.weight_coupling, plan.trace.objective, plan.result)

    def transpose(self) -> "PlanNumbers":
        """The same read from target to source; for many plans, under ``jax.vmap``."""
        return PlanNumbers(self.costs.T, self.kl.T, self.weight_coupling.transpose(), self.objectives, self.result)


class AbstractPlanDraws(eqx.Module):
    """The plans of all draws, and functions of a plan applied to all of them."""

    numbers: eqx.AbstractVar[PlanNumbers]

    @property
    @abc.abstractmethod
    def source(self) -> Mixture:
        """The source mixture of every draw, stacked."""

    @property
    @abc.abstractmethod
    def target(self) -> Mixture:
        """The target mixture of every draw, stacked."""

    @abc.abstractmethod
    def plan(self, index: int) -> TransportPlan:
        """The plan of one draw."""

    @abc.abstractmethod
    def reverse(self) -> "AbstractPlanDraws":
        """The same plans read from target to source."""

    @abc.abstractmethod
    def map(self, function: Callable[..., Any], each: Any, *points: Float[Array, "n d"]) -> Any:
        """``function(plan, *(entries of each), *points)`` for every draw, stacked; with points, an entry for each."""

    @abc.abstractmethod
    def mean(self, function: Callable[..., Array], *points: Float[Array, "n d"]) -> Array:
        """The mean over draws of ``function(plan, *points)``, an entry for each point, without holding all values."""

    @abc.abstractmethod
    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        """The barycentric map of every draw."""

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """One y for each point, from the conditional law of a random draw."""

    @abc.abstractmethod
    def sample_draws(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        """One y for each point, from the conditional law of every draw."""

    @property
    def num_draws(self) -> int:
        """The number of draws S."""
        return self.numbers.costs.shape[0]


class StackedPlans(AbstractPlanDraws):
    """Plans between Gaussian components, as arrays with a leading axis.

    Attributes:
        numbers: Costs, couplings of the weights and evidence of each plan.
        source_draws: Source mixtures, stacked; each may take part in several plans.
        target_draws: Target mixtures, stacked.
        source_index: The source mixture of each plan, shape ``[S]``.
        target_index: The target mixture of each plan.
        epsilon_components: Regularization of the component couplings, units of squared distance.
        epsilon_weights: Regularization of the weights, same units.
        epsilon_rules: How both were chosen, see `TransportPlan`.
    """

    numbers: PlanNumbers
    source_draws: Mixture
    target_draws: Mixture
    source_index: Int[Array, " S"]
    target_index: Int[Array, " S"]
    epsilon_components: Float[Array, ""]
    epsilon_weights: Float[Array, ""]
    epsilon_rules: tuple[str, str] = eqx.field(static=True, default=(GIVEN, GIVEN))

    @property
    def source(self) -> Mixture:
        return _entries(self.source_draws, self.source_index)

    @property
    def target(self) -> Mixture:
        return _entries(self.target_draws, self.target_index)

    def plan(self, index: int | Int[Array, ""]) -> TransportPlan:
        source = _entries(self.source_draws, _entries(self.source_index, index))
        target = _entries(self.target_draws, _entries(self.target_index, index))
        own = _entries(self.numbers, index)
        couplings = GaussianCouplings(own.costs, own.kl, self.epsilon_components, source.components, target.components)
        trace = BlockTrace(own.objectives, ("start", "components", "weights"))
        epsilon, rules = self.epsilon_weights, self.epsilon_rules
        return TransportPlan(
            source, target, couplings, own.weight_coupling, epsilon, trace, "float64", epsilon_rules=rules
        )

    def reverse(self) -> "StackedPlans":
        return StackedPlans(
            _transposed(self.numbers),
            self.target_draws,
            self.source_draws,
            self.target_index,
            self.source_index,
            self.epsilon_components,
            self.epsilon_weights,
            self.epsilon_rules,
        )

    def map(self, function: Callable[..., Any], each: Any, *points: Float[Array, "n d"]) -> Any:
        plans, (shared, num) = self._padded(), self._padded_points(points)
        each = each if plans is self else pad(each, plans.num_draws)
        found = cut(_map(function, plans, each, shared), self.num_draws)
        return cut(found, num, axis=1) if points else found

    def mean(self, function: Callable[..., Array], *points: Float[Array, "n d"]) -> Array:
        shared, num = self._padded_points(points)
        return cut(_mean(function, self._padded(), np.asarray(self.num_draws), shared), num)

    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        if self.num_draws * self.numbers.costs.shape[1] * x.shape[1] ** 2 > _MAX_KEPT:
            return self.map(TransportPlan.push_forward, (), x)
        maps = kept(self, "_maps", lambda: _map(TransportPlan.component_maps, self._padded(), (), ()))
        return self.map(_push, (maps,), x)

    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        (padded,), num = self._padded_points((x,))
        return cut(_sample_points(self._padded(), np.asarray(self.num_draws), key, padded), num)

    def sample_draws(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        return self.map(TransportPlan.sample, (_split(key, self._padded().num_draws),), x)

    def _padded(self) -> "StackedPlans":
        """The plans with their last repeated up to a common number, where that is no burden."""
        arrays = self.numbers, self.source_draws, self.target_draws, self.source_index, self.target_index
        size = sum(leaf.size for leaf in jax.tree.leaves(arrays))
        if is_traced(self) or size > _MAX_KEPT or point_bucket(self.num_draws) == self.num_draws:
            return self

        def padded() -> "StackedPlans":
            numbers, source, target, first, second = (
                jax.device_put(pad(part, point_bucket(jax.tree.leaves(part)[0].shape[0]))) for part in arrays
            )
            epsilons = self.epsilon_components, self.epsilon_weights
            return StackedPlans(numbers, source, target, first, second, *epsilons, self.epsilon_rules)

        return kept(self, "_all", padded)

    def _padded_points(self, points: tuple[Array, ...]) -> tuple[tuple[Array, ...], int]:
        """Points padded to a common number, and how many there are."""
        num = points[0].shape[0] if points else 0
        return points if is_traced(self, points) else jax.device_put(pad(points, point_bucket(num))), num


class ListedPlans(AbstractPlanDraws):
    """Plans of any components, one by one.

    Attributes:
        numbers: Costs, couplings of the weights and evidence of each plan, stacked.
        plans: The plans.
    """

    numbers: PlanNumbers
    plans: tuple[TransportPlan, ...]

    @classmethod
    def of(cls, plans: list[TransportPlan]) -> "ListedPlans":
        """Put finished plans together."""
        return cls(stacked([PlanNumbers.of(plan) for plan in plans]), tuple(plans))

    @property
    def source(self) -> Mixture:
        return stacked([plan.source for plan in self.plans])

    @property
    def target(self) -> Mixture:
        return stacked([plan.target for plan in self.plans])

    def plan(self, index: int) -> TransportPlan:
        return self.plans[index]

    def reverse(self) -> "ListedPlans":
        return ListedPlans.of([plan.reverse() for plan in self.plans])

    def map(self, function: Callable[..., Any], each: Any, *points: Float[Array, "n d"]) -> Any:
        return stacked([function(plan, *take(each, s), *points) for s, plan in enumerate(self.plans)])

    def mean(self, function: Callable[..., Array], *points: Float[Array, "n d"]) -> Array:
        total = function(self.plans[0], *points)
        for plan in self.plans[1:]:
            total = total + function(plan, *points)
        return total / self.num_draws

    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        return self.map(TransportPlan.push_forward, (), x)

    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        choice_key, key = split_key(key, 2)
        draws = jax.random.randint(choice_key, (x.shape[0],), 0, self.num_draws)
        chosen, result = np.asarray(draws), np.empty(x.shape, x.dtype)
        for s in np.unique(chosen):
            own = np.flatnonzero(chosen == s)
            # Padded, so that few shapes are compiled.
            index = np.pad(own, (0, power_of_two(len(own)) - len(own)), mode="edge")
            images = self.plans[s].sample(jax.random.fold_in(key, s), x[index])
            result[own] = np.asarray(images)[: len(own)]
        return jax.device_put(result)

    def sample_draws(self, key: Key[Array, ""], x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        return self.map(TransportPlan.sample, (_split(key, self.num_draws),), x)


def _entries(tree: Any, index: Any) -> Any:
    """One entry, or some, of everything that is stacked in a pytree; on the host where nothing is traced."""
    if is_traced(tree, index):
        return take(tree, index)
    where = np.asarray(index)
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[where]), tree)


def _push(plan: TransportPlan, maps: AbstractComponentMaps, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return maps(x, plan.source.responsibilities(x))


@functools.partial(jax.jit, static_argnums=1)
def _split(key: Key[Array, ""], num: int) -> Key[Array, " S"]:
    return jax.random.split(key, num)


@jax.jit
def _transposed(numbers: PlanNumbers) -> PlanNumbers:
    return jax.vmap(PlanNumbers.transpose)(numbers)


@program
def _sample_points(
    plans: StackedPlans, num_draws: Int[Any, ""], key: Key[Array, ""], x: Float[Any, "n d"]
) -> Float[Array, "n d"]:
    """One y for each point, from a random draw of the first ``num_draws``."""
    choice_key, key = jax.random.split(key)
    draws = jax.random.randint(choice_key, (x.shape[0],), 0, num_draws)

    def one(item: tuple[Array, Array, Array]) -> Float[Array, " d"]:
        index, own_key, point = item
        return plans.plan(index).sample(own_key, point[None])[0]

    items = draws, jax.random.split(key, x.shape[0]), x
    return jax.lax.map(one, items, batch_size=draws_at_once(4 * _numbers(plans, x[:1]), x.shape[0]))


@program
def _map(function: Callable, plans: StackedPlans, each: Any, points: tuple) -> Any:
    """``function(plan, *(entries of each), *points)`` under every plan."""

    def one(item: tuple) -> Any:
        return function(plans.plan(item[0]), *item[1], *points)

    num = plans.num_draws
    return jax.lax.map(one, (jnp.arange(num), each), batch_size=draws_at_once(4 * _numbers(plans, points), num))


def _numbers(plans: StackedPlans, points: Any) -> int:
    """How many numbers one draw works on."""
    draws = jax.tree.leaves((plans.source_draws, plans.target_draws))
    return sum(leaf.size for leaf in jax.tree.leaves(points)) + sum(leaf[0].size for leaf in draws)


@program
def _mean(function: Callable, plans: StackedPlans, num_draws: Int[Any, ""], points: tuple) -> Array:
    """The mean over the first ``num_draws`` draws."""

    def add(total: Array, index: Array) -> tuple[Array, None]:
        value = function(plans.plan(index), *points)
        return total + jnp.where(index < num_draws, value, jnp.zeros_like(value)), None

    shape = jax.eval_shape(lambda: function(plans.plan(0), *points))
    total = jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), jnp.arange(plans.num_draws))[0]
    return total / num_draws.astype(total.dtype)
