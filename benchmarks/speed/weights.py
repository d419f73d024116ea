"""The weight coupling at small regularization, against Sinkhorn (ott-jax) and the exact program (POT, SciPy)."""

from benchmarks.harness.measure import parse, report, seconds  # isort: skip  (sets the thread count first)

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from omt_expfam._weights.exact import exact_coupling
from omt_expfam._weights.entropic import entropic_coupling

TOLERANCE = 1e-10


def problem(num, seed=0):
    """Costs in the hundreds between component means in ten dimensions."""
    rng = np.random.default_rng(seed)
    x, y = (4 * rng.standard_normal((num, 10)) for _ in range(2))
    a, b = (rng.dirichlet(np.ones(num)) for _ in range(2))
    return tuple(jnp.asarray(v) for v in (((x[:, None] - y[None]) ** 2).sum(-1), a, b))


def marginal_error(weights, a, b):
    return float(jnp.abs(weights.sum(0) - b).sum() + jnp.abs(weights.sum(1) - a).sum())


def compare(num, epsilon, limit):
    cost, a, b = problem(num)

    def ours():
        scalars = jnp.asarray(epsilon), jnp.asarray(TOLERANCE)
        return entropic_coupling(cost, a, b, *scalars, jnp.zeros(num), jnp.asarray(1000))

    @jax.jit
    def peer(cost, a, b):
        geom = geometry.Geometry(cost_matrix=cost, epsilon=epsilon)
        solver = sinkhorn.Sinkhorn(threshold=TOLERANCE, max_iterations=limit, lse_mode=True)
        out = solver(linear_problem.LinearProblem(geom, a, b))
        return out.matrix, out.n_iters

    first, mine = seconds(lambda: ours().weights)
    _, theirs = seconds(lambda: peer(cost, a, b), 1)
    matrix, steps = peer(cost, a, b)
    _, program = seconds(lambda: exact_coupling(cost, a, b)[1], 1)
    _, simplex = seconds(lambda: ot.emd(np.asarray(a), np.asarray(b), np.asarray(cost)), 1)
    out = ours()
    return [
        num,
        epsilon,
        int(out.num_steps),
        float(out.marginal_error),
        mine,
        int(steps),
        marginal_error(matrix, a, b),
        theirs,
        program,
        simplex,
        first,
    ]


def main():
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    sizes = [(20, 1.0)] if options.quick else [(100, 10.0), (100, 1.0), (100, 0.1), (100, 0.01), (300, 0.01)]
    rows = [compare(num, epsilon, 1000 if options.quick else 20_000) for num, epsilon in sizes]
    header = ["K", "epsilon", "our steps", "our error", "ours s", "Sinkhorn steps", "its error", "its s"]
    report([*header, "HiGHS s", "POT emd s", "our first s"], rows, options.csv)


if __name__ == "__main__":
    main()
