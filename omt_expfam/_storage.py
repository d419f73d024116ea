"""Saving objects to one portable file, and loading them.

A file is a ZIP archive: ``manifest.json`` holds the tree of the object, the other members its arrays in
NumPy's format. The archive's comment, its last 64 bytes, is the SHA-256 digest of everything before it, so
that any damage shows.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import __version__
from ._base.arrays import is_traced
from ._base.results import RESULTS
from ._components.joined import Blocks
from ._components.mixture import Mixture
from ._components.numpyro_components import NumPyroComponents
from ._couplings.gaussian import GaussianCouplings
from ._couplings.interface import PairSelection
from ._couplings.joined import BlockCouplings
from ._couplings.line.table import LineProblem, LineTable
from ._couplings.numerical import NumericalCouplings
from ._couplings.numerical_pair import Nodes
from ._couplings.product import ProductCouplings
from ._couplings.settings import NumericalSettings
from ._fitting.fit import Fit
from ._pipelines.coupled import CoupledFit
from ._plans.correspondences import Correspondences
from ._plans.displacement import Displacement
from ._plans.plan import BlockTrace, TransportPlan
from ._plans.transport import BlockStart
from ._posterior_plans.correspondences import PosteriorCorrespondences
from ._posterior_plans.draws import ListedPlans, PlanNumbers, StackedPlans
from ._posterior_plans.plan import PosteriorPlan
from ._posteriors.credible import CredibleInterval
from ._posteriors.label_free import LabelFree
from ._posteriors.posterior import PosteriorFit
from ._time_courses.groups import GroupFlows, GroupShares
from ._time_courses.trajectory import Lineage, Trajectory
from ._weights.entropic import WeightCoupling
from .diagnostics import Biconvexity, Envelope, Sensitivity, SideSensitivity, Stability, Sweep, Uniqueness, WorstCase

FORMAT, FORMAT_VERSION = "omt-expfam", 1
_MANIFEST = "manifest.json"
_DIGEST_LENGTH = 64
_LOCAL_HEADER_LENGTH = 30

# The library's own classes that files may name; component families come from `families.REGISTRY`.
_CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        Biconvexity,
        BlockCouplings,
        Blocks,
        BlockStart,
        BlockTrace,
        Correspondences,
        CoupledFit,
        CredibleInterval,
        Displacement,
        Envelope,
        Fit,
        GaussianCouplings,
        GroupFlows,
        GroupShares,
        LabelFree,
        Lineage,
        LineProblem,
        LineTable,
        ListedPlans,
        Mixture,
        Nodes,
        NumericalCouplings,
        NumericalSettings,
        PairSelection,
        PlanNumbers,
        PosteriorCorrespondences,
        PosteriorFit,
        PosteriorPlan,
        ProductCouplings,
        Sensitivity,
        SideSensitivity,
        Stability,
        StackedPlans,
        Sweep,
        Trajectory,
        TransportPlan,
        Uniqueness,
        WeightCoupling,
        WorstCase,
    )
}
_ENUMERATIONS = {"RESULTS": RESULTS}

# What a malformed manifest or array raises, and a malformed archive besides.
_TREE_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    EOFError,
    OverflowError,
    RecursionError,
)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, *_TREE_ERRORS)


def save(path: str | os.PathLike[str], object: Any) -> None:
    """Save an object to one portable file, which `load` restores bit for bit.

    The file is written beside its destination and then moved there: whatever goes wrong, an older file of
    that name stays as it was. It holds no code: neither pickles nor class definitions.

    Args:
        path: The file, customarily with the extension ``.omt``; an existing one is replaced.
        object: A `Mixture`, `Fit`, `TransportPlan`, `PosteriorFit`, `PosteriorPlan`, weight coupling, or set of
            components, also of a family of your own; or tuples, lists and dictionaries of these, arrays, numbers,
            strings and None.

    Raises:
        TypeError: If the object holds something else, or traced arrays.
        OSError: If the file cannot be written.
    """
    writer = _Writer()
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "object": writer.encode(object, "object"),
    }
    data = _archive(json.dumps(manifest, allow_nan=False), writer.arrays)
    with atomic_file(path) as file:
        file.write(data)


def load(path: str | os.PathLike[str], *, families: Mapping[str, type] | None = None, dtype: str | None = None) -> Any:
    """Load an object that `save` wrote.

    Args:
        path: The file.
        families: Classes of your own that the file may hold, by name: ``{"Mine": Mine}``.
        dtype: ``"float32"`` or ``"float64"`` converts the object's JAX floating-point arrays. By default they
            keep the type they were saved with, and float64 is refused while JAX's x64 mode is off, which
            would round it. (64-bit integers become 32-bit ones there, where their values fit.)

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not one of ours, is damaged or from a newer version, names an unknown
            class, or holds float64 numbers that JAX would round.
    """
    path = os.fspath(path)
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f'`dtype` must be "float32", "float64" or None; got {dtype!r}.')
    with open(path, "rb") as file:
        data = file.read()
    _check_integrity(path, data)
    tree, members = _open_archive(path, data)
    reader = _Reader(members, families, dtype)
    try:
        return reader.decode(tree)
    except _Refused as refusal:
        raise ValueError(f"{path}: {refusal}") from None
    except _TREE_ERRORS as error:
        raise ValueError(f"{path}: the manifest of the file is malformed.") from error


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its place under ``path`` only when everything went well."""
    destination = os.path.realpath(os.fspath(path))
    if os.path.isdir(destination):
        raise IsADirectoryError(f"{os.fspath(path)}: is a directory; give the name of a file.")
    if os.path.exists(destination) and not os.path.isfile(destination):
        raise OSError(f"{os.fspath(path)}: not a regular file.")
    folder, name = os.path.split(destination)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{os.fspath(path)}: there is no folder {folder}.")
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, destination)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def library_classes() -> dict[str, type]:
    """Every class that a file may name without the help of ``load(families=...)``."""
    from families import REGISTRY

    return {**_CLASSES, **REGISTRY}


# -- the container ------------------------------------------------------------------------------------------


def _archive(manifest: str, arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes of a file: the manifest, the arrays, and the digest of both."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add_member(archive, _MANIFEST, manifest.encode())
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, allow_pickle=False)
            _add_member(archive, name, content.getvalue())
        archive.comment = b"0" * _DIGEST_LENGTH
    content = buffer.getvalue()[:-_DIGEST_LENGTH]
    return content + _digest(content)


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # The date is fixed: equal objects give equal files. Light compression already drops triangles of zeros.
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=1)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _check_integrity(path: str, data: bytes) -> None:
    """Raise ValueError unless the bytes are one of our files, whole and unchanged."""
    first_name = data[_LOCAL_HEADER_LENGTH : _LOCAL_HEADER_LENGTH + len(_MANIFEST)]
    if not data:
        raise ValueError(f"{path}: the file is empty.")
    if not data.startswith(b"PK\x03\x04") or first_name != _MANIFEST.encode():
        raise ValueError(f"{path}: not an omt-expfam file, or damaged at its beginning.")
    if data[-_DIGEST_LENGTH:] != _digest(data[:-_DIGEST_LENGTH]):
        raise ValueError(f"{path}: the file is truncated or corrupted: its checksum does not match.")


def _open_archive(path: str, data: bytes) -> tuple[Any, dict[str, bytes]]:
    """The tree of the object, and the bytes of every array."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        manifest = json.loads(members.pop(_MANIFEST))
        version, tree = manifest["format_version"], manifest["object"]
        foreign = manifest["format"] != FORMAT or type(version) is not int
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path}: the manifest of the file cannot be read.") from error
    if foreign:
        raise ValueError(f"{path}: not an omt-expfam file.")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path}: written by a newer omt-expfam, {manifest.get('library_version')} (format {version}); "
            f"this one reads up to format {FORMAT_VERSION}. Upgrade omt-expfam."
        )
    return tree, members


# -- the tree -----------------------------------------------------------------------------------------------


class _Writer:
    """Turns an object into JSON and collects its arrays, each once however often it occurs."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}
        self._classes = library_classes()
        # Ids are unique only among living objects.
        self._alive: list[Any] = []

    def encode(self, value: Any, where: str) -> Any:
        """The JSON tree of a value; ``where`` says in error messages which part of the object it is."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return {"kind": "float", "value": value.hex()}
        if type(value) is list:
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if type(value) is tuple:
            return {"kind": "tuple", "items": self.encode(list(value), where)}
        if type(value) is dict:
            keys = [self.encode(key, f"a key of {where}") for key in value]
            values = [self.encode(item, f"{where}[{key!r}]") for key, item in value.items()]
            return {"kind": "dict", "keys": keys, "values": values}
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            return self._array(value, where)
        for name, enumeration in _ENUMERATIONS.items():
            if isinstance(value, enumeration):
                return self._enumeration_item(name, value, where)
        if isinstance(value, NumPyroComponents):
            raise TypeError(
                f"`{where}` cannot be saved: it holds a NumPyro distribution, and files hold no code. "
                "Save the distribution's parameters, and build the components again."
            )
        if isinstance(value, eqx.Module) or type(value) in self._classes.values():
            return self._object(value, where)
        raise TypeError(f"`{where}` cannot be saved: files do not hold {type(value).__name__} objects.")

    def _array(self, value: Any, where: str) -> dict[str, Any]:
        if is_traced(value):
            raise TypeError(f"`{where}` is traced: call save outside jit, vmap and grad.")
        if not isinstance(value.dtype, np.dtype) or value.dtype.kind not in "biufc":
            raise TypeError(f"`{where}` cannot be saved: files do not hold arrays of {value.dtype}.")
        if id(value) not in self._names:
            self._names[id(value)] = name = f"arrays/{len(self.arrays)}.npy"
            self._alive.append(value)
            self.arrays[name] = np.asarray(value)
        forms = {"jax": jax.Array, "numpy": np.ndarray, "scalar": np.generic}
        form = next(name for name, cls in forms.items() if isinstance(value, cls))
        return {"kind": "array", "member": self._names[id(value)], "form": form}

    def _enumeration_item(self, name: str, value: Any, where: str) -> dict[str, Any]:
        """Members by name: their numbers may change between versions."""
        if value.is_traced():
            raise TypeError(f"`{where}` is traced: call save outside jit, vmap and grad.")
        names = {int(item._value): key for key, item in _ENUMERATIONS[name]._name_to_item.items()}
        indices = np.asarray(value._value)
        members = [names[int(index)] for index in indices.reshape(-1)]
        return {"kind": "enumeration", "class": name, "shape": list(indices.shape), "members": members}

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        name, names = type(value).__name__, [field.name for field in dataclasses.fields(value)]
        fields = {field: self.encode(getattr(value, field), f"{where}.{field}") for field in names}
        ours = self._classes.get(name) is type(value)
        return {"kind": "object", "class": name, "ours": ours, "fields": fields}


class _Reader:
    """Rebuilds an object from JSON and arrays; runs no constructors, which would renormalize."""

    def __init__(self, members: dict[str, bytes], families: Mapping[str, type] | None, dtype: str | None) -> None:
        self._members = members
        self._ours, self._theirs = library_classes(), dict(families or {})
        self._dtype = dtype
        self._arrays: dict[tuple[str, str], Any] = {}
        self._decoders = {
            "float": self._decode_float,
            "tuple": self._decode_tuple,
            "dict": self._decode_dict,
            "array": self._decode_array,
            "enumeration": self._decode_enumeration,
            "object": self._decode_object,
        }
        for name, cls in self._theirs.items():
            if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
                raise TypeError(f"`families` must hold classes of components; got {cls!r} for {name!r}.")

    def decode(self, tree: Any) -> Any:
        """The object that a JSON tree describes."""
        if tree is None or isinstance(tree, bool | int | str):
            return tree
        if isinstance(tree, list):
            return [self.decode(item) for item in tree]
        return self._decoders[tree["kind"]](tree)

    def _decode_float(self, tree: dict[str, Any]) -> float:
        return float.fromhex(tree["value"])

    def _decode_tuple(self, tree: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(self.decode(tree["items"]))

    def _decode_dict(self, tree: dict[str, Any]) -> dict[Any, Any]:
        return dict(zip(self.decode(tree["keys"]), self.decode(tree["values"]), strict=True))

    def _decode_enumeration(self, tree: dict[str, Any]) -> Any:
        enumeration = _ENUMERATIONS.get(tree["class"])
        items = enumeration._name_to_item if enumeration is not None else {}
        unknown = [name for name in tree["members"] if name not in items]
        if enumeration is None or unknown:
            raise _Refused(f"unknown outcome {', '.join([tree['class'], *unknown])}. Upgrade omt-expfam.")
        indices = np.asarray([items[name]._value for name in tree["members"]], np.int32)
        result = object.__new__(type(enumeration.successful))
        object.__setattr__(result, "_value", jnp.asarray(indices.reshape(tree["shape"])))
        object.__setattr__(result, "_enumeration", enumeration)
        return result

    def _decode_object(self, tree: dict[str, Any]) -> Any:
        name, fields = tree["class"], tree["fields"]
        cls = (self._ours if tree["ours"] else self._theirs).get(name)
        if cls is None:
            remedy = "Upgrade omt-expfam." if tree["ours"] else f"Pass it: load(path, families={{{name!r}: {name}}})."
            raise _Refused(f"holds an object of the unknown class {name}. {remedy}")
        expected = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != expected:
            differing = ", ".join(sorted(expected.symmetric_difference(fields)))
            raise _Refused(f"its {name} was saved by a version of the class with other fields ({differing}).")
        result = object.__new__(cls)
        for field, value in fields.items():
            object.__setattr__(result, field, self.decode(value))
        return result

    def _decode_array(self, tree: dict[str, Any]) -> Any:
        key = tree["member"], tree["form"]
        if key not in self._arrays:
            self._arrays[key] = self._read_array(*key)
        return self._arrays[key]

    def _read_array(self, member: str, form: str) -> Any:
        if member not in self._members:
            raise _Refused(f"the array {member} is missing from the file.")
        host = np.lib.format.read_array(io.BytesIO(self._members[member]), allow_pickle=False)
        host = host.astype(host.dtype.newbyteorder("="), copy=False)
        if form == "jax":
            return self._as_jax(host)
        return host if form == "numpy" else host[()]

    def _as_jax(self, host: np.ndarray) -> jax.Array:
        """A JAX array of the wanted type, if it can hold the values."""
        wanted = np.dtype(self._dtype) if self._dtype and host.dtype.kind == "f" else host.dtype
        available = np.dtype(jax.dtypes.canonicalize_dtype(wanted))
        if available != wanted and host.dtype.kind in "fc":
            raise _Refused(
                f"holds {wanted} numbers, which JAX would round to {available}. Enable them first with "
                'jax.config.update("jax_enable_x64", True), or round them with load(path, dtype="float32").'
            )
        with np.errstate(over="ignore"):
            converted = host.astype(available)
        lost = converted != host if host.dtype.kind in "iu" else np.isfinite(host) & ~np.isfinite(converted)
        if np.any(lost):
            raise _Refused(f"holds {host.dtype} numbers too large for {available}.")
        return jnp.asarray(converted)


class _Refused(Exception):
    """Why a file cannot be loaded."""
