"""The first minutes of a user: CPU seconds, compiled programs and memory of each step, in fresh processes.

Three processes run the same steps: one without JAX's persistent cache, one that fills a cache, and one that finds it
full. CPU seconds count the threads of the compiler too and depend little on what else the machine does.
"""

import tempfile
import time

from benchmarks.harness.measure import in_own_process, parse, report, resident_memory  # isort: skip  (sets threads first)

import json
import sys

_BEGUN = time.process_time()
_LIMITS = {"fit n - 1": 0, "fit K = 4": 0, "push n - 1": 0, "transport 4 x 3": 0}


def session(cache: str) -> list[tuple[str, float, int, float]]:
    """The steps of a session in this process: CPU seconds, programs, memory after each."""
    start = time.process_time()
    import jax
    import numpy as np

    import omt_expfam as omt
    from benchmarks.harness.programs import counted
    from omt_expfam.families import Gaussian

    if cache:
        omt.use_compilation_cache(cache)
    steps = [("import", time.process_time() - start + _BEGUN, 0, resident_memory())]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 2)) * [2.0, 0.5]
    y = rng.standard_normal((500, 2)) + np.where(rng.random((500, 1)) < 0.6, [0, 4], [5, 0])
    held = {}

    def transport(source, target):
        return omt.transport(source.mixture, target.mixture, epsilon_components=0.05, epsilon_weights=0.05)

    calls = {
        "fit": lambda: omt.fit(jax.random.key(0), x, Gaussian, 3),
        "fit n - 1": lambda: omt.fit(jax.random.key(1), y[:-1], Gaussian, 3),
        "fit K = 4": lambda: omt.fit(jax.random.key(2), y, Gaussian, 4),
        "transport": lambda: transport(held["fit"], held["fit n - 1"]),
        "push": lambda: np.asarray(held["transport"].push_forward(x)),
        "push n - 1": lambda: np.asarray(held["transport"].push_forward(x[:-1])),
        "sample": lambda: np.asarray(held["transport"].sample(jax.random.key(3), x)),
        "transport 4 x 3": lambda: transport(held["fit K = 4"], held["fit n - 1"]),
    }
    for name, call in calls.items():
        with counted() as programs:
            begin = time.process_time()
            held[name] = call()
            steps.append((name, time.process_time() - begin, programs.count, resident_memory()))
    return steps


def main() -> None:
    options = parse(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        runs = {"no cache": "", "empty cache": folder, "full cache": folder}
        results = {
            name: json.loads(in_own_process("benchmarks.speed.first_session", "--session", cache))
            for name, cache in runs.items()
        }
    rows = []
    for index, (name, *_) in enumerate(results["no cache"]):
        own = [steps[index] for steps in results.values()]
        rows.append([name, *(step[1] for step in own), own[0][2], round(own[0][3])])
    totals = [sum(step[1] for step in steps) for steps in results.values()]
    programs = sum(step[2] for step in results["no cache"])
    rows.append(["in all", *totals, programs, rows[-1][-1]])
    report(["step", *(f"CPU s, {name}" for name in results), "programs", "memory MiB"], rows, options.csv)
    repeated = {row[0]: row[4] for row in rows if row[0] in _LIMITS}
    compiled = {name: count for name, count in repeated.items() if count > _LIMITS[name]}
    if compiled:
        sys.exit(f"Steps that neighbor others should compile nothing; programs: {compiled}")


if __name__ == "__main__":
    if "--session" in sys.argv:
        print(json.dumps(session(sys.argv[sys.argv.index("--session") + 1])))
    else:
        main()
