"""The iteration between the two blocks, from any start, and the optimum it should reach."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from .._base.arrays import safe_log
from .._base.xla import program
from .._plans.objective import objective_of, potential_of
from .._weights.entropic import entropic_coupling
from .._weights.exact import exact_coupling

# A reduced cost, or a change of the objective, below this share of the largest cost is zero.
ROUNDING = 1e-10

# The weight solve of the block iteration: sweeps on the dual from the given start, and the marginals' error at the end.
_DUAL_SWEEPS, _MARGINAL_ERROR = 200, 1e-12


@program
def iterate(
    starts: Float[Array, "S K0 K1"],
    start_costs: Float[Array, "S K0 K1"],
    costs: Float[Array, "K0 K1"],
    a: Float[Array, " K0"],
    b: Float[Array, " K1"],
    epsilon: Float[Array, ""],
    num_sweeps: int,
) -> tuple[Array, Array, Array]:
    """The block iteration from each start: where the weights end, the objectives on the way, and the outcome.

    The update of the component couplings has the same answer from wherever it starts, ``costs``. That of the weights
    is solved along a way of its own from each start: sweeps of Sinkhorn's iteration on the dual of the given coupling,
    then Newton's method from there.
    """
    log_a, log_b = safe_log(a), safe_log(b)

    def update(weights: Array) -> tuple[Array, Array]:
        def sweep(potential: Array, _: None) -> tuple[Array, None]:
            row = -epsilon * logsumexp(log_b[None, :] + (potential[None, :] - costs) / epsilon, axis=1)
            return -epsilon * logsumexp(log_a[:, None] + (row[:, None] - costs) / epsilon, axis=0), None

        start = potential_of(weights, costs, a, b, epsilon)
        potential = jax.lax.scan(sweep, start, None, length=_DUAL_SWEEPS)[0]
        limits = jnp.asarray(_MARGINAL_ERROR, costs.dtype), potential, jnp.asarray(1000)
        coupling = entropic_coupling(costs, a, b, epsilon, *limits)
        return coupling.weights, coupling.result._value

    def one(weights: Array, table: Array) -> tuple[Array, Array, Array]:
        values, outcome = [objective_of(weights, table, a, b, epsilon)], jnp.asarray(0)
        for _ in range(num_sweeps):
            values.append(objective_of(weights, costs, a, b, epsilon))
            weights, code = update(weights)
            outcome = jnp.maximum(outcome, code)
            values.append(objective_of(weights, costs, a, b, epsilon))
        return weights, jnp.stack(values), outcome

    return jax.lax.map(lambda item: one(*item), (starts, start_costs))


def reduced_costs(costs: Array, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduced costs of the linear program, and the pairs that its solution uses.

    A pair that any optimal coupling uses has reduced cost zero under every dual solution: none is missed.
    """
    coupling, _ = exact_coupling(costs, jax.device_put(a), jax.device_put(b))
    potentials = np.asarray(coupling.source_potential), np.asarray(coupling.target_potential)
    reduced = np.asarray(costs) - potentials[0][:, None] - potentials[1][None, :]
    return np.maximum(reduced, 0), np.asarray(coupling.weights) > 0


def aligned_optimum(
    costs: np.ndarray, reduced: np.ndarray, a: np.ndarray, b: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Among the optimal couplings of the linear program, the one best aligned with a given coupling."""
    free = reduced <= ROUNDING * np.abs(costs).max()
    price = -start / np.outer(a, b)
    price = np.where(free, price - price.min(), 1e6 * (1 + np.ptp(price)))
    return np.asarray(exact_coupling(jax.device_put(price), jax.device_put(a), jax.device_put(b))[0].weights)
