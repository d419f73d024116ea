"""Penalties on displacements in the plane: eight Gaussians around one (Chen et al., 2025, figures 1, 2 and 4)."""

from benchmarks.harness.experiment import Results, run  # isort: skip  (sets the thread count first)

import argparse
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import omt_expfam as omt
from omt_expfam import plot

# A coordinate counts as moved where it moves by more than a fifth of a Gaussian's standard deviation.
THRESHOLD = 0.1
RADIUS, SPREAD = 4.0, 0.5
PENALTIES = {
    "no penalty": None,
    "L1, .1": omt.L1(0.1),
    "L1, .5": omt.L1(0.5),
    "STVS, .2": omt.STVS(0.2, gamma=1.0),
    "STVS, 1": omt.STVS(1.0, gamma=1.0),
    "STVS, annealed": omt.STVS("annealed", gamma=1.0),
}


def draw(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the Gaussian in the middle, and of the eight around it."""
    angle = np.pi / 4 * rng.integers(8, size=num)
    x, noise = SPREAD * rng.standard_normal((2, num, 2))
    y = RADIUS * np.column_stack([np.cos(angle), np.sin(angle)]) + noise
    return x.astype(np.float32), y.astype(np.float32)


def judge(map: Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float, float]:
    """Images; how far points move; coordinates that move; and how far images are from targets (sliced W2)."""
    images = np.asarray(map.push_forward(x))
    moved = np.abs(images - x)
    angles = np.pi * (np.arange(100) + 0.5) / 100
    ways = np.stack([np.cos(angles), np.sin(angles)])
    distance = np.sqrt(np.mean((np.sort(images @ ways, axis=0) - np.sort(y @ ways, axis=0)) ** 2))
    return images, moved.sum(axis=1).mean(), (moved > THRESHOLD).sum(axis=1).mean(), distance


def experiment(options: argparse.Namespace, results: Results) -> None:
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(0)
    num = 300 if options.quick else 4000
    (x, y), (new_x, new_y) = draw(rng, num), draw(rng, num)
    settings: dict[str, Any] = {"num_members": 1, "num_target_members": 0, "progress": False}
    if options.quick:
        settings |= {"num_steps": 30, "width": 8, "num_layers": 2, "batch_size": 64}
    chosen = dict(list(PENALTIES.items())[:2]) if options.quick else PENALTIES
    lines = []
    figure, axes = plt.subplots(2, len(chosen), figsize=(3.1 * len(chosen), 6.4), sharex=True, sharey=True)
    annealed = None
    for (name, sparsity), (above, below) in zip(tqdm(chosen.items(), disable=None), axes.T, strict=True):
        fit = omt.fit_brenier(jax.random.key(1), x, y, sparsity=sparsity, throw=False, **settings)
        annealed = fit if fit.path is not None else annealed
        images, size, moved, distance = judge(fit.map, new_x, new_y)
        strength = "" if fit.strength is None else f"{fit.strength:.2f}"
        lines.append([name, strength, f"{size:.2f}", f"{moved:.2f}", f"{distance:.2f}"])
        plot.arrows(fit, new_x, max_arrows=60, ax=above)
        below.scatter(*new_y[:600].T, s=4, color=plot.TARGET_COLOR, alpha=0.4, label="targets")
        below.scatter(*images[:600].T, s=4, color=plot.SOURCE_COLOR, alpha=0.6, label="images")
        above.set_title(name)
        for ax in (above, below):
            ax.set_aspect("equal")
            ax.set_xlabel("")
            ax.set_ylabel("")
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="lower center", ncol=2, frameon=False, markerscale=2)
    results.figure("", figure)
    if annealed is not None:
        results.figure("path", plot.strengths(annealed).figure)
    results.table("", ["penalty", "strength", "mean |T(x) - x|_1", "moved of 2", "sliced W2 to targets"], lines)


if __name__ == "__main__":
    run(__doc__, __spec__, experiment)
