"""The best scales of a two-sided law for given mean powers of the distances on either side, elementwise."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._two_sided import half_moment, TwoSided

# Newton steps: the functions solved are convex or concave with slopes between fixed bounds, so that Newton's method
# converges from anywhere; powers between 1/2 and 8 on either side need at most seven.
_STEPS = 10


def expected_log_density(law: TwoSided, below: Any, above: Float[Array, ""]) -> Float[Array, ""]:
    """The mean log-density of points with mean powers of distances ``below`` and ``above`` the location."""
    result = -law.log_normalizer() - _scaled(above, law.right, law.power_right)
    return result if law.left is None else result - _scaled(below, law.left, law.power_left)


def _scaled(mean_power: Array, scale: Array, power: Any) -> Array:
    """``mean_power / scale**power``."""
    return jnp.exp(_log(mean_power) - power * jnp.log(scale))


def _log(value: Array) -> Array:
    """The logarithm, of nothing below the smallest normal number."""
    return jnp.log(jnp.maximum(value, jnp.finfo(value.dtype).tiny))


def common_scale(law: TwoSided, below: Array, above: Array, floor: Array) -> tuple[Array, Array]:
    r"""The best scale s of both sides: $p A_l s^{-p} + q A_r s^{-q} = 1$, convex in log s."""
    p, q = law.power_left, law.power_right
    a, b = _log(p * below), _log(q * above)
    log_scale = jnp.logaddexp(a, b) / (0.5 * (p + q))
    for _ in range(_STEPS if not _known_equal(p, q) else 0):
        left, right = a - p * log_scale, b - q * log_scale
        share = jax.nn.sigmoid(left - right)
        log_scale = log_scale + jnp.logaddexp(left, right) / (p * share + q * (1 - share))
    scale = jnp.maximum(jnp.exp(log_scale), floor)
    return scale, scale


def separate_scales(law: TwoSided, below: Array, above: Array, floor: Array) -> tuple[Array, Array]:
    """The best scales of the two sides, neither below ``floor``.

    The mean log-density is concave in the natural parameters left^-p and right^-q, so the best scales within bounds
    are free, or one of them is at its bound and the other is the best beside it.
    """
    left, right = _free_scales(law, below, above)
    free = (left >= floor) & (right >= floor)
    other = jnp.maximum(_scale_beside(law.power_right, above, law.power_left, floor), floor)
    first = floor, other
    other = jnp.maximum(_scale_beside(law.power_left, below, law.power_right, floor), floor)
    second = other, floor
    values = [expected_log_density(law._replace(left=low, right=high), below, above) for low, high in (first, second)]
    bound = [jnp.where(values[0] >= values[1], *pair) for pair in zip(first, second, strict=True)]
    return jnp.where(free, left, bound[0]), jnp.where(free, right, bound[1])


def _free_scales(law: TwoSided, below: Array, above: Array) -> tuple[Array, Array]:
    r"""The best scales without bounds, through the share w of the left side.

    Both scales are best when $p A_l s_l^{-p} = w$ and $q A_r s_r^{-q} = 1 - w$; with w = sigmoid(t) this leaves
    $(1 + 1/p) \log w - (1 + 1/q) \log(1 - w) = \mathrm{target}$, of which the left side rises in t.
    """
    p, q = law.power_left, law.power_right
    a, b = _log(p * below), _log(q * above)
    target = jnp.log(half_moment(p, 1)) - jnp.log(half_moment(q, 1)) + a / p - b / q
    rise, fall = 1 + 1 / p, 1 + 1 / q
    t = target / (0.5 * (rise + fall))
    for _ in range(_STEPS if not _known_equal(p, q) else 0):
        gap = rise * jax.nn.log_sigmoid(t) - fall * jax.nn.log_sigmoid(-t) - target
        t = t - gap / (rise * jax.nn.sigmoid(-t) + fall * jax.nn.sigmoid(t))
    left = jnp.exp((a - jax.nn.log_sigmoid(t)) / p)
    return left, jnp.exp((b - jax.nn.log_sigmoid(-t)) / q)


def _scale_beside(power: Any, mean_power: Array, other_power: Any, other: Array) -> Array:
    """The best scale of one side while the other's is held: (q + 1) l - log(q A) = log(exp(l) + c), l = log scale."""
    b = _log(power * mean_power)
    log_c = jnp.log(other) + jnp.log(half_moment(other_power, 1)) - jnp.log(half_moment(power, 1))
    log_scale = b / power
    for _ in range(_STEPS):
        gap = (power + 1) * log_scale - b - jnp.logaddexp(log_scale, log_c)
        log_scale = log_scale - gap / (power + 1 - jax.nn.sigmoid(log_scale - log_c))
    return jnp.exp(log_scale)


def _known_equal(p: Any, q: Any) -> bool:
    """Whether the powers are numbers that the family fixes, and equal."""
    return isinstance(p, float) and isinstance(q, float) and p == q
