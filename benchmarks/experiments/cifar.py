"""Airplanes carried to birds and back: mixtures, a potential and peers in the latent space of an autoencoder.

Trained networks are kept in the user's cache directory. The environment variable OMT_CACHE may name another one, which
then also keeps what each repetition found; a later run goes on from there.
"""

from benchmarks.harness.experiment import Results, run  # isort: skip  (sets the thread count first)

import argparse
import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from tqdm import tqdm

from benchmarks.experiments._images import BOTH_WAYS, by_method, distance, over_seeds, solved
from benchmarks.harness import peers as _peers, picture_networks as _networks
from benchmarks.harness.data import cifar
from benchmarks.harness.kept import kept
from benchmarks.harness.training import Judge, Latents

NAMES = "airplane", "bird"
PAPER = f"OMT, K = {(K := 10)}"
POTENTIAL, ENTROPIC, NEURAL = "OMT, convex potential", "entropic, epsilon chosen", "neural dual"
REBUILT, REAL = "reconstructions of unseen pictures", "unseen real pictures"
# Fields of a score that tables show: their names and digits.
FIELDS = {
    "frechet": ("Frechet distance", 2),
    "above": ("above the floor", 2),
    "rebuilt": ("to reconstructions", 2),
    "latent": ("of latent points", 2),
    "share": ("read as target, %", 1),
    "moved": ("squared displacement", 1),
    "seconds": ("seconds", 1),
}
NUM_SHOWN = 10
# Rows of the figure that are pictures of the data; these state no license, and are not shown on the page.
FROM_DATA = "source", "nearest"


@dataclasses.dataclass(frozen=True)
class Networks:
    """What is trained.

    Attributes:
        widths: Channels of the strided convolutions.
        dim: Latent dimension.
        num_features: Of the classifiers.
        num_epochs: Passes over the pictures, of an autoencoder and of a classifier.
    """

    widths: tuple[int, ...]
    dim: int
    num_features: int
    num_epochs: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Study:
    """What is run.

    Attributes:
        networks: What is trained.
        num_train: Pictures of each class that networks are trained on.
        num_test: Pictures of each class that are carried, and as many others that images are compared with.
        num_fit: Latent points of each class that the maps are fitted to, of the pictures trained on.
        sweep: Numbers of components on both sides.
        methods: Others, by label.
    """

    networks: Networks
    num_train: int
    num_test: int
    num_fit: int
    sweep: tuple[int, ...]
    methods: dict[str, Any]


def full_study() -> Study:
    scales = (4.0, 2.0, 1.0, 0.5, 0.2)
    mixtures = _peers.Mixtures((K, K), None)
    methods = {
        "linear map": _peers.Linear(),
        f"GMM-OT (POT), K = {K}, map": mixtures,
        f"GMM-OT (POT), K = {K}, draw": _peers.MixtureDraws(mixtures),
        "entropic, default epsilon": _peers.Entropic(),
        ENTROPIC: _peers.BestOf(tuple(_peers.Entropic(scale) for scale in scales)),
        "OMT, K chosen": _peers.Mixtures(None, candidates=(2, 5, 10, 20, 40)),
        POTENTIAL: _peers.Potential(),
    }
    if _peers.has_neural():
        methods[NEURAL] = _peers.Neural()
    return Study(Networks((32, 64, 128), 32, 64, (8, 8)), 3400, 800, 2000, (2, 5, K, 20, 40), methods)


def quick_study() -> Study:
    small = ("num_members", 1), ("num_target_members", 0), ("width", 16), ("num_steps", 50)
    methods = {"linear map": _peers.Linear(), ENTROPIC: _peers.Entropic(), POTENTIAL: _peers.Potential(small)}
    return Study(Networks((4, 8), 6, 8, (1, 1)), 200, 50, 150, (K,), methods)


class Score(NamedTuple):
    """What one method makes of the test pictures of one class.

    Attributes:
        seed: Repetition.
        source: Class of the pictures.
        target: Class that they are carried to.
        method: Label of the method.
        frechet: Frechet distance in the classifier's features to unseen pictures of the target.
        rebuilt: The same to the reconstructions of those pictures.
        latent: Frechet distance between latent points.
        share: Share of the images that the classifier reads as the target, in percent.
        moved: Mean squared displacement in the latent space.
        seconds: What fitting took, for both directions.
        converged: Whether every solve of the method did.
        above: The Frechet distance less that of reconstructions of unseen pictures, where it was taken off.
    """

    seed: int
    source: str
    target: str
    method: str
    frechet: float
    rebuilt: float
    latent: float | None
    share: float
    moved: float | None
    seconds: float | None
    converged: bool
    above: float | None = None


# -- pictures and networks --------------------------------------------------------------------------------------------


class Split(NamedTuple):
    """Pictures of both classes: for training, to be carried, and to compare with."""

    train: list[np.ndarray]
    test: list[np.ndarray]
    reference: list[np.ndarray]


def split(study: Study, classes: tuple[np.ndarray, ...]) -> Split:
    """The same division in all repetitions."""
    rng, ends = np.random.default_rng(0), np.cumsum([study.num_train, study.num_test, study.num_test])
    parts = [np.split(rng.permutation(pictures)[: ends[-1]], ends[:-1]) for pictures in classes]
    return Split(*(list(part) for part in zip(*parts, strict=True)))


def trained(name: str, settings: Any, pictures: np.ndarray, train: Callable[[], Any]) -> Any:
    """A trained network from the cache, or trained now; and the seconds that its training took."""

    def compute() -> tuple[Any, float]:
        begin = time.perf_counter()
        network = jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, train())
        return network, time.perf_counter() - begin

    digest = hashlib.sha256(np.ascontiguousarray(pictures)).hexdigest()
    folder = platformdirs.user_cache_path("omt-expfam") / "networks"
    network, seconds = kept(name, (settings, digest, eqx.__version__), compute, folder)
    tqdm.write(f"{name}: trained in {seconds / 60:.1f} minutes")
    return network


def both_classes(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of both classes and their labels."""
    return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def autoencoder(study: Study, seed: int, parts: list[np.ndarray]) -> Latents:
    """The autoencoder of a repetition."""
    pictures, _ = both_classes(parts)
    wanted = study.networks
    start_key, key = jax.random.split(jax.random.key(1000 + seed))

    def train() -> Any:
        start = _networks.Autoencoder(start_key, pictures, wanted.widths, wanted.dim)
        critic = classifier(study, "critic", parts)
        return _networks.train_autoencoder(key, pictures, wanted.num_epochs[0], start, critic)

    settings = wanted, seed
    return _networks.latents(trained("autoencoder", settings, pictures, train))


def classifier(study: Study, role: str, parts: list[np.ndarray]) -> Any:
    """The classifier that judges the images of all repetitions, or the critic that autoencoders are trained with."""
    pictures, labels = both_classes(parts)
    wanted = study.networks
    start_key, key = jax.random.split(jax.random.key(("judge", "critic").index(role)))

    def train() -> Any:
        start = _networks.Classifier(start_key, wanted.widths, wanted.num_features, len(parts))
        return _networks.train_classifier(key, pictures, labels, wanted.num_epochs[1], start)

    settings = wanted.widths, wanted.num_features, wanted.num_epochs[1]
    return trained(role, settings, pictures, train)


# -- one repetition ---------------------------------------------------------------------------------------------------


def floors(judge: Judge, latents: Latents, seed: int, way: tuple[int, int], split: Split) -> Iterator[Score]:
    """What two real samples of the target have, and what its reconstructions have."""
    target = way[1]
    real, reference = split.test[target], split.reference[target]
    points, reference_points = latents.encode(real), latents.encode(reference)
    goals = judge.features(reference), judge.features(latents.decode(reference_points))
    latent = distance(points, reference_points)
    for name, pictures in ((REBUILT, latents.decode(points)), (REAL, real)):
        distances = [distance(judge.features(pictures), goal) for goal in goals]
        share = 100 * judge.share(pictures, target)
        yield Score(seed, NAMES[way[0]], NAMES[target], name, *distances, latent, share, None, None, True)


def run_seed(
    study: Study, seed: int, split: Split, judge: Judge
) -> tuple[list[Score], dict[tuple[str, int], np.ndarray]]:
    """Scores of all methods both ways, and the first images that they make."""
    latents = autoencoder(study, seed, split.train)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    x, y = [latents.encode(rng.permutation(part)[: study.num_fit]) for part in split.train]
    points, references = ([latents.encode(part) for part in parts] for parts in (split.test, split.reference))
    goals = [[judge.features(part) for part in (split.reference[i], latents.decode(references[i]))] for i in range(2)]
    scores: list[Score] = []
    shown = {(FROM_DATA[0], i): split.test[i][:NUM_SHOWN] for i in range(2)}
    shown |= {("reconstruction", i): latents.decode(points[i][:NUM_SHOWN]) for i in range(2)}
    methods = study.methods | {f"OMT, K = {number}": _peers.Mixtures((number, number)) for number in study.sweep}
    for name, maps, seconds in tqdm(solved(methods, PAPER, key, x, y), desc="methods", disable=None, leave=False):
        tqdm.write(f"{name}: {seconds:.0f} s")
        for (source, target), direction in zip(((0, 1), (1, 0)), BOTH_WAYS, strict=True):
            images = np.asarray(getattr(maps, direction)(jnp.asarray(points[source])), np.float32)
            decoded = latents.decode(images)
            features = judge.features(decoded)
            score = Score(
                seed,
                NAMES[source],
                NAMES[target],
                name,
                *(distance(features, goal) for goal in goals[target]),
                distance(images, references[target]),
                100 * judge.share(decoded, target),
                float(((images - points[source]) ** 2).sum(axis=1).mean()),
                seconds or None,
                bool(np.all(getattr(maps, "converged", True))),
            )
            scores.append(score)
            shown[name, source] = decoded[:NUM_SHOWN]
            if name == f"{PAPER}, draw":
                all_points = latents.encode(split.train[target])
                near = [int(np.argmin(((all_points - image) ** 2).sum(axis=1))) for image in images[:NUM_SHOWN]]
                shown[FROM_DATA[1], source] = split.train[target][near]
    for way in ((0, 1), (1, 0)):
        scores += floors(judge, latents, seed, way, split)
    return scores, shown


# -- tables and pictures ----------------------------------------------------------------------------------------------


def above_the_floor(scores: list[Score]) -> list[Score]:
    """The scores of what was carried, or rebuilt, with what they lose beyond the decoder, pair by pair."""
    floor = {(s.seed, s.source): s.frechet for s in scores if s.method == REBUILT}
    return [s if s.method == REAL else s._replace(above=s.frechet - floor[s.seed, s.source]) for s in scores]


def tables(study: Study, scores: list[Score], results: Results) -> None:
    """All methods over both directions and in each; the numbers of components."""
    swept = {f"OMT, K = {k}, {use}" for k in study.sweep for use in ("map", "draw") if k != K}
    parts = {"": scores} | {f"{a}s": [s for s in scores if s.source == a] for a in NAMES}
    for part, members in parts.items():
        rows = [
            [
                name,
                *(over_seeds(group, field, num) for field, (_, num) in FIELDS.items()),
                sum(not s.converged for s in group),
            ]
            for name, group in by_method(members).items()
            if name not in swept
        ]
        results.table(part, ["method", *(name for name, _ in FIELDS.values()), "failures"], rows)
    groups = by_method(scores)
    fields = [(field, *FIELDS[field], use) for field in ("above", "rebuilt", "share") for use in ("map", "draw")]
    rows = [
        [k, *(over_seeds(groups[f"OMT, K = {k}, {use}"], field, num) for field, _, num, use in fields)]
        for k in study.sweep
    ]
    results.table("components", ["K", *(f"{name}, {use}" for _, name, _, use in fields)], rows)
    results.table("seeds", Score._fields, scores, shown=False)


def draw_pictures(shown: dict[tuple[str, int], np.ndarray]) -> Any:
    """Test pictures, what becomes of them, and the real pictures nearest to draws, both ways; rows that are there."""
    import matplotlib.pyplot as plt

    wanted = (
        FROM_DATA[0],
        "reconstruction",
        f"{PAPER}, map",
        f"{PAPER}, draw",
        FROM_DATA[1],
        POTENTIAL,
        NEURAL,
        ENTROPIC,
    )
    rows = [row for row in wanted if (row, 0) in shown]
    figure, axes = plt.subplots(2, 1, figsize=(8, 1.5 + 1.4 * len(rows)), layout="compressed")
    for axis, source in zip(axes, range(2), strict=True):
        target = NAMES[1 - source]
        named = {FROM_DATA[0]: NAMES[source], FROM_DATA[1]: f"real {target} nearest to the draw"}
        strips = [np.concatenate(list(shown[row, source]), axis=1) for row in rows]
        axis.imshow(np.concatenate(strips), interpolation="nearest")
        side = _networks.PIXELS
        labels = [named.get(row, row) for row in rows]
        axis.set_yticks(side / 2 + side * np.arange(len(rows)), labels)
        axis.set_xticks([])
        axis.set_title(f"{NAMES[source]} to {target}")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


# -- the experiment ---------------------------------------------------------------------------------------------------


def experiment(options: argparse.Namespace, results: Results) -> None:
    """Train the networks, then fit and score all methods."""
    study = quick_study() if options.quick else full_study()
    parts = split(study, cifar(options.data, study.num_train + 2 * study.num_test if options.quick else None))
    judge = _networks.judge(classifier(study, "judge", parts.train))
    pictures, labels = both_classes(parts.test)
    print(f"classifier: {np.mean(judge.logits(pictures).argmax(axis=1) == labels):.1%} of the test pictures right")
    scores: list[Score] = []
    shown: dict[tuple[str, int], np.ndarray] = {}
    for seed in range(options.seeds or (1 if options.quick else 5)):
        found, pictures = kept("cifar", (study, seed), functools.partial(run_seed, study, seed, parts, judge))
        scores += found
        shown = shown or pictures
    tables(study, above_the_floor(scores), results)
    results.figure("", draw_pictures({row: strip for row, strip in shown.items() if row[0] not in FROM_DATA}), dpi=100)
    if os.environ.get("OMT_CACHE"):
        path = Path(os.environ["OMT_CACHE"]) / "cifar.png"
        draw_pictures(shown).savefig(path, dpi=100)
        print(f"with the real pictures: {path}")


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
