# %% [markdown]
# # From a normal law to shapes in the plane, by component family
#
# Transports normal points to six shapes through mixtures of three families and several sizes, and measures how far
# the transported points are from fresh points of the shape: Figures 1 (right) and 6 of Marghi, Jin and Sümbül (2026).
# Run it as `python examples/shapes_by_family.py [PICTURE]`, with a CSV file beside it; `OMT_SMOKE=1` makes it small.

# %%
import csv
import os
import sys
from pathlib import Path

import jax
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import omt_expfam as omt
from omt_expfam.families import AsymmetricLaplace, DiagonalGaussian, Gaussian

omt.use_compilation_cache()
num, seeds, sizes = (200, [0], (3,)) if os.environ.get("OMT_SMOKE") else (2000, [0, 1, 2], (5, 10, 20, 40))
families = {"Gaussian": Gaussian, "diagonal": DiagonalGaussian, "exponential": AsymmetricLaplace}


# %%
def draw(rng):
    """Points of six shapes, shape [num, 2] each."""
    noise, angle, side = rng.normal(size=(num, 2)), rng.uniform(0, 2 * np.pi, num), rng.choice([-1.0, 1.0], (num, 2))
    turn = 3.5 * np.pi * np.sqrt(rng.uniform(0.05, 1, num))
    arc, spiral = (np.c_[np.cos(a), np.sin(a)] for a in (angle, turn))
    bar, square = rng.uniform(-1, 1, (num, 2)) * [1, 0.12], rng.integers(0, [4, 2], (num, 2))
    return {
        "moons": arc + np.where(angle < np.pi, 0, 1)[:, None] * [1, 0.5] + 0.05 * noise,
        "spiral": turn[:, None] * spiral + 0.3 * noise,
        "circles": arc * rng.choice([0.5, 1.0], (num, 1)) + 0.04 * noise,
        "checkerboard": square @ [[1, 0], [0, 2]] + rng.random((num, 2)) + [[0, 1]] * (square[:, :1] % 2),
        "cross": np.where(rng.random((num, 1)) < 0.5, bar, bar[:, ::-1]),
        "corners": side * (1 - rng.exponential(0.4, (num, 2))),
    }


# %% The source is the normal law itself. Draws of the plan at normal points are compared with fresh points.
normal = omt.Mixture([1.0], DiagonalGaussian([[0.0, 0.0]], [[1.0, 1.0]]))
table, shown = {}, {}
for seed in seeds:
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    x, points, others = rng.normal(size=(num, 2)), draw(rng), draw(rng)
    for shape, family, size in ((n, f, s) for n in points for f in families for s in sizes):
        y, fresh = ((p[shape] - points[shape].mean(0)) / points[shape].std(0) for p in (points, others))
        target = omt.fit(key, y, families[family], size).mixture
        plan = omt.transport(normal, target, epsilon_components=0.1, epsilon_weights=0.1)
        images = np.asarray(plan.sample(key, x))
        table.setdefault((shape, family, size), []).append(1e3 * float(omt.metrics.mmd(images, fresh, bandwidth=0.25)))
        shown[shape, family, size], shown[shape, "target", size] = images, fresh

# %% The table: 1000 times the squared MMD, mean and standard deviation over the seeds.
path = Path(sys.argv[1] if len(sys.argv) > 1 else "shapes_by_family.png")
with path.with_suffix(".csv").open("w", newline="") as file:
    csv.writer(file).writerow(("shape", "family", "components", "mean", "deviation"))
    csv.writer(file).writerows((*key, f"{np.mean(v):.2f}", f"{np.std(v):.2f}") for key, v in table.items())
print(path.with_suffix(".csv").read_text())

# %%
figure, panels = plt.subplots(3, 6, figsize=(12, 6.4), layout="constrained")
size = sizes[len(sizes) // 3]
for row, column in np.ndindex(3, 6):
    ax, shape, family = panels[row, column], list(points)[column], ("target", "Gaussian", "exponential")[row]
    color = omt.plot.SOURCE_COLOR if row else omt.plot.TARGET_COLOR
    ax.scatter(*shown[shape, family, size][:1000].T, s=4, color=color, alpha=0.5, lw=0)
    ax.set_title(f"MMD² × 1000: {np.mean(table[shape, family, size]):.1f}" if row else shape, fontsize=10)
    ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=[], yticks=[])
    ax.set_ylabel((f"{size} {family} components" if row else family) if column == 0 else "")
figure.savefig(path, dpi=75)

# %% More components bring the points nearer to every shape, in every family, up to the noise of the measurement.
assert all(np.mean(table[s, f, sizes[-1]]) < np.mean(table[s, f, sizes[0]]) + 1 for s in points for f in families)
