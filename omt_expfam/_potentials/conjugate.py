r"""The point that the gradient of a convex potential sends to a given one: the conjugate point, argmax <x, y> - phi(x).

It is found by inexact Newton steps (Dembo, Eisenstat and Steihaug, 1982). Each solves its linear system by minimal
residuals (Paige and Saunders, 1975), which needs products with the Hessian only, and is shortened until the residual
$|y - \nabla\phi(x)|$ falls. As the linear residual falls from the first product on, every such direction lowers the
residual where it starts, wherever that is; and the residual of a strongly convex potential has one stationary point,
its zero. No value of the potential is compared with another one, so that rounding ends the search at the rounding of
the gradient, not at its root. The Jacobian needs to be symmetric, not positive: saddle points of convex-concave
functions, which appear where conjugates are averaged, are found alike.

With strong convexity $\mu$ the residual r bounds what is left: $|x - x^*| \le r / \mu$, and
$0 \le \phi^*(y) - (\langle x, y \rangle - \phi(x)) \le r^2 / (2\mu)$.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MAX_STEPS = 100
# A step is halved so many times at most: rounding forbids progress then.
_MAX_HALVINGS = 25
# A step must lower the residual by this share of what its length promises.
_DECREASE = 1e-2


class StationaryPoint(eqx.Module):
    """Where a vector field vanishes, with the evidence.

    Attributes:
        point: The point.
        rest: The field there.
        scale: The size of what cancels in it, so that ``eps * scale`` is about its rounding.
        num_steps: Newton steps.
        converged: Whether its norm is at most the tolerance times ``scale``.
    """

    point: Float[Array, " m"]
    rest: Float[Array, " m"]
    scale: Float[Array, ""]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


class _State(NamedTuple):
    """The present point, the field there, and how it went so far."""

    point: Float[Array, " m"]
    rest: Float[Array, " m"]
    scale: Float[Array, ""]
    num_steps: Int[Array, ""]
    stuck: Bool[Array, ""]


def default_tolerance(dtype: Any) -> float:
    """The relative residual that is asked for: well above rounding, and far below its root."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def conjugate_point(
    gradient: Callable[[Float[Array, " d"]], Float[Array, " d"]],
    y: Float[Array, " d"],
    start: Float[Array, " d"],
    tolerance: float | Float[Array, ""] | None = None,
    max_steps: int = MAX_STEPS,
) -> StationaryPoint:
    """The point that the gradient of a strongly convex potential sends to ``y``; see `stationary_point`."""
    return stationary_point(lambda x: gradient(x) - y, start, norm(y), tolerance, max_steps)


def stationary_point(
    field: Callable[[Float[Array, " m"]], Float[Array, " m"]],
    start: Float[Array, " m"],
    size: Float[Array, ""],
    tolerance: float | Float[Array, ""] | None = None,
    max_steps: int = MAX_STEPS,
) -> StationaryPoint:
    """The zero of the gradient of a function that is strongly convex, or strongly convex-concave.

    Differentiable in all that ``field`` closes over, by the implicit function theorem: to any order, forward and
    backward. The evidence has derivative zero.

    Args:
        field: The gradient at one point; its Jacobian is symmetric.
        start: Where to begin.
        size: The norm of the largest term of the field, which is what its rounding depends on.
        tolerance: Of the norm of the field, relative to the size of what cancels in it; by default eps^(3/4).
        max_steps: Newton steps at most.
    """
    wanted = jnp.asarray(default_tolerance(start.dtype) if tolerance is None else tolerance, start.dtype)
    wanted, size = jax.lax.stop_gradient((wanted, size))

    def solve(_: Any, begin: Float[Array, " m"]) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        found = _solve(field, begin, size, wanted, max_steps)
        # As floating-point numbers, since JAX gives those of `custom_root` tangents of their own type.
        flags = found.num_steps.astype(begin.dtype), found.converged.astype(begin.dtype)
        return found.point, (found.rest, found.scale, *flags)

    def tangent_solve(product: Any, right: Float[Array, " m"]) -> Float[Array, " m"]:
        return jax.lax.custom_linear_solve(product, right, _solve_exactly, symmetric=True)

    point, evidence = jax.lax.custom_root(field, jax.lax.stop_gradient(start), solve, tangent_solve, has_aux=True)
    rest, scale, num_steps, converged = jax.lax.stop_gradient(evidence)
    return StationaryPoint(point, rest, scale, num_steps.astype(int), converged > 0)


def _solve(
    field: Callable[[Array], Array], start: Array, size: Array, tolerance: Array, max_steps: int
) -> StationaryPoint:
    rest, product = jax.linearize(field, start)
    size = size + norm(rest)

    def proceed(state: _State) -> Bool[Array, ""]:
        return (norm(state.rest) > tolerance * state.scale) & (state.num_steps < max_steps) & ~state.stuck

    def advance(state: _State) -> _State:
        _, product = jax.linearize(field, state.point)
        now, scale = norm(state.rest), jnp.maximum(state.scale, size + norm(product(state.point)))
        goal = tolerance * scale
        # Exact enough for convergence of order 3/2, and no more exact than the goal needs.
        forcing = jnp.maximum(jnp.minimum(0.5, jnp.sqrt(now / scale)), 0.25 * goal / now)
        direction = _minimal_residuals(product, -state.rest, forcing)

        def attempt(length: Array) -> tuple[Array, Array, Array, Array]:
            point = state.point + length * direction
            rest = field(point)
            return length, point, rest, norm(rest) <= (1 - _DECREASE * length) * now

        def shorten(trial: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
            return attempt(0.5 * trial[0])

        def too_long(trial: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
            # A field that is not finite compares as false, and its step as too long.
            return ~trial[3] & (trial[0] > 0.5**_MAX_HALVINGS)

        first = attempt(jnp.ones((), start.dtype))
        _, point, rest, lower = jax.lax.while_loop(too_long, shorten, first)
        point, rest = jnp.where(lower, point, state.point), jnp.where(lower, rest, state.rest)
        return _State(point, rest, scale, state.num_steps + 1, ~lower)

    first = _State(start, rest, size + norm(product(start)), jnp.asarray(0), jnp.asarray(False))
    last = jax.lax.while_loop(proceed, advance, first)
    return StationaryPoint(last.point, last.rest, last.scale, last.num_steps, norm(last.rest) <= tolerance * last.scale)


class _Krylov(NamedTuple):
    """Two Lanczos vectors, two directions, the last rotation, and the norm of the residual with a sign."""

    step: Float[Array, " m"]
    old: Float[Array, " m"]
    new: Float[Array, " m"]
    older_way: Float[Array, " m"]
    way: Float[Array, " m"]
    beta: Float[Array, ""]
    cosine: Float[Array, ""]
    sine: Float[Array, ""]
    bar: Float[Array, ""]
    epsilon: Float[Array, ""]
    residual: Float[Array, ""]
    count: Int[Array, ""]


def _minimal_residuals(
    product: Callable[[Array], Array], right: Float[Array, " m"], forcing: float | Float[Array, ""]
) -> Float[Array, " m"]:
    """A vector whose image under a symmetric matrix is ``right``, up to a share ``forcing`` of its norm."""
    length = norm(right)
    limit = 4 * right.size + 8

    def proceed(s: _Krylov) -> Bool[Array, ""]:
        return (jnp.abs(s.residual) > forcing * length) & (s.count < limit) & (s.beta > 0)

    def advance(s: _Krylov) -> _Krylov:
        image = product(s.new)
        alpha = jnp.sum(s.new * image)
        image = image - alpha * s.new - s.beta * s.old
        beta = norm(image)
        delta, gamma_bar = s.cosine * s.bar + s.sine * alpha, s.sine * s.bar - s.cosine * alpha
        gamma = _nonzero(jnp.sqrt(gamma_bar**2 + beta**2))
        cosine, sine = gamma_bar / gamma, beta / gamma
        way = (s.new - s.epsilon * s.older_way - delta * s.way) / gamma
        return _Krylov(
            step=s.step + cosine * s.residual * way,
            old=s.new,
            new=image / _nonzero(beta),
            older_way=s.way,
            way=way,
            beta=beta,
            cosine=cosine,
            sine=sine,
            bar=-s.cosine * beta,
            epsilon=s.sine * beta,
            residual=sine * s.residual,
            count=s.count + 1,
        )

    zero, none = jnp.zeros((), right.dtype), jnp.zeros_like(right)
    start = _Krylov(
        none, none, right / _nonzero(length), none, none, length, zero - 1, zero, zero, zero, length, jnp.asarray(0)
    )
    return jax.lax.while_loop(proceed, advance, start).step


def _solve_exactly(product: Callable[[Array], Array], right: Float[Array, " m"]) -> Float[Array, " m"]:
    """The solution to rounding: minimal residuals twice, since recurrences drift from what they stand for."""
    tight = 8 * float(jnp.finfo(right.dtype).eps)
    first = _minimal_residuals(product, right, tight)
    return first + _minimal_residuals(product, right - product(first), 1e-3)


def norm(vector: Float[Array, " m"]) -> Float[Array, ""]:
    """The Euclidean norm."""
    return jnp.sqrt(jnp.sum(vector * vector))


def _nonzero(value: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(value == 0, jnp.ones_like(value), value)
