"""What experiments on images share: each use of each method between latent points, distances, and sums over seeds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import omt_expfam as omt
from benchmarks.harness import peers as _peers
from benchmarks.harness.experiment import mean_and_deviation

IDENTITY = _peers.Maps(np.asarray, np.asarray)
BOTH_WAYS = "push_forward", "pull_back"


class Use(NamedTuple):
    """One use of what a method found.

    Attributes:
        name: Label of the method, and of the use where there are several.
        maps: From source to target and back.
        seconds: What the method took, its choices and compilation included.
    """

    name: str
    maps: Any
    seconds: float


def uses(name: str, found: Any, key: Any) -> Iterator[tuple[str, Any]]:
    """The maps of what a method found, and for a plan of this library also draws from its conditional law."""
    if not isinstance(found, omt.TransportPlan):
        yield name, found
        return
    yield f"{name}, map", found
    keys = jax.random.split(key)
    plans = found, found.reverse()
    draws = [lambda points, plan=plan, k=k: plan.sample(k, points) for plan, k in zip(plans, keys, strict=True)]
    yield f"{name}, draw", _peers.Maps(*draws)


def solved(methods: Mapping[str, Any], alone: str, key: Any, x: np.ndarray, y: np.ndarray) -> Iterator[Use]:
    """Each use of each method, fitted to latent points of two classes; and two things that no coupling enters.

    Args:
        methods: Methods by label.
        alone: The method whose mixtures are also drawn from without a source.
        key: Random key.
        x: Latent points of the one class.
        y: Those of the other.
    """
    tune_key, fit_key, draw_key, *keys = jax.random.split(key, 5)
    yield Use("no transport", IDENTITY, 0.0)
    for name, method in methods.items():
        begin = time.perf_counter()
        if hasattr(method, "tuned"):
            method = method.tuned(jax.random.clone(tune_key), x, y)
        found = method(jax.random.clone(fit_key), x, y)
        seconds = time.perf_counter() - begin
        for label, maps in uses(name, found, jax.random.clone(draw_key)):
            yield Use(label, maps, seconds)
        if name == alone:
            laws = [
                lambda points, law=law, k=k: law.sample(k, len(points))
                for law, k in zip((found.target, found.source), keys, strict=True)
            ]
            yield Use("draws of the target's mixture alone", _peers.Maps(*laws), 0.0)


def distance(points: np.ndarray, others: np.ndarray) -> float:
    """Frechet distance between two samples of features or latent points."""
    return float(omt.metrics.frechet_distance(points, others))


def over_seeds(scores: Sequence[Any], field: str, digits: int = 1) -> str:
    """Mean and standard deviation over seeds of a field averaged over directions, as text."""
    seeds = sorted({score.seed for score in scores})
    values = [[getattr(score, field) for score in scores if score.seed == seed] for seed in seeds]
    if any(value is None for row in values for value in row):
        return ""
    means = [float(np.mean(row)) for row in values]
    return mean_and_deviation(means, f".{digits}f")


def by_method(scores: Sequence[Any]) -> dict[str, list[Any]]:
    """Scores of each method, in the order of their first appearance."""
    return {name: [s for s in scores if s.method == name] for name in dict.fromkeys(s.method for s in scores)}
