"""Which features differ between the components that a plan couples."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_scalar, ScalarLike
from .._base.xla import program
from .._components.columns import columns_of
from .._components.interface import AbstractComponents, map_components
from .._components.joined import Blocks
from .._numerics.circle import wrap
from .plan import TransportPlan

# Features that are printed of each pair.
_MOST_FEATURES = 8


@dataclasses.dataclass(frozen=True)
class PairFeatures:
    """How far each feature moves, on average, between components that a plan couples; pairs by decreasing weight.

    Attributes:
        source: Source component of each of P pairs.
        target: Target component of each pair.
        weight: Mass of each pair.
        share_of_source: Part of the source component that goes to this target component.
        mean: The mean displacement of each feature, shape ``[P, d]``: the difference of both components' means; of
            categories, one where the nearest category changes.
        size: The same over the root mean variance of both components, in which it is their own spread that counts.
        min_size: Features of at least this size are said to move.
        dropped_weight: Mass of pairs that are too light to be listed.
        names: Of the features; their numbers where none were given.
        component_names: Names of the components of the source and of the target, ``None`` for a side without.
    """

    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share_of_source: np.ndarray
    mean: np.ndarray
    size: np.ndarray
    min_size: float
    dropped_weight: float
    names: tuple[str, ...]
    component_names: Any = (None, None)

    @property
    def moves(self) -> np.ndarray:
        """Whether each feature of each pair moves by at least ``min_size``, shape ``[P, d]``."""
        return np.abs(self.size) >= self.min_size

    def to_dict(self) -> dict[str, np.ndarray]:
        """One row for each feature that moves in a pair, ready for a data frame; names where there are any."""
        pair, feature = np.nonzero(self.moves)
        ends = []
        for known, index in zip(self.component_names, (self.source, self.target), strict=True):
            ends.append(index[pair] if known is None else np.asarray(known)[index[pair]])
        return {
            "source": ends[0],
            "target": ends[1],
            "weight": self.weight[pair],
            "feature": np.asarray(self.names)[feature],
            "mean": self.mean[pair, feature],
            "size": self.size[pair, feature],
        }

    def __len__(self) -> int:
        return len(self.weight)

    def __str__(self) -> str:
        lines = []
        for row in range(len(self)):
            ends = (self.source[row], self.target[row])
            names = [
                str(end if known is None else known[end]) for end, known in zip(ends, self.component_names, strict=True)
            ]
            moved = np.flatnonzero(self.moves[row])
            order = moved[np.argsort(-np.abs(self.size[row, moved]), kind="stable")]
            share = f"{self.weight[row]:.4f} of the mass, {self.share_of_source[row]:.1%} of the source component"
            lines.append(f"{names[0]} to {names[1]} ({share}): {len(moved)} of {len(self.names)} features move")
            lines += [
                f"  {self.names[j]}  {self.mean[row, j]:+.4g}  ({self.size[row, j]:+.2f} standard deviations)"
                for j in order[:_MOST_FEATURES]
            ]
            lines += [f"  and {len(order) - _MOST_FEATURES} more"] * (len(order) > _MOST_FEATURES)
        if self.dropped_weight > 5e-5:
            lines.append(f"lighter pairs: {self.dropped_weight:.4f} of the mass")
        return "\n".join(lines)


def pair_features(
    plan: TransportPlan, *, min_weight: ScalarLike = 1e-2, min_size: ScalarLike = 0.5, names: Any = None
) -> PairFeatures:
    """Which features move between the components that a plan couples, and how far on average; print it to read it.

    That is the mixture's own answer, without a test: `Screen(per_component=True)` has one.

    Args:
        plan: The plan.
        min_weight: Lighter pairs are left out.
        min_size: Features whose mean displacement is at least so many standard deviations of the components are said
            to move.
        names: Names of the features.

    Raises:
        ValueError: If there is not one name for each feature.
    """
    least, large = (float(as_scalar(name, v)) for name, v in (("min_weight", min_weight), ("min_size", min_size)))
    dim = plan.source.dim
    names = tuple(str(name) for name in (range(dim) if names is None else names))
    if len(names) != dim:
        raise ValueError(f"`names` must name the {dim} features; got {len(names)} names.")
    omega, rows = (np.asarray(v, np.float64) for v in (plan.weights, plan.weight_coupling.row_shares))
    source, target = np.nonzero(omega > least)
    order = np.argsort(-omega[source, target], kind="stable")
    source, target = source[order], target[order]
    weight = omega[source, target]
    laws, rows_of = (plan.source, plan.target), (source, target)
    if not plan.couplings.keeps_marginals:
        num, other = omega.shape
        laws, rows_of = plan.marginals(), (source * other + target, target * num + source)
    means, variances = zip(*(_moments(side.components) for side in laws), strict=True)
    mean = means[1][rows_of[1]] - means[0][rows_of[0]]
    columns = columns_of(laws[0].components)
    mean = np.where(columns.angles, wrap(mean, np), np.where(columns.categories, mean != 0, mean))
    spread = np.sqrt((variances[0][rows_of[0]] + variances[1][rows_of[1]]) / 2)
    dropped = max(0.0, float(omega.sum() - weight.sum()))
    size = mean / np.where(spread > 0, spread, 1.0)
    shares = rows[source, target]
    return PairFeatures(source, target, weight, shares, mean, size, large, dropped, names, plan.component_names)


def _moments(components: AbstractComponents) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of all features of all components."""
    if isinstance(components, Blocks):
        variances = np.diagonal(np.asarray(components.covariance()), axis1=1, axis2=2)
    else:
        variances = _variances(components)
    return np.asarray(components.mean(), np.float64), np.asarray(variances, np.float64)


@program
def _variances(components: AbstractComponents) -> Float[Array, "K d"]:
    return map_components(lambda one: jnp.diagonal(one._covariance()), components, components.dim**2)
