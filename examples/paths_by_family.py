# %% [markdown]
# # The paths of points between shapes, by component family
#
# Fits a mixture to either shape and joins source points to draws of their images by straight lines: Figure 7 of Marghi,
# Jin and Sümbül (2026). Panels (a) and (b), and (e) and (f), differ in the family only:
# full Gaussians, or products of asymmetric Laplace coordinates.
# Run it as `python examples/paths_by_family.py [PICTURE]`; `OMT_SMOKE=1` makes it small.

# %%
import os
import sys

import jax
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection

import omt_expfam as omt
from omt_expfam.families import AsymmetricLaplace, Gaussian

omt.use_compilation_cache()
num, most = (150, 3) if os.environ.get("OMT_SMOKE") else (2000, 16)
rng = np.random.default_rng(0)

# %% Shapes a few units across: uniform points on segments and arcs, with a little noise.
bars = rng.uniform(-1, 1, (2 * num, 2)) * [1.6, 0.15]
cross = np.where(rng.random((2 * num, 1)) < 0.5, bars, bars[:, ::-1])
line = rng.uniform(-2.5, 2.5, (2 * num, 1)) * [1.0, 0.6] + 0.08 * rng.normal(size=(2 * num, 2))
blobs = 2 * rng.choice([-1.0, 1.0], (2 * num, 2)) + 0.3 * rng.normal(size=(2 * num, 2))


def arc(angle, radius, center=(0.0, 0.0)):
    """Points at angles and radii, with noise."""
    return np.c_[radius * np.cos(angle), radius * np.sin(angle)] + center + 0.08 * rng.normal(size=(len(angle), 2))


turn, half = rng.uniform(0, 2 * np.pi, 2 * num), rng.uniform(0, np.pi, num)
circle, circles = arc(turn[:num], 2.5), arc(turn, rng.choice([1.1, 2.5], 2 * num, p=[0.3, 0.7]))
side, wound = rng.choice([-1.0, 1.0], num), 3 * np.pi * np.sqrt(rng.uniform(0.03, 1, num))
moons = arc(half * side, 1.6, np.c_[-0.8 * side, -0.4 * side])
spiral, normal = arc(wound, 0.27 * wound), 0.7 * rng.normal(size=(num, 2))
panels = {
    "(a) circle to cross": (circle, cross, Gaussian, 6),
    "(b) circle to cross": (circle, cross, AsymmetricLaplace, 6),
    "(c) blob to four blobs": (normal, blobs, Gaussian, 12),
    "(d) moons to circles": (moons, circles, Gaussian, 16),
    "(e) spiral to line": (spiral, line, Gaussian, 8),
    "(f) spiral to line": (spiral, line, AsymmetricLaplace, 8),
}

# %% One half of the target's points is for fitting; the images are compared with the other.
figure, axes = plt.subplots(2, 3, figsize=(12, 9.4), sharex=True, sharey=True, layout="constrained")
for ax, (name, (x, y, family, size)) in zip(axes.flat, panels.items(), strict=True):
    y, fresh = y[:num], y[num:]
    source, target = (omt.fit(jax.random.key(0), points, family, min(size, most)).mixture for points in (x, y))
    plan = omt.transport(source, target, epsilon_components=0.05, epsilon_weights=0.05)
    draws, means = np.asarray(plan.sample(jax.random.key(1), x)), np.asarray(plan.push_forward(x))
    drawn, mean = (1e3 * float(omt.metrics.mmd(images, fresh, bandwidth=0.25)) for images in (draws, means))
    print(f"{name}, {family.__name__}: 1000 MMD² {drawn:.2f} of draws, {mean:.2f} of means, {plan}")
    # Draws have the law of the target's mixture; means shrink toward the middle of their destinations.
    assert np.linalg.norm(draws.mean(0) - fresh.mean(0)) < 0.3
    assert draws.var(0).sum() > means.var(0).sum()

    ax.scatter(*fresh[:800].T, s=7, color="#9ecae1", lw=0, label="target samples")
    ax.add_collection(LineCollection(np.stack([x, draws], 1)[:150], colors="0.7", linewidths=0.6))
    ax.scatter(*x[:150].T, s=10, color="#d7301f", lw=0, zorder=3, label="source samples")
    ax.scatter(*draws[:150].T, s=13, color="#fec44f", lw=0.4, ec="0.3", zorder=3, label="transported samples")
    ax.set(aspect="equal", xticks=[], yticks=[], xlim=(-3.2, 3.2), ylim=(-3.2, 3.2))
    kind = "Gaussian" if family is Gaussian else "exponential"
    ax.set_title(f"{name}\n{size} {kind} components, MMD² × 1000: {drawn:.1f}", fontsize=11)
figure.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, markerscale=2
)

path = sys.argv[1] if len(sys.argv) > 1 else "paths_by_family.png"
figure.savefig(path, dpi=75)
print(f"picture written to {path}")
