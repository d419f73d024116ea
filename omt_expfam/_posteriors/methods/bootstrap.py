"""The weighted likelihood bootstrap as a method of inference."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from ..._base.arguments import as_count
from ..._base.results import RESULTS
from ..._fitting.bootstrap import bootstrap_mixtures
from .gibbs import sites_of
from .method import AbstractMethod, PosteriorProblem, SiteDraws


class Bootstrap(AbstractMethod):
    """The weighted-likelihood bootstrap (Newton and Raftery, 1994): EM refitted to randomly weighted points.

    For every family that EM fits. Its draws approximate the posterior under a flat prior; priors are not used, but the
    pseudo-observations of `fit` are.

    Attributes:
        num_samples: Number of draws.
        max_steps: Limit on the EM steps of a draw.
    """

    num_samples: int = eqx.field(default=200, static=True)
    max_steps: int = eqx.field(default=5000, static=True)

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
        return SiteDraws(
            sites,
            statistics,
            {},
            RESULTS.successful if settled else RESULTS.refits_not_converged,
        )
