# %% [markdown]
# # The plan's density for three shapes of components
#
# Couples mixtures on the line whose components have the same places and scales but different shapes, and draws the
# joint density of each plan between its marginal densities: Figure 1 (left) of Marghi, Jin and Sümbül (2026).
# Run it as `python examples/couplings_by_family.py [PICTURE]`; `OMT_SMOKE=1` makes it small.

# %%
import os
import sys

import jax
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import omt_expfam as omt
from omt_expfam.families import ExponentialPower

omt.use_compilation_cache()
jax.config.update("jax_enable_x64", True)
size = 301 if os.environ.get("OMT_SMOKE") else 801

# %% The same places for all: two components on the source's side, three on the target's.
source_loc, source_scale, source_weights = [[-2.0], [2.0]], [[1.0], [0.8]], [0.5, 0.5]
target_loc, target_scale, target_weights = [[-3.0], [0.5], [3.0]], [[0.7], [0.6], [0.9]], [0.3, 0.4, 0.3]


def mixture(weights, loc, scale, skew, power_left, power_right):
    """Components with scales `scale / skew` below and `scale * skew` above their locations."""
    left, right = np.asarray(scale) / skew, np.asarray(scale) * skew
    return omt.Mixture(weights, ExponentialPower(loc, left, right, power_left, power_right))


def pair(source_shape, target_shape):
    """Source and target, each with its shape."""
    source = mixture(source_weights, source_loc, source_scale, *source_shape)
    return source, mixture(target_weights, target_loc, target_scale, *target_shape)


# %% A shape is the skew of the scales, then the powers below and above.
configurations = {
    "(a) symmetric, powers 2": pair((1.0, 2.0, 2.0), (1.0, 2.0, 2.0)),
    "(b) symmetric, powers 1": pair((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "(c) asymmetric": pair(
        ([[0.6], [1.6]], [[1.0], [3.0]], [[2.0], [1.0]]),
        ([[1.8], [0.6], [0.7]], [[4.0], [1.0], [1.5]], [[1.0], [1.5], [4.0]]),
    ),
}

# %% The joint density on a grid, and its marginals by summing over rows and columns.
grid = np.linspace(-14.0, 14.0, size)
step = grid[1] - grid[0]
x, y = (side.reshape(-1, 1) for side in np.meshgrid(grid, grid, indexing="ij"))
figure, panels = plt.subplots(1, 3, figsize=(13, 4.9), layout="constrained")
errors = []
for ax, (title, (source, target)) in zip(panels, configurations.items(), strict=True):
    plan = omt.transport(source, target, epsilon_components=0.5, epsilon_weights=0.5)
    joint = np.exp(np.asarray(plan.log_prob(x, y))).reshape(size, size)
    marginals = [np.exp(np.asarray(side.log_prob(grid[:, None]))) for side in (source, target)]
    errors += [step * np.abs(step * joint.sum(1 - side) - marginals[side]).sum() for side in (0, 1)]
    kl = step**2 * np.sum(joint * np.log(np.maximum(joint, 1e-300) / np.outer(*marginals)))
    print(f"{title}: cost {float(plan.cost):.3f}, KL {kl:.3f} nats, errors {errors[-2]:.1e}, {errors[-1]:.1e}")

    ax.imshow(joint.T, origin="lower", extent=(-14, 14, -14, 14), cmap="Greys", norm=mpl.colors.PowerNorm(0.5))
    ax.set(xlabel="source x", ylabel="target y", xlim=(-6, 6), ylim=(-6, 6))
    above, beside = ax.inset_axes((0, 1.02, 1, 0.2), sharex=ax), ax.inset_axes((1.02, 0, 0.2, 1), sharey=ax)
    above.fill_between(grid, marginals[0], color=omt.plot.SOURCE_COLOR, alpha=0.6)
    beside.fill_betweenx(grid, marginals[1], color=omt.plot.TARGET_COLOR, alpha=0.6)
    for margin in (above, beside):
        margin.axis("off")
    above.set_title(f"{title}\ncost {float(plan.cost):.2f}, KL {kl:.2f} nats", fontsize=11)

# %% What is drawn has the marginals that it should have: L1 errors of the densities, next to a mass of one.
assert max(errors) < 0.005
path = sys.argv[1] if len(sys.argv) > 1 else "couplings_by_family.png"
figure.savefig(path, dpi=75)
print(f"picture written to {path}")
