"""Entropic transport between laws on the line: solves per second against ott-jax, and accuracy for every pair of laws.

Both solve the same nodes and weights to the same marginal error. Accuracy is against a dense solve by NumPy that shares
nothing with the library (tests/lines.py).
"""

from benchmarks.harness.measure import parse, report, seconds  # isort: skip  (sets the thread count first)

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

import omt_expfam as omt
from omt_expfam._couplings.line.schedule import counts_of, Bundle
from omt_expfam._couplings.line.problems import _solve, _stacked, _tabulated, standardize
from omt_expfam._couplings.line.placement import place
from omt_expfam._couplings.line.table import evaluate
from omt_expfam.families import Laplace
from tests.couplings.test_product_couplings import LAWS, dense, solved

EPSILON, TOLERANCE = 0.05, 1.5e-11
# Pairs whose accuracy is measured: all, and the harder ones at small regularizations.
WIDE = list(itertools.combinations_with_replacement(LAWS, 2))
HARD = [
    ("laplace", "laplace"),
    ("normal", "lognormal"),
    ("exponential", "normal"),
    ("gamma-1", "power"),
    ("uniform", "exponential"),
    ("lognormal", "beta"),
]
# How many problems of one kind are solved in a row.
ROW = 16


def forms(name):
    family, arguments, _, _ = LAWS[name]
    return standardize(family(*arguments).product_form())


def nodes_of(source, target):
    """The nodes of one pair of laws, repeated along a leading axis."""
    sides = [forms(name) for name in (source, target)]
    shapes = tuple(_stacked(side) for side in sides)
    profiles = tuple(_tabulated(side) for side in shapes)
    count = int(counts_of([Bundle(0, 0, (EPSILON,))], profiles)[0])
    index = np.zeros(ROW, int)
    return place(shapes, profiles, (index, index), np.full(ROW, EPSILON), count, False)


def peer(lse_mode, limit):
    solver = sinkhorn.Sinkhorn(threshold=TOLERANCE, max_iterations=limit, lse_mode=lse_mode)

    @jax.jit
    def solve(nodes):
        def one(n):
            geometry = pointcloud.PointCloud(n.x[:, None], n.y[:, None], epsilon=EPSILON)
            problem = linear_problem.LinearProblem(geometry, jnp.exp(n.log_a), jnp.exp(n.log_b))
            out = solver(problem)
            return out.reg_ot_cost, out.n_iters, out.converged

        return jax.lax.map(one, nodes)

    return solve


def speed(source, target, limit):
    nodes = nodes_of(source, target)
    problems = np.arange(ROW), np.full(ROW, EPSILON), np.asarray(ROW)
    first, ours = seconds(lambda: _solve(nodes, *problems))
    plan = _solve(nodes, *problems)
    value = float(plan.cost[0] + EPSILON * (plan.kl[0] - 0.5 * np.log(EPSILON)))
    row = [f"{source} - {target}", nodes.x.shape[1], int(plan.num_steps[0]), f"{first:.1f}", f"{ROW / ours:.0f}"]
    for lse_mode in (True, False):
        solve = peer(lse_mode, limit)
        few = jax.tree.map(lambda leaf: leaf[:2], nodes)
        _, theirs = seconds(lambda solve=solve, few=few: solve(few), repeats=1)
        cost, steps, converged = (np.asarray(v)[0] for v in solve(few))
        agrees = f"{abs(float(cost) / value - 1):.0e}" if converged else "not converged"
        row += [int(steps), f"{2 / theirs:.1f}", f"{theirs / 2 * ROW / ours:.0f}", agrees]
    return row


def accuracy(source, target, reduced):
    """Largest relative errors of value, cost and KL, and root mean square error of the conditional mean."""
    solution = solved(source, target, reduced)
    row = [f"{source} - {target}"]
    for k, epsilon in enumerate(reduced):
        (x, a, _, _), (objective, cost, kl, mean, _) = dense(source, target, epsilon)
        ours = float(solution.costs[0, 0, k]), float(solution.kl[0, 0, k])
        each = solution.problems[np.zeros(len(x), int), 0, k]
        ours_mean = np.asarray(evaluate(solution.tables[0], each, jnp.asarray(x))[0])
        value = ours[0] + epsilon * ours[1]
        errors = abs(value / objective - 1), abs(ours[0] / cost - 1), abs(ours[1] / kl - 1)
        row += [f"{max(errors):.0e}", f"{np.sqrt(a @ (ours_mean - mean) ** 2):.0e}"]
        row += ["yes" if abs(value - objective) <= float(solution.errors[0, 0, k]) + 1e-9 else "NO"]
    return row


def whole_plan(num, dim, epsilons):
    """A plan between Laplace mixtures: how many problems there are, and how many are solved."""
    rng = np.random.default_rng(0)

    def draw():
        parts = Laplace(3 * rng.normal(size=(num, dim)), rng.uniform(0.5, 2, (num, dim)))
        return omt.Mixture(rng.dirichlet(np.full(num, 3.0)), parts)

    source, target = draw(), draw()
    rows = []
    for epsilon in epsilons:
        first, later = seconds(
            lambda e=epsilon: omt.transport(source, target, epsilon_components=e, epsilon_weights=1.0).weights
        )
        plan = omt.transport(source, target, epsilon_components=epsilon, epsilon_weights=1.0)
        rows.append([num, dim, epsilon, num * num * dim, plan.couplings.tables[0].nodes.shape[0], first, later])
    return rows


if __name__ == "__main__":
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    pairs = (
        [("normal", "normal")] if options.quick else [("normal", "normal"), ("laplace", "laplace"), ("normal", "gamma")]
    )
    header = ["pair", "nodes", "steps", "first call, s", "ours / s"]
    for mode in ("log", "kernel"):
        header += [f"ott steps ({mode})", f"ott / s ({mode})", f"ratio ({mode})", f"values differ ({mode})"]
    report(header, [speed(*pair, 50 if options.quick else 20_000) for pair in pairs], options.csv)
    print()
    header = ["K", "d", "epsilon", "problems", "solved", "first call, s", "later, s"]
    report(header, whole_plan(*((2, 1, (0.5,)) if options.quick else (20, 16, (0.5, 0.05)))), None)
    print()
    tables = [("lines_accuracy", *(([("normal", "gamma")], [1.0]) if options.quick else (WIDE, [1.0, 0.3, 0.1])))]
    if not options.quick:
        tables.append(("lines_small", HARD, [0.1, 0.03, 0.01]))
    for stem, pairs, reduced in tables:
        header = ["pair", *(f"{what} at {e:g}" for e in reduced for what in ("error", "mean", "honest"))]
        rows = [accuracy(*pair, reduced) for pair in pairs]
        report(header, rows, options.csv and options.csv.with_stem(stem))
        print()
