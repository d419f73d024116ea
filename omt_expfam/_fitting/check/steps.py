"""What EM and exponential families compute, against the densities of the same components."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ..._base.precision import relaxed
from ..._base.xla import program
from ..._components.exponential_family import AbstractExponentialFamily, AbstractRegularFamily
from ..._components.interface import AbstractComponents
from ..._family.bayesian import AbstractPriors
from ..._family.em_family import AbstractEMFamily
from ..em import chunk_data, initial_state, run
from .findings import equal, Finding

# What rounding in float64, and integrals, may take; and the steps of EM that are tried.
_EXACT, _STEPS = 1e-6, 10


def form_findings(components: AbstractComponents, x: Float[Array, "n d"]) -> list[Finding]:
    """Other ways to the same densities: NumPyro's law, and the forms that transport uses."""
    expected = np.asarray(components.log_prob(x))
    found = {"to_numpyro": _by_numpyro(components, x)}
    gaussian, product = components.gaussian_form(), components.product_form()
    lattice = components.lattice_form()
    if gaussian is not None:
        found["gaussian_form"] = _gaussian(components.mean(), gaussian, x)
    if product is not None:
        found["product_form"] = _product(product, x)
    if lattice is not None:
        found["lattice_form"] = _lattice(lattice, x)
    return [equal(name, "its log-densities against `_log_prob`", found[name], expected, _EXACT) for name in found]


@program
def _by_numpyro(components: AbstractComponents, x: Array) -> Array:
    with relaxed():
        return jnp.asarray(components.to_numpyro().log_prob(x[:, None]))


@program
def _gaussian(mean: Array, form: Any, x: Array) -> Array:
    def one(mean: Array, form: Any) -> Array:
        normal, matrix = jax.scipy.stats.multivariate_normal, form.matrix()
        return jax.vmap(lambda v: jnp.asarray(normal.logpdf(v, mean, matrix)))(x)

    return jax.vmap(one)(mean, form).T


@program
def _product(form: Any, x: Array) -> Array:
    def one(loc: Array, scale: Array, shape: Any, v: Array) -> Array:
        return shape._log_density((v - loc) / scale) - jnp.log(scale)

    coordinates = jax.vmap(jax.vmap(one), in_axes=(0, 0, 0, None))
    return jax.vmap(lambda v: jnp.sum(coordinates(form.loc, form.scale, form.shape, v), axis=1))(x)


@program
def _lattice(form: Any, x: Array) -> Array:
    coordinates = jax.vmap(jax.vmap(lambda law, v: law._log_mass(v)), in_axes=(0, None))
    return jax.vmap(lambda v: jnp.sum(coordinates(form, v), axis=1))(x)


def exponential_findings(components: AbstractExponentialFamily, x: Float[Array, "n d"]) -> list[Finding]:
    """The exponential family's parts against each other."""
    eta, mean = components.natural_parameters(), components.mean_parameters()
    table, gradient = _exponential(components, eta, x)
    found = [
        equal(
            "_sufficient_statistics, _log_partition, _natural_parameters",
            "eta . T - A + log h against `_log_prob`",
            table,
            components.log_prob(x),
            _EXACT,
        ),
        equal("_mean_parameters", "against the gradient of `_log_partition`", mean, gradient, _EXACT),
    ]
    if isinstance(components, AbstractRegularFamily):
        again = components.with_natural_parameters(eta).natural_parameters()
        found.append(equal("with_natural_parameters", "there and back", again, eta, _EXACT))
        back = components.with_mean_parameters(mean).mean_parameters()
        found.append(equal("with_mean_parameters", "there and back", back, mean, 1e-4))
    return found


@program
def _exponential(components: AbstractExponentialFamily, eta: Array, x: Array) -> tuple[Array, Array]:
    def one(component: AbstractExponentialFamily, eta: Array) -> tuple[Array, Array]:
        partition, gradient = jax.value_and_grad(component._log_partition)(eta)

        def density(v: Array) -> Array:
            return jnp.sum(eta * component._sufficient_statistics(v)) + component._log_base_measure(v)

        return jax.vmap(density)(x) - partition, gradient

    table, gradient = jax.vmap(one)(components, eta)
    return table.T, gradient


def em_findings(components: AbstractEMFamily, x: Float[Array, "n d"]) -> list[Finding]:
    """What EM uses, on points: the table, the sums, the M-step and the change of units."""
    family, (shift, scale) = type(components), _units(components, np.asarray(x))
    table, halves, whole, moved, fall = _em(components, x, *jax.device_put((shift, scale)))
    log_prob = np.asarray(components.log_prob(x))
    # Outside the support a table may have large numbers in place of infinite ones, from which EM finds back.
    by_table = np.where(np.isfinite(log_prob), np.asarray(table).T, log_prob)
    found = [equal("_table, _prepare", "log-densities against `_log_prob`", by_table, log_prob, _EXACT)]
    if components.streams:
        for left, right in zip(jax.tree.leaves(halves), jax.tree.leaves(whole), strict=True):
            found.append(equal("_accumulate", "sums of two halves against those of all", left, right, _EXACT))
    density = np.asarray(moved.log_prob(shift + scale * np.asarray(x))) + np.log(scale).sum()
    found.append(equal("_affine", "the law of shift + scale x against `_log_prob`", density, log_prob, _EXACT))
    own = [m for m in ("_maximize", "_accumulate", "_log_prior", "_pooled") if _overridden(family, m)]
    what = "the objective falls in a step of EM"
    # A step that is not even finite fails as well.
    gap = float(np.nan_to_num(np.asarray(fall), nan=np.inf))
    found.append(Finding(", ".join(own) or "_maximize", what, gap, _EXACT))
    return found


def _units(components: AbstractEMFamily, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some shift and scale that the families of the columns allow."""
    dim = x.shape[1]
    shift, scale = np.linspace(-0.3, 0.4, dim) * x.std(axis=0), 1.3 + 0.2 * np.arange(dim) / dim
    for family, columns in type(components).column_families(dim):
        if family.standardization == "scalar":
            scale[columns] = 1.7
        if family.standardization in ("scale", "none"):
            shift[columns] = 0.0
        if family.standardization == "none":
            scale[columns] = 1.0
    return shift, scale


def _overridden(family: type, method: str) -> bool:
    """Whether a method is not one of the library's interfaces."""
    return not getattr(family, method).__module__.startswith("omt_expfam.")


@program
def _em(components: AbstractEMFamily, x: Array, shift: Array, scale: Array) -> Any:
    ready = components._prepare(x.T)
    table = components._table(ready)
    shares = jax.nn.softmax(table, axis=0)
    whole, half = components._accumulate(ready, shares), x.shape[0] // 2

    def part(rows: slice) -> Any:
        return components._accumulate(components._prepare(x[rows].T), shares[:, rows])

    # A family that needs all points at once has sums that do not add.
    halves = jax.tree.map(jnp.add, part(slice(half)), part(slice(half, None))) if components.streams else whole
    data = chunk_data(components, x, jnp.ones(x.shape[:1], x.dtype), x.shape[0])
    log_weights = jnp.full(components.num_components, -jnp.log(1.0 * components.num_components), x.dtype)
    zero = jnp.zeros((), x.dtype)
    strength = jnp.asarray(components._prior_strength(), x.dtype)
    state = run(initial_state(log_weights, components, _STEPS), data, strength, zero, zero, jnp.asarray(_STEPS))
    fall = jnp.where(jnp.isfinite(state.log_likelihood), state.fall, jnp.nan)
    return table, halves, whole, components._affine(shift, scale), fall


def prior_findings(components: Any, x: Float[Array, "n d"]) -> list[Finding]:
    """Whether priors have the shapes of the parameters, and components come back from these."""
    bayesian: AbstractPriors = components.priors
    with relaxed():
        priors = bayesian.default(components, x)
    parameters = bayesian.parameters(components, tuple(priors))
    found = []
    for name, prior in priors.items():
        shape, wanted = prior.event_shape, np.shape(parameters[name])[1:]
        found.append(
            Finding("priors", f"`{name}` has shape {wanted} and its prior {shape}", float(shape != wanted), 0.0)
        )
    again = bayesian.with_parameters(components, parameters)
    found.append(equal("priors", "parameters there and back", again.log_prob(x), components.log_prob(x), _EXACT))
    return found
