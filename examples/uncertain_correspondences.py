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

omt.use_compilation_cache()
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
    """The posterior of a mixture from the best of several optima; chains that do not mix are reported below."""
    start_key, key = jax.random.split(jax.random.key(seed))
    start = omt.fit(start_key, x, DiagonalGaussian, num_components, num_starts=5, progress=False)
    method = omt.Gibbs(num_warmup=warmup, num_samples=warmup)
    return omt.fit_posterior(
        key, x, DiagonalGaussian, num_components, start=start, method=method, progress=False, throw=False
    )


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
runs = [(300, 5)] * 2 if smoke else [(300, 6)] * 5 + [(1000, 12)] * 3 + [(2000, 12)]
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
    rows += zip(probability, before, after[goal], strict=True)
    r_hat, cost = max(side.label_free.worst_r_hat for side in posteriors), plan.cost_interval()
    scores = [f"{right[which].sum():>2} of {which.sum():>2}" for which in (certain, ~certain)]
    print(
        f"{len(x[0]):>4}, {len(x[1]):>4}  {num_components:>2}  {r_hat:>5.2f}  {scores[0]:>14}  {scores[1]:>16}"
        f"  {cost.lower:.0f} .. {cost.upper:.0f}"
    )
print(f"\n{plan.correspondences(min_share=0.2)}")

# %% Are certain correspondences right more often? And which of them are wrong?
probability, before_all, after_all = map(np.array, zip(*rows, strict=True))
right, bands = before_all == after_all, ("below 0.5", "0.5 to 0.95", "0.95 to 1")
band = np.digitize(probability, np.float32([0.5, 0.95]))
print("\nP(sends)     components  join equal types")
for i, name in enumerate(bands):
    print(f"{name:<11}  {(band == i).sum():>10}  {right[band == i].sum():>16}")
wrong = [f"{i} -> {j}" for i, j in zip(before_all[~right & (band == 2)], after_all[~right & (band == 2)], strict=True)]
print("certain and wrong:", ", ".join(f"{pair} ({wrong.count(pair)})" for pair in sorted(set(wrong))) or "none")

# %% Did the stimulation move the cells? The cost between halves of the control is what no change looks like.
order, treated = rng.permutation(len(cells[0])), cells[1][rng.permutation(len(cells[1]))]
half = 300 if smoke else len(order) // 2
first, second = cells[0][order[:half]], cells[0][order[half : 2 * half]]
start, costs = fit(100, first, num_components), {}
print(f"\nfirst half: r-hat {start.label_free.worst_r_hat:.2f}")
print("stimulated among the second half  r-hat  cost  P(larger than with none)")
for share in (0.0, 0.1, 1.0) if smoke else (0.0, 0.02, 0.05, 0.1, 0.2, 1.0):
    replaced = np.concatenate([treated[: round(share * half)], second[round(share * half) :]])
    other = fit(101, replaced, num_components)
    costs[share] = np.asarray(couple(start, other).cost)
    exceeds = float(np.mean(costs[share][:, None] > costs[0.0])) if share else np.nan
    r_hat = other.label_free.worst_r_hat
    print(f"{share:>32.0%}  {r_hat:>5.2f}  {costs[share].mean():>4.0f}  {exceeds:>24.3f}")

# %% The last run, of all cells: its components' means under the map, and who goes where, sorted by cell type.
figure, (left, right_panel) = plt.subplots(1, 2, figsize=(14, 6), layout="constrained", width_ratios=(6, 5))
for points, color in zip(x, (omt.plot.SOURCE_COLOR, omt.plot.TARGET_COLOR), strict=True):
    left.plot(points[:, 0], points[:, 1], ".", color=color, markersize=2, alpha=0.3, zorder=0)
means = np.asarray(posteriors[0].interval("loc").mean)
omt.plot.uncertain_map(plan, means, ax=left, dims=(0, 1), alpha=1.0, width=0.003)
for kind, color in zip(np.unique(before), mpl.color_sequences["Dark2"], strict=False):
    left.plot(*means[before == kind, :2].T, "o", color=color, label=kind, zorder=3)
left.legend(title="control component of", loc=(0.31, 0.02), fontsize=8, title_fontsize=8)
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
assert smoke or right[band == 2].mean() > right[band < 2].mean() + 0.1
