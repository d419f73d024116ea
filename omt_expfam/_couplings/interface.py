"""The P-block: the couplings of every pair of components, and what a transport plan asks of them."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import at_top, batch_size, is_traced, on_host, power_of_two, to_jax
from .._base.buckets import cut, LITTLE, pad
from .._base.xla import program
from .._components.category_form import independent_categories
from .._components.circle_form import independent_arcs
from .._components.columns import columns_of, has_angles, join
from .._components.covariance import traces
from .._components.interface import AbstractComponents
from .._components.mixture import Mixture


class PairSelection(eqx.Module):
    """The pairs of components that carry mass, with their weights.

    Attributes:
        source: Source component of each pair.
        target: Target component of each pair.
        weight: A weight per pair; zero for padding.
    """

    source: Int[Array, " p"]
    target: Int[Array, " p"]
    weight: Float[Array, " p"]


# Pairs that any selection is padded to where the work on so many is little.
_FEW_PAIRS = 64


def select_pairs(weights: Float[Array, "K0 K1"], threshold: float, item_size: int | None = None) -> PairSelection:
    """The pairs whose weight exceeds a threshold, padded to a power of two; all pairs when traced.

    Args:
        weights: A weight for each pair.
        threshold: Pairs of at most this weight are left out.
        item_size: How many numbers the work on one pair touches; by default too many to add pairs freely.
    """
    num, other = weights.shape
    if is_traced(weights):
        source, target = jnp.divmod(jnp.arange(num * other), other)
        return PairSelection(source, target, weights.reshape(-1))
    host = np.asarray(weights)
    source, target = np.nonzero(host > threshold)
    few = item_size is not None and _FEW_PAIRS * item_size <= LITTLE
    extra = (0, max(power_of_two(len(source)), _FEW_PAIRS if few else 1) - len(source))
    source, target, weight = (to_jax(np.pad(v, extra)) for v in (source, target, host[source, target]))
    return PairSelection(source, target, weight)


class AbstractComponentMaps(eqx.Module):
    """Barycentric maps of the source components: for each, the share-weighted mean over target components."""

    def padded(self, num_components: int) -> "AbstractComponentMaps | None":
        """The maps with some repeated, to be called with as many responsibilities; ``None`` where that is no use."""
        return None

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        """The responsibility-weighted sum of the component maps at points."""


class AbstractCouplings(eqx.Module):
    """Entropic couplings p_ij of every source component with every target component."""

    costs: eqx.AbstractVar[Float[Array, "K0 K1"]]
    kl: eqx.AbstractVar[Float[Array, "K0 K1"]]
    epsilon: eqx.AbstractVar[Float[Array, ""]]

    def objectives(self) -> Float[Array, "*pairs"]:
        """Cost plus regularization of each pair; at zero regularization the KL term counts as zero."""

        def add(xp: Any, costs: Any, kl: Any, epsilon: Any) -> Any:
            return costs + epsilon * xp.where(epsilon > 0, kl, xp.zeros_like(kl))

        return on_host(add, self.costs, self.kl, self.epsilon)

    @property
    def keeps_marginals(self) -> bool:
        """Whether the marginals of every coupling are its two components."""
        return True

    def rows(
        self, source: Mixture, weights: Float[Array, "K0 K1"], row_shares: Float[Array, "K0 K1"]
    ) -> tuple[Mixture, Float[Array, "r K1"]]:
        """The laws whose mixture is that of x under a plan, and the shares of target components in each.

        Methods that take points, and weights or indices of source components, mean these rows: the source components,
        unless pairs have marginals of their own.

        Args:
            source: The source mixture.
            weights: The coupling of the weights.
            row_shares: The same over the source weights.
        """
        return source, row_shares

    def masses_between(self, t: Float[Array, ""]) -> Float[Array, "K0 K1"] | None:
        """The mass that every pair has on the way, over that at both ends; ``None`` where it is one throughout."""
        return None

    @property
    @abc.abstractmethod
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        """A bound or a cautious estimate of the absolute error of `objectives`, in the same units."""

    @property
    @abc.abstractmethod
    def result(self) -> Any:
        """Why the solve of the couplings stopped, a member of `RESULTS`."""

    @abc.abstractmethod
    def transpose(self) -> "AbstractCouplings":
        """The same couplings read from target to source."""

    @abc.abstractmethod
    def component_maps(self, row_shares: Float[Array, "r K1"]) -> AbstractComponentMaps:
        """Collapse the pairs of each row into one map."""

    @abc.abstractmethod
    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n r"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        """Second moments about ``y`` of the conditional law at ``x``, weighted over pairs."""

    @abc.abstractmethod
    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        """E[y | x] for each point, under the given pair."""

    def conditional_offset(
        self, x: Float[Array, "n d"], y: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        """E[y' - y | x] for draws y' given each point, under the given pair; of angles, the mean arc from ``y``."""
        return self.conditional_mean(x, source, target) - y

    @abc.abstractmethod
    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        """One draw of y given x for each point, from the given pair."""

    @abc.abstractmethod
    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n r"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        """Log of the sum over pairs of exp(log_weight) * share * p_ij(y | x)."""

    @abc.abstractmethod
    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        """The covariance of x (rows) with y (columns) under each selected pair."""

    @abc.abstractmethod
    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents | None:
        """The law of (1 - t) x + t y under each selected pair, as components; ``None`` where it has no closed form."""


class Moments(NamedTuple):
    """Means and total variances of two sets of components, and what it costs to couple them independently.

    Attributes:
        costs: Squared mean distance plus both total variances; of angles, expected squared arcs; of categories, their
            expected costs; shape ``[K0, K1]``.
        means: Means of both sides, shapes ``[K0, d]`` and ``[K1, d]``.
        variances: Total variances of both sides, shapes ``[K0]`` and ``[K1]``.
        categories: The part of the costs that categories cause, less their part of the variances; ``None`` without.
    """

    costs: Float[Array, "K0 K1"]
    means: tuple[Array, Array]
    variances: tuple[Array, Array]
    categories: Float[Array, "K0 K1"] | None = None


def moments_of(source: AbstractComponents, target: AbstractComponents) -> Moments:
    """Moments of two sets of components, by one program for each kind of columns.

    Raises:
        TypeError: If columns are of other kinds on one side than on the other.
    """
    check_spaces(source, target)
    pairs = matched(source, target)
    return _added(source, pairs) if len(pairs) > 1 else _moments_of(source, target)


def _added(source: AbstractComponents, pairs: list[tuple[AbstractComponents, AbstractComponents, float]]) -> Moments:
    """Moments of parts put together."""
    found = [_moments_of(one, other) for one, other, _ in pairs]
    weights, parts = [weight for *_, weight in pairs], source.column_parts()
    known = [(w, m.categories) for w, m in zip(weights, found, strict=True) if m.categories is not None]
    return Moments(
        weighted_sum(weights, [m.costs for m in found]),
        (join([m.means[0] for m in found], parts), join([m.means[1] for m in found], parts)),
        (
            weighted_sum(weights, [m.variances[0] for m in found]),
            weighted_sum(weights, [m.variances[1] for m in found]),
        ),
        weighted_sum(*map(list, zip(*known, strict=True))) if known else None,
    )


def _moments_of(source: AbstractComponents, target: AbstractComponents) -> Moments:
    forms = source.gaussian_form(), target.gaussian_form()
    if not at_top(source, target):
        return _moments((source, target), forms)
    item_size = source.dim**2 * max(source.num_components, target.num_components)
    sides = source.padded(item_size), target.padded(item_size)
    forms = tuple(pad(form, side.num_components) for form, side in zip(forms, sides, strict=True))
    costs, means, variances, categories = _moments(sides, forms)
    num, other = source.num_components, target.num_components
    (mean, variance), (other_mean, other_variance) = (
        cut((means[side], variances[side]), size) for side, size in enumerate((num, other))
    )
    tables = cut(cut((costs, categories), num), other, axis=1)
    return Moments(tables[0], (mean, other_mean), (variance, other_variance), tables[1])


def matched(
    source: AbstractComponents, target: AbstractComponents
) -> list[tuple[AbstractComponents, AbstractComponents, float]]:
    """The parts of two sets of components that describe the same columns, and the weights of their costs."""
    others = {tuple(part.columns.tolist()): part.components for part in target.column_parts()}
    parts = source.column_parts()
    return [(part.components, others[tuple(part.columns.tolist())], part.cost_weight) for part in parts]


def weighted_sum(weights: list[float], tables: list[Array]) -> Array:
    """The sum of tables, each times a weight."""
    return on_host(lambda _, *own: sum(w * table for w, table in zip(weights, own, strict=True)), *tables)


def check_variances(moments: Moments, **sides: AbstractComponents) -> None:
    """Raise ValueError if a component of a side, by name, has no finite variance: no cost of it is finite either."""
    for (name, side), variance in zip(sides.items(), moments.variances, strict=True):
        if is_traced(variance):
            continue
        bad = np.flatnonzero(~np.isfinite(np.asarray(variance)))
        if bad.size:
            raise ValueError(
                f"`{name}` must have a finite covariance in every component; component {bad[0]} "
                f"({type(side).__name__}) does not. Squared distances have no finite mean then."
            )


def check_spaces(source: AbstractComponents, target: AbstractComponents) -> None:
    """Raise TypeError where columns are of other kinds on one side than on the other."""
    left, right = columns_of(source), columns_of(target)
    names = " and ".join(type(side).__name__ for side in (source, target))
    for kind in ("angles", "categories"):
        if not np.array_equal(getattr(left, kind), getattr(right, kind)):
            which = "" if len(left.angles) == 1 else " in the same columns"
            raise TypeError(f"`source` and `target` must both have {kind}{which}, or neither; got {names}.")
    blocks = [{tuple(part.columns.tolist()) for part in side.column_parts()} for side in (source, target)]
    if blocks[0] != blocks[1]:
        raise TypeError(f"`source` and `target` must have the same blocks of columns; got {names}.")
    if not np.array_equal(left.cost_weights, right.cost_weights):
        raise ValueError(f"`source` and `target` must have the same weights of costs; got {names}.")


def independent_costs(source: AbstractComponents, target: AbstractComponents) -> Float[Array, "K0 K1"]:
    """The cost of coupling components independently: squared mean distance plus both total variances."""
    return moments_of(source, target).costs


@program
def _moments(sides: tuple[AbstractComponents, AbstractComponents], forms: tuple[Any, ...]) -> Moments:
    def spread(components: AbstractComponents, form: Any) -> Array:
        if form is not None:
            return traces(form)
        return jnp.trace(components.covariance(), axis1=1, axis2=2)

    if has_angles(sides[0]):
        costs, *variances = independent_arcs(*(side.characteristics() for side in sides))
        return Moments(costs, (sides[0].mean(), sides[1].mean()), (variances[0], variances[1]))
    kinds = [side.category_form() for side in sides]
    if kinds[0] is not None and kinds[1] is not None:
        costs, *variances = independent_categories(kinds[0], kinds[1])
        fixed = costs - variances[0][:, None] - variances[1][None, :]
        return Moments(costs, (sides[0].mean(), sides[1].mean()), (variances[0], variances[1]), fixed)
    left, right = (spread(side, form) for side, form in zip(sides, forms, strict=True))
    means = sides[0].mean(), sides[1].mean()
    return Moments(squared_distances(*means) + left[:, None] + right[None, :], means, (left, right))


def squared_distances(x: Float[Array, "K0 d"], y: Float[Array, "K1 d"]) -> Float[Array, "K0 K1"]:
    """Squared Euclidean distances, by differences: no cancellation between close points far from the origin."""
    return jax.lax.map(lambda row: jnp.sum((row[None, :] - y) ** 2, axis=1), x, batch_size=batch_size(y.size))
