# %% [markdown]
# # From a normal law to shapes in the plane, by component family
#
# Transports normal points to six shapes through mixtures of three families and several sizes, and measures how far
# the transported points are from fresh points of the shape: Figures 1 (right) and 6 of Marghi, Jin and Sümbül (2026).
# Run it as `python examples/shapes_by_family.py [PICTURE]`; the table goes into a CSV file of the same name. It takes
# two minutes, most of which compile; `OMT_SMOKE=1` makes it small. Needs scikit-learn.

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
from sklearn.datasets import make_circles, make_moons, make_s_curve

import omt_expfam as omt
from omt_expfam.families import AsymmetricLaplace, DiagonalGaussian, Gaussian

smoke = bool(os.environ.get("OMT_SMOKE"))
num, num_seeds, sizes = (200, 1, (2, 4)) if smoke else (2000, 3, (5, 10, 20, 40))
families = {"Gaussian": Gaussian, "diagonal": DiagonalGaussian, "exponential": AsymmetricLaplace}


# %% Six shapes, each scaled to standard deviation one in both coordinates.
def spiral(seed):
    turn = 3.5 * np.pi * np.sqrt(np.random.default_rng(seed).uniform(0.05, 1, num))
    return np.c_[turn * np.cos(turn), turn * np.sin(turn)] + 0.3 * np.random.default_rng(seed + 1).normal(size=(num, 2))


def checkerboard(seed):
    x, y, row = np.random.default_rng(seed).uniform(size=(3, num))
    column = np.floor(4 * x)
    return np.c_[4 * x, y + 2 * np.floor(2 * row) + column % 2]


def cross(seed):
    along, across, arm = np.random.default_rng(seed).uniform(-1, 1, (3, num))
    return np.where((arm > 0)[:, None], np.c_[along, 0.12 * across], np.c_[0.12 * across, along])


shapes = {
    "moons": lambda seed: make_moons(num, noise=0.05, random_state=seed)[0],
    "spiral": spiral,
    "circles": lambda seed: make_circles(num, noise=0.04, factor=0.5, random_state=seed)[0],
    "checkerboard": checkerboard,
    "S-curve": lambda seed: make_s_curve(num, noise=0.05, random_state=seed)[0][:, ::2],
    "cross": cross,
}

# %% The source is the normal law itself; draws of the plan at normal points are compared with fresh points.
normal = omt.Mixture([1.0], DiagonalGaussian([[0.0, 0.0]], [[1.0, 1.0]]))
rows, shown = [], {}
for seed, (shape, points) in ((s, item) for s in range(num_seeds) for item in shapes.items()):
    x, y = np.random.default_rng(seed).normal(size=(num, 2)), points(10 * seed)
    center, scale = y.mean(0), y.std(0)
    y, fresh = (y - center) / scale, (points(10 * seed + 5) - center) / scale
    for (family, components), size in ((f, s) for f in families.items() for s in sizes):
        target = omt.fit(jax.random.key(seed), y, components, size).mixture
        plan = omt.transport(normal, target, epsilon_components=0.1, epsilon_weights=0.1)
        draws = np.asarray(plan.sample(jax.random.key(seed), x))
        rows.append((shape, family, size, seed, 1e3 * float(omt.metrics.mmd(draws, fresh, bandwidth=0.25))))
        shown[shape, family, size] = draws
    shown[shape] = fresh

# %% The table: 1000 times the squared MMD, mean and standard deviation over seeds.
path = Path(sys.argv[1] if len(sys.argv) > 1 else "shapes_by_family.png")
table = {key: np.array([r[4] for r in rows if r[:3] == key]) for key in dict.fromkeys(r[:3] for r in rows)}
with path.with_suffix(".csv").open("w", newline="") as file:
    csv.writer(file).writerows([("shape", "family", "components", "mean", "deviation")])
    csv.writer(file).writerows((*key, f"{v.mean():.3f}", f"{v.std():.3f}") for key, v in table.items())
print(path.with_suffix(".csv").read_text())

# %%
size = sizes[1]
names = (None, "Gaussian", "exponential")
figure, panels = plt.subplots(3, len(shapes), figsize=(13, 6.8), sharex=True, sharey=True, layout="constrained")
for shape, column in zip(shapes, panels.T, strict=True):
    for ax, family in zip(column, names, strict=True):
        color = omt.plot.TARGET_COLOR if family is None else omt.plot.SOURCE_COLOR
        ax.scatter(*(shown[shape, family, size] if family else shown[shape]).T, s=3, color=color, alpha=0.4, lw=0)
        ax.set_title(f"MMD² × 1000: {table[shape, family, size].mean():.1f}" if family else shape, fontsize=10)
        ax.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal", xticks=[], yticks=[])
for ax, family in zip(panels[:, 0], names, strict=True):
    ax.set_ylabel("target" if family is None else f"{size} {family} components")

# %% More components bring the points nearer to every shape, in each family, up to the noise of the measurement.
first, last = ([np.mean([v.mean() for k, v in table.items() if k[1:] == (f, s)]) for f in families] for s in sizes[::3])
assert smoke or (np.array(last) < np.array(first)).all()
assert np.isfinite([r[4] for r in rows]).all()
figure.savefig(path, dpi=75)
print(f"picture written to {path}")
