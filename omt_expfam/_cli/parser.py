"""Usage: what the commands take, without loading the library."""

import argparse
import math
from typing import Any, NoReturn

import omt_expfam

from .arguments import candidate, count, epsilon, MIN_WEIGHT, names, nonnegative, number, positive, relaxation, seed

PROG = "omt-expfam"

FAMILIES = {
    "gaussian": "Gaussian",
    "diagonal": "DiagonalGaussian",
    "spherical": "SphericalGaussian",
    "low-rank": "LowRankGaussian",
    "student-t": "StudentT",
    "diagonal-student-t": "DiagonalStudentT",
    "poisson": "Poisson",
    "negative-binomial": "NegativeBinomial",
}
COUNTS = ("poisson", "negative-binomial")

_POINTS_HELP = (
    "points: a .npy, .npz (file.npz:name chooses an array), .csv, .tsv, .csv.gz, .parquet or .h5ad (file.h5ad:X_pca) "
    "file, one row per point"
)
_IMAGES_HELP = ".npy (numbers alone), .npz (x, and names), .csv, .tsv, .csv.gz, .parquet or .h5ad"

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
        description="Entropic optimal transport between mixture models: fit, transport, push, and what they show.",
        epilog=f"Example: {PROG} fit a.csv -K 5 -o a.omt; {PROG} fit b.csv -K 5 -o b.omt; "
        f"{PROG} transport a.omt b.omt; "
        f"{PROG} push plan.omt a.csv",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show where an error comes from")
    common.add_argument(
        "--json",
        action="store_true",
        help="print one JSON document for programs, and all else to standard error",
    )
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
        type=names,
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
    _add_select(commands, [points, saving, common])
    _add_fit(commands, [points, saving, common])
    _add_transport(commands, [saving, common])
    _add_push(commands, [points, saving, common])
    _add_refine(commands, [points, saving, common])
    _add_labels(commands, [points, saving, common])
    _add_trajectory(commands, [points, saving, common])
    _add_interpolate(commands, [saving, common])
    _add_report(commands, [points, saving, common])
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
    parser.add_argument("--seed", type=seed, default=0, help="seed of the split, the fits and the draws (default: 0)")


def _add_select(commands: Any, parents: list) -> None:
    summary = "choose the number of components of a mixture, or of both sides of a plan"
    parser = _add(commands, "select", summary, parents)
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", nargs="?", help="points of the target: choose those of a plan")
    parser.add_argument(
        "-K",
        "--components",
        type=candidate,
        nargs="+",
        required=True,
        metavar="K",
        help="numbers to try; K0:K1 for different ones of source and target",
    )
    _add_family(parser)
    parser.add_argument(
        "--criterion",
        choices=("bic", "held-out"),
        help="of one data set: the BIC, or the likelihood of left-out fifths (default: bic); plans are "
        "compared by the distance between images and targets that were held out",
    )
    parser.add_argument("--splits", type=count, help="of a plan: splits to average over (default: 1)")
    _add_epsilons(parser)
    parser.add_argument("-o", "--out", metavar="FILE", help="the fit or plan (default: mixture.omt or plan.omt)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of splits and starts (default: 0)")


def _add_fit(commands: Any, parents: list) -> None:
    parser = _add(commands, "fit", "fit a mixture to points", parents)
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument("-K", "--components", type=count, help="number of components")
    _add_labels_option(parser, "labels: a mixture of these groups, with no need for -K")
    _add_family(parser)
    parser.add_argument("-o", "--out", metavar="FILE", default="mixture.omt", help="the fit (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the start (default: 0)")
    parser.add_argument(
        "--tolerance", type=nonnegative, help="stop when the objective per point, in nats, changes by less"
    )
    parser.add_argument("--max-steps", type=count, metavar="N", help="limit on the steps of EM")


def _add_family(parser: Any) -> None:
    parser.add_argument(
        "--family", choices=FAMILIES, default="gaussian", help="component family (default: %(default)s)"
    )
    parser.add_argument("--rank", type=count, metavar="R", help="number of factors of low-rank components")


def _add_labels_option(parser: Any, what: str) -> None:
    parser.add_argument("--labels", metavar="NAME", help=f"column of the table, or key of obs, that holds {what}")


def _add_transport(commands: Any, parents: list) -> None:
    parser = _add(commands, "transport", "transport one mixture to another", parents)
    parser.add_argument("source", metavar="SOURCE.omt", help="source: a saved fit or mixture")
    parser.add_argument("target", metavar="TARGET.omt", help="target: a saved fit or mixture")
    _add_epsilons(parser)
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}-relaxation",
            type=relaxation,
            metavar="R",
            help=f"let the masses of {side} components change: PRICE of a divergence in units of squared distance, "
            "tv:PRICE of every unit of mass, or share:SHARE to move (default: they are kept)",
        )
        parser.add_argument(
            f"--{side}-mass",
            type=positive,
            metavar="M",
            default=1.0,
            help=f"total mass of the {side}, such as a number of cells (default: 1)",
        )
    parser.add_argument("-o", "--out", metavar="FILE", default="plan.omt", help="the plan (default: %(default)s)")
    _add_min_weight(parser)


def _add_min_weight(parser: Any) -> None:
    parser.add_argument(
        "--min-weight",
        type=nonnegative,
        default=MIN_WEIGHT,
        metavar="W",
        help="leave lighter pairs of components out of the printed table (default: %(default)s)",
    )


def _add_refine(commands: Any, parents: list) -> None:
    parser = _add(commands, "refine", "fit the optimal map between two data sets, the gradient of a potential", parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument("--plan", metavar="PLAN.omt", help="a saved plan of the two, where the search starts")
    parser.add_argument("-o", "--out", metavar="FILE", default="map.omt", help="the map (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the training (default: 0)")
    parser.add_argument("--steps", type=count, metavar="N", help="steps of the training (default: by sizes)")


def _add_push(commands: Any, parents: list) -> None:
    parser = _add(commands, "push", "map points by a plan or a map", parents)
    parser.add_argument("plan", metavar="PLAN.omt", help="a saved plan, or a map that refine saved")
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="mapped.npy",
        help=f"the images: {_IMAGES_HELP} (default: %(default)s)",
    )
    parser.add_argument("--backward", action="store_true", help="map from the target to the source")
    parser.add_argument(
        "--method",
        choices=("mean", "sample", "most-likely"),
        default="mean",
        help="of a plan: the mean of the images, one random image per point, or the mean under the most likely pair "
        "of components (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of --method sample (default: 0)")


def _add_labels(commands: Any, parents: list) -> None:
    summary = "carry labels over a plan, and read off what becomes of groups"
    parser = _add(commands, "labels", summary, parents)
    parser.add_argument("plan", metavar="PLAN.omt", help="a saved plan of the two")
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    _add_both_labels(parser)
    parser.add_argument(
        "--backward",
        action="store_true",
        help="carry the target's labels to the source (default: if they alone are given)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="labels.csv",
        help="likeliest label and probabilities of every point: .csv, .tsv, .csv.gz, .npz, .parquet or .h5ad "
        "(default: %(default)s)",
    )


def _add_both_labels(parser: Any) -> None:
    what = (
        "a column of the table, a key of obs, or a file of its own (.csv, .tsv, .csv.gz, .parquet; FILE:COLUMN for one "
        "of several): in the order of the points, or beside their names"
    )
    parser.add_argument("--labels", metavar="NAME", help=f"labels of the source: {what}")
    parser.add_argument("--target-labels", metavar="NAME", help="labels of the target, likewise")


def _add_trajectory(commands: Any, parents: list) -> None:
    parser = _add(commands, "trajectory", "transport along a time course, from each snapshot to the next", parents)
    parser.add_argument("data", metavar="SNAPSHOT", nargs="+", help=f"saved fits (.omt), or {_POINTS_HELP}")
    parser.add_argument(
        "--times", type=number, nargs="+", metavar="T", help="their times, increasing (default: 0, 1, 2, ...)"
    )
    parser.add_argument("-K", "--components", type=count, help="number of components of snapshots that are points")
    _add_labels_option(parser, "states, which are then the components")
    _add_family(parser)
    _add_epsilons(parser)
    parser.add_argument(
        "--source-relaxation",
        type=positive,
        metavar="R",
        default=math.inf,
        help="price of growth, in units of squared distance (default: none grows)",
    )
    parser.add_argument(
        "-o", "--out", metavar="FILE", default="trajectory.omt", help="the trajectory (default: %(default)s)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the fits (default: 0)")
    _add_min_weight(parser)


def _add_interpolate(commands: Any, parents: list) -> None:
    parser = _add(commands, "interpolate", "find the law at a time in between", parents)
    parser.add_argument("path", metavar="FILE.omt", help="a saved plan or trajectory")
    parser.add_argument(
        "-t",
        "--time",
        type=number,
        required=True,
        help="of a plan, from 0 (source) to 1 (target); of a trajectory, among its times",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="between.omt",
        help=f"the law (.omt), or points drawn from it: {_IMAGES_HELP} (default: %(default)s)",
    )
    parser.add_argument("-n", "--points", type=count, default=1000, help="how many points to draw (default: 1000)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the draws (default: 0)")


def _add_report(commands: Any, parents: list) -> None:
    summary = "write one HTML page on two data sets: who goes where, pictures, labels, checks in words"
    parser = _add(commands, "report", summary, parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument("--plan", metavar="PLAN.omt", help="a saved plan of the two (default: one is made)")
    parser.add_argument(
        "-K",
        "--components",
        type=count,
        nargs="+",
        metavar="K",
        help="number of components, or two (default: the labeled groups, or the smallest BIC of 1 to 8)",
    )
    _add_family(parser)
    _add_epsilons(parser)
    _add_both_labels(parser)
    parser.add_argument(
        "--embedding",
        type=names,
        metavar="NAME[,NAME]",
        help="coordinates to draw at: an array of both files, such as X_umap, or two columns (default: two of the "
        "data's own dimensions)",
    )
    parser.add_argument("--title", metavar="TEXT", help="title of the page (default: from both files' names)")
    parser.add_argument("-o", "--out", metavar="FILE", default="report.html", help="the page (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the fits (default: 0)")


def _add_diagnose(commands: Any, parents: list) -> None:
    summary = "report how unique, stable and sensitive the transport of two data sets is"
    parser = _add(commands, "diagnose", summary, parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument(
        "-K", "--components", type=count, nargs="+", required=True, metavar="K", help="number of components, or two"
    )
    _add_epsilons(parser)
    parser.add_argument(
        "--family",
        # Noise is added to the points, and counts do not stay counts.
        choices=[name for name in FAMILIES if name not in ("low-rank", *COUNTS)],
        default="gaussian",
        help="component family (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=count, default=3, help="repeats of each disturbance (default: 3)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of everything random (default: 0)")
    parser.add_argument(
        "-o", "--out", metavar="DIR", default="omt-report", help="folder of the report (default: %(default)s)"
    )


def _add_epsilons(parser: Any) -> None:
    for name, what in (("components", "the couplings of components"), ("weights", "the coupling of their weights")):
        parser.add_argument(
            f"--epsilon-{name}",
            type=epsilon,
            metavar="E",
            default="auto",
            help=f"entropic regularization of {what}, {_EPSILON_HELP} (default: auto)",
        )
    parser.add_argument(
        "--epsilon-scale", type=positive, metavar="S", default=1.0, help="multiplies auto (default: %(default)g)"
    )
