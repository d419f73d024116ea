r"""The Omega-block without regularization where masses may change: a convex program, solved on the host.

Beside the coupling $\omega$ there are, on each side, the mass that is sent (with a divergence from the weights), or
what is left behind and what is created (at prices per unit). All are nonnegative and their balance is linear: minimize
$c^T x + \sum_k \phi_k(x_k)$ subject to $A x = b$, $x \ge 0$. A primal-dual interior-point method with the corrector of
Mehrotra (1992) follows the central path $x_k z_k = t$, with $z = c + \phi'(x) - A^T u \ge 0$, down to $t = 0$. What is
then left of $x^T z$ bounds how far the value is from the least.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from .._base.arrays import is_traced, to_jax
from .._base.results import RESULTS
from .entropic import WeightCoupling
from .relaxed import RelaxedCoupling

# How near to the boundary a step goes; products and errors at which the program counts as solved, and is accepted.
_NEAR, _SOLVED, _ACCEPTED = 0.995, 1e-13, 1e-8
# Steps without gain, after which rounding is what is left.
_PATIENCE = 100
# Masses below the first are none; so are pairs with a smaller share of the mass, if their reduced cost is larger.
_LEAST, _NONE = 1e-200, 1e-11

CANNOT_TRACE = (
    "`epsilon_weights` = 0 is solved on the host and cannot be traced where masses change. Use a small positive "
    "`epsilon_weights`, or call it outside the transformation."
)


class Side(NamedTuple):
    """One side's weights, and how they may change.

    Attributes:
        weights: Its weights, of any mass.
        divergence: The price of the divergence from them, infinite where there is none.
        price: The price of a unit of mass, zero where mass may be left behind, infinite where all is kept.
        grows: Whether mass may be created at that price.
    """

    weights: np.ndarray
    divergence: float
    price: float
    grows: bool


class ExactRelaxed(NamedTuple):
    """A coupling without regularization.

    Attributes:
        weights: The coupling, of any mass, shape ``[K0, K1]``.
        source: Source potentials.
        target: Target potentials.
        gap: A bound on what its value is above the least, over the mass times the largest cost.
        error: L1 error of the balance of masses, over the mass, plus that of the divergences' prices.
        num_steps: Steps of the interior-point method.
    """

    weights: np.ndarray
    source: np.ndarray
    target: np.ndarray
    gap: float
    error: float
    num_steps: int


def exact_relaxed_coupling(
    cost: Float[Array, "K0 K1"], sides: tuple[Side, Side], mass: float | None, max_steps: int
) -> RelaxedCoupling:
    """The Omega-block without regularization where masses may change, see `solve_exact_relaxed`.

    Raises:
        TypeError: If it is traced.
    """
    if is_traced(cost):
        raise TypeError(CANNOT_TRACE)
    host = np.asarray(cost, np.float64)
    if not np.isfinite(host).all():
        found = ExactRelaxed(np.full(host.shape, np.nan), host[:, 0], host[0], np.inf, np.inf, 0)
        result = RESULTS.weights_not_finite
    else:
        found = solve_exact_relaxed(host, sides, mass, max_steps)
        solved = found.gap < _ACCEPTED and found.error < _ACCEPTED
        result = RESULTS.successful if solved else RESULTS.linear_program_failed
    total = found.weights.sum()
    reduced = np.maximum(host - found.source[:, None] - found.target[None, :], 0.0)
    with np.errstate(all="ignore"):
        share = found.weights / total
        kept = np.where((share < _NONE) & (share < reduced / np.abs(host).max()), 0.0, share)
        rows, columns = kept.sum(axis=1), kept.sum(axis=0)
        # A component that sends or receives nothing would do so with its cheapest partner.
        to_target = np.where((rows > 0)[:, None], kept / rows[:, None], np.eye(len(columns))[reduced.argmin(axis=1)])
        to_source = np.where(columns > 0, kept / columns, np.eye(len(rows))[reduced.argmin(axis=0)].T)
        growth = [
            np.log(np.maximum(total * sums / np.where(side.weights > 0, side.weights, np.inf), _LEAST))
            for side, sums in zip(sides, (rows, columns), strict=True)
        ]
    error = found.error + (share - kept).sum()
    dtype, steps = cost.dtype, to_jax(found.num_steps)
    shares = to_jax(kept, dtype), to_jax(to_target, dtype), to_jax(to_source, dtype)
    evidence = to_jax(found.source, dtype), to_jax(found.target, dtype), to_jax(error, dtype)
    coupling = WeightCoupling(shares[0], shares[1], shares[2], evidence[0], evidence[1], evidence[2], steps, result)
    all_of_it, left, right = to_jax(total, dtype), to_jax(total * rows, dtype), to_jax(total * columns, dtype)
    return RelaxedCoupling(coupling, all_of_it, left, right, to_jax(growth[0], dtype), to_jax(-growth[1], dtype))


class _Program(NamedTuple):
    """Costs and prices of divergences of all variables, in units of the largest cost, and their balance."""

    cost: np.ndarray
    soft: np.ndarray
    given: np.ndarray
    matrix: np.ndarray
    balance: np.ndarray


def solve_exact_relaxed(cost: np.ndarray, sides: tuple[Side, Side], mass: float | None, max_steps: int) -> ExactRelaxed:
    """The coupling that costs least, where masses may change; of several, the one in their middle.

    Args:
        cost: Component objectives, shape ``[K0, K1]``, units of squared distance.
        sides: Source and target; components without weight send and receive nothing.
        mass: The mass that is transported, or ``None`` where prices decide.
        max_steps: Limit on the number of steps.
    """
    one, other = (side.weights > 0 for side in sides)
    inner = cost[np.ix_(one, other)]
    unit = float(max(np.abs(inner).max(), np.finfo(float).tiny))
    heavy = [side._replace(weights=side.weights[used]) for side, used in zip(sides, (one, other), strict=True)]
    total = max(side.weights.sum() for side in heavy)
    program = _program(
        inner / unit, [s._replace(weights=s.weights / total) for s in heavy], mass and mass / total, unit
    )
    x, u, gap, error, num_steps = _solve(program, max_steps)
    weights, count = np.zeros(cost.shape), inner.size
    weights[np.ix_(one, other)] = total * x[:count].reshape(inner.shape)
    potentials = unit * u[: sum(inner.shape)]
    source, target = np.zeros(len(one)), np.zeros(len(other))
    source[one], target[other] = potentials[: inner.shape[0]], potentials[inner.shape[0] :]
    # Of a component without weight, the potential of its cheapest pair.
    source = np.where(one, source, (cost - target)[:, other].min(axis=1))
    target = np.where(other, target, (cost - source[:, None])[one].min(axis=0))
    return ExactRelaxed(weights, source, target, gap, error, num_steps)


def _program(cost: np.ndarray, sides: list[Side], mass: float | None, unit: float) -> _Program:
    """All variables: the coupling, then for each side what is sent, or what is left behind and what is created."""
    k0, k1 = cost.shape
    rows, columns = np.kron(np.eye(k0), np.ones((1, k1))), np.kron(np.ones((1, k0)), np.eye(k1))
    blocks, costs = [np.vstack([rows, columns])], [cost.ravel()]
    soft, given = [np.zeros(cost.size)], [np.ones(cost.size)]
    balance = np.concatenate([side.weights for side in sides])
    for side, first in zip(sides, (0, k0), strict=True):
        size = len(side.weights)
        place = np.zeros((k0 + k1, size))
        place[first : first + size] = np.eye(size)
        if np.isfinite(side.divergence):
            balance[first : first + size] = 0
            added = [(-place, 0.0, side.divergence)]
        else:
            signs = [1, -1] if side.grows else [1]
            added = [(sign * place, side.price, 0.0) for sign in signs] if np.isfinite(side.price) else []
        for block, price, divergence in added:
            blocks.append(block)
            costs.append(np.full(size, price / unit))
            soft.append(np.full(size, divergence / unit))
            given.append(side.weights)
    matrix = np.hstack(blocks)
    # A side that gives all it has says how much is moved.
    if mass is not None and all(np.isfinite(side.price) for side in sides):
        row = np.zeros((1, matrix.shape[1]))
        row[0, : cost.size] = 1
        matrix, balance = np.vstack([matrix, row]), np.append(balance, mass)
    return _Program(np.concatenate(costs), np.concatenate(soft), np.concatenate(given), matrix, balance)


def _solve(program: _Program, max_steps: int) -> tuple[np.ndarray, np.ndarray, float, float, int]:
    """The variables, the potentials, the gap, the error and the number of steps."""
    cost, soft, given, matrix, balance = program
    smooth = soft > 0
    hard, rho = ~smooth, np.where(smooth, soft, 1.0)
    x = np.where(smooth, given, 1 / len(cost))
    z, u = np.where(hard, np.maximum(cost, 0.1), 0.0), np.zeros(len(balance))
    best, step = (x, u, np.inf, np.inf, 0), 0
    while True:
        slope = cost + np.where(smooth, rho * np.log(x / given), 0.0)
        dual, primal = slope - matrix.T @ u - z, balance - matrix @ x
        mass = np.abs(x).sum()
        gap, error = x @ z / mass, np.abs(primal).sum() / mass + x @ np.abs(dual) / mass
        if max(gap, error) < max(best[2:4]):
            best = x, u, float(gap), float(error), step
        if step >= min(max_steps, best[-1] + _PATIENCE) or (gap < _SOLVED and error < _SOLVED):
            return best[0], best[1], best[2], best[3], step
        spread = np.where(hard, x / np.where(hard, z, 1.0), x / rho)
        normal = (matrix * spread) @ matrix.T

        def direction(aim, spread=spread, normal=normal, dual=dual, primal=primal, x=x, z=z):
            """Newton's step to products that differ from the present ones by an aim."""
            ahead = spread * (np.where(hard, aim / x, 0.0) - dual)
            d_u = _symmetric(normal, primal - matrix @ ahead)
            d_x = ahead + spread * (matrix.T @ d_u)
            return d_x, np.where(hard, (aim - z * d_x) / x, 0.0), d_u

        d_x, d_z, _ = direction(-x * z)
        lengths = _longest(x[hard], d_x[hard]), _longest(z[hard], d_z[hard])
        now = x @ z / hard.sum()
        reached = (x + lengths[0] * d_x)[hard] @ (z + lengths[1] * d_z)[hard] / hard.sum()
        # Where products are ahead of the balance of masses, they wait.
        part = 1.0 if gap < 0.1 * error else (reached / now) ** 3
        aim = np.where(hard, part * now - x * z - d_x * d_z, 0.0)
        d_x, d_z, d_u = direction(aim)
        lengths = _longest(x[hard], d_x[hard]), _longest(z[hard], d_z[hard])
        if smooth.any():
            lengths = (min(lengths),) * 2
        # Sums with a divergence fall by a factor instead, as far as it takes.
        falls = np.where(smooth & (d_x < 0), lengths[0] * d_x / x, 0.0)
        x = np.maximum(np.where(falls < 0, x * np.exp(falls), x + lengths[0] * d_x), _LEAST)
        z, u = z + lengths[1] * d_z, u + lengths[1] * d_u
        step += 1
        if not (np.isfinite(u).all() and np.isfinite(x).all()):
            return best[0], best[1], best[2], best[3], step


def _symmetric(matrix: np.ndarray, rhs: np.ndarray) -> np.ndarray:
    """Solve a positive definite system whose rows are of very different sizes, refined once."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
    scaled = scale[:, None] * matrix * scale[None, :] + 1e-15 * np.eye(len(rhs))
    found = np.linalg.solve(scaled, scale * rhs)
    found = found + np.linalg.solve(scaled, scale * (rhs - matrix @ (scale * found)))
    return scale * found


def _longest(value: np.ndarray, change: np.ndarray) -> float:
    """The longest step, at most one, that keeps values positive."""
    falls = change < 0
    return min(1.0, _NEAR * float(np.min(-value[falls] / change[falls], initial=np.inf)))
