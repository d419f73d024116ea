"""The plans of all draws: solved together and kept as arrays, or solved one by one and kept as a list."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ._arrays import kept, power_of_two, take
from ._couplings import AbstractComponentMaps
from ._draws import draws_at_once
from ._gaussian_couplings import GaussianCouplings
from ._mixture import Mixture
from ._plan import BlockTrace, TransportPlan
from ._weights import WeightCoupling

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
    def map(self, function: Callable[..., Any], each: Any, *shared: Any) -> Any:
        """``function(plan, *(entries of each), *shared)`` for every draw, stacked."""

    @abc.abstractmethod
    def mean(self, function: Callable[..., Array], *shared: Any) -> Array:
        """The mean over draws of ``function(plan, *shared)``, without holding all values."""

    @abc.abstractmethod
    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        """The barycentric map of every draw."""

    @abc.abstractmethod
    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"], draws: Int[Array, " n"]) -> Float[Array, "n d"]:
        """One y for each point, from the conditional law of the draw named for it."""

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
    """

    numbers: PlanNumbers
    source_draws: Mixture
    target_draws: Mixture
    source_index: Int[Array, " S"]
    target_index: Int[Array, " S"]
    epsilon_components: Float[Array, ""]
    epsilon_weights: Float[Array, ""]

    @property
    def source(self) -> Mixture:
        return take(self.source_draws, self.source_index)

    @property
    def target(self) -> Mixture:
        return take(self.target_draws, self.target_index)

    def plan(self, index: int | Int[Array, ""]) -> TransportPlan:
        source = take(self.source_draws, self.source_index[index])
        target = take(self.target_draws, self.target_index[index])
        own = take(self.numbers, index)
        couplings = GaussianCouplings(own.costs, own.kl, self.epsilon_components, source.components, target.components)
        trace = BlockTrace(own.objectives, ("start", "components", "weights"))
        return TransportPlan(source, target, couplings, own.weight_coupling, self.epsilon_weights, trace, "float64")

    def reverse(self) -> "StackedPlans":
        return StackedPlans(
            jax.vmap(PlanNumbers.transpose)(self.numbers),
            self.target_draws,
            self.source_draws,
            self.target_index,
            self.source_index,
            self.epsilon_components,
            self.epsilon_weights,
        )

    def map(self, function: Callable[..., Any], each: Any, *shared: Any) -> Any:
        return _map(function, self, jnp.arange(self.num_draws), each, shared)

    def mean(self, function: Callable[..., Array], *shared: Any) -> Array:
        return _mean(function, self, shared)

    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        if self.num_draws * self.numbers.costs.shape[1] * x.shape[1] ** 2 > _MAX_KEPT:
            return self.map(TransportPlan.push_forward, (), x)
        maps = kept(self, "_maps", lambda: self.map(TransportPlan.component_maps, ()))
        return self.map(_push, (maps,), x)

    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"], draws: Int[Array, " n"]) -> Float[Array, "n d"]:
        return _map(_sample_one, self, draws, (jax.random.split(key, x.shape[0]), x), ())


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
        return cls(_stack([PlanNumbers.of(plan) for plan in plans]), tuple(plans))

    @property
    def source(self) -> Mixture:
        return _stack([plan.source for plan in self.plans])

    @property
    def target(self) -> Mixture:
        return _stack([plan.target for plan in self.plans])

    def plan(self, index: int) -> TransportPlan:
        return self.plans[index]

    def reverse(self) -> "ListedPlans":
        return ListedPlans.of([plan.reverse() for plan in self.plans])

    def map(self, function: Callable[..., Any], each: Any, *shared: Any) -> Any:
        return _stack([function(plan, *take(each, s), *shared) for s, plan in enumerate(self.plans)])

    def mean(self, function: Callable[..., Array], *shared: Any) -> Array:
        total = function(self.plans[0], *shared)
        for plan in self.plans[1:]:
            total = total + function(plan, *shared)
        return total / self.num_draws

    def push_forward(self, x: Float[Array, "n d"]) -> Float[Array, "S n d"]:
        return self.map(TransportPlan.push_forward, (), x)

    def sample(self, key: Key[Array, ""], x: Float[Array, "n d"], draws: Int[Array, " n"]) -> Float[Array, "n d"]:
        chosen, result = np.asarray(draws), np.empty(x.shape, x.dtype)
        for s in np.unique(chosen):
            own = np.flatnonzero(chosen == s)
            # Padded, so that few shapes are compiled.
            index = np.pad(own, (0, power_of_two(len(own)) - len(own)), mode="edge")
            images = self.plans[s].sample(jax.random.fold_in(key, s), x[index])
            result[own] = np.asarray(images)[: len(own)]
        return jnp.asarray(result)


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _push(plan: TransportPlan, maps: AbstractComponentMaps, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return maps(x, plan.source.responsibilities(x))


def _sample_one(plan: TransportPlan, key: Key[Array, ""], point: Float[Array, " d"]) -> Float[Array, " d"]:
    return plan.sample(key, point[None])[0]


@eqx.filter_jit
def _map(function: Callable, plans: StackedPlans, draws: Int[Array, " m"], each: Any, shared: tuple) -> Any:
    """``function(plan, *(entries of each), *shared)`` under the plans of the named draws."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(shared)) + sum(
        leaf[0].size for leaf in jax.tree.leaves((plans.source_draws, plans.target_draws))
    )

    def one(item: tuple) -> Any:
        return function(plans.plan(item[0]), *item[1], *shared)

    return jax.lax.map(one, (draws, each), batch_size=draws_at_once(4 * numbers, draws.shape[0]))


@eqx.filter_jit
def _mean(function: Callable, plans: StackedPlans, shared: tuple) -> Array:
    def add(total: Array, index: Array) -> tuple[Array, None]:
        return total + function(plans.plan(index), *shared), None

    shape = jax.eval_shape(lambda: function(plans.plan(0), *shared))
    start = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.scan(add, start, jnp.arange(plans.num_draws))[0] / plans.num_draws
