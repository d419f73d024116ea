"""Gibbs sampling of a mixture."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Key

from ..._base.arguments import as_count
from ..._base.results import RESULTS
from ..._base.xla import program
from ..._components.mixture import Mixture
from .gibbs_sweeps import gibbs_draws
from .method import AbstractMethod, check_draws, PosteriorProblem, SiteDraws


class Gibbs(AbstractMethod):
    """Gibbs sampling with data augmentation (Diebolt and Robert, 1994): exact up to Monte Carlo error, and fast.

    For regular exponential families and Student-t components; the priors of Gaussians, log-normals and Student-t laws
    must be conjugate, as by default, but for degrees of freedom.

    Attributes:
        num_warmup: Sweeps per chain that are thrown away.
        num_samples: Draws kept per chain, at least 4; at least 8 of a single one.
        num_chains: Number of chains.
    """

    num_warmup: int = eqx.field(default=200, static=True)
    num_samples: int = eqx.field(default=1000, static=True)
    num_chains: int = eqx.field(default=2, static=True)

    def __check_init__(self) -> None:
        as_count("num_warmup", self.num_warmup, minimum=0)
        check_draws(self.num_samples, self.num_chains)

    @property
    def name(self) -> str:
        return "Gibbs"

    @property
    def is_chain(self) -> bool:
        return True

    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        draws = gibbs_draws(
            key,
            problem.x,
            problem.start,
            problem.model.priors,
            problem.model.concentration,
            num_warmup=self.num_warmup,
            num_samples=self.num_samples,
            num_chains=self.num_chains,
            progress=problem.progress,
        )
        statistics = {"total_log_likelihood": np.asarray(draws.log_likelihood)}
        if draws.acceptance is not None:
            statistics["acceptance_rate"] = np.asarray(draws.acceptance)
        sites = sites_of(problem.model, draws.mixture)
        return SiteDraws(sites, statistics, {}, RESULTS.successful)


@program
def sites_of(model: Any, mixtures: Mixture) -> dict[str, Array]:
    return jax.vmap(jax.vmap(model.sites))(mixtures)
