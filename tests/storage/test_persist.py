import dataclasses
import hashlib
import io
import itertools
import json
import math
import os
import tracemalloc
import types
import typing
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import omt_expfam as omt
from families import REGISTRY
from omt_expfam import _storage
from omt_expfam._components.numpyro_components import NumPyroComponents
from omt_expfam._components.numpyro_laws import Laws
from omt_expfam._couplings.interface import AbstractCouplings
from omt_expfam._family.law_family import LawFamily
from omt_expfam._family.mixed_family import MixedFamily
from omt_expfam._files.archive import atomic_file
from omt_expfam._storage import load, save
from omt_expfam._weights.entropic import WeightCoupling
from omt_expfam.families import DiagonalGaussian, Gaussian

from ..cases import CASES, components, DIM, mixture


def assert_identical(left, right):
    """Same types, same structure, same bits."""
    assert type(left) is type(right)
    if isinstance(left, jax.Array | np.ndarray | np.generic):
        assert left.dtype == right.dtype
        assert left.shape == right.shape
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    elif isinstance(left, omt.RESULTS):
        assert np.array_equal(left._value, right._value)
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_identical(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        assert_identical(list(left.values()), list(right.values()))
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_identical(a, b)
    else:
        assert left == right or (math.isnan(left) and math.isnan(right))


def plan_of(source, target, epsilon_components=0.3):
    return omt.transport(source, target, epsilon_components=epsilon_components, epsilon_weights=0.2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "object.omt"


@pytest.fixture(scope="module")
def small_plan():
    return plan_of(mixture("Gaussian", 0, "float32", 2, 2), mixture("DiagonalGaussian", 1, "float32", 2, 2))


@pytest.fixture
def small_file(small_plan, path):
    save(path, small_plan)
    return path


# -- round trips --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_components_round_trip(name, dtype, path):
    before, _ = components(name, 3, dtype)
    save(path, before)
    assert_identical(load(path), before)


@pytest.mark.parametrize("name", REGISTRY)
def test_mixture_round_trip(name, dtype, path):
    before = mixture(name, 4, dtype)
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    x = np.random.default_rng(0).standard_normal((5, before.dim)).astype(dtype)
    assert_identical(after.log_prob(x), before.log_prob(x))


def test_plan_round_trip(dtype, path):
    before = plan_of(mixture("Gaussian", 0, dtype), mixture("LowRankGaussian", 1, dtype))
    x = np.random.default_rng(0).standard_normal((7, DIM)).astype(dtype)
    image = before.push_forward(x)
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    assert_identical(after.push_forward(x), image)
    assert_identical(after.pull_back(x), before.pull_back(x))
    assert str(after) == str(before)
    assert after.result == omt.RESULTS.successful


def test_plan_of_counts_round_trip(path):
    before = plan_of(mixture("Poisson", 0, "float32", 2, 2), mixture("NegativeBinomial", 1, "float32", 2, 2))
    x = np.random.default_rng(0).poisson(2.0, (7, 2)).astype("float32")
    image = before.push_forward(x)
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    assert_identical(after.push_forward(x), image)


def test_plan_of_angles_round_trip(path):
    before = plan_of(mixture("VonMises", 0, "float32", 2, 2), mixture("VonMises", 1, "float32", 2, 2), 0.0)
    x = np.random.default_rng(0).uniform(-3, 3, (7, 2)).astype("float32")
    image = before.push_forward(x)
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    assert_identical(after.push_forward(x), image)


def test_unregularized_plan_round_trip(path, x64):
    """Its divergences are infinite."""
    before = plan_of(mixture("Gaussian", 0), mixture("Gaussian", 1), 0.0)
    save(path, (before, before.weight_coupling, before.correspondences()))
    after = load(path)
    assert np.isinf(after[0].component_kl).all()
    assert_identical(after, (before, before.weight_coupling, before.correspondences()))


def test_plans_of_every_route_round_trip(path):
    """Product, numerical and block couplings, and the law between source and target that they leave open."""
    normal, peaked = mixture("Gaussian", 0, "float32", 2, 2), mixture("Laplace", 1, "float32", 2, 2)
    several = omt.Mixture([0.25] * 4, omt.Blocks([normal.components, peaked.components]))
    settings = omt.NumericalSettings(num_nodes=64, num_draws=2048)
    before = omt.transport(several, peaked, epsilon_components=2.0, epsilon_weights=0.5, numerical=settings)
    kinds = {type(part).__name__ for row in before.couplings.parts for part in row}
    assert kinds == {"NumericalCouplings", "ProductCouplings"}
    save(path, (before, before.interpolate(0.3)))
    after = load(path)
    x = several.mean()[None] + jnp.arange(3.0)[:, None]
    assert_identical(after, (before, before.interpolate(0.3)))
    assert_identical(after[0].push_forward(x), before.push_forward(x))


def test_fit_round_trip(dtype, path):
    x = np.random.default_rng(0).standard_normal((60, 2)).astype(dtype)
    before = omt.fit(jax.random.key(0), x, DiagonalGaussian, 2, max_steps=3, throw=False)
    assert before.result == omt.RESULTS.fit_not_converged
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    assert np.isnan(after.log_likelihoods).sum() == np.isnan(before.log_likelihoods).sum()
    assert after.result == omt.RESULTS.fit_not_converged
    assert omt.RESULTS[after.result] == omt.RESULTS[before.result]
    assert not after.converged


def test_weights_are_not_renormalized(path):
    """The constructor would divide by the sum again, and round again."""
    before = mixture("Gaussian", 0, "float32")
    before = eqx.tree_at(lambda m: m.weights, before, before.weights * jnp.float32(0.9))
    save(path, before)
    assert_identical(load(path).weights, before.weights)


def test_plain_values_round_trip(path):
    before = {
        "floats": (0.1, -0.0, math.inf, -math.inf, math.nan, 5e-324),
        "others": [None, True, False, 0, -(2**80), "τ \ud800 \x00", ""],
        ("a", 1): {"kind": "float"},
        "arrays": [
            np.float64(1 / 3),
            np.arange(6).reshape(2, 3).T,
            np.zeros((0, 3)),
            np.array(True),
            np.arange(3, dtype=">f8").astype("f8"),
            jnp.ones((), jnp.float16),
            jnp.asarray([1 + 2j]),
            jnp.arange(3, dtype=jnp.uint8),
        ],
    }
    save(path, before)
    assert_identical(load(path), before)
    assert math.copysign(1, load(path)["floats"][1]) == -1


def test_big_endian_arrays_come_back_in_native_order(path):
    save(path, np.arange(3, dtype=">f8"))
    assert_identical(load(path), np.arange(3, dtype="f8"))


def test_batched_results_round_trip(path):
    before = jax.vmap(lambda p: omt.RESULTS.where(p, omt.RESULTS.successful, omt.RESULTS.fit_not_finite))(
        jnp.asarray([True, False])
    )
    save(path, before)
    assert_identical(load(path), before)


def test_saved_files_are_equal_and_portable(path, tmp_path, small_plan):
    """No pickles; equal objects give equal bytes; any ZIP reader opens it."""
    save(path, small_plan)
    save(tmp_path / "again.omt", small_plan)
    assert path.read_bytes() == (tmp_path / "again.omt").read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read("manifest.json"))
        members = [name for name in archive.namelist() if name != "manifest.json"]
        for name in members:
            np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    assert (manifest["format"], manifest["format_version"]) == ("omt-expfam", 1)
    assert manifest["object"]["fields"]["weight_coupling"]["fields"]["result"]["members"] == ["successful"]


def test_shared_arrays_are_stored_once(path):
    plan = plan_of(mixture("Gaussian", 0, "float32"), mixture("Gaussian", 1, "float32"))
    save(path, plan)
    with zipfile.ZipFile(path) as archive:
        stored = len(archive.namelist()) - 1
    arrays = [leaf for leaf in jax.tree.leaves(plan) if isinstance(leaf, jax.Array)]
    # All but the result, which is stored by name.
    assert stored == len({id(leaf) for leaf in arrays}) - 1
    assert stored < len(arrays) - 1
    after = load(path)
    assert after.couplings.source.loc is after.source.components.loc


# -- precision ----------------------------------------------------------------------------------------------


def test_float64_is_never_rounded_silently(path):
    with jax.enable_x64(True):
        before = mixture("Gaussian", 0)
        save(path, before)
    rounded = jnp.asarray(np.asarray(before.weights), "float32")
    with pytest.warns(UserWarning, match=r'object\.omt: float64 .* rounded .*jax_enable_x64", True\).*dtype="float32"'):
        after = load(path)
    assert_identical(after.weights, rounded)
    assert_identical(load(path, dtype="float32").weights, rounded)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        load(path, dtype="float64")


def test_float32_files_load_in_either_mode(path, x64):
    """A fit of float32 data counts its steps in 64 bits when x64 is on."""
    x = np.random.default_rng(0).standard_normal((60, 2)).astype("float32")
    before = omt.fit(jax.random.key(0), x, DiagonalGaussian, 2)
    save(path, before)
    assert_identical(load(path), before)
    assert load(path, dtype="float64").mixture.weights.dtype == jnp.float64
    with jax.enable_x64(False):
        after = load(path)
        assert_identical(after.mixture, before.mixture)
        assert int(after.num_steps) == int(before.num_steps)


@pytest.mark.parametrize(("value", "message"), [(2**40, "int64 numbers too large"), (1e300, "float64 numbers too")])
def test_values_that_do_not_fit_are_refused(value, message, path):
    with jax.enable_x64(True):
        save(path, jnp.asarray([value]))
    with pytest.raises(ValueError, match=message):
        load(path, dtype="float32")


def test_unknown_dtype_is_refused(small_file):
    with pytest.raises(ValueError, match='"float32", "float64" or None'):
        load(small_file, dtype="float16")


# -- classes ------------------------------------------------------------------------------------------------


class Mine(DiagonalGaussian):
    """A third-party family with a static field and a plain array."""

    label: str = eqx.field(static=True, default="mine")
    table: np.ndarray | None = None


class Holder(eqx.Module):
    """Holds anything."""

    content: typing.Any


def mine(value=1.0):
    return Mine(jnp.zeros((2, 2)), jnp.full((2, 2), value))


def with_fields(components, **fields):
    for name, value in fields.items():
        object.__setattr__(components, name, value)
    return components


def test_third_party_family(path):
    before = omt.Mixture(np.array([0.25, 0.75], "float32"), with_fields(mine(), label="x", table=np.eye(2)))
    save(path, before)
    with pytest.raises(ValueError, match=r"object\.omt: .*unknown class Mine.*families=\{'Mine': Mine\}"):
        load(path)
    assert_identical(load(path, families={"Mine": Mine}), before)


def test_a_class_cannot_pose_as_the_librarys(path):
    impostor = type("Gaussian", (Mine,), {})
    save(path, impostor(jnp.zeros((2, 2)), jnp.ones((2, 2))))
    with pytest.raises(ValueError, match="unknown class Gaussian"):
        load(path)
    assert type(load(path, families={"Gaussian": impostor})) is impostor
    save(path, components("Gaussian", 0, "float32")[0])
    assert type(load(path, families={"Gaussian": impostor})) is Gaussian


def test_a_class_with_other_fields_is_refused(path):
    save(path, mine())
    with pytest.raises(ValueError, match=r"its Mine was saved by a version .*\(content, label, loc, table, variance\)"):
        load(path, families={"Mine": Holder})


class Slim(eqx.Module):
    """A class that had a second field once."""

    value: jax.Array

    former_fields = frozenset({"half"})


class Wide(eqx.Module):
    value: jax.Array
    half: jax.Array


def test_fields_that_a_class_had_once_are_left_behind(path):
    save(path, Wide(jnp.ones((2, 2)), jnp.ones(3)))
    after = load(path, families={"Wide": Slim})
    assert type(after) is Slim
    assert not hasattr(after, "half")
    np.testing.assert_array_equal(after.value, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"its Wide was saved by a version .*"):
        load(path, families={"Wide": Mine})


class Bowl(omt.AbstractPotential):
    """A potential of a user's own."""

    depth: jax.Array

    @property
    def num_dimensions(self):
        return 2

    @property
    def strong_convexity(self):
        return 0.5

    def value(self, x):
        return 0.25 * jnp.sum(x * x) + jnp.logaddexp(0.0, self.depth * x[0])


def test_maps_round_trip(path, dtype):
    """Fits, maps of either direction, and a potential of one's own, which `load` is told."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 60, 2)).astype(dtype)
    small: dict[str, Any] = {"num_layers": 2, "width": 4, "num_steps": 2, "batch_size": 16}
    fit = omt.fit_brenier(jax.random.key(0), x, y, num_members=1, num_target_members=1, **small)
    for before in (fit, fit.map.reverse(), fit.certificate(jax.random.key(1), x, y)):
        save(path, before)
        assert_identical(load(path), before)
    own = omt.BrenierMap.from_potential(Bowl(jax.device_put(np.asarray(2, dtype))))
    save(path, own)
    with pytest.raises(ValueError, match="Bowl"):
        load(path)
    assert_identical(load(path, families={"Bowl": Bowl}), own)


def test_families_must_be_classes(small_file):
    with pytest.raises(TypeError, match="`families` must hold classes"):
        load(small_file, families={"Mine": int})


def reachable_classes():
    """Concrete modules that the annotated fields of the public objects lead to."""
    found, stack = set(), [omt.Mixture, omt.Fit, omt.TransportPlan, WeightCoupling, omt.BlockStart, omt.BrenierFit]
    while stack:
        item = stack.pop()
        stack += [a for a in typing.get_args(item) if isinstance(a, type | types.UnionType)]
        if not (isinstance(item, type) and issubclass(item, eqx.Module)) or item in found:
            continue
        found.add(item)
        stack += typing.get_type_hints(item).values()
        stack += [c for c in item.__subclasses__() if c.__module__.split(".")[0] in ("omt_expfam", "families")]
    return {cls for cls in found if not getattr(cls, "__abstractmethods__", None)}


def test_class_table_is_complete():
    known = set(_storage.library_classes().values())
    # A NumPyro distribution is code: refused with a message of its own. Families of its classes, and of several
    # kinds of columns, are made when named.
    made = {cls for cls in reachable_classes() if issubclass(cls, LawFamily | MixedFamily)}
    assert reachable_classes() - {NumPyroComponents, Laws, *made} <= known
    assert issubclass(_storage.library_classes().get("numpyro.Weibull"), LawFamily)


@pytest.mark.loose
def test_numpyro_distributions_are_refused(tmp_path):
    parts = NumPyroComponents(dist.Laplace(jnp.zeros((2, 3)), 1.0).to_event(1))
    with pytest.raises(TypeError, match="`object.components` cannot be saved: it holds a NumPyro distribution"):
        omt.save(tmp_path / "mixture.omt", omt.Mixture([0.5, 0.5], parts))
    assert not list(tmp_path.iterdir())
    assert set(REGISTRY.values()) <= reachable_classes()
    assert set(CASES) == set(REGISTRY)
    assert any(issubclass(cls, AbstractCouplings) for cls in reachable_classes())
    assert all(name == cls.__name__ for name, cls in _storage.library_classes().items())


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "`object` cannot be saved: files do not hold object objects"),
        ({"a": [1, {2}]}, r"`object\['a'\]\[1\]` .* set objects"),
        (Holder(jnp.tanh), r"`object\.content` cannot be saved"),
        (jax.random.key(0), "arrays of key<fry>"),
        (jnp.ones(2, jnp.bfloat16), "arrays of bfloat16"),
        (np.array([None]), "arrays of object"),
        (Gaussian, "`object` cannot be saved"),
    ],
)
def test_unsupported_objects_are_named(value, message, path):
    with pytest.raises(TypeError, match=message):
        save(path, value)
    assert not path.exists()


def test_traced_objects_are_refused(path, small_plan):
    def run(x):
        save(path, eqx.tree_at(lambda p: p.source.weights, small_plan, x))
        return x

    with pytest.raises(TypeError, match=r"`object\.source\.weights` is traced: call save outside jit"):
        jax.jit(run)(small_plan.source.weights)
    assert not path.exists()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.omt")


def test_truncated_files_are_refused(small_file, tmp_path):
    data, cut = small_file.read_bytes(), tmp_path / "cut.omt"
    for length in [*range(0, len(data), 23), *range(len(data) - 90, len(data))]:
        cut.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.omt: .*(truncated|damaged|empty)"):
            load(cut)


def test_flipped_and_appended_bytes_are_refused(small_file, tmp_path):
    data, bad = small_file.read_bytes(), tmp_path / "bad.omt"
    for offset in [*range(0, len(data), 17), *range(len(data) - 90, len(data))]:
        bad.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with pytest.raises(ValueError, match=r"bad\.omt: .*(corrupted|damaged)"):
            load(bad)
    bad.write_bytes(data + b"x")
    with pytest.raises(ValueError, match="corrupted"):
        load(bad)


def foreign_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def foreign_npz(path):
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


@pytest.mark.parametrize(
    "write",
    [
        foreign_zip,
        foreign_npz,
        lambda path: path.write_text("x,y\n1,2\n"),
        lambda path: path.write_bytes(os.urandom(500)),
    ],
    ids=["zip", "npz", "text", "noise"],
)
def test_foreign_files_are_refused(write, path):
    write(path)
    with pytest.raises(ValueError, match=r"object\.omt: not an omt-expfam file"):
        load(path)


def rewrite(path, change=lambda manifest: manifest, without=()):
    """Forge a file: change its manifest or leave out members, and seal it again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if name not in without}
    manifest = change(json.loads(members["manifest.json"]))
    members["manifest.json"] = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    content = buffer.getvalue()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


def changed(*keys, to):
    def change(manifest):
        item = manifest
        for key in keys[:-1]:
            item = item[key]
        item[keys[-1]] = to
        return manifest

    return change


RESULT = ("object", "fields", "weight_coupling", "fields", "result")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("format_version", to=2), r"newer omt-expfam, .*\(format 2\).*reads up to format 1\. Upgrade"),
        (lambda manifest: {"format": "omt-expfam", "format_version": 9}, "newer version"),
        (changed("format_version", to=0), "there is no format 0"),
        (changed("format_version", to=-5), "there is no format -5"),
        (changed("format", to="other"), "not an omt-expfam file"),
        (changed("format_version", to="1"), "not an omt-expfam file"),
        (changed("object", "class", to="Sorcery"), "unknown class Sorcery. Upgrade"),
        (changed("object", "kind", to="pickle"), "manifest of the file is malformed"),
        (changed("object", "fields", "epsilon_weights", "member", to="../../etc"), "array ../../etc is missing"),
        (changed("object", "fields", "epsilon_weights", to={}), "manifest of the file is malformed"),
        (changed(*RESULT, "members", to=["victory"]), "unknown outcome RESULTS, victory. Upgrade"),
        (changed(*RESULT, "shape", to=[7]), "manifest of the file is malformed"),
        (lambda manifest: b"[" * 100_000, "manifest of the file cannot be read"),
        (lambda manifest: b"\xff", "manifest of the file cannot be read"),
        (lambda manifest: [], "manifest of the file cannot be read"),
    ],
)
def test_malformed_manifests_are_refused(change, message, small_file):
    rewrite(small_file, change)
    with pytest.raises(ValueError, match=rf"object\.omt: .*{message}"):
        load(small_file)


def test_missing_members_are_refused(small_file):
    rewrite(small_file)
    load(small_file)
    rewrite(small_file, without=["arrays/1.npy"])
    with pytest.raises(ValueError, match=r"object\.omt: the array arrays/1\.npy is missing"):
        load(small_file)


def test_pickled_arrays_are_refused(path):
    save(path, [np.ones(2)])
    content = io.BytesIO()
    np.save(content, np.array([{}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path) as archive:
        manifest = archive.read("manifest.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", manifest)
        archive.writestr("arrays/0.npy", content.getvalue())
    rewrite(path)
    with pytest.raises(ValueError, match="malformed"):
        load(path)


def _header(shape):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return content.getvalue()


def forge(path, members):
    """Replace members of a file, and seal it again."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**kept, **members}.items():
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    content = path.read_bytes()[:-64]
    path.write_bytes(content + hashlib.sha256(content).hexdigest().encode())


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 4), (3, 2**61), (1,), (-2,)])
def test_headers_that_do_not_fit_their_numbers_are_refused(shape, path):
    save(path, [np.ones(2, np.float32)])
    forge(path, {"arrays/0.npy": _header(shape) + bytes(8)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="array arrays/0.npy is malformed"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_entries_that_fill_the_memory_are_refused(path):
    save(path, [np.ones(2, np.float32)])
    forge(path, {f"arrays/{k}.npy": bytes(2**25) for k in range(1, 5)})
    tracemalloc.start()
    with pytest.raises(ValueError, match="made to fill the memory"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("loc", np.zeros((2, 5), np.float32), "scale_tril` has shape"),
        ("scale_tril", np.zeros((2, 3), np.float32), "scale_tril` has shape"),
        ("weights", np.full(3, 1 / 3, np.float32), "3 weights, 2 components"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(field, value, message, path):
    eye = np.tile(np.eye(2, dtype=np.float32), (2, 1, 1))
    save(path, omt.Mixture(np.full(2, 0.5), Gaussian(np.zeros((2, 2), np.float32), scale_tril=eye)))
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read("manifest.json"))["object"]["fields"]
    member = {"weights": fields["weights"], **fields["components"]["fields"]}[field]["member"]
    content = io.BytesIO()
    np.lib.format.write_array(content, value)
    forge(path, {member: content.getvalue()})
    with pytest.raises(ValueError, match=message):
        load(path)


# -- atomicity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(step, small_file, monkeypatch):
    before = small_file.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        save(small_file, "something else")
    assert small_file.read_bytes() == before
    assert list(small_file.parent.iterdir()) == [small_file]


def test_an_interrupted_write_leaves_the_old_file(small_file):
    before = small_file.read_bytes()

    def write():
        with atomic_file(small_file) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert small_file.read_bytes() == before
    assert list(small_file.parent.iterdir()) == [small_file]


def test_destinations_that_are_not_files_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a directory"):
        save(tmp_path, 1)
    with pytest.raises(FileNotFoundError, match="no folder"):
        save(tmp_path / "absent" / "x.omt", 1)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        save(tmp_path / "pipe", 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_links_are_followed_and_files_replaced(path, tmp_path):
    link = tmp_path / "link.omt"
    link.symlink_to(path)
    for value in itertools.islice("ab", 2):
        save(link, value)
    assert link.is_symlink()
    assert load(path) == "b"


@pytest.mark.loose
def test_posteriors_round_trip(path):
    """A fitted posterior, the plans of its draws and what is read from them."""
    x = np.random.default_rng(0).standard_normal((60, 2)).astype("float32")
    posterior = omt.fit_posterior(
        jax.random.key(0), x, DiagonalGaussian, 2, method=omt.Gibbs(num_warmup=5, num_samples=8), throw=False
    )
    plan = omt.transport_posterior(
        posterior, mixture("DiagonalGaussian", 1, "float32", 2, 2), epsilon_components=0.3, epsilon_weights=0.2
    )
    before = posterior, plan, plan.cost_interval(), plan.correspondences()
    save(path, before)
    after = load(path)
    assert_identical(after, before)
    assert str(after) == str(before)
    assert_identical(after[1].push_forward(x[:3]), plan.push_forward(x[:3]))


# -- files of earlier versions -------------------------------------------------------------------------------

EARLIER = Path(__file__).parents[1] / "data" / "format_1"


@pytest.mark.parametrize("name", json.loads((EARLIER / "values.json").read_text()))
def test_files_of_earlier_versions_load(name):
    """They hold what they held, and compute what they computed when they were written."""
    loaded = load(EARLIER / f"{name}.omt")
    x = np.abs(np.random.default_rng(0).standard_normal((3, 2))).astype("float32") * 0.3 + 0.2
    first = loaded[0] if isinstance(loaded, tuple) else loaded
    for method, expected in json.loads((EARLIER / "values.json").read_text())[name].items():
        value = getattr(first, method)
        value = value(x) if method in ("log_prob", "push_forward") else value() if callable(value) else value
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
