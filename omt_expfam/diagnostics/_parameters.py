"""A mixture as named arrays of parameters that derivatives are taken in, and how far a mixture moves with them."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._base.xla import program
from .._components.covariance import DenseCovariance, to_dense
from .._components.interface import AbstractComponents
from .._components.mixture import Mixture

Parameters = dict[str, Array]


class Direction(NamedTuple):
    """One coordinate of one parameter of one component."""

    name: str
    component: int
    index: tuple[int, ...]


class Gaussians(NamedTuple):
    """Both sides' means and Cholesky factors of covariances, on the host."""

    means: tuple[np.ndarray, np.ndarray]
    roots: tuple[np.ndarray, np.ndarray]


def gaussians(source: Mixture, target: Mixture) -> Gaussians | None:
    """Both sides' components where all of them are Gaussian, else ``None``."""
    sides = source.components, target.components
    if any(components.gaussian_form() is None for components in sides):
        return None
    return Gaussians(*jax.tree.map(np.asarray, _means_and_roots(sides)))


@program
def _means_and_roots(sides: tuple[AbstractComponents, AbstractComponents]) -> tuple[tuple, tuple]:
    forms = [components.gaussian_form() for components in sides]
    roots = tuple(to_dense(form).tril for form in forms if form is not None)
    return tuple(components.mean() for components in sides), roots


def as_arrays(epsilons: tuple[float, float]) -> tuple[Any, Any]:
    """Regularizations for a compiled program, which serves all values but zero: there, other means solve the blocks."""
    first, second = (jnp.asarray(epsilon) if epsilon > 0 else epsilon for epsilon in epsilons)
    return first, second


def balanced(mixture: Mixture) -> Mixture:
    """A widened mixture whose weights sum to one again: those of float32 miss it by 1e-8."""
    weights = np.asarray(mixture.weights)
    return eqx.tree_at(lambda m: m.weights, mixture, jax.device_put(weights / weights.sum()))


def read(mixture: Mixture) -> Parameters:
    """Weights and component parameters by name; full covariance matrices instead of Cholesky factors."""
    components = mixture.components
    if _dense(components):
        mean, covariance = _means_and_covariances(components)
        return {"weights": mixture.weights, "mean": mean, "covariance": covariance}
    return {"weights": mixture.weights, **dict(zip(_names(components), jax.tree.leaves(components), strict=True))}


@program
def _means_and_covariances(components: AbstractComponents) -> tuple[Array, Array]:
    return components.mean(), components.covariance()


def build(mixture: Mixture, parameters: Parameters) -> Mixture:
    """The mixture of the same family with other parameters (weights as they are: no check that they sum to one)."""
    components = mixture.components
    if _dense(components):
        form = DenseCovariance(jnp.linalg.cholesky(parameters["covariance"]))
        components = components.with_gaussian_form(parameters["mean"], form)
    else:
        leaves = [parameters[name] for name in _names(components)]
        components = jax.tree.unflatten(jax.tree.structure(components), leaves)
    return eqx.tree_at(lambda m: (m.weights, m.components), mixture, (parameters["weights"], components))


def _names(components: AbstractComponents) -> list[str]:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(components)[0]]
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    return ["mean" if name == "loc" and components.gaussian_form() is not None else name for name in names]


def _dense(components: AbstractComponents) -> bool:
    return isinstance(components.gaussian_form(), DenseCovariance)


def directions(parameters: Parameters) -> list[Direction]:
    """All coordinates; of symmetric matrices only those on and below the diagonal."""
    found = []
    for name, value in parameters.items():
        for component in range(value.shape[0]):
            indices = list(np.ndindex(*value.shape[1:]))
            if name == "covariance":
                indices = [index for index in indices if index[1] <= index[0]]
            found += [Direction(name, component, index) for index in indices]
    return found


def unit_steps(parameters: Parameters, along: list[Direction]) -> dict[str, np.ndarray]:
    """The unit step along each direction: weights move from all in proportion, matrices stay symmetric; on the host."""
    steps = {name: np.zeros((len(along), *value.shape), value.dtype) for name, value in parameters.items()}
    for row, (name, component, index) in enumerate(along):
        if name == "weights":
            steps[name][row] = -np.asarray(parameters[name])
            steps[name][row, component] += 1
        elif name == "covariance":
            steps[name][(row, component, *index)] += 0.5
            steps[name][(row, component, *index[::-1])] += 0.5
        else:
            steps[name][(row, component, *index)] = 1
    return steps


def transport_metric(mixture: Mixture, parameters: Parameters, steps: Parameters) -> tuple[Array, Array]:
    r"""Rates of the moments that make the local metric of $W_2$, for stacked steps of the component parameters.

    A component that moves by a small step is displaced by $(\delta^T \delta + \frac12 \sum_{ab} d\Sigma_{ab}^2 /
    (\lambda_a + \lambda_b))^{1/2}$ to first order in W2, with the step of the covariance in the eigenbasis of the
    covariance (the Bures metric): exact for location-scale families, a lower bound for others (Gelbrich, 1990).

    Returns:
        The rates of all means times the roots of the weights, shape ``[P, K, d]``, and of all covariances in units in
        which their squares add up, shape ``[P, K, d, d]``.
    """

    def moments(values: Parameters) -> tuple[Array, Array]:
        components = build(mixture, values).components
        return components.mean(), components.covariance()

    (_, covariance), push = jax.linearize(moments, parameters)
    eigenvalues, basis = jnp.linalg.eigh(covariance)
    scale = jnp.sqrt(0.5 / (eigenvalues[:, :, None] + eigenvalues[:, None, :]))
    root = jnp.sqrt(parameters["weights"])

    def one(step: Parameters) -> tuple[Array, Array]:
        d_mean, d_covariance = push(step)
        rotated = jnp.swapaxes(basis, 1, 2) @ d_covariance @ basis
        return root[:, None] * d_mean, root[:, None, None] * scale * rotated

    return jax.lax.map(one, steps)
