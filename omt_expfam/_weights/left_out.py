r"""Which pairs of components cannot carry mass: bounds of costs, and what dual potentials say of the pairs left out.

With potentials of the coupling on listed pairs, every other pair would carry at most
$\alpha_{0i} \alpha_{1j} \exp((\lambda_i + \tau_j - \ell_{ij}) / \varepsilon_2)$, where $\ell_{ij}$ bounds its cost from
below. If these add up to $m$, the coupling of all pairs has no more than $m$ on those left out.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .listed import density_of

# Numbers in a block of rows.
_BLOCK = 2**22
# The share of either of its components that a pair which is left out may carry.
COMPONENT_SHARE = 0.01
# Sinkhorn's steps at one regularization, and the error of the columns at which they end; also at the last one.
_SWEEPS, _ERROR, _LAST_SWEEPS, _LAST_ERROR, _FACTOR = 5, 0.1, 40, 0.02, 4.0


class LeftOut(NamedTuple):
    """What pairs that are left out may carry.

    Attributes:
        share: The most that they carry together.
        enough: Whether that is little enough, and no pair may carry much of a component.
        source: Source component of each pair that is to be looked at.
        target: Target component of each.
    """

    share: float
    enough: bool
    source: np.ndarray
    target: np.ndarray


def blocks(num: int, other: int) -> Iterator[slice]:
    """Rows of a table, some at a time."""
    size = max(1, _BLOCK // other)
    yield from (slice(start, min(start + size, num)) for start in range(0, num, size))


def rough_potential(bounds: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    """A potential of the target for the bounds, by a few steps of Sinkhorn's at falling regularizations."""
    level = max(epsilon, float(bounds.max() - bounds.min()) / 2)
    potential, used = np.zeros(b.size), b > 0
    while True:
        last = level == epsilon
        for _ in range(_LAST_SWEEPS if last else _SWEEPS):
            columns = np.zeros(b.size)
            for rows in blocks(*bounds.shape):
                columns += a[rows].astype(bounds.dtype) @ _shares(bounds[rows], potential, b, level)
            if np.abs(columns - b).sum() < (_LAST_ERROR if last else _ERROR):
                break
            # Exponentials underflow, and one step does not leave their range.
            ratio = b[used] / np.maximum(columns[used], 1e-30)
            potential[used] += level * np.log(ratio)
        if last:
            return potential
        level = epsilon if level <= 1.5 * _FACTOR * epsilon else level / _FACTOR


def source_potential(bounds: np.ndarray, potential: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    """The potential of the source that makes the rows exact."""
    found = np.empty(len(bounds))
    for rows in blocks(*bounds.shape):
        scaled = _scaled(bounds[rows], potential, b, epsilon)
        peak = scaled.max(axis=1)
        found[rows] = -epsilon * (peak + np.log(np.exp(scaled - peak[:, None]).sum(axis=1)))
    return found


def _scaled(bounds: np.ndarray, potential: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        columns = np.log(b) + potential / epsilon
    return columns.astype(bounds.dtype)[None, :] - bounds * bounds.dtype.type(1 / epsilon)


def _shares(bounds: np.ndarray, potential: np.ndarray, b: np.ndarray, epsilon: float) -> np.ndarray:
    """Rows that sum to one."""
    scaled = _scaled(bounds, potential, b, epsilon)
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def likeliest(
    bounds: np.ndarray, potentials: tuple[np.ndarray, np.ndarray], a: np.ndarray, b: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """The pair of each source component, and of each target component, that would carry most of it."""
    rows, columns, least = np.empty(a.size, int), np.zeros(b.size, int), np.full(b.size, np.inf)
    with np.errstate(divide="ignore"):
        offset, other = (value + epsilon * np.log(w) for value, w in zip(potentials, (a, b), strict=True))
    for part in blocks(*bounds.shape):
        rows[part] = (bounds[part] - other[None, :]).argmin(axis=1)
        reduced = bounds[part] - offset[part, None]
        best = reduced.argmin(axis=0)
        value = reduced[best, np.arange(b.size)]
        columns = np.where(value < least, best + part.start, columns)
        least = np.minimum(value, least)
    return np.append(np.arange(a.size), columns), np.append(rows, np.arange(b.size))


def left_out(
    bounds: np.ndarray,
    potentials: tuple[np.ndarray, np.ndarray],
    a: np.ndarray,
    b: np.ndarray,
    epsilon: float,
    share: float,
) -> LeftOut:
    """What the pairs that are left out may carry, and those to look at so that the others carry less than half of it.

    To be looked at are also pairs that may carry more than a hundredth of one of their components.

    Args:
        bounds: Lower bounds of the costs, shape ``[K0, K1]``; infinite where a pair is listed.
        potentials: Those of source and target.
        a: Source weights.
        b: Target weights.
        epsilon: Regularization.
        share: What they may carry together.
    """
    left, right = potentials
    floor, total = share / (4 * bounds.size), 0.0
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for rows in blocks(*bounds.shape):
        density = density_of(left[rows, None] + right[None, :] - bounds[rows], epsilon)
        mass = a[rows, None] * b[None, :] * density
        total += float(mass.sum())
        needed = (b[None, :] * density > COMPONENT_SHARE) | (a[rows, None] * density > COMPONENT_SHARE)
        i, j = np.nonzero((mass > floor) | needed)
        found.append((i + rows.start, j, mass[i, j], needed[i, j]))
    source, target, mass, needed = (np.concatenate(parts) for parts in zip(*found, strict=True))
    enough = total <= share and not needed.any()
    # The lightest stay out that together carry a quarter, beside those below the floor.
    chosen = needed | heaviest(mass, share / 4)
    return LeftOut(total, enough, source[chosen], target[chosen])


def heaviest(mass: np.ndarray, share: float) -> np.ndarray:
    """All pairs but the lightest that carry at most a share together."""
    order = np.argsort(mass)
    chosen = np.zeros(mass.size, bool)
    chosen[order[np.cumsum(mass[order]) > share]] = True
    return chosen
