"""The density of a NumPyro model's posterior over one vector of unconstrained numbers."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer import init_to_feasible
from numpyro.infer.util import potential_energy

from ..._base.arrays import is_traced
from ..._base.precision import relaxed
from ..._base.xla import program


class Target(eqx.Module):
    """A posterior density over unconstrained numbers u: NumPyro's potential energy, with sites laid out in a vector.

    Attributes:
        model: The NumPyro model.
        args: Its positional arguments; arrays, so that new data of equal shape need no compilation.
        options: Its keyword arguments, such as a batch size.
        names: The latent sites.
        supports: Their supports.
        shapes: Their unconstrained shapes.
    """

    model: Any
    args: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    supports: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @classmethod
    def of(cls, model: Callable, *args: Any, **options: Any) -> "Target":
        """Find the latent sites of a model by running it once.

        Raises:
            ValueError: If a latent site is discrete.
        """
        supports: dict[str, Any] = {}
        shapes: dict[str, tuple[int, ...]] = {}

        def run(key: Array) -> None:
            with relaxed(), handlers.block():
                # Not every prior can be sampled.
                feasible = handlers.substitute(handlers.seed(model, key), substitute_fn=init_to_feasible)
                trace = handlers.trace(feasible).get_trace(*args, **options)
            for name, site in trace.items():
                if site["type"] == "sample" and not site["is_observed"]:
                    supports[name] = site["fn"].support
                    if not supports[name].is_discrete:
                        shapes[name] = jax.eval_shape(biject_to(supports[name]).inv, site["value"]).shape

        # Only shapes are wanted: nothing is computed, unless a support is.
        with relaxed():
            jax.eval_shape(lambda: run(jax.random.key(0)))
        if is_traced(supports):
            run(jax.random.key(0))
        for name, support in supports.items():
            if support.is_discrete:
                raise ValueError(f"The model's site {name!r} is discrete; sum it out, as `mixture_model` does labels.")
        names = tuple(supports)
        ordered = tuple(supports[n] for n in names), tuple(shapes[n] for n in names)
        return cls(model, args, tuple(sorted(options.items())), names, *ordered)

    @property
    def dim(self) -> int:
        """The number of unconstrained numbers."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def split(self, u: Float[Array, " p"]) -> dict[str, Array]:
        """The unconstrained value of each site."""
        return dict(zip(self.names, _split(u, self.shapes), strict=True))

    def constrain(self, u: Float[Array, " p"]) -> dict[str, Array]:
        """The sites at unconstrained numbers."""
        return dict(zip(self.names, _constrained(u, self.supports, self.shapes), strict=True))

    def unconstrain(self, sites: dict[str, Array]) -> Float[Array, " p"]:
        """The unconstrained numbers of sites."""
        return _unconstrained([sites[n] for n in self.names], self.supports)

    def potential(self, u: Float[Array, " p"], key: Any = None) -> Float[Array, ""]:
        """Minus the log joint density, in nats, up to a constant; with a key for models that draw mini-batches."""
        model = self.model if key is None else handlers.seed(self.model, key)
        # Blocked: the model may be asked for inside another NumPyro program.
        with relaxed(), handlers.block():
            return jnp.asarray(potential_energy(model, self.args, dict(self.options), self.split(u)))


def _split(u: Float[Array, " p"], shapes: tuple[tuple[int, ...], ...]) -> list[Array]:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [u[end - int(np.prod(shape)) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]


@program
def _constrained(u: Float[Array, " p"], supports: Any, shapes: Any) -> list[Array]:
    with relaxed():
        return [biject_to(s)(part) for s, part in zip(supports, _split(u, shapes), strict=True)]


@program
def _unconstrained(values: list[Array], supports: Any) -> Float[Array, " p"]:
    with relaxed():
        return jnp.concatenate([jnp.ravel(biject_to(s).inv(v)) for s, v in zip(supports, values, strict=True)])
