"""Components that follow one class of NumPyro distributions, and how EM fits them."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.optimize import minimize
from jaxtyping import Array, Float, Key
from numpyro.distributions import biject_to, constraints

from .._base.precision import relaxed
from .._components.covariance import AbstractCovariance, DenseCovariance, DiagonalCovariance
from .._components.interface import map_components
from .._components.lattice_form import AbstractLattice
from .._components.numpyro_components import covariance_by_formula
from .._components.product_form import ProductForm
from .bayesian import AbstractPriors
from .em_family import AbstractEMFamily
from .law_forms import LawLattice, LawShape, log_density, moment
from .priors import location_prior, positive_prior, spread_of, within_scale

# Steps of the minimizer in an M-step, and M-steps from the first parameters.
_MINIMIZER_STEPS, _FIRST_STEPS = 8, 6
# Other ways to say what `scale_tril` says.
_SAME = ("covariance_matrix", "precision_matrix")
# Points of a coordinate that stand for all data behind the prior of EM.
_PSEUDO = 8
# How wide the prior of a parameter is in unconstrained numbers, where nothing better is known.
_PRIOR_SCALE = 2.0


def _quantiles(x: Float[Array, " n"], share: Float[Array, " n"]) -> Float[Array, " q"]:
    """Points of a coordinate below which odd multiples of a sixteenth of the data lie."""
    order = jnp.argsort(x)
    levels = (jnp.arange(_PSEUDO, dtype=x.dtype) + 0.5) / _PSEUDO
    return x[order][jnp.minimum(jnp.searchsorted(jnp.cumsum(share[order]), levels), x.shape[0] - 1)]


class _Priors(AbstractPriors):
    """Normal locations and log-normal scales on those of the data; for other parameters wide ones where they start."""

    def default(self, components: "LawFamily", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        center, scale = spread_of(x)
        found: dict[str, dist.Distribution] = {}
        for name, value in components.parameters.items():
            constraint = components.law.arg_constraints[name]
            if name == "loc" and (constraint is constraints.real or components.vector):
                found[name] = location_prior(center, scale)
            elif name == "scale" and components.standardization == "coordinate":
                found[name] = positive_prior(within_scale(scale, components.num_components))
            else:
                found[name] = _wide(constraint, value[0])
        return found

    def parameters(self, components: "LawFamily", names: tuple[str, ...]) -> dict[str, Any]:
        return {name: components.parameters[name] for name in names}

    def with_parameters(self, components: "LawFamily", parameters: dict[str, Any]) -> "LawFamily":
        return type(components)(components.parameters | parameters, components.fixed)


def _wide(constraint: Any, value: Array) -> dist.Distribution:
    """A normal law of unconstrained numbers about a value."""
    with relaxed():
        transform = biject_to(constraint)
        center = transform.inv(value)
        normal = dist.Normal(center, jnp.full_like(center, _PRIOR_SCALE)).to_event(center.ndim)
        return dist.TransformedDistribution(normal, transform)


class LawFamily(AbstractEMFamily):
    """Components that follow one class of NumPyro distributions; `laws.family` makes templates of them.

    Attributes:
        parameters: The free parameters by name. Those of laws of one number have shape ``[K, d]``; those of laws of
            vectors a leading axis K.
        fixed: The fixed parameters, alike.
    """

    parameters: dict[str, Any]
    fixed: dict[str, Any]
    law: ClassVar[Any]
    # Whether a law is one of vectors, so that coordinates are dependent.
    vector: ClassVar[bool]
    streams: ClassVar = False
    priors: ClassVar = _Priors()

    @classmethod
    def parameter_names(cls) -> tuple[str, ...]:
        """The parameters, each said in one way."""
        every = tuple(cls.law.arg_constraints)
        return tuple(name for name in every if not ("scale_tril" in every and name in _SAME))

    # -- densities, draws and moments -----------------------------------------------------------------------------

    @property
    def _all(self) -> dict[str, Any]:
        return self.parameters | self.fixed

    @property
    def dim(self) -> int:
        largest = max(jax.tree.leaves(self._all), key=lambda leaf: leaf.ndim)
        return largest.shape[-1]

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        if self.vector:
            return log_density(self.law, self._all, x)
        return jnp.sum(jax.vmap(lambda p, v: log_density(self.law, p, v))(self._all, x))

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        constraint = self.law.arg_constraints
        whole = {name: value.astype(int) for name, value in self.fixed.items() if constraint[name].is_discrete}
        with relaxed():
            return jnp.asarray(self.law(**self._all | whole, validate_args=False).sample(key), self.dtype)

    def _mean(self) -> Float[Array, " d"]:
        return moment(self.law, self._all, "mean")

    def _covariance(self) -> Float[Array, "d d"]:
        if not self.vector:
            return jnp.diag(moment(self.law, self._all, "variance"))
        with relaxed():
            covariance = covariance_by_formula(self.law(**self._all, validate_args=False))
        if covariance is None:
            raise NotImplementedError
        return covariance

    # -- transport, NumPyro ---------------------------------------------------------------------------------------

    def to_numpyro(self) -> dist.Distribution:
        with relaxed():
            law = self.law(**self._all, validate_args=False)
            return law if self.vector else law.to_event(1)

    def gaussian_form(self) -> AbstractCovariance | None:
        if self.law is dist.Normal:
            return DiagonalCovariance(self._all["scale"] ** 2)
        return DenseCovariance(self._all["scale_tril"]) if self.law is dist.MultivariateNormal else None

    def product_form(self) -> ProductForm | None:
        if self.vector or self.support.is_discrete:
            return None
        parameters, shape = self._all, (self.num_components, self.dim)
        zero, one = jnp.zeros(shape, self.dtype), jnp.ones(shape, self.dtype)
        if self.standardization == "none":
            return ProductForm(zero, one, LawShape(parameters, self.law))
        # Equal shapes share the work of their couplings.
        standard = LawShape(parameters | {"loc": zero, "scale": one}, self.law)
        return ProductForm(parameters["loc"], parameters["scale"], standard)

    def lattice_form(self) -> AbstractLattice | None:
        return LawLattice(self._all, self.law) if self.support.is_discrete else None

    # -- EM -------------------------------------------------------------------------------------------------------

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, start: Any = None, **fixed: Any) -> "LawFamily":
        def full(name: str, value: Any) -> Array:
            inner = cls.law.arg_constraints[name].event_dim
            shape = (dim,) * inner if cls.vector else (dim,)
            if cls.vector and inner and np.shape(value)[-1] != dim:
                raise ValueError(f"`{name}` of {cls.law.__name__} is for {np.shape(value)[-1]} columns; got {dim}.")
            shape = np.shape(value) if cls.vector and np.ndim(value) > inner else shape
            return jnp.broadcast_to(jnp.asarray(value, dtype), (num_components, *shape))

        def first(name: str) -> Any:
            if start is not None:
                return start[name]
            constraint = cls.law.arg_constraints[name]
            with relaxed():
                inner = constraint.event_dim
                shape = {0: (), 1: (dim,), 2: (dim * (dim + 1) // 2,)}[inner if cls.vector else 0]
                return biject_to(constraint)(jnp.zeros(shape, dtype))

        free = [name for name in cls.parameter_names() if name not in fixed]
        return cls({name: full(name, first(name)) for name in free}, {name: full(name, fixed[name]) for name in fixed})

    def _fixed(self) -> dict[str, Any]:
        return {name: value[0] for name, value in self.fixed.items()}

    def _num_parameters(self) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(self.parameters)) // self.num_components

    def _prior_strength(self) -> float:
        return 0.01

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        """Counts beyond a number that is a parameter."""
        most = fixed.get("total_count")
        if most is not None and (x > most).any():
            row, column = np.argwhere(x > most)[0]
            raise ValueError(
                f"`x` must have counts of at most `total_count`; got {x[row, column]:g} at index [{row}, {column}]."
            )

    def _accumulate(self, data: Float[Array, "d n"], responsibilities: Float[Array, "K n"]) -> tuple[Array, Array]:
        return data, responsibilities

    def _pooled(self, counts: Float[Array, " K"], sums: tuple[Array, Array]) -> Float[Array, "d q"]:
        """A few points that stand for all: quantiles of each coordinate, or points with the moments of vectors."""
        x, responsibilities = sums
        share = jnp.sum(responsibilities, axis=0) / jnp.sum(responsibilities)
        if not self.vector:
            return jax.vmap(lambda row: _quantiles(row, share))(x)
        mean = x @ share
        offset = x - mean[:, None]
        spread = (offset * share[None]) @ offset.T
        size = jnp.trace(spread) * float(jnp.finfo(x.dtype).eps) ** 0.5
        root = math.sqrt(self.dim) * jnp.linalg.cholesky(spread + size * jnp.eye(self.dim, dtype=x.dtype))
        return mean[:, None] + jnp.concatenate([root, -root], axis=1)

    def _log_prior(self, target: Float[Array, "d q"], strength: Float[Array, ""]) -> Float[Array, " K"]:
        """The log-likelihood of pseudo-observations that follow the law of all data."""
        return strength * jnp.mean(self._table(target), axis=1)

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: tuple[Array, Array],
        target: Float[Array, "d q"],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "LawFamily":
        x, responsibilities = sums
        pseudo = (strength + ridge * counts) / target.shape[1]
        points = jnp.concatenate([x, target], axis=1)
        weights = jnp.concatenate([responsibilities, jnp.repeat(pseudo[:, None], target.shape[1], axis=1)], axis=1)
        total = jnp.sum(weights, axis=1, keepdims=True)
        shares = weights / jnp.where(total > 0, total, jnp.ones_like(total))

        def one(item: tuple[dict[str, Any], dict[str, Any], Array]) -> dict[str, Any]:
            free, fixed, share = item
            if self.vector:
                return self._climb(free, fixed, points.T, share)
            return jax.vmap(lambda p, q, v: self._climb(p, q, v, share))(free, fixed, points)

        return type(self)(map_components(one, (self.parameters, self.fixed, shares), points.size), self.fixed)

    def _climb(
        self, free: dict[str, Any], fixed: dict[str, Any], x: Float[Array, "n *d"], share: Float[Array, " n"]
    ) -> dict[str, Any]:
        """Parameters of one law with a higher weighted likelihood, or where it has none the same."""
        with relaxed():
            transforms = {name: biject_to(self.law.arg_constraints[name]) for name in free}
            start, unravel = ravel_pytree({name: transforms[name].inv(value) for name, value in free.items()})

            def constrained(u: Array) -> dict[str, Any]:
                return {name: transforms[name](value) for name, value in unravel(u).items()}

            def loss(u: Array) -> Array:
                each = jax.vmap(lambda v: log_density(self.law, constrained(u) | fixed, v))(x)
                return -jnp.sum(jnp.where(share > 0, share * each, jnp.zeros_like(each)))

            found = minimize(loss, start, method="BFGS", options={"maxiter": _MINIMIZER_STEPS})
            better = loss(found.x) < loss(start)
            return jax.tree.map(lambda new, old: jnp.where(better, new, old), constrained(found.x), free)

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "LawFamily":
        """Locations and scales that the moments of each part suggest, and from there some M-steps."""
        counts = jnp.sum(responsibilities, axis=1)[:, None] + 1
        pooled, second = jnp.mean(x, axis=1), jnp.mean(x**2, axis=1)
        mean = (responsibilities @ x.T + pooled[None]) / counts
        spread = jnp.sqrt((responsibilities @ (x**2).T + second[None]) / counts - mean**2)
        guess = dict(self.parameters)
        if "loc" in guess and (self.vector or self.standardization == "coordinate"):
            guess["loc"] = mean
        if "scale" in guess and self.standardization == "coordinate":
            guess["scale"] = jnp.maximum(spread, jnp.sqrt(ridge))
        if self.vector and "scale_tril" in guess:
            guess["scale_tril"] = jax.vmap(jnp.diag)(jnp.maximum(spread, jnp.sqrt(ridge)))
        sums = x, responsibilities
        target, one = self._pooled(counts[:, 0], sums), jnp.ones((), x.dtype)

        def improve(_: Array, components: "LawFamily") -> "LawFamily":
            return components._maximize(counts[:, 0], sums, target, one, ridge)

        return jax.lax.fori_loop(0, _FIRST_STEPS, improve, type(self)(guess, self.fixed))

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "LawFamily":
        if self.standardization == "none":
            return self
        # Locations and scales are free: where one is fixed, data are not standardized.
        moved = dict(self.parameters)
        moved["loc"] = shift[None] + scale[None] * moved["loc"]
        if self.vector:
            moved["scale_tril"] = scale[None, :, None] * moved["scale_tril"]
        else:
            moved["scale"] = scale[None] * moved["scale"]
        return type(self)(moved, self.fixed)
