"""The weighted likelihood bootstrap as a method of inference."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from ..._base.arguments import as_count
from ..._base.results import RESULTS
from ..._fitting.bootstrap import bootstrap_mixtures
from .drift import checked, OF_REFITS
from .gibbs import sites_of
from .method import AbstractMethod, PosteriorProblem, SiteDraws
from .mode import find_mode


class Bootstrap(AbstractMethod):
    """The weighted-likelihood bootstrap (Newton and Raftery, 1994): EM refitted to randomly weighted points.

    For every family that EM fits. Its draws approximate the posterior under a flat prior; priors are not used, but the
    pseudo-observations of `fit` are. They are the spread of refits, and near the posterior for separated components and
    many points only: exact chains that start at them tell, and where these leave them it says so.

    Attributes:
        num_samples: Number of draws.
        max_steps: Limit on the EM steps of a draw.
        compare: Whether refits are compared with the posterior. Without, and where its density jumps or has no mode,
            they are not, and say nothing but how much refits vary.
    """

    num_samples: int = eqx.field(default=200, static=True)
    max_steps: int = eqx.field(default=5000, static=True)
    compare: bool = eqx.field(default=True, static=True)

    def __check_init__(self) -> None:
        as_count("num_samples", self.num_samples)
        as_count("max_steps", self.max_steps)

    @property
    def name(self) -> str:
        return "bootstrap"

    @property
    def is_chain(self) -> bool:
        return False

    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        if problem.fit is None:
            raise TypeError("Bootstrap refits by EM, which does not know NumPyro distributions. Use NUTS() or SVI().")
        draws = bootstrap_mixtures(
            key,
            problem.x,
            problem.fit,
            problem.model.components,
            num_draws=self.num_samples,
            max_steps=self.max_steps,
            progress=problem.progress,
        )
        sites = sites_of(problem.model, jax.tree.map(lambda leaf: np.asarray(leaf)[None], draws.mixtures))
        statistics = {
            "total_log_likelihood": np.asarray(draws.log_likelihoods * problem.x.shape[0])[None],
            "n_steps": np.asarray(draws.num_steps)[None],
        }
        settled = bool(np.asarray(draws.converged).all())
        result = RESULTS.successful if settled else RESULTS.refits_not_converged
        found = SiteDraws(sites, statistics, {}, result)
        return _compared(key, problem, found) if self.compare else found


def _compared(key: Key[Array, ""], problem: PosteriorProblem, draws: SiteDraws) -> SiteDraws:
    """Refits with their drift under exact chains, where the posterior has a mode to tell these a scale."""
    if problem.smoothness == 0 or draws.result != RESULTS.successful:
        return draws
    target = problem.target()
    mode = find_mode(target, problem.unconstrained(target), kinked=problem.smoothness == 1)
    if not mode.found:
        return draws
    return checked(key, target, mode.center, mode.factor, draws, OF_REFITS)
