"""One choice of a sweep: fitted, transported, and compared with the base."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from .._fitting.fit import Fit
from .._pipelines.mixture_transport import MixtureTransport, pair_of
from .._plans.plan import TransportPlan
from .._potentials.fitted import BrenierFit
from ._choices import Choice
from ._distances import gelbrich_distance
from ._maps import image_spread, images_of, mean_displacement, mean_squared_error
from ._runs import describe, unconverged

# Points at which the conditional laws of two plans are compared.
_LAW_POINTS = 200

# What is recorded of each choice, with its units.
COLUMNS = {
    "num_source_components": "components",
    "num_target_components": "components",
    "held_out_source": "nats per point",
    "held_out_target": "nats per point",
    "held_out_change": "nats per point, against the base",
    "held_out_error": "nats per point",
    "mse": "squared units of the data",
    "cost": "squared units of the data",
    "objective": "squared units of the data",
    "displacement": "units of the data, against the base",
    "law_change": "units of the data, against the base",
    "converged": "1 if every solve met its tolerance",
    "seconds": "seconds",
}


class _Outcome(NamedTuple):
    """What one choice gave."""

    result: Any
    images: np.ndarray
    likelihoods: tuple[np.ndarray, np.ndarray] | None
    law: tuple[np.ndarray, np.ndarray] | None
    reason: str


class Comparison:
    """The base's run, and what other choices are compared with."""

    def __init__(
        self,
        key: Any,
        data: tuple[Array, Array],
        left: tuple[Array, Array],
        base: Choice,
        points: Float[Array, "k d"],
        truth: np.ndarray | None,
    ) -> None:
        self._key, self._data, self._left, self._points, self._truth = key, data, left, points, truth
        num = points.shape[0]
        self._law_points = points[:: -(-num // _LAW_POINTS)]
        self._fits: dict[str, Fit] = {}
        begin = time.perf_counter()
        self._base = self._outcome(base)
        self._base_choice, self._base_seconds = base, time.perf_counter() - begin
        self.reference_numbers = {
            "image_spread": image_spread(self._base.images),
            "mean_image": float(self._base.images.mean()),
        }

    def run(self, choice: Choice) -> tuple[dict[str, float], str]:
        """Everything that is recorded of one choice, and why it did not converge."""
        begin, base = time.perf_counter(), self._base
        if choice is self._base_choice:
            own, seconds = base, self._base_seconds
        else:
            own = self._outcome(choice)
            seconds = time.perf_counter() - begin
        numbers = dict.fromkeys(COLUMNS, float("nan"))
        if isinstance(own.result, TransportPlan):
            numbers |= {
                "num_source_components": float(own.result.source.num_components),
                "num_target_components": float(own.result.target.num_components),
                "cost": float(own.result.cost),
                "objective": float(own.result.objective),
            }
        if own.likelihoods is not None:
            numbers["held_out_source"], numbers["held_out_target"] = (float(v.mean()) for v in own.likelihoods)
            if base.likelihoods is not None:
                gains = [v - w for v, w in zip(own.likelihoods, base.likelihoods, strict=True)]
                numbers["held_out_change"] = float(sum(gain.mean() for gain in gains))
                numbers["held_out_error"] = float(np.sqrt(sum(gain.var() / len(gain) for gain in gains)))
        if own.law is not None and base.law is not None:
            numbers["law_change"] = _law_change(base.law, own.law)
        numbers["mse"] = mean_squared_error(own.images, self._truth)
        numbers["displacement"] = mean_displacement(base.images, own.images)
        return numbers | {"converged": float(not own.reason), "seconds": seconds}, own.reason

    def _outcome(self, choice: Choice) -> _Outcome:
        key = jax.random.clone(self._key)
        if choice.seed is not None:
            key = jax.random.fold_in(key, choice.seed)
        method, outcomes = choice.method, []
        if isinstance(method, MixtureTransport):
            fits = [self._fit(method, side, own_key) for side, own_key in enumerate(jax.random.split(key))]
            outcomes += [fit.result for fit in fits]
            result: Any = method.couple(*(fit.mixture for fit in fits))
        else:
            result = method(key, *self._data)
        images = images_of(result, self._points)
        likelihoods = law = None
        if isinstance(result, BrenierFit):
            outcomes.append(result.result)
        if isinstance(result, TransportPlan):
            outcomes.append(result.result)
            sides = zip((result.source, result.target), self._left, strict=True)
            source, target = (np.asarray(mixture.log_prob(points), np.float64) for mixture, points in sides)
            likelihoods = source, target
            law = _law(result, self._law_points)
        return _Outcome(result, images, likelihoods, law, unconverged(outcomes))

    def _fit(self, method: MixtureTransport, side: int, key: Any) -> Fit:
        """A fit, made once for all choices that share it."""
        settings = pair_of("family", method.family)[side], method.num_components[side], method.fit_options
        name = describe((side, key, settings))
        if name not in self._fits:
            refit = method.fit_target if side else method.fit_source
            self._fits[name] = refit(key, self._data[side])
        return self._fits[name]


def sizes(method: Any) -> dict[str, float]:
    if not isinstance(method, MixtureTransport):
        return {}
    source, target = method.num_components
    return {"num_source_components": float(source), "num_target_components": float(target)}


def _law(plan: TransportPlan, points: Float[Array, "k d"]) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of the conditional laws at some points."""
    mean, covariance = plan.push_forward(points), plan.conditional_covariance(points)
    return np.asarray(mean, np.float64), np.asarray(covariance, np.float64)


def _law_change(base: tuple[np.ndarray, np.ndarray], law: tuple[np.ndarray, np.ndarray]) -> float:
    if all(np.array_equal(ours, theirs) for ours, theirs in zip(base, law, strict=True)):
        return 0.0
    return float(gelbrich_distance(*base, *law).mean())
