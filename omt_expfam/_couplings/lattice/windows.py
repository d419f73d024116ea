"""Laws on whole numbers, cut to windows beyond which next to nothing of their second moment lies."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._base.arrays import power_of_two
from ..._base.xla import program
from ..._components.lattice_form import AbstractLattice

# How many numbers are looked at, more where a law needs them; the shares of the variance that may be cut off at either
# end, more where a window would be wider than the most that is allowed.
_REACH = (64, 512, 4096, 32768)
_SHARES = 10.0 ** np.arange(-11, -3)
_UNSEEN = 1e-7
WIDEST = 1024
# Wider laws are cut into so many groups of neighboring numbers, which hold all but this share of the variance.
_GROUPS, _WIDE_SHARE = 512, 1e-8


class Windows(NamedTuple):
    """The distinct laws of one side.

    Attributes:
        which: For each component and coordinate its law, shape ``[K, d]``.
        first: The first number of each window, or the middle one of its first group, shape ``[laws]``.
        stride: How many neighbors form a group: one, unless a law is wide; odd, shape ``[laws]``.
        numbers: The numbers of each window, or the means of its groups, a list of arrays.
        log_masses: Log-probabilities of them, a list of arrays.
        within: Variances within groups, shape ``[laws]``.
        mean: Means of the laws.
        variance: Variances.
        lost: Parts of the second moment about the mean that lie beyond the windows.
        lost_mass: Probabilities there.
    """

    which: np.ndarray
    first: np.ndarray
    stride: np.ndarray
    numbers: list[np.ndarray]
    log_masses: list[np.ndarray]
    within: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    lost: np.ndarray
    lost_mass: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """How many numbers each window holds."""
        return np.array([len(log_mass) for log_mass in self.log_masses])


def windows(form: AbstractLattice, shape: tuple[int, int], side: str) -> Windows:
    """Tabulate the distinct laws among all coordinates (concrete forms only).

    Args:
        form: The laws, with leading axes ``shape``.
        shape: Components and coordinates.
        side: What an error calls these components.

    Raises:
        ValueError: If a law is spread over too many numbers.
    """
    size = shape[0] * shape[1]
    keys = np.concatenate([np.asarray(v, np.float64).reshape(size, -1) for v in jax.tree.leaves(form)], axis=1)
    _, index, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    laws = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(size, *leaf.shape[2:])[index], form)
    mean, variance = (np.asarray(v)[: len(index)] for v in _moments(_padded(laws, len(index))))
    parts: list[Any] = [None] * len(index)
    left = np.arange(len(index))
    for reach in _REACH:
        table = np.asarray(_log_masses(_padded(jax.tree.map(lambda v, own=left: v[own], laws), len(left)), reach))
        done = []
        for row, law in zip(table, left, strict=False):
            part = _window(row, mean[law], variance[law], last=reach == _REACH[-1])
            if part is not None:
                parts[law] = part
                done.append(law)
        left = np.setdiff1d(left, done)
        if not left.size:
            break
    missing = [law for law, part in enumerate(parts) if part is None]
    if missing:
        k, c = (int(v) for v in np.argwhere(which.reshape(shape) == missing[0])[0])
        raise ValueError(
            f"`{side}` must have counts of which {_REACH[-1]} numbers hold all that matters; component {k} has "
            f"mean {mean[missing[0]]:.4g} and standard deviation {np.sqrt(variance[missing[0]]):.4g} in column {c}. "
            "Counts so far apart are as good as continuous: describe them by Gamma or LogNormal components."
        )
    first, stride, numbers, log_masses, within, lost, lost_mass = zip(*parts, strict=True)
    columns = list(numbers), list(log_masses), np.array(within), mean, variance, np.array(lost), np.array(lost_mass)
    return Windows(which.reshape(shape), np.array(first), np.array(stride), *columns)


def _window(log_mass: np.ndarray, mean: float, variance: float, last: bool) -> tuple[Any, ...] | None:
    """What `Windows` holds of one law; ``None`` if not all that matters has been looked at."""
    numbers, mass = np.arange(len(log_mass)), np.exp(log_mass)
    moment = mass * (numbers - mean) ** 2
    unseen = max(variance - moment.sum(), 0.0)
    if unseen > _UNSEEN * variance or (unseen > _SHARES[0] * variance and not last) or mass.sum() < 0.5:
        return None
    below, above = np.cumsum(moment), np.cumsum(moment[::-1])[::-1]

    def between(share: float) -> slice:
        # A law of one number has no second moment: what has mass stays.
        kept = (below > share * variance) & (above > share * variance) & (mass > 0)
        kept |= mass >= mass.max()
        low, high = np.flatnonzero(kept)[[0, -1]]
        return slice(int(low), int(high) + 1)

    def lost(inside: slice) -> tuple[float, float]:
        return max(variance - moment[inside].sum(), 0.0), max(1 - mass[inside].sum(), 0.0)

    for share in _SHARES:
        inside = between(share)
        if inside.stop - inside.start <= WIDEST:
            return inside.start, 1, numbers[inside].astype(float), log_mass[inside], 0.0, *lost(inside)
    inside = between(_WIDE_SHARE)
    stride = 2 * ((inside.stop - inside.start - 1) // (2 * _GROUPS)) + 1
    starts = np.arange(inside.start, inside.stop, stride)
    grouped, sums, squares = (
        np.add.reduceat(mass[: inside.stop] * numbers[: inside.stop] ** power, starts) for power in (0.0, 1.0, 2.0)
    )
    means = sums / grouped
    within = max(float((squares - grouped * means**2).sum() / grouped.sum()), 0.0)
    return inside.start + stride // 2, stride, means, np.log(grouped), within, *lost(inside)


def _padded(laws: Any, num: int) -> Any:
    """The same laws, the last one repeated up to a power of two, so that few programs are compiled."""
    extra = power_of_two(num) - num
    return jax.tree.map(lambda v: np.concatenate([v, np.repeat(v[-1:], extra, axis=0)]), laws)


@program
def _log_masses(laws: AbstractLattice, reach: int) -> Float[Array, "laws reach"]:
    numbers = jnp.arange(reach, dtype=jax.tree.leaves(laws)[0].dtype)
    return jax.lax.map(lambda law: jax.vmap(law._log_mass)(numbers), laws)


@program
def _moments(laws: AbstractLattice) -> tuple[Float[Array, " laws"], Float[Array, " laws"]]:
    return jax.vmap(lambda law: law._mean())(laws), jax.vmap(lambda law: law._variance())(laws)
