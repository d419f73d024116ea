"""A race of fits of several sizes to the same points: only those that may still have the least BIC go on."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from .climb import SharedStart
from .fit import Fit, fit, TOLERANCE

# Tolerances at which fits are compared before the last one, and how many nats per point one may then be behind the best
# and go on. (What EM gains after such a tolerance is less in nine of ten fits.) After the first one, it may also be
# behind by the penalty of a component, which a bad start can waste.
_HEATS = ((1e-3, 0.02), (1e-4, 0.01))


def with_shared_start(options: dict[str, Any], sizes: Sequence[int], num_points: int) -> dict[str, Any]:
    """Options of fits of several sizes to the same points: with one start for all, unless another is asked for."""
    start = options.get("start", "merge")
    if not isinstance(start, str) or start != "merge":
        return options
    return {**options, "start": SharedStart(max((num for num in sizes if 2 * num <= num_points), default=0))}


def race(
    key: Any,
    points: np.ndarray,
    weight: np.ndarray,
    family: Any,
    sizes: tuple[int, ...],
    options: dict[str, Any],
    bar: tqdm.tqdm,
) -> dict[int, Fit]:
    """The fits, each as far as it came.

    All begin at one start. Those that are left after the first heat try one of their own as well: a common one can be
    a bad one for them all.
    """
    options = {**options, "sample_weight": weight}
    shared, last = with_shared_start(options, sizes, len(points)), options.get("tolerance", TOLERANCE)
    keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
    fits: dict[int, Fit] = {}

    def run(num: int, tolerance: float, settings: dict[str, Any]) -> Fit:
        return fit(jax.random.clone(keys[num]), points, family, num, **{**settings, "tolerance": tolerance})

    going, total = list(sizes), float(weight.sum())
    for tolerance, reach in [*(heat for heat in _HEATS if heat[0] > last), (last, -np.inf)]:
        first = not fits
        for num in going:
            begun = shared if first else {**options, "start": fits[num].mixture, "num_starts": 1}
            fits[num] = run(num, tolerance, begun)
        bics = {num: float(fits[num].bic) for num in going}
        margin = 2 * total * reach
        if first:
            margin = max(margin, *((fits[num].num_parameters + 1) / num * np.log(total) for num in going))
        behind = [num for num in going if bics[num] > min(bics.values()) + margin]
        going = [num for num in going if num not in behind]
        if first and shared is not options:
            most = shared["start"].largest
            alone = {
                num: run(num, tolerance, {**options, "start": SharedStart(num, most)}) for num in going if num < most
            }
            fits |= {num: max(fits[num], other, key=_objective) for num, other in alone.items()}
        bar.update(len(behind))
    return fits


def _objective(fitted: Fit) -> float:
    """What EM increases, before the last step."""
    return float(np.asarray(fitted.objectives)[-1])
