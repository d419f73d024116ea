"""EM against scikit-learn's GaussianMixture: time per iteration, time to its likelihood, held-out likelihood."""

import os
import warnings
from pathlib import Path

from benchmarks.harness.measure import parse, report, seconds  # isort: skip  (sets the thread count first)

import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.mixture import GaussianMixture

import omt_expfam as omt
from omt_expfam.families import Gaussian


def blobs(num, dim, components, seed=0):
    """Points from a random mixture with correlated coordinates."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, components, num)
    mean = 2.5 * rng.standard_normal((components, dim))
    shape = rng.standard_normal((components, dim, dim)) / np.sqrt(dim)
    noise = rng.standard_normal((num, dim))
    return mean[label] + np.einsum("nij,nj->ni", shape[label], noise) + 0.3 * rng.standard_normal((num, dim))


def per_iteration(num, dim, components):
    """Milliseconds per EM step from the same start, each step a full pass over the data."""
    x = blobs(num, dim, components)
    means = x[np.random.default_rng(1).choice(num, components, replace=False)]
    eye = np.broadcast_to(np.cov(x.T), (components, dim, dim)).copy()
    weights = np.full(components, 1 / components)
    start = omt.Mixture(weights, Gaussian(means, eye))

    def ours(steps):
        options = {"start": start, "covariance_prior": 0.0, "standardize": False, "progress": False}
        return omt.fit(
            jax.random.key(0), x, Gaussian, components, max_steps=steps, tolerance=0.0, throw=False, **options
        ).mixture.weights

    def theirs(steps):
        model = GaussianMixture(
            components,
            max_iter=steps,
            tol=0.0,
            weights_init=weights,
            means_init=means,
            precisions_init=np.linalg.inv(eye),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(x).means_

    few, many = 3, 13
    first, base = seconds(lambda: ours(few), 2)
    mine = (seconds(lambda: ours(many), 2)[1] - base) / (many - few)
    peer = (seconds(lambda: theirs(many), 1)[1] - seconds(lambda: theirs(few), 1)[1]) / (many - few)
    return [num, dim, components, 1e3 * mine, 1e3 * peer, peer / mine, first - base]


def to_likelihood(x, components, seed, train):
    """Seconds until our training likelihood passes scikit-learn's final one, start included, compilation apart."""
    order = np.random.default_rng(seed).permutation(len(x))
    fit_to, left_out = x[order[:train]], x[order[train:]]
    begin = time.perf_counter()
    model = GaussianMixture(components, tol=1e-3, random_state=seed).fit(fit_to)
    peer = time.perf_counter() - begin
    goal = model.score(fit_to)

    def run(steps):
        return omt.fit(jax.random.key(seed), fit_to, Gaussian, components, max_steps=steps, throw=False, progress=False)

    full = run(1000)
    trace = np.asarray(full.log_likelihoods)[: int(full.num_steps)]
    passed = np.flatnonzero(trace >= goal)
    # `log_likelihoods[k]` is the value before step k, so k steps suffice; at least one is taken.
    needed = max(1, int(passed[0])) if passed.size else 0
    time_to = seconds(lambda: run(needed).mixture.weights, 3)[1] if needed else float("nan")
    to_end = seconds(lambda: run(1000).mixture.weights, 2)[1]
    held_out = float(jnp.mean(full.mixture.log_prob(left_out)))
    return [seed, needed, time_to, peer, peer / time_to, to_end, held_out, float(model.score(left_out))]


def main():
    options = parse(__doc__)
    sizes = [(500, 2, 3)] if options.quick else [(10_000, 8, 10), (100_000, 2, 5), (100_000, 16, 20), (20_000, 64, 50)]
    rows = [per_iteration(*size) for size in sizes]
    report(["n", "d", "K", "ours ms/step", "sklearn ms/step", "ratio", "compile s"], rows, options.csv)
    data = Path(os.environ.get("OMT_DATA", "../shared/data")) / "kang_ifnb" / "kang_ifnb.npz"
    if not data.exists():
        print(f"real data not found at {data}; set OMT_DATA to its directory for the second table")
        return
    z = np.load(data)
    x = z["pca"][z["stim"] == 0, :16].astype(np.float64)
    num, components, seeds = (1000, 3, 1) if options.quick else (8000, 10, 5)
    what = f"K = {components}, {num:,} cells to fit, the rest held out"
    print(f"\nKang et al. 2018, control cells, 16 principal components, {what}")
    rows = [to_likelihood(x, components, seed, num) for seed in range(seeds)]
    names = ["seed", "steps", "ours s", "sklearn s", "ratio", "ours to 1e-5 s", "held-out ours", "held-out sklearn"]
    report(names, rows, None)


if __name__ == "__main__":
    main()
