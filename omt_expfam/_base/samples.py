"""Samples that are compared with each other: of one type and width, without a common offset, in a common unit."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .arguments import ArrayLike, as_floating, as_host_or_traced, check_finite
from .arrays import default_dtype, is_traced, spread_indices, to_jax
from .tables import alike

# Rows looked at for an offset, and how many half ranges away from the origin is far.
_ROWS, _FAR = 1000, 100.0


def offset_of(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middle of each column and half its range, from a sample of the rows."""
    some = points[spread_indices(len(points), _ROWS)].astype(np.float64)
    if not len(some):
        return np.zeros(points.shape[1]), np.zeros(points.shape[1])
    low, high = some.min(axis=0), some.max(axis=0)
    return low / 2 + high / 2, high / 2 - low / 2


# What is constant relative to its size: rounding alone.
CONSTANT = 1e-12


def refuse_constant(name: str, points: Any) -> None:
    """Name a column of one value, which leaves densities without a maximum; nothing where there is none."""
    low, high = np.min(points, axis=0), np.max(points, axis=0)
    columns = np.flatnonzero(high - low <= CONSTANT * np.maximum(np.abs(low), np.abs(high)))
    if columns.size:
        raise ValueError(
            f"`{name}` has the value {np.asarray(points)[0, columns[0]]:.6g} in column {columns[0]} everywhere: the "
            "density there has no maximum. Leave that column out."
        )


def to_samples(named: Mapping[str, ArrayLike], minimum: int) -> list[Array]:
    """Points of one floating-point type and one width, at least ``minimum`` of each.

    What they have in common is subtracted before it is rounded: distances between them stay as exact as the numbers
    that were given.
    """
    wide = {name: as_host_or_traced(name, x) for name, x in zip(named, alike(**named), strict=True)}
    if not is_traced(list(wide.values())) and all(array.ndim == 2 for array in wide.values()):
        wide = _without_offset(wide)
    arrays = {name: as_floating(name, value, "n d") for name, value in wide.items()}
    first, width = next((name, array.shape[1]) for name, array in arrays.items())
    for name, array in arrays.items():
        if array.shape[0] < minimum or array.shape[1] < 1:
            raise ValueError(
                f"`{name}` must have at least {minimum} point{'s' * (minimum > 1)} and one column; "
                f"got shape {tuple(array.shape)}."
            )
        if array.shape[1] != width:
            raise ValueError(f"`{name}` must be {width} wide, like `{first}`; got shape {tuple(array.shape)}.")
    dtype = functools.reduce(np.promote_types, (array.dtype for array in arrays.values()))
    return [array.astype(dtype) for array in arrays.values()]


def _without_offset(wide: dict[str, Any]) -> dict[str, Any]:
    """The same points about the middle of the first, where that is far away and would be rounded to float32."""
    first, *others = wide.values()
    if default_dtype() == np.float64 or all(array.dtype == np.float32 for array in wide.values()) or not len(first):
        return wide
    if any(array.shape[1] != first.shape[1] for array in others):
        return wide
    middle, reach = offset_of(np.asarray(first))
    if not (np.abs(middle) > _FAR * reach).any():
        return wide
    for name, array in wide.items():
        check_finite(name, array)
    return {name: np.asarray(array, np.float64) - middle for name, array in wide.items()}


def matched(**named: ArrayLike) -> list[Array]:
    """Points of one shape."""
    arrays = to_samples(named, 1)
    first, shape = next(iter(named)), tuple(arrays[0].shape)
    for name, array in zip(named, arrays, strict=True):
        if array.shape != shape:
            raise ValueError(f"`{name}` must have the shape of `{first}`, {shape}; got {tuple(array.shape)}.")
    return arrays


def squared(function: Callable[..., Float[Array, ""]], names: str, *arrays: Array) -> Float[Array, ""]:
    """A number in units of squared distance, computed in a unit near the points' own where squares leave the range.

    Args:
        function: Gives the number, from points.
        names: Of the arguments, for the error message.
        arrays: The points.

    Raises:
        ValueError: If the number itself is out of range.
    """
    value = None if is_traced(arrays) else function(*arrays)
    if value is not None and in_range(value):
        return value
    unit = unit_of(*arrays)
    return restored(function(*(array / unit for array in arrays)), unit, names)


def in_range(*values: Any) -> bool:
    """Whether numbers lie so well within the range of their type that the squares they were made of did."""
    info = jnp.finfo(values[0].dtype)
    return all(float(info.tiny) ** 0.75 <= float(value) <= float(info.max) ** 0.75 for value in values)


def restored(value: Float[Array, ""], unit: Float[Array, ""], names: str) -> Float[Array, ""]:
    """A number times the square of a unit.

    Raises:
        ValueError: If the result is out of range.
    """
    if is_traced(value, unit):
        return unit * (unit * value)
    with np.errstate(over="ignore", under="ignore"):
        exact = np.float64(value) * float(unit) * float(unit)
        rounded = exact.astype(value.dtype)
    if float(value) > 0 and not float(jnp.finfo(value.dtype).tiny) <= float(rounded) < np.inf:
        raise ValueError(
            f"{names} must have squared distances that {value.dtype} can hold; got about {exact:.3g}. "
            "Divide by a common unit, or enable x64."
        )
    return to_jax(rounded)


@jax.jit
def unit_of(*arrays: Array) -> Float[Array, ""]:
    """The power of two above the largest number; one where there is none. It has no derivative."""
    largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(array)) for array in arrays))
    return power_of_two_above(jax.lax.stop_gradient(largest))


def power_of_two_above(number: Float[Array, ""]) -> Float[Array, ""]:
    """The power of two next above a positive number; one for what is not positive and finite.

    Numbers divided by it are not rounded.
    """
    usable = (number > 0) & jnp.isfinite(number)
    _, exponent = jnp.frexp(jnp.where(usable, number, jnp.full_like(number, 0.5)))
    return jnp.ldexp(jnp.ones_like(number), exponent)
