"""The command line: fit mixtures to files of points, transport them, and push points through the plan.

The library itself is imported inside the commands, so that help and usage errors come at once.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

PROG = "omt-expfam"

_FAMILIES = {
    "gaussian": "Gaussian",
    "diagonal": "DiagonalGaussian",
    "spherical": "SphericalGaussian",
    "low-rank": "LowRankGaussian",
}
_POINTS_HELP = "points: a .npy, .npz (file.npz:name chooses an array) or .csv file, one row per point"
_EPSILON_HELP = "in units of squared distance of the data; 0 for none"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit status: 0 for success, 1 for an error in the data or the computation, 2 for wrong usage, 130 when
        interrupted.
    """
    debug = False
    try:
        arguments = _parser().parse_args(argv)
        debug = arguments.debug
        arguments.command(arguments)
        sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print(f"{PROG}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left; nothing more may be written, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _expected_errors() as error:
        if debug:
            raise
        print(f"{PROG}: error: {_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _expected_errors() -> tuple[type[Exception], ...]:
    from .._base.results import ConvergenceError

    return ValueError, TypeError, OSError, ConvergenceError, ModuleNotFoundError


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


# -- usage --------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{PROG}: error: {message} (see {self.prog} --help)\n")


class _Version(argparse.Action):
    """Prints the version; asks for it only then."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        from .. import __version__

        print(f"{PROG} {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG,
        description="Entropic optimal transport between mixture models: fit, transport, push.",
        epilog=f"Example: {PROG} fit a.csv -K 5 -o a.omt; {PROG} fit b.csv -K 5 -o b.omt; "
        f"{PROG} transport a.omt b.omt --epsilon-components 0.1 --epsilon-weights 0.1; "
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
    points.add_argument("--array", metavar="NAME", help="name of the array in a .npz file of several")
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
    _add_push(commands, [points, saving, common])
    _add_diagnose(commands, [points, saving, common])
    return parser


def _add(commands: Any, command: Callable[[argparse.Namespace], None], name: str, summary: str, parents: list) -> Any:
    parser = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.", parents=parents)
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_demo(commands: Any, parents: list) -> None:
    parser = _add(commands, _demo, "demo", "transport handwritten digits into others and draw pictures", parents)
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="omt-demo",
        help="folder of the results (default: %(default)s); files of an earlier demo in it are replaced",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the split, the fits and the draws (default: 0)")


def _add_fit(commands: Any, parents: list) -> None:
    parser = _add(commands, _fit, "fit", "fit a mixture to points", parents)
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument("-K", "--components", type=_count, required=True, help="number of components")
    parser.add_argument(
        "--family", choices=_FAMILIES, default="gaussian", help="component family (default: %(default)s)"
    )
    parser.add_argument("--rank", type=_count, metavar="R", help="number of factors of low-rank components")
    parser.add_argument("-o", "--out", metavar="FILE", default="mixture.omt", help="the fit (default: %(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="seed of the start (default: 0)")
    parser.add_argument(
        "--tolerance", type=_nonnegative, help="stop when the objective per point, in nats, changes by less"
    )
    parser.add_argument("--max-steps", type=_count, metavar="N", help="limit on the steps of EM")


def _add_transport(commands: Any, parents: list) -> None:
    parser = _add(commands, _transport, "transport", "transport one mixture to another", parents)
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


def _add_push(commands: Any, parents: list) -> None:
    parser = _add(commands, _push, "push", "map points by a plan", parents)
    parser.add_argument("plan", metavar="PLAN.omt", help="a saved plan")
    parser.add_argument("data", metavar="DATA", help=_POINTS_HELP)
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        default="mapped.npy",
        help="the images: .npy, .npz (array x) or .csv (default: %(default)s)",
    )
    parser.add_argument("--backward", action="store_true", help="map from the target to the source")
    parser.add_argument(
        "--method",
        choices=("mean", "sample", "most-likely"),
        default="mean",
        help="the mean of the images, one random image per point, or the mean under the most likely pair of "
        "components (default: %(default)s)",
    )
    parser.add_argument("--seed", type=_seed, default=0, help="seed of --method sample (default: 0)")


def _add_diagnose(commands: Any, parents: list) -> None:
    summary = "report how unique, stable and sensitive the transport of two data sets is"
    parser = _add(commands, _diagnose, "diagnose", summary, parents)
    parser.add_argument("source", metavar="SOURCE", help=_POINTS_HELP)
    parser.add_argument("target", metavar="TARGET", help="points of the target, likewise")
    parser.add_argument(
        "-K", "--components", type=_count, nargs="+", required=True, metavar="K", help="number of components, or two"
    )
    _add_epsilons(parser)
    parser.add_argument(
        "--family",
        choices=[name for name in _FAMILIES if name != "low-rank"],
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
            type=_nonnegative,
            metavar="E",
            required=True,
            help=f"entropic regularization of {what}, {_EPSILON_HELP}",
        )


def _whole_number(text: str, minimum: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number; got {text!r}") from None
    if not minimum <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be at least {minimum} and below 2^31; got {text}")
    return number


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


# -- commands -----------------------------------------------------------------------------------------------


def _keep_programs(arguments: argparse.Namespace) -> None:
    """Let the programs that earlier runs compiled be found."""
    if arguments.cache:
        from .._base.cache import use_compilation_cache

        use_compilation_cache()


def _demo(arguments: argparse.Namespace) -> None:
    _keep_programs(arguments)
    from .demo import run_demo

    run_demo(arguments.out, arguments.seed)


def _fit(arguments: argparse.Namespace) -> None:
    if (arguments.rank is not None) != (arguments.family == "low-rank"):
        arguments.parser.error("--family low-rank and --rank R go together")
    _check_output(arguments)
    _keep_programs(arguments)
    import jax
    import numpy as np

    import families

    from .._family.template import template
    from .._files.points import read_points
    from .._fitting.fit import fit
    from .._storage import save

    points = read_points(arguments.data, array=arguments.array, header=arguments.header)
    chosen = getattr(families, _FAMILIES[arguments.family])
    if arguments.rank is not None:
        chosen = template(chosen, rank=arguments.rank)
    limits = {"tolerance": arguments.tolerance, "max_steps": arguments.max_steps}
    limits = {name: value for name, value in limits.items() if value is not None}
    with jax.enable_x64(arguments.precision == "float64"):
        key = jax.random.key(arguments.seed)
        result = fit(key, points.astype(arguments.precision), chosen, arguments.components, **limits)
        save(arguments.out, result)
        print(f"{arguments.data}: {points.shape[0]} points in {points.shape[1]} dimensions")
        print(result)
        print(f"BIC {float(result.bic):.6g}, smaller is better")
        print(_components_table(np.asarray(result.mixture.weights), np.asarray(result.mixture.components.mean())))
        print(f"saved {arguments.out}")


def _components_table(weights: Any, means: Any) -> str:
    """Weight and mean of every component, the heaviest first."""
    lines = ["component  weight  mean"]
    for k in (-weights).argsort(kind="stable"):
        numbers = "  ".join(f"{value:.4g}" for value in means[k][:6])
        lines.append(f"{k:>9}  {weights[k]:.4f}  {numbers}{'  ...' if len(means[k]) > 6 else ''}")
    return "\n".join(lines)


def _transport(arguments: argparse.Namespace) -> None:
    _check_output(arguments)
    _keep_programs(arguments)
    import jax

    from .._plans.transport import transport
    from .._storage import save

    with jax.enable_x64(arguments.precision == "float64"):
        plan = transport(
            _load_mixture(arguments.source, arguments.precision),
            _load_mixture(arguments.target, arguments.precision),
            epsilon_components=arguments.epsilon_components,
            epsilon_weights=arguments.epsilon_weights,
        )
        save(arguments.out, plan)
        print(plan)
        print("cost: mean squared distance, in squared units of the data")
        print(plan.correspondences(arguments.min_weight))
        print(f"saved {arguments.out}")


def _load_mixture(path: str, precision: str) -> Any:
    from .._components.mixture import Mixture
    from .._fitting.fit import Fit
    from .._storage import load

    held = load(path, dtype=precision)
    mixture = held.mixture if isinstance(held, Fit) else held
    if not isinstance(mixture, Mixture):
        raise ValueError(f"{path}: must hold a mixture or a fit; got {type(held).__name__}.")
    # Weights that were rounded to float32 miss one by too much for float64: the constructor normalizes them.
    rounded = abs(float(mixture.weights.sum()) - 1) > 1e-12
    return Mixture(mixture.weights, mixture.components) if rounded else mixture


def _push(arguments: argparse.Namespace) -> None:
    from .._files.points import check_extension, read_points, write_points

    check_extension(arguments.out)
    _check_output(arguments)
    _keep_programs(arguments)
    import jax
    import numpy as np

    from .._plans.plan import TransportPlan
    from .._storage import load

    with jax.enable_x64(arguments.precision == "float64"):
        plan = load(arguments.plan, dtype=arguments.precision)
        if not isinstance(plan, TransportPlan):
            raise ValueError(f"{arguments.plan}: must hold a plan; got {type(plan).__name__}.")
        plan = plan.reverse() if arguments.backward else plan
        points = read_points(arguments.data, array=arguments.array, header=arguments.header)
        if points.shape[1] != plan.source.dim:
            raise ValueError(
                f"{arguments.data}: must have {plan.source.dim} columns, as the plan {arguments.plan}; "
                f"got {points.shape[1]}."
            )
        maps = {
            "mean": plan.push_forward,
            "most-likely": plan.push_forward_most_likely,
            "sample": lambda x: plan.sample(jax.random.key(arguments.seed), x),
        }
        images = np.asarray(maps[arguments.method](points.astype(arguments.precision)))
    write_points(arguments.out, images)
    print(f"mapped {images.shape[0]} points in {images.shape[1]} dimensions")
    print(f"saved {arguments.out}")


def _diagnose(arguments: argparse.Namespace) -> None:
    if len(arguments.components) > 2:
        arguments.parser.error("-K takes one number, or two for source and target")
    report = os.path.join(arguments.out, "report.md")
    if os.path.lexists(report) and not arguments.force:
        raise FileExistsError(f"{report}: the file exists already; replace it with --force.")
    _keep_programs(arguments)
    import jax

    import families

    from .._files.points import read_points
    from ..diagnostics import MixtureTransport
    from .report import run_diagnose, Study

    x, y = (
        read_points(path, array=arguments.array, header=arguments.header).astype(arguments.precision)
        for path in (arguments.source, arguments.target)
    )
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{arguments.target}: must have {x.shape[1]} columns, as {arguments.source}; got {y.shape[1]}."
        )
    method = MixtureTransport(
        getattr(families, _FAMILIES[arguments.family]),
        tuple(arguments.components) if len(arguments.components) == 2 else arguments.components[0],
        epsilon_components=arguments.epsilon_components,
        epsilon_weights=arguments.epsilon_weights,
    )
    names = os.path.basename(arguments.source), os.path.basename(arguments.target)
    with jax.enable_x64(arguments.precision == "float64"):
        run_diagnose(arguments.out, Study(names, x, y, method, arguments.repeats, arguments.seed))
    print(f"saved {report}")


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse, before the work, to replace a file by accident."""
    if os.path.lexists(arguments.out) and not arguments.force:
        raise FileExistsError(f"{arguments.out}: the file exists already; replace it with --force.")
