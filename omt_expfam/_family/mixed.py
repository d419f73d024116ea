"""Templates for columns of several kinds, and their classes by name."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .._base.tables import column_names
from .mixed_family import Block, mixed_class, MixedFamily
from .template import as_template, Template

_NAME = re.compile(r"(\w+)=(?:([^*\[\]]+)\*)?([^*\[\]]+)(\[[\d, ]+\])(?:, |$)")


def mixed(features: Any = None, /, **blocks: Any) -> Template:
    """A family for columns of several kinds, block by block, to be fitted like any other.

    Within a component blocks are independent: full covariances within a block of Gaussian columns, and what depends on
    what between blocks is left to the mixture. The cost of a pair of points is the sum of the blocks' costs: squared
    distances of numbers and counts, squared arcs of angles, the costs of categories. A coupling of two components then
    is the product of those of the blocks, each solved by its own best route.

        omt.mixed(table, size=(Gaussian, ["height", "weight"]), visits=(Poisson, "visits"), hour=(VonMises, "hour"))

    Args:
        features: The table that is to be fitted, or the names of its columns; may be left out where columns are given
            by numbers.
        blocks: For each block, under a name of your choice, a family or template and its columns, names or numbers; and
            optionally a positive number that the cost of the block is multiplied by, in place of other units.

    Raises:
        TypeError: If a block is no such tuple, or its family cannot be fitted by EM.
        ValueError: If a column is unknown, in two blocks, or in none, or a weight is not positive.
    """
    names = None if features is None else column_names(features) or tuple(map(str, features))
    if len(blocks) < 2:
        raise ValueError(f"`mixed` needs at least two blocks, name=(family, columns); got {len(blocks)}.")
    found, fixed = [], {}
    for name, value in blocks.items():
        if not isinstance(value, tuple) or len(value) not in (2, 3):
            raise TypeError(f"The block {name!r} must be a tuple (family, columns), or (family, columns, weight).")
        chosen = as_template(value[0])
        if issubclass(chosen.family, MixedFamily):
            raise TypeError(f"The block {name!r} must be of one family; got columns of several kinds.")
        columns = [_index(name, column, names) for column in _listed(value[1])]
        weight = float(value[2]) if len(value) == 3 else 1.0
        if not 0 < weight < math.inf:
            raise ValueError(f"The weight of the cost of {name!r} must be positive; got {weight:g}.")
        found.append(Block(name, chosen.family, tuple(sorted(columns)), weight))
        if chosen.fixed:
            fixed[name] = chosen.fixed
    _check_columns(found, names)
    return Template(mixed_class(tuple(found)), fixed, names)


def _listed(columns: Any) -> list[Any]:
    if isinstance(columns, str | int | np.integer):
        return [columns]
    return list(columns)


def _index(block: str, column: Any, names: tuple[str, ...] | None) -> int:
    """The number of a column."""
    if isinstance(column, int | np.integer) and not isinstance(column, bool):
        if column < 0 or (names is not None and column >= len(names)):
            raise ValueError(f"The columns of {block!r} must be numbers from 0 on; got {column}.")
        return int(column)
    if names is None:
        raise ValueError(f"The columns of {block!r} are names: pass the table, or its names, first: mixed(table, ...).")
    if column not in names:
        raise ValueError(f"{column!r}, a column of the block {block!r}, is none of {', '.join(names)}.")
    return names.index(column)


def _check_columns(blocks: list[Block], names: tuple[str, ...] | None) -> None:
    """Raise ValueError unless every column is in one block."""
    used = [column for block in blocks for column in block.columns]
    if empty := [block.name for block in blocks if not block.columns]:
        raise ValueError(f"The block {empty[0]!r} must have a column; got none.")

    def named(column: int) -> str:
        return repr(names[column]) if names is not None else str(column)

    twice = sorted({column for column in used if used.count(column) > 1})
    if twice:
        raise ValueError(f"Every column must be in one block; {named(twice[0])} is in two.")
    missing = sorted(set(range(len(names) if names is not None else max(used) + 1)) - set(used))
    if missing:
        raise ValueError(f"Every column must be in one block; {named(missing[0])} is in none.")


def mixed_of_name(name: str, family_of: Callable[[str], Any]) -> type[MixedFamily] | None:
    """The family that a file names, made of those that ``family_of`` finds."""
    if not (name.startswith("mixed(") and name.endswith(")")):
        return None
    blocks = []
    for block, weight, family, columns in _NAME.findall(name[len("mixed(") : -1]):
        known = family_of(family)
        if known is None:
            return None
        numbers = tuple(int(column) for column in columns[1:-1].split(","))
        blocks.append(Block(block, known, numbers, float(weight) if weight else 1.0))
    return mixed_class(tuple(blocks)) if blocks else None
