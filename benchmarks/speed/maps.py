"""Applying the barycentric map: against POT's, and flat in the number of target components."""

from benchmarks.harness.measure import parse, report, seconds, spd  # isort: skip  (sets the thread count first)

import jax
import numpy as np
import ot

import omt_expfam as omt
from omt_expfam.families import Gaussian


def compare(num, dim, source, target):
    rng = np.random.default_rng(0)

    def side(components):
        mean, covariance = 3 * rng.standard_normal((components, dim)), spd(rng, components, dim, 10.0)
        weights = rng.dirichlet(np.ones(components))
        law = omt.Mixture(weights.astype(np.float32), Gaussian(mean.astype(np.float32), covariance.astype(np.float32)))
        return law, (mean, covariance, weights)

    (law0, (m0, s0, w0)), (law1, (m1, s1, w1)) = side(source), side(target)
    x = np.asarray(law0.sample(jax.random.key(0), num))
    plan_first, plan_time = seconds(
        lambda: omt.transport(law0, law1, epsilon_components=0.0, epsilon_weights=0.05).weights
    )
    plan = omt.transport(law0, law1, epsilon_components=0.0, epsilon_weights=0.05)
    first, mine = seconds(lambda: plan.push_forward(x))
    few = min(num, 1000)
    omega = np.asarray(plan.weights, np.float64)

    def pot():
        return ot.gmm.gmm_ot_apply_map(x[:few].astype(float), m0, m1, s0, s1, w0, w1, plan=omega, method="bary")

    _, theirs = seconds(pot, 1)
    theirs *= num / few
    error = float(np.abs(pot() - np.asarray(plan.push_forward(x[:few]))).max())
    return [num, dim, source, target, mine, theirs, theirs / mine, error, plan_time, first, plan_first]


def main():
    options = parse(__doc__)
    sizes = (
        [(1000, 4, 3, 5)]
        if options.quick
        else [(10_000, 16, 10, 10), (10_000, 16, 10, 100), (100_000, 16, 10, 10), (1_000_000, 16, 10, 10)]
    )
    header = ["n", "d", "K0", "K1", "ours s", "POT s", "ratio", "largest gap", "plan s", "first map s", "first plan s"]
    report(header, [compare(*size) for size in sizes], options.csv)
    print("POT is timed on 1,000 points and scaled; its maps are recomputed for every pair and every call.")


if __name__ == "__main__":
    main()
