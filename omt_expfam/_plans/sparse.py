"""Transport between mixtures of many components, of which most pairs cannot carry mass."""

from typing import Any

import numpy as np
from jaxtyping import Array

from .._base.arguments import as_scalar
from .._base.arrays import is_traced, to_jax
from .._base.precision import in_float64
from .._base.results import ConvergenceError, raise_if_failed, RESULTS
from .._components.joined import Blocks
from .._components.mixture import Mixture
from .._couplings.gaussian_blocks import GaussianSides, sides_of
from .._couplings.interface import Moments
from .._couplings.listed import listed_terms, ListedCouplings, objective_bounds, total_variances
from .._couplings.solve import route_of
from .._weights.pruned import pruned_coupling, PrunedCoupling
from .._weights.sparse_coupling import SparseCoupling
from .epsilons import choose_epsilons
from .sparse_plan import SparsePlan

# Sums below are no numbers to divide by.
_TINY = np.finfo(np.float64).tiny


def sparse_transport(
    source: Mixture,
    target: Mixture,
    pair_tolerance: Any,
    epsilons: tuple[Any, Any, Any],
    tolerance: float | None,
    max_steps: int,
    progress: bool | None,
    throw: bool,
    known: tuple[Any, Any],
    others: dict[str, tuple[Any, Any]],
) -> SparsePlan:
    """Couple two mixtures by those pairs of components that may carry mass; see `transport`.

    Args:
        source: Source mixture.
        target: Target mixture, of the same type.
        pair_tolerance: The share of the mass that all other pairs may carry.
        epsilons: Both regularizations, and what multiplies ``"auto"``.
        tolerance: Largest accepted marginal error; by default 1e-10.
        max_steps: Limit on the steps of each weight solve.
        progress: Whether to show a progress bar.
        throw: Whether to raise when the solve fails.
        known: Names of the components of both sides, and of the columns.
        others: Arguments that such a plan does not take, by name: values and defaults.

    Raises:
        TypeError: If something is traced.
        ValueError: If an argument is out of range or not taken, or the components are not Gaussian.
    """
    _check(source, target, pair_tolerance, epsilons, others)
    sides = [side.components for side in (source, target)]
    left, right = sides
    # What "auto" looks at, without a table of all pairs.
    empty: Any = np.zeros((0, 0))
    variances = total_variances(left), total_variances(right)
    chosen = choose_epsilons(source, target, *epsilons, Moments(empty, (left.mean(), right.mean()), variances))
    if not float(chosen.weights) > 0:
        raise ValueError("`epsilon_weights` must be positive with `pair_tolerance`; got 0.")
    limits = float(pair_tolerance), 1e-10 if tolerance is None else float(tolerance), max_steps
    dtype = left.dtype
    epsilon_1, epsilon_2 = (np.asarray(epsilon, dtype) for epsilon in chosen[:2])
    a, b = (np.asarray(side.weights, np.float64) for side in (source, target))
    a, b = a / a.sum(), b / b.sum()
    wide = in_float64(sides_of, *sides, epsilon_1)
    found = in_float64(_pruned, wide, (a, b), float(epsilon_2), limits, progress)
    plan = SparsePlan(
        source,
        target,
        ListedCouplings(to_jax(found.costs, dtype), to_jax(found.kl, dtype), to_jax(epsilon_1), *sides),
        _coupling(found, source, target, a, b),
        to_jax(epsilon_2),
        to_jax(_objective(found, a, b, float(epsilon_1), float(epsilon_2)), dtype),
        to_jax(pair_tolerance, dtype),
        chosen.rules,
        *known,
    )
    return raise_if_failed(plan, plan.result) if throw else plan


def _check(source: Mixture, target: Mixture, share: Any, epsilons: tuple, others: dict[str, tuple[Any, Any]]) -> None:
    if is_traced(source, target, share, epsilons):
        raise TypeError("`pair_tolerance` must be None where `transport` is traced: pairs are chosen on the host.")
    if not 0 < float(as_scalar("pair_tolerance", share)) < 1:
        raise ValueError(f"`pair_tolerance` must be a share of the mass between 0 and 1; got {float(share):g}.")
    for name, (value, usual) in others.items():
        if not (value is usual or (isinstance(value, int | float) and value == usual)):
            raise ValueError(f"`{name}` must be left at {usual} with `pair_tolerance`; got {value!r}.")
    sides = source.components, target.components
    if any(isinstance(side, Blocks) for side in sides) or route_of(*sides) != "gaussian":
        names = " and ".join("several families" if isinstance(side, Blocks) else type(side).__name__ for side in sides)
        raise ValueError(f"`pair_tolerance` must be None unless all components are Gaussian; got {names}.")


def _pruned(
    sides: GaussianSides,
    weights: tuple[Array, Array],
    epsilon: float,
    limits: tuple[float, float, int],
    progress: bool | None,
) -> PrunedCoupling:
    regularization = float(sides.epsilon)

    def terms_of(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        costs, kl = listed_terms(sides, source, target, progress)
        return costs, kl, costs + regularization * kl if regularization > 0 else costs

    bounds = objective_bounds(sides)
    if not np.isfinite(bounds).all():
        raise ConvergenceError(RESULTS[RESULTS.weights_not_finite])
    return pruned_coupling(bounds, terms_of, np.asarray(weights[0]), np.asarray(weights[1]), epsilon, *limits)


def _coupling(found: PrunedCoupling, source: Mixture, target: Mixture, a: np.ndarray, b: np.ndarray) -> SparseCoupling:
    """The coupling in the type of the mixtures, with the marginal error that its numbers have there."""
    pairs, solved, dtype = found.pairs, found.coupling, source.weights.dtype
    rows, columns = b[pairs.target] * solved.density, a[pairs.source] * solved.density
    weights = (a[pairs.source] * rows).astype(dtype)
    # They sum to one for components of tiny weights too.
    rows /= np.maximum(np.bincount(pairs.source, rows), _TINY)[pairs.source]
    columns /= np.maximum(np.bincount(pairs.target, columns), _TINY)[pairs.target]
    error = sum(
        np.abs(np.bincount(index, weights.astype(np.float64), side.size) - np.asarray(side, np.float64)).sum()
        for index, side in ((pairs.source, np.asarray(source.weights)), (pairs.target, np.asarray(target.weights)))
    )
    return SparseCoupling(
        source=to_jax(pairs.source.astype(np.int32)),
        target=to_jax(pairs.target.astype(np.int32)),
        weights=to_jax(weights),
        row_shares=to_jax(rows, dtype),
        column_shares=to_jax(columns, dtype),
        source_potential=to_jax(solved.source_potential, dtype),
        target_potential=to_jax(solved.target_potential, dtype),
        left_out=to_jax(_above(found.left_out, dtype)),
        num_computed=to_jax(found.num_computed),
        marginal_error=to_jax(_above(float(error), dtype)),
        num_steps=to_jax(found.num_steps),
        result=solved.result,
    )


def _above(value: float, dtype: Any) -> Any:
    """A number in another type, rounded up."""
    stored = np.asarray(value).astype(dtype)
    return stored if float(stored) >= value else np.nextafter(stored, np.asarray(np.inf, dtype))


def _objective(found: PrunedCoupling, a: np.ndarray, b: np.ndarray, epsilon_1: float, epsilon_2: float) -> float:
    """Cost plus both regularization terms."""
    density = found.coupling.density
    weights = a[found.pairs.source] * b[found.pairs.target] * density
    used = weights > 0
    within = np.where(np.isfinite(found.kl), found.kl, 0) if epsilon_1 > 0 else np.zeros_like(found.kl)
    between = np.log(np.where(used, density, 1))
    return float(np.sum(weights[used] * (found.costs + epsilon_1 * within + epsilon_2 * between)[used]))
