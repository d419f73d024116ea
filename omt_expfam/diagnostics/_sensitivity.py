"""How the plan follows its inputs: derivatives of couplings, cost and map in every parameter of both mixtures."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.arguments import ArrayLike, as_count, as_points, as_scalar, ScalarLike
from .._base.buckets import pad, point_bucket
from .._base.precision import in_float64
from .._base.tables import in_order
from .._base.xla import jit_in_order
from .._components.columns import require_numbers
from .._components.mixture import Mixture, MixtureLike
from .._couplings.settings import NumericalSettings
from .._plans.correspondences import as_texts
from .._plans.transport import transport
from ._parameters import (
    as_arrays,
    balanced,
    build,
    Direction,
    directions,
    Parameters,
    read,
    transport_metric,
    unit_steps,
)
from ._problem import as_problem, names_of, ProblemLike

# Directions of the metric below this share of the largest do not move the mixture.
_SINGULAR = 1e-10


class SideSensitivity(eqx.Module):
    """Derivatives in the parameters of one of the two mixtures, by the parameter's name.

    The names are ``weights`` and those of the family: ``mean`` and ``covariance`` for Gaussians with full covariances,
    its fields otherwise. A derivative in ``weights[k]`` is that per unit of mass brought to component k from all
    components in proportion to their weights. Derivatives in a covariance are symmetric matrices G: a symmetric step S
    changes the quantity by the sum of G * S.

    Attributes:
        cost: Of the transport cost, shape ``[K, ...]``.
        weights: Of the coupling of the weights, shape ``[K0, K1, K, ...]``.
        map: Of T at the points, shape ``[n, d, K, ...]``.
        lipschitz: Largest root-mean-square displacement of T per unit of distance that the mixture moves with its
            weights held, to first order; see `Sensitivity`.
        table: Largest effects on map, cost and coupling of one parameter of one component, shape
            ``[K, parameters, 3]``: per unit of distance that the mixture moves, for weights per unit of mass.
        names: Names of the parameters, in the order of the table.
    """

    cost: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    map: dict[str, np.ndarray]
    lipschitz: Float[np.ndarray, ""]
    table: Float[np.ndarray, "K p 3"]
    names: tuple[str, ...] = eqx.field(static=True)


class Sensitivity(eqx.Module):
    r"""Derivatives of a plan in all its inputs, in closed form.

    The distance that a mixture moves is to first order that between old and new components under their weights,
    $(\sum_k \alpha_k W_2^2(\mu_k, \mu_k'))^{1/2}$, an upper bound of its own $W_2$. Families that are not
    location-scale have the distance of their means and covariances instead, a lower bound of $W_2(\mu_k, \mu_k')$:
    their effects are overstated rather than understated. Displacements of the map are root mean squares over the
    points, at least as large as the means that the stability theorem bounds.

    Attributes:
        source: Derivatives in the parameters of the source mixture.
        target: Derivatives in the parameters of the target mixture.
        points: Where the map was differentiated, shape ``[n, d]``.
        epsilon_components: Regularization of the component couplings.
        epsilon_weights: Regularization of the weights.
        component_names: Names of the components of the source and of the target, ``None`` where they have none.
        feature_names: Names of the columns, where the fits know them: of the axes d of derivatives of the map.
    """

    source: SideSensitivity
    target: SideSensitivity
    points: Float[np.ndarray, "n d"]
    epsilon_components: float = eqx.field(static=True)
    epsilon_weights: float = eqx.field(static=True)
    component_names: Any = eqx.field(static=True, default=(None, None))
    feature_names: tuple[str, ...] | None = eqx.field(static=True, default=None)

    @property
    def lipschitz(self) -> float:
        """Local Lipschitz constant of the map in the source mixture, with its weights held."""
        return float(self.source.lipschitz)

    def ranking(self) -> list[tuple[str, int, str, float, float, float]]:
        """Rows ``(side, component, parameter, map, cost, weights)`` of the table, by falling effect on the map.

        Effects of component parameters are per unit of distance, effects of weights per unit of mass.
        """
        rows = []
        for name, side in (("source", self.source), ("target", self.target)):
            for p, parameter in enumerate(side.names):
                for k, effects in enumerate(side.table[:, p].tolist()):
                    rows.append((name, k, parameter, effects[0], effects[1], effects[2]))
        return sorted(rows, key=lambda row: row[3], reverse=True)

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns of the ranking, ready for a data frame; components by name where they have names."""
        heads = ("side", "component", "parameter", "map", "cost", "weights")
        return dict(zip(heads, map(list, zip(*self._named(), strict=True)), strict=True))

    def _named(self) -> list[tuple[Any, ...]]:
        source, target = self.component_names
        names = {
            "source": as_texts(source, len(self.source.table)),
            "target": as_texts(target, len(self.target.table)),
        }
        return [(side, names[side][k], *rest) for side, k, *rest in self.ranking()]

    def summary(self, num_rows: int = 10) -> str:
        """The largest effects, as a table."""
        shown = self._named()[:num_rows]
        width = max(9, *(len(row[1]) for row in shown))
        lines = [
            f"Local Lipschitz constant of the map: {self.lipschitz:.3g} in the source, "
            f"{float(self.target.lipschitz):.3g} in the target (weights held).",
            f"{'side':>6} {'component':>{width}} {'parameter':>12} {'map':>9} {'cost':>9} {'weights':>9}",
        ]
        for side, name, parameter, *effects in shown:
            numbers = " ".join(f"{value:9.3g}" for value in effects)
            lines.append(f"{side:>6} {name:>{width}} {parameter:>12} {numbers}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        side, name, parameter, *_ = self._named()[0]
        most = f"most sensitive to {parameter} of {side} component {name}"
        return f"Sensitivity(map Lipschitz {self.lipschitz:.3g}, {most})"


def sensitivity(
    source: ProblemLike,
    target: MixtureLike | None = None,
    *,
    epsilon_components: ScalarLike | None = None,
    epsilon_weights: ScalarLike | None = None,
    points: ArrayLike | None = None,
    num_points: int = 200,
    numerical: NumericalSettings | None = None,
) -> Sensitivity:
    """Differentiate the plan in the weights and component parameters of both mixtures.

    Exact derivatives by implicit differentiation: of the closed forms or the dual solves of the component couplings,
    and of the marginal constraints of the weights. In float64.

    Args:
        source: Source mixture, or a plan: its mixtures and regularizations, without the next three arguments.
        target: Target mixture.
        epsilon_components: Regularization of the component couplings, as in `omt_expfam.transport`; by default
            ``"auto"``, or that of the plan.
        epsilon_weights: Regularization of the weights, likewise; positive, as the linear program at zero has a
            coupling that jumps or stands still.
        points: Where to differentiate the map, shape ``[n, d]``; by default draws of the source with a fixed key.
        num_points: How many draws.
        numerical: Settings of component couplings that are solved numerically.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If an argument is out of range, or the dimensions differ.
        ConvergenceError: If a solve fails.
    """
    names, features = names_of(source, target)
    source, target, epsilon_1, epsilon_2 = as_problem(source, target, epsilon_components, epsilon_weights)
    require_numbers("`sensitivity`", source.components)
    as_scalar("epsilon_components", epsilon_1)
    as_scalar("epsilon_weights", epsilon_2, strict=True)
    options = {
        "epsilon_components": float(epsilon_1),
        "epsilon_weights": float(epsilon_2),
        "numerical": numerical,
        "progress": False,
    }
    if points is None:
        points = source.sample(jax.random.key(0), as_count("num_points", num_points))
    places = as_points("points", in_order("points", points, features), source.dim)
    found = in_float64(lambda left, right, x: _study(left, right, x, options), source, target, places)
    return dataclasses.replace(found, component_names=names, feature_names=features)


class _Outputs(NamedTuple):
    cost: Array
    weights: Array
    map: Array


class _Rates(NamedTuple):
    """Derivatives of the outputs along every direction, on the host."""

    cost: np.ndarray
    weights: np.ndarray
    map: np.ndarray


def _study(source: Mixture, target: Mixture, points: Array, options: dict[str, Any]) -> Sensitivity:
    mixtures = balanced(source), balanced(target)
    transport(*mixtures, **options)  # raises where the derivatives below could not
    parameters = read(mixtures[0]), read(mixtures[1])
    along = directions(parameters[0]), directions(parameters[1])
    epsilons = options["epsilon_components"], options["epsilon_weights"]
    places = jax.device_put(pad(points, point_bucket(len(points))))
    # The one side stands still while the other moves.
    first, second = (len(side) for side in along)
    steps = (
        _among(unit_steps(parameters[0], along[0]), 0, second),
        _among(unit_steps(parameters[1], along[1]), first, 0),
    )
    settings = as_arrays(epsilons), options["numerical"]
    answer = jit_in_order(_derivatives)(mixtures, parameters, jax.device_put(steps), places, *settings)
    rates, moments = jax.tree.map(np.asarray, answer)
    sides = []
    for i, rows in enumerate((slice(first), slice(first, None))):
        own = _Rates(rates.cost[rows], rates.weights[rows], rates.map[rows, : len(points)])
        sides.append(_side(parameters[i], along[i], own, [moment[rows] for moment in moments[i]]))
    return Sensitivity(sides[0], sides[1], np.asarray(points), *epsilons)


def _among(steps: dict[str, np.ndarray], before: int, after: int) -> dict[str, np.ndarray]:
    """Steps with rows of zeros before and after."""
    return {n: np.pad(v, [(before, after)] + [(0, 0)] * (v.ndim - 1)) for n, v in steps.items()}


def _derivatives(
    mixtures: tuple[Mixture, Mixture],
    parameters: tuple[Parameters, Parameters],
    steps: tuple[Parameters, Parameters],
    points: Array,
    epsilons: tuple[Any, Any],
    numerical: NumericalSettings | None,
) -> tuple[_Outputs, list[tuple[Array, Array]]]:
    """Derivatives along steps of both sides' parameters, and each side's `transport_metric`."""

    def outputs(values: tuple[Parameters, Parameters]) -> _Outputs:
        sides = (build(mixture, own) for mixture, own in zip(mixtures, values, strict=True))
        options = {"numerical": numerical, "progress": False, "throw": False}
        plan = transport(*sides, epsilon_components=epsilons[0], epsilon_weights=epsilons[1], **options)
        return _Outputs(plan.cost, plan.weights, plan.push_forward(points))

    # One direction at a time: memory stays that of one plan.
    rates = jax.lax.map(jax.linearize(outputs, parameters)[1], steps)
    return rates, [transport_metric(*side) for side in zip(mixtures, parameters, steps, strict=True)]


def _side(parameters: Parameters, along: list[Direction], rates: _Rates, moments: list[np.ndarray]) -> SideSensitivity:
    cost, weights, images = ({n: _gather(n, v, along, parameters) for n in parameters} for v in rates)
    flat_moments = np.concatenate([v.reshape(len(along), -1) for v in moments], axis=1)
    metric = flat_moments @ flat_moments.T
    root_n = np.sqrt(rates.map.shape[1])
    flat = [v.reshape(len(along), -1) for v in (rates.map / root_n, rates.cost, rates.weights)]
    names, num = tuple(parameters), len(parameters["weights"])
    table = np.empty((num, len(names), 3))
    for k in range(num):
        for p, name in enumerate(names):
            rows = [i for i, d in enumerate(along) if d.component == k and d.name == name]
            for q, values in enumerate(flat):
                one = np.ones((1, 1)) if name == "weights" else metric[np.ix_(rows, rows)]
                table[k, p, q] = _largest_gain(values[rows], one)
    inner = [i for i, d in enumerate(along) if d.name != "weights"]
    lipschitz = _largest_gain(flat[0][inner], metric[np.ix_(inner, inner)])
    return SideSensitivity(cost, weights, images, np.asarray(lipschitz), table, names)


def _gather(name: str, rates: np.ndarray, along: list[Direction], parameters: Parameters) -> np.ndarray:
    """Derivatives of one quantity in one parameter: the quantity's axes, then the parameter's."""
    shape = parameters[name].shape
    table = np.zeros((*shape, *rates.shape[1:]))
    for row, (own, component, index) in enumerate(along):
        if own == name:
            table[(component, *index)] = rates[row]
            if name == "covariance":
                table[(component, *index[::-1])] = rates[row]
    return np.moveaxis(table, range(len(shape)), range(-len(shape), 0))


def _largest_gain(rates: np.ndarray, metric: np.ndarray) -> float:
    """Largest norm of ``step @ rates`` over steps of length one in the metric; infinite where a step has no length."""
    values, vectors = np.linalg.eigh(metric)
    kept = values > _SINGULAR * max(values[-1], np.finfo(float).tiny)
    free = vectors[:, ~kept].T @ rates
    if np.abs(free).max(initial=0) > 1e-8 * np.abs(rates).max(initial=0):
        return float("inf")
    return float(np.linalg.norm((vectors[:, kept] / np.sqrt(values[kept])).T @ rates, 2))
