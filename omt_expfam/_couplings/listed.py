r"""Couplings of Gaussian pairs that are listed one by one, and lower bounds of the objectives of all pairs.

The objective of a pair is $\|m_0 - m_1\|^2 + tr \Sigma_0 + tr \Sigma_1 - \sum_k h(\sigma_k)$ with the singular values
$\sigma$ of $L_1^T L_0$ and $h(\sigma) = 2 r - s \log(1 + r / s)$, see `gaussian_pair`. As a function of $\log \sigma$,
$h$ is increasing and convex, and by Horn's inequalities the logarithms of $\sigma$ are majorized by those of the
products of the singular values of both factors, each in order: these give a lower bound. It is the objective itself
where the covariances have common axes in common order; coordinates of diagonal covariances are left in their own order,
so that it is for them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.arrays import batch_size, on_host, take, to_jax
from .._base.buckets import cut
from .._base.progress import progress_bar
from .._base.xla import program
from .._components.covariance import AbstractCovariance, DiagonalCovariance, ScalarCovariance, traces
from .._components.draws import chunks
from .._components.interface import AbstractComponents
from .gaussian import AbstractGaussianCouplings
from .gaussian_blocks import AffineMaps, collapse_listed, components_like, form_of, GaussianSides, interpolate
from .gaussian_pair import trace_and_kl
from .interface import PairSelection

# Pairs in a block of those that are computed one by one, and where there are few; numbers in a block of bounds.
_PAIRS, _FEW, _BOUNDS = 2**13, 2**8, 2**22


def objective_bounds(sides: GaussianSides) -> Float[np.ndarray, "K0 K1"]:
    """Lower bounds of cost plus regularization of all pairs, in float32, from float64 components.

    Nothing larger than a table of float32 numbers is held for all pairs.
    """
    own_order = all(isinstance(form, DiagonalCovariance | ScalarCovariance) for form in sides.forms)
    (mean, root), other = (
        (side.mean(), _roots(form, own_order))
        for side, form in zip((sides.source, sides.target), sides.forms, strict=True)
    )
    num = mean.shape[0]
    size = min(max(1, _BOUNDS // other[0].shape[0]), num)
    found = np.empty((num, other[0].shape[0]), np.float32)
    for some, count in chunks(num, size):
        block = _bounds(to_jax(np.asarray(mean)[some]), to_jax(np.asarray(root)[some]), *other, sides.epsilon)
        rows = np.asarray(block)[:count].astype(np.float32)
        found[some[:count]] = np.nextafter(rows, np.float32(-np.inf))
    return found


def total_variances(components: AbstractComponents) -> Float[Array, " K"]:
    """The trace of the covariance of each Gaussian component."""
    return _traces(form_of(components))


_traces = program(traces)


@program
def _roots(form: AbstractCovariance, own_order: bool) -> Float[Array, "K d"]:
    """Standard deviations along the axes of each covariance, in ascending order unless the axes are the coordinates."""

    def one(covariance: AbstractCovariance) -> Float[Array, " d"]:
        if own_order:
            return jnp.sqrt(jnp.diagonal(covariance.matrix()))
        return jnp.linalg.svd(covariance.scale_tril(), compute_uv=False)[::-1]

    return jax.lax.map(one, form)


@program
def _bounds(mean: Array, root: Array, other_mean: Array, other_root: Array, epsilon: Array) -> Float[Array, "n K1"]:
    s = epsilon / 2
    safe = jnp.where(s > 0, s, jnp.ones_like(s))

    def row(item: tuple[Array, Array]) -> Array:
        center, scale = item
        sigma = scale[None] * other_root
        # As `gaussian_pair` has it, without units of their own, which take twice as long: float64 has the range.
        r = sigma * (sigma / jnp.maximum(jnp.sqrt(sigma * sigma + s * s / 4) + s / 2, jnp.finfo(sigma.dtype).tiny))
        saved = 2 * r - jnp.where(s > 0, s * jnp.log1p(r / safe), 0.0)
        alone = jnp.sum((center[None] - other_mean) ** 2 + scale[None] ** 2 + other_root**2, axis=1)
        # Less the rounding of what is added up.
        return alone * (1 - 32 * center.size * jnp.finfo(alone.dtype).eps) - jnp.sum(saved, axis=1)

    return jax.lax.map(row, (mean, root))


def listed_terms(
    sides: GaussianSides, source: np.ndarray, target: np.ndarray, progress: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared distances and divergences of listed pairs, a block at a time."""
    num, parts = source.size, []
    size = _PAIRS if source.size > _FEW else _FEW
    with progress_bar(num, "component couplings", progress) as bar:
        for index, count in chunks(num, size):
            parts.append(jax.tree.map(np.asarray, _terms(sides, source[index], target[index])))
            bar.update(count)
    costs, kl = (np.concatenate(values)[:num] for values in zip(*parts, strict=True))
    return costs, kl


@program
def _terms(sides: GaussianSides, source: Int[Any, " p"], target: Int[Any, " p"]) -> tuple[Array, Array]:
    pairs = sides.pairs()

    def one(item: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = take(pairs.source, item[0]), take(pairs.target, item[1])
        trace, kl = trace_and_kl(left, right, pairs.s)
        gap = pairs.source_mean[item[0]] - pairs.target_mean[item[1]]
        return jnp.maximum(jnp.sum(gap * gap) + left.trace() + right.trace() - 2 * trace, 0.0), kl

    size = min(batch_size(pairs.item_size, 2**17), source.shape[0])
    return jax.lax.map(one, (jnp.asarray(source), jnp.asarray(target)), batch_size=size)


class ListedCouplings(AbstractGaussianCouplings):
    """Closed-form couplings of listed pairs of Gaussian components.

    Attributes:
        costs: Mean squared distance under the coupling of each listed pair.
        kl: Its divergence from independence, in nats; infinite at zero regularization.
        epsilon: Regularization, units of squared distance.
        source: Source components.
        target: Target components.
    """

    costs: Float[Array, " p"]
    kl: Float[Array, " p"]
    epsilon: Float[Array, ""]
    source: AbstractComponents
    target: AbstractComponents

    @property
    def objective_errors(self) -> Float[Array, " p"]:
        """The rounding of what the closed form adds up, at the largest cost."""
        unit = 32 * float(jnp.finfo(self.costs.dtype).eps) * self.source.dim
        return on_host(lambda xp, costs: xp.full_like(costs, unit * xp.max(xp.abs(costs))), self.objectives())

    def _ends(self) -> tuple[AbstractComponents, AbstractComponents]:
        return self.source, self.target

    def transpose(self) -> "ListedCouplings":
        return ListedCouplings(self.costs, self.kl, self.epsilon, self.target, self.source)

    def in_order(self, order: np.ndarray) -> "ListedCouplings":
        """The same pairs in another order."""
        costs, kl = on_host(lambda _, *values: tuple(value[order] for value in values), self.costs, self.kl)
        return ListedCouplings(costs, kl, self.epsilon, self.source, self.target)

    def component_maps(self, row_shares: Any) -> AffineMaps:
        """The maps of the source components, from a `PairSelection` with the shares of its pairs."""
        return cut(collapse_listed(self._sides(), row_shares), self.source.num_components)

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> AbstractComponents:
        return components_like((self.source, self.target), *interpolate(self._sides(), t, pairs))
