"""Methods that `jax.jit` takes as they are: ``jax.jit(plan.push_forward)``."""

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import jax

_Owner = TypeVar("_Owner")
_In = ParamSpec("_In")
_Out = TypeVar("_Out")


@jax.tree_util.register_pytree_node_class
class BoundMethod(Generic[_In, _Out]):
    """A method with its owner: a pytree, as Equinox's is, and hashable by the owner's identity, as Python's is."""

    def __init__(self, function: Callable[..., _Out], owner: Any):
        self.__func__, self.__self__ = function, owner
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    @property
    def __wrapped__(self) -> Callable[_In, _Out]:
        return self.__func__.__get__(self.__self__)

    def __call__(self, *args: _In.args, **kwargs: _In.kwargs) -> _Out:
        return self.__func__(self.__self__, *args, **kwargs)

    def __hash__(self) -> int:
        return hash((self.__func__, id(self.__self__)))

    def __eq__(self, other: Any) -> bool:
        return type(other) is BoundMethod and self.__func__ is other.__func__ and self.__self__ is other.__self__

    def tree_flatten(self) -> tuple[tuple[Any], Callable[..., _Out]]:
        return (self.__self__,), self.__func__

    @classmethod
    def tree_unflatten(cls, function: Callable[..., _Out], owner: tuple[Any]) -> "BoundMethod":
        return cls(function, *owner)


class jittable(Generic[_Owner, _In, _Out]):  # noqa: N801
    """Decorates a method of an `equinox.Module`, whose bound methods `jax.jit` refuses as unhashable."""

    def __init__(self, function: Callable[Concatenate[_Owner, _In], _Out]):
        self.__wrapped__, self.__doc__ = function, function.__doc__

    def __get__(self, owner: Any, kind: Any = None) -> Callable[_In, _Out]:
        bound: Any = self.__wrapped__ if owner is None else BoundMethod(self.__wrapped__, owner)
        return bound
