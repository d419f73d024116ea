import dataclasses
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import platformdirs
import pytest

import omt_expfam as omt
from benchmarks.experiments import _images, cifar
from benchmarks.harness import data as _data, peers as _peers, picture_networks as _networks
from benchmarks.harness.kept import kept
from benchmarks.harness.training import Judge, Latents

pytestmark = pytest.mark.loose


def discs(num, seed=0):
    """Pictures of a colored disc in one of two places, and which; place and color vary with two numbers."""
    rng = np.random.default_rng(seed)
    labels, shift, color = rng.integers(0, 2, num), rng.uniform(-6, 6, num), rng.random((num, 1, 1, 3))
    rows, columns = np.mgrid[:32, :32]
    away = (rows - 8 - 14 * labels[:, None, None]) ** 2 + (columns - 16 - shift[:, None, None]) ** 2
    pictures = 1 / (1 + np.exp((away[..., None] - 25) / 8)) * color
    return pictures.astype(np.float32), labels


def test_without_its_convolutions_the_autoencoder_is_the_best_linear_one():
    pictures = discs(60)[0]
    network = _networks.Autoencoder(jax.random.key(0), pictures, (4, 8), 3)
    last = lambda a: [a.encoder.last.weight, a.encoder.last.bias, a.decoder.up[-1].weight, a.decoder.up[-1].bias]
    latents = _networks.latents(eqx.tree_at(last, network, replace_fn=np.zeros_like))
    rows = pictures.reshape(60, -1).astype(float)
    left, values, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    points = latents.encode(pictures)
    np.testing.assert_allclose(np.abs(points), np.sqrt(60) * np.abs(left[:, 2::-1]), atol=1e-3)
    expected = np.clip((left[:, :3] * values[:3]) @ right[:3] + rows.mean(axis=0), 0, 1)
    np.testing.assert_allclose(latents.decode(points).reshape(60, -1), expected, atol=1e-4)


def test_networks_learn():
    pictures, labels = discs(160)
    others, other_labels = discs(60, seed=1)
    widths = 4, 8
    start = _networks.Classifier(jax.random.key(0), widths, 8, 2)
    critic = _networks.train_classifier(jax.random.key(1), pictures, labels, 16, start)
    judge = _networks.judge(critic)
    assert np.mean(judge.logits(others).argmax(axis=1) == other_labels) > 0.95
    assert judge.features(others).shape == (60, 8)
    start = _networks.Autoencoder(jax.random.key(2), pictures, widths, 4)
    network = _networks.train_autoencoder(jax.random.key(3), pictures, 6, start, critic)
    np.testing.assert_array_equal(network.directions, start.directions)
    rebuilt = [each.decode(each.encode(others)) for each in map(_networks.latents, (start, network))]
    before, after = (((images - others) ** 2).sum() for images in rebuilt)
    assert after < 0.8 * before
    before, after = (((judge.features(images) - judge.features(others)) ** 2).sum() for images in rebuilt)
    assert after < 0.7 * before


def test_varied_pictures_are_windows_of_the_reflected_one_or_its_mirror_image():
    picture = np.random.default_rng(0).random((32, 32, 3), np.float32)
    mirrored = picture[:, ::-1]
    keys = jax.random.split(jax.random.key(0), 12)
    seen = [np.asarray(each) for each in jax.vmap(lambda key: _networks.varied(picture, key))(keys)]
    assert {np.array_equal(each, mirrored) for each in seen} == {True, False}
    assert all(np.array_equal(each, mirrored) or np.array_equal(each, picture) for each in seen)
    padded = [np.pad(each, ((2, 2), (2, 2), (0, 0)), mode="reflect") for each in (picture, mirrored)]
    windows = {each[i : i + 32, j : j + 32].tobytes() for each in padded for i in range(5) for j in range(5)}
    moved = {np.asarray(each).tobytes() for each in jax.vmap(lambda key: _networks.varied(picture, key, 2))(keys)}
    assert moved <= windows
    assert len(moved) > 4


def test_the_split_is_one_division_without_repetition():
    study = dataclasses.replace(cifar.quick_study(), num_train=30, num_test=10)
    classes = tuple(np.arange(60, dtype=np.float32).reshape(60, 1, 1, 1) + 100 * i for i in range(2))
    parts = cifar.split(study, classes)
    assert [[len(x) for x in part] for part in parts] == [[30, 30], [10, 10], [10, 10]]
    for i in range(2):
        together = np.concatenate([part[i] for part in parts]).ravel()
        assert len(set(together)) == 50
        assert set(together) <= set(classes[i].ravel())
    np.testing.assert_array_equal(parts.test[1], cifar.split(study, classes).test[1])


def test_a_trained_network_is_kept_for_the_same_pictures_and_settings(monkeypatch, tmp_path):
    monkeypatch.delenv("OMT_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / name)
    pictures, trainings = np.ones((2, 2, 2, 3), np.float32), []

    def train():
        trainings.append(1)
        return _networks.Classifier(jax.random.key(len(trainings)), (2, 2), 2, 2)

    first, again = (cifar.trained("toy", (1, 2), pictures, train) for _ in range(2))
    assert len(trainings) == 1
    for found in (first, again):
        features = jax.jit(jax.vmap(found))(np.ones((1, 32, 32, 3), np.float32))[0]
        assert features.shape == (1, 2)
    np.testing.assert_array_equal(first.last.weight, again.last.weight)
    files = list((tmp_path / "omt-expfam" / "networks").iterdir())
    assert [path.suffix for path in files] == [".pickle"]
    cifar.trained("toy", (1, 3), pictures, train)
    cifar.trained("toy", (1, 2), 0 * pictures, train)
    assert len(trainings) == 3


def test_a_named_cache_comes_before_the_default_one(monkeypatch, tmp_path):
    monkeypatch.setenv("OMT_CACHE", str(tmp_path / "named"))
    assert kept("toy", 1, lambda: 5, tmp_path / "default") == 5
    assert kept("toy", 1, lambda: 6, tmp_path / "default") == 5
    assert [path.name for path in tmp_path.iterdir()] == ["named"]


def test_draws_of_pot_have_the_targets_law_and_its_map_has_less():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 2)).astype(np.float32)
    y = (rng.standard_normal((600, 2)) + 6 * rng.choice([-1, 1], (600, 1))).astype(np.float32)
    plan = _peers.Mixtures((1, 2), None)
    found, draws = (method(jax.random.key(0), x, y) for method in (plan, _peers.MixtureDraws(plan)))
    images = draws.push_forward(x)
    np.testing.assert_allclose(images.std(axis=0), y.std(axis=0), rtol=0.1)
    assert (found.push_forward(x).std(axis=0) < 0.5 * y.std(axis=0)).all()
    np.testing.assert_array_equal(images, draws.push_forward(x))
    np.testing.assert_allclose(draws.pull_back(y).std(axis=0), x.std(axis=0), rtol=0.1)


def test_methods_are_solved_once_and_used_in_all_ways():
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((60, 2)) + 3 * i for i in range(2))
    laws = [SimpleNamespace(sample=lambda key, n, i=i: np.full((n, 2), float(i))) for i in range(2)]
    solves = []

    def mixtures(key, x, y):
        solves.append((x, y))
        return SimpleNamespace(push_forward=None, pull_back=None, source=laws[0], target=laws[1])

    *found, alone = _images.solved({"linear": _peers.Linear(), "ours": mixtures}, "ours", jax.random.key(0), x, y)
    assert [use.name for use in (*found, alone)] == ["no transport", "linear", "ours", alone.name]
    assert [use.seconds > 0 for use in (*found, alone)] == [False, True, True, False]
    assert solves == [(x, y)]
    np.testing.assert_array_equal(found[0].maps.push_forward(x), x)
    np.testing.assert_allclose(found[1].maps.push_forward(x).mean(axis=0), y.mean(axis=0))
    np.testing.assert_array_equal(alone.maps.push_forward(x[:7]), np.ones((7, 2)))
    np.testing.assert_array_equal(alone.maps.pull_back(y[:7]), np.zeros((7, 2)))


def test_floors_compare_unseen_pictures_with_others_and_their_reconstructions():
    rng = np.random.default_rng(0)
    test, reference = ([rng.random((40, 1, 1, 2)).astype(np.float32) + i for i in range(2)] for _ in range(2))
    latents = Latents(lambda x: x.reshape(len(x), -1), lambda z: 2 * z.reshape(len(z), 1, 1, 2))
    judge = Judge(lambda x: x.reshape(len(x), -1), lambda x: np.stack([x[:, 0, 0, 0] < 2, x[:, 0, 0, 0] >= 2], axis=1))
    split = cifar.Split([], test, reference)
    rebuilt, real = cifar.floors(judge, latents, 3, (0, 1), split)
    flat = [part[1].reshape(40, 2) for part in (test, reference)]
    between = omt.metrics.frechet_distance(*flat)
    assert (real.method, real.source, real.target, real.seed) == (cifar.REAL, "airplane", "bird", 3)
    np.testing.assert_allclose([real.frechet, real.latent], between, rtol=1e-5)
    np.testing.assert_allclose(rebuilt.rebuilt, 4 * between, rtol=1e-4)
    np.testing.assert_allclose(rebuilt.frechet, omt.metrics.frechet_distance(2 * flat[0], flat[1]), rtol=1e-4)
    assert rebuilt.share == 100
    assert real.share == 100 * np.mean(flat[0][:, 0] >= 2)


def test_pictures_are_read_in_color_by_class(data_dir):
    airplanes, birds = _data.cifar(data_dir, 100)
    assert airplanes.shape == birds.shape == (100, 32, 32, 3)
    assert airplanes.dtype == np.float32
    assert 0 <= airplanes.min() < 0.1 < 0.9 < airplanes.max() <= 1
    # Airplanes stand before a sky that is blue at the top.
    tops = [pictures[:, :4].mean(axis=(0, 1, 2)) for pictures in (airplanes, birds)]
    assert tops[0][2] - tops[0][0] > tops[1][2] - tops[1][0] + 0.05


def test_what_the_decoder_costs_is_taken_off_pair_by_pair():
    score = cifar.Score(0, "airplane", "bird", "m", 5.0, 0.0, 0.0, 0.0, 0.0, 0.0, True)
    floor = score._replace(method=cifar.REBUILT, frechet=3.0)
    others = [score._replace(seed=1, frechet=9.0), floor._replace(seed=1, frechet=8.0)]
    real = score._replace(method=cifar.REAL, frechet=0.1)
    found = cifar.above_the_floor([score, floor, *others, real])
    assert [s.above for s in found] == [2.0, 0.0, 1.0, 0.0, None]
    assert found[0]._replace(above=None) == score
