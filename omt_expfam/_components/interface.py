"""The interface of a component family: K components of one kind, held in one object."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Complex, Float, Int, Key
from numpyro.distributions import constraints

from .._base.arguments import ArrayLike, as_count, as_key, as_points, KeyLike
from .._base.arrays import at_top, batch_size
from .._base.buckets import cut, pad, point_bucket, small_component_bucket
from .._base.xla import program
from .._numerics.support import Constraint
from .category_form import CategoryForm
from .circle_form import AbstractCircle, characteristics
from .columns import ColumnPart
from .covariance import AbstractCovariance
from .distribution import ComponentsDistribution
from .elliptical_form import EllipticalForm
from .lattice_form import AbstractLattice
from .product_form import ProductForm

_Out = TypeVar("_Out")
_Components = TypeVar("_Components", bound="AbstractComponents")


def map_components(function: Callable[[Any], _Out], components: Any, item_size: int = 1) -> _Out:
    """Apply ``function`` to each component in turn, several at once where memory allows.

    Args:
        function: Takes one component (fields without their leading axis).
        components: K components.
        item_size: How many numbers one call works on; bounds the number of simultaneous calls.

    Returns:
        The results, stacked along a leading axis of length K.
    """
    num = jax.tree.leaves(components)[0].shape[0]
    return jax.lax.map(function, components, batch_size=min(batch_size(item_size), num))


def angles_of(components: "AbstractComponents") -> AbstractCircle:
    """The laws of components whose coordinates are angles.

    Raises:
        TypeError: If these are not known to be independent.
    """
    form = components.circle_form()
    if form is None:
        raise TypeError(
            f"{type(components).__name__} has angles that are not known to be independent, which is not supported. "
            "Give the class a `circle_form`."
        )
    return form


@program
def log_prob_table(
    components: "AbstractComponents", x: Float[Array, "n d"], sizes: Float[Array, " n"] | None = None
) -> Float[Array, "K n"]:
    """Log-densities with the component axis first."""
    return components.log_prob_rows(x) if sizes is None else components.log_prob_rows(x, sizes)


@program
def _log_prob(components: "AbstractComponents", x: Float[Array, "n d"]) -> Float[Array, "n K"]:
    return log_prob_table(components, x).T


@program
def _each(method: str, components: Any, *others: Any) -> Any:
    return jax.vmap(lambda c, *rest: getattr(c, method)(*rest))(components, *others)


def each(method: str, components: Any, *others: Any) -> Any:
    """Call a method of one component on all of them, in one program that serves neighboring numbers of them."""
    if not at_top(components, others):
        return _each(method, components, *others)
    num = components.num_components
    size = small_component_bucket(num, components.dim**3)
    return cut(_each(method, *pad((components, *others), size)), num)


@program
def call(method: str, owner: Any, *args: Any) -> Any:
    """Call a method as one program."""
    return getattr(owner, method)(*args)


@program
def _sample(components: "AbstractComponents", key: Key[Array, ""], num_samples: int) -> Float[Array, "n K d"]:
    # Points first: the draws of fewer points are the first of those of more.
    keys = jax.random.split(key, (num_samples, components.num_components))
    return jax.vmap(lambda own: jax.vmap(lambda c, k: c._sample(k))(components, own))(keys)


@program
def _sample_labeled(
    components: "AbstractComponents", key: Key[Array, ""], labels: Int[Array, " n"]
) -> Float[Array, "n d"]:
    keys = jax.random.split(key, labels.shape[0])
    item_size = sum(leaf.size for leaf in jax.tree.leaves(components)) // components.num_components
    size = min(batch_size(item_size), max(labels.shape[0], 1))
    return jax.lax.map(lambda item: components.select(item[0])._sample(item[1]), (labels, keys), batch_size=size)


class AbstractComponents(eqx.Module):
    """K components of one family on R^d, like a batched distribution.

    Array fields carry a leading axis of length K. Methods whose names start with an underscore are what a family
    implements: they are written for *one* component (the fields of ``self`` have no leading axis there) and
    *one* point; batching is done here.
    """

    # -- what a family implements ------------------------------------------------------------------------------

    # Where every coordinate of every point must lie.
    support: ClassVar[Constraint] = constraints.real
    # Whether all coordinates enter alike, each by its own entries along the axis of fields that follows K.
    exchangeable: ClassVar[bool] = False
    # Whether points may have size factors; `_sized` says what these do.
    sized: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension d of the space."""

    @abc.abstractmethod
    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Log-density of one component at one point, ``-inf`` outside the support."""

    @abc.abstractmethod
    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        """One draw from one component."""

    @abc.abstractmethod
    def _mean(self) -> Float[Array, " d"]:
        """The mean of one component."""

    @abc.abstractmethod
    def _covariance(self) -> Float[Array, "d d"]:
        """The covariance matrix of one component."""

    # -- what every family has ---------------------------------------------------------------------------------

    @property
    def num_components(self) -> int:
        """The number of components K."""
        return jax.tree.leaves(self)[0].shape[0]

    @property
    def dtype(self) -> Any:
        """The floating-point type of the parameters."""
        return jax.tree.leaves(self)[0].dtype

    def log_prob(self, x: ArrayLike) -> Float[Array, "n K"]:
        """Log-density of every component at every point.

        Args:
            x: Points, shape ``[n, d]``.

        Raises:
            ValueError: If ``x`` has another width or is not finite.
        """
        points = as_points("x", x, self.dim, self.dtype)
        if not at_top(self, points):
            return _log_prob(self, points)
        size = point_bucket(points.shape[0])
        table = _log_prob(self.padded(size * self.dim), pad(points, size))
        return cut(cut(table, points.shape[0]), self.num_components, axis=1)

    def log_prob_rows(self, x: Float[Array, "n d"], sizes: Float[Array, " n"] | None = None) -> Float[Array, "K n"]:
        """Log-densities with the component axis first, of points that have been checked; with their size factors."""

        def one(component: "AbstractComponents") -> Float[Array, " n"]:
            if sizes is None:
                return jax.vmap(component._log_prob)(x)
            return jax.vmap(lambda point, size: component._sized(size)._log_prob(point))(x, sizes)

        return map_components(one, self, x.size)

    def sample(self, key: KeyLike, num_samples: int) -> Float[Array, "n K d"]:
        """Draw ``num_samples`` points from every component."""
        num = as_count("num_samples", num_samples)
        if not at_top(self, key):
            return _sample(self, as_key(key), num)
        return cut(_sample(self, as_key(key), point_bucket(num)), num)

    def sample_labeled(self, key: KeyLike, labels: Int[Array, " n"]) -> Float[Array, "n d"]:
        """One draw for each label, from the component that it names."""
        if not at_top(self, key, labels):
            return _sample_labeled(self, as_key(key), labels)
        num = labels.shape[0]
        return cut(_sample_labeled(self.padded(self.dim**2), as_key(key), pad(labels, point_bucket(num))), num)

    def mean(self) -> Float[Array, "K d"]:
        """The component means."""
        return each("_mean", self)

    def covariance(self) -> Float[Array, "K d d"]:
        """The component covariance matrices."""
        return each("_covariance", self)

    def select(self: _Components, index: Any) -> _Components:
        """The components at the given indices (an array, a slice or a list), in that order."""
        if at_top(self, index):
            host = index if isinstance(index, slice) else np.asarray(index)
            return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[host]), self)
        index = index if isinstance(index, slice) else jnp.asarray(index)
        return jax.tree.map(lambda leaf: leaf[index], self)

    def turned(self: _Components, order: Sequence[int]) -> _Components | None:
        """The laws of the coordinates in another order, of ``x[order]``; ``None`` for families that do not say."""
        if not self.exchangeable:
            return None
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[:, order]) if leaf.ndim > 1 else leaf, self)

    def column_parts(self) -> tuple[ColumnPart, ...]:
        """The components by columns: one part that holds all of them, unless columns are of several kinds.

        Parts are independent in every component.
        """
        return (ColumnPart(self, np.arange(self.dim), 1.0),)

    def with_column_parts(self, parts: Sequence[Any]) -> "AbstractComponents":
        """Components whose columns are described by other parts, in the order of their own."""
        if len(parts) > 1:
            raise NotImplementedError(f"{type(self).__name__} components have columns of one kind.")
        return parts[0]

    def padded(self: _Components, item_size: int) -> _Components:
        """The components, the last one repeated so that they share programs with other numbers of components.

        Args:
            item_size: How many numbers the work on one component touches: many are not padded.
        """
        return pad(self, small_component_bucket(self.num_components, item_size))

    # -- optional capabilities ---------------------------------------------------------------------------------

    def _sized(self, size: Float[Array, ""]) -> "AbstractComponents":
        """The law of one component for points of a size factor, which multiplies the mean."""
        raise NotImplementedError(f"{type(self).__name__} components have no size factors.")

    def _to_size_one(self, key: Key[Array, ""], x: Float[Array, " d"], size: Float[Array, ""]) -> Float[Array, " d"]:
        """A draw of what a point of one component would have been at a size factor of one."""
        raise NotImplementedError(f"{type(self).__name__} components have no size factors.")

    def to_numpyro(self) -> dist.Distribution:
        """The same components as a NumPyro distribution, batch shape ``(K,)`` and event shape ``(d,)``."""
        return ComponentsDistribution(self)

    def gaussian_form(self) -> AbstractCovariance | None:
        """The covariance structure when every component is Gaussian with mean `mean()`, else ``None``.

        Components that have it are transported in closed form.
        """
        return None

    def elliptical_form(self) -> EllipticalForm | None:
        """Covariances and generators when every component is elliptical about `mean()`, else ``None``.

        Components with one generator are transported in closed form without regularization (Gelbrich, 1990).
        """
        form = self.gaussian_form()
        return None if form is None else EllipticalForm(form, None)

    def product_form(self) -> ProductForm | None:
        """The one-dimensional laws of the coordinates when they are independent in every component, else ``None``.

        Components that have it are transported coordinate by coordinate.
        """
        return None

    def lattice_form(self) -> AbstractLattice | None:
        """The laws of the coordinates when they are independent counts in every component, else ``None``.

        Components that have it are transported count by count, exactly.
        """
        return None

    def circle_form(self) -> AbstractCircle | None:
        """The laws of the coordinates when they are independent angles in every component, else ``None``.

        Components that have it are transported angle by angle, with squared arcs as the cost.
        """
        return None

    def category_form(self) -> CategoryForm | None:
        """The probabilities when coordinates are independent categories in every component, else ``None``.

        Components that have it are transported category by category, at the costs that the form states.
        """
        return None

    def characteristics(self) -> Complex[Array, "K d k"]:
        """Expectations of exp(i k x), k = 0, 1, ..., of every angle x, for components whose coordinates are angles."""
        return characteristics(angles_of(self))

    def with_gaussian_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractComponents":
        """Gaussian components with the given moments, in a family that can hold them."""
        raise NotImplementedError(f"{type(self).__name__} components have no Gaussian form.")

    def with_elliptical_form(self, mean: Float[Array, "K d"], covariance: AbstractCovariance) -> "AbstractComponents":
        """Components with the generator of the first of these and the given moments, in a family that can hold them."""
        return self.with_gaussian_form(mean, covariance)
