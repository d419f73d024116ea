"""Fitting under a transport penalty: its trade-off beside ott-jax's coupled EM, and the errors of maps.

Both minimize the same thing but for our priors: minus the mean log-likelihoods of both samples plus the strength times
the entropic transport cost of Gaussian components (`epsilon_components` = 0), from the same EM optima. ott-jax follows
Delon and Desolneux (2020): EM with a gradient M-step, which has no stopping rule; Adam's rate and the number of steps
are ours to choose, and its answer is scored by our float64 objective. Errors of maps are those of `push_forward`, in
percent of the target's variance.
"""

from benchmarks.harness.measure import parse, report  # isort: skip  (sets the thread count first)

import time

import jax
import jax.numpy as jnp
import numpy as np
from ott.tools.gaussian_mixture import fit_gmm_pair, gaussian_mixture, gaussian_mixture_pair

import omt_expfam as omt
from omt_expfam._pipelines.coupled import fit_coupled
from omt_expfam.families import Gaussian

NUM_COMPONENTS, DIM = 4, 2
CENTERS = 1.5 * np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
EPSILONS = {"epsilon_components": 0.0, "epsilon_weights": 0.3}
STRENGTHS = (0.01, 0.1, 1.0)
TURN = np.array([[np.cos(np.pi / 18), -np.sin(np.pi / 18)], [np.sin(np.pi / 18), np.cos(np.pi / 18)]])
MOVES = {
    "turn": lambda centers: centers @ TURN.T + [0.3, 0.0],  # by ten degrees, and a little aside
    "one cluster": lambda centers: centers + [[0, 0], [0, 0], [0, 0], [1.5, 1.5]],
    "far": lambda centers: centers + [3.0, 0.0],
}
RATE, EM_STEPS, M_STEPS = 0.01, 60, 20


def truths(move):
    """Four overlapping round clusters, and the same after a move."""
    covariance = np.broadcast_to(np.eye(DIM), (NUM_COMPONENTS, DIM, DIM))
    weights = np.full(NUM_COMPONENTS, 1 / NUM_COMPONENTS)
    return [omt.Mixture(weights, Gaussian(m, covariance)) for m in (CENTERS, MOVES[move](CENTERS))]


def samples(mixtures, seed, num):
    keys = jax.random.split(jax.random.key(seed))
    return [np.asarray(m.sample(key, num)) for m, key in zip(mixtures, keys, strict=True)]


def score(mixtures, points):
    """Mean log-likelihood of both sides."""
    return 0.5 * sum(float(jnp.mean(m.log_prob(x))) for m, x in zip(mixtures, points, strict=True))


# -- the trade-off --------------------------------------------------------------------------------------------------


def theirs(start, points, strength, steps):
    """A run of ott-jax's coupled EM, compiled at its first call only."""
    gmms = [
        gaussian_mixture.GaussianMixture.from_mean_cov_component_weights(
            m.components.loc, m.components.covariance(), m.weights
        )
        for m in start
    ]
    pair = gaussian_mixture_pair.GaussianMixturePair(*gmms, epsilon=EPSILONS["epsilon_weights"], tau=1.0)
    solve = fit_gmm_pair.get_fit_model_em_fn(weight_transport=strength, learning_rate=RATE, jit=True)

    def run():
        found, _ = solve(pair, *map(jnp.asarray, points), None, None, em_steps=steps, m_steps=M_STEPS)
        return [
            omt.Mixture(g.component_weights / jnp.sum(g.component_weights), Gaussian(g.loc, g.covariance))
            for g in (found.gmm0, found.gmm1)
        ]

    return run


def clock(function):
    """Seconds of a first call and of a second one, and its answer."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        answer = jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return *times, answer


def trade_off(num, held_out, strengths, steps):
    """One pair of samples: cost and likelihood of both methods at each strength."""
    mixtures = truths("turn")
    points, fresh = samples(mixtures, 0, num), samples(mixtures, 1, held_out)
    start = [omt.fit(jax.random.key(0), x, Gaussian, NUM_COMPONENTS).mixture for x in points]

    def row(name, strength, pair, seconds):
        plan = omt.transport(*pair, **EPSILONS)
        likelihood = score(pair, points)
        # What both methods maximize, without our priors.
        objective = 2 * likelihood - strength * float(plan.objective)
        numbers = [f"{value:.4f}" for value in (likelihood, score(pair, fresh), objective)]
        return [name, strength, float(plan.cost), *numbers, *seconds]

    rows = [row("EM", 0.0, start, ("", ""))]
    for strength in strengths:

        def ours(strength=strength):
            both = {"start": tuple(start), "strength": strength}
            return fit_coupled(jax.random.key(0), *points, Gaussian, NUM_COMPONENTS, **both, **EPSILONS)

        first, later, fitted = clock(ours)
        rows.append(row("ours", strength, (fitted.source, fitted.target), (max(first - later, 0.0), later)))
        first, later, pair = clock(theirs(start, points, strength, steps))
        rows.append(row("ott", strength, pair, (max(first - later, 0.0), later)))
    header = ["method", "strength", "cost", "log-lik.", "held-out", "maximized", "compile s", "run s"]
    return header, rows


# -- errors of maps ---------------------------------------------------------------------------------------------------


def errors(num, strengths, seeds, move):
    """Errors of the map, medians and means over pairs of samples, against the plan between the true mixtures."""
    mixtures = truths(move)
    exact = omt.transport(*mixtures, **EPSILONS)
    x, y = samples(mixtures, 99, 4000)
    truth, spread = exact.push_forward(x), float(jnp.trace(mixtures[1].covariance()))

    def error(images):
        return 100 * float(jnp.mean(jnp.sum((images - truth) ** 2, axis=1))) / spread

    found = {strength: [] for strength in strengths}
    simple = []
    for seed in range(seeds):
        points = samples(mixtures, seed, num)
        simple.append(error(x + points[1].mean(axis=0) - points[0].mean(axis=0)))
        for strength, own in found.items():
            options = {"strength": strength, "throw": False, **EPSILONS}
            fitted = fit_coupled(jax.random.key(seed), *points, Gaussian, NUM_COMPONENTS, **options)
            pair = fitted.source, fitted.target
            likelihoods = score(pair, points), score(pair, (x, y))
            own.append([error(fitted.plan.push_forward(x)), float(fitted.plan.cost), *likelihoods, fitted.converged])
    rows = [[move, "truth", "", "", float(exact.cost), "", "", ""]]
    for strength, own in found.items():
        table = np.array(own)
        mean, cost, fitted, fresh, converged = table.mean(axis=0)
        likelihoods = f"{fitted:.3f}", f"{fresh:.3f}"
        failed = int((1 - converged) * seeds + 0.5)
        rows.append([move, strength, float(np.median(table[:, 0])), float(mean), float(cost), *likelihoods, failed])
    rows.append([move, "shift only", float(np.median(simple)), float(np.mean(simple)), "", "", "", ""])
    return rows


def main():
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    quick = options.quick
    sizes = (60, 500, STRENGTHS[1:2], 3) if quick else (500, 20_000, STRENGTHS, EM_STEPS)
    header, rows = trade_off(*sizes)
    report(header, rows, options.csv)
    print()
    strengths = (0.0, 0.3) if quick else (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    moves = ("turn",) if quick else tuple(MOVES)
    table = [row for move in moves for row in errors(60, strengths, 1 if quick else 20, move)]
    header = ["move", "strength", "median error", "mean error", "cost", "log-lik.", "held-out", "failed"]
    report(header, table, options.csv and options.csv.with_stem(options.csv.stem + "-maps"))


if __name__ == "__main__":
    main()
