"""What `fit_brenier` returns: the map and the evidence for it."""

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arguments import ArrayLike, KeyLike
from .._base.results import RESULTS, succeeded
from .._plans.plan import TransportPlan
from .annealing import StrengthPath
from .certificates import Certificate
from .gated import GatedMap
from .map import BrenierMap
from .moved import ComponentFeatures, MovedFeatures


class BrenierFit(eqx.Module):
    """A fitted optimal map and the evidence for it.

    The dual value of a potential phi is the mean of |x|^2 - 2 phi(x) over the source plus that of |y|^2 - 2 phi*(y)
    over the target. For any convex phi it is at most the squared Wasserstein-2 distance, which it reaches for the
    potential of the optimal map. With a ``sparsity`` it is less, by what moving few coordinates costs.

    Attributes:
        map: The map; a `GatedMap` where every component has its own, whose dual value is that of each component, by
            their shares.
        held_out_value: The dual value on points that the members were not trained with, in units of squared distance:
            the mean over members, each on its own points. They also chose when to stop, so that it is slightly too
            large where they are few.
        held_out_error: Its standard error, from the spread of its terms.
        trace: The same for each look during training, shape ``[looks]``; the first one is before the first step.
        trace_steps: The number of steps before each look.
        inner_residual: Root mean square of y - grad phi(x*) over held-out points, in units of the points: how exactly
            their conjugate points are known.
        num_steps: Steps taken.
        num_rows: Points of source and target that training used.
        result: Why training stopped.
        moved: The share of points that move, for each coordinate: whose images differ there by more than
            ``moved_threshold``. With a ``sparsity`` it is that of source points under the map; without, that of points
            held out from each member under the member, averaged.
        moved_threshold: What counts as moved, in units of the points.
        feature_names: Names of the coordinates, where they are known.
        strength: What the penalty of displacements was multiplied by, if there was one.
        path: How the strength was found, if it was searched for.
        features: Which features move how, and how certain that is, where they were selected (`Screen`, `Features`).
        component_features: The same for each component of the source, where they were selected within these.
    """

    map: BrenierMap | GatedMap
    held_out_value: Float[Array, ""]
    held_out_error: Float[Array, ""]
    trace: Float[Array, " looks"]
    trace_steps: Int[Array, " looks"]
    inner_residual: Float[Array, ""]
    num_steps: int = eqx.field(static=True)
    num_rows: tuple[int, int] = eqx.field(static=True)
    result: Any
    moved: Float[Array, " d"] | None = None
    moved_threshold: float = eqx.field(static=True, default=1e-2)
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    strength: float | None = eqx.field(static=True, default=None)
    features: MovedFeatures | None = None
    path: StrengthPath | None = None
    component_features: ComponentFeatures | None = None

    @property
    def converged(self) -> bool:
        """Whether training ran to its end, and the held-out value is exact."""
        return succeeded(self.result)

    @property
    def mean_moved(self) -> float:
        """How many coordinates of a point move, on average."""
        return float("nan") if self.moved is None else float(np.sum(np.asarray(self.moved, np.float64)))

    def certificate(self, key: KeyLike, x: ArrayLike, y: ArrayLike, plan: TransportPlan | None = None) -> Certificate:
        """Bounds of the squared distance of the two laws, from points that the fit has not seen.

        See `BrenierMap.certificate`.
        """
        return self.map.certificate(key, x, y, plan)

    def __repr__(self) -> str:
        note = "" if self.converged else f"; {RESULTS[self.result].split(';')[0].split('.')[0]}"
        penalty = "" if self.strength is None else f", penalty of strength {self.strength:.4g}"
        moved = "" if self.moved is None else f", moves {self.mean_moved:.4g} of {len(self.moved)} coordinates"
        return (
            f"BrenierFit({self.map}{moved}{penalty}, {self.num_steps} steps, "
            f"held-out dual value {float(self.held_out_value):.6g} "
            f"± {float(self.held_out_error):.2g} after {float(self.trace[0]):.6g}, "
            f"inner residual {float(self.inner_residual):.1g}{note})"
        )
