"""Labels known for points of one side, read through the components of a plan on the other."""

from typing import Any

import equinox as eqx
import numpy as np

from .._base.labels import as_memberships


class Transfer(eqx.Module):
    """Labels of the source, as they are found in the target.

    Attributes:
        names: The labels, L of them, in increasing order.
        weights: Weights of the target components, as they were given, shape ``[K1]``.
        component_probabilities: Part of each target component that has each label, shape ``[K1, L]``.
        probabilities: The probability of each label at the points that were given, shape ``[n1, L]``; without points,
            those of the components.
    """

    names: tuple[Any, ...] = eqx.field(static=True)
    weights: np.ndarray
    component_probabilities: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, labels: Any, source: Any, target: Any, column_shares: Any, weights: Any) -> "Transfer":
        """Read labels through a coupling.

        Args:
            labels: The label of each source point, or probabilities of labels.
            source: Responsibilities of the source components for these points, shape ``[n0, K0]``.
            target: Responsibilities of the target components for the points asked for, or ``None``.
            column_shares: Where each target component comes from, shape ``[K0, K1]``.
            weights: Weights of the target components.
        """
        names, memberships = as_memberships("labels", labels, len(source))
        shares = composition(source, memberships)
        columns = np.asarray(column_shares, np.float64)
        found = (columns / columns.sum(axis=0)).T @ shares
        points = found if target is None else np.asarray(target, np.float64) @ found
        return cls(names, np.asarray(weights, np.float64), found, points)

    @property
    def labels(self) -> np.ndarray:
        """The labels, shape ``[L]``."""
        return np.asarray(self.names)

    @property
    def proportions(self) -> np.ndarray:
        """The share of each label in the target, shape ``[L]``."""
        return self.weights @ self.component_probabilities

    @property
    def purity(self) -> np.ndarray:
        """The probability of the likeliest label of each target component, shape ``[K1]``."""
        return self.component_probabilities.max(axis=1)

    def __str__(self) -> str:
        width = max(5, *(len(str(name)) for name in self.names))
        main, purity = self.component_probabilities.argmax(axis=1), self.purity
        lines = [f"{'label':<{width}}  proportion  components it is the main one of, and their purity"]
        for k, (name, proportion) in enumerate(zip(self.names, self.proportions, strict=True)):
            components = ", ".join(f"{j} ({purity[j]:.0%})" for j in np.flatnonzero(main == k))
            lines.append(f"{name!s:<{width}}  {proportion:>10.1%}  {components}")
        return "\n".join(lines)


def composition(member: Any, memberships: np.ndarray) -> np.ndarray:
    """The part of each component that has each label, from those of points, shapes ``[n, L]`` to ``[K, L]``.

    A point counts for every component by its responsibility, ``member[n, K]``. A component that no point has any
    responsibility for gets the shares of all points.
    """
    host = np.asarray(member, np.float64)
    mass = host.sum(axis=0)[:, None]
    # Sums of responsibilities that are not normal numbers would leave ratios without digits.
    some = mass > np.finfo(np.float64).tiny
    shares = np.where(some, host.T @ memberships / np.where(some, mass, 1.0), memberships.mean(axis=0))
    return shares / shares.sum(axis=1, keepdims=True)
