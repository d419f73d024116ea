"""Posterior draws by the no-U-turn sampler, in coordinates whitened at the mode."""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
from jaxtyping import Array, Float, Int, Key
from numpyro.infer.util import ParamInfo

from ..._base.arguments import as_count, as_scalar
from ..._base.buckets import pad, point_bucket
from ..._base.precision import relaxed
from ..._base.progress import progress_bar
from ..._base.results import RESULTS
from ..._base.xla import jit, program, unfused
from .method import AbstractMethod, check_draws, PosteriorProblem, SiteDraws, sites_at
from .mode import find_mode, value_and_grad
from .target import Target

# Steps between two updates of the progress bar, and what is kept of each.
_BLOCK = 50
_FIELDS = ("z", "potential_energy", "diverging", "num_steps", "accept_prob")


class NUTS(AbstractMethod):
    """The no-U-turn sampler of NumPyro (Hoffman and Gelman, 2014): exact up to Monte Carlo error.

    It moves in unconstrained coordinates that the curvature at the posterior mode has whitened, where a mixture's
    posterior is nearly standard normal: a step takes few gradients and little warm-up. Chains start near the mode.

    Attributes:
        num_warmup: Steps of adaptation per chain.
        num_samples: Draws kept per chain, at least 4; at least 8 of a single one.
        num_chains: Number of chains.
        target_accept: Mean acceptance probability that the step size is adapted to.
        max_tree_depth: Limit on the doublings of a trajectory.
        chain_method: ``"sequential"``, ``"vectorized"``, or ``"parallel"`` on as many devices as divide the chains.
    """

    num_warmup: int = eqx.field(default=500, static=True)
    num_samples: int = eqx.field(default=500, static=True)
    num_chains: int = eqx.field(default=2, static=True)
    target_accept: float = eqx.field(default=0.8, static=True)
    max_tree_depth: int = eqx.field(default=10, static=True)
    chain_method: str = eqx.field(default="sequential", static=True)

    def __check_init__(self) -> None:
        as_count("num_warmup", self.num_warmup)
        check_draws(self.num_samples, self.num_chains)
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
        mode = find_mode(target, problem.unconstrained(target), kinked=problem.smoothness == 1)
        chains = _Chains(target, mode.center, mode.factor, jax.device_put(float(self.target_accept)), self)
        with relaxed():
            z, extra = _run(chains, key, problem.progress)
        num = self.num_samples
        padded = pad(z, point_bucket(num), axis=1)
        sites = jax.tree.map(lambda v: np.asarray(v)[:, :num], _sites_of_chains(chains, padded))
        statistics = {
            "lp": -extra["potential_energy"],
            "diverging": extra["diverging"],
            "n_steps": extra["num_steps"],
            "acceptance_rate": extra["accept_prob"],
        }
        many = extra["diverging"].mean() > 0.01
        return SiteDraws(sites, statistics, {}, RESULTS.chains_diverged if many else RESULTS.successful)


class _Chains(eqx.Module):
    """What all chains share.

    Attributes:
        target: The density.
        center: The mode, shape ``[p]``.
        factor: A matrix in whose units the target is nearly standard normal there, shape ``[p, p]``.
        target_accept: As in `NUTS`.
        settings: The rest of its settings.
    """

    target: Target
    center: Float[Array, " p"]
    factor: Float[Array, "p p"]
    target_accept: Float[Array, ""]
    settings: NUTS = eqx.field(static=True)

    def start(self, key: Key[Array, ""], place: ParamInfo) -> tuple[Any, Any]:
        """NumPyro's kernel, and its first state at a place with known potential and gradient."""
        target_accept: Any = self.target_accept
        kernel = numpyro.infer.NUTS(
            potential_fn=lambda z: self.target.potential(self.center + self.factor @ z),
            target_accept_prob=target_accept,
            max_tree_depth=self.settings.max_tree_depth,
        )
        return kernel, kernel.init(key, self.settings.num_warmup, place, (), {})

    def draw(self, state: Any, num: Int[Any, ""]) -> tuple[Any, dict[str, Array]]:
        """``num`` steps of one chain, at most a block, and what was drawn."""
        # A kernel knows how to go on once it has started, be it at another place.
        kernel, _ = self.start(jax.random.key(0), ParamInfo(state.z, state.potential_energy, state.z_grad))

        def one(i: Array, carry: tuple[Any, dict[str, Array]]) -> tuple[Any, dict[str, Array]]:
            state, draws = carry
            state = kernel.sample(state, (), {})
            return state, {name: buffer.at[i].set(getattr(state, name)) for name, buffer in draws.items()}

        found = {name: getattr(state, name) for name in _FIELDS}
        buffers = {name: jnp.zeros((_BLOCK, *value.shape), value.dtype) for name, value in found.items()}
        return jax.lax.fori_loop(0, num, one, (state, buffers))

    def each(self, function: Callable[[Any], Any], items: Any) -> Any:
        """A function of every chain, one after the other, all at once, or on devices of their own."""
        if self.settings.chain_method == "vectorized":
            return jax.vmap(function)(items)
        if self.settings.chain_method == "sequential":
            return jax.lax.map(function, items)
        num = math.gcd(self.settings.num_chains, jax.device_count())
        mesh, spec = jax.make_mesh((num,), ("chains",)), jax.sharding.PartitionSpec("chains")
        own = jax.shard_map(
            lambda items: jax.lax.map(function, items), mesh=mesh, in_specs=(spec,), out_specs=spec, check_vma=False
        )
        return own(items)


@functools.partial(jit, static_argnums=(1, 2))
def _places(key: Key[Array, ""], num_chains: int, dim: int) -> tuple[Float[Array, "C p"], Key[Array, " C"]]:
    """Where chains start, a posterior deviation from the mode to show whether they find each other; and their keys."""
    start_key, key = jax.random.split(key)
    return jax.random.normal(start_key, (num_chains, dim), jnp.float64), jax.random.split(key, num_chains)


@program
def _start_all(chains: _Chains, keys: Key[Array, " C"], places: ParamInfo) -> Any:
    return jax.vmap(lambda key, place: chains.start(key, place)[1])(keys, places)


@program
def _advance(chains: _Chains, states: Any, num: Int[Any, ""]) -> tuple[Any, dict[str, Array]]:
    return chains.each(lambda state: chains.draw(state, num), states)


@program
def _sites_of_chains(chains: _Chains, z: Float[Array, "C S p"]) -> dict[str, Array]:
    return jax.vmap(lambda one: sites_at(chains.target, chains.center[None] + unfused(one @ chains.factor.T)))(z)


def _run(chains: _Chains, key: Key[Array, ""], progress: bool | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws of all chains in whitened coordinates, shape ``[C, S, p]``, and numbers per draw."""
    num_warmup, num = chains.settings.num_warmup, chains.settings.num_samples
    z, keys = _places(key, chains.settings.num_chains, chains.center.size)
    z = np.asarray(z)
    # By the program of the search for the mode.
    found = [value_and_grad(chains.target, chains.center, chains.factor, place) for place in z]
    potential, gradient = (np.stack([np.asarray(v) for v in values]) for values in zip(*found, strict=True))
    states, parts = _start_all(chains, keys, ParamInfo(z, potential, gradient)), []
    with progress_bar(num_warmup + num, "NUTS", progress) as bar:
        for limit, keep in ((num_warmup, False), (num, True)):
            for first in range(0, limit, _BLOCK):
                size = min(_BLOCK, limit - first)
                states, draws = _advance(chains, states, np.asarray(size))
                draws = jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:, :size], draws)
                if keep:
                    parts.append(draws)
                text = f"{draws['num_steps'].mean():.3g} gradients per draw, accepted {draws['accept_prob'].mean():.2f}"
                bar.set_postfix_str(text, refresh=False)
                bar.update(size)
    joined = {name: np.concatenate([part[name] for part in parts], axis=1) for name in _FIELDS}
    return joined.pop("z"), joined
