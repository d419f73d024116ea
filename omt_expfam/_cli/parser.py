"""Usage: what the commands take, and errors in it, without loading the library."""

import argparse
import math
import os
from typing import Any, NoReturn

import omt_expfam

from .._files.paths import check_extension, check_folder

PROG = "omt-expfam"

FAMILIES = {
    "gaussian": "Gaussian",
    "diagonal": "DiagonalGaussian",
    "spherical": "SphericalGaussian",
    "low-rank": "LowRankGaussian",
}

_POINTS_HELP = (
    "points: a .npy, .npz (file.npz:name chooses an array), .csv, .csv.gz, .parquet or .h5ad (file.h5ad:X_pca) file, "
    "one row per point"
)

_EPSILON_HELP = "in units of squared distance of the data, 0 for none; auto is a share of the data's own distances"


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROG}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version; asks for it only then."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        print(f"{PROG} {omt_expfam.__version__}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog=PROG,
        description="Entropic optimal transport between mixture models: fit, transport, refine, push.",
        epilog=f"Example: {PROG} fit a.csv -K 5 -o a.omt; {PROG} fit b.csv -K 5 -o b.omt; "
        f"{PROG} transport a.omt b.omt; "
        f"{PROG} push plan.omt a.csv",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error comes from")
    common.add_argument(
        "--no-cache",
        action="store_false",
        dest="cache",
        help="compile all programs anew (default: keep them between runs, in JAX_COMPILATION_CACHE_DIR or the user's "
        "cache directory)",
    )
    saving = argparse.ArgumentParser(add_help=False)
    saving.add_argument("--force", action="store_true", help="replace an existing output file (default: refuse)")
    saving.add_argument(
        "--precision",
        choices=("float64", "float32"),
        default="float64",
        help="floating-point type of the computation and its results (default: float64)",
    )
    points = argparse.ArgumentParser(add_help=False)
    points.add_argument("--array", metavar="NAME", help="name of the array in a .npz or .h5ad file of several")
    points.add_argument(
        "--columns",
        type=_names,
        metavar="NAME,...",
        help="columns of a table, in this order (default: all)",
    )
    points.add_argument("--index", metavar="NAME", help="column of a table that labels the rows")
    header = points.add_mutually_exclusive_group()
    header.add_argument(
        "--header",
        action="store_true",
        default=None,
        help="the first line of a .csv file holds names (default: if none of its cells is a number)",
    )
    header.add_argument(
        "--no-header", action="store_false", dest="header", help="the first line of a .csv file holds numbers"
    )
    _add_demo(commands, [common])
    _add_fit(commands, [points, saving, common])
    _add_transport(commands, [saving, common])
    _add_refine(commands, [points, saving, common])
    _add_push(commands, [points, saving, common])
    _add_diagnose(commands, [points, saving, common])
    return parser


def _add(commands: Any, name: str, summary: str, parents: list) -> Any:
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.", parents=parents)
    parser.set_defaults(command=name, parser=parser)
    return parser


def _add_demo(commands: Any, parents: list) -> None:
    parser = _add(commands, "demo", "transport handwritten digits into others and draw pictures", parents)
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="omt-demo",
        help="folder of the results (default: %(default)s); files of an earlier demo in it are replaced",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the split, the fits and the draws (default: 0)")


def _add_fit(commands: Any, parents: list) -> None:
    parser = _add(commands, "fit", "fit a mixture to points", parents)
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument("-K", "--components", type=_count, required=True, help="number of components")
    parser.add_argument(
        "--family", choices=FAMILIES, default="gaussian", help="component family (default: %(default)s)"
    )
    parser.add_argument("--rank", type=_count, metavar="R", help="number of factors of low-rank components")
    parser.add_argument("-o", "--out", metavar="FILE", default="mixture.omt", help="the fit (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the start (default: 0)")
    parser.add_argument(
        "--tolerance", type=_nonnegative, help="stop when the objective per point, in nats, changes by less"
    )
    parser.add_argument("--max-steps", type=_count, metavar="N", help="limit on the steps of EM")


def _add_transport(commands: Any, parents: list) -> None:
    parser = _add(commands, "transport", "transport one mixture to another", parents)
    parser.add_argument("source", metavar="SOURCE.omt", help="source: a saved fit or mixture")
    parser.add_argument("target", metavar="TARGET.omt", help="target: a saved fit or mixture")
    _add_epsilons(parser)
    parser.add_argument("-o", "--out", metavar="FILE", default="plan.omt", help="the plan (default: %(default)s)")
    parser.add_argument(
        "--min-weight",
        type=_nonnegative,
        default=1e-3,
        metavar="W",
        help="leave lighter pairs of components out of the printed table (default: %(default)s)",
    )


def _add_refine(commands: Any, parents: list) -> None:
    parser = _add(commands, "refine", "fit the optimal map between two data sets, the gradient of a potential", parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument("--plan", metavar="PLAN.omt", help="a saved plan of the two, where the search starts")
    parser.add_argument("-o", "--out", metavar="FILE", default="map.omt", help="the map (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--steps", type=_count, metavar="N", help="steps of the training (default: by sizes)")


def _add_push(commands: Any, parents: list) -> None:
    parser = _add(commands, "push", "map points by a plan or a map", parents)
    parser.add_argument("plan", metavar="PLAN.omt", help="a saved plan, or a map that refine saved")
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="mapped.npy",
        help="the images: .npy, .npz (array x), .csv or .parquet (default: %(default)s)",
    )
    parser.add_argument("--backward", action="store_true", help="map from the target to the source")
    parser.add_argument(
        "--method",
        choices=("mean", "sample", "most-likely"),
        default="mean",
        help="of a plan: the mean of the images, one random image per point, or the mean under the most likely pair "
        "of components (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of --method sample (default: 0)")


def _add_diagnose(commands: Any, parents: list) -> None:
    summary = "report how unique, stable and sensitive the transport of two data sets is"
    parser = _add(commands, "diagnose", summary, parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument(
        "-K", "--components", type=_count, nargs="+", required=True, metavar="K", help="number of components, or two"
    )
    _add_epsilons(parser)
    parser.add_argument(
        "--family",
        choices=[name for name in FAMILIES if name != "low-rank"],
        default="gaussian",
        help="component family (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=_count, default=3, help="repeats of each disturbance (default: 3)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of everything random (default: 0)")
    parser.add_argument(
        "-o", "--out", metavar="DIR", default="omt-report", help="folder of the report (default: %(default)s)"
    )


def _add_epsilons(parser: Any) -> None:
    for name, what in (("components", "the couplings of components"), ("weights", "the coupling of their weights")):
        parser.add_argument(
            f"--epsilon-{name}",
            type=_epsilon,
            metavar="E",
            default="auto",
            help=f"entropic regularization of {what}, {_EPSILON_HELP} (default: auto)",
        )
    parser.add_argument(
        "--epsilon-scale", type=_positive, metavar="S", default=1.0, help="multiplies auto (default: %(default)g)"
    )


def _whole_number(text: str, minimum: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None
    if not minimum <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be at least {minimum} and below 2^31; got {text}")
    return number


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"must be different names separated by commas; got {text!r}")
    return names


def _count(text: str) -> int:
    return _whole_number(text, 1)


def _seed(text: str) -> int:
    return _whole_number(text, 0)


def _nonnegative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number; got {text!r}") from None
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"must be finite and at least 0; got {text}")
    return number


def _epsilon(text: str) -> float | str:
    return text if text == "auto" else _nonnegative(text)


def _positive(text: str) -> float:
    number = _nonnegative(text)
    if not number:
        raise argparse.ArgumentTypeError("must be greater than 0; got 0")
    return number


def check_usage(arguments: argparse.Namespace) -> None:
    """Refuse what argparse cannot see, and, before the work, to replace a file by accident."""
    command, out = arguments.command, arguments.out
    if command == "fit" and (arguments.rank is not None) != (arguments.family == "low-rank"):
        arguments.parser.error("--family low-rank and --rank R go together")
    if command in ("transport", "diagnose") and arguments.epsilon_scale != 1:
        if "auto" not in (arguments.epsilon_components, arguments.epsilon_weights):
            arguments.parser.error("--epsilon-scale multiplies auto, and both epsilons are numbers")
    if command == "diagnose" and len(arguments.components) > 2:
        arguments.parser.error("-K takes one number, or two for source and target")
    if command == "push":
        check_extension(out, output=True)
    if command in ("fit", "transport", "refine", "push"):
        check_folder(out)
    if command != "demo":
        saved = os.path.join(out, "report.md") if command == "diagnose" else out
        if os.path.lexists(saved) and not arguments.force:
            raise FileExistsError(f"{saved}: the file exists already; replace it with --force.")
