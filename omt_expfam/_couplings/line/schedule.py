"""Which problems on the line are solved together, at which regularizations and how finely."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ..._base.arrays import power_of_two, take
from ..._base.buckets import pad
from ..._base.xla import brief_program
from .grid import num_panels
from .profile import Profile

# Panels per side that a problem may have; rounded up to one of these, so that few programs are compiled.
_COUNTS = np.array([4, 8, 16, 32, 48, 64, 96, 128])
MOST_PANELS = int(_COUNTS[-1])
# Pairs of laws whose panels are counted together are padded to at least so many.
_LEAST_PAIRS = 8

# Problems that differ in the regularization only are interpolated in its logarithm, when there are more of them in an
# interval of this ratio than it has Chebyshev nodes.
_RATIO, _NODES = 3.0, 12

# Below the smallest regularization that this many panels resolve, problems are interpolated between the monotone map
# (regularization 0) and these multiples of it. At 0.01 and above, problems are always solved.
_FINEST = 64

_DIRECT = 0.01

_LADDER = np.array([1.0, 1.6, 2.56, 4.1])


class Bundle(NamedTuple):
    """Plans solved together: two laws and increasing regularizations, of which zero is the monotone map."""

    source: int
    target: int
    epsilons: tuple[float, ...]

    @property
    def smallest(self) -> float:
        """The smallest positive regularization, whose nodes all members share."""
        return next((e for e in self.epsilons if e > 0), _DIRECT)


def schedule(
    distinct: list[tuple[int, int, float]], profiles: tuple[Profile, Profile]
) -> list[tuple[Bundle, np.ndarray, bool]]:
    """For each problem: the bundle that holds it, the weights of its members, and whether its nodes resolve it."""
    floors = _floors(distinct, profiles)
    crowd: dict[tuple[int, int, int], int] = {}
    for s, t, e in distinct:
        if e >= floors[s, t]:
            crowd[s, t, _interval(e)] = crowd.get((s, t, _interval(e)), 0) + 1
    plan = []
    for s, t, e in distinct:
        if e == 0:
            plan.append((Bundle(s, t, (0.0,)), np.ones(1), False))
        elif e < floors[s, t]:
            ladder = (0.0, *(floors[s, t] * _LADDER))
            plan.append((Bundle(s, t, ladder), lagrange(np.sqrt(ladder), np.sqrt(e)), False))
        elif crowd[s, t, _interval(e)] > _NODES:
            nodes = _chebyshev(_interval(e))
            plan.append((Bundle(s, t, tuple(np.exp(nodes))), lagrange(nodes, np.log(e)), True))
        else:
            plan.append((Bundle(s, t, (e,)), np.ones(1), True))
    return plan


def _interval(epsilon: float) -> int:
    return int(np.floor(np.log(epsilon) / np.log(_RATIO)))


def _chebyshev(interval: int) -> np.ndarray:
    """Chebyshev nodes of an interval of log(eps), increasing."""
    angle = (2 * np.arange(_NODES)[::-1] + 1) * np.pi / (2 * _NODES)
    return (interval + 0.5 * (1 + np.cos(angle))) * np.log(_RATIO)


def lagrange(nodes: np.ndarray, at: float) -> np.ndarray:
    """The weights of polynomial interpolation."""
    gaps = at - nodes
    differences = nodes[:, None] - nodes[None, :]
    np.fill_diagonal(differences, 1.0)
    terms = np.broadcast_to(gaps, differences.shape).copy()
    np.fill_diagonal(terms, 1.0)
    return np.prod(terms / differences, axis=1)


@brief_program
def _measure(profiles: tuple[Profile, Profile], which: tuple[Any, Any], epsilon: Any) -> Array:
    def one(item: tuple[Array, Array, Array]) -> Array:
        left, right = (take(profile, k) for profile, k in zip(profiles, item[:2], strict=True))
        return jnp.maximum(num_panels(left, right, item[2]), num_panels(right, left, item[2]))

    return jax.lax.map(one, (*which, epsilon), batch_size=16)


def _panels(pairs: list[tuple[int, int, float]], profiles: tuple[Profile, Profile]) -> np.ndarray:
    """The number of panels that each pair of laws needs at a regularization, not rounded."""
    size = max(_LEAST_PAIRS, power_of_two(len(pairs)))
    s, t, e = (pad(np.array(column), size) for column in zip(*pairs, strict=True))
    return np.asarray(_measure(profiles, (s, t), e))[: len(pairs)]


def _floors(distinct: list[tuple[int, int, float]], profiles: tuple[Profile, Profile]) -> dict[tuple[int, int], float]:
    """For each pair of laws, the regularization below which problems are not solved but interpolated."""
    smallest: dict[tuple[int, int], float] = {}
    for s, t, e in distinct:
        smallest[s, t] = min(e, smallest.get((s, t), np.inf))
    small = [pair for pair, e in smallest.items() if e < _DIRECT]
    floors = dict.fromkeys(smallest, _DIRECT)
    candidates = _DIRECT * 2.0 ** -np.arange(1, 8)
    if small:
        needed = _panels([(*pair, e) for pair in small for e in candidates], profiles)
        for pair, row in zip(small, needed.reshape(len(small), -1), strict=True):
            floors[pair] = float(min(candidates[row <= _FINEST], default=_DIRECT))
    return floors


def counts_of(bundles: list[Bundle], profiles: tuple[Profile, Profile]) -> np.ndarray:
    """Panels per side of each bundle: what its smallest positive regularization needs, rounded up."""
    first = [(b.source, b.target, b.smallest) for b in bundles]
    place = np.searchsorted(_COUNTS, _panels(first, profiles))
    return _COUNTS[np.minimum(place, len(_COUNTS) - 1)]
