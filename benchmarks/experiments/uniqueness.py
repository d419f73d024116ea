"""One minimizer: the block iteration from many starts beside joint descents, and derivatives beside differences."""

from benchmarks.harness.measure import parse, report  # isort: skip  (sets the thread count first)

import time

import jax
import numpy as np

import omt_expfam as omt
from benchmarks.harness.data import data_directory
from benchmarks.harness.w2bench import W2Problem
from omt_expfam import diagnostics
from omt_expfam.families import Gaussian

STEP = 1e-5
# Dimension, numbers of components, both regularizations, and how many joint and mirror descents: with costs of a
# thousand times the regularization, their scaling to marginals takes too long.
CASES = (
    (2, (3, 15), 0.01, 0),
    (2, (3, 15), 0.1, 2),
    (2, (15, 15), 0.01, 0),
    (16, (3, 15), 0.01, 0),
    (16, (3, 15), 0.5, 2),
)


def difference_error(
    source: omt.Mixture, target: omt.Mixture, rates: diagnostics.Sensitivity, options: dict[str, float]
) -> float:
    """Largest relative error of the derivatives along random directions, against central differences."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(source.num_components) * np.asarray(source.weights)
    weights -= np.asarray(source.weights) * weights.sum()
    mean = 0.1 * rng.standard_normal(np.shape(source.components.mean()))
    shape = 0.1 * rng.standard_normal(np.shape(source.components.covariance()))

    def moved(sign: int) -> list[np.ndarray]:
        across = np.eye(shape.shape[-1]) + sign * STEP * shape
        covariance = across @ np.asarray(source.components.covariance()) @ np.swapaxes(across, 1, 2)
        components = Gaussian(np.asarray(source.components.mean()) + sign * STEP * mean, covariance)
        mixture = omt.Mixture(np.asarray(source.weights) + sign * STEP * weights, components)
        plan = omt.transport(mixture, target, **options)
        return [np.asarray(v) for v in (plan.cost, plan.weights, plan.push_forward(rates.points))]

    turned = shape @ np.asarray(source.components.covariance())
    steps = {"weights": weights, "mean": mean, "covariance": turned + np.swapaxes(turned, 1, 2)}
    errors = []
    tables = rates.source.cost, rates.source.weights, rates.source.map
    for table, up, down in zip(tables, moved(1), moved(-1), strict=True):
        exact = sum(np.tensordot(table[name], step, axes=step.ndim) for name, step in steps.items())
        errors.append(np.abs(exact - (up - down) / (2 * STEP)).max() / np.abs(exact).max())
    return float(max(errors))


def row(problem: W2Problem, size: tuple[int, int], epsilon: float, num_descents: int, quick: bool) -> list:
    rng, keys = np.random.default_rng(0), jax.random.split(jax.random.key(0), 4)
    x, y = problem.source(rng, 2048), problem.target(rng, 2048)
    source, target = (
        omt.fit(key, z, Gaussian, num).mixture for key, z, num in zip(keys[:2], (x, y), size, strict=True)
    )
    options = {"epsilon_components": epsilon, "epsilon_weights": epsilon}
    times = [time.perf_counter()]
    counts = {"num_starts": 10 if quick else 100, "num_descents": num_descents}
    found = diagnostics.uniqueness(keys[2], source, target, **counts, **options)
    times.append(time.perf_counter())
    rates = diagnostics.sensitivity(source, target, num_points=50, **options)
    times.append(time.perf_counter())
    curved = diagnostics.biconvexity(keys[3], source, target, num_segments=20, **options)
    return [
        problem.dim,
        f"{size[0]} x {size[1]}",
        epsilon,
        found.weights_spread,
        "{} and {}".format(*found.updates.max(axis=0)),
        found.descent_gap,
        found.mirror_gap,
        found.lowest_excess,
        int(found.near_ties.sum()),
        "yes" if curved.strict else "no",
        difference_error(source, target, rates, options),
        rates.lipschitz,
        *np.diff(times),
    ]


def main() -> None:
    options = parse(__doc__)
    directory = data_directory()
    cases = [(2, (2, 3), 0.1, 1)] if options.quick else CASES
    if not all(W2Problem.path(directory, dim).is_file() for dim, *_ in cases):
        print(f"The Wasserstein-2 benchmark is not at {directory}; set OMT_DATA. Nothing was run.")
        return
    with jax.enable_x64(True):
        rows = [row(W2Problem(directory, dim), *rest, options.quick) for dim, *rest in cases]
    header = [
        "d",
        "K",
        "epsilon",
        "spread of Omega",
        "updates",
        "joint descent gap",
        "mirror descent gap",
        "lowest excess",
        "near-ties",
        "strictly biconvex",
        "derivative error",
        "Lipschitz",
        "uniqueness s",
        "sensitivity s",
    ]
    report(header, rows, options.csv)


if __name__ == "__main__":
    main()
