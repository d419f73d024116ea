r"""The average of potentials, some of them given by their conjugates, at one point.

$\phi = \sum_m w_m \phi_m + \sum_m w_m \psi_m^*$ with potentials $\phi_m$ of source points and $\psi_m$ of target
points; it is convex, and its gradient is the average of the members' maps. Forward, each $\psi_m$ asks for its own
conjugate point $z_m$. Backward, the point x that the gradient sends to y is the saddle point

$$\min_x \max_z \; \sum_m w_m \phi_m(x) + \sum_m w_m (\langle x, z_m \rangle - \psi_m(z_m)) - \langle x, y \rangle,$$

a plain minimum without $\psi$, whose conjugates need no solves of their own.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._base.results import RESULTS
from .conjugate import conjugate_point, norm, stationary_point, whitened_size
from .interface import AbstractPotential
from .line import StraightLine
from .members import Members


class Solved(NamedTuple):
    """A point of one side that belongs to one of the other, with the evidence; units as the methods say.

    Attributes:
        point: The point.
        value: phi at the point that was given (forward), phi* there (backward).
        residual: A bound on the distance between what was given and where the point found leads.
        error: A bound on the distance from the exact point; infinite where strong convexity is not known.
        gap: A bound on the error of ``value``, rounding apart.
        num_steps: Newton steps.
        converged: Whether the solve met its tolerance.
    """

    point: Float[Array, " d"]
    value: Float[Array, ""]
    residual: Float[Array, ""]
    error: Float[Array, ""]
    gap: Float[Array, ""]
    num_steps: Int[Array, ""]
    converged: Bool[Array, ""]


class ConjugatePoints(eqx.Module):
    """Points that a map sends to given ones, with the evidence.

    Attributes:
        points: The points, shape ``[n, d]``.
        values: phi* at the given points: the largest <x, y> - phi(x), units of squared distance.
        residuals: Bounds on the distances between the given points and the images of those that were found; equal to
            them where the map has no members on the target side.
        point_errors: Bounds on the distances of ``points`` from the exact ones, by strong convexity; infinite where the
            map has members on the target side alone.
        value_errors: Bounds on the errors of ``values``, rounding apart.
        num_steps: Newton steps of each solve.
        converged: Whether each met the tolerance.
    """

    points: Float[Array, "n d"]
    values: Float[Array, " n"]
    residuals: Float[Array, " n"]
    point_errors: Float[Array, " n"]
    value_errors: Float[Array, " n"]
    num_steps: Int[Array, " n"]
    converged: Bool[Array, " n"]

    @property
    def result(self) -> Any:
        """Whether all points were found."""
        return outcome(self.converged)

    def __repr__(self) -> str:
        num, found = self.converged.shape[0], int(np.sum(np.asarray(self.converged)))
        worst = float(np.max(np.asarray(self.residuals), initial=0.0))
        return f"ConjugatePoints({found} of {num} found, residual at most {worst:.2g})"


def outcome(converged: Any) -> Any:
    """Whether all points were found, as a member of `RESULTS`."""
    fine = bool(np.all(np.asarray(converged)))
    return RESULTS.successful if fine else RESULTS.conjugate_not_converged


class Average(eqx.Module):
    """An average of members with equal weights, in coordinates where all of them are close to the identity.

    Attributes:
        line: Those coordinates, of points ("whitened"); methods take points in their own units.
        source: Members on the source side, relative to ``line``.
        target: Members on the target side, relative to its reverse.
        moduli: Strong convexity of each member in these coordinates, source before target.
        stretch: Largest factors by which lengths grow from the coordinates to source and target points.
    """

    line: StraightLine
    source: Members | None
    target: Members | None
    moduli: Float[Array, " M"]
    stretch: Float[Array, " 2"]

    @property
    def _share(self) -> float:
        return 1 / self.moduli.shape[0]

    @property
    def _num_source(self) -> int:
        return 0 if self.source is None else self.source.num_members

    def images(self, x: Float[Array, " d"], tolerance: Any, max_steps: int) -> tuple[Float[Array, "M d"], Any]:
        """Images of a whitened point under every member, and the evidence of those that had to be solved for."""
        if self.target is None:
            assert self.source is not None
            return self.source.images(x), None

        own = jnp.zeros((0, *x.shape), x.dtype) if self.source is None else self.source.images(x)
        # The other members' image is nearer than the straight line's, which is the point itself.
        start = x if self.source is None else jnp.mean(own, axis=0)

        def one(member: Members) -> Any:
            return conjugate_point(member.image, x, start, tolerance, max_steps)

        found = eqx.filter_vmap(one)(self.target)
        return jnp.concatenate([own, found.point]), found

    def forward(self, x: Float[Array, " d"], tolerance: Any, max_steps: int) -> Solved:
        """The image of a source point, and phi there."""
        inner = self.line.whiten_source(x)
        images, found = self.images(inner, tolerance, max_steps)
        zero = jnp.zeros((), x.dtype)
        values = [] if self.source is None else [self.source.values(inner)]
        error = gap = residual = zero
        num_steps, converged = jnp.asarray(0), jnp.asarray(True)
        if self.target is not None:
            points = images[self._num_source :]
            values.append(points @ inner - eqx.filter_vmap(Members.value)(self.target, points))
            rest = jax.vmap(norm)(found.rest)
            moduli = self.moduli[self._num_source :]
            error, gap = jnp.sum(_ratio(rest, moduli)), 0.5 * jnp.sum(_ratio(rest**2, moduli))
            residual = jnp.max(rest)
            num_steps, converged = jnp.max(found.num_steps), jnp.all(found.converged)
        image = self.line.target_point(jnp.mean(images, axis=0))
        value = self.line.value(x, jnp.mean(jnp.concatenate(values)))
        units = self.line.scale**2
        return Solved(
            image,
            value,
            self.stretch[0] * residual,
            self.stretch[1] * self._share * error,
            units * self._share * gap,
            num_steps,
            converged,
        )

    def backward(self, y: Float[Array, " d"], tolerance: Any, max_steps: int) -> Solved:
        """The source point whose image a target point is, and phi* there."""
        inner = self.line.whiten_target(y)
        dim, share = inner.shape[0], self._share
        num = self.moduli.shape[0] - self._num_source
        root = share**0.5

        def field(u: Float[Array, " m"]) -> Float[Array, " m"]:
            """The gradient, in x and in z times the root of its weight: the Jacobian is symmetric in these."""
            x, z = u[:dim], u[dim:].reshape(num, dim)
            rest = root * jnp.sum(z, axis=0) - inner
            if self.source is not None:
                rest = rest + share * jnp.sum(self.source.images(x), axis=0)
            if self.target is None:
                return rest
            back = eqx.filter_vmap(Members.image)(self.target, z / root)
            return jnp.concatenate([rest, (root * (x[None] - back)).ravel()])

        # Target members have images of their own for y; without them the straight line's is y itself.
        begin = inner if self.target is None else jnp.mean(self.target.images(inner), axis=0)
        if self.target is None and self.source is not None and _knows_better(self.source):
            begin = jnp.mean(eqx.filter_vmap(lambda member: member.near_conjugate(inner))(self.source), axis=0)
        start = jnp.concatenate([begin, jnp.tile(root * inner, num)])
        found = stationary_point(field, start, whitened_size(inner), tolerance, max_steps)
        x, z = found.point[:dim], found.point[dim:].reshape(num, dim) / root
        rest, others = norm(found.rest[:dim]), jax.vmap(norm)(found.rest[dim:].reshape(num, dim))
        value = x @ inner
        if self.source is not None:
            value = value - share * jnp.sum(self.source.values(x))
        if self.target is not None:
            value = value - share * jnp.sum(z @ x - eqx.filter_vmap(Members.value)(self.target, z))
        ours, theirs = share * jnp.sum(self.moduli[: self._num_source]), self.moduli[self._num_source :]
        least = jnp.min(theirs, initial=jnp.inf)
        off = jnp.sum(_ratio(others, theirs)) * root
        residual = norm(self.line.target_point(found.rest[:dim]) - self.line.target_mean) + self.stretch[1] * off
        gap = jnp.maximum(_ratio(rest**2, ours), jnp.sum(_ratio(others**2, theirs)))
        return Solved(
            self.line.source_point(x),
            self.line.conjugate(y, value),
            residual,
            self.stretch[0] * _ratio(norm(found.rest), jnp.minimum(ours, least)),
            0.5 * self.line.scale**2 * gap,
            found.num_steps,
            found.converged,
        )


def average(source: Members | None, target: Members | None) -> Average:
    """The average of members that are given in the points' own coordinates."""
    first = source if source is not None else target
    assert first is not None
    line = jax.tree.map(lambda leaf: leaf[0], first.line)
    line = line if source is not None else line.reverse()
    sides = _relative(source, line), _relative(target, line.reverse())
    dim = first.num_dimensions
    floors = [jnp.zeros((0,), line.scale.dtype)]
    grams = [_gram(line.scale**2 * matrix)[None] for matrix in (line.target_matrix.T, line.source_matrix.T)]
    for side in sides:
        if side is not None:
            floors.append(eqx.filter_vmap(_strong_convexity)(side) * side.line.scale**2)
            grams.append(jax.vmap(_gram)(side.line.source_matrix))
    # One after another: factorizations side by side can wait for each other for ever.
    ends = jax.lax.map(lambda gram: jnp.linalg.eigvalsh(gram)[jnp.asarray([0, dim - 1])], jnp.concatenate(grams))
    moduli = jnp.concatenate(floors) * jnp.maximum(ends[2:, 0], 0)
    return Average(line, *sides, moduli, jnp.sqrt(ends[:2, 1]))


def _knows_better(members: Members) -> bool:
    """Whether potentials say where to search for conjugate points."""
    return type(members.potential).near_conjugate is not AbstractPotential.near_conjugate


def _strong_convexity(member: Members) -> Float[Array, ""]:
    return jnp.asarray(member.potential.strong_convexity, member.line.scale.dtype)


def _gram(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return jnp.matmul(matrix.T, matrix, precision="highest")


def _ratio(above: Array, below: Array) -> Array:
    """A quotient; infinite where a positive number is divided by zero, zero where zero is."""
    return jnp.where(above == 0, 0, above / jnp.where(above == 0, 1, below))


def _relative(members: Members | None, line: StraightLine) -> Members | None:
    """Members that take and give points in the coordinates of ``line``.

    What leads from them to a member's own coordinates is a straight line again.
    """
    if members is None:
        return None

    def one(own: StraightLine) -> StraightLine:
        units = line.scale**2
        return StraightLine(
            line.whiten_source(own.source_mean),
            line.whiten_target(own.target_mean),
            units * jnp.matmul(own.source_matrix, line.target_matrix.T, precision="highest"),
            units * jnp.matmul(own.target_matrix, line.source_matrix.T, precision="highest"),
            own.scale / line.scale,
            own.variances,
        )

    return Members(members.potential, jax.vmap(one)(members.line))
