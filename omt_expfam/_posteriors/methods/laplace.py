"""Posterior draws by the library's own methods: Laplace approximation, Gibbs sampling, bootstrap."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..._base.arguments import as_count
from ..._base.buckets import point_bucket
from ..._base.results import RESULTS
from ..._base.xla import program, unfused
from ..._components.mixture import Mixture
from ..._fitting.bootstrap import bootstrap_mixtures
from .gibbs_sweeps import gibbs_draws
from .method import AbstractMethod, PosteriorProblem, SiteDraws, sites_at
from .mode import find_mode
from .target import Target


class LaplaceApproximation(AbstractMethod):
    """A normal approximation at the posterior mode, in unconstrained coordinates: fast, and good for large data.

    Attributes:
        num_samples: Number of draws.
    """

    num_samples: int = eqx.field(default=1000, static=True)

    def __check_init__(self) -> None:
        as_count("num_samples", self.num_samples)

    @property
    def name(self) -> str:
        return "Laplace approximation"

    @property
    def is_chain(self) -> bool:
        return False

    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        problem.check_gradients("The Laplace approximation")
        target = problem.target()
        mode = find_mode(target, problem.unconstrained(target), kinked=problem.smoothness == 1)
        drawn = _normal_draws(target, key, mode.center, mode.factor, point_bucket(self.num_samples))
        sites, log_density, squares = jax.tree.map(lambda v: np.asarray(v)[None, : self.num_samples], drawn)
        # Up to a constant: what importance sampling would weight the draws with.
        statistics = {"lp": log_density, "log_weight": log_density + 0.5 * squares}
        return SiteDraws(sites, statistics, {}, RESULTS.successful if mode.found else RESULTS.mode_not_found)


@program
def _normal_draws(
    target: Target, key: Key[Array, ""], center: Float[Array, " p"], factor: Float[Array, "p p"], num: int
) -> tuple[dict[str, Array], Float[Array, " S"], Float[Array, " S"]]:
    """Sites of normal draws, their log joint densities, and their squared lengths in whitened coordinates."""
    z = jax.random.normal(key, (num, target.dim), jnp.float64)
    u = center[None] + unfused(z @ factor.T)
    return sites_at(target, u), -jax.lax.map(target.potential, u), jnp.sum(z**2, axis=1)


class Gibbs(AbstractMethod):
    """Gibbs sampling with data augmentation (Diebolt and Robert, 1994): exact up to Monte Carlo error, and fast.

    For regular exponential families; the priors of Gaussians and log-normals must be conjugate, as by default.

    Attributes:
        num_warmup: Sweeps per chain that are thrown away.
        num_samples: Draws kept per chain.
        num_chains: Number of chains.
    """

    num_warmup: int = eqx.field(default=200, static=True)
    num_samples: int = eqx.field(default=1000, static=True)
    num_chains: int = eqx.field(default=2, static=True)

    def __check_init__(self) -> None:
        as_count("num_warmup", self.num_warmup, minimum=0)
        as_count("num_samples", self.num_samples, minimum=4)
        as_count("num_chains", self.num_chains)

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
        sites = _sites_of(problem.model, draws.mixture)
        return SiteDraws(sites, statistics, {}, RESULTS.successful)


@program
def _sites_of(model: Any, mixtures: Mixture) -> dict[str, Array]:
    return jax.vmap(jax.vmap(model.sites))(mixtures)


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
        sites = _sites_of(problem.model, jax.tree.map(lambda leaf: np.asarray(leaf)[None], draws.mixtures))
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
