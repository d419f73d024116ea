# %% [markdown]
# # How certain is the image of an image?
#
# Handwritten digits (scikit-learn) are transported to other digits written with a curl, and every draw of the
# posterior gives an image of its own: their mean shows what the map does, their spread where it is not known. Run it
# as `python examples/uncertain_digits.py [PICTURE]`; `OMT_SMOKE=1` makes it small.

# %%
import os
import sys

import jax
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import omt_expfam as omt
from omt_expfam.families import DiagonalGaussian

omt.use_compilation_cache()
smoke = bool(os.environ.get("OMT_SMOKE"))
num_components, num_draws = (6, 20) if smoke else (12, 500)
rng = np.random.default_rng(0)

# %% Half of the images are the source; the others, with their rows moved sideways to make an S, are the target.
images, digits = load_digits(return_X_y=True)
order = rng.permutation(len(images))[: 600 if smoke else None]
halves = np.array_split(order, 2)
upright, others = (images[half].reshape(-1, 8, 8) for half in halves)
curled = np.stack([np.roll(others[:, i], move, axis=1) for i, move in enumerate((1, 1, 1, 0, 0, -1, -1, -1))], axis=1)
flat = np.concatenate([upright, curled]).reshape(-1, 64)
center, basis = flat.mean(axis=0), np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)[2][:12].T
x, y = np.split((flat - center) @ basis, [len(upright)])


# %% Both posteriors by Gibbs sampling. Chains that start at the best of several optima stay there and mix.
def posterior(seed, points):
    """Draws from the posterior of a mixture."""
    start_key, key = jax.random.split(jax.random.key(seed))
    start = omt.fit(start_key, points, DiagonalGaussian, num_components, num_starts=5)
    method = omt.Gibbs(num_warmup=num_draws, num_samples=num_draws)
    return omt.fit_posterior(key, points, DiagonalGaussian, num_components, start=start, method=method, throw=not smoke)


source, target = (posterior(seed, points) for seed, points in enumerate((x, y)))
print(source, target, sep="\n")
epsilon = 0.05 * float(x.var(axis=0).sum())
plan = omt.transport_posterior(
    source, target, epsilon_components=epsilon, epsilon_weights=epsilon, num_draws=20 if smoke else 200
)
print(plan)

# %% How the map spreads: the standard deviation of T(x) over draws, against that of y given x, which no data remove.
draws = np.asarray(plan.push_forward(x))
unsure = np.sqrt(draws.var(axis=0).sum(axis=1))
blur = np.sqrt(np.trace(np.asarray(plan.predictive_covariance(x)), axis1=1, axis2=2) - unsure**2)
# A map that keeps the digit brings x next to curled images of it: the nearest ten to its mean image vote.
nearest = np.argsort(((draws.mean(axis=0)[:, None] - y[None]) ** 2).sum(axis=2), axis=1)[:, :10]
kept = (digits[halves[1]][nearest] == digits[halves[0]][:, None]).mean(axis=1) > 0.5
quarters = np.array_split(np.argsort(unsure), 4)
print("\nimages, by the spread of T(x)  spread, gray levels  of y given x  digit kept")
for name, part in zip(("surest quarter", "second", "third", "least sure quarter"), quarters, strict=True):
    print(f"{name:>29}  {unsure[part].mean():>19.1f}  {blur[part].mean():>12.1f}  {kept[part].mean():>10.0%}")

# %% Images, their mean images, the spread of these, and two draws; surest on the left.
columns = np.argsort(unsure)[np.linspace(0, len(x) - 1, 14).astype(int)]
decoded = center + draws[:, columns] @ basis.T
strips = {
    "x": upright[columns].reshape(-1, 64),
    "mean of T(x)": decoded.mean(axis=0),
    "its spread": 4 * decoded.std(axis=0),
    "T(x), a draw": decoded[0],
    "T(x), another": decoded[len(decoded) // 2],
}
figure, axes = plt.subplots(len(strips), len(columns), figsize=(12, 4.3), layout="constrained")
for (name, strip), row in zip(strips.items(), axes, strict=True):
    row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, image in zip(row, strip, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="Reds" if name == "its spread" else "gray_r", vmin=0, vmax=16)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
picture = sys.argv[1] if len(sys.argv) > 1 else "uncertain_digits.png"
figure.savefig(picture, dpi=70)
print(f"picture written to {picture}")

# %%
assert np.asarray(plan.converged).all()
assert smoke or kept[quarters[0]].mean() > kept[quarters[3]].mean() + 0.1
