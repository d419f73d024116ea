"""The transport plan: a mixture of component couplings, and everything read from it."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_key, as_points, as_scalar, KeyLike, ScalarLike
from .._base.arrays import is_traced, kept, on_host, split_key, to_jax
from .._base.results import RESULTS, succeeded
from .._base.tables import in_order, maps_tables, reads_tables, tabulates
from .._components.mixture import Mixture
from .._couplings.interface import AbstractComponentMaps, AbstractCouplings, select_pairs
from .._weights.entropic import WeightCoupling
from .correspondences import as_names, as_texts, Correspondences
from .displacement import Displacement, interpolated
from .epsilons import GIVEN
from .groups import flows_between, GroupFlows
from .images import images_of
from .labels import blend, draw_pairs, log_joint
from .masses import MassChange
from .objective import BlockTrace, independence_of
from .summary import advice, far_pairs, summary
from .transfer import Transfer


class TransportPlan(eqx.Module):
    """A coupling of two mixtures, as a mixture of couplings of their components.

    Attributes:
        source: Source mixture, K0 components.
        target: Target mixture, K1 components.
        couplings: The couplings of all pairs of components (the P-block).
        weight_coupling: The coupling of the weights (the Omega-block), with its evidence.
        epsilon_weights: Regularization of the weights, units of squared distance.
        trace: The objective along the block iteration.
        weights_precision: The floating-point type that the weights were solved in.
        masses: What became of the masses where a marginal was relaxed, else ``None``. The plan is then that of the
            mass that stays: `source`, `target` and `weights` are shares of `mass`, and so is everything read from them.
        epsilon_rules: How both regularizations were chosen: ``"given"``, ``"auto"``, or a multiple of it.
        component_names: Names of the components of the source and of the target, ``None`` where they have none.
        feature_names: Names of the columns, where a side was fitted to a data frame: maps take theirs by name.
    """

    source: Mixture
    target: Mixture
    couplings: AbstractCouplings
    weight_coupling: WeightCoupling
    epsilon_weights: Float[Array, ""]
    trace: BlockTrace
    weights_precision: str = eqx.field(static=True)
    masses: MassChange | None = None
    epsilon_rules: tuple[str, str] = eqx.field(static=True, default=(GIVEN, GIVEN))
    component_names: Any = eqx.field(static=True, default=(None, None))
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    # -- numbers --------------------------------------------------------------------------------------------------

    @property
    def weights(self) -> Float[Array, "K0 K1"]:
        """The coupling Omega of the weights; rows sum to the source weights, columns to the target weights."""
        return self.weight_coupling.weights

    @property
    def mass(self) -> Float[Array, ""]:
        """The mass that is transported; one unless a marginal was relaxed."""
        return to_jax(1.0, self.weights.dtype) if self.masses is None else self.masses.mass

    @property
    def source_growth(self) -> Float[Array, " K0"]:
        """Mass that each source component sends over the mass it has; one unless a marginal was relaxed."""
        if self.masses is None:
            return on_host(lambda xp, weights: xp.ones_like(weights), self.source.weights)
        return self.masses.source_growth

    @property
    def target_growth(self) -> Float[Array, " K1"]:
        """Mass that each target component has over the mass it receives; one unless a marginal was relaxed."""
        if self.masses is None:
            return on_host(lambda xp, weights: xp.ones_like(weights), self.target.weights)
        return self.masses.target_growth

    @property
    def growth(self) -> Float[Array, " K0"]:
        """Mass that becomes of each source component in the target, over the mass it has."""

        def value(_: Any, source: Any, shares: Any, target: Any) -> Any:
            return source * (shares @ target)

        return on_host(value, self.source_growth, self.weight_coupling.row_shares, self.target_growth)

    @property
    def independence(self) -> Float[Array, ""]:
        """How near the coupling of the components is to independence, from 0 to 1.

        One less its mutual information over the largest that its marginals allow, the smaller of their entropies: 0
        where each component of one side comes from, or goes to, one of the other alone, and 1 for the outer product.
        """
        return independence_of(self.weights, self.source.weights, self.target.weights)

    @property
    def epsilon_components(self) -> Float[Array, ""]:
        """Regularization of the component couplings, units of squared distance."""
        return self.couplings.epsilon

    @property
    def component_costs(self) -> Float[Array, "K0 K1"]:
        """Mean squared distance under each component coupling."""
        return self.couplings.costs

    @property
    def component_kl(self) -> Float[Array, "K0 K1"]:
        """KL of each component coupling against independence, in nats; infinite at zero regularization."""
        return self.couplings.kl

    @property
    def component_objectives(self) -> Float[Array, "K0 K1"]:
        """Cost plus ``epsilon_components`` times KL of each pair; finite also at zero regularization."""
        return self.couplings.objectives()

    @property
    def cost(self) -> Float[Array, ""]:
        """The transport cost: mean squared distance under the plan (without regularization terms)."""
        return on_host(lambda xp, weights, costs: xp.sum(weights * costs), self.weights, self.component_costs)

    @property
    def objective(self) -> Float[Array, ""]:
        """The minimized objective: cost plus both regularization terms.

        With ``epsilon_weights`` = 0 its derivative is that of the linear program's value.
        """
        return on_host(lambda _, values: values[-1], self.trace.objective)

    @property
    def marginal_error(self) -> Float[Array, ""]:
        """L1 error of the row sums of ``weights`` plus that of the column sums."""
        return self.weight_coupling.marginal_error

    @property
    def num_steps(self) -> Array:
        """Steps of the weight solve."""
        return self.weight_coupling.num_steps

    @property
    def component_errors(self) -> Float[Array, "K0 K1"]:
        """Cautious estimates of the absolute error of ``component_objectives``, units of squared distance.

        Rounding where the couplings are in closed form; quadrature, interpolation and sampling where they are not.
        """
        return self.couplings.objective_errors

    @property
    def result(self) -> Any:
        """Why the solves stopped: that of the couplings where it failed, else that of the weights."""
        components, weights = self.couplings.result, self.weight_coupling.result
        fine = succeeded(components)
        if isinstance(fine, bool):
            return weights if fine else components
        return RESULTS.where(fine, weights, components)

    @property
    def converged(self) -> bool | Array:
        """Whether both blocks met their tolerances."""
        return succeeded(self.result)

    # -- maps -----------------------------------------------------------------------------------------------------

    @maps_tables
    def push_forward(self, x: ArrayLike) -> Float[Array, "n d"]:
        r"""The barycentric map T(x) = E[y | x] under the plan.

        Within one source component every point shares the same split over target components, so T blends K0 affine
        maps (for Gaussians): few source components make it coarse, however many the target has. `sample` draws from
        the conditional law instead of averaging it.

        Args:
            x: Points, shape ``[n, d]``.

        Raises:
            ValueError: If a point lies outside the support of every source component.
        """
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        return images_of(self._rows()[0], self.component_maps(), points)

    @maps_tables
    def pull_back(self, y: ArrayLike) -> Float[Array, "n d"]:
        """The backward barycentric map E[x | y] under the same plan, at points ``y[n, d]``."""
        return self._reversed().push_forward(as_points("y", y, self.target.dim))

    @maps_tables
    def push_forward_most_likely(self, x: ArrayLike) -> Float[Array, "n d"]:
        """The conditional mean under the most likely pair of components only, at points ``x[n, d]``."""
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        rows, row_shares = self._rows()

        def largest(xp: Any, member: Any, shares: Any) -> tuple[Any, Any]:
            source = xp.argmax(member, axis=1)
            return source, xp.argmax(shares, axis=1)[source]

        return self.couplings.conditional_mean(points, *on_host(largest, rows.responsibilities(points), row_shares))

    @tabulates(lambda plan, **_: as_texts(plan.component_names[1], plan.target.num_components))
    def target_probabilities(self, x: ArrayLike) -> Float[Array, "n K1"]:
        """The probability that each point ``x[n, d]`` is sent to each target component."""
        rows, row_shares = self._rows()
        return blend(rows.responsibilities(x), row_shares)

    @tabulates(lambda plan, **_: ("survival",))
    def survival(self, x: ArrayLike) -> Float[Array, " n"]:
        """Mass that is sent from each point ``x[n, d]``, over the mass there; above one where mass is created.

        ``plan.reverse().survival(y)`` is the mass that arrives over the mass there.
        """
        given = self.source if self.masses is None else self.masses.source
        if self.couplings.keeps_marginals:
            return on_host(lambda _, member, growth: member @ growth, given.responsibilities(x), self.source_growth)
        densities = self._rows()[0].log_prob(x), given.log_prob(x)
        total = self.mass if self.masses is None else self.masses.source_mass
        return on_host(lambda xp, left, there, *of: of[0] / of[1] * xp.exp(left - there), *densities, self.mass, total)

    @reads_tables
    def conditional_covariance(self, x: ArrayLike) -> Float[Array, "n d d"]:
        """The total covariance of y given x under the plan: within pairs and between them."""
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        center, (rows, row_shares) = self.push_forward(points), self._rows()
        shares = select_pairs(row_shares, 0.0)
        return self.couplings.conditional_covariance(points, center, rows.responsibilities(points), shares)

    @maps_tables
    def sample(self, key: KeyLike, x: ArrayLike) -> Float[Array, "n d"]:
        """One draw of y from the conditional law of the plan, for each point ``x[n, d]``."""
        points = as_points("x", x, self.source.dim, self.source.components.dtype)
        rows, row_shares = self._rows()
        source, target, draw_key = draw_pairs(as_key(key), rows.responsibilities(points), row_shares)
        return self.couplings.sample_conditional(draw_key, points, source, target)

    def sample_joint(self, key: KeyLike, num_samples: int) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        """Draw pairs (x, y) from the plan."""
        x_key, y_key = split_key(as_key(key), 2)
        x = self._rows()[0].sample(x_key, as_count("num_samples", num_samples))
        return x, self.sample(y_key, x)

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
        if not is_traced(self.epsilon_components) and float(self.epsilon_components) == 0:
            raise ValueError("The plan has no joint density at `epsilon_components` = 0: its couplings are maps.")
        rows, row_shares = self._rows()
        return self.couplings.log_conditional(points, images, log_joint(rows, points), select_pairs(row_shares, 0.0))

    def reverse(self) -> "TransportPlan":
        """The same plan, read from target to source."""
        return TransportPlan(
            self.target,
            self.source,
            self.couplings.transpose(),
            self.weight_coupling.transpose(),
            self.epsilon_weights,
            self.trace,
            self.weights_precision,
            None if self.masses is None else self.masses.reverse(),
            self.epsilon_rules,
            self.component_names[::-1],
            self.feature_names,
        )

    def interpolate(self, t: ScalarLike, *, min_weight: float = 1e-6) -> Mixture | Displacement:
        """Displacement interpolation: the law of (1 - t) x + t y under the plan.

        Where a marginal was relaxed, the mass of each pair grows or decays on its way at a constant rate, from the
        given source at 0 to the given target at 1; `mass_at` says how much there is.

        Args:
            t: Time from 0 (source) to 1 (target).
            min_weight: Pairs of smaller weight are dropped and the rest rescaled; see
                ``correspondences(min_weight).dropped_weight`` for how much that leaves out.

        Returns:
            A mixture where every pair has a closed form in between (Gaussians), otherwise a law that samples and has
            moments.

        Raises:
            ValueError: If ``t`` lies outside [0, 1], or every pair is dropped.
        """
        time = to_jax(as_scalar("t", t), self.weights.dtype)
        if not is_traced(time) and float(time) > 1:
            raise ValueError(f"`t` must lie between 0 and 1; got {float(time):g}.")
        sides = self.source.components, self.target.components
        return interpolated(*sides, self.couplings, self._pairs_at(time), time, min_weight)

    def mass_at(self, t: ScalarLike) -> Float[Array, ""]:
        """The mass at time t: that of the source at 0, that of the target at 1; one unless a marginal was relaxed."""
        time = to_jax(as_scalar("t", t), self.weights.dtype)
        return on_host(lambda xp, table: xp.sum(table), self._masses_at(time))

    def _pairs_at(self, time: Float[Array, ""]) -> Float[Array, "K0 K1"]:
        """The share of the mass that every pair has at a time."""
        if self.masses is None and self.couplings.keeps_marginals:
            return self.weights
        return on_host(lambda xp, table: table / xp.sum(table), self._masses_at(time))

    def _masses_at(self, time: Float[Array, ""]) -> Float[Array, "K0 K1"]:
        """The mass that every pair has at a time."""
        table = self.weights if self.masses is None else self.masses.weights_at(self.weight_coupling, time)
        stays = self.couplings.masses_between(time)
        return table if stays is None else on_host(lambda _, *values: values[0] * values[1], table, stays)

    def correspondences(self, min_weight: float = 1e-3, *, names: Any = None) -> Correspondences:
        """Which source component goes to which target component, with what share and cost; print it to read it.

        Args:
            min_weight: Lighter pairs are left out.
            names: Names of the components of the source and of the target, ``None`` for a side without; by default
                those they have.
        """
        return Correspondences.of(
            self.weights,
            self.weight_coupling.row_shares,
            self.weight_coupling.column_shares,
            self.component_costs,
            float(as_scalar("min_weight", min_weight)),
            None if self.masses is None else (self.source_growth, self.target_growth),
            far_pairs(self),
            as_names(self.component_names if names is None else names, self.weights.shape),
        )

    def group_flows(self, source_groups: Any = None, target_groups: Any = None) -> GroupFlows:
        """Mass that goes from group to group, such as from cell type to cell type, with shares and purities.

        Args:
            source_groups: `GroupShares` of the source (see `group_shares`), or one name per component; by default the
                names that components have (see `mixture_from_labels`).
            target_groups: The same of the target.
        """
        groups = [
            own if own is not None else kept_names
            for own, kept_names in zip((source_groups, target_groups), self.component_names, strict=True)
        ]
        weights = self.source.weights, self.target.weights
        return flows_between([self.weights], weights, groups, np.arange(2.0), ["source_groups", "target_groups"])

    def transfer(self, labels: Any, x: ArrayLike, y: ArrayLike | None = None) -> Transfer:
        """Carry labels that are known for points of the source to the target; ``plan.reverse()`` carries them back.

        A target component has the labels of the source components that it comes from, in the shares of the plan; within
        a component, where mass goes is taken not to depend on the label.

        Args:
            labels: The label of each source point, a name or number, length n0; or probabilities of labels, shape
                ``[n0, L]``, whose columns a table names.
            x: Points of the source, shape ``[n0, d]``.
            y: Points of the target whose labels are asked for, shape ``[n1, d]``; by default its components.

        Raises:
            ValueError: If there is not one label for each point.
        """
        source, target = (self.source, self.target) if self.masses is None else (self.masses.source, self.masses.target)
        x, y = in_order("x", x, self.feature_names), in_order("y", y, self.feature_names)
        member = source.responsibilities(x), None if y is None else target.responsibilities(y)
        return Transfer.of(labels, *member, self.weight_coupling.column_shares, target.weights)

    def component_maps(self) -> AbstractComponentMaps:
        """The barycentric map of each source component, collapsed over the target; kept once computed.

        Where pairs have marginals of their own, the map of each pair.
        """
        return kept(self, "_component_maps", lambda: self.couplings.component_maps(self._rows()[1]))

    def marginals(self) -> tuple[Mixture, Mixture]:
        """The laws of x and of y under the plan: `source` and `target`, or mixtures over all pairs of components.

        The latter where components change their shapes, by ``component_relaxation``.
        """
        return self._rows()[0], self._reversed()._rows()[0]

    def _rows(self) -> tuple[Mixture, Float[Array, "r K1"]]:
        """The components of the law of x, and the share of each target component in each."""
        return kept(
            self, "_row_laws", lambda: self.couplings.rows(self.source, self.weights, self.weight_coupling.row_shares)
        )

    def _reversed(self) -> "TransportPlan":
        return kept(self, "_reverse_plan", self.reverse)

    def __repr__(self) -> str:
        return summary(self)

    def __str__(self) -> str:
        return "\n".join([summary(self), *advice(self)])
