"""A path of decreasing regularization, along which Newton's method stays near the solution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

# How exact a stop on the path is, relative to the mass, and how the regularization shrinks.
_STAGE, _GUARD, _FIRST_FACTOR, _LEAST_FACTOR, _MOST_FACTOR = 0.02, 0.5, 4.0, 1.5, 64.0


class Stop(NamedTuple):
    """Where the path is, the least error here, where it was at its last stop, and how fast it shrinks."""

    tau: Array
    epsilon: Array
    error: Array
    least: Array
    old_tau: Array
    old_epsilon: Array
    factor: Array
    tries: Array
    stage: Array
    num_steps: Array


def half_spread(cost: Array) -> Array:
    """Half of how far costs are apart."""
    return 0.5 * (jnp.max(cost) - jnp.min(cost))


def kept_near(tau: Array, cost: Array, log_b: Array) -> Array:
    """A potential of which no column is farther below the largest than costs are apart.

    The best ones are not, as they are soft minima; columns with next to no mass would be sent anywhere.
    """
    top = jnp.max(jnp.where(jnp.isfinite(log_b), tau, -jnp.inf))
    return jnp.maximum(tau, top - 2 * half_spread(cost))


def _advance(problem: Any, stop: Stop, epsilon: Array) -> Stop:
    """The next stop, no farther than masses allow: potentials go on in a straight line where that is nearer."""
    wanted = jnp.maximum(stop.epsilon / stop.factor, epsilon)
    wanted = jnp.where(wanted < 1.5 * epsilon, epsilon, wanted)
    step = stop.old_epsilon - stop.epsilon
    slope = jnp.where(step > 0, (stop.old_tau - stop.tau) / jnp.where(step > 0, step, jnp.ones_like(step)), 0.0)

    def at(new: Array) -> tuple[Array, Array]:
        there = problem._replace(epsilon=new)
        line, same = there.leveled(stop.tau + (new - stop.epsilon) * slope), there.leveled(stop.tau)
        errors = there.error(line), there.error(same)
        return jnp.where(errors[0] < errors[1], line, same), jnp.minimum(*errors)

    def too_far(state: tuple[Array, Array]) -> Array:
        return (at(state[0])[1] > _GUARD) & (state[1] < 6)

    new, shortened = jax.lax.while_loop(
        too_far, lambda s: (jnp.sqrt(s[0] * stop.epsilon), s[1] + 1), (wanted, jnp.asarray(0))
    )
    tau, error = at(new)
    faster, slower = jnp.minimum(2 * stop.factor, _MOST_FACTOR), jnp.maximum(stop.factor / 2, _LEAST_FACTOR)
    factor = jnp.where(stop.tries <= 2, faster, jnp.where(stop.tries > 4, slower, stop.factor))
    factor = jnp.where(shortened > 0, jnp.maximum(stop.epsilon / new, _LEAST_FACTOR), factor)
    zero = jnp.zeros_like(stop.tries)
    return Stop(tau, new, error, error, stop.tau, stop.epsilon, factor, zero, stop.stage, stop.num_steps + 1)


def _retreat(problem: Any, stop: Stop, tolerance: Array) -> Stop:
    """Return to the last stop, to leave it again by a shorter step and more exactly."""
    error = problem._replace(epsilon=stop.old_epsilon).error(stop.old_tau)
    return stop._replace(
        tau=stop.old_tau,
        epsilon=stop.old_epsilon,
        error=error,
        least=error,
        factor=jnp.clip(jnp.sqrt(stop.old_epsilon / stop.epsilon), 1.2, _FIRST_FACTOR),
        tries=jnp.zeros_like(stop.tries),
        stage=jnp.maximum(tolerance, 1e-2 * stop.stage),
        num_steps=stop.num_steps + 1,
    )


def follow(
    problem: Any, newton: Callable[[Any, Stop], Stop], tolerance: Array, start: Array, max_steps: Array, patience: int
) -> tuple[Array, Array]:
    """Solve at much regularization, then at less and less down to the problem's own.

    Args:
        problem: A dual in the potential of the target components: a named tuple with ``cost`` and ``epsilon``, whose
            ``widest`` is the regularization to begin with, whose ``error`` says how far a potential is from the best,
            and whose ``leveled`` moves it by the best constant.
        newton: One step at fixed regularization.
        tolerance: The error to reach.
        start: The potential to start from; ignored unless it is near the solution.
        max_steps: Limit on the number of steps.
        patience: Newton steps after which a stop is given up, to be reached by a shorter step.

    Returns:
        The potential and the number of steps.
    """
    epsilon = problem.epsilon
    top = jnp.maximum(epsilon, problem.widest())
    near = problem.error(start) < _STAGE
    first = jnp.where(near, epsilon, top)
    tau = problem._replace(epsilon=first).leveled(jnp.where(near, start, jnp.zeros_like(start)))
    error = problem._replace(epsilon=first).error(tau)
    factor, zero = jnp.full_like(epsilon, _FIRST_FACTOR), jnp.asarray(0)
    stop = Stop(tau, first, error, error, tau, first, factor, zero, jnp.full_like(epsilon, _STAGE), zero)

    def going(stop: Stop) -> Array:
        unfinished = (stop.epsilon > epsilon) | ~(stop.error <= tolerance)
        return unfinished & (stop.num_steps < max_steps) & jnp.isfinite(stop.error)

    def step(stop: Stop) -> Stop:
        arrived = (stop.epsilon > epsilon) & (stop.error <= stop.stage)
        stuck = (stop.tries >= patience) & (stop.old_epsilon > stop.epsilon)
        steps = [
            lambda s: _advance(problem, s, epsilon),
            lambda s: _retreat(problem, s, tolerance),
            lambda s: newton(problem._replace(epsilon=s.epsilon), s),
        ]
        return jax.lax.switch(jnp.where(arrived, 0, jnp.where(stuck, 1, 2)), steps, stop)

    stop = jax.lax.while_loop(going, step, stop)
    return stop.tau, stop.num_steps
