"""A fitting problem in standardized units: its data and its prior.

Points and components are padded to sizes that many problems share: points of weight zero, and components of weight zero
that stay at zero.
"""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.buckets import component_bucket, data_bucket, pad, pad_zero, point_bucket
from .._components.mixture import Mixture
from .._family.template import Template
from .rows import Rows
from .start import seeding_of

# Numbers held at once by an E-step before the data are cut into chunks, and the size of a chunk then.
_WHOLE, _CHUNK = 2**25, 2**21
# Points used to find a start, per fit and per component.
_START_POINTS, _START_POINTS_PER_COMPONENT = 5_000, 500
# Room for overfitted components, at least.
_LEAST_START = 16
# Numbers in the sums of an E-step (points times components times parameters) up to which room for the overfitted
# mixture is kept to the end, and up to which components are padded at all: less work than a compilation.
_SMALL, _MEDIUM = 2**17, 1_500_000


def working_precision(dtype: str) -> contextlib.AbstractContextManager:
    """The context in which problems of this dtype are made and solved, whatever JAX's global flags."""
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


class MovedStart(NamedTuple):
    """A start in the units of the data, and how to standardize it."""

    mixture: Mixture
    shift: np.ndarray
    scale: np.ndarray


class Facts(NamedTuple):
    """What a family says of itself for a given number of components and dimensions.

    Attributes:
        num_parameters: Free parameters of one component.
        prior_strength: Its default number of pseudo-observations.
        numbers_per_point: How many numbers the E-step holds of each point, besides the responsibilities.
        keeps_family: Whether merging is done in the family itself.
    """

    num_parameters: int
    prior_strength: float
    numbers_per_point: int
    keeps_family: bool


class FitProblem(NamedTuple):
    """The standardized data, padded, and everything that stays fixed during a fit.

    Attributes:
        template: The family with its fixed parameters.
        facts: What it says of itself.
        x: Points, shape ``[m, d]``.
        weight: Their weights, shape ``[m]``; zero beyond the first ``num_points``.
        num_points: Number of points n.
        num_components: Number of components K.
        slots: Room for components in the main iteration, at least K.
        strength: Number of pseudo-observations.
        ridge: What is added to variances.
        chunk: Points per E-step.
        shift: What standardization subtracted, shape ``[d]``.
        scale: What it divided by, shape ``[d]``.
        rows: The points in their own units, where they are not in memory, and their weights on the host; ``x`` and
            ``weight`` are empty then.
    """

    template: Template
    facts: Facts
    x: Float[Array, "m d"]
    weight: Float[Array, " m"]
    num_points: int
    num_components: int
    slots: int
    strength: Float[Array, ""]
    ridge: Float[Array, ""]
    chunk: int
    shift: Float[Array, " d"]
    scale: Float[Array, " d"]
    rows: tuple[Rows, np.ndarray] | None = None

    def start_slots(self, num_components: int) -> int:
        """Room for components where a start for so many is sought."""
        return _start_slots(self.template, num_components)

    def subset(
        self, random: np.random.Generator, num_components: int
    ) -> tuple[Float[Array, "m d"], Float[Array, " m"]]:
        """Enough points to find a start for so many components, padded."""
        num = max(_START_POINTS, _START_POINTS_PER_COMPONENT * num_components)
        heavy = self.template.family.heavy_tails
        if self.rows is None and self.num_points <= num:
            x = np.asarray(self.x)
            return jax.device_put(_drawn_in(x, x[: self.num_points])) if heavy else self.x, self.weight
        x, weight = self._some(random, min(num, self.num_points))
        size = point_bucket(len(x))
        return jax.device_put((pad(_drawn_in(x, x) if heavy else x, size), pad_zero(weight, size)))

    def _some(self, random: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
        """Some points and their weights, on the host."""
        every = np.arange(self.num_points)
        chosen = every if num == len(every) else random.choice(every, num, replace=False, shuffle=False)
        if self.rows is None:
            return np.asarray(self.x)[chosen], np.asarray(self.weight)[chosen]
        rows, weight = self.rows
        chosen = np.flatnonzero(weight > 0)[chosen]
        return self.standardized(rows.take(chosen)), weight[chosen].astype(self.x.dtype)

    def standardized(self, points: np.ndarray) -> np.ndarray:
        """Points in the units of the problem, on the host."""
        shift, scale = (np.asarray(part, np.float64) for part in (self.shift, self.scale))
        return ((points - shift) / scale).astype(self.x.dtype)


def _drawn_in(x: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Coordinates cut off at half the span of the middle four fifths of points, beyond it."""
    low, high = np.quantile(points, (0.1, 0.9), axis=0)
    reach = 0.5 * (high - low)
    return np.where(reach > 0, np.clip(x, low - reach, high + reach), x).astype(x.dtype)


def fit_problem(
    template: Template,
    points: np.ndarray | Rows,
    weight: np.ndarray,
    num_components: int,
    covariance_prior: float | None,
    regularization: float,
    chunk_size: int | None,
    dtype: str,
    shift: np.ndarray,
    scale: np.ndarray,
) -> FitProblem:
    """The problem in standardized units, padded; to be called where arrays have the precision of the computation."""
    num, dim = int(np.count_nonzero(weight)), points.shape[1]
    facts = facts_of(template, num_components, dim, dtype)
    if isinstance(points, Rows):
        size, rows, x, used = len(points), (points, weight), np.zeros((0, dim)), weight[:0]
    else:
        size, rows = data_bucket(num), None
        x, used = _padded((points - shift) / scale, size), pad_zero(weight, size)
    strength = facts.prior_strength if covariance_prior is None else covariance_prior
    slots = _slots(template, facts, size, num_components)
    arrays: Any = [np.asarray(value, dtype) for value in (x, used, strength, regularization, shift, scale)]
    x, used, strength, ridge, move, stretch = jax.device_put(arrays)
    chunk = _chunk(template, facts, size, slots, chunk_size, rows is None)
    sizes, units = (num, num_components, slots), (move, stretch)
    return FitProblem(template, facts, x, used, *sizes, strength, ridge, chunk, *units, rows)


def _padded(x: np.ndarray, size: int) -> np.ndarray:
    """Points, and their corner, which is in the support of any family and the last in every order."""
    return np.concatenate([x, np.broadcast_to(x.max(axis=0), (size - len(x), x.shape[1]))])


def facts_of(template: Template, num_components: int, dim: int, dtype: str) -> Facts:
    """What a family says of itself, found without computing anything; once, where nothing is fixed."""
    if template.fixed or template.sized:
        return _look_up(template, num_components, dim, dtype)
    return _known_facts(template.family, num_components, dim, dtype)


@functools.cache
def _known_facts(family: Any, num_components: int, dim: int, dtype: str) -> Facts:
    return _look_up(Template(family, {}), num_components, dim, dtype)


def _look_up(template: Template, num_components: int, dim: int, dtype: str) -> Facts:
    found = {}

    def look(point: Array) -> Any:
        blank = template.blank(num_components, dim, dtype)
        seeding = seeding_of(blank, num_components)
        found["facts"] = blank._num_parameters(), float(blank._prior_strength()), type(seeding) is type(blank)
        return blank._prepare(point)

    ready = jax.eval_shape(look, jax.ShapeDtypeStruct((dim, 1), dtype))
    parameters, strength, keeps_family = found["facts"]
    return Facts(parameters, strength, sum(leaf.size for leaf in jax.tree.leaves(ready)), keeps_family)


def _slots(template: Template, facts: Facts, num_points: int, num: int) -> int:
    """Room for components in the main iteration."""
    if template.per_component:
        return num
    work = num_points * facts.num_parameters
    start = _start_slots(template, num)
    if facts.keeps_family and work * start <= _SMALL:
        return start
    return component_bucket(num) if work * component_bucket(num) <= _MEDIUM else num


def _start_slots(template: Template, num: int) -> int:
    return 2 * num if template.per_component else max(_LEAST_START, component_bucket(2 * num))


def _chunk(
    template: Template, facts: Facts, num_points: int, slots: int, chunk_size: int | None, in_memory: bool
) -> int:
    """Points per E-step."""
    if not template.family.streams:
        return num_points
    if chunk_size is not None:
        return min(chunk_size, num_points)
    per_point = facts.numbers_per_point + 3 * slots
    whole = in_memory and num_points * per_point <= _WHOLE
    return num_points if whole else min(num_points, max(256, _CHUNK // per_point))
