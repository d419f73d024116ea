"""Handwritten digits carried to other digits: mixtures and their peers in the latent space of an autoencoder.

The environment variable OMT_CACHE may name a directory that keeps what is finished; a later run goes on from there.
"""

from benchmarks.harness.experiment import Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.experiments._images import BOTH_WAYS, by_method, distance, over_seeds, solved
from benchmarks.harness import peers as _peers
from benchmarks.harness.data import mnist, MissingData
from benchmarks.harness.kept import kept

PAPER = 10
# Rows of the picture, each by the method that makes it.
SHOWN = {"map": f"OMT, K = {PAPER}, map", "draw": f"OMT, K = {PAPER}, draw", "entropic": "entropic, default epsilon"}
NUM_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run.

    Attributes:
        pairs: Digits carried to each other, both ways.
        num_train: Latent points of each digit that the maps are fitted to.
        num_test: Test images of each digit.
        num_images: Images that the networks are trained on; ``None`` for all.
        num_epochs: Passes over them, of the autoencoder and of the classifier.
        sweep: Numbers of components on both sides.
        methods: Others, by label.
    """

    pairs: tuple[tuple[int, int], ...]
    num_train: int
    num_test: int
    num_images: int | None
    num_epochs: tuple[int, int]
    sweep: tuple[int, ...]
    methods: dict[str, Any]


def full_study() -> Study:
    entropic = _peers.BestOf(tuple(_peers.Entropic(scale) for scale in (4.0, 2.0, 1.0, 0.5, 0.2)))
    methods = {
        "linear map": _peers.Linear(),
        f"GMM-OT (POT), K = {PAPER}": _peers.Mixtures((PAPER, PAPER), None),
        SHOWN["entropic"]: _peers.Entropic(),
        "entropic, epsilon chosen": entropic,
        "OMT, K chosen": _peers.Mixtures(None, candidates=(2, 5, 10, 20, 40)),
    }
    pairs = ((1, 7), (4, 9), (3, 8), (0, 6), (2, 5))
    return Study(pairs, 1000, 800, None, (12, 3), (1, 2, 5, PAPER, 20, 40), methods)


def quick_study() -> Study:
    methods = {"linear map": _peers.Linear(), SHOWN["entropic"]: _peers.Entropic()}
    return Study(((1, 7),), 100, 100, 1000, (4, 4), (PAPER,), methods)


class Score(NamedTuple):
    """What one method makes of the test images of one digit.

    Attributes:
        seed: Repetition.
        source: Digit of the images.
        target: Digit that they are carried to.
        method: Label of the method.
        frechet: Frechet distance in the classifier's features to real test images of the target's digit.
        share: Share of the images that the classifier reads as the target's digit, in percent.
        moved: Mean squared displacement in the latent space, which is the cost of a plan.
        converged: Whether every Sinkhorn solve of the method did.
    """

    seed: int
    source: int
    target: int
    method: str
    frechet: float
    share: float
    moved: float | None
    converged: bool


# -- images and latent points -----------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Images by digit, to train and to test, the latent points of both, and the autoencoder."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    points: list[np.ndarray]
    test_points: list[np.ndarray]
    latents: Any


def encode(study: Study, seed: int, train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...]) -> Digits:
    """Train an autoencoder and encode all images."""
    from benchmarks.harness import networks as _networks

    images, labels = (part[: study.num_images] for part in train)
    latents = _networks.train_autoencoder(jax.random.key(1000 + seed), images, study.num_epochs[0])
    parts = (images, labels), test, (latents.encode(images), labels), (latents.encode(test[0]), test[1])
    train_images, test_images, points, test_points = (
        [x[y == digit] for digit in range(_networks.NUM_CLASSES)] for x, y in parts
    )
    # As many of each digit, for distances between samples depend on their sizes.
    test_images, test_points = ([x[: study.num_test] for x in part] for part in (test_images, test_points))
    return Digits(train_images, test_images, points, test_points, latents)


# -- one pair of digits -----------------------------------------------------------------------------------------------


def floors(judge: Any, latents: Any, train: np.ndarray, test: np.ndarray, digit: int) -> Iterator[tuple[str, Any]]:
    """Distance to the real test images of a digit, and the share read as it, of reconstructions and of real images."""
    parts = {"reconstructions of test images": latents.decode(latents.encode(test)), "real training images": train}
    for name, images in parts.items():
        yield name, (distance(judge.features(images), judge.features(test)), 100 * judge.share(images, digit))


def run_pair(
    study: Study, seed: int, pair: tuple[int, int], encoded: Callable[[], Digits], judge: Any
) -> tuple[list[Score], dict[tuple[str, int, int], np.ndarray]]:
    """Scores of all methods both ways, and the first images that they make."""
    digits, scores, pictures = encoded(), [], {}
    latents = digits.latents
    rng = np.random.default_rng([seed, *pair])
    x, y = (rng.permutation(digits.points[digit])[: study.num_train] for digit in pair)
    methods = study.methods | {f"OMT, K = {number}": _peers.Mixtures((number, number)) for number in study.sweep}
    key = jax.random.key(100 * seed + 10 * pair[0] + pair[1])
    for name, maps, _ in solved(methods, f"OMT, K = {PAPER}", key, x, y):
        for (source, target), direction in zip((pair, pair[::-1]), BOTH_WAYS, strict=True):
            points = digits.test_points[source]
            images = np.asarray(getattr(maps, direction)(jnp.asarray(points)), np.float32)
            decoded, real = latents.decode(images), digits.test[target]
            moved = float(((images - points) ** 2).sum(axis=1).mean())
            share = 100 * judge.share(decoded, target)
            converged = bool(np.all(getattr(maps, "converged", True)))
            frechet = distance(judge.features(decoded), judge.features(real))
            scores.append(Score(seed, source, target, name, frechet, share, moved, converged))
            pictures[name, source, target] = decoded[:NUM_SHOWN]
    for source, target in (pair, pair[::-1]):
        train = rng.permutation(digits.train[target])[: len(digits.test[target])]
        for name, (frechet, share) in floors(judge, latents, train, digits.test[target], target):
            scores.append(Score(seed, source, target, name, frechet, share, None, True))
        pictures["source", source, target] = digits.test[source][:NUM_SHOWN]
    return scores, pictures


# -- tables and pictures ----------------------------------------------------------------------------------------------


def tables(study: Study, scores: list[Score], results: Results) -> None:
    """All methods over all directions; the main ones by direction; the numbers of components."""
    groups = by_method(scores)
    swept = {f"OMT, K = {k}, {use}" for k in study.sweep for use in ("map", "draw") if k != PAPER}
    fields = ("frechet", "share", "moved")
    header = ["method", "Frechet distance", "read as target, %", "squared displacement", "Sinkhorn failures"]
    rows = [
        [name, *(over_seeds(group, field) for field in fields), sum(not s.converged for s in group)]
        for name, group in groups.items()
        if name not in swept
    ]
    results.table("", header, rows)

    columns = [*SHOWN.values(), "linear map", "reconstructions of test images"]
    for part, field in (("directions", "frechet"), ("shares", "share")):
        rows = [
            [f"{a} to {b}"]
            + [over_seeds([s for s in groups[name] if (s.source, s.target) == (a, b)], field) for name in columns]
            for pair in study.pairs
            for a, b in (pair, pair[::-1])
        ]
        results.table(part, ["direction", *columns], rows)

    rows = [
        [k, *(over_seeds(groups[f"OMT, K = {k}, {use}"], field) for field in fields for use in ("map", "draw"))]
        for k in study.sweep
    ]
    names = [f"{field}, {use}" for field in header[1:4] for use in ("map", "draw")]
    results.table("components", ["K", *names], rows)
    results.table("seeds", Score._fields, scores, shown=False)


def draw_components(study: Study, scores: list[Score]) -> Any:
    """Distance and share against the number of components, with the levels of others."""
    import matplotlib.pyplot as plt

    groups = by_method(scores)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    levels = {"linear map": "0.6", SHOWN["entropic"]: "#2171b5", "reconstructions of test images": "k"}
    for axis, field, name in zip(axes, ("frechet", "share"), ("Frechet distance", "read as target, %"), strict=True):
        for use, color in (("map", "#fe9929"), ("draw", "#d7301f")):
            rows = [[getattr(s, field) for s in groups[f"OMT, K = {k}, {use}"]] for k in study.sweep]
            seeds = [s.seed for s in groups[f"OMT, K = {PAPER}, {use}"]]
            means = [
                [np.mean(np.asarray(row)[np.asarray(seeds) == seed]) for seed in sorted(set(seeds))] for row in rows
            ]
            middle, spread = np.mean(means, axis=1), np.std(means, axis=1)
            axis.errorbar(study.sweep, middle, spread, color=color, marker="o", ms=4, label=f"OMT, {use}")
        for level, color in levels.items():
            axis.axhline(np.mean([getattr(s, field) for s in groups[level]]), color=color, ls="--", label=level)
        axis.set(xscale="log", xlabel="components on each side, K", ylabel=name)
        axis.set_xticks(study.sweep, [str(k) for k in study.sweep])
        axis.minorticks_off()
        axis.grid(color="0.92")
    axes[0].set_ylim(0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def draw_digits(study: Study, pictures: dict[tuple[str, int, int], np.ndarray]) -> Any:
    """Test images and what becomes of them, both ways."""
    import matplotlib.pyplot as plt

    names = {"": "source"} | SHOWN
    num = len(study.pairs)
    figure, axes = plt.subplots(num, 2, figsize=(11, 1.75 * num + 0.2), layout="compressed", squeeze=False)
    for row, pair in zip(axes, study.pairs, strict=True):
        for axis, (a, b) in zip(row, (pair, pair[::-1]), strict=True):
            strips = [np.concatenate(list(pictures[name, a, b]), axis=1) for name in names.values()]
            axis.imshow(np.round(15 * (1 - np.concatenate(strips))), cmap="gray", interpolation="nearest")
            axis.set_yticks(14 + 28 * np.arange(len(names)), [str(a), *(f"{name} to {b}" for name in SHOWN)])
            axis.set_xticks([])
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            axis.axhline(27.5, color="0.7", lw=1)
    return figure


# -- the experiment ---------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace, results: Results) -> None:
    """Train the networks, then fit and score all methods."""
    train, test = mnist(options.data)
    try:
        from benchmarks.harness import networks as _networks
    except ImportError:
        raise MissingData("the networks need flax, which is not installed.") from None
    study = quick_study() if options.quick else full_study()
    if options.quick:
        test = test[0][:1000], test[1][:1000]
    images, labels = (part[: study.num_images] for part in train)
    judge = _networks.train_classifier(jax.random.key(0), images, labels, study.num_epochs[1])
    print(f"classifier: {np.mean(judge.logits(test[0]).argmax(axis=1) == test[1]):.1%} of the test images right")

    scores: list[Score] = []
    pictures: dict[tuple[str, int, int], np.ndarray] = {}
    for seed in range(options.seeds or (1 if options.quick else 3)):
        encoded = functools.cache(functools.partial(encode, study, seed, train, test))
        for pair in tqdm(study.pairs, desc=f"seed {seed}", disable=None):
            compute = functools.partial(run_pair, study, seed, pair, encoded, judge)
            found, shown = kept("digits", (study, seed, pair), compute)
            scores += found
            pictures |= shown if seed == 0 else {}
    tables(study, scores, results)
    results.figure("", draw_digits(study, pictures), dpi=80)
    results.figure("components", draw_components(study, scores))


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
