"""A family with some of its parameters held fixed, as `fit` takes it."""

from typing import Any

import equinox as eqx
import jax

from .._base.tables import in_order
from .em_family import AbstractEMFamily


class Template(eqx.Module):
    """A family class together with its fixed parameters.

    Attributes:
        family: The class.
        fixed: The parameters that are held fixed, by name.
        feature_names: The names of the columns, where the family is for these in their order.
        sized: Whether points come with their size factors, in one more column.
    """

    family: type[AbstractEMFamily] = eqx.field(static=True)
    fixed: dict[str, Any]
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)
    sized: bool = eqx.field(static=True, default=False)

    @property
    def per_component(self) -> bool:
        """Whether a fixed parameter differs between components, so that their number is fixed too."""
        return any(getattr(leaf, "ndim", 0) > 1 for leaf in jax.tree.leaves(self.fixed))

    def blank(self, num_components: int, width: int, dtype: Any) -> AbstractEMFamily:
        """Valid components that carry the fixed parameters, for points of so many columns."""
        return self.family._blank(num_components, width - self.sized, dtype, **self.fixed)

    def __repr__(self) -> str:
        fixed = ", ".join(f"{name}={value!r}" for name, value in self.fixed.items())
        return f"template({self.family.__name__}{', ' + fixed if fixed else ''})"


def template(family: type[AbstractEMFamily], **fixed: Any) -> Template:
    """Hold some parameters of a family fixed for fitting, such as ``template(LowRankGaussian, rank=5)``.

    Raises:
        TypeError: If the family cannot be fitted by EM.
    """
    return as_template(family, fixed)


def in_order_of(family: Any, name: str, x: Any) -> Any:
    """A table with its columns in the order that a template asks for; anything else as it is.

    Raises:
        ValueError: If it has other columns.
    """
    return in_order(name, x, getattr(family, "feature_names", None), "the columns of the family")


def as_template(family: Any, fixed: dict[str, Any] | None = None) -> Template:
    """Accept a family class, a template, or components whose fixed parameters are meant."""
    if isinstance(family, Template) and not fixed:
        return family
    if isinstance(family, AbstractEMFamily) and not fixed:
        return Template(type(family), family._fixed())
    if isinstance(family, type) and issubclass(family, AbstractEMFamily):
        return Template(family, family._read_fixed(fixed or {}))
    got = family.__name__ if isinstance(family, type) else type(family).__name__
    raise TypeError(f"`family` must be a component family that EM can fit, such as Gaussian, or a template; got {got}.")
