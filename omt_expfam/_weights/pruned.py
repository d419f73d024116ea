"""The Omega-block where most pairs carry nothing: their costs are never computed, and the dual says what they miss."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .left_out import COMPONENT_SHARE, heaviest, left_out, likeliest, rough_potential, source_potential
from .listed import density_of, listed_coupling, ListedCoupling, Pairs

# The marginal error at which pairs are looked for.
_ROUGH = 1e-4
# Pairs of each component that are added while potentials are far off.
_FEW = 2


class PrunedCoupling(NamedTuple):
    """A coupling of the weights on those pairs that may carry mass.

    Attributes:
        pairs: The pairs.
        costs: Their mean squared distances.
        kl: Their divergences.
        coupling: The coupling on them.
        left_out: The most that all other pairs carry together, as a share of the mass.
        num_computed: For how many pairs costs were computed.
        num_steps: Steps of all solves.
    """

    pairs: Pairs
    costs: np.ndarray
    kl: np.ndarray
    coupling: ListedCoupling
    left_out: float
    num_computed: int
    num_steps: int


class _Listed(NamedTuple):
    """Pairs in order, and what was computed for them."""

    source: np.ndarray
    target: np.ndarray
    costs: np.ndarray
    kl: np.ndarray
    objectives: np.ndarray

    def select(self, index: np.ndarray) -> "_Listed":
        return _Listed(*(value[index] for value in self))

    def joined(self, more: "_Listed") -> "_Listed":
        both = _Listed(*(np.append(*values) for values in zip(self, more, strict=True)))
        return both.select(np.lexsort((both.target, both.source)))


def pruned_coupling(
    bounds: np.ndarray,
    terms_of: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    share: float,
    tolerance: float,
    max_steps: int,
) -> PrunedCoupling:
    """Couple the weights on few pairs, so that all others carry at most a share of the mass.

    Args:
        bounds: Lower bounds of the costs of all pairs, float32, shape ``[K0, K1]``; used up.
        terms_of: The mean squared distances, divergences and objectives of pairs, from their components.
        a: Source weights.
        b: Target weights.
        epsilon: Regularization, units of squared distance.
        share: What the pairs that are left out may carry.
        tolerance: Largest accepted marginal error.
        max_steps: Limit on the steps of each solve.
    """
    potential = rough_potential(bounds, a, b, epsilon)
    potentials = source_potential(bounds, potential, b, epsilon), potential
    found = left_out(bounds, potentials, a, b, epsilon, share)
    source, target = _joined((found.source, found.target), likeliest(bounds, potentials, a, b, epsilon))
    source, target = _joined((source, target), _missing(source, target, bounds[source, target], potentials, a, b))
    listed, far = _Listed(*[np.zeros(0, int)] * 2, *[np.zeros(0)] * 3), True
    # Which pairs are listed does not depend on the last digits.
    num_computed, num_steps, limit = 0, 0, max(tolerance, _ROUGH)
    while True:
        if source.size:
            new = _Listed(source, target, *terms_of(source, target))
            num_computed += source.size
            # What is known now, rounded down to float32; what is listed is not left out.
            bounds[source, target] = np.nextafter(new.objectives.astype(np.float32), np.float32(-np.inf))
            if not far:
                new = new.select(_matter(source, target, bounds[source, target], potentials, a, b, epsilon, share))
            listed = listed.joined(new)
            bounds[listed.source, listed.target] = np.inf
        pairs = Pairs(listed.source, listed.target, bounds.shape)
        coupling = listed_coupling(pairs, listed.objectives, a, b, epsilon, limit, potentials[1], max_steps)
        num_steps += coupling.num_steps
        potentials = coupling.source_potential, coupling.target_potential
        found = left_out(bounds, potentials, a, b, epsilon, share)
        # More than all mass: potentials are far from those of all pairs yet, and few pairs bring them nearer.
        far = found.share > 1
        source, target = _nearest(bounds, potentials, a, b, epsilon) if far else (found.source, found.target)
        unlisted = np.isfinite(bounds[source, target]) & (not found.enough)
        source, target = source[unlisted], target[unlisted]
        if not source.size:
            if limit == tolerance:
                return PrunedCoupling(pairs, listed.costs, listed.kl, coupling, found.share, num_computed, num_steps)
            limit = tolerance


def _nearest(
    bounds: np.ndarray, potentials: tuple, a: np.ndarray, b: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """The few likeliest pairs of each component: again and again the likeliest of those that are left."""
    found = []
    for _ in range(_FEW):
        source, target = _joined(likeliest(bounds, potentials, a, b, epsilon))
        found.append((source, target, bounds[source, target]))
        bounds[source, target] = np.inf
    for source, target, values in reversed(found):
        bounds[source, target] = values
    return _joined(*(one[:2] for one in found))


def _joined(*lists: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of pairs as one, in order and each once."""
    both = np.unique(np.concatenate([np.stack(one) for one in lists], axis=1), axis=1)
    return both[0], both[1]


def _missing(
    source: np.ndarray, target: np.ndarray, bounds: np.ndarray, potentials: tuple, a: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs without which no coupling on the given ones has the marginals: what a greedy one leaves over."""
    left, right = a.copy(), b.copy()
    for k in np.argsort(bounds - potentials[0][source] - potentials[1][target]):
        moved = min(left[source[k]], right[target[k]])
        left[source[k]] -= moved
        right[target[k]] -= moved
    rows, columns = np.flatnonzero(left), np.flatnonzero(right)
    if not rows.size or not columns.size:
        return rows[:0], columns[:0]
    # One after another, as far as the first of both reach.
    first, second = np.cumsum(left[rows]), np.cumsum(right[columns])
    edges = np.unique(np.append(first, second))
    places = (np.minimum(np.searchsorted(ends, edges), ends.size - 1) for ends in (first, second))
    return rows[next(places)], columns[next(places)]


def _matter(
    source: np.ndarray,
    target: np.ndarray,
    costs: np.ndarray,
    potentials: tuple,
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    share: float,
) -> np.ndarray:
    """Which of the pairs that were computed are listed: the others carry little by their costs as well."""
    density = density_of(potentials[0][source] + potentials[1][target] - costs, epsilon)
    left, right = a[source], b[target]
    needed = (right * density > COMPONENT_SHARE) | (left * density > COMPONENT_SHARE)
    return needed | heaviest(left * right * density, share / 4)
