"""Unbalanced coupling of weights at small regularization, against the Sinkhorn iterations of ott-jax."""

from benchmarks.harness.measure import parse, report, seconds  # isort: skip  (sets the thread count first)

import jax
import jax.numpy as jnp
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from benchmarks.speed.weights import problem
from omt_expfam._weights.relaxed import relaxed_coupling


def compare(num, epsilon, relaxation, limit):
    cost, a, b = problem(num)
    a = a * 2

    def ours():
        rigidity = jnp.asarray(1 / relaxation), jnp.asarray(1 / relaxation)
        start, steps = jnp.zeros(num), jnp.asarray(1000)
        return relaxed_coupling(cost, a, b, jnp.asarray(epsilon), rigidity, jnp.asarray(1e-10), start, steps)

    @jax.jit
    def peer(cost, a, b):
        geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        share = relaxation / (relaxation + epsilon)
        solver = sinkhorn.Sinkhorn(threshold=1e-10, max_iterations=limit, lse_mode=True)
        out = solver(linear_problem.LinearProblem(geom, a, b, tau_a=share, tau_b=share))
        return out.n_iters, out.converged

    first, mine = seconds(lambda: ours().mass)
    _, theirs = seconds(lambda: peer(cost, a, b), 1)
    steps, converged = peer(cost, a, b)
    out = ours()
    own, error = int(out.coupling.num_steps), float(out.coupling.marginal_error)
    return [num, epsilon, relaxation, own, error, mine, int(steps), int(converged), theirs, theirs / mine, first]


def main():
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    cases = [(20, 1.0, 10.0)]
    if not options.quick:
        cases = [(100, 1.0, 50.0), (100, 0.1, 50.0), (100, 0.01, 5.0), (100, 0.01, 50.0), (100, 0.01, 500.0)]
    rows = [compare(*case, 1000 if options.quick else 20_000) for case in cases]
    header = ["K", "epsilon", "relaxation", "our steps", "our error", "ours s", "Sinkhorn steps", "converged", "its s"]
    report([*header, "ratio", "our first s"], rows, options.csv)


if __name__ == "__main__":
    main()
