"""The demo: handwritten digits of one class are transported to another, measured, and drawn."""

import argparse
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from families import LowRankGaussian

from .. import metrics, plot
from .._family.template import template
from .._files.archive import atomic_file
from .._fitting.fit import fit
from .._plans.plan import TransportPlan
from .._plans.transport import transport
from .._storage import save
from .output import Document

SOURCE_DIGIT, TARGET_DIGIT = 4, 9
NUM_FEATURES, NUM_COMPONENTS, RANK = 10, 4, 3
# Regularization of the couplings, and of the Sinkhorn divergence, as parts of the source's total variance.
EPSILON_SHARE, DIVERGENCE_SHARE = 0.05, 0.25


class Features(NamedTuple):
    """Principal components of images: a center and an orthonormal basis."""

    center: np.ndarray
    basis: np.ndarray
    explained: float

    def encode(self, images: np.ndarray) -> np.ndarray:
        """Scores of images, shape ``[n, d]``."""
        return (images - self.center) @ self.basis

    def decode(self, scores: Any) -> np.ndarray:
        """Images of scores, shape ``[n, 64]``."""
        return self.center + np.asarray(scores) @ self.basis.T


class Sides(NamedTuple):
    """Images of the two classes."""

    source: np.ndarray
    target: np.ndarray


def demo_command(arguments: argparse.Namespace) -> Document:
    """Run the demo."""
    return run_demo(arguments.out, arguments.seed)


def run_demo(folder: str, seed: int) -> Document:
    """Fit, transport, measure on held-out images, and draw; print what happens, and give the files and distances.

    Raises:
        ModuleNotFoundError: If scikit-learn, which ships the images, is not installed.
    """
    import matplotlib

    # Pictures go to files, whatever display there is.
    matplotlib.use("Agg")
    training, held_out = load_images(seed)
    os.makedirs(folder, exist_ok=True)
    features = principal_components(np.concatenate(training))
    print(
        f"Handwritten digits, 8 x 8 pixels (scikit-learn): {SOURCE_DIGIT} -> {TARGET_DIGIT}.\n"
        f"{len(training.source)} and {len(training.target)} images to fit, {len(held_out.source)} and "
        f"{len(held_out.target)} held out; {NUM_FEATURES} principal components hold "
        f"{features.explained:.0%} of the variance. Distances are in gray levels (0 to 16)."
    )
    with jax.enable_x64(True):
        source_key, target_key, draw_key = jax.random.split(jax.random.key(seed), 3)
        x, y = (features.encode(images) for images in training)
        plan = solve(source_key, target_key, x, y)
        new_x, new_y = (features.encode(images) for images in held_out)
        mapped, drawn = np.asarray(plan.push_forward(new_x)), np.asarray(plan.sample(draw_key, new_x))
        candidates = {"no transport": new_x, "T(x)": mapped, "a draw per x": drawn, f"training {TARGET_DIGIT}s": y}
        epsilon = DIVERGENCE_SHARE * float(x.var(axis=0).sum())
        found = measure(candidates, new_y, epsilon)
        print(distance_table(found, len(new_y), epsilon))
        paths = [os.path.join(folder, name) for name in ("overview.png", "coupling.png", "digits.png", "plan.omt")]
        draw_overview(paths[0], plan, x, y)
        draw_coupling(paths[1], plan)
        draw_digits(paths[2], held_out.source, *(features.decode(z) for z in (new_x, mapped, drawn)))
        save(paths[3], plan)
    print("\n".join(["", *(f"saved {path}" for path in paths)]))
    return {"out": folder, "files": paths, "distances": found}


def load_images(seed: int) -> tuple[Sides, Sides]:
    """Two thirds of the images of both classes to fit, and the rest to judge by."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The demo needs scikit-learn: pip install 'omt-expfam[demo]'") from error
    images, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    classes = [rng.permutation(images[labels == digit]) for digit in (SOURCE_DIGIT, TARGET_DIGIT)]
    training, held_out = zip(*(np.split(rows, [2 * len(rows) // 3]) for rows in classes), strict=True)
    return Sides(*training), Sides(*held_out)


def principal_components(images: np.ndarray) -> Features:
    """The leading principal components of images."""
    center = images.mean(axis=0)
    _, scale, axes = np.linalg.svd(images - center, full_matrices=False)
    explained = float((scale[:NUM_FEATURES] ** 2).sum() / (scale**2).sum())
    return Features(center, axes[:NUM_FEATURES].T, explained)


def solve(source_key: jax.Array, target_key: jax.Array, x: np.ndarray, y: np.ndarray) -> TransportPlan:
    """Fit both sides and transport one to the other, reporting each step."""
    fits = []
    for digit, key, points in ((SOURCE_DIGIT, source_key, x), (TARGET_DIGIT, target_key, y)):
        fits.append(fit(key, points, template(LowRankGaussian, rank=RANK), NUM_COMPONENTS))
        print(f"\ndigit {digit}: {fits[-1]}", end="")
    epsilon = EPSILON_SHARE * float(x.var(axis=0).sum())
    plan = transport(fits[0].mixture, fits[1].mixture, epsilon_components=epsilon, epsilon_weights=epsilon)
    print(
        f"\n\nepsilon_components = epsilon_weights = {epsilon:.3g} gray levels squared, "
        f"{EPSILON_SHARE:.0%} of the variance of the {SOURCE_DIGIT}s\n{plan}\n\n{plan.correspondences()}"
    )
    return plan


def measure(candidates: dict[str, np.ndarray], truth: np.ndarray, epsilon: float) -> Document:
    """Distances between each candidate and held-out images of the target class."""
    return {
        name: {
            "sinkhorn_divergence": float(metrics.sinkhorn_divergence(points, truth, epsilon)),
            "frechet_distance": float(metrics.frechet_distance(points, truth)),
            "mmd": float(metrics.mmd(points, truth)),
        }
        for name, points in candidates.items()
    }


def distance_table(found: Document, num: int, epsilon: float) -> str:
    """What `measure` found, as a table."""
    lines = [
        f"\nDistance to the {num} held-out {TARGET_DIGIT}s; smaller is better. "
        f"The training {TARGET_DIGIT}s show what sampling noise alone leaves.",
        f"{'':>16}  {'Sinkhorn divergence':>19}  {'Frechet distance':>16}  {'MMD^2':>9}",
        f"{'':>16}  {'gray levels^2':>19}  {'gray levels^2':>16}  {'no unit':>9}",
    ]
    for name, numbers in found.items():
        divergence, frechet, mmd = numbers.values()
        lines.append(f"{name:>16}  {divergence:>19.1f}  {frechet:>16.1f}  {mmd:>9.4f}")
    lines.append(f"epsilon of the Sinkhorn divergence: {epsilon:.3g} gray levels^2")
    return "\n".join(lines)


def draw_overview(path: str, plan: TransportPlan, x: np.ndarray, y: np.ndarray) -> None:
    """Both mixtures, their points and the plan in the plane of the first two components."""
    _save_picture(path, plot.overview(plan, x, y))


def draw_coupling(path: str, plan: TransportPlan) -> None:
    """The coupling of the weights as a heat map."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4.2), layout="constrained")
    ax = plot.coupling(plan, ax=figure.subplots())
    ax.set(xlabel=f"component of the {TARGET_DIGIT}s", ylabel=f"component of the {SOURCE_DIGIT}s")
    _save_picture(path, figure)


def draw_digits(path: str, images: np.ndarray, *rows: np.ndarray, num_columns: int = 12) -> None:
    """A strip of held-out images, their projections, their images under the map, and draws."""
    from matplotlib.figure import Figure

    names = (f"{SOURCE_DIGIT}, held out", "x: projected", "T(x)", "a draw of y | x")
    figure = Figure(figsize=(1.5 + 0.8 * num_columns, 0.85 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), num_columns)
    for name, row, strip in zip(names, axes, (images, *rows), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for ax, image in zip(row, strip, strict=False):
            ax.imshow(np.clip(image.reshape(8, 8), 0, 16), cmap="gray_r", vmin=0, vmax=16)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    _save_picture(path, figure)


def _save_picture(path: str, figure: Any) -> None:
    from matplotlib import pyplot as plt

    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=150)
    plt.close(figure)
