"""EM on data that are not in memory: each step passes over them, block by block."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.buckets import pad, pad_zero
from .._base.xla import program
from .._components.mixture import Mixture
from .._family.em_family import AbstractEMFamily
from .em import advance, begun, chunk_data, EMState, sweep
from .problem import FitProblem
from .rows import Rows


def steps_over_rows(
    problem: FitProblem, rows: Rows, weight: np.ndarray, state: EMState, tolerance: Array, stop_at: Array
) -> tuple[EMState, Mixture]:
    """EM up to a number of steps, as `omt_expfam._fitting.em.run` takes them; with 0 an evaluation."""
    total = jax.device_put(np.asarray(weight.sum(), problem.x.dtype))
    carry = _begun(state)
    while not bool(carry[0].evaluated):
        swept = _sweep_rows(problem, rows, weight, carry[0])
        carry = _advance(carry, swept, total, problem.strength, problem.ridge, tolerance, stop_at)
    return _in_units(carry[0], (problem.shift, problem.scale))


def _sweep_rows(problem: FitProblem, rows: Rows, weight: np.ndarray, state: EMState) -> Any:
    """One pass over the data; the next block is read while the device works on one."""
    total = None
    for place, block in rows.blocks(problem.chunk, problem.standardized):
        x = pad(block, problem.chunk)
        share = pad_zero(weight[place].astype(block.dtype), problem.chunk)
        swept = _sweep(state.log_weights, state.components, *jax.device_put((x, share)))
        # Waits for the block before: no more than two are in memory, however slow the device is.
        total = swept if total is None else _added(jax.block_until_ready(total), swept)
    return total


_begun, _advance = program(begun), program(advance)


@program
def _sweep(
    log_weights: Float[Array, " K"], components: AbstractEMFamily, x: Float[Array, "b d"], weight: Float[Array, " b"]
) -> Any:
    return sweep(log_weights, components, chunk_data(components, x, weight, x.shape[0]))


@program
def _added(total: Any, swept: Any) -> Any:
    return jax.tree.map(jnp.add, total, swept)


@program
def _in_units(state: EMState, units: tuple[Float[Array, " d"], Float[Array, " d"]]) -> tuple[EMState, Mixture]:
    return state, Mixture(jnp.exp(state.log_weights), state.components._affine(*units))
