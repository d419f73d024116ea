"""Transport between mixtures of many components, of which most pairs cannot carry mass."""

import math
from typing import Any

import numpy as np

from .._base.arguments import as_scalar
from .._base.arrays import is_traced, to_jax
from .._base.precision import in_float64, narrow
from .._base.results import raise_if_failed
from .._components.mixture import Mixture
from .._couplings.gaussian_blocks import GaussianSides, sides_of
from .._couplings.interface import Moments
from .._couplings.listed import listed_terms, ListedCouplings, objective_bounds, total_variances
from .._couplings.solve import route_of
from .._weights.pruned import pruned_coupling, PrunedCoupling
from .epsilons import choose_epsilons
from .sparse_plan import SparseCoupling, SparsePlan


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
    others: dict[str, Any],
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
        others: Arguments that such a plan does not take, by name.

    Raises:
        TypeError: If something is traced.
        ValueError: If an argument is out of range or not taken, or the components are not Gaussian.
    """
    _check(source, target, pair_tolerance, epsilons, others)
    sides = [side.components for side in (source, target)]
    means = [np.asarray(side.mean(), np.float64) for side in sides]
    variances = [np.asarray(total_variances(side), np.float64) for side in sides]
    # What "auto" looks at: no table of all pairs.
    moments = Moments(np.zeros((0, 0)), (means[0], means[1]), (variances[0], variances[1]))
    chosen = choose_epsilons(source, target, *epsilons, moments)
    if not float(chosen.weights) > 0:
        raise ValueError("`epsilon_weights` must be positive with `pair_tolerance`; got 0.")
    limits = float(pair_tolerance), 1e-10 if tolerance is None else float(tolerance), max_steps
    dtype = sides[0].dtype
    epsilon_1, epsilon_2 = (np.asarray(epsilon, dtype) for epsilon in chosen[:2])
    left, right = (np.asarray(side.weights, np.float64) for side in (source, target))
    left, right = left / left.sum(), right / right.sum()
    wide = in_float64(sides_of, *sides, epsilon_1)
    found = in_float64(_pruned, wide, left, right, float(epsilon_2), limits, progress)
    plan = SparsePlan(
        source,
        target,
        narrow(ListedCouplings(found.costs, found.kl, to_jax(epsilon_1), *sides), dtype),
        _coupling(found, source, target, left, right),
        to_jax(epsilon_2),
        to_jax(_objective(found, left, right, float(epsilon_1), float(epsilon_2)), dtype),
        to_jax(pair_tolerance, dtype),
        chosen.rules,
        *known,
    )
    return raise_if_failed(plan, plan.result) if throw else plan


def _check(source: Mixture, target: Mixture, share: Any, epsilons: tuple, others: dict[str, Any]) -> None:
    if is_traced(source, target, share, epsilons):
        raise TypeError("`pair_tolerance` must be None where `transport` is traced: pairs are chosen on the host.")
    if not 0 < float(as_scalar("pair_tolerance", share)) < 1:
        raise ValueError(f"`pair_tolerance` must be a share of the mass between 0 and 1; got {float(share):g}.")
    plain = {"component_relaxation": (math.inf, (math.inf, math.inf)), "num_sweeps": (1,)}
    for name, value in others.items():
        usual = plain.get(name, (math.inf if name.endswith("relaxation") else 1 if name.endswith("mass") else None,))
        if not any(value is one or (isinstance(value, int | float | tuple) and value == one) for one in usual):
            raise ValueError(f"`{name}` must be left at {usual[0]} with `pair_tolerance`; got {value!r}.")
    families = [type(side.components).__name__ for side in (source, target)]
    if route_of(source.components, target.components) != "gaussian":
        raise ValueError(
            f"`pair_tolerance` must be None unless all components are Gaussian; got {' and '.join(families)}."
        )


def _pruned(
    sides: GaussianSides,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    limits: tuple[float, float, int],
    progress: bool | None,
) -> PrunedCoupling:
    regularization = float(sides.epsilon)

    def terms_of(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        costs, kl = listed_terms(sides, source, target, progress)
        return costs, kl, costs + regularization * kl if regularization > 0 else costs

    return pruned_coupling(objective_bounds(sides), terms_of, np.asarray(a), np.asarray(b), epsilon, *limits)


def _coupling(found: PrunedCoupling, source: Mixture, target: Mixture, a: np.ndarray, b: np.ndarray) -> SparseCoupling:
    """The coupling in the type of the mixtures, with the marginal error that its numbers have there."""
    pairs, solved, dtype = found.pairs, found.coupling, source.weights.dtype
    rows, columns = b[pairs.target] * solved.density, a[pairs.source] * solved.density
    weights = (a[pairs.source] * rows).astype(dtype)
    error = sum(
        np.abs(np.bincount(index, weights.astype(np.float64), side.size) - np.asarray(side, np.float64)).sum()
        for index, side in ((pairs.source, np.asarray(source.weights)), (pairs.target, np.asarray(target.weights)))
    )
    numbers = rows, columns, solved.source_potential, solved.target_potential
    return SparseCoupling(
        *(to_jax(index.astype(np.int32)) for index in pairs[:2]),
        to_jax(weights),
        *(to_jax(value, dtype) for value in numbers),
        *(to_jax(_above(value, dtype)) for value in (found.left_out,)),
        to_jax(found.num_computed),
        to_jax(_above(error, dtype)),
        to_jax(solved.num_steps),
        solved.result,
    )


def _above(value: Any, dtype: Any) -> np.ndarray:
    """A number in another type, rounded up."""
    stored = np.asarray(value, dtype)
    return stored if stored >= value else np.nextafter(stored, np.asarray(np.inf, dtype))


def _objective(found: PrunedCoupling, a: np.ndarray, b: np.ndarray, epsilon_1: float, epsilon_2: float) -> float:
    """Cost plus both regularization terms."""
    density = found.coupling.density
    weights = a[found.pairs.source] * b[found.pairs.target] * density
    used = weights > 0
    within = np.where(np.isfinite(found.kl), found.kl, 0) if epsilon_1 > 0 else np.zeros_like(found.kl)
    between = np.log(np.where(used, density, 1))
    return float(np.sum(weights[used] * (found.costs + epsilon_1 * within + epsilon_2 * between)[used]))
