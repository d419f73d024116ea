"""Sinkhorn's iteration between weighted nodes, and what its solution changes with the regularization."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from .._base.xla import unfused

# Scaling steps between two returns to the log domain, where what the scalings have grown to is absorbed.
INNER_STEPS = 20
# The momentum of a scaling changes it by this factor at most.
_MOST_CHANGE = 4.0
# The derivative of the potentials is as accurate as this, relative to itself.
_LINEAR_TOLERANCE, _LINEAR_STEPS = 1e-3, 100


class Potentials(eqx.Module):
    """Potentials u and v at the nodes, with the L1 error of the plan's first marginal and the steps taken."""

    u: Float[Array, " N"]
    v: Float[Array, " N"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]


def interaction(x: Float[Array, "n d"], y: Float[Array, "m d"], epsilon: Float[Array, ""]) -> Float[Array, "n m"]:
    """2 x.y / epsilon for all pairs of points."""
    return unfused(x @ ((2 / epsilon) * y).T)


def extend(x: Float[Array, "n d"], y: Float[Array, "m d"], log_weight: Array, v: Array, epsilon: Array) -> Array:
    """The potential u at any points, from v at the nodes y of the other side."""
    return -logsumexp(interaction(x, y, epsilon) + (log_weight + v)[None], axis=1)


def sinkhorn(
    kernel: Float[Array, "n m"],
    log_a: Float[Array, " n"],
    log_b: Float[Array, " m"],
    start: Float[Array, " m"],
    tolerance: Float[Array, ""],
    max_steps: Int[Array, ""],
) -> tuple[Potentials, "Plan"]:
    """Sinkhorn's iteration with momentum, in scalings between returns to the log domain.

    Args:
        kernel: 2 x.y / epsilon at the nodes.
        log_a: Log-weights of the source nodes.
        log_b: Log-weights of the target nodes.
        start: A guess of v.
        tolerance: Largest accepted L1 error of the first marginal; the second is exact.
        max_steps: Limit on the steps, each an update of both potentials.
    """
    a, b = jnp.exp(log_a), jnp.exp(log_b)
    tiny = jnp.asarray(jnp.finfo(kernel.dtype).tiny * 1e3, kernel.dtype)
    infinite = jnp.asarray(jnp.inf, kernel.dtype)

    def unmet(states: tuple[Potentials, Plan]) -> Array:
        return (states[0].residual > tolerance) & (states[0].num_steps < max_steps)

    def absorb(states: tuple[Potentials, Plan]) -> tuple[Potentials, Plan]:
        state, _ = states
        exponent = kernel + (log_b + state.v)[None]
        top = jnp.max(exponent, axis=1)
        density = jnp.exp(exponent - top[:, None])

        def step(scaled: _Scaled) -> _Scaled:
            plain = 1 / jnp.maximum(scaled.sums, tiny)
            # Nesterov's momentum, which starts anew where the error has grown. It is bounded: in tails, whose errors
            # hardly weigh, nothing else keeps it from growing.
            age = jnp.where(scaled.residual < scaled.before, scaled.age + 1, 0)
            change = jnp.clip(plain / scaled.plain, 1 / _MOST_CHANGE, _MOST_CHANGE)
            left = plain * change ** (age / (age + 3)).astype(plain.dtype)
            mass = (a * left) @ density
            # Not zero, of which there is no way back.
            right = jnp.maximum(b / jnp.maximum(mass, tiny), tiny)
            sums = density @ right
            # A column that has underflown is to be found again in the log domain.
            lost = jnp.any((mass < tiny) & (b > 0))
            residual = jnp.where(lost, infinite, jnp.sum(a * jnp.abs(left * sums - 1)))
            return _Scaled(left, right, sums, residual, scaled.num_steps + 1, plain, scaled.residual, age)

        def go_on(scaled: _Scaled) -> Array:
            steps = scaled.num_steps
            return (scaled.residual > tolerance) & (steps < INNER_STEPS) & (state.num_steps + steps < max_steps)

        ones = jnp.ones_like(log_a), jnp.ones_like(log_b)
        sums = density @ ones[1]
        plain = 1 / jnp.maximum(sums, tiny)
        begin = _Scaled(*ones, sums, infinite, jnp.zeros_like(max_steps), plain, infinite, jnp.zeros_like(max_steps))
        last = jax.lax.while_loop(go_on, step, begin)
        u, v = jnp.log(last.left) - top, state.v + jnp.log(last.right)
        potentials = Potentials(u, v, last.residual, state.num_steps + last.num_steps)
        return potentials, Plan(density, last.left, last.right, a, b)

    begin = Potentials(jnp.zeros_like(log_a), start, infinite, jnp.zeros_like(max_steps))
    nothing = Plan(jnp.zeros_like(kernel), a, b, a, b)
    return jax.lax.while_loop(unmet, absorb, (begin, nothing))


class Plan(NamedTuple):
    """A plan between nodes: a matrix, scalings of its rows and columns, and the marginals a and b."""

    density: Float[Array, "n m"]
    left: Float[Array, " n"]
    right: Float[Array, " m"]
    a: Float[Array, " n"]
    b: Float[Array, " m"]

    def forward(self, values: Float[Array, " m"]) -> Float[Array, " n"]:
        """Means of values at the target nodes, given the source nodes."""
        return self.left * (self.density @ (self.right * values))

    def backward(self, values: Float[Array, " n"]) -> Float[Array, " m"]:
        """Means of values at the source nodes, given the target nodes."""
        return self.per_mass() * ((self.a * self.left * values) @ self.density)

    def per_mass(self) -> Float[Array, " m"]:
        """The scalings of columns over their marginals; zero where there is no mass."""
        empty = self.b <= 0
        return jnp.where(empty, 0.0, self.right / jnp.where(empty, 1.0, self.b))

    def images(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """Means of the points of the other side, given either side."""
        to_y = self.left[:, None] * unfused(self.density @ (self.right[:, None] * y))
        to_x = self.per_mass()[:, None] * unfused(((self.a * self.left)[:, None] * x).T @ self.density).T
        return to_y, to_x


def derivative(
    plan: Plan, x: Float[Array, "n d"], y: Float[Array, "m d"], epsilon: Float[Array, ""], start: Float[Array, " m"]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """The derivatives of u and v by the logarithm of epsilon, by conjugate gradients.

    They solve du = r - P dv and dv = s - Q du, with r and s the means of 2 x.y / epsilon, and P and Q the means given
    either side; I - Q P is symmetric and positive in the inner product of the second marginal.
    """
    to_y, to_x = plan.images(x, y)
    r, s = (2 / epsilon) * jnp.sum(x * to_y, axis=1), (2 / epsilon) * jnp.sum(y * to_x, axis=1)

    def left(dv: Array) -> Array:
        return r - plan.forward(dv)

    def centered(values: Array) -> Array:
        return values - jnp.sum(plan.b * values)

    def square(values: Array) -> Array:
        return jnp.sum(plan.b * values * values)

    def unmet(state: tuple[Array, ...]) -> Array:
        dv, residual, _, step = state
        return (square(residual) > _LINEAR_TOLERANCE**2 * square(centered(dv))) & (step < _LINEAR_STEPS)

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        dv, residual, direction, step = state
        image = direction - plan.backward(plan.forward(direction))
        before, curvature = square(residual), jnp.sum(plan.b * direction * image)
        # No curvature: nothing but rounding is left.
        length = jnp.where(curvature > 0, before / curvature, 0.0)
        residual = centered(residual - length * image)
        turned = residual + square(residual) / before * direction
        return dv + length * direction, residual, turned, step + 1

    residual = centered(s - plan.backward(left(start)) - start)
    dv, *_ = jax.lax.while_loop(unmet, improve, (start, residual, residual, jnp.zeros((), int)))
    return left(dv), dv


class _Scaled(NamedTuple):
    """Scalings of both sides, the sums of rows that the next left one comes from, and the first marginal's error.

    For the momentum also the left scalings without it, the error before, and the steps since momentum began.
    """

    left: Float[Array, " n"]
    right: Float[Array, " m"]
    sums: Float[Array, " n"]
    residual: Float[Array, ""]
    num_steps: Int[Array, ""]
    plain: Float[Array, " n"]
    before: Float[Array, ""]
    age: Int[Array, ""]
