"""Choosing the number of components."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.arrays import host_generator
from .._base.progress import progress_bar
from .._base.tables import column_names
from .._family.em_family import AbstractEMFamily
from .._family.template import Template
from .data import _as_data, weighted_points
from .fit import Fit, fit


@dataclasses.dataclass(frozen=True)
class Selection:
    """Fits of several sizes and the one to take.

    Attributes:
        num_components: The chosen number of components.
        fit: The fit with that number, to all of the data.
        candidates: The numbers that were tried.
        criterion: ``"bic"`` or ``"held_out"``.
        scores: One per candidate: the BIC (smaller is better), or the mean held-out log-likelihood per point over the
            folds, in nats (larger is better).
        standard_errors: Standard errors of the held-out scores over folds; NaN for the BIC.
    """

    num_components: int
    fit: Fit
    candidates: tuple[int, ...]
    criterion: str
    scores: np.ndarray
    standard_errors: np.ndarray

    def __str__(self) -> str:
        name = "BIC" if self.criterion == "bic" else "held-out log-likelihood"
        lines = [f"components  {name}"]
        for num, score, error in zip(self.candidates, self.scores, self.standard_errors, strict=True):
            spread = "" if np.isnan(error) else f" +- {error:.2g}"
            mark = "  <- chosen" if num == self.num_components else ""
            lines.append(f"{num:>10}  {score:.7g}{spread}{mark}")
        return "\n".join(lines)


def select_num_components(
    key: KeyLike,
    x: ArrayLike,
    family: type[AbstractEMFamily] | Template | AbstractEMFamily,
    candidates: Sequence[int],
    *,
    criterion: str = "bic",
    num_folds: int = 5,
    sample_weight: ArrayLike | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Selection:
    """Fit mixtures of several sizes and choose one by the BIC or by cross-validated likelihood.

    Args:
        key: Random key of the starts and the folds.
        x: Points, shape ``[n, d]``.
        family: A component family or a `template`, as for `fit`.
        candidates: Numbers of components to try.
        criterion: ``"bic"``, or ``"held_out"`` for the likelihood of left-out folds.
        num_folds: Number of folds for ``"held_out"``; 1 holds out a fifth of the points once.
        sample_weight: Nonnegative weights of the points, shape ``[n]``; the BIC takes them for numbers of observations.
        progress: Show a progress bar; by default on a terminal, after two seconds.
        options: Passed on to `fit`.

    Raises:
        ValueError: If no candidate is given, or an argument is out of range.
        ConvergenceError: If a fit does not converge.
    """
    if criterion not in ("bic", "held_out"):
        raise ValueError(f'`criterion` must be "bic" or "held_out"; got {criterion!r}.')
    sizes = tuple(sorted({as_count("candidates", num) for num in candidates}))
    if not sizes:
        raise ValueError("`candidates` must hold at least one number of components; got none.")
    num_folds = as_count("num_folds", num_folds)
    points = _as_data(x, sizes[-1])
    points, weight = weighted_points(points, sample_weight, sizes[-1])
    fold_key, fit_key, last_key = jax.random.split(as_key(key), 3)
    order = host_generator(fold_key).permutation(len(points))
    options = {**options, "progress": False}
    scores, errors, fits = [], [], {}
    with progress_bar(len(sizes), "choosing the number of components", progress) as bar:
        for num, own_key in zip(sizes, jax.random.split(fit_key, len(sizes)), strict=True):
            if criterion == "bic":
                fits[num] = fit(own_key, points, family, num, sample_weight=weight, **options)
                scores.append(float(fits[num].bic))
                errors.append(np.nan)
            else:
                folds, share = _held_out_scores(order, own_key, points, weight, family, num, num_folds, options)
                scores.append(float(np.average(folds, weights=share)))
                errors.append(float(np.std(folds, ddof=1) / np.sqrt(len(folds))) if len(folds) > 1 else np.nan)
            bar.update()
    best = sizes[int(np.argmin(scores) if criterion == "bic" else np.argmax(scores))]
    chosen = fits.get(best)
    if chosen is None:
        chosen = fit(last_key, points, family, best, sample_weight=weight, **options)
    chosen = dataclasses.replace(chosen, feature_names=column_names(x))
    return Selection(best, chosen, sizes, criterion, np.asarray(scores), np.asarray(errors))


def _held_out_scores(
    order: np.ndarray,
    fit_key: Any,
    points: np.ndarray,
    weight: np.ndarray,
    family: Any,
    num_components: int,
    num_folds: int,
    options: dict[str, Any],
) -> tuple[list[float], list[float]]:
    """Mean log-likelihood per unit of weight of each left-out fold, and the fold's weight."""
    num_parts = max(num_folds, 5) if num_folds == 1 else num_folds
    if len(points) - -(-len(points) // num_parts) < num_components:
        raise ValueError(
            f"`num_folds` = {num_folds} leaves fewer points than {num_components} components; use fewer folds."
        )
    scores, shares = [], []
    for part, own_key in zip(range(num_folds), jax.random.split(fit_key, num_folds), strict=True):
        out = np.zeros(len(points), bool)
        out[order[part::num_parts]] = True
        fitted = fit(own_key, points[~out], family, num_components, sample_weight=weight[~out], **options)
        log_prob = np.asarray(fitted.mixture.log_prob(points[out]), np.float64)
        scores.append(float(np.average(log_prob, weights=weight[out])))
        shares.append(float(weight[out].sum()))
    return scores, shares
