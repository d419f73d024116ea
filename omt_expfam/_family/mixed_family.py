"""Components whose columns are of several kinds, each block of columns with a family of its own."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Key, PyTree

from .._components.columns import ColumnPart, join, join_matrices, split
from .._numerics.support import JoinedSupport
from .bayesian import AbstractPriors, priors_of
from .em_family import AbstractEMFamily, AbstractRegularEMFamily


class Block(NamedTuple):
    """Some columns and their family.

    Attributes:
        name: The name of the block.
        family: The family.
        columns: The columns, increasing.
        cost_weight: What the cost of these columns is multiplied by.
    """

    name: str
    family: type[AbstractEMFamily]
    columns: tuple[int, ...]
    cost_weight: float

    def __str__(self) -> str:
        factor = "" if self.cost_weight == 1 else f"{self.cost_weight!r}*"
        return f"{self.name}={factor}{self.family.__name__}{list(self.columns)}"


class _Priors(AbstractPriors):
    """Those of every block, under names that start with the block's."""

    def default(self, components: "MixedFamily", x: Float[Array, "n d"]) -> dict[str, dist.Distribution]:
        found = {}
        for block, part, columns in zip(components.blocks, components.parts, components.split(x), strict=True):
            own = priors_of(part).default(part, columns)
            found |= {f"{block.name}.{name}": prior for name, prior in own.items()}
        return found

    def parameters(self, components: "MixedFamily", names: tuple[str, ...]) -> dict[str, Any]:
        found = {}
        for block, part, own in self._of_blocks(components, dict.fromkeys(names)):
            values = priors_of(part).parameters(part, tuple(own))
            found |= {f"{block.name}.{name}": value for name, value in values.items()}
        return {name: found[name] for name in names}

    def with_parameters(self, components: "MixedFamily", parameters: dict[str, Any]) -> "MixedFamily":
        moved = []
        for _, part, own in self._of_blocks(components, parameters):
            moved.append(priors_of(part).with_parameters(part, own) if own else part)
        return type(components)(*moved)

    def hyperparameters(
        self, components: "MixedFamily", priors: dict[str, dist.Distribution], origin: Float[Array, " d"]
    ) -> PyTree | None:
        origins = components.split(origin)
        found = [
            priors_of(part).hyperparameters(part, own, its)
            for (_, part, own), its in zip(self._of_blocks(components, priors), origins, strict=True)
        ]
        return None if any(hyper is None for hyper in found) else tuple(found)

    def sums(self, key: Key[Array, ""], components: "MixedFamily", data: PyTree, labels: Float[Array, "K n"]) -> PyTree:
        keys = jax.random.split(key, len(components.parts))
        each = zip(keys, components.parts, data, strict=True)
        return tuple(priors_of(part).sums(own, part, points, labels) for own, part, points in each)

    def draw(
        self, key: Key[Array, ""], components: "MixedFamily", counts: Float[Array, " K"], sums: PyTree, hyper: PyTree
    ) -> "MixedFamily":
        keys = jax.random.split(key, len(components.parts))
        each = zip(keys, components.parts, sums, hyper, strict=True)
        return type(components)(*[priors_of(part).draw(own, part, counts, its, h) for own, part, its, h in each])

    def _of_blocks(self, components: "MixedFamily", values: dict[str, Any]) -> list[tuple[Block, Any, dict[str, Any]]]:
        """Every block with its part and what it has among named values, under the part's own names."""
        found = []
        for block, part in zip(components.blocks, components.parts, strict=True):
            prefix = f"{block.name}."
            own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
            found.append((block, part, own))
        return found


class MixedFamily(AbstractEMFamily):
    """Components whose blocks of columns are independent, each of a family of its own; `mixed` makes templates of them.

    Blocks share their labels: what depends on what between them, the mixture tells. ``components["name"]`` is the part
    of a block.

    Attributes:
        parts: The components of every block, K of each.
    """

    parts: tuple[AbstractEMFamily, ...]
    blocks: ClassVar[tuple[Block, ...]]
    priors: ClassVar = _Priors()

    def __init__(self, *parts: AbstractEMFamily):
        """Build components from those of the blocks, in their order.

        Raises:
            TypeError: If a part is not of its block's family.
            ValueError: If numbers of parts, components or columns do not fit.
        """
        if len(parts) != len(self.blocks):
            raise ValueError(f"There must be components for each of {len(self.blocks)} blocks; got {len(parts)}.")
        for block, part in zip(self.blocks, parts, strict=True):
            if not isinstance(part, block.family):
                raise TypeError(
                    f"{block.name!r} must be {block.family.__name__} components; got {type(part).__name__}."
                )
            if part.dim != len(block.columns):
                raise ValueError(f"{block.name!r} must be of {len(block.columns)} columns; got {part.dim}.")
        if len({part.num_components for part in parts}) > 1:
            numbers = ", ".join(str(part.num_components) for part in parts)
            raise ValueError(f"Blocks must have one number of components; got {numbers}.")
        self.parts = parts

    def __getitem__(self, name: str) -> AbstractEMFamily:
        for block, part in zip(self.blocks, self.parts, strict=True):
            if block.name == name:
                return part
        raise KeyError(f"{name!r} is no block; there are {', '.join(block.name for block in self.blocks)}.")

    def with_column_parts(self, parts: Sequence[Any]) -> Any:
        """Components of the same blocks whose families are those of other parts."""
        blocks = [block._replace(family=type(part)) for block, part in zip(self.blocks, parts, strict=True)]
        return mixed_class(tuple(blocks))(*parts)

    @property
    def dim(self) -> int:
        return sum(len(block.columns) for block in self.blocks)

    def column_parts(self) -> tuple[ColumnPart, ...]:
        each = zip(self.parts, self.blocks, strict=True)
        return tuple(ColumnPart(part, np.asarray(block.columns), block.cost_weight) for part, block in each)

    def split(self, x: Array) -> list[Array]:
        """The columns of points ``x[..., d]`` that belong to each block."""
        return split(x, self.column_parts())

    def _rows(self, x: Float[Array, "d *n"]) -> list[Array]:
        """The coordinates of one point, or of many that stand in columns, which belong to each block.

        A size factor after them goes to every block of counts.
        """
        last = np.arange(self.dim, x.shape[0])
        return [x[np.concatenate([b.columns, last]) if b.family.sized else np.asarray(b.columns)] for b in self.blocks]

    def turned(self, order: Sequence[int]) -> "MixedFamily | None":
        place = {int(old): new for new, old in enumerate(order)}
        blocks, parts = [], []
        for block, part in zip(self.blocks, self.parts, strict=True):
            moved = [place[column] for column in block.columns]
            inner = np.argsort(moved)
            part = part if (inner == np.arange(len(inner))).all() else part.turned([int(i) for i in inner])
            if part is None:
                return None
            blocks.append(block._replace(columns=tuple(sorted(moved))))
            parts.append(part)
        return mixed_class(tuple(blocks))(*parts)

    # -- densities, draws and moments -----------------------------------------------------------------------------

    def _log_prob(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        return _total([part._log_prob(own) for part, own in zip(self.parts, self._rows(x), strict=True)])

    def _sample(self, key: Key[Array, ""]) -> Float[Array, " d"]:
        keys = jax.random.split(key, len(self.parts))
        return self._join([part._sample(own) for part, own in zip(self.parts, keys, strict=True)])

    def _to_size_one(self, key: Key[Array, ""], x: Float[Array, " d"], size: Float[Array, ""]) -> Float[Array, " d"]:
        each = zip(self.parts, self._rows(x), jax.random.split(key, len(self.parts)), strict=True)
        return self._join([part._to_size_one(own_key, own, size) if part.sized else own for part, own, own_key in each])

    def _mean(self) -> Float[Array, " d"]:
        return self._join([part._mean() for part in self.parts])

    def _covariance(self) -> Float[Array, "d d"]:
        return join_matrices([part._covariance() for part in self.parts], self.column_parts())

    def _join(self, values: list[Array]) -> Array:
        return join(values, self.column_parts())

    def log_prob_rows(self, x: Float[Array, "n d"], sizes: Float[Array, " n"] | None = None) -> Float[Array, "K n"]:
        each = zip(self.parts, self.split(x), strict=True)
        return _total([part.log_prob_rows(columns, sizes if part.sized else None) for part, columns in each])

    # -- EM -------------------------------------------------------------------------------------------------------

    @classmethod
    def column_families(cls, dim: int) -> tuple[tuple[type[AbstractEMFamily], np.ndarray], ...]:
        width = sum(len(block.columns) for block in cls.blocks)
        if dim != width:
            raise ValueError(f"`x` must have {width} columns for {cls.__name__}; got {dim}.")
        return tuple((block.family, np.asarray(block.columns)) for block in cls.blocks)

    @classmethod
    def _blank(cls, num_components: int, dim: int, dtype: Any, **fixed: Any) -> "MixedFamily":
        families = cls.column_families(dim)
        each = zip(cls.blocks, families, strict=True)
        return cls(
            *[family._blank(num_components, len(own), dtype, **fixed.get(b.name, {})) for b, (family, own) in each]
        )

    def _fixed(self) -> dict[str, Any]:
        each = zip(self.blocks, self.parts, strict=True)
        return {block.name: fixed for block, part in each if (fixed := part._fixed())}

    def _num_parameters(self) -> int:
        return sum(part._num_parameters() for part in self.parts)

    @classmethod
    def _check_points(cls, x: np.ndarray, **fixed: Any) -> None:
        for block in cls.blocks:
            try:
                block.family._check_points(x[:, block.columns], **fixed.get(block.name, {}))
            except ValueError as error:
                raise ValueError(f"{error} (Columns {list(block.columns)}, the block {block.name!r}.)") from None

    def _verify(self) -> None:
        for part in self.parts:
            part._verify()

    def _prepare(self, x: Float[Array, "d n"]) -> tuple[PyTree, ...]:
        return tuple(part._prepare(own) for part, own in zip(self.parts, self._rows(x), strict=True))

    def _table(self, data: tuple[PyTree, ...]) -> Float[Array, "K n"]:
        return _total([part._table(own) for part, own in zip(self.parts, data, strict=True)])

    def _accumulate(self, data: tuple[PyTree, ...], responsibilities: Float[Array, "K n"]) -> tuple[PyTree, ...]:
        return tuple(part._accumulate(own, responsibilities) for part, own in zip(self.parts, data, strict=True))

    def _pooled(self, counts: Float[Array, " K"], sums: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        return tuple(part._pooled(counts, own) for part, own in zip(self.parts, sums, strict=True))

    def _prior_strength(self) -> float:
        """That of the block which has most; others keep their share of it."""
        return max(part._prior_strength() for part in self.parts)

    def _strengths(self, strength: Float[Array, ""]) -> list[Float[Array, ""]]:
        most = self._prior_strength()
        return [strength * (part._prior_strength() / most if most else 1.0) for part in self.parts]

    def _log_prior(self, target: tuple[PyTree, ...], strength: Float[Array, ""]) -> Float[Array, " K"]:
        each = zip(self.parts, target, self._strengths(strength), strict=True)
        return _total([part._log_prior(own, its) for part, own, its in each])

    def _maximize(
        self,
        counts: Float[Array, " K"],
        sums: tuple[PyTree, ...],
        target: tuple[PyTree, ...],
        strength: Float[Array, ""],
        ridge: Float[Array, ""],
    ) -> "MixedFamily":
        each = zip(self.parts, sums, target, self._strengths(strength), strict=True)
        return type(self)(*[part._maximize(counts, own, its, size, ridge) for part, own, its, size in each])

    def _start(
        self, x: Float[Array, "d n"], responsibilities: Float[Array, "K n"], ridge: Float[Array, ""]
    ) -> "MixedFamily":
        each = zip(self.parts, self._rows(x), strict=True)
        return type(self)(*[part._start(own, responsibilities, ridge) for part, own in each])

    def _affine(self, shift: Float[Array, " d"], scale: Float[Array, " d"]) -> "MixedFamily":
        each = zip(self.parts, self.split(shift), self.split(scale), strict=True)
        return type(self)(*[part._affine(own, its) for part, own, its in each])


class RegularMixedFamily(MixedFamily, AbstractRegularEMFamily):
    """Mixed components whose blocks all are of regular exponential families: a regular family themselves."""

    priors: ClassVar = _Priors()

    def _sufficient_statistics(self, x: Float[Array, " d"]) -> Float[Array, " m"]:
        each = zip(self._regular(), self._rows(x), strict=True)
        return jnp.concatenate([part._sufficient_statistics(own) for part, own in each])

    def _natural_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate([part._natural_parameters() for part in self._regular()])

    def _mean_parameters(self) -> Float[Array, " m"]:
        return jnp.concatenate([part._mean_parameters() for part in self._regular()])

    def _log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        each = zip(self._regular(), self._slices(eta), strict=True)
        return _total([part._log_partition(own) for part, own in each])

    def _log_base_measure(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        each = zip(self._regular(), self._rows(x), strict=True)
        return _total([part._log_base_measure(own) for part, own in each])

    def _entropy(self) -> Float[Array, ""]:
        return _total([part._entropy() for part in self._regular()])

    def _negative_dual(self) -> Float[Array, ""]:
        return _total([part._negative_dual() for part in self._regular()])

    def with_natural_parameters(self, natural_parameters: Float[Array, "K m"]) -> "RegularMixedFamily":
        each = zip(self._regular(), self._slices(natural_parameters), strict=True)
        return type(self)(*[part.with_natural_parameters(own) for part, own in each])

    def with_mean_parameters(self, mean_parameters: Float[Array, "K m"]) -> "RegularMixedFamily":
        each = zip(self._regular(), self._slices(mean_parameters), strict=True)
        return type(self)(*[part.with_mean_parameters(own) for part, own in each])

    def _regular(self) -> tuple[Any, ...]:
        return self.parts

    def _slices(self, values: Float[Array, "*b m"]) -> list[Array]:
        """Statistics, or parameters, of each block."""
        sizes = [_num_statistics(part) for part in self._regular()]
        return [values[..., end - size : end] for end, size in zip(np.cumsum(sizes), sizes, strict=True)]


@functools.cache
def mixed_class(blocks: tuple[Block, ...]) -> type[MixedFamily]:
    """The family with these blocks, one class for each."""
    families = [block.family for block in blocks]
    regular = all(issubclass(family, AbstractRegularEMFamily) for family in families)
    base = RegularMixedFamily if regular else MixedFamily
    smoothness: Any = min(family.smoothness for family in families)
    members = {
        "__module__": __name__,
        "__doc__": "Components of columns of several kinds.",
        "blocks": blocks,
        "support": JoinedSupport(tuple((block.family.support, block.columns) for block in blocks)),
        "streams": all(family.streams for family in families),
        "heavy_tails": any(family.heavy_tails for family in families),
        "sized": any(family.sized for family in families),
        "smoothness": smoothness,
        "__annotations__": {},
    }
    meta: Any = type(base)
    return meta(f"mixed({', '.join(map(str, blocks))})", (base,), members)


def _num_statistics(part: Any) -> int:
    point = jax.ShapeDtypeStruct((part.dim,), part.dtype)
    return jax.eval_shape(lambda x: part._sufficient_statistics(x), point).shape[0]


def _total(values: list[Array]) -> Array:
    return sum(values[1:], start=values[0])
