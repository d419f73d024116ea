"""Whether an exact chain carries the draws of an approximation away: their importance weights cannot see where none is.

A posterior is what a Metropolis chain leaves as it is. Chains that start at draws of an approximation stay among them
if these are right, however long they walk; where they are not, they drift.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..._base.arrays import spread_indices
from ..._base.precision import relaxed
from ..._base.results import RESULTS
from ..._base.xla import program
from ..label_free import moments
from .method import SiteDraws
from .target import Target

# Chains, and the least of them; how many densities of a point all may take; and the steps of each.
_CHAINS, _LEAST_CHAINS, _POINTS, _STEPS = 64, 8, 2**25, 200
# The best step of a random walk in p whitened coordinates is 2.4 / sqrt(p) (Roberts et al., 1997); a little less.
_STEP = 2.0
# How much distances may grow beyond noise, and how many deviations a quantity may move.
# Chains go part of the way only: a quarter seen may be a third.
_OUTWARD, _SHIFT = 0.05, 0.25


class Allowance(NamedTuple):
    """What is allowed of draws, and by how many chains that is judged.

    Attributes:
        outward: How much distances from the mode may grow, beyond noise.
        errors: How many standard errors of that count as noise.
        num_chains: The number of chains, where there are few points.
    """

    outward: float = _OUTWARD
    errors: float = 3.0
    num_chains: int = _CHAINS


# Refits make no claim to have the posterior's spread, and no weights speak for them.
OF_REFITS = Allowance(outward=0.1, errors=2.0, num_chains=128)


class Drift(NamedTuple):
    """How far chains carry draws away.

    Attributes:
        outward: The growth of the mean distance from the mode, in units of the curvature there, relative to the mean
            before and after.
        outward_error: Its standard error.
        shift: The largest change of the mean of a quantity, in standard deviations: of the means and variances of the
            mixture and its largest weight.
        shift_error: Its standard error.
    """

    outward: float
    outward_error: float
    shift: float
    shift_error: float

    def within(self, allowance: Allowance) -> bool:
        """Whether the draws may stay."""
        grows = self.outward > allowance.outward + allowance.errors * self.outward_error
        return not grows and self.shift <= max(_SHIFT, 3.5 * self.shift_error)


def checked(
    key: Key[Array, ""],
    target: Target,
    center: Float[Array, " p"],
    factor: Float[Array, "p p"],
    draws: SiteDraws,
    allowance: Allowance | None = None,
) -> SiteDraws:
    """Draws with their drift among the traces, and a result that says so where it is large.

    Args:
        key: The random key of the draws.
        target: The posterior density.
        center: Its mode.
        factor: A matrix in whose units it is nearly standard normal there.
        draws: One chain of draws.
        allowance: What is allowed of them.
    """
    allowed = allowance or Allowance()
    # A handful of draws cannot be judged.
    if draws.result != RESULTS.successful or len(next(iter(draws.sites.values()))[0]) < _LEAST_CHAINS:
        return draws
    first = {name: values[0] for name, values in draws.sites.items()}
    found = measure(key, target, center, factor, first, allowed.num_chains)
    result = RESULTS.successful if found.within(allowed) else RESULTS.approximation_left
    return draws._replace(traces=draws.traces | {"drift": np.asarray(found, np.float64)}, result=result)


def measure(
    key: Key[Array, ""],
    target: Target,
    center: Float[Array, " p"],
    factor: Float[Array, "p p"],
    sites: dict[str, Any],
    num_chains: int,
) -> Drift:
    """Walk from some of the draws of each site, shape ``[S, ...]``, and compare where that ends."""
    points = jax.tree.leaves(target.args)[0].shape[0]
    size = int(np.clip(_POINTS // (_STEPS * points), _LEAST_CHAINS, num_chains))
    num = len(next(iter(sites.values())))
    size = min(size, num)
    chosen = spread_indices(num, size)
    some = jax.device_put({name: np.asarray(values)[chosen] for name, values in sites.items()})
    with relaxed():
        moved = _walk(target, jax.random.fold_in(key, 1), center, factor, some)
    first, last, before, after = (np.asarray(values, np.float64) for values in moved)
    # Draws at the very edge of a support have no coordinates.
    finite = np.isfinite(first).all(axis=1) & np.isfinite(last).all(axis=1)
    if 2 * finite.sum() < size:
        return Drift(np.inf, 0.0, np.inf, 0.0)
    distances = [np.linalg.norm(z[finite], axis=1) for z in (first, last)]
    growth = (distances[1] - distances[0]) / np.mean(distances)
    gaps = (after - before)[finite]
    scale = np.maximum(after[finite].std(axis=0), 1e-300)
    shifts, root = np.abs(gaps.mean(axis=0)) / scale, np.sqrt(finite.sum())
    worst = int(np.argmax(shifts))
    errors = gaps.std(axis=0) / scale / root
    return Drift(float(growth.mean()), float(growth.std() / root), float(shifts[worst]), float(errors[worst]))


@program
def _walk(
    target: Target,
    key: Key[Array, ""],
    center: Float[Array, " p"],
    factor: Float[Array, "p p"],
    sites: dict[str, Array],
) -> tuple[Float[Array, "C p"], Float[Array, "C p"], Float[Array, "C q"], Float[Array, "C q"]]:
    """Whitened coordinates and quantities of draws, before and after a random-walk Metropolis chain from each."""
    step = _STEP / np.sqrt(center.size)

    def energy(z: Float[Array, " p"]) -> Float[Array, ""]:
        return target.potential(center + factor @ z)

    def quantities(z: Float[Array, " p"]) -> Float[Array, " q"]:
        return moments(target.model.mixture(target.constrain(center + factor @ z)))

    def one(item: tuple[Array, dict[str, Array]]) -> tuple[Array, Array, Array, Array]:
        key, own = item
        first = jnp.linalg.solve(factor, target.unconstrain(own) - center)

        def drawn(key: Array) -> tuple[Array, Array]:
            move_key, key = jax.random.split(key)
            move = step * jax.random.normal(move_key, first.shape, first.dtype)
            return move, jnp.log(jax.random.uniform(key, (), first.dtype))

        def advance(state: tuple[Array, Array], drawn: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
            (z, level), (move, threshold) = state, drawn
            proposal = z + move
            new = energy(proposal)
            accepted = threshold < level - new
            return (jnp.where(accepted, proposal, z), jnp.where(accepted, new, level)), None

        # Step by step, random numbers took as long as the densities.
        steps = jax.vmap(drawn)(jax.random.split(key, _STEPS))
        (last, _), _ = jax.lax.scan(advance, (first, energy(first)), steps)
        return first, last, quantities(first), quantities(last)

    # One chain after the other: jaxlib 0.10.2 can deadlock on batches of matrix products.
    num = next(iter(sites.values())).shape[0]
    return jax.lax.map(one, (jax.random.split(key, num), sites))
