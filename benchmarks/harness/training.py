"""What training networks of images takes, whatever they are written in; and what a trained network is to others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm


def train(
    loss: Callable[..., Any],
    parameters: Any,
    key: Any,
    data: tuple[Any, ...],
    num_epochs: int,
    batch_size: int = 128,
    rate: float = 2e-3,
) -> Any:
    """Parameters after some epochs of Adam, whose rate falls as a cosine.

    Args:
        loss: Function of the parameters, a key and a batch of each array of the data.
        parameters: Where to start.
        key: Random key of batches and losses.
        data: Arrays of equal length.
        num_epochs: Passes over the data; a remainder below the batch size is left out of each.
        batch_size: Points of one step.
        rate: First rate.
    """
    per_epoch = len(data[0]) // batch_size
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, num_epochs * per_epoch))

    # No loop inside: XLA runs convolutions on one core there.
    @jax.jit
    def step(parameters: Any, state: Any, key: Any, batch: tuple[Any, ...]) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(parameters, key, *batch), state)
        return optax.apply_updates(parameters, updates), state

    state, rng = optimizer.init(parameters), np.random.default_rng(np.asarray(jax.random.key_data(key)))
    keys = jax.random.split(key, num_epochs * per_epoch)
    for epoch in tqdm(range(num_epochs), desc="epochs", disable=None, leave=False):
        order = rng.permutation(len(data[0]))
        for i in range(per_epoch):
            rows = order[i * batch_size : (i + 1) * batch_size]
            parameters, state = step(parameters, state, keys[epoch * per_epoch + i], tuple(x[rows] for x in data))
    return jax.block_until_ready(parameters)


def in_batches(function: Callable[[Any], Any], points: Any, size: int = 500) -> np.ndarray:
    """A function of points, applied to some at a time: one shape to compile, and bounded memory."""
    points = np.asarray(points, np.float32)
    padded = np.concatenate([points, np.zeros((-len(points) % size, *points.shape[1:]), np.float32)])
    parts = [np.asarray(function(padded[i : i + size])) for i in range(0, len(padded), size)]
    return np.concatenate(parts)[: len(points)]


@dataclasses.dataclass(frozen=True)
class Latents:
    """A trained autoencoder: latent means of images, and images of latent points."""

    encode: Callable[[Any], np.ndarray]
    decode: Callable[[Any], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier: features and classes of images."""

    features: Callable[[Any], np.ndarray]
    logits: Callable[[Any], np.ndarray]

    def share(self, images: np.ndarray, label: int) -> float:
        """Share of the images that are read as this class."""
        return float(np.mean(self.logits(images).argmax(axis=1) == label))
