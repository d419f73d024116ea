"""The gradient of a convex potential, an optimal map, and its inverse."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_points, as_scalar, KeyLike, ScalarLike
from .._base.arrays import at_top, batch_size, is_traced, on_host, to_jax
from .._base.buckets import pad, point_bucket
from .._base.methods import jittable
from .._base.results import raise_if_failed
from .._base.tables import maps_tables, reads_tables
from .._base.xla import program
from .._plans.plan import TransportPlan
from .average import average, ConjugatePoints, outcome, Solved
from .certificates import Certificate, certificate
from .conjugate import default_tolerance, MAX_STEPS
from .interface import AbstractPotential
from .line import StraightLine
from .members import Members
from .paths import on_the_way
from .selection import Selection

# Numbers in a block of points: they should stay in the processor's cache.
_BLOCK = 2**20
# Points that are solved for side by side.
_GROUP = 32


class BrenierMap(eqx.Module):
    r"""The gradient of a convex potential: the optimal map between a law and its image (Brenier, 1991).

    The potential is an average: of potentials $\phi_m$ of source points, and of conjugates $\psi_m^*$ of potentials of
    target points. Its gradient is the average of the members' maps. `push_forward` and `pull_back` are inverse to each
    other up to the tolerance of the solves: one is a gradient, the other one a conjugate point.

    Attributes:
        source: Members on the source side.
        target: Members on the target side: potentials of target points, for maps from there to the source.
        is_reversed: Whether source and target are read the other way round; see `reverse`.
        selection: The coordinates that members see, where these are not all; the others are left exactly as they are.
        feature_names: Names of the columns, where they are known: points in tables are taken by name.
    """

    source: Members | None
    target: Members | None
    is_reversed: bool = eqx.field(static=True)
    selection: Selection | None = None
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __init__(
        self,
        source: Members | None,
        target: Members | None = None,
        *,
        is_reversed: bool = False,
        selection: Selection | None = None,
        feature_names: tuple[str, ...] | None = None,
    ) -> None:
        given = [side for side in (source, target) if side is not None]
        if not given:
            raise ValueError("`source` and `target` must not both be None: a map needs members on one side.")
        if given[0].num_dimensions != given[-1].num_dimensions:
            dims = " and ".join(str(side.num_dimensions) for side in given)
            raise ValueError(f"`source` and `target` must have the same number of dimensions; got {dims}.")
        self.source, self.target, self.is_reversed, self.selection = source, target, is_reversed, selection
        self.feature_names = feature_names

    @classmethod
    def from_potential(cls, potential: AbstractPotential, dtype: Any = None) -> "BrenierMap":
        """The map of one potential of points in their own units.

        Args:
            potential: A convex potential, of the library or of your own.
            dtype: The floating-point type of points; by default the potential's widest, or JAX's own.
        """
        leaves = [leaf for leaf in jax.tree.leaves(potential) if eqx.is_inexact_array(leaf)]
        if dtype is None:
            dtype = np.result_type(*(leaf.dtype for leaf in leaves)) if leaves else jax.dtypes.canonicalize_dtype(float)
        dim = as_count("num_dimensions", potential.num_dimensions)
        zero, eye, one = np.zeros(dim), np.eye(dim), np.ones(())
        identity = StraightLine(*(to_jax(part, dtype) for part in (zero, zero, eye, eye, one, np.ones(dim))))
        return cls(jax.tree.map(_stacked, Members(potential, identity)))

    @property
    def num_members(self) -> int:
        """M, members of both sides together."""
        return sum(side.num_members for side in self._sides)

    @property
    def num_dimensions(self) -> int:
        """d, the dimension of points."""
        return self._sides[0].num_dimensions if self.selection is None else self.selection.num_dimensions

    @property
    def _sides(self) -> list[Members]:
        return [side for side in (self.source, self.target) if side is not None]

    # -- maps -----------------------------------------------------------------------------------------------------

    @maps_tables
    def push_forward(self, x: ArrayLike) -> Float[Array, "n d"]:
        """The images of points: grad phi(x).

        Args:
            x: Points, shape ``[n, d]``.

        Raises:
            ConvergenceError: If some image had to be solved for, by members on the target side, and was not found.
                Under tracing such images are NaN.
        """
        return self._found(_solve, "x", x, self.is_reversed, "point")

    @maps_tables
    def pull_back(self, y: ArrayLike) -> Float[Array, "n d"]:
        """The points whose images are ``y[n, d]``: grad phi*(y), the conjugate points.

        Raises:
            ConvergenceError: If some point was not found. Under tracing such points are NaN. `solve_pull_back` returns
                them, with the evidence.
        """
        return self._found(_solve, "y", y, not self.is_reversed, "point")

    @jittable
    def solve_push_forward(
        self, x: ArrayLike, *, tolerance: ScalarLike | None = None, max_steps: int = MAX_STEPS
    ) -> ConjugatePoints:
        """`push_forward` with its evidence, as `solve_pull_back`: its ``values`` are phi(x).

        Members on the source side need no solves: with these alone nothing is left to bound.
        """
        return self._evidence("x", x, self.is_reversed, tolerance, max_steps)

    @jittable
    def solve_pull_back(
        self, y: ArrayLike, *, tolerance: ScalarLike | None = None, max_steps: int = MAX_STEPS
    ) -> ConjugatePoints:
        """`pull_back` with its evidence; points that were not found are returned, and flagged.

        Args:
            y: Points, shape ``[n, d]``.
            tolerance: Of the residual, relative to the size of what cancels in it; by default eps^(3/4).
            max_steps: Newton steps at most.
        """
        return self._evidence("y", y, not self.is_reversed, tolerance, max_steps)

    @jittable
    def push_forward_members(self, x: ArrayLike) -> Float[Array, "n M d"]:
        """The images of points ``x[n, d]`` under each member: first those on the side of x.

        Their mean is `push_forward`; of a reversed map it is not quite, as the inverse of a mean of maps is not the
        mean of their inverses.
        """
        return self._found(_member_images, "x", x, self.is_reversed)

    @maps_tables
    def spread(self, x: ArrayLike) -> Float[Array, "n d"]:
        """Standard deviations of the members' images of points ``x[n, d]``, for each coordinate.

        Raises:
            ValueError: If the map has one member.
        """
        if self.num_members < 2:
            raise ValueError("`spread` compares members: fit a map with several; this one has one.")
        return on_host(lambda xp, images: xp.std(images, axis=1, ddof=1), self.push_forward_members(x))

    @maps_tables
    def interpolate(self, t: ScalarLike, x: ArrayLike) -> Float[Array, "n d"]:
        """Where points are at a time on their way: (1 - t) x + t T(x) (McCann, 1997).

        Args:
            t: Time from 0 (source) to 1 (image).
            x: Points, shape ``[n, d]``.

        Raises:
            ValueError: If ``t`` lies outside [0, 1].
        """
        return on_the_way(t, self._points("x", x), self.push_forward)

    # -- potentials -----------------------------------------------------------------------------------------------

    @reads_tables
    def potential(self, x: ArrayLike) -> Float[Array, " n"]:
        """The potential phi at points ``x[n, d]``, units of squared distance; its gradient is `push_forward`."""
        return self._found(_solve, "x", x, self.is_reversed, "value")

    @reads_tables
    def conjugate(self, y: ArrayLike) -> Float[Array, " n"]:
        """The conjugate phi* at points ``y[n, d]``, the largest <x, y> - phi(x); its gradient is `pull_back`."""
        return self._found(_solve, "y", y, not self.is_reversed, "value")

    @reads_tables
    def jacobian(self, x: ArrayLike) -> Float[Array, "n d d"]:
        """The Jacobian of `push_forward` at points ``x[n, d]``: the Hessian of phi, symmetric and positive."""
        return self._found(_jacobians, "x", x, self.is_reversed, "matrix")

    @jittable
    def log_det_jacobian(self, x: ArrayLike) -> Float[Array, " n"]:
        """Log-determinant of the Jacobian at points ``x[n, d]``.

        By change of variables, the image of a density p has log-density log p(x) - ``log_det_jacobian(x)`` at T(x).
        """
        return self._found(_jacobians, "x", x, self.is_reversed, "log_det")

    def certificate(self, key: KeyLike, x: ArrayLike, y: ArrayLike, plan: TransportPlan | None = None) -> Certificate:
        """Bounds of the squared Wasserstein-2 distance of two laws, and how far images are from targets.

        The points must not have been used to fit the map; then the bounds hold up to their standard errors, however
        wrong the map is. The lower bound is the dual value of the potential (Makkuva et al., 2020), in float64. Of more
        than 10,000 points some are drawn.

        Args:
            key: Random key of that choice, of the samples that are matched and of projections.
            x: Source points, shape ``[n, d]``, at least 16.
            y: Target points, shape ``[m, d]``, at least 16.
            plan: A plan whose cost is shown beside.
        """
        return certificate(key, self, x, y, plan)

    def reverse(self) -> "BrenierMap":
        """The inverse map, with its own inverse."""
        return dataclasses.replace(self, is_reversed=not self.is_reversed)

    # -- work -----------------------------------------------------------------------------------------------------

    def _points(self, name: str, value: ArrayLike) -> Any:
        return as_points(name, value, self.num_dimensions, self._sides[0].line.scale.dtype)

    def _found(self, kernel: Any, name: str, value: ArrayLike, backward: bool, wanted: str = "") -> Any:
        """What a kernel says about all points, or an error where some were not found; NaN there when traced."""
        points, kind = self._points(name, value), wanted or "images"
        if self.selection is not None and not self.selection.size:
            return self.selection.nothing(kind, points)
        # All about solved points comes from one program; see `_solve`.
        solves = kernel is _solve and (backward or self.target is not None)
        seen = points if self.selection is None else self.selection.part(points)
        out: Any = self._over(kernel, seen, backward, "" if solves else wanted)
        found, converged = out[Solved._fields.index(wanted) if solves else 0], out[-1]
        if is_traced(converged):
            found = jnp.where(converged.reshape(-1, *[1] * (found.ndim - 1)), found, jnp.nan)
        else:
            found = raise_if_failed(found, outcome(converged))
        return found if self.selection is None else self.selection.whole(kind, found, points)

    def _evidence(
        self, name: str, value: ArrayLike, backward: bool, tolerance: ScalarLike | None, max_steps: int
    ) -> ConjugatePoints:
        points = self._points(name, value)
        if tolerance is not None:
            as_scalar("tolerance", tolerance)
        as_count("max_steps", max_steps, minimum=0)
        if self.selection is None:
            return ConjugatePoints(*self._over(_solve, points, backward, "", tolerance, max_steps))
        kinds = ("point", "value", *[""] * 5)
        if self.selection.size:
            part = self.selection.part(points)
            found = self._over(_solve, part, backward, "", tolerance, max_steps)
            whole: Any = [self.selection.whole(k, f, points) for k, f in zip(kinds, found, strict=True)]
            return ConjugatePoints(*whole)
        known: Any = [self.selection.nothing(kind, points) for kind in kinds[:5]]
        num = points.shape[0]
        known += [to_jax(np.zeros(num, int)), to_jax(np.ones(num, bool))]
        return ConjugatePoints(*known)

    def _over(
        self, kernel: Any, points: Any, backward: bool, wanted: str, tolerance: Any = None, max_steps: int = MAX_STEPS
    ) -> tuple[Any, ...]:
        """A kernel over all points, in blocks that fit in memory."""
        level = default_tolerance(points.dtype) if tolerance is None else tolerance
        level = jnp.asarray(level, points.dtype) if is_traced(level) else to_jax(level, points.dtype)
        if not at_top(self, points, level):
            return kernel(self.source, self.target, points, backward, wanted, level, max_steps)
        num, dim = points.shape
        item = _item_size(self._sides)
        size = batch_size(item * dim if kernel is _jacobians else item, _BLOCK)
        # Groups of points fill blocks.
        size = max(size - size % _GROUP, _GROUP)
        host, parts = np.asarray(points), []
        for start in range(0, max(num, 1), size):
            block = host[start : start + size]
            filled = pad(block, min(point_bucket(len(block)), size)) if num else np.zeros((1, dim), host.dtype)
            out = kernel(self.source, self.target, jax.device_put(filled), backward, wanted, level, max_steps)
            parts.append([np.asarray(value)[: len(block)] for value in out])
        return tuple(to_jax(np.concatenate(values)) for values in zip(*parts, strict=True))

    def __repr__(self) -> str:
        sides = [
            f"{side.num_members} {type(side.potential).__name__} on the {name}"
            for name, side in zip(("source", "target"), (self.source, self.target), strict=True)
            if side is not None
        ]
        back = ", reversed" if self.is_reversed else ""
        seen = "" if self.selection is None else f"{self.selection.size} of "
        return f"BrenierMap({' and '.join(sides)}, {seen}{self.num_dimensions} dimensions{back})"


def _item_size(members: list[Members]) -> int:
    """About as many numbers as there are at one point: a network's parameters, by the width of its matrices."""
    arrays = [leaf for leaf in jax.tree.leaves(members) if eqx.is_array(leaf)]
    return sum(leaf.size for leaf in arrays) // max(leaf.shape[-1] for leaf in arrays if leaf.ndim)


def _stacked(leaf: Any) -> Any:
    """A leaf of one potential, as one of an ensemble of one."""
    if isinstance(leaf, bool) or not eqx.is_array_like(leaf):
        return leaf
    return jnp.asarray(leaf)[None] if is_traced(leaf) else to_jax(np.asarray(leaf)[None])


# -- kernels -----------------------------------------------------------------------------------------------------------


def _way(source: Members | None, target: Members | None, backward: bool, level: Array, max_steps: int) -> Any:
    mean = average(source, target)
    return lambda point: (mean.backward if backward else mean.forward)(point, level, max_steps)


def _in_groups(function: Callable[[Array], Any], points: Array) -> Any:
    """A function of each point, for a few points at a time on CPUs: a group waits for its slowest solve."""
    size = _GROUP if jax.default_backend() == "cpu" else len(points)
    return jax.lax.map(function, points, batch_size=max(1, min(size, len(points))))


@program
def _solve(
    source: Members | None,
    target: Members | None,
    points: Array,
    backward: bool,
    wanted: str,
    level: Array,
    max_steps: int,
) -> tuple[Array, ...]:
    """What is wanted of each point, and whether it was found; or all about it, by one program for all methods."""
    way = _way(source, target, backward, level, max_steps)
    found = _in_groups(way, points) if backward or target is not None else jax.vmap(way)(points)
    return (getattr(found, wanted), found.converged) if wanted else tuple(found)


@program
def _jacobians(
    source: Members | None,
    target: Members | None,
    points: Array,
    backward: bool,
    wanted: str,
    level: Array,
    max_steps: int,
) -> tuple[Array, Array]:
    """Jacobians of the map, or their log-determinants, and whether all points were found."""
    way = _way(source, target, backward, level, max_steps)

    def image(point: Array) -> tuple[Array, Array]:
        found = way(point)
        return found.point, found.converged

    matrices, converged = _in_groups(jax.jacfwd(image, has_aux=True), points)
    matrices = 0.5 * (matrices + jnp.swapaxes(matrices, 1, 2))
    return matrices if wanted == "matrix" else jnp.linalg.slogdet(matrices)[1], converged


@program
def _member_images(
    source: Members | None,
    target: Members | None,
    points: Array,
    backward: bool,
    wanted: str,
    level: Array,
    max_steps: int,
) -> tuple[Array, Array]:
    """Images under each member, members of the points' side first; backward, these are the target's."""
    mean = average(target, source) if backward else average(source, target)

    def one(point: Array) -> tuple[Array, Array]:
        images, found = mean.images(mean.line.whiten_source(point), level, max_steps)
        converged = jnp.asarray(True) if found is None else jnp.all(found.converged)
        return jax.vmap(mean.line.target_point)(images), converged

    return _in_groups(one, points)
