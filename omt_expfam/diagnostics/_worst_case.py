"""The disturbance of a given size that moves the map most, by gradient ascent through the plan."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from .._base.arguments import (
    ArrayLike,
    as_count,
    as_floating,
    as_key,
    as_points,
    as_scalar,
    check_positive,
    KeyLike,
    ScalarLike,
)
from .._base.arrays import take
from .._base.buckets import pad, pad_zero, point_bucket
from .._base.precision import in_float64, narrow
from .._base.progress import progress_bar
from .._base.tables import in_order
from .._base.xla import jit_in_order, program
from .._components.covariance import DenseCovariance
from .._components.mixture import Mixture, MixtureLike
from .._couplings.solve import solve_couplings
from .._plans.transport import transport
from ._parameters import as_arrays, balanced
from ._problem import as_problem, names_of, ProblemLike

# Regularization of the weights that gives the search a slope where there is none, in units of the largest cost.
_SMOOTHING = 0.02
# Largest shrinkage of a component along any axis, and largest share of a component's mass that moves away.
_MOST_SHRUNK, _MOST_MOVED = 0.9, 0.9
_FIRST_STEP, _LAST_STEP = 0.5, 0.02


class WorstCase(eqx.Module):
    r"""The largest displacements of the map that were found, beside random ones of the same size.

    A search proves no upper bound: the true worst case may be worse.

    Attributes:
        radii: Sizes of the disturbances of the source mixture, units of the data, shape ``[R]``, rising.
        distances: How far the worst disturbances move it: an upper bound of W2, at most ``radii``.
        displacements: Mean displacement of the map over the points under the worst disturbance found, shape ``[R]``,
            units of the data.
        random_displacements: The same under random disturbances of the same sizes, shape ``[R, num_random]``.
        random_distances: How far those move the mixture, shape ``[R, num_random]``.
        mixtures: The disturbed source mixtures that were worst, one per radius.
        points: Where the map was compared, shape ``[n, d]``.
        epsilon_weights: Regularization of the weights.
    """

    radii: Float[np.ndarray, " R"]
    distances: Float[np.ndarray, " R"]
    displacements: Float[np.ndarray, " R"]
    random_displacements: Float[np.ndarray, "R m"]
    random_distances: Float[np.ndarray, "R m"]
    mixtures: tuple[Mixture, ...]
    points: Float[np.ndarray, "n d"]
    epsilon_weights: float = eqx.field(static=True)

    @property
    def exponents(self) -> np.ndarray:
        """Rates log(displacement) / log(distance) between successive radii, shape ``[R - 1]``.

        1 for a differentiable map, 1/2 at least in the limit by the stability theorem, 0 for a jump.
        """
        distances, moved = self.distances, np.maximum(self.displacements, 1e-300)
        return np.diff(np.log(moved)) / np.diff(np.log(distances))

    @property
    def discontinuous(self) -> bool:
        """Whether the map moves as far under the smallest radius as under the next: a rate below 1/4.

        Meaningful when the smallest radii are small beside ``epsilon_weights`` over the size of the data, where a
        regularized map has become differentiable.
        """
        return len(self.radii) > 1 and bool(self.exponents[0] < 0.25)

    def summary(self) -> str:
        """The findings, as a table."""
        lines = [f"{'radius':>10} {'worst':>10} {'random mean':>12} {'random max':>12}"]
        rows = zip(*(np.asarray(v) for v in (self.radii, self.displacements, self.random_displacements)), strict=True)
        lines += [f"{r:>10.3g} {w:>10.3g} {m.mean():>12.3g} {m.max():>12.3g}" for r, w, m in rows]
        if self.discontinuous:
            lines.append("The map jumps: it moves as far under the smallest disturbance as under the next larger one.")
        return "\n".join(lines)

    def __repr__(self) -> str:
        rows = zip(self.radii, self.displacements, strict=True)
        return "WorstCase(" + ", ".join(f"{moved:.3g} at {radius:.3g}" for radius, moved in rows) + ")"


class _Step(NamedTuple):
    """A disturbance in coordinates in which its squared length is, to first order, its squared size.

    ``shift[K, d]`` moves means, ``stretch[K, d, d]`` stretches components (in the eigenbasis of their covariances), and
    the squares of ``flow[K, K]`` move mass between components.
    """

    shift: Array
    stretch: Array
    flow: Array


class _Frame(NamedTuple):
    """The undisturbed source mixture and what the coordinates need of it."""

    mixture: Mixture
    eigenvalues: Float[Array, "K d"]
    basis: Float[Array, "K d d"]
    distances: Float[Array, "K K"]


def worst_case(
    key: KeyLike,
    source: ProblemLike,
    target: MixtureLike | None = None,
    *,
    epsilon_components: ScalarLike | None = None,
    epsilon_weights: ScalarLike | None = None,
    radii: Sequence[float] | ArrayLike,
    points: ArrayLike | None = None,
    num_points: int = 200,
    num_starts: int = 4,
    num_steps: int = 60,
    num_random: int = 100,
    progress: bool | None = None,
) -> WorstCase:
    r"""Search for the disturbance of the source mixture, of given size, that moves the map most.

    Components are shifted and stretched by affine maps, and mass flows between them; the size of a disturbance is the
    root of $\sum_{kl} \Phi_{kl} W_2^2(\mu_k, \mu_l')$ for the flow Phi that makes it, an upper bound of W2 between the
    mixtures. The mean displacement of the barycentric map over clean points is raised by gradient ascent through the
    plan, from random starts and from the worst of the random disturbances. With ``epsilon_weights = 0`` the coupling of
    the weights has no slope: the search then climbs a slightly regularized map, and what it finds is measured on the
    exact one.

    Args:
        key: Random key.
        source: Source mixture, of Gaussian components, or a plan: its mixtures and regularizations, without the next
            three arguments.
        target: Target mixture.
        epsilon_components: Regularization of the component couplings, as in `omt_expfam.transport`; by default
            ``"auto"``, or that of the plan.
        epsilon_weights: Regularization of the weights, likewise.
        radii: Sizes of the disturbances, in units of the data.
        points: Where maps are compared, shape ``[n, d]``; by default draws of the source.
        num_points: How many draws.
        num_starts: Number of ascents per radius.
        num_steps: Steps of each ascent.
        num_random: Random disturbances of each size, for comparison.
        progress: Show a progress bar; by default on a terminal, after two seconds.

    Raises:
        TypeError: If an argument is not of the stated type, or the source's components are not Gaussian.
        ValueError: If an argument is out of range, or the dimensions differ.
        ConvergenceError: If a solve fails.
    """
    features = names_of(source, target)[1]
    source, target, epsilon_1, epsilon_2 = as_problem(source, target, epsilon_components, epsilon_weights)
    if source.components.gaussian_form() is None:
        raise TypeError(f"`source` must have Gaussian components; got {type(source.components).__name__}.")
    sizes = np.sort(np.asarray(as_floating("radii", radii, "R"), np.float64))
    check_positive("radii", jnp.asarray(sizes))
    options = {
        "epsilon_components": float(as_scalar("epsilon_components", epsilon_1)),
        "epsilon_weights": float(as_scalar("epsilon_weights", epsilon_2)),
    }
    counts = _Counts(
        as_count("num_starts", num_starts), as_count("num_steps", num_steps), as_count("num_random", num_random)
    )
    point_key, search_key = jax.random.split(as_key(key))
    if points is None:
        points = source.sample(point_key, as_count("num_points", num_points))
    places, dtype = as_points("points", in_order("points", points, features), source.dim), source.components.dtype
    with progress_bar(len(sizes) * (counts.starts + 1), "worst case", progress) as bar:
        return in_float64(
            lambda left, right, x: _study(search_key, left, right, x, sizes, options, counts, dtype, bar),
            source,
            target,
            places,
        )


class _Counts(NamedTuple):
    starts: int
    steps: int
    random: int


def _study(
    key: Key[Array, ""],
    source: Mixture,
    target: Mixture,
    points: Array,
    radii: np.ndarray,
    options: dict[str, Any],
    counts: _Counts,
    dtype: Any,
    bar: Any,
) -> WorstCase:
    source, target = balanced(source), balanced(target)
    size = point_bucket(len(points))
    places = jax.device_put(pad(points, size))
    shares = jax.device_put(pad_zero(np.full(len(points), 1 / len(points)), size))
    plan = transport(source, target, progress=False, **options)
    exact = _Scene(jit_in_order(_frame)(source), target, places, shares, plan.push_forward(places))
    smooth, calm = dict(options), exact
    if options["epsilon_weights"] == 0:
        smooth["epsilon_weights"] = _SMOOTHING * float(np.abs(np.asarray(plan.component_objectives)).max())
        calm = exact._replace(reference=transport(source, target, progress=False, **smooth).push_forward(places))
    # The linear program runs on the host.
    moved_by = _displacement if options["epsilon_weights"] == 0 else jit_in_order(_displacement)
    epsilons, smooth_epsilons = (
        as_arrays((values["epsilon_components"], values["epsilon_weights"])) for values in (options, smooth)
    )

    def measure(step: _Step) -> tuple[float, float, Mixture]:
        """The exact effect of a disturbance, its size, and the disturbed mixture."""
        mixture, distance = _disturbed(exact.frame, step)
        return float(moved_by(mixture, exact, epsilons)), float(distance), mixture

    rows: dict[str, list] = {"distance": [], "moved": [], "random": [], "random_distance": [], "mixture": []}
    carried: list[_Step] = []
    for r, radius in enumerate(radii[::-1]):
        size = jnp.asarray(radius)
        drawn = jit_in_order(_random_steps)(key, jnp.asarray(r), exact.frame, size, counts.random)
        stacked = jax.tree.map(np.asarray, drawn)
        steps = [take(stacked, i) for i in range(counts.random)]
        values = [measure(step) for step in steps]
        bar.update()
        # Climb from where the last radius ended, from the worst of the random ones, and from others.
        order = np.argsort([-moved for moved, _, _ in values], kind="stable")
        starts = [_fit_to(exact.frame, step, size) for step in carried] + [steps[i] for i in order]
        ends = []
        for start in starts[: counts.starts]:
            ends.append(jit_in_order(_ascend)(calm, smooth_epsilons, start, size, counts.steps))
            bar.update()
        found = [*values, *(measure(step) for step in ends)]
        best = int(np.argmax([moved for moved, _, _ in found]))
        carried = [[*steps, *ends][best]]
        rows["moved"].append(found[best][0])
        rows["distance"].append(found[best][1])
        rows["mixture"].append(found[best][2])
        rows["random"].append([moved for moved, _, _ in values])
        rows["random_distance"].append([distance for _, distance, _ in values])
    rows = {name: value[::-1] for name, value in rows.items()}
    return WorstCase(
        radii,
        np.asarray(rows["distance"]),
        np.asarray(rows["moved"]),
        np.asarray(rows["random"]),
        np.asarray(rows["random_distance"]),
        tuple(narrow(mixture, dtype) for mixture in rows["mixture"]),
        np.asarray(points),
        options["epsilon_weights"],
    )


# -- disturbances -------------------------------------------------------------------------------------------------


def _frame(source: Mixture) -> _Frame:
    eigenvalues, basis = jnp.linalg.eigh(source.components.covariance())
    distances = solve_couplings(source.components, source.components, jnp.asarray(0.0), False).costs
    return _Frame(source, eigenvalues, basis, jnp.maximum(distances, 0))


@program
def _disturbed(frame: _Frame, step: _Step) -> tuple[Mixture, Array]:
    """The disturbed mixture, and how far it is from the undisturbed one."""
    mixture, weights = frame.mixture, frame.mixture.weights
    root = jnp.sqrt(jnp.where(weights > 0, weights, jnp.ones_like(weights)))
    shift = step.shift / root[:, None]
    # tr(S Sigma S) is the sum of squares of `stretch` over the weight.
    scale = jnp.sqrt(2 / (frame.eigenvalues[:, :, None] + frame.eigenvalues[:, None, :]))
    stretch = 0.5 * (step.stretch + jnp.swapaxes(step.stretch, 1, 2)) * scale / root[:, None, None]
    lowest = jnp.min(jnp.linalg.eigvalsh(jax.lax.stop_gradient(stretch)), axis=1)
    stretch = stretch * jnp.minimum(1, _MOST_SHRUNK / jnp.maximum(-lowest, 1e-300))[:, None, None]
    inner = jnp.eye(stretch.shape[-1])[None] + stretch
    covariance = (inner * frame.eigenvalues[:, None, :]) @ inner
    covariance = frame.basis @ covariance @ jnp.swapaxes(frame.basis, 1, 2)
    components = mixture.components.with_gaussian_form(
        mixture.components.mean() + shift, DenseCovariance(jnp.linalg.cholesky(covariance))
    )
    # Mass flows at a price: the squared distance of the components.
    price = jnp.where(frame.distances > 0, frame.distances, jnp.inf)
    flow = jnp.where(jnp.eye(len(weights), dtype=bool), 0.0, step.flow**2 / price)
    leaving = jnp.sum(flow, axis=1)
    flow = flow * jnp.minimum(1, _MOST_MOVED * weights / jnp.maximum(leaving, 1e-300))[:, None]
    staying = weights - jnp.sum(flow, axis=1)
    across = solve_couplings(mixture.components, components, jnp.asarray(0.0), False).costs
    own = jnp.sum(shift**2, axis=1) + jnp.sum(stretch**2 * frame.eigenvalues[:, :, None], axis=(1, 2))
    distance = jnp.sqrt(jnp.sum(staying * own) + jnp.sum(flow * jnp.maximum(across, 0)))
    new = eqx.tree_at(lambda m: (m.weights, m.components), mixture, (staying + jnp.sum(flow, axis=0), components))
    return new, distance


def _scaled(step: _Step, factor: Array) -> _Step:
    return _Step(*(factor * part for part in step))


@program
def _fit_to(frame: _Frame, step: _Step, radius: Array) -> _Step:
    """A disturbance in the same direction whose size is the radius, or just less."""
    length = jnp.sqrt(sum(jnp.sum(part**2) for part in step))

    def shrink(_: Any, step: _Step) -> _Step:
        distance = _disturbed(frame, step)[1]
        return _scaled(step, jnp.minimum(1, radius / jnp.maximum(distance, 1e-300)))

    return jax.lax.fori_loop(0, 8, shrink, _scaled(step, radius / length))


def _random_steps(key: Key[Array, ""], number: Array, frame: _Frame, radius: Array, num: int) -> _Step:
    """Random disturbances of one size, stacked."""
    keys = jax.random.split(jax.random.fold_in(key, number), num)
    return jax.lax.map(lambda own: _random_step(own, frame, radius), keys)


def _random_step(key: Key[Array, ""], frame: _Frame, radius: Array) -> _Step:
    """A random disturbance of the given size: shifts, stretches and flows in random proportions."""
    keys = jax.random.split(key, 4)
    num, dim = frame.eigenvalues.shape
    shapes = (num, dim), (num, dim, dim), (num, num)
    shares = jax.random.dirichlet(keys[3], jnp.ones(3))
    parts = [jax.random.normal(k, shape) for k, shape in zip(keys[:3], shapes, strict=True)]
    parts[2] = parts[2] * (1 - jnp.eye(num))
    parts[1] = 0.5 * (parts[1] + jnp.swapaxes(parts[1], 1, 2))
    lengths = [jnp.maximum(jnp.linalg.norm(part), 1e-300) for part in parts]
    step = _Step(*(jnp.sqrt(s) * p / length for s, p, length in zip(shares, parts, lengths, strict=True)))
    return _fit_to(frame, step, radius)


# -- their effect -------------------------------------------------------------------------------------------------


class _Scene(NamedTuple):
    """Where disturbances are felt: at points of given shares (zero for those that fill up), from reference images."""

    frame: _Frame
    target: Mixture
    points: Float[Array, "n d"]
    shares: Float[Array, " n"]
    reference: Float[Array, "n d"]


def _displacement(mixture: Mixture, scene: _Scene, epsilons: tuple[Any, Any]) -> Array:
    """Mean distance of the points' images under the plan from a mixture, from reference images."""
    options = {"epsilon_components": epsilons[0], "epsilon_weights": epsilons[1], "progress": False, "throw": False}
    images = transport(mixture, scene.target, **options).push_forward(scene.points)
    return jnp.sum(scene.shares * jnp.sqrt(jnp.sum((images - scene.reference) ** 2, axis=1) + 1e-200))


def _ascend(scene: _Scene, epsilons: tuple[Any, Any], start: _Step, radius: Array, num_steps: int) -> _Step:
    """Normalized gradient ascent on the sphere of disturbances of one size; returns the best that it met."""

    def effect(step: _Step) -> Array:
        return _displacement(_disturbed(scene.frame, step)[0], scene, epsilons)

    rates = jnp.geomspace(_FIRST_STEP, _LAST_STEP, num_steps)

    def move(state: tuple[_Step, _Step, Array], rate: Array) -> tuple[tuple[_Step, _Step, Array], None]:
        step, best, highest = state
        value, slope = jax.value_and_grad(effect)(step)
        better = value > highest
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), step, best)
        length = jnp.sqrt(sum(jnp.sum(part**2) for part in slope))
        usable = jnp.isfinite(length) & (length > 0)
        factor = jnp.where(usable, rate * radius / jnp.where(usable, length, 1.0), 0.0)
        moved = _Step(*(p + factor * jnp.where(usable, s, 0.0) for p, s in zip(step, slope, strict=True)))
        return (_fit_to(scene.frame, moved, radius), best, jnp.maximum(value, highest)), None

    (step, best, highest), _ = jax.lax.scan(move, (start, start, jnp.asarray(-jnp.inf)), rates)
    better = effect(step) > highest
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), step, best)
