"""Convolutional networks for color pictures of 32 x 32 pixels: an autoencoder and a classifier, in Equinox."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from benchmarks.harness.training import in_batches, Judge, Latents, train

PIXELS = 32
# Pictures that a trained network is given at a time.
BATCH = 100


def convolution(key: Any, before: int, after: int, size: int, stride: int = 1) -> eqx.nn.Conv2d:
    """A convolution that keeps the size of signals before a rectifier (He et al. 2015)."""
    layer = eqx.nn.Conv2d(before, after, size, stride, 1, key=key)
    # Equinox's weights are uniform with variance 1 / (3 inputs); these have 2 / inputs.
    return eqx.tree_at(lambda layer: layer.weight, layer, np.sqrt(6).astype(np.float32) * layer.weight)


class Residual(eqx.Module):
    """Two convolutions whose result is added to what they are given."""

    layers: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]

    def __init__(self, key: Any, channels: int) -> None:
        first, second = (convolution(k, channels, channels, 3) for k in jax.random.split(key))
        self.layers = first, second

    def __call__(self, hidden: Any) -> Any:
        first, second = self.layers
        return hidden + second(jax.nn.relu(first(jax.nn.relu(hidden))))


class Encoder(eqx.Module):
    """Strided convolutions, a residual block and an affine map: a few numbers for each picture."""

    down: list[eqx.nn.Conv2d]
    block: Residual
    last: eqx.nn.Linear

    def __init__(self, key: Any, widths: tuple[int, ...], size: int) -> None:
        *keys, block_key, last_key = jax.random.split(key, len(widths) + 2)
        sizes = zip((3, *widths), widths, keys, strict=False)
        self.down = [convolution(k, before, after, 4, 2) for before, after, k in sizes]
        self.block = Residual(block_key, widths[-1])
        self.last = eqx.nn.Linear(widths[-1] * (PIXELS >> len(widths)) ** 2, size, key=last_key)

    def hidden(self, picture: Any) -> Any:
        """What the convolutions make of a picture."""
        hidden = jnp.moveaxis(picture, -1, 0) - 0.5
        for layer in self.down:
            hidden = jax.nn.relu(layer(hidden))
        return jax.nn.relu(self.block(hidden)).reshape(-1)

    def __call__(self, picture: Any) -> Any:
        return self.last(self.hidden(picture))


class Decoder(eqx.Module):
    """The encoder in reverse: an affine map, a residual block, and convolutions of pictures made twice as large."""

    first: eqx.nn.Linear
    block: Residual
    up: list[eqx.nn.Conv2d]

    def __init__(self, key: Any, widths: tuple[int, ...], dim: int) -> None:
        first_key, block_key, *keys = jax.random.split(key, len(widths) + 2)
        sizes = zip(widths[::-1], (*widths[-2::-1], 3), keys, strict=True)
        self.first = eqx.nn.Linear(dim, widths[-1] * (PIXELS >> len(widths)) ** 2, key=first_key)
        self.block = Residual(block_key, widths[-1])
        self.up = [convolution(k, before, after, 3) for before, after, k in sizes]

    def __call__(self, point: Any) -> Any:
        side = PIXELS >> len(self.up)
        hidden = self.block(jax.nn.relu(self.first(point)).reshape(-1, side, side))
        for layer in self.up:
            hidden = layer(jax.nn.relu(hidden).repeat(2, axis=1).repeat(2, axis=2))
        return jnp.moveaxis(hidden, 0, -1)


class Autoencoder(eqx.Module):
    """An autoencoder: principal components, which are kept, and convolutions that learn what they leave.

    Attributes:
        center: Mean of the pictures.
        scales: Deviations of their principal components, shape ``[dim]``.
        directions: Principal directions, shape ``[pixels, dim]``.
    """

    center: Any
    scales: Any
    directions: Any
    encoder: Encoder
    decoder: Decoder

    def __init__(self, key: Any, pictures: np.ndarray, widths: tuple[int, ...], dim: int) -> None:
        down_key, up_key = jax.random.split(key)
        self.center, self.scales, self.directions = principal_components(pictures, dim)
        self.encoder, self.decoder = Encoder(down_key, widths, dim), Decoder(up_key, widths, dim)

    def encode(self, picture: Any) -> Any:
        """The latent point of a picture."""
        center, scales, directions = jax.lax.stop_gradient((self.center, self.scales, self.directions))
        return (picture - center).reshape(-1) @ directions / scales + self.encoder(picture)

    def decode(self, point: Any) -> Any:
        """The picture of a latent point."""
        center, scales, directions = jax.lax.stop_gradient((self.center, self.scales, self.directions))
        return center + (directions @ (scales * point)).reshape(center.shape) + self.decoder(point)


def principal_components(pictures: np.ndarray, dim: int) -> tuple[Any, Any, Any]:
    """Mean of pictures, and deviations and directions of their leading components."""
    center = pictures.mean(axis=0)
    rows = (pictures - center).reshape(len(pictures), -1)
    top = rows.shape[1] - dim, rows.shape[1] - 1
    variances, directions = scipy.linalg.eigh(rows.T @ rows / len(rows), subset_by_index=top)
    return jnp.asarray(center), jnp.asarray(np.sqrt(variances)), jnp.asarray(directions)


class Classifier(eqx.Module):
    """A classifier whose last hidden layer gives the features."""

    encoder: Encoder
    last: eqx.nn.Linear

    def __init__(self, key: Any, widths: tuple[int, ...], num_features: int, num_classes: int) -> None:
        first_key, last_key = jax.random.split(key)
        self.encoder = Encoder(first_key, widths, num_features)
        self.last = eqx.nn.Linear(num_features, num_classes, key=last_key)

    def __call__(self, picture: Any) -> tuple[Any, Any]:
        """Features and log-odds of the classes."""
        features = jax.nn.relu(self.encoder(picture))
        return features, self.last(features)


def varied(picture: Any, key: Any, margin: int = 0) -> Any:
    """A picture or its mirror image, moved by up to some pixels to either side."""
    flip_key, shift_key = jax.random.split(key)
    picture = jnp.where(jax.random.bernoulli(flip_key), picture[:, ::-1], picture)
    if not margin:
        return picture
    padded = jnp.pad(picture, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    corner = jax.random.randint(shift_key, (2,), 0, 2 * margin + 1)
    return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), picture.shape)


def trained(
    network: Any, loss: Callable[..., Any], key: Any, data: tuple[np.ndarray, ...], num_epochs: int, rate: float
) -> Any:
    """A network whose mean loss over pictures, a function of it, a key and a picture's data, has been descended."""
    parameters, rest = eqx.partition(network, eqx.is_inexact_array)

    def mean(parameters: Any, key: Any, *batch: Any) -> Any:
        keys = jax.random.split(key, len(batch[0]))
        each = jax.vmap(functools.partial(loss, eqx.combine(parameters, rest)))
        return each(keys, *batch).mean()

    return eqx.combine(train(mean, parameters, key, data, num_epochs, 32, rate), rest)


def train_autoencoder(
    key: Any, pictures: np.ndarray, num_epochs: int, start: Autoencoder, critic: Classifier
) -> Autoencoder:
    """An autoencoder of these pictures and their mirror images.

    Its loss is the squared error of pixels and, as heavy, that of what the convolutions of a trained classifier make of
    them: errors of pixels alone leave only what is smooth.
    """
    hidden = critic.encoder.hidden
    sizes = np.asarray(jax.jit(jax.vmap(hidden))(pictures[:500]))
    weight = pictures[:500].var(axis=0).sum() / sizes.var(axis=0).sum()

    def loss(network: Autoencoder, key: Any, picture: Any) -> Any:
        picture = varied(picture, key)
        image = network.decode(network.encode(picture))
        return ((image - picture) ** 2).sum() + weight * ((hidden(image) - hidden(picture)) ** 2).sum()

    return trained(start, loss, key, (pictures,), num_epochs, 2e-3)


def train_classifier(
    key: Any, pictures: np.ndarray, labels: np.ndarray, num_epochs: int, start: Classifier
) -> Classifier:
    """A classifier of these pictures, mirrored and moved by up to four pixels."""

    def loss(network: Classifier, key: Any, picture: Any, label: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(network(varied(picture, key, 4))[1], label)

    return trained(start, loss, key, (pictures, labels), num_epochs, 1e-3)


def latents(network: Autoencoder) -> Latents:
    """Latent means of pictures, and pictures of latent points, by a trained autoencoder."""
    encode = eqx.filter_jit(lambda network, x: jax.vmap(network.encode)(x))
    decode = eqx.filter_jit(lambda network, z: jnp.clip(jax.vmap(network.decode)(z), 0, 1))
    functions = (functools.partial(each, network) for each in (encode, decode))
    return Latents(*(functools.partial(in_batches, function, size=BATCH) for function in functions))


def judge(network: Classifier) -> Judge:
    """Features and classes of pictures by a trained classifier."""
    outputs = eqx.filter_jit(lambda network, x: jax.vmap(network)(x))
    parts = [functools.partial(in_batches, lambda x, i=i: outputs(network, x)[i], size=BATCH) for i in range(2)]
    return Judge(*parts)
