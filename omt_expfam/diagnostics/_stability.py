"""How far the map moves when the data are disturbed and both mixtures are fitted again."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float

from .._base.arguments import ArrayLike, as_count, as_key, KeyLike
from .._base.tables import column_names
from .._pipelines.mixture_transport import MixtureTransport
from ._maps import (
    points_or,
    true_images,
    two_sides,
)
from ._perturbations import AbstractPerturbation
from ._refits import Task
from ._runs import Checkpoint, Job

if TYPE_CHECKING:
    from typing import Literal

    import xarray

    Method = Callable[..., Any]
    Perturbations = Sequence[AbstractPerturbation]
    Side = Literal["source", "target"]
else:
    # Checked by `stability`, with better messages than a run-time type checker's.
    Method = Perturbations = Side = Any

# What is recorded of each run, with its units.
COLUMNS = {
    "w2_lower": "units of the data",
    "w2": "units of the data",
    "w2_upper": "units of the data",
    "displacement": "units of the data",
    "weights_change": "share of the mass, 0 to 2",
    "mse": "squared units of the data",
    "mse_change": "relative to the undisturbed fit",
    "cost": "squared units of the data",
    "cost_change": "relative to the undisturbed fit",
    "converged": "1 if every solve met its tolerance",
    "seconds": "seconds",
}


class Stability(eqx.Module):
    r"""How far a map moved, for P perturbations, each repeated R times. A failed run has NaN in its columns.

    Attributes:
        perturbations: What was done to the data, in words.
        kinds: The kind of each perturbation.
        sizes: How strong each is, in its own units, shape ``[P]``.
        side: The side whose data were disturbed.
        w2_lower: Lower bounds of W2 between the two fits of the disturbed side, units of the data, shape ``[P, R]``:
            W2 of the normal laws with their moments.
        w2: Estimates of it, within the bounds.
        w2_upper: Upper bounds: $D_M^{1/2}$, from their transport without regularization.
        displacement: Mean over the points of $\|T(x) - T'(x)\|$, units of the data.
        weights_change: L1 distance of the couplings of the weights, under the best labels, 0 to 2.
        mse: Mean squared distance of $T'(x)$ from the true images, squared units of the data.
        mse_change: Relative change of that error.
        cost: Transport cost of the refitted plan.
        cost_change: Relative change of the cost.
        converged: Whether all solves of a run met their tolerances.
        seconds: Wall-clock time of each run; the first one of a size compiles.
        reasons: Why a run failed or did not converge, ``""`` if it did; ``reasons[p][r]``.
        image_spread: Root mean squared distance of T(x) from its mean, units of the data: the scale of displacements.
        reference_cost: The cost without disturbance.
        reference_mse: The error without disturbance.
        num_points: The number of points that maps were compared at.
    """

    perturbations: tuple[str, ...] = eqx.field(static=True)
    kinds: tuple[str, ...] = eqx.field(static=True)
    sizes: Float[np.ndarray, " P"]
    side: str = eqx.field(static=True)
    w2_lower: Float[np.ndarray, "P R"]
    w2: Float[np.ndarray, "P R"]
    w2_upper: Float[np.ndarray, "P R"]
    displacement: Float[np.ndarray, "P R"]
    weights_change: Float[np.ndarray, "P R"]
    mse: Float[np.ndarray, "P R"]
    mse_change: Float[np.ndarray, "P R"]
    cost: Float[np.ndarray, "P R"]
    cost_change: Float[np.ndarray, "P R"]
    converged: Bool[np.ndarray, "P R"]
    seconds: Float[np.ndarray, "P R"]
    reasons: tuple[tuple[str, ...], ...] = eqx.field(static=True)
    image_spread: float
    reference_cost: float
    reference_mse: float
    num_points: int = eqx.field(static=True)

    @property
    def num_repeats(self) -> int:
        """How often each perturbation was repeated, R."""
        return self.displacement.shape[1]

    @property
    def failed(self) -> Bool[np.ndarray, "P R"]:
        """Which runs gave no map, shape ``[P, R]``."""
        return np.isnan(self.displacement)

    def select(self, *kinds: str) -> "Stability":
        """The part of the study with perturbations of some kinds.

        Raises:
            ValueError: If there are none of a kind.
        """
        for kind in kinds:
            if kind not in self.kinds:
                raise ValueError(f"`kinds` must be among {', '.join(dict.fromkeys(self.kinds))}; got {kind!r}.")
        rows = [row for row, kind in enumerate(self.kinds) if kind in kinds]
        parts = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                parts[field.name] = value[rows]
            elif isinstance(value, tuple):
                parts[field.name] = tuple(value[row] for row in rows)
            else:
                parts[field.name] = value
        return type(self)(**parts)

    def to_dataset(self) -> "xarray.Dataset":
        """All columns as an xarray data set with dimensions ``perturbation`` and ``repeat``; units are attributes."""
        import xarray

        dims = ("perturbation", "repeat")
        columns = {name: (dims, getattr(self, name), {"units": units}) for name, units in COLUMNS.items()}
        columns["converged"] = (dims, self.converged, {})
        columns["reason"] = (dims, np.array(self.reasons, dtype=str), {})
        names = np.array(self.perturbations, dtype=str)
        coords = {
            "perturbation": names,
            "kind": ("perturbation", np.array(self.kinds, dtype=str)),
            "size": ("perturbation", self.sizes),
            "repeat": np.arange(self.num_repeats),
        }
        attributes = {
            name: getattr(self, name)
            for name in ("side", "num_points", "image_spread", "reference_cost", "reference_mse")
        }
        return xarray.Dataset(columns, coords, attributes)

    def summary(self) -> str:
        """A table for people: mean and standard deviation over the repeats that gave a map."""
        shown = {
            "W2": self.w2,
            "displacement": self.displacement,
            "of spread": self.displacement / self.image_spread if self.image_spread else self.displacement * np.nan,
            "weights": self.weights_change,
            "cost change": self.cost_change,
            "MSE change": self.mse_change,
        }
        shown = {name: values for name, values in shown.items() if not np.isnan(values).all()}
        width = max(len(name) for name in ("perturbation", *self.perturbations))
        lines = [f"{'perturbation':<{width}}" + "".join(f"  {name:>18}" for name in shown) + "  failed"]
        for row, name in enumerate(self.perturbations):
            cells = "".join(f"  {_mean_and_deviation(values[row]):>18}" for values in shown.values())
            lines.append(f"{name:<{width}}{cells}  {int(self.failed[row].sum()):>6}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        failed = int(self.failed.sum())
        text = f"Stability({len(self.perturbations)} perturbations of the {self.side}, {self.num_repeats} repeats"
        return text + (f", {failed} failed)" if failed else ")")


def stability(
    key: KeyLike,
    x: ArrayLike,
    y: ArrayLike,
    method: Method,
    perturbations: Perturbations,
    *,
    num_repeats: int = 10,
    points: ArrayLike | None = None,
    true_map: Callable[..., Any] | ArrayLike | None = None,
    side: Side = "source",
    warm_start: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> Stability:
    r"""Disturb the data, fit and transport again, and measure how far the map moved on undisturbed points.

    The reference is ``method(key', x, y)`` with one key derived from ``key``. Every disturbed run is fitted with that
    same key, so that without disturbance nothing moves; `Reseeding` is the exception, whose point is another key. The
    repeats of two perturbations share their random numbers. A `MixtureTransport` is refitted on the disturbed side
    only.

    Args:
        key: Random key.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``.
        method: A `MixtureTransport`, or any function of a key and two data sets that returns a `TransportPlan`, a
            `BrenierFit` (`fit_brenier` itself does), or a map from points ``[n, d]`` to points ``[n, d]``. Of a map
            only displacement, errors and time are recorded, and distances are those of the point clouds.
        perturbations: What to do to the data.
        num_repeats: Number of repeats R of each.
        points: Points where the maps are compared, on the source side, shape ``[k, d]``; by default ``x``.
        true_map: The true map, if known: a function of points, or its images of ``points``.
        side: Which data are disturbed.
        warm_start: Start all fits of the disturbed side, also that of the reference, at the undisturbed mixture, where
            the method is a `MixtureTransport`. By default fits are made from scratch, as a user would; they may then
            end in another optimum of EM, which moves the map by about as much as `Reseeding` does, however small the
            disturbance. A warm start leaves most of that part out. `Reseeding` is not affected.
        checkpoint: A file that keeps finished runs; an interrupted study continues from it, and a longer one (more
            repeats or perturbations) reuses it. It is tied to the inputs; of a function that is the method only name
            and code are compared, and the map on undisturbed data.
        progress: Show a progress bar; by default on a terminal, after two seconds.
        throw: Raise when a disturbed run fails; otherwise its row holds NaN and the reason. The reference must succeed.

    Returns:
        The study.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If shapes do not match, a value is out of range, or ``checkpoint`` belongs to another study.
        ConvergenceError: If a fit or a transport fails; likewise whatever else the method raises.
    """
    source, target = two_sides(x, y)
    if not callable(method):
        raise TypeError(f"`method` must be a MixtureTransport or a function; got {type(method).__name__}.")
    if isinstance(perturbations, AbstractPerturbation):
        raise TypeError("`perturbations` must be a sequence of perturbations; got a single one.")
    listed = tuple(perturbations)
    if not listed:
        raise ValueError("`perturbations` must hold at least one perturbation; got none.")
    for item in listed:
        if not isinstance(item, AbstractPerturbation):
            raise TypeError(f"`perturbations` must hold perturbations such as GaussianNoise(0.1); got {item!r}.")
    if warm_start and not isinstance(method, MixtureTransport):
        raise TypeError(f"`warm_start` needs a MixtureTransport as `method`; got {type(method).__name__}.")
    if side not in ("source", "target"):
        raise ValueError(f'`side` must be "source" or "target"; got {side!r}.')
    num_repeats = as_count("num_repeats", num_repeats)
    shown = points_or(points, source, column_names(x))
    truth = true_images(true_map, shown)
    inputs = {"key": as_key(key), "x": source, "y": target, "method": method, "points": shown, "true_map": truth}
    kept = Checkpoint(checkpoint, "stability", tuple(COLUMNS), {**inputs, "side": side, "warm_start": warm_start})
    names = _names(listed)
    runs = [(p, r) for p in range(len(listed)) for r in range(num_repeats)]
    missing = [(p, r) for p, r in runs if _run_name(names[p], r) not in kept.rows]
    if missing or kept.reference is None:
        task = Task(key, (source, target), method, shown, truth, 0 if side == "source" else 1, warm_start)
        kept.set_reference(task.reference_numbers)
        jobs = [
            Job(_run_name(names[p], r), functools.partial(task.run, listed[p], r), f"repeat {r} of {names[p]}", {})
            for p, r in missing
        ]
        kept.complete(jobs, len(runs), "stability", progress, throw)
    return _collect(kept, listed, names, num_repeats, side, len(shown))


def _names(perturbations: tuple[AbstractPerturbation, ...]) -> list[str]:
    """Each perturbation in words: its kind and the fields that are set."""
    names = []
    for item in perturbations:
        fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        texts = [f"{name}={_short(value)}" for name, value in fields.items() if value is not None]
        names.append(f"{item.name}({', '.join(texts)})")
    return names


def _short(value: Any) -> str:
    return f"{float(value):.6g}" if np.ndim(value) == 0 and not isinstance(value, str) else str(value)


def _run_name(perturbation: str, repeat: int) -> str:
    return f"{perturbation}, repeat {repeat}"


def _collect(
    kept: Checkpoint,
    perturbations: tuple[AbstractPerturbation, ...],
    names: list[str],
    num_repeats: int,
    side: str,
    num_points: int,
) -> Stability:
    rows = [[kept.rows[_run_name(name, r)] for r in range(num_repeats)] for name in names]
    table = np.array([[values for values, _ in row] for row in rows])
    columns = {name: table[:, :, i] for i, name in enumerate(COLUMNS)}
    columns["converged"] = columns["converged"] == 1
    reference = kept.reference or {}
    return Stability(
        tuple(names),
        tuple(item.name for item in perturbations),
        np.array([item.size for item in perturbations]),
        side,
        **columns,
        reasons=tuple(tuple(reason for _, reason in row) for row in rows),
        image_spread=reference["image_spread"],
        reference_cost=reference["cost"],
        reference_mse=reference["mse"],
        num_points=num_points,
    )


def _mean_and_deviation(values: np.ndarray) -> str:
    kept = values[~np.isnan(values)]
    if not kept.size:
        return "-"
    return f"{kept.mean():.3g}" + (f" +- {kept.std(ddof=1):.2g}" if kept.size > 1 else "")
