"""Gibbs sampling of mixtures as a NumPyro kernel, for use with ``numpyro.infer.MCMC``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.infer.mcmc import MCMCKernel

from ..._base.arguments import ArrayLike, as_key, as_points
from ..._base.xla import full_precision
from ..._components.mixture import Mixture
from ..._family.bayesian import priors_of
from ..model import mixture_model
from .gibbs_sweeps import draw_labels, draw_parameters, first_state, gibbs_problem, GibbsProblem, GibbsState, Labels


class MixtureGibbsState(NamedTuple):
    """One state of `MixtureGibbs`, whose fields ``MCMC.run`` collects by name.

    Attributes:
        z: The weights and the parameters of the components, by name.
        log_likelihood: The log-likelihood of the data in nats.
        acceptance: Share of accepted proposals of each component, shape ``[K]``; ``None`` without proposals.
        rng_key: The random key of the next sweep.
        inner: The sampler's own parameters, and sums over labels drawn given them.
        problem: The prepared data and priors.
    """

    z: dict[str, Array]
    log_likelihood: Float[Array, "*C"]
    acceptance: Float[Array, "*C K"] | None
    rng_key: Array
    inner: Any
    problem: Any


# Chains that run at once share the problem.
_AXES: Any = MixtureGibbsState(0, 0, 0, 0, 0, None)  # pyright: ignore[reportArgumentType]


class MixtureGibbs(MCMCKernel):
    """A NumPyro kernel that draws from the posterior of a mixture by Gibbs sampling: parameters, labels, and again.

    It samples the model of `mixture_model`, at one pass over the data per draw:

        mcmc = MCMC(MixtureGibbs(fit.mixture), num_warmup=200, num_samples=1000, num_chains=2)
        mcmc.run(jax.random.key(0), x, extra_fields=("log_likelihood",))

    It runs in the precision of JAX's default, as NumPyro's kernels do; enable x64 for components far smaller than the
    spread of the data.
    """

    @property
    def sample_field(self) -> str:
        """The field of the state that holds the draws."""
        return "z"

    def __init__(
        self,
        start: Mixture,
        priors: Mapping[str, dist.Distribution] | None = None,
        weight_concentration: ArrayLike = 1.0,
    ):
        """Take where every chain starts, such as an EM optimum, and priors as `mixture_model` takes them."""
        self.start, self.priors, self.weight_concentration = start, priors, weight_concentration

    @full_precision
    def init(
        self, rng_key: Any, num_warmup: int, init_params: Any, model_args: tuple, model_kwargs: dict
    ) -> MixtureGibbsState:
        """The state at the start, from points ``x[n, d]``, the only argument of the model."""
        if init_params is not None:
            raise ValueError("`init_params` must be left out: every chain starts at `start`.")
        x = _only_argument(model_args, model_kwargs)
        # Chains may be started under a transformation of keys, which the data and the priors have no part in.
        with jax.ensure_compile_time_eval():
            problem, weights, components = self._problem(x)

        def one(key: Array) -> MixtureGibbsState:
            first = first_state(problem, as_key(key), weights, components)
            return self._state(problem, *draw_labels(problem, first), key)

        return one(rng_key) if _is_one(rng_key) else jax.vmap(one, out_axes=_AXES)(rng_key)

    @full_precision
    def sample(self, state: MixtureGibbsState, model_args: tuple, model_kwargs: dict) -> MixtureGibbsState:
        """One sweep."""

        def one(state: MixtureGibbsState) -> MixtureGibbsState:
            inner, labels = state.inner
            inner = draw_parameters(state.problem, inner._replace(key=as_key(state.rng_key)), labels)
            return self._state(state.problem, *draw_labels(state.problem, inner), state.rng_key)

        if _is_one(state.rng_key):
            return one(state)
        return jax.vmap(one, in_axes=(_AXES,), out_axes=_AXES)(state)

    def get_diagnostics_str(self, state: MixtureGibbsState) -> str:
        """The log-likelihood, and how many proposals are accepted."""
        text = f"log-likelihood {float(jnp.mean(state.log_likelihood)):.6g}"
        return text if state.acceptance is None else f"{text}, accepted {float(jnp.mean(state.acceptance)):.2f}"

    def _problem(self, x: ArrayLike) -> tuple[GibbsProblem, Array, Any]:
        """The problem, and where it starts: weights, and components in the problem's units."""
        points = as_points("x", x, self.start.dim)
        points = points.astype(jnp.result_type(float))
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, points.dtype), self.start)
        options = {"priors": self.priors, "weight_concentration": self.weight_concentration}
        model = mixture_model(points, start.components, start.num_components, **options)
        self._names = model.parameter_names
        problem, components = gibbs_problem(points, start, model.priors, model.concentration)
        return problem, start.weights, components

    def _state(self, problem: GibbsProblem, inner: GibbsState, labels: Labels, key: Array) -> MixtureGibbsState:
        """The state for NumPyro, with a key of the kind of ``key``."""
        components = problem.in_data_units(inner.components)
        parameters = priors_of(components).parameters(components, self._names)
        z = {"weights": jnp.exp(inner.log_weights), **parameters}
        own = inner.key if _is_typed(key) else jax.random.key_data(inner.key)
        kept = inner._replace(key=None), labels
        return MixtureGibbsState(z, labels.log_likelihood, inner.acceptance, own, kept, problem)


def _only_argument(args: tuple, kwargs: dict) -> Any:
    if len(args) + len(kwargs) != 1 or set(kwargs) - {"x"}:
        raise TypeError(f"MixtureGibbs takes one argument, the points `x`; got {len(args)} and {sorted(kwargs)}.")
    return args[0] if args else kwargs["x"]


def _is_one(key: Array) -> bool:
    """Whether this is one key, and not one per chain; of either kind."""
    return jnp.ndim(key) == (0 if _is_typed(key) else 1)


def _is_typed(key: Array) -> bool:
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
