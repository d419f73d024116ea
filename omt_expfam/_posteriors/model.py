"""Mixtures as NumPyro models, with priors on the scale of the data."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro.distributions import constraints

from .._base.arguments import ArrayLike, as_count, as_floating, as_points, as_scalar
from .._base.arrays import default_dtype
from .._base.precision import relaxed
from .._base.xla import program
from .._components.interface import AbstractComponents
from .._components.mixture import Mixture
from .._components.numpyro_components import NumPyroComponents
from .._family.bayesian import priors_of
from .._family.conjugate import without_shape
from .._family.em_family import AbstractEMFamily
from .._family.priors import ConjugatePrior
from .._family.template import as_template, Template
from .._numerics.support import check_support, in_words
from .distribution import MixtureDistribution

# Draws from a prior that must all be values which its parameter may have.
_NUM_CHECKS = 256


class MixtureModel(eqx.Module):
    """A NumPyro model of a mixture: call it inside a NumPyro program, or hand it to ``MCMC``, ``SVI``, ``Predictive``.

    Sites: ``weights`` (Dirichlet), the parameters of the components by name in a plate ``components``, and the points
    ``x`` in a plate ``data``. Labels are summed over. Several mixtures in one program are told apart by
    ``numpyro.handlers.scope``.

    Attributes:
        concentration: Concentrations of the Dirichlet prior on the weights, shape ``[K]``.
        priors: The prior of each parameter: batch shape ``(K,)`` and the event shape of the parameter.
        components: Components that carry the fixed parameters of the family; ``None`` for NumPyro distributions.
        build: What makes a NumPyro distribution of the parameters; ``None`` for the library's families.
    """

    concentration: Float[Array, " K"]
    priors: dict[str, Any]
    components: AbstractEMFamily | None
    build: Callable[..., dist.Distribution] | None = eqx.field(static=True)

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return self.concentration.shape[0]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names of the components' free parameters."""
        return tuple(self.priors)

    def __call__(
        self, x: Any = None, mask: Any = None, *, num_points: int | None = None, batch_size: int | None = None
    ) -> Mixture:
        """Run the model.

        Args:
            x: Points, shape ``[n, d]``; left out, they are drawn.
            mask: Which of the points count, shape ``[n]``; by default all. Points padded to a common number, with a
                mask, share one compiled program.
            num_points: How many to draw when ``x`` is left out; by default none.
            batch_size: Points per step in mini-batches.

        Returns:
            The mixture, for the rest of a NumPyro program.
        """
        with relaxed():
            weights = numpyro.sample("weights", dist.Dirichlet(self.concentration))
            with numpyro.plate("components", self.num_components):
                sites: Any = {name: numpyro.sample(name, prior) for name, prior in self.priors.items()}
            mixture = self.mixture(sites | {"weights": weights})
            x = None if x is None else as_points("x", x, mixture.dim)
            num = num_points if x is None else x.shape[0]
            if num is not None:
                with numpyro.plate("data", num, subsample_size=batch_size):
                    batch = x if batch_size is None or x is None else numpyro.subsample(x, event_dim=1)
                    law = MixtureDistribution(mixture)
                    if mask is not None:
                        law = law.mask(mask if batch_size is None else numpyro.subsample(mask, event_dim=0))
                    numpyro.sample("x", law, obs=batch)
        return mixture

    def mixture(self, sites: Mapping[str, Array]) -> Mixture:
        """The mixture that one draw of the sites describes."""
        parameters = {name: sites[name] for name in self.priors}
        if self.components is not None:
            return Mixture(sites["weights"], priors_of(self.components).with_parameters(self.components, parameters))
        assert self.build is not None
        with relaxed():
            return Mixture(sites["weights"], NumPyroComponents(self.build(**parameters)))

    def sites(self, mixture: Mixture) -> dict[str, Array]:
        """The sites that describe a mixture of one of the library's families."""
        components = mixture.components
        assert isinstance(components, AbstractEMFamily)
        return {"weights": mixture.weights, **priors_of(components).parameters(components, self.parameter_names)}


def mixture_model(
    x: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily | Callable[..., dist.Distribution],
    num_components: int,
    *,
    priors: Mapping[str, dist.Distribution] | None = None,
    weight_concentration: ArrayLike = 1.0,
) -> MixtureModel:
    """A Bayesian mixture model with weakly informative priors on the scale of the data.

    By default a location has a normal prior about the center of the data, twice as wide as they are; a covariance has
    an inverse Wishart prior with d + 2 degrees of freedom (a variance, its one-dimensional case) whose mean shares the
    volume of the data among the components; a positive parameter, a log-normal prior about the value that moments of
    the data suggest; families known only by their statistics, the conjugate prior of one pseudo-observation.

    Args:
        x: Points that set the scale of the priors, shape ``[n, d]``.
        family: A component family or a `template`; or a function of named parameters, each with a leading axis K, that
            returns a NumPyro distribution of batch shape ``(K,)`` and event shape ``(d,)``, which needs ``priors``.
        num_components: Number of components K.
        priors: NumPyro distributions that replace the default priors, by parameter name; for one component (batch shape
            ``()``) or each (``(K,)``). A prior of event shape ``()`` is taken for every entry of the parameter.
        weight_concentration: Concentration of the Dirichlet prior on the weights, a number or shape ``[K]``. Small
            values, 1 / K say, empty the components that an overfitted mixture does not need.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If a prior has another shape, or puts mass where its parameter may not be.
    """
    num_components = as_count("num_components", num_components)
    points = as_floating("x", x, "n d")
    if not points.size:
        raise ValueError(f"`x` must hold at least one point and one column; got shape {points.shape}.")
    concentration = _as_concentration(weight_concentration, num_components, points.dtype)
    if priors is not None and not isinstance(priors, Mapping):
        raise TypeError(f"`priors` must be a dictionary of NumPyro distributions; got {type(priors).__name__}.")
    given = dict(priors or {})
    for name, prior in given.items():
        if not isinstance(prior, dist.Distribution):
            raise TypeError(f"`priors[{name!r}]` must be a NumPyro distribution; got {type(prior).__name__}.")
        if prior.is_discrete:
            raise ValueError(f"`priors[{name!r}]` must be a continuous law; got {_law_name(prior)}.")
    if _is_builder(family):
        return _builder_model(family, num_components, points, given, concentration)
    blank = as_template(family).blank(num_components, points.shape[1], points.dtype)
    check_support("x", np.asarray(points), type(blank))
    if blank.priors is None and given:
        return MixtureModel(concentration, _of_fields(blank, given), blank, None)
    with relaxed():
        defaults = priors_of(blank).default(blank, points)
        unknown = set(given) - set(defaults)
        if unknown:
            raise ValueError(
                f"`priors` must name parameters of {type(blank).__name__}, {', '.join(defaults)}; "
                f"got {', '.join(sorted(unknown))}."
            )
        complete = {
            name: _expanded(name, given.get(name, default), default.event_shape, num_components)
            for name, default in defaults.items()
        }
        for name in given:
            _check_prior_support(name, complete[name], defaults[name])
    return MixtureModel(concentration, complete, blank, None)


def _of_fields(blank: AbstractEMFamily, priors: dict[str, Any]) -> dict[str, Any]:
    """Priors of the fields of a family that says nothing of priors; the other fields stay fixed."""
    fields = {name: getattr(blank, name) for name in _array_fields(blank)}
    if unknown := sorted(set(priors) - set(fields)):
        raise ValueError(
            f"`priors` must name parameters of {type(blank).__name__}, {', '.join(fields)}; got {', '.join(unknown)}."
        )
    with relaxed():
        num = blank.num_components
        return {name: _expanded(name, prior, fields[name].shape[1:], num) for name, prior in priors.items()}


def _array_fields(components: AbstractEMFamily) -> list[str]:
    names = [field.name for field in dataclasses.fields(components)]
    return [name for name in names if isinstance(getattr(components, name), jax.Array)]


def flat_priors(family: Any, dim: int) -> dict[str, dist.Distribution] | None:
    """Improper flat laws of all fields of a family that says nothing of priors, for methods that use none."""
    if _is_builder(family):
        return None
    blank = as_template(family).blank(1, dim, default_dtype())
    if blank.priors is not None:
        return None
    shapes = {name: getattr(blank, name).shape[1:] for name in _array_fields(blank)}
    return {name: dist.ImproperUniform(constraints.real, (), shape) for name, shape in shapes.items()}


def _is_builder(family: Any) -> bool:
    if isinstance(family, Template | AbstractComponents):
        return False
    return callable(family) and not (isinstance(family, type) and issubclass(family, AbstractComponents))


def _as_concentration(value: ArrayLike, num_components: int, dtype: Any) -> Float[Array, " K"]:
    if np.ndim(value) == 0:
        value = np.full((num_components,), float(as_scalar("weight_concentration", value, strict=True)))
    concentration = as_floating("weight_concentration", value, "K", dtype)
    if concentration.shape != (num_components,) or not (np.asarray(concentration) > 0).all():
        raise ValueError(
            f"`weight_concentration` must be positive, one number or {num_components}; "
            f"got {np.asarray(concentration).tolist()}."
        )
    return concentration


def _expanded(name: str, prior: Any, event_shape: tuple[int, ...], num_components: int) -> dist.Distribution:
    """A prior with batch shape ``(K,)`` and the event shape of its parameter."""
    shape = prior.batch_shape + prior.event_shape
    wanted = (num_components, *event_shape)
    missing = len(event_shape) - len(prior.event_shape)
    try:
        if missing < 0 or prior.event_shape != event_shape[missing:]:
            raise ValueError
        return prior.expand(wanted[: missing + 1]).to_event(missing)
    except ValueError:
        raise ValueError(
            f"`priors[{name!r}]` must have shape {event_shape} for one component or {wanted} for all; got {shape}."
        ) from None


def _check_prior_support(name: str, prior: Any, default: Any) -> None:
    """Raise ValueError unless draws from a prior are values that the parameter of a default prior may have."""
    try:
        inside = _draws_inside(prior, default)
    except NotImplementedError:
        raise _not_sampled(name, prior) from None
    conjugate = isinstance(default, ConjugatePrior)
    if not np.asarray(inside).all():
        family = type(default.component).__name__ if conjugate else ""
        where = f"natural parameters of {family}" if conjugate else _support_name(default.support)
        raise ValueError(f"`priors[{name!r}]` must be a law on {where}; {_law_name(prior)} draws other values.")


@program
def _draws_inside(prior: Any, default: Any) -> Array:
    """Whether draws from a prior are values that the parameter of a default prior may have."""
    draws = prior.sample(jax.random.key(0), (_NUM_CHECKS,))
    return jnp.isfinite(default.log_prob(draws)) if isinstance(default, ConjugatePrior) else default.support(draws)


def _not_sampled(name: str, prior: Any) -> ValueError:
    return ValueError(
        f"`priors[{name!r}]` must be a law that can be sampled; {_law_name(prior)} cannot. Use a wide one."
    )


def _support_name(support: Any) -> str:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support is constraints.lower_cholesky:
        return "Cholesky factors"
    return in_words(support)


def _law_name(prior: Any) -> str:
    return type(without_shape(prior)).__name__


def _builder_model(
    build: Any, num_components: int, points: Array, priors: dict[str, Any], concentration: Array
) -> MixtureModel:
    """A model whose components a function makes of named parameters."""
    if not priors:
        raise ValueError("`priors` must be given for a function that makes NumPyro distributions: one per parameter.")
    _check_names(build, priors)
    with relaxed():
        for name, prior in priors.items():
            if prior.batch_shape not in ((), (num_components,)):
                raise ValueError(
                    f"`priors[{name!r}]` must have batch shape () or ({num_components},); got {prior.batch_shape}. "
                    "Use `.to_event` for the shape of the parameter."
                )
        complete = {name: prior.expand((num_components,)) for name, prior in priors.items()}
        model = MixtureModel(concentration, complete, None, build)
        made = build(**{name: _one_draw(name, prior) for name, prior in complete.items()})
    components = NumPyroComponents(made)
    if components.num_components != num_components:
        raise ValueError(
            f"`family` must make a distribution of batch shape ({num_components},); got {made.batch_shape}."
        )
    if components.dim != points.shape[1]:
        raise ValueError(f"`family` must make distributions in {points.shape[1]} dimensions; got {components.dim}.")
    return model


def _one_draw(name: str, prior: Any) -> Array:
    try:
        return _sampled(prior)
    except NotImplementedError:
        raise _not_sampled(name, prior) from None


@program
def _sampled(prior: Any) -> Array:
    return prior.sample(jax.random.key(0))


def _check_names(build: Any, priors: dict[str, Any]) -> None:
    """Raise ValueError unless a function can be called with one argument for each prior."""
    try:
        inspect.signature(build).bind(**priors)
    except TypeError:
        names = ", ".join(inspect.signature(build).parameters)
        raise ValueError(f"`priors` must name the parameters of `family`, {names}; got {', '.join(priors)}.") from None


def stacked_mixtures(model: Any, sites: Mapping[str, Any]) -> Mixture:
    """Mixtures of many draws, stacked: every array has the draws' leading axis."""
    return _stacked(model, dict(sites))


@program
def _stacked(model: Any, sites: dict[str, Array]) -> Mixture:
    return jax.vmap(lambda draw: model(draw))(sites)
