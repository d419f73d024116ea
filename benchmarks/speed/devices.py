"""The same work on the CPU and on an accelerator: first calls, later ones, and how far the answers differ."""

from benchmarks.harness.measure import in_own_process, parse, report, seconds, spd  # isort: skip  (the thread count)

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Parent and child hold the same accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np

import omt_expfam as omt
from omt_expfam.families import Gamma, Gaussian


def tasks(quick: bool) -> dict[str, Callable[[], Any]]:
    """What is compared; each returns arrays that both devices should agree on."""
    rng = np.random.default_rng(0)
    num, dim, k, many = (500, 3, 3, 6) if quick else (100_000, 16, 15, 200)

    def side(components: int) -> omt.Mixture:
        mean, covariance = 3 * rng.standard_normal((components, dim)), spd(rng, components, dim, 10.0)
        weights = rng.dirichlet(np.full(components, 5.0))
        return omt.Mixture(weights.astype(np.float32), Gaussian(mean.astype(np.float32), covariance.astype(np.float32)))

    def skewed() -> omt.Mixture:
        shapes = [rng.uniform(low, high, (3, 2)).astype(np.float32) for low, high in ((1, 5), (0.5, 2))]
        return omt.Mixture(np.full(3, 1 / 3, np.float32), Gamma(*shapes))

    source, target, wide0, wide1 = side(k), side(k), side(many), side(many)
    centers = np.asarray(source.components.mean())
    x = (centers[rng.integers(k, size=num)] + rng.standard_normal((num, dim))).astype(np.float32)
    plan, other = omt.transport(source, target, epsilon_components=0.5, epsilon_weights=0.5), (skewed(), skewed())
    return {
        f"fit, n={num} d={dim} K={k}": lambda: omt.fit(jax.random.key(0), x, Gaussian, k).log_likelihood,
        f"transport, K={k}": lambda: omt.transport(source, target, epsilon_components=0.5, epsilon_weights=0.5).weights,
        f"transport, K={many}": lambda: (
            omt.transport(wide0, wide1, epsilon_components=0.5, epsilon_weights=0.5).weights
        ),
        "transport of Gammas, K=3": lambda: omt.transport(*other, epsilon_components=0.1, epsilon_weights=0.5).weights,
        f"push_forward, n={num}": lambda: plan.push_forward(x),
        f"push_forward, n={10 * num}": lambda: plan.push_forward(np.tile(x, (10, 1))),
        f"derivative of the cost, K={k}": lambda: jax.grad(_cost)(source.components.mean(), source, target),
    }


def _cost(mean: Any, source: omt.Mixture, target: omt.Mixture) -> Any:
    components = Gaussian(mean, source.components.covariance())
    moved = omt.Mixture(source.weights, components)
    return omt.transport(moved, target, epsilon_components=0.5, epsilon_weights=0.5).cost


def child(platform: str, folder: str, quick: str) -> None:
    """Run all tasks on one platform; write answers, print seconds."""
    jax.config.update("jax_platforms", f"{platform},cpu" if platform != "cpu" else platform)
    times, answers = {}, {}
    for name, task in tasks(quick == "quick").items():
        times[name] = seconds(task, 2)
        answers[name] = np.asarray(task())
    np.savez(Path(folder) / f"{platform}.npz", **{str(i): answer for i, answer in enumerate(answers.values())})
    print(json.dumps(times))


def main() -> None:
    options = parse(__doc__)
    quick = "quick" if options.quick else "whole"
    platforms = ["cpu"] + [p for p in ["cuda", "tpu"] if _present(p)]
    with tempfile.TemporaryDirectory() as folder:
        runs = [in_own_process("benchmarks.speed.devices", name, folder, quick) for name in platforms]
        found = [json.loads(printed.splitlines()[-1]) for printed in runs]
        answers = [np.load(Path(folder) / f"{p}.npz") for p in platforms]
        rows = []
        for i, name in enumerate(found[0]):
            base = answers[0][str(i)]
            for platform, times, answer in zip(platforms, found, answers, strict=True):
                gap = float(np.abs(answer[str(i)] - base).max() / np.abs(base).max())
                rows.append([name, platform, *times[name], found[0][name][1] / times[name][1], gap])
    report(["task", "platform", "first s", "later s", "CPU's / its", "relative gap"], rows, options.csv)
    if len(platforms) == 1:
        print("No accelerator here: there is nothing to compare the CPU with.")


def _present(platform: str) -> bool:
    try:
        return bool(jax.devices(platform))
    except RuntimeError:
        return False


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[3] in ("quick", "whole"):
        child(*sys.argv[1:])
    else:
        main()
