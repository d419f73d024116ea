"""Chains of plans between mixtures at consecutive times: lineages of components, fates of points, paths."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arguments import (
    ArrayLike,
    as_count,
    as_floating,
    as_host_or_traced,
    as_key,
    as_scalar,
    check_shape,
    KeyLike,
    ScalarLike,
)
from .._base.arrays import is_traced, on_host, safe_log
from .._base.results import ConvergenceError
from .._base.tables import tabulates
from .._base.xla import program
from .._components.mixture import as_mixture, Mixture, MixtureLike
from .._plans.correspondences import as_texts
from .._plans.displacement import Displacement
from .._plans.epsilons import EpsilonLike
from .._plans.groups import flows_between, GroupFlows
from .._plans.plan import TransportPlan
from .._plans.relaxations import RelaxationLike
from .._plans.transport import aligned, transport
from .lineage import Lineage


class Trajectory(eqx.Module):
    """Mixtures at several times, and the plans from each to the next.

    Steps are composed component by component: what a component's mass does next does not depend on where it came from.
    Laws at the given times are the mixtures, and the law of two consecutive ones is their plan.

    Attributes:
        mixtures: The mixtures, T of them.
        plans: The plans between consecutive ones, T - 1 of them; where components grow, from the mixture whose weights
            have grown.
        times: The times, increasing, shape ``[T]``.
        growth: Expected mass of the descendants of a unit of mass of each component in each step, relative to the
            mean; shapes ``[K_t]``.
    """

    mixtures: tuple[Mixture, ...]
    plans: tuple[TransportPlan, ...]
    times: np.ndarray
    growth: tuple[Array, ...]

    @property
    def num_times(self) -> int:
        """The number of times T."""
        return len(self.mixtures)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.mixtures[0].dim

    @property
    def costs(self) -> Float[Array, " steps"]:
        """The transport cost of each step."""
        return on_host(lambda xp, *costs: xp.stack(costs), *(plan.cost for plan in self.plans))

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the columns, where a mixture was fitted to a table: points are taken by name."""
        return self.plans[0].feature_names

    def component_names(self, time: int) -> tuple[str, ...]:
        """Names of the components at a time index; their numbers where they have none."""
        index = self._index("time", time)
        known = self.plans[0].component_names[0] if index == 0 else self.plans[index - 1].component_names[1]
        return as_texts(known, self.mixtures[index].num_components)

    # -- components -----------------------------------------------------------------------------------------------

    def coupling(self, first: int, last: int) -> Float[Array, "K0 K1"]:
        """Mass that goes from each component at time index ``first`` to each at ``last``.

        Columns sum to the weights at ``last``; rows to those at ``first`` times their `growth_between`.
        """
        first, last = self._span(first, last)
        weights, table = self.mixtures[first].weights, self._forward(first, last)
        return on_host(lambda xp, w, t: w[:, None] * t, weights, table)

    def descendants(self, first: int, last: int) -> Float[Array, "K0 K1"]:
        """Probability of each component at ``last`` for a descendant of each component at ``first``; rows sum to one.

        A component whose growth is zero has no descendants, and a row of zeros.
        """
        first, last = self._span(first, last)

        def shares(xp: Any, table: Any) -> Any:
            total = xp.sum(table, axis=1, keepdims=True)
            return xp.where(total > 0, table / xp.where(total > 0, total, xp.ones_like(total)), xp.zeros_like(table))

        return on_host(shares, self._forward(first, last))

    def ancestors(self, first: int, last: int) -> Float[Array, "K0 K1"]:
        """Probability of each component at ``first`` for an ancestor of each component at ``last``.

        Columns sum to one.
        """
        first, last = self._span(first, last)
        tables = [self.plans[step].weight_coupling.column_shares for step in range(first, last)]
        return on_host(lambda xp, *steps: functools.reduce(xp.matmul, steps), *tables)

    def growth_between(self, first: int, last: int) -> Float[Array, " K0"]:
        """Expected mass at ``last`` that descends from a unit of each component at ``first``, relative to the mean."""
        first, last = self._span(first, last)
        return on_host(lambda xp, table: xp.sum(table, axis=1), self._forward(first, last))

    def lineage(self, time: int, component: int) -> Lineage:
        """Ancestors and descendants of one component at all times, with probabilities; print it to read it.

        Raises:
            ValueError: If there is no such time or component.
        """
        time = self._index("time", time)
        component = as_count("component", component, minimum=0)
        if component >= (num := self.mixtures[time].num_components):
            raise ValueError(f"`component` must be below {num} at time {self.times[time]:g}; got {component}.")
        before = [np.asarray(self.ancestors(s, time))[:, component] for s in range(time)]
        after = [np.asarray(self.descendants(time, s))[component] for s in range(time + 1, self.num_times)]
        return Lineage(time, component, self.times, (*before, np.eye(num)[component], *after))

    def _forward(self, first: int, last: int) -> Float[Array, "K0 K1"]:
        """Mass at ``last`` that descends from a unit of each component at ``first``."""
        steps = [(self.growth[step], self.plans[step].weight_coupling.row_shares) for step in range(first, last)]

        def composed(xp: Any, *steps: Any) -> Any:
            return functools.reduce(xp.matmul, [growth[:, None] * shares for growth, shares in steps])

        return on_host(composed, *steps)

    # -- points ---------------------------------------------------------------------------------------------------

    @tabulates(lambda course, last, **_: course.component_names(last))
    def fates(self, x: ArrayLike, first: int, last: int) -> Float[Array, "n K1"]:
        """Probability of each component at ``last`` for a descendant of each point ``x[n, d]`` at ``first``.

        Every descendant counts alike, so that components that grow weigh more. NaN for a point without descendants:
        one whose `survival` is zero up to rounding.
        """
        first, last = self._span(first, last)

        def shares(xp: Any, responsibilities: Any, table: Any) -> Any:
            mass = responsibilities @ table
            alive = _survival(xp, responsibilities, table)[:, None] > 4 * xp.finfo(mass.dtype).eps
            return xp.where(alive, mass / xp.sum(mass, axis=1, keepdims=True), xp.nan)

        return on_host(shares, self.mixtures[first].responsibilities(x), self._forward(first, last))

    @tabulates(lambda course, **_: ("survival",))
    def survival(self, x: ArrayLike, first: int, last: int) -> Float[Array, " n"]:
        """Probability that each point ``x[n, d]`` at ``first`` has descendants at ``last``.

        That of belonging to a component that has some: where growth is zero, a component dies out.
        """
        first, last = self._span(first, last)
        return on_host(_survival, self.mixtures[first].responsibilities(x), self._forward(first, last))

    @tabulates(lambda course, first, **_: course.component_names(first))
    def origins(self, y: ArrayLike, first: int, last: int) -> Float[Array, "n K0"]:
        """Probability of each component at ``first`` for an ancestor of each point ``y[n, d]`` at ``last``."""
        first, last = self._span(first, last)
        tables = self.mixtures[last].responsibilities(y), self.ancestors(first, last)
        return on_host(lambda xp, responsibilities, ancestors: responsibilities @ ancestors.T, *tables)

    def interpolate(self, time: ScalarLike, *, min_weight: float = 1e-6) -> Mixture | Displacement:
        """The law at a time in between: points move on straight lines, at constant speed, under the step's plan.

        The mass of a component that grows does so exponentially during the step. Components without descendants
        (growth zero) take no part.

        Args:
            time: A time from the first to the last.
            min_weight: Pairs of smaller weight are dropped, as in `TransportPlan.interpolate`.

        Raises:
            ValueError: If ``time`` lies outside.
        """
        moment = float(as_scalar("time", time, minimum=-np.inf))
        if not self.times[0] <= moment <= self.times[-1]:
            raise ValueError(f"`time` must lie between {self.times[0]:g} and {self.times[-1]:g}; got {moment:g}.")
        step = min(int(np.searchsorted(self.times, moment, side="right")) - 1, self.num_times - 2)
        share = (moment - self.times[step]) / (self.times[step + 1] - self.times[step])
        plan, growth = self.plans[step], self.growth[step]

        def begun(xp: Any, omega: Any, growth: Any) -> Any:
            """Mass that ends as omega began as omega / growth."""
            weights = omega * (xp.where(growth > 0, growth, xp.ones_like(growth)) ** (share - 1))[:, None]
            return weights / xp.sum(weights)

        plan = eqx.tree_at(lambda p: p.weight_coupling.weights, plan, on_host(begun, plan.weights, growth))
        return plan.interpolate(share, min_weight=min_weight)

    def sample_paths(self, key: KeyLike, num_samples: int) -> Float[Array, "T n d"]:
        """Draw paths through all times: of points at the last time, traced back to their ancestors.

        Without growth these are also the paths of points at the first time.
        """
        num_samples = as_count("num_samples", num_samples)
        shares = tuple(plan.weight_coupling.column_shares for plan in self.plans)
        labels, keys = _ancestral_labels(as_key(key), self.mixtures[-1].weights, shares, num_samples)
        points = [self.mixtures[0].components.sample_labeled(keys[0], labels[0])]
        for step, plan in enumerate(self.plans):
            draw = keys[step + 1], points[-1], labels[step], labels[step + 1]
            points.append(plan.couplings.sample_conditional(*draw))
        return on_host(lambda xp, *laws: xp.stack(laws), *points)

    # -- groups ---------------------------------------------------------------------------------------------------

    def group_flows(self, groups: Sequence[Any] | None = None) -> GroupFlows:
        """Mass that goes from group to group in each step, such as from cell type to cell type.

        Args:
            groups: For each time, `GroupShares` of that mixture (see `group_shares`), or one name per component; by
                default the names that components have (see `mixture_from_labels`).

        Raises:
            ValueError: If there is not one entry per time that fits the mixture there.
        """
        if groups is None:
            groups = [self.plans[0].component_names[0], *(plan.component_names[1] for plan in self.plans)]
        if len(groups) != self.num_times:
            raise ValueError(f"`groups` must have one entry per time, {self.num_times}; got {len(groups)}.")
        weights, where = [m.weights for m in self.mixtures], [f"groups[{t}]" for t in range(self.num_times)]
        return flows_between([plan.weights for plan in self.plans], weights, groups, self.times, where)

    # -- indices --------------------------------------------------------------------------------------------------

    def _index(self, name: str, value: int) -> int:
        index = as_count(name, value, minimum=0)
        if index >= self.num_times:
            raise ValueError(f"`{name}` must be the index of one of {self.num_times} times; got {index}.")
        return index

    def _span(self, first: int, last: int) -> tuple[int, int]:
        first, last = self._index("first", first), self._index("last", last)
        if first >= last:
            raise ValueError(f"`first` must be before `last`; got {first} and {last}.")
        return first, last

    def __repr__(self) -> str:
        sizes = " -> ".join(str(mixture.num_components) for mixture in self.mixtures)
        span = f"times {self.times[0]:g} to {self.times[-1]:g}"
        return f"Trajectory({sizes} components in {self.dim} dimensions, {span})"


def trajectory(
    mixtures: Sequence[MixtureLike],
    *,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    times: ArrayLike | None = None,
    growth: Sequence[ArrayLike] | None = None,
    source_relaxation: RelaxationLike = math.inf,
    **options: Any,
) -> Trajectory:
    r"""Transport a mixture to the next along a time course, and compose the plans.

    Transport conserves mass, so a part of a population that divides faster than the rest would seem to be fed by
    others. With ``growth``, the weight of each source component is first multiplied by the mass that its descendants
    are expected to have (Schiebinger et al. 2019 do this cell by cell); only ratios of growth matter. With a finite
    ``source_relaxation`` growth is what transport finds cheapest, about the given one if there is one.

    Args:
        mixtures: Mixtures at two times or more, of one dimension, in their order.
        epsilon_components: Regularization of the component couplings of every step, as in `transport`: units of squared
            distance, or ``"auto"``, which is chosen for each step.
        epsilon_weights: Regularization of the weights of every step, likewise.
        epsilon_scale: Multiplies ``"auto"``.
        times: Increasing times of the mixtures; by default 0, 1, 2, ...
        growth: For each time but the last, the expected mass of the descendants of a unit of each component at the
            next time, nonnegative, shapes ``[K_t]``; by default equal for all.
        source_relaxation: Price of growth that differs from ``growth``, units of squared distance, as in `transport`;
            infinite for none; or `TotalVariation`. The later mixture of a step keeps its weights.
        **options: Further options of `transport`.

    Returns:
        The trajectory; its `growth` is the one found where the source is relaxed.

    Raises:
        TypeError: If an entry of ``mixtures`` is neither a mixture nor a fit.
        ValueError: If there are fewer than two mixtures, their dimensions differ, the times do not increase, or a
            growth does not fit its mixture.
        ConvergenceError: If a solve fails; the message says between which times.
    """
    named = [getattr(side, "names", None) for side in mixtures]
    features, sides = aligned(**{f"mixtures[{index}]": side for index, side in enumerate(mixtures)})
    mixtures = tuple(as_mixture(f"mixtures[{index}]", side) for index, side in enumerate(sides))
    if len(mixtures) < 2:
        raise ValueError(f"`mixtures` must hold at least two mixtures; got {len(mixtures)}.")
    for index, mixture in enumerate(mixtures):
        if mixture.dim != mixtures[0].dim:
            raise ValueError(f"`mixtures[{index}]` must have dimension {mixtures[0].dim}; got {mixture.dim}.")
    moments = _check_times(times, len(mixtures))
    relative = list(_check_growth(growth, mixtures))
    if "component_relaxation" in options:
        raise ValueError("`component_relaxation` must be left out: what arrives at a time has to leave from there.")
    if "target_relaxation" in options:
        raise ValueError("`target_relaxation` must be left out: the weights at later times are kept.")
    plans = []
    for step, (source, target) in enumerate(zip(mixtures, mixtures[1:], strict=False)):
        if growth is not None:
            grown = on_host(lambda xp, w, g: w * g, source.weights, relative[step])
            source = eqx.tree_at(lambda m: m.weights, source, grown)
        try:
            plan = transport(
                source,
                target,
                epsilon_components=epsilon_components,
                epsilon_weights=epsilon_weights,
                epsilon_scale=epsilon_scale,
                source_relaxation=source_relaxation,
                **options,
            )
        except ConvergenceError as error:
            raise ConvergenceError(f"From time {moments[step]:g} to {moments[step + 1]:g}: {error}") from None
        if plan.masses is not None:
            relative[step] = on_host(lambda _, g, found: g * found, relative[step], plan.source_growth)
            plan = eqx.tree_at(lambda p: p.masses, plan, None)
        known = {"component_names": (named[step], named[step + 1]), "feature_names": features}
        plans.append(dataclasses.replace(plan, **known))
    return Trajectory(mixtures, tuple(plans), moments, tuple(relative))


def _survival(xp: Any, responsibilities: Any, table: Any) -> Any:
    """Responsibilities of the components of which some mass is left."""
    return xp.sum(xp.where((table > 0).any(axis=1), responsibilities, xp.zeros_like(responsibilities)), axis=1)


@program
def _ancestral_labels(
    key: Key[Array, ""], weights: Float[Array, " K"], shares: tuple[Float[Array, "_ _"], ...], num_samples: int
) -> tuple[tuple[Int[Array, " n"], ...], tuple[Key[Array, ""], ...]]:
    """Components at every time of points drawn at the last one and traced back; and a key for the points of each."""
    last_key, *keys = jax.random.split(key, 2 * len(shares) + 2)
    labels = [jax.random.categorical(last_key, safe_log(weights), shape=(num_samples,))]
    for step in reversed(range(len(shares))):
        labels.insert(0, jax.random.categorical(keys[step], safe_log(shares[step]).T[labels[0]]))
    return tuple(labels), tuple(keys[len(shares) :])


def _check_times(times: ArrayLike | None, num: int) -> np.ndarray:
    if times is None:
        return np.arange(float(num))
    moments = np.asarray(as_host_or_traced("times", times), np.float64)
    if moments.shape != (num,):
        raise ValueError(f"`times` must hold one time per mixture, {num}; got shape {moments.shape}.")
    if not (np.isfinite(moments).all() and (np.diff(moments) > 0).all()):
        raise ValueError(f"`times` must be finite and increase; got {moments.tolist()}.")
    return moments


def _check_growth(growth: Sequence[ArrayLike] | None, mixtures: tuple[Mixture, ...]) -> tuple[Array, ...]:
    """The growth of each step, relative to its mean over the mixture."""
    if growth is None:
        return tuple(on_host(lambda xp, w: xp.ones_like(w), mixture.weights) for mixture in mixtures[:-1])
    if len(growth) != len(mixtures) - 1:
        raise ValueError(f"`growth` must have one entry per step, {len(mixtures) - 1}; got {len(growth)}.")
    relative = []
    for step, (values, mixture) in enumerate(zip(growth, mixtures, strict=False)):
        factor = as_floating(f"growth[{step}]", values, "K", mixture.weights.dtype)
        check_shape(f"growth[{step}]", factor, mixture.weights.shape, "the components")
        mean = on_host(lambda xp, f, w: xp.sum(f * w), factor, mixture.weights)
        if not is_traced(factor, mean) and not ((np.asarray(factor) >= 0).all() and float(mean) > 0):
            raise ValueError(f"`growth[{step}]` must not be negative, and positive for some component with weight.")
        relative.append(on_host(lambda xp, f, m: f / m, factor, mean))
    return tuple(relative)
