"""Whether draws of a plan lie on both sides of a tie: where the exact optimum couples other pairs."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from .._base.arrays import spread_indices
from .._weights.exact import exact_coupling

# Draws whose linear program is solved.
_SOLVED = 128
# Beyond these shares of the draws a pair is coupled in few or in nearly all of them.
_FEW = 0.05
# Shares of a component below this are no mass, and a spread of a share below that is none.
_NO_SHARE, _NO_SPREAD = 1e-6, 0.02


class VertexChanges(eqx.Module):
    r"""Which pairs of components the exact optimum couples, draw by draw.

    Without regularization $\Omega$ is a vertex: it couples K0 + K1 - 1 pairs. Where weights tie (the sum of some
    source weights is that of some target weights) or two vertices cost the same, draws lie on both sides of a change.
    There $\Omega$, as a function of the mixtures, has a kink or a jump, which ``epsilon_weights`` rounds. Intervals of
    what has one within the posterior's reach may cover too little, whatever the number of points (Fang and Santos,
    2019).

    Attributes:
        num_draws: How many draws were looked at.
        used: The share of them in which the exact optimum couples each pair, shape ``[K0, K1]``.
        contested: Pairs that it couples in some draws and not in others, more than 5 % each, and whose change
            ``epsilon_weights`` does not smooth over the posterior, shape ``[K0, K1]``.
        share: The share of draws in which it couples other pairs than in most.
    """

    num_draws: int = eqx.field(static=True)
    used: Float[np.ndarray, "K0 K1"]
    contested: Any
    share: float = eqx.field(static=True)

    @classmethod
    def of(
        cls,
        objectives: Float[np.ndarray, "S K0 K1"],
        weights: Float[np.ndarray, "S K0 K1"],
    ) -> "VertexChanges":
        """Solve the linear programs of some draws.

        Args:
            objectives: What each pair costs per mass, as the weights' problem has it.
            weights: The couplings of the plans, whose sums are the marginals.
        """
        some = spread_indices(len(weights), _SOLVED)
        smooth = np.asarray(weights, np.float64)[some]
        exact = np.stack([_vertex(c, w) for c, w in zip(np.asarray(objectives, np.float64)[some], smooth, strict=True)])
        used = exact > _NO_SHARE * np.minimum(smooth.sum(axis=2)[:, :, None], smooth.sum(axis=1)[:, None, :])
        often = used.mean(axis=0)
        between = (often > _FEW) & (often < 1 - _FEW)
        # The pair's share of the smaller component, in the exact optimum and in the plan.
        scale = np.minimum(smooth.sum(axis=2).mean(axis=0)[:, None], smooth.sum(axis=1).mean(axis=0)[None, :])
        scale = np.maximum(scale, np.finfo(float).tiny)
        spread, own = exact.std(axis=0) / scale, smooth.std(axis=0) / scale
        # What the plan couples where the exact optimum does not: the width over which a kink is rounded.
        rounding = np.where(used, 0.0, smooth).sum(axis=0) / np.maximum((~used).sum(axis=0), 1) / scale
        contested = between & (spread > _NO_SPREAD) & (rounding < spread) & (own > 0.5 * spread)
        kinds, counts = np.unique(used.reshape(len(used), -1), axis=0, return_counts=True)
        share = 1 - float(counts.max()) / len(used) if len(kinds) > 1 else 0.0
        return cls(len(used), often, contested, share)

    @property
    def is_near(self) -> bool:
        """Whether some draws lie on the other side of a change that is not smoothed."""
        return bool(self.contested.any())

    @property
    def caution(self) -> str:
        """What to keep in mind of intervals; nothing where no change is near."""
        if not self.is_near:
            return ""
        pairs = np.argwhere(self.contested)
        words = ", ".join(f"{i} -> {j} in {self.used[i, j]:.0%}" for i, j in pairs[:3])
        return (
            f"Omega is near a change of vertex (the exact optimum couples other pairs in {self.share:.0%} of the "
            f"draws: {words}{', ...' * (len(pairs) > 3)})"
        )

    def __str__(self) -> str:
        if not self.is_near:
            return f"{self.num_draws} draws: no change of vertex is near"
        return f"{self.num_draws} draws: {self.caution}; intervals of Omega and of the map may cover too little"


def _vertex(cost: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The exact optimum with the marginals of a coupling; where it cannot be had, the coupling."""
    with jax.enable_x64(True):
        found, _ = exact_coupling(*jax.device_put((cost, weights.sum(axis=1), weights.sum(axis=0))))
    exact = np.asarray(found.weights)
    return exact if np.isfinite(exact).all() else weights
