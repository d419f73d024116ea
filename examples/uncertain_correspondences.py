# %% [markdown]
# # Which subpopulations correspond, and how certain that is
#
# Blood cells before and after interferon beta (Kang et al., 2018): Bayesian mixtures of both conditions, all draws
# carried through the transport, and cell types, which no fit has seen, as the truth. Run it as
# `python examples/uncertain_correspondences.py [DATA [PICTURE]]`, where `DATA` (or the environment variable `OMT_DATA`)
# is the directory that holds `kang_ifnb/kang_ifnb.npz`; `OMT_SMOKE=1` makes it small.

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
from omt_expfam.families import DiagonalGaussian

smoke = bool(os.environ.get("OMT_SMOKE"))
path = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OMT_DATA", ".")) / "kang_ifnb" / "kang_ifnb.npz"
if not path.exists():
    sys.exit(f"There is no {path}. Name the directory of the data sets, or set OMT_DATA to it.")

# %% Sixteen principal components of the two sources that have cell types, control and stimulated.
archive = np.load(path)
used = [np.isin(archive["source"], ["scgen", "muscat"]) & (archive["stim"] == stimulated) for stimulated in (0, 1)]
cells, types = ([archive[name][side] for side in used] for name in ("pca", "cell_type"))
cells = [np.asarray(x[:, :16], np.float64) for x in cells]
epsilon = 0.02 * float(cells[0].var(axis=0).sum())
num_plans, warmup = (20, 20) if smoke else (200, 500)
rng = np.random.default_rng(0)


def fit(seed, x, num_components):
    """The posterior of a mixture; chains that do not mix are reported below."""
    method, key = omt.Gibbs(num_warmup=warmup, num_samples=warmup), jax.random.key(seed)
    return omt.fit_posterior(key, x, DiagonalGaussian, num_components, method=method, progress=False, throw=False)


def couple(source, target):
    """The plans of pairs of draws."""
    return omt.transport_posterior(
        source, target, epsilon_components=epsilon, epsilon_weights=epsilon, num_draws=num_plans, progress=False
    )


def main_types(posterior, x, names):
    """The most frequent cell type among the cells of each component."""
    mass = np.mean([posterior.mixture(s).responsibilities(x) for s in range(0, posterior.num_draws, 20)], axis=0)
    kinds = np.unique(names)
    return kinds[np.argmax([mass[names == kind].sum(axis=0) for kind in kinds], axis=0)]


# %% Random subsets and all cells, each with the number of components that the BIC asks for.
runs = [(300, 5)] * 2 if smoke else [(300, 6)] * 5 + [(1000, 10)] * 3 + [(2000, 12)]
rows = []
print("cells used   K  r-hat  certain: right  uncertain: right  cost, 90 % interval")
for seed, (size, num_components) in enumerate(runs):
    chosen = [rng.permutation(len(x))[:size] for x in cells]
    x, names = ([values[i] for values, i in zip(both, chosen, strict=True)] for both in (cells, types))
    posteriors = [fit(2 * seed + side, x[side], num_components) for side in (0, 1)]
    plan = couple(*posteriors)
    before, after = map(main_types, posteriors, x, names)
    goal = np.asarray(plan.row_shares).mean(axis=0).argmax(axis=1)
    probability = np.asarray(plan.probability_of_sending())[np.arange(num_components), goal]
    right, certain = before == after[goal], probability >= 0.95
    rows += zip([size] * num_components, probability, right, strict=True)
    r_hat, cost = max(side.label_free.worst_r_hat for side in posteriors), plan.cost_interval()
    scores = [f"{right[which].sum():>2} of {which.sum():>2}" for which in (certain, ~certain)]
    print(
        f"{len(x[0]):>4}, {len(x[1]):>4}  {num_components:>2}  {r_hat:>5.2f}  {scores[0]:>14}  {scores[1]:>16}"
        f"  {cost.lower:.0f} .. {cost.upper:.0f}"
    )
print(f"\n{plan.correspondences(min_share=0.2)}")

# %% Are certain correspondences right more often?
rows = np.array(rows, float)
bins = [(0, 0.5), (0.5, 0.95), (0.95, 1.01)]
inside = [rows[(low <= rows[:, 1]) & (rows[:, 1] < high)] for low, high in bins]
print("\nP(sends)       components  join equal types")
for (low, high), part in zip(bins, inside, strict=True):
    print(f"{low:.2f} to {min(high, 1):.2f}   {len(part):>10}  {part[:, 2].mean():>16.0%}")

# %% Did the stimulation move the cells? The cost between halves of the control is what no change looks like.
half = 300 if smoke else len(cells[0]) // 2
order = rng.permutation(len(cells[0]))
parts = cells[0][order[:half]], cells[0][order[half : 2 * half]], cells[1][rng.permutation(len(cells[1]))[:half]]
first, second, stimulated = (fit(100 + seed, x, runs[0][1]) for seed, x in enumerate(parts))
null, moved = (np.asarray(couple(first, other).cost) for other in (second, stimulated))
exceeds = float(np.mean(moved[:, None] > null[None]))
print(f"\ncost to the other half {null.mean():.0f}, to stimulated cells {moved.mean():.0f}; P(larger) = {exceeds:.3f}")

# %% The last run, of all cells: its components' means under the map, and who goes where, sorted by cell type.
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained", width_ratios=(6, 5))
for points, color in zip(x, (omt.plot.SOURCE_COLOR, omt.plot.TARGET_COLOR), strict=True):
    left.plot(points[:, 0], points[:, 1], ".", color=color, markersize=2, alpha=0.3, zorder=0)
means = np.asarray(posteriors[0].interval("mean").mean)
omt.plot.uncertain_map(plan, means, ax=left, alpha=1.0, width=0.003, color="black")
for place, name in zip(means, before, strict=True):
    left.annotate(name, place[:2], xytext=(0, -3), textcoords="offset points", fontsize=8, ha="center", va="top")
left.set(xlabel="principal component 1", ylabel="principal component 2")
orders = [np.argsort(names, kind="stable") for names in (before, after)]
omt.plot.weights_posterior(plan, ax=right_panel, source_order=orders[0], target_order=orders[1])
right_panel.set_xticks(range(num_components), after[orders[1]], rotation=60, ha="right")
right_panel.set_yticks(range(num_components), before[orders[0]])
right_panel.set(xlabel="stimulated", ylabel="control")
picture = sys.argv[2] if len(sys.argv) > 2 else "uncertain_correspondences.png"
figure.savefig(picture, dpi=70)
print(f"picture written to {picture}")

# %%
assert exceeds > 0.99
assert smoke or inside[2][:, 2].mean() > inside[0][:, 2].mean() + 0.1
