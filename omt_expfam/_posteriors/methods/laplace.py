"""Posterior draws by the Laplace approximation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ..._base.arguments import as_count
from ..._base.results import RESULTS
from ..._base.xla import program, unfused
from .drift import checked
from .importance import corrected, num_proposals
from .method import AbstractMethod, PosteriorProblem, SiteDraws, sites_at
from .mode import find_mode
from .target import Target


class LaplaceApproximation(AbstractMethod):
    """A normal approximation at the posterior mode, in unconstrained coordinates: fast, and good for large data.

    Draws are resampled by their smoothed importance weights; where these are not to be trusted, or exact chains that
    start at the draws leave them, it says so.

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
        num = num_proposals(self.num_samples)
        drawn = _normal_draws(target, key, mode.center, mode.factor, num)
        sites, log_density, squares = jax.tree.map(np.asarray, drawn)
        result = RESULTS.successful if mode.found else RESULTS.mode_not_found
        draws = corrected(key, sites, log_density, -0.5 * squares, self.num_samples, {}, result)
        return checked(key, target, mode.center, mode.factor, draws)


@program
def _normal_draws(
    target: Target, key: Key[Array, ""], center: Float[Array, " p"], factor: Float[Array, "p p"], num: int
) -> tuple[dict[str, Array], Float[Array, " S"], Float[Array, " S"]]:
    """Sites of normal draws, their log joint densities, and their squared lengths in whitened coordinates."""
    z = jax.random.normal(key, (num, target.dim), jnp.float64)
    u = center[None] + unfused(z @ factor.T)
    return sites_at(target, u), -jax.lax.map(target.potential, u), jnp.sum(z**2, axis=1)
