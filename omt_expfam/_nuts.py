"""Posterior draws by the no-U-turn sampler, in coordinates whitened at the mode."""

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
from jaxtyping import Array, Key

from ._arrays import as_count, as_scalar
from ._inference import AbstractMethod, PosteriorProblem, SiteDraws, sites_at
from ._mode import find_mode
from ._numpyro_law import relaxed
from ._result import RESULTS


class NUTS(AbstractMethod):
    """The no-U-turn sampler of NumPyro (Hoffman and Gelman, 2014): exact up to Monte Carlo error.

    It moves in unconstrained coordinates that the curvature at the posterior mode has whitened, where a mixture's
    posterior is nearly standard normal: a step takes few gradients and little warm-up. Chains start near the mode.

    Attributes:
        num_warmup: Steps of adaptation per chain.
        num_samples: Draws kept per chain.
        num_chains: Number of chains.
        target_accept: Mean acceptance probability that the step size is adapted to.
        max_tree_depth: Limit on the doublings of a trajectory.
        chain_method: NumPyro's ``"sequential"``, ``"vectorized"`` or ``"parallel"`` (needs as many devices).
    """

    num_warmup: int = eqx.field(default=500, static=True)
    num_samples: int = eqx.field(default=500, static=True)
    num_chains: int = eqx.field(default=2, static=True)
    target_accept: float = eqx.field(default=0.8, static=True)
    max_tree_depth: int = eqx.field(default=10, static=True)
    chain_method: str = eqx.field(default="sequential", static=True)

    def __check_init__(self) -> None:
        as_count("num_warmup", self.num_warmup)
        as_count("num_samples", self.num_samples, minimum=4)
        as_count("num_chains", self.num_chains)
        as_count("max_tree_depth", self.max_tree_depth)
        accept = as_scalar("target_accept", self.target_accept, strict=True)
        if float(accept) >= 1:
            raise ValueError(f"`target_accept` must lie between 0 and 1; got {self.target_accept:g}.")
        if self.chain_method not in ("sequential", "vectorized", "parallel"):
            raise ValueError(
                f'`chain_method` must be "sequential", "vectorized" or "parallel"; got {self.chain_method!r}.'
            )

    @property
    def name(self) -> str:
        return "NUTS"

    @property
    def is_chain(self) -> bool:
        return True

    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        problem.check_gradients("NUTS")
        target = problem.target()
        mode = find_mode(target, target.unconstrain(problem.sites), kinked=problem.smoothness == 1)
        start_key, run_key = jax.random.split(key)
        shape = (target.dim,) if self.num_chains == 1 else (self.num_chains, target.dim)
        # Chains that start a posterior deviation apart show whether they find each other.
        start = jax.random.normal(start_key, shape, jnp.float64)

        def potential(z: Array) -> Array:
            return target.potential(mode.center + mode.factor @ z)

        kernel = numpyro.infer.NUTS(
            potential_fn=potential, target_accept_prob=self.target_accept, max_tree_depth=self.max_tree_depth
        )
        sampler = numpyro.infer.MCMC(
            kernel,
            num_warmup=self.num_warmup,
            num_samples=self.num_samples,
            num_chains=self.num_chains,
            chain_method=self.chain_method,
            progress_bar=sys.stderr.isatty() if problem.progress is None else problem.progress,
        )
        with relaxed():
            sampler.run(
                run_key, init_params=start, extra_fields=("potential_energy", "diverging", "num_steps", "accept_prob")
            )
        z = jnp.asarray(sampler.get_samples(group_by_chain=True))
        sites = jax.vmap(lambda chain: sites_at(target, mode.center[None] + chain @ mode.factor.T))(z)
        extra: dict[str, Any] = {k: np.asarray(v) for k, v in sampler.get_extra_fields(group_by_chain=True).items()}
        statistics = {
            "lp": -extra["potential_energy"],
            "diverging": extra["diverging"],
            "n_steps": extra["num_steps"],
            "acceptance_rate": extra["accept_prob"],
        }
        many = extra["diverging"].mean() > 0.01
        return SiteDraws(sites, statistics, {}, RESULTS.chains_diverged if many else RESULTS.successful)
