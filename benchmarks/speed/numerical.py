"""Sinkhorn's iteration of the numerical couplings, against ott-jax's on the same nodes to the same marginal error.

Ours runs in scalings between returns to the log domain and starts from the potentials of Gaussians; ott-jax runs in the
log domain throughout. A pair takes several such solves.
"""

from benchmarks.harness.measure import parse, report, seconds  # isort: skip  (sets the thread count first)

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn as ott_sinkhorn

from omt_expfam._couplings.numerical_sinkhorn import interaction, sinkhorn

TOLERANCE, LIMIT = 1e-4, 10_000


def compare(dim, epsilon, num):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.laplace(size=(num, dim)) / np.sqrt(2), jnp.float32)
    y = jnp.asarray(1.2 * rng.normal(size=(num, dim)), jnp.float32)
    log_weight = jnp.full(num, -np.log(num), jnp.float32)

    @jax.jit
    def ours():
        start = -0.8 * jnp.sum(y * y, axis=1) / epsilon
        tolerance, limit = jnp.asarray(TOLERANCE, jnp.float32), jnp.asarray(LIMIT)
        kernel = interaction(x, y, jnp.asarray(epsilon, jnp.float32))
        return sinkhorn(kernel, log_weight, log_weight, start, tolerance, limit)[0]

    @jax.jit
    def theirs():
        geometry = pointcloud.PointCloud(x, y, epsilon=epsilon)
        solver = ott_sinkhorn.Sinkhorn(threshold=TOLERANCE, max_iterations=LIMIT)
        out = solver(linear_problem.LinearProblem(geometry))
        return out.f, out.n_iters, out.reg_ot_cost

    first, time_ours = seconds(ours)
    _, time_theirs = seconds(theirs)
    solution, peer = ours(), theirs()
    value = jnp.mean(epsilon * solution.u + jnp.sum(x * x, 1)) + jnp.mean(epsilon * solution.v + jnp.sum(y * y, 1))
    apart = f"{abs(float(value / peer[2]) - 1):.0e}"
    return [dim, epsilon, num, first, time_ours, int(solution.num_steps), time_theirs, int(peer[1])] + [
        f"{time_theirs / time_ours:.1f}",
        apart,
    ]


if __name__ == "__main__":
    options = parse(__doc__)
    num = 256 if options.quick else 2048
    header = [
        "d",
        "epsilon",
        "nodes",
        "first call, s",
        "ours, s",
        "steps",
        "ott-jax, s",
        "its steps",
        "ratio",
        "values",
    ]
    report(header, [compare(d, e, num) for d in (2, 5) for e in (1.0, 0.1)], options.csv)
