"""Numerical couplings solved: nodes and draws of every component, potentials of every pair."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from .._base.arrays import is_traced
from .._base.progress import progress_bar
from .._base.xla import jit, program
from .._components.covariance import DenseCovariance
from .._components.interface import AbstractComponents
from .gaussian_pair import conditional_gain
from .numerical import BLOCK, NumericalCouplings
from .numerical_grid import grid_side, grid_size, GridSide, solve_grids
from .numerical_pair import Nodes, PairSolution, Side, solve_pair
from .settings import NumericalSettings

# Numbers in the draws of one side that are kept from one pair to the next.
_MOST_KEPT = 2**27

# What components must have, in the order of the checks.
_NEEDED = (
    "a finite covariance",
    "a positive definite covariance",
    "finite draws",
    "finite log-densities at its own draws",
)


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
            "Use families with a Gaussian or product form for 0, or Student-t components with one number of degrees of "
            "freedom on both sides."
        )
    if is_traced(source, target, epsilon):
        sides, solution = _solve_traced(source, target, epsilon, settings)
    else:
        sides, solution = _solve_pairs(source, target, epsilon, settings, progress)
    potentials = solution.potentials
    return NumericalCouplings(
        solution.cost,
        solution.kl,
        epsilon,
        solution.error,
        potentials.residual,
        source,
        target,
        *sides,
        potentials.u,
        potentials.v,
        settings,
    )


def _solve_pairs(
    source: AbstractComponents,
    target: AbstractComponents,
    epsilon: Array,
    settings: NumericalSettings,
    progress: bool | None,
) -> tuple[tuple[Nodes, Nodes], PairSolution]:
    """One component, and one pair, per call: what is compiled depends neither on their numbers nor, for a pair, on
    families.
    """  # noqa: D205
    left, right = _Sampler(source, 0, settings), _Sampler(target, 1, settings)
    for name, sampler in (("source", left), ("target", right)):
        sampler.check(name)
    limits = np.asarray(settings.tolerance, epsilon.dtype), np.asarray(settings.max_steps)

    def solved(solve: Callable[..., PairSolution], one: Callable[[int], Any], other: Callable[[int], Any]) -> Any:
        solutions = []
        with progress_bar(left.num * right.num, "component couplings", progress) as bar:
            for i in range(left.num):
                side = one(i)
                for j in range(right.num):
                    solutions.append(jax.tree.map(np.asarray, solve(side, other(j), epsilon, *limits)))
                    bar.update(1)
        return _stacked(solutions, (left.num, right.num))

    if (grids := _grids(left, right)) is not None:
        solution = solved(_solve_grids, grids[0].__getitem__, grids[1].__getitem__)
        if np.isfinite(np.asarray(solution.error)).all():
            first, second = (_stacked([side.fine for side in one]) for one in grids)
            return (first, second), solution
    return (_stacked(left.nodes()), _stacked(right.nodes())), solved(_solve_pair, left.side, right.side)


def _grids(*samplers: "_Sampler") -> list[list[GridSide]] | None:
    """Grids of both sides, if they represent all components well."""
    found = []
    for sampler in samplers:
        if (size := grid_size(sampler.settings.num_nodes, sampler.components.dim)) is None:
            return None
        found.append([])
        for index in range(sampler.num):
            side, good = sampler.grid(index, size)
            if not good:
                return None
            found[-1].append(side)
    return found


def _stacked(trees: list[Any], shape: tuple[int, ...] | None = None) -> Any:
    """Trees stacked on the host, with leading axes of a shape; one axis by default."""

    def stack(*leaves: Any) -> Array:
        table = np.stack([np.asarray(leaf) for leaf in leaves])
        return jax.device_put(table if shape is None else table.reshape(*shape, *table.shape[1:]))

    return jax.tree.map(stack, *trees)


class _Sampler:
    """The components of one side, made into nodes and draws one by one; draws are kept where memory allows."""

    def __init__(self, components: AbstractComponents, number: int, settings: NumericalSettings):
        self.components, self.host = components, jax.tree.map(np.asarray, components)
        self.num, self.settings, self.number = components.num_components, settings, number
        self.kept: list[Side] = []

    def draw(self, index: int) -> tuple[Side, Array]:
        one = jax.tree.map(lambda leaf: leaf[index, ...], self.host)
        numbers = np.asarray([self.settings.seed % 2**32, self.number, index, self.num], np.uint32)
        return _draw_side(one, numbers, self.settings.num_nodes, self.settings.num_draws)

    def check(self, name: str) -> None:
        """Draw all components; raise ValueError at the first that nodes cannot represent."""
        for index in range(self.num):
            side, finite = self.draw(index)
            for what, good in zip(_NEEDED, np.asarray(finite), strict=True):
                if not good:
                    kind = type(self.components).__name__
                    raise ValueError(
                        f"`{name}` must have {what} in every component; component {index} ({kind}) does not."
                    )
            if self.num * side.draws.size > _MOST_KEPT:
                side = Side(side.mean, side.nodes, side.few, side.draws[:0])
            self.kept.append(side)

    def side(self, index: int) -> Side:
        """One component with its draws."""
        side = self.kept[index]
        return side if side.draws.size else self.draw(index)[0]

    def grid(self, index: int, size: int) -> tuple[GridSide, Array]:
        """One component as grids, and whether they represent it well."""
        one, side = jax.tree.map(lambda leaf: leaf[index, ...], self.host), self.side(index)
        return _grid_side(one, side.nodes.tril, side.draws, size)

    def nodes(self) -> list[Nodes]:
        """The nodes of all components."""
        return [side.nodes for side in self.kept]


def _sample_side(
    component: AbstractComponents, numbers: Any, num_nodes: int, num_draws: int
) -> tuple[Side, Bool[Array, " 4"]]:
    """Nodes and draws of one component, and whether it has what is needed."""
    mean, covariance = component._mean(), component._covariance()
    few = num_nodes // 4
    first = -(-(num_nodes + few) // BLOCK)

    def block(keys: Key[Array, " m"]) -> Float[Array, "m d"]:
        return jax.vmap(component._sample)(keys) - mean[None]

    blocks = jax.lax.map(block, _keys(numbers, first, -(-num_draws // BLOCK)))
    points = blocks[:first].reshape(-1, mean.shape[0])
    nodes = Nodes.of(points[:num_nodes], covariance)
    log_prob = jax.vmap(component._log_prob)(nodes.points + mean[None])
    finite = [jnp.all(jnp.isfinite(value)) for value in (covariance, nodes.tril, nodes.points, log_prob)]
    return Side(mean, nodes, points[num_nodes : num_nodes + few], blocks[first:]), jnp.stack(finite)


_draw_side = program(_sample_side)


def _keys(numbers: Array, for_nodes: int, for_draws: int) -> Key[Array, "b m"]:
    """Keys of all draws, in blocks, from the seed, the side, the component and the number of components."""
    seed, side, index, num = numbers
    key = jax.random.fold_in(jax.random.key(seed), side)
    nodes = jax.random.split(jax.random.fold_in(key, index), (for_nodes, BLOCK))
    draws = jax.random.split(jax.random.fold_in(key, num + index), for_draws)
    return jnp.concatenate([nodes, jax.vmap(lambda own: jax.random.split(own, BLOCK))(draws)])


def _couple(source: Side, target: Side, epsilon: Array, tolerance: Array, max_steps: Array) -> PairSolution:
    gain = conditional_gain(DenseCovariance(target.nodes.tril), DenseCovariance(source.nodes.tril), epsilon / 2)
    return solve_pair(source, target, gain, epsilon, tolerance, max_steps)


_solve_pair = jit(_couple)


def _couple_grids(
    source: GridSide, target: GridSide, epsilon: Array, tolerance: Array, max_steps: Array
) -> PairSolution:
    gain = conditional_gain(DenseCovariance(target.fine.tril), DenseCovariance(source.fine.tril), epsilon / 2)
    return solve_grids(source, target, gain, epsilon, tolerance, max_steps)


_solve_grids = jit(_couple_grids)
_grid_side = program(grid_side)


def _solve_traced(
    source: AbstractComponents, target: AbstractComponents, epsilon: Array, settings: NumericalSettings
) -> tuple[tuple[Nodes, Nodes], PairSolution]:
    """The same inside a caller's program: nothing is checked."""
    sizes = settings.num_nodes, settings.num_draws

    def sampled(components: AbstractComponents, number: int) -> Side:
        num = components.num_components
        numbers = [[settings.seed % 2**32, number, index, num] for index in range(num)]
        arguments = components, jnp.asarray(numbers, jnp.uint32)
        return jax.lax.map(lambda item: _sample_side(item[0], item[1], *sizes)[0], arguments)

    left, right = sampled(source, 0), sampled(target, 1)
    limits = jnp.asarray(settings.tolerance, epsilon.dtype), jnp.asarray(settings.max_steps)
    solution = jax.lax.map(lambda a: jax.lax.map(lambda b: _couple(a, b, epsilon, *limits), right), left)
    return (left.nodes, right.nodes), solution
