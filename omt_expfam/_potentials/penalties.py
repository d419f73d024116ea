r"""Penalties on displacements $z = T(x) - x$: the fewer coordinates move, the less they cost."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.arguments import as_scalar
from .annealing import as_annealing


class AbstractPenalty(eqx.Module):
    r"""A penalty $\lambda \tau(z)$ on the displacement z of one point, in the points' own units.

    An own class has a field ``strength`` and gives `value`; or pass any function to `Penalty`. The strength is a
    number, or ``"annealed"``, or an `Annealing` with settings: it is then searched for in training.
    """

    strength: eqx.AbstractVar[Any]

    @abstractmethod
    def value(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        r"""$\tau$ of one displacement, at least zero; the strength is not part of it."""

    def __check_init__(self) -> None:
        if as_annealing(self.strength) is None:
            as_scalar("strength", self.strength)


@final
class L1(AbstractPenalty):
    r"""$\tau(z) = \sum_j |z_j|$: shrinks every displacement alike, and so all of the small ones to zero.

    Attributes:
        strength: $\lambda$, in units of the points: by about so much each coordinate's displacement shrinks.
    """

    strength: Any

    def value(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.sum(jnp.abs(z))


@final
class STVS(AbstractPenalty):
    r"""Soft thresholding with vanishing shrinkage (Schreck et al., 2015): hardly shrinks displacements that are large.

    $\tau(z) = \gamma^2 \sum_j (\sigma_j + \tfrac12 - \tfrac12 e^{-2\sigma_j})$, with
    $\sigma_j = \operatorname{asinh}(|z_j| / 2\gamma)$.

    Attributes:
        strength: $\lambda$, a pure number.
        gamma: What is large, in units of the points; far below it the penalty is $\gamma |z|$.
    """

    strength: Any
    gamma: float = 1.0

    def __check_init__(self) -> None:
        as_scalar("gamma", self.gamma, strict=True)

    def value(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        angle = jnp.arcsinh(jnp.abs(z) / (2 * self.gamma))
        return self.gamma**2 * jnp.sum(angle - jnp.expm1(-2 * angle) / 2)


@final
class SmoothedL0(AbstractPenalty):
    r"""$\tau(z) = \sum_j (1 - e^{-z_j^2 / 2\sigma^2})$, nearly how many coordinates move (Mohimani et al., 2007).

    It is not convex: where training ends may depend on where it starts.

    Attributes:
        strength: $\lambda$, in units of squared distance: what a moved coordinate costs.
        sigma: What counts as moved, in units of the points.
    """

    strength: Any
    sigma: float = 1.0

    def __check_init__(self) -> None:
        as_scalar("sigma", self.sigma, strict=True)

    def value(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        return -jnp.sum(jnp.expm1(-0.5 * (z / self.sigma) ** 2))


@final
class Penalty(AbstractPenalty):
    """A function of your own as a penalty.

    Attributes:
        strength: What it is multiplied by.
        function: tau: from the displacement of one point, shape ``[d]``, to a number of at least zero; in JAX, and
            differentiable almost everywhere.
    """

    strength: Any
    function: Callable[[Array], Any] = eqx.field(static=True)

    def __check_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"`function` must be a function of a displacement; got {self.function!r}.")

    def value(self, z: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.asarray(self.function(z), z.dtype)


def as_penalty(value: Any) -> AbstractPenalty:
    """A penalty, or a function as one.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(value, AbstractPenalty):
        return value
    if callable(value) and not isinstance(value, type):
        return Penalty(1.0, value)
    given = value.__name__ if isinstance(value, type) else type(value).__name__
    raise TypeError(
        "`sparsity` must be L1, STVS, SmoothedL0 or Penalty with a strength, a function of a displacement, Screen, "
        f"GroupPenalty, Features or None; got {given}."
    )
