"""All draws of a posterior transported in one call, against the summed kernel and a loop over `transport`."""

from benchmarks.harness.measure import parse, report, seconds, spd  # isort: skip  (sets the thread count first)

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import omt_expfam as omt
from omt_expfam._base.arrays import take
from omt_expfam._couplings.gaussian import solve_gaussian_couplings
from omt_expfam._posterior_plans.transport import _solve_chunk, transport_posterior
from omt_expfam._weights.entropic import entropic_coupling
from omt_expfam.families import Gaussian

EPSILON_1, EPSILON_2, TOLERANCE = 0.5, 1.0, 1e-10


def posterior(seed, num_draws, num, dim):
    """Draws around one mixture of components a few standard deviations apart."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(num, 5.0))
    weights = np.stack([rng.dirichlet(200 * weights) for _ in range(num_draws)])
    mean = 3 * rng.standard_normal((num, dim)) + 0.1 * rng.standard_normal((num_draws, num, dim))
    covariance = spd(rng, num, dim, 30.0) * np.exp(0.1 * rng.standard_normal((num_draws, num, 1, 1)))
    build = jax.vmap(lambda w, m, c: omt.Mixture(w, Gaussian(m, c)))
    return build(*(jnp.asarray(v) for v in (weights, mean, covariance)))


@eqx.filter_jit
def kernel(source, target, epsilon_1, epsilon_2):
    """What must be computed for one draw: the couplings of the components and of the weights."""
    couplings = solve_gaussian_couplings(source.components, target.components, epsilon_1)
    start, limits = jnp.zeros_like(target.weights), (jnp.asarray(TOLERANCE), jnp.asarray(1000))
    marginals = source.weights, target.weights
    weights = entropic_coupling(couplings.objectives(), *marginals, epsilon_2, limits[0], start, limits[1])
    return couplings.costs, couplings.kl, weights.weights


def compare(num_draws, num, dim):
    source, target = posterior(0, num_draws, num, dim), posterior(1, num_draws, num, dim)
    pairs = [(take(source, s), take(target, s)) for s in range(num_draws)]
    epsilons = {"epsilon_components": EPSILON_1, "epsilon_weights": EPSILON_2}
    scalars = jnp.asarray(EPSILON_1), jnp.asarray(EPSILON_2)

    def together(**options):
        return transport_posterior(source, target, **epsilons, **options).weights

    runs = {
        "kernel": lambda: [kernel(*pair, *scalars) for pair in pairs],
        "call": lambda: together(relabel=False),
        "chunks": lambda: together(relabel=False, chunk_size=max(1, num_draws // 8)),
        "relabelled": together,
        "loop": lambda: [omt.transport(*pair, **epsilons).weights for pair in pairs],
    }
    # Two rounds, so that a slow moment of the machine does not fall on one of them.
    rounds = [{name: seconds(run, 1 if name == "loop" else 3) for name, run in runs.items()} for _ in range(2)]
    first = {name: rounds[0][name][0] for name in runs}
    warm = {name: min(r[name][1] for r in rounds) for name in runs}
    compiled = eqx.filter_jit(inspect.unwrap(_solve_chunk)).lower(source, target, *scalars, None, 1000).compile()
    memory = compiled.compiled.memory_analysis()
    return [
        num_draws,
        num,
        dim,
        *warm.values(),
        warm["call"] / warm["kernel"],
        warm["loop"] / warm["call"],
        first["kernel"] - warm["kernel"],
        first["call"] - warm["call"],
        memory.temp_size_in_bytes / 2**20,
        memory.output_size_in_bytes / 2**20,
    ]


def main():
    options = parse(__doc__)
    jax.config.update("jax_enable_x64", True)
    sizes = [(20, 3, 2)] if options.quick else [(200, 10, 16), (200, 20, 4), (1000, 3, 2)]
    header = ["draws", "K", "d", "kernel s", "one call s", "8 chunks s", "with relabel s", "loop s", "call / kernel"]
    header += ["loop / call", "kernel compile s", "call compile s", "working MiB", "result MiB"]
    report(header, [compare(*size) for size in sizes], options.csv)


if __name__ == "__main__":
    main()
