"""Label switching: draws of a mixture, brought to the labels of a reference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from .._base.arrays import batch_size, safe_log, take
from .._base.buckets import point_bucket
from .._base.precision import in_float64
from .._base.xla import program
from .draws import check_draws, chunks, count_draws, draws_at_once, numbers_per_draw
from .interface import AbstractComponents, log_prob_table
from .joined import Blocks
from .labelling import Labelling
from .mixture import Mixture

_NUM_POINTS = 1000
# Responsibilities below this are all the same: a component that explains nothing is matched by elimination.
_FLOOR = -230.0


def relabel(draws: Mixture, reference: Mixture) -> tuple[Mixture, np.ndarray]:
    r"""Bring the components of draws to the labels of a reference, each draw by an optimal assignment.

    The cost of giving label $k$ to component $l$ of a draw is that of Stephens (2000, J. R. Stat. Soc. B 62),
    $-\int \mu_{ref}(x) \, r^{ref}_k(x) \log r^{draw}_l(x) \, dx$ with responsibilities $r$: how well the draw
    classifies points as the reference does. It asks nothing of the family but densities. The integral is a sum over
    about 1000 points, evenly many from each component of the reference, with a fixed key. The answer does not depend
    on the order of the components in a draw.

    Args:
        draws: S draws: a mixture whose arrays have a leading axis, weights ``[S, K]``.
        reference: A mixture with as many components of the same family.

    Returns:
        The relabelled draws, and permutations ``[S, K]``: entry ``[s, k]`` is the component of draw ``s`` that gets
        label ``k``. Components of several families (`Blocks`) exchange labels within their families.

    Raises:
        TypeError: If an argument is not a mixture.
        ValueError: If numbers of components, dimensions or families differ, or draws are not valid.
    """
    draws, permutations, _ = labelled(draws, reference)
    return draws, permutations


def labelled(draws: Mixture, reference: Mixture) -> tuple[Mixture, np.ndarray, "Labelling"]:
    """What `relabel` returns, and how clear the labels are."""
    draws = _checked(draws, reference)
    groups = _groups(reference.components)
    # From here on the order in which a draw was given plays no part, not even through rounding or ties.
    order = _canonical_order(draws, groups)
    costs, likeness = _classification_costs(permuted(draws, order), reference)
    matched = np.stack([_assign(cost, groups) for cost in costs])
    permutations = np.take_along_axis(order, matched, axis=1)
    likeness = np.take_along_axis(likeness, matched[:, None, :], axis=2)
    moved = int((permutations != np.arange(permutations.shape[1])[None]).any(axis=1).sum())
    return permuted(draws, permutations), permutations, Labelling.of(moved, likeness, groups)


def _checked(draws: Mixture, reference: Mixture) -> Mixture:
    """The draws, if they and the reference fit."""
    for name, value in (("draws", draws), ("reference", reference)):
        if not isinstance(value, Mixture):
            raise TypeError(f"`{name}` must be a Mixture; got {type(value).__name__}.")
    draws = check_draws("draws", draws)
    if reference.weights.ndim != 1:
        raise ValueError(f"`reference` must be one mixture; got weights of shape {tuple(reference.weights.shape)}.")
    one = take(jax.tree.map(np.asarray, draws), 0)
    for what in ("num_components", "dim"):
        ours, theirs = getattr(one, what), getattr(reference, what)
        if ours != theirs:
            raise ValueError(
                f"`reference` must have the {what} of `draws`, {ours}; got {theirs}. Use a draw or a fit of that model."
            )
    if type(one.components) is not type(reference.components):
        family, other = type(one.components).__name__, type(reference.components).__name__
        raise ValueError(f"`reference` must have components of the family of `draws`, {family}; got {other}.")
    return draws


def _groups(components: AbstractComponents) -> list[np.ndarray]:
    """The components that may exchange labels: those of one family."""
    if not isinstance(components, Blocks):
        return [np.arange(components.num_components)]
    if len(set(components.order)) != components.starts[-1]:
        raise ValueError("`draws` must use each component of their blocks once to be relabelled.")
    return [components.members(b)[0] for b in range(len(components.blocks))]


def permuted(draws: Mixture, permutations: np.ndarray) -> Mixture:
    """The same draws with component ``permutations[s, k]`` of draw ``s`` at place ``k``; on the host."""
    rows = np.arange(len(permutations))[:, None]
    components = jax.tree.map(np.asarray, draws.components)
    if isinstance(components, Blocks):
        one = take(components, 0)
        blocks = []
        for b, block in enumerate(components.blocks):
            places, local = one.members(b)
            index = np.empty((len(permutations), len(places)), int)
            # Where the block holds the component of each place of the set.
            position = np.zeros(len(one.order), int)
            position[places] = local
            index[:, local] = position[permutations[:, places]]
            blocks.append(jax.tree.map(lambda leaf, index=index: leaf[rows, index], block))
        components = eqx.tree_at(lambda c: c.blocks, components, tuple(blocks))
    else:
        components = jax.tree.map(lambda leaf: leaf[rows, permutations], components)
    new = np.take_along_axis(np.asarray(draws.weights), permutations, axis=1)
    return eqx.tree_at(lambda m: (m.weights, m.components), draws, jax.device_put((new, components)))


def _canonical_order(draws: Mixture, groups: list[np.ndarray]) -> np.ndarray:
    """Each draw's components sorted by their parameters, within groups."""
    shape = draws.weights.shape
    order = np.broadcast_to(np.arange(shape[1]), shape).copy()
    for b, group in enumerate(groups):
        components = draws.components
        tree, places = components, group
        if isinstance(components, Blocks):
            tree, places = components.blocks[b], take(jax.tree.map(np.asarray, components), 0).members(b)[1]
        columns = [np.asarray(leaf).reshape(*leaf.shape[:2], -1)[:, places] for leaf in jax.tree.leaves(tree)]
        keys = np.concatenate([np.asarray(draws.weights)[:, group, None], *columns], axis=2)
        for s in range(shape[0]):
            order[s, group] = group[np.lexsort(keys[s].T[::-1])]
    return order


def _classification_costs(draws: Mixture, reference: Mixture) -> tuple[np.ndarray, np.ndarray]:
    """Stephens' cost and the likeness of every label (rows) with every component (columns), shape ``[S, K, K]``."""
    each = -(-_NUM_POINTS // reference.num_components)
    total, host = count_draws(draws), jax.tree.map(np.asarray, draws)
    size = min(point_bucket(total), batch_size(numbers_per_draw(draws)))
    parts = []
    for index, count in chunks(total, size):
        costs = in_float64(_costs, take(host, index), reference, each)
        parts.append([np.asarray(table)[:count] for table in costs])
    costs, likeness = (np.concatenate(tables) for tables in zip(*parts, strict=True))
    return costs, likeness


@program
def _costs(draws: Mixture, reference: Mixture, each: int) -> tuple[Float[Array, "S K K"], Float[Array, "S K K"]]:
    """The costs of some draws, at ``each`` points of every component of the reference, and their likeness.

    That is the cosine of responsibilities as functions on the reference.
    """
    x, responsibilities = _reference_points(reference, each)
    mass = jnp.sum(responsibilities, axis=0)
    inverse = 1 / jnp.where(mass > 0, mass, jnp.ones_like(mass))
    norms = jnp.sqrt(responsibilities**2 @ inverse)

    def one(draw: Mixture) -> tuple[Float[Array, "K K"], Float[Array, "K K"]]:
        table = _log_responsibilities(draw, x)
        other = jnp.exp(table)
        lengths = jnp.sqrt(other**2 @ mass)
        tiny = jnp.finfo(lengths.dtype).tiny
        products = responsibilities @ other.T
        return -responsibilities @ table.T, products / jnp.maximum(norms[:, None] * lengths[None, :], tiny)

    return jax.lax.map(one, draws, batch_size=draws_at_once(responsibilities.size, count_draws(draws)))


def _reference_points(reference: Mixture, each: int) -> tuple[Float[Array, "n d"], Float[Array, "K n"]]:
    """Points of the reference, and its responsibilities there times the share of the mass that a point stands for."""
    x = reference.components.sample(jax.random.key(0), each)
    mass = jnp.broadcast_to(reference.weights[None, :] / each, x.shape[:2]).reshape(-1)
    points = x.reshape(-1, x.shape[-1])
    return points, jnp.exp(_log_responsibilities(reference, points)) * mass[None, :]


def _log_responsibilities(mixture: Mixture, x: Float[Array, "n d"]) -> Float[Array, "K n"]:
    joint = safe_log(mixture.weights)[:, None] + log_prob_table(mixture.components, x)
    value = joint - logsumexp(joint, axis=0, keepdims=True)
    # Outside every support (NaN) all components explain a point equally badly.
    return jnp.where(value > _FLOOR, value, _FLOOR)


def _assign(cost: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    matched = np.empty(len(cost), int)
    for group in groups:
        rows, columns = linear_sum_assignment(cost[np.ix_(group, group)])
        matched[group[rows]] = group[columns]
    return matched
