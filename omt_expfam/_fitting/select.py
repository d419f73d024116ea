"""Choosing the number of components."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.arrays import host_generator
from .._base.progress import progress_bar
from .._base.tables import column_names
from .._family.em_family import AbstractEMFamily
from .._family.template import as_template, in_order_of, Template
from .data import _as_data, used_size_factors, weighted_points
from .fit import Fit, fit
from .race import race, with_shared_start

# Tolerance of fits that are only compared by what they say of other points.
COMPARED = 1e-4


@dataclasses.dataclass(frozen=True)
class Selection:
    """Fits of several sizes and the one to take.

    Attributes:
        num_components: The chosen number of components.
        fit: The fit with that number, to all of the data.
        candidates: The numbers that were tried.
        criterion: ``"bic"`` or ``"held_out"``.
        scores: One per candidate: the BIC (smaller is better; of those far behind, what it was when they were given
            up), or the mean held-out log-likelihood per point over the folds, in nats (larger is better).
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
    size_factors: ArrayLike | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Selection:
    """Fit mixtures of several sizes and choose one by the BIC or by cross-validated likelihood.

    All candidates start from one mixture of twice the largest size, whose components are merged. By the BIC, those that
    are far behind after the first steps go no further; the others try a start of their own as well and go on from the
    better one, so that the evidence of the chosen fit is of its last steps. By left-out points, fits are compared at a
    tolerance of 1e-4 unless ``options`` has one.

    Args:
        key: Random key of the starts and the folds.
        x: Points, shape ``[n, d]``.
        family: A component family or a `template`, as for `fit`.
        candidates: Numbers of components to try.
        criterion: ``"bic"``, or ``"held_out"`` for the likelihood of left-out folds.
        num_folds: Number of folds for ``"held_out"``; 1 holds out a fifth of the points once.
        sample_weight: Nonnegative weights of the points, shape ``[n]``; the BIC takes them for numbers of observations.
        size_factors: Size factors of points that are counts, shape ``[n]``, as for `fit`.
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
    x = in_order_of(family, "x", x)
    points = _as_data(x, sizes[-1])
    factors = used_size_factors(size_factors, sample_weight, len(points), as_template(family).family)
    points, weight = weighted_points(points, sample_weight, sizes[-1])
    fold_key, fit_key, last_key = jax.random.split(as_key(key), 3)
    options = {**options, "progress": False}
    with progress_bar(len(sizes), "choosing the number of components", progress) as bar:
        if criterion == "bic":
            fits = race(fit_key, points, weight, family, sizes, {**options, "size_factors": factors}, bar)
            scores, errors = [float(fits[num].bic) for num in sizes], np.full(len(sizes), np.nan)
            best = sizes[int(np.argmin(scores))]
            chosen = fits[best]
        else:
            order = host_generator(fold_key).permutation(len(points))
            data = points, weight, factors
            scores, errors = _held_out(fit_key, order, data, family, sizes, num_folds, options, bar)
            best = sizes[int(np.argmax(scores))]
            chosen = fit(last_key, points, family, best, sample_weight=weight, size_factors=factors, **options)
    chosen = dataclasses.replace(chosen, feature_names=column_names(x))
    return Selection(best, chosen, sizes, criterion, np.asarray(scores), errors)


def _held_out(
    key: Any,
    order: np.ndarray,
    data: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    family: Any,
    sizes: tuple[int, ...],
    num_folds: int,
    options: dict[str, Any],
    bar: tqdm.tqdm,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean log-likelihood per unit of weight of left-out folds for each size, and standard errors.

    The data are points, their weights, and their size factors where they have some.
    """
    points, weight, factors = data
    num_parts = max(num_folds, 5) if num_folds == 1 else num_folds
    least = len(points) - -(-len(points) // num_parts)
    if least < sizes[-1]:
        raise ValueError(f"`num_folds` = {num_folds} leaves fewer points than {sizes[-1]} components; use fewer folds.")
    folds = [order[part::num_parts] for part in range(num_folds)]
    keys = jax.random.split(key, (len(sizes), num_folds))
    options = {"tolerance": COMPARED, **options}
    starts = [with_shared_start(options, sizes, len(points) - len(fold)) for fold in folds]
    scores = np.zeros((len(sizes), num_folds))
    for row, num in enumerate(sizes):
        for column, (fold, own) in enumerate(zip(folds, starts, strict=True)):
            rest = np.ones(len(points), bool)
            rest[fold] = False
            seen, other = (None, None) if factors is None else (factors[rest], factors[~rest])
            weighed = {"sample_weight": weight[rest], "size_factors": seen}
            fitted = fit(keys[row, column], points[rest], family, num, **weighed, **own)
            log_prob = np.asarray(fitted.mixture.log_prob(points[~rest], other), np.float64)
            scores[row, column] = np.average(log_prob, weights=weight[~rest])
        bar.update()
    shares = [float(weight[fold].sum()) for fold in folds]
    errors = scores.std(axis=1, ddof=1) / np.sqrt(num_folds) if num_folds > 1 else np.full(len(sizes), np.nan)
    return np.average(scores, axis=1, weights=shares), errors
