"""Whether there is one minimizer, and one update of each block reaches it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from .._base.arguments import as_count, as_key, as_scalar, KeyLike, ScalarLike
from .._base.arrays import host_generator
from .._base.precision import in_float64
from .._base.progress import progress_bar
from .._base.results import ConvergenceError, raise_if_failed, RESULTS
from .._components.mixture import Mixture, MixtureLike
from .._couplings.interface import independent_costs
from .._couplings.settings import NumericalSettings
from .._couplings.solve import solve_couplings
from ._descent import descend_gaussian, GaussianProblem, mirror_descent, sample_problem, solve_samples
from ._iteration import aligned_optimum, iterate, reduced_costs, ROUNDING
from ._parameters import balanced, Gaussians, gaussians
from ._problem import as_problem, ProblemLike
from ._starts import gaussian_objectives, random_couplings, random_cross_covariances

# Mirror descent: the step size in units of one over the regularization, and how many steps.
_RATE, _MIRROR_STEPS = 0.4, 80


class Uniqueness(eqx.Module):
    """What many starts, and other algorithms, made of one transport problem.

    Numbers are NumPy's, in float64. "Spread" is the largest difference between two of the answers, over all entries.

    Attributes:
        weights: Where the block iteration ended, one coupling of the weights per start, shape ``[S, K0, K1]``. Without
            regularization of the weights: optimal couplings as near to the starts as the linear program has them.
        objectives: The objective at each start and after each block update, shape ``[S, 1 + 2 * num_sweeps]``, units of
            squared distance; the blocks alternate, component couplings first.
        component_objectives: Component objectives L_ij at the minimum of their own block, shape ``[K0, K1]``.
        updates: Updates of the component couplings and of the weights until nothing changed, shape ``[S, 2]``; 1 and 1
            by the theorem.
        descent_weights: The same coupling by a joint quasi-Newton descent on cross-covariances and weights from random
            starts, shape ``[D, K0, K1]``; no rows unless all components are Gaussian.
        descent_component_objectives: Their component objectives, shape ``[D, K0, K1]``.
        descent_objectives: The objectives that these descents reached, shape ``[D]``.
        sample_weights: The problem between finite samples of the components by the block iteration, shape
            ``[K0, K1]``.
        sample_objective: Its objective.
        mirror_weights: The same problem by joint mirror descent from random starts, shape ``[D, K0, K1]``.
        mirror_objectives: The objectives that mirror descent reached, shape ``[D]``.
        reduced_costs: What it would cost per unit of mass to send it along each pair, against the unregularized
            optimum, shape ``[K0, K1]``, units of squared distance.
        near_ties: Pairs that the unregularized optimum leaves out, though they would cost less than ``epsilon_weights``
            per unit of mass.
        epsilon_components: Regularization of the component couplings.
        epsilon_weights: Regularization of the weights.
    """

    weights: Float[np.ndarray, "S K0 K1"]
    objectives: Float[np.ndarray, "S steps"]
    component_objectives: Float[np.ndarray, "K0 K1"]
    updates: Int[np.ndarray, "S 2"]
    descent_weights: Float[np.ndarray, "D K0 K1"]
    descent_component_objectives: Float[np.ndarray, "D K0 K1"]
    descent_objectives: Float[np.ndarray, " D"]
    sample_weights: Float[np.ndarray, "K0 K1"]
    sample_objective: Float[np.ndarray, ""]
    mirror_weights: Float[np.ndarray, "E K0 K1"]
    mirror_objectives: Float[np.ndarray, " E"]
    reduced_costs: Float[np.ndarray, "K0 K1"]
    near_ties: Bool[np.ndarray, "K0 K1"]
    epsilon_components: float = eqx.field(static=True)
    epsilon_weights: float = eqx.field(static=True)

    @property
    def weights_spread(self) -> float:
        """Spread of the coupling of the weights over the starts of the block iteration."""
        return _spread(self.weights)

    @property
    def objective_spread(self) -> float:
        """Spread of the final objective over the starts, units of squared distance."""
        return _spread(self.objectives[:, -1])

    @property
    def descent_gap(self) -> float:
        """Largest difference of a coupling found by joint descent from that of the block iteration; NaN without any."""
        return _gap(self.descent_weights, self.weights[0])

    @property
    def descent_components_gap(self) -> float:
        """The same for the component objectives, weighted by the coupling of the weights: units of squared distance.

        A pair that carries no mass is not felt by a joint descent, and does not matter to the plan.
        """
        gap = np.abs(self.descent_component_objectives - self.component_objectives)
        return float((self.weights[0] * gap).sum(axis=(1, 2)).max()) if len(gap) else float("nan")

    @property
    def lowest_excess(self) -> float:
        """Lowest objective of all descents less that of the block iteration on the same problem; NaN without descents.

        Below zero by more than rounding it would refute the theorem.
        """
        excess = [self.descent_objectives - float(self.objectives[0, -1])]
        excess += [self.mirror_objectives - float(self.sample_objective)]
        joined = np.concatenate(excess)
        return float(joined.min()) if len(joined) else float("nan")

    @property
    def mirror_gap(self) -> float:
        """Largest difference of mirror descent from the block iteration on the finite samples; NaN without any."""
        return _gap(self.mirror_weights, self.sample_weights)

    @property
    def num_optima(self) -> int:
        """How many different couplings of the weights were reached, to 1e-6 of the total mass."""
        found: list[np.ndarray] = []
        for weights in self.weights:
            if all(np.abs(weights - other).max() > 1e-6 for other in found):
                found.append(weights)
        return len(found)

    def summary(self) -> str:
        """The findings, in sentences."""
        lines = [
            f"{len(self.weights)} starts of the block iteration: the coupling of the weights spreads by "
            f"{self.weights_spread:.1e}, the objective by {self.objective_spread:.1e}."
        ]
        if self.epsilon_weights > 0:
            most = self.updates.max(axis=0)
            lines.append(
                f"Updates until nothing changed, at most: {most[0]} of the component couplings, {most[1]} of the "
                "weights."
            )
        if len(self.descent_weights):
            lines.append(
                f"{len(self.descent_weights)} joint descents on cross-covariances and weights end within "
                f"{self.descent_gap:.1e} of it (component objectives: {self.descent_components_gap:.1e})."
            )
        if len(self.mirror_weights):
            lines.append(
                f"{len(self.mirror_weights)} mirror descents between finite samples of the components end within "
                f"{self.mirror_gap:.1e} of the block iteration there."
            )
        if np.isfinite(self.lowest_excess):
            lines.append(
                f"The lowest objective of all descents is {self.lowest_excess:+.1e} above the block iteration's."
            )
        ties = int(self.near_ties.sum())
        if self.epsilon_weights > 0:
            lines.append(
                f"{ties} pairs are near-ties: unused by the unregularized optimum, at a reduced cost within "
                f"epsilon_weights = {self.epsilon_weights:g}."
            )
        else:
            lines.append(
                f"Without regularization of the weights there are {self.num_optima} optimal couplings or more, and "
                f"{ties} unused pairs at no extra cost."
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"Uniqueness({len(self.weights)} starts, weights spread {self.weights_spread:.1e}, "
            f"{int(self.near_ties.sum())} near-ties)"
        )


def _spread(values: np.ndarray) -> float:
    return float(np.max(values.max(axis=0) - values.min(axis=0)))


def _gap(values: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(values - reference).max()) if len(values) else float("nan")


def uniqueness(
    key: KeyLike,
    source: ProblemLike,
    target: MixtureLike | None = None,
    *,
    epsilon_components: ScalarLike | None = None,
    epsilon_weights: ScalarLike | None = None,
    num_starts: int = 100,
    num_sweeps: int = 2,
    num_descents: int = 3,
    num_points: int = 12,
    numerical: NumericalSettings | None = None,
    progress: bool | None = None,
) -> Uniqueness:
    r"""Solve one transport problem from many starts, and by other means, and compare.

    The theorem (arXiv 2606.02515) says that for positive regularizations the objective, strictly convex in each of the
    two blocks, has one minimizer, reached from any interior start by one update of the component couplings and one of
    the weights. Three checks, of which any could fail:

    - the block iteration from random interior starts of both blocks (Omega, and cross-covariances where components are
      Gaussian), with the dual of the weight solve started from the given Omega;
    - for Gaussian components, a quasi-Newton descent on the cross-covariances and Omega together (L-BFGS on smooth
      free coordinates of both);
    - for all components, mirror descent on both blocks together, between ``num_points`` draws of each component,
      against the block iteration on the same draws.

    With ``epsilon_weights = 0`` the weights solve a linear program, whose optimum need not be unique. From each start
    the optimal coupling best aligned with it is taken: where there are ties, they differ.

    Args:
        key: Random key of the starts.
        source: Source mixture, or a plan: its mixtures and regularizations, without the next three arguments.
        target: Target mixture.
        epsilon_components: Regularization of the component couplings, as in `omt_expfam.transport`; by default
            ``"auto"``, or that of the plan.
        epsilon_weights: Regularization of the weights, likewise.
        num_starts: Number of starts of the block iteration.
        num_sweeps: Sweeps from each start; the second shows that nothing changes after the first.
        num_descents: Number of starts of the joint descents; 0 for none. They need positive regularizations and are
            left out without.
        num_points: Draws per component in the problem between finite samples.
        numerical: Settings of component couplings that are solved numerically.
        progress: Show a progress bar; by default on a terminal, after two seconds.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If an argument is out of range, the dimensions differ, or a component has no weight.
        ConvergenceError: If a solve fails.
    """
    source, target, epsilon_1, epsilon_2 = as_problem(source, target, epsilon_components, epsilon_weights)
    for name, mixture in (("source", source), ("target", target)):
        unused = np.flatnonzero(np.asarray(mixture.weights) == 0)
        if unused.size:
            raise ValueError(
                f"`{name}` must have positive weights, as the theorem asks; component {unused[0]} has weight 0. "
                "Leave it out with `select`."
            )
    settings = _Settings(
        float(as_scalar("epsilon_components", epsilon_1)),
        float(as_scalar("epsilon_weights", epsilon_2)),
        as_count("num_starts", num_starts),
        as_count("num_sweeps", num_sweeps),
        as_count("num_descents", num_descents, minimum=0),
        as_count("num_points", num_points, minimum=2),
        numerical,
        progress,
    )
    return in_float64(lambda left, right: _study(as_key(key), left, right, settings), source, target)


class _Settings(NamedTuple):
    epsilon_components: float
    epsilon_weights: float
    num_starts: int
    num_sweeps: int
    num_descents: int
    num_points: int
    numerical: Any
    progress: bool | None


def _study(key: Key[Array, ""], source: Mixture, target: Mixture, settings: _Settings) -> Uniqueness:
    source, target = balanced(source), balanced(target)
    start_key, point_key = jax.random.split(key)
    rng = host_generator(start_key)
    a, b = np.asarray(source.weights), np.asarray(target.weights)
    both = gaussians(source, target)
    epsilon = jnp.asarray(settings.epsilon_components)
    couplings = solve_couplings(source.components, target.components, epsilon, settings.progress, settings.numerical)
    raise_if_failed(couplings, couplings.result)
    costs = couplings.objectives()
    reduced, used = reduced_costs(costs, a, b)
    starts = random_couplings(rng, a, b, settings.num_starts)
    start_costs = _start_costs(rng, source, target, both, settings)
    if settings.epsilon_weights == 0:
        ends = np.stack([aligned_optimum(np.asarray(costs), reduced, a, b, omega) for omega in starts])
        before = [np.sum(starts * table, axis=(1, 2)) for table in (start_costs, np.asarray(costs)[None])]
        trace = np.stack(
            [*before, *[np.sum(ends * np.asarray(costs), axis=(1, 2))] * (2 * settings.num_sweeps - 1)], axis=1
        )
    else:
        answer = iterate(
            jax.device_put(starts),
            jax.device_put(start_costs),
            costs,
            source.weights,
            target.weights,
            jnp.asarray(settings.epsilon_weights),
            settings.num_sweeps,
        )
        ends, trace, results = jax.tree.map(np.asarray, answer)
        failed = np.flatnonzero(results != np.asarray(RESULTS.successful._value))
        if failed.size:
            raise ConvergenceError(f"Start {failed[0]}: {RESULTS[RESULTS.weights_not_converged]}")
    scale = float(np.abs(costs).max())
    limit = max(settings.epsilon_weights, ROUNDING * scale)
    descents = _gaussian_descents(rng, source, target, both, settings)
    samples = _sample_descents(rng, point_key, source, target, settings)
    return Uniqueness(
        weights=ends,
        objectives=trace,
        component_objectives=np.asarray(costs),
        updates=_count_updates(trace, scale),
        **descents,
        **samples,
        reduced_costs=reduced,
        near_ties=(reduced <= limit) & ~used,
        epsilon_components=settings.epsilon_components,
        epsilon_weights=settings.epsilon_weights,
    )


def _start_costs(
    rng: np.random.Generator, source: Mixture, target: Mixture, both: Gaussians | None, settings: _Settings
) -> np.ndarray:
    """Component objectives at the starts: random cross-covariances of Gaussians, independence of others."""
    if both is None:
        alone = np.asarray(independent_costs(source.components, target.components))
        return np.broadcast_to(alone, (settings.num_starts, *alone.shape))
    cross = random_cross_covariances(rng, *both.roots, settings.num_starts)
    return gaussian_objectives(*both, cross, settings.epsilon_components)


def _count_updates(trace: np.ndarray, scale: float) -> np.ndarray:
    """Updates of each block until the objective is, and stays, at its last value."""
    still = np.abs(trace - trace[:, -1:]) <= ROUNDING * scale
    # The first place from which on nothing moves.
    first = trace.shape[1] - np.argmin(np.concatenate([still[:, ::-1], np.zeros((len(trace), 1), bool)], 1), axis=1)
    return np.stack([(first + 1) // 2, first // 2], axis=1)


def _gaussian_descents(
    rng: np.random.Generator, source: Mixture, target: Mixture, both: Gaussians | None, settings: _Settings
) -> dict[str, np.ndarray]:
    shape = (source.num_components, target.num_components)
    positive = settings.epsilon_components > 0 and settings.epsilon_weights > 0
    if both is None or not positive or not settings.num_descents:
        nothing = np.zeros((0, *shape))
        return {"descent_weights": nothing, "descent_component_objectives": nothing, "descent_objectives": np.zeros(0)}
    (mean, other_mean), (root, other_root) = jax.device_put(both)
    epsilons = jnp.asarray(settings.epsilon_components), jnp.asarray(settings.epsilon_weights)
    problem = GaussianProblem(source.weights, target.weights, mean, other_mean, root, other_root, *epsilons)
    found = []
    with progress_bar(settings.num_descents, "joint descents", settings.progress) as bar:
        for _ in range(settings.num_descents):
            found.append(descend_gaussian(problem, rng))
            bar.update()
    return {
        "descent_weights": np.stack([f.weights for f in found]),
        "descent_component_objectives": np.stack([f.costs for f in found]),
        "descent_objectives": np.stack([f.objective for f in found]),
    }


def _sample_descents(
    rng: np.random.Generator, key: Key[Array, ""], source: Mixture, target: Mixture, settings: _Settings
) -> dict[str, np.ndarray]:
    shape = (source.num_components, target.num_components)
    if settings.epsilon_components == 0 or settings.epsilon_weights == 0 or not settings.num_descents:
        return {
            "sample_weights": np.full(shape, np.nan),
            "sample_objective": np.asarray(np.nan),
            "mirror_weights": np.zeros((0, *shape)),
            "mirror_objectives": np.zeros(0),
        }
    epsilons = jnp.asarray(settings.epsilon_components), jnp.asarray(settings.epsilon_weights)
    problem = sample_problem(key, source, target, epsilons, settings.num_points)
    omega, value = solve_samples(problem)
    found = []
    with progress_bar(settings.num_descents, "mirror descents", settings.progress) as bar:
        for _ in range(settings.num_descents):
            table, tables = (jax.device_put(rng.standard_normal(size)) for size in (shape, problem.distances.shape))
            found.append(mirror_descent(table, tables, problem, jnp.asarray(_RATE), jnp.asarray(_MIRROR_STEPS)))
            bar.update()
    return {
        "sample_weights": np.asarray(omega),
        "sample_objective": np.asarray(value),
        "mirror_weights": np.stack([weights for weights, _, _ in found]),
        "mirror_objectives": np.stack([value for _, value, _ in found]),
    }
