r"""The potential of a plan: quadratics, one for each pair of components, joined by a soft maximum.

Under a plan, each pair (k, l) of components has an affine map, the gradient of a quadratic. The soft maximum of
quadratics $q_p$,

$$\phi(x) = \tau \log \sum_p e^{q_p(x) / \tau} + \tfrac{\mu}{2} |x|^2,$$

is convex as a log-sum-exp of convex functions. Its gradient is a blend of their affine maps, whose weights say which
pair acts where; the barycentric map blends one map per source component.

A piece counts wherever it is the largest, so one that bends more than its neighbors wins far from where it belongs.
Pieces therefore start with one matrix, a share of the straight line's, and training tells them apart. Each starts as a
map of the mean of k to the mean of l. Levels follow from the dual of the weights' coupling: with
$\lambda_k + t_l \le c_{kl}$, and equality where the plan has weight, $|x|^2 / 2 - q_{kl}(x)$ is given the mean
$(c_{kl} - t_l) / 2$ under component k: pairs in use are level there.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import as_scalar
from .._base.arrays import to_jax
from .._components.mixture import Mixture
from .._plans.plan import TransportPlan
from .interface import AbstractPotential
from .line import straight_line, StraightLine


class BlendedPotential(AbstractPotential):
    r"""A soft maximum of convex quadratics $|R_p x|^2 / 2 + \langle b_p, x \rangle + c_p$, plus $\mu |x|^2 / 2$.

    Its gradient is a blend of affine maps, which stays readable: `responsibilities` says which one acts where. It is
    convex whatever its arrays hold, so it can be trained: ``fit_brenier(key, x, y, start=plan,
    potential=BlendedPotential)``.

    Attributes:
        roots: R_p, shape ``[P, d, d]``.
        slopes: b_p, shape ``[P, d]``.
        offsets: c_p, shape ``[P]``.
        log_temperature: Logarithm of $\tau$, units of squared distance: how soft the maximum is.
        curvature: mu.
        pairs: The source and the target component that each piece comes from.
    """

    roots: Float[Array, "P d d"]
    slopes: Float[Array, "P d"]
    offsets: Float[Array, " P"]
    log_temperature: Float[Array, ""]
    curvature: float = eqx.field(static=True)
    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True)

    @property
    def num_dimensions(self) -> int:
        return self.slopes.shape[-1]

    @property
    def strong_convexity(self) -> float:
        return self.curvature

    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        temperature = jnp.exp(self.log_temperature)
        soft = temperature * jax.scipy.special.logsumexp(self._pieces(x) / temperature)
        return soft + 0.5 * self.curvature * jnp.sum(x * x)

    def _pieces(self, x: Float[Array, " d"]) -> Float[Array, " P"]:
        return 0.5 * jnp.sum((self.roots @ x) ** 2, axis=1) + self.slopes @ x + self.offsets

    def responsibilities(self, x: Float[Array, " d"]) -> Float[Array, " P"]:
        """The weight of each piece's affine map in the image of one point; they sum to one."""
        return jax.nn.softmax(self._pieces(x) / jnp.exp(self.log_temperature))

    @classmethod
    def from_plan(
        cls,
        plan: TransportPlan,
        line: StraightLine | None = None,
        *,
        on_target: bool = False,
        temperature: float | None = None,
        curvature: float = 0.05,
        min_weight: float = 1e-3,
    ) -> "BlendedPotential":
        """Where training starts: a potential that follows the plan.

        Every piece maps the mean of a source component to that of a target component. By itself the potential is
        coarse; trained on the samples, its map is exact to a percent in few dimensions.

        Args:
            plan: The plan.
            line: The coordinates that the potential is wanted in; by default the points' own.
            on_target: Give the potential of target points, of the map back; ``line`` then leads from target to source.
            temperature: tau, in coordinates whose mean variance is one; by default a quarter of the root of the number
                of dimensions.
            curvature: mu, as a share of the straight line's matrix.
            min_weight: Pairs of smaller weight are left out.

        Raises:
            ValueError: If no pair is left.
        """
        chosen = np.argwhere(np.asarray(plan.weights) > float(as_scalar("min_weight", min_weight)))
        if not len(chosen):
            largest = float(np.max(np.asarray(plan.weights)))
            raise ValueError(f"`min_weight` must leave some pairs; the largest weight is {largest:.3g}.")
        dim = plan.source.dim
        share = dim**0.5 / 4 if temperature is None else float(as_scalar("temperature", temperature, strict=True))
        as_scalar("curvature", curvature, strict=True)
        directed = plan.reverse() if on_target else plan
        own = line if line is not None else straight_line(*map(_sigma_points, (directed.source, directed.target)))
        pieces = _pieces(directed, chosen[:, ::-1] if on_target else chosen, own)
        slopes = pieces.images - _SHARED * pieces.centers
        # The mean of a piece under its component: half the trace of matrix times covariance, and the value at its mean.
        bend = 0.5 * _SHARED * (np.trace(pieces.covariances, axis1=1, axis2=2) + np.sum(pieces.centers**2, axis=1))
        levels = pieces.means - bend - np.sum(slopes * pieces.centers, axis=1)
        root = np.sqrt(max(_SHARED - curvature, 0.1 * curvature)) * np.eye(dim)
        arrays = np.broadcast_to(root, (len(chosen), dim, dim)), slopes, levels - levels.max(), np.log(share)
        dtype = plan.weights.dtype if line is None else line.scale.dtype
        pairs = tuple((int(k), int(j)) for k, j in chosen)
        made: BlendedPotential = cls(*[to_jax(a, dtype) for a in arrays], curvature=float(curvature), pairs=pairs)
        return made if line is not None else made.unwhitened(own)

    def unwhitened(self, line: StraightLine) -> "BlendedPotential":
        """The same potential in the points' own units, where this one is in the coordinates of a straight line.

        Of a fitted map: ``jax.tree.map(lambda a: a[0], fit.map.source)`` is its first member, with both.
        """
        host, mine = (jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree) for tree in (line, self))
        square, matrix = host.scale**2, host.source_matrix
        bends = np.swapaxes(mine.roots, 1, 2) @ mine.roots + self.curvature * np.eye(self.num_dimensions)
        values, vectors = np.linalg.eigh(square * matrix.T @ bends @ matrix)
        curvature = float(self.curvature * square * np.linalg.svd(matrix, compute_uv=False)[-1] ** 2)
        roots = np.sqrt(np.maximum(values - curvature, 0))[:, :, None] * np.swapaxes(vectors, 1, 2)
        # s^2 q'(B (x - m0)) + <x - m0, m1>, sorted by powers of x.
        full = square * matrix.T @ bends @ matrix
        steep = square * mine.slopes @ matrix + host.target_mean
        slopes = steep - full @ host.source_mean
        start = 0.5 * np.einsum("i,pij,j->p", host.source_mean, full, host.source_mean)
        offsets = square * mine.offsets + start - steep @ host.source_mean
        dtype = self.offsets.dtype
        arrays = roots, slopes, offsets, mine.log_temperature + np.log(square)
        made = [to_jax(array, dtype) for array in arrays]
        return BlendedPotential(*made, curvature=curvature, pairs=self.pairs)


# The share of the straight line's matrix that every piece starts with; measured on the Wasserstein-2 benchmark.
_SHARED = 0.4


class _Pieces(NamedTuple):
    """Of some pairs: the means of both components, the source's covariance, and the mean of the piece under it."""

    centers: np.ndarray
    images: np.ndarray
    covariances: np.ndarray
    means: np.ndarray


def _pieces(plan: TransportPlan, chosen: np.ndarray, line: StraightLine) -> _Pieces:
    """Some pairs of a plan in the coordinates of a straight line; see `StraightLine.value`."""
    source, target = chosen.T
    first, second = plan.source.components, plan.target.components
    covariances = np.asarray(first.covariance(), np.float64)[source]
    centers = np.asarray(first.mean(), np.float64)[source]
    images = np.asarray(second.mean(), np.float64)[target]
    costs = np.asarray(plan.component_objectives, np.float64)[source, target]
    duals = np.asarray(plan.weight_coupling.target_potential, np.float64)[target]
    square = np.sum(centers**2, axis=1) + np.trace(covariances, axis1=1, axis2=2)
    host = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), line)
    moved = centers - host.source_mean
    return _Pieces(
        moved @ host.source_matrix.T,
        (images - host.target_mean) @ host.target_matrix.T,
        host.source_matrix @ covariances @ host.source_matrix.T,
        (0.5 * (square - costs + duals) - moved @ host.target_mean) / host.scale**2,
    )


def _sigma_points(mixture: Mixture) -> np.ndarray:
    """Points with the mean and the covariance of a mixture."""
    root = np.linalg.cholesky(np.asarray(mixture.covariance(), np.float64))
    steps = np.sqrt(len(root)) * np.concatenate([root.T, -root.T])
    return np.asarray(mixture.mean(), np.float64) + steps
