"""Ways of disturbing a data set: what a stability study does to the points before it fits again."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._base.arguments import as_count, as_scalar
from .._base.arrays import is_traced
from .._components.mixture import Mixture
from ._random import bernoulli, categorical, normal, permutation, uniform


class AbstractPerturbation(eqx.Module):
    """A random disturbance of a data set, called as ``perturbation(key, x, mixture)``.

    To define one of your own, subclass and implement `__call__`; the first field is what tables and plots show as its
    size.

    Attributes:
        keeps_rows: Whether row i of the result is a disturbed row i of the data, so that the two can be paired.
    """

    keeps_rows: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        """Disturbed points.

        Args:
            key: Random key.
            x: Points, shape ``[n, d]``.
            mixture: The mixture fitted to the undisturbed points, or ``None`` where the method under study fits none.
        """

    @property
    def name(self) -> str:
        """The kind of disturbance, for tables."""
        return type(self).__name__

    @property
    def size(self) -> float:
        """How strong it is, in the units of its first field; 0 without fields."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return float(values[0]) if values else 0.0


class GaussianNoise(AbstractPerturbation):
    """Independent normal noise on every coordinate.

    Attributes:
        sigma: Standard deviation, in the units of the data.
    """

    sigma: float
    keeps_rows: ClassVar[bool] = True

    def __check_init__(self) -> None:
        as_scalar("sigma", self.sigma)

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        noise = normal(key, x.shape, x.dtype)
        return jax.device_put(_host(key, x) + np.asarray(self.sigma, x.dtype) * noise)


class Dropout(AbstractPerturbation):
    """Each coordinate of each point is set to zero with some probability, independently.

    Attributes:
        probability: Probability of a coordinate to be lost.
    """

    probability: float
    keeps_rows: ClassVar[bool] = True

    def __check_init__(self) -> None:
        _check_share("probability", self.probability)

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        lost = bernoulli(key, self.probability, x.shape)
        return jax.device_put(_host(key, x) * (~lost).astype(x.dtype))


class Subsampling(AbstractPerturbation):
    """A random part of the points, without replacement.

    Attributes:
        removed: Share of the points that is left out.
    """

    removed: float

    def __check_init__(self) -> None:
        _check_share("removed", self.removed, strict=True)

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        left = max(1, round((1 - self.removed) * x.shape[0]))
        return jax.device_put(_host(key, x)[permutation(key, x.shape[0])[:left]])


class Outliers(AbstractPerturbation):
    """Some points are replaced by draws from a normal law around the mean of the data, much wider than they are.

    Attributes:
        share: Share of the points that is replaced.
        spread: Standard deviation of the outliers, in standard deviations of each coordinate.
    """

    share: float
    spread: float = 5.0
    keeps_rows: ClassVar[bool] = True

    def __check_init__(self) -> None:
        _check_share("share", self.share)
        as_scalar("spread", self.spread)

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        which_key, value_key = jax.random.split(key)
        count = round(self.share * x.shape[0])
        values = _host(key, x)
        # The first of a random order are replaced, by one draw each.
        xp = np if isinstance(values, np.ndarray) else jnp
        place = xp.argsort(permutation(which_key, x.shape[0]))
        noise = normal(value_key, (max(count, 1), x.shape[1]), x.dtype)[xp.minimum(place, max(count, 1) - 1)]
        scale = np.asarray(self.spread, x.dtype) * xp.std(values, axis=0, keepdims=True)
        outliers = xp.mean(values, axis=0, keepdims=True) + scale * noise
        return jax.device_put(xp.where((place < count)[:, None], outliers, values))


class Reseeding(AbstractPerturbation):
    """The same points; only the random start of the fit differs."""

    keeps_rows: ClassVar[bool] = True

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        return x


class MassShift(AbstractPerturbation):
    """Points move from one component to another: some that belong to the first are replaced by copies of others.

    Attributes:
        share: Share of the first component's points that is replaced.
        source: The component that loses; by default drawn at random.
        target: The component that gains; by default drawn at random among the others.
    """

    share: float
    source: int | None = None
    target: int | None = None

    def __check_init__(self) -> None:
        _check_share("share", self.share)
        for name in ("source", "target"):
            if getattr(self, name) is not None:
                as_count(name, getattr(self, name), minimum=0)
        if self.source is not None and self.source == self.target:
            raise ValueError(f"`target` must be another component than `source`; got {self.target} for both.")

    def __call__(self, key: Key[Array, ""], x: Float[Array, "n d"], mixture: Mixture | None) -> Float[Array, "m d"]:
        if mixture is None or mixture.num_components < 2:
            raise ValueError("`MassShift` needs a method that fits a mixture of two components or more.")
        for name in ("source", "target"):
            if (getattr(self, name) or 0) >= mixture.num_components:
                raise ValueError(
                    f"`{name}` must be a component of the mixture, below {mixture.num_components}; "
                    f"got {getattr(self, name)}."
                )
        pair_key, label_key, out_key, in_key = jax.random.split(key, 4)
        order = [int(k) for k in permutation(pair_key, mixture.num_components)]
        source = next(k for k in order if k != self.target) if self.source is None else self.source
        target = next(k for k in order if k != source) if self.target is None else self.target
        # Each point belongs to a component drawn from its responsibilities.
        labels = categorical(label_key, np.asarray(mixture.responsibilities(x)))
        losing, gaining = (np.flatnonzero(labels == k) for k in (source, target))
        if losing.size == 0 or gaining.size == 0:
            return x
        order = permutation(out_key, x.shape[0])
        out = order[labels[order] == source][: round(self.share * losing.size)]
        picks = uniform(in_key, x.shape[0]).astype(np.float64)[: out.size]
        host = np.array(x)
        host[out] = host[gaining[(picks * gaining.size).astype(int)]]
        return jax.device_put(host)


def _host(key: Key[Array, ""], x: Float[Array, "n d"]) -> Any:
    """The points on the host, where a disturbance of data of any size compiles nothing; traced ones as they are."""
    return x if is_traced(key, x) else np.asarray(x)


def _check_share(name: str, value: float, strict: bool = False) -> None:
    as_scalar(name, value)
    if value > 1 or (strict and value == 1):
        raise ValueError(f"`{name}` must be {'less than' if strict else 'at most'} 1; got {value:g}.")
