"""What a family adds for Bayesian fits: priors of its free parameters and, where they are conjugate, draws."""

import abc
import dataclasses
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key, PyTree

from .priors import ConjugatePrior, mean_statistics


class AbstractPriors(abc.ABC):
    """The Bayesian part of a family: an object without state, held by the class as ``priors``.

    Only `default` must be written.
    """

    @abc.abstractmethod
    def default(self, components: Any, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        """Weakly informative priors on the scale of the data for the free parameters of one component, by name.

        Each is a distribution with batch shape ``()`` and the event shape of the parameter; its support says what
        values the parameter may have. A name is that of a field unless `parameters` says otherwise.
        """

    def parameters(self, components: Any, names: tuple[str, ...]) -> dict[str, Array]:
        """The free parameters of K components, by the names that `default` uses."""
        return {name: getattr(components, name) for name in names}

    def with_parameters(self, components: Any, parameters: dict[str, Array]) -> Any:
        """The same components with other free parameters."""
        names = tuple(parameters)
        return eqx.tree_at(lambda c: [getattr(c, name) for name in names], components, [parameters[n] for n in names])

    def hyperparameters(
        self, components: Any, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> PyTree | None:
        """The hyperparameters of conjugate priors, as `draw` takes them; ``None`` for a family without.

        Points are given less ``origin``, which is zero unless the family's `standardization` shifts points.

        Raises:
            TypeError: If a prior is not conjugate.
        """
        return None

    def sums(self, key: Key[Array, ""], components: Any, data: PyTree, labels: Float[Array, "K n"]) -> PyTree:
        """Sums over points with drawn labels, as `draw` takes them; sums of two chunks add up.

        A family whose conjugate draws need latent variables of the points draws them here.
        """
        return components._accumulate(data, labels)

    def draw(
        self, key: Key[Array, ""], components: Any, counts: Float[Array, " K"], sums: PyTree, hyper: PyTree
    ) -> Any:
        """Components whose parameters are drawn, one after the other, from their laws given all else."""
        raise NotImplementedError(f"{type(self).__name__} has hyperparameters of conjugate priors but no `draw`.")


class StatisticsPriors(AbstractPriors):
    """For a regular exponential family: one pseudo-observation with the mean statistics of all data."""

    def default(self, components: Any, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        component = jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), components)
        return {"natural_parameters": ConjugatePrior(component, mean_statistics(components, x))}

    def parameters(self, components: Any, names: tuple[str, ...]) -> dict[str, Array]:
        """The natural parameters, where the priors are on them."""
        if names == ("natural_parameters",):
            return {"natural_parameters": components.natural_parameters()}
        return super().parameters(components, names)

    def with_parameters(self, components: Any, parameters: dict[str, Array]) -> Any:
        if "natural_parameters" in parameters:
            return components.with_natural_parameters(parameters["natural_parameters"])
        return super().with_parameters(components, parameters)


class _FieldPriors(AbstractPriors):
    """For a family that says nothing of priors: those that are given, for its fields."""

    def default(self, components: Any, x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        name, fields = type(components).__name__, [field.name for field in dataclasses.fields(components)]
        raise ValueError(
            f"`priors` must be given for {name}, which has none of its own: one for each free parameter among "
            f"{', '.join(fields)}."
        )


def priors_of(components: Any) -> AbstractPriors:
    """The Bayesian part of a family; for one without, priors are laws of fields and have to be given."""
    return _FieldPriors() if components.priors is None else components.priors
