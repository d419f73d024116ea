"""Values of arguments, and arguments that go together: looked at before anything is loaded."""

import argparse
import math
import os
from collections.abc import Callable
from typing import NoReturn

from .._files.paths import check_extension, check_folder, EXTENSIONS

# Lighter pairs of components are left out of what is printed, unless asked for.
MIN_WEIGHT = 1e-3

# Ends the program with a message.
Wrong = Callable[[str], NoReturn]


def names(text: str) -> list[str]:
    """Different names separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"must be different names separated by commas; got {text!r}")
    return found


def count(text: str) -> int:
    """A positive whole number."""
    return _whole_number(text, 1)


def seed(text: str) -> int:
    """A whole number, at least 0."""
    return _whole_number(text, 0)


def _whole_number(text: str, minimum: int) -> int:
    try:
        found = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None
    if not minimum <= found < 2**31:
        raise argparse.ArgumentTypeError(f"must be at least {minimum} and below 2^31; got {text}")
    return found


def candidate(text: str) -> int | tuple[int, int]:
    """A number of components, or two, of source and target."""
    parts = text.split(":")
    if len(parts) > 2:
        raise argparse.ArgumentTypeError(f"must be K or K0:K1; got {text!r}")
    return count(text) if len(parts) == 1 else (count(parts[0]), count(parts[1]))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number; got {text!r}") from None


def number(text: str) -> float:
    """A finite number."""
    found = _number(text)
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"must be finite; got {text}")
    return found


def nonnegative(text: str) -> float:
    """A finite number, at least 0."""
    found = _number(text)
    if not (math.isfinite(found) and found >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and at least 0; got {text}")
    return found


def epsilon(text: str) -> float | str:
    """A regularization: a number, or ``auto``."""
    return text if text == "auto" else nonnegative(text)


def relaxation(text: str) -> tuple[str, float]:
    """A kind of relaxation, and its number: a price, ``tv:PRICE`` or ``share:SHARE``."""
    kind, _, value = text.rpartition(":")
    if kind not in ("", "tv", "share"):
        raise argparse.ArgumentTypeError(f"must be PRICE, tv:PRICE or share:SHARE; got {text!r}")
    found = positive(value)
    if kind == "share" and found > 1:
        raise argparse.ArgumentTypeError(f"a share must be at most 1; got {value}")
    return kind, found


def positive(text: str) -> float:
    """A finite number greater than 0."""
    found = nonnegative(text)
    if not found:
        raise argparse.ArgumentTypeError("must be greater than 0; got 0")
    return found


def holds_points(path: str) -> bool:
    """Whether a file's name is that of points, not of an object that was saved; ``file.npz:name`` too."""
    name = os.path.basename(path).lower()
    return any(name.endswith(end) or f"{end}:" in name for end in EXTENSIONS)


def check_usage(arguments: argparse.Namespace) -> None:
    """Refuse what argparse cannot see, and, before the work, to replace a file by accident."""
    command, wrong = arguments.command, arguments.parser.error
    if hasattr(arguments, "rank") and (arguments.rank is not None) != (arguments.family == "low-rank"):
        wrong("--family low-rank and --rank R go together")
    if getattr(arguments, "epsilon_scale", 1) != 1:
        if "auto" not in (arguments.epsilon_components, arguments.epsilon_weights):
            wrong("--epsilon-scale multiplies auto, and both epsilons are numbers")
    if command in _CHECKS:
        _CHECKS[command](arguments, wrong)
    out = arguments.out
    if command not in ("demo", "diagnose"):
        check_folder(out)
    if command != "demo":
        saved = os.path.join(out, "report.md") if command == "diagnose" else out
        if os.path.lexists(saved) and not arguments.force:
            raise FileExistsError(f"{saved}: the file exists already; replace it with --force.")


def _check_fit(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if (arguments.components is None) == (arguments.labels is None):
        wrong("one of -K and --labels is required: how many components are there?")


def _check_select(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if arguments.target is None and any(isinstance(one, tuple) for one in arguments.components):
        wrong("-K K0:K1 is for a source and a target; there is one data set")
    for name, value, one in (("criterion", arguments.criterion, True), ("splits", arguments.splits, False)):
        if value is not None and one != (arguments.target is None):
            wrong(f"--{name} is for {'one data set; there are two' if one else 'a source and a target; there is one'}")
    arguments.criterion, arguments.splits = arguments.criterion or "bic", arguments.splits or 1
    arguments.out = arguments.out or ("mixture.omt" if arguments.target is None else "plan.omt")


def _check_diagnose(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if len(arguments.components) > 2:
        wrong("-K takes one number, or two for source and target")


def _check_report(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if not arguments.out.lower().endswith((".html", ".htm")):
        wrong("-o: a report is an .html file")
    if arguments.components is not None and len(arguments.components) > 2:
        wrong("-K takes one number, or two for source and target")
    if arguments.components is not None and arguments.plan is not None:
        wrong("-K and --plan do not go together: the plan has its components")
    if arguments.embedding is not None and len(arguments.embedding) > 2:
        wrong("--embedding takes the name of an array, or of two columns separated by a comma")
    if arguments.target_labels is not None and arguments.labels is None:
        wrong("--target-labels go with --labels, those of the source")


def _check_labels(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if arguments.labels is None and arguments.target_labels is None:
        wrong("--labels or --target-labels is required: what is to be carried over?")
    if arguments.backward and arguments.target_labels is None:
        wrong("--backward carries labels of the target: --target-labels is required")
    if check_extension(arguments.out) == ".npy":
        wrong("-o: a .npy file holds no names of labels; take .csv, .npz, .parquet or .h5ad")


def _check_trajectory(arguments: argparse.Namespace, wrong: Wrong) -> None:
    if len(arguments.data) < 2:
        wrong("a trajectory has at least two snapshots")
    if arguments.times is not None and len(arguments.times) != len(arguments.data):
        wrong(f"--times must have one time per snapshot, {len(arguments.data)}; got {len(arguments.times)}")
    points = [path for path in arguments.data if holds_points(path)]
    if points and (arguments.components is None) == (arguments.labels is None):
        wrong(f"one of -K and --labels is required: {points[0]} holds points, not a fit")
    if not points and (arguments.components is not None or arguments.labels is not None):
        wrong("-K and --labels are for snapshots that are points; all of these are saved fits")


_CHECKS: dict[str, Callable[[argparse.Namespace, Wrong], object]] = {
    "fit": _check_fit,
    "select": _check_select,
    "diagnose": _check_diagnose,
    "report": _check_report,
    "push": lambda arguments, _: check_extension(arguments.out),
    "labels": _check_labels,
    "trajectory": _check_trajectory,
}
