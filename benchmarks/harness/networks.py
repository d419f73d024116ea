"""Small networks for images of digits, trained on the spot: an autoencoder and a classifier. Needs flax."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness.training import in_batches, Judge, Latents, train

NUM_CLASSES = 10


def _layers(layers: Any, hidden: Any) -> Any:
    """Layers in turn, rectified but for the last."""
    for layer in layers[:-1]:
        hidden = nn.relu(layer(hidden))
    return layers[-1](hidden)


class Autoencoder(nn.Module):
    """A variational autoencoder with dense layers for images of 28 x 28 pixels.

    Attributes:
        dim: Dimension of the latent space.
        divergence_weight: Weight of the divergence from the latent prior; below 1, images are kept sharper.
    """

    dim: int = 10
    divergence_weight: float = 0.2

    def setup(self) -> None:
        self.down = [nn.Dense(width) for width in (512, 256, 2 * self.dim)]
        self.up = [nn.Dense(width) for width in (256, 512, 28 * 28)]

    def encode(self, images: Any) -> tuple[Any, Any]:
        """Mean and logarithm of the variance of the latent law of each image."""
        mean, log_variance = jnp.split(_layers(self.down, images.reshape(len(images), -1)), 2, axis=1)
        return mean, log_variance

    def decode(self, latents: Any) -> Any:
        """Log-odds of the pixels."""
        return _layers(self.up, latents).reshape(-1, 28, 28)

    def __call__(self, images: Any, key: Any) -> Any:
        """Negative evidence lower bound, its divergence weighted, averaged over the images."""
        mean, log_variance = self.encode(images)
        noise = jax.random.normal(key, mean.shape)
        logits = self.decode(mean + jnp.exp(0.5 * log_variance) * noise)
        misfit = optax.sigmoid_binary_cross_entropy(logits, images).sum(axis=(1, 2))
        divergence = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(axis=1)
        return jnp.mean(misfit + self.divergence_weight * divergence)


class Classifier(nn.Module):
    """A convolutional classifier whose last hidden layer gives the features.

    Attributes:
        num_features: Width of that layer.
    """

    num_features: int = 64

    @nn.compact
    def __call__(self, images: Any) -> tuple[Any, Any]:
        """Features and log-odds of the classes."""
        hidden = images[..., None]
        for channels in (16, 32):
            hidden = nn.relu(nn.Conv(channels, (5, 5), 2)(hidden))
        features = nn.relu(nn.Dense(self.num_features)(hidden.reshape(len(images), -1)))
        return features, nn.Dense(NUM_CLASSES)(features)


def train_autoencoder(key: Any, images: np.ndarray, num_epochs: int) -> Latents:
    """An autoencoder of these images."""
    network, (start_key, key) = Autoencoder(), jax.random.split(key)
    parameters = network.init(start_key, jnp.asarray(images[:2]), key)
    parameters = train(lambda p, k, batch: network.apply(p, batch, k), parameters, key, (images,), num_epochs)
    encode = jax.jit(lambda x: network.apply(parameters, x, method="encode")[0])
    decode = jax.jit(lambda z: nn.sigmoid(network.apply(parameters, z, method="decode")))
    return Latents(functools.partial(in_batches, encode), functools.partial(in_batches, decode))


def train_classifier(key: Any, images: np.ndarray, labels: np.ndarray, num_epochs: int) -> Judge:
    """A classifier of these images."""
    network, (start_key, key) = Classifier(), jax.random.split(key)

    def loss(parameters: Any, key: Any, batch: Any, classes: Any) -> Any:
        logits = network.apply(parameters, batch)[1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    parameters = network.init(start_key, jnp.asarray(images[:2]))
    parameters = train(loss, parameters, key, (images, labels), num_epochs)
    outputs = [jax.jit(lambda x, i=i: network.apply(parameters, x)[i]) for i in range(2)]
    return Judge(*(functools.partial(in_batches, output) for output in outputs))
