"""Circle form: components whose coordinates are independent angles."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._numerics.circle import (
    characteristic,
    direction,
    grid,
    is_circle,
    mean_arc,
    mean_square_arc,
    SPACING,
    turned,
)


class AbstractCircle(eqx.Module):
    """Laws on the circle, of angles in radians.

    Array fields carry leading axes ``[K, d]``, one law per component and coordinate. Methods are written for one law
    (fields without those axes) and one angle.
    """

    @abc.abstractmethod
    def _log_density(self, x: Float[Array, ""]) -> Float[Array, ""]:
        """The log-density of one angle, of period two pi."""


def has_angles(components: Any) -> bool:
    """Whether the coordinates of components are angles."""
    return is_circle(components.support)


def tabulated(law: AbstractCircle) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Probabilities of the angles of the grid, and their sum before it was made one."""
    density = jnp.exp(jax.vmap(law._log_density)(grid(jax.tree.leaves(law)[0].dtype)))
    total = SPACING * jnp.sum(density)
    return SPACING * density / total, total


def refuse_angles(what: str, *components: Any) -> None:
    """Raise TypeError if coordinates are angles, for what takes them for numbers on the line."""
    for own in components:
        if has_angles(own):
            raise TypeError(
                f"{what} takes points for numbers on the line; {type(own).__name__} components have angles. Use what a "
                "plan says of them: costs, weights, images, draws and conditional dispersions."
            )


def characteristics(form: AbstractCircle) -> Complex[Array, "K d k"]:
    """The characteristic functions of all laws."""
    return jax.vmap(jax.vmap(lambda law: characteristic(tabulated(law)[0])))(form)


def mean_directions(weights: Float[Array, " K"], values: Complex[Array, "K d k"]) -> Float[Array, " d"]:
    """The mean direction of each coordinate of a mixture, from characteristic functions."""
    first = weights.astype(values.dtype) @ values[:, :, 1]
    return direction(first.real, first.imag)


def arc_covariance(weights: Float[Array, " K"], values: Complex[Array, "K d k"]) -> Float[Array, "d d"]:
    """The second moments of the arcs from the mean directions of a mixture."""
    about = jax.vmap(jax.vmap(turned), in_axes=(0, None))(values, mean_directions(weights, values))
    means, squares = (jax.vmap(jax.vmap(moment))(about) for moment in (mean_arc, mean_square_arc))
    moments = jax.vmap(jnp.diag)(squares - means**2) + means[:, :, None] * means[:, None, :]
    return jnp.einsum("k,kde->de", weights, moments)


def independent_arcs(left: Complex[Array, "K0 d k"], right: Complex[Array, "K1 d k"]) -> tuple[Array, Array, Array]:
    """Expected squared arcs between independent angles, summed over coordinates, and both sides' summed variances."""

    def spread(values: Complex[Array, " k"]) -> Float[Array, ""]:
        return mean_square_arc(turned(values, direction(values[1].real, values[1].imag)))

    def pair(one: Complex[Array, "d k"], other: Complex[Array, "d k"]) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(mean_square_arc)(one * jnp.conj(other)))

    costs = jax.lax.map(lambda one: jax.lax.map(lambda other: pair(one, other), right), left)
    variances = [jnp.sum(jax.vmap(jax.vmap(spread))(values), axis=1) for values in (left, right)]
    return costs, variances[0], variances[1]
