"""Calibration: ranks of truths drawn from the prior, and coverage of intervals over repeated data."""

from benchmarks.harness.measure import parse, report  # isort: skip  (sets the thread count first)

import csv
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.stats
from numpyro.infer import Predictive

import omt_expfam as omt
from omt_expfam.families import Gaussian

EPSILONS = {"epsilon_components": 0.1, "epsilon_weights": 0.5}
PROBABILITY = 0.9
# Where the map is followed: at the source components' centers, between them, and to the side.
PLACES = np.array([[-2.0, 0.0], [0.0, 0.0], [1.0, 1.0], [2.0, 0.5], [4.0, -1.0]])
# Points per data set, the thinned draws that a truth is ranked among, and the places used there.
RANKED_POINTS, RANKED_DRAWS, RANKED_PLACES = 80, 99, PLACES[1:3]
FEW, MANY = 300, 1000
METHODS = {
    "Gibbs": omt.Gibbs(num_warmup=200, num_samples=500, num_chains=2),
    "Laplace": omt.LaplaceApproximation(num_samples=1000),
    "bootstrap": omt.Bootstrap(num_samples=400, compare=False),
}
# Few points and overlapping components: chains need time to leave the EM optimum's labels.
LONG = METHODS | {"Gibbs": omt.Gibbs(num_warmup=1000, num_samples=2000, num_chains=2)}


class Study(NamedTuple):
    """Truths and what was drawn about them: m data sets, q quantities.

    Attributes:
        names: The quantities.
        truth: Their true values, shape ``[m, q]``.
        draws: Posterior draws, shape ``[m, q, L]``.
        converged: Whether the method met its own criteria on each data set.
        seconds: Wall time of each data set.
    """

    names: tuple[str, ...]
    truth: np.ndarray
    draws: np.ndarray
    converged: np.ndarray
    seconds: np.ndarray


# -- arithmetic -------------------------------------------------------------------------------------------------------


def ranks(study: Study) -> np.ndarray:
    """How many draws lie below the truth, shape ``[m, q]``: uniform on 0 ... L if the posterior is right."""
    return (study.draws < study.truth[:, :, None]).sum(axis=2)


def uniformity(rank: np.ndarray, num_draws: int) -> tuple[float, float]:
    """p-values of the hypothesis that ranks are uniform on 0 ... L: chi-square over bins, and Kolmogorov-Smirnov."""
    num_bins = 20 if len(rank) >= 200 else 10
    edges = np.linspace(0, num_draws + 1, num_bins + 1).round()
    counts = np.histogram(rank, edges - 0.5)[0]
    chi_square = scipy.stats.chisquare(counts, len(rank) * np.diff(edges) / (num_draws + 1)).pvalue
    return float(chi_square), float(scipy.stats.kstest((rank + 0.5) / (num_draws + 1), "uniform").pvalue)


def intervals(study: Study, probability: float = PROBABILITY) -> tuple[np.ndarray, np.ndarray]:
    """Whether equal-tailed intervals contain the truths, and how wide they are; shape ``[m, q]`` both."""
    interval = omt.credible_interval(jnp.moveaxis(jnp.asarray(study.draws), 2, 0), probability)
    lower, upper = np.asarray(interval.lower), np.asarray(interval.upper)
    return (lower <= study.truth) & (study.truth <= upper), upper - lower


def binomial_limits(num: int, level: float, probability: float = PROBABILITY) -> tuple[float, float]:
    """Between which an observed coverage lies with probability ``level``, if the true one is ``probability``."""
    law = scipy.stats.binom(num, probability)
    return float(law.ppf((1 - level) / 2)) / num, float(law.ppf((1 + level) / 2)) / num


# -- truths from the prior --------------------------------------------------------------------------------------------


def prior_laws() -> dict[str, dist.Distribution]:
    """Priors that know nothing of the data: one truth in eight has centers less than 1.5 deviations apart."""
    return {
        "loc": dist.Normal(jnp.zeros(2), 2.0).to_event(1),
        "scale_tril": dist.InverseWishartCholesky(6.0, scale_tril=np.sqrt(3.0) * jnp.eye(2)),
    }


def fixed_target() -> omt.Mixture:
    """The target mixture of all studies."""
    covariance = jnp.asarray([[[0.7, 0.0], [0.0, 0.6]], [[1.2, 0.4], [0.4, 0.8]]])
    return omt.Mixture(jnp.asarray([0.5, 0.5]), Gaussian(jnp.asarray([[-1.0, 3.0], [3.0, 2.0]]), covariance))


def ranked(num_data_sets: int, method: str, seed: int = 0) -> Study:
    """Simulation-based calibration (Talts et al., 2018): truths from the prior, data from them, posteriors of these.

    The quantities do not depend on labels: those that `fit_posterior` reports, the cost of transport to a fixed
    mixture, and the map at fixed points.
    """
    truth_key, *keys = jax.random.split(jax.random.key(seed), num_data_sets + 1)
    priors = prior_laws()
    model = omt.mixture_model(jnp.eye(2), Gaussian, 2, priors=priors)
    sites = Predictive(model, num_samples=num_data_sets)(truth_key, num_points=RANKED_POINTS)
    data, truths, target = sites.pop("x"), jax.vmap(model.mixture)(sites), fixed_target()
    names, truth = transported(omt.transport_posterior(truths, target, **EPSILONS), RANKED_PLACES)

    def one(key, x):
        posterior = omt.fit_posterior(key, x, Gaussian, 2, method=LONG[method], priors=priors, throw=False)
        plan = omt.transport_posterior(posterior, target, num_draws=RANKED_DRAWS, **EPSILONS)
        chosen = np.linspace(0, posterior.num_draws - 1, RANKED_DRAWS).round().astype(int)
        free = posterior.label_free
        values = np.concatenate([np.asarray(free.draws)[:, chosen], transported(plan, RANKED_PLACES)[1].T])
        return free.names, values, posterior.converged

    results, seconds = [], []
    for key, x in zip(keys, data, strict=True):
        begin = time.perf_counter()
        results.append(one(key, x))
        seconds.append(time.perf_counter() - begin)
    own = jax.jit(jax.vmap(label_free))(truths, data)
    return Study(
        results[0][0] + names,
        np.concatenate([np.asarray(own), truth], axis=1),
        np.stack([values for _, values, _ in results]),
        np.array([converged for _, _, converged in results]),
        np.array(seconds),
    )


def label_free(mixture: omt.Mixture, x: jax.Array) -> jax.Array:
    """The quantities of `LabelFree` for one mixture."""
    variance = jnp.diagonal(mixture.covariance())
    log_likelihood, largest = jnp.mean(mixture.log_prob(x)), jnp.max(mixture.weights)
    return jnp.concatenate([log_likelihood[None], mixture.mean(), variance, largest[None]])


def transported(plan: omt.PosteriorPlan, places: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Cost and images of some places under every plan, shape ``[S, q]``."""
    names = [f"T{i + 1}({x:g} {y:g})" for x, y in places for i in range(2)]
    images = np.asarray(plan.push_forward(places)).reshape(plan.num_draws, -1)
    return ("cost", *names), np.concatenate([np.asarray(plan.cost)[:, None], images], axis=1)


# -- one truth, repeated data -----------------------------------------------------------------------------------------


def fixed_source() -> omt.Mixture:
    """The true source mixture of the repeated data."""
    covariance = jnp.asarray([[[1.0, 0.3], [0.3, 0.6]], [[0.8, -0.2], [-0.2, 1.2]]])
    return omt.Mixture(jnp.asarray([0.4, 0.6]), Gaussian(jnp.asarray([[-2.0, 0.0], [2.0, 0.5]]), covariance))


def repeated(num_data_sets: int, method: str, first_seed: int = 0, num_points: int = FEW) -> Study:
    """Posteriors of the transport between two samples of fixed mixtures, drawn anew for every seed."""
    source, target = fixed_source(), fixed_target()
    truths = jax.tree.map(lambda leaf: leaf[None], source)
    names, truth = transported(omt.transport_posterior(truths, target, **EPSILONS), PLACES)
    draws, converged, seconds = [], [], []
    for seed in range(first_seed, first_seed + num_data_sets):
        begin = time.perf_counter()
        keys = jax.random.split(jax.random.key(seed), 4)
        posteriors = [
            omt.fit_posterior(
                fit_key, mixture.sample(data_key, num_points), Gaussian, 2, method=METHODS[method], throw=False
            )
            for mixture, data_key, fit_key in ((source, *keys[:2]), (target, *keys[2:]))
        ]
        draws.append(transported(omt.transport_posterior(*posteriors, **EPSILONS), PLACES)[1].T)
        converged.append(all(posterior.converged for posterior in posteriors))
        seconds.append(time.perf_counter() - begin)
    return Study(
        names, np.repeat(truth, num_data_sets, axis=0), np.stack(draws), np.array(converged), np.array(seconds)
    )


# -- tables and a figure ----------------------------------------------------------------------------------------------


def rank_table(studies: dict[str, Study]) -> Iterator[list]:
    for method, study in studies.items():
        for name, rank in zip(study.names, ranks(study).T, strict=True):
            p_values = uniformity(rank, study.draws.shape[2])
            share = (rank + 0.5) / (study.draws.shape[2] + 1)
            spread = float(np.std(share) * np.sqrt(12))
            yield [method, len(rank), name, *p_values, float(np.mean(share)), spread]


def coverage_table(studies: dict[str, Study]) -> Iterator[list]:
    for method, study in studies.items():
        inside, width = intervals(study)
        error = np.median(study.draws, axis=2) - study.truth
        for q, name in enumerate(study.names):
            root = float(np.sqrt(np.mean(error[:, q] ** 2)))
            yield [method, len(inside), name, 100 * float(inside[:, q].mean()), float(width[:, q].mean()), root]


def write_seeds(path, header, methods, blocks):
    """One line per method and data set."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for method, block in zip(methods, blocks, strict=True):
            for seed, row in enumerate(block):
                writer.writerow([method, seed, *row])


def draw(ranked_studies, repeated_studies, path):
    """Rank histograms of a few quantities under every method, and the coverage of all intervals."""
    import matplotlib.pyplot as plt

    shown = ["log_likelihood", "variance[0]", "largest_weight", "cost", "T1(0 0)"]
    figure, axes = plt.subplots(
        len(ranked_studies), len(shown) + 2, figsize=(13, 1.9 * len(ranked_studies)), layout="constrained"
    )
    for row, (method, study) in zip(axes, ranked_studies.items(), strict=True):
        num, bins = len(study.truth), 20
        limits = scipy.stats.binom(num, 1 / bins).ppf([0.005, 0.995])
        for axis, name in zip(row, shown, strict=False):
            rank = ranks(study)[:, study.names.index(name)]
            axis.axhspan(*limits, color="0.85", zorder=0)
            axis.hist(rank, np.linspace(0, study.draws.shape[2] + 1, bins + 1) - 0.5, color="C0")
            axis.set(xticks=[], yticks=[], ylim=(0, 3 * num / bins))
            axis.set_title(f"{method}: {name}", fontsize=8)
    grid = axes[0, 0].get_gridspec()
    for axis in axes[:, len(shown) :].ravel():
        axis.remove()
    axis = figure.add_subplot(grid[:, len(shown) :])
    axis.axvspan(85, 95, color="0.9", zorder=0)
    axis.axvline(90, color="0.5", lw=0.8)
    for m, (method, study) in enumerate(repeated_studies.items()):
        share = 100 * intervals(study)[0].mean(axis=0)
        axis.plot(share, np.arange(len(share)) + 0.2 * (m - 1), "os^D"[m], ms=4, label=method)
    axis.set_yticks(range(len(study.names)), study.names, fontsize=8)
    # Room for the legend below.
    axis.set_ylim(len(study.names) + 0.8, -0.8)
    axis.set_xlim(min(80, axis.get_xlim()[0]), 100)
    axis.set_title("coverage of 90 % intervals, percent", fontsize=9)
    axis.legend(fontsize=7, loc="lower center", ncols=2)
    figure.savefig(path, dpi=90)


def publish(prior_studies, studies, csv_path, figure):
    """Print both tables, and write them, every seed and a figure where asked."""

    def beside(name):
        return csv_path and csv_path.with_name(f"{csv_path.stem}_{name}.csv")

    header = ["method", "data sets", "quantity", "chi-square p", "KS p", "mean rank", "spread of ranks"]
    report(header, list(rank_table(prior_studies)), beside("uniformity"))
    print("\n90 % intervals over repeated data")
    header = ["method", "data sets", "quantity", "coverage %", "mean width", "error"]
    report(header, list(coverage_table(studies)), beside("coverage"))
    for what, group in (("prior", prior_studies), ("repeated data", studies)):
        for method, study in group.items():
            failed, typical = int((~study.converged).sum()), np.median(study.seconds)
            print(f"{what}, {method}: {failed} not converged, {typical:.2g} s per data set")
    if csv_path:
        names = next(iter(prior_studies.values())).names
        tables = [ranks(study) for study in prior_studies.values()]
        write_seeds(beside("ranks"), ["method", "data set", *names], prior_studies, tables)
        names = next(iter(studies.values())).names
        tables = [
            [[*map(int, row), *(f"{w:.3g}" for w in wide)] for row, wide in zip(*intervals(study), strict=True)]
            for study in studies.values()
        ]
        write_seeds(beside("seeds"), ["method", "seed", *names, *(f"width {n}" for n in names)], studies, tables)
    if figure:
        draw(prior_studies, studies, figure)


def main():
    options = parse(__doc__, figure=True)
    jax.config.update("jax_enable_x64", True)
    num_ranked, num_repeated = (
        dict.fromkeys(METHODS, small) if options.quick else {"Gibbs": 500, "Laplace": 300, "bootstrap": 300}
        for small in (20, 10)
    )
    prior_studies = {method: ranked(num, method) for method, num in num_ranked.items()}
    studies = {method: repeated(num, method) for method, num in num_repeated.items()}
    studies[f"Gibbs (n = {MANY})"] = repeated(num_repeated["Laplace"], "Gibbs", num_points=MANY)
    publish(prior_studies, studies, options.csv, options.figure)


if __name__ == "__main__":
    main()
