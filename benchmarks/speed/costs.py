"""Costs of all pairs of Gaussian components, against ott-jax's and POT's Bures distances.

ott-jax's Newton-Schulz iteration stops early on ill-conditioned pairs, so its error stands beside its time. All in
float32 but POT; errors are relative, against float64 singular values.
"""

import sys

from benchmarks.harness.measure import in_own_process, parse, peak_memory, report, resident_memory, seconds, spd

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import costs

import omt_expfam as omt
from omt_expfam._couplings.solve import solve_couplings
from omt_expfam.families import Gaussian

SIZES = [(10, 200), (16, 60), (64, 16)]
MEMORY = "--memory"


def exact(m0, s0, m1, s1):
    roots = [np.linalg.cholesky(s) for s in (s0, s1)]
    cost = ((m0[:, None] - m1[None]) ** 2).sum(-1)
    cost += np.trace(s0, axis1=1, axis2=2)[:, None] + np.trace(s1, axis1=1, axis2=2)[None]
    for i, root in enumerate(roots[0]):
        cost[i] -= 2 * np.linalg.svd(np.swapaxes(roots[1], 1, 2) @ root, compute_uv=False).sum(-1)
    return cost


def compare(dim, num, condition):
    rng = np.random.default_rng(0)
    m0, m1 = (3 * rng.standard_normal((num, dim)) for _ in range(2))
    s0, s1 = (spd(rng, num, dim, condition) for _ in range(2))
    truth = exact(m0, s0, m1, s1)
    left, right = (Gaussian(m.astype(np.float32), s.astype(np.float32)) for m, s in ((m0, s0), (m1, s1)))
    zero = jnp.zeros((), jnp.float32)

    def ours():
        return solve_couplings(left, right, zero).costs

    flat = [
        jnp.concatenate([jnp.asarray(m, jnp.float32), jnp.asarray(s, jnp.float32).reshape(num, -1)], axis=1)
        for m, s in ((m0, s0), (m1, s1))
    ]
    bures = jax.jit(costs.Bures(dimension=dim).all_pairs)

    def theirs():
        return bures(*flat)

    def pot():
        return ot.gmm.dist_bures_squared(m0, m1, s0, s1)

    compile_ours, time_ours = seconds(ours)
    compile_theirs, time_theirs = seconds(theirs)
    _, time_pot = seconds(pot, repeats=1)

    def error(values):
        return float(np.abs(np.asarray(values, np.float64) / truth - 1).max())

    return [
        dim,
        num,
        f"{condition:g}",
        time_ours,
        time_theirs,
        time_pot,
        time_theirs / time_ours,
        time_pot / time_ours,
        error(ours()),
        error(theirs()),
        compile_ours,
        compile_theirs,
    ]


def memory(num, dim):
    """Peak memory above the start while all pairs are solved, in MiB; run in a process of its own."""
    rng = np.random.default_rng(0)
    sides = [
        omt.Mixture(
            np.full(num, 1 / num, np.float32),
            Gaussian(rng.standard_normal((num, dim)).astype(np.float32), spd(rng, num, dim, 10.0).astype(np.float32)),
        )
        for _ in range(2)
    ]
    small = [m.select(np.arange(4)) for m in sides]
    omt.transport(*small, epsilon_components=0.1, epsilon_weights=1.0)
    resident = resident_memory()
    took, _ = seconds(lambda: omt.transport(*sides, epsilon_components=0.1, epsilon_weights=1.0).weights, repeats=0)
    print(f"at most {peak_memory() - resident:.0f} MiB above the start, {took:.1f} s")


def main():
    options = parse(__doc__)
    sizes, conditions = ([(SIZES[0][0], 4)], (1e2,)) if options.quick else (SIZES, (1e2, 1e3))
    rows = [compare(dim, num, condition) for dim, num in sizes for condition in conditions]
    header = ["d", "K", "condition", "ours s", "ott s", "POT s", "ott/ours", "POT/ours", "our error", "ott error"]
    report([*header, "our first s", "ott first s"], rows, options.csv)
    num = 8 if options.quick else 600
    answer = in_own_process("benchmarks.speed.costs", MEMORY, str(num))
    print(f"transport at K = {num}, d = 40: {answer}")


if __name__ == "__main__":
    if MEMORY in sys.argv:
        memory(int(sys.argv[2]), 40)
    else:
        main()
