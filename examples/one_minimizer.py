# %% [markdown]
# # One minimizer, and what it hangs on
#
# Two components of the source lie between two of the target so that nearly all pairs cost the same. Without
# regularization of the weights, the best coupling then jumps from one pairing to the other under the least disturbance;
# with it, there is one minimizer that moves smoothly. Run it as `python examples/one_minimizer.py [PICTURE]`;
# `OMT_SMOKE=1` makes it small.

# %%
import os
import sys
from pathlib import Path

import jax
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import omt_expfam as omt
from omt_expfam import diagnostics
from omt_expfam.families import Gaussian

omt.use_compilation_cache()
smoke = bool(os.environ.get("OMT_SMOKE"))
picture = Path(sys.argv[1] if len(sys.argv) > 1 else "one_minimizer.png")

# %% Source components on one axis, target components across, turned by a thousandth.
tilt = 1e-3
narrow = np.tile(0.1 * np.eye(2), (2, 1, 1))
across = np.array([[np.sin(tilt), np.cos(tilt)], [-np.sin(tilt), -np.cos(tilt)]])
source = omt.Mixture([0.5, 0.5], Gaussian(np.array([[1.0, 0.0], [-1.0, 0.0]]), narrow))
target = omt.Mixture([0.5, 0.5], Gaussian(across, narrow))

# %% One minimizer, from a hundred starts and by other algorithms.
found = diagnostics.uniqueness(
    jax.random.key(0),
    source,
    target,
    epsilon_components=0.1,
    epsilon_weights=0.1,
    num_starts=5 if smoke else 100,
    num_descents=1 if smoke else 3,
)
print(found.summary())

# %% The map's worst case, with and without regularization of the weights.
radii = [1e-4, 1e-2] if smoke else [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1]
worst = {
    epsilon: diagnostics.worst_case(
        jax.random.key(1),
        source,
        target,
        epsilon_components=0.1,
        epsilon_weights=epsilon,
        radii=radii,
        num_points=50 if smoke else 200,
        num_starts=1 if smoke else 3,
        num_steps=3 if smoke else 60,
        num_random=3 if smoke else 30,
    )
    for epsilon in ([0.1] if smoke else [0.0, 0.01, 0.1, 1.0])
}
for epsilon, search in worst.items():
    print(f"epsilon_weights = {epsilon:g}", search.summary(), sep="\n")

# %% What a plan between fitted mixtures hangs on.
wide = omt.Mixture([0.5, 0.3, 0.2], Gaussian([[0.0, 0], [3, 1], [1, 3]], np.tile(np.diag([1.0, 0.3]), (3, 1, 1))))
other = omt.Mixture([0.6, 0.4], Gaussian([[4.0, 4], [6, 1]], np.tile(np.diag([0.4, 0.8]), (2, 1, 1))))
rates = diagnostics.sensitivity(
    wide, other, epsilon_components=0.1, epsilon_weights=0.5, num_points=20 if smoke else 200
)
print(rates.summary())

# %%
figure, panels = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
omt.plot.uniqueness_histogram(found, ax=panels[0])
panels[0].set_title("one update of each block")
colors = ["#D55E00", "#E69F00", "#56B4E9", "#0072B2"]
for (epsilon, search), color in zip(worst.items(), colors, strict=False):
    panels[1].plot(search.radii, search.displacements, "o-", color=color, markersize=4, label=f"{epsilon:g}")
panels[1].set(xscale="log", yscale="log", xlabel="size of the disturbance", ylabel="mean displacement of the map")
panels[1].legend(title=r"$\varepsilon_2$", frameon=False, fontsize="small")
panels[1].set_title("worst case found")
panels[1].spines[["top", "right"]].set_visible(False)
omt.plot.sensitivity_map(rates, ax=panels[2])
figure.savefig(picture, dpi=130)
print(f"saved {picture}")
