"""An analyst's whole first session: 5,000 cells on either side in 20 dimensions, from two fits to labels and a plot.

CPU seconds of each step in fresh processes, without a cache of compiled programs, with an empty one and with a full
one; and how many labels that are carried over are right, beside the Bayes rule, which knows the laws.
"""

import tempfile
import time

from benchmarks.harness.measure import in_own_process, parse, report, resident_memory  # isort: skip  (sets threads first)

import json
import sys

_BEGUN = time.process_time()
_CELLS, _DIM, _GROUPS = 5000, 20, 8
# Goals in CPU seconds, of a process without and with compiled programs; and of the share of wrong labels.
_FIRST, _AGAIN, _LOST = 15.0, 5.0, 0.01


def pair(num: int, dim: int):
    """Points and groups of both sides, and the laws of the target's groups: means and factors of covariances."""
    import numpy as np

    from benchmarks.harness.measure import spd

    rng = np.random.default_rng(0)
    means, moves = 0.6 * rng.standard_normal((_GROUPS, dim)), 0.5 * rng.standard_normal((_GROUPS, dim))
    roots = [np.linalg.cholesky(spd(rng, _GROUPS, dim, 4.0)) for _ in range(2)]
    shares = rng.dirichlet(np.full(_GROUPS, 20.0))
    sides = []
    for centers, root in zip((means, means + moves + 1.0), roots, strict=True):
        labels = rng.choice(_GROUPS, num, p=shares)
        sides.append((centers[labels] + np.einsum("nde,ne->nd", root[labels], rng.standard_normal((num, dim))), labels))
    return *sides, (shares, means + moves + 1.0, roots[1])


def bayes(y, law):
    """The likeliest group of each point under the laws themselves."""
    import numpy as np

    scores = []
    for share, mean, root in zip(*law, strict=True):
        z = np.linalg.solve(root, (y - mean).T)
        scores.append(np.log(share) - np.log(np.diag(root)).sum() - 0.5 * np.sum(z**2, axis=0))
    return np.argmax(scores, axis=0)


def session(cache: str, num: int) -> dict:
    """The steps of a session in this process: CPU seconds, programs, memory after each; and how labels fared."""
    start = time.process_time()
    import jax
    import matplotlib
    import numpy as np

    import omt_expfam as omt
    from benchmarks.harness.programs import counted
    from omt_expfam.families import Gaussian

    matplotlib.use("Agg")
    if cache:
        omt.use_compilation_cache(cache)
    steps = [("import", time.process_time() - start + _BEGUN, 0, resident_memory())]
    (x, kinds), (y, truth), law = pair(num, _DIM)
    held = {}
    calls = {
        "fit source": lambda: omt.fit(jax.random.key(0), x, Gaussian, _GROUPS),
        "fit target": lambda: omt.fit(jax.random.key(1), y, Gaussian, _GROUPS),
        "transport": lambda: omt.transport(held["fit source"], held["fit target"]),
        "push": lambda: np.asarray(held["transport"].push_forward(x)),
        "labels": lambda: held["transport"].transfer(kinds, x, y),
        "plot": lambda: omt.plot.overview(held["transport"], x, y),
    }
    for name, call in calls.items():
        with counted() as programs:
            begin = time.process_time()
            held[name] = call()
            if name == "plot":
                getattr(held[name], "figure", held[name]).savefig(tempfile.TemporaryFile(), format="png")
            steps.append((name, time.process_time() - begin, programs.count, resident_memory()))
    found = held["labels"].labels[held["labels"].probabilities.argmax(axis=1)]
    known = omt.mixture_from_labels(x, kinds, Gaussian)
    groups = omt.transport(known, held["fit target"]).transfer(kinds, x, y)
    named = groups.labels[groups.probabilities.argmax(axis=1)]
    right = {"carried": found == truth, "from known groups": named == truth, "Bayes": bayes(y, law) == truth}
    return {"steps": steps, "right": {name: float(np.mean(values)) for name, values in right.items()}}


def main() -> None:
    options = parse(__doc__)
    num = 1000 if options.quick else _CELLS
    with tempfile.TemporaryDirectory() as folder:
        runs = {"no cache": "", "empty cache": folder, "full cache": folder}
        results = {
            name: json.loads(in_own_process("benchmarks.speed.analyst", "--session", cache, str(num)))
            for name, cache in runs.items()
        }
    rows = []
    for index, (name, *_) in enumerate(results["no cache"]["steps"]):
        own = [found["steps"][index] for found in results.values()]
        rows.append([name, *(step[1] for step in own), own[0][2], round(own[0][3])])
    totals = {name: sum(step[1] for step in found["steps"]) for name, found in results.items()}
    rows.append(["in all", *totals.values(), sum(row[4] for row in rows), rows[-1][-1]])
    report(["step", *(f"CPU s, {name}" for name in results), "programs", "memory MiB"], rows, options.csv)
    right = results["no cache"]["right"]
    print("labels that are right: " + ", ".join(f"{name} {share:.2%}" for name, share in right.items()))
    for what, found, goal in (
        ("CPU seconds of the first process", totals["no cache"], _FIRST),
        ("CPU seconds with compiled programs", totals["full cache"], _AGAIN),
        ("labels lost against the Bayes rule", right["Bayes"] - right["carried"], _LOST),
    ):
        print(f"{what}: {found:.3g}, goal {goal:g}{'' if found <= goal else '  MISSED'}")


if __name__ == "__main__":
    if "--session" in sys.argv:
        print(json.dumps(session(*sys.argv[-2:-1], int(sys.argv[-1]))))
    else:
        main()
