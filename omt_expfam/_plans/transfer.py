"""Labels known for points of one side, read through the components of a plan on the other."""

from typing import Any

import equinox as eqx
import numpy as np


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
            labels: The label of each source point.
            source: Responsibilities of the source components for these points, shape ``[n0, K0]``.
            target: Responsibilities of the target components for the points asked for, or ``None``.
            column_shares: Where each target component comes from, shape ``[K0, K1]``.
            weights: Weights of the target components.
        """
        names, shares = composition(source, as_labels("labels", labels, len(source)))
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

    def __str__(self) -> str:
        width = max(5, *(len(str(name)) for name in self.names))
        main = self.component_probabilities.argmax(axis=1)
        lines = [f"{'label':<{width}}  proportion  components it is the main one of"]
        for k, (name, proportion) in enumerate(zip(self.names, self.proportions, strict=True)):
            components = ", ".join(map(str, np.flatnonzero(main == k)))
            lines.append(f"{name!s:<{width}}  {proportion:>10.1%}  {components}")
        return "\n".join(lines)


def as_labels(where: str, labels: Any, num: int | None = None) -> np.ndarray:
    """One label for each point; what is missing is no label.

    Raises:
        ValueError: If a label is missing, or their number is not ``num``.
    """
    found = np.asarray(labels)
    missing = np.asarray([label is None or label != label or str(label) == "<NA>" for label in found.flat], bool)
    if missing.any():
        first = int(np.argmax(missing))
        raise ValueError(f"`{where}` must name a group at every place; {missing.sum()} do not, the first at {first}.")
    if num is not None and found.shape != (num,):
        raise ValueError(f"`{where}` must have one entry per point, {num}; got shape {found.shape}.")
    return found.astype(str) if found.dtype == object else found


def composition(member: Any, labels: np.ndarray) -> tuple[tuple[Any, ...], np.ndarray]:
    """The different labels, and the part of each component that has each of them.

    A point counts for every component by its responsibility, ``member[n, K]``. A component that no point has any
    responsibility for gets the shares of all points.
    """
    host = np.asarray(member, np.float64)
    names, index = np.unique(labels, return_inverse=True)
    one_hot = np.eye(len(names))[index]
    mass = host.sum(axis=0)[:, None]
    # Sums of responsibilities that are not normal numbers would leave ratios without digits.
    some = mass > np.finfo(np.float64).tiny
    shares = np.where(some, host.T @ one_hot / np.where(some, mass, 1.0), one_hot.mean(axis=0))
    return tuple(names.tolist()), shares / shares.sum(axis=1, keepdims=True)
