"""Posterior draws by stochastic variational inference, in coordinates whitened at the mode."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key
from numpyro.distributions import constraints
from numpyro.infer import autoguide, init_to_value, Trace_ELBO

from ._arrays import as_count, as_scalar
from ._inference import AbstractMethod, PosteriorProblem, SiteDraws, sites_at
from ._mode import find_mode
from ._numpyro_law import relaxed
from ._progress import progress_bar
from ._result import RESULTS
from ._target import Target

_GUIDES: dict[str, Any] = {
    "normal": autoguide.AutoNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "multivariate": autoguide.AutoMultivariateNormal,
}
# Points that the whitening is computed from, at most; and steps between two updates of the progress bar.
_WHITENING_POINTS, _BLOCK = 20_000, 100


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
        import optax

        num = problem.x.shape[0]
        batch = None if self.batch_size is None or self.batch_size >= num else self.batch_size
        center, factor = _whitening(problem)
        target = problem.target(batch_size=batch)
        model = _WhitenedModel(target, center, factor, batch is not None)
        make = _GUIDES[self.guide] if isinstance(self.guide, str) else self.guide
        init_key, draw_key = jax.random.split(key)
        with relaxed():
            guide = make(model, init_loc_fn=init_to_value(values={"z": jnp.zeros_like(center)}), **_scale_one(make))
            schedule = optax.cosine_decay_schedule(self.learning_rate, self.num_steps, alpha=0.01)
            # Particles one after the other: jaxlib 0.10.2 can deadlock on batches of matrix products.
            bound = Trace_ELBO(num_particles=self.num_particles, vectorize_particles=False)
            svi = numpyro.infer.SVI(model, guide, optax.adam(schedule), bound)
            state, bounds = _optimize(svi, svi.init(init_key), self.num_steps, problem.progress)
            with numpyro.validation_enabled(False):
                # A guide that has run away is judged by its draws.
                z = guide.sample_posterior(draw_key, svi.get_params(state), sample_shape=(self.num_samples,))["z"]
        sites = sites_at(target, center[None] + z @ factor.T)
        result = _verdict(bounds, np.asarray(z))
        return SiteDraws({n: v[None] for n, v in sites.items()}, {}, {"elbo": bounds}, result)


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


def _whitening(problem: PosteriorProblem) -> tuple[Array, Array]:
    """A point and a matrix in whose units the posterior is nearly standard normal, from some of the points."""
    num = problem.x.shape[0]
    few = problem if num <= _WHITENING_POINTS else problem._replace(x=problem.x[:: -(-num // _WHITENING_POINTS)])
    target = few.target()
    mode = find_mode(target, target.unconstrain(problem.sites), kinked=problem.smoothness == 1)
    return mode.center, mode.factor * np.sqrt(few.x.shape[0] / num)


def _scale_one(make: Any) -> dict[str, float]:
    """Guides that have a first scale start as the Laplace approximation."""
    return {"init_scale": 1.0} if "init_scale" in inspect.signature(make).parameters else {}


def _optimize(svi: Any, state: Any, num_steps: int, progress: bool | None) -> tuple[Any, Float[np.ndarray, " steps"]]:
    """Run the optimizer; returns its state and the bound at each step, in nats."""

    @partial(jax.jit, static_argnums=1)
    def block(state: Any, size: int) -> tuple[Any, Array]:
        return jax.lax.scan(lambda s, _: svi.stable_update(s), state, length=size)

    losses = []
    with progress_bar(num_steps, "SVI", progress) as bar:
        for done in range(0, num_steps, _BLOCK):
            size = min(_BLOCK, num_steps - done)
            state, loss = block(state, size)
            losses.append(-np.asarray(loss))
            bar.update(size)
            bar.set_postfix_str(f"ELBO {losses[-1].mean():.6g}", refresh=False)
    return state, np.concatenate(losses)


def _verdict(bounds: Float[np.ndarray, " steps"], z: np.ndarray) -> Any:
    """Whether the bound is finite, its second last and last tenth agree within noise, and the first is not above."""
    part = max(len(bounds) // 10, 1)
    last, before, first = bounds[-part:], bounds[-2 * part : -part], bounds[:part]
    if not np.isfinite(last).all() or not np.isfinite(z).all():
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
