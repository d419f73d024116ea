"""The P-block for any two families: Sinkhorn's iteration between draws of the components."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ._arrays import as_count, as_scalar, batch_size, is_traced, power_of_two, safe_log, take, unfused
from ._components import AbstractComponents, map_components
from ._couplings import AbstractComponentMaps, AbstractCouplings, PairSelection, select_pairs, squared_distances
from ._covariance import DenseCovariance
from ._gaussian_pair import conditional_gain
from ._numerical_pair import extend, interaction, Nodes, PairSolution, solve_pair
from ._progress import progress_bar
from ._result import RESULTS

# Draws per block of the integrals.
_BLOCK = 2048
# Metropolis moves that take a draw off the nodes.
_NUM_MOVES = 6


class NumericalSettings(eqx.Module):
    """How couplings without a closed form are computed.

    Attributes:
        num_nodes: Nodes per component, a multiple of 4. The plan of a pair is a matrix of that size squared, and time
            grows like it; the bias that is left falls like its inverse. Changing it recompiles.
        num_draws: Draws per component for the integrals of the potentials; rounded up to a multiple of 2048. The
            noise that is left falls like its root. Changing it recompiles.
        seed: Seed of the nodes and draws: equal settings give equal results.
        tolerance: Largest accepted L1 error of the marginals of a plan.
        max_steps: Limit on the steps of Sinkhorn's iteration, for each pair.
    """

    num_nodes: int = eqx.field(static=True, default=2048)
    num_draws: int = eqx.field(static=True, default=65536)
    seed: int = eqx.field(static=True, default=0)
    tolerance: float = eqx.field(static=True, default=1e-4)
    max_steps: int = eqx.field(static=True, default=10_000)

    def __check_init__(self):
        if as_count("num_nodes", self.num_nodes, minimum=64) % 4:
            raise ValueError(f"`num_nodes` must be a multiple of 4; got {self.num_nodes}.")
        as_count("num_draws", self.num_draws)
        as_count("seed", self.seed, minimum=0)
        as_scalar("tolerance", self.tolerance, strict=True)
        as_count("max_steps", self.max_steps)


class NumericalMaps(AbstractComponentMaps):
    """Barycentric maps that average the nodes of the target components."""

    couplings: "NumericalCouplings"
    row_shares: Float[Array, "K0 K1"]

    def __call__(self, x: Float[Array, "n d"], responsibilities: Float[Array, "n K0"]) -> Float[Array, "n d"]:
        small = float(jnp.finfo(x.dtype).eps) * 1e-3
        if is_traced(self, x, responsibilities):
            return _barycenters(self.couplings, x, responsibilities, select_pairs(self.row_shares, small))
        # Only the points that a source component is responsible for meet its pairs.
        image, host = np.zeros(x.shape, x.dtype), np.asarray(responsibilities)
        for i in np.flatnonzero((host > small).any(0)):
            near = np.flatnonzero(host[:, i] > small)
            size = power_of_two(len(near))
            chosen = np.pad(near, (0, size - len(near)))
            pairs = select_pairs(self.row_shares[i : i + 1], small)
            pairs = PairSelection(jnp.full_like(pairs.source, i), pairs.target, pairs.weight)
            part = _barycenters(self.couplings, x[chosen], responsibilities[chosen], pairs)
            image[near] += np.asarray(part)[: len(near)]
        return jnp.asarray(image)


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


# -- the solve ---------------------------------------------------------------------------------------------------


def solve_numerical_couplings(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Float[Array, ""],
    settings: NumericalSettings | None = None,
    progress: bool | None = None,
) -> NumericalCouplings:
    """Couple all pairs by Sinkhorn's iteration between draws, one pair at a time.

    Traced components work; nothing is checked then, and there is no derivative in reverse mode (the draws are fixed,
    the solve is a loop of unknown length).

    Args:
        source: Source components: log-densities, draws, means and covariances are all that is used.
        target: Target components.
        epsilon: Regularization, units of squared distance; positive.
        settings: How accurately.
        progress: Show a progress bar over the pairs.

    Raises:
        ValueError: If ``epsilon`` is zero, or a component has no finite covariance, draws or log-densities.
    """
    settings = NumericalSettings() if settings is None else settings
    if not is_traced(epsilon) and float(epsilon) <= 0:
        raise ValueError(
            f"`epsilon_components` must be positive for numerical couplings; got {float(epsilon):g}. "
            "Use families with a Gaussian or product form for 0."
        )
    keys = jax.random.split(jax.random.key(settings.seed), 2)
    sides = [_Side.of(*item, settings) for item in zip((source, target), keys, strict=True)]
    for name, side in zip(("source", "target"), sides, strict=True):
        side.check(name)
    if is_traced(sides, epsilon):
        solution = jax.lax.map(lambda left: _solve_row(left, sides[1], epsilon, settings), sides[0])
    else:
        solution = _solve_rows(sides[0], sides[1], epsilon, settings, progress)
    return _assemble(source, target, epsilon, settings, sides, solution)


class _Side(eqx.Module):
    """Components with their nodes and the keys (as numbers) of further draws, which all pairs share."""

    components: AbstractComponents
    nodes: Nodes
    keys: Array

    @classmethod
    def of(cls, components: AbstractComponents, key: Key[Array, ""], settings: NumericalSettings) -> "_Side":
        keys = jax.random.split(key, (2, components.num_components))
        return cls(components, _draw_nodes(components, keys[0], settings.num_nodes), jax.random.key_data(keys[1]))

    def check(self, name: str) -> None:
        """Raise ValueError at the first component that nodes cannot represent."""
        if is_traced(self):
            return
        dense = self.components.covariance()
        log_prob = _node_log_probs(self)
        for what, values in (
            ("a finite covariance", dense),
            ("a positive definite covariance", self.nodes.tril),
            ("finite draws", self.nodes.points),
            ("finite log-densities at its own draws", log_prob),
        ):
            bad = ~np.isfinite(np.asarray(values)).reshape(values.shape[0], -1).all(1)
            if bad.any():
                kind = type(self.components).__name__
                raise ValueError(
                    f"`{name}` must have {what} in every component; component {bad.argmax()} ({kind}) does not."
                )

    def draws(self, settings: NumericalSettings) -> Float[Array, "b m d"]:
        """Centered draws of one component."""
        num = -(-settings.num_draws // _BLOCK)
        mean = self.components._mean()
        keys = jax.random.split(jax.random.wrap_key_data(self.keys), num)

        def block(key: Key[Array, ""]) -> Float[Array, "m d"]:
            return jax.vmap(self.components._sample)(jax.random.split(key, _BLOCK)) - mean[None]

        return jax.lax.map(block, keys)


@eqx.filter_jit
def _draw_nodes(components: AbstractComponents, keys: Key[Array, " K"], num: int) -> Nodes:
    def one(item: tuple[AbstractComponents, Key[Array, ""]]) -> Nodes:
        component, key = item
        points = jax.vmap(component._sample)(jax.random.split(key, num)) - component._mean()[None]
        return Nodes.of(points, component._covariance())

    return jax.lax.map(one, (components, keys))


@eqx.filter_jit
def _node_log_probs(side: _Side) -> Float[Array, "K N"]:
    def one(item: _Side) -> Float[Array, " N"]:
        return jax.vmap(item.components._log_prob)(item.nodes.points + item.components._mean()[None])

    return map_components(one, side, side.nodes.points[0].size)


def _solve_rows(
    left: _Side, right: _Side, epsilon: Array, settings: NumericalSettings, progress: bool | None
) -> PairSolution:
    num, other = left.nodes.points.shape[0], right.nodes.points.shape[0]
    rows = []
    with progress_bar(num * other, "component couplings", progress) as bar:
        for i in range(num):
            rows.append(jax.block_until_ready(_solve_row(take(left, i), right, epsilon, settings)))
            bar.update(other)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


@eqx.filter_jit
def _solve_row(left: _Side, right: _Side, epsilon: Array, settings: NumericalSettings) -> PairSolution:
    """One source component with all target components."""
    draws = left.draws(settings)
    tolerance = jnp.asarray(settings.tolerance, epsilon.dtype)

    def one(side: _Side) -> PairSolution:
        gain = conditional_gain(DenseCovariance(side.nodes.tril), DenseCovariance(left.nodes.tril), epsilon / 2)
        both = draws, side.draws(settings)
        return solve_pair(left.nodes, side.nodes, both, gain, epsilon, tolerance, jnp.asarray(settings.max_steps))

    return jax.lax.map(one, right)


def _assemble(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Array,
    settings: NumericalSettings,
    sides: list[_Side],
    solution: PairSolution,
) -> NumericalCouplings:
    """Add what centering took away, and split values into costs and divergences."""
    distance = squared_distances(source.mean(), target.mean())
    spread = [jax.vmap(lambda n: n.total_variance())(side.nodes) for side in sides]
    total = spread[0][:, None] + spread[1][None, :]
    # The objective is the more accurate: the divergence takes the rest. Neither it nor Tr C can be negative.
    kl = jnp.maximum((solution.value - total + 2 * solution.trace) / epsilon, 0)
    costs = distance + solution.value - epsilon * kl
    error = solution.error + 16 * jnp.finfo(costs.dtype).eps * distance
    potentials = solution.potentials
    return NumericalCouplings(
        costs,
        kl,
        epsilon,
        error,
        potentials.residual,
        source,
        target,
        sides[0].nodes,
        sides[1].nodes,
        potentials.u,
        potentials.v,
        settings,
    )


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


@eqx.filter_jit
def _barycenters(couplings: NumericalCouplings, x: Array, weight: Array, pairs: PairSelection) -> Float[Array, "n d"]:
    def add(total: Array, pair: PairSelection, point: Array, own: Array) -> Array:
        mean = couplings.pair(pair.source, pair.target).mean(point)
        return total + own[0, pair.source] * pair.weight * mean[0]

    num = couplings.source_potentials.shape[-1]
    return _over_pairs(add, jnp.zeros_like(x[0]), pairs, x, weight, num_nodes=num)


@eqx.filter_jit
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


@eqx.filter_jit
def _log_conditional(
    couplings: NumericalCouplings, x: Array, y: Array, log_weight: Array, pairs: PairSelection
) -> Float[Array, " n"]:
    def add(total: Array, pair: PairSelection, point: Array, image: Array, own: Array) -> Array:
        density = couplings.pair(pair.source, pair.target).log_density(point, image)[0]
        density = density + take(couplings.target, pair.target)._log_prob(image[0])
        return jnp.logaddexp(total, density + own[0, pair.source] + safe_log(pair.weight))

    num = 2 * couplings.source_potentials.shape[-1]
    return _over_pairs(add, jnp.asarray(-jnp.inf, x.dtype), pairs, x, y, log_weight, num_nodes=num)


@eqx.filter_jit
def _conditional_mean(couplings: NumericalCouplings, x: Array, source: Array, target: Array) -> Float[Array, "n d"]:
    def one(item: tuple[Array, Array, Array]) -> Float[Array, " d"]:
        return couplings.pair(item[1], item[2]).mean(item[0][None])[0]

    size = max(1, min(_points_at_once(couplings), x.shape[0]))
    return jax.lax.map(one, (x, source, target), batch_size=size)


@eqx.filter_jit
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


@eqx.filter_jit
def _cross_covariances(couplings: NumericalCouplings, pairs: PairSelection) -> Float[Array, "p d d"]:
    def one(item: tuple[Array, Array]) -> Float[Array, "d d"]:
        pair = couplings.pair(*item)
        image = pair.mean(pair.source.points + pair.source_mean[None]) - pair.target_mean[None]
        return unfused((pair.source.points * jnp.exp(pair.source.log_weight)[:, None]).T @ image)

    return jax.lax.map(one, (pairs.source, pairs.target))
