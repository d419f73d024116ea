"""Gibbs sampling of mixtures by data augmentation: labels given parameters, then parameters given labels."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int, Key, PyTree, UInt

from ..._base.arguments import ArrayLike, as_count, as_key, as_points, KeyLike
from ..._base.arrays import safe_log
from ..._base.buckets import pad, pad_zero, point_bucket
from ..._base.precision import in_float64
from ..._base.progress import progress_bar
from ..._base.results import ConvergenceError
from ..._base.xla import jit, program
from ..._components.mixture import Mixture
from ..._family.bayesian import priors_of
from ..._family.em_family import AbstractEMFamily, AbstractRegularEMFamily
from .metropolis import Metropolis

# Numbers in one chunk of the data, which should stay in the processor's cache; and the most that are kept prepared.
_CHUNK, _PREPARED = 2**15, 2**26
# Sweeps between two updates of the progress bar: at most so many, and so many table entries.
_BLOCK, _BLOCK_ENTRIES = 100, 2**27


class Conjugate(eqx.Module):
    """The laws of the parameters of K components given sums over their points, where the family can draw from them."""

    hyper: PyTree

    def draw(
        self, key: Key[Array, ""], components: AbstractEMFamily, counts: Float[Array, " K"], sums: PyTree
    ) -> tuple[AbstractEMFamily, None]:
        """New components; there is nothing to accept."""
        return priors_of(components).draw(key, components, counts, sums, self.hyper), None


class GibbsProblem(eqx.Module):
    """All that stays fixed while a chain runs.

    Attributes:
        data: The points less ``origin``, in chunks, as the family prepares them.
        used: One for points, zero for padding, shape ``[c, b]``.
        origin: What was subtracted from the points, shape ``[d]``.
        concentration: Concentrations of the Dirichlet prior of the weights, shape ``[K]``.
        conditional: How parameters are drawn given sums over points.
    """

    data: PyTree
    used: Float[Array, "c b"]
    origin: Float[Array, " d"]
    concentration: Float[Array, " K"]
    conditional: Conjugate | Metropolis
    prepared: bool = eqx.field(static=True)

    def in_data_units(self, components: AbstractEMFamily) -> AbstractEMFamily:
        """Components in the units of the points."""
        return components._affine(self.origin, jnp.ones_like(self.origin))


class Labels(NamedTuple):
    """Sums over labels drawn given the parameters, and the log-likelihood of these."""

    counts: Float[Array, " K"]
    sums: PyTree
    log_likelihood: Float[Array, ""]


class GibbsState(NamedTuple):
    """Parameters, and whether proposals of them were accepted."""

    key: Any
    log_weights: Float[Array, " K"]
    components: Any
    acceptance: Float[Array, " K"] | None


class GibbsDraws(NamedTuple):
    """Draws of C chains of S sweeps each, in float64.

    Attributes:
        mixture: The mixtures; every array has leading axes ``[C, S]``.
        log_likelihood: Log-likelihoods of the data in nats, shape ``[C, S]``.
        acceptance: Share of accepted proposals of each component (0 or 1, or a mean over coordinates), shape
            ``[C, S, K]``; ``None`` where parameters are drawn without proposals.
    """

    mixture: Mixture
    log_likelihood: Float[Array, "C S"]
    acceptance: Float[Array, "C S K"] | None


# -- the problem ----------------------------------------------------------------------------------------------------


def gibbs_problem(
    x: Float[Any, "n d"],
    start: Mixture,
    priors: dict[str, dist.Distribution],
    concentration: Float[Array, " K"],
) -> tuple[GibbsProblem, AbstractEMFamily]:
    """A problem in the precision of ``x``, and the components of ``start`` in its units.

    Raises:
        TypeError: If the family or a prior admits no Gibbs sampling.
    """
    components: Any = start.components
    points = np.asarray(x)
    origin, shifts = np.zeros_like(points[0]), False
    if isinstance(components, AbstractEMFamily):
        for family, columns in type(components).column_families(points.shape[1]):
            if family.standardization in ("coordinate", "scalar"):
                origin[columns], shifts = points[:, columns].mean(axis=0), True
    conditional = conditional_law(components, priors, jax.device_put(origin))
    if isinstance(conditional, Metropolis):
        shifts, origin = False, np.zeros_like(origin)
    data, used, prepared = _chunked(components, points - origin[None])
    data, used, origin = jax.device_put((data, used, origin))
    problem = GibbsProblem(data, used, origin, concentration, conditional, prepared)
    return _ready(problem, components, shifts)


@program
def _ready(problem: GibbsProblem, components: AbstractEMFamily, shifts: bool) -> tuple[GibbsProblem, AbstractEMFamily]:
    """The problem with its chunks of points prepared, where they are to be, and components in its units."""
    if shifts:
        components = components._affine(-problem.origin, jnp.ones_like(problem.origin))
    if not problem.prepared:
        return problem, components
    data = jax.lax.map(lambda chunk: components._prepare(chunk), problem.data)
    return eqx.tree_at(lambda p: p.data, problem, data), components


def conditional_law(
    components: Any, priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
) -> Conjugate | Metropolis:
    """How the parameters of a family are drawn given sums over points less ``origin``.

    Raises:
        TypeError: If the family or a prior admits no Gibbs sampling.
    """
    if not isinstance(components, AbstractEMFamily):
        raise _no_gibbs(components)
    hyper = priors_of(components).hyperparameters(components, priors, origin)
    if hyper is not None:
        return Conjugate(hyper)
    if not isinstance(components, AbstractRegularEMFamily) or not _sums_statistics(components):
        raise _no_gibbs(components)
    return Metropolis(components, priors)


def _sums_statistics(components: AbstractRegularEMFamily) -> bool:
    """Whether the sums of a family are those of its sufficient statistics."""
    return type(components)._accumulate is AbstractRegularEMFamily._accumulate


def _no_gibbs(components: Any) -> TypeError:
    family = type(components).__name__
    instead = "NUTS or the bootstrap" if getattr(components, "smoothness", 2) else "the bootstrap"
    return TypeError(
        f"Gibbs needs a regular exponential family, such as Gaussian or Gamma; got {family}. Use {instead}."
    )


def _chunked(
    components: AbstractEMFamily, x: Float[np.ndarray, "n d"]
) -> tuple[Float[np.ndarray, "c d b"], Float[np.ndarray, "c b"], bool]:
    """Equal chunks of points, padded, and whether memory allows to prepare them; of few sizes."""
    num, dim = x.shape
    total = point_bucket(num)
    ready = jax.eval_shape(lambda p: components._prepare(p), jax.ShapeDtypeStruct((dim, 1), x.dtype))
    per_point = sum(leaf.size for leaf in jax.tree.leaves(ready)) + 3 * components.num_components
    num_chunks = -(-total * per_point // _CHUNK)
    size = -(-total // num_chunks)
    num_chunks = -(-total // size)
    chunks = np.swapaxes(pad(x, num_chunks * size).reshape(num_chunks, size, dim), 1, 2)
    used = pad_zero(np.ones(num, x.dtype), num_chunks * size).reshape(num_chunks, size)
    return chunks, used, total * per_point <= _PREPARED


# -- sweeps ---------------------------------------------------------------------------------------------------------


def draw_labels(problem: GibbsProblem, state: GibbsState) -> tuple[GibbsState, Labels]:
    """Draw labels given the parameters."""
    key, *keys = jax.random.split(state.key, 3)
    return state._replace(key=key), _label(problem, keys, state.log_weights, state.components)


def draw_parameters(problem: GibbsProblem, state: GibbsState, labels: Labels) -> GibbsState:
    """Draw weights and parameters given labels (Diebolt and Robert, 1994)."""
    key, weight_key, parameter_key = jax.random.split(state.key, 3)
    counts = labels.counts
    log_gamma = jax.random.loggamma(weight_key, problem.concentration + counts, dtype=counts.dtype)
    log_weights = log_gamma - jax.nn.logsumexp(log_gamma)
    components, acceptance = problem.conditional.draw(parameter_key, state.components, counts, labels.sums)
    return GibbsState(key, log_weights, components, acceptance)


def first_state(
    problem: GibbsProblem, key: Key[Array, ""], weights: Float[Array, " K"], components: AbstractEMFamily
) -> GibbsState:
    """Given parameters, before the first sweep."""
    proposes = isinstance(problem.conditional, Metropolis)
    return GibbsState(key, safe_log(weights), components, jnp.ones_like(weights) if proposes else None)


def _label(
    problem: GibbsProblem,
    keys: Sequence[Key[Array, ""]],
    log_weights: Float[Array, " K"],
    components: AbstractEMFamily,
) -> Labels:
    """Draw labels chunk by chunk, with one key; the other is for latent variables."""
    priors = priors_of(components)

    def one(chunk: tuple[PyTree, Array, Array, Array]) -> tuple[Array, PyTree, Array]:
        data, used, bits, latent = chunk
        ready = data if problem.prepared else components._prepare(data)
        joint = components._table(ready) + log_weights[:, None]
        chosen, log_likelihood = _choose(bits, joint)
        chosen = chosen * used[None]
        sums = priors.sums(jax.random.wrap_key_data(latent), components, ready, chosen)
        return jnp.sum(chosen, axis=1), sums, jnp.sum(used * log_likelihood)

    bits = jax.random.bits(keys[0], problem.used.shape, jnp.uint32)
    # As plain numbers, of which the shapes of results may be asked without using them up.
    latent = jax.random.key_data(jax.random.split(keys[1], bits.shape[0]))
    chunks = problem.data, problem.used, bits, latent
    first = jax.eval_shape(lambda chunks: one(jax.tree.map(lambda leaf: leaf[0], chunks)), chunks)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    return Labels(*jax.lax.scan(lambda total, chunk: (jax.tree.map(jnp.add, total, one(chunk)), None), zero, chunks)[0])


def _choose(bits: UInt[Array, " b"], joint: Float[Array, "K b"]) -> tuple[Float[Array, "K b"], Float[Array, " b"]]:
    """One component for every point, as a one among zeros, from random bits and logarithms of unnormalized masses.

    Also returns the logarithms of the sums of these masses.
    """
    peak = jnp.max(joint, axis=0)
    ratio = jnp.exp(joint - peak[None])
    mass = jnp.cumsum(ratio, axis=0)
    # The middle of the interval that the bits stand for: neither end is drawn.
    share = (bits.astype(joint.dtype) + 0.5) * 2.0**-32
    level = jnp.minimum(share * mass[-1], mass[-1] * (1 - jnp.finfo(joint.dtype).epsneg))
    label = jnp.sum(level[None] >= mass, axis=0, dtype=jnp.int32)
    chosen = label[None] == jnp.arange(joint.shape[0], dtype=jnp.int32)[:, None]
    return chosen.astype(joint.dtype), peak + jnp.log(mass[-1])


# -- many sweeps of several chains ----------------------------------------------------------------------------------


@functools.partial(jit, static_argnums=2)
def _start_chains(
    problem: GibbsProblem, key: Key[Array, ""], num_chains: int, weights: Array, components: Any
) -> GibbsState:
    keys = jax.random.split(key, num_chains)
    return jax.vmap(lambda key: first_state(problem, key, weights, components))(keys)


@jit
def _advance(problem: GibbsProblem, states: GibbsState, num: Int[Array, ""]) -> tuple[GibbsState, PyTree]:
    """``num`` sweeps of every chain, at most a block, and the parameters that they began with."""

    def one(i: Array, carry: tuple[GibbsState, PyTree]) -> tuple[GibbsState, PyTree]:
        states, draws = carry
        states, labels = jax.vmap(lambda state: draw_labels(problem, state))(states)
        found = states.log_weights, states.components, states.acceptance, labels.log_likelihood
        draws = jax.tree.map(lambda buffer, new: buffer.at[i].set(new), draws, found)
        return jax.vmap(lambda state, own: draw_parameters(problem, state, own))(states, labels), draws

    log_likelihood = jnp.zeros_like(states.log_weights[:, 0])
    drawn = states.log_weights, states.components, states.acceptance, log_likelihood
    buffers = jax.tree.map(lambda leaf: jnp.zeros((_BLOCK, *leaf.shape), leaf.dtype), drawn)
    return jax.lax.fori_loop(0, num, one, (states, buffers))


@jit
def _package(problem: GibbsProblem, log_weights: Array, components: Any) -> Mixture:
    """Mixtures of draws in the units of the points."""

    def one(log_weights: Array, components: Any) -> Mixture:
        return Mixture(jnp.exp(log_weights), problem.in_data_units(components))

    return jax.vmap(jax.vmap(one))(log_weights, components)


def gibbs_draws(
    key: KeyLike,
    x: ArrayLike,
    start: Mixture,
    priors: dict[str, dist.Distribution],
    concentration: ArrayLike,
    *,
    num_warmup: int,
    num_samples: int,
    num_chains: int = 2,
    progress: bool | None = None,
) -> GibbsDraws:
    """Draw from the posterior of a mixture by Gibbs sampling, in float64.

    Data of equal shape, whatever priors of the same kinds, run one compiled program.

    Args:
        key: A random key.
        x: Points, shape ``[n, d]``.
        start: Where all chains start, such as an EM optimum.
        priors: The prior of every free parameter of one component, by name; batch shape ``()`` or ``(K,)``.
        concentration: Concentrations of the Dirichlet prior of the weights, a number or shape ``[K]``.
        num_warmup: Sweeps of each chain that are thrown away.
        num_samples: Draws of each chain.
        num_chains: Number of chains C.
        progress: Show a progress bar (True) or not (False); by default on a terminal only.

    Raises:
        TypeError: If the family or a prior admits no Gibbs sampling.
        ConvergenceError: If a chain has left the range of floating-point numbers.
    """
    num_warmup, num_samples = as_count("num_warmup", num_warmup, minimum=0), as_count("num_samples", num_samples)
    num_chains, key = as_count("num_chains", num_chains), as_key(key)
    with jax.enable_x64(True):
        points = np.asarray(as_points("x", x, start.dim, np.float64))
    weights = np.broadcast_to(np.asarray(concentration, np.float64), (start.num_components,))

    def run(points: Any, start: Mixture, priors: dict[str, Any], weights: Array) -> GibbsDraws:
        problem, components = gibbs_problem(points, start, priors, weights)
        states = _start_chains(problem, key, num_chains, start.weights, components)
        block = max(1, min(_BLOCK, _BLOCK_ENTRIES // (num_chains * points.shape[0] * start.num_components)))
        with progress_bar(num_warmup + 1 + num_samples, "Gibbs", progress) as bar:
            # A sweep keeps what it began with, and the first began with the start.
            states, _ = _run(problem, states, num_warmup + 1, block, bar, keep=False)
            _, draws = _run(problem, states, num_samples, block, bar, keep=True)
        log_weights, parts, acceptance, log_likelihood = draws
        if not np.isfinite(log_likelihood).all():
            raise ConvergenceError("Gibbs sampling has left the range of numbers. Check the priors and the start.")
        return GibbsDraws(_package(problem, log_weights, parts), *jax.device_put((log_likelihood, acceptance)))

    return in_float64(run, points, start, priors, weights)


def _run(
    problem: GibbsProblem, states: GibbsState, num: int, block: int, bar: Any, keep: bool
) -> tuple[GibbsState, PyTree]:
    """Sweeps in blocks, and all that they drew if it is to be kept, with leading axes ``[C, S]``."""
    parts = []
    for first in range(0, num, block):
        size = min(block, num - first)
        states, draws = _advance(problem, states, np.asarray(size))
        if keep:
            parts.append(jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:size], draws))
        bar.set_postfix_str(f"log-likelihood {np.asarray(draws[-1])[size - 1].mean():.6g}", refresh=False)
        bar.update(size)
    if not parts:
        return states, None
    return states, jax.tree.map(lambda *leaves: np.moveaxis(np.concatenate(leaves), 0, 1), *parts)
