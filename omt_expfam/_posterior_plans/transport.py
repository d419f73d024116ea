"""Transport between two posteriors over mixtures: all draws of the plan in one call."""

import dataclasses
import math
from typing import Any, Literal, TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_count, as_scalar, ScalarLike
from .._base.arrays import batch_size, is_traced, spread_indices, take
from .._base.buckets import point_bucket
from .._base.precision import in_float64, narrow
from .._base.progress import progress_bar
from .._base.results import ConvergenceError, RESULTS
from .._base.xla import program
from .._components.draws import (
    chunks,
    count_draws,
    Draws,
    draws_at_once,
    DrawSet,
    evenly_spaced,
    numbers_per_draw,
    read_draws,
)
from .._components.labelling import Labelling
from .._components.mixture import cast_mixture, Mixture
from .._components.relabel import labelled
from .._couplings.settings import NumericalSettings
from .._couplings.solve import route_of
from .._plans.epsilons import choose_epsilons, EpsilonLike, Epsilons, GIVEN
from .._plans.relaxations import as_relaxation, RelaxationLike
from .._plans.transport import shared_features, transport
from .._weights.solve import measured_error
from .draws import ListedPlans, PlanNumbers, StackedPlans
from .plan import PosteriorPlan

# Checked by hand, with a better message than a run-time type checker's.
if TYPE_CHECKING:
    Pairing = Literal["paired", "product"]
else:
    Pairing = Any

# Numbers that one chunk of draws may hold in float64.
_CHUNK = 2**24
# Draws that "auto" looks at.
_FEW_DRAWS = 16


def transport_posterior(
    source: Draws,
    target: Draws,
    *,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    source_relaxation: RelaxationLike = math.inf,
    target_relaxation: RelaxationLike = math.inf,
    source_mass: float = 1.0,
    target_mass: float = 1.0,
    pairing: Pairing = "paired",
    num_draws: int | None = None,
    relabel: bool = True,
    chunk_size: int | None = None,
    tolerance: float | None = None,
    max_steps: int = 1000,
    numerical: NumericalSettings | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> PosteriorPlan:
    """Couple two mixtures of which posterior draws are known: one plan per draw.

    Each side is a fitted posterior; draws, which are a `Mixture` whose arrays have a leading axis (made by
    ``jax.vmap`` of a function that builds one mixture) or a list of mixtures; or one mixture or fit without
    uncertainty.

    Gaussian components with positive ``epsilon_weights`` and kept masses are solved all together, in float64 inside;
    others by one call of `transport` per draw.

    Args:
        source: Source mixtures.
        target: Target mixtures, of the same dimension.
        epsilon_components: Regularization of the component couplings, as in `transport`: units of squared distance, or
            ``"auto"``, which is one number for all draws: the mean, in logarithms, of those of sixteen.
        epsilon_weights: Regularization of the weight coupling, likewise; 0 gives exact linear programs.
        epsilon_scale: Multiplies ``"auto"``.
        source_relaxation: Price of changing the source masses, see `transport`; infinite keeps them. Or
            `TotalVariation` or `Partial`.
        target_relaxation: Price of changing the target masses.
        source_mass: Total mass of the source, the same for all draws.
        target_mass: Total mass of the target.
        pairing: ``"paired"`` couples draw s with draw s, which is a sample from two independent posteriors;
            ``"product"`` couples every source draw with every target draw, the target's varying fastest.
        num_draws: Use only so many draws of each side, evenly spaced.
        relabel: Bring draws that come without a reference to the labels of their first draw, see `relabel`. Draws
            of a fitted posterior follow its reference already.
        chunk_size: How many draws are solved at once; by default what 128 MiB hold.
        tolerance: Largest accepted marginal error, see `transport`. Default 1e-10 where all draws are solved
            together. Another value compiles the solver again.
        max_steps: Limit on the steps of a weight solve. Another value compiles the solver again.
        numerical: How accurately component couplings are computed numerically, see `transport`.
        progress: Show a progress bar; by default on a terminal, when it takes long.
        throw: Raise when a draw fails; otherwise ``result`` and ``converged`` of the plan tell.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If neither side has draws, their numbers, dimensions or components do not fit, or they are not
            finite.
        ConvergenceError: If a draw fails and ``throw`` is true.
    """
    sides = [read_draws(name, value) for name, value in (("source", source), ("target", target))]
    _check_options(pairing, chunk_size, tolerance, max_steps, numerical)
    sides = [_thinned(name, side, num_draws) for name, side in zip(("source", "target"), sides, strict=True)]
    index = _pairs(sides, pairing)
    (left, first), (right, second) = (_labelled(side) if relabel else (side.mixtures, None) for side in sides)
    one, other = (jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), side) for side in (left, right))
    if one.dim != other.dim:
        raise ValueError(f"`target` must have the dimension of `source`, {one.dim}; got {other.dim}.")
    options = {"tolerance": tolerance, "max_steps": as_count("max_steps", max_steps)}
    epsilons = _one_for_all(left, right, index, epsilon_components, epsilon_weights, epsilon_scale)
    masses = {
        "source_relaxation": source_relaxation,
        "target_relaxation": target_relaxation,
        "source_mass": source_mass,
        "target_mass": target_mass,
    }
    kept = as_relaxation(**masses, dtype=np.float64) is None
    if route_of(one.components, other.components) == "gaussian" and float(epsilons.weights) > 0 and kept:
        plans = _solve_together(left, right, index, epsilons, options, chunk_size, progress)
    else:
        plans = _solve_in_turn(left, right, index, epsilons, options | masses | {"numerical": numerical}, progress)
    found = getattr(source, "labelling", first), getattr(target, "labelling", second)
    names = getattr(source, "names", None), getattr(target, "names", None)
    plan = PosteriorPlan(plans, shared_features(source=source, target=target), found, names)
    if throw:
        _raise_if_any_failed(plan)
    return plan


def _check_options(
    pairing: str,
    chunk_size: int | None,
    tolerance: float | None,
    max_steps: int,
    numerical: NumericalSettings | None,
) -> None:
    if pairing not in ("paired", "product"):
        raise ValueError(f'`pairing` must be "paired" or "product"; got {pairing!r}.')
    if chunk_size is not None:
        as_count("chunk_size", chunk_size)
    if tolerance is not None:
        as_scalar("tolerance", tolerance, strict=True)
    as_count("max_steps", max_steps)
    if numerical is not None and not isinstance(numerical, NumericalSettings):
        raise TypeError(f"`numerical` must be NumericalSettings; got {type(numerical).__name__}.")


def _one_for_all(
    source: Mixture, target: Mixture, index: tuple[np.ndarray, np.ndarray], components: Any, weights: Any, scale: Any
) -> Epsilons:
    """Regularizations that serve all draws."""
    for name, value in (("epsilon_components", components), ("epsilon_weights", weights), ("epsilon_scale", scale)):
        if is_traced(value):
            raise TypeError(f"`{name}` must be concrete; under `jax.jit`, map `transport` over draws by `jax.vmap`.")
    some = spread_indices(len(index[0]), _FEW_DRAWS if any(isinstance(v, str) for v in (components, weights)) else 1)
    found = []
    for i, j in zip(*(own[some] for own in index), strict=True):
        one, other = (
            jax.tree.map(lambda leaf, s=s: jax.device_put(np.asarray(leaf)[s]), side)
            for side, s in ((source, i), (target, j))
        )
        found.append(choose_epsilons(one, other, components, weights, scale))
    if found[0].rules == (GIVEN, GIVEN):
        return found[0]
    values = np.asarray([[float(value) for value in one[:2]] for one in found], np.float64)
    with np.errstate(divide="ignore"):  # the logarithm of a zero that was given
        first, second = np.exp(np.log(values).mean(axis=0))
    return Epsilons(float(first), float(second), found[0].rules)


def _thinned(name: str, side: DrawSet, num: int | None) -> DrawSet:
    if num is None or side.fixed:
        return side
    total = count_draws(side.mixtures)
    if as_count("num_draws", num) > total:
        raise ValueError(f"`num_draws` must be at most the number of draws of `{name}`, {total}; got {num}.")
    index = evenly_spaced(total, num)
    return side._replace(mixtures=jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[index]), side.mixtures))


def _pairs(sides: list[DrawSet], pairing: str) -> tuple[np.ndarray, np.ndarray]:
    """Which source draw meets which target draw."""
    if all(side.fixed for side in sides):
        raise ValueError("`source` or `target` must have draws; use `transport` between two single mixtures.")
    left, right = (count_draws(side.mixtures) for side in sides)
    if pairing == "product" or left == 1 or right == 1:
        first, second = np.divmod(np.arange(left * right), right)
        return first, second
    if left != right:
        raise ValueError(
            f"`source` and `target` must have as many draws to be paired; got {left} and {right}. Thin both by "
            f'`num_draws` (at most {min(left, right)}), or use pairing="product".'
        )
    return np.arange(left), np.arange(left)


def _labelled(side: DrawSet) -> tuple[Mixture, Labelling | None]:
    """Draws under common labels, and how clear these are where the draws came without."""
    if side.fixed or side.reference is not None:
        return side.mixtures, None
    first = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), side.mixtures)
    draws, _, labelling = labelled(side.mixtures, first)
    return draws, labelling


# -- all draws together ------------------------------------------------------------------------------------------------


def _solve_together(
    source: Mixture,
    target: Mixture,
    index: tuple[np.ndarray, np.ndarray],
    epsilons: Epsilons,
    options: dict,
    chunk_size: int | None,
    progress: bool | None,
) -> StackedPlans:
    dtype = np.promote_types(source.components.dtype, target.components.dtype)
    total = len(index[0])
    pairs = source.weights.shape[1] * target.weights.shape[1]
    size = chunk_size or batch_size(numbers_per_draw(source) + numbers_per_draw(target) + 6 * pairs, _CHUNK)
    size = min(size, point_bucket(total))
    wide = jax.tree.map(np.asarray, (source, target))
    parts = []
    with progress_bar(total, "plans of draws", progress) as bar:
        for chunk, count in chunks(total, size):
            mixtures = (take(side, own[chunk]) for side, own in zip(wide, index, strict=True))
            scalars = (np.asarray(float(epsilon)) for epsilon in epsilons[:2])
            numbers = in_float64(_solve_chunk, *mixtures, *scalars, *options.values())
            parts.append(jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], numbers))
            bar.update(count)
    numbers = narrow(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), dtype)
    source, target = (cast_mixture(mixture, dtype) for mixture in (source, target))
    first, second = narrow(index, dtype)
    epsilon_1, epsilon_2 = narrow(tuple(np.asarray(float(epsilon)) for epsilon in epsilons[:2]), dtype)
    plans = StackedPlans(numbers, source, target, first, second, epsilon_1, epsilon_2, epsilons.rules)
    if dtype == np.float64:
        return plans
    errors = measured_error(numbers.weight_coupling.weights, plans.source.weights, plans.target.weights)
    return eqx.tree_at(lambda p: p.numbers.weight_coupling.marginal_error, plans, errors)


@program
def _solve_chunk(
    source: Mixture,
    target: Mixture,
    epsilon_components: Float[Array, ""],
    epsilon_weights: Float[Array, ""],
    tolerance: float | None,
    max_steps: int,
) -> PlanNumbers:
    """The plans of some draws, in the precision of their arrays."""

    def one(draw: tuple[Mixture, Mixture]) -> PlanNumbers:
        # Weights that sum to one in float32 miss it by 1e-8 in float64.
        balanced = [eqx.tree_at(lambda m: m.weights, m, m.weights / jnp.sum(m.weights)) for m in draw]
        plan = transport(
            *balanced,
            epsilon_components=epsilon_components,
            epsilon_weights=epsilon_weights,
            tolerance=tolerance,
            max_steps=max_steps,
            throw=False,
        )
        return PlanNumbers.of(plan)

    num = source.weights.shape[0]
    item_size = 4 * source.weights.shape[1] * numbers_per_draw(target)
    return jax.lax.map(one, (source, target), batch_size=draws_at_once(item_size, num))


# -- one draw after the other ------------------------------------------------------------------------------------------


def _solve_in_turn(
    source: Mixture,
    target: Mixture,
    index: tuple[np.ndarray, np.ndarray],
    epsilons: Epsilons,
    options: dict,
    progress: bool | None,
) -> ListedPlans:
    plans = []
    with progress_bar(len(index[0]), "plans of draws", progress) as bar:
        for i, j in zip(*index, strict=True):
            plan = transport(
                take(source, i),
                take(target, j),
                epsilon_components=epsilons.components,
                epsilon_weights=epsilons.weights,
                progress=False,
                throw=False,
                **options,
            )
            plans.append(dataclasses.replace(plan, epsilon_rules=epsilons.rules))
            bar.update()
    return ListedPlans.of(plans)


def _raise_if_any_failed(plan: PosteriorPlan) -> None:
    failed = np.flatnonzero(~np.asarray(plan.converged))
    if failed.size:
        reason = RESULTS[take(plan.result, int(failed[0]))]
        raise ConvergenceError(f"{failed.size} of {plan.num_draws} draws failed, the first is {failed[0]}: {reason}")
