"""Draws of the parameters of an exponential family given sums over points, under any prior: independent proposals."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float, Key
from numpyro.distributions import biject_to

from ..._base.precision import relaxed
from ..._family.conjugate import without_shape
from ..._family.coordinates import AbstractCoordinateFamily
from ..._family.em_family import AbstractRegularEMFamily
from ..._family.priors import ConjugatePrior

# Half the degrees of freedom of proposals, and the length of the walk in standard deviations (Roberts et al., 1997).
_HALF_DEGREES, _WALK = 3, 2.4
# When the search for a mode ends: any values leave the posterior as it is, and a tenth of its spread is near enough.
_DECREMENT, _LEAST_SHARE, _MAX_STEPS = 0.1, 1e-4, 40
_NATURAL = "natural_parameters"


class Metropolis(eqx.Module):
    """The law of the parameters of K components of a regular exponential family given the sums of their statistics.

    A prior in which coordinates are independent leaves the coordinates of a factorized family independent, and each is
    drawn by itself; otherwise each component is.

    Attributes:
        start: Where the search for modes starts. It must not follow the chain.
        priors: The priors on the parameters, by name.
        by_coordinate: Whether coordinates are drawn one by one.
    """

    start: Any
    priors: dict[str, Any]
    by_coordinate: bool = eqx.field(static=True)

    def __init__(self, start: AbstractRegularEMFamily, priors: dict[str, dist.Distribution]):
        """Take K components and a prior for each of their parameters."""
        self.start, self.priors = start, priors
        self.by_coordinate = isinstance(start, AbstractCoordinateFamily) and all(map(_by_coordinate, priors.values()))

    def draw(
        self, key: Key[Array, ""], components: Any, counts: Float[Array, " K"], sums: Float[Array, "K m"]
    ) -> tuple[Any, Float[Array, " K"]]:
        """One step for every component; returns whether it was accepted, or at how many of the coordinates."""
        prior = without_shape(self.priors.get(_NATURAL))
        if isinstance(prior, ConjugatePrior):
            # Its density is the likelihood of pseudo-observations.
            counts, sums = counts + prior.strength, sums + (prior.strength * prior.mean_statistics)[None]

        def target(z: Float[Array, "*b p"]) -> Float[Array, "*b"]:
            value = self._log_likelihood(z, counts, sums) + self._log_prior(z)
            return jnp.where(jnp.isfinite(value), value, -jnp.inf)

        mode = find_mode(target, self._to_unconstrained(self.start))
        z, accepted = step(key, target, mode, self._to_unconstrained(components))
        moved = self.start.priors.with_parameters(self.start, self._to_parameters(z))
        return moved, accepted.reshape(accepted.shape[0], -1).mean(axis=1).astype(z.dtype)

    # -- unconstrained coordinates, the last axis of one block: a component, or a coordinate of it ------------------

    @property
    def _num_axes(self) -> int:
        return 2 if self.by_coordinate else 1

    def _law(self, name: str) -> Any:
        """The prior of what is transformed as one: the whole parameter, or each number."""
        return without_shape(self.priors[name]) if self.by_coordinate else self.priors[name]

    def _bijection(self, name: str) -> Any:
        return biject_to(self._law(name).support)

    def _parameters(self, components: Any) -> dict[str, Array]:
        """The parameters, with a second axis for the coordinate."""
        parameters = components.priors.parameters(components, tuple(self.priors))
        if self.by_coordinate and _NATURAL in parameters:
            parameters[_NATURAL] = parameters[_NATURAL].reshape(components.num_components, components.dim, -1)
        return parameters

    def _to_unconstrained(self, components: Any) -> Float[Array, "*b p"]:
        parameters = self._parameters(components)
        with relaxed():
            parts = [self._bijection(name).inv(parameters[name]) for name in self.priors]
        return jnp.concatenate([p.reshape(*p.shape[: self._num_axes], -1) for p in parts], axis=-1)

    def _split(self, z: Float[Array, "*b p"]) -> dict[str, Array]:
        """Unconstrained values by name, each in its own shape."""
        parts, first = {}, 0
        for name, parameter in self._parameters(self.start).items():
            shape = self._bijection(name).inverse_shape(parameter.shape)[self._num_axes :]
            size = math.prod(shape)
            parts[name] = z[..., first : first + size].reshape(*z.shape[:-1], *shape)
            first += size
        return parts

    def _to_parameters(self, z: Float[Array, "*b p"]) -> dict[str, Array]:
        with relaxed():
            parameters = {name: self._bijection(name)(part) for name, part in self._split(z).items()}
        if _NATURAL in parameters:
            parameters[_NATURAL] = parameters[_NATURAL].reshape(z.shape[0], -1)
        return parameters

    def _log_prior(self, z: Float[Array, "*b p"]) -> Float[Array, "*b"]:
        """The log-prior of every block in unconstrained coordinates."""
        total = jnp.zeros(z.shape[:-1], z.dtype)
        with relaxed():
            for name, part in self._split(z).items():
                law, bijection = self._law(name), self._bijection(name)
                if isinstance(without_shape(law), ConjugatePrior):
                    continue
                value = bijection(part)
                terms = law.log_prob(value) + bijection.log_abs_det_jacobian(part, value)
                total = total + jnp.sum(terms.reshape(*total.shape, -1), axis=-1).astype(z.dtype)
        return total

    def _log_likelihood(
        self, z: Float[Array, "*b p"], counts: Float[Array, " K"], sums: Float[Array, "K m"]
    ) -> Float[Array, "*b"]:
        r"""$\eta \cdot S - n A(\eta)$ of every block."""
        if _NATURAL in self.priors:
            eta = self._to_parameters(z)[_NATURAL]
        else:
            eta = self.start.priors.with_parameters(self.start, self._to_parameters(z)).natural_parameters()
        if not self.by_coordinate:
            return jnp.sum(eta * sums, axis=1) - counts * self.start.log_partition(eta)
        eta, sums = (v.reshape(*z.shape[:2], -1) for v in (eta, sums))
        normalizer = jax.vmap(jax.vmap(self.start._log_normalizer))(eta)
        return jnp.sum(eta * sums, axis=2) - counts[:, None] * normalizer


def _by_coordinate(prior: dist.Distribution) -> bool:
    """Whether the coordinates of a factorized family are independent under a prior."""
    law = without_shape(prior)
    if isinstance(law, ConjugatePrior):
        return isinstance(law.component, AbstractCoordinateFamily)
    return not law.event_shape


# -- one step, for many blocks at once ------------------------------------------------------------------------------

_Target = Callable[[Float[Array, "*b p"]], Float[Array, "*b"]]


class Mode(NamedTuple):
    """Modes of log-densities, and roots of their inverse curvatures there with the inverses of these."""

    center: Float[Array, "*b p"]
    root: Float[Array, "*b p p"]
    whiten: Float[Array, "*b p p"]


def step(
    key: Key[Array, ""], target: _Target, mode: Mode, z: Float[Array, "*b p"]
) -> tuple[Float[Array, "*b p"], Bool[Array, "*b"]]:
    """Two Metropolis steps that leave a log-density invariant: an independent proposal, then a random walk.

    Independent proposals are multivariate Student-t laws at the mode (Tierney, 1994). The walk frees a chain from
    places that they hardly reach.

    Returns:
        The new place, and whether the independent proposal was accepted.
    """
    noise_key, scale_key, accept_key, walk_key, last_key = jax.random.split(key, 5)
    size = z.shape[-1]

    def log_proposal(w: Float[Array, "*b p"]) -> Float[Array, "*b"]:
        return -(_HALF_DEGREES + 0.5 * size) * jnp.log1p(jnp.sum(w * w, axis=-1) / (2 * _HALF_DEGREES))

    def choose(key: Any, log_ratio: Array, new: Any, old: Any) -> tuple[Any, Array]:
        accepted = -jax.random.exponential(key, log_ratio.shape, z.dtype) < log_ratio
        return jax.tree.map(lambda n, o: _where(accepted, n, o), new, old), accepted

    value = target(z)
    half_chi2 = jnp.sum(jax.random.exponential(scale_key, (_HALF_DEGREES, *z.shape[:-1]), z.dtype), axis=0)
    w = jax.random.normal(noise_key, z.shape, z.dtype) * jnp.sqrt(_HALF_DEGREES / half_chi2)[..., None]
    proposal = mode.center + _times(mode.root, w)
    new_value = target(proposal)
    log_ratio = new_value - log_proposal(w) - value + log_proposal(_times(mode.whiten, z - mode.center))
    (z, value), accepted = choose(accept_key, log_ratio, (proposal, new_value), (z, value))
    walk = jax.random.normal(walk_key, z.shape, z.dtype) * (_WALK / size**0.5)
    proposal = z + _times(mode.root, walk)
    return choose(last_key, target(proposal) - value, proposal, z)[0], accepted


class _Search(NamedTuple):
    """Where Newton's method is, the curvature there, the step from there, and the share of it that is tried next."""

    z: Float[Array, "*b p"]
    value: Float[Array, "*b"]
    roots: tuple[Float[Array, "*b p p"], Float[Array, "*b p p"]]
    step: Float[Array, "*b p"]
    share: Float[Array, "*b"]
    done: Bool[Array, "*b"]


def find_mode(target: _Target, start: Float[Array, "*b p"]) -> Mode:
    """The modes of many log-densities, by Newton's method: uphill where they are not concave, and never down."""

    def advance(s: _Search) -> _Search:
        z = s.z + s.share[..., None] * s.step
        value, gradient, curvature = _expand(target, z)
        roots = _roots(curvature)
        uphill = _times(roots[0], _times(jnp.swapaxes(roots[0], -1, -2), gradient))
        decrement = jnp.sqrt(jnp.sum(uphill * gradient, axis=-1))
        there = _Search(z, value, roots, uphill, jnp.ones_like(value), decrement < _DECREMENT)
        stuck = s.share < _LEAST_SHARE
        here = s._replace(step=_where(stuck, jnp.zeros_like(z), s.step), share=0.25 * s.share, done=stuck)
        better = (value >= s.value) & jnp.isfinite(decrement)
        new = jax.tree.map(lambda a, b: _where(better, a, b), there, here)
        return jax.tree.map(lambda a, b: _where(s.done, a, b), s, new)

    # The first trial is the start itself.
    low = jnp.full(start.shape[:-1], -jnp.inf, start.dtype)
    eye = jnp.broadcast_to(jnp.eye(start.shape[-1], dtype=start.dtype), (*start.shape, start.shape[-1]))
    first = _Search(start, low, (eye, eye), jnp.zeros_like(start), jnp.ones_like(low), jnp.zeros(low.shape, bool))
    last, _ = jax.lax.while_loop(
        lambda s: ~jnp.all(s[0].done) & (s[1] < _MAX_STEPS),
        lambda s: (advance(s[0]), s[1] + 1),
        (first, jnp.asarray(0)),
    )
    return Mode(last.z + _where(last.done, last.step, jnp.zeros_like(last.step)), *last.roots)


def _expand(target: _Target, z: Float[Array, "*b p"]) -> tuple[Array, Array, Array]:
    """Values, gradients and curvatures (negative Hessians) of blocks that do not depend on each other."""

    def slope(z: Array) -> tuple[Array, Array]:
        value, pull = jax.vjp(target, z)
        return pull(jnp.ones_like(value))[0], value

    def along(direction: Float[Array, " p"]) -> tuple[Array, Array, Array]:
        return jax.jvp(slope, (z,), (jnp.broadcast_to(direction, z.shape),), has_aux=True)

    eye = jnp.eye(z.shape[-1], dtype=z.dtype)
    gradient, hessian, value = jax.vmap(along, out_axes=(None, -1, None))(eye)
    return value, gradient, -0.5 * (hessian + jnp.swapaxes(hessian, -1, -2))


def _roots(curvature: Float[Array, "*b p p"]) -> tuple[Float[Array, "*b p p"], Float[Array, "*b p p"]]:
    """R with ``R @ R.T`` the inverse of a matrix made positive, and the inverse of R; or identities."""
    size, eps = curvature.shape[-1], float(jnp.finfo(curvature.dtype).eps)
    eye = jnp.broadcast_to(jnp.eye(size, dtype=curvature.dtype), curvature.shape)
    matrix = _where(jnp.all(jnp.isfinite(curvature), axis=(-1, -2)), curvature, eye)
    diagonal = jnp.abs(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, jnp.ones_like(diagonal)))
    values, vectors = jnp.linalg.eigh(matrix / (scale[..., :, None] * scale[..., None, :]))
    size_root = jnp.sqrt(jnp.maximum(jnp.abs(values), 8 * size * eps))[..., None, :]
    return vectors / size_root / scale[..., :, None], jnp.swapaxes(vectors * size_root * scale[..., :, None], -1, -2)


def _times(matrix: Float[Array, "*b p p"], vector: Float[Array, "*b p"]) -> Float[Array, "*b p"]:
    return jnp.einsum("...ij,...j->...i", matrix, vector)


def _where(condition: Bool[Array, "*b"], new: Array, old: Array) -> Array:
    """A choice for every block."""
    return jnp.where(condition.reshape(condition.shape + (1,) * (new.ndim - condition.ndim)), new, old)
