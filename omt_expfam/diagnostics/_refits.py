"""One refit and transport of perturbed data."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from .._base.arguments import as_floating, as_key, KeyLike
from .._components.mixture import Mixture
from .._fitting.fit import Fit
from .._pipelines.mixture_transport import MixtureTransport
from .._plans.plan import TransportPlan
from .._potentials.fitted import BrenierFit
from ._distances import cloud_distances, Distances, mixture_distances, weights_change
from ._maps import image_spread, images_of, mean_displacement, mean_squared_error, relative_change
from ._perturbations import AbstractPerturbation, Reseeding
from ._runs import unconverged


class Task:
    """The undisturbed run, and what disturbed ones are compared with."""

    def __init__(
        self,
        key: KeyLike,
        data: tuple[Float[Array, "n d"], Float[Array, "m d"]],
        method: Callable[..., Any],
        points: Float[Array, "k d"],
        truth: np.ndarray | None,
        side: int,
        warm_start: bool,
    ) -> None:
        self._fit_key, self._noise_key, self._other_key, self._distance_key = jax.random.split(as_key(key), 4)
        self._data, self._points, self._truth, self._side = data, points, truth, side
        self._method: Any = method
        self._fits: tuple[Any, ...] = ()
        self._start: Mixture | None = None
        if isinstance(method, MixtureTransport):
            source_key, target_key = jax.random.split(jax.random.clone(self._fit_key))
            self._fits = method.fit_source(source_key, data[0]), method.fit_target(target_key, data[1])
            if warm_start:
                # Fitted the same way as what is compared with it, so that without disturbance nothing moves.
                self._start = self._fits[side].mixture
                again = self._fit_side(jax.random.clone(self._fit_key), data[side], self._start)
                self._fits = (again, self._fits[1]) if side == 0 else (self._fits[0], again)
            self._reference = method.couple(*(fit.mixture for fit in self._fits))
        else:
            self._reference = method(jax.random.clone(self._fit_key), *data)
        self._images = images_of(self._reference, points)
        plan = self._reference if isinstance(self._reference, TransportPlan) else None
        self.reference_numbers = {
            "image_spread": image_spread(self._images),
            "cost": float("nan") if plan is None else float(plan.cost),
            "mse": mean_squared_error(self._images, truth),
        }

    def run(self, perturbation: AbstractPerturbation, repeat: int) -> tuple[dict[str, float], str]:
        """Everything that is recorded of one run, and why it did not converge."""
        begin = time.perf_counter()
        data = list(self._data)
        disturbed = perturbation(_folded(self._noise_key, repeat), data[self._side], self._mixture(self._reference))
        disturbed = data[self._side] = as_floating("perturbations", disturbed, "n d", data[self._side].dtype)
        if disturbed.shape[1] != self._data[0].shape[1]:
            raise ValueError(f"`perturbations` must keep the dimension; got shape {tuple(disturbed.shape)}.")
        fit_key, start = jax.random.clone(self._fit_key), self._start
        if isinstance(perturbation, Reseeding):
            fit_key, start = _folded(self._other_key, repeat), None
        result, reason = self._refit(fit_key, data, start)
        images = images_of(result, self._points)
        seconds = time.perf_counter() - begin
        error = mean_squared_error(images, self._truth)
        lower, estimate, upper = self._distances(perturbation, result, disturbed, repeat)
        numbers = {
            "w2_lower": lower,
            "w2": estimate,
            "w2_upper": upper,
            "displacement": mean_displacement(self._images, images),
            "weights_change": float("nan"),
            "mse": error,
            "mse_change": relative_change(error, self.reference_numbers["mse"]),
            "cost": float("nan"),
            "cost_change": float("nan"),
            "converged": float(not reason),
            "seconds": seconds,
        }
        if isinstance(result, TransportPlan) and isinstance(self._reference, TransportPlan):
            cost = float(result.cost)
            numbers["weights_change"] = weights_change(self._reference, result)
            numbers["cost"], numbers["cost_change"] = cost, relative_change(cost, self.reference_numbers["cost"])
        return numbers, reason

    def _refit(self, fit_key: Key[Array, ""], data: list[Any], start: Mixture | None) -> tuple[Any, str]:
        """What the method returns, and why it did not converge; the side that is not disturbed is not fitted again."""
        outcomes = []
        if isinstance(self._method, MixtureTransport):
            fits = list(self._fits)
            fits[self._side] = self._fit_side(fit_key, data[self._side], start)
            outcomes.append(fits[self._side].result)
            result: Any = self._method.couple(*(fit.mixture for fit in fits))
        else:
            result = self._method(fit_key, *data)
        if isinstance(result, TransportPlan | BrenierFit):
            outcomes.append(result.result)
        return result, unconverged(outcomes)

    def _fit_side(self, fit_key: Key[Array, ""], points: Float[Array, "n d"], start: Mixture | None) -> Fit:
        """Fit the disturbed side as the method does, or from a start."""
        own_key = jax.random.split(fit_key)[self._side]
        refit = self._method.fit_target if self._side else self._method.fit_source
        return refit(own_key, points, **({} if start is None else {"start": start}))

    def _mixture(self, result: Any) -> Mixture | None:
        """The mixture of the disturbed side, where the method fits one."""
        if not isinstance(result, TransportPlan):
            return None
        return result.target if self._side else result.source

    def _distances(
        self, perturbation: AbstractPerturbation, result: Any, disturbed: Float[Array, "n d"], repeat: int
    ) -> Distances:
        first, second = self._mixture(self._reference), self._mixture(result)
        if first is not None and second is not None:
            return mixture_distances(_folded(self._distance_key, repeat), first, second)
        clouds = [np.asarray(points, np.float64) for points in (self._data[self._side], disturbed)]
        return cloud_distances(*clouds, paired=perturbation.keeps_rows)


def _folded(key: Key[Array, ""], number: int) -> Key[Array, ""]:
    return jax.random.fold_in(jax.random.clone(key), number)
