"""Choosing the numbers of components that serve the map, not the likelihood."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from .._base.arguments import ArrayLike, as_count, as_host_or_traced, as_key, as_scalar, KeyLike, ScalarLike
from .._base.arrays import host_generator, spread_indices
from .._base.buckets import sharing_components, sharing_points
from .._base.progress import progress_bar
from .._base.results import ConvergenceError
from .._base.tables import alike
from .._family.template import in_order_of
from .._fitting.fit import Fit, fit
from .._fitting.race import with_shared_start
from .._plans.epsilons import EpsilonLike
from .._plans.plan import TransportPlan
from .judge import Judge, sight_of
from .mixture_transport import MixtureTransport, pair_of

# Tolerance of fits whose images alone are compared: what EM gains beyond it is less than other points change.
_COMPARED = 1e-3
# Regularization of the divergences, as a share of the total variance of the target's points.
_EPSILON = 0.1


@dataclasses.dataclass(frozen=True)
class PlanSelection:
    """Plans with several numbers of components, and the one to take.

    Attributes:
        num_components: The chosen numbers of components, of source and target.
        plan: The plan with these numbers, from all of the data.
        candidates: The pairs of numbers that were tried.
        scores: For each, the Sinkhorn divergence between images of held-out source points and held-out target points,
            mean over the splits, units of squared distance; NaN where a fit or a solve failed.
        standard_errors: Standard errors of the scores over the splits; NaN for one split.
        floor: The same divergence between training and held-out points of the target, mean over the splits: what images
            with exactly the target's law would have.
        failures: What went wrong, by candidate.
    """

    num_components: tuple[int, int]
    plan: TransportPlan
    candidates: tuple[tuple[int, int], ...]
    scores: np.ndarray
    standard_errors: np.ndarray
    floor: float
    failures: dict[tuple[int, int], str]

    def __str__(self) -> str:
        lines = ["   source  target  divergence"]
        for pair, score, error in zip(self.candidates, self.scores, self.standard_errors, strict=True):
            text = f"{score:10.4g}" + ("" if np.isnan(error) else f" +- {error:.2g}")
            if pair in self.failures:
                text = f"    failed: {self.failures[pair]}"
            mark = "  <- chosen" if pair == self.num_components else ""
            lines.append(f"{pair[0]:>9}  {pair[1]:>6}  {text}{mark}")
        return "\n".join([*lines, f"target's own: {self.floor:17.4g}"])


def select_plan(
    key: KeyLike,
    x: ArrayLike,
    y: ArrayLike,
    family: Any,
    candidates: Sequence[int | tuple[int, int]],
    *,
    epsilon_components: EpsilonLike = "auto",
    epsilon_weights: EpsilonLike = "auto",
    epsilon_scale: ScalarLike = 1.0,
    use: str = "mean",
    held_out: float = 0.2,
    num_splits: int = 1,
    max_points: int = 1000,
    fit_options: dict[str, Any] | None = None,
    transport_options: dict[str, Any] | None = None,
    progress: bool | None = None,
) -> PlanSelection:
    """Fit and transport with several numbers of components, and take those whose images match held-out points best.

    The likelihood of the data is no guide to the map: within one source component every point shares the same split
    over targets, so a component that describes the density well can be far too large to be moved as one piece. Here a
    part of both samples is held out, and candidates are compared by the Sinkhorn divergence between the images of
    held-out source points and the held-out target points. All fits to one part start from one mixture, whose components
    are merged, and stop at a tolerance of 1e-3, unless ``fit_options`` say otherwise; the chosen ones go on with all
    points.

    Args:
        key: Random key of splits and fits.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``.
        family: A component family, or a pair of them for source and target, as for `fit`.
        candidates: Numbers of components to try: one for both sides, or pairs.
        epsilon_components: Regularization of the component couplings, units of squared distance, or ``"auto"``; see
            `omt_expfam.transport`.
        epsilon_weights: Regularization of the weights, likewise.
        epsilon_scale: Multiplies ``"auto"``.
        use: ``"mean"`` to judge the barycentric map, or ``"sample"`` to judge draws from the conditional law.
        held_out: Part of the points that is held out, between 0 and 1.
        num_splits: Number of random splits, over which scores are averaged.
        max_points: At most so many held-out points of each side are compared.
        fit_options: Options of `fit`.
        transport_options: Options of `transport`.
        progress: Show a progress bar; by default on a terminal, after two seconds.

    Returns:
        The selection, with the plan from all points.

    Raises:
        ValueError: If there is no candidate, or an argument is out of range.
        ConvergenceError: If every candidate fails, or the final plan does.
    """
    if use not in ("mean", "sample"):
        raise ValueError(f'`use` must be "mean" or "sample"; got {use!r}.')
    if not 0 < float(as_scalar("held_out", held_out)) < 1:
        raise ValueError(f"`held_out` must lie between 0 and 1; got {held_out:g}.")
    num_splits, max_points = as_count("num_splits", num_splits), as_count("max_points", max_points)
    methods = {}
    for entry in candidates:
        method = MixtureTransport(
            family,
            entry,
            epsilon_components=epsilon_components,
            epsilon_weights=epsilon_weights,
            epsilon_scale=epsilon_scale,
            fit_options=fit_options,
            transport_options=transport_options,
        )
        methods[method.num_components] = method
    if not methods:
        raise ValueError("`candidates` must hold at least one number of components; got none.")
    families, options = pair_of("family", family), {"progress": False, **(fit_options or {})}
    x, y = alike(x=in_order_of(families[0], "x", x), y=in_order_of(families[1], "y", y))
    points = [np.asarray(as_host_or_traced(name, value)) for name, value in (("x", x), ("y", y))]
    seen = sight_of(families[1], points[1])
    scores, floors, failures, sides, most = [], [], {}, [], max(map(max, methods))
    *keys, last_key = jax.random.split(as_key(key), 2 * num_splits + 1)
    with progress_bar(len(methods) * num_splits, "choosing the numbers of components", progress) as bar:
        for split_key, fit_key in zip(keys[::2], keys[1::2], strict=True):
            train, test = _split(split_key, points, held_out)
            test = [values[spread_indices(len(values), max_points)] for values in test]
            draw_key = jax.random.fold_in(split_key, 1) if use == "sample" else None
            target = seen(test[1])
            judge = Judge(target, _EPSILON * float(np.var(target.astype(np.float64), axis=0).sum()))
            floors.append(judge(seen(train[1][spread_indices(len(train[1]), len(test[0]))])))
            sides = _sides(fit_key, train, families, options, methods, [len(values) for values in points])
            for pair, method in methods.items():
                try:
                    fits = [side(num) for side, num in zip(sides, pair, strict=True)]
                    with sharing_components(most):
                        plan = method.couple(*fits)
                        images = plan.push_forward(test[0]) if draw_key is None else _draw(plan, draw_key, test[0])
                    scores.append(judge(seen(images)))
                except ConvergenceError as error:
                    failures[pair] = str(error)
                    scores.append(np.nan)
                bar.update()
    table = np.reshape(scores, (num_splits, len(methods)))
    means = table.mean(axis=0)
    if np.isnan(means).all():
        raise ConvergenceError(f"Every candidate failed. {next(iter(failures.values()))}")
    best = list(methods)[int(np.nanargmin(means))]
    errors = table.std(axis=0, ddof=1) / np.sqrt(num_splits) if num_splits > 1 else np.full(len(means), np.nan)
    both = zip(jax.random.split(last_key), (x, y), families, best, sides, strict=True)
    fits = [
        fit(own_key, values, own, num, **{**options, "start": side(num).mixture, "num_starts": 1})
        for own_key, values, own, num, side in both
    ]
    with sharing_components(most):
        plan = methods[best].couple(*fits)
    return PlanSelection(best, plan, tuple(methods), means, errors, float(np.mean(floors)), failures)


def _sides(
    key: Any,
    samples: list[np.ndarray],
    families: tuple[Any, Any],
    options: dict[str, Any],
    pairs: Iterable[tuple[int, int]],
    totals: Sequence[int],
) -> list[Callable[[int], Fit]]:
    """For source and target: the fit with a number of components, made once, by the program that fits all points."""

    def side(own_key: Any, values: np.ndarray, family: Any, sizes: tuple[int, ...], total: int) -> Callable[[int], Fit]:
        own = with_shared_start({"tolerance": _COMPARED, **options}, sizes, len(values))

        def fitted(num: int) -> Fit:
            with sharing_points(total):
                # The same key for all, so that they differ by their numbers only.
                return fit(jax.random.clone(own_key), values, family, num, **own)

        return functools.cache(fitted)

    all_sizes = zip(*pairs, strict=True)
    return [side(*own) for own in zip(jax.random.split(key), samples, families, all_sizes, totals, strict=True)]


def _draw(plan: TransportPlan, key: Any, x: np.ndarray) -> Any:
    return plan.sample(jax.random.clone(key), x)


def _split(key: Any, samples: list[np.ndarray], held_out: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Both samples in two parts at random: to fit, and held out."""
    train, test = [], []
    for own_key, values in zip(jax.random.split(key, 2), samples, strict=True):
        order = host_generator(own_key).permutation(len(values))
        size = round((1 - held_out) * len(values))
        if not 0 < size < len(values):
            raise ValueError(f"`held_out` = {held_out:g} leaves nothing to fit or to compare of {len(values)} points.")
        train.append(values[order[:size]])
        test.append(values[order[size:]])
    return train, test
