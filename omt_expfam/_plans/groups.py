"""Known groups, such as cell types, read through the components of mixtures: shares of components, flows over time."""

from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
import numpy as np

from .._base.arguments import ArrayLike, as_host_or_traced
from .._base.labels import as_labels, as_memberships
from .._components.mixture import Mixture
from .transfer import composition

# Below this purity, a flow between groups is marked.
_PURE = 0.8


class GroupShares(eqx.Module):
    """What the components of a mixture consist of.

    Attributes:
        names: The groups.
        shares: Part of each component that belongs to each group, shape ``[K, groups]``; rows sum to one.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    shares: np.ndarray

    def __init__(self, names: Sequence[str], shares: ArrayLike) -> None:
        """Build a table of shares.

        Raises:
            ValueError: If a name occurs twice, or the shares are negative or their rows do not sum to one.
        """
        self.names = tuple(map(str, names))
        self.shares = np.asarray(as_host_or_traced("shares", shares), np.float64)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"`names` must differ from each other; got {', '.join(self.names)}.")
        if self.shares.ndim != 2 or self.shares.shape[1] != len(self.names):
            raise ValueError(f"`shares` must have shape [K, {len(self.names)}]; got {self.shares.shape}.")
        if not ((self.shares >= 0).all() and np.allclose(self.shares.sum(axis=1), 1, rtol=0, atol=1e-5)):
            raise ValueError("`shares` must be nonnegative, with rows that sum to one.")

    @property
    def purity(self) -> np.ndarray:
        """The share of the largest group of each component."""
        return self.shares.max(axis=1)

    @property
    def main(self) -> tuple[str, ...]:
        """The largest group of each component."""
        return tuple(self.names[k] for k in self.shares.argmax(axis=1))


def group_shares(mixture: Mixture, x: ArrayLike, groups: Any) -> GroupShares:
    """What the components of a mixture consist of, from points whose groups are known.

    A point counts for every component by its responsibility. A component that no point has any responsibility for gets
    the shares of all points.

    Args:
        mixture: The mixture, K components.
        x: Points, shape ``[n, d]``.
        groups: The group of each point, as a name (or number), length n; or probabilities of groups, shape
            ``[n, groups]``, whose columns a table names.

    Returns:
        The shares, groups in alphabetical order.

    Raises:
        ValueError: If there is not one group for each point.
    """
    member = mixture.responsibilities(x)
    names, memberships = as_memberships("groups", groups, len(member))
    return GroupShares([str(name) for name in names], composition(member, memberships))


def as_group_shares(groups: Any, num_components: int, where: str) -> GroupShares:
    """Shares as given, or from one name for each component."""
    if groups is None:
        raise ValueError(f"`{where}` must be given: the components there have no names of their own.")
    if isinstance(groups, GroupShares):
        found = groups
    else:
        labels = as_labels(where, groups).astype(str)
        if labels.ndim != 1:
            raise ValueError(f"`{where}` must be GroupShares or one name per component; got shape {labels.shape}.")
        names = tuple(dict.fromkeys(labels.tolist()))
        found = GroupShares(names, np.eye(len(names))[[names.index(label) for label in labels]])
    if len(found.shares) != num_components:
        raise ValueError(f"`{where}` must describe {num_components} components; got {len(found.shares)}.")
    return found


class GroupFlows(eqx.Module):
    """Mass that goes from group to group between consecutive times.

    Within a component, where mass goes is taken not to depend on the group it belongs to.

    Attributes:
        names: The groups.
        times: The times, T of them.
        weights: Share of each group at each time, shape ``[T, groups]``.
        couplings: Mass that goes from one group to another in each step, shape ``[T - 1, groups, groups]``; each sums
            to one, and its columns sum to the later weights.
        purity: How pure the components are that flows are read through: the mean share of a group in the component of
            one of its points, shape ``[T, groups]``; NaN for a group that is absent.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    times: np.ndarray
    weights: np.ndarray
    couplings: np.ndarray
    purity: np.ndarray | None = None

    @property
    def transitions(self) -> np.ndarray:
        """Part of each group that goes to each group in each step; rows sum to one (zero for an empty group)."""
        total = self.couplings.sum(axis=2, keepdims=True)
        return np.divide(self.couplings, total, out=np.zeros_like(self.couplings), where=total > 0)

    @property
    def growth(self) -> np.ndarray:
        """Factor by which each group's share changes in each step, shape ``[T - 1, groups]``.

        Infinite for a group that appears, NaN for one that is absent at both times.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.weights[1:] / self.weights[:-1]

    def to_dict(self, min_weight: float = 0.0) -> dict[str, list[Any]]:
        """The flows heavier than ``min_weight``, ready for a data frame."""
        columns = ("time", "next_time", "source", "target", "weight", "share_of_source", "share_of_target", "purity")
        rows = list(zip(*self._rows(min_weight), strict=True)) or [()] * len(columns)
        return {name: list(values) for name, values in zip(columns, rows, strict=True)}

    def _rows(self, min_weight: float) -> Iterator[tuple[Any, ...]]:
        for step, table in enumerate(self.couplings):
            out, into = table.sum(axis=1), table.sum(axis=0)
            for i, j in zip(*np.nonzero(table > min_weight), strict=True):
                shares = float(table[i, j] / out[i]), float(table[i, j] / into[j])
                ends = float(self.times[step]), float(self.times[step + 1])
                purity = np.nan if self.purity is None else min(self.purity[step, i], self.purity[step + 1, j])
                yield *ends, self.names[i], self.names[j], float(table[i, j]), *shares, float(purity)

    def __str__(self) -> str:
        width = max(6, *map(len, self.names))
        pair = f"{'source':<{width}}  {'target':<{width}}"
        lines, mixed = [f"{'time':>8}  {pair}  weight  of source  of target  purity"], False
        for start, _, source, target, weight, of_source, of_target, purity in self._rows(0.005):
            pair, low = f"{source:<{width}}  {target:<{width}}", purity < _PURE
            mixed = mixed or low
            shares = f"{weight:>6.3f}  {of_source:>9.1%}  {of_target:>9.1%}"
            lines.append(f"{start:>8g}  {pair}  {shares}  {purity:>6.0%}{'?' if low else ''}")
        if mixed:
            lines.append(f"?: read through components of less than {_PURE:.0%} purity, which blur it: fit more.")
        return "\n".join(lines)


def flows_between(
    couplings: Sequence[Any], weights: Sequence[Any], groups: Sequence[Any], times: np.ndarray, where: Sequence[str]
) -> GroupFlows:
    """Mass between groups, from that between components.

    Args:
        couplings: Mass between the components of consecutive times, shapes ``[K_t, K_t+1]``.
        weights: Weights of the components at each time.
        groups: Their groups, as `as_group_shares` takes them.
        times: The times.
        where: What to call each of the groups in errors.
    """
    known = [as_group_shares(*entry) for entry in zip(groups, map(len, weights), where, strict=True)]
    names = tuple(dict.fromkeys(name for entry in known for name in entry.names))
    shares, purity = [], []
    for entry, weight in zip(known, weights, strict=True):
        table = np.zeros((len(entry.shares), len(names)))
        table[:, [names.index(name) for name in entry.names]] = entry.shares
        mass = np.asarray(weight, np.float64)[:, None] * table
        total = mass.sum(axis=0)
        shares.append(table)
        purity.append(np.divide((mass * table).sum(axis=0), total, out=np.full(len(names), np.nan), where=total > 0))
    sums = [np.asarray(weight, np.float64) @ table for weight, table in zip(weights, shares, strict=True)]
    flows = [
        before.T @ np.asarray(coupling, np.float64) @ after
        for before, coupling, after in zip(shares, couplings, shares[1:], strict=False)
    ]
    return GroupFlows(names, times, np.stack(sums), np.stack(flows), np.stack(purity))
