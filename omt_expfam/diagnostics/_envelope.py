"""Constants for the stability bound of the map, from measured displacements."""

from typing import Any, NamedTuple, TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._base.arguments import as_count, as_host_or_traced, as_scalar, check_probability
from ._stability import Stability

if TYPE_CHECKING:
    Observations = Stability | tuple[Any, Any]
else:
    # Checked by `fit_envelope`, with a better message than a run-time type checker's.
    Observations = Any

# An envelope may be exceeded by this much, relative, without counting as violated: rounding.
_ROUNDING = 1e-9


class Violation(NamedTuple):
    """A run that lies above a bound.

    Attributes:
        perturbation: What was done to the data.
        repeat: The repeat.
        w2: How far the disturbed law moved, units of the data.
        displacement: How far the map moved, same units.
        bound: What the bound allows.
    """

    perturbation: str
    repeat: int
    w2: float
    displacement: float
    bound: float


class Envelope(eqx.Module):
    r"""The bound $a_0 W_2 + b_0 W_2^{1/2}$ with the smallest mean slack above all measured displacements.

    Attributes:
        a0: Coefficient of W2, without unit.
        b0: Coefficient of the square root of W2, in square roots of the data's unit.
        a0_interval: Bootstrap interval over repeats; its upper end is never below ``a0``.
        b0_interval: The same of ``b0``.
        probability: The probability of the intervals.
        left_out_share: Share of the repeats that the envelope of the other repeats does not cover: an estimate of the
            probability that a further repeat exceeds the bound somewhere. NaN with a single repeat.
        w2: The distances, shape ``[P, R]``.
        displacement: The displacements, shape ``[P, R]``.
        perturbations: What each row is.
        column: Which distances these are: a column of `Stability`, or ``"given"``.
    """

    a0: float
    b0: float
    a0_interval: tuple[float, float]
    b0_interval: tuple[float, float]
    probability: float
    left_out_share: float
    w2: Float[np.ndarray, "P R"]
    displacement: Float[np.ndarray, "P R"]
    perturbations: tuple[str, ...] = eqx.field(static=True)
    column: str = eqx.field(static=True)

    def bound(self, w2: Any) -> np.ndarray:
        """The bound at distances ``w2`` of any shape, units of the data."""
        return _bound(self.a0, self.b0, as_host_or_traced("w2", w2))

    def violations(self, a0: float | None = None, b0: float | None = None) -> tuple[Violation, ...]:
        """The runs above the bound with constants of your own; by default those of the envelope, which has none."""
        first, second = (
            own if given is None else float(as_scalar(name, given))
            for name, given, own in (("a0", a0, self.a0), ("b0", b0, self.b0))
        )
        allowed = _bound(first, second, self.w2)
        found = []
        for row, repeat in np.argwhere(_exceeds(self.displacement, allowed)):
            numbers = (float(table[row, repeat]) for table in (self.w2, self.displacement, allowed))
            found.append(Violation(self.perturbations[row], int(repeat), *numbers))
        return tuple(found)

    def modulus(self) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """The modulus of continuity that was measured: distances, increasing, and the largest displacement up to each.

        Returns:
            Distances r, units of the data, and the largest displacement over all runs with ``w2 <= r``.
        """
        return running_maximum(self.w2, self.displacement)

    @property
    def mean_slack(self) -> float:
        """The mean distance from the bound to the displacements below it, units of the data."""
        return float(np.nanmean(self.bound(self.w2) - self.displacement))

    def __repr__(self) -> str:
        intervals = [f"({low:.3g}, {high:.3g})" for low, high in (self.a0_interval, self.b0_interval)]
        text = f"Envelope(a0 {self.a0:.4g} {intervals[0]}, b0 {self.b0:.4g} {intervals[1]}, over {self.column}"
        # A single repeat has no others.
        if not np.isnan(self.left_out_share):
            text += f"; {self.left_out_share:.0%} of the repeats exceed the envelope of the others"
        return f"{text})"


def fit_envelope(
    study: Observations,
    *,
    column: str = "w2_lower",
    num_bootstrap: int = 200,
    probability: float = 0.9,
    seed: int = 0,
) -> Envelope:
    r"""Find the smallest constants of the stability bound that hold on all runs.

    $$\int \|T_{\nu_0}(x) - T_{\nu_0'}(x)\| d\nu_0(x) \le a_0 W_2(\nu_0, \nu_0') + b_0 W_2(\nu_0, \nu_0')^{1/2}$$

    Marghi, Jin and Sümbül (2026) prove that there are such constants. Of all $a_0, b_0 \ge 0$ whose bound holds on
    every run, these have the smallest mean slack: a linear program, whose answer does not depend on the unit of length.

    W2 itself is known only between bounds. With lower bounds on the right the constants come out too large rather than
    too small, so that the bound also holds with W2 in their place; this is the default. It is loose where moments
    hardly change although the law does (`Reseeding`, small disturbances of overlapping components): there ``"w2"`` is
    nearer to the truth. To use an envelope, evaluate it at upper bounds.

    An envelope is a maximum: it covers the runs that were made. Resampling them cannot produce a larger displacement
    than the largest, so bootstrap intervals are too short, above all on their upper side; ``left_out_share`` says how
    often a repeat exceeded the envelope of the others.

    Args:
        study: A study of the source side, or a pair of arrays (distances, displacements), shape ``[N]``, or ``[P, R]``
            with one column per repeat. Runs that failed are left out.
        column: Which distances of the study to use: ``"w2_lower"``, ``"w2"`` or ``"w2_upper"``.
        num_bootstrap: Number of resamplings of the repeats.
        probability: Probability of the equal-tailed intervals.
        seed: Seed of the resampling.

    Raises:
        TypeError: If an argument is not of the stated type.
        ValueError: If there is no run, shapes differ, values are negative, or a map moved although its W2 is zero,
            which no constants can cover.
    """
    num_bootstrap, seed = as_count("num_bootstrap", num_bootstrap), as_count("seed", seed, minimum=0)
    check_probability(probability)
    w2, displacement, names, column = _observations(study, column)
    a0, b0 = _smallest(w2, displacement)
    repeats = w2.shape[1]
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(num_bootstrap):
        chosen = np.unique(rng.integers(0, repeats, repeats))
        resampled.append(_smallest(w2[:, chosen], displacement[:, chosen]))
    tails = np.quantile(np.array(resampled), [(1 - probability) / 2, (1 + probability) / 2], axis=0)
    return Envelope(
        a0=a0,
        b0=b0,
        a0_interval=_around(a0, tails[:, 0]),
        b0_interval=_around(b0, tails[:, 1]),
        probability=float(probability),
        left_out_share=_left_out(w2, displacement),
        w2=w2,
        displacement=displacement,
        perturbations=names,
        column=column,
    )


def running_maximum(w2: np.ndarray, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances of the runs that did not fail, increasing, and the largest displacement up to each."""
    used = ~np.isnan(w2) & ~np.isnan(displacement)
    order = np.argsort(w2[used], kind="stable")
    return w2[used][order], np.maximum.accumulate(displacement[used][order])


def _around(value: float, tails: np.ndarray) -> tuple[float, float]:
    """An interval that holds the estimate."""
    return min(float(tails[0]), value), max(float(tails[1]), value)


def _observations(study: Any, column: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], str]:
    """Distances and displacements, NaN where a run failed, and what they are."""
    if isinstance(study, Stability):
        if column not in ("w2_lower", "w2", "w2_upper"):
            raise ValueError(f'`column` must be "w2_lower", "w2" or "w2_upper"; got {column!r}.')
        if study.side != "source":
            raise ValueError(f'`study` must disturb the source, which the bound is about; got side "{study.side}".')
        w2, displacement, names = getattr(study, column), study.displacement, study.perturbations
    else:
        if not isinstance(study, tuple | list) or len(study) != 2:
            raise TypeError(f"`study` must be a Stability or a pair (w2, displacement); got {type(study).__name__}.")
        w2, displacement = (np.asarray(as_host_or_traced("study", part), np.float64) for part in study)
        if w2.shape != displacement.shape or w2.ndim not in (1, 2):
            raise ValueError(
                f"`study` must hold two arrays of one shape [N] or [P, R]; got {w2.shape} and {displacement.shape}."
            )
        w2, displacement = np.atleast_2d(w2), np.atleast_2d(displacement)
        names, column = tuple(f"row {row}" for row in range(len(w2))), "given"
    lost = np.isnan(w2) | np.isnan(displacement)
    w2, displacement = (np.where(lost, np.nan, table) for table in (w2, displacement))
    if lost.all():
        raise ValueError(f"`study` must have at least one run with {column} and displacement; got none.")
    if (w2 < 0).any() or (displacement < 0).any() or np.isinf(w2).any() or np.isinf(displacement).any():
        raise ValueError("`study` must hold finite distances and displacements that are not negative.")
    stuck = np.argwhere((w2 == 0) & (displacement > 0))
    if stuck.size:
        row, repeat = stuck[0]
        raise ValueError(
            f"`study` must not hold a map that moved while {column} is 0: repeat {repeat} of {names[row]} moved by "
            f"{displacement[row, repeat]:.3g}. No constants cover it."
        )
    return w2, displacement, names, column


def _smallest(w2: np.ndarray, displacement: np.ndarray) -> tuple[float, float]:
    """The constants of the envelope with the smallest mean slack; zeros without any displacement."""
    from scipy.optimize import linprog

    used = ~np.isnan(displacement)
    w2, displacement = w2[used], displacement[used]
    largest, highest = w2.max(initial=0.0), displacement.max(initial=0.0)
    if highest == 0:
        return 0.0, 0.0
    # In units of the largest distance and the largest displacement.
    terms = np.stack([w2 / largest, np.sqrt(w2 / largest)], axis=1)
    answer = linprog(terms.mean(axis=0), A_ub=-terms, b_ub=-displacement / highest, bounds=(0, None), method="highs")
    if not answer.success:
        raise RuntimeError(f"The linear program for the envelope was not solved: {answer.message}")
    # HiGHS meets constraints to 1e-7; raised by what is missing, the envelope covers every run.
    covered = terms @ answer.x
    needed = np.max(displacement[w2 > 0] / highest / covered[w2 > 0])
    a, b = answer.x * max(needed, 1.0)
    return float(a * highest / largest), float(b * highest / np.sqrt(largest))


def _left_out(w2: np.ndarray, displacement: np.ndarray) -> float:
    """Share of the repeats that exceed the envelope of the others."""
    repeats = w2.shape[1]
    if repeats < 2:
        return float("nan")
    exceeded = []
    for repeat in range(repeats):
        others = np.arange(repeats) != repeat
        bound = _bound(*_smallest(w2[:, others], displacement[:, others]), w2[:, repeat])
        exceeded.append(_exceeds(displacement[:, repeat], bound).any())
    return float(np.mean(exceeded))


def _bound(a0: float, b0: float, w2: Any) -> np.ndarray:
    distances = np.asarray(w2, np.float64)
    if (distances < 0).any():
        raise ValueError(f"`w2` must not be negative; got {np.nanmin(distances):g}.")
    return np.asarray(a0 * distances + b0 * np.sqrt(distances))


def _exceeds(displacement: np.ndarray, bound: np.ndarray) -> np.ndarray:
    return np.asarray(displacement > bound * (1 + _ROUNDING))
