"""The transport plan of mixtures with many components: most pairs carry nothing, and are not in it."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arguments import ArrayLike, as_count, as_key, as_points, as_scalar, KeyLike, ScalarLike
from .._base.arrays import host_generator, is_traced, kept, on_host, power_of_two, split_key, to_jax
from .._base.results import succeeded
from .._base.tables import in_order, maps_tables, reads_tables, tabulates
from .._components.mixture import Mixture
from .._couplings.interface import AbstractComponentMaps, PairSelection
from .._couplings.listed import ListedCouplings
from .._weights.listed import Pairs
from .._weights.sparse_coupling import SparseCoupling
from .correspondences import as_names, as_texts, Correspondences
from .epsilons import GIVEN
from .groups import flows_between, GroupFlows
from .images import images_of
from .labels import log_joint
from .transfer import Transfer

# Numbers in a table of responsibilities that is held at once.
_BLOCK = 2**25


class SparsePlan(eqx.Module):
    """A coupling of two mixtures by those pairs of components that may carry mass; see `transport`.

    All others carry at most the share `left_out` of the mass in the plan of all pairs. Tables of pairs are sparse
    matrices of SciPy; maps, draws and interpolation cost in proportion to the pairs that there are.

    Attributes:
        source: Source mixture, K0 components.
        target: Target mixture, K1 components.
        couplings: The couplings of the pairs.
        weight_coupling: The coupling of the weights, with its evidence.
        epsilon_weights: Regularization of the weights, units of squared distance.
        objective: The minimized objective: cost plus both regularization terms. It exceeds that of all pairs by at most
            ``epsilon_weights`` times `left_out`.
        pair_tolerance: What the pairs that are left out were allowed to carry.
        epsilon_rules: How both regularizations were chosen: ``"given"``, ``"auto"``, or a multiple of it.
        component_names: Names of the components of the source and of the target, ``None`` where they have none.
        feature_names: Names of the columns, where a side was fitted to a data frame: maps take theirs by name.
    """

    source: Mixture
    target: Mixture
    couplings: ListedCouplings
    weight_coupling: SparseCoupling
    epsilon_weights: Float[Array, ""]
    objective: Float[Array, ""]
    pair_tolerance: Float[Array, ""]
    epsilon_rules: tuple[str, str] = eqx.field(static=True, default=(GIVEN, GIVEN))
    component_names: Any = eqx.field(static=True, default=(None, None))
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"A plan with `pair_tolerance` has no `{name}`. Leave `pair_tolerance` out of `transport` for a plan of "
            "all pairs, which has what `TransportPlan` lists."
        )

    # -- numbers --------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Any:
        """The coupling Omega of the weights, a sparse matrix of SciPy, shape ``[K0, K1]``."""
        return self._table(self.weight_coupling.weights)

    @property
    def component_costs(self) -> Any:
        """Mean squared distance under the coupling of each pair, a sparse matrix with the entries of `weights`."""
        return self._table(self.couplings.costs)

    @property
    def component_kl(self) -> Any:
        """KL of each pair's coupling against independence, in nats, likewise."""
        return self._table(self.couplings.kl)

    @property
    def component_objectives(self) -> Any:
        """Cost plus ``epsilon_components`` times KL of each pair, likewise."""
        return self._table(self.couplings.objectives())

    @property
    def epsilon_components(self) -> Float[Array, ""]:
        """Regularization of the component couplings, units of squared distance."""
        return self.couplings.epsilon

    @property
    def cost(self) -> Float[Array, ""]:
        """The transport cost: mean squared distance under the plan (without regularization terms)."""
        values = self.weight_coupling.weights, self.couplings.costs
        return on_host(lambda xp, weights, costs: xp.sum(weights * costs), *values)

    @property
    def left_out(self) -> Float[Array, ""]:
        """The most that the pairs that are left out carry together in the plan of all pairs, as a share of the mass."""
        return self.weight_coupling.left_out

    @property
    def num_pairs(self) -> int:
        """The number of pairs in the plan."""
        return self.weight_coupling.num_pairs

    @property
    def num_computed(self) -> Int[Array, ""]:
        """The number of pairs whose coupling was computed; the others were judged by a bound."""
        return self.weight_coupling.num_computed

    @property
    def marginal_error(self) -> Float[Array, ""]:
        """L1 error of the row sums of ``weights`` plus that of the column sums."""
        return self.weight_coupling.marginal_error

    @property
    def num_steps(self) -> Array:
        """Steps of the weight solves, one for each list of pairs."""
        return self.weight_coupling.num_steps

    @property
    def weights_precision(self) -> str:
        """The floating-point type that the weights were solved in."""
        return "float64"

    @property
    def result(self) -> Any:
        """Why the solve stopped."""
        return self.weight_coupling.result

    @property
    def converged(self) -> Any:
        """Whether the weights met their tolerance."""
        return succeeded(self.result)

    # -- maps -----------------------------------------------------------------------------------------------------

    @maps_tables
    def push_forward(self, x: ArrayLike) -> Float[Array, "n d"]:
        """The barycentric map T(x) = E[y | x] under the plan, at points ``x[n, d]``."""
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        return images_of(self.source, self.component_maps(), points)

    @maps_tables
    def pull_back(self, y: ArrayLike) -> Float[Array, "n d"]:
        """The backward barycentric map E[x | y] under the same plan, at points ``y[n, d]``."""
        return self._reversed().push_forward(as_points("y", y, self.target.dim))

    @maps_tables
    def push_forward_most_likely(self, x: ArrayLike) -> Float[Array, "n d"]:
        """The conditional mean under the most likely pair of components only, at points ``x[n, d]``."""
        points = self._host_points("push_forward_most_likely", x)
        table = self._table(self.weight_coupling.row_shares)
        source = np.concatenate([member.argmax(axis=1) for member in self._members(points)])
        return self.couplings.conditional_mean(points, to_jax(source), to_jax(table.argmax(axis=1)[source]))

    @tabulates(lambda plan, **_: as_texts(plan.component_names[1], plan.target.num_components))
    def target_probabilities(self, x: ArrayLike) -> Float[Array, "n K1"]:
        """The probability that each point ``x[n, d]`` is sent to each target component."""
        points, table = self._host_points("target_probabilities", x), self._table(self.weight_coupling.row_shares)
        return to_jax(np.concatenate([member @ table for member in self._members(points)]))

    @maps_tables
    def sample(self, key: KeyLike, x: ArrayLike) -> Float[Array, "n d"]:
        """One draw of y from the conditional law of the plan, for each point ``x[n, d]``."""
        points = self._host_points("sample", x)
        pair_key, draw_key = split_key(as_key(key), 2)
        random = host_generator(pair_key)
        source = np.concatenate([_drawn(random, np.cumsum(member, axis=1)) for member in self._members(points)])
        # Shares of each row, one row after another: row i has the levels from i to i + 1.
        table = self._table(self.weight_coupling.row_shares)
        ends = np.cumsum(np.asarray(table.data, np.float64))
        first, last = (np.append(0.0, ends)[table.indptr[source + side]] for side in (0, 1))
        levels = first + (1 - random.random(source.size)) * (last - first)
        place = np.clip(np.searchsorted(ends, levels), table.indptr[source], table.indptr[source + 1] - 1)
        return self.couplings.sample_conditional(draw_key, points, to_jax(source), to_jax(table.indices[place]))

    def sample_joint(self, key: KeyLike, num_samples: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Draw pairs (x, y) from the plan."""
        x_key, y_key = split_key(as_key(key), 2)
        x = self.source.sample(x_key, as_count("num_samples", num_samples))
        return x, self.sample(y_key, x)

    @reads_tables
    def conditional_covariance(self, x: ArrayLike) -> Float[Array, "n d d"]:
        """The total covariance of y given x under the plan: within pairs and between them."""
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        member = self.source.responsibilities(points)
        return self.couplings.conditional_covariance(points, self.push_forward(points), member, self._shares())

    @reads_tables
    def log_prob(self, x: ArrayLike, y: ArrayLike) -> Float[Array, " n"]:
        """Log-density of the plan at pairs ``(x[n, d], y[n, d])``, in nats.

        Raises:
            ValueError: If the shapes differ, or ``epsilon_components`` is 0 and the plan has no density.
        """
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        images = as_points("y", y, self.target.dim, points.dtype)
        if points.shape != images.shape:
            raise ValueError(f"`y` must have the shape of `x`, {tuple(points.shape)}; got {tuple(images.shape)}.")
        if float(self.epsilon_components) == 0:
            raise ValueError("The plan has no joint density at `epsilon_components` = 0: its couplings are maps.")
        return self.couplings.log_conditional(points, images, log_joint(self.source, points), self._shares())

    def reverse(self) -> "SparsePlan":
        """The same plan, read from target to source."""
        return SparsePlan(
            self.target,
            self.source,
            self.couplings.transpose().in_order(self.weight_coupling.transposed_order()),
            self.weight_coupling.transpose(),
            self.epsilon_weights,
            self.objective,
            self.pair_tolerance,
            self.epsilon_rules,
            self.component_names[::-1],
            self.feature_names,
        )

    def interpolate(self, t: ScalarLike, *, min_weight: float = 1e-6) -> Mixture:
        """Displacement interpolation: the law of (1 - t) x + t y under the plan, a mixture over its pairs.

        Args:
            t: Time from 0 (source) to 1 (target).
            min_weight: Pairs of smaller weight are dropped and the rest rescaled.

        Raises:
            ValueError: If ``t`` lies outside [0, 1], or every pair is dropped.
        """
        time = to_jax(as_scalar("t", t), self.weight_coupling.weights.dtype)
        if float(time) > 1:
            raise ValueError(f"`t` must lie between 0 and 1; got {float(time):g}.")
        pairs = self._selected(self.weight_coupling.weights, float(as_scalar("min_weight", min_weight)))
        weights = np.asarray(pairs.weight)
        num = int(np.count_nonzero(weights))
        if not num:
            largest = float(np.max(np.asarray(self.weight_coupling.weights)))
            raise ValueError(f"`min_weight` must leave some pairs; the largest weight is {largest:.3g}.")
        return Mixture(weights[:num] / weights.sum(), self.couplings.interpolate(time, pairs).select(slice(num)))

    def correspondences(self, min_weight: float = 1e-3, *, names: Any = None) -> Correspondences:
        """Which source component goes to which target component; see `TransportPlan.correspondences`."""
        sizes = self.source.num_components, self.target.num_components
        coupling = self.weight_coupling
        tables = coupling.source, coupling.target, coupling.weights, coupling.row_shares, coupling.column_shares
        values = [np.asarray(value) for value in (*tables, self.couplings.costs)]
        order = np.argsort(-values[2], kind="stable")
        order = order[values[2][order] > float(as_scalar("min_weight", min_weight))]
        pairs = [value[order].astype(int if k < 2 else np.float64) for k, value in enumerate(values)]
        dropped = max(0.0, float(values[2].astype(np.float64).sum() - pairs[2].sum()))
        known = as_names(self.component_names if names is None else names, sizes)
        return Correspondences(*pairs, dropped_weight=dropped, names=known)

    def group_flows(self, source_groups: Any = None, target_groups: Any = None) -> GroupFlows:
        """Mass that goes from group to group; see `TransportPlan.group_flows`."""
        groups = [
            own if own is not None else kept_names
            for own, kept_names in zip((source_groups, target_groups), self.component_names, strict=True)
        ]
        weights, table = (self.source.weights, self.target.weights), self.weights.toarray()
        return flows_between([table], weights, groups, np.arange(2.0), ["source_groups", "target_groups"])

    def transfer(self, labels: Any, x: ArrayLike, y: ArrayLike | None = None) -> Transfer:
        """Carry labels that are known for points of the source to the target; see `TransportPlan.transfer`."""
        x, y = in_order("x", x, self.feature_names), in_order("y", y, self.feature_names)
        member = self.source.responsibilities(x), None if y is None else self.target.responsibilities(y)
        shares = self._table(self.weight_coupling.column_shares).toarray()
        return Transfer.of(labels, *member, shares, self.target.weights)

    def component_maps(self) -> AbstractComponentMaps:
        """The barycentric map of each source component, collapsed over the target; kept once computed."""
        return kept(self, "_component_maps", lambda: self.couplings.component_maps(self._shares()))

    def _table(self, values: Array) -> Any:
        """Values of the pairs as a sparse matrix of SciPy."""
        source, target = np.asarray(self.weight_coupling.source), np.asarray(self.weight_coupling.target)
        shape = self.source.num_components, self.target.num_components
        return Pairs(source, target, shape).table(np.asarray(values))

    def _selected(self, values: Array, threshold: float) -> PairSelection:
        """The pairs whose value exceeds a threshold, padded to a power of two."""
        host = np.asarray(values)
        chosen = np.flatnonzero(host > threshold)
        extra = (0, power_of_two(chosen.size) - chosen.size)
        indices = (np.asarray(side)[chosen] for side in (self.weight_coupling.source, self.weight_coupling.target))
        return PairSelection(*(to_jax(np.pad(value, extra)) for value in (*indices, host[chosen])))

    def _shares(self) -> PairSelection:
        """The pairs with their shares of the source components; those below a rounding error change nothing."""
        shares = self.weight_coupling.row_shares
        return kept(self, "_row_shares", lambda: self._selected(shares, float(np.finfo(shares.dtype).eps) * 1e-3))

    def _reversed(self) -> "SparsePlan":
        return kept(self, "_reverse_plan", self.reverse)

    def _host_points(self, name: str, x: ArrayLike) -> Float[Array, "n d"]:
        if is_traced(x):
            raise TypeError(f"`{name}` of a plan with `pair_tolerance` looks at its points and cannot be traced.")
        return as_points("x", x, self.source.dim, self.source.components.dtype)

    def _members(self, points: Float[Array, "n d"]) -> Any:
        """Responsibilities of the source components, for some points at a time."""
        size = max(1, _BLOCK // self.source.num_components)
        host = np.asarray(points)
        yield from (
            np.asarray(self.source.responsibilities(host[start : start + size]))
            for start in range(0, max(len(host), 1), size)
        )

    def __repr__(self) -> str:
        sizes = self.source.num_components, self.target.num_components
        if is_traced(self):
            return f"SparsePlan({sizes[0]} -> {sizes[1]} components in {self.source.dim} dimensions, traced)"
        values = self.epsilon_components, self.epsilon_weights
        epsilons = [
            f"epsilon_{name} {float(value):.3g}" + ("" if rule == GIVEN else f" ({rule})")
            for name, value, rule in zip(("components", "weights"), values, self.epsilon_rules, strict=True)
        ]
        pairs = f"{self.num_pairs} of {sizes[0] * sizes[1]} pairs, {int(self.num_computed)} computed"
        numbers = [
            f"{sizes[0]} -> {sizes[1]} components in {self.source.dim} dimensions",
            f"{pairs}, others carry at most {float(self.left_out):.2g}",
            f"cost {float(self.cost):.6g}, objective {float(self.objective):.6g}",
            *epsilons,
            f"marginal error {float(self.marginal_error):.1e} after {int(self.num_steps)} steps",
        ]
        return f"SparsePlan({', '.join(numbers)})"


def _drawn(random: np.random.Generator, levels: np.ndarray) -> np.ndarray:
    """An index for each row of cumulative weights; one of weight zero is never drawn."""
    level = (1 - random.random(len(levels))) * levels[:, -1]
    return np.sum(levels < level[:, None], axis=1)
