"""Circle form: components whose coordinates are independent angles."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from .._numerics.circle import (
    characteristic,
    direction,
    grid,
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


def tabulated(law: AbstractCircle) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Probabilities of the angles of the grid, and their sum before it was made one."""
    density = jnp.exp(jax.vmap(law._log_density)(grid(jax.tree.leaves(law)[0].dtype)))
    total = SPACING * jnp.sum(density)
    return SPACING * density / total, total


def characteristics(form: AbstractCircle) -> Complex[Array, "K d k"]:
    """The characteristic functions of all laws."""
    return jax.vmap(jax.vmap(lambda law: characteristic(tabulated(law)[0])))(form)


def mean_directions(weights: Float[Array, " K"], values: Complex[Array, "K d k"]) -> Float[Array, " d"]:
    """The mean direction of each coordinate of a mixture, from characteristic functions."""
    first = weights.astype(values.dtype) @ values[:, :, 1]
    return direction(first.real, first.imag)


def about_directions(center: Float[Array, " d"], values: Complex[Array, "K d k"]) -> tuple[Array, Array]:
    """Mean arcs of all laws from given angles, and the variances of the arcs, shapes ``[K, d]``."""
    about = jax.vmap(jax.vmap(turned), in_axes=(0, None))(values, center)
    means, squares = (jax.vmap(jax.vmap(moment))(about) for moment in (mean_arc, mean_square_arc))
    return means, squares - means**2


def independent_arcs(left: Complex[Array, "K0 d k"], right: Complex[Array, "K1 d k"]) -> tuple[Array, Array, Array]:
    """Expected squared arcs between independent angles, summed over coordinates, and both sides' summed variances."""

    def spread(values: Complex[Array, " k"]) -> Float[Array, ""]:
        return mean_square_arc(turned(values, direction(values[1].real, values[1].imag)))

    def pair(one: Complex[Array, "d k"], other: Complex[Array, "d k"]) -> Float[Array, ""]:
        return jnp.sum(jax.vmap(mean_square_arc)(one * jnp.conj(other)))

    costs = jax.lax.map(lambda one: jax.lax.map(lambda other: pair(one, other), right), left)
    variances = [jnp.sum(jax.vmap(jax.vmap(spread))(values), axis=1) for values in (left, right)]
    return costs, variances[0], variances[1]
