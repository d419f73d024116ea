"""Points on their straight way to their images."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.arguments import as_scalar, ScalarLike
from .._base.arrays import is_traced, on_host, to_jax


def on_the_way(t: ScalarLike, points: Any, move: Callable[[Any], Any]) -> Float[Array, "n d"]:
    """(1 - t) x + t T(x) for points x and a map T, which is only asked once the time is known to be one.

    Raises:
        ValueError: If ``t`` lies outside [0, 1].
    """
    time = as_scalar("t", t)
    if not is_traced(time) and float(time) > 1:
        raise ValueError(f"`t` must lie between 0 and 1; got {float(time):g}.")
    time = jnp.asarray(time, points.dtype) if is_traced(time) else to_jax(time, points.dtype)
    return on_host(lambda _, time, x, image: (1 - time) * x + time * image, time, points, move(points))
