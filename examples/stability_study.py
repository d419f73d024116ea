# %% [markdown]
# # How stable is the map, and what does it hang on?
#
# Source points are disturbed, both mixtures are fitted and coupled again, and the map is compared with the undisturbed
# one on clean points: noise, dropout, outliers, other starts. Then numbers of components and regularizations vary on
# the same data. Data are drawn, and their true optimal map is known: the gradient of a convex function. Run it as
# `python examples/stability_study.py [PICTURE]`; a second picture, `..._sweep.png`, lies beside it, and
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
from omt_expfam.diagnostics import (
    Dropout,
    fit_envelope,
    GaussianNoise,
    MixtureTransport,
    Outliers,
    Reseeding,
    stability,
    sweep,
)
from omt_expfam.families import Gaussian

omt.use_compilation_cache()
smoke = bool(os.environ.get("OMT_SMOKE"))
num, dim, size, repeats = (200, 2, 2, 2) if smoke else (2000, 4, 12, 10)
rng = np.random.default_rng(0)

# %% A mixture of three normal laws, and the gradient of |x|^2 / 2 + 2 sum_k log cosh(a_k x), which is an optimal map.
centers, directions = 2.5 * rng.standard_normal((3, dim)), rng.standard_normal((dim, dim)) / np.sqrt(dim)


def draw():
    """Source points."""
    return (centers[rng.integers(0, 3, num)] + rng.standard_normal((num, dim))).astype(np.float32)


def true_map(x):
    """Their true images."""
    x = np.asarray(x)
    return x + 2 * np.tanh(x @ directions.T) @ directions


x, y, clean = draw(), true_map(draw()), draw()
epsilon = 0.02 * float(x.var(axis=0).sum())
method = MixtureTransport(Gaussian, size, epsilon_components=epsilon, epsilon_weights=epsilon)

# %% Ten refits for each disturbance, once from scratch and once starting at the undisturbed mixture. A checkpoint file
# would let an interrupted study go on where it stopped.
disturbances = [
    *(GaussianNoise(sigma) for sigma in ((0.0, 0.5) if smoke else (0.0, 0.1, 0.25, 0.5, 0.75, 1.0))),
    *(Dropout(p) for p in ((0.0, 0.1) if smoke else (0.0, 0.02, 0.05, 0.1, 0.2))),
    *(Outliers(share) for share in ((0.02,) if smoke else (0.01, 0.03))),
    Reseeding(),
]
options = {"num_repeats": repeats, "points": clean, "true_map": true_map, "throw": not smoke}
scratch, warm = (
    stability(jax.random.key(0), x, y, method, disturbances, warm_start=start, **options) for start in (False, True)
)
for study in (scratch, warm):
    print(study, study.summary(), sep="\n")
    print(f"{np.nansum(study.seconds):.0f} seconds in fits and transports, {np.nanmedian(study.seconds):.2f} each\n")

# %% The constants of the bound, over lower bounds of W2 and over its estimate.
envelopes = {}
for name, study in (("from scratch", scratch), ("warm", warm)):
    for column in ("w2_lower", "w2"):
        envelope = envelopes[name, column] = fit_envelope(study.select("GaussianNoise", "Dropout"), column=column)
        print(f"{name}: {envelope}, mean slack {envelope.mean_slack:.2g}")

# %%
path = Path(sys.argv[1] if len(sys.argv) > 1 else "stability_study.png")
figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
for ax, kind in zip(axes[0], ("GaussianNoise", "Dropout"), strict=True):
    omt.plot.stability_curves(scratch.select("Reseeding"), ax=ax, color="0.5", label="another start, no disturbance")
    for study, color, label in ((scratch, "#D55E00", "fitted from scratch"), (warm, "#0072B2", "warm start")):
        omt.plot.stability_curves(study.select(kind), ax=ax, color=color, label=label)
    ax.set_title(f"How far the map moves: {kind}")
omt.plot.stability_curves(
    warm.select("GaussianNoise", "Dropout", "Outliers"), "mse_change", ax=axes[1, 0], against="w2"
)
axes[1, 0].set_title("What that does to its error (warm start)")
omt.plot.modulus(warm.select("GaussianNoise", "Dropout"), envelopes["warm", "w2"], ax=axes[1, 1])
axes[1, 1].set_title("The bound (warm start)")
figure.savefig(path, dpi=75)

# %% One choice at a time. Regularizations share the fits of the base.
choices = {
    "num_components": [(k, size) for k in ((1, 3) if smoke else (1, 3, 6, 24))],
    "epsilon_components": [0.0, 5 * epsilon],
    "epsilon_weights": [0.0, epsilon / 5, 5 * epsilon, 25 * epsilon],
    "seed": [1] if smoke else [1, 2, 3],
}
result = sweep(jax.random.key(1), x, y, method, choices, points=clean, true_map=true_map, throw=not smoke)
print(result.summary())
figure, ax = plt.subplots(figsize=(9, 5.5), layout="constrained")
omt.plot.sweep_chart(result, ax=ax)
figure.savefig(path.with_name(f"{path.stem.removesuffix('_study')}_sweep.png"), dpi=75)
print(f"pictures written to {path} and beside it")

# %% Without disturbance nothing moves, and no run lies above the envelope.
assert (scratch.displacement[0] == 0).all()
assert not any(envelope.violations() for envelope in envelopes.values())
assert (warm.displacement[0] == 0).all()
assert smoke or warm.displacement[1].mean() < 0.8 * scratch.displacement[1].mean()
