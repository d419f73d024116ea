"""Posterior draws by the library's own methods: Laplace approximation, Gibbs sampling, bootstrap."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..._base.arguments import as_count
from ..._base.buckets import point_bucket
from ..._base.results import RESULTS
from ..._base.xla import program, unfused
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
