"""What every way of drawing from the posterior of a mixture takes and returns."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key

from ..._base.arguments import as_count
from ..._base.buckets import pad, point_bucket
from ..._base.xla import program
from ..._components.mixture import Mixture
from ..._family.em_family import AbstractEMFamily
from ..._fitting.fit import Fit
from ..label_free import LEAST_DRAWS
from ..model import MixtureModel
from .target import Target

# NumPyro's distributions whose log-densities have kinks in the parameters, or jump.
_KINKED = (dist.Laplace, dist.AsymmetricLaplace, dist.AsymmetricLaplaceQuantile)
_JUMPING = (dist.Uniform, dist.Pareto)


def check_draws(num_samples: Any, num_chains: Any) -> None:
    """Raise unless chains have the draws that r-hat takes, without which they are not known to have mixed."""
    # A single chain is compared with itself, half with half.
    alone = as_count("num_chains", num_chains) == 1
    as_count("num_samples", num_samples, minimum=2 * LEAST_DRAWS if alone else LEAST_DRAWS)


class PosteriorProblem(NamedTuple):
    """A model, the data, and the place that all methods start from; in float64.

    Attributes:
        x: Points on the host, shape ``[n, d]``.
        model: The Bayesian mixture model.
        start: The EM optimum.
        fit: How that was found, where EM knows the family.
        sites: The optimum as sites of the model, where EM does not know the family.
        progress: Whether progress bars are shown.
    """

    x: Float[np.ndarray, "n d"]
    model: MixtureModel
    start: Mixture
    fit: Fit | None
    sites: dict[str, Array] | None
    progress: bool | None

    @property
    def smoothness(self) -> int:
        """How many times log-densities are continuously differentiable in the parameters."""
        components = self.start.components
        if isinstance(components, AbstractEMFamily):
            return components.smoothness
        law: Any = components.to_numpyro()
        while hasattr(law, "base_dist"):
            law = law.base_dist
        return 0 if isinstance(law, _JUMPING) else 1 if isinstance(law, _KINKED) else 2

    def target(self, batch_size: int | None = None) -> Target:
        """The posterior density over unconstrained numbers, of points padded to a common number."""
        if batch_size is not None:
            # Drawn points must all count.
            return Target.of(self.model, jax.device_put(self.x), batch_size=batch_size)
        size = point_bucket(len(self.x))
        points = pad(self.x, size), np.arange(size) < len(self.x)
        return Target.of(self.model, *jax.device_put(points))

    def unconstrained(self, target: Target) -> Float[Array, " p"]:
        """The optimum as unconstrained numbers."""
        return _unconstrained(target, self.start if self.sites is None else self.sites)

    def check_gradients(self, method: str) -> None:
        """Raise TypeError where no method can follow gradients."""
        if self.smoothness == 0:
            family = type(self.start.components).__name__
            known = "Use Bootstrap()." if self.fit is not None else "Choose laws whose support is fixed."
            raise TypeError(
                f"{method} follows gradients, and densities of {family} components jump where a parameter passes a "
                f"point. {known}"
            )


class SiteDraws(NamedTuple):
    """Draws of a model's sites and the evidence for them.

    Attributes:
        sites: The draws of each site, shape ``[C, S, ...]``: chains, draws.
        statistics: Numbers per draw, shape ``[C, S]``, by ArviZ's names.
        traces: Numbers along the computation, such as the variational bound.
        result: Why the computation stopped, a member of `RESULTS`.
    """

    sites: dict[str, Any]
    statistics: dict[str, np.ndarray]
    traces: dict[str, np.ndarray]
    result: Any


class AbstractMethod(eqx.Module):
    """A way of drawing from the posterior of a mixture."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The method's name, for people."""

    @property
    @abc.abstractmethod
    def is_chain(self) -> bool:
        """Whether draws depend on their predecessors, so that mixing has to be checked."""

    @abc.abstractmethod
    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        """Draw from the posterior."""


@program
def _unconstrained(target: Target, start: Mixture | dict[str, Array]) -> Float[Array, " p"]:
    return target.unconstrain(target.model.sites(start) if isinstance(start, Mixture) else start)


def sites_at(target: Target, u: Float[Array, "S p"]) -> dict[str, Array]:
    """The sites at many unconstrained vectors."""
    return jax.vmap(target.constrain)(u)
