"""The P-block for any two families: Sinkhorn's iteration between draws of the components."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from .._base.arrays import batch_size, is_traced, power_of_two, safe_log, take
from .._base.results import RESULTS
from .._base.xla import program, unfused
from .._components.covariance import DenseCovariance
from .._components.interface import AbstractComponents
from .gaussian_pair import conditional_gain
from .interface import AbstractComponentMaps, AbstractCouplings, PairSelection, select_pairs
from .numerical_pair import Nodes
from .numerical_sinkhorn import extend, interaction
from .settings import NumericalSettings

# Draws per block of the integrals.
BLOCK = 2048
# Metropolis moves that take a draw off the nodes.
_NUM_MOVES = 6
# Fewer points than this are mapped by the program for this many.
_LEAST_POINTS = 64


class NumericalMaps(AbstractComponentMaps):
    """Barycentric maps that average the nodes of the target components."""

    couplings: "NumericalCouplings"
    row_shares: Float[Array, "K0 K1"]

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        small = float(jnp.finfo(x.dtype).eps) * 1e-3
        if is_traced(self, x, responsibilities):
            return _barycenters(self.couplings, x, responsibilities, select_pairs(self.row_shares, small))
        # Only the points that a source component is responsible for meet its pairs.
        points, host, shares = (np.asarray(array) for array in (x, responsibilities, self.row_shares))
        image = np.zeros_like(points)
        for i in np.flatnonzero((host > small).any(0)):
            near = np.flatnonzero(host[:, i] > small)
            chosen = np.pad(near, (0, power_of_two(max(len(near), _LEAST_POINTS)) - len(near)))
            pairs = select_pairs(jax.device_put(shares[i : i + 1]), small)
            source = jax.device_put(np.full(pairs.target.shape, i, pairs.target.dtype))
            pairs = PairSelection(source, pairs.target, pairs.weight)
            own, weight = jax.device_put((points[chosen], host[chosen]))
            part = _barycenters(self.couplings, own, weight, pairs)
            image[near] += np.asarray(part)[: len(near)]
        return jax.device_put(image)


class NumericalCouplings(AbstractCouplings):
    """Couplings of any two families, represented by nodes and by potentials there.

    Conditional laws at points that are no nodes come from Sinkhorn's own extension of the potentials.

    Attributes:
        errors: Cautious estimates of the errors of `objectives`, shape ``[K0, K1]``. Those of ``costs`` and
            of ``epsilon * kl`` are several times larger.
        marginal_errors: L1 error of the marginals of each plan between nodes, shape ``[K0, K1]``.
        source_nodes: Nodes of the source components.
        target_nodes: Nodes of the target components.
        source_potentials: Potentials at the source nodes, shape ``[K0, K1, N]``.
        target_potentials: Potentials at the target nodes, shape ``[K0, K1, N]``.
        settings: How all of this was computed.
    """

    costs: Float[Array, "K0 K1"]
    kl: Float[Array, "K0 K1"]
    epsilon: Float[Array, ""]
    errors: Float[Array, "K0 K1"]
    marginal_errors: Float[Array, "K0 K1"]
    source: AbstractComponents
    target: AbstractComponents
    source_nodes: Nodes
    target_nodes: Nodes
    source_potentials: Float[Array, "K0 K1 N"]
    target_potentials: Float[Array, "K0 K1 N"]
    settings: NumericalSettings

    @property
    def objective_errors(self) -> Float[Array, "K0 K1"]:
        return self.errors

    @property
    def result(self) -> Any:
        met = jnp.all(self.marginal_errors <= self.settings.tolerance)
        return RESULTS.where(met, RESULTS.successful, RESULTS.potentials_not_converged)

    def transpose(self) -> "NumericalCouplings":
        return NumericalCouplings(
            self.costs.T,
            self.kl.T,
            self.epsilon,
            self.errors.T,
            self.marginal_errors.T,
            self.target,
            self.source,
            self.target_nodes,
            self.source_nodes,
            jnp.swapaxes(self.target_potentials, 0, 1),
            jnp.swapaxes(self.source_potentials, 0, 1),
            self.settings,
        )

    def component_maps(self, row_shares: Float[Array, "K0 K1"]) -> NumericalMaps:
        return NumericalMaps(self, row_shares)

    def conditional_covariance(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, "n d d"]:
        return _conditional_covariance(self, x, y, weight, shares)

    def conditional_mean(
        self, x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _conditional_mean(self, x, source, target)

    def sample_conditional(
        self, key: Key[Array, ""], x: Float[Array, "n d"], source: Int[Array, " n"], target: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        return _sample_conditional(self, key, x, source, target)

    def log_conditional(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "n d"],
        log_weight: Float[Array, "n K0"],
        shares: PairSelection,
    ) -> Float[Array, " n"]:
        return _log_conditional(self, x, y, log_weight, shares)

    def cross_covariances(self, pairs: PairSelection) -> Float[Array, "p d d"]:
        return _cross_covariances(self, pairs)

    def interpolate(self, t: Float[Array, ""], pairs: PairSelection) -> None:
        """No closed form: the law of (1 - t) x + t y belongs to no family."""
        return

    def pair(self, source: Int[Array, ""], target: Int[Array, ""]) -> "_Pair":
        """What conditional laws of one pair need."""
        left, right = take(self.source_nodes, source), take(self.target_nodes, target)
        return _Pair(
            take(self.source, source)._mean(),
            take(self.target, target)._mean(),
            left,
            right,
            self.source_potentials[source, target],
            self.target_potentials[source, target],
            self.epsilon,
        )


class _Pair(eqx.Module):
    """One pair: means, nodes about them, and potentials at the nodes."""

    source_mean: Float[Array, " d"]
    target_mean: Float[Array, " d"]
    source: Nodes
    target: Nodes
    u: Float[Array, " N"]
    v: Float[Array, " N"]
    epsilon: Float[Array, ""]

    def probabilities(self, x: Float[Array, "n d"]) -> Float[Array, "n N"]:
        """The conditional law over the target nodes, at points."""
        kernel = interaction(x - self.source_mean[None], self.target.points, self.epsilon)
        return unfused(jax.nn.softmax(kernel + (self.target.log_weight + self.v)[None], axis=1))

    def mean(self, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """E[y | x]."""
        return self.target_mean[None] + unfused(self.probabilities(x) @ self.target.points)

    def log_density(self, x: Float[Array, "n d"], y: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The log-density of the plan against the product of its marginals."""
        left, right = x - self.source_mean[None], y - self.target_mean[None]
        u = extend(left, self.target.points, self.target.log_weight, self.v, self.epsilon)
        return u + self.potential(right) + 2 * jnp.sum(left * right, axis=1) / self.epsilon

    def potential(self, y: Float[Array, "n d"]) -> Float[Array, " n"]:
        """The potential v at centered points."""
        return extend(y, self.source.points, self.source.log_weight, self.u, self.epsilon)


# -- conditional laws ----------------------------------------------------------------------------------------------


def _over_pairs(function: Any, start: Array, pairs: PairSelection, *points: Array, num_nodes: int) -> Array:
    """Sum ``function(i, j, weight, block of points)`` over pairs, for blocks of points."""

    def block(items: tuple[Array, ...]) -> Array:
        rows = tuple(item[None] for item in items)

        def add(total: Array, pair: PairSelection) -> tuple[Array, None]:
            return function(total, pair, *rows), None

        return jax.lax.scan(add, start, pairs)[0]

    num = points[0].shape[0]
    size = max(1, min(batch_size(num_nodes + start.size), num))
    return jax.lax.map(block, points, batch_size=size)


@program
def _barycenters(couplings: NumericalCouplings, x: Array, weight: Array, pairs: PairSelection) -> Float[Array, "n d"]:
    def add(total: Array, pair: PairSelection, point: Array, own: Array) -> Array:
        mean = couplings.pair(pair.source, pair.target).mean(point)
        return total + own[0, pair.source] * pair.weight * mean[0]

    num = couplings.source_potentials.shape[-1]
    return _over_pairs(add, jnp.zeros_like(x[0]), pairs, x, weight, num_nodes=num)


@program
def _conditional_covariance(
    couplings: NumericalCouplings, x: Array, y: Array, weight: Array, pairs: PairSelection
) -> Float[Array, "n d d"]:
    def add(total: Array, pair: PairSelection, point: Array, center: Array, own: Array) -> Array:
        one = couplings.pair(pair.source, pair.target)
        offset = one.target.points + (one.target_mean - center[0])[None]
        second = unfused((offset * one.probabilities(point)[0][:, None]).T @ offset)
        return total + own[0, pair.source] * pair.weight * second

    dim = x.shape[1]
    num = 2 * dim * couplings.source_potentials.shape[-1]
    return _over_pairs(add, jnp.zeros((dim, dim), x.dtype), pairs, x, y, weight, num_nodes=num)


@program
def _log_conditional(
    couplings: NumericalCouplings, x: Array, y: Array, log_weight: Array, pairs: PairSelection
) -> Float[Array, " n"]:
    def add(total: Array, pair: PairSelection, point: Array, image: Array, own: Array) -> Array:
        density = couplings.pair(pair.source, pair.target).log_density(point, image)[0]
        density = density + take(couplings.target, pair.target)._log_prob(image[0])
        return jnp.logaddexp(total, density + own[0, pair.source] + safe_log(pair.weight))

    num = 2 * couplings.source_potentials.shape[-1]
    return _over_pairs(add, jnp.asarray(-jnp.inf, x.dtype), pairs, x, y, log_weight, num_nodes=num)


@program
def _conditional_mean(couplings: NumericalCouplings, x: Array, source: Array, target: Array) -> Float[Array, "n d"]:
    def one(item: tuple[Array, Array, Array]) -> Float[Array, " d"]:
        return couplings.pair(item[1], item[2]).mean(item[0][None])[0]

    size = max(1, min(_points_at_once(couplings), x.shape[0]))
    return jax.lax.map(one, (x, source, target), batch_size=size)


@program
def _sample_conditional(
    couplings: NumericalCouplings, key: Array, x: Array, source: Array, target: Array
) -> Float[Array, "n d"]:
    """A node by its conditional probability, then moves that leave the continuous conditional law as it is."""

    def one(item: tuple[Array, Array, Array, Array]) -> Float[Array, " d"]:
        own_key, point, i, j = item
        pair = couplings.pair(i, j)
        node_key, move_key = jax.random.split(jax.random.wrap_key_data(own_key))
        node = jax.random.categorical(node_key, jnp.log(pair.probabilities(point[None])[0]))
        return pair.target_mean + _moved(pair, take(couplings.target, j), move_key, point, pair.target.points[node])

    # As plain numbers: a map in blocks takes keys for reused where the last block is smaller.
    keys = jax.random.key_data(jax.random.split(key, x.shape[0]))
    size = max(1, min(_points_at_once(couplings), x.shape[0]))
    return jax.lax.map(one, (keys, x, source, target), batch_size=size)


def _moved(
    pair: _Pair, component: AbstractComponents, key: Array, x: Float[Array, " d"], start: Float[Array, " d"]
) -> Float[Array, " d"]:
    """Metropolis moves of a centered point, with the scale of the Gaussian conditional law."""
    dim = x.shape[0]
    tril = DenseCovariance(pair.source.tril), DenseCovariance(pair.target.tril)
    root = jnp.linalg.cholesky(conditional_gain(*tril, pair.epsilon / 2)) * jnp.sqrt(pair.epsilon / 2)
    slope = 2 * (x - pair.source_mean) / pair.epsilon

    def log_target(y: Float[Array, " d"]) -> Float[Array, ""]:
        return pair.potential(y[None])[0] + jnp.sum(slope * y) + component._log_prob(pair.target_mean + y)

    def move(state: tuple[Array, Array], own_key: Array) -> tuple[tuple[Array, Array], None]:
        noise_key, accept_key = jax.random.split(jax.random.wrap_key_data(own_key))
        y, value = state
        trial = y + (1.7 / dim**0.5) * unfused(root @ jax.random.normal(noise_key, y.shape, y.dtype))
        trial_value = log_target(trial)
        accept = jnp.log(jax.random.uniform(accept_key, (), y.dtype)) < trial_value - value
        return (jnp.where(accept, trial, y), jnp.where(accept, trial_value, value)), None

    keys = jax.random.key_data(jax.random.split(key, _NUM_MOVES))
    return jax.lax.scan(move, (start, log_target(start)), keys)[0][0]


def _points_at_once(couplings: NumericalCouplings) -> int:
    return batch_size(couplings.source_nodes.points[0].size * 4)


@program
def _cross_covariances(couplings: NumericalCouplings, pairs: PairSelection) -> Float[Array, "p d d"]:
    def one(item: tuple[Array, Array]) -> Float[Array, "d d"]:
        pair = couplings.pair(*item)
        image = pair.mean(pair.source.points + pair.source_mean[None]) - pair.target_mean[None]
        return unfused((pair.source.points * jnp.exp(pair.source.log_weight)[:, None]).T @ image)

    return jax.lax.map(one, (pairs.source, pairs.target))
