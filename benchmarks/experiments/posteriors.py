"""Gibbs, NUTS, Laplace, SVI and the bootstrap on the same data: intervals, effective draws per second, likelihoods."""

from benchmarks.harness.measure import parse, report  # isort: skip  (sets the thread count first)

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer

import omt_expfam as omt
from omt_expfam.families import Gaussian

EPSILONS = {"epsilon_components": 0.1, "epsilon_weights": 0.5}
# Draws of each side that are transported; and that enter the predictive densities of many points.
TRANSPORTED, PREDICTIVE = 1000, 200


def mixture(seed: int, num: int, dim: int, spread: float) -> omt.Mixture:
    """Components with random covariances, their centers ``spread`` times a standard normal."""
    rng = np.random.default_rng(seed)
    root = 0.5 * np.tril(rng.standard_normal((num, dim, dim)), -1)
    tril = root + np.eye(dim) * np.exp(0.3 * rng.standard_normal((num, dim, 1)))
    mean = spread * rng.standard_normal((num, dim))
    return omt.Mixture(jnp.asarray(rng.dirichlet(np.full(num, 8.0))), Gaussian(mean, scale_tril=tril))


# -- time apart from compilation --------------------------------------------------------------------------------------

_compiled: list[tuple[float, float]] = []


def _listen(event: str, duration: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        _compiled.append((now - duration, now))


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, and processor seconds: of tracing and compiling, and of all else.

    Processor seconds do not count what else a machine is doing; they are split as the wall time is.
    """
    _compiled.clear()
    begin, begin_processor = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    wall, processor = time.perf_counter() - begin, time.process_time() - begin_processor
    # Traces of inner functions lie within those of outer ones: the length of the union counts.
    compiling, reached = 0.0, begin
    for start, end in sorted(_compiled):
        compiling += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return result, processor * compiling / wall, processor * (1 - compiling / wall)


# -- all methods on one pair of samples -------------------------------------------------------------------------------


def agreement(num_points, methods, num_components=3, dim=2):
    """Posterior summaries of cost and map by every method, and what they took."""
    sides = [mixture(seed, num_components, dim, 2.5) for seed in (4, 5)]
    points = [m.sample(jax.random.key(seed), num_points) for seed, m in enumerate(sides)]
    places = np.asarray(sides[0].components.loc[:2])
    truth = omt.transport(*sides, **EPSILONS)
    true_values = np.concatenate([[float(truth.cost)], np.asarray(truth.push_forward(places)).ravel()])
    names = ["cost"] + [f"T{i + 1}(center {k})" for k in (1, 2) for i in range(dim)]
    speeds, summaries = [], []
    for label, method in methods.items():

        def both(method=method):
            return [
                omt.fit_posterior(jax.random.key(7 + s), x, Gaussian, num_components, method=method, throw=False)
                for s, x in enumerate(points)
            ]

        posteriors, first_compile, first = timed(both)
        _, compile_again, again = timed(both)
        plan = omt.transport_posterior(*posteriors, num_draws=min(TRANSPORTED, posteriors[0].num_draws), **EPSILONS)
        images = np.asarray(plan.push_forward(places)).reshape(plan.num_draws, -1)
        draws = np.concatenate([np.asarray(plan.cost)[:, None], images], axis=1)
        interval = omt.credible_interval(draws)
        columns = interval.mean, draws.std(axis=0), interval.lower, interval.upper
        for row in zip(names, true_values, *map(np.asarray, columns), strict=True):
            summaries.append([row[0], label, *map(float, row[1:])])
        size = min(float(jnp.min(p.label_free.effective_size)) for p in posteriors)
        r_hat = max(p.label_free.worst_r_hat for p in posteriors)
        fine = all(p.converged for p in posteriors)
        fastest = min(first, again)
        speeds.append([label, first_compile, compile_again, fastest, size, 2 * size / fastest, r_hat, fine])
    order = {name: i for i, name in enumerate(names)}
    return speeds, sorted(summaries, key=lambda row: order[row[0]])


# -- Gibbs against NUTS -----------------------------------------------------------------------------------------------


def samplers(num_points, dim, num_components, gibbs, nuts):
    """Ratios of posterior deviations and of effective draws per second."""
    x = mixture(6, num_components, dim, 2.0).sample(jax.random.key(0), num_points)
    start = omt.fit(jax.random.key(1), x, Gaussian, num_components)
    found = {}
    for label, method in (("Gibbs", gibbs), ("NUTS", nuts)):
        found[label] = timed(
            lambda method=method: omt.fit_posterior(
                jax.random.key(2), x, Gaussian, num_components, method=method, start=start, throw=False
            )
        )
    found["NUTS (not whitened)"] = timed(lambda: _plain(x, start.mixture, nuts))
    speeds = []
    for label, (posterior, compiling, seconds) in found.items():
        free = posterior.label_free
        size = dict(zip(free.names, np.asarray(free.effective_size).tolist(), strict=True))
        moments = float(np.median([v for name, v in size.items() if "[" in name]))
        kinds = moments, size["log_likelihood"], size["largest_weight"]
        speeds.append([label, compiling, seconds, posterior.num_draws, *kinds, *(v / seconds for v in kinds)])
        speeds[-1] += [free.worst_r_hat, posterior.num_relabelled]
    pair = [found[label][0] for label in ("Gibbs", "NUTS")]
    deviations = [_moments(posterior) for posterior in pair]
    rows = []
    for group, (ours, theirs) in {g: [d[g] for d in deviations] for g in deviations[0]}.items():
        ratio = ours[1] / theirs[1]
        gap = np.abs(ours[0] - theirs[0]) / theirs[1]
        rows.append([group, ratio.size, *(float(f(ratio)) for f in (np.min, np.median, np.max)), float(gap.max())])
    return speeds, rows


def _plain(x, start, nuts):
    """NumPyro's NUTS on the model as it is, with its own coordinates and adaptation, from the same start."""
    model = omt.mixture_model(x, Gaussian, start.num_components)
    kernel = numpyro.infer.NUTS(model, init_strategy=numpyro.infer.init_to_value(values=model.sites(start)))
    settings = {"num_chains": nuts.num_chains, "chain_method": "sequential", "progress_bar": False}
    sampler = numpyro.infer.MCMC(kernel, num_warmup=nuts.num_warmup, num_samples=nuts.num_samples, **settings)
    sampler.run(jax.random.key(3), x)
    return omt.posterior_from_numpyro(sampler, model.mixture, x=x, reference=start, throw=False)


def _moments(posterior):
    """Means and deviations of all that is compared, each group as one vector."""
    parameters = {n: np.asarray(v).reshape(posterior.num_draws, -1) for n, v in posterior.parameters.items()}
    covariance = jax.vmap(lambda m: m.components.covariance())(posterior.mixtures)
    upper = np.triu_indices(posterior.dim)
    parameters["covariance"] = np.asarray(covariance)[:, :, upper[0], upper[1]].reshape(posterior.num_draws, -1)
    parameters.pop("scale_tril")
    groups = {f"aligned {name}": (v.mean(axis=0), v.std(axis=0)) for name, v in parameters.items()}
    free = posterior.label_free
    return {"label-free": (np.asarray(free.mean), np.asarray(free.standard_deviation))} | groups


# -- mini-batches -----------------------------------------------------------------------------------------------------


def minibatches(num_points, dim, num_components, methods, gibbs):
    """Mean log-likelihoods of SVI's posterior against EM's, and its deviations against those of Gibbs."""
    truth = mixture(8, num_components, dim, 3.0)
    x, held_out = (truth.sample(jax.random.key(seed), num_points) for seed in (0, 1))
    start, _, seconds = timed(lambda: omt.fit(jax.random.key(2), x, Gaussian, num_components))
    both = x, held_out
    rows = [["truth", 0.0, 0.0, *(_mean_density(truth.log_prob, p) for p in both), *2 * [float("nan")]]]
    rows.append(["EM", 0.0, seconds, *(_mean_density(start.mixture.log_prob, p) for p in both), *2 * [float("nan")]])
    reference = None
    for label, method in ({"Gibbs": gibbs} | methods).items():
        posterior, compiling, seconds = timed(
            lambda method=method: omt.fit_posterior(
                jax.random.key(3), x, Gaussian, num_components, method=method, start=start, throw=False
            )
        )
        free = posterior.label_free
        if reference is None:
            reference = free
        ratio = np.asarray(free.standard_deviation / reference.standard_deviation)
        gap = np.abs(np.asarray((free.mean - reference.mean) / reference.standard_deviation))
        likelihoods = [_mean_density(lambda p, q=posterior: _predictive(q, p), points) for points in both]
        rows.append([label, compiling, seconds, *likelihoods, float(gap.max()), f"{ratio.min():.2f}-{ratio.max():.2f}"])
        mean = omt.Mixture(*_mean_parameters(posterior))
        likelihoods = [_mean_density(mean.log_prob, points) for points in both]
        rows.append([f"mean mixture of {label}", 0.0, 0.0, *likelihoods, *2 * [float("nan")]])
    return rows


def _mean_parameters(posterior):
    loc, tril = (jnp.mean(posterior.parameters[name], axis=0) for name in ("loc", "scale_tril"))
    weights = jnp.mean(posterior.parameters["weights"], axis=0)
    return weights / jnp.sum(weights), Gaussian(loc, scale_tril=tril)


def _predictive(posterior, x):
    """The posterior predictive density from some of the draws."""
    step = max(1, posterior.num_draws // PREDICTIVE)
    few = jax.tree.map(lambda leaf: leaf[::step], posterior.mixtures)
    table = jax.lax.map(lambda m: m.log_prob(x), few)
    return jax.nn.logsumexp(table, axis=0) - np.log(table.shape[0])


def _mean_density(log_prob, x, size=10_000):
    """The mean log-density of points in nats, some at a time."""
    part = min(size, len(x))
    compiled = eqx.filter_jit(log_prob)
    return float(np.mean([np.asarray(compiled(x[i : i + part])).mean() for i in range(0, len(x), part)]))


def main():
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    jax.monitoring.register_event_duration_secs_listener(_listen)
    quick = options.quick
    few = 20 if quick else 500
    methods = {
        # Its draws depend on each other where components overlap, and cost little.
        "Gibbs": omt.Gibbs(num_warmup=few, num_samples=20 * few),
        "NUTS": omt.NUTS(num_warmup=few, num_samples=few),
        "Laplace": omt.LaplaceApproximation(num_samples=2 * few),
        "SVI": omt.SVI(num_steps=4 * few),
        "bootstrap": omt.Bootstrap(num_samples=few),
    }
    path = (lambda name: options.csv.with_name(f"{options.csv.stem}_{name}.csv")) if options.csv else lambda _: None
    points = 300 if quick else 1000
    print(f"Source and target of {points} points, K = 3, d = 2; processor seconds for both posteriors")
    speeds, summaries = agreement(points, methods)
    header = ["method", "compile s", "compile again s", "other s", "effective draws", "per s", "r-hat", "converged"]
    report(header, speeds, path("speed"))
    print("\n90 % intervals of the cost and of the map")
    report(["quantity", "method", "truth", "mean", "sd", "lower", "upper"], summaries, path("agreement"))

    size = (300, 2, 3) if quick else (5000, 4, 6)
    print("\nGibbs against NUTS, n = {}, d = {}, K = {}".format(*size))
    gibbs, nuts = omt.Gibbs(num_warmup=few, num_samples=8 * few), omt.NUTS(num_warmup=few, num_samples=2 * few)
    speeds, rows = samplers(*size, gibbs, nuts)
    kinds = "moments", "log-likelihood", "largest weight"
    header = ["method", "compile s", "other s", "draws", *(f"ess {k}" for k in kinds), *(f"{k} per s" for k in kinds)]
    report([*header, "r-hat", "relabelled"], speeds, path("samplers"))
    header = ["group", "numbers", "least sd ratio", "median", "largest", "largest gap of means in sd"]
    report(header, rows, path("deviations"))

    size, some = ((300, 2, 3), (100,)) if quick else ((100_000, 2, 5), (1000, 4000))
    print("\nMini-batches, n = {}, d = {}, K = {}".format(*size))
    batches = {f"SVI ({batch} a step)": omt.SVI(num_steps=4 * few, batch_size=batch) for batch in some}
    rows = minibatches(*size, batches, omt.Gibbs(num_warmup=few // 5, num_samples=few))
    # Their differences are in the fourth digit.
    rows = [[*row[:3], *(f"{value:.5f}" for value in row[3:5]), *row[5:]] for row in rows]
    header = ["method", "compile s", "other s", "in-sample", "held-out", "largest gap in sd", "sd ratios to Gibbs"]
    report(header, rows, path("minibatches"))


if __name__ == "__main__":
    main()
