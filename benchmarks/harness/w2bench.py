"""The Wasserstein-2 benchmark of Korotin et al. (2021): pairs of laws whose optimal map is known."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.data import read_arrays


class W2Problem:
    """One pair "Mix3toMix10": a mixture of three Gaussians and its image under a known gradient of a convex function.

    Attributes:
        dim: Dimension d.
    """

    dim: int

    def __init__(self, directory: Path, dim: int) -> None:
        arrays = read_arrays(directory, f"w2bench/mix3tomix10_{dim}.npz")
        self._arrays = {name: values.astype(np.float64) for name, values in arrays.items()}
        self.dim = dim

    @staticmethod
    def path(directory: Path, dim: int) -> Path:
        """Where the file of this dimension belongs."""
        return Path(directory) / "w2bench" / f"mix3tomix10_{dim}.npz"

    def source(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Points of the source law, shape ``[num, d]``."""
        which = rng.integers(0, len(self._arrays["centers"]), num)
        noise = rng.standard_normal((num, self.dim))
        shape = self._arrays["maps"][which]
        return self._arrays["centers"][which] + self._arrays["std"] * np.einsum("nij,nj->ni", shape, noise)

    def target(self, rng: np.random.Generator, num: int) -> np.ndarray:
        """Points of the target law, independent of those of the source, shape ``[num, d]``."""
        return self.transport(self.source(rng, num))

    def transport(self, x: np.ndarray) -> np.ndarray:
        """The optimal map, shape ``[n, d]``."""
        x = np.asarray(x, np.float64)
        gradients = self._gradient("v1", x) + self._gradient("v2", x)
        return (gradients - self._arrays["shift"]) / self._arrays["scale"]

    def _gradient(self, version: str, x: np.ndarray) -> np.ndarray:
        """The gradient of one of the two input-convex networks whose sum is the potential."""

        def part(name: str) -> np.ndarray:
            return self._arrays[f"{version}_{name}"]

        projected = [x @ part(f"A{layer}") for layer in range(3)]
        inputs = [s**2 + x @ part(f"W{layer}").T + part(f"b{layer}") for layer, s in enumerate(projected)]
        first = inputs[0] @ part("C0").T + inputs[1]
        second = _celu(first) @ part("C1").T + inputs[2]
        back_second = part("w") * _celu_slope(second)
        back_first = (back_second @ part("C1")) * _celu_slope(first)
        backs: list[Any] = [back_first @ part("C0"), back_first, back_second]
        total = self._arrays["strong_convexity"] * x
        for layer, (back, s) in enumerate(zip(backs, projected, strict=True)):
            total = total + 2 * (back * s) @ part(f"A{layer}").T + back @ part(f"W{layer}")
        return total


def _celu(t: np.ndarray) -> np.ndarray:
    return np.where(t > 0, t, np.expm1(np.minimum(t, 0)))


def _celu_slope(t: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(t, 0))
