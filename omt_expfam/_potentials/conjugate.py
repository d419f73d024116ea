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


class _State(NamedTuple):
    """The present point, the field there, and the step from it: being solved for, or being tried at some length."""

    point: Float[Array, " m"]
    rest: Float[Array, " m"]
    scale: Float[Array, ""]
    num_steps: Int[Array, ""]
    krylov: _Krylov
    length: Float[Array, ""]
    is_tried: Bool[Array, ""]


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
    return stationary_point(lambda x: gradient(x) - y, start, whitened_size(y), tolerance, max_steps)


def whitened_size(y: Float[Array, " d"]) -> Float[Array, ""]:
    """The size of what cancels in y - grad phi(x): in whitened coordinates, whose variances are one on average.

    A point nearer to the origin than one is still the difference of terms of that size.
    """
    return jnp.maximum(norm(y), 1)


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
    """One product per turn, whatever it is for: points of a batch never wait for each other's inner loops."""

    def proceed(now: _State) -> Bool[Array, ""]:
        unfinished = ~(norm(now.rest) <= tolerance * now.scale) & (now.num_steps < max_steps)
        return unfinished & (now.length > 0.5**_MAX_HALVINGS)

    def advance(now: _State) -> _State:
        trial = now.point + now.length * now.krylov.step
        at = jnp.where(now.is_tried, trial, now.point)
        rest, product = jax.jvp(field, (at,), (jnp.where(now.is_tried, trial, now.krylov.new),))
        return jax.tree.map(
            lambda one, other: jnp.where(now.is_tried, one, other),
            judge(now, trial, rest, product),
            solve(now, product),
        )

    def judge(now: _State, trial: Array, rest: Array, product: Array) -> _State:
        """Go to where the step leads, or try half of it. A field that is not finite compares as false."""
        lower = norm(rest) <= (1 - _DECREASE * now.length) * norm(now.rest)
        scale = jnp.maximum(now.scale, size + norm(product))
        one, no = jnp.ones((), start.dtype), jnp.asarray(False)
        there = _State(trial, rest, scale, now.num_steps + 1, _begin(-rest), one, no)
        here = now._replace(length=0.5 * now.length)
        return jax.tree.map(lambda one, other: jnp.where(lower, one, other), there, here)

    def solve(now: _State, product: Array) -> _State:
        """One more product for the step; exact enough for convergence of order 3/2, and no more than the goal needs."""
        size = norm(now.rest)
        forcing = jnp.maximum(jnp.minimum(0.5, jnp.sqrt(size / now.scale)), 0.25 * tolerance * now.scale / size)
        krylov = _continue(now.krylov, product)
        return now._replace(krylov=krylov, is_tried=_is_solved(krylov, forcing * size))

    # The start is a step of length zero from itself, where the field is not known yet: anything is lower.
    none, one = jnp.zeros_like(start), jnp.ones((), start.dtype)
    first = _State(start, none + jnp.inf, size, jnp.asarray(-1), _begin(none), one, jnp.asarray(True))
    last = jax.lax.while_loop(proceed, advance, first)
    converged = norm(last.rest) <= tolerance * last.scale
    return StationaryPoint(last.point, last.rest, last.scale, last.num_steps, converged)


def _begin(right: Float[Array, " m"]) -> _Krylov:
    """Minimal residuals before the first product."""
    length, none, zero = norm(right), jnp.zeros_like(right), jnp.zeros((), right.dtype)
    new = right / _nonzero(length)
    return _Krylov(none, none, new, none, none, length, zero - 1, zero, zero, zero, length, jnp.asarray(0))


def _continue(s: _Krylov, image: Float[Array, " m"]) -> _Krylov:
    """One step of minimal residuals, with the product of the matrix and the newest Lanczos vector."""
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


def _is_solved(s: _Krylov, goal: Float[Array, ""]) -> Bool[Array, ""]:
    # Twice the dimension plus some: rounding delays what is exact after as many steps as there are dimensions.
    return (jnp.abs(s.residual) <= goal) | (s.beta == 0) | (s.count >= 2 * s.step.size + 8)


def _minimal_residuals(
    product: Callable[[Array], Array], right: Float[Array, " m"], share: float
) -> Float[Array, " m"]:
    """A vector whose image under a symmetric matrix is ``right``, up to a share of its norm (Paige and Saunders)."""
    goal = share * norm(right)
    last = jax.lax.while_loop(lambda s: ~_is_solved(s, goal), lambda s: _continue(s, product(s.new)), _begin(right))
    return last.step


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
