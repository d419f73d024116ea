"""What the answer hangs on: the same data under other numbers of components, regularizations, families and seeds."""

import functools
import os
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.arguments import ArrayLike, as_key, as_points, as_scalar, KeyLike
from .._base.tables import column_names, in_order
from ._choices import Alternatives, choices_of, HeldOut, in_words, Method, SEVERAL
from ._comparison import COLUMNS, Comparison, sizes
from ._maps import points_or, true_images, two_sides
from ._random import permutation
from ._runs import Checkpoint, describe, Job

if TYPE_CHECKING:
    import xarray


class Sweep(eqx.Module):
    r"""What became of C choices; the first one is the base, with which others are compared. NaN where a run failed.

    Attributes:
        choices: Each choice in words.
        knobs: What each choice changes: a field of `MixtureTransport`, ``"seed"``, ``"several"`` or ``"method"``;
            ``""`` for the base.
        num_source_components: Source components K0, shape ``[C]``.
        num_target_components: Target components K1.
        held_out_source: Mean log-likelihood of left-out source points, nats per point.
        held_out_target: Mean log-likelihood of left-out target points, nats per point.
        held_out_change: The sum of both, minus that of the base.
        held_out_error: Standard error of that change, from the differences point by point.
        mse: Mean squared distance from the true images, squared units of the data.
        cost: Transport cost, squared units of the data.
        objective: Minimized objective, same units; comparable between equal regularizations only.
        displacement: Mean over the points of $\|T_{base}(x) - T(x)\|$, units of the data.
        law_change: Mean over (up to 200 of) the points of the W2 distance between normal laws with the means and
            covariances of $\pi_{base}(y | x)$ and $\pi(y | x)$, units of the data; it asks for no labels.
        converged: Whether all solves of a choice met their tolerances.
        seconds: Wall-clock time of each choice; fits that several choices share count for the first of them.
        reasons: Why a choice failed or did not converge, ``""`` if it did.
        image_spread: Root mean squared distance of the base's T(x) from its mean: the scale of displacements.
        num_points: The number of points that maps were compared at.
    """

    choices: tuple[str, ...] = eqx.field(static=True)
    knobs: tuple[str, ...] = eqx.field(static=True)
    num_source_components: Float[np.ndarray, " C"]
    num_target_components: Float[np.ndarray, " C"]
    held_out_source: Float[np.ndarray, " C"]
    held_out_target: Float[np.ndarray, " C"]
    held_out_change: Float[np.ndarray, " C"]
    held_out_error: Float[np.ndarray, " C"]
    mse: Float[np.ndarray, " C"]
    cost: Float[np.ndarray, " C"]
    objective: Float[np.ndarray, " C"]
    displacement: Float[np.ndarray, " C"]
    law_change: Float[np.ndarray, " C"]
    converged: Bool[np.ndarray, " C"]
    seconds: Float[np.ndarray, " C"]
    reasons: tuple[str, ...] = eqx.field(static=True)
    image_spread: float
    num_points: int = eqx.field(static=True)

    @property
    def relative_displacement(self) -> Float[np.ndarray, " C"]:
        """Displacements in units of the spread of the base's images."""
        return self.displacement / (self.image_spread or np.nan)

    @property
    def failed(self) -> Bool[np.ndarray, " C"]:
        """Which choices gave no map."""
        return np.isnan(self.displacement)

    def as_likely(self, tolerance: float = 0.05) -> Bool[np.ndarray, " C"]:
        """Which choices the held-out points do not tell from the base.

        Args:
            tolerance: Log-likelihoods count as equal within this many nats per point, or within two standard errors.
        """
        margin = np.maximum(2 * self.held_out_error, float(as_scalar("tolerance", tolerance)))
        return np.abs(self.held_out_change) <= margin

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before the base's answer is believed, with the default thresholds of `find_warnings`."""
        return self.find_warnings()

    def find_warnings(self, displacement: float = 0.1, tolerance: float = 0.05) -> tuple[str, ...]:
        """Sentences that say where the answer hangs on a choice.

        Where other random starts were tried (``seed``), choices that need another fit must move the map by half as much
        again as those did: less says nothing about the choice.

        Args:
            displacement: The map counts as moved when its images move by more than this share of their spread.
            tolerance: Log-likelihoods count as equal as in `as_likely`.
        """
        limit, moved = float(as_scalar("displacement", displacement)), self.relative_displacement
        alike, knobs = self.as_likely(tolerance), np.array(self.knobs)
        # Regularizations leave the mixtures alone, and with them the likelihoods.
        refitted = (self.held_out_change != 0) | (self.held_out_error != 0)
        floor = 1.5 * np.nanmax(moved[knobs == "seed"], initial=0.0)
        limits = np.where(refitted & (knobs != "seed"), max(limit, floor), limit)
        found = []
        for knob in dict.fromkeys(self.knobs[1:]):
            hanging = np.flatnonzero((knobs == knob) & alike & (moved > limits))
            if hanging.size:
                worst = hanging[np.argmax(moved[hanging])]
                undecided = "no likelihood decides between the two"
                if refitted[worst]:
                    change, error = self.held_out_change[worst], self.held_out_error[worst]
                    undecided = f"held-out points cannot tell them apart ({change:+.2g} +- {error:.1g} nats per point)"
                found.append(
                    f"The map hangs on {in_words(knob)}: with {self.choices[worst]} images move by "
                    f"{moved[worst]:.0%} of their spread, and {undecided}."
                )
        better = self.held_out_change - np.maximum(2 * np.nan_to_num(self.held_out_error), tolerance)
        if np.nanmax(better, initial=0.0) > 0:
            best = int(np.nanargmax(better))
            found.append(
                f"The base is not the best description of the data: {self.choices[best]} gains "
                f"{self.held_out_change[best]:.2g} nats per held-out point, and images move by {moved[best]:.0%} of "
                "their spread."
            )
        found.extend(self._coarseness(limits, better, alike))
        failed = [name for name, lost in zip(self.choices, self.failed, strict=True) if lost]
        if failed:
            found.append(f"No map: {', '.join(failed)}; see `reasons`.")
        return tuple(found)

    def _coarseness(self, limits: np.ndarray, better: np.ndarray, alike: np.ndarray) -> list[str]:
        """Whether the source has components enough for its map, if that was measured."""
        base = self.num_source_components[0]
        if np.isnan(base):
            return []
        blend = f"T is a blend of as many affine maps as the source has components, here {base:.0f}"
        finer = (self.num_source_components > base) & np.isin(self.knobs, ("num_components", SEVERAL)) & ~self.failed
        if not finer.any():
            return [f"{blend}; whether that is too coarse was not measured: no choice had more source components."]
        # A choice that overfits moves the map too, without being finer in any useful sense.
        fair = np.flatnonzero(finer & (alike | (better > 0)))
        if not fair.size:
            return [f"{blend}; whether that is too coarse cannot be told: those with more describe the data worse."]
        finest = fair[np.argmax(self.num_source_components[fair])]
        moved = self.relative_displacement[finest]
        if moved <= limits[finest]:
            return []
        return [
            f"The map is coarse: {blend}; with {self.num_source_components[finest]:.0f} images move by {moved:.0%} of "
            "their spread. Use more source components, or draws of the plan (`plan.sample`) in place of T."
        ]

    def to_dataset(self) -> "xarray.Dataset":
        """All columns as an xarray data set with the dimension ``choice``; units are attributes."""
        import xarray

        columns = {name: ("choice", getattr(self, name), {"units": units}) for name, units in COLUMNS.items()}
        columns["converged"] = ("choice", self.converged, {})
        columns["reason"] = ("choice", np.array(self.reasons, dtype=str), {})
        coords = {
            "choice": np.array(self.choices, dtype=str),
            "knob": ("choice", np.array(self.knobs, dtype=str)),
        }
        return xarray.Dataset(columns, coords, {"num_points": self.num_points, "image_spread": self.image_spread})

    def summary(self) -> str:
        """A table for people, and the warnings."""
        shown = {
            "held-out change": self.held_out_change,
            "moved, of spread": self.relative_displacement,
            "law change": self.law_change,
            "cost": self.cost,
            "MSE": self.mse,
        }
        shown = {name: values for name, values in shown.items() if not np.isnan(values).all()}
        width = max(len(name) for name in self.choices)
        lines = [" " * width + "".join(f"  {name:>16}" for name in shown)]
        for row, name in enumerate(self.choices):
            cells = ["-" if np.isnan(values[row]) else f"{values[row]:.4g}" for values in shown.values()]
            lines.append(f"{name:<{width}}" + "".join(f"  {cell:>16}" for cell in cells))
        return "\n".join([*lines, *(f"- {sentence}" for sentence in self.warnings)])

    def __repr__(self) -> str:
        failed = int(self.failed.sum())
        return f"Sweep({len(self.choices)} choices" + (f", {failed} failed)" if failed else ")")


def sweep(
    key: KeyLike,
    x: ArrayLike,
    y: ArrayLike,
    base: Method,
    alternatives: Alternatives,
    *,
    product: bool = False,
    held_out: HeldOut = 0.2,
    points: ArrayLike | None = None,
    true_map: Callable[..., Any] | ArrayLike | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    throw: bool = True,
) -> Sweep:
    """Transport the same data under other choices, and compare each with a base choice.

    Choices that share a fit share its computation: other regularizations cost a transport only.

    Args:
        key: Random key; it splits off the held-out points, and starts the fits of all choices alike.
        x: Source points, shape ``[n, d]``.
        y: Target points, shape ``[m, d]``.
        base: The choice to compare with: a `MixtureTransport`, or any method that `stability` takes.
        alternatives: Values to try, by name: ``{"num_components": [(3, 15), (15, 15)], "epsilon_weights": [0.1]}``.
            Names are ``family``, ``num_components``, ``epsilon_components``, ``epsilon_weights``, ``epsilon_scale``,
            ``seed`` (whole numbers) and ``fit_options`` or ``transport_options`` (dictionaries, merged into those of
            the base). Or whole methods, each under a name of its own: ``{"merged": MixtureTransport(...)}``; methods
            that return bare maps have no likelihoods.
        product: Try all combinations; by default each value alone, with all else as in the base.
        held_out: Share of the points that fits do not see, whose likelihood is compared; or held-out points of your
            own, ``(x, y)``, and all data are fitted.
        points: Points where the maps are compared, shape ``[k, d]``; by default all of ``x``.
        true_map: The true map, if known: a function of points, or its images of ``points``.
        checkpoint: A file that keeps finished choices, as in `stability`.
        progress: Show a progress bar; by default on a terminal, after two seconds.
        throw: Raise when a choice fails; otherwise its row holds NaN and the reason. The base must succeed.

    Returns:
        The comparison; ``print(result.summary())`` to read it, with its warnings.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If a name or value is none that can be tried, or shapes do not match.
        ConvergenceError: If a fit or a transport fails; likewise whatever else a method raises.
    """
    source, target = two_sides(x, y)
    if not callable(base):
        raise TypeError(f"`base` must be a MixtureTransport or a function; got {type(base).__name__}.")
    choices = choices_of(base, alternatives, product)
    shown = points_or(points, source, column_names(x))
    truth = true_images(true_map, shown)
    split_key, fit_key = jax.random.split(as_key(key))
    data, left = _split(split_key, source, target, held_out, column_names(x))
    inputs = {"key": key, "x": source, "y": target, "base": base, "points": shown, "true_map": truth}
    kept = Checkpoint(checkpoint, "sweep", tuple(COLUMNS), {**inputs, "held_out": left})
    # Choices of one name and of different values (families of one name, long arrays) are told apart by what they are.
    names = [f"{choice.name} | {describe((choice.method, choice.seed))}" for choice in choices]
    missing = [i for i, name in enumerate(names) if name not in kept.rows]
    if missing or kept.reference is None:
        task = Comparison(fit_key, data, left, choices[0], shown, truth)
        kept.set_reference(task.reference_numbers)
        jobs = [
            Job(names[i], functools.partial(task.run, choices[i]), choices[i].name, sizes(choices[i].method))
            for i in missing
        ]
        kept.complete(jobs, len(choices), "sweep", progress, throw)
    table = np.array([kept.rows[name][0] for name in names])
    columns = {name: table[:, i] for i, name in enumerate(COLUMNS)}
    columns["converged"] = columns["converged"] == 1
    return Sweep(
        tuple(choice.name for choice in choices),
        tuple(choice.knob for choice in choices),
        **columns,
        reasons=tuple(kept.rows[name][1] for name in names),
        image_spread=(kept.reference or {})["image_spread"],
        num_points=len(shown),
    )


def _split(
    key: Any, x: Array, y: Array, held_out: Any, names: tuple[str, ...] | None
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Points to fit, and points to compare likelihoods on."""
    if isinstance(held_out, tuple | list):
        if len(held_out) != 2:
            raise ValueError(f"`held_out` must be a share or a pair of point sets; got {len(held_out)} items.")
        named = (in_order("held_out", points, names) for points in held_out)
        left = tuple(as_points("held_out", points, x.shape[1], x.dtype) for points in named)
        if not all(len(points) for points in left):
            raise ValueError("`held_out` must have at least one point on each side.")
        return (x, y), (left[0], left[1])
    share = float(as_scalar("held_out", held_out, strict=True))
    if share >= 1:
        raise ValueError(f"`held_out` must be less than 1; got {share:g}.")
    parts = []
    for own_key, points in zip(jax.random.split(key), (x, y), strict=True):
        num = max(1, round(share * len(points)))
        order, host = permutation(own_key, len(points)), np.asarray(points)
        parts.append(tuple(jax.device_put(host[np.sort(some)]) for some in (order[num:], order[:num])))
        if not len(parts[-1][0]):
            raise ValueError(f"`held_out` = {share:g} leaves no points to fit.")
    (x_in, x_out), (y_in, y_out) = parts
    return (x_in, y_in), (x_out, y_out)
