"""Posterior draws by stochastic variational inference, in coordinates whitened at the mode."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import autoguide, init_to_value, Trace_ELBO

from ..._base.arguments import as_count, as_scalar
from ..._base.arrays import split_key
from ..._base.precision import relaxed
from ..._base.progress import progress_bar
from ..._base.results import RESULTS
from ..._base.xla import program, unfused
from .drift import checked
from .importance import corrected, num_proposals
from .method import AbstractMethod, PosteriorProblem, SiteDraws, sites_at
from .mode import find_mode
from .target import Target

_GUIDES: dict[str, Any] = {
    "normal": autoguide.AutoNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
}
# Points that the whitening is computed from, at most; and steps between two updates of the progress bar.
_WHITENING_POINTS, _BLOCK = 20_000, 100
# A guide whose draws lie farther from the mode, in whitened coordinates, has run away.
_WIDEST = 1e3
# Where steps see a batch only, draws are weighted by all points as long as these are no more terms, and some always.
_MOST_TERMS, _LEAST_WEIGHED = 2 * 10**8, 256


class SVI(AbstractMethod):
    """Stochastic variational inference with one of NumPyro's automatic guides (Hoffman et al., 2013).

    The guide lives in unconstrained coordinates that the curvature at the posterior mode has whitened, and starts as
    the Laplace approximation. Mini-batches make a step independent of the number of points.

    Attributes:
        guide: ``"multivariate"`` normal, ``"low_rank"``, ``"normal"`` with independent (whitened) coordinates, or a
            class of `numpyro.infer.autoguide` such as ``AutoIAFNormal``.
        num_steps: Steps of Adam, with a cosine decay of the learning rate.
        learning_rate: The first learning rate, in posterior standard deviations per step.
        batch_size: Points per step; by default all.
        num_particles: Draws from the guide per step.
        num_samples: Draws kept.
    """

    guide: str | Callable[..., Any] = eqx.field(default="multivariate", static=True)
    num_steps: int = eqx.field(default=2000, static=True)
    learning_rate: float = eqx.field(default=0.01, static=True)
    batch_size: int | None = eqx.field(default=None, static=True)
    num_particles: int = eqx.field(default=4, static=True)
    num_samples: int = eqx.field(default=1000, static=True)

    def __check_init__(self) -> None:
        for name in ("num_steps", "num_particles", "num_samples"):
            as_count(name, getattr(self, name))
        as_scalar("learning_rate", self.learning_rate, strict=True)
        if self.batch_size is not None:
            as_count("batch_size", self.batch_size)
        if isinstance(self.guide, str) and self.guide not in _GUIDES:
            raise ValueError(
                f"`guide` must be one of {', '.join(_GUIDES)}, or a NumPyro autoguide; got {self.guide!r}."
            )

    @property
    def name(self) -> str:
        return "SVI"

    @property
    def is_chain(self) -> bool:
        return False

    def _draw(self, key: Key[Array, ""], problem: PosteriorProblem) -> SiteDraws:
        problem.check_gradients("SVI")

        num = problem.x.shape[0]
        batch = None if self.batch_size is None or self.batch_size >= num else self.batch_size
        center, factor = _whitening(problem)
        target = problem.target(batch_size=batch)
        rate = jax.device_put(float(self.learning_rate))
        search = _Search(target, center, factor, rate, batch is not None, self)
        init_key, draw_key = split_key(key, 2)
        with relaxed():
            state, bounds = _optimize(search, init_key, problem.progress)
            # Weights take the density of all points.
            whole = search if batch is None else dataclasses.replace(search, target=problem.target(), batches=False)
            size = num_proposals(self.num_samples)
            if batch is not None:
                size = max(_LEAST_WEIGHED, min(size, _MOST_TERMS // num))
            drawn = _draws_of_guide(whole, draw_key, state, size)
        z, sites, log_density, log_guide = jax.tree.map(np.asarray, drawn)
        verdict = _verdict(bounds, z)
        draws = corrected(draw_key, sites, log_density, log_guide, self.num_samples, {"elbo": bounds}, verdict)
        return checked(draw_key, whole.target, center, factor, draws)


class _WhitenedModel:
    """A NumPyro model with one site ``z``: the coordinates of a target about a point, in units of a matrix."""

    def __init__(self, target: Target, center: Array, factor: Array, batches: bool):
        self.target, self.center, self.factor, self.batches = target, center, factor, batches
        # The density of z is that of the target times this volume: only with it do bounds bound the evidence.
        self.log_volume = jnp.linalg.slogdet(factor)[1]

    def __call__(self) -> None:
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real_vector, (), self.center.shape))
        assert z is not None
        key = numpyro.prng_key() if self.batches else None
        numpyro.factor("log_density", self.log_volume - self.target.potential(self.center + self.factor @ z, key))


class _Search(eqx.Module):
    """What all steps share: the target and its units, the first learning rate, and the rest of the settings.

    NumPyro's objects hold functions, which no compiled program can be kept by: they are made inside programs.
    """

    target: Target
    center: Float[Array, " p"]
    factor: Float[Array, "p p"]
    learning_rate: Float[Array, ""]
    batches: bool = eqx.field(static=True)
    settings: SVI = eqx.field(static=True)

    def start(self, key: Key[Array, ""]) -> tuple[Any, Any, Any]:
        """NumPyro's inference, its guide, and its first state."""
        import optax

        settings, model = self.settings, _WhitenedModel(self.target, self.center, self.factor, self.batches)
        make = _GUIDES[settings.guide] if isinstance(settings.guide, str) else settings.guide
        guide = make(model, init_loc_fn=init_to_value(values={"z": jnp.zeros_like(self.center)}), **_scale_one(make))
        decay = optax.cosine_decay_schedule(1.0, settings.num_steps, alpha=0.01)
        optimizer = optax.adam(lambda step: self.learning_rate * decay(step))
        # Particles one after the other: jaxlib 0.10.2 can deadlock on batches of matrix products.
        bound = Trace_ELBO(num_particles=settings.num_particles, vectorize_particles=False)
        inference = numpyro.infer.SVI(model, guide, optimizer, bound)
        return inference, guide, inference.init(key)


@program
def _start(search: _Search, key: Key[Array, ""]) -> Any:
    return search.start(key)[2]


@program
def _advance(search: _Search, state: Any, num: Int[Any, ""]) -> tuple[Any, Float[Array, " steps"]]:
    """``num`` steps, at most a block, and the losses."""
    inference, *_ = search.start(jax.random.key(0))

    def one(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        state, loss = inference.stable_update(carry[0])
        return state, carry[1].at[i].set(loss)

    return jax.lax.fori_loop(0, num, one, (state, jnp.zeros(_BLOCK, search.center.dtype)))


@program
def _draws_of_guide(
    search: _Search, key: Key[Array, ""], state: Any, num: int
) -> tuple[Float[Array, "N p"], dict[str, Array], Float[Array, " N"], Float[Array, " N"]]:
    """Draws from the guide, in whitened coordinates and as sites, and their log densities under model and guide."""
    with numpyro.validation_enabled(False):
        # A guide that has run away is judged by its draws.
        inference, guide, _ = search.start(jax.random.key(0))
        known = handlers.substitute(guide, data=inference.get_params(state))

        def draw(key: Key[Array, ""]) -> tuple[Array, Array]:
            trace = handlers.trace(handlers.seed(known, key)).get_trace()
            drawn = [site for site in trace.values() if site["type"] == "sample"]
            log_guide = jnp.sum(jnp.stack([jnp.sum(site["fn"].log_prob(site["value"])) for site in drawn]))
            return trace["z"]["value"], log_guide

        # Of NumPyro's own guides, but for the one without a law of the whole vector.
        if isinstance(search.settings.guide, str) and hasattr(guide, "get_posterior"):
            z, log_guide = _defended(key, guide.get_posterior(inference.get_params(state)), num)
        else:
            z, log_guide = jax.vmap(draw)(jax.random.split(key, num))
        u = search.center[None] + unfused(z @ search.factor.T)
        return z, sites_at(search.target, u), -jax.lax.map(search.target.potential, u), log_guide


def _defended(key: Key[Array, ""], law: Any, num: int) -> tuple[Float[Array, "N p"], Float[Array, " N"]]:
    """Draws, each from the guide or from the Laplace approximation, and their log densities under the mixture of both.

    Weights are bounded where either is wide enough (Hesterberg, 1995): a guide that is a little too narrow does not
    make them useless.
    """
    first_key, second_key, key = jax.random.split(key, 3)
    (dim,) = law.event_shape
    normal = jax.random.normal(second_key, (num, dim))
    z = jnp.where(jax.random.bernoulli(key, 0.5, (num, 1)), law.sample(first_key, (num,)), normal)
    log_normal = -0.5 * jnp.sum(z**2, axis=1) - 0.5 * dim * np.log(2 * np.pi)
    return z, jnp.logaddexp(law.log_prob(z), log_normal) - np.log(2.0)


def _whitening(problem: PosteriorProblem) -> tuple[Array, Array]:
    """A point and a matrix in whose units the posterior is nearly standard normal, from some of the points."""
    num = problem.x.shape[0]
    few = problem if num <= _WHITENING_POINTS else problem._replace(x=problem.x[:: -(-num // _WHITENING_POINTS)])
    target = few.target()
    mode = find_mode(target, problem.unconstrained(target), kinked=problem.smoothness == 1)
    return mode.center, jax.device_put(np.asarray(mode.factor) * np.sqrt(few.x.shape[0] / num))


def _scale_one(make: Any) -> dict[str, float]:
    """Guides that have a first scale start as the Laplace approximation."""
    return {"init_scale": 1.0} if "init_scale" in inspect.signature(make).parameters else {}


def _optimize(search: _Search, key: Key[Array, ""], progress: bool | None) -> tuple[Any, Float[np.ndarray, " steps"]]:
    """Run the optimizer; returns its state and the bound at each step, in nats."""
    num_steps, state, losses = search.settings.num_steps, _start(search, key), []
    with progress_bar(num_steps, "SVI", progress) as bar:
        for done in range(0, num_steps, _BLOCK):
            size = min(_BLOCK, num_steps - done)
            state, loss = _advance(search, state, np.asarray(size))
            losses.append(-np.asarray(loss)[:size])
            bar.update(size)
            bar.set_postfix_str(f"ELBO {losses[-1].mean():.6g}", refresh=False)
    return state, np.concatenate(losses)


def _verdict(bounds: Float[np.ndarray, " steps"], z: np.ndarray) -> Any:
    """Whether the bound is finite, its second last and last tenth agree within noise, and the first is not above."""
    part = max(len(bounds) // 10, 1)
    last, before, first = bounds[-part:], bounds[-2 * part : -part], bounds[:part]
    # A guide that has run away may have any bound, with a noise in which all differences vanish.
    if not np.isfinite(last).all() or not np.sqrt(np.mean(z**2)) < _WIDEST:
        return RESULTS.variational_not_finite

    def above(some: np.ndarray, others: np.ndarray) -> bool:
        if not others.size:
            return False
        noise = np.hypot(some.std(), others.std()) / np.sqrt(part)
        # Half a nat is nothing beside the spread of a log posterior density.
        return bool(some.mean() - others.mean() > 4 * noise + 0.5)

    if above(first, last):
        return RESULTS.variational_fell
    return RESULTS.variational_not_settled if above(last, before) else RESULTS.successful
