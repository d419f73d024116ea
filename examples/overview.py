# %% [markdown]
# # Two data sets, the plan between them, and the map
#
# Draws two point clouds, fits a mixture to each, transports one to the other and writes the picture of the README.
# Run it as `python examples/overview.py [PICTURE]`; `OMT_SMOKE=1` makes it small.

# %%
import os
import sys

import jax
import matplotlib as mpl

mpl.use("Agg")

import numpy as np

import omt_expfam as omt
from omt_expfam.families import Gaussian

omt.use_compilation_cache()
num = 200 if os.environ.get("OMT_SMOKE") else 1500
rng = np.random.default_rng(0)

# %% A ring of five clouds goes to two crescents.
angle = 2 * np.pi * rng.integers(0, 5, num) / 5
x = 2.5 * np.c_[np.cos(angle), np.sin(angle)] + 0.45 * rng.standard_normal((num, 2))
turn = np.pi * rng.random(num)
side = np.where(rng.random(num) < 0.6, 1.0, -1.0)
y = np.c_[8 + 3.5 * side * np.cos(turn) + 0.6 * side, 3.5 * side * np.sin(turn) - 1.2 * side]
y += 0.3 * rng.standard_normal((num, 2))

# %%
source = omt.fit(jax.random.key(0), x, Gaussian, 5).mixture.sort()
target = omt.fit(jax.random.key(1), y, Gaussian, 6).mixture.sort()
plan = omt.transport(source, target, epsilon_components=0.05, epsilon_weights=0.2)
print(plan)
print(plan.correspondences())

# %% A plan carries the source to the target: draws of it have the target's mean.
draws = np.asarray(plan.sample(jax.random.key(2), x))
assert np.abs(draws.mean(0) - y.mean(0)).max() < 5 * y.std() / np.sqrt(num)

# %%
figure = omt.plot.overview(plan, x, y)
path = sys.argv[1] if len(sys.argv) > 1 else "overview.png"
figure.savefig(path, dpi=75)
print(f"picture written to {path}")
