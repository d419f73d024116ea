"""Coverage of 90 % intervals by every method where it says that it converged, at regular truths and at ties."""

from benchmarks.harness.experiment import Results, run  # isort: skip  (sets the thread count first)

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import omt_expfam as omt
from benchmarks.experiments.calibration import fixed_source, fixed_target
from benchmarks.harness.kept import kept
from omt_expfam.families import Gaussian

EPSILONS: dict[str, Any] = {"epsilon_components": 0.1, "epsilon_weights": 0.5}
NUM_POINTS, BLOCK = 250, 10
# By what they take: a run that is cut short has the first ones whole.
METHODS: dict[str, Any] = {
    "Gibbs": omt.Gibbs(num_warmup=200, num_samples=400, num_chains=2),
    "Laplace": omt.LaplaceApproximation(num_samples=800),
    "bootstrap": omt.Bootstrap(num_samples=300),
    "SVI": omt.SVI(num_steps=400, num_particles=2, num_samples=800),
    "NUTS": omt.NUTS(num_warmup=100, num_samples=200, num_chains=2),
}


class Truth(NamedTuple):
    """A pair of mixtures, and points at which the map is followed."""

    source: omt.Mixture
    target: omt.Mixture
    places: np.ndarray


class OneSet(NamedTuple):
    """What a method says of one data set.

    Attributes:
        names: The quantities.
        inside: Whether the 90 % interval of each holds the truth.
        converged: Whether the method says so, for both sides.
        near: Whether the plan says that Omega is near a change of vertex.
        unclear: Whether it says that labels are not identified.
    """

    names: tuple[str, ...]
    inside: np.ndarray
    converged: bool
    near: bool
    unclear: bool


def gaussians(weights: list[float], means: list[list[float]], scale: float) -> omt.Mixture:
    """Components of equal, slightly elongated covariance."""
    covariance = scale**2 * np.array([[1.0, 0.2], [0.2, 0.7]])
    return omt.Mixture(jnp.asarray(weights), Gaussian(jnp.asarray(means), jnp.asarray([covariance] * len(weights))))


def truths() -> dict[str, Truth]:
    """A regular pair; weights that tie, so that the exact optimum is degenerate; and two optima of equal cost."""
    places = np.array([[-2.0, 0.0], [1.0, 1.0], [2.0, 0.5]])
    three = [[-4.0, 0.0], [0.0, 6.0], [4.0, 0.0]]
    moved = [[-4.0, 1.0], [1.0, 7.0], [4.0, 1.5]]
    square = [[-3.0, 0.0], [3.0, 0.0]], [[0.0, -3.0], [0.0, 3.0]]
    return {
        "regular": Truth(fixed_source(), fixed_target(), places),
        "weights that tie": Truth(
            gaussians([0.5, 0.3, 0.2], three, 0.8), gaussians([0.3, 0.3, 0.4], moved, 0.8), np.array(three)
        ),
        "equal costs": Truth(
            gaussians([0.5, 0.5], square[0], 1.0), gaussians([0.5, 0.5], square[1], 1.0), np.array(square[0])
        ),
    }


def quantities(plan: omt.PosteriorPlan, places: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Weights of either side, cost, Omega and the map at some places, of every draw: shape ``[S, q]``."""
    parts = {
        "weights": np.concatenate([np.asarray(plan.source.weights), np.asarray(plan.target.weights)], axis=1),
        "cost": np.asarray(plan.cost)[:, None],
        "Omega": np.asarray(plan.weights),
        "map": np.asarray(plan.push_forward(places)),
    }
    flat = {name: values.reshape(plan.num_draws, -1) for name, values in parts.items()}
    names = tuple(f"{name} {i}" for name, values in flat.items() for i in range(values.shape[1]))
    return names, np.concatenate(list(flat.values()), axis=1)


def one_set(truth: Truth, method: Any, seed: int) -> OneSet:
    """Draw a data set of either side, fit both and transport all draws, labelled as the truth is."""
    keys = jax.random.split(jax.random.key(seed), 4)
    posteriors, draws = [], []
    for mixture, data_key, fit_key in ((truth.source, *keys[:2]), (truth.target, *keys[2:])):
        x = mixture.sample(data_key, NUM_POINTS)
        posteriors.append(omt.fit_posterior(fit_key, x, Gaussian, mixture.num_components, method=method, throw=False))
        draws.append(omt.relabel(posteriors[-1].mixtures, mixture)[0])
    plan = omt.transport_posterior(*draws, relabel=False, **EPSILONS)
    names, values = quantities(plan, truth.places)
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], truth.source)
    _, expected = quantities(omt.transport_posterior(single, truth.target, relabel=False, **EPSILONS), truth.places)
    interval = omt.credible_interval(values)
    inside = (np.asarray(interval.lower) <= expected[0]) & (expected[0] <= np.asarray(interval.upper))
    unclear = any(not posterior.labelling.identified for posterior in posteriors)
    return OneSet(names, inside, all(p.converged for p in posteriors), plan.vertices().is_near, unclear)


def sets(name: str, method: str, num: int) -> list[OneSet]:
    """All data sets of a truth by a method, kept in blocks."""
    found: list[OneSet] = []
    truth = truths()[name]
    places = truth.places.tolist()
    for first in range(0, num, BLOCK):
        seeds = range(first, min(first + BLOCK, num))

        def block(seeds: range = seeds) -> list[OneSet]:
            return [one_set(truth, METHODS[method], seed) for seed in seeds]

        found += kept("coverage", (name, places, METHODS[method], NUM_POINTS, tuple(seeds)), block)
    return found


def rows(name: str, method: str, found: list[OneSet]) -> Iterator[list[Any]]:
    """For each kind of quantity: coverage where the method converged, and where the plan adds no caution."""
    good = [one for one in found if one.converged]
    kinds = np.array([text.split()[0] for text in found[0].names])
    for kind in dict.fromkeys(kinds.tolist()):
        line: list[Any] = [name, method, kind, len(found), len(good)]
        if good:
            inside = np.stack([one.inside for one in good])[:, kinds == kind]
            near = np.array([one.near for one in good])
            share = 100 * inside.mean(axis=0)
            # Weights themselves have no kink.
            marked = np.zeros_like(near) if kind == "weights" else near
            either = 100 * (inside | marked[:, None]).mean(axis=0)
            line += [float(share.min()), float(share.mean()), float(share.max())]
            line += [100 * float(near.mean()), float(either.min())]
        yield line + [None] * (10 - len(line))


def experiment(options: argparse.Namespace, results: Results) -> None:
    jax.config.update("jax_enable_x64", True)
    names, methods, num = list(truths()), list(METHODS), options.seeds or 100
    if options.quick:
        names, methods, num = names[1:2], ["Laplace"], 3
    table, seeds = [], []
    for method in methods:
        for name in names:
            found = sets(name, method, num)
            table += rows(name, method, found)
            for seed, one in enumerate(found):
                flags = int(one.converged), int(one.near), int(one.unclear)
                seeds.append([name, method, seed, *flags, "".join(map(str, one.inside.astype(int)))])
            print(f"{name}, {method}: {sum(one.converged for one in found)} of {len(found)} converged", flush=True)
    table.sort(key=lambda row: names.index(row[0]))
    header = ["truth", "method", "quantity", "data sets", "converged", "coverage, least, %", "mean", "most"]
    results.table("", [*header, "marked, %", "covered or marked, least, %"], table)
    header = ["truth", "method", "seed", "converged", "near a change", "labels unclear", "inside, by quantity"]
    results.table("seeds", header, seeds, shown=False)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
