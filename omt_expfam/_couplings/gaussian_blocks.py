"""What couplings of Gaussian pairs compute, for many pairs at once and in blocks of bounded size."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import batch_size, on_host, power_of_two, safe_log, take, to_jax
from .._base.buckets import pad
from .._base.progress import progress_bar
from .._base.xla import program, unfused
from .._components.covariance import AbstractCovariance, DenseCovariance, DiagonalCovariance, ScalarCovariance, traces
from .._components.interface import AbstractComponents
from .gaussian_pair import conditional_gain, promote, trace_and_kl
from .interface import AbstractComponentMaps, PairSelection, squared_distances

# Pairs times d^3 beyond which the pairs are solved in slices of source components, so that progress can be shown.
LONG = 10**9

_NUM_SLICES = 32


class AffineMaps(AbstractComponentMaps):
    """One affine map per source component: ``offset_i + gain_i (x - center_i)``.

    Attributes:
        center: Source means, shape ``[K0, d]``.
        gain: Matrices ``[K0, d, d]``, or their diagonals ``[K0, d]``.
        offset: Images of the means, shape ``[K0, d]``.
    """

    center: Float[Array, "K0 d"]
    gain: Float[Array, "K0 d *e"]
    offset: Float[Array, "K0 d"]

    def padded(self, num_components: int) -> "AffineMaps":
        return pad(self, num_components)

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        return _apply_maps(self, x, responsibilities)


@program
def _apply_maps(maps: AffineMaps, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Array:
    def add(total: Array, item: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        center, gain, offset, weight = item
        step = x - center[None]
        image = step * gain[None] if gain.ndim == 1 else step @ gain.T
        return total + weight[:, None] * (offset[None] + image), None

    return jax.lax.scan(add, jnp.zeros_like(x), (maps.center, maps.gain, maps.offset, responsibilities.T))[0]


class GaussianSides(eqx.Module):
    """The components of both sides, the structures of their covariances, and the regularization."""

    source: AbstractComponents
    target: AbstractComponents
    forms: tuple[AbstractCovariance, AbstractCovariance]
    epsilon: Float[Array, ""]

    @property
    def item_size(self) -> int:
        """How many numbers the work on one component and all of the other side touches."""
        cheap = all(isinstance(form, DiagonalCovariance | ScalarCovariance) for form in self.forms)
        dim = self.source.dim
        return max(self.source.num_components, self.target.num_components) * (dim if cheap else dim**3)

    def padded(self) -> "GaussianSides":
        """Both sides with repeated components where that is little."""
        source, target = (side.padded(self.item_size) for side in (self.source, self.target))
        forms = pad(self.forms[0], source.num_components), pad(self.forms[1], target.num_components)
        return GaussianSides(source, target, forms, self.epsilon)

    def of_pairs(self, source: Any, target: Any) -> "GaussianSides":
        """The components of some pairs, one after another, so that programs do not depend on the number of all."""
        first, second = (self.source, self.forms[0]), (self.target, self.forms[1])
        first, second = on_host(lambda _, *trees: (take(trees[0], source), take(trees[1], target)), first, second)
        return GaussianSides(first[0], second[0], (first[1], second[1]), self.epsilon)

    def pairs(self) -> "_Pairs":
        """Means and covariances, brought to one structure."""
        return _Pairs(self.source.mean(), self.target.mean(), *promote(*self.forms), self.epsilon / 2)


def sides_of(source: AbstractComponents, target: AbstractComponents, epsilon: Float[Array, ""]) -> GaussianSides:
    return GaussianSides(source, target, (form_of(source), form_of(target)), epsilon)


class _Pairs(eqx.Module):
    """What every pair is made of: means, promoted covariances, and s = eps1 / 2."""

    source_mean: Float[Array, "K0 d"]
    target_mean: Float[Array, "K1 d"]
    source: AbstractCovariance
    target: AbstractCovariance
    s: Float[Array, ""]

    @property
    def item_size(self) -> int:
        """How many numbers the work on one pair takes."""
        dim = self.source_mean.shape[1]
        return 4 * dim if isinstance(self.source, DiagonalCovariance) else 4 * dim * dim

    def gain(self, source: Int[Array, ""], target: Int[Array, ""]) -> Array:
        """The matrix (or diagonal) A of one pair."""
        return conditional_gain(take(self.source, source), take(self.target, target), self.s)


def form_of(components: AbstractComponents) -> AbstractCovariance:
    form = components.elliptical_form()
    assert form is not None  # solve_couplings has asked.
    return form.covariance


def components_like(sides: tuple[AbstractComponents, AbstractComponents], mean: Array, table: Array) -> Any:
    """Components like those of both sides in the simplest structure that both have.

    Args:
        sides: The components of both sides.
        mean: Means, shape ``[p, d]``.
        table: Variances of the coordinates, shape ``[p, d]``, or Cholesky factors, shape ``[p, d, d]``.
    """
    if all(isinstance(form_of(side), ScalarCovariance) for side in sides):
        variance = on_host(lambda _, values: values[:, 0], table)
        return sides[0].with_elliptical_form(mean, ScalarCovariance(variance, mean.shape[1]))
    form = DiagonalCovariance(table) if table.ndim == 2 else DenseCovariance(table)
    return sides[0].with_elliptical_form(mean, form)


@program
def normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: Any) -> Array:
    return jax.random.normal(key, shape, dtype)


def num_displaced(num: int, dim: int) -> int:
    """The number of pairs that a block of points is padded to."""
    return max(power_of_two(num), 1 if dim > 16 else 64)


def _apply(gain: Array, vector: Array) -> Array:
    return gain * vector if gain.ndim == 1 else gain @ vector


def _root(gain: Array) -> Array:
    return jnp.sqrt(gain) if gain.ndim == 1 else jnp.linalg.cholesky(gain)


@program
def couple(sides: "GaussianSides") -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
    """Costs and divergences of all pairs."""
    trace, kl = pair_terms(sides.pairs())
    spreads = [traces(form) for form in sides.forms]
    distance = squared_distances(sides.source.mean(), sides.target.mean())
    costs = distance + (spreads[0][:, None] + spreads[1][None, :] - 2 * trace)
    # Rounding makes the costs of equal components slightly negative; derivatives do not see this.
    return costs + jax.lax.stop_gradient(jnp.maximum(-costs, 0)), kl


def couple_slices(sides: "GaussianSides", rows: int, progress: bool | None) -> tuple[Array, Array]:
    """`couple` for some source components at a time; every slice has the same shape."""
    num = sides.source.num_components
    parts = []
    with progress_bar(num, "component couplings", progress) as bar:
        for start in range(0, num, rows):
            index = np.minimum(np.arange(start, start + rows), num - 1)
            form = jax.tree.map(lambda leaf, own=index: np.asarray(leaf)[own], sides.forms[0])
            part = GaussianSides(sides.source.select(index), sides.target, (form, sides.forms[1]), sides.epsilon)
            parts.append(jax.block_until_ready(couple(part)))
            bar.update(min(rows, num - start))
    costs, kl = (to_jax(np.concatenate(values)[:num]) for values in zip(*parts, strict=True))
    return costs, kl


def pair_terms(pairs: _Pairs) -> tuple[Float[Array, "K0 K1"], Float[Array, "K0 K1"]]:
    """Tr C and KL of all pairs, some rows at a time, or parts of rows where the target has many components."""
    num, other = pairs.source_mean.shape[0], pairs.target_mean.shape[0]
    # Small blocks: the matrices of a block should stay in the processor's cache.
    block = batch_size(pairs.item_size, 2**17)

    # Rematerialized: the derivative of a block needs the matrices of that block only.
    @jax.checkpoint
    def one(source: AbstractCovariance, target: AbstractCovariance) -> tuple[Array, Array]:
        return trace_and_kl(source, target, pairs.s)

    def row(source: AbstractCovariance) -> tuple[Array, Array]:
        if block >= other:
            return jax.vmap(one, in_axes=(None, 0))(source, pairs.target)
        return jax.lax.map(lambda target: one(source, target), pairs.target, batch_size=block)

    return jax.lax.map(row, pairs.source, batch_size=min(max(1, block // other), num))


def _scan_pairs(function: Callable, start: Any, pairs: PairSelection, item_size: int) -> Any:
    """Fold ``function(carry, block of pairs)`` over the selected pairs, in blocks of bounded size."""
    num = pairs.weight.shape[0]
    size = min(1 << max(batch_size(item_size).bit_length() - 1, 0), num)
    pad = -num % size
    blocks = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, pad)).reshape(-1, size), pairs)
    return jax.lax.scan(lambda carry, block: (function(carry, block), None), start, blocks)[0]


@program
def collapse(sides: GaussianSides, shares: PairSelection, row_shares: Float[Array, "K0 K1"] | None) -> AffineMaps:
    """The maps with gains sum_j share_ij A_ij and offsets sum_j share_ij m1_j; without a table each has its own."""
    pairs = sides.pairs()
    gain = _blended_gains(pairs, shares)
    offset = pairs.target_mean if row_shares is None else row_shares @ pairs.target_mean
    return AffineMaps(pairs.source_mean, gain, offset)


@program
def collapse_listed(sides: GaussianSides, shares: PairSelection) -> AffineMaps:
    """The same maps where only the shares of some pairs are known; all others are zero."""
    pairs = sides.pairs()
    means = shares.weight[:, None] * pairs.target_mean[shares.target]
    offset = jnp.zeros_like(pairs.source_mean).at[shares.source].add(means)
    return AffineMaps(pairs.source_mean, _blended_gains(pairs, shares), offset)


def _blended_gains(pairs: _Pairs, shares: PairSelection) -> Float[Array, "K0 d *e"]:
    """The gain of each source component, summed over pairs by their shares."""

    def add(total: Array, block: PairSelection) -> Array:
        gains = jax.vmap(pairs.gain)(block.source, block.target)
        weight = block.weight.reshape((-1,) + (1,) * (gains.ndim - 1))
        return total.at[block.source].add(weight * gains)

    shape = jax.eval_shape(pairs.gain, shares.source[0], shares.target[0])
    start = jnp.zeros((pairs.source_mean.shape[0], *shape.shape), shape.dtype)
    return _scan_pairs(add, start, shares, pairs.item_size)


def _conditional_mean(pairs: _Pairs, gain: Array, x: Array, source: Array, target: Array) -> Array:
    """E[y | x] under one pair, at all points."""
    step = x - pairs.source_mean[source][None]
    return pairs.target_mean[target][None] + unfused(jax.vmap(lambda v: _apply(gain, v))(step))


@program
def conditional_covariance(sides: GaussianSides, x: Array, y: Array, weight: Array, shares: PairSelection) -> Array:
    pairs, dim = sides.pairs(), x.shape[1]

    def add(total: Array, block: PairSelection) -> Array:
        gains = jax.vmap(pairs.gain)(block.source, block.target)
        mean = jax.vmap(_conditional_mean, (None, 0, None, 0, 0))(pairs, gains, x, block.source, block.target)
        offset = mean - y[None]
        scale = weight.T[block.source] * block.weight[:, None]
        between = jnp.einsum("pn,pnd,pne->nde", scale, offset, offset)
        within = pairs.s * (scale.T @ gains.reshape(gains.shape[0], -1))
        within = jax.vmap(jnp.diag)(within) if gains.ndim == 2 else within.reshape(-1, dim, dim)
        return total + between + within

    start = jnp.zeros((x.shape[0], dim, dim), x.dtype)
    return _scan_pairs(add, start, shares, pairs.item_size + 3 * x.size)


@program
def displace_block(sides: GaussianSides, x: Array, noise: Array, which: Array) -> Array:
    return _displaced(sides.pairs(), x, noise, jnp.tile(jnp.arange(sides.source.num_components), (2, 1)), which)


@program
def displace_each(sides: GaussianSides, x: Array, noise: Array, source: Array, target: Array) -> Array:
    pairs = sides.pairs()

    def one(item: tuple[Array, Array, Array, Array]) -> Array:
        point, z, i, j = item
        return _displaced(pairs, point[None], z[None], jnp.stack([i, j])[:, None], jnp.zeros((1,), int))[0]

    size = min(batch_size(pairs.item_size), x.shape[0])
    return jax.lax.map(one, (x, noise, source, target), batch_size=size)


def _displaced(pairs: _Pairs, x: Array, noise: Array, unique: Int[Array, "2 u"], which: Array) -> Array:
    """Points and noise moved by the couplings of the pairs that they belong to."""
    gains = jax.vmap(pairs.gain)(unique[0], unique[1])
    roots = jax.vmap(_root)(gains)

    def one(point: Array, z: Array, index: Array) -> Array:
        step = point - pairs.source_mean[unique[0, index]]
        drift = _apply(gains[index], step) + jnp.sqrt(pairs.s) * _apply(roots[index], z)
        return pairs.target_mean[unique[1, index]] + drift

    return jax.vmap(one)(x, noise, which)


@program
def log_conditional(sides: GaussianSides, x: Array, y: Array, log_weight: Array, shares: PairSelection) -> Array:
    pairs, dim = sides.pairs(), x.shape[1]

    def density(i: Array, j: Array) -> Array:
        gain = pairs.gain(i, j)
        root = _root(pairs.s * gain)
        residual = y - _conditional_mean(pairs, gain, x, i, j)
        if root.ndim == 1:
            z, log_det = residual / root[None], jnp.sum(jnp.log(root))
        else:
            inverse = jax.scipy.linalg.solve_triangular(root, jnp.eye(dim, dtype=root.dtype), lower=True)
            z, log_det = unfused(residual @ inverse.T), jnp.sum(jnp.log(jnp.diagonal(root)))
        return -0.5 * jnp.sum(z * z, axis=1) - log_det - 0.5 * dim * jnp.log(2 * jnp.pi).astype(x.dtype)

    def add(total: Array, block: PairSelection) -> Array:
        table = jax.vmap(density)(block.source, block.target) + log_weight.T[block.source]
        return jnp.logaddexp(total, jax.scipy.special.logsumexp(table + safe_log(block.weight)[:, None], axis=0))

    start = jnp.full((x.shape[0],), -jnp.inf, x.dtype)
    return _scan_pairs(add, start, shares, pairs.item_size + 3 * x.size)


@program
def cross_covariances(sides: GaussianSides, selection: PairSelection) -> Float[Array, "p d d"]:
    pairs = sides.pairs()

    def one(item: tuple[Array, Array]) -> Float[Array, "d d"]:
        source, target = take(pairs.source, item[0]), take(pairs.target, item[1])
        gain = conditional_gain(source, target, pairs.s)
        # E[y | x] = m1 + A (x - m0), so that Cov(x, y) = Sigma0 A' with A symmetric.
        return jnp.diag(source.variance * gain) if gain.ndim == 1 else source.matrix() @ gain

    size = min(batch_size(pairs.item_size), selection.weight.shape[0])
    return jax.lax.map(one, (selection.source, selection.target), batch_size=size)


@program
def interpolate(sides: GaussianSides, t: Array, selection: PairSelection) -> tuple[Array, Array]:
    """Means, and variances of the coordinates or Cholesky factors, of (1 - t) x + t y under each pair."""
    pairs = sides.pairs()

    def one(item: tuple[Array, Array]) -> tuple[Array, Array]:
        i, j = item
        mean = (1 - t) * pairs.source_mean[i] + t * pairs.target_mean[j]
        source, target = take(pairs.source, i), take(pairs.target, j)
        gain = conditional_gain(source, target, pairs.s)
        if isinstance(source, DiagonalCovariance) and isinstance(target, DiagonalCovariance):
            cross = 2 * source.variance * gain
            return mean, (1 - t) ** 2 * source.variance + t**2 * target.variance + t * (1 - t) * cross
        left, right = source.matrix(), target.matrix()
        cross = left @ gain
        matrix = (1 - t) ** 2 * left + t**2 * right + t * (1 - t) * (cross + cross.T)
        return mean, jnp.linalg.cholesky(matrix)

    size = min(batch_size(pairs.item_size), selection.weight.shape[0])
    return jax.lax.map(one, (selection.source, selection.target), batch_size=size)
