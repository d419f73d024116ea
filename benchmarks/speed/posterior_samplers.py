"""Effective draws per CPU second: Gibbs, and NumPyro's NUTS on the same model in its own coordinates, once compiled."""

from benchmarks.harness.measure import parse, report  # isort: skip  (sets the thread count first)

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian, Gamma, Gaussian, StudentT

CENTERS = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])


def points(family: Any, num: int) -> np.ndarray:
    """Three groups in the plane, of normal laws, of Gamma's, or of Student-t laws with four degrees of freedom."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, num)
    if family is Gamma:
        return rng.gamma(4 + 8 * CENTERS[group])
    noise = rng.standard_normal((num, 2))
    return CENTERS[group] + (noise / np.sqrt(rng.chisquare(4, (num, 1)) / 4) if family is StudentT else noise)


def by_gibbs(x: np.ndarray, family: Any, start: Any, num: int) -> omt.PosteriorFit:
    method = omt.Gibbs(num_warmup=200, num_samples=4 * num, num_chains=2)
    return omt.fit_posterior(jax.random.key(1), x, family, 3, method=method, start=start, throw=False)


def by_numpyro(x: np.ndarray, family: Any, start: Any, num: int, kept: dict) -> omt.PosteriorFit:
    """The sampler is kept from the first call, so that the second compiles nothing."""
    if "run" not in kept:
        model = omt.mixture_model(x, family, 3)
        kernel = numpyro.infer.NUTS(model, init_strategy=numpyro.infer.init_to_value(values=model.sites(start.mixture)))
        settings: dict[str, Any] = {"num_chains": 2, "chain_method": "sequential", "progress_bar": False}
        kept["model"] = model
        kept["run"] = numpyro.infer.MCMC(kernel, num_warmup=200, num_samples=num, **settings)
    kept["run"].run(jax.random.key(3), jnp.asarray(x))
    return omt.posterior_from_numpyro(kept["run"], kept["model"].mixture, reference=start.mixture, throw=False)


def main() -> None:
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    num, draws = (200, 50) if options.quick else (800, 500)
    families = (DiagonalGaussian,) if options.quick else (Gaussian, DiagonalGaussian, Gamma, StudentT)
    rows = []
    for family in families:
        x = points(family, num)
        start, kept = omt.fit(jax.random.key(0), x, family, 3, progress=False), {}
        methods = {
            "Gibbs": lambda x=x, f=family, s=start: by_gibbs(x, f, s, draws),
            "NumPyro's NUTS": lambda x=x, f=family, s=start, k=kept: by_numpyro(x, f, s, draws, k),
        }
        first: tuple[float, float] | None = None
        for name, call in methods.items():
            begin = time.process_time()
            call()
            middle = time.process_time()
            posterior = call()
            seconds = middle - begin, time.process_time() - middle
            sizes = np.asarray(posterior.label_free.effective_size)
            sizes = float(np.min(sizes)), float(np.median(sizes))
            rates = sizes[0] / seconds[1], sizes[1] / seconds[1]
            ratios = (None, None) if first is None else (first[0] / rates[0], first[1] / rates[1])
            first = first or rates
            rows.append([family.__name__, name, *seconds, posterior.num_draws, *sizes, *rates, *ratios])
    header = ["family", "sampler", "first, CPU s", "then, CPU s", "draws", "ESS, least", "ESS, median"]
    report([*header, "least per s", "median per s", "Gibbs over it, least", "median"], rows, options.csv)


if __name__ == "__main__":
    main()
