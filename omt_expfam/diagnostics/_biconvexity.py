"""How convex the objective is in each of its two blocks, along random segments."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
import scipy.special
from jax.random import key as new_key, key_data
from jaxtyping import Float

from .._base.arguments import as_count, as_key, as_scalar, KeyLike, ScalarLike
from .._base.precision import in_float64
from .._components.mixture import Mixture, MixtureLike
from ._parameters import balanced, gaussians
from ._problem import as_problem, ProblemLike
from ._starts import gaussian_objectives, random_couplings, random_cross_covariances

# Places on each segment, and the rounding of the objective there in units of its largest value.
_PLACES = (0.25, 0.5, 0.75)
_ROUNDING = 1e-12


class Biconvexity(eqx.Module):
    r"""Jensen's gaps of the objective along random segments: chord minus function, positive for a convex function.

    A gap at the place t of a segment is $(1-t) f(u) + t f(v) - f((1-t) u + t v)$, units of squared distance, at
    t = 1/4, 1/2 and 3/4. Gaps within ``rounding`` of zero decide nothing.

    Attributes:
        weights_gaps: Segments between random couplings of the weights at fixed component couplings, shape ``[S, 3]``.
        components_gaps: Segments between random component couplings at fixed weights, shape ``[S, 3]``: of
            cross-covariances where components are Gaussian, of discrete plans between draws otherwise.
        joint_gaps: Segments in both blocks at once; the objective is not jointly convex, so some may be negative.
        weights_moduli: Smallest gap of each segment of weights over $t (1-t)/2$ times its squared length: a local
            estimate of the modulus of strong convexity, units of squared distance; shape ``[S]``. Infinite where both
            ends are the same.
        components_moduli: The same for segments of component couplings; for cross-covariances without units.
        rounding: How far the gaps may be off.
        coordinates: ``"cross-covariances"`` or ``"discrete plans"``.
    """

    weights_gaps: Float[np.ndarray, "S t"]
    components_gaps: Float[np.ndarray, "S t"]
    joint_gaps: Float[np.ndarray, "S t"]
    weights_moduli: Float[np.ndarray, " S"]
    components_moduli: Float[np.ndarray, " S"]
    rounding: Float[np.ndarray, ""]
    coordinates: str = eqx.field(static=True)

    @property
    def strict(self) -> bool:
        """Whether every gap in each of the two blocks is positive beyond rounding."""
        gaps = np.concatenate([self.weights_gaps, self.components_gaps])
        # Where there is one coupling only, its segments have no length.
        point = np.isinf(np.concatenate([self.weights_moduli, self.components_moduli]))
        return bool((gaps[~point] > float(self.rounding)).all())

    @property
    def jointly_convex(self) -> bool:
        """Whether no segment in both blocks at once showed a negative gap; more segments may still find one."""
        return bool((self.joint_gaps > -float(self.rounding)).all())

    def summary(self) -> str:
        """The findings, in sentences."""
        parts = [
            f"{len(values)} segments of {name}: smallest gap {np.asarray(values).min():.2e}, smallest modulus "
            f"{np.asarray(moduli).min():.2e}."
            for name, values, moduli in (
                ("weights", self.weights_gaps, self.weights_moduli),
                (self.coordinates, self.components_gaps, self.components_moduli),
            )
        ]
        count = int((self.joint_gaps < -float(self.rounding)).any(axis=1).sum())
        parts.append(f"Both at once: {count} of {len(self.joint_gaps)} segments are not convex.")
        return "\n".join(parts)

    def __repr__(self) -> str:
        return f"Biconvexity({len(self.weights_gaps)} segments, {'strict' if self.strict else 'not strict'})"


def biconvexity(
    key: KeyLike,
    source: ProblemLike,
    target: MixtureLike | None = None,
    *,
    epsilon_components: ScalarLike | None = None,
    epsilon_weights: ScalarLike | None = None,
    num_segments: int = 100,
    num_points: int = 8,
) -> Biconvexity:
    r"""Measure how convex the transport objective is in each block (Lemma 1 of arXiv 2606.02515).

    With $\varepsilon_2 = 0$ the objective is linear in the weights, with $\varepsilon_1 = 0$ linear in the component
    couplings: gaps are then zero up to rounding.

    Args:
        key: Random key of the segments.
        source: Source mixture, or a plan: its mixtures and regularizations, without the next three arguments.
        target: Target mixture.
        epsilon_components: Regularization of the component couplings, as in `omt_expfam.transport`; by default
            ``"auto"``, or that of the plan.
        epsilon_weights: Regularization of the weights, likewise.
        num_segments: Number of segments of each kind.
        num_points: Draws per component for the discrete plans of components that are not Gaussian.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If an argument is out of range, or the dimensions differ.
    """
    source, target, epsilon_1, epsilon_2 = as_problem(source, target, epsilon_components, epsilon_weights)
    epsilons = tuple(
        float(as_scalar(name, value))
        for name, value in (("epsilon_components", epsilon_1), ("epsilon_weights", epsilon_2))
    )
    counts = as_count("num_segments", num_segments), as_count("num_points", num_points, minimum=2)
    return in_float64(lambda left, right: _study(as_key(key), left, right, epsilons, counts), source, target)


class _Block(NamedTuple):
    """The component couplings: random ones, and the component objectives that they have."""

    draw: Any
    objectives: Any
    name: str


def _study(
    key: Any, source: Mixture, target: Mixture, epsilons: tuple[float, ...], counts: tuple[int, int]
) -> Biconvexity:
    num, num_points = counts
    source, target = balanced(source), balanced(target)
    rng = np.random.default_rng(np.asarray(key_data(key)))
    a, b = (np.asarray(m.weights) for m in (source, target))
    block = _component_block(rng, source, target, epsilons[0], num_points)

    def value(omega: np.ndarray, costs: np.ndarray) -> np.ndarray:
        divergence = np.sum(scipy.special.rel_entr(omega, np.outer(a, b)), axis=(-2, -1))
        return np.sum(omega * costs, axis=(-2, -1)) + epsilons[1] * divergence

    omegas = random_couplings(rng, a, b, 2 * num).reshape(2, num, *(len(a), len(b)))
    ends = block.draw(2 * num)
    ends = ends.reshape(2, num, *ends.shape[1:])
    costs = [block.objectives(end) for end in ends]
    scale = max(np.abs(table).max() for table in costs)
    gaps: dict[str, list] = {"weights": [], "components": [], "joint": []}
    for t in _PLACES:
        omega, between = (1 - t) * omegas[0] + t * omegas[1], block.objectives((1 - t) * ends[0] + t * ends[1])
        chord = {
            "weights": (value(omegas[0], costs[0]), value(omegas[1], costs[0]), value(omega, costs[0])),
            "components": (value(omegas[0], costs[0]), value(omegas[0], costs[1]), value(omegas[0], between)),
            "joint": (value(omegas[0], costs[0]), value(omegas[1], costs[1]), value(omega, between)),
        }
        for name, (first, second, middle) in chord.items():
            gaps[name].append((1 - t) * first + t * second - middle)
    table = {name: np.stack(values, axis=1) for name, values in gaps.items()}
    weight = np.asarray(_PLACES) * (1 - np.asarray(_PLACES)) / 2

    def moduli(name: str, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        length = np.sum((first - second).reshape(num, -1) ** 2, axis=1)
        smallest = (table[name] / weight).min(axis=1)
        moved = length > np.finfo(float).eps ** 2
        return np.where(moved, smallest / np.where(moved, length, 1), np.inf)

    return Biconvexity(
        table["weights"],
        table["components"],
        table["joint"],
        moduli("weights", *omegas),
        moduli("components", *ends),
        np.asarray(_ROUNDING * scale),
        block.name,
    )


def _component_block(
    rng: np.random.Generator, source: Mixture, target: Mixture, epsilon: float, num_points: int
) -> _Block:
    both = gaussians(source, target)
    if both is not None:
        return _Block(
            lambda num: random_cross_covariances(rng, *both.roots, num),
            lambda cross: gaussian_objectives(*both, cross, epsilon),
            "cross-covariances",
        )
    seed = [int(v) for v in rng.integers(0, 2**31 - 1, 2)]
    x = np.swapaxes(np.asarray(source.components.sample(new_key(seed[0]), num_points)), 0, 1)
    y = np.swapaxes(np.asarray(target.components.sample(new_key(seed[1]), num_points)), 0, 1)
    distances = ((x[:, None, :, None] - y[None, :, None]) ** 2).sum(-1)
    uniform = np.full((len(x), len(y), num_points), 1 / num_points)

    def discrete(plans: np.ndarray) -> np.ndarray:
        divergence = np.sum(plans * np.log(plans * num_points**2), axis=(-2, -1))
        return np.sum(plans * distances, axis=(-2, -1)) + epsilon * divergence

    return _Block(lambda num: random_couplings(rng, uniform, uniform, num), discrete, "discrete plans")
