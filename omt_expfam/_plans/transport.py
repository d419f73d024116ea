"""Transport between two mixtures: the block iteration over component couplings and weight couplings."""

import math
from typing import Any, overload

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_floating, as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host, to_jax
from .._base.results import raise_if_failed
from .._base.xla import full_precision
from .._components.mixture import as_mixture, as_pair, cast_mixture, Mixture, MixtureLike
from .._couplings.cross_covariances import cross_covariance_terms
from .._couplings.interface import check_variances, moments_of
from .._couplings.settings import NumericalSettings
from .._couplings.solve import solve_couplings
from .._weights.exact import exact_coupling
from .._weights.solve import solve_weights
from .epsilons import choose_epsilons, EpsilonLike
from .objective import BlockTrace, least_objective, objective_of, potential_of
from .plan import TransportPlan
from .relaxations import as_component_prices, as_relaxation, RelaxationLike
from .sparse import sparse_transport
from .sparse_plan import SparsePlan


class BlockStart(eqx.Module):
    """Where the block iteration starts.

    Attributes:
        weights: A coupling of the weights, shape ``[K0, K1]``; by default the product of the weights.
        cross_covariances: Cross-covariances of Gaussian component couplings, shape ``[K0, K1, d, d]``, source
            coordinates first; by default the components are coupled independently.
    """

    weights: ArrayLike | None = None
    cross_covariances: ArrayLike | None = None


@overload
def transport(
    source: MixtureLike,
    target: MixtureLike,
    *,
    pair_tolerance: None = None,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    source_relaxation: RelaxationLike = math.inf,
    target_relaxation: RelaxationLike = math.inf,
    component_relaxation: ScalarLike | tuple[ScalarLike, ScalarLike] = math.inf,
    source_mass: ScalarLike = 1.0,
    target_mass: ScalarLike = 1.0,
    start: BlockStart | None = None,
    num_sweeps: int = 1,
    tolerance: float | None = None,
    max_steps: int = 1000,
    numerical: NumericalSettings | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> TransportPlan: ...
@overload
def transport(
    source: MixtureLike,
    target: MixtureLike,
    *,
    pair_tolerance: ScalarLike,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    tolerance: float | None = None,
    max_steps: int = 1000,
    progress: bool | None = None,
    throw: bool = True,
) -> SparsePlan: ...
@full_precision
def transport(
    source: MixtureLike,
    target: MixtureLike,
    *,
    pair_tolerance: ScalarLike | None = None,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    source_relaxation: RelaxationLike = math.inf,
    target_relaxation: RelaxationLike = math.inf,
    component_relaxation: ScalarLike | tuple[ScalarLike, ScalarLike] = math.inf,
    source_mass: ScalarLike = 1.0,
    target_mass: ScalarLike = 1.0,
    start: BlockStart | None = None,
    num_sweeps: int = 1,
    tolerance: float | None = None,
    max_steps: int = 1000,
    numerical: NumericalSettings | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> TransportPlan | SparsePlan:
    r"""Couple two mixtures by entropic optimal transport of their components and of their weights.

    Minimizes, over couplings $p_{ij}$ of the components and couplings $\Omega$ of the weights,

    $$\sum_{ij} \omega_{ij} \Big[\int \|x - y\|^2 dp_{ij} + \varepsilon_1 KL(p_{ij} \| \mu_{0i} \otimes \mu_{1j})\Big]
      + \varepsilon_2 KL(\Omega \| \alpha_0 \otimes \alpha_1)$$

    by alternating the two blocks. The first block does not depend on the second, so one sweep reaches the unique
    minimizer from any interior start; more sweeps show that it stays there.

    Where shares change between the two (types that grow, die or appear), a balanced plan sends mass to the wrong
    component. With a finite ``source_relaxation`` $\rho_0$ or ``target_relaxation`` $\rho_1$ the objective has the
    terms $\rho_0 KL(\Omega 1 \| \alpha_0) + \rho_1 KL(\Omega^T 1 \| \alpha_1)$ instead of constraints (unbalanced
    transport; Chizat et al., 2018): mass is destroyed and created where that is cheaper than moving it, at a distance
    whose square is of the order of $\rho_0 + \rho_1$. The plan then is that of the mass that stays, and
    `TransportPlan.masses` says what became of the rest.

    A ``component_relaxation`` $\tau$ does the same within components: $p_{ij}$ is any law whose marginals have the
    prices $\tau_0 KL(p_{ij,0} \| \mu_{0i}) + \tau_1 KL(p_{ij,1} \| \mu_{1j})$, in the brackets above. For one
    component on either side and both prices and regularizations equal, that is unbalanced transport of two Gaussian
    measures (Janati et al., 2020).

    With thousands of Gaussian components, most pairs carry nothing. With a ``pair_tolerance`` their couplings are never
    computed: a lower bound of what a pair costs, and the dual of the weights, say what it could carry at most.

    Args:
        source: Source mixture, or a fit of it.
        target: Target mixture or fit, of the same dimension.
        pair_tolerance: The share of the mass that pairs of Gaussian components may carry together which are left out of
            the plan, such as 1e-3, and ``None`` for a plan of all pairs. None of those left out may carry more than a
            hundredth of a component.
        epsilon_components: Regularization of the component couplings, a number in units of squared distance; 0 gives
            the unregularized (Monge) couplings. ``"auto"`` is a hundredth of the typical variance within components,
            per coordinate.
        epsilon_weights: Regularization of the weight coupling, likewise; 0 gives the exact linear program, which is
            solved on the host and cannot be traced. ``"auto"`` is a twentieth of the typical squared distance between
            the points of a component and those of the nearest one on the other side, once both means are brought
            together. Derivatives are of what is computed, and pass through ``"auto"``.
        epsilon_scale: Multiplies ``"auto"``.
        source_relaxation: Price rho0 of changing the source masses, units of squared distance; infinite keeps them.
            Or `TotalVariation`, a price per unit of mass in place of a divergence, or `Partial`, the share to move.
        target_relaxation: Price rho1 of changing the target masses, likewise.
        component_relaxation: Price of changing the shape of Gaussian components, units of squared distance, one number
            or those of source and target; infinite keeps them. Each pair then couples parts of its two components.
        source_mass: Total mass of the source, such as a number of cells; matters where a marginal is relaxed.
        target_mass: Total mass of the target.
        start: Where the block iteration starts; changes the trace, not the answer.
        num_sweeps: Number of sweeps over both blocks.
        tolerance: Largest accepted marginal error (L1, rows plus columns) of the weight coupling. Default 1e-10 where
            it is solved in float64, 5e-6 in float32.
        max_steps: Limit on the steps of the weight solve.
        numerical: How accurately component couplings are computed that have neither a closed form nor independent
            coordinates.
        progress: Show a progress bar over the component couplings; by default on a terminal, when there are many.
        throw: Raise when a solve fails; otherwise the plan's ``result`` tells.

    Returns:
        The plan: a `SparsePlan` with a ``pair_tolerance``, otherwise a `TransportPlan`. All of the latter is
        differentiable with respect to both mixtures and both regularizations when ``epsilon_weights`` is positive.
        Float32 mixtures with ``epsilon_weights`` below 1e-4 of the largest cost have their weights solved in float64
        inside, see `TransportPlan.weights_precision`; under a caller's ``jit`` that is not possible and float32 is
        used.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If the dimensions differ, a component has no finite covariance, a regularization is negative, a
            relaxation or mass is not positive, masses differ that are to be kept, ``epsilon_components`` is 0 for
            components that are coupled numerically or whose shapes may change, or these are not Gaussian.
        ConvergenceError: If a solve fails and ``throw`` is true.
    """
    names = tuple(getattr(side, "names", None) for side in (source, target))
    features, (source, target) = aligned(source=source, target=target)
    source, target = as_pair(source, target)
    dtype = jnp.result_type(source.components.dtype, target.components.dtype)
    source, target = (cast_mixture(mixture, dtype) for mixture in (source, target))
    if tolerance is not None:
        as_scalar("tolerance", tolerance, strict=True)
    num_sweeps, max_steps = as_count("num_sweeps", num_sweeps), as_count("max_steps", max_steps)
    if pair_tolerance is not None:
        others = {
            "source_relaxation": (source_relaxation, math.inf),
            "target_relaxation": (target_relaxation, math.inf),
            "component_relaxation": (component_relaxation, math.inf),
            "source_mass": (source_mass, 1),
            "target_mass": (target_mass, 1),
            "start": (start, None),
            "num_sweeps": (num_sweeps, 1),
            "numerical": (numerical, None),
        }
        epsilons, settings = (
            (epsilon_components, epsilon_weights, epsilon_scale),
            (tolerance, max_steps, progress, throw),
        )
        return sparse_transport(source, target, pair_tolerance, epsilons, *settings, (names, features), others)
    moments = moments_of(source.components, target.components)
    chosen = choose_epsilons(source, target, epsilon_components, epsilon_weights, epsilon_scale, moments)
    check_variances(moments, source=source.components, target=target.components)
    epsilon_1, epsilon_2 = (to_jax(epsilon, dtype) for epsilon in chosen[:2])
    exact = not is_traced(chosen.weights) and float(chosen.weights) == 0
    if numerical is not None and not isinstance(numerical, NumericalSettings):
        raise TypeError(f"`numerical` must be NumericalSettings; got {type(numerical).__name__}.")

    prices = as_component_prices(component_relaxation, epsilon_1)
    relaxed = as_relaxation(source_relaxation, target_relaxation, source_mass, target_mass, dtype)
    weights, costs = _start_values(start, source, target, epsilon_1, moments.costs)
    a, b = source.weights, target.weights
    if relaxed is not None:
        a, b, weights = on_host(_scaled, a, b, weights, *relaxed.masses)

    def objective(weights: Array, costs: Array) -> Float[Array, ""]:
        if relaxed is None:
            return objective_of(weights, costs, a, b, epsilon_2)
        return relaxed.objective(weights, costs, a, b, epsilon_2)

    trace, masses = [objective(weights, costs)], None
    potential = to_jax(np.zeros(b.shape, dtype))
    while True:
        couplings = solve_couplings(source.components, target.components, epsilon_1, progress, numerical, prices)
        objectives = couplings.objectives()
        trace.append(objective(weights, objectives))
        if len(trace) == 2 and start is not None and start.weights is not None:
            potential = potential_of(weights, objectives, a, b, epsilon_2)
        if exact and relaxed is None:
            coupling, value = exact_coupling(objectives, a, b)
            weights, precision = coupling.weights, "float64"
        elif relaxed is None:
            coupling, precision = solve_weights(objectives, a, b, epsilon_2, tolerance, potential, max_steps)
            weights = coupling.weights
            solved = coupling.weights, coupling.source_potential, coupling.target_potential
            least = least_objective if is_traced(objectives, a, b, epsilon_2) else least_objective.fun
            value = least(objectives, a, b, epsilon_2, solved)
        else:
            if exact:
                found = relaxed.solve_exact(objectives, a, b, max_steps)
            else:
                found = relaxed.solve(objectives, a, b, epsilon_2, tolerance, potential, max_steps)
            coupling, precision = found.coupling, str(dtype) if is_traced(objectives) else "float64"
            weights = on_host(lambda _, values, mass: values * mass, coupling.weights, found.mass)
            value, masses = objective(weights, objectives), relaxed.change(source, target, found)
        potential = coupling.target_potential
        trace.append(value)
        if len(trace) > 2 * num_sweeps:
            break
    values = on_host(lambda xp, *items: xp.stack(items), *trace)
    steps = BlockTrace(values, ("start",) + ("components", "weights") * num_sweeps)
    if masses is not None:
        rows, columns = on_host(_marginals, coupling.weights)
        source, target = Mixture(rows, source.components), Mixture(columns, target.components)
    known = chosen.rules, names, features
    plan = TransportPlan(source, target, couplings, coupling, epsilon_2, steps, precision, masses, *known)
    return raise_if_failed(plan, plan.result) if throw else plan


def aligned(**sides: Any) -> tuple[tuple[str, ...] | None, list[Any]]:
    """The names of the columns that fits know; and the sides, mixtures in this order where fits know another one.

    Raises:
        ValueError: If two know different ones, or the order of a family's coordinates cannot be changed.
    """
    wanted = next((names for side in sides.values() if (names := getattr(side, "feature_names", None))), None)
    found = {}
    for name, side in sides.items():
        names, turned = getattr(side, "feature_names", None), None
        if names and names != wanted and sorted(names) == sorted(wanted or ()):
            mixture = as_mixture(name, side)
            turned = mixture.components.turned([names.index(one) for one in wanted or ()])
            turned = None if turned is None else Mixture(mixture.weights, turned)
        found[name] = side if turned is None else turned
    return shared_features(**found) or wanted, list(found.values())


def shared_features(**sides: Any) -> tuple[str, ...] | None:
    """The names of the columns that fits know.

    Raises:
        ValueError: If two know different ones, or in another order.
    """
    known = {name: names for name, side in sides.items() if (names := getattr(side, "feature_names", None))}
    if not known:
        return None
    first, wanted = next(iter(known.items()))
    for name, names in known.items():
        if names != wanted:
            raise ValueError(
                f"`{name}` must be fitted to the columns of `{first}`, in their order, {', '.join(wanted)}; got "
                f"{', '.join(names)}."
            )
    return wanted


def _marginals(xp: Any, weights: Any) -> Any:
    total = xp.sum(weights)
    return xp.sum(weights, axis=1) / total, xp.sum(weights, axis=0) / total


def _scaled(_: Any, a: Any, b: Any, weights: Any, source_mass: Any, target_mass: Any) -> Any:
    """Weights as masses, and a coupling with those of the source."""
    return a * source_mass, b * target_mass, weights * source_mass


def _start_values(
    start: BlockStart | None, source: Mixture, target: Mixture, epsilon: Array, independent: Float[Array, "K0 K1"]
) -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
    """Weights and component objectives where the iteration starts."""
    shape = (source.num_components, target.num_components)
    weights = on_host(lambda _, a, b: a[:, None] * b[None, :], source.weights, target.weights)
    if start is not None and start.weights is not None:
        weights = as_floating("start.weights", start.weights, "K0 K1", weights.dtype)
        _check_start(weights, source, target)
    if start is None or start.cross_covariances is None:
        # Independent components have no divergence.
        return weights, independent
    cross = as_floating("start.cross_covariances", start.cross_covariances, "K0 K1 d d", weights.dtype)
    expected = (*shape, source.dim, source.dim)
    if cross.shape != expected:
        raise ValueError(f"`start.cross_covariances` must have shape {expected}; got {tuple(cross.shape)}.")
    trace, kl = cross_covariance_terms(source.components, target.components, cross)
    if not is_traced(kl) and not np.isfinite(np.asarray(kl)).all():
        bad = np.argwhere(~np.isfinite(np.asarray(kl)))[0]
        raise ValueError(
            f"`start.cross_covariances` must leave each joint covariance positive definite; pair {tuple(bad)} does not."
        )

    def objectives(xp: Any, alone: Any, trace: Any, kl: Any, epsilon: Any) -> Any:
        return alone - 2 * trace + xp.where(epsilon > 0, epsilon * kl, xp.zeros_like(kl))

    return weights, on_host(objectives, independent, trace, kl, epsilon)


def _check_start(weights: Array, source: Mixture, target: Mixture) -> None:
    shape = (source.num_components, target.num_components)
    if weights.shape != shape:
        raise ValueError(f"`start.weights` must have shape {shape}; got {tuple(weights.shape)}.")
    if is_traced(weights, source.weights, target.weights):
        return
    host = np.asarray(weights)
    error = np.abs(host.sum(1) - np.asarray(source.weights)).sum()
    error += np.abs(host.sum(0) - np.asarray(target.weights)).sum()
    if (host < 0).any() or error > 1e-4:
        raise ValueError(
            f"`start.weights` must be nonnegative with the mixtures' weights as marginals; they are off by {error:.3g}."
        )
