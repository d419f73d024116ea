"""Whether the methods of components return what the interface states; looked at once for each kind of components."""

import functools
from typing import Any

import jax
import numpy as np

from .interface import AbstractComponents


def check_contract(components: AbstractComponents) -> None:
    """Raise unless fields and methods of components have the shapes and types that the interface states.

    Nothing is computed: methods are traced for one component, once for each family, dimension and precision.

    Raises:
        TypeError: If an array field is not floating-point, or a method returns something else than numbers.
        ValueError: If fields have no common leading axis, or a method returns another shape.
    """
    name = type(components).__name__
    paths, tree = jax.tree_util.tree_flatten_with_path(components)
    for path, leaf in paths:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not np.issubdtype(dtype, np.floating):
            raise TypeError(
                f"`{_field(path)}` of {name} must be an array of floating-point numbers; got "
                f"{type(leaf).__name__ if dtype is None else dtype}. Convert it, or make it a static field."
            )
    lengths = {leaf.shape[:1] for _, leaf in paths}
    if len(lengths) != 1 or lengths == {()}:
        shapes = ", ".join(f"{_field(path)} {tuple(leaf.shape)}" for path, leaf in paths)
        raise ValueError(f"The fields of {name} must have one leading axis, that of its components; got {shapes}.")
    # JAX narrows NumPy's numbers where it has no others, and says so.
    kinds = (jax.dtypes.canonicalize_dtype(leaf.dtype).name for _, leaf in paths)
    _check_methods(tree, tuple((leaf.shape[1:], kind) for (_, leaf), kind in zip(paths, kinds, strict=True)))


@functools.cache
def _check_methods(tree: Any, leaves: tuple[tuple[tuple[int, ...], str], ...]) -> None:
    one = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    dim = jax.eval_shape(lambda c: np.zeros(c.dim), one).shape[0]
    point = jax.ShapeDtypeStruct((dim,), leaves[0][1])
    wanted = {
        "_log_prob(x)": ((), lambda c, x: c._log_prob(x)),
        "_sample(key)": ((dim,), lambda c, x: c._sample(jax.random.key(0))),
        "_mean()": ((dim,), lambda c, x: c._mean()),
        "_covariance()": ((dim, dim), lambda c, x: c._covariance()),
    }
    for call, (shape, function) in wanted.items():
        _check_returns(f"`{call}` of {type(one).__name__}", jax.eval_shape(function, one, point), shape)


def _check_returns(what: str, found: Any, shape: tuple[int, ...]) -> None:
    """Raise unless what a method returns for one component is an array of numbers of a shape."""
    if not hasattr(found, "shape") or not np.issubdtype(found.dtype, np.floating):
        got = found.dtype if hasattr(found, "dtype") else type(found).__name__
        raise TypeError(f"{what} must return {_words(shape)} of floating-point numbers; got {got}.")
    if found.shape != shape:
        raise ValueError(f"{what} must return {_words(shape)} for one component; got shape {found.shape}.")


def _words(shape: tuple[int, ...]) -> str:
    return f"an array of shape {shape}" if shape else "a scalar"


def _field(path: Any) -> str:
    """The name of a field, without the dot before it."""
    return jax.tree_util.keystr(path).lstrip(".")
