"""The posterior of a transport plan: draws of everything that is read from it, and intervals."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.arguments import ArrayLike, as_count, as_key, as_points, as_scalar, KeyLike, ScalarLike
from .._base.arrays import host_generator, is_traced, kept, split_key
from .._base.results import RESULTS
from .._base.tables import column_names, in_order, maps_tables, row_names
from .._components.columns import centers_of_draws, Columns, columns_of, within_half_turn
from .._components.interface import AbstractComponents
from .._components.labelling import Labelling
from .._components.mixture import Mixture
from .._couplings.interface import select_pairs
from .._plans.correspondences import as_names
from .._plans.plan import TransportPlan
from .._plans.transfer import Transfer
from .._posteriors.credible import credible_interval, CredibleInterval, IntervalKind, with_caution
from .._posteriors.predictive import PredictiveCheck
from .correspondences import PosteriorCorrespondences
from .draws import AbstractPlanDraws
from .transfer import PosteriorTransfer
from .vertices import VertexChanges


class PosteriorPlan(eqx.Module):
    """Draws from the posterior of a transport plan between two mixtures.

    Arrays have a leading axis of S draws. Cost, maps and densities do not depend on how components are labelled;
    what is indexed by components does, and compares draws only where these follow common labels, see `relabel`.

    Attributes:
        plans: The plans of all draws; `plan` gives one of them.
        feature_names: Names of the columns, where a side was fitted to a table: points are taken by name.
        labellings: Of either side, how many draws were relabelled and whether labels mean the same in all draws;
            ``None`` where nothing was relabelled.
        component_names: Names of the components of the source and of the target, ``None`` where they have none.
    """

    plans: AbstractPlanDraws
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    labellings: tuple[Labelling | None, Labelling | None] = (None, None)
    component_names: Any = eqx.field(static=True, default=(None, None))

    # -- numbers --------------------------------------------------------------------------------------------------

    @property
    def num_draws(self) -> int:
        """The number of draws S."""
        return self.plans.num_draws

    @property
    def source(self) -> Mixture:
        """The source mixture of every draw: a mixture whose arrays have a leading axis S."""
        return self.plans.source

    @property
    def target(self) -> Mixture:
        """The target mixture of every draw."""
        return self.plans.target

    @property
    def weights(self) -> Float[Array, "S K0 K1"]:
        """Draws of the coupling Omega of the weights."""
        return self.plans.numbers.weight_coupling.weights

    @property
    def row_shares(self) -> Float[Array, "S K0 K1"]:
        """Draws of the part of each source component that goes to each target component; rows sum to one."""
        return self.plans.numbers.weight_coupling.row_shares

    @property
    def mass(self) -> Float[Array, " S"]:
        """Draws of the mass that is transported; one unless a marginal was relaxed."""
        return self.plans.map(_mass, ())

    @property
    def growth(self) -> Float[Array, "S K0"]:
        """Draws of the mass that becomes of each source component, over the mass it has."""
        return self.plans.map(_growth, ())

    @property
    def component_costs(self) -> Float[Array, "S K0 K1"]:
        """Draws of the mean squared distance under each component coupling."""
        return self.plans.numbers.costs

    @property
    def cost(self) -> Float[Array, " S"]:
        """Draws of the transport cost: mean squared distance under the plan."""
        return _on_host(lambda w, c: (w * c).sum(axis=(1, 2)), self.weights, self.component_costs)

    @property
    def distance(self) -> Float[Array, " S"]:
        """Square roots of the costs, units of distance.

        Where both regularizations are zero this is the Wasserstein-type distance MW2 between Gaussian mixtures of
        Delon and Desolneux (2020, SIAM J. Imaging Sci. 13).
        """
        return _on_host(lambda cost: cost.clip(0) ** 0.5, self.cost)

    @property
    def objective(self) -> Float[Array, " S"]:
        """Draws of the minimized objective: cost plus both regularization terms, units of squared distance."""
        return _on_host(lambda objectives: objectives[:, -1], self.plans.numbers.objectives)

    @property
    def marginal_errors(self) -> Float[Array, " S"]:
        """L1 error of the row sums of each coupling plus that of its column sums."""
        return self.plans.numbers.weight_coupling.marginal_error

    @property
    def result(self) -> Any:
        """Why the solve of each draw stopped: members of `RESULTS` along the leading axis."""
        return self.plans.numbers.result

    @property
    def converged(self) -> Bool[Array, " S"]:
        """Whether the solve of each draw met its tolerance."""
        return _on_host(lambda code: code == int(RESULTS.successful._value), self.result._value)

    def plan(self, index: int) -> TransportPlan:
        """The plan of one draw.

        Raises:
            ValueError: If there is no such draw.
        """
        if as_count("index", index, minimum=0) >= self.num_draws:
            raise ValueError(f"`index` must be below the number of draws, {self.num_draws}; got {index}.")
        known = {"component_names": self.component_names, "feature_names": self.feature_names}
        return dataclasses.replace(self.plans.plan(index), **known)

    def reverse(self) -> "PosteriorPlan":
        """The same plans, read from target to source."""
        source, target = self.labellings
        return PosteriorPlan(self.plans.reverse(), self.feature_names, (target, source), self.component_names[::-1])

    # -- maps -----------------------------------------------------------------------------------------------------

    def push_forward(self, x: ArrayLike) -> Float[Array, "S n d"]:
        """Draws of the barycentric map T(x) = E[y | x] at points ``x[n, d]``."""
        return self.plans.push_forward(self._points("x", x))

    def pull_back(self, y: ArrayLike) -> Float[Array, "S n d"]:
        """Draws of the backward barycentric map E[x | y] at points ``y[n, d]``."""
        return kept(self, "_reverse", self.reverse).push_forward(in_order("y", y, self.feature_names))

    def target_probabilities(self, x: ArrayLike) -> Float[Array, "S n K1"]:
        """Draws of the probability that each point ``x[n, d]`` is sent to each target component."""
        return self.plans.map(TransportPlan.target_probabilities, (), self._points("x", x))

    def conditional_covariance(self, x: ArrayLike) -> Float[Array, "S n d d"]:
        """Draws of the covariance of y given x, at points ``x[n, d]``."""
        return self.plans.map(TransportPlan.conditional_covariance, (), self._points("x", x))

    def predictive_covariance(self, x: ArrayLike) -> Float[Array, "n d d"]:
        """The covariance of y given ``x[n, d]`` with the draw unknown, the law that `sample` draws from.

        By the law of total variance, the mean of `conditional_covariance` plus the covariance of `push_forward` over
        draws.
        """
        points = self._points("x", x)
        images = self.plans.push_forward(points)
        center = _on_host(functools.partial(centers_of_draws, self._columns), images)
        return self.plans.mean(_second_moment, points, center)

    @maps_tables
    def sample(self, key: KeyLike, x: ArrayLike) -> Float[Array, "n d"]:
        """One y for each point ``x[n, d]``, each from the plan of a random draw: the posterior predictive law."""
        points = self._points("x", x)
        return self.plans.sample(as_key(key), points)

    def sample_draws(self, key: KeyLike, x: ArrayLike) -> Float[Array, "S n d"]:
        """One y for each point ``x[n, d]`` from the conditional law of every draw."""
        return self.plans.sample_draws(as_key(key), self._points("x", x))

    def log_prob(self, x: ArrayLike, y: ArrayLike) -> Float[Array, "S n"]:
        """Draws of the log-density of the plan at pairs ``(x[n, d], y[n, d])``, in nats.

        Raises:
            ValueError: If the shapes differ, or ``epsilon_components`` is 0 and the plans have no density.
        """
        points, images = self._points("x", x), self._points("y", y)
        if points.shape != images.shape:
            raise ValueError(f"`y` must have the shape of `x`, {tuple(points.shape)}; got {tuple(images.shape)}.")
        if float(self.plans.plan(0).epsilon_components) == 0:
            raise ValueError("The plans have no joint density at `epsilon_components` = 0: their couplings are maps.")
        return self.plans.map(TransportPlan.log_prob, (), points, images)

    @property
    def _columns(self) -> Columns:
        return columns_of(self.plans.plan(0).source.components)

    # -- what to keep in mind -------------------------------------------------------------------------------------

    @property
    def label_caution(self) -> str:
        """Why numbers of single components may mean nothing; nothing where labels are identified on both sides."""
        sides = zip(("source", "target"), self.labellings, strict=True)
        return "; ".join(f"{side}: {found.caution}" for side, found in sides if found is not None and found.caution)

    def vertices(self) -> VertexChanges:
        """Which pairs the exact optimum couples, draw by draw, and whether draws lie on both sides of a change.

        There Omega and the map have kinks or jumps, and their intervals may cover too little. Solves a linear
        program for each of at most 128 draws, once. Not for changed masses, where it reports none.
        """
        return kept(self, "_vertices", self._find_vertices)

    def _find_vertices(self) -> VertexChanges:
        plan, numbers = self.plans.plan(0), self.plans.numbers
        epsilon, costs = float(plan.epsilon_components), np.asarray(numbers.costs, np.float64)
        objectives = costs + epsilon * np.asarray(numbers.kl, np.float64) if epsilon else costs
        # With relaxed marginals there is no vertex to be near to.
        some = slice(None) if plan.masses is None else slice(1)
        return VertexChanges.of(objectives[some], np.asarray(self.weights)[some])

    # -- summaries ------------------------------------------------------------------------------------------------

    def cost_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """A credible interval of the cost; see `credible_interval`."""
        return self._cautious(credible_interval(self.cost, probability, kind))

    def distance_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """A credible interval of the distance."""
        return self._cautious(credible_interval(self.distance, probability, kind))

    def weights_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """Credible intervals of the entries of Omega, shape ``[K0, K1]``, by name."""
        return self._by_component(credible_interval(self.weights, probability, kind))

    def row_shares_interval(self, probability: float = 0.9, kind: IntervalKind = "equal-tailed") -> CredibleInterval:
        """Credible intervals of the row shares, shape ``[K0, K1]``, by name."""
        return self._by_component(credible_interval(self.row_shares, probability, kind))

    def push_forward_interval(
        self, x: ArrayLike, probability: float = 0.9, kind: IntervalKind = "equal-tailed"
    ) -> CredibleInterval:
        """Credible intervals of the coordinates of T(x) at points ``x[n, d]``, shape ``[n, d]``, by name.

        Those of angles are taken about the mean direction of the draws, and may reach beyond -pi or pi.
        """
        images = self.push_forward(x)
        if self._columns.angles.any():
            images = _on_host(functools.partial(within_half_turn, self._columns), images)
        found = self._cautious(credible_interval(images, probability, kind))
        return dataclasses.replace(found, names=(row_names(x), self.feature_names or column_names(x)))

    def probability_of_sending(self, min_share: ScalarLike = 0.5) -> Float[Array, "K0 K1"]:
        """The posterior probability that component i sends more than ``min_share`` of its mass to component j."""
        share = float(as_scalar("min_share", min_share))
        dtype = self.weights.dtype
        return _on_host(lambda shares: (shares > share).mean(axis=0, dtype=dtype), self.row_shares)

    def probability_cost_exceeds(self, threshold: ScalarLike) -> float:
        """The posterior probability that the cost exceeds a threshold, in units of squared distance.

        With a threshold below which a difference does not matter, this compares the laws of two samples.
        """
        limit = float(as_scalar("threshold", threshold))
        return float(np.mean(np.asarray(self.cost) > limit))

    def predictive_check(self, key: KeyLike, x: ArrayLike, y: ArrayLike) -> PredictiveCheck:
        """Compare target points ``y[n1, d]`` with images of source points ``x[n0, d]`` under every draw.

        Images are drawn from the conditional laws, of as many points of x, at random, as there are of y: whether what
        the plan makes of the source looks like the target.
        """
        choice_key, key = split_key(as_key(key), 2)
        points, images = self._points("x", x), np.asarray(self._points("y", y))
        chosen = host_generator(choice_key).integers(0, points.shape[0], len(images))
        drawn = np.asarray(self.sample_draws(key, np.asarray(points)[chosen]))
        return PredictiveCheck.of(images, drawn, self._columns.angles)

    def transfer(self, labels: Any, x: ArrayLike, y: ArrayLike | None = None) -> PosteriorTransfer:
        """Carry labels that are known for points of the source to the target under every draw, with intervals.

        Args:
            labels: The label of each source point, or probabilities of labels, see `TransportPlan.transfer`.
            x: Points of the source, shape ``[n0, d]``.
            y: Points of the target whose labels are asked for, shape ``[n1, d]``; by default the components.

        Raises:
            ValueError: If there is not one label for each point.
        """
        source = self.plans.map(_source_member, (), self._points("x", x))
        target = None if y is None else self.plans.map(_target_member, (), self._points("y", y))
        weights = np.asarray(self.plans.map(_target_weights, ()))
        columns = np.asarray(self.plans.numbers.weight_coupling.column_shares)
        source = np.asarray(source)
        points = [None] * self.num_draws if target is None else list(np.asarray(target))
        return PosteriorTransfer.of(
            [Transfer.of(labels, *one) for one in zip(source, points, columns, weights, strict=True)]
        )

    def correspondences(
        self, min_share: float = 0.05, probability: float = 0.9, *, names: Any = None
    ) -> PosteriorCorrespondences:
        """Which source component goes to which target component, and how certain that is; print it to read it.

        Args:
            min_share: Pairs are listed whose mean share of the source component exceeds this.
            probability: Posterior probability of the intervals.
            names: Names of the components of the source and of the target, ``None`` for a side without; by default
                `component_names`.

        Raises:
            ValueError: If ``names`` are not as many as components.
        """
        limit = float(as_scalar("min_share", min_share))
        return PosteriorCorrespondences.of(
            self.weights,
            credible_interval(self.row_shares, probability),
            self.probability_of_sending(),
            credible_interval(self.component_costs, probability),
            limit,
            as_names(self.component_names if names is None else names, self.weights.shape[1:]),
        )

    def _by_component(self, interval: CredibleInterval) -> CredibleInterval:
        return self._cautious(dataclasses.replace(interval, names=self.component_names), True)

    def _cautious(self, interval: CredibleInterval, by_label: bool = False) -> CredibleInterval:
        """An interval that says why it may not hold what it says."""
        if is_traced(self.weights):
            return interval
        return with_caution(interval, self.label_caution if by_label else "", self.vertices().caution)

    # -- what they share ------------------------------------------------------------------------------------------

    def _points(self, name: str, value: ArrayLike) -> Float[Array, "n d"]:
        components = self._components()
        return as_points(name, in_order(name, value, self.feature_names), components.dim, components.dtype)

    def _components(self) -> AbstractComponents:
        return self.plans.plan(0).source.components

    def __repr__(self) -> str:
        source, target = self.weights.shape[1:]
        sides = f"{source} -> {target} components in {self._components().dim} dimensions"
        numbers = f"cost {np.asarray(self.cost).mean():.6g}"
        if self.num_draws > 1:
            interval = credible_interval(self.cost)
            numbers += f", 90 % between {float(interval.lower):.6g} and {float(interval.upper):.6g}"
        failed = self.num_draws - int(np.asarray(self.converged).sum())
        evidence = f"{failed} failed" if failed else "all converged"
        cautions = "".join(f"\n  CAUTION: {text}." for text in (self.label_caution, self.vertices().caution) if text)
        return f"PosteriorPlan({self.num_draws} draws, {sides}, {numbers}, {evidence}){cautions}"


def _on_host(function: Callable[..., Any], *arrays: Array) -> Array:
    """A function of arrays, computed by NumPy unless they are traced."""
    if is_traced(arrays):
        return function(*arrays)
    return jax.device_put(function(*map(np.asarray, arrays)))


def _mass(plan: TransportPlan) -> Float[Array, ""]:
    return plan.mass


def _source_member(plan: TransportPlan, x: Float[Array, "n d"]) -> Float[Array, "n K0"]:
    return (plan.source if plan.masses is None else plan.masses.source).responsibilities(x)


def _target_member(plan: TransportPlan, y: Float[Array, "n d"]) -> Float[Array, "n K1"]:
    return (plan.target if plan.masses is None else plan.masses.target).responsibilities(y)


def _target_weights(plan: TransportPlan) -> Float[Array, " K1"]:
    return (plan.target if plan.masses is None else plan.masses.target).weights


def _growth(plan: TransportPlan) -> Float[Array, " K0"]:
    return plan.growth


def _second_moment(plan: TransportPlan, x: Float[Array, "n d"], center: Float[Array, "n d"]) -> Float[Array, "n d d"]:
    """E[(y - center)(y - center)' | x] under one plan."""
    shares = select_pairs(plan.weight_coupling.row_shares, 0.0)
    return plan.couplings.conditional_covariance(x, center, plan.source.responsibilities(x), shares)
