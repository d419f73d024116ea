"""What a convex potential is: a strictly convex function of one point, with its strong convexity known."""

from abc import abstractmethod

import equinox as eqx
import jax
from jaxtyping import Array, Float


class AbstractPotential(eqx.Module):
    """A strongly convex, differentiable function phi on R^d; its gradient is an optimal map (Brenier, 1991).

    An own class gives `num_dimensions`, `strong_convexity` and `value`, and must be convex by construction:
    phi(x) - `strong_convexity` |x|^2 / 2 is a convex function of x whatever the parameters are. `value` is written for
    one point, in JAX, and is differentiable twice almost everywhere.
    """

    @property
    @abstractmethod
    def num_dimensions(self) -> int:
        """d, the dimension of points."""

    @property
    @abstractmethod
    def strong_convexity(self) -> Float[Array, ""] | float:
        """A number mu > 0 such that phi - mu |x|^2 / 2 is convex."""

    @abstractmethod
    def value(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Return phi at one point."""

    def gradient(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """The image of one point, grad phi(x)."""
        return jax.grad(self.value)(x)

    def near_conjugate(self, y: Float[Array, " d"]) -> Float[Array, " d"]:
        """Where the search for the point whose image is ``y`` starts: ``y`` itself, unless a class knows better."""
        return y
